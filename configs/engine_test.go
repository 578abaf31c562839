// SPDX-License-Identifier: Apache-2.0

package configs_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"

	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/backstay/backstay/configs"
	"github.com/backstay/backstay/configs/probe"
	"github.com/backstay/backstay/testdata/plantroot"
)

// only leaves one rule, for tests that run it often.
func only(t testing.TB, p configs.Policy, id string) configs.Policy {
	r, ok := p.Rule(id)
	if !ok {
		t.Fatalf("no rule %s", id)
	}
	p.Rules = []configs.Rule{r}
	return p
}

func TestTrialIsKeptWhenConfirmed(t *testing.T) {
	dir, _ := plant(t)
	e := engine(t, dir, load(t, "base"))
	asked := 0
	e.Confirm = func(context.Context) error {
		asked++
		if !strings.Contains(read(t, dir, "etc/default/dropbear"), "-s") {
			t.Error("asked before the change was made")
		}
		return nil
	}
	r := apply(t, e, false)
	if f := finding(t, r, "ssh.dropbear-password"); f.Result != configs.Fixed || asked != 1 {
		t.Errorf("%s %s, asked %d times", f.Result, f.Reason, asked)
	}
	if f := finding(t, r, "console.serial-login"); f.Result != configs.Fail || f.Mode != configs.Audit {
		t.Errorf("a rule that only audits is %s", f.Result)
	}
	if undone, err := e.Recover(context.Background()); err != nil || undone != nil {
		t.Errorf("recover after a confirmed trial: %v %v", undone, err)
	}
}

// safeShadow is the planted shadow after the fixes that need no confirmation.
func safeShadow(planted string) string {
	const hash = "$1$7ujMko0v$60lBauJfeTLe2uYYdwMLT."
	return strings.NewReplacer("!"+hash, "!*", hash+":19000", hash+":0").Replace(planted) + "lp:$1$saltsalt$" + strings.Repeat("x", 22) + "::0:99999:7:::\n"
}

func TestTrialIsTakenBackWhenNotConfirmed(t *testing.T) {
	dir, _ := plant(t)
	e := engine(t, dir, load(t, "base"))
	dropbear, shadow := read(t, dir, "etc/default/dropbear"), read(t, dir, "etc/shadow")
	e.Confirm = func(context.Context) error { return errors.New("no route to the server") }
	drift := 0
	r := apply(t, e, false)
	for _, id := range []string{"ssh.dropbear-password", "account.empty-password", "ssh.sshd-password"} {
		if f := finding(t, r, id); f.Result != configs.Reverted || !strings.Contains(f.Reason, "no route") {
			t.Errorf("%s is %s: %s", id, f.Result, f.Reason)
		}
		drift++
	}
	// Safe fixes of the same run and even of the same file stay: -B was taken out, -s was not put in.
	want := strings.NewReplacer("-RB -p 22", "-I 900 -T 3 -j -k -R -p 22").Replace(dropbear)
	if got := read(t, dir, "etc/default/dropbear"); got != want {
		t.Errorf("dropbear is %q, want %q", got, want)
	}
	if got := read(t, dir, "etc/shadow"); got != safeShadow(shadow) {
		t.Errorf("shadow is %q", got)
	}
	if f := finding(t, r, "mount.tmp"); f.Result != configs.Fixed {
		t.Errorf("mount.tmp is %s", f.Result)
	}
}

// A device that dies during a trial takes it back at the next start.
func TestRecoverTakesAnOpenTrialBack(t *testing.T) {
	dir, _ := plant(t)
	e := engine(t, dir, load(t, "base"))
	shadow := read(t, dir, "etc/shadow")
	e.Confirm = func(context.Context) error { panic("power cut") }
	func() {
		defer func() { _ = recover() }()
		e.Apply(context.Background(), nil, false)
	}()
	if got := read(t, dir, "etc/shadow"); got == safeShadow(shadow) {
		t.Fatal("the trial changed nothing")
	}
	again := engine(t, dir, e.Policy)
	again.StateDir = e.StateDir
	done, err := again.Recover(context.Background())
	if err != nil || len(done) == 0 {
		t.Fatalf("recover: %v %v", done, err)
	}
	if got := read(t, dir, "etc/shadow"); got != safeShadow(shadow) {
		t.Errorf("shadow is %q", got)
	}
	if got := read(t, dir, "etc/fstab"); !strings.Contains(got, "nosuid,nodev\t") {
		t.Errorf("recover took back what was not on trial:\n%s", got)
	}
	if done, err := again.Recover(context.Background()); err != nil || done != nil {
		t.Errorf("a second recover: %v %v", done, err)
	}
	// What was not on trial can still be undone by hand.
	if done, err := again.Undo(context.Background()); err != nil || len(done) == 0 {
		t.Errorf("undo after recover: %v %v", done, err)
	}
}

// A crash after the copy was made durable and before the change leaves a record of something that did not happen.
func TestUndoOfARecordedChangeThatNeverHappened(t *testing.T) {
	dir, _ := plant(t)
	e := engine(t, dir, load(t, "base"))
	before := contents(snapshot(t, dir))
	apply(t, e, false, "mount.tmp", "ssh.dropbear-blank-password")
	plain := strings.Replace(read(t, dir, "etc/default/dropbear"), "-R -p", "-RB -p", 1)
	must(t, os.WriteFile(filepath.Join(dir, "etc/default/dropbear"), []byte(plain), 0o644))
	if _, err := e.Undo(context.Background()); err != nil {
		t.Fatal(err)
	}
	sameTree(t, before, contents(snapshot(t, dir)), "undo")
}

func TestAFightIsContested(t *testing.T) {
	dir, _ := plant(t)
	e := engine(t, dir, only(t, load(t, "base"), "mount.tmp"))
	now := start
	e.Now = func() time.Time { return now }
	bad := read(t, dir, "etc/fstab")
	again := func() configs.Result {
		must(t, os.WriteFile(filepath.Join(dir, "etc/fstab"), []byte(bad), 0o644))
		now = now.Add(time.Minute)
		return finding(t, apply(t, e, false, "mount.tmp"), "mount.tmp").Result
	}
	for i := range 4 {
		if got := again(); got != configs.Fixed {
			t.Fatalf("fix %d is %s", i+1, got)
		}
	}
	if got := again(); got != configs.Contested {
		t.Fatalf("the fifth fix within ten minutes is %s", got)
	}
	if got := read(t, dir, "etc/fstab"); got != bad {
		t.Error("a contested rule was fixed")
	}
	now = now.Add(59 * time.Minute)
	if got := again(); got != configs.Fixed {
		t.Errorf("after an hour it is %s", got)
	}
	for range 3 {
		again()
	}
	now = now.Add(2 * time.Hour)
	if got := again(); got != configs.Contested {
		t.Errorf("the second pause is shorter than six hours: %s", got)
	}
}

func TestRebootNeededUntilTheNextBoot(t *testing.T) {
	dir, _ := plant(t)
	boot := filepath.Join(dir, "proc/sys/kernel/random/boot_id")
	must(t, os.MkdirAll(filepath.Dir(boot), 0o755))
	must(t, os.WriteFile(boot, []byte("one\n"), 0o644))
	if os.Getuid() != 0 {
		t.Log("not root: a running system has other owners")
	}
	e := engine(t, dir, load(t, "base"))
	e.Live = true
	f := finding(t, apply(t, e, false, "console.shell"), "console.shell")
	if f.Result != configs.RebootNeeded {
		t.Fatalf("right after the fix: %s %s", f.Result, f.Reason)
	}
	if f = finding(t, check(t, e), "console.shell"); f.Result != configs.RebootNeeded {
		t.Errorf("a check under the same boot: %s", f.Result)
	}
	must(t, os.WriteFile(boot, []byte("two\n"), 0o644))
	if f = finding(t, check(t, e), "console.shell"); f.Result != configs.Pass {
		t.Errorf("after a boot: %s", f.Result)
	}
	if f = finding(t, check(t, e), "key.ssh-host"); f.Result != configs.NotApplicable {
		t.Errorf("a running device may have host keys: %s", f.Result)
	}
}

func TestApplyRefuses(t *testing.T) {
	dir, _ := plant(t)
	e := engine(t, dir, load(t, "base"))
	if _, err := e.Apply(context.Background(), []string{"mount.tpm"}, false); configs.Code(err) != configs.CodeUnknownRule || !strings.Contains(err.Error(), `"mount.tmp"`) {
		t.Errorf("unknown rule: %v", err)
	}
	state := e.StateDir
	e.StateDir = ""
	if _, err := e.Apply(context.Background(), nil, false); configs.Code(err) != configs.CodeNoState || !errors.Is(err, configs.ErrSetup) || errors.Is(err, configs.ErrRefused) {
		t.Errorf("no state directory: %v", err)
	}
	e.StateDir = state
	must(t, os.MkdirAll(state, 0o700))
	lock, err := os.Create(filepath.Join(state, "lock"))
	must(t, err)
	must(t, syscall.Flock(int(lock.Fd()), syscall.LOCK_EX))
	if _, err := e.Apply(context.Background(), nil, false); configs.Code(err) != configs.CodeBusy || !errors.Is(err, configs.ErrRetry) {
		t.Errorf("locked: %v", err)
	}
	must(t, lock.Close())
	must(t, os.WriteFile(filepath.Join(state, "memory.json"), []byte("{"), 0o600))
	if _, err := e.Apply(context.Background(), nil, false); configs.Code(err) != configs.CodeBadState || !errors.Is(err, configs.ErrSetup) {
		t.Errorf("bad memory: %v", err)
	}
	e.Policy.Rules = append(e.Policy.Rules, configs.Rule{ID: "x"})
	if _, err := e.Check(context.Background()); configs.Code(err) != configs.CodeInvalid {
		t.Errorf("bad policy: %v", err)
	}
}

// No copy, no change: a state directory that cannot be written ends the run before the tree is touched.
func TestWithoutACopyThereIsNoChange(t *testing.T) {
	dir, _ := plant(t)
	e := engine(t, dir, load(t, "base"))
	must(t, os.MkdirAll(e.StateDir, 0o700))
	must(t, os.WriteFile(filepath.Join(e.StateDir, "undo"), nil, 0o600)) // in the way of the directory
	tree := snapshot(t, dir)
	if _, err := e.Apply(context.Background(), nil, false); err == nil {
		t.Error("a run without copies has no error")
	}
	sameTree(t, tree, snapshot(t, dir), "no copy")
}

func TestFixFailedSaysWhy(t *testing.T) {
	dir, _ := plant(t)
	must(t, os.WriteFile(filepath.Join(dir, "etc/init.d/S90app"), []byte("#!/bin/sh\n/usr/bin/app &\ntelnetd -l /bin/sh &\n"), 0o755))
	e := engine(t, dir, load(t, "base"))
	f := finding(t, apply(t, e, false, "service.telnet"), "service.telnet")
	if f.Result != configs.FixFailed || !strings.Contains(f.Reason, "S90app") || len(f.Evidence) != 1 || f.Evidence[0].Where != "/etc/init.d/S90app:3" {
		t.Errorf("%s: %s %v", f.Result, f.Reason, f.Evidence)
	}
}

// The engine does not believe a check that passes and names nothing.
func TestAPassWithoutEvidenceIsUnknown(t *testing.T) {
	for _, c := range []struct {
		in, want probe.Verdict
	}{
		{probe.Verdict{Result: configs.Pass, Reason: "fine"}, probe.Verdict{Result: configs.Unknown}},
		{probe.Verdict{Result: configs.Pass, Inspected: []string{"/etc/x"}}, probe.Verdict{Result: configs.Pass}},
		{probe.Verdict{Result: configs.NotApplicable}, probe.Verdict{Result: configs.NotApplicable}},
	} {
		if got := configs.Positive(c.in); got.Result != c.want.Result {
			t.Errorf("%+v is %s", c.in, got.Result)
		}
	}
}

func TestOldRecordsAreRemoved(t *testing.T) {
	dir, _ := plant(t)
	e := engine(t, dir, only(t, load(t, "base"), "mount.tmp"))
	now := start
	e.Now = func() time.Time { return now }
	bad := read(t, dir, "etc/fstab")
	for range 12 {
		now = now.Add(time.Hour)
		must(t, os.WriteFile(filepath.Join(dir, "etc/fstab"), []byte(bad), 0o644))
		apply(t, e, false, "mount.tmp")
	}
	names, err := os.ReadDir(filepath.Join(e.StateDir, "undo"))
	if err != nil || len(names) != 8 || names[7].Name() != "000012" {
		t.Errorf("%d records: %v %v", len(names), names, err)
	}
}

func TestStateInsideTheTreeIsNotSearched(t *testing.T) {
	dir := t.TempDir()
	must(t, plantroot.Clean(dir))
	e := engine(t, dir, load(t, "base"))
	e.StateDir = filepath.Join(dir, "srv/state")
	e.Exclude = []string{"/opt/agent"}
	for _, d := range []string{e.StateDir, filepath.Join(dir, "opt/agent"), filepath.Join(dir, "opt/agent2")} {
		must(t, os.MkdirAll(d, 0o755))
		must(t, os.WriteFile(filepath.Join(d, "tool"), []byte("x"), 0o755))
		must(t, os.Chmod(filepath.Join(d, "tool"), 0o755|os.ModeSetuid))
	}
	f := finding(t, check(t, e), "file.setuid")
	if len(f.Evidence) != 1 || f.Evidence[0].Subject != "/opt/agent2/tool" {
		t.Errorf("%s %v", f.Result, f.Evidence)
	}
}

func TestCombinators(t *testing.T) {
	dir := t.TempDir()
	must(t, plantroot.Clean(dir))
	yes, no := `{"kind":"file-absent","target":"/nowhere"}`, `{"kind":"file-absent","target":"/etc/passwd"}`
	na, unk := `{"kind":"file-line","target":"/etc/none.conf","want":{"key":"a","sep":"=","deny":["b"]}}`, `{"kind":"sysctl","target":"a.b","want":{"min":1}}`
	must(t, os.RemoveAll(filepath.Join(dir, "proc")))
	for test, want := range map[string]configs.Result{
		`"all":[` + yes + `,` + yes + `]`:                configs.Pass,
		`"all":[` + yes + `,` + no + `]`:                 configs.Fail,
		`"all":[` + unk + `,` + no + `]`:                 configs.Fail,
		`"all":[` + unk + `,` + yes + `]`:                configs.Unknown,
		`"all":[` + na + `,` + yes + `]`:                 configs.Pass,
		`"all":[` + na + `,` + na + `]`:                  configs.NotApplicable,
		`"any":[` + no + `,` + yes + `]`:                 configs.Pass,
		`"any":[` + unk + `,` + yes + `]`:                configs.Pass,
		`"any":[` + unk + `,` + no + `]`:                 configs.Unknown,
		`"any":[` + no + `,` + na + `]`:                  configs.Fail,
		`"not":` + no:                                    configs.Pass,
		`"not":` + yes:                                   configs.Fail,
		`"not":` + unk:                                   configs.Unknown,
		`"not":` + na:                                    configs.NotApplicable,
		`"not":{"any":[` + yes + `,{"not":` + no + `}]}`: configs.Fail,
	} {
		p, err := configs.ParsePolicy([]byte(`{"schema":1,"id":"p","serial":1,"rules":[{"id":"a.b","title":"T","why":"W","severity":"low",` + test + `}]}`))
		must(t, err)
		f := check(t, engine(t, dir, p)).Findings[0]
		if f.Result != want {
			t.Errorf("%s is %s (%s), want %s", test, f.Result, f.Reason, want)
		}
		if f.Result == configs.Pass && len(f.Inspected) == 0 {
			t.Errorf("%s passes without evidence", test)
		}
	}
}

func TestReportAsJSON(t *testing.T) {
	dir, _ := plant(t)
	r := check(t, engine(t, dir, load(t, "base")))
	data, err := json.Marshal(r)
	must(t, err)
	var back configs.Report
	must(t, json.Unmarshal(data, &back))
	if len(back.Findings) != len(r.Findings) || back.Counts[configs.Fail] != r.Counts[configs.Fail] || strings.Contains(string(data), ":null") {
		t.Errorf("%s", data)
	}
	if strings.Contains(string(data), "60lBauJfeTLe2uYYdwMLT") || strings.Contains(string(data), "BEGIN PRIVATE") {
		t.Error("the report holds a secret")
	}
	if r.OK() || len(r.Bad()) != r.Counts[configs.Fail] {
		t.Error("Bad and Counts disagree")
	}
	e := engine(t, dir, load(t, "camera"))
	rule, mode, err := e.Explain("console.serial-login")
	if err != nil || mode != configs.Trial || rule.Severity != configs.High {
		t.Errorf("%v %v %v", rule.Severity, mode, err)
	}
	if _, _, err := e.Explain("console.shel"); configs.Code(err) != configs.CodeUnknownRule {
		t.Error(err)
	}
}
