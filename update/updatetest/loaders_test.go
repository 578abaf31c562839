// SPDX-License-Identifier: Apache-2.0

package updatetest_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/boot"
)

// loader is a boot loader with the script that chooses: the agent's side is the real one, the script's rule is played here over
// the same bytes.
type loader struct {
	name  string
	once  bool // a new image gets one start: a cut during its trial ends in the old one, which is whole
	make  func(d *device) error
	open  func(d *device) (update.Bootloader, error)
	start func(d *device) (slot string, err error) // one start; "" when the script ends without one
}

func loaders() []loader {
	part := []boot.Variable{{Name: "rootpart", Values: map[update.SlotID]string{"A": "1", "B": "2"}}}
	return []loader{
		ubootLoader("U-Boot, RAUC", boot.Options{Convention: boot.RAUC}, raucStart, "bootcmd=run ab", "BOOT_ORDER=A B", "BOOT_A_LEFT=3", "BOOT_B_LEFT=3"),
		ubootLoader("U-Boot, Mender", boot.Options{Convention: boot.Mender}, menderStart,
			"mender_boot_part=2", "mender_boot_part_hex=2", "upgrade_available=0", "bootcount=0", "bootlimit=1"),
		ubootLoader("U-Boot, SWUpdate", boot.Options{Convention: boot.Bootcount, Choice: part, SWUpdate: true}, swupdateStart, "rootpart=1"),
		grubLoader(),
	}
}

func ubootLoader(name string, o boot.Options, rule func(get func(string) string, set func(name, value string)) string, vars ...string) loader {
	return loader{
		name: name, once: o.Convention == boot.Mender,
		make: func(d *device) error {
			return errors.Join(os.WriteFile(d.env.Areas[0].Path, make([]byte, 0x2000), 0o600), boot.Create(d.env, binary.BigEndian, vars))
		},
		open: func(d *device) (update.Bootloader, error) {
			o := o
			o.Env = d.env
			return boot.Open(o)
		},
		start: func(d *device) (slot string, err error) {
			err = boot.Update(d.env, func(e *boot.Env) error {
				var failed error
				get := func(name string) string { v, _ := e.Get(name); return v }
				slot = rule(get, func(name, value string) { failed = errors.Join(failed, e.Set(name, value)) })
				return failed
			})
			return slot, err
		},
	}
}

// raucStart is the rule of RAUC's script for U-Boot: the first slot of the order with attempts left, one fewer; all full again
// when there is none.
func raucStart(get func(string) string, set func(name, value string)) string {
	for _, id := range strings.Fields(get("BOOT_ORDER")) {
		if n, _ := strconv.ParseInt(get("BOOT_"+id+"_LEFT"), 16, 32); n > 0 {
			set("BOOT_"+id+"_LEFT", strconv.FormatInt(n-1, 16))
			return id
		}
	}
	set("BOOT_A_LEFT", "3")
	set("BOOT_B_LEFT", "3")
	return ""
}

// counted is U-Boot's own counter, which runs altbootcmd beyond the limit.
func counted(get func(string) string, set func(name, value string), alt func()) {
	if get("upgrade_available") != "1" {
		return
	}
	n, _ := strconv.Atoi(get("bootcount"))
	limit, _ := strconv.Atoi(get("bootlimit"))
	set("bootcount", strconv.Itoa(n+1))
	if limit > 0 && n+1 > limit {
		alt()
		set("upgrade_available", "0")
		set("bootcount", "0")
	}
}

func menderStart(get func(string) string, set func(name, value string)) string {
	counted(get, set, func() {
		other := map[string]string{"2": "3", "3": "2"}[get("mender_boot_part")]
		set("mender_boot_part", other)
		set("mender_boot_part_hex", other)
	})
	if get("mender_boot_part") != get("mender_boot_part_hex") {
		return ""
	}
	return map[string]string{"2": "A", "3": "B"}[get("mender_boot_part")]
}

func swupdateStart(get func(string) string, set func(name, value string)) string {
	counted(get, set, func() { set("rootpart", map[string]string{"1": "2", "2": "1"}[get("rootpart")]) })
	return map[string]string{"1": "A", "2": "B"}[get("rootpart")]
}

const grubHead = "# GRUB Environment Block\n"

func grubLoader() loader {
	path := func(d *device) string { return d.dir + "/grubenv" }
	return loader{
		name: "GRUB, RAUC", once: true,
		make: func(d *device) error {
			// B is no fall-back: with one attempt each, the script would take it after the first start that the agent did not
			// live to keep, rightly, and the update would go the other way.
			return os.WriteFile(path(d), grubBlock(map[string]string{"ORDER": "A B", "A_OK": "1", "A_TRY": "0", "B_OK": "0", "B_TRY": "0"}), 0o600)
		},
		open: func(d *device) (update.Bootloader, error) {
			return boot.OpenGRUB(boot.GRUBOptions{Path: path(d), Convention: boot.RAUC, Slots: []update.SlotID{"A", "B"}, Attempts: 1})
		},
		start: func(d *device) (string, error) {
			raw, err := os.ReadFile(path(d))
			if err != nil || len(raw) != 1024 || !strings.HasPrefix(string(raw), grubHead) {
				return "", fmt.Errorf("no environment block, %w", err)
			}
			v := map[string]string{}
			for line := range strings.Lines(strings.TrimRight(string(raw[len(grubHead):]), "#")) {
				name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
				v[name] = value
			}
			slot := grubStart(v)
			return slot, os.WriteFile(path(d), grubBlock(v), 0o600)
		},
	}
}

// grubStart is the rule of RAUC's script for GRUB: one attempt each, and the attempts of good slots back when all are used up.
func grubStart(v map[string]string) string {
	for _, id := range strings.Fields(v["ORDER"]) {
		before := v[id+"_TRY"]
		v[id+"_TRY"] = "1"
		if v[id+"_OK"] == "1" && before == "0" {
			return id
		}
	}
	for _, id := range []string{"A", "B"} {
		if v[id+"_OK"] == "1" {
			v[id+"_TRY"] = "0"
		}
	}
	return ""
}

func grubBlock(v map[string]string) []byte {
	text := grubHead
	for _, name := range []string{"ORDER", "A_OK", "A_TRY", "B_OK", "B_TRY"} {
		text += name + "=" + v[name] + "\n"
	}
	return []byte(text + strings.Repeat("#", 1024-len(text)))
}
