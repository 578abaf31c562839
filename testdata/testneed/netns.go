// SPDX-License-Identifier: Apache-2.0

package testneed

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// inNamespace marks a test process that already is in a namespace of its own.
const inNamespace = "BACKSTAY_TEST_NETNS"

// Namespace makes a command start in a network namespace of its own; for an ordinary user also in a user namespace, in
// which that user is root.
func Namespace(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
}

// Netns runs the calling test in a network namespace of its own, so that it may change interfaces and packet filters: it
// starts the test program again for this one test and reports what came of it. It returns true inside, and false to the
// first caller, which has nothing left to do. Where the kernel allows no namespace the test is skipped and says so.
func Netns(t *testing.T) bool {
	t.Helper()
	if os.Getenv(inNamespace) == t.Name() {
		return true
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+strings.ReplaceAll(t.Name(), "/", "$/^")+"$", "-test.v")
	cmd.Env = append(os.Environ(), inNamespace+"="+t.Name())
	Namespace(cmd)
	out, err := cmd.CombinedOutput()
	if _, ran := err.(*exec.ExitError); err != nil && !ran {
		t.Skipf("the kernel gives no network namespace: %v", err)
	}
	if i := strings.Index(string(out), "--- SKIP: "); err == nil && i >= 0 {
		t.Skipf("in a network namespace: %s", out)
	}
	if err != nil {
		t.Errorf("in a network namespace: %v\n%s", err, out)
	}
	return false
}
