// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/backstay/backstay/agent/control"
	"github.com/backstay/backstay/cmd/internal/cli"
)

// watchEvery is how often `status --watch` asks again.
const watchEvery = 2 * time.Second

func (d *device) statusCommand() *cli.Command {
	var watch bool
	return &cli.Command{
		Name: "status", Short: "show identity, firmware, trust, baseline and audit log on one screen",
		Flags: func(fs *flag.FlagSet) {
			fs.BoolVar(&watch, "watch", false, "ask again every two seconds until interrupted")
		},
		Run: func(ctx context.Context, env *cli.Env, _ []string) error {
			for {
				s, err := ask[control.Status](ctx, d, control.MethodStatus, nil)
				if err != nil && ctx.Err() != nil {
					return nil
				}
				if err != nil {
					return err
				}
				if err := printStatus(env, s, watch); err != nil || !watch {
					return err
				}
				select {
				case <-ctx.Done():
					return nil
				case <-time.After(watchEvery):
				}
			}
		},
	}
}

func printStatus(env *cli.Env, s control.Status, watch bool) error {
	if env.JSON {
		return env.PrintJSON("backstay.status/1", s)
	}
	if watch && cli.Terminal(env.Stdout) {
		io.WriteString(env.Stdout, "\x1b[H\x1b[2J") //nolint:errcheck // the table's error tells
	}
	t := env.Table()
	identityRow(t, s)
	firmwareRow(t, s)
	updateRow(t, s)
	trustRow(t, s)
	baselineRow(t, s)
	auditRow(t, s)
	if err := t.Flush(); err != nil {
		return err
	}
	return remarks(env, s)
}

func identityRow(t *cli.Table, s control.Status) {
	id := s.Identity
	state := "not enrolled"
	if end := id.Certificate.NotAfter; id.Enrolled && !end.IsZero() {
		state = "certificate " + left(s.Time, end)
	} else if id.Enrolled {
		state = "enrolled"
	}
	t.Row("device", or(id.DeviceID, "no identity yet"), or(id.Compatible, "-"), "key in "+or(id.KeyClass, "nothing")+", "+state)
}

func firmwareRow(t *cli.Table, s control.Status) {
	f := s.Firmware
	slot := ""
	if f.Slot != "" {
		slot = " (slot " + f.Slot + ")"
	}
	state := "on trial"
	if f.Confirmed {
		state = "confirmed"
		if !f.Since.IsZero() {
			state += " " + ago(s.Time, f.Since)
		}
	}
	t.Row("firmware", or(f.Version, "unknown")+slot, fmt.Sprintf("release %d, floor %d", f.Counter, f.Floor), state)
}

func updateRow(t *cli.Table, s control.Status) {
	u := s.Update
	if !u.Enabled {
		t.Row("update", "off", "not in the configuration")
		return
	}
	state := u.State
	if r := u.Release; r != nil {
		state += " " + r.Version
		if r.Length > 0 && u.Bytes > 0 && u.Bytes < r.Length {
			state += fmt.Sprintf(" %d %%", int64(float64(u.Bytes)/float64(r.Length)*100))
		}
	}
	checked, next := "not checked yet", ""
	if !u.CheckedAt.IsZero() {
		checked = "checked " + ago(s.Time, u.CheckedAt)
	}
	if u.NextCheck.After(s.Time) {
		next = "next in " + cli.Duration(u.NextCheck.Sub(s.Time))
	}
	t.Row("update", state, checked, next)
}

func trustRow(t *cli.Table, s control.Status) {
	tr := s.Trust
	age := "no metadata yet"
	if !tr.Issued.IsZero() {
		age = "metadata " + cli.Duration(s.Time.Sub(tr.Issued)) + " old"
	}
	if !tr.Expires.IsZero() && tr.Expires.Before(s.Time) {
		age += ", expired"
	}
	t.Row("trust", fmt.Sprintf("root %d", tr.RootVersion), age, "clock "+or(tr.Clock, "unknown"))
}

func baselineRow(t *cli.Table, s control.Status) {
	b := s.Baseline
	if len(b.Profiles) == 0 {
		t.Row("baseline", "off", "no profile in the configuration")
		return
	}
	if b.CheckedAt.IsZero() {
		t.Row("baseline", strings.Join(b.Profiles, "+"), "not checked yet")
		return
	}
	t.Row("baseline", strings.Join(b.Profiles, "+"), fmt.Sprintf("%d ok, %d failed", b.Counts.Pass+b.Counts.Fixed, b.Counts.Fail),
		fmt.Sprintf("%d waived, %d unknown, checked %s", b.Counts.Waived, b.Counts.Unknown, ago(s.Time, b.CheckedAt)))
	if line := printScores(b.Scores); line != "" {
		t.Row("", line)
	}
}

func auditRow(t *cli.Table, s control.Status) {
	a := s.Audit
	sent := fmt.Sprintf("%d records, %d proven", a.Size, a.Acked)
	waiting := fmt.Sprintf("%d waiting", a.Size-min(a.Size, a.Acked))
	if a.Broker == "" {
		waiting = "kept on the device"
	} else if !a.Connected {
		waiting += ", not connected"
	}
	head := "no signed head yet"
	if !a.HeadAt.IsZero() {
		head = "head signed " + ago(s.Time, a.HeadAt)
	}
	t.Row("audit", sent, waiting, head)
}

// remarks says below the table what needs attention, and the one command to type next.
func remarks(env *cli.Env, s control.Status) error {
	t := env.Table()
	next := ""
	say := func(label, text, command string) {
		t.Row(label+":", text)
		if next == "" {
			next = command
		}
	}
	for _, p := range s.Agent.Problems {
		say("problem", p, "")
	}
	if w := s.Update.Waiting; w != nil && s.Update.Last != nil {
		say("update", s.Update.Last.Error(), "backstay update status")
	} else if s.Update.Last != nil {
		say("update", s.Update.Last.Error(), "backstay update history")
	}
	if s.Identity.Problem != "" {
		say("identity", s.Identity.Problem, "backstay identity enroll")
	}
	if s.Audit.Problem != "" {
		say("audit", s.Audit.Problem, "")
	}
	if s.Baseline.Policy.Problem != "" {
		say("policy", s.Baseline.Policy.Problem, "tell your operator: the policy published for this device was refused")
	}
	if p := s.Baseline.Policy; !p.Expires.IsZero() && !p.Expires.After(s.Time) {
		say("policy", p.ID+" expired "+ago(s.Time, p.Expires)+"; its waivers have ended", "ask your operator to publish a newer policy")
	}
	for _, f := range s.Baseline.Failed {
		command := "backstay baseline explain " + f.Rule
		if f.Fixable {
			command = "backstay baseline apply " + f.Rule
		}
		say("drift", fmt.Sprintf("%s is %q, want %q", f.Rule, f.Observed, f.Expected), command)
	}
	if next != "" {
		t.Row("next:", next)
	}
	if t.Len() > 0 {
		fmt.Fprintln(env.Stdout)
	}
	return t.Flush()
}

// ago is how long before now t was.
func ago(now, t time.Time) string { return cli.Duration(now.Sub(t)) + " ago" }

// left is how long something still lasts.
func left(now, end time.Time) string {
	if !end.After(now) {
		return "expired " + ago(now, end)
	}
	return cli.Duration(end.Sub(now)) + " left"
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// when is a time for a table.
func when(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}
