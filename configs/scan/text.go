// SPDX-License-Identifier: Apache-2.0

package scan

import (
	"fmt"
	"io"
	"strings"

	"github.com/backstay/backstay/configs"
)

// WriteText writes the report for people: the worst first, each rule once, with what was seen, what is wanted and how to
// get there. all adds the rules that pass or do not apply.
func (r *Result) WriteText(w io.Writer, all bool) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s, policy %s serial %d, %d rules\n", printable(r.Image), r.Kind, r.Report.Policy, r.Report.Serial, len(r.Report.Findings))
	for _, n := range r.Notes {
		fmt.Fprintf(&b, "note: %s\n", n)
	}
	for i := len(severities) - 1; i >= 0; i-- {
		r.writeSeverity(&b, severities[i])
	}
	r.writeQuiet(&b)
	if all {
		r.writeRest(&b)
	}
	for _, k := range r.Stale {
		fmt.Fprintf(&b, "\nno longer found: %s %s %s: take it out of the file of known findings\n", k.Rule, printable(k.Path), printable(k.Subject))
	}
	fmt.Fprintf(&b, "\n%s\n", r.Summary())
	_, err := io.WriteString(w, b.String())
	return err
}

var severities = []configs.Severity{configs.Low, configs.Medium, configs.High, configs.Critical}

// writeSeverity writes the open problems of one severity; those of one rule are together.
func (r *Result) writeSeverity(b *strings.Builder, s configs.Severity) {
	last := ""
	for _, p := range r.Problems {
		if p.State != StateOpen || p.Severity != s || p.Result == configs.Unknown {
			continue
		}
		if last == "" {
			fmt.Fprintf(b, "\n%s\n", strings.ToUpper(string(s)))
		}
		if p.Rule != last {
			if last != "" {
				r.writeHint(b, last)
			}
			last = p.Rule
			rule, _ := r.Policy.Rule(p.Rule)
			fmt.Fprintf(b, "  %s: %s\n", p.Rule, rule.Title)
		}
		fmt.Fprintf(b, "    %s\n", p.Line1())
	}
	if last != "" {
		r.writeHint(b, last)
	}
}

func (r *Result) writeHint(b *strings.Builder, id string) {
	rule, ok := r.Policy.Rule(id)
	if !ok {
		return
	}
	fmt.Fprintf(b, "    why: %s\n    fix: %s\n", rule.Why, fixHint(rule))
	for _, f := range r.Report.Findings {
		if f.Rule != id {
			continue
		}
		if f.Reason != "" {
			fmt.Fprintf(b, "    not fixed: %s\n", printableLine(f.Reason))
		}
		for _, c := range f.Changes {
			fmt.Fprintf(b, "    change: %s %s\n", c.Op, printable(c.Path))
			for line := range strings.Lines(c.Diff) {
				fmt.Fprintf(b, "      %s\n", printableLine(strings.TrimRight(line, "\n")))
			}
		}
	}
}

// Line1 is a problem on one line.
func (p Problem) Line1() string {
	at := p.Path
	if p.Line > 0 {
		at = fmt.Sprintf("%s:%d", at, p.Line)
	}
	switch {
	case p.Result == configs.Unknown:
		return "not judged: " + p.Observed
	case p.Subject != "" && p.Subject != p.Path && at != "":
		return fmt.Sprintf("%s: %s: %s; wanted: %s", at, p.Subject, p.Observed, p.Expected)
	case at == "":
		at = p.Subject
	}
	return fmt.Sprintf("%s: %s; wanted: %s", at, p.Observed, p.Expected)
}

// writeQuiet writes what could not be judged and what is accepted, a line each.
func (r *Result) writeQuiet(b *strings.Builder) {
	head := "\nNOT JUDGED: give the image what decides it, or accept it\n"
	for _, p := range r.Problems {
		if p.State == StateOpen && p.Result == configs.Unknown {
			fmt.Fprintf(b, "%s  %s %s: %s\n", head, p.Severity, p.Rule, printableLine(p.Observed))
			head = ""
		}
	}
	for _, s := range []State{StateWaived, StateKnown} {
		head := "\n" + strings.ToUpper(string(s)) + "\n"
		for _, p := range r.Problems {
			if p.State == s {
				fmt.Fprintf(b, "%s  %s %s: %s (%s)\n", head, p.Severity, p.Rule, p.Line1(), p.Why)
				head = ""
			}
		}
	}
}

func (r *Result) writeRest(b *strings.Builder) {
	b.WriteString("\nNOTHING TO DO\n")
	for _, f := range r.Report.Findings {
		switch f.Result {
		case configs.Pass, configs.NotApplicable, configs.Fixed, configs.RebootNeeded:
			fmt.Fprintf(b, "  %s %s: %s\n", f.Result, f.Rule, printableLine(f.Reason))
		}
	}
}

// Summary is the last line.
func (r *Result) Summary() string {
	n := map[State]int{}
	for _, p := range r.Problems {
		n[p.State]++
	}
	c := r.Report.Counts
	out := fmt.Sprintf("%d problems, %d waived, %d known; rules: %d pass, %d fail, %d unknown, %d do not apply",
		n[StateOpen], n[StateWaived], n[StateKnown], c[configs.Pass], c[configs.Fail], c[configs.Unknown], c[configs.NotApplicable])
	for _, res := range []configs.Result{configs.Fixed, configs.RebootNeeded, configs.FixFailed, configs.Contested, configs.Reverted} {
		if c[res] > 0 {
			out += fmt.Sprintf(", %d %s", c[res], res)
		}
	}
	return out
}

// printableLine keeps control characters of the image off the terminal.
func printableLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r != '\t' && (r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0) {
			return '?'
		}
		return r
	}, s)
}
