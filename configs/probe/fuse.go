// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"strings"
)

// fuseEntry says where a chip shows that something is closed for good: bits of a 32-bit word of a file.
type fuseEntry struct {
	what  string
	chips []string // of the compatible property of the device tree
	file  string
	off   int
	big   bool
	mask  uint32
	also  uint32 // or this bit alone
	name  string
}

const (
	treeDir = "/proc/device-tree"
	ocotp   = "/sys/bus/nvmem/devices/imx-ocotp0/nvmem"
)

// fuseTable holds what the makers of chips and of their boot loaders publish: the word SEC_CONFIG of i.MX (U-Boot's
// arch/arm/mach-imx), JTAG_SMODE and SJC_DISABLE of i.MX 6, and the property in which the boot loader of the Raspberry Pi
// reports that the digest of a key is burnt. A chip that is not here is unknown, never as wanted.
func fuseTable() []fuseEntry {
	imx6 := []string{"fsl,imx6q", "fsl,imx6qp", "fsl,imx6dl", "fsl,imx6sl", "fsl,imx6sll", "fsl,imx6sx", "fsl,imx6ul", "fsl,imx6ull"}
	imx8m := []string{"fsl,imx7d", "fsl,imx7s", "fsl,imx8mq", "fsl,imx8mm", "fsl,imx8mn", "fsl,imx8mp"}
	return []fuseEntry{
		{what: "secure-boot", chips: imx6, file: ocotp, off: 0x18, mask: 1 << 1, name: "SEC_CONFIG"},
		{what: "secure-boot", chips: imx8m, file: ocotp, off: 0x1c, mask: 1 << 25, name: "SEC_CONFIG"},
		{what: "secure-boot", chips: []string{"brcm,bcm2711", "brcm,bcm2712"}, file: treeDir + "/chosen/bootloader/signed", big: true, mask: 1 << 3, name: "the digest of the customer's key"},
		{what: "jtag", chips: imx6, file: ocotp, off: 0x18, mask: 3 << 22, also: 1 << 20, name: "JTAG_SMODE or SJC_DISABLE"},
	}
}

// fuseCheck wants a chip to be closed.
type fuseCheck struct{ what string }

func fuseKind() Kind {
	return Kind{
		Name: "fuse", Target: `"secure-boot" or "jtag", on the chips of a table: i.MX 6, 7 and 8M, Raspberry Pi 4 and 5`, Want: "nothing",
		New: func(target string, want []byte) (Check, error) {
			if target != "secure-boot" && target != "jtag" {
				return nil, errors.New(`target: want "secure-boot" or "jtag"`)
			}
			var none struct{}
			return fuseCheck{target}, decodeWant(want, &none)
		},
	}
}

func (c fuseCheck) Claims() []string { return nil }

func (c fuseCheck) Tightens(old Check) error {
	if o, ok := old.(fuseCheck); !ok || o != c {
		return errors.New("another target")
	}
	return nil
}

func (c fuseCheck) Check(ctx context.Context, h *Host) Verdict {
	data, err := h.Read(ctx, treeDir+"/compatible")
	if errors.Is(err, fs.ErrNotExist) {
		switch {
		case !h.Live():
			return notApplicable("which chip it is and what is burnt into it can only be read on a running system")
		case c.what == "secure-boot" && h.Exists("/sys/firmware/efi"):
			return notApplicable("the system was started by UEFI firmware, which has its own secure boot")
		}
		return Verdict{Result: Unknown, Reason: "no device tree says which chip this is, and the table has no other way to know"}
	}
	if err != nil {
		return unknown(err)
	}
	chips := strings.Split(string(bytes.TrimRight(data, "\x00")), "\x00")
	for _, e := range fuseTable() {
		for _, chip := range chips {
			if _, ok := subset([]string{chip}, e.chips); ok && e.what == c.what {
				return e.judge(ctx, h, chip)
			}
		}
	}
	return Verdict{Result: Unknown, Reason: fmt.Sprintf("where %s shows whether it is closed is not in the table", printable(strings.Join(chips, ", ")))}
}

func (e fuseEntry) judge(ctx context.Context, h *Host, chip string) Verdict {
	data, err := h.Read(ctx, e.file)
	if err == nil && len(data) < e.off+4 {
		err = fmt.Errorf("%s has only %d bytes", e.file, len(data))
	}
	if err != nil {
		return unknown(err)
	}
	word := binary.LittleEndian.Uint32(data[e.off:])
	if e.big {
		word = binary.BigEndian.Uint32(data[e.off:])
	}
	var items []Item
	if word&(e.mask|e.also) == 0 {
		items = append(items, Item{Subject: chip, Where: fmt.Sprintf("%s+%#x", e.file, e.off), Observed: e.name + " is not burnt", Expected: "burnt"})
	}
	v := judged(items, e.name+" of "+printable(chip)+" is burnt", treeDir+"/compatible", e.file)
	v.Implementation = printable(chip)
	return v
}

func (c fuseCheck) Fix(context.Context, *Host, func(string) bool) ([]Change, error) {
	return nil, fmt.Errorf("a fuse is burnt in the factory: %w", ErrNoFix)
}
