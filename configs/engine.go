// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/backstay/backstay/configs/probe"
	"github.com/backstay/backstay/configs/strictjson"
)

// Engine runs a policy against a tree. Its methods are synchronous; one Engine may be used from one goroutine at a time,
// and runs of several processes over one StateDir exclude each other.
type Engine struct {
	Root   *os.Root   // everything is resolved inside
	Image  probe.Tree // instead of Root: a file system image, which can be checked and not changed
	Policy Policy     // from Load, ParsePolicy or Merge
	Live   bool       // Root is the running system
	Emit   Emit       // may be nil
	Now    func() time.Time

	// StateDir is where copies of changed files and the memory of fixes go, created with mode 0700. Whoever can write it
	// can write any file below Root at the next undo. Check works without.
	StateDir string
	// Exclude lists paths inside Root that scans of the tree leave out, beside StateDir: the agent's own keys.
	Exclude []string
	// RuleTime bounds one check or fix; zero means 20 seconds. A rule that takes longer is unknown.
	RuleTime time.Duration
	// Confirm proves, after a fix on trial, that the device can still be managed, and returns an error when it cannot; the
	// fix is then taken back. While it is nil, a trial is an audit.
	Confirm func(context.Context) error
	// Managed says whether that can be proved now, before a trial begins; with an error trials wait. Nil is yes.
	Managed func(context.Context) error
	// ReadOnly says what is done about a file that cannot be written because its file system is read only.
	ReadOnly ReadOnly
	// Changed is told each resolved path right after its bytes were written, by a fix or by taking one back. holds reports
	// whether it still has these bytes: another program may have been quicker than the flash. May be nil.
	Changed func(path string, holds func() bool)
	// Trace fills in Finding.Touched.
	Trace bool

	fullAt  time.Time           // when the whole state was reported last, by this process
	flap    map[string]flapping // rule -> its changes
	linted  *Rule               // the rules that were found right; a policy is replaced, never changed in place
	rules   int
	guesses probe.Guesses // of passwords, over the runs
}

const defaultRuleTime = 20 * time.Second

// run is the state of one Check or Apply.
type run struct {
	*Engine
	ctx     context.Context // of this run only
	host    *probe.Host
	osID    string
	mem     memory
	report  Report
	only    []string // rules to look at; nil is all
	full    bool     // the whole state is due
	changed bool     // a rule does not stand as remembered
}

func (e *Engine) begin(ctx context.Context) (*run, error) {
	if (e.Root == nil) == (e.Image == nil) || e.Now == nil {
		return nil, &Refusal{Code: CodeInvalid, What: "engine", Why: "Now and either Root or Image have to be set", class: ErrSetup}
	}
	if err := e.lint(); err != nil {
		return nil, err
	}
	r := &run{Engine: e, ctx: ctx, host: e.newHost()}
	now := e.Now()
	r.full = e.fullAt.IsZero() || now.Sub(e.fullAt) >= fullPeriod || now.Before(e.fullAt)
	r.report = Report{Policy: e.Policy.ID, Serial: e.Policy.Serial, Started: e.Now().UTC(), Findings: []Finding{}}
	r.osID = osID(ctx, r.host)
	var err error
	r.mem, err = e.loadMemory()
	return r, err
}

// lint looks at a policy once: compiling hundreds of rules every half minute would be most of what a small device does.
func (e *Engine) lint() error {
	if n := len(e.Policy.Rules); n > 0 && e.linted == &e.Policy.Rules[0] && e.rules == n {
		return nil
	}
	if err := Lint(e.Policy); err != nil {
		return refuse(CodeInvalid, "policy "+e.Policy.ID, err.Error(), err)
	}
	if len(e.Policy.Rules) > 0 {
		e.linted, e.rules = &e.Policy.Rules[0], len(e.Policy.Rules)
	}
	return nil
}

func (e *Engine) newHost() *probe.Host {
	skip := slices.Clone(e.Exclude)
	if e.Image != nil {
		return probe.NewImage(e.Image, skip...)
	}
	if r, err := filepath.Rel(e.Root.Name(), e.StateDir); err == nil && e.StateDir != "" && filepath.IsLocal(r) {
		skip = append(skip, r)
	}
	h := probe.NewHost(e.Root, e.Live, skip...)
	h.Remember(&e.guesses)
	h.OnReadOnly = func(ctx context.Context, c probe.Change) error { return e.rescue(ctx, h, c) }
	return h
}

// Check runs every rule and changes nothing in the tree. It emits what changed since the rule was last looked at, and the
// whole state when that is due; how the rules stand is remembered in StateDir, which is written when it changes, if it can be.
// The error is about the run: a bad policy, an unreadable StateDir, a context that ended; what a rule met is its finding.
func (e *Engine) Check(ctx context.Context) (Report, error) { return e.check(ctx, nil) }

// Recheck looks at some rules only, as Check does or, with repair, as Apply without names does. Its report holds these.
func (e *Engine) Recheck(ctx context.Context, ids []string, repair bool) (Report, error) {
	if len(ids) == 0 {
		ids = []string{""}
	}
	if repair {
		return e.apply(ctx, nil, ids, false)
	}
	return e.check(ctx, ids)
}

func (e *Engine) check(ctx context.Context, only []string) (Report, error) {
	r, err := e.begin(ctx)
	if err != nil {
		return Report{}, err
	}
	defer r.host.Close()
	r.only = only
	for _, rule := range r.selected() {
		if err := ctx.Err(); err != nil {
			return Report{}, fmt.Errorf("check configuration: %w", err)
		}
		f := r.find(rule)
		r.note(f)
		r.report.Findings = append(r.report.Findings, f)
	}
	r.finish("check")
	r.remember()
	return r.report, nil
}

// selected lists the rules this run is about.
func (r *run) selected() []Rule {
	if r.only == nil {
		return r.Policy.Rules
	}
	var out []Rule
	for _, rule := range r.Policy.Rules {
		if slices.Contains(r.only, rule.ID) {
			out = append(out, rule)
		}
	}
	return out
}

// Explain returns a rule and the mode in force for it.
func (e *Engine) Explain(id string) (Rule, Mode, error) {
	r, ok := e.Policy.Rule(id)
	if !ok {
		return Rule{}, "", e.noRule(id)
	}
	return r, e.Policy.modeOf(r), nil
}

func (e *Engine) noRule(id string) error {
	why := "policy " + e.Policy.ID + " has no such rule"
	if n := strictjson.Nearest(id, e.Policy.ids()); n != "" {
		why += fmt.Sprintf(", did you mean %q?", n)
	}
	return refuse(CodeUnknownRule, fmt.Sprintf("rule %q", id), why, nil)
}

// find checks one rule.
func (r *run) find(rule Rule) Finding {
	began := time.Now()
	f := Finding{Rule: rule.ID, Title: rule.Title, Severity: rule.Severity, Fix: rule.Fix, Mode: r.Policy.modeOf(rule), Refs: rule.Refs}
	if f.Fix == "" {
		f.Fix = FixReport
	}
	if r.Trace {
		r.host.Trace()
	}
	r.judge(rule, &f)
	if r.Trace {
		f.Touched = r.host.Trace()
	}
	if f.Inspected == nil {
		f.Inspected = []string{}
	}
	if f.Evidence == nil {
		f.Evidence = []Evidence{}
	}
	f.Took = time.Since(began).Microseconds()
	return f
}

func (r *run) judge(rule Rule, f *Finding) {
	if why := r.inapplicable(rule, f.Mode); why != "" {
		f.Result, f.Reason = NotApplicable, why
		return
	}
	n, err := compile(rule.Test, 0)
	if err != nil {
		f.Result, f.Reason = Unknown, err.Error()
		return
	}
	ctx, cancel := r.ruleContext()
	defer cancel()
	v := positive(n.verdict(ctx, r.host))
	f.Result, f.Reason, f.Implementation, f.Inspected, f.More = v.Result, v.Reason, v.Implementation, dedupe(v.Inspected), v.More
	for _, it := range v.Items {
		f.Evidence = append(f.Evidence, Evidence{Item: it})
	}
	if len(v.Items) > 0 {
		f.Expected, f.Observed = v.Items[0].Expected, v.Items[0].Observed
	}
	switch {
	case v.Result == Fail:
		r.waive(f)
	case v.Result == Pass && r.awaitsReboot(rule.ID):
		f.Result, f.Reason = RebootNeeded, "fixed since the device started; programs that were running may still use the old setting"
	}
}

// positive turns a pass that names nothing it inspected into unknown: the one promise of this engine is that "absent" is
// never "pass".
func positive(v probe.Verdict) probe.Verdict {
	if v.Result == Pass && len(v.Inspected) == 0 {
		v.Result, v.Reason = Unknown, "the check names nothing that it inspected"
	}
	v.Reason = oneLine(v.Reason)
	return v
}

// oneLine makes a reason fit a line of a report: joined errors have one line each, and there can be many.
func oneLine(s string) string {
	const longest = 1000
	s = strings.ReplaceAll(s, "\n", "; ")
	if len(s) > longest {
		s = strings.ToValidUTF8(s[:longest], "") + "..."
	}
	return s
}

func (r *run) ruleContext() (context.Context, context.CancelFunc) {
	d := r.RuleTime
	if d <= 0 {
		d = defaultRuleTime
	}
	return context.WithTimeout(r.ctx, d)
}

// inapplicable says why a rule is not run, "" when it is.
func (r *run) inapplicable(rule Rule, mode Mode) string {
	if mode == Off {
		return "switched off by policy " + r.Policy.ID
	}
	a := rule.Applies
	switch {
	case a == nil:
		return ""
	case a.Live != nil && *a.Live && !r.Live:
		return "it can only be judged on a running system"
	case a.Live != nil && !*a.Live && r.Live:
		return "it is about images; a running device is allowed to differ"
	case len(a.OS) > 0 && !slices.Contains(a.OS, r.osID):
		return fmt.Sprintf("it is for %s, /etc/os-release says %q", strings.Join(a.OS, ", "), r.osID)
	case len(a.Exists) > 0 && !slices.ContainsFunc(a.Exists, r.host.Exists):
		return strings.Join(a.Exists, ", ") + ": not there"
	}
	return ""
}

// waive marks the evidence that waivers in force cover; a finding whose evidence is all covered is waived. A clock before
// the policy's issue does not lengthen a waiver: an expired policy's waivers are over whatever their own date.
func (r *run) waive(f *Finding) {
	now := r.Now()
	if e := r.Policy.Expires; !e.IsZero() && !now.Before(e) {
		return
	}
	for _, w := range r.Policy.Waivers {
		if w.Rule != f.Rule || !now.Before(w.Expires) {
			continue
		}
		for i := range f.Evidence {
			if len(w.Match) == 0 || slices.Contains(w.Match, f.Evidence[i].Subject) {
				f.Evidence[i].Waived = true
				f.Waiver = &w
			}
		}
		if len(w.Match) == 0 {
			f.More = 0
		}
	}
	open := slices.ContainsFunc(f.Evidence, func(e Evidence) bool { return !e.Waived })
	if !open && f.More == 0 {
		f.Result, f.Reason = Waived, f.Waiver.Reason
	}
}

// osID reads ID from os-release; "" when it cannot be told.
func osID(ctx context.Context, h *probe.Host) string {
	for _, name := range []string{"/etc/os-release", "/usr/lib/os-release"} {
		data, err := h.Read(ctx, name)
		if err != nil {
			continue
		}
		for line := range bytes.Lines(data) {
			if v, ok := strings.CutPrefix(strings.TrimSpace(string(line)), "ID="); ok {
				return strings.Trim(v, `"'`)
			}
		}
	}
	return ""
}

func dedupe(list []string) []string {
	var out []string
	for _, s := range list {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}
