// SPDX-License-Identifier: Apache-2.0

package boot_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"testing"

	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/boot"
)

// The power-cut test of the U-Boot environment: every change of two updates, cut at every step of every storage, in every
// convention. After each cut U-Boot starts, and starts again as if nothing it chose came up; every slot it chooses must hold a
// whole image. Then the change is made again and must arrive.

// board is a device with a store, a boot script and two slots.
type board struct {
	t      *testing.T
	s      store
	script bootScript
	order  binary.ByteOrder
	u      *boot.UBoot
	safe   bool // a cut leaves the old environment or the new one, never none
	change func(c boot.Config, f func(*boot.Env) error) error
	whole  map[update.SlotID]bool
	cuts   int
	found  []string // violations
	over   bool     // a mistake has led to where the story does not go on
}

// read is what U-Boot has in memory, and which copy it is from; -1 for what is compiled in.
func (b *board) read(s store) (vars map[string]string, now int, flags byte) {
	n := len(s.config().Areas)
	if n == 1 {
		if v := ubootVars(s.raw(0), 4, b.order); v != nil {
			return v, 0, 0
		}
		return maps.Clone(b.script.defaults), -1, 0
	}
	var ok [2]bool
	var all [2]map[string]string
	var fl [2]byte
	for i := range n {
		raw := s.raw(i)
		all[i] = ubootVars(raw, 5, b.order)
		if ok[i] = all[i] != nil; ok[i] {
			fl[i] = raw[4]
		}
	}
	now = ubootPick(ok, fl, s.nor())
	if now < 0 {
		return maps.Clone(b.script.defaults), -1, 0
	}
	return all[now], now, fl[now]
}

// start is one start of U-Boot, with its saveenv.
func (b *board) start(s store) update.SlotID {
	vars, now, flags := b.read(s)
	before := maps.Clone(vars)
	slot := b.script.start(vars)
	if now >= 0 && maps.Equal(before, vars) {
		return slot
	}
	head, to := 4, 0
	if len(s.config().Areas) == 2 {
		head, to, flags = 5, 1-max(0, now), flags+1
		if s.nor() {
			flags = 1
		}
	}
	s.save(to, ubootRaw(vars, envSize, head, flags, b.order), max(0, now))
	return slot
}

// check starts the board again and again, as if nothing came up.
func (b *board) check(s store, when string) {
	s = s.picture()
	for n := range 9 {
		slot := b.start(s)
		if slot != "" && !b.whole[slot] || slot == "" && n == 0 {
			b.found = append(b.found, fmt.Sprintf("%s: start %d chooses slot %q, which holds no whole image", when, n, slot))
			return
		}
	}
}

// do makes a change, cut everywhere, and then whole.
func (b *board) do(what string, id update.SlotID) {
	f := func(e *boot.Env) error { return b.u.Transition(e, what, id) }
	old, _, _ := b.read(b.s)
	dry := b.s.picture()
	if b.over = b.over || len(b.found) > 20; b.over {
		return
	}
	if err := b.change(dry.config(), f); err != nil {
		b.found, b.over = append(b.found, fmt.Sprintf("%s %s: %v", what, id, err)), true
		return
	}
	total := dry.steps()
	dry.crash(0)
	fresh, now, _ := b.read(dry)
	b.check(dry, fmt.Sprintf("after %s %s", what, id))
	for cut := range total {
		for tear := range b.s.tears() {
			b.cuts++
			when := fmt.Sprintf("%s %s cut at %d of %d, tear %d", what, id, cut, total, tear)
			c := b.s.picture()
			c.arm(cut, tear)
			err := b.change(c.config(), f)
			c.crash(tear)
			if err == nil {
				b.found = append(b.found, when+": it was not cut")
			}
			vars, at, _ := b.read(c)
			if b.safe && (at < 0 || !maps.Equal(vars, old) && !maps.Equal(vars, fresh)) {
				b.found = append(b.found, when+": the environment is neither the old one nor the new one")
			}
			b.check(c, when)
			b.again(c, f, fresh, when)
		}
	}
	if now < 0 || !maps.Equal(fresh, b.want(f)) {
		b.found = append(b.found, fmt.Sprintf("%s %s: it returned, and a cut then takes it back", what, id))
	}
	if err := b.change(b.s.config(), f); err != nil {
		b.found = append(b.found, fmt.Sprintf("%s %s: %v", what, id, err))
	}
	b.s.crash(1)
}

// want is the environment as a change makes it in memory.
func (b *board) want(f func(*boot.Env) error) map[string]string {
	vars := map[string]string{}
	_ = boot.UpdateWrong(b.s.picture().config(), f, func(e *boot.Env) error {
		for _, v := range e.All() {
			name, value, _ := bytes.Cut([]byte(v), []byte("="))
			vars[string(name)] = string(value)
		}
		return nil
	})
	if len(vars) == 0 { // nothing to change
		vars, _, _ = b.read(b.s)
	}
	return vars
}

// again makes the change after the cut, as the agent does when it is back. Without an environment it refuses; the boot
// loader's next saveenv makes one.
func (b *board) again(c store, f func(*boot.Env) error, fresh map[string]string, when string) {
	_, at, _ := b.read(c)
	err := b.change(c.config(), f)
	if at < 0 {
		if !errors.Is(err, update.ErrSetup) {
			b.found = append(b.found, fmt.Sprintf("%s: without an environment: %v", when, err))
		}
		return
	}
	vars, at, _ := b.read(c)
	if err != nil || at < 0 || b.safe && !maps.Equal(vars, fresh) {
		b.found = append(b.found, fmt.Sprintf("%s: made again: %v", when, err))
	}
	b.check(c, when+", made again")
}

// life is two updates: one that is kept, and one whose image never comes up.
func (b *board) life() {
	b.whole = map[update.SlotID]bool{"A": true, "B": true}
	b.do("keep", "A")
	b.do("disarm", "B")
	b.whole["B"] = false
	b.check(b.s, "while B is written")
	b.do("disarm", "B")
	b.whole["B"] = true
	b.do("try", "B")
	if slot := b.start(b.s); slot != "B" {
		b.found = append(b.found, fmt.Sprintf("the trial of B starts %q", slot))
	}
	b.do("keep", "B")
	b.do("disarm", "A")
	b.whole["A"] = false
	b.check(b.s, "while A is written")
	b.whole["A"] = true
	b.do("try", "A")
	var last update.SlotID
	for range 4 {
		last = b.start(b.s)
	}
	if last != "B" {
		b.found = append(b.found, fmt.Sprintf("after three starts of A that fail it is %q's turn", last))
	}
	b.do("keep", "B")
	b.do("disarm", "A")
}

type convention struct {
	script bootScript
	o      boot.Options
	vars   []string
}

func conventions() []convention {
	part := []boot.Variable{{Name: "rootpart", Values: map[update.SlotID]string{"A": "1", "B": "2"}}}
	// The variables are in other sectors than the checksum, also after U-Boot has sorted them.
	long := "aa=" + string(bytes.Repeat([]byte("long "), 200))
	return []convention{
		{raucScript, boot.Options{Convention: boot.RAUC}, []string{"BOOT_ORDER=A B", "BOOT_A_LEFT=2", "BOOT_B_LEFT=3", "AA" + long}},
		{menderScript, boot.Options{Convention: boot.Mender}, []string{long, "mender_boot_part=2", "mender_boot_part_hex=2", "upgrade_available=0", "bootcount=0", "bootlimit=1"}},
		{swupdateScript, boot.Options{Convention: boot.Bootcount, Choice: part, SWUpdate: true}, []string{long, "rootpart=1", "recovery_status=in_progress"}},
	}
}

func newBoard(t *testing.T, c convention, k cutCase, order binary.ByteOrder) *board {
	t.Helper()
	b := &board{t: t, s: k.make(), script: c.script, order: order, safe: k.safe, change: boot.Update}
	if err := boot.Create(b.s.config(), order, c.vars); err != nil {
		t.Fatal(err)
	}
	b.s.crash(1)
	u, err := boot.Open(c.o)
	if err != nil {
		t.Fatal(err)
	}
	b.u = u
	return b
}

// TestCutUBoot plays every storage with one convention, and with all of them in the long suite (`make cut`).
func TestCutUBoot(t *testing.T) {
	total, all := 0, os.Getenv("BACKSTAY_LONG") == "1"
	want := map[bool]int{false: 1500, true: 6000}[all]
	some := 3
	if os.Getenv("BACKSTAY_TEST_EMULATED") != "" {
		some, want = 9, 300
	}
	for n, c := range conventions() {
		for i, k := range cutStores {
			if !all && i%some != n {
				continue
			}
			t.Run(c.script.name+" on "+k.name, func(t *testing.T) {
				b := newBoard(t, c, k, []binary.ByteOrder{binary.LittleEndian, binary.BigEndian}[i%2])
				b.life()
				for _, f := range b.found[:min(5, len(b.found))] {
					t.Error(f)
				}
				total += b.cuts
			})
		}
	}
	t.Logf("%d cuts", total)
	if total < want {
		t.Errorf("only %d cuts, not %d", total, want)
	}
}

// TestCutUBootMistakes holds that the test above sees what it is for.
func TestCutUBootMistakes(t *testing.T) {
	for n, c := range conventions() {
		if os.Getenv("BACKSTAY_LONG") != "1" && n != 0 {
			break
		}
		for _, m := range []struct {
			name  string
			every int
			on    []int
		}{
			{"no sync", -1, []int{0, 1, 2}},
			{"the current copy is written", 0, []int{0, 1, 4, 6, 8, 9}},
			{"both copies are written", 2, []int{0, 1}},
			{"the flags stay", 0, []int{1, 6, 9}},
		} {
			for _, i := range m.on {
				k := cutStores[i]
				b := newBoard(t, c, k, binary.LittleEndian)
				if d, ok := b.s.(*diskStore); ok {
					d.every = m.every
				}
				if save := boot.Mistakes[m.name]; save != nil {
					b.change = func(c boot.Config, f func(*boot.Env) error) error { return boot.UpdateWrong(c, f, save) }
				}
				b.life()
				if len(b.found) == 0 {
					t.Errorf("%s, %s on %s: nobody noticed", m.name, c.script.name, k.name)
				} else {
					t.Logf("%s, %s on %s: %d, as %s", m.name, c.script.name, k.name, len(b.found), b.found[0])
				}
			}
		}
	}
}
