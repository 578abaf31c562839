// SPDX-License-Identifier: Apache-2.0

package boot_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"maps"
	"slices"
	"testing"

	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/boot"
)

func open(t *testing.T, b *bed, o boot.Options) *boot.UBoot {
	t.Helper()
	o.Env = b.config
	u, err := boot.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// writes counts the copies whose bytes changed.
func writes(t *testing.T, b *bed, f func() error) int {
	t.Helper()
	before := [][]byte{bytes.Clone(b.raw(0)), bytes.Clone(b.raw(1))}
	if err := f(); err != nil {
		t.Fatal(err)
	}
	n := 0
	for i := range before {
		if !bytes.Equal(before[i], b.raw(i)) {
			n++
		}
	}
	return n
}

type step struct {
	name string
	do   func(u *boot.UBoot) error
	want []string
}

// play takes the steps one after the other. Each is one write, and none when it is repeated.
func play(t *testing.T, b *bed, u *boot.UBoot, steps []step) {
	t.Helper()
	for _, s := range steps {
		same := slices.Equal(b.load().All(), s.want)
		if n := writes(t, b, func() error { return s.do(u) }); n != 1 && !same {
			t.Errorf("%s: %d writes, not one", s.name, n)
		}
		b.want(s.want...)
		if n := writes(t, b, func() error { return s.do(u) }); n != 0 {
			t.Errorf("%s again: %d writes, not none", s.name, n)
		}
	}
}

func TestRAUC(t *testing.T) {
	b := newBed(t, 2, 0x200, 0).create(binary.LittleEndian, "bootcmd=run x", "BOOT_ORDER=A B", "BOOT_A_LEFT=2", "BOOT_B_LEFT=3", "end=1")
	u := open(t, b, boot.Options{Convention: boot.RAUC})
	play(t, b, u, []step{
		{"keep A", func(u *boot.UBoot) error { return u.Keep("A") },
			[]string{"bootcmd=run x", "BOOT_ORDER=A B", "BOOT_A_LEFT=3", "BOOT_B_LEFT=3", "end=1"}},
		{"disarm B", func(u *boot.UBoot) error { return u.Disarm("B") },
			[]string{"bootcmd=run x", "BOOT_ORDER=A", "BOOT_A_LEFT=3", "BOOT_B_LEFT=0", "end=1"}},
		{"try B", func(u *boot.UBoot) error { return u.Try("B", 2) },
			[]string{"bootcmd=run x", "BOOT_ORDER=B A", "BOOT_A_LEFT=3", "BOOT_B_LEFT=2", "end=1"}},
		{"keep B", func(u *boot.UBoot) error { return u.Keep("B") },
			[]string{"bootcmd=run x", "BOOT_ORDER=B A", "BOOT_A_LEFT=3", "BOOT_B_LEFT=3", "end=1"}},
		{"disarm A", func(u *boot.UBoot) error { return u.Disarm("A") },
			[]string{"bootcmd=run x", "BOOT_ORDER=B", "BOOT_A_LEFT=0", "BOOT_B_LEFT=3", "end=1"}},
	})
	var no *update.Refusal
	if err := u.Disarm("B"); !errors.As(err, &no) || no.Code != "only-slot" {
		t.Errorf("the only slot was disarmed: %v", err)
	}
	s, err := u.State()
	if err != nil || s.Primary != "B" || !slices.Equal(s.Order, []update.SlotID{"B"}) || s.Left["B"] != 3 {
		t.Errorf("state %+v, %v", s, err)
	}
}

// TestRAUCDefaults holds what a boot script does with an environment that has no such variables yet.
func TestRAUCDefaults(t *testing.T) {
	b := newBed(t, 2, 0x100, 0).create(binary.LittleEndian, "x=1")
	u := open(t, b, boot.Options{Convention: boot.RAUC})
	s, err := u.State()
	if err != nil || s.Primary != "A" || !maps.Equal(s.Left, map[update.SlotID]int{"A": 3, "B": 3}) {
		t.Errorf("state %+v, %v", s, err)
	}
	play(t, b, u, []step{{"disarm B", func(u *boot.UBoot) error { return u.Disarm("B") }, []string{"x=1", "BOOT_ORDER=A", "BOOT_B_LEFT=0"}}})
}

func TestRAUCRefuses(t *testing.T) {
	b := newBed(t, 2, 0x100, 0).create(binary.LittleEndian, "BOOT_ORDER=A B", "BOOT_A_LEFT=0", "BOOT_B_LEFT=1")
	u := open(t, b, boot.Options{Convention: boot.RAUC})
	if s, err := u.State(); err != nil || s.Primary != "B" {
		t.Errorf("state %+v, %v", s, err)
	}
	for name, err := range map[string]error{
		"last slot with attempts": u.Disarm("B"), "no attempts": u.Try("B", 0), "ten attempts": u.Try("B", 10),
		"unknown slot": u.Try("C", 3), "unknown kept": u.Keep("C"), "unknown disarmed": u.Disarm("C"),
	} {
		if err == nil {
			t.Errorf("%s: was done", name)
		}
	}
	b.want("BOOT_ORDER=A B", "BOOT_A_LEFT=0", "BOOT_B_LEFT=1")
	b.set("BOOT_B_LEFT", "many")
	if _, err := u.State(); err == nil {
		t.Error("a count that is none was read")
	}
	if err := u.Keep("B"); err != nil {
		t.Errorf("a broken count cannot be repaired: %v", err)
	}
	ro := newBed(t, 2, 0x100, 0).create(binary.LittleEndian, ".flags=BOOT_ORDER:sr", "BOOT_ORDER=A B", "BOOT_A_LEFT=3", "BOOT_B_LEFT=3")
	if err := open(t, ro, boot.Options{Convention: boot.RAUC}).Disarm("B"); err == nil {
		t.Error("a read-only variable was written")
	}
}

func TestBootcount(t *testing.T) {
	b := newBed(t, 2, 0x200, 0).create(binary.LittleEndian, "mender_boot_part=2", "mender_boot_part_hex=2", "upgrade_available=0", "bootcount=0", "bootlimit=1")
	u := open(t, b, boot.Options{Convention: boot.Bootcount})
	trial := []string{"mender_boot_part=3", "mender_boot_part_hex=3", "upgrade_available=1", "bootcount=0", "bootlimit=3"}
	play(t, b, u, []step{
		{"try B", func(u *boot.UBoot) error { return u.Try("B", 3) }, trial},
		{"keep B", func(u *boot.UBoot) error { return u.Keep("B") },
			[]string{"mender_boot_part=3", "mender_boot_part_hex=3", "upgrade_available=0", "bootcount=0", "bootlimit=3"}},
		{"disarm A", func(u *boot.UBoot) error { return u.Disarm("A") },
			[]string{"mender_boot_part=3", "mender_boot_part_hex=3", "upgrade_available=0", "bootcount=0", "bootlimit=3"}},
		{"try A", func(u *boot.UBoot) error { return u.Try("A", 1) },
			[]string{"mender_boot_part=2", "mender_boot_part_hex=2", "upgrade_available=1", "bootcount=0", "bootlimit=1"}},
		{"disarm B ends the trial", func(u *boot.UBoot) error { return u.Disarm("B") },
			[]string{"mender_boot_part=2", "mender_boot_part_hex=2", "upgrade_available=0", "bootcount=0", "bootlimit=1"}},
	})
	if err := u.Disarm("A"); err == nil {
		t.Error("the slot to be started was disarmed")
	}
	for _, v := range []struct {
		count   string
		primary update.SlotID
		left    int
	}{{"0", "A", 2}, {"1", "A", 1}, {"2", "B", 0}, {"9", "B", 0}} {
		c := newBed(t, 2, 0x200, 0).create(binary.LittleEndian, "mender_boot_part=2", "mender_boot_part_hex=2", "upgrade_available=1", "bootcount="+v.count, "bootlimit=2")
		s, err := open(t, c, boot.Options{Convention: boot.Bootcount}).State()
		if err != nil || s.Primary != v.primary || s.Left["A"] != v.left || !s.Trial {
			t.Errorf("count %s: %+v, %v", v.count, s, err)
		}
	}
	b.set("mender_boot_part_hex", "3")
	if _, err := u.State(); err == nil {
		t.Error("two variables that disagree were read")
	}
}

// TestChoice holds a board with a variable of its own.
func TestChoice(t *testing.T) {
	b := newBed(t, 2, 0x100, 0).create(binary.LittleEndian, "rootpart=p5")
	choice := []boot.Variable{{Name: "rootpart", Values: map[update.SlotID]string{"left": "p5", "right": "p6"}}}
	u := open(t, b, boot.Options{Convention: boot.Bootcount, Slots: []update.SlotID{"left", "right"}, Choice: choice})
	play(t, b, u, []step{{"try right", func(u *boot.UBoot) error { return u.Try("right", 2) },
		[]string{"rootpart=p6", "upgrade_available=1", "bootcount=0", "bootlimit=2"}}})
	s, err := u.State()
	if err != nil || s.Primary != "right" || s.Left["right"] != 2 {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestOpenRefuses(t *testing.T) {
	same := []boot.Variable{{Name: "p", Values: map[update.SlotID]string{"A": "1", "B": "1"}}}
	for name, o := range map[string]boot.Options{
		"no convention":    {},
		"ten attempts":     {Convention: boot.RAUC, Attempts: 10},
		"one slot twice":   {Convention: boot.RAUC, Slots: []update.SlotID{"A", "A"}},
		"slot with space":  {Convention: boot.RAUC, Slots: []update.SlotID{"A", "B C"}},
		"three slots":      {Convention: boot.Bootcount, Slots: []update.SlotID{"A", "B", "C"}},
		"no way to choose": {Convention: boot.Bootcount, Choice: same},
	} {
		if _, err := boot.Open(o); !errors.Is(err, update.ErrSetup) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
