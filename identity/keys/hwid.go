// SPDX-License-Identifier: Apache-2.0

package keys

import (
	"bytes"
	"cmp"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// ID is one hardware identifier. Identifiers are reported and keys are sealed under them; they never authenticate anything.
type ID struct {
	Kind   string `json:"kind"` // "dt-serial", "soc-serial", "cpu-serial", "emmc-cid", "dmi-uuid", "dmi-board-serial", "mac:eth0"
	Value  string `json:"value"`
	Stable bool   `json:"stable"` // part of the board: good enough to seal a key under
}

// maxID is the most that is read of an identifier, in bytes; a longer value is no identifier.
const maxID = 256

// HardwareIDs reads the identifiers of the board from the files below root ("/" on a device), sorted by kind. What is missing,
// unreadable, a vendor's placeholder, or different when read twice is left out: none of that is an error, most boards have
// only one or two. Nothing that travels with a removable part is marked stable: not an SD card's CID, not a network adapter's
// address.
func HardwareIDs(root string) []ID {
	first := readIDs(root)
	second := readIDs(root)
	ids := slices.DeleteFunc(first, func(id ID) bool { return !slices.Contains(second, id) })
	slices.SortFunc(ids, func(a, b ID) int { return cmp.Compare(a.Kind, b.Kind) })
	return slices.CompactFunc(ids, func(a, b ID) bool { return a.Kind == b.Kind })
}

func readIDs(root string) []ID {
	var ids []ID
	add := func(kind, value string, stable bool) {
		if value = normal(value); value != "" {
			ids = append(ids, ID{kind, value, stable})
		}
	}
	file := func(elem ...string) string { return read(filepath.Join(append([]string{root}, elem...)...)) }

	add("dt-serial", file("sys/firmware/devicetree/base/serial-number"), true)
	add("soc-serial", file("sys/devices/soc0/serial_number"), true)
	add("cpu-serial", cpuSerial(root), true)
	add("dmi-uuid", file("sys/class/dmi/id/product_uuid"), true)
	add("dmi-board-serial", file("sys/class/dmi/id/board_serial"), true)
	for _, dir := range glob(root, "sys/block/mmcblk[0-9]*") {
		// An SD card has a CID too, and takes it along.
		if strings.TrimSpace(read(filepath.Join(dir, "device/type"))) == "MMC" {
			add("emmc-cid", read(filepath.Join(dir, "device/cid")), true)
			break
		}
	}
	for _, dir := range glob(root, "sys/class/net/*") {
		// 0: the address comes with the hardware; 1 and 3 were made up by kernel or user space.
		mac := read(filepath.Join(dir, "address"))
		if strings.TrimSpace(read(filepath.Join(dir, "addr_assign_type"))) == "0" && !locallyAdministered(mac) {
			add("mac:"+filepath.Base(dir), mac, false)
		}
	}
	return ids
}

// cpuSerial is the Serial line ARM kernels write.
func cpuSerial(root string) string {
	f, err := os.Open(filepath.Join(root, "proc/cpuinfo"))
	if err != nil {
		return ""
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 256<<10))
	if err != nil {
		return ""
	}
	for line := range bytes.Lines(b) {
		if name, value, ok := strings.Cut(string(line), ":"); ok && strings.TrimSpace(name) == "Serial" {
			return value
		}
	}
	return ""
}

func glob(root, pattern string) []string {
	names, err := filepath.Glob(filepath.Join(root, pattern))
	if err != nil {
		return nil // only a malformed pattern; root is escaped by nobody and holds no meta characters on a device
	}
	slices.Sort(names)
	return names
}

// read returns a small file's content, "" for anything that is not one.
func read(path string) string {
	f, err := os.OpenFile(path, os.O_RDONLY|nonblock, 0)
	if err != nil {
		return ""
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxID+1))
	if err != nil || len(b) > maxID {
		return ""
	}
	return string(b)
}

// normal trims what kernels put around values and returns "" for what identifies nothing. Only printable ASCII passes, so a
// value may be logged as it is.
func normal(s string) string {
	s = strings.Trim(s, "\x00 \t\r\n")
	if len(s) < 4 {
		return ""
	}
	for _, c := range []byte(s) {
		if c < ' ' || c > '~' {
			return ""
		}
	}
	bare := strings.ToLower(strings.NewReplacer("-", "", ":", "", " ", "", ".", "", "_", "").Replace(strings.TrimPrefix(strings.ToLower(s), "0x")))
	if bare == "" || strings.Count(bare, bare[:1]) == len(bare) { // 0000, ffff, xxxx
		return ""
	}
	if strings.HasPrefix("01234567890123456789", bare) || strings.HasPrefix("123456789012345678901234567890", bare) ||
		slices.Contains(placeholders, bare) {
		return ""
	}
	return s
}

// placeholders are values vendors ship instead of identifiers, in lower case without punctuation.
var placeholders = []string{
	"tobefilledbyoem", "defaultstring", "none", "notspecified", "notapplicable", "notavailable", "unknown",
	"systemserialnumber", "baseboardserialnumber", "boardserialnumber", "serialnumber", "empty", "null", "invalid", "oem",
	"0123456789abcdef", "03000200040005000006000700080009",
}

// locallyAdministered reports whether a MAC address was made up rather than bought: bit 1 of the first octet.
func locallyAdministered(mac string) bool {
	mac = strings.TrimSpace(mac)
	return len(mac) < 2 || strings.ContainsRune("2367abefABEF", rune(mac[1]))
}
