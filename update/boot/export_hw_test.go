// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"errors"
	"os"

	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/internal/flash"
)

// TestFiles are the files and block devices of a test.
type TestFiles interface {
	Open(path string, write bool) (MediumFile, error)
	Create(path string, perm os.FileMode) (MediumFile, error)
	Rename(from, to string) error
	SyncDir(path string) error
}

// TestHardware is what a test puts an environment on: by path, raw flash, volumes, block devices, and files for the rest.
type TestHardware struct {
	Files  TestFiles
	Blocks map[string]bool
	MTD    map[string]flash.MTD
	Volume map[string]flash.Volume
}

type testFiles struct{ TestFiles }

func (f testFiles) open(path string, write bool) (mediumFile, error) { return f.Open(path, write) }
func (f testFiles) create(path string, perm os.FileMode) (mediumFile, error) {
	return f.Create(path, perm)
}
func (f testFiles) rename(from, to string) error { return f.Rename(from, to) }
func (f testFiles) syncDir(path string) error    { return f.SyncDir(path) }

// On returns a configuration of an environment on a test's hardware.
func (c Config) On(h TestHardware) Config {
	c.hw = &hardware{
		kind: func(path string) (kind, error) {
			switch {
			case h.MTD[path] != nil:
				return kindMTD, nil
			case h.Volume[path] != nil:
				return kindUBI, nil
			case h.Blocks[path]:
				return kindBlock, nil
			}
			return kindFile, nil
		},
		files:     testFiles{h.Files},
		mtd:       func(path string, _ bool) (flash.MTD, error) { return h.MTD[path], nil },
		volume:    func(path string, _ bool) (flash.Volume, error) { return h.Volume[path], nil },
		unprotect: func(string) (func() error, error) { return func() error { return nil }, nil },
	}
	return c
}

// Mistakes are ways to write an environment that somebody might think of. None survives the cuts.
var Mistakes = map[string]func(e *Env) error{
	"the current copy is written": func(e *Env) error { return e.write(e.now) },
	// With one sync at the end: the copies reach the medium in any order.
	"both copies are written": func(e *Env) error {
		return errors.Join(e.places[e.now].write(must(e, 1)), e.places[1-e.now].write(must(e, 1)))
	},
	"the flags stay": func(e *Env) error { return e.places[1-e.now].write(must(e, 0)) },
}

func must(e *Env, more byte) []byte {
	flags := e.copies[e.now].flags + more
	if e.places[0].scheme() == boolean {
		flags = more
	}
	raw, err := encodeBlock(e.vars, e.size, e.Redundant(), flags, e.copies[e.now].order)
	if err != nil {
		panic(err)
	}
	return raw
}

// UpdateWrong is Update with a mistake in the way the environment is written.
func UpdateWrong(c Config, change func(*Env) error, save func(*Env) error) error {
	e, err := load(c)
	if err != nil {
		return err
	}
	if err := change(e); err != nil || !e.dirty {
		return err
	}
	return save(e)
}

// Transition is one of "keep", "disarm" and "try".
func (u *UBoot) Transition(e *Env, what string, id update.SlotID) error {
	switch what {
	case "keep":
		return u.plan.keep(e, u.script(id))
	case "disarm":
		return u.plan.disarm(e, u.script(id))
	}
	return u.plan.try(e, u.script(id), 3)
}

// ParseBlock parses one copy, and says why it is not intact.
func ParseBlock(raw []byte, redundant bool) ([]string, error) {
	b := parseBlock(raw, redundant, nil)
	return b.vars, b.err
}

// Active is the choice under the boolean scheme.
func Active(a, b byte) int { return active(a, b) }

// Chosen reads a namespace from the device tree.
func Chosen(path string) string { return chosen(path) }
