// SPDX-License-Identifier: Apache-2.0

package boot_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/boot"
	"github.com/backstay/backstay/update/internal/flash"
	"github.com/backstay/backstay/update/internal/flash/flashtest"
)

func onChip(m *flashtest.MTD, areas ...boot.Area) boot.Config {
	for i := range areas {
		areas[i].Path = "/mtd"
	}
	return boot.Config{Areas: areas, Locks: []string{}}.On(boot.TestHardware{MTD: map[string]flash.MTD{"/mtd": m}})
}

func set(name, value string) func(*boot.Env) error {
	return func(e *boot.Env) error { return e.Set(name, value) }
}

// TestGeometry holds that what does not fit the flash is refused before anything is erased, with the line that says it.
func TestGeometry(t *testing.T) {
	for _, v := range []struct {
		name  string
		kind  flash.Kind
		areas []boot.Area
		want  string // "": it fits
	}{
		{"one sector", flash.NOR, []boot.Area{{Size: 0x1000}}, ""},
		{"a part of a sector", flash.NOR, []boot.Area{{Size: 0x800}}, ""},
		{"sectors of two blocks", flash.NOR, []boot.Area{{Size: 0x2000, Sector: 0x2000}, {Offset: 0x2000, Size: 0x2000, Sector: 0x2000}}, ""},
		{"offset in a sector", flash.NOR, []boot.Area{{Offset: 0x800, Size: 0x800}}, "offset 0x800"},
		{"negative offset", flash.NOR, []boot.Area{{Offset: -0x1000, Size: 0x800}}, "offset"},
		{"sector smaller than a block", flash.NOR, []boot.Area{{Size: 0x800, Sector: 0x800}}, "sector size 0x800"},
		{"too few sectors", flash.NAND, []boot.Area{{Size: 0x2000, Sectors: 1}}, "are too few"},
		{"past the end", flash.NAND, []boot.Area{{Offset: 0x7000, Size: 0x1000, Sectors: 2}}, "would end at 0x9000"},
		{"a part of a page", flash.NAND, []boot.Area{{Size: 0x300}}, "multiple of the page"},
		{"one block for two", flash.NOR, []boot.Area{{Size: 0x800, Sectors: 2}, {Offset: 0x1000, Size: 0x800}}, "share an erase block"},
		{"no flash", flash.Other, []boot.Area{{Size: 0x1000}}, "no flash"},
	} {
		m := flashtest.NewMTD(v.kind, 8, 0x1000, 0x200)
		for i := range v.areas {
			v.areas[i].Line = i + 7
		}
		c := onChip(m, v.areas...)
		c.File = "/etc/fw_env.config"
		err := boot.Create(c, binary.LittleEndian, start)
		if v.want == "" || strings.Contains(v.want, "share") {
			if err != nil {
				t.Errorf("%s: %v", v.name, err)
				continue
			}
			before := m.Power.Steps
			_, err = boot.Load(c)
			if m.Power.Steps != before {
				t.Errorf("%s: loading wrote", v.name)
			}
		} else if m.Power.Steps != 0 {
			t.Errorf("%s: it was written", v.name)
		} else {
			_, err = boot.Load(c)
			if err == nil || !strings.Contains(err.Error(), "/etc/fw_env.config line 7: ") {
				t.Errorf("%s: %v", v.name, err)
			}
		}
		if (err != nil) != (v.want != "") || err != nil && (!errors.Is(err, update.ErrSetup) || !strings.Contains(err.Error(), v.want)) {
			t.Errorf("%s: %v", v.name, err)
		}
	}
}

// TestNOR holds the boolean scheme byte for byte, that the rest of a block stays, and that a lock is lifted and put back.
func TestNOR(t *testing.T) {
	m := flashtest.NewMTD(flash.NOR, 4, 0x1000, 1)
	c := onChip(m, boot.Area{Size: 0x800}, boot.Area{Offset: 0x2000, Size: 0x800})
	if err := boot.Create(c, binary.BigEndian, start); err != nil {
		t.Fatal(err)
	}
	tail := []byte("somebody else's")
	if _, err := m.WriteAt(tail, 0x2900); err != nil {
		t.Fatal(err)
	}
	for _, b := range []int64{0, 0x2000} {
		m.Locked[b] = true
	}
	if err := boot.Update(c, set("x", "1")); err != nil {
		t.Fatal(err)
	}
	if m.Data[4] != 0 || m.Data[0x2004] != 1 {
		t.Errorf("flags are %d and %d", m.Data[4], m.Data[0x2004])
	}
	if !bytes.Equal(m.Data[0x2900:0x2900+len(tail)], tail) {
		t.Error("the rest of the block is gone")
	}
	if !m.Locked[0] || !m.Locked[0x2000] {
		t.Error("the locks are not put back")
	}
	e, err := boot.Load(c)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []byte{1, 0} {
		if err := errors.Join(e.Set("x", string('2'+rune(i))), e.Save()); err != nil {
			t.Fatal(err)
		}
		if m.Data[4] != want || m.Data[0x2004] != 1-want {
			t.Errorf("write %d: flags are %d and %d", i, m.Data[4], m.Data[0x2004])
		}
	}
	if got, err := boot.Load(c); err != nil || !slices.Equal(got.All(), append(slices.Clone(start), "x=3")) {
		t.Errorf("%v, %v", got, err)
	}
}

// TestNORErased holds that the rule of NOR flash is the one that is used: under the other, 0 would follow 0xff.
func TestNORErased(t *testing.T) {
	m := flashtest.NewMTD(flash.NOR, 2, 0x1000, 1)
	c := onChip(m, boot.Area{Size: 0x800}, boot.Area{Offset: 0x1000, Size: 0x800})
	if err := boot.Create(c, binary.LittleEndian, start); err != nil {
		t.Fatal(err)
	}
	raw, err := boot.Encode([]string{"old=1"}, 0x800, true, binary.LittleEndian)
	if err != nil {
		t.Fatal(err)
	}
	copy(m.Data[0x1000:], raw)
	m.Data[4], m.Data[0x1004] = 0xff, 0
	if e, err := boot.Load(c); err != nil || !slices.Equal(e.All(), start) {
		t.Errorf("%v", err)
	}
}

// TestActive is the table of U-Boot's env/flash.c and of fw_env.c for two intact copies on NOR flash.
func TestActive(t *testing.T) {
	for _, v := range []struct {
		a, b byte
		want int
	}{
		{1, 0, 0}, {0, 1, 1}, {1, 1, 0}, {0, 0, 0}, {0xff, 0, 0}, {0, 0xff, 1}, {1, 0xff, 1}, {0xff, 1, 0}, {0xff, 0xff, 0}, {2, 1, 0},
	} {
		if got := boot.Active(v.a, v.b); got != v.want {
			t.Errorf("%d and %d: copy %d, want %d", v.a, v.b, got, v.want)
		}
	}
}

// TestNANDBad holds that bad blocks inside the range are skipped, and that a range without enough good ones is refused.
func TestNANDBad(t *testing.T) {
	m := flashtest.NewMTD(flash.NAND, 8, 0x400, 0x200)
	m.Marked[0x400] = true
	c := onChip(m, boot.Area{Size: 0x800, Sectors: 3}, boot.Area{Offset: 0x1000, Size: 0x800, Sectors: 3})
	if err := boot.Create(c, binary.LittleEndian, start); err != nil {
		t.Fatal(err)
	}
	if err := boot.Update(c, set("x", "1")); err != nil {
		t.Fatal(err)
	}
	whole := slices.Concat(m.Data[:0x400], m.Data[0x800:0xc00])
	if v, err := boot.ParseBlock(whole, true); err != nil || !slices.Equal(v, start) || !bytes.Equal(m.Data[0x400:0x800], bytes.Repeat([]byte{0xff}, 0x400)) {
		t.Errorf("the copy is not around the bad block: %q, %v", v, err)
	}
	m.Marked[0x1400], m.Marked[0x1000] = true, true
	before := m.Power.Steps
	if e, err := boot.Load(c); err == nil {
		t.Errorf("a copy without blocks was read: %v", e.All())
	}
	if m.Power.Steps != before {
		t.Error("something was written")
	}
}

// TestUBI holds that a volume whose update was cut is a damaged copy, and that the next write heals it.
func TestUBI(t *testing.T) {
	s := newVolumes(2, true)
	c := s.config()
	if err := boot.Create(c, binary.LittleEndian, start); err != nil {
		t.Fatal(err)
	}
	s.v[1].Power.Cut(2, flashtest.Nothing)
	if err := boot.Update(c, set("x", "1")); !errors.Is(err, flashtest.ErrCut) {
		t.Fatal(err)
	}
	s.v[1].Power.On()
	if !s.v[1].Info().Damaged {
		t.Fatal("the volume is not damaged")
	}
	if e, err := boot.Load(c); err != nil || !slices.Equal(e.All(), start) {
		t.Errorf("%v", err)
	}
	if err := boot.Update(c, set("x", "1")); err != nil || s.v[1].Info().Damaged {
		t.Errorf("not healed: %v", err)
	}
	c.Areas[0].Offset = 0x1000
	if _, err := boot.Load(c); !errors.Is(err, update.ErrSetup) {
		t.Errorf("an offset in a volume: %v", err)
	}
	c.Areas[0].Offset, c.Areas[0].Size, c.Areas[1].Size = 0, 0x4000, 0x4000
	if _, err := boot.Load(c); !errors.Is(err, update.ErrSetup) || !strings.Contains(err.Error(), "0x2000 bytes") {
		t.Errorf("a volume that is too small: %v", err)
	}
}

// TestKinds holds that two copies on memories of different kinds are refused: U-Boot has one rule for both.
func TestKinds(t *testing.T) {
	nor, nand := flashtest.NewMTD(flash.NOR, 2, 0x1000, 1), flashtest.NewMTD(flash.NAND, 2, 0x1000, 0x200)
	c := boot.Config{Areas: []boot.Area{{Path: "/nor", Size: 0x1000}, {Path: "/nand", Size: 0x1000}}, Locks: []string{}}.On(
		boot.TestHardware{MTD: map[string]flash.MTD{"/nor": nor, "/nand": nand}})
	if err := boot.Create(c, binary.LittleEndian, start); err != nil {
		t.Fatal(err)
	}
	if _, err := boot.Load(c); !errors.Is(err, update.ErrSetup) || !strings.Contains(err.Error(), "different kinds") {
		t.Errorf("%v", err)
	}
}

// TestOtherFormat holds that an environment of the other format is named, and left alone: what U-Boot converts, it converts.
func TestOtherFormat(t *testing.T) {
	for _, v := range []struct {
		is, configured int
		want           string
	}{{1, 2, "the boot loader has to convert it"}, {2, 1, "is a line missing"}} {
		b := newBed(t, v.is, 0x100, 0).create(binary.LittleEndian, start...)
		raw := b.raw(0)
		other := newBed(t, v.configured, 0x100, 0)
		other.put(0, raw)
		err := boot.Update(other.config, set("x", "1"))
		if !errors.Is(err, update.ErrSetup) || !strings.Contains(err.Error(), v.want) {
			t.Errorf("%v", err)
		}
		if !bytes.Equal(other.raw(0), raw) {
			t.Error("it was written")
		}
	}
}

// TestSectors holds that a single environment in place writes only sectors that change.
func TestSectors(t *testing.T) {
	d := newDisk(1, true, false)
	c := d.config()
	if err := boot.Create(c, binary.LittleEndian, append(slices.Clone(start), "long="+strings.Repeat("x", 1200))); err != nil {
		t.Fatal(err)
	}
	p, ok := d.picture().(*diskStore)
	if !ok {
		t.Fatal("no disk")
	}
	if err := boot.Update(p.config(), set("BOOT_A_LEFT", "2")); err != nil {
		t.Fatal(err)
	}
	if p.steps() != 2 { // one sector and the sync
		t.Errorf("%d steps for a change in one sector", p.steps())
	}
}

func TestChosen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "env-config")
	if got := boot.Chosen(path); got != "" {
		t.Errorf("%q", got)
	}
	if err := os.WriteFile(path, []byte("appvar\x00"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := boot.Chosen(path); got != "appvar" {
		t.Errorf("%q", got)
	}
}
