// SPDX-License-Identifier: Apache-2.0

package update

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// When a device may do what. Trust decides which release is right; the policy decides only about the time, and its answer is
// never a refusal: a step that is not allowed waits, and is asked about again. It is asked before a release is looked for,
// before its image is fetched and every few megabytes of it, before the boot loader is told, and before the device restarts.
// Going back from an image that failed is never asked about.

// Step is what the policy is asked about.
type Step string

// The steps of an update, in order.
const (
	StepCheck    Step = "check"    // ask the repository
	StepDownload Step = "download" // stream the image into the slot that does not run
	StepInstall  Step = "install"  // tell the boot loader to try that slot
	StepReboot   Step = "reboot"   // restart into it
)

// Steps lists them in order.
func Steps() []Step { return []Step{StepCheck, StepDownload, StepInstall, StepReboot} }

// Line is what the device's connection costs.
type Line string

// The lines.
const (
	LineFree    Line = "free"
	LineMetered Line = "metered"
	LineOffline Line = "offline" // not to be used at all; a directory still is
)

// Codes of reasons to wait.
const (
	WaitManual       = "manual"        // nobody has approved it yet
	WaitRejected     = "rejected"      // somebody said no
	WaitWindow       = "window"        // outside the maintenance windows
	WaitClock        = "clock"         // there are windows, and the time of day is not known
	WaitPostponed    = "postponed"     // somebody said later
	WaitSecurityOnly = "security-only" // it is not a security release
	WaitMetered      = "metered"
	WaitOffline      = "offline"
	WaitCondition    = "condition" // of the maker: battery, product in use
)

// ClassSecurity is the class of a release that fixes vulnerabilities.
const ClassSecurity = "security"

// Reason is why a step waits.
type Reason struct {
	Code   string    `json:"code"`
	Why    string    `json:"why"`
	Until  time.Time `json:"until,omitzero"` // when it ends by itself; zero: not by itself, or nobody knows
	Change string    `json:"change"`         // what would end it before
}

// Decision is the policy's answer about one step.
type Decision struct {
	Step    Step     `json:"step"`
	Allowed bool     `json:"allowed"`
	Reasons []Reason `json:"reasons,omitempty"` // why not
	Because string   `json:"because,omitempty"` // what lifted rules that would have held
}

// Until returns when every reason has ended by itself; zero when one does not.
func (d Decision) Until() time.Time {
	var last time.Time
	for _, r := range d.Reasons {
		if r.Until.IsZero() {
			return time.Time{}
		}
		if r.Until.After(last) {
			last = r.Until
		}
	}
	return last
}

// why is the reasons in one line.
func (d Decision) why() string {
	var all []string
	for _, r := range d.Reasons {
		all = append(all, r.Why)
	}
	return strings.Join(all, "; ")
}

// Waiting is the error of a step that is not allowed yet. It is [ErrRetry]: nothing failed.
type Waiting struct{ Decision Decision }

// Error says what waits and why.
func (w *Waiting) Error() string { return string(w.Decision.Step) + " waits: " + w.Decision.why() }

// Is reports whether target is [ErrRetry].
func (w *Waiting) Is(target error) bool { return target == ErrRetry }

// Question is what the policy is asked.
type Question struct {
	Step    Step
	Now     time.Time
	Late    bool    // the clock is not set: Now is only a lower bound
	Release Release // zero before one is known
	Wish    Wish    // of a person, about this release
	Asked   bool    // a person asked for this run
	Peek    bool    // only to show it: programs are not run, their last answer counts
}

// Condition is something of the maker's that must hold before an image is written or started.
type Condition struct {
	Name  string
	Check func(ctx context.Context, peek bool) error // nil: it holds; otherwise why not
}

// Policy is when what is allowed. The zero Policy allows everything at any time. It holds rules alone; what it needs to know of
// the device it asks through its functions.
type Policy struct {
	Manual       []Step   // steps that wait for a person's consent
	Windows      []Window // none: any time
	WindowSteps  []Step   // steps that wait for a window
	Zone         *time.Location
	SecurityOnly bool
	Metered      string // what may be fetched over a metered line: "always" or "", "security-only", "never"

	Line       func() Line                                                                // nil: free
	Consent    func(ctx context.Context, r Release, peek bool) (answer Answer, by string) // nil: the command line only
	Conditions []Condition
}

// Ask decides about one step.
//
// What lifts what: `update install` lifts everything but the conditions and an offline line. An approval lifts the need for a
// consent. The deadline of a security release lifts windows, postponement and the need for a consent, also a rejection; it never
// lifts a condition, because an update that drains the battery half way helps nobody. A clock that is not set is
// a lower bound, so a deadline that has passed has passed.
func (p *Policy) Ask(ctx context.Context, q Question) Decision {
	d := Decision{Step: q.Step}
	wait := func(code, change string, until time.Time, format string, args ...any) {
		d.Reasons = append(d.Reasons, Reason{Code: code, Why: fmt.Sprintf(format, args...), Until: until, Change: change})
	}
	due := q.Release.Class == ClassSecurity && !q.Release.Deadline.IsZero() && !q.Now.Before(q.Release.Deadline)
	now := q.Wish.Answer == AnswerNow || q.Step == StepCheck && q.Asked
	// A directory is no line: whoever sets Line answers free while one is used.
	p.line(q, now, wait)
	if q.Step == StepDownload && p.SecurityOnly && q.Release.Class != ClassSecurity && !now {
		wait(WaitSecurityOnly, "backstay update install, or update.security_only", time.Time{}, "only security releases are installed here, this one is of class %s", q.Release.Class)
	}
	switch {
	case now:
		d.Because = "a person asked for it"
	case due:
		d.Because = "its deadline " + q.Release.Deadline.Format(time.RFC3339) + " has passed"
	default:
		p.persons(ctx, q, wait)
		p.times(q, wait)
	}
	// Last, and only when nothing else is in the way: asking may cost the device something.
	if len(d.Reasons) == 0 && q.Step != StepCheck {
		for _, c := range p.Conditions {
			if err := c.Check(ctx, q.Peek); err != nil {
				wait(WaitCondition, "what the condition "+c.Name+" asks for", time.Time{}, "condition %s: %v", c.Name, err)
			}
		}
	}
	d.Allowed = len(d.Reasons) == 0
	return d
}

type waitFunc func(code, change string, until time.Time, format string, args ...any)

// line is about what the connection costs.
func (p *Policy) line(q Question, now bool, wait waitFunc) {
	if p.Line == nil || q.Step != StepCheck && q.Step != StepDownload {
		return
	}
	switch p.Line() {
	case LineOffline:
		wait(WaitOffline, "a line, or backstay update install --from DIR", time.Time{}, "this device is offline")
	case LineMetered:
		only := p.Metered == "security-only" && q.Release.Class != ClassSecurity
		if q.Step == StepDownload && !now && (p.Metered == "never" || only) {
			wait(WaitMetered, "a line that is not metered, or backstay update install", time.Time{},
				"the line is metered, and update.metered is %s", p.Metered)
		}
	}
}

// persons is about consent and postponement.
func (p *Policy) persons(ctx context.Context, q Question, wait waitFunc) {
	answer, by := q.Wish.Answer, "a person"
	if answer == AnswerNone && p.Consent != nil && q.Step != StepCheck && slices.Contains(p.Manual, q.Step) {
		answer, by = p.Consent(ctx, q.Release, q.Peek)
	}
	switch {
	case q.Step == StepCheck:
		if slices.Contains(p.Manual, StepCheck) {
			wait(WaitManual, "backstay update check", time.Time{}, "looking for releases is left to a person here")
		}
	case answer == AnswerReject:
		wait(WaitRejected, "backstay update approve, or a newer release", time.Time{}, "%s rejected release %s", by, q.Release.Version)
	case answer == AnswerNone && slices.Contains(p.Manual, q.Step):
		wait(WaitManual, "backstay update approve", q.deadline(), "to %s waits for somebody's consent", q.Step)
	}
	if q.Step == StepInstall || q.Step == StepReboot {
		if until := q.Wish.Until; q.Now.Before(until) {
			wait(WaitPostponed, "backstay update approve", until, "postponed until %s", until.Format(time.RFC3339))
		}
	}
}

// times is about the windows.
func (p *Policy) times(q Question, wait waitFunc) {
	if len(p.Windows) == 0 || !slices.Contains(p.WindowSteps, q.Step) {
		return
	}
	if q.Late {
		wait(WaitClock, "a clock that is set, or backstay update install", time.Time{}, "there are maintenance windows, and the clock is not set")
		return
	}
	zone := p.Zone
	if zone == nil {
		zone = time.UTC
	}
	now, next := q.Now.In(zone), time.Time{}
	var texts []string
	for _, w := range p.Windows {
		if _, open := w.Until(now); open {
			return
		}
		if t := w.Next(now); next.IsZero() || !t.IsZero() && t.Before(next) {
			next = t
		}
		texts = append(texts, w.String())
	}
	if end := q.deadline(); !end.IsZero() && end.Before(next) {
		next = end
	}
	wait(WaitWindow, "backstay update install", next.UTC(), "outside the maintenance windows (%s, %s)", strings.Join(texts, "; "), zone)
}

// deadline is when the release stops waiting for people; zero when never.
func (q Question) deadline() time.Time {
	if q.Release.Class == ClassSecurity {
		return q.Release.Deadline
	}
	return time.Time{}
}
