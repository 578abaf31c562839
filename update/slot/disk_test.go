// SPDX-License-Identifier: Apache-2.0

package slot_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/slot"
	"github.com/backstay/backstay/update/updatetest"
)

// TestSparse writes over what is there, and counts what really goes to the flash.
func TestSparse(t *testing.T) {
	const n = 4 << 20
	dir := t.TempDir()
	c := slot.Config{Cmdline: filepath.Join(dir, "cmdline"), Slots: map[update.SlotID]slot.Device{
		"A": {Kind: slot.File, Path: filepath.Join(dir, "a"), Size: n}, "B": {Kind: slot.File, Path: filepath.Join(dir, "b"), Size: n}}}
	put(t, c.Cmdline, "backstay.slot=A")
	s := open(t, c)
	image := updatetest.Image("sparse", n)
	clear(image[1<<20 : 2<<20])
	steps := []struct {
		name   string
		change func()
		most   int64
	}{
		{"onto zeros", func() {}, n - 1<<20},
		{"the same again", func() {}, 0},
		{"one page", func() { image[1_600_000] ^= 1 }, 4096},
		{"ends of one page and the start of the next", func() { image[8191] ^= 1; image[8192] ^= 1 }, 8192},
		{"thirty pages", func() {
			for i := range 30 {
				image[i*100_000] ^= 1
			}
		}, n / 2},
		{"everything", func() { copy(image, updatetest.Image("other", n)) }, n},
	}
	for _, step := range steps {
		step.change()
		for _, piece := range []int{100_000, 1 << 20} {
			w, err := s.Writer("B", n-77)
			if err != nil {
				t.Fatal(err)
			}
			for at := 0; at < n-77; at += piece {
				if _, err := w.Write(image[at:min(at+piece, n-77)]); err != nil {
					t.Fatal(err)
				}
			}
			if err := errors.Join(w.Sync(), w.Close()); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(c.Slots["B"].Path)
			if err != nil || !bytes.Equal(got[:n-77], image[:n-77]) || !bytes.Equal(got[n-77:], make([]byte, 77)) {
				t.Fatalf("%s: the slot differs, %v", step.name, err)
			}
			if k := slot.Written(w); k > step.most || (piece == 1<<20 && k > 0) {
				t.Errorf("%s, in pieces of %d: %d bytes written, want at most %d", step.name, piece, k, step.most)
			}
		}
	}
}

// failing reads up to a point.
type failing struct {
	n   int64
	err error
}

func (f failing) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > f.n {
		return int(max(f.n-off, 0)), f.err
	}
	for i := range p {
		p[i] = byte((off + int64(i)) >> 8)
	}
	return len(p), nil
}

type stopping struct{ left int }

func (s *stopping) Write(p []byte) (int, error) {
	if s.left -= len(p); s.left < 0 {
		return 0, io.ErrShortWrite
	}
	return len(p), nil
}

func TestDrain(t *testing.T) {
	for _, n := range []int64{0, 1, 256 << 10, 256<<10 + 1, 3 << 20} {
		var b bytes.Buffer
		if err := slot.Drain(t.Context(), &b, failing{n: n}, n); err != nil || int64(b.Len()) != n {
			t.Fatalf("%d bytes of %d, %v", b.Len(), n, err)
		}
		for i, c := range b.Bytes() {
			if c != byte(i>>8) {
				t.Fatalf("byte %d of %d is wrong", i, n)
			}
		}
	}
	if err := slot.Drain(t.Context(), io.Discard, failing{1 << 20, unix.EIO}, 3<<20); !errors.Is(err, unix.EIO) {
		t.Errorf("a read that fails: %v", err)
	}
	if err := slot.Drain(t.Context(), io.Discard, failing{1 << 20, nil}, 3<<20); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a slot that ends: %v", err)
	}
	if err := slot.Drain(t.Context(), &stopping{1 << 20}, failing{n: 3 << 20}, 3<<20); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("a write that fails: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := slot.Drain(ctx, io.Discard, failing{n: 3 << 20}, 3<<20); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

// TestEMMC has a loop device for a boot partition, and a file for the attribute that keeps it read-only.
func TestEMMC(t *testing.T) {
	const n = 1 << 20
	devA, devB := loop(t, n), loop(t, n)
	sys := t.TempDir()
	attr := func(dev string) string {
		var st unix.Stat_t
		if err := unix.Stat(dev, &st); err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(sys, "dev/block", fmt.Sprintf("%d:%d", unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev))))
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		return filepath.Join(dir, "force_ro")
	}
	ro := map[string]string{devA: attr(devA), devB: attr(devB)}
	is := func(when, dev, want string) {
		t.Helper()
		if b, err := os.ReadFile(ro[dev]); err != nil || strings.TrimSpace(string(b)) != want {
			t.Errorf("%s: force_ro of %s is %q, want %s", when, dev, b, want)
		}
	}
	put(t, ro[devA], "1\n")
	put(t, ro[devB], "0\n") // left by a cut
	cmdline := filepath.Join(t.TempDir(), "cmdline")
	put(t, cmdline, "backstay.slot=A")
	link := filepath.Join(t.TempDir(), "by-name")
	if err := os.Symlink(devB, link); err != nil {
		t.Fatal(err)
	}
	c := slot.Config{Cmdline: cmdline, Sys: sys, Slots: map[update.SlotID]slot.Device{
		"A": {Kind: slot.EMMCBoot, Path: devA}, "B": {Kind: slot.EMMCBoot, Path: link}}}
	s := open(t, c)
	is("after the start", devB, "1")
	image := updatetest.Image("boot", n-1000)
	w, err := s.Writer("B", int64(len(image)))
	if err != nil {
		t.Fatal(err)
	}
	is("while it is written", devB, "0")
	is("while the other is written", devA, "1")
	// A second writer does not shut the door behind the first.
	_, err = s.Writer("B", int64(len(image)))
	refused(t, err, "slot-in-use")
	is("after a second writer", devB, "0")
	if _, err := w.Write(image); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Sync(), w.Close()); err != nil {
		t.Fatal(err)
	}
	is("after Close", devB, "1")
	write(t, s, "B", image, 512<<10, 64<<10)
	is("after Close", devB, "1")
	_, err = s.Writer("B", n+1)
	refused(t, err, "slot-too-small")
	is("after a refusal", devB, "1")
	held, err := os.OpenFile(devB, os.O_RDWR|os.O_EXCL, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Writer("B", n)
	refused(t, err, "slot-in-use")
	is("after a refusal", devB, "1")
	held.Close()
	if err := os.Remove(ro[devB]); err != nil {
		t.Fatal(err)
	}
	if _, err := slot.Open(c); !errors.Is(err, update.ErrSetup) {
		t.Errorf("a partition without the attribute: %v", err)
	}
}
