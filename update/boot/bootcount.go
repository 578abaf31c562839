// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"errors"
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
}

// Variables of the convention.
const (
	upgradeAvailable = "upgrade_available"
	bootCount        = "bootcount"
	bootLimit        = "bootlimit"
)

func newBootcount(o Options) (bootcount, error) {
	if len(o.Slots) != 2 {
		return bootcount{}, fmt.Errorf("convention %s knows two slots, not %d", Bootcount, len(o.Slots))
	}
	b := bootcount{slots: [2]update.SlotID{o.Slots[0], o.Slots[1]}, attempts: o.Attempts, choice: o.Choice}
	if len(b.choice) == 0 {
		parts := map[update.SlotID]string{b.slots[0]: "2", b.slots[1]: "3"}
		b.choice = []Variable{{"mender_boot_part", parts}, {"mender_boot_part_hex", parts}}
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
	return b.point(e, now, assign{upgradeAvailable, "0"}, assign{bootCount, "0"})
}

func (b bootcount) try(e *Env, id update.SlotID, attempts int) error {
	return b.point(e, id, assign{upgradeAvailable, "1"}, assign{bootCount, "0"}, assign{bootLimit, strconv.Itoa(attempts)})
}

func (b bootcount) keep(e *Env, id update.SlotID) error {
	return b.point(e, id, assign{upgradeAvailable, "0"}, assign{bootCount, "0"})
}

func (b bootcount) state(e *Env) (update.BootState, error) {
	now, err := b.named(e)
	if err != nil {
		return update.BootState{}, err
	}
	other := b.other(now)
	if v, _ := e.Get(upgradeAvailable); v != "1" {
		return update.BootState{Primary: now, Order: []update.SlotID{now}, Left: map[update.SlotID]int{now: b.attempts, other: 0}}, nil
	}
	count, err1 := number(e, bootCount)
	limit, err2 := number(e, bootLimit)
	if err := errors.Join(err1, err2); err != nil {
		return update.BootState{}, err
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
