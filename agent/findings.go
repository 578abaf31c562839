// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"encoding/json"
	"log/slog"
	"slices"

	"github.com/backstay/backstay/agent/control"
	"github.com/backstay/backstay/configs"
)

// This file answers the commands about the baseline, and brings reports into the types that travel.

func (a *agent) baselineCheck(ctx context.Context) (control.Findings, error) {
	r, err := a.guard.check(ctx)
	return findings(a.guard.profiles, r), err
}

func (a *agent) baselineApply(ctx context.Context, p control.ApplyParams) (control.Findings, error) {
	if !p.DryRun {
		a.recordCommand(ctx, control.MethodBaselineApply, slog.Any("rules", p.Rules))
	}
	r, err := a.guard.apply(ctx, p.Rules, p.DryRun)
	return findings(a.guard.profiles, r), err
}

// baselineUndo takes the last repair back. The next full check, or a watch that notices the change, will find it again: what
// should stay needs a waiver, or enforcement switched off.
func (a *agent) baselineUndo(ctx context.Context) (control.Undone, error) {
	done, err := a.guard.undo(ctx)
	return control.Undone{Changes: changes(done)}, err
}

func (a *agent) baselineExplain(_ context.Context, p control.RuleParams) (control.Rule, error) {
	r, policy, err := a.guard.explain(p.Rule)
	if err != nil {
		return control.Rule{}, err
	}
	out := control.Rule{
		ID: r.ID, Title: r.Title, Why: r.Why, Severity: string(r.Severity), Kind: r.Kind, Target: text(r.Target), Want: text(r.Want),
		Fix: string(r.Fix), Refs: r.Refs, Profile: policy,
	}
	report := a.guard.report()
	if i := slices.IndexFunc(report.Findings, func(f configs.Finding) bool { return f.Rule == r.ID }); i >= 0 {
		f := finding(report.Findings[i])
		out.Finding = &f
	}
	return out, nil
}

// text shows a rule's parameter as its author wrote it.
func text(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case json.RawMessage:
		return string(v)
	}
	b, _ := json.Marshal(v)
	return string(b)
}

func counts(r configs.Report) control.Counts {
	c := r.Counts
	return control.Counts{
		Pass: c[configs.Pass], Fail: c[configs.Fail] + c[configs.FixFailed] + c[configs.Contested] + c[configs.Reverted],
		Unknown: c[configs.Unknown], Waived: c[configs.Waived], NotApplicable: c[configs.NotApplicable],
		Fixed: c[configs.Fixed] + c[configs.RebootNeeded],
	}
}

func scores(r configs.Report) []control.Score {
	var out []control.Score
	for _, s := range r.Scores {
		out = append(out, control.Score(s))
	}
	return out
}

func changes(list []configs.Planned) []control.Change {
	var out []control.Change
	for _, c := range list {
		out = append(out, control.Change(c))
	}
	return out
}

func finding(f configs.Finding) control.Finding {
	return control.Finding{
		Rule: f.Rule, Title: f.Title, Severity: string(f.Severity), Result: string(f.Result), Expected: f.Expected,
		Observed: f.Observed, Inspected: f.Inspected, Reason: f.Reason, Fixable: f.Fix != configs.FixReport, Changes: changes(f.Changes),
	}
}

func findings(profiles []string, r configs.Report) control.Findings {
	out := control.Findings{Profiles: profiles, DryRun: r.DryRun, Counts: counts(r), Scores: scores(r)}
	for _, f := range r.Findings {
		out.Items = append(out.Items, finding(f))
	}
	return out
}
