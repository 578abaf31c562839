// SPDX-License-Identifier: Apache-2.0

package slot_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/testdata/testneed"
	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/slot"
	"github.com/backstay/backstay/update/updatetest"
)

const size = 300 << 10

var _ update.Slots = (*slot.Set)(nil)

// bed is two file slots, and a command line that says A runs.
func bed(t *testing.T) (*slot.Set, slot.Config) {
	t.Helper()
	dir := t.TempDir()
	c := slot.Config{Cmdline: filepath.Join(dir, "cmdline"), Slots: map[update.SlotID]slot.Device{
		"A": {Kind: slot.File, Path: filepath.Join(dir, "a"), Size: size},
		"B": {Kind: slot.File, Path: filepath.Join(dir, "b"), Size: size},
	}}
	put(t, c.Cmdline, "console=ttyS0 backstay.slot=A quiet\n")
	return open(t, c), c
}

func open(t *testing.T, c slot.Config) *slot.Set {
	t.Helper()
	s, err := slot.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func put(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func refused(t *testing.T, err error, code string) {
	t.Helper()
	var no *update.Refusal
	if !errors.As(err, &no) || no.Code != code {
		t.Errorf("error is %v, want the refusal %s", err, code)
	}
}

// write puts an image into a slot in pieces of n bytes, from offset from on.
func write(t *testing.T, s *slot.Set, id update.SlotID, image []byte, from, n int) {
	t.Helper()
	w, err := s.Writer(id, int64(len(image)))
	if err != nil {
		t.Fatal(err)
	}
	var prefix bytes.Buffer
	if kept, err := w.Prefix(t.Context(), &prefix, int64(from)); err != nil || kept != int64(from) || !bytes.Equal(prefix.Bytes(), image[:from]) {
		t.Fatalf("prefix of %d bytes: %v", from, err)
	}
	for at := from; at < len(image); at += n {
		if _, err := w.Write(image[at:min(at+n, len(image))]); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Sync(), w.Close()); err != nil {
		t.Fatal(err)
	}
	got, err := s.Digest(t.Context(), id, int64(len(image)))
	if err != nil || got != sha256.Sum256(image) {
		t.Fatalf("digest %x, %v", got, err)
	}
}

func TestWrite(t *testing.T) {
	s, c := bed(t)
	image := updatetest.Image("image", size-100)
	write(t, s, "B", image, 0, 1000)
	write(t, s, "B", image, 200<<10, 64<<10)
	all, err := os.ReadFile(c.Slots["B"].Path)
	if err != nil || len(all) != size || !bytes.Equal(all[size-100:], make([]byte, 100)) {
		t.Errorf("the slot is %d bytes long, or changed past the image: %v", len(all), err)
	}
	if a, _ := os.ReadFile(c.Slots["A"].Path); !bytes.Equal(a, make([]byte, size)) {
		t.Error("the running slot has changed")
	}
	if room, err := s.Size("B"); err != nil || room != size {
		t.Errorf("size %d, %v", room, err)
	}
	for _, id := range []update.SlotID{"A", "B"} { // also the one that runs
		r, err := s.Reader(id)
		if err != nil {
			t.Fatal(err)
		}
		got, _ := os.ReadFile(c.Slots[id].Path)
		b := make([]byte, 1000)
		if n, err := r.ReadAt(b, 5000); n != 1000 || err != nil || !bytes.Equal(b, got[5000:6000]) || r.Size() != size {
			t.Errorf("slot %s: read %d bytes of %d, %v", id, n, r.Size(), err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := s.Reader("C"); !errors.Is(err, update.ErrSetup) {
		t.Errorf("a slot that is not configured: %v", err)
	}
}

func TestWriteRefuses(t *testing.T) {
	s, c := bed(t)
	_, err := s.Writer("A", 10)
	refused(t, err, "slot-in-use")
	for _, n := range []int64{size + 1, 0, -1} {
		_, err = s.Writer("B", n)
		refused(t, err, "slot-too-small")
	}
	if _, err := s.Writer("C", 10); !errors.Is(err, update.ErrSetup) {
		t.Errorf("a slot that is not configured: %v", err)
	}
	w, err := s.Writer("B", 10)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := w.Write(make([]byte, 11)); err == nil || n != 0 {
		t.Errorf("wrote %d bytes past the announced size: %v", n, err)
	}
	if _, err := w.Write(make([]byte, 10)); err != nil {
		t.Error(err)
	}
	if _, err := w.Write([]byte{1}); err == nil {
		t.Error("wrote past the announced size")
	}
	if _, err := w.Prefix(t.Context(), &bytes.Buffer{}, 11); err == nil {
		t.Error("a prefix longer than the image")
	}
	if _, err := s.Writer("B", 10); !errors.Is(err, update.ErrRetry) {
		t.Errorf("a second writer: %v", err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if w, err = s.Writer("B", 10); err != nil {
		t.Errorf("the slot stays locked: %v", err)
	} else {
		w.Close()
	}
	put(t, c.Cmdline, "quiet")
	if _, err := s.Writer("B", 10); !errors.Is(err, update.ErrSetup) {
		t.Errorf("nobody knows what runs, and a slot was opened: %v", err)
	}
	if _, err := s.Digest(t.Context(), "B", size+1); err == nil {
		t.Error("a digest of more than there is")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Digest(ctx, "B", size); !errors.Is(err, context.Canceled) {
		t.Errorf("a digest that was canceled: %v", err)
	}
}

// TestSame holds that one partition under two names is not taken for two slots.
func TestSame(t *testing.T) {
	s, c := bed(t)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(c.Slots["A"].Path, link); err != nil {
		t.Fatal(err)
	}
	twice := c
	twice.Slots = map[update.SlotID]slot.Device{"A": c.Slots["A"], "B": {Kind: slot.File, Path: link}}
	if _, err := slot.Open(twice); !errors.Is(err, update.ErrSetup) {
		t.Errorf("one file as two slots: %v", err)
	}
	// The link appears after Open: the running slot is still not written.
	if err := errors.Join(os.Remove(c.Slots["B"].Path), os.Symlink(c.Slots["A"].Path, c.Slots["B"].Path)); err != nil {
		t.Fatal(err)
	}
	_, err := s.Writer("B", 10)
	refused(t, err, "slot-in-use")
}

func TestOpenRefuses(t *testing.T) {
	_, c := bed(t)
	good := c.Slots["A"]
	for name, d := range map[string]slot.Device{
		"relative path": {Kind: slot.File, Path: "b", Size: 10}, "no kind": {Path: good.Path}, "no such file": {Kind: slot.File, Path: good.Path + ".none"},
		"negative size": {Kind: slot.File, Path: good.Path + ".n", Size: -1}, "size of a device": {Kind: slot.Block, Path: "/dev/null", Size: 10},
		"no such device": {Kind: slot.Block, Path: good.Path + ".none"},
	} {
		if _, err := slot.Open(slot.Config{Slots: map[update.SlotID]slot.Device{"A": good, "B": d}}); !errors.Is(err, update.ErrSetup) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := slot.Open(slot.Config{Slots: map[update.SlotID]slot.Device{"A": good}}); !errors.Is(err, update.ErrSetup) {
		t.Errorf("one slot: %v", err)
	}
	for name, d := range map[string]slot.Device{
		"file as device": {Kind: slot.Block, Path: c.Slots["B"].Path}, "character device": {Kind: slot.Block, Path: "/dev/null"},
		"directory": {Kind: slot.File, Path: filepath.Dir(good.Path)}, "device as file": {Kind: slot.File, Path: "/dev/null"},
		"not flash": {Kind: slot.MTD, Path: "/dev/null"}, "file as flash": {Kind: slot.MTD, Path: c.Slots["B"].Path}, "no such flash": {Kind: slot.MTD, Path: "mtd:none"},
		"not a volume": {Kind: slot.UBI, Path: "/dev/null"}, "file as a volume": {Kind: slot.UBI, Path: c.Slots["B"].Path},
		"no such volume": {Kind: slot.UBI, Path: "ubi0:none"}, "no boot partition": {Kind: slot.EMMCBoot, Path: c.Slots["B"].Path},
	} {
		var wrong *slot.ConfigError
		if _, err := slot.Open(slot.Config{Cmdline: c.Cmdline, Slots: map[update.SlotID]slot.Device{"A": good, "B": d}}); !errors.As(err, &wrong) ||
			!errors.Is(err, update.ErrSetup) || wrong.ID != "B" || wrong.Key != "path" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestBooted(t *testing.T) {
	s, c := bed(t)
	for line, want := range map[string]update.SlotID{
		"backstay.slot=A":                             "A",
		"quiet backstay.slot=B\n":                     "B",
		"rauc.slot=B quiet":                           "B",
		"backstay.slot=A rauc.slot=A":                 "A",
		`backstay.slot="B"`:                           "B",
		`dyndbg="file x backstay.slot=B" rauc.slot=A`: "A",
		"backstay.slot=A -- backstay.slot=B":          "A",
		"backstay.slot=A rauc.slot=B":                 "",
		"backstay.slot=A backstay.slot=B":             "",
		"backstay.slot=C":                             "",
		"backstay.slot=":                              "",
		"xbackstay.slot=A":                            "",
		"backstay.slot":                               "",
		"":                                            "",
		strings.Repeat("x", 65<<10) + " rauc.slot=A":  "",
	} {
		put(t, c.Cmdline, line)
		got, err := s.Booted()
		if got != want || (err != nil) != (want == "") || (err != nil && !errors.Is(err, update.ErrSetup)) {
			t.Errorf("%.80q: %q, %v; want %q", line, got, err, want)
		}
	}
	c.Key = "lab.slot"
	put(t, c.Cmdline, "backstay.slot=A lab.slot=B")
	if got, err := open(t, c).Booted(); got != "B" || err != nil {
		t.Errorf("own key: %q, %v", got, err)
	}
	if err := os.Remove(c.Cmdline); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Booted(); !errors.Is(err, update.ErrSetup) {
		t.Errorf("no command line: %v", err)
	}
}

func FuzzCmdline(f *testing.F) {
	f.Add("console=ttyS0 backstay.slot=A quiet")
	f.Add(`a="b c" rauc.slot="B" -- x`)
	f.Add("backstay.slot=\" \"")
	f.Fuzz(func(t *testing.T, line string) {
		id, err := slot.ParseCmdline(line, "backstay.slot")
		if err == nil && (id == "" || !strings.Contains(line, string(id))) {
			t.Fatalf("%q names %q", line, id)
		}
	})
}

// loop returns a loop device over a file of n bytes, and skips the test where there can be none.
func loop(t *testing.T, n int64) string {
	t.Helper()
	losetup := testneed.Program(t, "losetup", "mount")
	if os.Getuid() != 0 {
		t.Skip("loop devices need root")
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		t.Skip("no loop devices here")
	}
	back := filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(back)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(n), f.Close()); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(losetup, "--find", "--show", back).CombinedOutput()
	if err != nil {
		t.Skipf("losetup: %v: %s", err, out)
	}
	dev := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command(losetup, "--detach", dev).CombinedOutput(); err != nil {
			t.Errorf("detach %s: %v: %s", dev, err, out)
		}
	})
	return dev
}

// TestBlock writes a real block device, whose end is its end.
func TestBlock(t *testing.T) {
	const n = 1 << 20
	devA, devB := loop(t, n), loop(t, n)
	cmdline := filepath.Join(t.TempDir(), "cmdline")
	put(t, cmdline, "backstay.slot=A")
	c := slot.Config{Cmdline: cmdline, Slots: map[update.SlotID]slot.Device{"A": {Kind: slot.Block, Path: devA}, "B": {Kind: slot.Block, Path: devB}}}
	s := open(t, c)
	image := updatetest.Image("block", n)
	write(t, s, "B", image, 0, 100_000)
	write(t, s, "B", image, 512<<10, 64<<10)
	_, err := s.Writer("B", n+1)
	refused(t, err, "slot-too-small")
	_, err = s.Writer("A", n)
	refused(t, err, "slot-in-use")

	// Claimed by somebody else, as by a mount.
	held, err := os.OpenFile(devB, os.O_RDWR|os.O_EXCL, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Writer("B", n)
	refused(t, err, "slot-in-use")
	held.Close()

	// The same device through a link, and through another node.
	link, node := filepath.Join(t.TempDir(), "by-partlabel"), filepath.Join(t.TempDir(), "node")
	var st unix.Stat_t
	if err := errors.Join(os.Symlink(devA, link), unix.Stat(devA, &st), unix.Mknod(node, unix.S_IFBLK|0o600, int(st.Rdev))); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{link, node} {
		c.Slots = map[update.SlotID]slot.Device{"A": {Kind: slot.Block, Path: devA}, "B": {Kind: slot.Block, Path: path}}
		if _, err := slot.Open(c); !errors.Is(err, update.ErrSetup) {
			t.Errorf("one device as two slots, %s: %v", path, err)
		}
	}
}
