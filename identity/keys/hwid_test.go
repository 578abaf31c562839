// SPDX-License-Identifier: Apache-2.0

package keys_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/backstay/backstay/identity/keys"
)

func TestHardwareIDs(t *testing.T) {
	root := board(t, map[string]string{
		"sys/firmware/devicetree/base/serial-number": "10000000abcdef01\x00",
		"sys/devices/soc0/serial_number":             "A1B2C3\n",
		"proc/cpuinfo":                               "processor\t: 0\nHardware\t: BCM2835\nSerial\t\t: 00000000c0ffee00\n",
		"sys/class/dmi/id/product_uuid":              "4c4c4544-0042-3510-8054-b4c04f564433\n",
		"sys/class/dmi/id/board_serial":              "/ABC123/XYZ/\n",
		"sys/block/mmcblk0/device/type":              "SD\n",
		"sys/block/mmcblk0/device/cid":               "035344534433324780000000\n",
		"sys/block/mmcblk1/device/type":              "MMC\n",
		"sys/block/mmcblk1/device/cid":               "150100424a544434520012345678\n",
		"sys/class/net/eth0/address":                 "b8:27:eb:01:02:03\n",
		"sys/class/net/eth0/addr_assign_type":        "0\n",
		"sys/class/net/eth1/address":                 "b8:27:eb:01:02:04\n",
		"sys/class/net/eth1/addr_assign_type":        "1\n",
		"sys/class/net/usb0/address":                 "02:00:00:01:02:04\n",
		"sys/class/net/usb0/addr_assign_type":        "0\n",
		"sys/class/net/lo/address":                   "00:00:00:00:00:00\n",
		"sys/class/net/lo/addr_assign_type":          "0\n",
	})
	want := []keys.ID{
		{"cpu-serial", "00000000c0ffee00", true}, {"dmi-board-serial", "/ABC123/XYZ/", true},
		{"dmi-uuid", "4c4c4544-0042-3510-8054-b4c04f564433", true}, {"dt-serial", "10000000abcdef01", true},
		{"emmc-cid", "150100424a544434520012345678", true}, {"mac:eth0", "b8:27:eb:01:02:03", false}, {"soc-serial", "A1B2C3", true},
	}
	if got := keys.HardwareIDs(root); !slices.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	if got := keys.HardwareIDs(t.TempDir()); len(got) != 0 {
		t.Errorf("an empty board has %v", got)
	}
}

// TestNoIdentifier: what vendors and kernels put where an identifier should be.
func TestNoIdentifier(t *testing.T) {
	const path = "sys/firmware/devicetree/base/serial-number"
	for name, v := range map[string]string{
		"empty": "", "NUL": "\x00\x00\x00", "zeros": "0000000000000000", "ones": "ffffffffffffffff", "upper": "FFFFFFFF", "hex zero": "0x00000000",
		"x": "XXXXXXXX", "oem": "To be filled by O.E.M.", "default": "Default string", "count": "0123456789", "count from one": "123456789",
		"count hex": "0123456789ABCDEF", "none": "None", "unspecified": "Not Specified", "short": "ab1", "newline": "abc\ndef1", "control": "abc\x1b[31m1",
		"not UTF-8": "abc\xff\xfe1", "64 KiB": strings.Repeat("a1", 32<<10), "dashes": "--------", "UUID zero": "00000000-0000-0000-0000-000000000000",
		"vendor UUID": "03000200-0400-0500-0006-000700080009", "tab": "a\tb1234",
	} {
		if got := keys.HardwareIDs(board(t, map[string]string{path: v})); len(got) != 0 {
			t.Errorf("%s: %v", name, got)
		}
	}
	for _, v := range []string{"a1b2", "CAM-000123", "0000000000000001", "serial number 7"} {
		if got := keys.HardwareIDs(board(t, map[string]string{path: v + "\x00\x00"})); len(got) != 1 || got[0].Value != v {
			t.Errorf("%q: %v", v, got)
		}
	}
}

func TestIdentifierIsNoFile(t *testing.T) {
	root := board(t, map[string]string{"sys/devices/soc0/x": ""})
	if err := syscall.Mkfifo(filepath.Join(root, "sys/devices/soc0/serial_number"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(root, "sys/firmware/devicetree/base/serial-number"), 0o755); err != nil {
		t.Fatal(err)
	}
	if got := keys.HardwareIDs(root); len(got) != 0 { // and does not hang
		t.Errorf("%v", got)
	}
}
