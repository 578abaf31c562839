// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/backstay/backstay/agent/control"
	"github.com/backstay/backstay/cmd/internal/cli"
)

func (d *device) baselineCommand() *cli.Command {
	return &cli.Command{
		Name: "baseline", Short: "check and repair the secure-default configuration",
		Sub: []*cli.Command{d.baselineCheck(), d.baselineApply(), d.baselineDiff(), d.baselineExplain(), d.baselineUndo()},
	}
}

func (d *device) baselineCheck() *cli.Command {
	var all bool
	return &cli.Command{
		Name: "check", Short: "check every rule now and change nothing",
		Long: "Lists what is not as it should be; ends with code 6 when a rule fails or could not be checked.",
		Flags: func(fs *flag.FlagSet) {
			fs.BoolVar(&all, "all", false, "list the rules that pass or do not apply, too")
		},
		Run: func(ctx context.Context, env *cli.Env, _ []string) error {
			f, err := ask[control.Findings](ctx, d, control.MethodBaselineCheck, nil)
			if err != nil {
				return err
			}
			return printFindings(env, "backstay.baseline-check/1", f, all)
		},
	}
}

func (d *device) baselineApply() *cli.Command {
	var dryRun, first bool
	limit := firstBootLimit
	return &cli.Command{
		Name: "apply", Args: "[RULE...]", Short: "repair what the rules named, or all of them, can repair",
		Long: `A second run changes nothing. Ends with code 6 when a rule still fails afterwards.

With --first-boot it needs no running agent: the init system calls it once at every boot, before the network comes up. It makes
the repairs that cannot lock anybody out, mounts changed copies over files of a read-only root again, ends in time, and leaves
its events for the agent. Whatever its code is, the boot should go on.`,
		Flags: func(fs *flag.FlagSet) {
			fs.BoolVar(&dryRun, "dry-run", false, "say what would change and change nothing")
			fs.BoolVar(&first, "first-boot", false, "repair without the agent, before the network is up")
			fs.DurationVar(&limit, "limit", firstBootLimit, "with --first-boot: longest `time` it may take")
		},
		Complete: func([]string) []string { return d.failedRules() },
		Run: func(ctx context.Context, env *cli.Env, args []string) error {
			if first && len(args) > 0 {
				return cli.Usagef("--first-boot takes no rules: a rule is named by a person")
			}
			if first {
				return d.applyFirst(ctx, env, limit, dryRun)
			}
			f, err := ask[control.Findings](ctx, d, control.MethodBaselineApply, control.ApplyParams{Rules: args, DryRun: dryRun})
			if err != nil {
				return err
			}
			return printFindings(env, "backstay.baseline-apply/1", f, len(args) > 0)
		},
	}
}

// firstBootLimit bounds how long a boot waits.
const firstBootLimit = time.Minute

func (d *device) applyFirst(ctx context.Context, env *cli.Env, limit time.Duration, dryRun bool) error {
	cfg, err := d.load()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	f, err := d.firstBoot(ctx, cfg, slog.New(slog.NewTextHandler(env.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})), dryRun)
	if err != nil {
		return fmt.Errorf("first boot: %w", err)
	}
	return printFindings(env, "backstay.baseline-apply/1", f, false)
}

func (d *device) baselineDiff() *cli.Command {
	return &cli.Command{
		Name: "diff", Args: "[RULE...]", Short: "show exactly what apply would change, and change nothing",
		Long: `Prints the unified difference of every file apply would write, secrets masked. Without rules it shows what the agent would
repair by itself; name a rule to see a repair that could lock somebody out. Ends with code 6 when there is something to change.`,
		Complete: func([]string) []string { return d.failedRules() },
		Run: func(ctx context.Context, env *cli.Env, args []string) error {
			f, err := ask[control.Findings](ctx, d, control.MethodBaselineApply, control.ApplyParams{Rules: args, DryRun: true})
			if err != nil {
				return err
			}
			return printDiff(env, f, args)
		},
	}
}

func printDiff(env *cli.Env, f control.Findings, args []string) error {
	var items []control.Finding
	n := 0
	for _, item := range f.Items {
		if len(item.Changes) > 0 {
			items = append(items, item)
			n += len(item.Changes)
		}
	}
	differs := cli.Findings(fmt.Sprintf("%d changes would be made", n), strings.Join(append([]string{"backstay baseline apply"}, args...), " "))
	if env.JSON {
		f.Items = items
		if err := env.PrintJSON("backstay.baseline-diff/1", f); err != nil || n == 0 {
			return err
		}
		return differs.Quiet()
	}
	for _, item := range items {
		fmt.Fprintf(env.Stdout, "# %s (%s)\n", item.Rule, item.Severity)
		if item.Reason != "" {
			fmt.Fprintf(env.Stdout, "# %s\n", item.Reason)
		}
		for _, c := range item.Changes {
			fmt.Fprint(env.Stdout, c.Diff)
		}
	}
	if n == 0 {
		fmt.Fprintln(env.Stdout, "nothing would be changed")
		return nil
	}
	return differs
}

func (d *device) baselineUndo() *cli.Command {
	return &cli.Command{
		Name: "undo", Short: "take the last repair back",
		Long: `Writes back what the last apply, by the agent or by a person, changed. A file that somebody changed since refuses the whole
undo. The agent repairs it again at its next look: what should stay needs a waiver.`,
		Run: func(ctx context.Context, env *cli.Env, _ []string) error {
			u, err := ask[control.Undone](ctx, d, control.MethodBaselineUndo, nil)
			if err != nil {
				return err
			}
			if env.JSON {
				return env.PrintJSON("backstay.baseline-undo/1", u)
			}
			for _, c := range u.Changes {
				fmt.Fprint(env.Stdout, c.Diff)
			}
			fmt.Fprintf(env.Stdout, "%d changes taken back\n", len(u.Changes))
			return nil
		},
	}
}

// failedRules are the rules a person may want to name: those that failed last time. No agent, no words.
func (d *device) failedRules() []string {
	s, err := ask[control.Status](context.Background(), d, control.MethodStatus, nil)
	if err != nil {
		return nil
	}
	rules := make([]string, 0, len(s.Baseline.Failed))
	for _, f := range s.Baseline.Failed {
		rules = append(rules, f.Rule)
	}
	return rules
}

// isBad reports whether a result is no answer to be content with. A result this command does not know, because the agent is
// newer, is bad: only positive evidence passes.
func isBad(result string) bool {
	switch result {
	case "pass", "fixed", "not-applicable", "waived":
		return false
	}
	return true
}

// printFindings prints findings and ends with code 6 when one is bad.
func printFindings(env *cli.Env, schema string, f control.Findings, all bool) error {
	bad, fixable := 0, 0
	t := env.Table("result", "severity", "rule", "found")
	for _, item := range f.Items {
		if isBad(item.Result) {
			bad++
			if item.Fixable {
				fixable++
			}
		} else if !all && item.Result != "fixed" && item.Result != "waived" {
			continue
		}
		t.Row(item.Result, item.Severity, item.Rule, found(item))
	}
	next := "backstay baseline explain RULE"
	if fixable > 0 {
		next = "backstay baseline apply"
	}
	failed := cli.Findings(fmt.Sprintf("%d of %d rules are not met", bad, len(f.Items)), next)
	if env.JSON {
		// One object: the findings are the data, the code tells that there are some.
		if err := env.PrintJSON(schema, f); err != nil || bad == 0 {
			return err
		}
		return failed.Quiet()
	}
	if t.Len() > 1 {
		if err := t.Flush(); err != nil {
			return err
		}
		fmt.Fprintln(env.Stdout)
	}
	c := f.Counts
	fmt.Fprintf(env.Stdout, "%d ok, %d fixed, %d failed, %d unknown, %d waived, %d not applicable\n",
		c.Pass, c.Fixed, c.Fail, c.Unknown, c.Waived, c.NotApplicable)
	if s := printScores(f.Scores); s != "" {
		fmt.Fprintln(env.Stdout, s)
	}
	if f.DryRun {
		fmt.Fprintln(env.Stdout, "dry run: nothing was changed")
	}
	if bad > 0 {
		return failed
	}
	return nil
}

// printScores is one line: for each capability, passed of applicable; w waived, u unknown.
func printScores(list []control.Score) string {
	var out strings.Builder
	for _, s := range list {
		if s.Applicable == 0 {
			continue
		}
		if out.Len() == 0 {
			out.WriteString("SP 800-213A:")
		}
		fmt.Fprintf(&out, " %s %d/%d", s.Capability, s.Passed, s.Applicable)
		if s.Waived > 0 {
			fmt.Fprintf(&out, "+%dw", s.Waived)
		}
		if s.Unknown > 0 {
			fmt.Fprintf(&out, "+%du", s.Unknown)
		}
	}
	return out.String()
}

// found is what a finding saw, in one cell.
func found(f control.Finding) string {
	var parts []string
	if f.Observed != "" || f.Expected != "" {
		parts = append(parts, fmt.Sprintf("%q, want %q", f.Observed, f.Expected))
	}
	if f.Reason != "" {
		parts = append(parts, f.Reason)
	}
	if len(f.Inspected) > 0 {
		parts = append(parts, "in "+strings.Join(f.Inspected, ", "))
	}
	return strings.Join(parts, " ")
}

func (d *device) baselineExplain() *cli.Command {
	return &cli.Command{
		Name: "explain", Args: "RULE", Short: "say what a rule asks for, why, and how it stands here",
		Complete: func([]string) []string { return d.failedRules() },
		Run: func(ctx context.Context, env *cli.Env, args []string) error {
			r, err := ask[control.Rule](ctx, d, control.MethodBaselineExplain, control.RuleParams{Rule: args[0]})
			if err != nil {
				return err
			}
			if env.JSON {
				return env.PrintJSON("backstay.rule/1", r)
			}
			t := env.Table()
			t.Row("rule", r.ID)
			t.Row("title", r.Title)
			t.Row("why", r.Why)
			t.Row("severity", r.Severity)
			t.Row("checks", r.Kind+" "+r.Target)
			t.Row("want", r.Want)
			t.Row("repair", or(r.Fix, "by a person"))
			t.Row("profile", r.Profile)
			for _, ref := range r.Refs {
				t.Row("reference", ref)
			}
			if r.Finding != nil {
				t.Row("here", r.Finding.Result)
				t.Row("found", found(*r.Finding))
			}
			return t.Flush()
		},
	}
}
