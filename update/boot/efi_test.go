// SPDX-License-Identifier: Apache-2.0

package boot_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/backstay/backstay/testdata/testneed"
	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/boot"
)

const (
	efiGUID = "-8be4df61-93ca-11d2-aa0d-00e098032b8c"
	sdGUID  = "-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
)

func utf16z(s string) []byte {
	var b []byte
	for _, c := range append(utf16.Encode([]rune(s)), 0) {
		b = binary.LittleEndian.AppendUint16(b, c)
	}
	return b
}

// entry is the value of a Boot#### variable, with the end of a device path.
func entry(label string) []byte {
	path := []byte{0x7f, 0xff, 4, 0}
	b := binary.LittleEndian.AppendUint32(nil, 1)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(path)))
	return append(append(b, utf16z(label)...), path...)
}

func numbers(list ...uint16) []byte {
	var b []byte
	for _, n := range list {
		b = binary.LittleEndian.AppendUint16(b, n)
	}
	return b
}

// efiRig is a device with an EFI firmware, whose variables change as a whole or not at all.
type efiRig struct {
	*cutDisk
	convention string
}

func newEFIRig(d *cutDisk) cutRig {
	d.put("Boot0001"+efiGUID, entry("slot A"))
	d.put("Boot000A"+efiGUID, entry("slot B"))
	d.put("Boot0003"+efiGUID, entry("network"))
	d.put("BootOrder"+efiGUID, numbers(1, 10, 3))
	return &efiRig{d, boot.RAUC}
}

func newSystemdRig(d *cutDisk) cutRig {
	d.put("LoaderEntryDefault"+sdGUID, utf16z("slot A"))
	return &efiRig{d, boot.SystemdBoot}
}

func (r *efiRig) open() (update.Bootloader, error) {
	return boot.EFIOn(boot.EFIOptions{Convention: r.convention, Slots: []update.SlotID{"A", "B"}, Names: []string{"slot A", "slot B"}, Attempts: 3}, boot.EFIFuncs{
		GetFunc: func(name string) (uint32, []byte, error) {
			if b, ok := r.durable[name]; ok {
				return 7, b, nil
			}
			return 0, nil, fs.ErrNotExist
		},
		SetFunc: func(name string, value []byte) error {
			ok, err := r.effect()
			if ok {
				r.put(name, value)
			}
			return err
		},
		RemoveFunc: func(name string) error {
			ok, err := r.effect()
			if ok {
				delete(r.durable, name)
			}
			return err
		},
		ListFunc: func() []string { return slices.Collect(maps.Keys(r.durable)) },
	})
}

// boot plays the firmware: BootNext, deleted before it is used, or the first entry of BootOrder.
func (r *efiRig) boot(bool) (update.SlotID, error) {
	if r.convention == boot.SystemdBoot {
		name := r.durable["LoaderEntryDefault"+sdGUID]
		if once, ok := r.durable["LoaderEntryOneShot"+sdGUID]; ok {
			name = once
			delete(r.durable, "LoaderEntryOneShot"+sdGUID)
		}
		for _, id := range []update.SlotID{"A", "B"} {
			if bytes.Equal(name, utf16z("slot "+string(id))) {
				return id, nil
			}
		}
		return "", fmt.Errorf("no entry %q", name)
	}
	order := r.durable["BootOrder"+efiGUID]
	if next, ok := r.durable["BootNext"+efiGUID]; ok {
		order = slices.Concat(next, order)
		delete(r.durable, "BootNext"+efiGUID)
	}
	for ; len(order) >= 2; order = order[2:] {
		switch n := binary.LittleEndian.Uint16(order); n {
		case 1:
			return "A", nil
		case 10:
			return "B", nil
		default:
			return "", fmt.Errorf("entry %d is no slot", n)
		}
	}
	return "", errors.New("BootOrder is empty")
}

// fallBacks are the slots in BootOrder, which the firmware goes through.
func (r *efiRig) fallBacks() []update.SlotID {
	var out []update.SlotID
	for order := r.durable["BootOrder"+efiGUID]; len(order) >= 2; order = order[2:] {
		switch binary.LittleEndian.Uint16(order) {
		case 1:
			out = append(out, "A")
		case 10:
			out = append(out, "B")
		}
	}
	return out
}

// TestCutEFI cuts an update at every change of a variable.
func TestCutEFI(t *testing.T) {
	wantCuts(t, newEFIRig, "no disarm", "no keep", "try keeps")
	wantCuts(t, newSystemdRig, "no keep", "try keeps")
}

// efiFiles is a directory that stands for efivarfs.
func efiFiles(t *testing.T, order ...uint16) string {
	t.Helper()
	dir := t.TempDir()
	put := func(name string, attributes uint32, value []byte) {
		if err := os.WriteFile(filepath.Join(dir, name+efiGUID), append(binary.LittleEndian.AppendUint32(nil, attributes), value...), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("Boot0001", 7, entry("A"))
	put("Boot00BC", 7, entry("Größe B"))
	put("Boot0003", 7, entry("UEFI Shell"))
	put("BootOrder", 7, numbers(order...))
	put("BootCurrent", 6, numbers(1))
	return dir
}

// efibootmgr runs it on a directory that stands for efivarfs.
func efibootmgr(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command(testneed.Program(t, "efibootmgr", "efibootmgr"), args...)
	cmd.Env = append(os.Environ(), "EFIVARFS_PATH="+dir+"/", "LIBEFIVAR_OPS=efivarfs")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("efibootmgr %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// TestEfibootmgr makes the same changes with efibootmgr and with us, and compares all bytes; and each reads what the other wrote.
func TestEfibootmgr(t *testing.T) {
	theirs, ours := efiFiles(t, 1, 0xbc, 3), efiFiles(t, 1, 0xbc, 3)
	b := must(boot.OpenEFI(boot.EFIOptions{Path: ours, Convention: boot.RAUC, Slots: []update.SlotID{"A", "B"}, Names: []string{"Boot0001", "Größe B"}, Attempts: 3}))
	for _, s := range []struct {
		name string
		do   func() error
		tool [][]string
		want []string // in what efibootmgr prints of ours
	}{
		{"try B", func() error { return b.Try("B", 3) }, [][]string{{"-o", "0001,0003"}, {"-n", "00bc"}}, []string{"BootNext: 00BC\n", "BootOrder: 0001,0003\n"}},
		{"keep B", func() error { return b.Keep("B") }, [][]string{{"-N"}, {"-o", "00bc,0001,0003"}}, []string{"BootOrder: 00BC,0001,0003\n"}},
		{"disarm A", func() error { return b.Disarm("A") }, [][]string{{"-o", "00bc,0003"}}, []string{"BootOrder: 00BC,0003\n"}},
	} {
		if err := s.do(); err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		for _, args := range s.tool {
			if args[0] == "-o" { // a directory keeps the end of a longer value, which efivarfs does not
				if err := os.Truncate(filepath.Join(theirs, "BootOrder"+efiGUID), 4); err != nil {
					t.Fatal(err)
				}
			}
			efibootmgr(t, theirs, args...)
		}
		got := efibootmgr(t, ours)
		for _, line := range s.want {
			if !strings.Contains(got, line) {
				t.Errorf("%s: efibootmgr reads\n%s", s.name, got)
			}
		}
		for _, name := range []string{"BootOrder", "BootNext"} {
			x, errX := os.ReadFile(filepath.Join(theirs, name+efiGUID))
			y, errY := os.ReadFile(filepath.Join(ours, name+efiGUID))
			if !bytes.Equal(x, y) || errors.Is(errX, fs.ErrNotExist) != errors.Is(errY, fs.ErrNotExist) {
				t.Errorf("%s, %s: theirs %x, ours %x", s.name, name, x, y)
			}
		}
	}
	efibootmgr(t, ours, "-n", "0001")
	if s, err := b.State(); err != nil || s.Primary != "A" || !s.Trial || s.Left["B"] != 3 {
		t.Errorf("state %+v, %v", s, err)
	}
}

// TestEFITransitions holds that a transition is one change of a variable and none when repeated, and what is refused.
func TestEFITransitions(t *testing.T) {
	d := &cutDisk{durable: map[string][]byte{}}
	r := newEFIRig(d)
	b := must(r.open())
	for _, s := range []struct {
		name        string
		do          func() error
		order, next []byte
	}{
		{"disarm B", func() error { return b.Disarm("B") }, numbers(1, 3), nil},
		{"try B", func() error { return b.Try("B", 3) }, numbers(1, 3), numbers(10)},
		{"disarm B again", func() error { return b.Disarm("B") }, numbers(1, 3), nil},
		{"keep B", func() error { return b.Keep("B") }, numbers(10, 1, 3), nil},
		{"disarm A", func() error { return b.Disarm("A") }, numbers(10, 3), nil},
	} {
		before := d.effects
		if err := s.do(); err != nil || !bytes.Equal(d.durable["BootOrder"+efiGUID], s.order) || !bytes.Equal(d.durable["BootNext"+efiGUID], s.next) {
			t.Fatalf("%s: %v, order %x, next %x", s.name, err, d.durable["BootOrder"+efiGUID], d.durable["BootNext"+efiGUID])
		}
		if n := d.effects - before; n != 1 {
			t.Errorf("%s: %d changes", s.name, n)
		}
		if err := s.do(); err != nil || d.effects != before+1 {
			t.Errorf("%s, repeated: %v, %d changes", s.name, err, d.effects-before)
		}
	}
	var no *update.Refusal
	if err := b.Disarm("B"); !errors.As(err, &no) || no.Code != "only-slot" {
		t.Errorf("the only slot was disarmed: %v", err)
	}
	d.put("Boot0004"+efiGUID, entry("slot B"))
	before := d.effects
	if err := b.Try("B", 1); !errors.Is(err, update.ErrSetup) || d.effects != before {
		t.Errorf("one of two entries with the same label was taken: %v", err)
	}
	delete(d.durable, "Boot0004"+efiGUID)
	d.put("BootOrder"+efiGUID, []byte{1, 0, 3})
	if err := b.Keep("B"); !errors.Is(err, update.ErrSetup) || d.effects != before {
		t.Errorf("half a number was taken: %v", err)
	}
	for name, o := range map[string]boot.EFIOptions{
		"no directory": {Path: filepath.Join(t.TempDir(), "none"), Convention: boot.RAUC, Slots: []update.SlotID{"A", "B"}, Names: []string{"A", "B"}},
		"no entry":     {Path: efiFiles(t, 1), Convention: boot.RAUC, Slots: []update.SlotID{"A", "B"}, Names: []string{"A", "C"}},
		"one entry":    {Path: efiFiles(t, 1), Convention: boot.RAUC, Slots: []update.SlotID{"A", "B"}, Names: []string{"A", "0001"}},
	} {
		if _, err := must(boot.OpenEFI(o)).State(); !errors.Is(err, update.ErrSetup) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzLoadOption gives the parser any boot entry.
func FuzzLoadOption(f *testing.F) {
	f.Add(entry("A"))
	f.Add([]byte{1, 0, 0, 0, 0, 0, 0x41})
	f.Fuzz(func(t *testing.T, b []byte) {
		if label, err := boot.LoadOption(b); err == nil && len(label) > 3*len(b) {
			t.Fatalf("%d bytes became %q", len(b), label)
		}
	})
}
