// SPDX-License-Identifier: Apache-2.0

package update

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"
)

// Bounds of what a job carries along. A list that is full loses its oldest entry.
const (
	maxHistory    = 32
	maxQuarantine = 16
	maxWhy        = 512 // bytes of a reason
)

// Result is how an update ended.
type Result string

// The results. A release that was refused at checking has none: no update began.
const (
	Committed  Result = "committed"
	RolledBack Result = "rolled-back" // it was armed, and the device went back
	Rejected   Result = "rejected"    // it never got as far as the boot loader
	Canceled   Result = "canceled"
)

// Outcome is one line of the history.
type Outcome struct {
	Result  Result    `json:"result"`
	Path    string    `json:"path"`
	Version string    `json:"version"`
	SHA256  [32]byte  `json:"sha256"`
	Slot    SlotID    `json:"slot"`
	Began   time.Time `json:"began"`
	Ended   time.Time `json:"ended"`
	Fail    *Failure  `json:"fail,omitempty"`
}

// Quarantined is a release that failed here. Without this list it would be fetched again at every poll, for ever.
type Quarantined struct {
	SHA256    [32]byte  `json:"sha256"`
	Version   string    `json:"version"`
	Attempts  int       `json:"attempts"`            // failures so far
	NotBefore time.Time `json:"not_before,omitzero"` // when it may be tried again
	Never     bool      `json:"never,omitempty"`     // it may not
	Why       string    `json:"why"`
}

// report closes the job: event, history, quarantine. It clears the job in memory; the machine saves that together with the
// idle state, in one record. An event can come twice if the power fails between the two.
func (m *Machine) report(_ context.Context, job *Job) error {
	o := Outcome{Result: job.result(), Path: job.Release.Path, Version: job.Release.Version, SHA256: job.Release.SHA256,
		Slot: job.Slot, Began: job.Began, Ended: m.now(), Fail: job.Fail}
	if o.Fail != nil && len(o.Fail.Why) > maxWhy {
		o.Fail = &Failure{In: o.Fail.In, Code: o.Fail.Code, Why: o.Fail.Why[:maxWhy]}
	}
	m.announce(job, o)

	next := job.cleared()
	next.History = lastN(append(next.History, o), maxHistory)
	next.Refused = ""
	if o.Result == Committed {
		next.Images[job.Slot] = imageOf(job.Release)
		next.Quarantine = slices.DeleteFunc(next.Quarantine, func(q Quarantined) bool { return q.SHA256 == job.Release.identity() })
	} else if o.Fail.Code != CodeSuperseded {
		bad := o
		bad.SHA256 = job.Release.identity()
		next.punish(m, bad)
	}
	*job = next
	return nil
}

// announce emits the event of an outcome.
func (m *Machine) announce(job *Job, o Outcome) {
	var why []slog.Attr
	if o.Fail != nil {
		why = []slog.Attr{slog.String("code", o.Fail.Code), slog.String("state", string(o.Fail.In)), slog.String("reason", o.Fail.Why)}
	}
	if job.Local {
		why = append(why, slog.String("by", "local command"))
	}
	switch o.Result {
	case Committed:
		m.emit("update.committed", job, append(why, slog.Uint64("floor", job.Release.Floor))...)
	case RolledBack:
		m.emit("update.rolledback", job, append(why, slog.String("kept", string(job.From)))...)
	default:
		m.emit("update.rejected", job, why...)
	}
}

// result says how a job in reporting ended.
func (j *Job) result() Result {
	switch {
	case j.Fail == nil || j.Stays:
		return Committed
	case j.Fail.Code == CodeCanceled, j.Fail.Code == CodeSuperseded:
		return Canceled
	case j.Fail.In == Downloading:
		return Rejected
	default:
		return RolledBack
	}
}

// punish puts the release of a failed outcome in quarantine. A canceled one only waits, it did nothing wrong. One that failed
// for a reason of the device's own (a full disk) or whose bytes came wrong waits longer every time, but is never given up:
// otherwise whoever can spoil a line could keep a device from a release for good. Only the image itself can do that, by
// failing its trial.
func (j *Job) punish(m *Machine, o Outcome) {
	q := Quarantined{SHA256: o.SHA256, Version: o.Version}
	j.Quarantine = slices.DeleteFunc(j.Quarantine, func(old Quarantined) bool {
		if old.SHA256 == o.SHA256 {
			q = old
			return true
		}
		return false
	})
	limit := m.Failures
	if limit == 0 {
		limit = defaultFailures
	}
	q.Why = o.Fail.Code
	if o.Result != Canceled {
		q.Attempts++
		q.Never = q.Never || o.Fail.Code == CodeMarkedBad || (q.Attempts >= limit && o.Fail.Code != CodeFailed && o.Fail.In != Downloading)
	}
	q.NotBefore = m.now().Add(m.backOff(q.Attempts))
	j.Quarantine = lastN(append(j.Quarantine, q), maxQuarantine)
}

// quarantined refuses a release that failed here before, until its time has come.
func (m *Machine) quarantined(job *Job, r Release) error {
	for _, q := range job.Quarantine {
		if q.SHA256 != r.identity() || (!q.Never && !m.now().Before(q.NotBefore)) {
			continue
		}
		why := fmt.Sprintf("it failed %d times here (%s), and waits until %s", q.Attempts, q.Why, q.NotBefore.Format(time.RFC3339))
		if q.Never {
			why = fmt.Sprintf("it failed %d times here (%s), and is not tried again", q.Attempts, q.Why)
		}
		return &Refusal{Code: CodeQuarantined, What: "release " + r.Version, Why: why}
	}
	return nil
}

// cleared returns what outlives a job.
func (j Job) cleared() Job {
	c := j.clone()
	return Job{State: Idle, Images: c.Images, Quarantine: c.Quarantine, History: c.History, Refused: c.Refused}
}

// clone returns a copy that shares nothing that changes.
func (j Job) clone() Job {
	j.Images = maps.Clone(j.Images)
	if j.Images == nil {
		j.Images = map[SlotID]Image{}
	}
	j.Quarantine, j.History = slices.Clone(j.Quarantine), slices.Clone(j.History)
	return j
}

// forget drops what was known about a slot.
func (j *Job) forget(id SlotID) { delete(j.Images, id) }

func lastN[T any](s []T, n int) []T {
	if len(s) > n {
		return slices.Clone(s[len(s)-n:])
	}
	return s
}
