// SPDX-License-Identifier: Apache-2.0

package flash_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/backstay/backstay/update/internal/flash"
	"github.com/backstay/backstay/update/internal/flash/flashtest"
)

// sysfs plants files of /sys.
func sysfs(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestVolumePath(t *testing.T) {
	sys := sysfs(t, map[string]string{
		"class/ubi/ubi0/mtd_num": "3", "class/ubi/ubi1/mtd_num": "13",
		"class/ubi/ubi0_0/name": "rootfs", "class/ubi/ubi0_1/name": "env", "class/ubi/ubi1_0/name": "env2",
		"class/ubi/ubi10_0/name": "deep", "class/ubi/version": "1",
	})
	for spec, want := range map[string]string{
		"/dev/ubi0_5": "/dev/ubi0_5", "/dev/ubi0:env": "/dev/ubi0_1", "/dev/mtd3:rootfs": "/dev/ubi0_0", "/dev/mtd13:env2": "/dev/ubi1_0",
		"/dev/ubi1:deep": "", "/dev/ubi0:en": "", "/dev/mtd1:env": "", "/dev/sda:env": "", "/dev/ubi2:env": "", "/dev/ubi*:env": "", "/dev/ubi0:": "",
	} {
		got, err := flash.VolumePath(sys, spec)
		if got != want || (err != nil) != (want == "") || (want == "" && !errors.Is(err, flash.ErrUBI)) {
			t.Errorf("%s: %q, %v; want %q", spec, got, err, want)
		}
	}
}

// TestOpenWrong holds that what is no flash is not taken for it.
func TestOpenWrong(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, "/dev/null", "/nonexistent"} {
		if m, err := flash.OpenMTD(path, false); err == nil {
			t.Errorf("%s is a partition: %+v", path, m.Info())
		}
		if v, err := flash.OpenVolume(path, false); err == nil {
			t.Errorf("%s is a volume: %+v", path, v.Info())
		}
	}
}

func TestNextGood(t *testing.T) {
	m := flashtest.NewMTD(flash.NAND, 4, 1024, 512)
	m.Marked[0], m.Marked[2048] = true, true
	for _, v := range []struct{ off, end, want int64 }{{0, 4096, 1024}, {1024, 4096, 1024}, {2048, 4096, 3072}, {2048, 3072, -1}, {3072, 4095, -1}} {
		if got, err := flash.NextGood(m, v.off, v.end); (err != nil) != (v.want < 0) || err == nil && got != v.want {
			t.Errorf("from %d to %d: %d, %v", v.off, v.end, got, err)
		}
	}
}

// TestModels holds the memories of flashtest to what makes flash different from a file.
func TestModels(t *testing.T) {
	nor := flashtest.NewMTD(flash.NOR, 2, 1024, 1)
	if _, err := nor.WriteAt([]byte{0xf0, 0x0f}, 10); err != nil {
		t.Fatal(err)
	}
	if _, err := nor.WriteAt([]byte{0x3c}, 10); err != nil || nor.Data[10] != 0x30 {
		t.Errorf("NOR holds %#x: %v", nor.Data[10], err)
	}
	nand := flashtest.NewMTD(flash.NAND, 2, 1024, 512)
	if _, err := nand.WriteAt(make([]byte, 100), 0); err == nil {
		t.Error("NAND took a part of a page")
	}
	page := bytes.Repeat([]byte{0x55}, 512)
	if _, err := nand.WriteAt(page, 512); err != nil {
		t.Fatal(err)
	}
	for _, off := range []int64{0, 512} {
		if _, err := nand.WriteAt(page, off); err == nil {
			t.Errorf("NAND took a page at %d out of order", off)
		}
	}
	nand.Marked[1024] = true
	if err := nand.Erase(1024, 1024); err == nil {
		t.Error("a bad block was erased")
	}
	nor.Locked[0] = true
	if err := nor.Erase(0, 1024); err == nil {
		t.Error("a locked block was erased")
	}
	relock, err := nor.Unlock(0, 1024)
	if err != nil || nor.Erase(0, 1024) != nil {
		t.Error("an unlocked block was not erased")
	}
	if relock(); !nor.Locked[0] {
		t.Error("the lock is gone")
	}
}

// TestCut holds that every step can be cut, that nothing works afterwards, and that the parts differ.
func TestCut(t *testing.T) {
	work := func(m *flashtest.MTD) error {
		if err := m.Erase(0, 1024); err != nil {
			return err
		}
		_, err := m.WriteAt(bytes.Repeat([]byte{0}, 1024), 0)
		return err
	}
	m := flashtest.NewMTD(flash.NAND, 1, 1024, 512)
	if err := work(m); err != nil || m.Power.Steps != 3 {
		t.Fatalf("%d steps, %v", m.Power.Steps, err)
	}
	for cut := range 3 {
		var seen [][]byte
		for tear := range flashtest.Tears {
			c := m.Picture()
			c.Power.Cut(cut, tear)
			if err := work(c); !errors.Is(err, flashtest.ErrCut) || !c.Power.Gone() {
				t.Fatalf("cut %d: %v", cut, err)
			}
			if _, err := c.ReadAt(make([]byte, 1), 0); !errors.Is(err, flashtest.ErrCut) {
				t.Errorf("it reads without power: %v", err)
			}
			if slices.ContainsFunc(seen, func(b []byte) bool { return bytes.Equal(b, c.Data) }) {
				t.Errorf("cut %d: tear %d is as another", cut, tear)
			}
			seen = append(seen, c.Data)
		}
	}
}

func TestVolumeModel(t *testing.T) {
	v := flashtest.NewVolume(2, 1024, false)
	write := func(v *flashtest.Volume) error {
		w, err := v.Update(700)
		if err != nil {
			return err
		}
		if _, err := w.Write(make([]byte, 700)); err != nil {
			return err
		}
		return w.Close()
	}
	if err := write(v); err != nil || v.Info().Damaged {
		t.Fatal(err)
	}
	steps := v.Power.Steps
	for cut := 1; cut < steps; cut++ {
		c := v.Picture()
		c.Power.Cut(cut, flashtest.Nothing)
		err := write(c)
		c.Power.On()
		if _, rerr := c.ReadAt(make([]byte, 1), 0); !errors.Is(err, flashtest.ErrCut) || !errors.Is(rerr, flash.ErrUBI) {
			t.Errorf("cut %d: %v, then %v", cut, err, rerr)
		}
	}
	if err := v.Change(1, []byte("atomic")); err != nil || !bytes.Equal(v.Data[1024:1031], []byte("atomic\xff")) {
		t.Errorf("%q, %v", v.Data[1024:1031], err)
	}
	if err := v.Erase(1); err != nil || v.Data[1024] != 0xff || v.Erase(2) == nil {
		t.Errorf("%#x, %v", v.Data[1024], err)
	}
	if _, err := v.Update(2049); err == nil {
		t.Error("more than fits")
	}
	if n, err := v.ReadAt(make([]byte, 4096), 0); n != 2048 || err != io.EOF {
		t.Errorf("%d, %v", n, err)
	}
}

func TestBootPartition(t *testing.T) {
	for name, want := range map[string]bool{
		"mmcblk0boot0": true, "mmcblk12boot1": true, "mmcblk0": false, "mmcblk0p1": false, "mmcblk0rpmb": false, "sdaboot0": false,
		"mmcblkboot0": false, "mmcblk0boot": false, "mmcblk0boot0p1": false,
	} {
		if flash.BootPartition(name) != want {
			t.Errorf("%s: %v", name, !want)
		}
	}
}

// TestUnprotect holds that the protection is put back if it was there, and stays away if it was not.
func TestUnprotect(t *testing.T) {
	path := filepath.Join(t.TempDir(), "force_ro")
	holds := func(want string) {
		t.Helper()
		if b, err := os.ReadFile(path); err != nil || string(bytes.TrimSpace(b)) != want {
			t.Errorf("force_ro is %q, want %q: %v", b, want, err)
		}
	}
	if restore, err := flash.UnprotectFile(path); err != nil || restore() != nil {
		t.Errorf("without the attribute: %v", err)
	}
	for _, was := range []string{"1", "0"} {
		if err := os.WriteFile(path, []byte(was+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		restore, err := flash.UnprotectFile(path)
		if err != nil {
			t.Fatal(err)
		}
		holds("0")
		if err := restore(); err != nil {
			t.Fatal(err)
		}
		holds(was)
	}
	if restore, err := flash.Unprotect("/sys", path); err != nil || restore() != nil {
		t.Errorf("a file: %v", err)
	}
}
