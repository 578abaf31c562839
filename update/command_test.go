// SPDX-License-Identifier: Apache-2.0

package update_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/backstay/backstay/update"
)

// inTrial brings the device to the trial of a release and holds it there; the returned channel gives how Resume ended.
func inTrial(t *testing.T) (*rig, <-chan error) {
	t.Helper()
	r := newRig(t)
	r.is(r.m.Run(t.Context()), update.ErrReboot)
	r.reboot()
	asked := make(chan struct{})
	r.health = func(ctx context.Context) error { close(asked); <-ctx.Done(); return ctx.Err() }
	done := make(chan error, 1)
	go func() { done <- r.m.Resume(t.Context()) }()
	<-asked
	return r, done
}

func TestMarkGood(t *testing.T) {
	r, done := inTrial(t)
	r.ok(r.m.Mark(t.Context(), update.Good))
	r.ok(<-done)
	if r.boot.Order[0] != "B" || r.job().History[0].Result != update.Committed {
		t.Errorf("order %v", r.boot.Order)
	}
}

func TestMarkBad(t *testing.T) {
	r, done := inTrial(t)
	r.refused(r.m.Cancel(), "too-late")
	r.refused(r.m.Rollback(t.Context()), "too-late")
	r.ok(r.m.Mark(t.Context(), update.Bad))
	r.is(<-done, update.ErrReboot)
	r.reboot()
	_ = r.m.Resume(t.Context())
	if job := r.job(); r.slots.Running != "A" || job.History[0].Fail.Code != "marked-bad" || !job.Quarantine[0].Never {
		t.Errorf("runs %s, job %+v", r.slots.Running, job)
	}
}

// TestMarkStopped gives the verdict while no process works on the trial.
func TestMarkStopped(t *testing.T) {
	for _, v := range []update.Verdict{update.Good, update.Bad} {
		r := newRig(t)
		r.is(r.m.Run(t.Context()), update.ErrReboot)
		r.reboot()
		job := r.job()
		job.State = update.Trial
		r.ok(r.journal.Save(job))
		r.health = func(context.Context) error { t.Error("asked although a person has decided"); return nil }
		r.ok(r.m.Mark(t.Context(), v))
		err := r.m.Run(t.Context())
		if v == update.Good {
			r.ok(err)
		} else {
			r.is(err, update.ErrReboot)
		}
		if (r.boot.Order[0] == "B") != (v == update.Good) {
			t.Errorf("%s: order %v", v, r.boot.Order)
		}
	}
}

func TestMarkIdle(t *testing.T) {
	r := newRig(t)
	r.boot.Left["A"] = 1
	r.ok(r.m.Mark(t.Context(), update.Good))
	if r.boot.Left["A"] != 3 {
		t.Errorf("left %v", r.boot.Left)
	}
	r.refused(r.m.Mark(t.Context(), update.Bad), "no-known-image")
	if err := r.m.Mark(t.Context(), "fine"); err == nil {
		t.Error("a verdict that is none")
	}
}

func TestCancel(t *testing.T) {
	t.Run("while it runs", func(t *testing.T) {
		r := newRig(t)
		effect := r.source.Effect
		r.source.Effect = func(op string) (bool, error) {
			r.ok(r.m.Cancel())
			return effect(op)
		}
		if err := r.m.Run(t.Context()); err == nil || errors.Is(err, update.ErrRetry) {
			t.Errorf("error is %v", err)
		}
		job := r.job()
		if len(job.History) != 1 || job.History[0].Result != update.Canceled || job.Quarantine[0].Attempts != 0 || job.Quarantine[0].Never {
			t.Errorf("job %+v", job)
		}
		r.refused(r.m.Run(t.Context()), "quarantined")
		r.source.Effect = effect
		r.now = job.Quarantine[0].NotBefore
		r.install()
	})
	t.Run("while it waits", func(t *testing.T) {
		r := newRig(t)
		r.refused(r.m.Cancel(), "too-late")
		r.source.Breaks = 3000
		r.is(r.m.Run(t.Context()), update.ErrRetry)
		r.refused(r.m.Mark(t.Context(), update.Good), "too-late")
		r.ok(r.m.Cancel())
		r.ok(r.m.Run(t.Context()))
		if job := r.job(); job.State != update.Idle || job.History[0].Result != update.Canceled {
			t.Errorf("job %+v", job)
		}
	})
	t.Run("after arming", func(t *testing.T) {
		r := newRig(t)
		r.is(r.m.Run(t.Context()), update.ErrReboot)
		r.refused(r.m.Cancel(), "too-late")
	})
}

// twoKept is a device with images it has kept in both slots: 3.0 in B, and 3.1 with this floor, running, in A.
func twoKept(t *testing.T, floor uint64) *rig {
	t.Helper()
	r := newRig(t)
	r.install()
	r.offer("3.1", 4, floor)
	r.install()
	if r.slots.Running != "A" || len(r.job().Images) != 2 {
		t.Fatalf("runs %s, images %v", r.slots.Running, r.job().Images)
	}
	return r
}

func TestRollback(t *testing.T) {
	r := twoKept(t, 3)
	r.ok(r.m.Rollback(t.Context()))
	r.is(r.m.Run(t.Context()), update.ErrReboot)
	r.reboot()
	r.ok(r.m.Resume(t.Context()))
	if r.slots.Running != "B" || r.boot.Order[0] != "B" || r.floor.Value != 3 {
		t.Errorf("runs %s, order %v, floor %d", r.slots.Running, r.boot.Order, r.floor.Value)
	}
	r.refused(r.m.Run(t.Context()), "quarantined") // or it would come straight back
	if slices.Contains(r.source.Opened[1:], 0) {
		t.Error("an image was fetched")
	}
}

func TestRollbackUnhealthy(t *testing.T) {
	r := twoKept(t, 3)
	r.ok(r.m.Mark(t.Context(), update.Bad))
	r.is(r.m.Run(t.Context()), update.ErrReboot)
	r.reboot()
	r.health = func(context.Context) error { return errors.New("no link") }
	r.is(r.m.Resume(t.Context()), update.ErrReboot)
	r.reboot()
	_ = r.m.Resume(t.Context())
	if r.slots.Running != "A" || r.job().State != update.Idle || slices.Contains(r.boot.Order, "B") {
		t.Errorf("runs %s, order %v", r.slots.Running, r.boot.Order)
	}
}

func TestRollbackRefuses(t *testing.T) {
	r := newRig(t)
	r.refused(r.m.Rollback(t.Context()), "no-known-image")
	r.install()
	r.refused(r.m.Rollback(t.Context()), "no-known-image") // the factory's image

	r = twoKept(t, 4)
	r.refused(r.m.Rollback(t.Context()), "below-floor")

	r = twoKept(t, 3)
	r.slots.Live["B"][9] ^= 1
	r.refused(r.m.Rollback(t.Context()), "slot-changed")
	if r.job().State != update.Idle || slices.Contains(r.boot.Order[:1], "B") {
		t.Errorf("job %+v", r.job())
	}
}
