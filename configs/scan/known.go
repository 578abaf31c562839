// SPDX-License-Identifier: Apache-2.0

package scan

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/backstay/backstay/configs/strictjson"
)

// knownSchema is the schema of the file of known findings.
const knownSchema = "backstayctl.scan-baseline/1"

// KnownFinding is one problem that is accepted for now. The fingerprint decides; the rest is for people.
type KnownFinding struct {
	Rule        string `json:"rule"`
	Subject     string `json:"subject,omitempty"`
	Path        string `json:"path,omitempty"`
	Observed    string `json:"observed,omitempty"`
	Fingerprint string `json:"fingerprint"`
	Reason      string `json:"reason,omitempty"`
}

// Baseline is the file of known findings of a product: what was there when scanning began. It makes new problems fail while
// the old ones are worked off. It belongs under version control, where a reviewer sees what is added; it never expires, so
// what is accepted for good belongs into the policy, as a waiver.
type Baseline struct {
	Schema string         `json:"schema"`
	Known  []KnownFinding `json:"known"`
}

// ReadBaseline reads a file of known findings.
func ReadBaseline(name string) (Baseline, error) {
	f, err := os.Open(name)
	if err != nil {
		return Baseline{}, err
	}
	defer f.Close()
	const longest = 16 << 20
	data, err := io.ReadAll(io.LimitReader(f, longest+1))
	if err != nil {
		return Baseline{}, err
	}
	var b Baseline
	if err := strictjson.Decode(data, strictjson.Limits{Bytes: longest, Depth: 4}, &b); err != nil {
		return Baseline{}, fmt.Errorf("read %s: %w", name, err)
	}
	if b.Schema != knownSchema {
		return Baseline{}, fmt.Errorf("read %s: schema is %q, want %q", name, b.Schema, knownSchema)
	}
	for i, k := range b.Known {
		if k.Rule == "" || k.Fingerprint == "" {
			return Baseline{}, fmt.Errorf("read %s: known[%d] needs rule and fingerprint", name, i)
		}
	}
	return b, nil
}

// Accept marks the problems that are known. A rest that a rule only counts is never known: nobody can say what is in it.
func (r *Result) Accept(b Baseline) {
	byPrint := map[string]KnownFinding{}
	for _, k := range b.Known {
		byPrint[k.Fingerprint] = k
	}
	seen := map[string]bool{}
	for i := range r.Problems {
		p := &r.Problems[i]
		k, ok := byPrint[p.Fingerprint]
		if !ok || k.Rule != p.Rule {
			continue
		}
		seen[k.Fingerprint] = true
		if p.State == StateOpen && p.Subject != "more" {
			p.State, p.Why = StateKnown, cmp.Or(k.Reason, "in the file of known findings")
		}
	}
	r.Known, r.Stale = true, []KnownFinding{}
	for _, k := range b.Known {
		if !seen[k.Fingerprint] {
			r.Stale = append(r.Stale, k)
		}
	}
}

// Baseline makes the file that accepts what is open now; reasons of known findings stay.
func (r *Result) Baseline(old Baseline) Baseline {
	reasons := map[string]string{}
	for _, k := range old.Known {
		reasons[k.Fingerprint] = k.Reason
	}
	b := Baseline{Schema: knownSchema, Known: []KnownFinding{}}
	for _, p := range r.Problems {
		if p.State != StateWaived && p.Subject != "more" {
			b.Known = append(b.Known, KnownFinding{p.Rule, p.Subject, p.Path, p.Observed, p.Fingerprint, reasons[p.Fingerprint]})
		}
	}
	slices.SortStableFunc(b.Known, func(x, y KnownFinding) int {
		return cmp.Or(cmp.Compare(x.Rule, y.Rule), cmp.Compare(x.Path, y.Path), cmp.Compare(x.Subject, y.Subject), cmp.Compare(x.Fingerprint, y.Fingerprint))
	})
	b.Known = slices.Compact(b.Known)
	return b
}

// Write writes the file.
func (b Baseline) Write(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(b)
}
