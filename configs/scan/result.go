// SPDX-License-Identifier: Apache-2.0

package scan

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/backstay/backstay/configs"
	"github.com/backstay/backstay/configs/probe"
)

// State says whether a problem is to be dealt with.
type State string

// The states.
const (
	StateOpen   State = "open"
	StateWaived State = "waived" // by a waiver of the policy, in force
	StateKnown  State = "known"  // in the file of known findings
)

// Problem is one thing that is not as wanted: a piece of evidence of a rule that fails, or a rule that could not be judged.
type Problem struct {
	Rule        string           `json:"rule"`
	Severity    configs.Severity `json:"severity"`
	Result      configs.Result   `json:"result"` // fail or unknown; what a fix left behind
	State       State            `json:"state"`
	Why         string           `json:"why_not_open,omitempty"` // the reason of the waiver or of the known finding
	Subject     string           `json:"subject,omitempty"`
	Path        string           `json:"path,omitempty"` // in the image
	Line        int              `json:"line,omitempty"`
	Observed    string           `json:"observed"`
	Expected    string           `json:"expected,omitempty"`
	Fingerprint string           `json:"fingerprint"` // the same for the same problem in the next build
}

// Result is the outcome of a scan.
type Result struct {
	Image    string         `json:"image"`
	Kind     string         `json:"kind"`
	Notes    []string       `json:"notes"`
	Profiles []string       `json:"profiles"`
	FailOn   string         `json:"fail_on"`
	Failing  int            `json:"failing"` // problems that are open and as bad as fail_on
	Problems []Problem      `json:"problems"`
	Known    bool           `json:"baseline"` // a file of known findings was laid beside
	Stale    []KnownFinding `json:"stale"`    // known findings that are gone
	Took     int64          `json:"took_ms"`
	Report   configs.Report `json:"report"`
	Policy   configs.Policy `json:"-"`
}

// Run checks a source.
func Run(ctx context.Context, s *Source, p configs.Policy, now func() time.Time) (Result, error) {
	began := time.Now()
	e := &configs.Engine{Image: s.Tree, Policy: p, Now: now}
	report, err := e.Check(ctx)
	if err != nil {
		return Result{}, err
	}
	out := NewResult(s, p, report)
	out.Took = time.Since(began).Milliseconds()
	return out, nil
}

// NewResult makes a result of a report of the engine.
func NewResult(s *Source, p configs.Policy, report configs.Report) Result {
	r := Result{Image: s.Name, Kind: s.Kind, Notes: slices.Clone(s.Notes), Problems: []Problem{}, Stale: []KnownFinding{}, Report: report, Policy: p}
	if r.Notes == nil {
		r.Notes = []string{}
	}
	for _, f := range report.Findings {
		r.Problems = append(r.Problems, problems(f)...)
	}
	slices.SortStableFunc(r.Problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(rank(b.Severity), rank(a.Severity)), cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.Path, b.Path),
			cmp.Compare(a.Line, b.Line), cmp.Compare(a.Subject, b.Subject))
	})
	return r
}

// rank orders severities, the worst highest.
func rank(s configs.Severity) int {
	return slices.Index([]configs.Severity{configs.Low, configs.Medium, configs.High, configs.Critical}, s)
}

func problems(f configs.Finding) []Problem {
	base := Problem{Rule: f.Rule, Severity: f.Severity, Result: f.Result, State: StateOpen}
	switch f.Result {
	case configs.Unknown:
		base.Observed, base.Expected = f.Reason, "a verdict"
		base.Path = firstPath(f.Inspected)
		return []Problem{base.marked()}
	case configs.Fail, configs.Waived, configs.FixFailed, configs.Contested, configs.Reverted:
	default:
		return nil
	}
	var out []Problem
	for _, e := range f.Evidence {
		p := base
		p.Subject, p.Observed, p.Expected = e.Subject, e.Observed, e.Expected
		p.Path, p.Line = place(e.Where)
		if p.Path == "" {
			p.Path = firstPath(f.Inspected)
		}
		if e.Waived {
			p.State = StateWaived
			if f.Waiver != nil {
				p.Why = f.Waiver.Reason
			}
		}
		out = append(out, p.marked())
	}
	if f.More > 0 {
		p := base
		p.Subject, p.Observed, p.Expected = "more", fmt.Sprintf("%d more of these", f.More), "none"
		p.Path = firstPath(f.Inspected)
		out = append(out, p.marked())
	}
	return out
}

// place splits "/etc/shadow:3". What is not a path stays out: a rule may name a kernel key.
func place(where string) (name string, line int) {
	if !strings.HasPrefix(where, "/") {
		return "", 0
	}
	if i := strings.LastIndexByte(where, ':'); i > 0 {
		if n, err := strconv.Atoi(where[i+1:]); err == nil && n > 0 {
			return path.Clean(where[:i]), n
		}
	}
	return path.Clean(where), 0
}

func firstPath(inspected []string) string {
	for _, s := range inspected {
		if p, _ := place(strings.Fields(s + " ")[0]); p != "" {
			return p
		}
	}
	return ""
}

// marked computes the fingerprint: what is wrong, where and with whom, not in which line. A problem that changes is another
// one, so that a known weak hash does not cover an empty password.
func (p Problem) marked() Problem {
	h := sha256.New()
	for _, s := range []string{"backstay-problem-1", p.Rule, string(kindOf(p.Result)), p.Subject, p.Path, p.Observed, p.Expected} {
		fmt.Fprintf(h, "%d:%s,", len(s), s)
	}
	p.Fingerprint = hex.EncodeToString(h.Sum(nil)[:16])
	return p
}

// kindOf makes what is left after a failed fix the same problem as before it.
func kindOf(r configs.Result) configs.Result {
	if r == configs.Unknown {
		return r
	}
	return configs.Fail
}

// Judge counts the problems that are open and at least as bad as failOn; "never" counts none.
func (r *Result) Judge(failOn string) {
	r.FailOn, r.Failing = failOn, 0
	least := rank(configs.Severity(failOn))
	for _, p := range r.Problems {
		if p.State == StateOpen && failOn != "never" && rank(p.Severity) >= least {
			r.Failing++
		}
	}
}

// fixHint says how to mend a rule's problem in the image.
func fixHint(r configs.Rule) string {
	if r.Fix == "" || r.Fix == configs.FixReport {
		return "change the image; no fix is made for you"
	}
	var how []string
	for _, k := range kindsOf(r.Test) {
		if kind, err := probe.Find(k); err == nil && kind.Fix != "" && !slices.Contains(how, kind.Fix) {
			how = append(how, kind.Fix)
		}
	}
	if r.Fix == configs.FixConfirm {
		return strings.Join(how, "; ") + " (could lock somebody out: name the rule to have it done)"
	}
	return strings.Join(how, "; ")
}

func kindsOf(t configs.Test) []string {
	if t.Kind != "" {
		return []string{t.Kind}
	}
	if len(t.Any) > 0 {
		return kindsOf(t.Any[0])
	}
	var out []string
	for _, p := range t.All {
		out = append(out, kindsOf(p)...)
	}
	return out
}

// printable makes a name of the image safe for a terminal, and bounds it.
func printable(s string) string {
	const longest = 200
	if len(s) > longest {
		s = s[:longest] + "..."
	}
	if q := strconv.QuoteToASCII(s); q != `"`+s+`"` {
		return q
	}
	return s
}
