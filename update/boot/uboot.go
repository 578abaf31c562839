// SPDX-License-Identifier: Apache-2.0

// Package boot tells boot loaders what to start.
//
// It owns the bytes of a U-Boot environment (env.go, byte for byte what U-Boot's and libubootenv's fw_setenv read and write,
// in both formats and both byte orders), where they are (config.go, yaml.go: both tools' configuration), the way they get to
// the medium (store.go: locked, one write per change, the copy that is not current, synced, read back; storage.go: files and
// block devices, storage_flash.go: raw flash and UBI), and what the variables mean to a boot script (rauc.go, bootcount.go,
// swupdate.go: the conventions that products in the field use, so that their boot scripts stay as they are). Each
// other boot loader has a file of its own: grub.go with grubenv.go and mender.go, efi.go with efivars.go, tryboot.go, barebox.go,
// android.go, psa.go, and command.go for what only a program of the maker's can tell. detect.go looks for traces of them. Nothing
// here runs a program.
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
	Bootcount = "bootcount" // bootcount, bootlimit, upgrade_available and a variable of one's choice
)

// Options says how the environment is to be understood.
type Options struct {
	Env        Config
	Convention string
	Slots      []update.SlotID // in the boot script's default order; default A, B
	// Names is what the boot script calls each slot; empty: the slots' own names. For Mender they are the numbers of the
	// partitions, by default 2 and 3.
	Names    []string
	Attempts int // starts a kept slot gets before the boot loader tries another, 1 to 9; default 3
	// Choice are the variables of the bootcount convention that name the slot, with their value for every slot. Default:
	// Mender's.
	Choice []Variable
	// Counter is the file in which U-Boot counts instead of the environment (CONFIG_BOOTCOUNT_EXT, CONFIG_BOOTCOUNT_FS), for
	// the bootcount convention. Empty: the environment.
	Counter string
	// SWUpdate keeps the variables of SWUpdate that boot scripts and its own tools read, beside those of the convention.
	SWUpdate bool
	// Canary is a variable, or name=value, that the boot loader itself sets and saves. An environment without it is not the
	// one the boot loader uses, and is neither believed nor written. Empty: none, unless the convention has one.
	Canary string
}

// Variable is one that names the slot to start.
type Variable struct {
	Name   string
	Values map[update.SlotID]string
}

// UBoot is a U-Boot that keeps its state in the environment. It implements update.Bootloader: every change is one write of
// the environment, or none if it already says so.
type UBoot struct {
	env     Config
	plan    convention
	canary  []canary
	counter counter
	names   names // what the script calls the slots
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
	u := &UBoot{env: o.Env, counter: counter{o.Counter}}
	if err := u.name(&o); err != nil {
		return nil, err
	}
	if err := u.watch(o); err != nil {
		return nil, fmt.Errorf("open boot loader: %w: %w", update.ErrSetup, err)
	}
	switch o.Convention {
	case RAUC:
		u.plan = rauc{slots: o.Slots, attempts: o.Attempts}
	case Bootcount, Mender:
		p, err := newBootcount(o)
		if err != nil {
			return nil, fmt.Errorf("open boot loader: %w: %w", update.ErrSetup, err)
		}
		u.plan = p
	default:
		return nil, fmt.Errorf("open boot loader: %w: no convention %q: %s, %s or %s", update.ErrSetup, o.Convention, RAUC, Bootcount, Mender)
	}
	if o.SWUpdate {
		u.plan = swupdate{u.plan}
	}
	if o.Counter != "" && o.Convention == RAUC {
		return nil, fmt.Errorf("open boot loader: %w: a counter in a file goes with convention %s", update.ErrSetup, Bootcount)
	}
	return u, nil
}

// name makes the plans speak of slots as the boot script does.
func (u *UBoot) name(o *Options) error {
	var err error
	if u.names, err = newNames(o.Slots, o.Names); err != nil {
		return err
	}
	o.Choice = slices.Clone(o.Choice)
	for i, v := range o.Choice {
		values := map[update.SlotID]string{}
		for id, value := range v.Values {
			values[u.script(id)] = value
		}
		o.Choice[i].Values = values
	}
	o.Slots = nil
	for _, n := range u.names.names {
		o.Slots = append(o.Slots, update.SlotID(n))
	}
	return nil
}

// script returns what the boot script calls a slot, and "" for one it does not know.
func (u *UBoot) script(id update.SlotID) update.SlotID {
	if i := u.names.index(id); i >= 0 {
		return update.SlotID(u.names.names[i])
	}
	return ""
}

// ours returns which slot a boot script calls so.
func (u *UBoot) ours(name update.SlotID) (update.SlotID, bool) {
	i := slices.Index(u.names.names, string(name))
	if i < 0 {
		return "", false
	}
	return u.names.slots[i], true
}

// Disarm makes sure that a slot is started neither by choice nor as a fall-back.
func (u *UBoot) Disarm(id update.SlotID) error {
	return u.change("disarm slot", id, func(e *Env) error { return u.plan.disarm(e, u.script(id)) })
}

// Try makes U-Boot start a slot next, at most attempts times.
func (u *UBoot) Try(id update.SlotID, attempts int) error {
	if attempts < 1 || attempts > 9 {
		// RAUC writes the count in hexadecimal, bootmeth_rauc reads it as decimal: they agree up to 9.
		return fmt.Errorf("try slot %s: %w: %d attempts, 1 to 9 are possible", id, update.ErrSetup, attempts)
	}
	if u.script(id) == "" {
		return fmt.Errorf("try slot %s: %w", id, unknownSlot(id))
	}
	// The counter goes first: without a limit, which the environment has not yet, it means nothing.
	if err := u.counter.set(true); err != nil {
		return fmt.Errorf("try slot %s: %w", id, err)
	}
	return u.change("try slot", id, func(e *Env) error { return u.plan.try(e, u.script(id), attempts) })
}

// Keep makes a slot the default, with a full count of attempts.
func (u *UBoot) Keep(id update.SlotID) error {
	if err := u.change("keep slot", id, func(e *Env) error { return u.plan.keep(e, u.script(id)) }); err != nil {
		return err
	}
	if err := u.counter.set(false); err != nil {
		return fmt.Errorf("keep slot %s: %w", id, err)
	}
	return nil
}

// State returns what U-Boot would do at its next start.
func (u *UBoot) State() (update.BootState, error) {
	e, err := Load(u.env)
	if err != nil {
		return update.BootState{}, err
	}
	if err := u.alive(e); err != nil {
		return update.BootState{}, fmt.Errorf("read boot environment: %w", err)
	}
	s, err := u.plan.state(e)
	if err != nil {
		return s, err
	}
	ours := update.BootState{Trial: s.Trial, Left: map[update.SlotID]int{}}
	for _, n := range s.Order {
		if id, ok := u.ours(n); ok {
			ours.Order = append(ours.Order, id)
		}
	}
	for n, left := range s.Left {
		if id, ok := u.ours(n); ok {
			ours.Left[id] = left
		}
	}
	if id, ok := u.ours(s.Primary); ok {
		ours.Primary = id
	} else if s.Primary != "" {
		return ours, fmt.Errorf("read boot environment: %w: the boot script would start %q, which is no slot of ours", update.ErrSetup, s.Primary)
	}
	return ours, nil
}

func (u *UBoot) change(what string, id update.SlotID, f func(*Env) error) error {
	if u.script(id) == "" {
		return fmt.Errorf("%s %s: %w", what, id, unknownSlot(id))
	}
	err := Update(u.env, func(e *Env) error {
		if err := u.alive(e); err != nil {
			return err
		}
		return f(e)
	})
	if err != nil {
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
