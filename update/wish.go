// SPDX-License-Identifier: Apache-2.0

package update

import (
	"fmt"
	"log/slog"
	"time"
)

// Answer is what a person says to a release.
type Answer string

// The answers.
const (
	AnswerNone    Answer = ""
	AnswerApprove Answer = "approved" // where consent is needed, this is it
	AnswerReject  Answer = "rejected"
	AnswerNow     Answer = "now" // install it now, whatever the time
)

// Wish is what a person wants to happen with one release. It is part of the job, so it outlives a reboot, and means nothing for
// another release.
type Wish struct {
	SHA256    [32]byte  `json:"sha256"`
	Version   string    `json:"version"`
	Answer    Answer    `json:"answer,omitempty"`
	Postponed int       `json:"postponed,omitempty"` // times
	Since     time.Time `json:"since,omitzero"`      // of the first postponement
	Until     time.Time `json:"until,omitzero"`      // of the last one
}

// about returns the wish if it is about a release, an empty one otherwise.
func (w Wish) about(r Release) Wish {
	if r.SHA256 == [32]byte{} || w.SHA256 != r.SHA256 {
		return Wish{SHA256: r.SHA256, Version: r.Version}
	}
	return w
}

// Codes of refusals of a wish.
const (
	CodeNoRelease     = "no-release"
	CodePostponeLimit = "postpone-limit"
)

// PostponeLimit is how long people may put a release off.
type PostponeLimit struct {
	Times int           // 0: not at all
	Total time.Duration // from the first time on
}

// Answer records what a person says to the release that is offered or under way. It takes effect when the policy is asked next.
func (m *Machine) Answer(a Answer) (Release, error) {
	return m.wish(string(a), func(w *Wish, _ Release) error {
		w.Answer = a
		if a != AnswerReject {
			w.Until = time.Time{}
		}
		return nil
	})
}

// Postpone puts off installing the release that is offered or under way. It is refused beyond the limit, with code
// postpone-limit, and for a security release it ends at the deadline.
func (m *Machine) Postpone(d time.Duration) (Wish, error) {
	var out Wish
	_, err := m.wish("postponed", func(w *Wish, r Release) error {
		now := m.now()
		since := w.Since
		if since.IsZero() {
			since = now
		}
		until, end := now.Add(d), since.Add(m.Postponing.Total)
		refuse := func(format string, args ...any) error {
			return &Refusal{Code: CodePostponeLimit, What: "postpone release " + r.Version, Why: fmt.Sprintf(format, args...)}
		}
		switch due := (Question{Release: r}).deadline(); {
		case w.Postponed >= m.Postponing.Times:
			return refuse("it has been postponed %d times, %d are allowed", w.Postponed, m.Postponing.Times)
		case until.After(end):
			return refuse("it may be postponed until %s at most", end.Format(time.RFC3339))
		case !due.IsZero() && until.After(due):
			return refuse("it fixes vulnerabilities and must be installed by %s", due.Format(time.RFC3339))
		}
		w.Postponed, w.Since, w.Until = w.Postponed+1, since, until
		if w.Answer == AnswerNow {
			w.Answer = AnswerApprove
		}
		out = *w
		return nil
	})
	return out, err
}

// wish changes the wish for the present release, durably, whatever the machine is doing meanwhile.
func (m *Machine) wish(decision string, change func(*Wish, Release) error) (Release, error) {
	m.saving.Lock()
	defer m.saving.Unlock()
	if !m.loaded {
		job, err := m.Journal.Load()
		if err != nil {
			return Release{}, fmt.Errorf("load job: %w", err)
		}
		m.saved, m.loaded = job, true
	}
	r := m.saved.Release
	if m.saved.Slot == "" {
		m.mu.Lock()
		r = m.offered
		m.mu.Unlock()
	}
	if r.SHA256 == [32]byte{} {
		return r, &Refusal{Code: CodeNoRelease, What: "decide about a release", Why: "none is offered to this device"}
	}
	w := m.saved.Wish.about(r)
	if err := change(&w, r); err != nil {
		return r, err
	}
	next := m.saved
	next.Wish = w
	if err := m.Journal.Save(next); err != nil {
		return r, fmt.Errorf("save wish: %w", err)
	}
	m.saved = next
	m.emit("update.decision", &Job{Release: r}, slog.String("decision", decision), slog.Time("until", w.Until))
	return r, nil
}

// wished returns the wish about a release.
func (m *Machine) wished(r Release) Wish {
	m.saving.Lock()
	defer m.saving.Unlock()
	return m.saved.Wish.about(r)
}
