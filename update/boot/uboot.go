// SPDX-License-Identifier: Apache-2.0

// Package boot tells boot loaders what to start.
//
// It owns the bytes of a U-Boot environment (env.go, byte for byte what U-Boot's and libubootenv's fw_setenv read and write,
// in both formats and both byte orders), the way they get to the medium (store.go: locked, one write per change, the copy
// that is not current, synced, read back), and what the variables mean to a boot script (rauc.go, bootcount.go: the two
// conventions that products in the field use, so that their boot scripts stay as they are). It runs no program.
//
// It does not decide what is booted, and does not own the environment: the boot loader writes it at every start, and people
// do with fw_setenv. Who can write the environment chooses what boots, among what the boot loader accepts; that is why a
// product with verified boot lets U-Boot import only a list of variables.
//
// An attacker who controls the bytes of the environment can make it unreadable, which stops updates and nothing else.
package boot

import (
	"fmt"
	"slices"

	"github.com/backstay/backstay/update"
)

// Conventions: what the variables mean.
const (
	RAUC      = "rauc"      // BOOT_ORDER and BOOT_x_LEFT, as RAUC, Rugix and U-Boot's bootmeth_rauc use them
	Bootcount = "bootcount" // bootcount, bootlimit, upgrade_available and a partition variable, as Mender uses them
)

// Options says how the environment is to be understood.
type Options struct {
	Env        Config
	Convention string
	Slots      []update.SlotID // in the boot script's default order; default A, B
	Attempts   int             // starts a kept slot gets before the boot loader tries another, 1 to 9; default 3
	// Choice are the variables of the bootcount convention that name the slot, with their value for every slot. Default:
	// mender_boot_part and mender_boot_part_hex, 2 and 3.
	Choice []Variable
}

// Variable is one that names the slot to start.
type Variable struct {
	Name   string
	Values map[update.SlotID]string
}

// UBoot is a U-Boot that keeps its state in the environment. It implements update.Bootloader: every change is one write of
// the environment, or none if it already says so.
type UBoot struct {
	env  Config
	plan convention
}

// convention is what a boot script reads.
type convention interface {
	disarm(e *Env, id update.SlotID) error
	try(e *Env, id update.SlotID, attempts int) error
	keep(e *Env, id update.SlotID) error
	state(e *Env) (update.BootState, error)
}

// Open checks the options. It does not read the environment.
func Open(o Options) (*UBoot, error) {
	if len(o.Slots) == 0 {
		o.Slots = []update.SlotID{"A", "B"}
	}
	if o.Attempts == 0 {
		o.Attempts = 3
	}
	if o.Attempts < 1 || o.Attempts > 9 {
		return nil, fmt.Errorf("open boot loader: %w: %d attempts, 1 to 9 are possible", update.ErrSetup, o.Attempts)
	}
	for i, id := range o.Slots {
		if checkVar(string(id), "") != nil || slices.Contains(o.Slots[:i], id) {
			return nil, fmt.Errorf("open boot loader: %w: slots %q", update.ErrSetup, o.Slots)
		}
	}
	u := &UBoot{env: o.Env}
	switch o.Convention {
	case RAUC:
		u.plan = rauc{slots: o.Slots, attempts: o.Attempts}
	case Bootcount:
		p, err := newBootcount(o)
		if err != nil {
			return nil, fmt.Errorf("open boot loader: %w: %w", update.ErrSetup, err)
		}
		u.plan = p
	default:
		return nil, fmt.Errorf("open boot loader: %w: no convention %q: %s or %s", update.ErrSetup, o.Convention, RAUC, Bootcount)
	}
	return u, nil
}

// Disarm makes sure that a slot is started neither by choice nor as a fall-back.
func (u *UBoot) Disarm(id update.SlotID) error {
	return u.change("disarm slot", id, func(e *Env) error { return u.plan.disarm(e, id) })
}

// Try makes U-Boot start a slot next, at most attempts times.
func (u *UBoot) Try(id update.SlotID, attempts int) error {
	if attempts < 1 || attempts > 9 {
		// RAUC writes the count in hexadecimal, bootmeth_rauc reads it as decimal: they agree up to 9.
		return fmt.Errorf("try slot %s: %w: %d attempts, 1 to 9 are possible", id, update.ErrSetup, attempts)
	}
	return u.change("try slot", id, func(e *Env) error { return u.plan.try(e, id, attempts) })
}

// Keep makes a slot the default, with a full count of attempts.
func (u *UBoot) Keep(id update.SlotID) error {
	return u.change("keep slot", id, func(e *Env) error { return u.plan.keep(e, id) })
}

// State returns what U-Boot would do at its next start.
func (u *UBoot) State() (update.BootState, error) {
	e, err := Load(u.env)
	if err != nil {
		return update.BootState{}, err
	}
	return u.plan.state(e)
}

func (u *UBoot) change(what string, id update.SlotID, f func(*Env) error) error {
	if err := Update(u.env, f); err != nil {
		return fmt.Errorf("%s %s: %w", what, id, err)
	}
	return nil
}

// assign is one variable and its new value.
type assign struct{ name, value string }

func setAll(e *Env, list ...assign) error {
	for _, a := range list {
		if err := e.Set(a.name, a.value); err != nil {
			return err
		}
	}
	return nil
}

func known(slots []update.SlotID, id update.SlotID) error {
	if !slices.Contains(slots, id) {
		return fmt.Errorf("%w: the boot script does not know slot %q", update.ErrSetup, id)
	}
	return nil
}

// onlySlot refuses to leave the boot loader with nothing to start.
func onlySlot(id update.SlotID) error {
	return &update.Refusal{Code: "only-slot", What: "disarm slot " + string(id), Why: "the boot loader would have nothing left to start"}
}
