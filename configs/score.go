// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"fmt"
	"strings"
)

// Score sums up the rules that speak for one capability of SP 800-213A. There is no percentage: one open door is not made
// good by nineteen closed ones.
type Score struct {
	Capability string `json:"capability"` // DI, DC, DP, LA, SU, CS or DS
	Passed     int    `json:"passed"`
	Applicable int    `json:"applicable"` // rules that could be judged here, or should have been
	Waived     int    `json:"waived"`     // of these, those that fail and are accepted for a time
	Unknown    int    `json:"unknown"`    // of these, those that could not be judged
}

func (s Score) String() string {
	return fmt.Sprintf("%d of %d passed, %d waived, %d unknown", s.Passed, s.Applicable, s.Waived, s.Unknown)
}

// capabilities are those of SP 800-213A: identification, configuration, data protection, logical access, software update,
// cybersecurity state awareness, device security.
var capabilities = [...]string{"DI", "DC", "DP", "LA", "SU", "CS", "DS"}

const capabilityFrame = "SP800-213A:"

// scores sums the findings up. A rule counts once for each capability it names; one that does not apply counts for none.
func scores(findings []Finding) []Score {
	out := make([]Score, len(capabilities))
	for i, c := range capabilities {
		out[i].Capability = c
		for _, f := range findings {
			if f.Result == NotApplicable || !speaksFor(f.Refs, c) {
				continue
			}
			out[i].Applicable++
			switch f.Result {
			case Pass, Fixed:
				out[i].Passed++
			case Waived:
				out[i].Waived++
			case Unknown:
				out[i].Unknown++
			}
		}
	}
	return out
}

func speaksFor(refs []string, capability string) bool {
	for _, ref := range refs {
		if id, ok := strings.CutPrefix(ref, capabilityFrame); ok {
			if id, _, _ = strings.Cut(id, "-"); id == capability {
				return true
			}
		}
	}
	return false
}
