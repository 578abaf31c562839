// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/backstay/backstay/configs/probe"
	"github.com/backstay/backstay/configs/strictjson"
)

// Longest waivers in days: what a floor allows when it does not say, and what it may allow at most.
const (
	defaultMaxWaiverDays = 365
	hardMaxWaiverDays    = 731
)

// Merge lays an operator's policy over the maker's floor. The result has every rule of the floor, at least as strict, the
// operator's own rules, and the waivers; its ID and Serial are the operator's. One item that would loosen the floor
// refuses the whole policy, with every such item in the error: half a policy is one that nobody reviewed. The merge does
// not depend on the clock; waivers end when they are judged.
func Merge(floor, operator Policy) (Policy, error) {
	what := "policy " + operator.ID
	if operator.Floor != "" && operator.Floor != floor.ID {
		return Policy{}, refuse(CodeWrongFloor, what, fmt.Sprintf("made for floor %q, this device has %q", operator.Floor, floor.ID), nil)
	}
	if len(operator.Extends) > 0 || len(operator.Omits) > 0 || operator.MaxWaiverDays != 0 {
		return Policy{}, refuse(CodeLoosens, what, "extends, omits and max_waiver_days belong to the maker's floor", nil)
	}
	out := floor
	out.ID, out.Title, out.Serial = operator.ID, operator.Title, operator.Serial
	out.Issued, out.Expires = operator.Issued, operator.Expires
	out.Rules = slices.Clone(floor.Rules)
	var loose []error
	out.Rules = pinMode(floor, out.Rules)
	for _, r := range operator.Rules {
		if _, ok := floor.Rule(r.ID); ok {
			loose = append(loose, fmt.Errorf("rule %s: the floor has it; use adjust to tighten it", r.ID))
		}
		if r.Mode == "" {
			r.Mode = operator.modeOf(r)
		}
		out.Rules = append(out.Rules, r)
	}
	for _, a := range operator.Adjust {
		if err := adjust(&out, floor, a); err != nil {
			loose = append(loose, fmt.Errorf("adjust %s: %w", a.Rule, err))
		}
	}
	if err := errors.Join(loose...); err != nil {
		return Policy{}, refuse(CodeLoosens, what, err.Error(), err)
	}
	out.Waivers = slices.Concat(floor.Waivers, operator.Waivers)
	if err := checkWaivers(floor, operator); err != nil {
		return Policy{}, refuse(CodeWaiver, what, err.Error(), err)
	}
	if err := Lint(out); err != nil {
		return Policy{}, refuse(CodeInvalid, what, err.Error(), err)
	}
	return out, nil
}

// pinMode writes the mode in force into each rule of the floor, so that the operator's default cannot reach it.
func pinMode(floor Policy, rules []Rule) []Rule {
	for i, r := range rules {
		rules[i].Mode = floor.modeOf(r)
	}
	return rules
}

func adjust(out *Policy, floor Policy, a Adjust) error {
	i := slices.IndexFunc(out.Rules, func(r Rule) bool { return r.ID == a.Rule })
	old, ok := floor.Rule(a.Rule)
	if i < 0 || !ok {
		return errors.New("the floor has no such rule" + didYouMean(a.Rule, floor.ids()))
	}
	if old.Tunable == TunableNone {
		return errors.New("the floor does not let anybody change it")
	}
	r := &out.Rules[i]
	if a.Mode != "" {
		if slices.Index(modes, a.Mode) < slices.Index(modes, r.Mode) {
			return fmt.Errorf("mode %q is looser than %q", a.Mode, r.Mode)
		}
		r.Mode = a.Mode
	}
	if a.Severity != "" {
		if slices.Index(severities, a.Severity) < slices.Index(severities, r.Severity) {
			return fmt.Errorf("severity %q is lower than %q", a.Severity, r.Severity)
		}
		r.Severity = a.Severity
	}
	if len(a.Want) == 0 {
		return nil
	}
	if r.Kind == "" {
		return errors.New("want: it combines several checks; write a rule of your own beside it")
	}
	r.Want = a.Want
	return tightens(*r, old)
}

// tightens compares the wants of two rules of one kind and target.
func tightens(now, old Rule) error {
	a, err := compile(now.Test, 0)
	if err != nil {
		return err
	}
	b, err := compile(old.Test, 0)
	if err != nil {
		return err
	}
	t, ok := a.check.(probe.Tightener)
	if !ok {
		return fmt.Errorf("want: the strictness of kind %s cannot be compared; write a rule of your own beside it", now.Kind)
	}
	if err := t.Tightens(b.check); err != nil {
		return fmt.Errorf("want: looser than the floor: %w", err)
	}
	return nil
}

// checkWaivers looks at the operator's waivers; those of the floor are the maker's own business.
func checkWaivers(floor, operator Policy) error {
	days := floor.MaxWaiverDays
	if days == 0 {
		days = defaultMaxWaiverDays
	}
	var errs []error
	for _, w := range operator.Waivers {
		add := func(format string, args ...any) {
			errs = append(errs, fmt.Errorf("waiver %s: "+format, append([]any{w.Rule}, args...)...))
		}
		r, inFloor := floor.Rule(w.Rule)
		if _, own := operator.Rule(w.Rule); !inFloor && !own {
			add("no such rule%s", didYouMean(w.Rule, slices.Concat(floor.ids(), operator.ids())))
			continue
		}
		if inFloor && r.Tunable != "" && r.Tunable != TunableWaive {
			add("the floor does not let anybody waive it")
		}
		if operator.Issued.IsZero() {
			add("issued is missing, so its length cannot be judged")
		} else if w.Expires.Sub(operator.Issued) > time.Duration(days)*24*time.Hour {
			add("lasts longer than the %d days the floor allows", days)
		}
	}
	return errors.Join(errs...)
}

func didYouMean(name string, known []string) string {
	if n := strictjson.Nearest(name, known); n != "" {
		return fmt.Sprintf(", did you mean %q?", n)
	}
	return ""
}

// Accepted names the operator policy in force: what a device stores, after the policy is applied, to refuse older ones.
type Accepted struct {
	Serial uint64   `json:"serial"`
	SHA256 [32]byte `json:"sha256"` // of the exact bytes that were signed
}

// CheckFresh refuses a policy that has expired by now, a trusted time. One that is in force stays so when it expires; its
// waivers end.
func CheckFresh(p Policy, now time.Time) error {
	if !p.Expires.IsZero() && !now.Before(p.Expires) {
		return refuse(CodeExpired, "policy "+p.ID, "it expired on "+p.Expires.UTC().Format(time.RFC3339), nil)
	}
	return nil
}

// CheckSerial says whether offered may follow stored. The same serial with the same bytes is no change and allowed;
// with other bytes two policies were signed under one number, which somebody has to explain. A zero stored allows all.
func CheckSerial(stored, offered Accepted) error {
	switch {
	case offered.Serial > stored.Serial, offered == stored:
		return nil
	case offered.Serial < stored.Serial:
		return refuse(CodeRollback, fmt.Sprintf("policy serial %d", offered.Serial),
			fmt.Sprintf("serial %d is in force; to go back, issue the old content under a new serial", stored.Serial), nil)
	default:
		return refuse(CodeFork, fmt.Sprintf("policy serial %d", offered.Serial),
			"another policy with this serial is in force: two were signed under one number", nil)
	}
}
