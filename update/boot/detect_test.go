// SPDX-License-Identifier: Apache-2.0

package boot_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/backstay/backstay/update/boot"
)

// TestDetect finds each trace on a device that has it, and none on one that has not.
func TestDetect(t *testing.T) {
	for _, tt := range []struct{ path, text, kind, why string }{
		{"etc/fw_env.config", "# x\n\n/dev/mmcblk0  0x100000\t0x4000\n", "uboot", "the configuration of fw_printenv: /dev/mmcblk0 0x100000 0x4000"},
		{"proc/device-tree/chosen/u-boot,version", "2024.01\x00", "uboot", "U-Boot says so in the device tree: 2024.01"},
		{"boot/grub/grubenv", string(block(t, 1024, "ORDER=A B")), "grub", "an environment block of GRUB: RAUC's ORDER=A B"},
		{"boot/grub2/grubenv", string(block(t, 1024, "x=1")), "grub", "an environment block of GRUB: 1 variables"},
		{"boot/efi/grub-mender-grubenv/mender_grubenv1/env", string(block(t, 1024, "mender_boot_part=2")), "grub", "Mender's environment for GRUB: Mender's mender_boot_part=2"},
		{"sys/firmware/efi/efivars/BootOrder" + efiGUID, "\x07\x00\x00\x00\x01\x00\xbc\x00", "efi", "the firmware offers boot variables: Boot0001 Boot00BC"},
		{"sys/firmware/efi/efivars/LoaderInfo" + sdGUID, "\x06\x00\x00\x00" + string(utf16z("systemd-boot 252")), "efi", "systemd-boot was started: systemd-boot 252"},
		{"proc/device-tree/chosen/bootloader/partition", "\x00\x00\x00\x02", "tryboot", "the firmware of a Raspberry Pi says which partition it started: 2"},
		{"boot/autoboot.txt", shortText, "tryboot", "a choice of boot partitions: tryboot_a_b=1 boot_partition=2"},
		{"proc/device-tree/chosen/barebox-version", "barebox-2024.03.0\x00", "barebox", "barebox says so in the device tree: barebox-2024.03.0"},
		{"dev/disk/by-partlabel/misc", "", "android", "a partition for Android's boot control"},
		{"proc/device-tree/fwu-mdata/compatible", "u-boot,fwu-mdata-gpt\x00", "psa", "the device tree describes firmware update metadata: u-boot,fwu-mdata-gpt"},
		{"etc/rauc/system.conf", "[system]", "rauc", "RAUC was configured: backstay migrate rauc"},
		{"proc/cmdline", "console=x bootchooser.active=system0\n", "barebox", "barebox's bootchooser chose: bootchooser.active=system0"},
		{"proc/cmdline", "quiet rauc.slot=A", "", "the boot script names the running slot, as for RAUC: rauc.slot=A"},
	} {
		got := boot.Detect(fstest.MapFS{tt.path: {Data: []byte(tt.text)}})
		if want := []boot.Evidence{{Kind: tt.kind, Path: "/" + tt.path, Why: tt.why}}; !slices.Equal(got, want) {
			t.Errorf("%s:\n got %+v\nwant %+v", tt.path, got, want)
		}
	}
	for path, text := range map[string]string{
		"boot/grub/grubenv": "no block", "etc/fw_env.config": "# nothing\n", "proc/device-tree/chosen/bootloader/partition": "2", "proc/cmdline": "quiet",
	} {
		if got := boot.Detect(fstest.MapFS{path: {Data: []byte(text)}}); len(got) != 0 {
			t.Errorf("%s: %+v", path, got)
		}
	}
}

// TestDetectHostile looks at files that are too large, not there, or directories.
func TestDetectHostile(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"etc/fw_env.config", "boot/grub", "proc"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "proc/cmdline"), []byte("rauc.slot="+strings.Repeat("A\x1b[31m", 100000)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("grubenv", filepath.Join(dir, "boot/grub/grubenv")); err != nil {
		t.Fatal(err)
	}
	got := boot.Detect(os.DirFS(dir))
	if len(got) != 1 || len(got[0].Why) > 300 || strings.Contains(got[0].Why, "\x1b") {
		t.Errorf("%+v", got)
	}
}
