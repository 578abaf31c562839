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
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/updatetest"
)

// rig is a machine over a world without cuts, one boot at a time.
type rig struct {
	*world
	t      *testing.T
	m      *update.Machine
	health func(context.Context) error
	attrs  map[string]string // of the last event
	policy *update.Policy
	limit  update.PostponeLimit
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{world: newWorld(lenient, cut{}), t: t, health: func(context.Context) error { return nil }}
	r.restart()
	return r
}

// restart starts the process anew, in the boot it is in.
func (r *rig) restart() {
	r.m = r.machine()
	r.m.Policy, r.m.Postponing = r.policy, r.limit
	r.m.Health = func(ctx context.Context) error { return r.health(ctx) }
	r.m.Emit = func(code string, attrs ...slog.Attr) {
		r.events = append(r.events, code)
		r.attrs = map[string]string{}
		for _, a := range attrs {
			r.attrs[a.Key] = a.Value.String()
		}
	}
}

// reboot starts the device anew.
func (r *rig) reboot() {
	r.t.Helper()
	r.boots++
	id, ok := r.start(r.boot)
	if !ok {
		r.t.Fatal("dead")
	}
	r.slots.Running = id
	r.restart()
}

func (r *rig) job() update.Job {
	r.t.Helper()
	job, err := r.journal.Load()
	if err != nil {
		r.t.Fatal(err)
	}
	return job
}

func (r *rig) is(err, want error) {
	r.t.Helper()
	if !errors.Is(err, want) {
		r.t.Fatalf("error is %v, want %v", err, want)
	}
}

func (r *rig) refused(err error, code string) {
	r.t.Helper()
	var no *update.Refusal
	if !errors.As(err, &no) || no.Code != code {
		r.t.Fatalf("error is %v, want the refusal %s", err, code)
	}
}

func (r *rig) ok(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// offer puts another release on the source.
func (r *rig) offer(version string, counter, floor uint64) {
	image := updatetest.Image(version, imageSize)
	r.images[string(image)] = counter
	effect := r.source.Effect
	r.source = updatetest.NewSource(version, counter, floor, image)
	r.source.Effect = effect
	r.restart()
}

// install brings the release on offer to its end.
func (r *rig) install() {
	r.t.Helper()
	r.is(r.m.Run(r.t.Context()), update.ErrReboot)
	r.reboot()
	r.ok(r.m.Resume(r.t.Context()))
}

// TestOrder holds the order of the effects of one update, which the safety of all the others hangs on.
func TestOrder(t *testing.T) {
	w := newWorld(good, cut{})
	w.run(t)
	want := []string{"boot.disarm B", "slot.write B 0", "slot.sync B", "emit update.verified", "emit update.installed",
		"boot.try B", "reboot", "health", "boot.keep B", "boot.disarm A", "floor.raise 3", "emit update.committed"}
	at := -1
	for _, op := range want {
		i := slices.Index(w.ops[at+1:], op)
		if i < 0 {
			t.Fatalf("%q does not come after %q in\n\t%s", op, want[:slices.Index(want, op)], updatetest.Ops(w.ops))
		}
		at += 1 + i
	}
}

func TestFloor(t *testing.T) {
	t.Run("at checking", func(t *testing.T) {
		r := newRig(t)
		r.floor.Value = 4
		for range 3 {
			r.refused(r.m.Run(t.Context()), "below-floor")
		}
		if len(r.source.Opened) > 0 || slices.Contains(r.ops, "boot.disarm B") {
			t.Error("the slot was touched")
		}
		if !slices.Equal(r.events, []string{"update.rejected"}) || r.attrs["code"] != "below-floor" {
			t.Errorf("events %q with %v", r.events, r.attrs)
		}
		r.restart()
		r.refused(r.m.Run(t.Context()), "below-floor")
		if len(r.events) != 1 {
			t.Error("a refusal is reported again after a restart")
		}
	})
	t.Run("at arming", func(t *testing.T) {
		r := newRig(t)
		emit := r.m.Emit
		r.m.Emit = func(code string, attrs ...slog.Attr) {
			if code == "update.installed" {
				r.floor.Value = 4
			}
			emit(code, attrs...)
		}
		r.refused(r.m.Run(t.Context()), "below-floor")
		if slices.Contains(r.ops, "boot.try B") {
			t.Error("the slot was armed")
		}
	})
	t.Run("at committing", func(t *testing.T) {
		r := newRig(t)
		r.is(r.m.Run(t.Context()), update.ErrReboot)
		r.reboot()
		r.health = func(context.Context) error { r.floor.Value = 4; return nil }
		r.is(r.m.Resume(t.Context()), update.ErrReboot)
		r.reboot()
		_ = r.m.Resume(t.Context())
		if r.slots.Running != "A" || r.job().History[0].Fail.Code != "below-floor" {
			t.Errorf("runs %s, history %+v", r.slots.Running, r.job().History)
		}
	})
	t.Run("committing resumed", func(t *testing.T) {
		r := newRig(t)
		r.is(r.m.Run(t.Context()), update.ErrReboot)
		r.reboot()
		job := r.job()
		job.State = update.Committing
		r.ok(r.journal.Save(job))
		r.floor.Value = 4
		r.is(r.m.Resume(t.Context()), update.ErrReboot)
		if r.boot.Order[0] != "A" {
			t.Errorf("order %v", r.boot.Order)
		}
	})
}

// TestResumeDownload breaks the connection: the next run goes on at the last byte that is durable.
func TestResumeDownload(t *testing.T) {
	r := newRig(t)
	r.source.Breaks = 6000
	r.is(r.m.Run(t.Context()), update.ErrRetry)
	if s := r.m.Status(); s.State != update.Downloading || s.Offset != 6000 || s.Release.Version != "3.0" {
		t.Fatalf("status %+v", s)
	}
	r.is(r.m.Run(t.Context()), update.ErrReboot)
	if !slices.Equal(r.source.Opened, []int64{0, 6000}) || r.source.Sent != imageSize {
		t.Errorf("opened at %v, %d bytes", r.source.Opened, r.source.Sent)
	}
	t.Run("from the start of a block", func(t *testing.T) {
		for block, from := range map[int64]int64{2500: 5000, slotSize: 0} {
			r := newRig(t)
			r.source.Breaks, r.slots.Block = 6000, block
			r.is(r.m.Run(t.Context()), update.ErrRetry)
			r.is(r.m.Run(t.Context()), update.ErrReboot)
			if !slices.Equal(r.source.Opened, []int64{0, from}) {
				t.Errorf("opened at %v, with blocks of %d", r.source.Opened, block)
			}
		}
	})
	t.Run("prefix spoiled", func(t *testing.T) {
		r := newRig(t)
		r.source.Breaks = 6000
		r.is(r.m.Run(t.Context()), update.ErrRetry)
		r.slots.Live["B"][100] ^= 1
		r.is(r.m.Run(t.Context()), update.ErrReboot)
		if !slices.Equal(r.source.Opened, []int64{0, 6000, 0}) {
			t.Errorf("opened at %v", r.source.Opened)
		}
	})
	t.Run("too often", func(t *testing.T) {
		r := newRig(t)
		for i := range update.MaxCuts {
			r.source.Breaks = int64(i + 1)
			r.is(r.m.Run(t.Context()), update.ErrRetry)
			if r.job().State != update.Downloading {
				t.Fatalf("given up after %d", i)
			}
		}
		r.source.Breaks = update.MaxCuts + 1
		r.is(r.m.Run(t.Context()), update.ErrRetry)
		if r.job().State != update.Idle || len(r.job().Quarantine) != 1 {
			t.Errorf("job %+v", r.job())
		}
	})
}

func TestLength(t *testing.T) {
	r := newRig(t)
	r.source.Image = append(bytes.Clone(r.source.Image), 0)
	r.refused(r.m.Run(t.Context()), "wrong-length")
	if !bytes.Equal(r.slots.Live["B"][imageSize:], make([]byte, slotSize-imageSize)) {
		t.Error("bytes past the signed length were written")
	}
	r = newRig(t)
	r.source.Image = r.source.Image[:imageSize-1]
	r.is(r.m.Run(t.Context()), update.ErrRetry)
	r = newRig(t)
	r.source.Release.Length = 0
	r.refused(r.m.Run(t.Context()), "wrong-length")
	r = newRig(t)
	r.source.Release.Floor = 4
	r.refused(r.m.Run(t.Context()), "floor-above-counter")
}

// TestQuarantine follows one release through its failed trials.
func TestQuarantine(t *testing.T) {
	r := newRig(t)
	r.health = func(context.Context) error { return errors.New("no link") }
	wait := []time.Duration{time.Hour, 2 * time.Hour, 0}
	for i, d := range wait {
		r.is(r.m.Run(t.Context()), update.ErrReboot)
		r.reboot()
		r.is(r.m.Resume(t.Context()), update.ErrReboot)
		r.reboot()
		r.ok(r.m.Resume(t.Context()))
		q := r.job().Quarantine
		if len(q) != 1 || q[0].Attempts != i+1 || q[0].Never != (d == 0) || q[0].Why != "unhealthy" {
			t.Fatalf("quarantine %+v", q)
		}
		r.refused(r.m.Run(t.Context()), "quarantined")
		r.now = r.now.Add(d - time.Second)
		r.refused(r.m.Run(t.Context()), "quarantined")
		r.now = r.now.Add(time.Second)
	}
	r.now = r.now.Add(1000 * time.Hour)
	r.refused(r.m.Run(t.Context()), "quarantined")
	if len(r.source.Opened) != len(wait) {
		t.Errorf("opened %d times", len(r.source.Opened))
	}
	r.health = func(context.Context) error { return nil }
	r.ok(r.m.Pardon())
	r.install()
	if r.slots.Running != "B" {
		t.Error("a pardoned release is not installed")
	}
}

// TestSpoiledLine holds that nobody on the line can keep a device from a release for good: bytes that come wrong make it wait,
// longer every time, and never give the release up.
func TestSpoiledLine(t *testing.T) {
	r := newRig(t)
	right := r.source.Image
	r.source.Image = bytes.Clone(right)
	r.source.Image[1] ^= 1
	for i := range 8 {
		r.refused(r.m.Run(t.Context()), "bad-hash")
		q := r.job().Quarantine[0]
		if wait := q.NotBefore.Sub(r.now); q.Never || q.Why != "bad-hash" || wait != min(time.Hour<<i, 7*24*time.Hour) {
			t.Fatalf("after %d failures it waits %v: %+v", i+1, wait, q)
		}
		r.refused(r.m.Run(t.Context()), "quarantined")
		r.now = q.NotBefore
	}
	r.source.Image = right
	r.install()
	if r.slots.Running != "B" {
		t.Error("the release is not installed once its bytes are right")
	}
}

// TestOwnFault holds that a release is not given up for what the device cannot do.
func TestOwnFault(t *testing.T) {
	r := newRig(t)
	r.source.Release.Length = slotSize + 1
	for i := range 8 {
		if err := r.m.Run(t.Context()); err == nil {
			t.Fatal("an image larger than the slot was installed")
		}
		q := r.job().Quarantine[0]
		if wait := q.NotBefore.Sub(r.now); q.Never || wait != min(time.Hour<<i, 7*24*time.Hour) {
			t.Fatalf("after %d failures it waits %v: %+v", i+1, wait, q)
		}
		r.now = q.NotBefore
	}
}

// TestBounds fills history and quarantine.
func TestBounds(t *testing.T) {
	r := newRig(t)
	for i := range update.MaxHistory + 8 {
		r.offer(fmt.Sprint("4.", i), 9, 1)
		r.source.Image = bytes.Clone(r.source.Image)
		r.source.Image[0] ^= 1
		r.refused(r.m.Run(t.Context()), "bad-hash")
	}
	job := r.job()
	if len(job.History) != update.MaxHistory || len(job.Quarantine) != update.MaxQuarantine {
		t.Errorf("%d outcomes, %d in quarantine", len(job.History), len(job.Quarantine))
	}
	if last := job.History[len(job.History)-1]; last.Version != fmt.Sprint("4.", update.MaxHistory+7) || last.Result != update.Rejected {
		t.Errorf("last outcome %+v", last)
	}
}

// TestNothing holds that a poll which finds nothing leaves no trace, so that it may be done for ever.
func TestNothing(t *testing.T) {
	r := newRig(t)
	r.source.Err = update.ErrNothing
	for range 3 {
		r.is(r.m.Run(t.Context()), update.ErrNothing)
	}
	if len(r.ops) != 0 {
		t.Errorf("effects %q", r.ops)
	}
	r.source.Err = nil
	r.install()
	n := len(r.ops)
	r.is(r.m.Run(t.Context()), update.ErrNothing)
	if len(r.ops) != n {
		t.Errorf("the release that runs was looked at again: %q", r.ops[n:])
	}
}

// TestProcessRestart holds that a restart of the process is not taken for a reboot, which would fail a good image.
func TestProcessRestart(t *testing.T) {
	r := newRig(t)
	r.is(r.m.Run(t.Context()), update.ErrReboot)
	r.restart()
	r.is(r.m.Resume(t.Context()), update.ErrReboot)
	r.reboot()
	r.ok(r.m.Resume(t.Context()))
	if r.boot.Order[0] != "B" || r.job().State != update.Idle {
		t.Errorf("order %v", r.boot.Order)
	}
}

// TestTrialDeadline lets a health check hang.
func TestTrialDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.is(r.m.Run(t.Context()), update.ErrReboot)
		r.reboot()
		r.m.TrialTimeout = 90 * time.Second
		r.health = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		began := time.Now()
		r.is(r.m.Resume(t.Context()), update.ErrReboot)
		if d := time.Since(began); d != 90*time.Second {
			t.Errorf("the trial took %v", d)
		}
		r.reboot()
		_ = r.m.Resume(t.Context())
		if h := r.job().History; len(h) != 1 || h[0].Fail.Code != "unhealthy" || r.slots.Running != "A" {
			t.Errorf("history %+v", h)
		}
	})
}

// TestTrialEndless stops the process in every trial: an image that kills its agent must not stay on trial for ever.
func TestTrialEndless(t *testing.T) {
	r := newRig(t)
	r.is(r.m.Run(t.Context()), update.ErrReboot)
	r.reboot()
	for range update.MaxTrials {
		ctx, stop := context.WithCancel(t.Context())
		r.health = func(ctx context.Context) error { stop(); return ctx.Err() }
		r.is(r.m.Resume(ctx), context.Canceled)
		if r.job().State != update.Trial {
			t.Fatalf("state %s", r.job().State)
		}
		r.restart()
	}
	r.is(r.m.Resume(t.Context()), update.ErrReboot)
	if job := r.job(); job.Fail.Code != "trial-interrupted" || r.boot.Order[0] != "A" {
		t.Errorf("job %+v", job)
	}
}

// TestStop ends the context in the middle: the job stays where it is.
func TestStop(t *testing.T) {
	r := newRig(t)
	ctx, stop := context.WithCancel(t.Context())
	open := r.source.Effect
	r.source.Effect = func(op string) (bool, error) { stop(); return open(op) }
	r.is(r.m.Run(ctx), context.Canceled)
	if job := r.job(); job.State != update.Downloading || job.Fail != nil || len(job.History) != 0 {
		t.Errorf("job %+v", job)
	}
	r.is(r.m.Run(t.Context()), update.ErrReboot)
}

func TestStatus(t *testing.T) {
	r := newRig(t)
	if s := r.m.Status(); s.State != update.Idle || s.Booted != "A" || s.Floor != 1 || s.Boot.Primary != "A" || len(s.Problems) != 0 {
		t.Errorf("status %+v", s)
	}
	r.install()
	s := r.m.Status()
	if s.Booted != "B" || s.Floor != 2 || s.Images["B"].Version != "3.0" || len(s.History) != 1 || s.Release != nil {
		t.Errorf("status %+v", s)
	}
	if o := s.History[0]; o.Result != update.Committed || o.Version != "3.0" || o.Slot != "B" || o.Began.IsZero() || o.Ended.IsZero() {
		t.Errorf("outcome %+v", o)
	}
	if r.attrs["release"] != "3.0" || r.attrs["path"] != "firmware/acme/3.0.img" || r.attrs["slot"] != "B" || r.attrs["sha256"] != fmt.Sprintf("%x", r.source.Release.SHA256) {
		t.Errorf("event attributes %v", r.attrs)
	}
}

func TestSetup(t *testing.T) {
	for name, spoil := range map[string]func(*update.Machine){
		"no source": func(m *update.Machine) { m.Source = nil }, "no health": func(m *update.Machine) { m.Health = nil },
		"ten attempts": func(m *update.Machine) { m.Attempts = 10 }, "one slot": func(m *update.Machine) { m.Names = [2]update.SlotID{"A", "A"} },
		"other slots": func(m *update.Machine) { m.Names = [2]update.SlotID{"X", "Y"} },
	} {
		r := newRig(t)
		spoil(r.m)
		if err := r.m.Run(t.Context()); !errors.Is(err, update.ErrSetup) {
			t.Errorf("%s: %v", name, err)
		}
	}
	r := newRig(t)
	r.journal.Bytes = []byte(`{"state":"dancing"}`)
	if err := r.m.Resume(t.Context()); err == nil {
		t.Error("a state that is not in the table was accepted")
	}
}

// TestArchitecture holds the page that people read against the table that runs.
func TestArchitecture(t *testing.T) {
	page, err := os.ReadFile("../ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	want, err := update.Illustrate(string(page))
	if err != nil {
		t.Fatal(err)
	}
	if want != string(page) {
		t.Error("ARCHITECTURE.md shows another lifecycle than table.go: run `go generate ./update`")
	}
	if !strings.Contains(want, "    rebooting --> trial: power loss\n") || strings.Count(want, ": ok\n") != 9 {
		t.Error("the diagram lacks rows")
	}
	if _, err := update.Illustrate("# no marks"); err == nil {
		t.Error("a page without marks was rewritten")
	}
}

// TestTable holds the form of the table: every state is there once and leads to states that are there.
func TestTable(t *testing.T) {
	states := map[update.State]bool{}
	for _, r := range update.Lifecycle() {
		if states[r.State] || r.Do == nil || r.Does == "" {
			t.Errorf("row %s", r.State)
		}
		states[r.State] = true
	}
	for _, r := range update.Lifecycle() {
		if !states[r.OK] || !states[r.Err] || !states[r.Resume] {
			t.Errorf("row %s leads out of the table", r.State)
		}
	}
	if len(states) != 9 {
		t.Errorf("%d states", len(states))
	}
}
