// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/backstay/backstay/update"
)

// GRUBOptions says where a GRUB keeps its choice and what the variables mean.
type GRUBOptions struct {
	// Path is the environment block that GRUB loads and saves, or, for Mender's convention, the directory of the two copies.
	Path       string
	Convention string          // RAUC or Mender
	Slots      []update.SlotID // in the script's default order
	Names      []string        // RAUC: what the script calls each slot; Mender: its partition number
	Attempts   int             // reported for a slot that is kept
}

// Mender is the convention of Mender's scripts for GRUB: two environments, each with a lock file that says whether it is whole.
const Mender = "mender"

// GRUB is a GRUB whose configuration has a script that chooses between slots. It implements update.Bootloader. A slot gets one
// attempt, because both scripts give one.
type GRUB struct {
	store grubStore
	plan  grubPlan
}

// grubStore is where the environment is.
type grubStore interface {
	load() (grubenv, error)
	save(change func(grubenv) (grubenv, error)) error
}

// grubPlan is what the script reads. It is asked for the variables of a transition, and none if it is refused.
type grubPlan interface {
	disarm(g grubenv, i int) ([]assign, error)
	try(g grubenv, i int) ([]assign, error)
	keep(g grubenv, i int) ([]assign, error)
	state(g grubenv) (update.BootState, error)
	index(id update.SlotID) int
}

// OpenGRUB checks the options. It reads and writes nothing.
func OpenGRUB(o GRUBOptions) (*GRUB, error) { return openGRUB(o, onDisk) }

func openGRUB(o GRUBOptions, m medium) (*GRUB, error) {
	names, err := newNames(o.Slots, o.Names)
	if err != nil {
		return nil, err
	}
	switch o.Convention {
	case RAUC:
		return &GRUB{store: oneGrubenv{m, o.Path}, plan: grubRAUC{names, o.Attempts}}, nil
	case Mender:
		if len(o.Slots) != 2 {
			return nil, fmt.Errorf("open boot loader: %w: convention %s knows two slots, not %d", update.ErrSetup, Mender, len(o.Slots))
		}
		return &GRUB{store: newDouble(m, o.Path), plan: grubMender{names, o.Attempts}}, nil
	}
	return nil, fmt.Errorf("open boot loader: %w: no convention %q for GRUB: %s or %s", update.ErrSetup, o.Convention, RAUC, Mender)
}

// Disarm makes sure that the script does not start a slot, and that it has another one left to start.
func (g *GRUB) Disarm(id update.SlotID) error { return g.change("disarm slot", id, g.plan.disarm) }

// Try makes GRUB start a slot next, once.
func (g *GRUB) Try(id update.SlotID, _ int) error { return g.change("try slot", id, g.plan.try) }

// Keep makes a slot the default.
func (g *GRUB) Keep(id update.SlotID) error { return g.change("keep slot", id, g.plan.keep) }

// State returns what the script would do.
func (g *GRUB) State() (update.BootState, error) {
	env, err := g.store.load()
	if err != nil {
		return update.BootState{}, fmt.Errorf("read boot environment: %w", err)
	}
	return g.plan.state(env)
}

func (g *GRUB) change(what string, id update.SlotID, f func(grubenv, int) ([]assign, error)) error {
	i := g.plan.index(id)
	if i < 0 {
		return fmt.Errorf("%s %s: %w", what, id, unknownSlot(id))
	}
	err := g.store.save(func(env grubenv) (grubenv, error) {
		list, err := f(env, i)
		if err != nil {
			return nil, err
		}
		return env.setAll(list...)
	})
	if err != nil {
		return fmt.Errorf("%s %s: %w", what, id, err)
	}
	return nil
}

// names is what a boot loader calls the slots.
type names struct {
	slots []update.SlotID
	names []string
}

func newNames(slots []update.SlotID, list []string) (names, error) {
	if len(list) == 0 {
		for _, id := range slots {
			list = append(list, string(id))
		}
	}
	n := names{slots, list}
	if len(slots) < 2 || len(slots) != len(list) {
		return n, fmt.Errorf("open boot loader: %w: %d slots with %d names", update.ErrSetup, len(slots), len(list))
	}
	for i, name := range list {
		if checkVar(name, "") != nil || slices.Contains(list[:i], name) || slices.Contains(slots[:i], slots[i]) {
			return n, fmt.Errorf("open boot loader: %w: slot %s cannot be called %q", update.ErrSetup, slots[i], name)
		}
	}
	return n, nil
}

func (n names) index(id update.SlotID) int { return slices.Index(n.slots, id) }

func unknownSlot(id update.SlotID) error {
	return fmt.Errorf("%w: the boot loader does not know slot %q", update.ErrSetup, id)
}

// oneGrubenv is a single block, overwritten in place. A cut can tear it at the border of two sectors and nowhere else, and the
// values change without changing their length, so what it mixes is whole old and whole new values.
type oneGrubenv struct {
	medium medium
	path   string
}

func (o oneGrubenv) load() (grubenv, error) {
	raw, err := o.medium.readAll(o.path, maxGrubenv)
	if err != nil {
		return nil, err
	}
	g, err := parseGrubenv(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", o.path, update.ErrSetup, err)
	}
	return g, nil
}

func (o oneGrubenv) save(change func(grubenv) (grubenv, error)) error {
	g, err := o.load()
	if err != nil {
		return err
	}
	next, err := change(g)
	if err != nil || bytes.Equal(g, next) {
		return err
	}
	return o.medium.overwrite(o.path, 0, next)
}

// grubRAUC is the convention of RAUC's contrib/grub.conf: ORDER lists the slots, first choice first; the script starts the
// first one with x_OK=1 and x_TRY=0, after it has set x_TRY=1 for that one and all it has passed over. If it finds none it
// starts its first menu entry, and clears x_TRY for the next time.
//
// So a slot that was started has no attempt left until somebody clears x_TRY: each transition leaves at least one slot that the
// script finds. A slot with x_OK=0 is never started, so a slot is barred without taking it out of ORDER: the value keeps its
// length, and nothing that follows it in the block moves.
type grubRAUC struct {
	names
	attempts int
}

func (r grubRAUC) order(g grubenv) []int {
	list, ok := g.get("ORDER")
	var out []int
	for _, name := range strings.Fields(list) {
		if i := slices.Index(r.names.names, name); i >= 0 && !slices.Contains(out, i) {
			out = append(out, i)
		}
	}
	if !ok {
		for i := range r.slots {
			out = append(out, i)
		}
	}
	return out
}

func (r grubRAUC) ok(g grubenv, i int) bool { v, _ := g.get(r.names.names[i] + "_OK"); return v == "1" }
func (r grubRAUC) tried(g grubenv, i int) bool {
	v, _ := g.get(r.names.names[i] + "_TRY")
	return v != "" && v != "0"
}

// rest returns the assignments that leave the script another slot than i to start, and whether there is one.
func (r grubRAUC) rest(g grubenv, i int) ([]assign, bool) {
	for _, o := range r.order(g) {
		if o == i || !r.ok(g, o) {
			continue
		}
		if r.tried(g, o) {
			return []assign{{r.names.names[o] + "_TRY", "0"}}, true
		}
		return nil, true
	}
	return nil, false
}

func (r grubRAUC) mark(i int, ok string) []assign {
	return []assign{{r.names.names[i] + "_OK", ok}, {r.names.names[i] + "_TRY", "0"}}
}

// first is ORDER with slot i in front. What the script knows and we do not stays where it is among the rest.
func (r grubRAUC) first(g grubenv, i int) assign {
	list, ok := g.get("ORDER")
	if !ok {
		list = strings.Join(r.names.names, " ")
	}
	words := slices.DeleteFunc(strings.Fields(list), func(s string) bool { return s == r.names.names[i] })
	return assign{"ORDER", strings.Join(append([]string{r.names.names[i]}, words...), " ")}
}

func (r grubRAUC) disarm(g grubenv, i int) ([]assign, error) {
	rest, alive := r.rest(g, i)
	if !alive {
		return nil, onlySlot(r.slots[i])
	}
	return append(rest, r.mark(i, "0")...), nil
}

func (r grubRAUC) try(g grubenv, i int) ([]assign, error) {
	rest, _ := r.rest(g, i)
	return append(append(rest, r.mark(i, "1")...), r.first(g, i)), nil
}

func (r grubRAUC) keep(g grubenv, i int) ([]assign, error) {
	return append(r.mark(i, "1"), r.first(g, i)), nil
}

func (r grubRAUC) state(g grubenv) (update.BootState, error) {
	s := update.BootState{Left: map[update.SlotID]int{}}
	for i, id := range r.slots {
		s.Left[id] = 0
		if slices.Contains(r.order(g), i) && r.ok(g, i) && !r.tried(g, i) {
			s.Left[id] = 1
		}
	}
	for _, i := range r.order(g) {
		if !r.ok(g, i) {
			continue
		}
		s.Order = append(s.Order, r.slots[i])
		if s.Primary == "" && s.Left[r.slots[i]] > 0 {
			s.Primary = r.slots[i]
		}
	}
	return s, nil
}
