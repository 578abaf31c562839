// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/backstay/backstay/agent/control"
	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/trust"
)

// The commands about updates. Each says what a person wants; the machine and its policy decide what comes of it.

func (a *agent) updateCheck(ctx context.Context) (control.UpdateCheck, error) {
	out := control.UpdateCheck{Current: a.recorder.firmware}
	r, err := a.updater.check(ctx)
	if err == nil && r != nil {
		out.Release = release(*r)
	}
	return out, err
}

// updateInstall installs what is meant for this device now: windows and people are not waited for any more, conditions are.
func (a *agent) updateInstall(ctx context.Context, p control.InstallParams) (out control.UpdateCheck, err error) {
	a.recordCommand(ctx, control.MethodUpdateInstall, slog.String("from", p.From))
	if p.From != "" {
		d, err := trust.OpenDirectory(p.From)
		if err != nil {
			return out, err
		}
		a.updater.plug(d)
		defer func() {
			if !out.Started {
				a.updater.unplug()
			}
		}()
	}
	out, err = a.updateCheck(ctx)
	if err != nil || out.Release == nil {
		return out, err
	}
	if _, err := a.updater.machine.Answer(update.AnswerNow); err != nil {
		return out, err
	}
	a.updater.demand()
	out.Started = true
	return out, nil
}

func (a *agent) updateCancel(context.Context) (control.Done, error) {
	if err := a.updater.machine.Cancel(); err != nil {
		return control.Done{}, err
	}
	a.updater.ring() // what the boot loader was told is taken back by the next run
	return control.Done{What: "update cancelled"}, nil
}

func (a *agent) updateAnswer(answer update.Answer) func(context.Context) (control.Done, error) {
	return func(context.Context) (control.Done, error) {
		r, err := a.updater.machine.Answer(answer)
		if err != nil {
			return control.Done{}, err
		}
		if answer == update.AnswerApprove {
			a.updater.demand()
		}
		return control.Done{What: fmt.Sprintf("release %s is %s", r.Version, answer)}, nil
	}
}

func (a *agent) updatePostpone(ctx context.Context, p control.PostponeParams) (control.Done, error) {
	a.recordCommand(ctx, control.MethodUpdatePostpone, slog.Int64("seconds", p.Seconds))
	const most = 10 * 365 * 24 * 3600
	if p.Seconds <= 0 || p.Seconds > most {
		return control.Done{}, &control.Error{Class: control.ClassUsage, Code: "bad-duration", What: "postpone release", Why: "the time is not more than nothing and less than ten years"}
	}
	w, err := a.updater.machine.Postpone(time.Duration(p.Seconds) * time.Second)
	if err != nil {
		return control.Done{}, err
	}
	return control.Done{What: fmt.Sprintf("release %s is postponed until %s", w.Version, w.Until.Format(time.RFC3339))}, nil
}

// updateExplain says what the agent will do about updates, and why not yet.
func (a *agent) updateExplain(ctx context.Context) (control.UpdateStatus, error) {
	u := a.updater
	s := u.machine.Brief()
	out := control.UpdateStatus{Time: a.clock.Now(), Current: a.recorder.firmware, Update: a.updateStatus(), Line: string(update.LineFree)}
	if s.Offered != nil {
		out.Offered = release(*s.Offered)
	}
	for _, d := range u.machine.Explain(ctx) {
		out.Steps = append(out.Steps, step(d))
	}
	if p := u.machine.Policy; p != nil && p.Line != nil {
		out.Line = string(p.Line())
	}
	limit := u.machine.Postponing
	out.Wish = control.Wish{Answer: string(s.Wish.Answer), Postponed: s.Wish.Postponed, Left: max(limit.Times-s.Wish.Postponed, 0)}
	if s.Wish.Postponed > 0 {
		out.Wish.Until, out.Wish.Latest = s.Wish.Until, s.Wish.Since.Add(limit.Total)
	}
	if d := u.directory(); d != nil {
		out.Directory = d.Path()
	}
	for _, x := range u.source.Standings(ctx) {
		out.Rollouts = append(out.Rollouts, control.Rollout(x))
	}
	return out, nil
}

// check asks for the release this device should run, without installing it. It returns nil when the device runs it already.
func (u *updater) check(ctx context.Context) (*update.Release, error) {
	r, err := u.machine.Look(ctx)
	if errors.Is(err, update.ErrNothing) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("check for update: %w", err)
	}
	return &r, nil
}
