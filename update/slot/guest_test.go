// SPDX-License-Identifier: Apache-2.0

package slot_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/slot"
	"github.com/backstay/backstay/update/updatetest"
)

// These tests write flash that a kernel simulates. They run in the guest of testdata/guest (run.sh mipsel ./update/slot), where
// the modules are: nandsim is a NAND flash with bad blocks and blocks that wear out, mtdram one that is programmed byte by byte.

const modules = "/lib/modules/"

// insert loads a module of the guest, and skips the test elsewhere.
func insert(t *testing.T, module, args string) {
	t.Helper()
	f, err := os.Open(modules + module)
	if err != nil || os.Getenv("BACKSTAY_TEST_GUEST") != "1" {
		t.Skipf("no module %s to simulate flash with here: run testdata/guest/run.sh mipsel ./update/slot", module)
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), args, 0); err != nil && !errors.Is(err, unix.EEXIST) {
		t.Fatalf("load %s %s: %v", module, args, err)
	}
}

// parts has 2 KiB pages in blocks of 128 KiB: two slots of 40 blocks, and one of 100 for UBI. Block 3 of slot B and block 5 of
// the UBI part are bad from the start, block 6 of slot B wears out at its third erase.
func parts(t *testing.T) {
	insert(t, "nandsim.ko", "first_id_byte=0x20 second_id_byte=0xa1 third_id_byte=0x00 fourth_id_byte=0x15 parts=40,40,100 badblocks=43,85 weakblocks=46:2")
}

func devices(t *testing.T, kind, a, b string) *slot.Set {
	t.Helper()
	cmdline := filepath.Join(t.TempDir(), "cmdline")
	put(t, cmdline, "backstay.slot=A")
	return open(t, slot.Config{Cmdline: cmdline, Slots: map[update.SlotID]slot.Device{"A": {Kind: kind, Path: a}, "B": {Kind: kind, Path: b}}})
}

// resume writes an image to slot B with a break in the middle, and reads it in three ways.
func resume(t *testing.T, s *slot.Set, image []byte, at int, kept int64) {
	t.Helper()
	for _, from := range []int{0, at} {
		w, err := s.Writer("B", int64(len(image)))
		if err != nil {
			t.Fatal(err)
		}
		var prefix bytes.Buffer
		k, err := w.Prefix(t.Context(), &prefix, int64(from))
		if err != nil || (from > 0 && k != kept) || !bytes.Equal(prefix.Bytes(), image[:k]) {
			t.Fatalf("of %d bytes %d are kept: %v", from, k, err)
		}
		to := len(image)
		if from == 0 {
			to = at
		}
		for off := int(k); off < to; off += 100_000 {
			if _, err := w.Write(image[off:min(off+100_000, to)]); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(w.Sync(), w.Close()); err != nil {
			t.Fatal(err)
		}
	}
	whole(t, s, image)
}

func whole(t *testing.T, s *slot.Set, image []byte) {
	t.Helper()
	r, err := s.Reader("B")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got := make([]byte, len(image))
	if n, err := r.ReadAt(got, 0); n != len(got) || !bytes.Equal(got, image) {
		t.Fatalf("read %d bytes, %v", n, err)
	}
}

func TestGuestNAND(t *testing.T) {
	parts(t)
	s := devices(t, slot.MTD, "mtd:NAND simulator partition 0", "/dev/mtd1")
	const block = 128 << 10
	if room, err := s.Size("B"); err != nil || room != 39*block {
		t.Fatalf("room for %d bytes, %v", room, err)
	}
	image := updatetest.Image("nand", 12*block+5000)
	for i := 2 * block; i < 3*block+4096; i++ {
		image[i] = 0xff
	}
	resume(t, s, image, 5*block+100, 5*block) // block 6 has its first erase, and its second if it is behind the break
	for range 2 {                             // and its last one
		write(t, s, "B", image, 0, 1<<20)
		whole(t, s, image)
	}
	if room, err := s.Size("B"); err != nil || room != 38*block {
		t.Errorf("the block that wore out was not marked: room for %d bytes, %v", room, err)
	}
	_, err := s.Writer("B", 38*block+1)
	refused(t, err, "slot-too-small")
	_, err = s.Writer("A", block)
	refused(t, err, "slot-in-use")
	w, err := s.Writer("B", block)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Writer("B", block); !errors.Is(err, update.ErrRetry) {
		t.Errorf("a second writer: %v", err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := slot.Open(slot.Config{Slots: map[update.SlotID]slot.Device{"A": {Kind: slot.MTD, Path: "/dev/mtd1"},
		"B": {Kind: slot.MTD, Path: "mtd:NAND simulator partition 1"}}}); !errors.Is(err, update.ErrSetup) {
		t.Errorf("one flash as two slots: %v", err)
	}
}

// TestGuestRAM has a flash of one byte pages, as NOR has.
func TestGuestRAM(t *testing.T) {
	parts(t)
	insert(t, "mtdram.ko", "total_size=2048 erase_size=64")
	s := devices(t, slot.MTD, "/dev/mtd0", "mtd:mtdram test device")
	const block = 64 << 10
	image := updatetest.Image("nor", 9*block+77)
	resume(t, s, image, 5*block+100, 5*block)
	write(t, s, "B", image, 0, 1<<20)
	if room, err := s.Size("B"); err != nil || room != 2<<20 {
		t.Errorf("room for %d bytes, %v", room, err)
	}
}

func request[T any](t *testing.T, path string, number uint, arg *T) int {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), uintptr(number), uintptr(unsafe.Pointer(arg)))
	if errno != 0 {
		t.Fatalf("request %#x to %s: %v", number, path, errno)
	}
	return int(r)
}

// volumes attaches UBI to the third partition, with volumes of 15 blocks each.
func volumes(t *testing.T) {
	t.Helper()
	parts(t)
	if _, err := os.Stat("/dev/ubi0"); err == nil {
		return
	}
	attach := make([]byte, 24)
	binary.NativeEndian.PutUint32(attach[0:], 0)
	binary.NativeEndian.PutUint32(attach[4:], 2)
	request(t, "/dev/ubi_ctrl", unix.UBI_IOCATT, (*[24]byte)(attach))
	for id, name := range []string{"rootfs_a", "rootfs_b", "kernel_b"} {
		var b [152]byte // struct ubi_mkvol_req
		binary.NativeEndian.PutUint32(b[0:], uint32(id))
		binary.NativeEndian.PutUint32(b[4:], 1)
		binary.NativeEndian.PutUint64(b[8:], 15*126976/(1+uint64(id)/2))
		b[16] = 3 // dynamic
		if name == "kernel_b" {
			b[16] = 4 // static
		}
		binary.NativeEndian.PutUint16(b[18:], uint16(len(name)))
		copy(b[24:], name)
		request(t, "/dev/ubi0", unix.UBI_IOCMKVOL, &b)
	}
}

func TestGuestUBI(t *testing.T) {
	volumes(t)
	s := devices(t, slot.UBI, "ubi0:rootfs_a", "/dev/ubi0:rootfs_b")
	room, err := s.Size("B")
	if err != nil || room <= 0 || room%15 != 0 {
		t.Fatalf("room for %d bytes, %v", room, err)
	}
	leb := int(room / 15)
	t.Logf("blocks of %d bytes", leb)
	image := updatetest.Image("ubi", 9*leb+5000)
	resume(t, s, image, 5*leb+100, int64(5*leb))
	image[3*leb] ^= 1
	write(t, s, "B", image, 0, 1<<20)
	whole(t, s, image)

	// What is behind the image has no flash any more.
	v, err := os.Open("/dev/ubi0_1")
	if err != nil {
		t.Fatal(err)
	}
	for n := range 15 {
		arg := int32(n)
		r, _, errno := unix.Syscall(unix.SYS_IOCTL, v.Fd(), unix.UBI_IOCEBISMAP, uintptr(unsafe.Pointer(&arg)))
		if errno != 0 || (r == 1) != (n < 10) {
			t.Errorf("block %d: mapped %d, %v", n, r, errno)
		}
	}
	// Somebody reads it, as a block device on it or a mount does.
	w, err := s.Writer("B", int64(leb))
	if err == nil {
		_, err = w.Write(updatetest.Image("busy", leb))
	}
	refused(t, err, "slot-in-use")
	if err := errors.Join(w.Close(), v.Close()); err != nil {
		t.Fatal(err)
	}
	// Somebody's update of the whole was cut.
	f, err := os.OpenFile("/dev/ubi0_1", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	n := int64(100_000)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.UBI_IOCVOLUP, uintptr(unsafe.Pointer(&n))); errno != 0 {
		t.Fatal(errno)
	}
	if _, err := f.Write(make([]byte, 50_000)); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if _, err := s.Digest(t.Context(), "B", 10); err == nil {
		t.Error("a damaged volume was read")
	}
	write(t, s, "B", image, 0, 1<<20)
	whole(t, s, image)
	// The flash under it is no slot.
	u := devices(t, slot.MTD, "/dev/mtd0", "/dev/mtd2")
	_, err = u.Writer("B", 1000)
	refused(t, err, "slot-in-use")
}

func TestGuestStaticUBI(t *testing.T) {
	volumes(t)
	s := devices(t, slot.UBI, "ubi0:rootfs_a", "ubi0:kernel_b")
	image := updatetest.Image("static", 300_001)
	resume(t, s, image[:300_000], 200_000, 0)
	w, err := s.Writer("B", int64(len(image)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(image[:1000]); err != nil {
		t.Fatal(err)
	}
	w.Close() // cut
	if _, err := s.Digest(t.Context(), "B", 1000); err == nil {
		t.Error("half an update was read")
	}
	write(t, s, "B", image, 0, 1<<20)
	whole(t, s, image)
}

// TestGuestTypes holds that a node of another kind is refused before anything is written.
func TestGuestTypes(t *testing.T) {
	volumes(t)
	for kind, path := range map[string]string{slot.UBI: "/dev/mtd1", slot.MTD: "/dev/ubi0_1", slot.Block: "/dev/mtd1"} {
		_, err := slot.Open(slot.Config{Slots: map[update.SlotID]slot.Device{"A": {Kind: slot.MTD, Path: "/dev/mtd0"}, "B": {Kind: kind, Path: path}}})
		if !errors.Is(err, update.ErrSetup) || !strings.Contains(err.Error(), "slot B: path") {
			t.Errorf("%s as %s: %v", path, kind, err)
		}
	}
}
