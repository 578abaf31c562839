// SPDX-License-Identifier: Apache-2.0

package update_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/backstay/backstay/update"
)

func window(t *testing.T, s string) update.Window {
	t.Helper()
	w, err := update.ParseWindow(s)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func at(t *testing.T, s string) time.Time {
	t.Helper()
	v, err := time.Parse("2006-01-02 15:04 -0700", s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// 2026-03-02 is a Monday.
func TestWindow(t *testing.T) {
	for _, c := range []struct{ window, now, until, next string }{
		{"02:00-04:00", "2026-03-02 02:00 +0000", "2026-03-02 04:00 +0000", "2026-03-03 02:00 +0000"},
		{"02:00-04:00", "2026-03-02 03:59 +0000", "2026-03-02 04:00 +0000", "2026-03-03 02:00 +0000"},
		{"02:00-04:00", "2026-03-02 04:00 +0000", "", "2026-03-03 02:00 +0000"},
		{"02:00-04:00", "2026-03-02 01:59 +0000", "", "2026-03-02 02:00 +0000"},
		// Over midnight: it belongs to the day it begins on.
		{"Mon 22:00-04:00", "2026-03-03 03:00 +0000", "2026-03-03 04:00 +0000", "2026-03-09 22:00 +0000"},
		{"Mon 22:00-04:00", "2026-03-02 03:00 +0000", "", "2026-03-02 22:00 +0000"},
		{"Mon-Fri 22:00-04:00", "2026-03-07 01:00 +0000", "2026-03-07 04:00 +0000", "2026-03-09 22:00 +0000"},
		{"mon-fri 22:00-04:00", "2026-03-08 01:00 +0000", "", "2026-03-09 22:00 +0000"},
		{"Sat-Mon 00:00-24:00", "2026-03-02 23:59 +0000", "2026-03-03 00:00 +0000", "2026-03-07 00:00 +0000"},
		{"Sat,Wed 06:00-07:00", "2026-03-02 12:00 +0000", "", "2026-03-04 06:00 +0000"},
		{"Mon 12:00-13:00", "2026-03-02 12:30 +0000", "2026-03-02 13:00 +0000", "2026-03-09 12:00 +0000"},
		// The zone of the time decides.
		{"02:00-04:00", "2026-03-02 02:30 +0200", "2026-03-02 04:00 +0200", "2026-03-03 02:00 +0200"},
		{"23:00-00:00", "2026-03-02 23:30 -1100", "2026-03-03 00:00 -1100", "2026-03-03 23:00 -1100"},
	} {
		w, now := window(t, c.window), at(t, c.now)
		until, open := w.Until(now)
		if open != (c.until != "") || open && !until.Equal(at(t, c.until)) {
			t.Errorf("%s at %s: open %v until %v", c.window, c.now, open, until)
		}
		if next := w.Next(now); !next.Equal(at(t, c.next)) {
			t.Errorf("%s at %s: next %v", c.window, c.now, next)
		}
		if w.String() != c.window {
			t.Errorf("%s is written %s", c.window, w)
		}
	}
	for _, bad := range []string{"", "22:00", "22:00-", "2:00-4:00", "24:00-01:00", "25:00-26:00", "10:60-11:00", "10:00-10:00", "Mon", "Mon- 10:00-11:00",
		"Moonday 10:00-11:00", "Mon,,Tue 10:00-11:00", "-Fri 10:00-11:00", "10:00-11:00 Mon", "10:00-24:01", "1é:00-04:00"} {
		if _, err := update.ParseWindow(bad); err == nil {
			t.Errorf("%q is a window", bad)
		}
	}
}

// Over a whole year in a zone whose clock changes, what Next says opens, and nothing opens that it did not say.
func TestWindowOverAYear(t *testing.T) {
	zone, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Skip(err)
	}
	for _, s := range []string{"02:30-03:30", "Sun 23:00-02:30", "Mon-Fri 22:00-04:00"} {
		w := window(t, s)
		next := time.Time{}
		for now := time.Date(2026, 1, 1, 0, 0, 0, 0, zone); now.Year() == 2026; now = now.Add(30 * time.Minute) {
			_, open := w.Until(now)
			_, before := w.Until(now.Add(-30 * time.Minute))
			if open && !before && !next.IsZero() && !next.Equal(now) {
				t.Fatalf("%s opens at %v, announced was %v", s, now, next)
			}
			next = w.Next(now)
		}
	}
}

func TestZone(t *testing.T) {
	for s, seconds := range map[string]int{"": 0, "UTC": 0, "+02:00": 7200, "-09:30": -34200} {
		z, err := update.ParseZone(s)
		if err != nil {
			t.Fatal(err)
		}
		if _, off := time.Unix(0, 0).In(z).Zone(); off != seconds {
			t.Errorf("%s: %d", s, off)
		}
	}
	if z, err := update.ParseZone("local"); err != nil || z != time.Local {
		t.Errorf("%v %v", z, err)
	}
	for _, s := range []string{"CET", "2", "+25:00", "+2:00", "Europe/Berlin"} {
		if _, err := update.ParseZone(s); err == nil {
			t.Errorf("%q is a zone", s)
		}
	}
}

func FuzzParseWindow(f *testing.F) {
	for _, s := range []string{"Mon-Fri 22:00-04:00", "02:00-04:00", "Sat,Sun 00:00-24:00"} {
		f.Add(s)
	}
	now := time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, s string) {
		w, err := update.ParseWindow(s)
		if err != nil {
			return
		}
		next := w.Next(now)
		if d := next.Sub(now); d <= 0 || d > 8*24*time.Hour {
			t.Fatalf("%q opens %v", s, next)
		}
		if _, open := w.Until(next); !open {
			t.Fatalf("%q is shut when it opens", s)
		}
	})
}

// TestPolicy is one row per rule and per thing that lifts it.
func TestPolicy(t *testing.T) {
	now := at(t, "2026-03-02 12:00 +0000")
	night := []update.Window{window(t, "22:00-04:00")}
	feature, security := update.Release{Version: "2", Class: "feature", SHA256: [32]byte{1}}, update.Release{Version: "3", Class: "security", SHA256: [32]byte{2}}
	due, soon := security, security
	due.Deadline, soon.Deadline = now, now.Add(time.Hour)
	late := feature
	late.Deadline = now.Add(-time.Hour)
	line := func(l update.Line) func() update.Line { return func() update.Line { return l } }
	flat := []update.Condition{{"battery", func(context.Context, bool) error { return errors.New("12, at least 30 is needed") }}}
	says := func(a update.Answer) func(context.Context, update.Release, bool) (update.Answer, string) {
		return func(context.Context, update.Release, bool) (update.Answer, string) { return a, "the screen" }
	}
	all, inst := update.Steps(), []update.Step{update.StepInstall, update.StepReboot}
	answer := func(a update.Answer) update.Wish { return update.Wish{Answer: a} }
	for _, c := range []struct {
		name    string
		policy  update.Policy
		release update.Release
		wish    update.Wish
		asked   bool
		late    bool
		want    string // the codes by step: check download install reboot
	}{
		{name: "nothing set", want: "- - - -"},
		{name: "windows", policy: update.Policy{Windows: night, WindowSteps: inst}, release: feature, want: "- - window window"},
		{name: "windows over all", policy: update.Policy{Windows: night, WindowSteps: all}, release: feature, want: "window window window window"},
		{name: "window in another zone", policy: update.Policy{Windows: night, WindowSteps: inst, Zone: time.FixedZone("", 12*3600)}, release: feature, want: "- - - -"},
		{name: "one of two windows", policy: update.Policy{Windows: append(night, window(t, "Mon 11:00-13:00")), WindowSteps: inst}, release: feature, want: "- - - -"},
		{name: "windows without a clock", policy: update.Policy{Windows: night, WindowSteps: inst}, release: feature, late: true, want: "- - clock clock"},
		{name: "windows, now", policy: update.Policy{Windows: night, WindowSteps: inst}, release: feature, wish: answer(update.AnswerNow), late: true, want: "- - - -"},
		{name: "windows, approved", policy: update.Policy{Windows: night, WindowSteps: inst}, release: feature, wish: answer(update.AnswerApprove), want: "- - window window"},
		{name: "windows, deadline", policy: update.Policy{Windows: night, WindowSteps: inst}, release: due, want: "- - - -"},
		{name: "windows, deadline to come", policy: update.Policy{Windows: night, WindowSteps: inst}, release: soon, want: "- - window window"},
		{name: "no deadline for features", policy: update.Policy{Windows: night, WindowSteps: inst}, release: late, want: "- - window window"},

		{name: "manual", policy: update.Policy{Manual: all}, release: feature, want: "manual manual manual manual"},
		{name: "manual, approved", policy: update.Policy{Manual: all}, release: feature, wish: answer(update.AnswerApprove), want: "manual - - -"},
		{name: "manual, check asked for", policy: update.Policy{Manual: all}, release: feature, asked: true, want: "- manual manual manual"},
		{name: "manual install, now", policy: update.Policy{Manual: inst}, release: feature, wish: answer(update.AnswerNow), want: "- - - -"},
		{name: "manual, deadline", policy: update.Policy{Manual: inst}, release: due, want: "- - - -"},
		{name: "rejected", release: feature, wish: answer(update.AnswerReject), want: "- rejected rejected rejected"},
		{name: "rejected, deadline", release: due, wish: answer(update.AnswerReject), want: "- - - -"},
		{name: "hook says yes", policy: update.Policy{Manual: inst, Consent: says(update.AnswerApprove)}, release: feature, want: "- - - -"},
		{name: "hook says no", policy: update.Policy{Manual: inst, Consent: says(update.AnswerReject)}, release: feature, want: "- - rejected rejected"},
		{name: "hook says nothing", policy: update.Policy{Manual: inst, Consent: says(update.AnswerNone)}, release: feature, want: "- - manual manual"},
		{name: "person over hook", policy: update.Policy{Manual: inst, Consent: says(update.AnswerReject)}, release: feature, wish: answer(update.AnswerApprove), want: "- - - -"},
		{name: "hook of an automatic step", policy: update.Policy{Consent: says(update.AnswerReject)}, release: feature, want: "- - - -"},

		{name: "postponed", release: feature, wish: update.Wish{Until: now.Add(time.Minute)}, want: "- - postponed postponed"},
		{name: "postponed until now", release: feature, wish: update.Wish{Until: now}, want: "- - - -"},
		{name: "postponed, deadline", release: due, wish: update.Wish{Until: now.Add(time.Minute)}, want: "- - - -"},

		{name: "security only", policy: update.Policy{SecurityOnly: true}, release: feature, want: "- security-only - -"},
		{name: "security only, security", policy: update.Policy{SecurityOnly: true}, release: security, want: "- - - -"},
		{name: "security only, now", policy: update.Policy{SecurityOnly: true}, release: feature, wish: answer(update.AnswerNow), want: "- - - -"},

		{name: "metered", policy: update.Policy{Line: line(update.LineMetered)}, release: feature, want: "- - - -"},
		{name: "metered never", policy: update.Policy{Line: line(update.LineMetered), Metered: "never"}, release: security, want: "- metered - -"},
		{name: "metered security", policy: update.Policy{Line: line(update.LineMetered), Metered: "security-only"}, release: security, want: "- - - -"},
		{name: "metered feature", policy: update.Policy{Line: line(update.LineMetered), Metered: "security-only"}, release: feature, want: "- metered - -"},
		{name: "metered, now", policy: update.Policy{Line: line(update.LineMetered), Metered: "never"}, release: feature, wish: answer(update.AnswerNow), want: "- - - -"},
		{name: "metered, deadline", policy: update.Policy{Line: line(update.LineMetered), Metered: "never"}, release: due, want: "- metered - -"},
		{name: "free", policy: update.Policy{Line: line(update.LineFree), Metered: "never"}, release: feature, want: "- - - -"},
		{name: "offline, now", policy: update.Policy{Line: line(update.LineOffline)}, release: due, wish: answer(update.AnswerNow), asked: true, want: "offline offline - -"},

		{name: "condition", policy: update.Policy{Conditions: flat}, release: feature, want: "- condition condition condition"},
		{name: "condition, now and deadline", policy: update.Policy{Conditions: flat}, release: due, wish: answer(update.AnswerNow), want: "- condition condition condition"},
		{name: "two reasons", policy: update.Policy{Manual: inst, Windows: night, WindowSteps: inst, Conditions: flat}, release: feature, want: "- condition manual+window manual+window"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, s := range all {
				r, wish := c.release, c.wish
				if s == update.StepCheck { // before a release is known
					r, wish = update.Release{}, update.Wish{}
				}
				d := c.policy.Ask(t.Context(), update.Question{Step: s, Now: now, Late: c.late, Release: r, Wish: wish, Asked: c.asked})
				var codes []string
				for _, reason := range d.Reasons {
					codes = append(codes, reason.Code)
					if reason.Why == "" || reason.Change == "" {
						t.Errorf("%s is not explained: %+v", s, reason)
					}
				}
				if d.Allowed != (codes == nil) || d.Step != s {
					t.Errorf("decision %+v", d)
				}
				got = append(got, strings.Join(append(codes, "-")[:max(len(codes), 1)], "+"))
			}
			if strings.Join(got, " ") != c.want {
				t.Errorf("%v, want %s", got, c.want)
			}
		})
	}
}

func TestUntil(t *testing.T) {
	now := at(t, "2026-03-02 12:00 +0000")
	security := update.Release{Class: "security", Deadline: now.Add(4 * time.Hour)}
	p := update.Policy{Windows: []update.Window{window(t, "22:00-04:00"), window(t, "Mon 20:00-21:00")}, WindowSteps: update.Steps()}
	for name, c := range map[string]struct {
		q    update.Question
		want time.Time
	}{
		"nearest window": {update.Question{Step: update.StepInstall, Now: now}, now.Add(8 * time.Hour)},
		"deadline":       {update.Question{Step: update.StepInstall, Now: now, Release: security}, now.Add(4 * time.Hour)},
		"the later one":  {update.Question{Step: update.StepInstall, Now: now, Wish: update.Wish{Until: now.Add(9 * time.Hour)}}, now.Add(9 * time.Hour)},
		"nobody knows":   {update.Question{Step: update.StepInstall, Now: now, Late: true}, time.Time{}},
	} {
		if got := p.Ask(t.Context(), c.q).Until(); !got.Equal(c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
	err := error(&update.Waiting{Decision: p.Ask(t.Context(), update.Question{Step: update.StepInstall, Now: now})})
	if !errors.Is(err, update.ErrRetry) || errors.Is(err, update.ErrRefused) || !strings.Contains(err.Error(), "install waits: outside the maintenance windows (22:00-04:00; Mon 20:00-21:00, UTC)") {
		t.Error(err)
	}
}

// Programs are not run to show a status.
func TestPeek(t *testing.T) {
	var peeks []string
	note := func(what string, peek bool) { peeks = append(peeks, fmt.Sprint(what, peek)) }
	p := update.Policy{Manual: update.Steps(),
		Consent: func(_ context.Context, _ update.Release, peek bool) (update.Answer, string) {
			note("consent ", peek)
			return update.AnswerApprove, ""
		},
		Conditions: []update.Condition{{"c", func(_ context.Context, peek bool) error { note("condition ", peek); return nil }}}}
	p.Ask(t.Context(), update.Question{Step: update.StepInstall, Release: update.Release{SHA256: [32]byte{1}}, Peek: true})
	if strings.Join(peeks, ", ") != "consent true, condition true" {
		t.Errorf("asked %q", peeks)
	}
}
