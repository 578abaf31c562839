// SPDX-License-Identifier: Apache-2.0

package configs_test

import (
	"context"
	"debug/elf"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/backstay/backstay/configs"
	"github.com/backstay/backstay/testdata/plantroot"
)

const agentVar = "BACKSTAY_TEST_AGENT"

// A server that init starts again whenever it ends has to be gone after the fix, and stay gone: a line of a file is one half of
// it, a running process the other. Process 1 is the real busybox init, in name spaces of its own.
func TestLiveInitKeepsWhatWasStoppedStopped(t *testing.T) {
	if os.Getenv(agentVar) != "" {
		besideInit(t)
		return
	}
	box := staticBusybox(t)
	if !isolated(t) {
		return
	}
	dir := os.Getenv(insideVar)
	must(t, syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""))
	must(t, syscall.Mount("root", dir, "tmpfs", 0, "mode=0755"))
	must(t, plantroot.Clean(dir))
	must(t, os.Remove(filepath.Join(dir, "bin/busybox")))
	must(t, os.WriteFile(filepath.Join(dir, "bin/busybox"), box, 0o755))
	must(t, os.MkdirAll(filepath.Join(dir, "sbin"), 0o755))
	must(t, os.Symlink("/bin/busybox", filepath.Join(dir, "sbin/telnetd")))
	must(t, os.Symlink("/bin/busybox", filepath.Join(dir, "bin/true")))
	must(t, os.WriteFile(filepath.Join(dir, "etc/inittab"), []byte("# init\n::respawn:/sbin/telnetd -F -p 2323 -l /bin/sh\n::shutdown:/bin/true\n"), 0o644))
	must(t, os.RemoveAll(filepath.Join(dir, "proc")))
	must(t, os.Mkdir(filepath.Join(dir, "proc"), 0o755))
	must(t, syscall.Mount("proc", filepath.Join(dir, "proc"), "proc", 0, ""))
	must(t, exec.Command("ip", "link", "set", "lo", "up").Run())
	agent := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.timeout=2m")
	agent.Env = append(os.Environ(), agentVar+"="+dir)
	agent.Stdout, agent.Stderr = os.Stdout, os.Stderr
	must(t, agent.Start())
	must(t, syscall.Chroot(dir))
	must(t, os.Chdir("/"))
	t.Fatal("busybox init: ", syscall.Exec("/bin/busybox", []string{"init"}, []string{"PATH=/bin:/sbin"}))
}

// staticBusybox returns a busybox that runs in a root without libraries.
func staticBusybox(t *testing.T) []byte {
	t.Helper()
	for _, name := range []string{"/bin/busybox", "/usr/bin/busybox"} {
		f, err := elf.Open(name)
		if err != nil {
			continue
		}
		defer f.Close()
		if libs, err := f.ImportedLibraries(); err == nil && len(libs) > 0 {
			continue
		}
		box, err := os.ReadFile(name)
		must(t, err)
		return box
	}
	t.Skip("needs the package busybox-static")
	return nil
}

// besideInit is the agent, a child of init.
func besideInit(t *testing.T) {
	defer syscall.Kill(1, syscall.SIGUSR2) // init ends, and with it the name space
	must(t, syscall.Chroot(os.Getenv(agentVar)))
	must(t, os.Chdir("/"))
	must(t, os.Setenv("TMPDIR", "/run"))
	waitFor(t, "telnetd to listen", func() bool { return listens(2323) })
	policy := load(t, "base")
	rule, _ := policy.Rule("service.telnet")
	policy.Rules = []configs.Rule{rule}
	e := liveEngine(t, policy)
	before := read(t, "/", "etc/inittab")
	r := apply(t, e, false, "service.telnet")
	f := r.Findings[0]
	if f.Result != configs.Fixed {
		t.Errorf("service.telnet is %s: %s %v %v", f.Result, f.Reason, f.Evidence, f.Changes)
	}
	for range 30 { // longer than init waits before it starts a child again
		if time.Sleep(100 * time.Millisecond); listens(2323) {
			t.Errorf("something still listens after the fix:\n%s", read(t, "/", "etc/inittab"))
			break
		}
	}
	if r := apply(t, e, false, "service.telnet"); r.Run != "" {
		t.Errorf("a second run writes: %v", r.Findings[0].Changes)
	}
	if _, err := e.Undo(context.Background()); err != nil {
		t.Error(err)
	}
	if after := read(t, "/", "etc/inittab"); after != before {
		t.Errorf("after the undo inittab is\n%s", after)
	}
	must(t, syscall.Kill(1, syscall.SIGHUP))
	waitFor(t, "telnetd to listen again after the undo", func() bool { return listens(2323) })
}

func listens(port int) bool {
	c, err := net.DialTCP("tcp", nil, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
	if err == nil {
		c.Close()
	}
	return err == nil
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 200 {
		if ok() {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("waited in vain for ", what)
}

// endedBy tells the end that a test inside brings about by itself from a failure: its init was told to power off.
func endedBy(err error, out string) bool {
	ee, ok := errors.AsType[*exec.ExitError](err)
	return ok && ee.Sys().(syscall.WaitStatus).Signaled() && strings.Contains(out, "\nPASS\n") && !strings.Contains(out, "--- FAIL")
}
