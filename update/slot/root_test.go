// SPDX-License-Identifier: Apache-2.0

package slot_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/slot"
)

// TestBootedByRoot finds the running slot by the device of the root file system, whatever name of it the kernel was given.
func TestBootedByRoot(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	a, b, cmdline := file("p2", "a"), file("p3", "b"), file("cmdline", "")
	link := filepath.Join(dir, "by-label")
	if err := os.Symlink("p3", link); err != nil {
		t.Fatal(err)
	}
	s, err := slot.Open(slot.Config{Slots: map[update.SlotID]slot.Device{"A": {Kind: slot.File, Path: a}, "B": {Kind: slot.File, Path: b}}, Cmdline: cmdline, Key: "root"})
	if err != nil {
		t.Fatal(err)
	}
	for line, want := range map[string]update.SlotID{
		"console=x root=" + a + " rw":              "A",
		"root=" + link:                             "B",
		"root=\"" + b + "\"":                       "B",
		"root=" + a + " root=" + b:                 "B",
		"root=" + b + " rauc.slot=B":               "B",
		"root=" + b + " -- root=" + a:              "B",
		"":                                         "",
		"root=":                                    "",
		"root=" + a + " rauc.slot=B":               "",
		"root=" + dir + "/none":                    "",
		"root=PARTUUID=0":                          "",
		"rootfstype=ext4 backstay.slot=A":          "",
		"-- root=" + a:                             "",
		"root=/dev/" + strings.Repeat("x", 64<<10): "",
	} {
		file("cmdline", line)
		got, err := s.Booted()
		if got != want || (want == "") != errors.Is(err, update.ErrSetup) {
			t.Errorf("%.80s: %q, %v", line, got, err)
		}
	}
	for root, want := range map[string]string{
		"PARTUUID=ABCD-02": "/dev/disk/by-partuuid/abcd-02", "PARTLABEL=rootfs-A": "/dev/disk/by-partlabel/rootfs-A",
		"UUID=../../etc": "/dev/disk/by-uuid/etc", "/dev/mmcblk0p2": "/dev/mmcblk0p2", "ubi0:rootfs": "ubi0:rootfs",
	} {
		if got := slot.RootDevice(root); got != want {
			t.Errorf("%s: %s", root, got)
		}
	}
}
