// SPDX-License-Identifier: Apache-2.0

package migrate

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
)

// swupdate reads SWUpdate's swupdate.cfg, /etc/hwrevision and /etc/fw_env.config. The slots are in none of them: SWUpdate takes
// them from the sw-description of each update.
func (d *draft) swupdate(file string) error {
	text, err := d.read(file)
	if err != nil {
		return err
	}
	values, err := parseLibconfig(string(text))
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	board, revision, err := d.hwrevision(or(values["globals.hardware-compatibility-file"], "/etc/hwrevision"))
	if err != nil {
		return err
	}
	d.name, d.compatible = board, board
	if revision != "" {
		d.compatible = board + "-" + revision
	}
	switch loader := or(values["globals.bootloader"], "uboot"); loader {
	case "uboot":
		if err := d.environment("bootcount"); err != nil {
			return err
		}
		d.remark("the boot script's variable that names the slot goes into boot.variable, and its value for each slot into slots.NAME.bootname")
		d.boot["variable"], d.boot["swupdate"] = "CHANGE_ME", true
	case "grub":
		d.boot["kind"] = "grub"
		d.remark("SWUpdate leaves the convention to the boot script: boot.convention says which")
	default:
		return fmt.Errorf("%s: bootloader %q has no counterpart here", file, loader)
	}
	for name, n := range map[string]string{"A": "1", "B": "2"} {
		if err := d.add(name, slot{Kind: "block", Path: "/dev/disk/by-partlabel/rootfs-" + strings.ToLower(name), Bootname: n}); err != nil {
			return err
		}
	}
	d.remark("slots.A and slots.B are to be filled in: SWUpdate takes the devices from each update's sw-description")
	d.key = "root"
	d.swupdateRemarks(values)
	return nil
}

// hwrevision reads the line "board revision".
func (d *draft) hwrevision(file string) (board, revision string, err error) {
	text, err := d.read(file)
	if errors.Is(err, fs.ErrNotExist) {
		d.remark("%s is missing: product.name and product.compatible are to be filled in", file)
		return "", "", nil
	}
	if err != nil {
		return "", "", err
	}
	f := strings.Fields(string(text))
	if len(f) == 0 || len(f) > 2 {
		return "", "", fmt.Errorf("%s: want a board and a revision", file)
	}
	return f[0], strings.Join(f[1:], ""), nil
}

func (d *draft) swupdateRemarks(values map[string]string) {
	for _, r := range []struct{ key, text string }{
		{"globals.public-key-file", "images are verified by TUF metadata; the key of sw-description is not used"},
		{"globals.ca-path", "servers are recognised by server.ca_file"},
		{"globals.aes-key-file", "images are not encrypted by this agent; the transport is"},
		{"globals.preupdatecmd", "not called; see update.health for checks"},
		{"globals.postupdatecmd", "not called; see reboot.method"},
		{"globals.no-downgrading", "the security floor takes its place"},
		{"globals.max-version", "a release's list of compatible hardware and its counter take its place"},
		{"suricatta.url", "a hawkBit server is not a TUF repository; publish with backstayctl repo"},
		{"suricatta.polldelay", "see update.poll"},
		{"webserver.document-root", "there is no web server; see the control socket"},
	} {
		if v, ok := values[r.key]; ok {
			d.remark("%s=%s: %s", r.key, v, r.text)
		}
	}
}
