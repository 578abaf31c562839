// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/backstay/backstay/update"
)

// Env is a U-Boot environment in memory. Set changes it, Save writes it. It is for one goroutine.
type Env struct {
	config Config
	size   int
	places []storage
	copies []block
	now    int // the copy that was loaded
	vars   vars
	dirty  bool
}

// ErrChanged says that somebody else wrote the environment between Load and Save. Nothing was written.
var ErrChanged = fmt.Errorf("boot environment changed meanwhile: %w", update.ErrRetry)

// Load reads the environment. If no copy is intact it is an error that is ErrSetup: an environment is never made up.
func Load(c Config) (*Env, error) {
	unlock, err := acquire(c)
	if err != nil {
		return nil, err
	}
	defer unlock()
	return load(c)
}

// Update reads the environment, lets change set variables, and writes it, all under the locks: one write for any number of
// variables, and none if nothing changed.
func Update(c Config, change func(*Env) error) error {
	unlock, err := acquire(c)
	if err != nil {
		return err
	}
	defer unlock()
	e, err := load(c)
	if err != nil {
		return err
	}
	if err := change(e); err != nil {
		return err
	}
	return e.save()
}

// Get returns the value of a variable, and whether it is set.
func (e *Env) Get(name string) (string, bool) { return e.vars.get(name) }

// All returns the variables in their order, as "name=value".
func (e *Env) All() []string { return append([]string(nil), e.vars...) }

// Redundant reports whether there are two copies, so that a write cut by a power loss leaves the old environment.
func (e *Env) Redundant() bool { return len(e.copies) == 2 }

// Set changes a variable in memory; an empty value removes it. It refuses what the environment's own .flags forbid.
func (e *Env) Set(name, value string) error {
	if err := checkVar(name, value); err != nil {
		return err
	}
	if old, _ := e.vars.get(name); old == value {
		return nil
	}
	if err := e.vars.permitted(name, value); err != nil {
		return err
	}
	if err := e.vars.listed(e.config.Writable, name, value); err != nil {
		return err
	}
	next := e.vars.set(name, value)
	if _, err := next.data(e.size - header(e.Redundant())); err != nil {
		return fmt.Errorf("set boot variable %s: the environment is full: %w", name, err)
	}
	e.vars, e.dirty = next, true
	return nil
}

// Save writes the environment if a variable changed, and reads it back. In the redundant format it writes the copy that is
// not current, so the current one survives whatever happens; the new one counts from the moment its last byte is there. An
// error may mean that the write happened. It returns ErrChanged if the environment is not the one that was loaded.
func (e *Env) Save() error {
	unlock, err := acquire(e.config)
	if err != nil {
		return err
	}
	defer unlock()
	disk, err := load(e.config)
	if err != nil {
		return err
	}
	if disk.now != e.now || !bytes.Equal(disk.copies[disk.now].raw, e.copies[e.now].raw) {
		return ErrChanged
	}
	return e.save()
}

func (e *Env) save() error {
	if !e.dirty {
		return nil
	}
	to := 0
	if e.Redundant() {
		to = 1 - e.now
	}
	return e.write(to)
}

// write puts the variables into one of the copies and makes it the current one.
func (e *Env) write(to int) error {
	cur := e.copies[e.now]
	flags, flip := cur.flags+1, e.Redundant() && e.places[to].scheme() == boolean
	if flip {
		flags = 1
	}
	raw, err := encodeBlock(e.vars, e.size, e.Redundant(), flags, cur.order)
	if err != nil {
		return fmt.Errorf("write boot environment: %w", err)
	}
	if err := e.places[to].write(raw); err != nil {
		return fmt.Errorf("write boot environment: %w", err)
	}
	back, err := e.places[to].read()
	if err != nil {
		return fmt.Errorf("read boot environment back: %w", err)
	}
	if !bytes.Equal(back, raw) {
		return fmt.Errorf("read boot environment back: %s does not hold what was written", e.config.Areas[to].Path)
	}
	if flip {
		if err := e.retire(); err != nil {
			return fmt.Errorf("write boot environment: %w", err)
		}
	}
	e.copies[to] = parseBlock(raw, e.Redundant(), cur.order)
	e.now, e.dirty = to, false
	return nil
}

// retire makes the copy that was current the old one.
func (e *Env) retire() error {
	o, ok := e.places[e.now].(obsoleter)
	if !ok {
		return errors.New("the old copy cannot be marked")
	}
	if err := o.obsolete(); err != nil {
		return err
	}
	e.copies[e.now].flags, e.copies[e.now].raw[4] = 0, 0
	return nil
}

// load reads all copies and picks the current one.
func load(c Config) (*Env, error) {
	if len(c.Areas) < 1 || len(c.Areas) > 2 {
		return nil, fmt.Errorf("read boot environment: %w: %d copies configured, 1 or 2 are possible", update.ErrSetup, len(c.Areas))
	}
	hw := c.hw
	if hw == nil {
		hw = device()
	}
	e := &Env{config: c, size: int(c.Areas[0].Size)}
	for _, a := range c.Areas {
		if a.Size < minSize || a.Size > maxSize || a.Size != c.Areas[0].Size {
			return nil, fmt.Errorf("read boot environment: %w: %ssize %#x of %s", update.ErrSetup, c.at(a), a.Size, a.Path)
		}
		s, err := hw.place(a, len(c.Areas) == 1)
		if err != nil {
			return nil, fmt.Errorf("read boot environment: %w: %s%w", update.ErrSetup, c.at(a), err)
		}
		raw, err := s.read()
		switch {
		case errors.Is(err, errDamaged):
			e.copies = append(e.copies, block{raw: raw, err: err})
		case err != nil:
			return nil, fmt.Errorf("read boot environment: %w: %s%w", update.ErrSetup, c.at(a), err)
		default:
			e.copies = append(e.copies, parseBlock(raw, len(c.Areas) == 2, c.Order))
		}
		e.places = append(e.places, s)
	}
	if err := compatible(e.places); err != nil {
		return nil, fmt.Errorf("read boot environment: %w: %w", update.ErrSetup, err)
	}
	now, err := current(e.copies, e.places[0].scheme())
	if err != nil {
		return nil, fmt.Errorf("read boot environment: %w: %s%s: %w%s", update.ErrSetup, c.at(c.Areas[0]), c.Areas[0].Path, err, otherFormat(e.copies))
	}
	e.now, e.vars = now, e.copies[now].vars
	return e, nil
}

// compatible refuses two copies that U-Boot cannot choose between, or of which writing one destroys the other.
func compatible(places []storage) error {
	if len(places) == 1 {
		return nil
	}
	if places[0].scheme() != places[1].scheme() {
		return errors.New("the two copies are on memories of different kinds, on which they are told apart differently")
	}
	a, ok1 := places[0].(*mtdCopy)
	b, ok2 := places[1].(*mtdCopy)
	if ok1 && ok2 && a.area.Path == b.area.Path && a.area.Offset < b.end && b.area.Offset < a.end {
		return fmt.Errorf("the two copies share an erase block of %s: writing one erases the other", a.area.Path)
	}
	return nil
}

// otherFormat says so if what is damaged in the format that is configured is intact in the other one. It is for a person:
// U-Boot converts by itself what it was built to convert (CONFIG_ENV_REDUNDANT_UPGRADE), and we never do.
func otherFormat(copies []block) string {
	for _, c := range copies {
		if other := parseBlock(c.raw, len(copies) == 1, nil); other.err == nil {
			if len(copies) == 1 {
				return " (it is one copy of the redundant format: is a line missing?)"
			}
			return " (one is of the single format: the boot loader has to convert it first)"
		}
	}
	return ""
}

// Create writes a new environment over whatever is there: both copies, the first one current. It is for factories and
// boot loaders; the agent never calls it.
func Create(c Config, order binary.ByteOrder, entries []string) error {
	unlock, err := acquire(c)
	if err != nil {
		return err
	}
	defer unlock()
	hw := c.hw
	if hw == nil {
		hw = device()
	}
	for i, a := range c.Areas {
		// The first is current under both schemes of flags.
		raw, err := encodeBlock(entries, int(a.Size), len(c.Areas) == 2, byte(1-i), order)
		if err != nil {
			return fmt.Errorf("create boot environment: %w", err)
		}
		s, err := hw.place(a, false)
		if err == nil {
			err = s.write(raw)
		}
		if err != nil {
			return fmt.Errorf("create boot environment: %w", err)
		}
	}
	return nil
}
