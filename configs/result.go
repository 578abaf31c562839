// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"time"

	"github.com/backstay/backstay/configs/probe"
)

// Result is the outcome of one rule.
type Result = probe.Result

// The results. The last six exist only in the report of Apply.
const (
	Pass                 = probe.Pass
	Fail                 = probe.Fail
	NotApplicable        = probe.NotApplicable
	Unknown              = probe.Unknown
	Waived        Result = "waived"        // it fails, and a waiver in force covers everything that fails
	RebootNeeded  Result = "reboot-needed" // the files are right; a running program still has the old setting
	Fixed         Result = "fixed"         // a fix was made and a second look proved it
	FixFailed     Result = "fix-failed"    // the fix could not be made or did not help
	Contested     Result = "contested"     // something keeps changing it back; fixing is suspended
	Reverted      Result = "reverted"      // it was on trial and the device could not prove that it is still managed
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
}

// Bad returns the findings that need somebody: fail, unknown, fix-failed, contested and reverted.
func (r Report) Bad() []Finding {
	var out []Finding
	for _, f := range r.Findings {
		switch f.Result {
		case Fail, Unknown, FixFailed, Contested, Reverted:
			out = append(out, f)
		}
	}
	return out
}

// OK reports whether nothing needs anybody.
func (r Report) OK() bool { return len(r.Bad()) == 0 }

func (r *Report) count() {
	r.Counts = map[Result]int{}
	for _, f := range r.Findings {
		r.Counts[f.Result]++
	}
}
