// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
)

// Evidence is one thing on a device that speaks for a boot loader, or for the agent that used it before.
type Evidence struct {
	Kind string // of boot loader, as in the configuration: uboot, grub, efi ...; or of agent: rauc, mender, swupdate
	Path string // what was found
	Why  string // what it says
}

// maxDetect bounds what is read of one file.
const maxDetect = 64 << 10

// clue is a place to look at. said turns what the file holds into words, and "" when it says nothing; nil: being there is enough.
type clue struct {
	kind, pattern string
	why           string
	said          func(text []byte) string
}

// clues are what is known about boot loaders, each with where it is from.
func clues() []clue {
	const efivars = "sys/firmware/efi/efivars/"
	return []clue{
		{"uboot", "etc/fw_env.config", "the configuration of fw_printenv", firstArea},
		{"uboot", "proc/device-tree/chosen/u-boot,version", "U-Boot says so in the device tree", asText},
		{"uboot", "proc/device-tree/chosen/u-boot,env-config", "U-Boot says where its environment is", asText},
		{"grub", "boot/grub*/grubenv", "an environment block of GRUB", grubClue},
		{"grub", "boot/efi/EFI/*/grubenv", "an environment block of GRUB", grubClue},
		{"grub", "boot/*/grub-mender-grubenv/mender_grubenv1/env", "Mender's environment for GRUB", grubClue},
		{"grub", "boot/efi/EFI/BOOT/mender_grubenv1/env", "Mender's environment for GRUB", grubClue},
		{"efi", efivars + "BootOrder-" + efiGlobal, "the firmware offers boot variables", bootOrderClue},
		{"efi", efivars + "BootCurrent-" + efiGlobal, "the firmware says what it started", bootOrderClue},
		{"efi", efivars + "LoaderInfo-" + efiSystemd, "systemd-boot was started", utf16Clue},
		{"tryboot", "proc/device-tree/chosen/bootloader/partition", "the firmware of a Raspberry Pi says which partition it started", cellClue},
		{"tryboot", "boot/autoboot.txt", "a choice of boot partitions", asText},
		{"tryboot", "boot/firmware/autoboot.txt", "a choice of boot partitions", asText},
		{"barebox", "proc/device-tree/chosen/barebox-version", "barebox says so in the device tree", asText},
		{"barebox", "proc/device-tree/aliases/state", "the device tree names a state of barebox", asText},
		{"android", "dev/disk/by-partlabel/misc", "a partition for Android's boot control", nil},
		{"android", "dev/block/by-name/misc", "a partition for Android's boot control", nil},
		{"psa", "proc/device-tree/fwu-mdata*/compatible", "the device tree describes firmware update metadata", asText},
		{"psa", "dev/disk/by-partlabel/[Ff][Ww][Uu]*", "a partition by the name of firmware update metadata", nil},
		{"rauc", "etc/rauc/system.conf", "RAUC was configured: backstay migrate rauc", nil},
		{"mender", "etc/mender/mender.conf", "Mender was configured: backstay migrate mender", nil},
		{"swupdate", "etc/swupdate.cfg", "SWUpdate was configured: backstay migrate swupdate", nil},
		{"swupdate", "etc/hwrevision", "SWUpdate's hardware revision", asText},
	}
}

// cmdlineClues are words of the kernel's command line.
func cmdlineClues() []clue {
	return []clue{
		{"", "backstay.slot=", "the boot script names the running slot", nil},
		{"", "rauc.slot=", "the boot script names the running slot, as for RAUC", nil},
		{"barebox", "bootstate.active=", "barebox's bootchooser chose", nil},
		{"barebox", "bootchooser.active=", "barebox's bootchooser chose", nil},
		{"android", "androidboot.slot_suffix=", "an Android boot loader chose", nil},
	}
}

// Detect looks for traces of boot loaders under a root directory, without changing anything. What it returns is for a person:
// nothing is chosen by it.
func Detect(root fs.FS) []Evidence {
	var out []Evidence
	for _, c := range clues() {
		found, err := fs.Glob(root, c.pattern)
		if err != nil {
			continue
		}
		for _, name := range found[:min(len(found), 8)] {
			why := c.why
			if c.said != nil {
				text, err := readSome(root, name)
				said := ""
				if err == nil {
					said = c.said(text)
				}
				if said == "" {
					continue
				}
				why += ": " + said
			}
			out = append(out, Evidence{c.kind, "/" + name, why})
		}
	}
	line, _ := readSome(root, "proc/cmdline")
	for _, word := range strings.Fields(string(line)) {
		for _, c := range cmdlineClues() {
			if strings.HasPrefix(word, c.pattern) {
				out = append(out, Evidence{c.kind, "/proc/cmdline", c.why + ": " + printable([]byte(word))})
			}
		}
	}
	return out
}

func readSome(root fs.FS, name string) ([]byte, error) {
	f, err := root.Open(path.Clean(name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || st.IsDir() || st.Mode()&(fs.ModeNamedPipe|fs.ModeDevice|fs.ModeSocket) != 0 {
		return nil, fs.ErrInvalid
	}
	return io.ReadAll(io.LimitReader(f, maxDetect))
}

// printable is the beginning of a text, on one line.
func printable(b []byte) string {
	s := strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == 0xfffd {
			return ' '
		}
		return r
	}, string(b[:min(len(b), 200)]))
	return strings.Join(strings.Fields(s), " ")
}

func asText(b []byte) string { return printable(b) }

func firstArea(b []byte) string {
	for line := range strings.Lines(string(b)) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			return printable([]byte(line))
		}
	}
	return ""
}

func grubClue(b []byte) string {
	g, err := parseGrubenv(b)
	if err != nil {
		return ""
	}
	switch order, ok := g.get("ORDER"); {
	case ok:
		return "RAUC's ORDER=" + printable([]byte(order))
	default:
		if part, ok := g.get(menderPart); ok {
			return "Mender's " + menderPart + "=" + printable([]byte(part))
		}
	}
	return fmt.Sprintf("%d variables", len(g.all()))
}

func bootOrderClue(b []byte) string {
	var list []string
	for b = b[min(4, len(b)):]; len(b) >= 2 && len(list) < 16; b = b[2:] {
		list = append(list, fmt.Sprintf("Boot%04X", binary.LittleEndian.Uint16(b)))
	}
	return strings.Join(list, " ")
}

func utf16Clue(b []byte) string {
	s, _ := utf16String(b[min(4, len(b)):])
	return printable([]byte(s))
}

func cellClue(b []byte) string {
	if len(b) != 4 {
		return ""
	}
	return fmt.Sprint(binary.BigEndian.Uint32(b))
}
