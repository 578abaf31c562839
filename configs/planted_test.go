// SPDX-License-Identifier: Apache-2.0

package configs_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/backstay/backstay/configs"
	"github.com/backstay/backstay/testdata/plantroot"
)

var start = time.Date(2026, 11, 25, 10, 0, 0, 0, time.UTC)

func plant(t testing.TB) (dir string, rules []string) {
	t.Helper()
	dir = t.TempDir()
	rules, err := plantroot.Plant(dir)
	if err != nil {
		t.Fatal(err)
	}
	return dir, rules
}

// plantedIn leaves those of the planted rules that a policy has.
func plantedIn(p configs.Policy, planted []string) []string {
	return slices.DeleteFunc(slices.Clone(planted), func(id string) bool { _, ok := p.Rule(id); return !ok })
}

func load(t testing.TB, profiles ...string) configs.Policy {
	t.Helper()
	p, err := configs.Load(profiles...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// engine checks dir as an image, with a state directory of its own and a clock that stands still.
func engine(t testing.TB, dir string, p configs.Policy) *configs.Engine {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return &configs.Engine{Root: root, Policy: p, StateDir: filepath.Join(t.TempDir(), "configs"), Now: func() time.Time { return start }}
}

func check(t testing.TB, e *configs.Engine) configs.Report {
	t.Helper()
	r, err := e.Check(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func apply(t testing.TB, e *configs.Engine, dry bool, ids ...string) configs.Report {
	t.Helper()
	r, err := e.Apply(context.Background(), ids, dry)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func with(r configs.Report, results ...configs.Result) []string {
	var out []string
	for _, f := range r.Findings {
		if slices.Contains(results, f.Result) {
			out = append(out, f.Rule)
		}
	}
	slices.Sort(out)
	return out
}

func finding(t testing.TB, r configs.Report, id string) configs.Finding {
	t.Helper()
	for _, f := range r.Findings {
		if f.Rule == id {
			return f
		}
	}
	t.Fatalf("no finding for %s", id)
	return configs.Finding{}
}

// snapshot describes every entry below dir: mode, size, time of change, and bytes.
func snapshot(t testing.TB, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		in, err := d.Info()
		if err != nil {
			return err
		}
		s := fmt.Sprintf("%v %d %d", in.Mode(), in.Size(), in.ModTime().UnixNano())
		if in.Mode().IsRegular() {
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			s += fmt.Sprintf(" %x", sha256.Sum256(data))
		}
		out[p] = s
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return out
}

func sameTree(t testing.TB, before, after map[string]string, what string) {
	t.Helper()
	for p := range maps.Keys(before) {
		if before[p] != after[p] {
			t.Errorf("%s: %s was %q, is %q", what, p, before[p], after[p])
		}
	}
	for p := range maps.Keys(after) {
		if _, ok := before[p]; !ok {
			t.Errorf("%s: %s is new", what, p)
		}
	}
}

// sameRules names the rules in one list and not in the other.
func sameRules(t *testing.T, what string, got, want []string) {
	t.Helper()
	for _, id := range want {
		if !slices.Contains(got, id) {
			t.Errorf("%s: %s is missing", what, id)
		}
	}
	for _, id := range got {
		if !slices.Contains(want, id) {
			t.Errorf("%s: %s is too much", what, id)
		}
	}
}

func TestPlantedIsFoundAndItsTwinIsClean(t *testing.T) {
	dir, planted := plant(t)
	for _, profile := range configs.Profiles() {
		r := check(t, engine(t, dir, load(t, profile)))
		want := plantedIn(load(t, profile), planted)
		sameRules(t, profile+" on the planted tree", with(r, configs.Fail), want)
		if got := with(r, configs.Unknown); len(got) > 0 {
			t.Errorf("%s on the planted tree: unknown %q", profile, got)
		}
		clean := t.TempDir()
		if err := plantroot.Clean(clean); err != nil {
			t.Fatal(err)
		}
		r = check(t, engine(t, clean, load(t, profile)))
		for _, f := range r.Findings {
			if f.Result != configs.Pass && f.Result != configs.NotApplicable {
				t.Errorf("%s on the clean tree: %s is %s: %s %v", profile, f.Rule, f.Result, f.Reason, f.Evidence)
			}
			if f.Result == configs.Pass && (len(f.Inspected) == 0 || f.Reason == "") {
				t.Errorf("%s: %s passes without evidence", profile, f.Rule)
			}
		}
	}
}

func TestEveryBaseRuleIsPlanted(t *testing.T) {
	_, planted := plant(t)
	for _, r := range load(t, "base").Rules {
		if slices.Contains(plantroot.RootOnly(), r.ID) || r.Applies != nil && r.Applies.Live != nil && *r.Applies.Live {
			continue // not for everybody to plant, or not in an image
		}
		if !slices.Contains(planted, r.ID) {
			t.Errorf("no defect is planted for %s", r.ID)
		}
	}
	var all configs.Policy
	for _, p := range slices.Concat(configs.RuleSets(), configs.Profiles()) {
		all.Rules = append(all.Rules, load(t, p).Rules...)
	}
	for _, id := range planted {
		if _, ok := all.Rule(id); !ok {
			t.Errorf("a defect is planted for %s, which is no rule", id)
		}
	}
}

// fixableIDs are the rules that Apply can mend on the planted tree.
func fixableIDs(p configs.Policy) []string {
	var out []string
	for _, r := range p.Rules {
		if r.Fix != "" && r.Fix != configs.FixReport && r.Kind != "firewall" { // that is of a running kernel
			out = append(out, r.ID)
		}
	}
	slices.Sort(out)
	return out
}

func TestApplyMendsAndASecondApplyWritesNothing(t *testing.T) {
	dir, planted := plant(t)
	e := engine(t, dir, load(t, "base"))
	ids := fixableIDs(e.Policy)
	r := apply(t, e, false, ids...)
	want := slices.DeleteFunc(slices.Clone(planted), func(id string) bool { return !slices.Contains(ids, id) })
	// One fix may mend what a later rule looks at: locking the account with the empty password is one.
	done := with(r, configs.Fixed)
	for _, id := range want {
		if f := finding(t, r, id); f.Result != configs.Fixed && f.Result != configs.Pass {
			t.Errorf("%s is %s: %s %v", id, f.Result, f.Reason, f.Evidence)
		}
	}
	if len(done) < len(want)-6 {
		t.Errorf("fixed %q, want nearly all of %q", done, want)
	}
	// With passwords off there is nothing left to guess; lockdown, once it is on, refuses unsigned modules too.
	report := slices.DeleteFunc(plantedIn(e.Policy, planted), func(id string) bool {
		return slices.Contains(ids, id) || id == "account.guess-damping" || id == "boot.module-signatures"
	})
	report = slices.DeleteFunc(report, func(id string) bool { return id == "firewall.forward" }) // nothing is forwarded any more
	sameRules(t, "after the fixes", with(check(t, e), configs.Fail, configs.Unknown), report)

	tree, state := snapshot(t, dir), snapshot(t, e.StateDir)
	r = apply(t, e, false, ids...)
	if got := with(r, configs.Fixed, configs.FixFailed); len(got) > 0 || r.Run != "" {
		t.Errorf("a second run fixes %q", got)
	}
	sameTree(t, tree, snapshot(t, dir), "second run")
	sameTree(t, state, snapshot(t, e.StateDir), "second run, state")
}

func TestApplyWithoutNamesLeavesWhatCouldLockOut(t *testing.T) {
	dir, _ := plant(t)
	e := engine(t, dir, load(t, "base"))
	r := apply(t, e, false)
	for _, f := range r.Findings {
		switch {
		case f.Fix == configs.FixConfirm && f.Result != configs.Fail && f.Result != configs.NotApplicable:
			t.Errorf("%s: %s", f.Rule, f.Result)
		case f.Fix == configs.FixAuto && f.Result != configs.Fixed && f.Result != configs.Pass: // the fix of another rule may have mended it
			t.Errorf("%s: %s %s", f.Rule, f.Result, f.Reason)
		}
	}
	if shadow := read(t, dir, "etc/shadow"); !strings.Contains(shadow, "root::") {
		t.Errorf("the empty password was locked without being named:\n%s", shadow)
	}
}

func read(t testing.TB, dir, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestFixesKeepEverythingElseOfAFile(t *testing.T) {
	dir, _ := plant(t)
	e := engine(t, dir, load(t, "base"))
	apply(t, e, false, fixableIDs(e.Policy)...)
	for name, want := range map[string]string{
		"etc/default/dropbear": "# arguments of the server\nDROPBEAR_ARGS=\"-I 900 -T 3 -j -k -s -R -p 22\" # factory\n",
		"etc/ssh/sshd_config":  "# OpenSSH server\nAllowAgentForwarding no\nAllowTcpForwarding no\nClientAliveInterval 300\nMaxStartups 10:30:60\nLoginGraceTime 60\nMaxAuthTries 4\nKbdInteractiveAuthentication no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\nPermitEmptyPasswords no\nHostbasedAuthentication no\nCiphers aes256-ctr\nAcceptEnv LANG\nMatch Address 10.0.0.0/8\n\tPasswordAuthentication no\n",
		"etc/fstab": "# device	mount	type	options	dump pass\nproc	/proc	proc	defaults,nosuid,nodev,noexec	0	0\ntmpfs	/tmp	tmpfs	mode=1777,nosuid,nodev	0	0\n" +
			"tmpfs	/var/tmp	tmpfs	mode=1777,nosuid,nodev	0	0\ntmpfs	/dev/shm	tmpfs	mode=1777,nosuid,nodev	0	0\ntmpfs	/run	tmpfs	mode=0755,nosuid,nodev	0	0\ndevtmpfs	/dev	devtmpfs	defaults,nosuid	0	0\n" +
			"/dev/mmcblk0p3	/data	ext4	noatime,nosuid,nodev	0	2\ntmpfs	/etc/dropbear	tmpfs	mode=0700	0	0\ntmpfs	/var/log	tmpfs	nosuid,nodev	0	0\n/dev/sda1	/media/usb	vfat	sync,nosuid,nodev,noexec	0	0\n",
		"etc/shadow":                    "root:*:19000:0:99999:7:::\ndaemon:*:19000:0:99999:7:::\nwww-data:*:19000:0:99999:7:::\nadmin:*:19000:0:99999:7:::\nguest:!*:19000:0:99999:7:::\nlp:$1$saltsalt$xxxxxxxxxxxxxxxxxxxxxx::0:99999:7:::\n",
		"proc/sys/kernel/kptr_restrict": "2\n",
	} {
		if got := read(t, dir, name); got != want {
			t.Errorf("%s is\n%s\nwant\n%s", name, got, want)
		}
	}
	if tab := read(t, dir, "etc/inittab"); strings.Count(tab, "# disabled by backstay: ") != 3 || !strings.Contains(tab, "# disabled by backstay: ttyS0::respawn:-/bin/sh\n") {
		t.Errorf("inittab is\n%s", tab)
	}
	const kept = "# kernel\nkernel.kptr_restrict = 2\nkernel.randomize_va_space= 2\nfs.suid_dumpable = 0\nkernel.dmesg_restrict = 1\nfs.protected_symlinks = 1\n"
	if got := read(t, dir, "etc/sysctl.conf"); !strings.HasPrefix(got, kept) || strings.Count(got, "suid_dumpable") != 1 || strings.Contains(got, "ipv6.conf.all.forwarding") {
		t.Errorf("sysctl.conf is\n%s", got)
	}
	in, err := os.Stat(filepath.Join(dir, "etc/default/dropbear"))
	if err != nil || in.Mode().Perm() != 0o644 {
		t.Errorf("mode of the edited file: %v %v", in.Mode(), err)
	}
}

func TestDryRunShowsExactlyWhatApplyWrites(t *testing.T) {
	dir, _ := plant(t)
	e := engine(t, dir, load(t, "base"))
	ids := fixableIDs(e.Policy)
	tree := snapshot(t, dir)
	dry := apply(t, e, true, ids...)
	sameTree(t, tree, snapshot(t, dir), "dry run")
	if _, err := os.Stat(e.StateDir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the dry run made the state directory: %v", err)
	}
	wet := apply(t, e, false, ids...)
	diffs := 0
	for i, f := range wet.Findings {
		if !slices.Equal(dry.Findings[i].Changes, f.Changes) {
			t.Errorf("%s: the dry run shows\n%v\nthe run did\n%v", f.Rule, dry.Findings[i].Changes, f.Changes)
		}
		diffs += len(f.Changes)
		for _, c := range f.Changes {
			if strings.Contains(c.Diff, "60lBauJfeTLe2uYYdwMLT") {
				t.Errorf("%s shows a password hash:\n%s", f.Rule, c.Diff)
			}
		}
	}
	if diffs < 20 {
		t.Errorf("only %d changes", diffs)
	}
	want := "--- /etc/default/dropbear\n+++ /etc/default/dropbear\n@@ -1,2 +1,2 @@\n # arguments of the server\n-DROPBEAR_ARGS=\"-RB -p 22\" # factory\n+DROPBEAR_ARGS=\"-s -RB -p 22\" # factory\n"
	if f := finding(t, dry, "ssh.dropbear-password"); len(f.Changes) != 1 || f.Changes[0].Diff != want {
		t.Errorf("difference is\n%+v\nwant\n%s", f.Changes, want)
	}
}

func TestUndoTakesTheLastRunBack(t *testing.T) {
	dir, _ := plant(t)
	e := engine(t, dir, load(t, "base"))
	before := contents(snapshot(t, dir))
	apply(t, e, false, "ssh.dropbear-password", "account.trust-files", "file.setuid", "kernel.links")
	mid := contents(snapshot(t, dir))
	apply(t, e, false, slices.DeleteFunc(fixableIDs(e.Policy), func(id string) bool { return id == "boot.lockdown" })...) // which is one-way
	for _, want := range []map[string]string{mid, before} {
		done, err := e.Undo(context.Background())
		if err != nil || len(done) == 0 {
			t.Fatalf("undo: %v %v", done, err)
		}
		sameTree(t, want, contents(snapshot(t, dir)), "undo")
	}
	if _, err := e.Undo(context.Background()); configs.Code(err) != configs.CodeNothingToUndo || !errors.Is(err, configs.ErrRefused) {
		t.Errorf("a third undo: %v", err)
	}
}

// contents leaves out times: undo writes, so they change. Sizes of directories and links are left out too.
func contents(snap map[string]string) map[string]string {
	out := map[string]string{}
	for p, s := range snap {
		f := strings.Fields(s)
		out[p] = f[0]
		if len(f) == 4 {
			out[p] += " " + f[3]
		}
	}
	return out
}

func TestUndoDoesNotOverwriteWhatSomebodyElseWrote(t *testing.T) {
	dir, _ := plant(t)
	e := engine(t, dir, load(t, "base"))
	apply(t, e, false, "ssh.dropbear-password", "mount.tmp")
	name := filepath.Join(dir, "etc/default/dropbear")
	if err := os.WriteFile(name, []byte("DROPBEAR_ARGS=-w\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	tree := snapshot(t, dir)
	if _, err := e.Undo(context.Background()); configs.Code(err) != configs.CodeChangedSince {
		t.Errorf("undo: %v", err)
	}
	sameTree(t, tree, snapshot(t, dir), "refused undo")
}

func BenchmarkCheckPlanted(b *testing.B) {
	dir, _ := plant(b)
	e := engine(b, dir, load(b, "base"))
	b.ReportAllocs()
	for b.Loop() {
		check(b, e)
	}
}
