// SPDX-License-Identifier: Apache-2.0

package boot_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/boot"
)

// counting is a board whose U-Boot counts in a file.
type counting struct {
	t     *testing.T
	d     *diskStore
	path  string
	whole map[update.SlotID]bool
	cuts  int
}

func (c *counting) put(raw []byte) {
	c.t.Helper()
	if err := os.WriteFile(c.path, raw, 0o600); err != nil {
		c.t.Fatal(err)
	}
}

func (c *counting) get() []byte {
	c.t.Helper()
	raw, err := os.ReadFile(c.path)
	if err != nil || len(raw) != 4 {
		c.t.Fatalf("% x, %v", raw, err)
	}
	return raw
}

// check starts again and again: U-Boot counts in the file, and above the limit its altbootcmd starts the other slot.
func (c *counting) check(s store, counter []byte, when string) {
	c.t.Helper()
	b := &board{t: c.t, order: native(), script: swupdateScript}
	count := int(counter[2])
	for range 9 {
		vars, _, _ := b.read(s)
		if counter[3] == 1 {
			count++
		}
		slot := map[string]update.SlotID{"1": "A", "2": "B"}[vars["rootpart"]]
		if limit := decCount(vars["bootlimit"]); limit > 0 && count > limit {
			slot = map[update.SlotID]update.SlotID{"A": "B", "B": "A"}[slot]
		}
		if !c.whole[slot] {
			c.t.Fatalf("%s: slot %q is started, which holds no whole image", when, slot)
		}
	}
}

func (c *counting) run(s store, f func(u *boot.UBoot) error) error {
	part := []boot.Variable{{Name: "rootpart", Values: map[update.SlotID]string{"A": "1", "B": "2"}}}
	u, err := boot.Open(boot.Options{Env: s.config(), Convention: boot.Bootcount, Choice: part, Counter: c.path})
	if err != nil {
		c.t.Fatal(err)
	}
	return f(u)
}

// do makes a change, cut at every step of the environment, with the counter as it was then, as it was before, and, once the
// environment is written, as it is to become.
func (c *counting) do(what string, f func(u *boot.UBoot) error) {
	c.t.Helper()
	before, dry := c.get(), c.d.picture()
	if err := c.run(dry, f); err != nil {
		c.t.Fatalf("%s: %v", what, err)
	}
	after, total := c.get(), dry.steps()
	for cut := range total + 1 {
		for tear := range c.d.tears() {
			c.put(before)
			s := c.d.picture()
			s.arm(cut, tear)
			_ = c.run(s, f)
			s.crash(tear)
			now := c.get()
			when := fmt.Sprintf("%s cut at %d of %d, tear %d", what, cut, total, tear)
			c.check(s, now, when)
			c.check(s, before, when+", counter not written")
			if cut == total || bytes.Equal(now, after) {
				c.check(s, after, when+", counter written")
			}
			c.cuts++
		}
	}
	c.put(before)
	if err := c.run(c.d, f); err != nil {
		c.t.Fatalf("%s: %v", what, err)
	}
	c.d.crash(1)
}

// TestCutCounter is the power-cut test for a counter in a file: two places are written, one after the other, and the power
// goes before, in and between them.
func TestCutCounter(t *testing.T) {
	c := &counting{t: t, d: newDisk(2, true, false), path: filepath.Join(t.TempDir(), "bootcount"), whole: map[update.SlotID]bool{"A": true, "B": true}}
	if err := boot.Create(c.d.config(), native(), []string{"rootpart=1", "bootlimit=0"}); err != nil {
		t.Fatal(err)
	}
	c.d.crash(1)
	c.put([]byte{0xbd, 1, 0, 0})
	c.do("disarm B", func(u *boot.UBoot) error { return u.Disarm("B") })
	c.whole["B"] = false
	c.check(c.d, []byte{0xbd, 1, 9, 1}, "while B is written, with a counter from nowhere")
	c.whole["B"] = true
	c.do("try B", func(u *boot.UBoot) error { return u.Try("B", 2) })
	c.put([]byte{0xbd, 1, 1, 1})
	c.do("keep B", func(u *boot.UBoot) error { return u.Keep("B") })
	c.do("disarm A", func(u *boot.UBoot) error { return u.Disarm("A") })
	c.whole["A"] = false
	c.check(c.d, []byte{0xbd, 1, 200, 1}, "while A is written, with a counter from nowhere")
	if c.cuts < 100 {
		t.Errorf("only %d cuts", c.cuts)
	}
}
