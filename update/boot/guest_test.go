// SPDX-License-Identifier: Apache-2.0

package boot_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/boot"
	"github.com/backstay/backstay/update/internal/flash"
)

// These tests keep an environment on flash that a kernel simulates. They run in the guest of testdata/guest (run.sh mipsel
// ./update/boot), where the modules are: nandsim is a NAND flash with bad blocks, mtdram one that is programmed byte by byte.

// insert loads a module of the guest, and skips the test elsewhere.
func insert(t *testing.T, module, args string) {
	t.Helper()
	f, err := os.Open("/lib/modules/" + module)
	if err != nil || os.Getenv("BACKSTAY_TEST_GUEST") != "1" {
		t.Skipf("no module %s to simulate flash with here: run testdata/guest/run.sh mipsel ./update/boot", module)
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), args, 0); err != nil && !errors.Is(err, unix.EEXIST) {
		t.Fatalf("load %s %s: %v", module, args, err)
	}
}

// parts has 2 KiB pages in blocks of 128 KiB: eight blocks for the environment, of which the second and the fifth are bad, and
// a hundred for UBI.
func parts(t *testing.T) {
	insert(t, "nandsim.ko", "first_id_byte=0x20 second_id_byte=0xa1 third_id_byte=0x00 fourth_id_byte=0x15 parts=8,100 badblocks=1,4")
}

// config reads an fw_env.config as the agent does.
func config(t *testing.T, lines ...string) boot.Config {
	t.Helper()
	path := t.TempDir() + "/fw_env.config"
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := boot.ReadConfig(path, "")
	if err != nil {
		t.Fatal(err)
	}
	c.Locks = []string{}
	return c
}

// drive takes a board through an update, and wants every change to be there when it is read again.
func drive(t *testing.T, c boot.Config) {
	t.Helper()
	if err := boot.Create(c, native(), start); err != nil {
		t.Fatal(err)
	}
	u, err := boot.Open(boot.Options{Env: c, Convention: boot.RAUC})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		for name, err := range map[string]error{"disarm": u.Disarm("B"), "try": u.Try("B", 2), "keep": u.Keep("A")} {
			if err != nil {
				t.Fatalf("round %d: %s: %v", i, name, err)
			}
		}
	}
	if s, err := u.State(); err != nil || s.Primary != "A" || s.Left["A"] != 3 || !slices.Equal(s.Order, []update.SlotID{"A", "B"}) {
		t.Fatalf("state %+v, %v", s, err)
	}
}

func TestGuestNAND(t *testing.T) {
	parts(t)
	// Two blocks of environment in a range of three, twice: each range has a bad one.
	drive(t, config(t, "/dev/mtd0 0x0 0x40000 0x20000 3", "/dev/mtd0 0x60000 0x40000 0x20000 3"))
	m, err := flash.OpenMTD("/dev/mtd0", false)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if i := m.Info(); i.Kind != flash.NAND || i.EraseSize != 128<<10 || i.WriteSize != 2048 || i.Size != 8*128<<10 {
		t.Errorf("%+v", i)
	}
	var intact int
	for _, at := range []int64{0, 0x60000} {
		// By hand: the good blocks of a range.
		var raw []byte
		for b := at; len(raw) < 0x40000; b += 0x20000 {
			if bad, err := m.Bad(b); err != nil {
				t.Fatal(err)
			} else if !bad {
				block := make([]byte, 0x20000)
				if _, err := m.ReadAt(block, b); err != nil {
					t.Fatal(err)
				}
				raw = append(raw, block...)
			}
		}
		if _, err := boot.ParseBlock(raw, true); err == nil {
			intact++
		}
	}
	if intact != 2 {
		t.Errorf("%d copies are intact", intact)
	}
	c := config(t, "/dev/mtd0 0x0 0x40000 0x20000 2")
	if err := boot.Create(c, native(), start); err == nil || !strings.Contains(err.Error(), "no good block") {
		t.Errorf("a range of one good block for two: %v", err)
	}
	if _, err := boot.Load(config(t, "/dev/mtd0 0x800 0x800")); !errors.Is(err, update.ErrSetup) {
		t.Errorf("not at a sector: %v", err)
	}
	// An environment that is smaller than a block shares it.
	drive(t, config(t, "/dev/mtd0 0xc0000 0x2000", "/dev/mtd0 0xe0000 0x2000"))
}

// norish calls the memory of mtdram NOR flash: the kernel programs and erases it in the same way.
type norish struct{ flash.MTD }

func (n norish) Info() flash.Info {
	i := n.MTD.Info()
	i.Kind = flash.NOR
	return i
}

func TestGuestNOR(t *testing.T) {
	parts(t)
	insert(t, "mtdram.ko", "total_size=512 erase_size=64")
	ram := ""
	for i := range 10 { // nandsim has made one of what parts leaves
		name, _ := os.ReadFile(fmt.Sprintf("/sys/class/mtd/mtd%d/name", i))
		if strings.HasPrefix(string(name), "mtdram") {
			ram = fmt.Sprint("/dev/mtd", i)
		}
	}
	m, err := flash.OpenMTD(ram, true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := boot.Load(config(t, ram+" 0x0 0x4000")); !errors.Is(err, update.ErrSetup) || !strings.Contains(err.Error(), "no flash") {
		t.Errorf("RAM is no flash: %v", err)
	}
	c := boot.Config{Areas: []boot.Area{{Path: "/m", Size: 0x4000}, {Path: "/m", Offset: 0x10000, Size: 0x4000}}, Locks: []string{}}.On(
		boot.TestHardware{MTD: map[string]flash.MTD{"/m": norOpen{norish{m}}}})
	drive(t, c)
	flags := make([]byte, 1)
	var sum byte
	for _, at := range []int64{4, 0x10004} {
		if _, err := m.ReadAt(flags, at); err != nil {
			t.Fatal(err)
		}
		sum += flags[0]
	}
	if sum != 1 {
		t.Errorf("the flags add up to %d, not to one active copy", sum)
	}
}

// norOpen stays open.
type norOpen struct{ norish }

func (norOpen) Close() error { return nil }

func TestGuestUBI(t *testing.T) {
	parts(t)
	if _, err := os.Stat("/dev/ubi0"); err != nil {
		var attach [24]byte // struct ubi_attach_req: device 0 on MTD 1
		binary.NativeEndian.PutUint32(attach[4:], 1)
		request(t, "/dev/ubi_ctrl", unix.UBI_IOCATT, &attach)
		for id, name := range []string{"env", "env-redund", "dynamic"} {
			var b [152]byte // struct ubi_mkvol_req
			binary.NativeEndian.PutUint32(b[0:], uint32(id))
			binary.NativeEndian.PutUint32(b[4:], 1)
			binary.NativeEndian.PutUint64(b[8:], 0x1f000)
			if b[16] = 4; name == "dynamic" {
				b[16] = 3
			}
			binary.NativeEndian.PutUint16(b[18:], uint16(len(name)))
			copy(b[24:], name)
			request(t, "/dev/ubi0", unix.UBI_IOCMKVOL, &b)
		}
	}
	two := config(t, "/dev/ubi0:env 0x0 0x1f000 0x1f000", "/dev/mtd1:env-redund 0x0 0x1f000 0x1f000")
	drive(t, two)
	drive(t, config(t, "/dev/ubi0_0 0 0x4000", "/dev/ubi0_1 0 0x4000"))
	drive(t, config(t, "/dev/ubi0:dynamic 0x0 0x1f000"))
	if _, err := boot.Load(config(t, "/dev/ubi0:nothing 0x0 0x1f000")); !errors.Is(err, update.ErrSetup) {
		t.Errorf("a volume that is not there: %v", err)
	}
	// An update that was cut leaves a copy that nobody can read; the next change heals it.
	drive(t, two)
	for _, name := range []string{"/dev/ubi0_0", "/dev/ubi0_1"} {
		damage(t, name)
		e, err := boot.Load(two)
		if err != nil || e.All()[0] == "" {
			t.Fatalf("with a cut update of %s: %v", name, err)
		}
		if err := boot.Update(two, set("x", name)); err != nil {
			t.Fatalf("heal %s: %v", name, err)
		}
	}
}

// damage begins an update of a volume and does not end it.
func damage(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	n := int64(0x1000)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.UBI_IOCVOLUP, uintptr(unsafe.Pointer(&n))); errno != 0 {
		t.Fatal(errno)
	}
	if _, err := f.Write(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
}

func request[T any](t *testing.T, path string, number uint, arg *T) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), uintptr(number), uintptr(unsafe.Pointer(arg))); errno != 0 {
		t.Fatalf("request %#x to %s: %v", number, path, errno)
	}
}
