// SPDX-License-Identifier: Apache-2.0

//go:build linux && (amd64 || arm64)

package spool_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/logging/spool"
	"github.com/backstay/backstay/testdata/testneed"
)

// noSharedMaps makes the kernel refuse this process every shared mapping from now on, with the error JFFS2 gives.
func noSharedMaps(t *testing.T) {
	t.Helper()
	const nr, flags = 0, 16 + 3*8 // offsets in struct seccomp_data
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: nr},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_MMAP, Jf: 3},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: flags},
		{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: unix.MAP_SHARED, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EINVAL)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		t.Skipf("no_new_privs: %v", err)
	}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog))); errno != 0 {
		t.Skipf("kernel without CONFIG_SECCOMP_FILTER: %v", errno)
	}
}

// TestFileSystemWithoutSharedMaps: bbolt cannot open, as on JFFS2. A new log uses segments, a log that is there begins anew and
// says why, and one that must use bbolt says what is wrong.
func TestFileSystemWithoutSharedMaps(t *testing.T) {
	testneed.Native(t)
	const inside = "BACKSTAY_TEST_NO_SHARED_MAPS"
	if os.Getenv(inside) == "" {
		cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
		cmd.Env = append(os.Environ(), inside+"=1")
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS") && !strings.Contains(string(out), "--- SKIP") {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	old, fresh, must := newBench(t), newBench(t), newBench(t)
	l := old.open()
	fillLog(t, l, 10)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	noSharedMaps(t)
	fresh.cfg.Store, old.cfg.Store = spool.StoreAuto, spool.StoreAuto
	l = fresh.open()
	fillLog(t, l, 100)
	if s := l.State(); s.Store != spool.StoreSegments || s.Size != 101 {
		t.Errorf("state = %+v", s)
	}
	l = fresh.reopen(l)
	if _, err := l.Verify(t.Context()); err != nil {
		t.Error(err)
	}
	l = old.open()
	reason, _ := decode(t, l, 0).Attr("reason")
	if s := l.State(); s.Store != spool.StoreSegments || s.Origin.Epoch != 2 || reason != "file-system-changed" {
		t.Errorf("state = %+v, because of %q", s, reason)
	}
	if _, err := os.Stat(filepath.Join(old.cfg.Dir, "audit.db.bad")); err != nil {
		t.Error(err)
	}
	if _, err := spool.Open(must.cfg); !errors.Is(err, logging.ErrSetup) || !strings.Contains(err.Error(), "JFFS2") {
		t.Errorf("bolt: %v", err)
	}
}
