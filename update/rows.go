// SPDX-License-Identifier: Apache-2.0

package update

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// What each row of the lifecycle does, in the order of the table. Downloading is in download.go, reporting in history.go.
//
// Every function here may be cut by a power loss between any two of its effects and is then called again from its start, in
// the boot after. So each one begins by looking at where it is.

// settle keeps the attempts of the running slot full. Boot loaders count down at every start: without it, three starts after
// an update was kept would fall back to the image before it.
func (m *Machine) settle(_ context.Context, _ *Job) error {
	booted, err := m.booted()
	if err != nil {
		return err
	}
	if err := m.Boot.Keep(booted); err != nil {
		return fmt.Errorf("keep running slot %s: %w", booted, err)
	}
	return nil
}

// choose picks the release and the slot, and has no effect.
func (m *Machine) choose(ctx context.Context, job *Job) error {
	booted, err := m.booted()
	if err != nil {
		return err
	}
	if err := m.ask(ctx, StepCheck, Release{}); err != nil {
		return err
	}
	r, err := m.Source.Latest(ctx)
	if err == nil {
		err = m.welcome(ctx, job, booted, r)
	}
	if err != nil {
		if !errors.Is(err, ErrRetry) {
			m.offer(Release{})
		}
		m.refuse(job, r, err)
		return err
	}
	m.offer(r)
	if err := m.ask(ctx, StepDownload, r); err != nil {
		return err // nothing was begun: the next run asks for what is newest then
	}
	floor, err := m.Floor.Get()
	if err != nil {
		return fmt.Errorf("read floor: %w", err)
	}
	*job = job.cleared()
	job.Release, job.From, job.Slot, job.Began, job.Back = r, booted, m.other(booted), m.now(), floor
	if img, known := job.Images[booted]; known {
		job.Back = img.Counter
	}
	job.forget(job.Slot) // about to be overwritten
	return nil
}

// welcome says whether a release may be installed here and now.
func (m *Machine) welcome(ctx context.Context, job *Job, booted SlotID, r Release) error {
	// A release that was kept is not looked at again, whatever its components say about themselves: one that never names its
	// version right would be installed at every poll.
	if img, known := job.Images[booted]; known && img.SHA256 == r.SHA256 && (img.Path == r.Path || m.upToDate(ctx, r)) {
		return ErrNothing
	}
	if r.Length <= 0 {
		return &Refusal{Code: CodeWrongLength, What: "release " + r.Version, Why: fmt.Sprintf("its image is %d bytes long", r.Length)}
	}
	if r.Floor > r.Counter {
		return &Refusal{Code: CodeBadFloor, What: "release " + r.Version,
			Why: fmt.Sprintf("kept, it would be below the floor %d it asks for: its own counter is %d", r.Floor, r.Counter)}
	}
	if err := m.permit(r); err != nil {
		return err
	}
	if err := m.suits(ctx, r); err != nil {
		return err
	}
	return m.quarantined(job, r)
}

// permit refuses a release below the security floor. It is asked when a release is chosen, and again before its slot is armed
// and before it is kept, because the floor may have risen in between.
func (m *Machine) permit(r Release) error {
	floor, err := m.Floor.Get()
	if err != nil {
		return fmt.Errorf("read floor: %w", err)
	}
	if r.Counter < floor {
		return &Refusal{Code: CodeBelowFloor, What: "release " + r.Version,
			Why: fmt.Sprintf("its counter %d is below this device's security floor %d", r.Counter, floor)}
	}
	return nil
}

// refuse reports a refusal once, not at every poll.
func (m *Machine) refuse(job *Job, r Release, err error) {
	no, is := errors.AsType[*Refusal](err)
	if !is {
		return
	}
	mark := fmt.Sprintf("%s %s %x", no.Code, r.Path, r.SHA256[:8])
	if mark == job.Refused {
		return
	}
	job.Refused = mark
	m.emit("update.rejected", &Job{Release: r}, slog.String("code", no.Code), slog.String("reason", no.Error()))
}

// arm makes the boot loader try the slot.
func (m *Machine) arm(ctx context.Context, job *Job) error {
	booted, err := m.booted()
	if err != nil {
		return err
	}
	if err := m.permit(job.Release); err != nil {
		return err
	}
	if booted == job.Slot {
		return nil // cut after Try: the boot loader has already taken it
	}
	if err := m.await(ctx, job, StepInstall); err != nil {
		return err
	}
	if err := m.Boot.Try(job.Slot, m.attempts()); err != nil {
		return fmt.Errorf("arm slot %s: %w", job.Slot, err)
	}
	job.BootID = m.bootID()
	return nil
}

// restart reboots into the new slot.
func (m *Machine) restart(ctx context.Context, job *Job) error {
	booted, err := m.booted()
	if err != nil {
		return err
	}
	if booted == job.Slot {
		return nil
	}
	return m.rebootWhen(ctx, job)
}

// rebootWhen restarts into the new slot once that is allowed.
func (m *Machine) rebootWhen(ctx context.Context, job *Job) error {
	if err := m.await(ctx, job, StepReboot); err != nil {
		return err
	}
	return m.reboot(ctx, job, "try release "+job.Release.Version)
}

// try decides whether the new image is good.
func (m *Machine) try(ctx context.Context, job *Job) error {
	booted, err := m.booted()
	if err != nil {
		return err
	}
	if booted != job.Slot {
		if id := m.bootID(); id != "" && id == job.BootID {
			return m.rebootWhen(ctx, job) // only this process restarted
		}
		return &failed{CodeNotBooted, fmt.Errorf("try slot %s: the boot loader gave it up and started %s", job.Slot, booted)}
	}
	if job.Trials >= maxTrials {
		return &failed{CodeInterrupted, fmt.Errorf("try slot %s: %d trials ended without a verdict", job.Slot, job.Trials)}
	}
	job.Trials++
	if err := m.save(*job); err != nil {
		return err
	}
	limit := m.TrialTimeout
	if limit == 0 {
		limit = defaultTrialTimeout
	}
	trial, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := m.activate(trial, job); err != nil {
		return err
	}
	if err := m.Health(trial); err != nil {
		return &failed{CodeUnhealthy, fmt.Errorf("check health of release %s: %w", job.Release.Version, err)}
	}
	return nil
}

// commit makes the new image the default. The order matters: the floor is the point of no return, so the boot loader has to
// be past it first. With the floor raised before Keep, a cut between the two leaves a trial that can fall back below the floor.
func (m *Machine) commit(_ context.Context, job *Job) error {
	booted, err := m.booted()
	if err != nil {
		return err
	}
	if booted != job.Slot {
		return &failed{CodeNotBooted, fmt.Errorf("commit slot %s: the boot loader gave it up and started %s", job.Slot, booted)}
	}
	if err := m.permit(job.Release); err != nil {
		return err
	}
	if err := m.Boot.Keep(job.Slot); err != nil {
		return fmt.Errorf("keep slot %s: %w", job.Slot, err)
	}
	if job.Release.Floor > job.Back {
		// The image before is below the floor to come: it must not be a fall-back any more.
		if err := m.Boot.Disarm(job.From); err != nil {
			return fmt.Errorf("bar slot %s below the floor: %w", job.From, err)
		}
	}
	if err := m.Floor.Raise(job.Release.Floor); err != nil {
		return fmt.Errorf("raise floor to %d: %w", job.Release.Floor, err)
	}
	return nil
}

// revert goes back to the image before, unless the floor has passed it.
func (m *Machine) revert(ctx context.Context, job *Job) error {
	booted, err := m.booted()
	if err != nil {
		return err
	}
	stays, err := m.barred(job)
	if err != nil {
		return err
	}
	if job.Stays = stays; stays {
		if err := m.Boot.Keep(job.Slot); err != nil {
			return fmt.Errorf("keep slot %s: %w", job.Slot, err)
		}
		return nil
	}
	if err := m.undo(ctx, job); err != nil {
		return err
	}
	if err := m.Boot.Keep(job.From); err != nil {
		return fmt.Errorf("go back to slot %s: %w", job.From, err)
	}
	if err := m.Boot.Disarm(job.Slot); err != nil {
		return fmt.Errorf("disarm slot %s: %w", job.Slot, err)
	}
	if booted == job.Slot {
		return m.reboot(ctx, job, "go back from release "+job.Release.Version)
	}
	return nil
}

// barred reports whether the way back leads below the floor. Only committing raises the floor, and what it raised it to may
// have become durable although Raise returned an error.
func (m *Machine) barred(job *Job) (bool, error) {
	floor, err := m.Floor.Get()
	if err != nil {
		if job.Fail != nil && job.Fail.In != Committing {
			return false, nil // the floor has not moved since the image in From was the running one
		}
		return false, fmt.Errorf("read floor: %w", err)
	}
	return floor > job.Back && job.Release.Counter >= floor, nil
}

// reboot asks for a restart; the job is already in the state that comes after it, or in one that can be repeated.
func (m *Machine) reboot(ctx context.Context, job *Job, reason string) error {
	m.emit("reboot", job, slog.String("reason", reason))
	if err := m.Reboot(ctx, reason); err != nil {
		return fmt.Errorf("reboot to %s: %w", reason, err)
	}
	return ErrReboot
}

func (m *Machine) booted() (SlotID, error) {
	id, err := m.Slots.Booted()
	if err != nil {
		return "", fmt.Errorf("find running slot: %w", err)
	}
	if n := m.names(); id != n[0] && id != n[1] {
		return "", fmt.Errorf("find running slot: %w: %q is neither %s nor %s", ErrSetup, id, n[0], n[1])
	}
	return id, nil
}

func (m *Machine) other(id SlotID) SlotID {
	if n := m.names(); n[0] == id {
		return n[1]
	}
	return m.names()[0]
}

func (m *Machine) bootID() string {
	if m.BootID == nil {
		return ""
	}
	return m.BootID()
}

func (m *Machine) backOff(attempts int) time.Duration {
	d := m.BackOff
	if d == 0 {
		d = defaultBackOff
	}
	for ; attempts > 1 && d < maxBackOff; attempts-- {
		d *= 2
	}
	return min(d, maxBackOff)
}
