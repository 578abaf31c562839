// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"errors"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/testdata/testneed"
)

// TestMounts runs itself in a mount namespace of its own.
func TestMounts(t *testing.T) {
	testneed.Native(t)
	if os.Getuid() != 0 {
		t.Skip("not root: cannot make a mount namespace")
	}
	if os.Getenv("BACKSTAY_TEST_NAMESPACE") == "" {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestMounts$")
		cmd.Env = append(os.Environ(), "BACKSTAY_TEST_NAMESPACE=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
		if out, err := cmd.CombinedOutput(); err != nil {
			if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSYS) {
				t.Skip("cannot make a mount namespace here")
			}
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	must(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	dir := t.TempDir()
	root, err := os.OpenRoot("/")
	must(t, err)
	defer root.Close()
	w, err := New(root, true, 8)
	must(t, err)
	defer w.Close()
	wait(t, w, 10*time.Millisecond)
	for _, step := range []func() error{
		func() error { return unix.Mount("tmpfs", dir, "tmpfs", 0, "") },
		func() error { return unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_NOSUID, "") },
		func() error { return unix.Unmount(dir, 0) },
	} {
		must(t, step())
		began := time.Now()
		if c := wait(t, w, 20*time.Second); !slices.Contains(c.Paths, Mounts) {
			t.Errorf("noticed %q", c.Paths)
		}
		prompt(t, "step", time.Since(began))
	}
}
