// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"fmt"
	"strconv"

	"github.com/backstay/backstay/update"
)

// bootcount is the convention of U-Boot's own boot counter (doc/api/bootcount.rst), as Mender uses it: one or more variables
// name the slot. While upgrade_available is 1, U-Boot adds one to bootcount at every start, and once that is above bootlimit
// it runs altbootcmd, which names the other slot, clears upgrade_available and saves. All numbers are decimal.
//
// Without a trial nothing is counted, and the other slot is never started: a kept slot has no fall-back, and a slot that is
// not named is disarmed.
type bootcount struct {
	slots    [2]update.SlotID
	attempts int
	choice   []Variable
	counter  counter // where U-Boot counts, if not in the environment
}

// Variables of the convention.
const (
	upgradeAvailable = "upgrade_available"
	bootCount        = "bootcount"
	bootLimit        = "bootlimit"
)

func newBootcount(o Options) (bootcount, error) {
	if len(o.Slots) != 2 {
		return bootcount{}, fmt.Errorf("convention %s knows two slots, not %d", o.Convention, len(o.Slots))
	}
	b := bootcount{slots: [2]update.SlotID{o.Slots[0], o.Slots[1]}, attempts: o.Attempts, choice: o.Choice, counter: counter{o.Counter}}
	if len(b.choice) == 0 {
		var err error
		if b.choice, err = menderChoice(o); err != nil {
			return bootcount{}, err
		}
	}
	for _, v := range b.choice {
		one, two := v.Values[b.slots[0]], v.Values[b.slots[1]]
		if err := checkVar(v.Name, one); err != nil {
			return bootcount{}, err
		}
		if one == "" || two == "" || one == two {
			return bootcount{}, fmt.Errorf("variable %s does not tell slots %s and %s apart", v.Name, b.slots[0], b.slots[1])
		}
	}
	return b, nil
}

// menderChoice are Mender's two variables: the number of the partition for the kernel, and again for U-Boot, which takes
// numbers for hexadecimal.
func menderChoice(o Options) ([]Variable, error) {
	part, hex := map[update.SlotID]string{}, map[update.SlotID]string{}
	for i, id := range o.Slots {
		n := uint64(2 + i)
		if len(o.Names) > 0 {
			var err error
			if n, err = strconv.ParseUint(string(id), 10, 16); err != nil {
				return nil, fmt.Errorf("name %q of a slot is not the number of its partition", id)
			}
		}
		part[id], hex[id] = strconv.FormatUint(n, 10), strconv.FormatUint(n, 16)
	}
	return []Variable{{"mender_boot_part", part}, {"mender_boot_part_hex", hex}}, nil
}

func (b bootcount) other(id update.SlotID) update.SlotID {
	if id == b.slots[0] {
		return b.slots[1]
	}
	return b.slots[0]
}

// named returns the slot that the variables name.
func (b bootcount) named(e *Env) (update.SlotID, error) {
	var found update.SlotID
	for _, v := range b.choice {
		value, _ := e.Get(v.Name)
		var id update.SlotID
		for _, s := range b.slots {
			if v.Values[s] == value {
				id = s
			}
		}
		if id == "" || (found != "" && found != id) {
			return "", fmt.Errorf("read boot variable %s: %q names no slot, or another one than the rest", v.Name, value)
		}
		found = id
	}
	return found, nil
}

func (b bootcount) point(e *Env, id update.SlotID, more ...assign) error {
	if err := known(b.slots[:], id); err != nil {
		return err
	}
	list := make([]assign, 0, len(b.choice)+len(more))
	for _, v := range b.choice {
		list = append(list, assign{v.Name, v.Values[id]})
	}
	return setAll(e, append(list, more...)...)
}

// disarm ends a trial that would fall back to id. It refuses if id itself is the one to be started, because nothing says
// that the other one can be: that is for Keep to say.
func (b bootcount) disarm(e *Env, id update.SlotID) error {
	if err := known(b.slots[:], id); err != nil {
		return err
	}
	now, err := b.named(e)
	if err != nil {
		return err
	}
	if now == id {
		return onlySlot(id)
	}
	return b.point(e, now, b.idle()...)
}

func (b bootcount) try(e *Env, id update.SlotID, attempts int) error {
	limit := assign{bootLimit, strconv.Itoa(attempts)}
	if b.counter.path != "" {
		return b.point(e, id, limit)
	}
	return b.point(e, id, assign{upgradeAvailable, "1"}, assign{bootCount, "0"}, limit)
}

func (b bootcount) keep(e *Env, id update.SlotID) error { return b.point(e, id, b.idle()...) }

// idle ends a trial. With a counter in a file it is the limit that ends it: that is in the environment, beside the choice, so
// one write still decides.
func (b bootcount) idle() []assign {
	if b.counter.path != "" {
		return []assign{{bootLimit, "0"}}
	}
	return []assign{{upgradeAvailable, "0"}, {bootCount, "0"}}
}

func (b bootcount) state(e *Env) (update.BootState, error) {
	now, err := b.named(e)
	if err != nil {
		return update.BootState{}, err
	}
	other := b.other(now)
	limit, err := number(e, bootLimit)
	if err != nil {
		return update.BootState{}, err
	}
	count, trial, err := b.count(e, limit)
	if err != nil {
		return update.BootState{}, err
	}
	if !trial {
		return update.BootState{Primary: now, Order: []update.SlotID{now}, Left: map[update.SlotID]int{now: b.attempts, other: 0}}, nil
	}
	s := update.BootState{Primary: now, Order: []update.SlotID{now, other}, Trial: true,
		Left: map[update.SlotID]int{now: max(0, limit-count), other: b.attempts}}
	if limit == 0 {
		s.Left[now] = maxLeft // U-Boot counts for nothing without a limit
	}
	if s.Left[now] == 0 {
		s.Primary = other
	}
	return s, nil
}

// count returns how often U-Boot has started the slot, and whether it counts.
func (b bootcount) count(e *Env, limit int) (n int, trial bool, err error) {
	if b.counter.path != "" {
		n, err = b.counter.get()
		return n, limit > 0, err
	}
	if v, _ := e.Get(upgradeAvailable); v != "1" {
		return 0, false, nil
	}
	n, err = number(e, bootCount)
	return n, true, err
}

func number(e *Env, name string) (int, error) {
	s, ok := e.Get(name)
	if !ok {
		return 0, nil
	}
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil {
		return 0, fmt.Errorf("read boot variable %s: %q is not decimal", name, s)
	}
	return int(n), nil
}
