// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/backstay/backstay/agent/config"
	"github.com/backstay/backstay/testdata/testneed"
	"github.com/backstay/backstay/update"
)

// TestRebootArgument asks the kernel for a restart with an argument, as the first process of a namespace of its own: there the
// kernel checks the call and then ends that process with SIGHUP instead (reboot_pid_ns in kernel/pid_namespace.c).
func TestRebootArgument(t *testing.T) {
	const mark = "BACKSTAY_TEST_RESTART"
	if os.Getenv(mark) != "" && os.Getpid() == 1 {
		t.Fatal(reboot(t.Context(), config.Reboot{Method: "kernel"}, "0 tryboot"))
	}
	testneed.Native(t)
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestRebootArgument$")
	cmd.Env = append(os.Environ(), mark+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
	}
	out, err := cmd.CombinedOutput()
	exit, ran := errors.AsType[*exec.ExitError](err)
	if err != nil && !ran {
		t.Skipf("the kernel gives no namespace: %v", err)
	}
	if err == nil || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGHUP {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestRebootArgumentNeedsKernel holds that no other method of restarting is used when the boot loader has to be told something.
func TestRebootArgumentNeedsKernel(t *testing.T) {
	for _, r := range []config.Reboot{{Method: "exit"}, {Method: "command", Command: []string{"/bin/false"}}} {
		if err := reboot(context.Background(), r, "0 tryboot"); !errors.Is(err, update.ErrSetup) {
			t.Errorf("%s: %v", r.Method, err)
		}
	}
}
