// SPDX-License-Identifier: Apache-2.0

package update

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// Machine runs the lifecycle. Its fields are set before the first call and not changed after; those without a default are
// required. Run and Resume exclude each other; the other methods may be called at any time from any goroutine.
type Machine struct {
	Source  Source
	Slots   Slots
	Boot    Bootloader
	Floor   Floor
	Journal Journal
	// Components are what a release may have beside its image. Nil: a release with components is refused.
	Components Components

	// Health returns nil once the device does its job with the new image, and an error if it does not. It may try for as long
	// as ctx lasts (TrialTimeout), and must return when ctx ends.
	Health func(ctx context.Context) error
	// Reboot asks for a restart, and returns nil if it was asked for. What it has not made durable may be lost.
	Reboot func(ctx context.Context, reason string) error
	// Emit reports events: update.available, update.verified, update.installed, update.committed, update.rolledback,
	// update.rejected and reboot. An event may be reported twice if the power fails just after it, never zero times.
	Emit Emit
	// Now returns trusted time. Default: time.Now.
	Now func() time.Time
	// Policy says when what is allowed. Default: everything at any time.
	Policy *Policy
	// Late reports that the clock is not set, and Now only a lower bound. Default: it is set.
	Late func() bool
	// Postponing is how long people may put a release off.
	Postponing PostponeLimit
	// Changed is told that Status may have something new. It must not block nor call the machine. May be nil.
	Changed func()
	// BootID returns a string that differs in every boot, so that a restart of the process is not taken for a reboot.
	// Default: none, every start of the process counts as a boot.
	BootID func() string

	Names        [2]SlotID     // the two slots; default "A" and "B"
	Attempts     int           // starts the boot loader gives a new slot, 1 to 9; default 3
	TrialTimeout time.Duration // how long Health may take; default 5 minutes
	Failures     int           // failures after which a release is not tried again; default 3
	BackOff      time.Duration // wait after a first failure, doubled by every further one up to a week; default 1 hour

	// Small in tests, so that a few kilobytes have as many steps as a real image; otherwise zero.
	chunkSize, checkpointEvery int64

	running sync.Mutex // held while the job is being worked on

	saving sync.Mutex // held while the job is being saved; guards saved and loaded
	saved  Job        // as the journal has it
	loaded bool

	mu     sync.Mutex // guards what follows
	job    Job        // as last saved, with the progress since
	active bool       // a row is running
	stop   context.CancelCauseFunc
	order  error // the local command that stopped the row
	done   error // how the last run ended

	offered Release  // meant for this device, not begun; zero when none
	told    [32]byte // the release that was announced
	waits   Release  // what decided is about
	decided Decision // the policy's last answer
	mark    string   // of the last wait reported, so that it is reported once
	asked   bool     // a person asked for this run
}

// Defaults of Machine, and bounds that are not for configuration.
const (
	defaultAttempts     = 3
	defaultTrialTimeout = 5 * time.Minute
	defaultFailures     = 3
	defaultBackOff      = time.Hour
	maxBackOff          = 7 * 24 * time.Hour
	maxTrials           = 5  // trials of one job cut by a restart of the process or the device
	maxCuts             = 20 // downloads of one job that ended early
)

// Run works on the job until it is idle again or a reboot is due. From idle it begins with a check for a new release.
//
// It returns nil when an update was carried through to its end, ErrNothing if there was none, ErrReboot if the process has to
// end now, and the reason if an update was refused, failed, or waits for better times: an error that is ErrRetry leaves a
// download where it is, and the next Run continues it. If ctx ends, the job stays where it is.
func (m *Machine) Run(ctx context.Context) error {
	m.running.Lock()
	defer m.running.Unlock()
	defer m.request(false)
	job, err := m.load()
	if err != nil {
		return err
	}
	return m.finish(m.work(ctx, &job))
}

// Resume is called once when the process starts, before the first Run. It moves the job from the state it was cut in to the
// state the table says, and works on it as Run does. If there is no job it keeps the boot attempts of the running slot full
// and returns nil without looking for a release: boot loaders count every start, and nobody else tells them it went well.
func (m *Machine) Resume(ctx context.Context) error {
	m.running.Lock()
	defer m.running.Unlock()
	job, err := m.load()
	if err != nil {
		return err
	}
	r, err := row(job.State)
	if err != nil {
		return m.finish(err)
	}
	if r.Resume != r.State {
		job.State = r.Resume
		if job.State == Idle {
			job = job.cleared()
		}
		if err := m.save(job); err != nil {
			return m.finish(err)
		}
	}
	if job.State == "" || job.State == Idle {
		return m.finish(m.settle(ctx, &job))
	}
	return m.finish(m.work(ctx, &job))
}

// work is the loop over the table.
func (m *Machine) work(ctx context.Context, job *Job) error {
	var first error // why the job failed, for the caller
	for {
		r, err := row(job.State)
		if err != nil {
			return err
		}
		err = m.do(ctx, r, job)
		if errors.Is(err, ErrReboot) {
			return err
		}
		if _, wait := errors.AsType[later](err); wait || (err != nil && ctx.Err() != nil) {
			return err
		}
		next := r.OK
		if err != nil {
			next = r.Err
			if first == nil {
				first = err
			}
			if next == r.State && next != Idle {
				return err
			}
			if r.State != Idle && r.State != Checking && job.Fail == nil {
				job.Fail = failure(r.State, err)
			}
		}
		if err := m.enter(job, r.State, next); err != nil {
			return err
		}
		if next == Idle {
			return first
		}
	}
}

// enter saves the job in its next state, before that state has any effect. A check has none, so that a poll which finds
// nothing does not wear the flash.
func (m *Machine) enter(job *Job, from, to State) error {
	job.State = to
	if to == Checking || (to == Idle && from != Reporting && job.Refused == m.snapshot().Refused) {
		m.note(*job)
		return nil
	}
	return m.save(*job)
}

// do runs one row so that a local command can stop it. A command that came in time decides the result even if the row had
// already ended well.
func (m *Machine) do(ctx context.Context, r Row, job *Job) error {
	inner, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	m.mu.Lock()
	m.active, m.stop, m.order = true, stop, nil
	m.mu.Unlock()

	err := r.Do(m, inner, job)

	m.mu.Lock()
	defer m.mu.Unlock()
	m.active, m.stop = false, nil
	switch {
	case m.order == nil || errors.Is(err, ErrReboot):
		return err
	case errors.Is(m.order, errMarkedGood):
		return nil
	default:
		return m.order
	}
}

func (m *Machine) load() (Job, error) {
	if err := m.valid(); err != nil {
		return Job{}, err
	}
	m.saving.Lock()
	defer m.saving.Unlock()
	job, err := m.Journal.Load()
	if err != nil {
		return Job{}, fmt.Errorf("load job: %w", err)
	}
	m.saved, m.loaded = job, true
	m.note(job)
	return job, nil
}

// save makes the job durable. A person may have wished something since it was loaded.
func (m *Machine) save(job Job) error {
	m.saving.Lock()
	defer m.saving.Unlock()
	job.Wish = m.saved.Wish
	if err := m.Journal.Save(job); err != nil {
		return fmt.Errorf("save job in state %s: %w", job.State, err)
	}
	m.saved = job.clone()
	m.note(job)
	return nil
}

// note publishes the job for Status.
func (m *Machine) note(job Job) {
	m.mu.Lock()
	m.job = job.clone()
	m.mu.Unlock()
	m.changed()
}

func (m *Machine) changed() {
	if m.Changed != nil {
		m.Changed()
	}
}

func (m *Machine) snapshot() Job {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.job
}

func (m *Machine) finish(err error) error {
	m.mu.Lock()
	m.done = err
	m.mu.Unlock()
	m.changed()
	return err
}

// valid refuses a machine that could not get through an update it begins.
func (m *Machine) valid() error {
	if m.Source == nil || m.Slots == nil || m.Boot == nil || m.Floor == nil || m.Journal == nil || m.Health == nil || m.Reboot == nil {
		return fmt.Errorf("run update: %w: source, slots, boot loader, floor, journal, health and reboot must all be there", ErrSetup)
	}
	if a := m.attempts(); a < 1 || a > 9 {
		return fmt.Errorf("run update: %w: %d boot attempts, 1 to 9 are possible", ErrSetup, a)
	}
	if n := m.names(); n[0] == n[1] || n[0] == "" || n[1] == "" {
		return fmt.Errorf("run update: %w: slots %q and %q are not two slots", ErrSetup, n[0], n[1])
	}
	return nil
}

func (m *Machine) names() [2]SlotID {
	if m.Names == [2]SlotID{} {
		return [2]SlotID{"A", "B"}
	}
	return m.Names
}

func (m *Machine) attempts() int {
	if m.Attempts == 0 {
		return defaultAttempts
	}
	return m.Attempts
}

func (m *Machine) now() time.Time {
	if m.Now == nil {
		return time.Now().UTC()
	}
	return m.Now().UTC()
}

func (m *Machine) emit(code string, job *Job, more ...slog.Attr) {
	if m.Emit == nil {
		return
	}
	r := job.Release
	attrs := []slog.Attr{
		slog.String("release", r.Version), slog.String("path", r.Path), slog.String("sha256", fmt.Sprintf("%x", r.SHA256)),
		slog.Uint64("counter", r.Counter), slog.String("slot", string(job.Slot)),
	}
	m.Emit(code, append(attrs, more...)...)
}
