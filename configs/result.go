// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"slices"
	"time"

	"github.com/backstay/backstay/configs/probe"
)

// Result is the outcome of one rule.
type Result = probe.Result

// The results. Those without a probe of their own are the engine's; the last four exist only in the report of Apply.
const (
	Pass                 = probe.Pass
	Fail                 = probe.Fail
	NotApplicable        = probe.NotApplicable
	Unknown              = probe.Unknown
	Waived        Result = "waived" // it fails, and a waiver in force covers everything that fails
	RebootNeeded         = probe.RebootNeeded
	Fixed         Result = "fixed"      // a fix was made and a second look proved it
	FixFailed     Result = "fix-failed" // the fix could not be made or did not help
	Contested     Result = "contested"  // something keeps changing it back; fixing is suspended
	Reverted      Result = "reverted"   // it was on trial and the device could not prove that it is still managed
)

// Finding is what a run says about one rule.
type Finding struct {
	Rule           string     `json:"rule"`
	Title          string     `json:"title"`
	Severity       Severity   `json:"severity"`
	Fix            FixClass   `json:"fix"`
	Mode           Mode       `json:"mode"`
	Result         Result     `json:"result"`
	Reason         string     `json:"reason,omitempty"`         // why, for every result but fail
	Implementation string     `json:"implementation,omitempty"` // the program that was judged
	Inspected      []string   `json:"inspected"`                // what was read; never empty on a pass
	Evidence       []Evidence `json:"evidence"`                 // what is not as wanted
	More           int        `json:"more,omitempty"`           // evidence left out
	Expected       string     `json:"expected,omitempty"`       // of the first evidence
	Observed       string     `json:"observed,omitempty"`       // of the first evidence
	Waiver         *Waiver    `json:"waiver,omitempty"`
	Changes        []Planned  `json:"changes,omitempty"` // what Apply did, or would do in a dry run
	Refs           []string   `json:"refs,omitempty"`
	Took           int64      `json:"took_us"` // microseconds

	// Touched lists the paths that were looked up, found or not, when the engine traces; a watch over them notices drift.
	Touched []string `json:"-"`
}

// Evidence is one thing that is not as wanted.
type Evidence struct {
	probe.Item
	Waived bool `json:"waived,omitempty"`
}

// Planned is a change as people read it.
type Planned struct {
	Op   string `json:"op"`
	Path string `json:"path"`
	Diff string `json:"diff"` // unified difference, secrets masked
}

// Report is the outcome of one run.
type Report struct {
	Policy   string         `json:"policy"`
	Serial   uint64         `json:"serial"`
	Started  time.Time      `json:"started"`
	DryRun   bool           `json:"dry_run,omitempty"`
	Run      string         `json:"run,omitempty"` // name of the undo record, when something was written
	Findings []Finding      `json:"findings"`      // in the order of the policy
	Counts   map[Result]int `json:"counts"`
	Scores   []Score        `json:"scores"` // one for each capability of SP 800-213A
}

// results lists every result, in the order of reports.
var results = [...]Result{Pass, Fail, NotApplicable, Unknown, Waived, Fixed, FixFailed, Contested, Reverted, RebootNeeded}

// Bad returns the findings that need somebody: fail, unknown, fix-failed, contested and reverted.
func (r Report) Bad() []Finding {
	var out []Finding
	for _, f := range r.Findings {
		if bad(f.Result) {
			out = append(out, f)
		}
	}
	return out
}

// OK reports whether nothing needs anybody.
func (r Report) OK() bool { return len(r.Bad()) == 0 }

// Tally fills in Counts and Scores from the findings.
func (r *Report) Tally() {
	r.Counts = map[Result]int{}
	for _, f := range r.Findings {
		r.Counts[f.Result]++
	}
	r.Scores = scores(r.Findings)
}

// Update replaces the findings of r by those that part, a later and partial run, has of the same rules.
func (r *Report) Update(part Report) {
	r.Findings = slices.Clone(r.Findings)
	for _, f := range part.Findings {
		if i := slices.IndexFunc(r.Findings, func(old Finding) bool { return old.Rule == f.Rule }); i >= 0 {
			r.Findings[i] = f
		}
	}
	r.Tally()
}
