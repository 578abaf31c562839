// SPDX-License-Identifier: Apache-2.0

package update_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/updatetest"
)

// The power-cut test: a device made of bytes that outlive a cut, a boot loader that plays a boot script over them, and a fuse
// that blows before or after the n-th effect, for every n. Whatever happens, the boot loader must have nothing in its list
// but whole images above the floor; a good image ends committed, and a bad one reverted and in quarantine.

// kind is what is wrong with the image on offer, or with the device.
type kind string

const (
	good       kind = "good"
	lenient    kind = "lenient"    // good, and its floor leaves the image before as a fall-back
	unhealthy  kind = "unhealthy"  // boots, but a health check says no
	unbootable kind = "unbootable" // does not reach user space
	corrupting kind = "corrupting" // the slot stores a wrong byte and says nothing
	forged     kind = "forged"     // the bytes are not the signed ones
)

var kinds = []kind{good, lenient, unhealthy, unbootable, corrupting, forged}

const (
	slotSize  = 16 << 10
	imageSize = 11<<10 + 77
	floorOld  = 2 // the counter of the image that runs
	floorNew  = 3 // what the image on offer raises the floor to
)

var errCut = errors.New("power cut")

// cut says when the power fails.
type cut struct {
	at    int   // before or after this effect; 0: never
	after bool  // the effect has taken place
	torn  bool  // some of what was not synced has reached the medium
	again int   // a second cut this many effects after the first; 0: none
	fault bool  // not a cut: the effect returns an error, and the device goes on
	block int64 // the slots continue at multiples of this only; 0: anywhere
}

func (c cut) String() string {
	return fmt.Sprintf("at=%d after=%v torn=%v again=%d fault=%v block=%d", c.at, c.after, c.torn, c.again, c.fault, c.block)
}

type world struct {
	kind       kind
	cut        cut
	ops        []string
	next       int // the effect at which the power fails
	dead       bool
	broken     error // the first broken promise
	slots      *updatetest.Slots
	boot       *updatetest.Boot
	floor      *updatetest.Floor
	journal    *updatetest.Journal
	source     *updatetest.Source
	components *updatetest.Components
	images     map[string]uint64 // whole images and their counters
	events     []string
	now        time.Time
	boots      int
	cuts       int
}

func newWorld(k kind, c cut) *world {
	w := &world{kind: k, cut: c, next: c.at, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	older, old, fresh := updatetest.Image("1.0", imageSize), updatetest.Image("2.0", imageSize), updatetest.Image("3.0", imageSize)
	w.images = map[string]uint64{string(older): 1, string(old): 2, string(fresh): 3}
	w.slots = updatetest.NewSlots("A", slotSize, "A", "B")
	w.slots.Block = c.block
	w.slots.Put("A", old)
	w.slots.Put("B", older)
	w.boot = &updatetest.Boot{Order: []update.SlotID{"A", "B"}, Left: map[update.SlotID]int{"A": 3, "B": 3}}
	w.floor = &updatetest.Floor{Value: 1}
	w.journal = &updatetest.Journal{}
	w.source = updatetest.NewSource("3.0", 3, floorNew, fresh)
	switch k {
	case lenient:
		w.source.Release.Floor = floorOld
	case corrupting:
		w.slots.Spoil = 5000
	case forged:
		w.source.Image = bytes.Clone(fresh)
		w.source.Image[700] ^= 1
	}
	w.slots.Effect, w.boot.Effect, w.floor.Effect, w.journal.Effect, w.source.Effect = w.effect, w.effect, w.effect, w.effect, w.effect
	return w
}

// effect counts, and blows the fuse. After that nothing takes place until the device starts again.
func (w *world) effect(op string) (bool, error) {
	if w.dead {
		return false, errCut
	}
	w.ops = append(w.ops, op)
	if len(w.ops) != w.next {
		return true, nil
	}
	if w.cut.fault {
		return w.cut.after, errors.New("input/output error")
	}
	w.dead, w.next = true, 0
	w.cuts++
	if w.cut.again > 0 {
		w.next, w.cut.again = len(w.ops)+w.cut.again, 0
	}
	return w.cut.after, errCut
}

func (w *world) isGood() bool { return w.kind == good || w.kind == lenient }

// check looks at the medium, as the boot loader would find it now.
func (w *world) check() {
	if w.broken != nil {
		return
	}
	for _, id := range w.boot.Order {
		counter, whole := w.images[string(w.slots.Disk[id][:imageSize])]
		switch {
		case !whole:
			w.broken = fmt.Errorf("the boot loader may start slot %s, which holds no whole image", id)
		case counter < w.floor.Value:
			w.broken = fmt.Errorf("the boot loader may start slot %s with counter %d below floor %d", id, counter, w.floor.Value)
		}
	}
	if _, ok := w.start(w.boot.Clone()); !ok && w.broken == nil {
		w.broken = fmt.Errorf("nothing bootable: order %v", w.boot.Order)
	}
}

// start plays the boot script: the first slot of the order with attempts left, one fewer; all counts full again if there is
// none. A slot that does not come up costs an attempt.
func (w *world) start(b *updatetest.Boot) (update.SlotID, bool) {
	for range 20 {
		i := slices.IndexFunc(b.Order, func(id update.SlotID) bool { return b.Left[id] > 0 })
		if i < 0 {
			b.Left["A"], b.Left["B"] = 3, 3
			continue
		}
		id := b.Order[i]
		b.Left[id]--
		if w.bootable(id) {
			return id, true
		}
	}
	return "", false
}

func (w *world) bootable(id update.SlotID) bool {
	counter, whole := w.images[string(w.slots.Disk[id][:imageSize])]
	return whole && (counter != 3 || w.kind != unbootable)
}

func (w *world) runsNew() bool {
	return bytes.Equal(w.slots.Disk[w.slots.Running][:imageSize], updatetest.Image("3.0", imageSize))
}

// machine is the agent of one boot.
func (w *world) machine() *update.Machine {
	boot := fmt.Sprint("boot-", w.boots)
	m := &update.Machine{
		Source: w.source, Slots: w.slots, Boot: w.boot, Floor: w.floor, Journal: w.journal,
		Health: func(context.Context) error {
			if _, err := w.effect("health"); err != nil && !w.cut.fault {
				return err
			}
			if w.kind == unhealthy && w.runsNew() {
				return errors.New("no link")
			}
			return nil
		},
		Reboot: func(context.Context, string) error {
			_, err := w.effect("reboot")
			return err
		},
		Emit: func(code string, _ ...slog.Attr) {
			if ok, _ := w.effect("emit " + code); ok {
				w.events = append(w.events, code)
			}
		},
		Now:    func() time.Time { return w.now },
		BootID: func() string { return boot },
	}
	if w.components != nil {
		m.Components = w.components
	}
	update.SetSteps(m, 1<<10, 4<<10)
	return m
}

// life is the time from one start to the next: the agent resumes, then polls. It returns how the last run ended.
func (w *world) life(t *testing.T) error {
	t.Helper()
	w.check()
	w.boots++
	id, ok := w.start(w.boot)
	if !ok {
		t.Fatalf("%s: device is dead, order %v\n\t%s", w.kind, w.boot.Order, updatetest.Ops(w.ops))
	}
	w.slots.Running, w.dead = id, false
	m := w.machine()
	err := m.Resume(t.Context())
	for range 3 {
		w.check()
		if w.dead || errors.Is(err, update.ErrReboot) {
			break
		}
		err = m.Run(t.Context())
	}
	w.check()
	w.slots.Crash(w.cut.torn)
	return err
}

// settled lets the device live until a life brings nothing new, and then a few starts more.
func (w *world) settled(t *testing.T) {
	t.Helper()
	for range 30 {
		before := len(w.ops)
		err := w.life(t)
		quiet := len(w.ops)-before <= 2 // a counter that was refilled
		if quiet && !w.dead && !errors.Is(err, update.ErrReboot) {
			for range 4 {
				_ = w.life(t)
			}
			return
		}
	}
	w.broken = errors.New("the device does not come to rest")
}

// verdict says which promise was broken, if any.
func (w *world) verdict() error {
	job, err := w.journal.Load()
	if err != nil {
		return err
	}
	done := func(r update.Result) int {
		n := 0
		for _, o := range job.History {
			if o.Result == r {
				n++
			}
		}
		return n
	}
	switch {
	case w.broken != nil:
		return w.broken
	case job.State != "" && job.State != update.Idle:
		return fmt.Errorf("the job stays in state %s", job.State)
	case !bytes.Equal(w.slots.Disk["A"][:imageSize], updatetest.Image("2.0", imageSize)):
		return errors.New("the slot to go back to was overwritten")
	case len(w.source.Opened) > 1+2*w.cuts:
		return fmt.Errorf("the image was opened %d times: %v", len(w.source.Opened), w.source.Opened)
	case len(job.History) != 1:
		return fmt.Errorf("the history has %d entries", len(job.History))
	}
	if w.isGood() {
		switch {
		case w.slots.Running != "B" || w.boot.Order[0] != "B" || done(update.Committed) != 1:
			return fmt.Errorf("a good image was not kept: runs %s, order %v, %+v", w.slots.Running, w.boot.Order, job.History)
		case w.floor.Value != w.source.Release.Floor:
			return fmt.Errorf("the floor is %d", w.floor.Value)
		case !slices.Contains(w.events, "update.committed"):
			return errors.New("nobody was told")
		}
		return nil
	}
	switch {
	case w.slots.Running != "A" || w.boot.Order[0] != "A" || slices.Contains(w.boot.Order, "B"):
		return fmt.Errorf("a bad image was not reverted: runs %s, order %v", w.slots.Running, w.boot.Order)
	case w.floor.Value != 1:
		return fmt.Errorf("a bad image raised the floor to %d", w.floor.Value)
	case len(job.Quarantine) != 1 || job.Quarantine[0].Attempts != 1:
		return fmt.Errorf("quarantine %+v", job.Quarantine)
	case !slices.Contains(w.events, "update.rolledback") && !slices.Contains(w.events, "update.rejected"):
		return errors.New("nobody was told")
	}
	return nil
}

func (w *world) run(t *testing.T) {
	t.Helper()
	w.settled(t)
	if err := w.verdict(); err != nil {
		t.Fatalf("%s image, cut %v: %v\n\t%s", w.kind, w.cut, err, updatetest.Ops(w.ops))
	}
}

// TestCutNone is the reference: no cut, and the steps in the order the design wants.
func TestCutNone(t *testing.T) {
	for _, k := range kinds {
		w := newWorld(k, cut{})
		w.run(t)
		t.Logf("%s: %d effects, %d boots", k, len(w.ops), w.boots)
	}
}

// TestCutEverywhere cuts the power once, before and after every effect, with what was not synced lost or torn.
func TestCutEverywhere(t *testing.T) {
	cuts := 0
	for _, k := range kinds {
		for _, torn := range []bool{false, true} {
			for n := 1; ; n++ {
				before := newWorld(k, cut{at: n, torn: torn})
				before.run(t)
				if len(before.ops) < n {
					break
				}
				newWorld(k, cut{at: n, torn: torn, after: true}).run(t)
				cuts += 2
			}
		}
	}
	t.Logf("%d cuts", cuts)
}

// TestCutBlocks does the same on slots that continue at the start of a block, and on slots that start over.
func TestCutBlocks(t *testing.T) {
	cuts := 0
	for _, block := range []int64{3 << 10, slotSize} {
		for _, k := range kinds {
			for n, reached := 1, true; reached; n++ {
				for _, after := range []bool{false, true} {
					w := newWorld(k, cut{at: n, after: after, torn: n%2 == 0, block: block})
					w.run(t)
					reached = len(w.ops) >= n
					cuts++
				}
			}
		}
	}
	t.Logf("%d cuts", cuts)
}

// TestCutTwice cuts the power a second time while the device recovers from the first.
func TestCutTwice(t *testing.T) {
	step, cuts := 5, 0
	if os.Getenv("BACKSTAY_LONG") == "1" {
		step = 1
	}
	for _, k := range kinds {
		for n := 1; ; n += step {
			reached := false
			for again := 1; again <= 24; again += step {
				for _, after := range []bool{false, true} {
					w := newWorld(k, cut{at: n, again: again, after: after})
					w.run(t)
					reached = reached || len(w.ops) >= n
					cuts++
				}
			}
			if !reached {
				break
			}
		}
	}
	t.Logf("%d pairs of cuts", cuts)
}

// TestCutFaults lets every effect return an error once, whether or not it took place, while the device goes on. An update may
// fail then; the boot loader must be left with whole images above the floor all the same, and nothing may stay half done.
func TestCutFaults(t *testing.T) {
	faults := 0
	for _, k := range kinds {
		for n, reached := 1, true; reached; n++ {
			for _, after := range []bool{false, true} {
				w := newWorld(k, cut{at: n, after: after, fault: true})
				w.settled(t)
				if err := w.faultVerdict(); err != nil {
					t.Fatalf("%s image, fault %v: %v\n\t%s", w.kind, w.cut, err, updatetest.Ops(w.ops))
				}
				reached = len(w.ops) >= n
				faults++
			}
		}
	}
	t.Logf("%d faults", faults)
}

func (w *world) faultVerdict() error {
	job, err := w.journal.Load()
	switch {
	case err != nil:
		return err
	case w.broken != nil:
		return w.broken
	case job.State != "" && job.State != update.Idle:
		return fmt.Errorf("the job stays in state %s", job.State)
	case w.boot.Order[0] != w.slots.Running:
		return fmt.Errorf("runs %s, order %v", w.slots.Running, w.boot.Order)
	case !w.isGood() && w.runsNew():
		return errors.New("a bad image stays")
	case w.isGood() && w.runsNew() && w.floor.Value != w.source.Release.Floor:
		return fmt.Errorf("a good image stays, and the floor is %d", w.floor.Value)
	case !w.runsNew() && slices.Contains(w.boot.Order, "B") && w.images[string(w.slots.Disk["B"][:imageSize])] == 3:
		return errors.New("an image that was given up is a fall-back")
	case len(job.History) == 0:
		return errors.New("no history")
	}
	return nil
}
