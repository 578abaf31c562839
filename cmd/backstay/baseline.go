// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"flag"
	"fmt"
	"strings"

	"github.com/backstay/backstay/agent/control"
	"github.com/backstay/backstay/cmd/internal/cli"
)

func (d *device) baselineCommand() *cli.Command {
	return &cli.Command{
		Name: "baseline", Short: "check and repair the secure-default configuration",
		Sub: []*cli.Command{d.baselineCheck(), d.baselineApply(), d.baselineExplain()},
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
	var dryRun bool
	return &cli.Command{
		Name: "apply", Args: "[RULE...]", Short: "repair what the rules named, or all of them, can repair",
		Long: "A second run changes nothing. Ends with code 6 when a rule still fails afterwards.",
		Flags: func(fs *flag.FlagSet) {
			fs.BoolVar(&dryRun, "dry-run", false, "say what would change and change nothing")
		},
		Complete: func([]string) []string { return d.failedRules() },
		Run: func(ctx context.Context, env *cli.Env, args []string) error {
			f, err := ask[control.Findings](ctx, d, control.MethodBaselineApply, control.ApplyParams{Rules: args, DryRun: dryRun})
			if err != nil {
				return err
			}
			return printFindings(env, "backstay.baseline-apply/1", f, len(args) > 0)
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
	if f.DryRun {
		fmt.Fprintln(env.Stdout, "dry run: nothing was changed")
	}
	if bad > 0 {
		return failed
	}
	return nil
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
