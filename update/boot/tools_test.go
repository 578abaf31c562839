// SPDX-License-Identifier: Apache-2.0

package boot_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/testdata/testneed"
	"github.com/backstay/backstay/update/boot"
)

// These tests hold our bytes against those of the programs everybody else uses: mkenvimage of U-Boot, and fw_printenv and
// fw_setenv of libubootenv. That one sorts its variables, so where bytes are compared the variables are sorted.

func run(t *testing.T, stdin string, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// TestMkenvimage compares every byte with U-Boot's own builder, for both formats and both byte orders.
func TestMkenvimage(t *testing.T) {
	tool := testneed.Program(t, "mkenvimage", "u-boot-tools")
	sets := [][]string{
		start,
		{"a=1"},
		{"bootcmd=if test 1 = 1; then run x; fi", "empty_is=not kept", "url=http://h/?a=b", "z=" + strings.Repeat("long ", 50)},
	}
	for _, entries := range sets {
		for _, redundant := range []bool{false, true} {
			for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
				out := filepath.Join(t.TempDir(), "env.bin")
				args := []string{"-s", "0x1000", "-p", "0x00", "-o", out}
				if redundant {
					args = append(args, "-r")
				}
				if order == binary.BigEndian {
					args = append(args, "-b")
				}
				run(t, strings.Join(entries, "\n")+"\n", tool, append(args, "-")...)
				want, err := os.ReadFile(out)
				if err != nil {
					t.Fatal(err)
				}
				got, err := boot.Encode(entries, 0x1000, redundant, order)
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(got, want) {
					t.Errorf("redundant=%v %v: %q differs from mkenvimage:\n%x\n%x", redundant, order, entries, got[:80], want[:80])
				}
				if back, _, err := boot.Reencode(want, redundant); err != nil || !slices.Equal(back, entries) {
					t.Errorf("redundant=%v %v: read %q, %v", redundant, order, back, err)
				}
			}
		}
	}
}

// rig is an environment of a test with fw_printenv and fw_setenv beside us.
type rig struct {
	*bed
	print, setter, list string
}

func newRig(t *testing.T, copies int, size, offset int64) *rig {
	t.Helper()
	r := &rig{bed: newBed(t, copies, size, offset), print: testneed.Program(t, "fw_printenv", "libubootenv-tool"),
		setter: testneed.Program(t, "fw_setenv", "libubootenv-tool"), list: filepath.Join(t.TempDir(), "fw_env.config")}
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("the programs of the host have its byte order, this test has not")
	}
	r.config.Locks = nil // the real ones
	var text strings.Builder
	for _, a := range r.config.Areas {
		fmt.Fprintf(&text, "%s %#x %x\n", a.Path, a.Offset, a.Size)
	}
	if err := os.WriteFile(r.list, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := boot.ReadConfig(r.list, "")
	for i := range c.Areas {
		c.Areas[i].Line = 0
	}
	if err != nil || !slices.Equal(c.Areas, r.config.Areas) {
		t.Fatalf("fw_env.config read as %+v: %v", c, err)
	}
	return r
}

// printed returns what fw_printenv sees.
func (r *rig) printed(t *testing.T) []string {
	t.Helper()
	return strings.Split(strings.TrimSuffix(run(t, "", r.print, "-c", r.list), "\n"), "\n")
}

// fwSet lets fw_setenv change one variable.
func (r *rig) fwSet(t *testing.T, name, value string) {
	t.Helper()
	args := []string{"-c", r.list, name}
	if value != "" {
		args = append(args, value)
	}
	run(t, "", r.setter, args...)
}

// TestFwSetenv makes the same random changes with fw_setenv and with us, on two environments, and compares all bytes of both
// copies after every one. Where fw_setenv leaves deleted bytes in the padding, only what counts is compared.
func TestFwSetenv(t *testing.T) {
	for _, copies := range []int{1, 2} {
		t.Run(fmt.Sprint(copies, " copies"), func(t *testing.T) {
			theirs, ours := newRig(t, copies, 0x400, 0x200), newRig(t, copies, 0x400, 0x200)
			names := []string{"a", "b", "BOOT_ORDER", "BOOT_A_LEFT", "zz"}
			for _, r := range []*rig{theirs, ours} {
				r.create(binary.LittleEndian, "BOOT_ORDER=A B", "a=1")
			}
			rng := rand.New(rand.NewPCG(1, 2))
			for i := range 40 {
				name, value := names[rng.IntN(len(names))], ""
				if rng.IntN(4) > 0 {
					value = strings.Repeat("x", rng.IntN(20)) + fmt.Sprint(i)
				}
				theirs.fwSet(t, name, value)
				ours.sorted(t, name, value)
				if a, b := theirs.load().All(), ours.load().All(); !slices.Equal(a, b) {
					t.Fatalf("step %d: fw_setenv made %q, we made %q", i, a, b)
				}
				if a, b := theirs.printed(t), ours.printed(t); !slices.Equal(a, b) {
					t.Fatalf("step %d: fw_printenv reads %q of theirs, %q of ours", i, a, b)
				}
				for c := range copies {
					if a, b := theirs.raw(c), ours.raw(c); copies == 2 && a[4] != b[4] || !bytes.Equal(list(a, copies), list(b, copies)) {
						t.Fatalf("step %d, copy %d:\n%x\n%x", i, c, a, b)
					}
				}
			}
		})
	}
}

// TestFwSetenvBytes compares whole copies, checksum and padding, on a history without deletions: one fresh environment for
// every change, so that there is nothing in fw_setenv's buffer to leave behind.
func TestFwSetenvBytes(t *testing.T) {
	for _, copies := range []int{1, 2} {
		theirs, ours := newRig(t, copies, 0x100, 0), newRig(t, copies, 0x100, 0)
		for _, r := range []*rig{theirs, ours} {
			r.create(binary.LittleEndian, "BOOT_A_LEFT=3", "BOOT_B_LEFT=3", "BOOT_ORDER=A B")
		}
		for i, value := range []string{"2", "1", "9"} {
			theirs.fwSet(t, "BOOT_B_LEFT", value)
			ours.set("BOOT_B_LEFT", value)
			for c := range copies {
				if a, b := theirs.raw(c), ours.raw(c); !bytes.Equal(a, b) {
					t.Fatalf("%d copies, step %d, copy %d:\n%x\n%x", copies, i, c, a, b)
				}
			}
		}
	}
}

// list returns the variables of a raw copy without its padding.
func list(raw []byte, copies int) []byte {
	data := raw[4:]
	if copies == 2 {
		data = raw[5:]
	}
	end := bytes.Index(data, []byte{0, 0})
	return data[:max(end, 0)]
}

// sorted changes one variable and keeps the environment in the order that libubootenv writes.
func (r *rig) sorted(t *testing.T, name, value string) {
	t.Helper()
	err := boot.Update(r.config, func(e *boot.Env) error {
		if err := e.Set(name, value); err != nil {
			return err
		}
		boot.Sort(e)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestConventionsBesideTools holds that what we tell a boot loader is what fw_printenv reads, and the other way round.
func TestConventionsBesideTools(t *testing.T) {
	r := newRig(t, 2, 0x1000, 0)
	r.create(binary.LittleEndian, start...)
	u := open(t, r.bed, boot.Options{Convention: boot.RAUC})
	if err := u.Disarm("B"); err != nil {
		t.Fatal(err)
	}
	if err := u.Try("B", 3); err != nil {
		t.Fatal(err)
	}
	if got := r.printed(t); !slices.Contains(got, "BOOT_ORDER=B A") || !slices.Contains(got, "BOOT_B_LEFT=3") {
		t.Errorf("fw_printenv reads %q", got)
	}
	r.fwSet(t, "BOOT_B_LEFT", "0")
	if s, err := u.State(); err != nil || s.Primary != "A" {
		t.Errorf("state %+v, %v", s, err)
	}
}

// TestLocks holds that both programs called fw_setenv are kept out while we work: whoever holds either lock file is waited for.
func TestLocks(t *testing.T) {
	dir := t.TempDir()
	b := newBed(t, 2, 0x100, 0).create(binary.LittleEndian, "a=1")
	b.config.Locks = []string{filepath.Join(dir, "one"), filepath.Join(dir, "two"), filepath.Join(dir, "two"), filepath.Join(dir, "no", "such")}
	for _, path := range b.config.Locks[:2] {
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
			t.Fatal(err)
		}
		done := make(chan error)
		go func() {
			_, err := boot.Load(b.config)
			done <- err
		}()
		select {
		case err := <-done:
			t.Fatalf("%s is held, and the environment was read: %v", path, err)
		case <-time.After(60 * time.Millisecond):
		}
		f.Close()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	held := make(chan struct{})
	go func() {
		_ = boot.Update(b.config, func(*boot.Env) error {
			close(held)
			time.Sleep(100 * time.Millisecond)
			return nil
		})
	}()
	<-held
	for _, path := range b.config.Locks[:2] {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil {
			t.Errorf("%s is free while we write", path)
		}
		f.Close()
	}
}

// TestDefaultLocks names the files of the two programs, and their order.
func TestDefaultLocks(t *testing.T) {
	if got := boot.DefaultLocks(); !slices.Equal(got, []string{"/run/fw_printenv.lock", "/var/lock/fw_printenv.lock"}) {
		t.Errorf("%q", got)
	}
}
