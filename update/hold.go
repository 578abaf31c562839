// SPDX-License-Identifier: Apache-2.0

package update

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"
)

// How the machine obeys its policy. Before a job exists, a step that waits leaves nothing behind: the next run looks for what is
// newest then. A job that waits stays in its state, over restarts and reboots too, and before it goes on it asks whether its
// release is still the one meant for this device: an operator who stops a rollout stops the devices that wait.

// ask asks the policy. The error of a step that is not allowed is a [*Waiting].
func (m *Machine) ask(ctx context.Context, step Step, r Release) error {
	if m.Policy == nil {
		return nil
	}
	d := m.Policy.Ask(ctx, m.question(step, r, false))
	mark := ""
	if !d.Allowed {
		mark = string(step) + fmt.Sprintf(" %x", r.SHA256[:8])
		for _, reason := range d.Reasons {
			mark += " " + reason.Code
		}
	}
	m.mu.Lock()
	m.decided, m.waits = d, r
	news := mark != "" && mark != m.mark
	if mark != "" || strings.HasPrefix(m.mark, string(step)+" ") {
		m.mark = mark
	}
	m.mu.Unlock()
	if d.Allowed {
		return nil
	}
	if news {
		attrs := []slog.Attr{slog.String("step", string(step)), slog.String("code", d.Reasons[0].Code), slog.String("reason", d.why())}
		if until := d.Until(); !until.IsZero() {
			attrs = append(attrs, slog.Time("until", until))
		}
		m.emit("update.waiting", &Job{Release: r}, attrs...)
	}
	return &Waiting{d}
}

func (m *Machine) question(step Step, r Release, peek bool) Question {
	m.mu.Lock()
	asked := m.asked
	m.mu.Unlock()
	return Question{Step: step, Now: m.now(), Late: m.Late != nil && m.Late(), Release: r, Wish: m.wished(r), Asked: asked, Peek: peek}
}

// await asks for a job. What a local command began is what a person wants now.
func (m *Machine) await(ctx context.Context, job *Job, step Step) error {
	if m.Policy == nil || job.Local {
		return nil
	}
	if job.Waited {
		if err := m.current(ctx, job); err != nil {
			return err
		}
	}
	err := m.ask(ctx, step, job.Release)
	if w, is := errors.AsType[*Waiting](err); is {
		return m.held(job, w)
	}
	return err
}

// held keeps the job where it is.
func (m *Machine) held(job *Job, w *Waiting) error {
	if !job.Waited {
		job.Waited = true
		if err := m.save(*job); err != nil {
			return err
		}
	}
	return later{w}
}

// current makes sure that the release of a job that waited is still meant for this device. Without a line nobody says otherwise,
// and it was verified when it was fetched.
func (m *Machine) current(ctx context.Context, job *Job) error {
	q := m.question(StepCheck, Release{}, true)
	q.Asked = true
	if m.wished(job.Release).Answer == AnswerNow || !m.Policy.Ask(ctx, q).Allowed {
		return nil
	}
	r, err := m.Source.Latest(ctx)
	switch {
	case err == nil && r.SHA256 == job.Release.SHA256, errors.Is(err, ErrRetry):
		return nil
	case err == nil:
		return &failed{CodeSuperseded, fmt.Errorf("release %s waited, and %s is meant for this device by now", job.Release.Version, r.Version)}
	case errors.Is(err, ErrNothing):
		return &failed{CodeSuperseded, fmt.Errorf("release %s waited, and is not meant for this device any more: %w", job.Release.Version, err)}
	}
	return later{err}
}

// offer notes what is meant for this device, and announces it once.
func (m *Machine) offer(r Release) {
	m.mu.Lock()
	m.offered = r
	news := r.Path != "" && m.told != r.SHA256
	if news {
		m.told = r.SHA256
	}
	m.mu.Unlock()
	if !news {
		return
	}
	attrs := []slog.Attr{slog.String("class", r.Class), slog.Uint64("floor", r.Floor)}
	if len(r.Advisories) > 0 {
		attrs = append(attrs, slog.String("advisories", strings.Join(r.Advisories, " ")))
	}
	if r.Notes != "" {
		attrs = append(attrs, slog.String("notes", r.Notes))
	}
	if !r.Deadline.IsZero() {
		attrs = append(attrs, slog.Time("deadline", r.Deadline))
	}
	m.emit("update.available", &Job{Release: r}, attrs...)
}

// Look asks for the release that this device should run, for a person who wants to know. It begins nothing.
func (m *Machine) Look(ctx context.Context) (Release, error) {
	r, err := m.Source.Latest(ctx)
	if err == nil {
		m.offer(r)
	}
	return r, err
}

// Request says that a person asked for the next run: it looks for a release even where that is left to people.
func (m *Machine) Request() { m.request(true) }

func (m *Machine) request(v bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked = v
}

// Ready reports whether the step that the last run waited for is allowed by now. It is cheap, where a run asks the repository.
func (m *Machine) Ready(ctx context.Context) bool {
	m.mu.Lock()
	d, r := m.decided, m.waits
	m.mu.Unlock()
	return m.Policy == nil || d.Step == "" || m.Policy.Ask(ctx, m.question(d.Step, r, false)).Allowed
}

// Explain returns what the policy says now about every step that is still to come. Without a release it is the check alone.
func (m *Machine) Explain(ctx context.Context) []Decision {
	job := m.snapshot()
	m.mu.Lock()
	r := m.offered
	m.mu.Unlock()
	steps := Steps()
	switch {
	case job.Slot == "" && r.Path == "":
		steps = steps[:1]
	case job.Slot == "":
	case job.State == Downloading:
		r, steps = job.Release, steps[1:]
	case job.State == Arming:
		r, steps = job.Release, steps[2:]
	case job.State == Rebooting || job.State == Trial && m.sameBoot(&job):
		r, steps = job.Release, steps[3:]
	default:
		steps = nil
	}
	p := m.Policy
	if p == nil {
		p = &Policy{}
	}
	var out []Decision
	for _, s := range steps {
		about := r
		if s == StepCheck {
			about = Release{}
		}
		out = append(out, p.Ask(ctx, m.question(s, about, true)))
	}
	return out
}

// Wait returns how long the run after err may sleep at most: until what it waits for ends by itself, if that is known.
func (m *Machine) Wait(err error) (time.Duration, bool) {
	w, is := errors.AsType[*Waiting](err)
	if !is {
		return 0, false
	}
	until := w.Decision.Until()
	if until.IsZero() {
		return 0, true
	}
	return max(until.Sub(m.now()), 0), true
}
