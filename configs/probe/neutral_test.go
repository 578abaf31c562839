// SPDX-License-Identifier: Apache-2.0

package probe_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/backstay/backstay/configs/probe"
	"github.com/backstay/backstay/testdata/testneed"
)

// Each case is fixed in a rehearsal, then on disk, then looked at again: the plan is what is wanted, the check passes after
// it, a second plan is empty, and the inverses bring every byte back.
func TestNeutralise(t *testing.T) {
	telnet := `{"deny":["telnetd"]}`
	unitFile := "[Service]\nExecStart=/usr/sbin/telnetd -F\n"
	for name, c := range map[string]struct {
		files files
		plan  []string // operation and path; none: only a person can mend it
	}{
		"inittab":           {files{"etc/inittab": "::respawn:/sbin/telnetd\n::once:/bin/a\n"}, []string{"edit /etc/inittab"}},
		"linked inittab":    {files{"etc/inittab": "-> /data/tab", "data/tab": "::respawn:/sbin/telnetd\n"}, []string{"edit /data/tab"}},
		"script by name":    {files{"etc/init.d/S50telnet": "#!/bin/sh\nfoo\ntelnetd\n"}, []string{"chmod /etc/init.d/S50telnet"}},
		"script by content": {files{"etc/init.d/S50x": "#!/bin/sh\necho starting\ntelnetd -F &\n"}, []string{"chmod /etc/init.d/S50x"}},
		"shared script":     {files{"etc/init.d/S50x": "#!/bin/sh\n/usr/bin/app\ntelnetd -F &\n"}, nil},
		"run by a script":   {files{"etc/inittab": "::sysinit:/opt/go.sh\n", "opt/go.sh": "#!/bin/sh\ntelnetd\n"}, nil},
		"rc.d of OpenWrt": {files{"etc/rc.common": "#!/bin/sh\n", "etc/init.d/telnet": "#!/bin/sh /etc/rc.common\nstart() { telnetd; }\n", "etc/rc.d/S50telnet": "-> ../init.d/telnet", "etc/rc.d/K50telnet": "-> ../init.d/telnet"},
			[]string{"unlink /etc/rc.d/S50telnet"}},
		"sysvinit": {files{"etc/init.d/telnet": "#!/bin/sh\ntelnetd\n", "etc/rc2.d/S20telnet": "-> ../init.d/telnet", "etc/rc3.d/S20telnet": "-> ../init.d/telnet", "etc/rc0.d/K20telnet": "-> ../init.d/telnet"},
			[]string{"unlink /etc/rc2.d/S20telnet", "unlink /etc/rc3.d/S20telnet"}},
		"openrc": {files{"etc/init.d/telnetd": "#!/sbin/openrc-run\ncommand=/usr/sbin/telnetd\n", "etc/runlevels/default/telnetd": "-> /etc/init.d/telnetd"},
			[]string{"unlink /etc/runlevels/default/telnetd"}},
		"runit":      {files{"etc/service/telnet/run": "#!/bin/sh\nexec telnetd -F\n"}, []string{"create /etc/service/telnet/down"}},
		"runit link": {files{"etc/service/telnet": "-> /etc/sv/telnet", "etc/sv/telnet/run": "#!/bin/sh\nexec telnetd -F\n"}, []string{"unlink /etc/service/telnet"}},
		"systemd": {files{"lib/systemd/systemd": "x", "lib/systemd/system/t.service": unitFile, "etc/systemd/system/multi-user.target.wants/t.service": "-> /lib/systemd/system/t.service"},
			[]string{"symlink /etc/systemd/system/t.service"}},
		"unit in /etc": {files{"lib/systemd/systemd": "x", "etc/systemd/system/t.service": unitFile, "etc/systemd/system/multi-user.target.wants/t.service": "-> ../t.service"},
			[]string{"remove /etc/systemd/system/t.service", "symlink /etc/systemd/system/t.service"}},
		"socket": {files{"lib/systemd/systemd": "x", "lib/systemd/system/t@.service": unitFile, "lib/systemd/system/t.socket": "[Socket]\nListenStream=23\nAccept=yes\n", "etc/systemd/system/sockets.target.wants/t.socket": "-> /lib/systemd/system/t.socket"},
			[]string{"symlink /etc/systemd/system/t.socket", "symlink /etc/systemd/system/t@.service"}},
		"unit that does more": {files{"lib/systemd/systemd": "x", "lib/systemd/system/t.service": "[Service]\nExecStart=/bin/sh -c 'telnetd; exec /usr/bin/app'\n", "etc/systemd/system/multi-user.target.wants/t.service": "-> /lib/systemd/system/t.service"}, nil},
		"cron":                {files{"etc/inittab": "", "etc/crontabs/root": "* * * * * telnetd\n0 0 * * * a\n"}, []string{"edit /etc/crontabs/root"}},
		"cron.daily":          {files{"etc/inittab": "", "etc/cron.daily/telnet": "#!/bin/sh\ntelnetd\n"}, []string{"chmod /etc/cron.daily/telnet"}},
		"profile":             {files{"etc/inittab": "", "etc/profile": "telnetd\n"}, nil},
	} {
		neutraliseOne(t, name, tree(t, c.files), newCheck(t, "start-program", "init", telnet), c.plan)
	}
	neutraliseOne(t, "inetd", tree(t, files{"etc/inetd.conf": "telnet stream tcp nowait root /a telnetd\nx stream tcp nowait root /b b\n"}),
		newCheck(t, "inetd", "inetd", `{"deny":["telnet"]}`), []string{"edit /etc/inetd.conf"})
	neutraliseOne(t, "xinetd", tree(t, files{"etc/xinetd.d/t": "service telnet\n{\n\tdisable = no\n\tserver = /a\n}\nservice telnet\n{\n}\n"}),
		newCheck(t, "inetd", "inetd", `{"deny":["telnet"]}`), []string{"edit /etc/xinetd.d/t"})
}

func neutraliseOne(t *testing.T, name, dir string, check probe.Check, want []string) {
	t.Helper()
	ctx, all := context.Background(), func(string) bool { return true }
	h := host(t, dir)
	if v := check.Check(ctx, h); v.Result != probe.Fail {
		t.Errorf("%s: %s %s", name, v.Result, v.Reason)
		return
	}
	plan, err := check.Fix(ctx, h, all)
	var got []string
	for _, c := range plan {
		got = append(got, string(c.Op)+" "+c.Path)
		if !h.Ready(ctx, c) {
			t.Errorf("%s: %s is not ready", name, got[len(got)-1])
		}
		h.Pretend(c)
		if !h.Holds(ctx, c) {
			t.Errorf("%s: %s does not hold", name, got[len(got)-1])
		}
	}
	if !slices.Equal(got, want) || (err == nil) != (want != nil) || err != nil && !errors.Is(err, probe.ErrNoFix) {
		t.Errorf("%s: plan %q, %v, want %q", name, got, err, want)
		return
	}
	if want == nil {
		return
	}
	if v := check.Check(ctx, h); v.Result == probe.Fail {
		t.Errorf("%s, rehearsed: %s", name, brief(v))
	}
	h = host(t, dir)
	for _, c := range plan {
		must(t, h.Apply(ctx, c))
	}
	if v := check.Check(ctx, h); v.Result == probe.Fail {
		t.Errorf("%s, applied: %s", name, brief(v))
	}
	if again, err := check.Fix(ctx, h, all); len(again) > 0 || errors.Is(err, probe.ErrNoFix) {
		t.Errorf("%s: a second fix plans %v, %v", name, again, err)
	}
	for _, c := range slices.Backward(plan) {
		must(t, h.Apply(ctx, c.Inverse()))
	}
	if v := check.Check(ctx, h); v.Result != probe.Fail {
		t.Errorf("%s: after the inverses it is %s", name, v.Result)
	}
}

func TestLinkChanges(t *testing.T) {
	dir := tree(t, files{"etc/a": "-> b", "etc/real": "x", "up": "-> etc"})
	ctx, h := context.Background(), host(t, dir)
	for name, c := range map[string]probe.Change{
		"another text":       {Op: probe.Unlink, Path: "/etc/a", Before: []byte("c")},
		"no link":            {Op: probe.Unlink, Path: "/etc/real", Before: []byte("")},
		"taken":              {Op: probe.Symlink, Path: "/etc/a", After: []byte("c")},
		"taken by a file":    {Op: probe.Symlink, Path: "/etc/real", After: []byte("c")},
		"through a link":     {Op: probe.Symlink, Path: "/up/n", After: []byte("c")},
		"without its parent": {Op: probe.Symlink, Path: "/none/n", After: []byte("c")},
	} {
		if err := h.Apply(ctx, c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	c := probe.Change{Op: probe.Unlink, Path: "/etc/a", Before: []byte("b")}
	must(t, h.Apply(ctx, c))
	if !h.Holds(ctx, c) || h.Ready(ctx, c) || !h.Ready(ctx, c.Inverse()) {
		t.Error("the link is still there")
	}
	must(t, h.Apply(ctx, c.Inverse()))
	if to, err := os.Readlink(filepath.Join(dir, "etc/a")); err != nil || to != "b" {
		t.Errorf("%q %v", to, err)
	}
}

// TestMain lets the test binary be the process that a signal ends.
func TestMain(m *testing.M) {
	if os.Getenv("BACKSTAY_TEST_SLEEP") != "" {
		fmt.Println("ready")
		time.Sleep(time.Minute)
		return
	}
	os.Exit(m.Run())
}

func sleeper(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "BACKSTAY_TEST_SLEEP=1")
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	_, err = out.Read(make([]byte, 8))
	must(t, err)
	return cmd
}

func TestSignal(t *testing.T) {
	testneed.Native(t)
	h, ctx := liveHost(t, "/"), context.Background()
	cmd := sleeper(t)
	pid := cmd.Process.Pid
	target := probe.TargetOf(h, pid)
	wrong := []probe.Target{target, target, target, target, probe.TargetOf(h, 1), probe.TargetOf(h, os.Getpid())}
	wrong[0].Started++
	wrong[1].Exe = "/bin/other"
	wrong[2].Inode = 1
	wrong[3].Name = "KILL"
	for i, w := range wrong {
		if err := h.Apply(ctx, probe.Change{Op: probe.Signal, Path: "/proc/x", To: &w}); err == nil {
			t.Errorf("case %d: no error", i)
		}
	}
	if err := host(t, "/").Apply(ctx, probe.Change{Op: probe.Signal, To: &target}); err == nil {
		t.Error("a signal in a tree that does not run has no error")
	}
	if err := liveHost(t, t.TempDir()).Apply(ctx, probe.Change{Op: probe.Signal, To: &target}); err == nil {
		t.Error("a signal by the numbers of another /proc has no error")
	}
	if probe.TargetOf(h, pid).PID == 0 {
		t.Fatal("it was ended all the same")
	}
	c := probe.Change{Op: probe.Signal, Path: "/proc/x", To: &target}
	if c.Undoable() || h.Holds(ctx, c) {
		t.Error("a signal can be undone")
	}
	must(t, h.Apply(ctx, c))
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err := <-done:
		if err == nil || !strings.Contains(err.Error(), "terminated") && !bytes.Contains([]byte(err.Error()), []byte("signal")) {
			t.Errorf("it ended with %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Error("it still runs")
	}
	must(t, h.Apply(ctx, c)) // gone: nothing to do
}
