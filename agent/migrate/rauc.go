// SPDX-License-Identifier: Apache-2.0

package migrate

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// rauc reads RAUC's system.conf (docs/reference.rst there).
func (d *draft) rauc(file string) error {
	text, err := d.read(file)
	if err != nil {
		return err
	}
	sections, err := parseINI(text)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	system := sections["system"]
	d.compatible = system["compatible"]
	d.name = d.compatible
	if d.compatible == "" {
		return fmt.Errorf("%s: compatible is missing in [system]", file)
	}
	if safe(d.compatible) != d.compatible {
		d.remark("compatible %q becomes %q: only letters, digits, '.', '_' and '-' are possible", d.compatible, safe(d.compatible))
	}
	if n, err := strconv.Atoi(or(system["boot-attempts-primary"], system["boot-attempts"])); err == nil && n > 0 {
		d.attempts = n
	}
	for _, name := range slices.Sorted(maps.Keys(sections)) {
		if id, ok := strings.CutPrefix(name, "slot."); ok {
			if err := d.raucSlot(id, sections[name]); err != nil {
				return err
			}
		}
	}
	d.key = "rauc.slot"
	if err := d.raucBoot(system, sections["handlers"]); err != nil {
		return err
	}
	d.raucRemarks(system, sections)
	return nil
}

func (d *draft) raucSlot(id string, s map[string]string) error {
	if s["bootname"] == "" {
		d.remark("slot %s (%s) has no bootname and is left out: this agent updates the slots that the boot loader chooses between", id, s["device"])
		return nil
	}
	kind := "block"
	switch t := or(s["type"], "raw"); t {
	case "nand", "nor":
		kind = "mtd"
	case "ubivol", "ubifs":
		kind = "ubi"
	case "boot-emmc":
		kind = "emmc-boot"
	case "raw", "ext4", "squashfs", "erofs", "vfat":
		if t == "vfat" || t == "ext4" {
			d.remark("slot %s is of type %s, which RAUC can fill from an archive; here an image is the whole of a partition", id, t)
		}
	default:
		d.remark("slot %s is of type %s, which is taken for a block device", id, t)
	}
	if s["device"] == "" {
		return fmt.Errorf("slot %s has no device", id)
	}
	return d.add(s["bootname"], slot{Kind: kind, Path: s["device"]})
}

func (d *draft) raucBoot(system, handlers map[string]string) error {
	switch loader := system["bootloader"]; loader {
	case "uboot":
		return d.environment("rauc")
	case "grub":
		d.boot["kind"] = "grub"
		if p := system["grubenv"]; p != "" {
			d.boot["path"] = p
		}
	case "efi":
		d.boot["kind"] = "efi"
		d.remark("RAUC creates a missing EFI boot entry; here the entries must be there, labelled with the bootname")
	case "barebox":
		d.boot["kind"] = "barebox"
		d.key = "bootchooser.active"
		d.remark("the kernel parameter bootchooser.active (or bootstate.active) must name the slot: booted.key says which")
		d.remark("boot.path must name the device of the state's backend")
		d.boot["path"] = "/dev/CHANGE-ME"
	case "custom":
		program := handlers["bootloader-custom-backend"]
		if program == "" {
			return fmt.Errorf("bootloader is custom, and [handlers] has no bootloader-custom-backend")
		}
		d.boot["kind"], d.boot["command"] = "command", []string{program}
		d.remark("%s answers as before; get-current is not used: the kernel command line names the running slot", program)
	default:
		return fmt.Errorf("bootloader %q has no counterpart here", loader)
	}
	return nil
}

func (d *draft) raucRemarks(system map[string]string, sections map[string]map[string]string) {
	d.remark("the running slot is what rauc.slot on the kernel command line says; where RAUC found it by root=, set booted.key to root")
	if k := sections["keyring"]; len(k) > 0 {
		d.remark("[keyring] %s: a bundle's CMS signature is not used here; releases are signed in a TUF repository", or(k["path"], k["directory"]))
	}
	for _, key := range []string{"variant-name", "variant-file", "variant-dtb"} {
		if system[key] != "" {
			d.remark("%s: variants are a release's list of compatible hardware here", key)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(sections["handlers"])) {
		if name != "bootloader-custom-backend" {
			d.remark("[handlers] %s=%s is not called; see update.health for checks", name, sections["handlers"][name])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(sections)) {
		switch {
		case strings.HasPrefix(name, "artifacts."), name == "casync", name == "streaming", name == "encryption", name == "autoinstall", strings.HasPrefix(name, "log."):
			d.remark("[%s] has no counterpart and is left out", name)
		}
	}
}
