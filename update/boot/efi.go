// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/backstay/backstay/update"
)

// SystemdBoot is the convention of systemd-boot: LoaderEntryDefault and LoaderEntryOneShot name an entry by its file.
const SystemdBoot = "systemd-boot"

// EFIOptions says how slots and boot entries go together.
type EFIOptions struct {
	Path       string // efivarfs
	Convention string // RAUC: the firmware's own BootNext and BootOrder; SystemdBoot
	Slots      []update.SlotID
	Names      []string // RAUC: label or number (0003, Boot0003) of the entry; SystemdBoot: its name, such as a.conf
	Attempts   int      // reported for a slot that is kept
}

// EFI is an EFI firmware, or systemd-boot, that keeps its choice in EFI variables. It implements update.Bootloader. A slot gets
// one attempt: BootNext and LoaderEntryOneShot are gone once they were read.
type EFI struct {
	names
	vars     efiVars
	attempts int
	plan     efiPlan
}

// efiPlan is what is read at a start.
type efiPlan interface {
	disarm(e *EFI, i int) error
	try(e *EFI, i int) error
	keep(e *EFI, i int) error
	state(e *EFI) (update.BootState, error)
}

// OpenEFI checks the options. It reads and writes nothing.
func OpenEFI(o EFIOptions) (*EFI, error) { return openEFI(o, efiDir(o.Path)) }

func openEFI(o EFIOptions, v efiVars) (*EFI, error) {
	n := names{o.Slots, o.Names}
	if len(o.Slots) < 2 || len(o.Slots) != len(o.Names) || slices.Contains(o.Names, "") {
		return nil, fmt.Errorf("open boot loader: %w: %d slots with %d names", update.ErrSetup, len(o.Slots), len(o.Names))
	}
	e := &EFI{names: n, vars: v, attempts: o.Attempts}
	switch o.Convention {
	case RAUC:
		e.plan = efiFirmware{}
	case SystemdBoot:
		if len(o.Slots) != 2 {
			return nil, fmt.Errorf("open boot loader: %w: convention %s knows two slots, not %d", update.ErrSetup, SystemdBoot, len(o.Slots))
		}
		e.plan = efiSystemdBoot{}
	default:
		return nil, fmt.Errorf("open boot loader: %w: no convention %q for EFI: %s or %s", update.ErrSetup, o.Convention, RAUC, SystemdBoot)
	}
	return e, nil
}

// Disarm makes sure that a slot is started neither by choice nor as a fall-back.
func (e *EFI) Disarm(id update.SlotID) error { return e.change("disarm slot", id, e.plan.disarm) }

// Try makes the firmware start a slot next, once.
func (e *EFI) Try(id update.SlotID, _ int) error { return e.change("try slot", id, e.plan.try) }

// Keep makes a slot the default.
func (e *EFI) Keep(id update.SlotID) error { return e.change("keep slot", id, e.plan.keep) }

// State returns what the firmware would do.
func (e *EFI) State() (update.BootState, error) {
	s, err := e.plan.state(e)
	if err != nil {
		return s, fmt.Errorf("read EFI variables: %w", err)
	}
	return s, nil
}

func (e *EFI) change(what string, id update.SlotID, f func(*EFI, int) error) error {
	i, err := e.index(id), error(nil)
	if i < 0 {
		err = unknownSlot(id)
	} else {
		err = f(e, i)
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", what, id, err)
	}
	return nil
}

// read returns a variable's value, nil if there is none.
func (e *EFI) read(name string) ([]byte, error) {
	_, b, err := e.vars.get(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return b, err
}

// write sets a variable, with the attributes it has.
func (e *EFI) write(name string, value []byte) error {
	attributes, _, err := e.vars.get(name)
	if errors.Is(err, fs.ErrNotExist) {
		attributes, err = efiAttributes, nil
	}
	if err != nil {
		return err
	}
	return e.vars.set(name, attributes, value)
}

const (
	efiBootNext  = "BootNext-" + efiGlobal
	efiBootOrder = "BootOrder-" + efiGlobal
)

// efiFirmware is the firmware's own choice, as RAUC uses it: BootNext, which the firmware deletes before it starts the entry,
// or else the first entry of BootOrder that starts. A trial is BootNext alone, so a kept slot is one that is in BootOrder.
// Each transition is one variable, except where somebody left a BootNext behind; then every step between is a choice of slots
// that may be started.
type efiFirmware struct{}

// efiChoice is the variables of a firmware, with the numbers of the slots.
type efiChoice struct {
	number []uint16 // of the slots' entries
	order  []uint16
	next   int // slot that BootNext names; -1: none of ours
	isNext bool
}

func (efiFirmware) load(e *EFI) (c efiChoice, err error) {
	if c.number, err = e.numbers(); err != nil {
		return c, err
	}
	raw, err := e.read(efiBootOrder)
	if err != nil || len(raw)%2 != 0 {
		return c, fmt.Errorf("BootOrder: %w", errors.Join(err, oddLength(raw)))
	}
	for ; len(raw) > 0; raw = raw[2:] {
		c.order = append(c.order, binary.LittleEndian.Uint16(raw))
	}
	raw, err = e.read(efiBootNext)
	c.next = -1
	if err == nil && len(raw) >= 2 {
		c.isNext, c.next = true, slices.Index(c.number, binary.LittleEndian.Uint16(raw))
	}
	return c, err
}

func oddLength(b []byte) error {
	if len(b)%2 != 0 {
		return fmt.Errorf("%w: it has %d bytes, which are no 16-bit numbers", update.ErrSetup, len(b))
	}
	return nil
}

// numbers finds the boot entry of each slot: the one with its label, or with its number.
func (e *EFI) numbers() ([]uint16, error) {
	list, err := e.vars.list()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", update.ErrSetup, err)
	}
	labels := map[uint16]string{}
	for _, name := range list {
		n, ok := bootNumber(name)
		if !ok || len(labels) == maxEFIEntries {
			continue
		}
		_, raw, err := e.vars.get(name)
		if err != nil {
			return nil, err
		}
		if label, err := loadOption(raw); err == nil { // a broken entry of somebody else is not ours to judge
			labels[n] = label
		}
	}
	out := make([]uint16, len(e.slots))
	for i, name := range e.names.names {
		n, err := findEntry(labels, name)
		if err != nil {
			return nil, fmt.Errorf("slot %s: %w: %w", e.slots[i], update.ErrSetup, err)
		}
		if slices.Contains(out[:i], n) {
			return nil, fmt.Errorf("slot %s: %w: entry Boot%04X is that of another slot", e.slots[i], update.ErrSetup, n)
		}
		out[i] = n
	}
	return out, nil
}

func findEntry(labels map[uint16]string, name string) (uint16, error) {
	var found []uint16
	for n, label := range labels {
		if label == name {
			found = append(found, n)
		}
	}
	if len(found) > 1 {
		return 0, fmt.Errorf("%d boot entries are labelled %q", len(found), name)
	}
	if len(found) == 1 {
		return found[0], nil
	}
	if n, ok := hex4(strings.TrimPrefix(name, "Boot")); ok {
		if _, ok := labels[n]; ok {
			return n, nil
		}
	}
	return 0, fmt.Errorf("no boot entry is labelled or numbered %q", name)
}

// alive reports whether a slot besides i is started without BootNext.
func (c efiChoice) alive(i int) bool {
	for o, n := range c.number {
		if o != i && slices.Contains(c.order, n) {
			return true
		}
	}
	return false
}

func (c efiChoice) without(i int) []uint16 {
	return slices.DeleteFunc(slices.Clone(c.order), func(n uint16) bool { return n == c.number[i] })
}

func (e *EFI) writeOrder(c efiChoice, order []uint16) error {
	if slices.Equal(order, c.order) {
		return nil
	}
	var b []byte
	for _, n := range order {
		b = binary.LittleEndian.AppendUint16(b, n)
	}
	return e.write(efiBootOrder, b)
}

func (f efiFirmware) disarm(e *EFI, i int) error {
	c, err := f.load(e)
	if err != nil {
		return err
	}
	if !c.alive(i) {
		return onlySlot(e.slots[i])
	}
	if c.next == i {
		if err := e.vars.remove(efiBootNext); err != nil {
			return err
		}
	}
	return e.writeOrder(c, c.without(i))
}

func (f efiFirmware) try(e *EFI, i int) error {
	c, err := f.load(e)
	if err != nil {
		return err
	}
	if c.alive(i) { // or the fall-back would be the slot that has just failed
		if err := e.writeOrder(c, c.without(i)); err != nil {
			return err
		}
	}
	if c.next == i {
		return nil
	}
	return e.write(efiBootNext, binary.LittleEndian.AppendUint16(nil, c.number[i]))
}

func (f efiFirmware) keep(e *EFI, i int) error {
	c, err := f.load(e)
	if err != nil {
		return err
	}
	if c.isNext {
		if err := e.vars.remove(efiBootNext); err != nil {
			return err
		}
	}
	return e.writeOrder(c, append([]uint16{c.number[i]}, c.without(i)...))
}

func (f efiFirmware) state(e *EFI) (update.BootState, error) {
	c, err := f.load(e)
	s := update.BootState{Left: map[update.SlotID]int{}}
	if err != nil {
		return s, err
	}
	if c.next >= 0 {
		s.Order, s.Trial, s.Left[e.slots[c.next]] = append(s.Order, e.slots[c.next]), true, 1
	}
	for _, n := range c.order {
		if i := slices.Index(c.number, n); i >= 0 && !slices.Contains(s.Order, e.slots[i]) {
			s.Order, s.Left[e.slots[i]] = append(s.Order, e.slots[i]), e.attempts
		}
	}
	for _, id := range e.slots {
		if !slices.Contains(s.Order, id) {
			s.Left[id] = 0
		}
	}
	if len(s.Order) > 0 {
		s.Primary = s.Order[0]
	}
	return s, nil
}

const (
	sdDefault = "LoaderEntryDefault-" + efiSystemd
	sdOneShot = "LoaderEntryOneShot-" + efiSystemd
)

// efiSystemdBoot is systemd-boot: LoaderEntryOneShot, which it deletes before it starts the entry, or else
// LoaderEntryDefault. There is no fall-back from the default entry, so a slot that is not named is disarmed.
type efiSystemdBoot struct{}

// named returns the slot that a variable names, -1 if it names none of ours.
func (efiSystemdBoot) named(e *EFI, variable string) (int, error) {
	raw, err := e.read(variable)
	if err != nil || raw == nil {
		return -1, err
	}
	name, err := utf16String(raw)
	if err != nil {
		return -1, nil
	}
	return slices.Index(e.names.names, name), nil
}

func (s efiSystemdBoot) both(e *EFI) (now, next int, err error) {
	if now, err = s.named(e, sdDefault); err == nil {
		next, err = s.named(e, sdOneShot)
	}
	return now, next, err
}

func (s efiSystemdBoot) point(e *EFI, i int) error {
	if now, err := s.named(e, sdDefault); err != nil || now == i {
		return err
	}
	return e.write(sdDefault, utf16Bytes(e.names.names[i]))
}

func (s efiSystemdBoot) disarm(e *EFI, i int) error {
	now, next, err := s.both(e)
	if err != nil {
		return err
	}
	if now == i || now < 0 { // without a name it starts what it finds first
		return onlySlot(e.slots[i])
	}
	if next == i {
		return e.vars.remove(sdOneShot)
	}
	return nil
}

func (s efiSystemdBoot) try(e *EFI, i int) error {
	_, next, err := s.both(e)
	if err != nil {
		return err
	}
	if err := s.point(e, 1-i); err != nil || next == i {
		return err
	}
	return e.write(sdOneShot, utf16Bytes(e.names.names[i]))
}

func (s efiSystemdBoot) keep(e *EFI, i int) error {
	raw, err := e.read(sdOneShot)
	if err != nil {
		return err
	}
	if raw != nil {
		if err := e.vars.remove(sdOneShot); err != nil {
			return err
		}
	}
	return s.point(e, i)
}

func (s efiSystemdBoot) state(e *EFI) (update.BootState, error) {
	out := update.BootState{Left: map[update.SlotID]int{}}
	if _, err := e.vars.list(); err != nil {
		return out, fmt.Errorf("%w: %w", update.ErrSetup, err)
	}
	now, next, err := s.both(e)
	if err != nil {
		return out, err
	}
	for i, id := range e.slots {
		out.Left[id] = 0
		if i == now {
			out.Left[id] = e.attempts
		}
	}
	if next >= 0 {
		out.Order, out.Trial, out.Left[e.slots[next]] = []update.SlotID{e.slots[next]}, true, 1
	}
	if now >= 0 && now != next {
		out.Order = append(out.Order, e.slots[now])
	}
	if len(out.Order) > 0 {
		out.Primary = out.Order[0]
	}
	return out, nil
}
