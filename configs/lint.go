// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/backstay/backstay/configs/strictjson"
)

// Messages here start with the place (rule ssh.root: want.min) and end with what to do where that is not plain.

// Longest texts, in bytes.
const (
	maxTitle = 120
	maxWhy   = 600
)

// Lint reports everything that is wrong with one document, one line each, as a joined error. A nil error means that the
// engine can run it. It does not look at other documents: profiles it extends, a floor it adjusts.
func Lint(p Policy) error {
	var errs []error
	add := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if p.Schema != 1 {
		add("schema: %d, this version knows 1", p.Schema)
	}
	if !validID(p.ID) {
		add("id: %q, want lower-case letters, digits, dots and dashes", p.ID)
	}
	if p.Serial >= 1<<53 {
		add("serial: %d, want less than 2^53", p.Serial)
	}
	if p.MaxWaiverDays < 0 || p.MaxWaiverDays > hardMaxWaiverDays {
		add("max_waiver_days: %d, want 0 to %d", p.MaxWaiverDays, hardMaxWaiverDays)
	}
	if !p.Issued.IsZero() && !p.Expires.IsZero() && !p.Expires.After(p.Issued) {
		add("expires: not after issued")
	}
	if m := p.Defaults.Mode; m != "" && !slices.Contains(modes, m) {
		add("defaults.mode: %q, want one of %v", m, modes)
	}
	if len(p.Rules) > MaxRules {
		add("rules: %d, the limit is %d", len(p.Rules), MaxRules)
		return errors.Join(errs...)
	}
	errs = append(errs, lintRules(p.Rules)...)
	for i, a := range p.Adjust {
		errs = append(errs, lintAdjust(i, a)...)
	}
	for i, w := range p.Waivers {
		errs = append(errs, lintWaiver(i, w)...)
	}
	return errors.Join(errs...)
}

var (
	modes      = []Mode{Off, Audit, Trial, Enforce}
	severities = []Severity{Low, Medium, High, Critical}
	fixes      = []FixClass{FixReport, FixAuto, FixConfirm}
	tunables   = []Tunable{TunableNone, TunableTighten, TunableWaive}
)

func lintRules(rules []Rule) []error {
	var errs []error
	seen, claims := map[string]bool{}, map[string]string{}
	for i, r := range rules {
		name := "rule " + r.ID
		if !validID(r.ID) || !strings.Contains(r.ID, ".") {
			errs = append(errs, fmt.Errorf("rules[%d].id: %q, want area.name in lower-case letters, digits and dashes", i, r.ID))
			continue
		}
		if seen[r.ID] {
			errs = append(errs, fmt.Errorf("%s: given twice", name))
		}
		seen[r.ID] = true
		for _, err := range lintRule(r, claims) {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	return errs
}

func lintRule(r Rule, claims map[string]string) []error {
	var errs []error
	add := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if r.Title == "" || len(r.Title) > maxTitle {
		add("title: want 1 to %d bytes", maxTitle)
	}
	if r.Why == "" || len(r.Why) > maxWhy {
		add("why: want 1 to %d bytes: say what happens to a device that is not so", maxWhy)
	}
	oneOf(add, "severity", r.Severity, severities, true)
	oneOf(add, "mode", r.Mode, modes, false)
	oneOf(add, "fix", r.Fix, fixes, false)
	oneOf(add, "tunable", r.Tunable, tunables, false)
	if a := r.Applies; a != nil && a.Live == nil && len(a.OS) == 0 && len(a.Exists) == 0 {
		add("applies: empty, leave it out")
	}
	for _, ref := range r.Refs {
		if frame, id, ok := strings.Cut(ref, ":"); !ok || frame == "" || id == "" {
			add("refs: %q, want FRAMEWORK:ID", ref)
		}
	}
	n, err := compile(r.Test, 0)
	if err != nil {
		add("%w", err)
		return errs
	}
	if fixable(r) {
		if why := n.unfixable(); why != "" {
			add("fix: %q is not possible, %s; use \"report\"", r.Fix, why)
		}
		for _, c := range n.claims() {
			if other, ok := claims[c]; ok && other != r.ID {
				add("fix: sets %s, which rule %s sets too; they would undo each other", c, other)
			}
			claims[c] = r.ID
		}
	}
	return errs
}

func fixable(r Rule) bool { return r.Fix == FixAuto || r.Fix == FixConfirm }

// oneOf checks a word against a list; an empty word is right unless it must be given.
func oneOf[T ~string](add func(string, ...any), field string, have T, list []T, must bool) {
	if (have == "" && !must) || slices.Contains(list, have) {
		return
	}
	names := make([]string, len(list))
	for i, l := range list {
		names[i] = string(l)
	}
	if n := strictjson.Nearest(string(have), names); n != "" && have != "" {
		add("%s: unknown %q, did you mean %q?", field, string(have), n)
		return
	}
	add("%s: %q, want one of %s", field, string(have), strings.Join(names, ", "))
}

func lintAdjust(i int, a Adjust) []error {
	var errs []error
	add := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("adjust[%d] (%s): "+format, append([]any{i, a.Rule}, args...)...))
	}
	if a.Rule == "" {
		add("rule: missing")
	}
	if a.Mode == "" && a.Severity == "" && len(a.Want) == 0 {
		add("changes nothing: give mode, severity or want")
	}
	oneOf(add, "mode", a.Mode, modes, false)
	oneOf(add, "severity", a.Severity, severities, false)
	return errs
}

func lintWaiver(i int, w Waiver) []error {
	var errs []error
	add := func(text string) { errs = append(errs, fmt.Errorf("waivers[%d] (%s): %s", i, w.Rule, text)) }
	if w.Rule == "" {
		add("rule: missing")
	}
	if len(strings.TrimSpace(w.Reason)) < 8 || len(w.Reason) > maxWhy {
		add("reason: say why in 8 to 600 bytes; whoever audits the device reads it")
	}
	if w.By == "" {
		add("by: missing: name who accepts the risk")
	}
	if w.Expires.IsZero() {
		add("expires: missing: a waiver must end")
	}
	return errs
}

// validID allows a safe alphabet: ids become event attributes, file names and table cells.
func validID(id string) bool {
	if id == "" || len(id) > 80 || strings.Trim(id, ".-") != id || strings.Contains(id, "..") {
		return false
	}
	return !strings.ContainsFunc(id, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '.' && c != '-'
	})
}
