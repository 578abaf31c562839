// SPDX-License-Identifier: Apache-2.0

package configs_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/backstay/backstay/configs"
	"github.com/backstay/backstay/testdata/plantroot"
)

// heard keeps what an engine emits.
type heard struct{ events []event }

type event struct {
	code  string
	attrs map[string]string
}

func (h *heard) emit(code string, attrs ...slog.Attr) {
	e := event{code, map[string]string{}}
	for _, a := range attrs {
		e.attrs[a.Key] = a.Value.String()
	}
	h.events = append(h.events, e)
}

func (h *heard) take() []event {
	out := h.events
	h.events = nil
	return out
}

func count(events []event, code string) (n int) {
	for _, e := range events {
		if e.code == code {
			n++
		}
	}
	return n
}

func TestOnlyChangesAreReported(t *testing.T) {
	dir, planted := plant(t)
	var h heard
	e := engine(t, dir, load(t, "base"))
	planted = plantedIn(e.Policy, planted)
	e.Emit = h.emit
	now := start
	e.Now = func() time.Time { return now }
	check(t, e)
	got := h.take()
	if count(got, configs.EventDrift) != len(planted) || count(got, configs.EventState) != 1 || len(got) != len(planted)+1 {
		t.Fatalf("the first check emits %d drifts, %d states of %d", count(got, configs.EventDrift), count(got, configs.EventState), len(got))
	}
	state := got[len(got)-1]
	if state.attrs["run"] != "check" || state.attrs["full"] != "true" || state.attrs["fail"] != fmt.Sprint(len(planted)) || !strings.Contains(state.attrs["score.LA"], " of ") {
		t.Errorf("the state is %v", state)
	}
	before := snapshot(t, e.StateDir)
	now = now.Add(time.Hour)
	check(t, e)
	if got := h.take(); len(got) != 0 {
		t.Errorf("a second check that finds the same emits %v", got)
	}
	sameTree(t, before, snapshot(t, e.StateDir), "second check, state")

	r := apply(t, e, false, "mount.tmp")
	got = h.take()
	if count(got, configs.EventFixed) != 1 || count(got, configs.EventDrift) != 0 || count(got, configs.EventState) != 1 {
		t.Errorf("apply emits %v: %v", got, r.Counts)
	}
	check(t, e)
	if got := h.take(); len(got) != 0 {
		t.Errorf("the check after the fix emits %v", got)
	}

	// A day later everything that is wrong is told again, and nothing is written for it.
	before = snapshot(t, e.StateDir)
	now = now.Add(24 * time.Hour)
	check(t, e)
	if got := h.take(); count(got, configs.EventDrift) != len(planted)-1 || count(got, configs.EventState) != 1 {
		t.Errorf("the daily state has %d drifts", count(got, configs.EventDrift))
	}
	sameTree(t, before, snapshot(t, e.StateDir), "daily state")

	// Another process has told nothing yet, but knows what was told.
	again := engine(t, dir, e.Policy)
	again.StateDir, again.Emit, again.Now = e.StateDir, h.emit, e.Now
	check(t, again)
	if got := h.take(); count(got, configs.EventState) != 1 || count(got, configs.EventDrift) != len(planted)-1 {
		t.Errorf("a restart reports %v", got)
	}
}

func TestDriftAndItsEndAreReported(t *testing.T) {
	dir := t.TempDir()
	must(t, plantroot.Clean(dir))
	var h heard
	e := engine(t, dir, load(t, "base"))
	e.Emit = h.emit
	check(t, e)
	if got := h.take(); len(got) != 1 {
		t.Fatalf("a clean tree emits %v", got)
	}
	fstab := filepath.Join(dir, "etc/fstab")
	good := read(t, dir, "etc/fstab")
	must(t, os.WriteFile(fstab, []byte(strings.Replace(good, "nosuid,nodev,noexec,mode", "mode", 1)), 0o644))
	check(t, e)
	got := h.take()
	if len(got) != 2 || got[0].attrs["result"] != "fail" || got[0].attrs["was"] != "pass" || got[1].attrs["full"] != "false" {
		t.Fatalf("drift emits %v", got)
	}
	must(t, os.WriteFile(fstab, []byte("# a comment moves every line\n"+strings.Replace(good, "nosuid,nodev,noexec,mode", "mode", 1)), 0o644))
	check(t, e)
	if got := h.take(); len(got) != 0 {
		t.Errorf("the same defect on another line emits %v", got)
	}
	must(t, os.WriteFile(fstab, []byte(good), 0o644))
	check(t, e)
	got = h.take()
	if len(got) != 2 || got[0].code != configs.EventDrift || got[0].attrs["was"] != "fail" || got[0].attrs["outcome"] != "success" || got[0].attrs["severity"] != "info" {
		t.Errorf("the end of the drift emits %v", got)
	}
}

func TestAFlappingRuleDoesNotFillTheLog(t *testing.T) {
	dir := t.TempDir()
	must(t, plantroot.Clean(dir))
	var h heard
	e := engine(t, dir, only(t, load(t, "base"), "mount.tmp"))
	e.Emit = h.emit
	now := start
	e.Now = func() time.Time { return now }
	good := read(t, dir, "etc/fstab")
	flap := func(text string) {
		must(t, os.WriteFile(filepath.Join(dir, "etc/fstab"), []byte(text), 0o644))
		now = now.Add(time.Second)
		check(t, e)
	}
	check(t, e)
	h.take()
	for range 50 {
		flap(strings.Replace(good, "nosuid,nodev,noexec,mode", "mode", 1))
		flap(good)
	}
	if n := count(h.take(), configs.EventDrift); n != 6 {
		t.Errorf("100 changes in two minutes are %d events", n)
	}
	now = now.Add(10 * time.Minute)
	flap(strings.Replace(good, "nosuid,nodev,noexec,mode", "mode", 1))
	if got := h.take(); count(got, configs.EventDrift) != 1 || got[0].attrs["changes_not_told"] != "94" {
		t.Errorf("the next change emits %v", got)
	}
}

func TestAnEndedWaiverIsReported(t *testing.T) {
	dir, _ := plant(t)
	floor := only(t, load(t, "base"), "mount.tmp")
	op, err := configs.ParsePolicy([]byte(`{"schema":1,"id":"site","serial":1,"issued":"2026-11-01T00:00:00Z","waivers":[{"rule":"mount.tmp","reason":"under repair","by":"ops@acme","expires":"2026-11-26T00:00:00Z"}]}`))
	must(t, err)
	p, err := configs.Merge(floor, op)
	must(t, err)
	var h heard
	e := engine(t, dir, p)
	e.Emit = h.emit
	now := start
	e.Now = func() time.Time { return now }
	check(t, e)
	if got := h.take(); got[0].code != configs.EventWaived || got[0].attrs["by"] != "ops@acme" {
		t.Fatalf("a waived rule emits %v", got)
	}
	now = now.Add(15 * time.Hour)
	check(t, e)
	if got := h.take(); len(got) != 2 || got[0].code != configs.EventDrift || got[0].attrs["was"] != "waived" {
		t.Errorf("the end of the waiver emits %v", got)
	}
}

func TestScores(t *testing.T) {
	dir, _ := plant(t)
	p := load(t, "base")
	r := check(t, engine(t, dir, p))
	if len(r.Scores) != 7 {
		t.Fatalf("%d capabilities", len(r.Scores))
	}
	for _, s := range r.Scores {
		want := configs.Score{Capability: s.Capability}
		for _, f := range r.Findings {
			if !strings.Contains(strings.Join(f.Refs, " "), "SP800-213A:"+s.Capability) || f.Result == configs.NotApplicable {
				continue
			}
			want.Applicable++
			switch f.Result {
			case configs.Pass:
				want.Passed++
			case configs.Unknown:
				want.Unknown++
			}
		}
		if s != want {
			t.Errorf("%+v, want %+v", s, want)
		}
	}
	if la := r.Scores[3]; la.Capability != "LA" || la.Applicable == 0 || la.Passed == la.Applicable {
		t.Errorf("logical access on a planted tree: %+v", la)
	}
}

func TestRecheckIsAboutSomeRules(t *testing.T) {
	dir, _ := plant(t)
	e := engine(t, dir, load(t, "base"))
	whole := check(t, e)
	r, err := e.Recheck(context.Background(), []string{"mount.tmp"}, true)
	must(t, err)
	if len(r.Findings) != 1 || r.Findings[0].Result != configs.Fixed {
		t.Fatalf("%+v", r.Findings)
	}
	fails := whole.Counts[configs.Fail]
	whole.Update(r)
	if whole.Counts[configs.Fail] != fails-1 || whole.Counts[configs.Fixed] != 1 {
		t.Errorf("after the update %v", whole.Counts)
	}
	// What could lock somebody out is left alone, as in a run without names.
	r, err = e.Recheck(context.Background(), []string{"account.empty-password"}, true)
	must(t, err)
	if r.Findings[0].Result != configs.Fail {
		t.Errorf("%s", r.Findings[0].Result)
	}
	if r, err = e.Recheck(context.Background(), nil, false); err != nil || len(r.Findings) != 0 {
		t.Errorf("no rules: %v %v", r.Findings, err)
	}
}

func TestTouchedNamesWhatIsNotThereToo(t *testing.T) {
	dir := t.TempDir()
	must(t, plantroot.Clean(dir))
	must(t, os.Symlink("fstab", filepath.Join(dir, "etc/fstab.link")))
	p, err := configs.ParsePolicy([]byte(`{"schema":1,"id":"p","serial":1,"rules":[{"id":"a.b","title":"T","why":"W","severity":"low","any":[
		{"kind":"file-absent","target":"/nowhere/x"},{"kind":"file-mode","target":"/etc/fstab.link","want":{"max":"0644"}}]}]}`))
	must(t, err)
	e := engine(t, dir, p)
	e.Trace = true
	got := strings.Join(check(t, e).Findings[0].Touched, " ")
	for _, want := range []string{"/etc/fstab", "/etc/fstab.link", "/nowhere"} {
		if !strings.Contains(" "+got+" ", " "+want+" ") {
			t.Errorf("%s is not among %q", want, got)
		}
	}
}
