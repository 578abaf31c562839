// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/backstay/backstay/agent/control"
	"github.com/backstay/backstay/cmd/internal/cli"
)

func (d *device) updateStatus() *cli.Command {
	return &cli.Command{
		Name: "status", Short: "explain what happens next with updates: each step, why it waits, until when, and what would change it",
		Long: `Shows the release that is meant for this device, where the device stands in its rollout, and what the policy of the
configuration says now about every step still to come. A step that waits is no failure; the agent looks again by itself.`,
		Run: func(ctx context.Context, env *cli.Env, _ []string) error {
			s, err := ask[control.UpdateStatus](ctx, d, control.MethodUpdateStatus, nil)
			if err != nil {
				return err
			}
			if env.JSON {
				return env.PrintJSON("backstay.update-status/1", s)
			}
			return printUpdateStatus(env, s)
		},
	}
}

func printUpdateStatus(env *cli.Env, s control.UpdateStatus) error {
	t := env.Table()
	t.Row("running", or(s.Current, "unknown"))
	r := s.Update.Release
	if r == nil {
		r = s.Offered
	}
	if r == nil {
		t.Row("release", "none is meant for this device")
	} else {
		releaseRows(t, s, *r)
	}
	updateRow(t, control.Status{Time: s.Time, Update: s.Update})
	line := s.Line
	if s.Directory != "" {
		line = "the directory " + s.Directory
	}
	t.Row("line", line)
	for _, x := range s.Rollouts {
		t.Row("rollout", x.Version, share(x), standing(s.Time, x))
	}
	if err := t.Flush(); err != nil || len(s.Steps) == 0 {
		return err
	}
	fmt.Fprintln(env.Stdout)
	t = env.Table("step", "now", "why", "until", "or")
	for _, step := range s.Steps {
		if step.Allowed {
			t.Row(step.Step, "allowed", step.Because)
		}
		for i, r := range step.Reasons {
			name, now := step.Step, "waits"
			if i > 0 {
				name, now = "", ""
			}
			t.Row(name, now, r.Why, until(s.Time, r.Until), r.Change)
		}
	}
	return t.Flush()
}

func releaseRows(t *cli.Table, s control.UpdateStatus, r control.Release) {
	t.Row("release", r.Version, fmt.Sprintf("release %d", r.Counter), or(r.Class, "-"), cli.Bytes(r.Length))
	for _, a := range r.Advisories {
		t.Row("fixes", a)
	}
	for line := range strings.Lines(r.Notes) {
		t.Row("notes", strings.TrimSpace(line))
	}
	if !r.Deadline.IsZero() {
		t.Row("deadline", when(r.Deadline), left(s.Time, r.Deadline))
	}
	w := s.Wish
	if w.Answer != "" {
		t.Row("answer", w.Answer)
	}
	if w.Until.After(s.Time) {
		t.Row("postponed", "until "+when(w.Until), fmt.Sprintf("%d times, %d left", w.Postponed, w.Left))
	}
}

func share(x control.Rollout) string {
	if x.Named {
		return "to named devices"
	}
	return fmt.Sprintf("to %d-%d %%, this device is at %.2f %%", x.From, x.To, x.Place)
}

// standing is how a rollout stands to this device, in a word or two.
func standing(now time.Time, x control.Rollout) string {
	switch {
	case now.Before(x.NotBefore):
		return "begins " + when(x.NotBefore)
	case !x.Reached:
		return "not reached"
	case x.Paused:
		return "paused"
	case !x.NotAfter.IsZero() && !now.Before(x.NotAfter):
		return "ended " + when(x.NotAfter)
	}
	return "reached"
}

func until(now, t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return when(t) + " (" + left(now, t) + ")"
}

func (d *device) updateApprove() *cli.Command {
	return &cli.Command{
		Name: "approve", Short: "consent to the release that waits, and let it go on",
		Long: `The steps that are not automatic (update.automatic) wait for this. Maintenance windows and conditions hold all the same;
backstay update install does not wait for windows either.`,
		Run: d.do(control.MethodUpdateApprove),
	}
}

func (d *device) updateReject() *cli.Command {
	return &cli.Command{
		Name: "reject", Short: "keep the release that waits from being installed",
		Long: "It holds for this release alone, until `backstay update approve`, and for a security release until its deadline.",
		Run:  d.do(control.MethodUpdateReject),
	}
}

func (d *device) updatePostpone() *cli.Command {
	return &cli.Command{
		Name: "postpone", Args: "DURATION", Short: "put off installing the release that waits, for instance 2h",
		Long: `How often and how long is limited by update.postpone_times and update.postpone_total, and by the deadline of a security
release. Fetching the image goes on meanwhile.`,
		Run: func(ctx context.Context, env *cli.Env, args []string) error {
			t, err := time.ParseDuration(args[0])
			if err != nil || t < time.Second {
				return cli.Usagef("%q is not a duration such as 2h or 30m", args[0])
			}
			r, err := ask[control.Done](ctx, d, control.MethodUpdatePostpone, control.PostponeParams{Seconds: int64(t / time.Second)})
			if err != nil {
				return err
			}
			return printDone(env, r)
		},
	}
}
