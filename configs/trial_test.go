// SPDX-License-Identifier: Apache-2.0

package configs_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/backstay/backstay/configs"
)

func TestATrialIsParkedAfterThreeTries(t *testing.T) {
	dir, _ := plant(t)
	const rule = "ssh.dropbear-password"
	e := engine(t, dir, only(t, load(t, "base"), rule))
	now := start
	e.Now = func() time.Time { return now }
	asked := 0
	e.Confirm = func(context.Context) error { asked++; return errors.New("no route") }
	before := read(t, dir, "etc/default/dropbear")
	apply(t, e, false)
	for i, wait := range []time.Duration{time.Hour, 6 * time.Hour} {
		now = now.Add(wait - time.Minute)
		if f := finding(t, apply(t, e, false), rule); f.Result != configs.Reverted || asked != i+1 || !strings.Contains(f.Reason, "next try after") {
			t.Errorf("early: %s %s, asked %d times", f.Result, f.Reason, asked)
		}
		now = now.Add(2 * time.Minute)
		if f := finding(t, apply(t, e, false), rule); f.Result != configs.Reverted || asked != i+2 {
			t.Errorf("in time: %s %s, asked %d times", f.Result, f.Reason, asked)
		}
	}
	now = now.Add(1000 * time.Hour)
	f := finding(t, apply(t, e, false), rule)
	if f.Result != configs.Reverted || asked != 3 || !strings.Contains(f.Reason, "name the rule") {
		t.Errorf("after three tries: %s %s, asked %d times", f.Result, f.Reason, asked)
	}
	if got := read(t, dir, "etc/default/dropbear"); got != before {
		t.Errorf("parked, and the file is %q", got)
	}
	// A new policy is a new chance, and a person's word ends it.
	e.Policy.Serial++
	e.Policy.Rules = append([]configs.Rule{}, e.Policy.Rules...)
	if apply(t, e, false); asked != 4 {
		t.Errorf("under a new policy asked %d times", asked)
	}
	if f := finding(t, apply(t, e, false, rule), rule); f.Result != configs.Fixed || asked != 4 {
		t.Errorf("named: %s, asked %d times", f.Result, asked)
	}
}

func TestATrialWaitsForADeviceThatIsManaged(t *testing.T) {
	dir, _ := plant(t)
	e := engine(t, dir, load(t, "base"))
	shadow := read(t, dir, "etc/shadow")
	var away error
	asked := 0
	e.Managed = func(context.Context) error { asked++; return away }
	e.Confirm = func(context.Context) error { return nil }
	away = errors.New("connection refused")
	f := finding(t, apply(t, e, false), "account.empty-password")
	if f.Result != configs.Fail || !strings.Contains(f.Reason, "connection refused") || asked != 1 || read(t, dir, "etc/shadow") != safeShadow(shadow) {
		t.Errorf("%s %s, asked %d times", f.Result, f.Reason, asked)
	}
	away = nil
	if f := finding(t, apply(t, e, false), "account.empty-password"); f.Result != configs.Fixed {
		t.Errorf("%s %s", f.Result, f.Reason)
	}
}

func TestADeviceThatDiedInATrialHasUsedUpATry(t *testing.T) {
	dir, _ := plant(t)
	const rule = "ssh.dropbear-password"
	e := engine(t, dir, only(t, load(t, "base"), rule))
	for range 3 {
		e.Confirm = func(context.Context) error { panic("power cut") }
		func() {
			defer func() { _ = recover() }()
			e.Apply(context.Background(), nil, false) //nolint:errcheck // it panics
		}()
		again := engine(t, dir, e.Policy)
		again.StateDir = e.StateDir
		if _, err := again.Recover(context.Background()); err != nil {
			t.Fatal(err)
		}
		e = again
		later := e.Now().Add(48 * time.Hour)
		e.Now = func() time.Time { return later }
	}
	e.Confirm = func(context.Context) error { t.Error("a fourth try"); return nil }
	if f := finding(t, apply(t, e, false), rule); f.Result != configs.Reverted {
		t.Errorf("%s %s", f.Result, f.Reason)
	}
}

func TestAnUndoIsLeftAloneForADay(t *testing.T) {
	dir, _ := plant(t)
	e := engine(t, dir, only(t, load(t, "base"), "mount.tmp"))
	now := start
	e.Now = func() time.Time { return now }
	apply(t, e, false)
	if _, err := e.Undo(context.Background()); err != nil {
		t.Fatal(err)
	}
	if f := finding(t, apply(t, e, false), "mount.tmp"); f.Result != configs.Fail || !strings.Contains(f.Reason, "a person took the fix back") {
		t.Errorf("right after the undo: %s %s", f.Result, f.Reason)
	}
	if f := finding(t, apply(t, e, false, "mount.tmp"), "mount.tmp"); f.Result != configs.Fixed {
		t.Errorf("named: %s %s", f.Result, f.Reason)
	}
	if _, err := e.Undo(context.Background()); err != nil {
		t.Fatal(err)
	}
	now = now.Add(25 * time.Hour)
	if f := finding(t, apply(t, e, false), "mount.tmp"); f.Result != configs.Fixed {
		t.Errorf("a day later: %s %s", f.Result, f.Reason)
	}
}

// A check by a person, between two runs that could not fix something, is no change.
func TestACheckAfterAFailedFixIsNoNews(t *testing.T) {
	dir, _ := plant(t)
	e := engine(t, dir, only(t, load(t, "base"), "ssh.dropbear-password"))
	var h heard
	e.Emit = h.emit
	e.Confirm = func(context.Context) error { return errors.New("no route") }
	apply(t, e, false)
	if got := h.take(); len(got) != 2 || got[0].attrs["result"] != "reverted" {
		t.Fatalf("%v", got)
	}
	check(t, e)
	apply(t, e, false)
	check(t, e)
	if got := h.take(); len(got) != 0 {
		t.Errorf("%v", got)
	}
}
