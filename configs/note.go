// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"time"
)

// An audit log in which every look at the same defect is a record hides the one record that matters. So the engine remembers
// how each rule stood and reports a change only; the whole state goes out when the process starts, and once a day.
const (
	fullPeriod = 24 * time.Hour
	maxChanges = 6                // of one rule in noteWindow; more are counted and told together
	noteWindow = 10 * time.Minute // a rule that flaps must not fill the log
)

// flapping counts the changes of one rule, in this process only.
type flapping struct {
	since  time.Time
	n      int
	untold int
}

// note reports what became of a rule if that is news, and remembers it.
func (r *run) note(f Finding) {
	if r.Emit == nil {
		return
	}
	now, before := standing(f), r.mem.Seen[f.Rule]
	if before == "" {
		before = string(Pass)
	}
	if f.Result == Fail && stillFails(before, now) {
		now = before
	}
	changed := now != before
	if changed {
		if r.mem.Seen == nil {
			r.mem.Seen = map[string]string{}
		}
		r.mem.Seen[f.Rule], r.mem.dirty, r.changed = now, true, true
		if now == string(Pass) {
			delete(r.mem.Seen, f.Rule)
		}
	}
	if f.Result == Fixed || f.Result == RebootNeeded && len(f.Changes) > 0 {
		r.emit(EventFixed, append(r.attrs(f), slog.Int("changes", len(f.Changes)))...)
		return
	}
	// A rule that turns out not to apply is no news; the counts of the state tell it.
	if !changed && !(r.full && bad(f.Result)) || f.Result == NotApplicable && before == string(Pass) {
		return
	}
	untold, quiet := r.flaps(f.Rule, changed)
	if !quiet {
		r.tell(f, before, untold)
	}
}

// tell emits one change.
func (r *run) tell(f Finding, before string, untold int) {
	code, attrs := EventDrift, append(r.attrs(f), slog.String("was", before[:cut(before, ':')]))
	switch {
	case f.Result == Waived:
		code = EventWaived
		attrs = append(attrs, slog.String("reason", f.Reason), slog.String("by", f.Waiver.By), slog.Time("expires", f.Waiver.Expires))
	case !bad(f.Result):
		attrs[severityAttr] = slog.String("severity", "info")
		attrs = append(attrs, slog.String("outcome", "success"))
	}
	if f.Expected != "" || f.Observed != "" {
		attrs = append(attrs, slog.String("expected", f.Expected), slog.String("observed", f.Observed))
	}
	if bad(f.Result) && f.Reason != "" {
		attrs = append(attrs, slog.String("why", f.Reason))
	}
	if len(f.Evidence) > 0 {
		attrs = append(attrs, slog.String("where", f.Evidence[0].Where), slog.Int("defects", len(f.Evidence)+f.More))
	}
	if untold > 0 {
		attrs = append(attrs, slog.Int("changes_not_told", untold))
	}
	r.emit(code, attrs...)
}

// flaps says how many changes of a rule were kept back, and whether this one is, too.
func (r *run) flaps(rule string, changed bool) (untold int, quiet bool) {
	if !changed {
		return 0, false
	}
	if r.flap == nil {
		r.flap = map[string]flapping{}
	}
	f, now := r.flap[rule], r.Now()
	if f.since.IsZero() || now.Sub(f.since) >= noteWindow || now.Before(f.since) {
		f = flapping{since: now, untold: f.untold}
	}
	if f.n++; f.n > maxChanges {
		f.untold++
		r.flap[rule] = f
		return 0, true
	}
	untold, f.untold = f.untold, 0
	r.flap[rule] = f
	return untold, false
}

// standing is what is remembered of a finding: its result, and a digest of what is wrong. Where it is wrong is left out, a
// line number changes with every edit above it. What the engine fixed stands as passed; what is contested or was taken back
// takes turns, so its evidence says nothing.
func standing(f Finding) string {
	switch f.Result {
	case Fixed:
		return string(Pass)
	case Pass, NotApplicable, Contested, Reverted, RebootNeeded:
		return string(f.Result)
	}
	h := sha256.New()
	for _, e := range f.Evidence {
		fmt.Fprintf(h, "%q %q %q %v\n", e.Subject, e.Observed, e.Expected, e.Waived)
	}
	fmt.Fprint(h, f.More)
	return string(f.Result) + ":" + hex.EncodeToString(h.Sum(nil)[:8])
}

// stillFails reports whether a plain fail is the state that an earlier try to fix it left: a run that did not try again, such
// as a check, has nothing to add.
func stillFails(before, now string) bool {
	i := cut(before, ':')
	switch Result(before[:i]) {
	case Contested, Reverted:
		return true
	case FixFailed:
		return before[i:] == now[cut(now, ':'):]
	}
	return false
}

func cut(s string, sep byte) int {
	for i := range len(s) {
		if s[i] == sep {
			return i
		}
	}
	return len(s)
}

// bad reports whether a result needs somebody.
func bad(r Result) bool {
	switch r {
	case Fail, Unknown, FixFailed, Contested, Reverted:
		return true
	}
	return false
}

const severityAttr = 2 // place of the severity in what attrs returns

func (r *run) attrs(f Finding) []slog.Attr {
	return []slog.Attr{
		slog.String("rule", f.Rule), slog.String("title", f.Title), slog.String("severity", string(f.Severity)),
		slog.String("result", string(f.Result)), slog.String("policy", r.Policy.ID), slog.Uint64("serial", r.Policy.Serial),
	}
}

func (e *Engine) emit(code string, attrs ...slog.Attr) {
	if e.Emit != nil {
		e.Emit(code, attrs...)
	}
}

// finish counts the findings, and reports the state when it is due or not what it was.
func (r *run) finish(what string) {
	r.report.Tally()
	if r.only != nil || !r.full && !r.changed && r.report.Run == "" {
		return
	}
	if r.full {
		r.fullAt = r.Now()
	}
	attrs := []slog.Attr{slog.String("run", what), slog.Bool("full", r.full), slog.String("policy", r.Policy.ID), slog.Uint64("serial", r.Policy.Serial)}
	for _, res := range results {
		if n := r.report.Counts[res]; n > 0 {
			attrs = append(attrs, slog.Int(string(res), n))
		}
	}
	for _, s := range r.report.Scores {
		if s.Applicable > 0 {
			attrs = append(attrs, slog.String("score."+s.Capability, s.String()))
		}
	}
	r.emit(EventState, attrs...)
}
