// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"errors"
	"fmt"
	"strings"

	"github.com/backstay/backstay/update"
)

// CommandOptions says what speaks for a boot loader that nobody here knows.
type CommandOptions struct {
	// Run runs the maker's program with arguments, and returns what it prints. It bounds time and output.
	Run      func(args ...string) (string, error)
	Slots    []update.SlotID
	Names    []string // what the program calls the slots
	Attempts int      // reported for a slot that is good
}

// Command is a boot loader behind a program of the maker's. It implements update.Bootloader, as far as the program does: what it
// changes must be durable when it ends. It speaks the protocol of RAUC's custom backend, so that a product keeps its own:
//
//	get-primary             prints the slot that is started next
//	set-primary NAME        makes a slot that one, with its attempts full; the one before stays as the fall-back
//	get-state NAME          prints good or bad
//	set-state NAME good     the slot works: its attempts are full
//	set-state NAME bad      the slot is never started
//
// Exit code 0 means that it was done. What it claims is asked for again after every change.
type Command struct {
	names
	run      func(args ...string) (string, error)
	attempts int
}

// OpenCommand checks the options. It runs nothing.
func OpenCommand(o CommandOptions) (*Command, error) {
	n, err := newNames(o.Slots, o.Names)
	return &Command{names: n, run: o.Run, attempts: o.Attempts}, err
}

func (c *Command) ask(args ...string) (string, error) {
	out, err := c.run(args...)
	out = strings.TrimSpace(out)
	if err != nil {
		return "", fmt.Errorf("boot command %s: %w", strings.Join(args, " "), err)
	}
	return out, nil
}

// primary returns the slot that is started next.
func (c *Command) primary() (int, error) {
	out, err := c.ask("get-primary")
	if err != nil {
		return 0, err
	}
	for i, name := range c.names.names {
		if out == name {
			return i, nil
		}
	}
	return 0, fmt.Errorf("boot command get-primary: %w: %.40q is no slot", update.ErrSetup, out)
}

func (c *Command) good(i int) (bool, error) {
	out, err := c.ask("get-state", c.names.names[i])
	if err == nil && out != "good" && out != "bad" {
		err = fmt.Errorf("boot command get-state: %w: %.40q is neither good nor bad", update.ErrSetup, out)
	}
	return out == "good", err
}

func (c *Command) mark(i int, state string) error {
	if _, err := c.ask("set-state", c.names.names[i], state); err != nil {
		return err
	}
	good, err := c.good(i)
	if err == nil && good != (state == "good") {
		err = errors.New("boot command set-state: it was not done")
	}
	return err
}

func (c *Command) makePrimary(i int) error {
	if _, err := c.ask("set-primary", c.names.names[i]); err != nil {
		return err
	}
	now, err := c.primary()
	if err == nil && now != i {
		err = errors.New("boot command set-primary: it was not done")
	}
	return err
}

// Disarm marks a slot bad.
func (c *Command) Disarm(id update.SlotID) error {
	return c.change("disarm slot", id, func(i int) error {
		alive := false
		for o := range c.slots {
			good, err := c.good(o)
			if err != nil {
				return err
			}
			if o == i && !good {
				return nil
			}
			alive = alive || o != i && good
		}
		if !alive {
			return onlySlot(id)
		}
		return c.mark(i, "bad")
	})
}

// Try makes a slot the one that is started next, as often as the program has it.
func (c *Command) Try(id update.SlotID, _ int) error {
	return c.change("try slot", id, c.makePrimary)
}

// Keep marks a slot good, and makes it the one that is started next.
func (c *Command) Keep(id update.SlotID) error {
	return c.change("keep slot", id, func(i int) error {
		if err := c.mark(i, "good"); err != nil { // good already: its attempts may not be full
			return err
		}
		if now, err := c.primary(); err != nil || now == i {
			return err
		}
		return c.makePrimary(i)
	})
}

func (c *Command) change(what string, id update.SlotID, f func(int) error) error {
	i, err := c.index(id), error(nil)
	if i < 0 {
		err = unknownSlot(id)
	} else {
		err = f(i)
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", what, id, err)
	}
	return nil
}

// State asks for the primary slot and for each slot's state.
func (c *Command) State() (update.BootState, error) {
	s := update.BootState{Left: map[update.SlotID]int{}}
	now, err := c.primary()
	if err != nil {
		return s, err
	}
	s.Primary = c.slots[now]
	for i, id := range c.slots {
		good, err := c.good(i)
		if err != nil {
			return s, err
		}
		s.Left[id] = 0
		if good {
			s.Left[id] = c.attempts
		}
		switch {
		case i == now:
			s.Order = append([]update.SlotID{id}, s.Order...)
		case good:
			s.Order = append(s.Order, id)
		}
	}
	return s, nil
}
