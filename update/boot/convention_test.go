// SPDX-License-Identifier: Apache-2.0

package boot_test

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/boot"
)

// TestMender holds Mender's variables with partitions whose numbers differ in decimal and hexadecimal.
func TestMender(t *testing.T) {
	b := newBed(t, 2, 0x200, 0).create(binary.LittleEndian, "mender_boot_part=10", "mender_boot_part_hex=a", "upgrade_available=0", "bootcount=0", "bootlimit=1")
	u := open(t, b, boot.Options{Convention: boot.Mender, Names: []string{"10", "11"}})
	play(t, b, u, []step{
		{"try B", func(u *boot.UBoot) error { return u.Try("B", 1) },
			[]string{"mender_boot_part=11", "mender_boot_part_hex=b", "upgrade_available=1", "bootcount=0", "bootlimit=1"}},
		{"keep B", func(u *boot.UBoot) error { return u.Keep("B") },
			[]string{"mender_boot_part=11", "mender_boot_part_hex=b", "upgrade_available=0", "bootcount=0", "bootlimit=1"}},
	})
	if s, err := u.State(); err != nil || s.Primary != "B" || s.Left["B"] != 3 || s.Left["A"] != 0 {
		t.Errorf("state %+v, %v", s, err)
	}
	for name, o := range map[string]boot.Options{
		"names that are no numbers": {Convention: boot.Mender, Names: []string{"a", "b"}},
		"one name":                  {Convention: boot.RAUC, Names: []string{"a"}},
		"one name for two":          {Convention: boot.RAUC, Names: []string{"a", "a"}},
		"a name with a space":       {Convention: boot.RAUC, Names: []string{"a b", "c"}},
		"a counter for RAUC":        {Convention: boot.RAUC, Counter: "/c"},
		"an empty canary":           {Convention: boot.RAUC, Canary: "x="},
		"a canary with a space":     {Convention: boot.RAUC, Canary: "x y"},
	} {
		if _, err := boot.Open(o); !errors.Is(err, update.ErrSetup) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestNames holds a boot script that calls the slots otherwise than we do.
func TestNames(t *testing.T) {
	b := newBed(t, 2, 0x200, 0).create(binary.LittleEndian, "BOOT_ORDER=system0 system1 rescue", "BOOT_system0_LEFT=3", "BOOT_system1_LEFT=3", "BOOT_rescue_LEFT=1")
	u := open(t, b, boot.Options{Convention: boot.RAUC, Names: []string{"system0", "system1"}})
	play(t, b, u, []step{
		{"disarm B", func(u *boot.UBoot) error { return u.Disarm("B") },
			[]string{"BOOT_ORDER=system0 rescue", "BOOT_system0_LEFT=3", "BOOT_system1_LEFT=0", "BOOT_rescue_LEFT=1"}},
		{"try B", func(u *boot.UBoot) error { return u.Try("B", 2) },
			[]string{"BOOT_ORDER=system1 system0 rescue", "BOOT_system0_LEFT=3", "BOOT_system1_LEFT=2", "BOOT_rescue_LEFT=1"}},
	})
	if s, err := u.State(); err != nil || s.Primary != "B" || s.Left["B"] != 2 || len(s.Order) != 2 {
		t.Errorf("state %+v, %v", s, err)
	}
	if err := u.Keep("system0"); !errors.Is(err, update.ErrSetup) {
		t.Errorf("a slot by its name in the script: %v", err)
	}
	b.set("BOOT_ORDER", "rescue system0")
	if s, err := u.State(); !errors.Is(err, update.ErrSetup) {
		t.Errorf("a slot that is not ours comes first: %+v, %v", s, err)
	}
}

// TestLeftBase holds counts as the scripts write them: RAUC's in hexadecimal, with or without 0x.
func TestLeftBase(t *testing.T) {
	for text, want := range map[string]int{"3": 3, "a": 10, "0xa": 10, "A": 10, "0": 0, "9": 9} {
		b := newBed(t, 2, 0x200, 0).create(binary.LittleEndian, "BOOT_ORDER=A B", "BOOT_A_LEFT="+text, "BOOT_B_LEFT=1")
		if s, err := open(t, b, boot.Options{Convention: boot.RAUC}).State(); err != nil || s.Left["A"] != want {
			t.Errorf("%s: %+v, %v", text, s, err)
		}
	}
}

// TestSWUpdate holds the two variables beside those of each convention, in the same write.
func TestSWUpdate(t *testing.T) {
	b := newBed(t, 2, 0x200, 0).create(binary.LittleEndian, "BOOT_ORDER=A B", "BOOT_A_LEFT=3", "BOOT_B_LEFT=3", "recovery_status=failed")
	u := open(t, b, boot.Options{Convention: boot.RAUC, SWUpdate: true})
	play(t, b, u, []step{
		{"disarm B", func(u *boot.UBoot) error { return u.Disarm("B") },
			[]string{"BOOT_ORDER=A", "BOOT_A_LEFT=3", "BOOT_B_LEFT=0", "recovery_status=failed"}},
		{"try B", func(u *boot.UBoot) error { return u.Try("B", 3) },
			[]string{"BOOT_ORDER=B A", "BOOT_A_LEFT=3", "BOOT_B_LEFT=3", "ustate=1"}},
		{"keep B", func(u *boot.UBoot) error { return u.Keep("B") },
			[]string{"BOOT_ORDER=B A", "BOOT_A_LEFT=3", "BOOT_B_LEFT=3", "ustate=0"}},
	})
	c := newBed(t, 2, 0x200, 0).create(binary.LittleEndian, "rootpart=2", "recovery_status=in_progress")
	choice := []boot.Variable{{Name: "rootpart", Values: map[update.SlotID]string{"A": "2", "B": "3"}}}
	w := open(t, c, boot.Options{Convention: boot.Bootcount, Choice: choice, SWUpdate: true})
	play(t, c, w, []step{
		{"keep A", func(u *boot.UBoot) error { return u.Keep("A") }, []string{"rootpart=2", "upgrade_available=0", "bootcount=0"}}, // and recovery_status goes
		{"try B", func(u *boot.UBoot) error { return u.Try("B", 1) },
			[]string{"rootpart=3", "upgrade_available=1", "bootcount=0", "bootlimit=1", "ustate=1"}},
	})
}

// TestCanary holds that an environment the boot loader does not use is neither believed nor written.
func TestCanary(t *testing.T) {
	mender := []string{"mender_boot_part=2", "mender_boot_part_hex=2", "mender_check_saveenv_canary=1"}
	for _, v := range []struct {
		name   string
		o      boot.Options
		vars   []string
		refuse bool
	}{
		{"none asked for", boot.Options{Convention: boot.RAUC}, start, false},
		{"set", boot.Options{Convention: boot.RAUC, Canary: "board_id"}, append(start, "board_id=7"), false},
		{"not set", boot.Options{Convention: boot.RAUC, Canary: "board_id"}, start, true},
		{"right value", boot.Options{Convention: boot.RAUC, Canary: "board_id=7"}, append(start, "board_id=7"), false},
		{"wrong value", boot.Options{Convention: boot.RAUC, Canary: "board_id=7"}, append(start, "board_id=8"), true},
		{"Mender's, saved", boot.Options{Convention: boot.Mender}, append(mender, "mender_saveenv_canary=1"), false},
		{"Mender's, not saved", boot.Options{Convention: boot.Mender}, mender, true},
		{"Mender's, not asked for", boot.Options{Convention: boot.Mender}, mender[:2], false},
		{"Mender's variables as plain ones", boot.Options{Convention: boot.Bootcount}, mender, true},
	} {
		b := newBed(t, 2, 0x200, 0).create(binary.LittleEndian, v.vars...)
		u := open(t, b, v.o)
		_, serr := u.State()
		terr := u.Try("B", 1)
		for what, err := range map[string]error{"state": serr, "try": terr} {
			if errors.Is(err, update.ErrSetup) != v.refuse || (err != nil) != v.refuse {
				t.Errorf("%s: %s: %v", v.name, what, err)
			}
		}
		if v.refuse {
			b.want(v.vars...)
		}
	}
}

// TestCounter holds U-Boot's counter in a file: the file's four bytes, and that the environment alone decides.
func TestCounter(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bootcount")
	choice := []boot.Variable{{Name: "rootpart", Values: map[update.SlotID]string{"A": "2", "B": "3"}}}
	b := newBed(t, 2, 0x200, 0).create(binary.LittleEndian, "rootpart=2", "bootlimit=0")
	u := open(t, b, boot.Options{Convention: boot.Bootcount, Choice: choice, Counter: path})
	holds := func(want string) {
		t.Helper()
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Fatalf("the counter is % x, want % x: %v", got, want, err)
		}
	}
	if s, err := u.State(); err != nil || s.Primary != "A" || s.Trial {
		t.Errorf("without a counter: %+v, %v", s, err)
	}
	if err := u.Try("B", 2); err != nil {
		t.Fatal(err)
	}
	holds("\xbd\x01\x00\x01")
	b.want("rootpart=3", "bootlimit=2")
	for count, want := range []update.BootState{{Primary: "B"}, {Primary: "B"}, {Primary: "A"}} {
		if err := os.WriteFile(path, []byte{0xbd, 1, byte(count), 1}, 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err := u.State(); err != nil || s.Primary != want.Primary || !s.Trial {
			t.Errorf("count %d: %+v, %v", count, s, err)
		}
	}
	if err := u.Keep("B"); err != nil {
		t.Fatal(err)
	}
	holds("\xbd\x01\x00\x00")
	b.want("rootpart=3", "bootlimit=0")
	for _, bad := range []string{"", "\xbd\x01\x00", "\xbd\x01\x00\x00\x00", "\xbe\x01\x00\x00", "\xbd\x02\x00\x00"} {
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := u.State(); !errors.Is(err, update.ErrSetup) || !strings.Contains(err.Error(), path) {
			t.Errorf("% x was read: %v", bad, err)
		}
	}
	// The counter is armed before the environment and means nothing until that is written: what cannot be armed changes nothing.
	broken := open(t, b, boot.Options{Convention: boot.Bootcount, Choice: choice, Counter: filepath.Join(path, "no", "such")})
	if err := broken.Try("A", 1); err == nil {
		t.Error("a trial without a counter")
	}
	b.want("rootpart=3", "bootlimit=0")
}
