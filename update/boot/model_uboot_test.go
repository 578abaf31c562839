// SPDX-License-Identifier: Apache-2.0

package boot_test

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"
	"strconv"
	"strings"

	"github.com/backstay/backstay/update"
)

// What U-Boot does with an environment, written down again from its source and from the boot scripts, apart from the code
// under test: env/common.c and env/flash.c choose between two copies, and the scripts are RAUC's contrib/uboot.sh, Mender's
// mender_setup and mender_altbootcmd, and one as SWUpdate's documentation proposes.

// ubootVars reads a copy; nil if it is not intact.
func ubootVars(raw []byte, head int, order binary.ByteOrder) map[string]string {
	if len(raw) < head || order.Uint32(raw) != crc32.ChecksumIEEE(raw[head:]) {
		return nil
	}
	vars := map[string]string{}
	for e := range strings.SplitSeq(string(raw[head:]), "\x00") {
		if e == "" {
			break
		}
		name, value, _ := strings.Cut(e, "=")
		vars[name] = value
	}
	return vars
}

// ubootRaw is env_export.
func ubootRaw(vars map[string]string, size, head int, flags byte, order binary.ByteOrder) []byte {
	var names []string
	for n := range vars {
		names = append(names, n)
	}
	slices.Sort(names)
	raw := make([]byte, head, size)
	for _, n := range names {
		raw = append(raw, n+"="+vars[n]+"\x00"...)
	}
	raw = append(raw, make([]byte, size-len(raw))...)
	order.PutUint32(raw, crc32.ChecksumIEEE(raw[head:]))
	if head == 5 {
		raw[4] = flags
	}
	return raw
}

// ubootPick is env_check_redund, and on NOR flash env_flash_init: the copy that counts, -1 if none is intact.
func ubootPick(ok [2]bool, flags [2]byte, nor bool) int {
	switch {
	case !ok[0] && !ok[1]:
		return -1
	case !ok[1]:
		return 0
	case !ok[0]:
		return 1
	case nor && flags == [2]byte{0, 1}:
		return 1
	case nor:
		return 0
	case flags == [2]byte{255, 0}:
		return 1
	case flags == [2]byte{0, 255}:
		return 0
	case flags[1] > flags[0]:
		return 1
	}
	return 0
}

// bootScript is what a board does at a start: it chooses a slot and changes variables, which are saved.
type bootScript struct {
	name     string
	defaults map[string]string // compiled in, for an environment that is not intact
	start    func(v map[string]string) update.SlotID
}

func hexCount(s string) int { n, _ := strconv.ParseInt(s, 16, 32); return int(n) }
func decCount(s string) int { n, _ := strconv.ParseInt(s, 10, 32); return int(n) }

var raucScript = bootScript{"rauc", map[string]string{"bootdelay": "0"}, func(v map[string]string) update.SlotID {
	for name, value := range map[string]string{"BOOT_ORDER": "A B", "BOOT_A_LEFT": "3", "BOOT_B_LEFT": "3"} {
		if v[name] == "" {
			v[name] = value
		}
	}
	for range 2 { // the second time after "resetting tries to 3"
		for _, s := range strings.Fields(v["BOOT_ORDER"]) {
			if left := "BOOT_" + s + "_LEFT"; hexCount(v[left]) > 0 {
				v[left] = fmt.Sprintf("%x", hexCount(v[left])-1)
				return update.SlotID(s)
			}
		}
		v["BOOT_A_LEFT"], v["BOOT_B_LEFT"] = "3", "3"
	}
	return ""
}}

// counted is U-Boot's own counter in front of a script.
func counted(v map[string]string, alt func()) {
	if decCount(v["upgrade_available"]) == 0 {
		return
	}
	v["bootcount"] = strconv.Itoa(decCount(v["bootcount"]) + 1)
	if limit := decCount(v["bootlimit"]); limit > 0 && decCount(v["bootcount"]) > limit {
		alt()
	}
}

var menderScript = bootScript{"mender", map[string]string{"mender_boot_part": "2", "mender_boot_part_hex": "2", "upgrade_available": "0", "bootlimit": "1", "bootcount": "0"},
	func(v map[string]string) update.SlotID {
		counted(v, func() {
			other := map[string]string{"2": "3", "3": "2"}[v["mender_boot_part"]]
			v["mender_boot_part"], v["mender_boot_part_hex"], v["upgrade_available"], v["bootcount"] = other, other, "0", "0"
		})
		if v["mender_boot_part"] != v["mender_boot_part_hex"] {
			return "" // the kernel of one and the root file system of the other
		}
		return map[string]update.SlotID{"2": "A", "3": "B"}[v["mender_boot_part"]]
	}}

var swupdateScript = bootScript{"swupdate", map[string]string{"rootpart": "1"}, func(v map[string]string) update.SlotID {
	if v["ustate"] == "1" {
		v["ustate"] = "2"
	}
	counted(v, func() {
		v["rootpart"] = map[string]string{"1": "2", "2": "1"}[v["rootpart"]]
		v["ustate"], v["upgrade_available"], v["bootcount"] = "3", "0", "0"
	})
	return map[string]update.SlotID{"1": "A", "2": "B"}[v["rootpart"]]
}}
