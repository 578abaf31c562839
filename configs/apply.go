// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/backstay/backstay/configs/probe"
)

// Apply checks every rule and mends those that fail.
//
// With ids it mends exactly these, of both fix classes, whatever their mode: a person named them. Without ids it mends the
// rules in mode enforce or trial whose class is fix, and, when Confirm is set, those whose class is fix-with-confirm; these
// and all in mode trial are on trial: when Confirm returns an error after them, they are taken back.
//
// A copy of every file is durable in StateDir before the file changes. After a power cut each file has its old or its new
// bytes; call Recover, then Apply again. A second Apply writes nothing, neither to the tree nor to StateDir. A dry run
// writes nothing at all and puts into Finding.Changes exactly what would be written; its results are those of Check.
func (e *Engine) Apply(ctx context.Context, ids []string, dryRun bool) (Report, error) {
	return e.apply(ctx, ids, nil, dryRun)
}

func (e *Engine) apply(ctx context.Context, ids, only []string, dryRun bool) (Report, error) {
	for _, id := range ids {
		if _, ok := e.Policy.Rule(id); !ok {
			return Report{}, e.noRule(id)
		}
	}
	if !dryRun {
		if e.Image != nil {
			return Report{}, &Refusal{Code: CodeInvalid, What: "apply", Why: "an image is read only", class: ErrSetup}
		}
		unlock, err := e.lock()
		if err != nil {
			return Report{}, err
		}
		defer unlock()
	}
	r, err := e.begin(ctx)
	if err != nil {
		return Report{}, err
	}
	r.report.DryRun, r.only = dryRun, only
	defer r.host.Close() // ends a firewall on trial that nobody confirmed
	a := &apply{run: r, ids: ids, dry: dryRun}
	err = a.all()
	if err == nil && !dryRun {
		for _, f := range r.report.Findings {
			r.note(f)
		}
	}
	if err := errors.Join(err, a.close()); err != nil {
		return Report{}, err
	}
	if dryRun {
		r.report.Tally()
	} else {
		r.finish("apply")
	}
	return r.report, nil
}

// apply is one run of fixes.
type apply struct {
	*run
	ids []string
	dry bool
	rec *record // opened by the first change

	inTrial bool
	trial   []trialFix
	managed *error // what Managed said in this run
}

// trialFix is a fix that Confirm has to bless: a position in the report.
type trialFix struct{ finding, firstChange, lastChange int }

// stage is when in a run a rule is mended.
type stage int

const (
	safe   stage = iota
	trial        // after the safe ones, so that taking the trial back leaves them alone
	oneWay       // after the trial is confirmed: nothing takes it back before a restart
)

func (a *apply) all() error {
	rules := a.selected()
	a.report.Findings = make([]Finding, len(rules))
	stages := make([]stage, len(rules))
	for i, rule := range rules {
		stages[i] = a.stage(rule)
	}
	for _, st := range []stage{safe, trial, oneWay} {
		for i, rule := range rules {
			if stages[i] != st {
				continue
			}
			if err := a.ctx.Err(); err != nil {
				return fmt.Errorf("apply configuration: %w", err)
			}
			a.inTrial = st == trial
			if err := a.one(i, rule, st); err != nil {
				return err
			}
		}
		if st == trial {
			if err := a.confirm(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (a *apply) stage(rule Rule) stage {
	switch n, err := compile(rule.Test, 0); {
	case err == nil && n.oneWay():
		return oneWay
	case a.onTrial(rule):
		return trial
	}
	return safe
}

// onTrial reports whether the fix of a rule is taken back unless it is confirmed.
func (a *apply) onTrial(rule Rule) bool {
	return len(a.ids) == 0 && (rule.Fix == FixConfirm || a.Policy.modeOf(rule) == Trial)
}

func (a *apply) one(i int, rule Rule, st stage) error {
	f := a.find(rule)
	defer func() { a.report.Findings[i] = f }()
	if f.Result != Fail {
		return nil
	}
	if why := a.leave(rule, f, st); why != "" {
		f.Reason = why
		return nil
	}
	if until, ok := a.suspended(rule.ID); ok {
		f.Result, f.Reason = Contested, "something changes it back; next try after "+until.UTC().Format("2006-01-02T15:04:05Z")
		return nil
	}
	if st == trial && !a.dry {
		if why := a.parked(rule.ID); why != "" {
			f.Result, f.Reason = Reverted, why
			return nil
		}
		if err := a.stillManaged(); err != nil {
			f.Reason = "it waits until the device is managed: " + err.Error()
			return nil
		}
	}
	first := a.rec.len()
	err := a.mend(rule, &f)
	if errors.Is(err, errRecord) || a.ctx.Err() != nil {
		return err
	}
	if a.dry {
		if err != nil {
			f.Reason = err.Error()
		}
		return nil
	}
	a.prove(rule, &f, err)
	if st == trial && a.rec.len() > first {
		a.trial = append(a.trial, trialFix{i, first, a.rec.len()})
	}
	return nil
}

// stillManaged asks once in a run.
func (a *apply) stillManaged() error {
	if a.managed == nil {
		var err error
		if a.Managed != nil {
			err = a.Managed(a.ctx)
		}
		a.managed = &err
	}
	return *a.managed
}

// leave says why a failing rule is not mended by this run, "" when it is.
func (a *apply) leave(rule Rule, f Finding, st stage) string {
	named := slices.Contains(a.ids, rule.ID)
	switch {
	case len(a.ids) > 0 && !named:
		return "not asked for"
	case !fixable(rule):
		return "the rule only reports"
	case named:
		return ""
	case f.Mode == Audit:
		return "the policy only audits it"
	case st == oneWay && a.onTrial(rule):
		return "the fix cannot be taken back before a restart, so it is not tried: name the rule to apply it"
	case st == trial && a.Confirm == nil:
		return "the fix could lock somebody out: name the rule to apply it"
	}
	return a.held(rule.ID)
}

// mend plans and carries out the fix, step by step, so that each plan sees what the one before it changed.
func (a *apply) mend(rule Rule, f *Finding) error {
	n, err := compile(rule.Test, 0)
	if err != nil {
		return err
	}
	ctx, cancel := a.ruleContext()
	defer cancel()
	waived := map[string]bool{}
	for _, e := range f.Evidence {
		waived[e.Subject] = e.Waived
	}
	want := func(subject string) bool { return !waived[subject] }
	var errs []error
	for _, step := range n.steps() {
		plan, err := step.Fix(ctx, a.host, want)
		errs = append(errs, err)
		for _, c := range plan {
			f.Changes = append(f.Changes, Planned{Op: string(c.Op), Path: c.Path, Diff: diffOf(c)})
			err := a.carryOut(ctx, rule, c)
			if errors.Is(err, probe.ErrStillRuns) { // the other changes are good all the same
				errs = append(errs, err)
				continue
			}
			if err != nil {
				return err
			}
			if c.NextStart {
				f.Reason = nextStart
			}
		}
	}
	return errors.Join(errs...)
}

const nextStart = "takes effect when the program is started again"

// carryOut makes the copy durable, then the change.
func (a *apply) carryOut(ctx context.Context, rule Rule, c probe.Change) error {
	if a.dry {
		a.host.Pretend(c)
		return nil
	}
	if err := a.open(); err != nil {
		return err
	}
	if a.inTrial && a.rec.Trial == 0 {
		a.rec.Trial = len(a.rec.Changes) + 1
	}
	if err := a.rec.add(rule.ID, c); err != nil {
		return err
	}
	if c.Trial = a.inTrial; c.Learn > 0 { // waiting for the open connections is not the rule's own time
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(a.ctx, c.Learn+defaultRuleTime)
		defer cancel()
	}
	return a.write(ctx, a.host, c)
}

// write carries out one change.
func (e *Engine) write(ctx context.Context, h *probe.Host, c probe.Change) error {
	if err := h.Apply(ctx, c); err != nil {
		return err
	}
	if e.Changed != nil && c.Op != probe.Chmod {
		e.Changed(c.Path, func() bool { h.Forget(c.Path); return h.Holds(ctx, c) })
	}
	return e.settle(ctx, h, c.Path)
}

// prove looks again and says what became of the fix.
func (a *apply) prove(rule Rule, f *Finding, fixErr error) {
	later := f.Reason == nextStart
	after := a.find(rule)
	after.Changes = f.Changes
	switch {
	case errors.Is(fixErr, probe.ErrStillRuns) && !errors.Is(fixErr, probe.ErrNoFix):
		after.Result, after.Reason = RebootNeeded, fixErr.Error()
		a.mem.rebootAfter(rule.ID, a.bootID())
	case after.Result == Fail || after.Result == Unknown:
		why := "the fix did not help"
		if fixErr != nil {
			why = fixErr.Error()
		}
		after.Result, after.Reason = FixFailed, why
	case after.Result == Waived:
	case later && a.Live:
		after.Result, after.Reason = RebootNeeded, nextStart
		a.mem.rebootAfter(rule.ID, a.bootID())
	default:
		after.Result = Fixed
	}
	if len(f.Changes) > 0 {
		a.mem.fixed(rule.ID, a.Now())
		if len(a.ids) > 0 { // a person wants it after all
			delete(a.mem.Held, rule.ID)
			delete(a.mem.Trials, rule.ID)
		}
	}
	after.Took += f.Took
	*f = after
}

// open starts the record of this run.
func (a *apply) open() error {
	if a.rec != nil {
		return nil
	}
	rec, err := a.newRecord()
	if err != nil {
		return fmt.Errorf("%w: %w", errRecord, err)
	}
	a.rec, a.report.Run = rec, rec.name
	return nil
}

// close makes the memory durable, if it changed.
func (a *apply) close() error {
	if a.dry || !a.mem.dirty {
		return nil
	}
	return a.saveMemory(a.mem)
}

// confirm ends the trial.
func (a *apply) confirm() error {
	if len(a.trial) == 0 || a.Confirm == nil {
		return nil
	}
	err := a.Confirm(a.ctx)
	if err == nil {
		err = a.host.Keep(a.ctx)
	}
	if err == nil {
		for _, t := range a.trial {
			if rule := a.report.Findings[t.finding].Rule; a.mem.Trials[rule].N > 0 {
				delete(a.mem.Trials, rule)
				a.mem.dirty = true
			}
		}
		return a.rec.commit()
	}
	// Take back with a fresh context: a Confirm that ran out of the caller's time must not leave the trial in force.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(a.ctx), defaultRuleTime)
	defer cancel()
	for _, t := range slices.Backward(a.trial) {
		f := &a.report.Findings[t.finding]
		f.Result, f.Reason = Reverted, "taken back, the device could not prove that it is still managed: "+err.Error()
		a.mem.takenBack(f.Rule, a.Policy.Serial, a.Now())
		if uerr := a.rec.takeBack(ctx, a.host, t.firstChange, t.lastChange); uerr != nil {
			f.Result, f.Reason = FixFailed, "not confirmed ("+err.Error()+") and not taken back: "+uerr.Error()
		}
	}
	return a.rec.commit()
}
