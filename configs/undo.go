// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"context"
	"fmt"
	"log/slog"
	"slices"

	"github.com/backstay/backstay/configs/probe"
)

// Undo takes back everything the last run of Apply changed, newest first, from the copies in StateDir. A file that
// somebody has changed since is left alone and refuses the undo before anything is written (CodeChangedSince). It is
// durable when it returns; after a power cut call it again. Earlier runs can be undone by further calls.
func (e *Engine) Undo(ctx context.Context) ([]Planned, error) {
	unlock, err := e.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	rec, err := e.lastRecord()
	if err != nil {
		return nil, err
	}
	if rec == nil {
		return nil, refuse(CodeNothingToUndo, "undo", "no run has changed anything that was not taken back already", nil)
	}
	done, err := e.undo(ctx, rec)
	if err == nil {
		err = e.afterUndo(rec, func(m *memory, rule string) { m.Held[rule] = e.Now().Add(holdFor).Unix() })
	}
	return done, err
}

// afterUndo notes in the memory what became of the rules whose fixes were taken back. Without it the next run would fix them
// again at once.
func (e *Engine) afterUndo(rec *record, note func(m *memory, rule string)) error {
	m, err := e.loadMemory()
	if err != nil {
		return err
	}
	for _, c := range rec.undone {
		note(&m, c.Rule)
	}
	return e.saveMemory(m)
}

// Recover takes back the last run if it was on trial when the power went or the process died, and does nothing
// otherwise. Call it once at start, before Check or Apply.
func (e *Engine) Recover(ctx context.Context) ([]Planned, error) {
	if e.StateDir == "" {
		return nil, nil
	}
	unlock, err := e.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	rec, err := e.lastRecord()
	if err != nil || rec == nil || rec.Trial == 0 || rec.Committed {
		return nil, err
	}
	done, err := e.undo(ctx, rec)
	if err == nil && len(rec.undone) > 0 {
		noted := map[string]bool{}
		err = e.afterUndo(rec, func(m *memory, rule string) {
			if !noted[rule] {
				m.takenBack(rule, rec.Serial, e.Now())
			}
			noted[rule] = true
		})
	}
	return done, err
}

func (e *Engine) undo(ctx context.Context, rec *record) ([]Planned, error) {
	// A run on trial keeps what it did before the trial began.
	first := 0
	if rec.Trial > 0 && !rec.Committed {
		first = min(rec.Trial-1, len(rec.Changes))
	}
	look := e.newHost()
	err := rec.rehearse(ctx, look, first)
	look.Close()
	if err != nil {
		return nil, err
	}
	h := e.newHost()
	defer h.Close()
	done, err := rec.back(ctx, h, first, len(rec.Changes))
	if err != nil {
		return done, err
	}
	rec.undone = slices.Clone(rec.Changes[first:])
	if first > 0 {
		rec.Changes = rec.Changes[:first]
		err = rec.commit()
	} else {
		err = rec.drop()
	}
	e.emit(EventState, slog.String("run", "undo"), slog.String("policy", e.Policy.ID), slog.Uint64("serial", e.Policy.Serial),
		slog.Int("changes", len(done)))
	return done, err
}

// rehearse plays the undo in memory, so that a refusal comes before the first write.
func (rec *record) rehearse(ctx context.Context, h *probe.Host, first int) error {
	for i := len(rec.Changes) - 1; i >= first; i-- {
		c, err := rec.load(i)
		if err != nil {
			return err
		}
		inv := c.Inverse()
		if !c.Undoable() || h.Holds(ctx, inv) {
			continue
		}
		if !h.Ready(ctx, inv) {
			return refuse(CodeChangedSince, "undo", inv.Path+" was changed by something else after the run", nil)
		}
		h.Pretend(inv)
	}
	return nil
}

// takeBack undoes the changes first to last-1 and leaves the rest recorded.
func (rec *record) takeBack(ctx context.Context, h *probe.Host, first, last int) error {
	if _, err := rec.back(ctx, h, first, last); err != nil {
		return err
	}
	rec.Changes = slices.Delete(rec.Changes, first, last)
	return rec.save()
}

// back carries out the inverses, newest first.
func (rec *record) back(ctx context.Context, h *probe.Host, first, last int) ([]Planned, error) {
	var done []Planned
	for i := last - 1; i >= first; i-- {
		c, err := rec.load(i)
		if err != nil {
			return done, err
		}
		inv := c.Inverse()
		if !c.Undoable() {
			continue // the kernel refuses, a restart takes it back; or a process got a signal
		}
		if h.Holds(ctx, inv) {
			continue // recorded, but the power went before it was made, or before an earlier undo ended
		}
		if err = rec.engine.write(ctx, h, inv); err != nil {
			return done, fmt.Errorf("undo: %w", err)
		}
		inv.Redact = maskLine
		done = append(done, Planned{Op: string(inv.Op), Path: inv.Path, Diff: diffOf(inv)})
	}
	return done, nil
}
