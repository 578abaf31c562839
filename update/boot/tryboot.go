// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/backstay/backstay/update"
)

// TrybootOptions says where a Raspberry Pi's boot choice is.
type TrybootOptions struct {
	Path     string          // autoboot.txt, in the first partition
	Tree     string          // what the firmware says about this start; /proc/device-tree/chosen/bootloader
	Slots    []update.SlotID // two
	Names    []string        // numbers of their boot partitions
	Attempts int             // reported for a slot that is kept
}

// Tryboot is the boot loader of a Raspberry Pi. It implements update.Bootloader. The file autoboot.txt names the partition to
// start from; lines under [tryboot] count only if the system asked for it in its reboot(2), and only for one start (see
// "autoboot.txt" in the documentation of config.txt):
//
//	[all]
//	tryboot_a_b=1
//	boot_partition=2
//	[tryboot]
//	boot_partition=3
//
// Here a trial is armed while the two numbers differ. A slot is disarmed by having them equal, so that nobody's tryboot starts
// it. Nothing else of the file changes, and not its length: one sector is overwritten, which has the old bytes or the new.
type Tryboot struct {
	names
	medium   medium
	path     string
	tree     string
	attempts int
}

// maxAutoboot is the length the firmware reads.
const maxAutoboot = 512

// trybootArgument makes the firmware take the lines under [tryboot] at the next start.
const trybootArgument = "0 tryboot"

// OpenTryboot checks the options. It reads and writes nothing.
func OpenTryboot(o TrybootOptions) (*Tryboot, error) { return openTryboot(o, onDisk) }

func openTryboot(o TrybootOptions, m medium) (*Tryboot, error) {
	n, err := newNames(o.Slots, o.Names)
	if err != nil {
		return nil, err
	}
	if len(o.Slots) != 2 {
		return nil, fmt.Errorf("open boot loader: %w: tryboot knows two slots, not %d", update.ErrSetup, len(o.Slots))
	}
	for i, name := range n.names {
		if name == "" || len(name) > 2 || strings.Trim(name, "0123456789") != "" || name[0] == '0' {
			return nil, fmt.Errorf("open boot loader: %w: slot %s: %q is not the number of a partition", update.ErrSetup, o.Slots[i], name)
		}
	}
	return &Tryboot{names: n, medium: m, path: o.Path, tree: o.Tree, attempts: o.Attempts}, nil
}

// autoboot is the lines of the file.
type autoboot []string

// section returns the filter of a line that is one.
func section(line string) (string, bool) {
	line = strings.TrimSpace(line)
	if len(line) < 2 || line[0] != '[' || line[len(line)-1] != ']' {
		return "", false
	}
	return strings.ToLower(line[1 : len(line)-1]), true
}

// last returns the last line that sets a key under a filter, -1 if none does.
func (a autoboot) last(filter, key string) int {
	now, found := "all", -1
	for i, line := range a {
		if s, ok := section(line); ok {
			now = s
			continue
		}
		name, _, ok := strings.Cut(line, "=")
		if ok && now == filter && strings.TrimSpace(name) == key {
			found = i
		}
	}
	return found
}

func (a autoboot) value(i int) string {
	if i < 0 {
		return ""
	}
	_, v, _ := strings.Cut(a[i], "=")
	return strings.TrimSpace(v)
}

// partitions returns what is started without and with a tryboot, as the firmware does: of all lines that count the last.
func (a autoboot) partitions() (normal, try string, err error) {
	for i, line := range a {
		if s, ok := section(line); ok && !slices.Contains([]string{"all", "none", "tryboot"}, s) {
			return "", "", fmt.Errorf("line %d: filter [%s] is unknown in autoboot.txt", i+1, s)
		}
	}
	if a.value(a.last("all", "tryboot_a_b")) != "1" {
		return "", "", errors.New("tryboot_a_b=1 is missing, without which a tryboot does not change the partition")
	}
	all, one := a.last("all", "boot_partition"), a.last("tryboot", "boot_partition")
	if all < 0 {
		return "", "", errors.New("boot_partition is missing under [all]")
	}
	if one > all {
		return a.value(all), a.value(one), nil
	}
	return a.value(all), a.value(all), nil
}

// set returns the lines with both partitions changed.
func (a autoboot) set(normal, try string) autoboot {
	out := slices.Clone(a)
	all, one := a.last("all", "boot_partition"), a.last("tryboot", "boot_partition")
	out[all] = "boot_partition=" + normal
	if one > all {
		out[one] = "boot_partition=" + try
		return out
	}
	return append(out, "[tryboot]", "boot_partition="+try)
}

func (t *Tryboot) load() (raw []byte, lines autoboot, normal, try int, err error) {
	raw, err = t.medium.readAll(t.path, maxAutoboot)
	if err != nil {
		return nil, nil, 0, 0, err
	}
	lines = strings.Split(strings.TrimRight(strings.ReplaceAll(string(raw), "\r\n", "\n"), "\n"), "\n")
	n, y, err := lines.partitions()
	if err == nil {
		normal, try = slices.Index(t.names.names, n), slices.Index(t.names.names, y)
		if normal < 0 || try < 0 {
			err = fmt.Errorf("boot_partition is %s, with tryboot %s; the slots are %s", n, y, strings.Join(t.names.names, " and "))
		}
	}
	if err != nil {
		return nil, nil, 0, 0, fmt.Errorf("%s: %w: %w", t.path, update.ErrSetup, err)
	}
	return raw, lines, normal, try, nil
}

// store writes the partitions of two slots.
func (t *Tryboot) store(raw []byte, lines autoboot, normal, try int) error {
	next := lines.set(t.names.names[normal], t.names.names[try])
	text := []byte(strings.Join(next, "\n") + "\n")
	if len(text) > maxAutoboot {
		return fmt.Errorf("%s: %w: it would have %d bytes, the firmware reads %d", t.path, update.ErrSetup, len(text), maxAutoboot)
	}
	if grow := len(text) - len(raw); grow > 0 {
		// A file that gets longer is two writes, of its data and of its directory entry. Empty lines at its end mean nothing, so
		// whatever of them is there after a cut, it says what it said.
		longer := append(bytes.Clone(raw), bytes.Repeat([]byte("\n"), grow)...)
		if err := t.medium.extend(t.path, longer); err != nil {
			return err
		}
		raw = longer
	}
	text = append(text, bytes.Repeat([]byte("\n"), len(raw)-len(text))...)
	return t.medium.overwrite(t.path, 0, text)
}

// Disarm makes sure that a slot is not started, with or without a tryboot.
func (t *Tryboot) Disarm(id update.SlotID) error {
	return t.change("disarm slot", id, func(i, normal, _ int) (int, int, error) {
		if normal == i {
			return 0, 0, onlySlot(id)
		}
		return normal, normal, nil
	})
}

// Try arms a trial. It takes place when the restart is asked for with RebootArgument, once.
func (t *Tryboot) Try(id update.SlotID, _ int) error {
	return t.change("try slot", id, func(i, _, _ int) (int, int, error) { return 1 - i, i, nil })
}

// Keep makes a slot the default, and ends a trial.
func (t *Tryboot) Keep(id update.SlotID) error {
	return t.change("keep slot", id, func(i, _, _ int) (int, int, error) { return i, i, nil })
}

func (t *Tryboot) change(what string, id update.SlotID, f func(i, normal, try int) (int, int, error)) error {
	raw, lines, normal, try, err := t.load()
	i := t.index(id)
	if err == nil && i < 0 {
		err = unknownSlot(id)
	}
	var n, y int
	if err == nil {
		n, y, err = f(i, normal, try)
	}
	if err == nil && (n != normal || y != try) {
		err = t.store(raw, lines, n, y)
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", what, id, err)
	}
	return nil
}

// RebootArgument is what a restart has to be asked for with: the empty string, or what makes the firmware try a slot.
func (t *Tryboot) RebootArgument() (string, error) {
	_, _, normal, try, err := t.load()
	if err != nil || normal == try {
		return "", err
	}
	return trybootArgument, nil
}

// State returns what the firmware would do. While the running system is the one on trial, the trial has been taken.
func (t *Tryboot) State() (update.BootState, error) {
	_, _, normal, try, err := t.load()
	if err != nil {
		return update.BootState{}, fmt.Errorf("read boot choice: %w", err)
	}
	taken, err := t.cell("tryboot")
	if err != nil {
		return update.BootState{}, err
	}
	a, b := t.slots[normal], t.slots[1-normal]
	s := update.BootState{Primary: a, Order: []update.SlotID{a}, Left: map[update.SlotID]int{a: t.attempts, b: 0}}
	if normal != try {
		s.Order, s.Trial = []update.SlotID{b, a}, true
		if taken == 0 {
			s.Primary, s.Left[b] = b, 1
		}
	}
	return s, nil
}

// cell reads a number of the device tree, 0 if the firmware gives none.
func (t *Tryboot) cell(name string) (uint32, error) {
	b, err := os.ReadFile(filepath.Join(t.tree, name))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil || len(b) != 4 {
		return 0, fmt.Errorf("read device tree, %s: %w", name, errors.Join(err, shortWrite(len(b), 4)))
	}
	return binary.BigEndian.Uint32(b), nil
}
