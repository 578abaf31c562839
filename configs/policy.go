// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"encoding/json"
	"time"

	"github.com/backstay/backstay/configs/strictjson"
)

// Limits of a policy document.
const (
	MaxPolicyBytes = 256 << 10
	MaxPolicyDepth = 12 // three combinators, the innermost with a list in its want
	MaxRules       = 512
	MaxCombinators = 3 // depth of all, any, not
)

// Mode says how far the engine goes with a rule. The order is from loose to strict.
type Mode string

// The modes. Off is still reported. Trial applies a fix and takes it back unless the engine's Confirm proves that the
// device can still be managed.
const (
	Off     Mode = "off"
	Audit   Mode = "audit"
	Trial   Mode = "trial"
	Enforce Mode = "enforce"
)

// Severity of a rule that fails.
type Severity string

// The severities, mildest first.
const (
	Low      Severity = "low"
	Medium   Severity = "medium"
	High     Severity = "high"
	Critical Severity = "critical"
)

// FixClass says who may start a fix.
type FixClass string

// The classes of fixes.
const (
	FixReport  FixClass = "report"           // the engine only reports
	FixAuto    FixClass = "fix"              // safe: applied whenever fixes are applied
	FixConfirm FixClass = "fix-with-confirm" // could lock somebody out: applied when named, or on trial
)

// Tunable says what an operator's policy may do to a rule of the floor.
type Tunable string

// The degrees of freedom. Waive, the default, includes tighten.
const (
	TunableNone    Tunable = "none"
	TunableTighten Tunable = "tighten"
	TunableWaive   Tunable = "waive"
)

// Test is one typed check, or a combination of them: exactly one of Kind, All, Any and Not is set.
// All passes when every part passes, Any when one does, Not when its part fails. A part that is not applicable is left
// out of All and Any; an unknown part decides nothing that another part has not decided already.
type Test struct {
	Kind   string          `json:"kind,omitempty"`
	Target string          `json:"target,omitempty"`
	Want   json.RawMessage `json:"want,omitempty"`
	All    []Test          `json:"all,omitempty"`
	Any    []Test          `json:"any,omitempty"` // a fix mends the first
	Not    *Test           `json:"not,omitempty"`
}

// Rule is one requirement.
type Rule struct {
	ID       string   `json:"id"`    // area.name, lower case
	Title    string   `json:"title"` // the wanted state, as a sentence
	Why      string   `json:"why"`   // what happens to a device that is not so
	Severity Severity `json:"severity"`
	Test
	Fix     FixClass `json:"fix,omitempty"`     // default report
	Mode    Mode     `json:"mode,omitempty"`    // default that of the policy
	Tunable Tunable  `json:"tunable,omitempty"` // default waive
	Applies *Applies `json:"applies,omitempty"`
	Refs    []string `json:"refs,omitempty"` // SP800-213A:LA-auth, EN303645:5.1-1, CIS-DIL:6.2.1
}

// Applies limits a rule to some devices. Every condition that is given must hold.
type Applies struct {
	Live   *bool    `json:"live,omitempty"`   // true: only a running system; false: only an image
	OS     []string `json:"os,omitempty"`     // one of these is the ID in /etc/os-release
	Exists []string `json:"exists,omitempty"` // one of these paths is there
}

// Adjust tightens one rule of the floor.
type Adjust struct {
	Rule     string          `json:"rule"`
	Mode     Mode            `json:"mode,omitempty"`
	Severity Severity        `json:"severity,omitempty"`
	Want     json.RawMessage `json:"want,omitempty"` // replaces want of a rule without combinators
}

// Waiver accepts a failing rule for a time.
type Waiver struct {
	Rule    string    `json:"rule"`
	Match   []string  `json:"match,omitempty"` // subjects; empty means the whole rule
	Reason  string    `json:"reason"`
	By      string    `json:"by"`
	Expires time.Time `json:"expires"`
}

// Defaults hold for rules that do not say.
type Defaults struct {
	Mode Mode `json:"mode,omitempty"` // default enforce
}

// Policy is a parsed document, or the merge of several. Use ParsePolicy, Load and Merge to make one.
type Policy struct {
	Schema        int       `json:"schema"` // 1
	ID            string    `json:"id"`
	Title         string    `json:"title,omitempty"`
	Serial        uint64    `json:"serial"`                    // rises with every issue; below 2^53
	Issued        time.Time `json:"issued,omitzero"`           //
	Expires       time.Time `json:"expires,omitzero"`          // then its waivers end; its rules stay in force
	Extends       []string  `json:"extends,omitempty"`         // built-in profiles this one adds to
	Omits         []string  `json:"omits,omitempty"`           // rules of those profiles that do not suit this product
	Floor         string    `json:"floor,omitempty"`           // operator: the id of the floor it was made for
	MaxWaiverDays int       `json:"max_waiver_days,omitempty"` // floor: longest waiver, default 365
	Defaults      Defaults  `json:"defaults,omitzero"`
	Rules         []Rule    `json:"rules,omitempty"`
	Adjust        []Adjust  `json:"adjust,omitempty"`
	Waivers       []Waiver  `json:"waivers,omitempty"`
}

// ParsePolicy reads one document and lints it. It resolves nothing: Extends is for Load, Adjust and Waivers for Merge.
// Every error is a Refusal with CodeMalformed or CodeInvalid.
func ParsePolicy(data []byte) (Policy, error) {
	var p Policy
	lim := strictjson.Limits{Bytes: MaxPolicyBytes, Depth: MaxPolicyDepth}
	if err := strictjson.Decode(data, lim, &p); err != nil {
		return Policy{}, refuse(CodeMalformed, "policy", err.Error(), err)
	}
	if err := Lint(p); err != nil {
		return Policy{}, refuse(CodeInvalid, "policy "+p.ID, err.Error(), err)
	}
	return p, nil
}

// Rule returns the rule called id.
func (p Policy) Rule(id string) (Rule, bool) {
	for _, r := range p.Rules {
		if r.ID == id {
			return r, true
		}
	}
	return Rule{}, false
}

// modeOf is the mode in force for a rule.
func (p Policy) modeOf(r Rule) Mode {
	if r.Mode != "" {
		return r.Mode
	}
	if p.Defaults.Mode != "" {
		return p.Defaults.Mode
	}
	return Enforce
}

// ids lists the rule ids, for suggestions.
func (p Policy) ids() []string {
	out := make([]string, 0, len(p.Rules))
	for _, r := range p.Rules {
		out = append(out, r.ID)
	}
	return out
}
