// SPDX-License-Identifier: Apache-2.0

package configs_test

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/backstay/backstay/configs"
	"github.com/backstay/backstay/testdata/plantroot"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// outside is a directory beside the root that nothing may read or change: its files are as insecure as can be.
func outside(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(dir, "init.d"), 0o755))
	for name, text := range map[string]string{
		"shadow": "root::1:0:9:7:::\n", "inittab": "::respawn:/bin/telnetd\n", "hosts.equiv": "+ +\n", "init.d/S1": "#!/bin/sh\ntelnetd\n",
		"dropbear": "DROPBEAR_ARGS=\"-B\"\n", "sysctl.conf": "kernel.kptr_restrict = 0\n",
	} {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666))
		must(t, os.Chmod(filepath.Join(dir, name), 0o777|os.ModeSetuid))
	}
	return dir
}

// hostile makes a planted tree worse: each entry replaces one of its files.
func hostile(t *testing.T, out string) string {
	t.Helper()
	dir, _ := plant(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	replace := func(name string, make func(p string) error) {
		must(t, os.MkdirAll(filepath.Dir(at(name)), 0o755))
		must(t, os.RemoveAll(at(name)))
		must(t, make(at(name)))
	}
	link := func(to string) func(string) error { return func(p string) error { return os.Symlink(to, p) } }
	fifo := func(p string) error { return syscall.Mkfifo(p, 0o666) }
	sparse := func(p string) error {
		f, err := os.Create(p)
		if err == nil {
			err = f.Truncate(10 << 30)
			f.Close()
		}
		return err
	}
	rel, err := filepath.Rel(at("etc"), out)
	must(t, err)
	replace("etc/shadow", link(filepath.Join(rel, "shadow")))           // up and out
	replace("etc/hosts.equiv", link(filepath.Join(out, "hosts.equiv"))) // absolute: means inside
	replace("etc/init.d/S10out", link(filepath.Join("../..", rel, "../", filepath.Base(out), "init.d/S1")))
	replace("etc/inittab", fifo)
	replace("etc/inetd.conf", sparse)
	replace("etc/fstab", link("fstab2"))
	replace("etc/fstab2", link("fstab"))
	replace("etc/ssh/sshd_config", func(p string) error { return os.WriteFile(p, []byte("Include /etc/ssh/sshd_config\n"), 0o600) })
	replace("etc/snmp/snmpd.conf", func(p string) error { return os.Mkdir(p, 0o755) })
	replace("etc/sysctl.conf", sparse)
	replace("proc/sys/kernel/kptr_restrict", fifo)
	replace("etc/init.d/loop", link("loop"))
	replace("usr/self", link("."))
	replace("usr/up", link("../../../../../../.."))
	replace("usr/huge", sparse)
	replace("usr/pipe", fifo)
	replace("usr/bad\xff\xfe\nname", func(p string) error {
		must(t, os.WriteFile(p, []byte("x"), 0o755))
		return os.Chmod(p, 0o755|os.ModeSetuid)
	})
	deep := at("usr/deep")
	for range 60 {
		deep = filepath.Join(deep, "d")
	}
	must(t, os.MkdirAll(deep, 0o755))
	if os.Getuid() == 0 {
		replace("usr/zero", func(p string) error { return syscall.Mknod(p, syscall.S_IFCHR|0o666, 1<<8|5) })
		replace("etc/gshadow", func(p string) error { return syscall.Mknod(p, syscall.S_IFCHR|0o666, 1<<8|5) })
	}
	return dir
}

func TestHostileTreeCannotHangOrEscape(t *testing.T) {
	out := outside(t)
	dir := hostile(t, out)
	before := snapshot(t, out)
	e := engine(t, dir, load(t, "camera", "gateway"))
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var m0, m1 runtime.MemStats
	runtime.ReadMemStats(&m0)
	began := time.Now()
	r, err := e.Check(ctx)
	must(t, err)
	if d := time.Since(began); d > 10*time.Second {
		t.Errorf("the check took %v", d)
	}
	runtime.ReadMemStats(&m1)
	if mib := (m1.TotalAlloc - m0.TotalAlloc) >> 20; mib > 64 {
		t.Errorf("the check allocated %d MiB", mib)
	}
	for _, id := range []string{"console.shell", "service.telnet", "service.inetd-login", "mount.tmp", "ssh.sshd-password", "kernel.pointers", "service.snmp-community"} {
		if f := finding(t, r, id); f.Result != configs.Unknown || f.Reason == "" {
			t.Errorf("%s is %s: %s", id, f.Result, f.Reason)
		}
	}
	// The link to a file outside leads to a path inside, where nothing is.
	if f := finding(t, r, "account.empty-password"); f.Result != configs.Pass || slices.Contains(f.Inspected, "/etc/shadow") {
		t.Errorf("account.empty-password is %s, read %q", f.Result, f.Inspected)
	}
	if f := finding(t, r, "file.setuid"); f.Result != configs.Fail || !strings.Contains(f.Evidence[0].Subject, `\xff\xfe\n`) {
		t.Errorf("file.setuid is %s: %v", f.Result, f.Evidence)
	}

	_, err = e.Apply(ctx, fixableIDs(e.Policy), false)
	must(t, err)
	sameTree(t, before, snapshot(t, out), "outside the root")
	if _, err := os.Stat(filepath.Join(dir, "usr/bad\xff\xfe\nname")); err != nil {
		t.Error(err)
	}
	in, _ := os.Stat(filepath.Join(dir, "usr/bad\xff\xfe\nname"))
	if in.Mode()&os.ModeSetuid != 0 {
		t.Error("a file whose name is not UTF-8 kept its setuid bit")
	}
	if _, err := e.Undo(ctx); err != nil {
		t.Errorf("undo over such names: %v", err)
	}
	if in, _ = os.Stat(filepath.Join(dir, "usr/bad\xff\xfe\nname")); in.Mode()&os.ModeSetuid == 0 {
		t.Error("undo did not find the name that is not UTF-8")
	}
}

// An absolute link inside the root is followed inside the root, for reading and for writing.
func TestAbsoluteLinksAreFollowedInside(t *testing.T) {
	dir := t.TempDir()
	must(t, plantroot.Clean(dir))
	must(t, os.MkdirAll(filepath.Join(dir, "data/etc"), 0o755))
	must(t, os.Rename(filepath.Join(dir, "etc/default/dropbear"), filepath.Join(dir, "data/etc/dropbear")))
	must(t, os.Symlink("/data/etc/dropbear", filepath.Join(dir, "etc/default/dropbear")))
	must(t, os.WriteFile(filepath.Join(dir, "data/etc/dropbear"), []byte("DROPBEAR_ARGS=\"-R\"\n"), 0o644))
	e := engine(t, dir, load(t, "base"))
	r := apply(t, e, false, "ssh.dropbear-forwarding")
	f := finding(t, r, "ssh.dropbear-forwarding")
	if f.Result != configs.Fixed || f.Changes[0].Path != "/data/etc/dropbear" {
		t.Errorf("%s %v", f.Result, f.Changes)
	}
	if to, err := os.Readlink(filepath.Join(dir, "etc/default/dropbear")); err != nil || to != "/data/etc/dropbear" {
		t.Errorf("the link became %q, %v", to, err)
	}
}

func TestContextEndsARun(t *testing.T) {
	dir, _ := plant(t)
	e := engine(t, dir, load(t, "base"))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := e.Check(ctx); err == nil {
		t.Error("a check with an ended context has no error")
	}
	tree := snapshot(t, dir)
	if _, err := e.Apply(ctx, nil, false); err == nil {
		t.Error("an apply with an ended context has no error")
	}
	sameTree(t, tree, snapshot(t, dir), "ended context")
}

func TestARuleThatTakesTooLongIsUnknown(t *testing.T) {
	dir, _ := plant(t)
	e := engine(t, dir, load(t, "base"))
	e.RuleTime = time.Nanosecond
	for _, f := range check(t, e).Findings {
		if f.Result == configs.Pass {
			t.Errorf("%s passes without time to look", f.Rule)
		}
	}
}
