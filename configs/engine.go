// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
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
}

const defaultRuleTime = 20 * time.Second

// run is the state of one Check or Apply.
type run struct {
	*Engine
	ctx    context.Context // of this run only
	host   *probe.Host
	osID   string
	mem    memory
	report Report
}

func (e *Engine) begin(ctx context.Context) (*run, error) {
	if (e.Root == nil) == (e.Image == nil) || e.Now == nil {
		return nil, &Refusal{Code: CodeInvalid, What: "engine", Why: "Now and either Root or Image have to be set", class: ErrSetup}
	}
	if err := Lint(e.Policy); err != nil {
		return nil, refuse(CodeInvalid, "policy "+e.Policy.ID, err.Error(), err)
	}
	r := &run{Engine: e, ctx: ctx, host: e.newHost()}
	r.report = Report{Policy: e.Policy.ID, Serial: e.Policy.Serial, Started: e.Now().UTC(), Findings: []Finding{}}
	r.osID = osID(ctx, r.host)
	var err error
	r.mem, err = e.loadMemory()
	return r, err
}

func (e *Engine) newHost() *probe.Host {
	skip := slices.Clone(e.Exclude)
	if e.Image != nil {
		return probe.NewImage(e.Image, skip...)
	}
	if r, err := filepath.Rel(e.Root.Name(), e.StateDir); err == nil && e.StateDir != "" && filepath.IsLocal(r) {
		skip = append(skip, r)
	}
	return probe.NewHost(e.Root, e.Live, skip...)
}

// Check runs every rule and changes nothing. It emits config.drift for each rule that fails and config.state at the end.
// The error is about the run: a bad policy, an unreadable StateDir, a context that ended; what a rule met is its finding.
func (e *Engine) Check(ctx context.Context) (Report, error) {
	r, err := e.begin(ctx)
	if err != nil {
		return Report{}, err
	}
	for _, rule := range e.Policy.Rules {
		if err := ctx.Err(); err != nil {
			return Report{}, fmt.Errorf("check configuration: %w", err)
		}
		f := r.find(rule)
		r.drift(f)
		r.report.Findings = append(r.report.Findings, f)
	}
	r.finish("check")
	return r.report, nil
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
	r.judge(rule, &f)
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
	return v
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

func (r *run) drift(f Finding) {
	switch f.Result {
	case Fail, FixFailed, Contested, Reverted:
	default:
		return
	}
	attrs := append(r.attrs(f), slog.String("expected", f.Expected), slog.String("observed", f.Observed))
	if len(f.Evidence) > 0 {
		attrs = append(attrs, slog.String("where", f.Evidence[0].Where), slog.Int("defects", len(f.Evidence)+f.More))
	}
	r.emit(EventDrift, attrs...)
}

func (r *run) attrs(f Finding) []slog.Attr {
	return []slog.Attr{
		slog.String("rule", f.Rule), slog.String("title", f.Title), slog.String("severity", string(f.Severity)),
		slog.String("result", string(f.Result)), slog.String("policy", r.Policy.ID), slog.Uint64("serial", r.Policy.Serial),
	}
}

func (e *Engine) emit(code string, attrs ...slog.Attr) {
	if e.Emit != nil {
		e.Emit(code, attrs...)
	}
}

// finish counts the findings and reports the state.
func (r *run) finish(what string) {
	r.report.count()
	attrs := []slog.Attr{slog.String("run", what), slog.String("policy", r.Policy.ID), slog.Uint64("serial", r.Policy.Serial)}
	for _, res := range []Result{Pass, Fail, NotApplicable, Unknown, Waived, Fixed, FixFailed, Contested, Reverted, RebootNeeded} {
		if n := r.report.Counts[res]; n > 0 {
			attrs = append(attrs, slog.Int(string(res), n))
		}
	}
	r.emit(EventState, attrs...)
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
