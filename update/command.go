// SPDX-License-Identifier: Apache-2.0

package update

import (
	"context"
	"errors"
	"fmt"
)

// Verdict is what a person says about the running image.
type Verdict string

// The verdicts.
const (
	Good Verdict = "good"
	Bad  Verdict = "bad"
)

var (
	errMarkedGood = errors.New("marked good by a local command")
	errMarkedBad  = &failed{CodeMarkedBad, errors.New("marked bad by a local command")}
	errCanceled   = &failed{CodeCanceled, errors.New("canceled by a local command")}
)

// Mark lets a person decide. During a trial it is the verdict, whatever the health checks say. With no update in progress,
// good keeps the running slot's attempts full, and bad is Rollback. In any other state it is refused.
func (m *Machine) Mark(ctx context.Context, v Verdict) error {
	order := errMarkedGood
	switch v {
	case Good:
	case Bad:
		order = errMarkedBad
	default:
		return fmt.Errorf("mark slot: no verdict %q: good or bad", v)
	}
	if m.interrupt(order, Trial) {
		return nil
	}
	if !m.running.TryLock() {
		return tooLate("mark the running image", m.snapshot().State)
	}
	defer m.running.Unlock()
	job, err := m.load()
	if err != nil {
		return err
	}
	switch {
	case job.State == Trial && v == Good:
		return m.enter(&job, Trial, Committing)
	case job.State == Trial:
		job.Fail = failure(Trial, errMarkedBad)
		return m.enter(&job, Trial, Reverting)
	case job.State != "" && job.State != Idle:
		return tooLate("mark the running image", job.State)
	case v == Good:
		return m.settle(ctx, &job)
	default:
		return m.rollback(ctx, &job)
	}
}

// Rollback goes back to the image in the other slot: it becomes a job like any other, with a trial and a way back, which the
// next Run carries out. The release that runs now is not installed again. It is refused if an update is in progress, if the
// other slot does not hold an image this device has kept before, byte for byte, or if that image is below the floor.
func (m *Machine) Rollback(ctx context.Context) error {
	if !m.running.TryLock() {
		return tooLate("roll back", m.snapshot().State)
	}
	defer m.running.Unlock()
	job, err := m.load()
	if err != nil {
		return err
	}
	if job.State != "" && job.State != Idle {
		return tooLate("roll back", job.State)
	}
	return m.rollback(ctx, &job)
}

func (m *Machine) rollback(ctx context.Context, job *Job) error {
	booted, err := m.booted()
	if err != nil {
		return err
	}
	to := m.other(booted)
	img, known := job.Images[to]
	if !known {
		return &Refusal{Code: CodeNoImage, What: "roll back to slot " + string(to), Why: "it does not hold an image this device has kept before"}
	}
	if err := m.permit(img.release()); err != nil {
		return err
	}
	sum, err := m.Slots.Digest(ctx, to, img.Length)
	if err != nil {
		return fmt.Errorf("read slot %s: %w", to, err)
	}
	if sum != img.SHA256 {
		return &Refusal{Code: CodeChanged, What: "roll back to slot " + string(to), Why: fmt.Sprintf("it holds %x, kept was %x", sum, img.SHA256)}
	}
	floor, err := m.Floor.Get()
	if err != nil {
		return fmt.Errorf("read floor: %w", err)
	}
	next := job.cleared()
	next.Release, next.Slot, next.From, next.Back, next.Began, next.Local = img.release(), to, booted, floor, m.now(), true
	if bad, known := job.Images[booted]; known {
		next.Back = bad.Counter
		next.punish(m, Outcome{Result: RolledBack, SHA256: bad.SHA256, Version: bad.Version, Fail: failure(Idle, errMarkedBad)})
	}
	return m.enter(&next, Idle, Arming)
}

// Cancel gives up an update whose new slot has not been started. After that it is too late, and Mark is the way. What the boot
// loader was told already is taken back by the next Run.
func (m *Machine) Cancel() error {
	if m.interrupt(errCanceled, Checking, Downloading) {
		return nil
	}
	if !m.running.TryLock() {
		return tooLate("cancel the update", m.snapshot().State)
	}
	defer m.running.Unlock()
	job, err := m.load()
	if err != nil {
		return err
	}
	from, next := job.State, Reporting
	switch {
	case from == Downloading:
	case m.holds() && (from == Arming || m.sameBoot(&job)):
		booted, err := m.booted()
		if err != nil {
			return err
		}
		if booted == job.Slot {
			return tooLate("cancel the update", from)
		}
		next = Reverting
	default:
		return tooLate("cancel the update", from)
	}
	job.Fail = failure(from, errCanceled)
	return m.enter(&job, from, next)
}

// holds reports whether the last run ended because the policy held the job.
func (m *Machine) holds() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, is := errors.AsType[*Waiting](m.done)
	return is
}

// sameBoot reports whether the slot was armed in this boot.
func (m *Machine) sameBoot(job *Job) bool {
	id := m.bootID()
	return id != "" && id == job.BootID
}

// Pardon empties the quarantine, so that every release may be tried again. It is for a person who has removed the cause.
func (m *Machine) Pardon() error {
	if !m.running.TryLock() {
		return tooLate("pardon releases", m.snapshot().State)
	}
	defer m.running.Unlock()
	job, err := m.load()
	if err != nil {
		return err
	}
	job.Quarantine, job.Refused = nil, ""
	return m.save(job)
}

// interrupt stops the row that runs if it is one of states.
func (m *Machine) interrupt(order error, states ...State) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range states {
		if m.active && m.job.State == s {
			m.order = order
			m.stop(order)
			return true
		}
	}
	return false
}

func tooLate(what string, s State) error {
	if s == "" {
		s = Idle
	}
	return &Refusal{Code: CodeTooLate, What: what, Why: "an update is in state " + string(s)}
}

// Status is what a person wants to see. It holds no secret.
type Status struct {
	State      State            `json:"state"`
	Booted     SlotID           `json:"booted,omitempty"`
	Floor      uint64           `json:"floor"`
	Boot       BootState        `json:"boot"`
	Release    *Release         `json:"release,omitempty"` // of the update in progress
	Slot       SlotID           `json:"slot,omitempty"`
	Offset     int64            `json:"offset,omitempty"` // bytes written, of Release.Length
	Fail       *Failure         `json:"fail,omitempty"`
	Images     map[SlotID]Image `json:"images,omitempty"`
	Quarantine []Quarantined    `json:"quarantine,omitempty"`
	History    []Outcome        `json:"history,omitempty"`
	Offered    *Release         `json:"offered,omitempty"`  // meant for this device, not begun
	Wish       Wish             `json:"wish,omitzero"`      // about Release, or Offered
	Waiting    *Decision        `json:"waiting,omitempty"`  // what the last run waits for
	Last       string           `json:"last,omitempty"`     // the error the last run ended with
	Problems   []string         `json:"problems,omitempty"` // parts that could not be asked
}

// Status returns the state of the update and of the parts it works on. It does not wait for a running update. Before the
// first Run or Resume it shows no job.
func (m *Machine) Status() Status {
	s := m.Brief()
	var err error
	note := func(what string, err error) {
		if err != nil {
			s.Problems = append(s.Problems, what+": "+err.Error())
		}
	}
	s.Booted, err = m.Slots.Booted()
	note("running slot", err)
	s.Floor, err = m.Floor.Get()
	note("floor", err)
	s.Boot, err = m.Boot.State()
	note("boot loader", err)
	return s
}

// Brief is Status without the parts, which cost reads of the boot loader's storage. It is cheap enough for every second.
func (m *Machine) Brief() Status {
	m.mu.Lock()
	job, done, offered := m.job.clone(), m.done, m.offered
	m.mu.Unlock()
	s := Status{State: job.State, Slot: job.Slot, Offset: job.Offset, Fail: job.Fail, Images: job.Images,
		Quarantine: job.Quarantine, History: job.History}
	if s.State == "" {
		s.State = Idle
	}
	if job.Slot != "" {
		s.Release, s.Wish = &job.Release, m.wished(job.Release)
	} else if offered.Path != "" {
		s.Offered, s.Wish = &offered, m.wished(offered)
	}
	if done != nil {
		s.Last = done.Error()
	}
	if w, is := errors.AsType[*Waiting](done); is {
		s.Waiting = &w.Decision
	}
	return s
}
