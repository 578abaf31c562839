// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/backstay/backstay/update"
)

// rauc is the convention of RAUC's boot scripts: BOOT_ORDER="A B" lists what may be started, first choice first;
// BOOT_A_LEFT is how often. The script starts the first slot that has something left, after it has taken one away. If nothing
// is left it fills all counters again, but for RAUC's own script and for bootmeth_rauc BOOT_ORDER stays: a slot that must
// never start has to be out of BOOT_ORDER, a count of 0 is not enough.
type rauc struct {
	slots    []update.SlotID
	attempts int
}

const bootOrder = "BOOT_ORDER"

func left(id update.SlotID) string { return "BOOT_" + string(id) + "_LEFT" }

// maxLeft bounds a count that is read. Nobody tries a slot more often.
const maxLeft = 255

// order returns the slots that may be started. Without BOOT_ORDER a script takes its own default.
func (r rauc) order(e *Env) []update.SlotID {
	list, ok := e.Get(bootOrder)
	if !ok {
		return slices.Clone(r.slots)
	}
	var ids []update.SlotID
	for _, s := range strings.Fields(list) {
		ids = append(ids, update.SlotID(s))
	}
	return ids
}

// count returns the attempts left. Without the variable a script takes its default of 3; RAUC writes it in hexadecimal.
func (r rauc) count(e *Env, id update.SlotID) (int, error) {
	s, ok := e.Get(left(id))
	if !ok {
		return r.attempts, nil
	}
	n, err := strconv.ParseUint(strings.TrimPrefix(s, "0x"), 16, 32)
	if err != nil || n > maxLeft {
		return 0, fmt.Errorf("read boot variable %s: %q is not a count of attempts", left(id), s)
	}
	return int(n), nil
}

func (r rauc) disarm(e *Env, id update.SlotID) error {
	if err := known(r.slots, id); err != nil {
		return err
	}
	rest := slices.DeleteFunc(r.order(e), func(o update.SlotID) bool { return o == id })
	alive := false
	for _, o := range rest {
		n, err := r.count(e, o)
		alive = alive || (err == nil && n > 0)
	}
	if !alive {
		return onlySlot(id)
	}
	return setAll(e, assign{bootOrder, join(rest)}, assign{left(id), "0"})
}

func (r rauc) try(e *Env, id update.SlotID, attempts int) error {
	return r.first(e, id, attempts)
}

func (r rauc) keep(e *Env, id update.SlotID) error {
	return r.first(e, id, r.attempts)
}

func (r rauc) first(e *Env, id update.SlotID, attempts int) error {
	if err := known(r.slots, id); err != nil {
		return err
	}
	rest := slices.DeleteFunc(r.order(e), func(o update.SlotID) bool { return o == id })
	order := append([]update.SlotID{id}, rest...)
	return setAll(e, assign{bootOrder, join(order)}, assign{left(id), strconv.Itoa(attempts)})
}

func (r rauc) state(e *Env) (update.BootState, error) {
	s := update.BootState{Order: r.order(e), Left: map[update.SlotID]int{}}
	for _, id := range s.Order {
		n, err := r.count(e, id)
		if err != nil {
			return s, err
		}
		s.Left[id] = n
		if n > 0 && s.Primary == "" {
			s.Primary = id
		}
	}
	return s, nil
}

func join(ids []update.SlotID) string {
	words := make([]string, len(ids))
	for i, id := range ids {
		words[i] = string(id)
	}
	return strings.Join(words, " ")
}
