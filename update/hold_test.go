// SPDX-License-Identifier: Apache-2.0

package update_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/backstay/backstay/update"
)

// held is a rig whose policy holds one step until it is let go.
func held(t *testing.T, step update.Step) (r *rig, letGo func()) {
	t.Helper()
	r = newRig(t)
	hold := true
	r.policy = &update.Policy{Conditions: []update.Condition{}, Line: func() update.Line {
		if hold && step == update.StepCheck {
			return update.LineOffline
		}
		return update.LineFree
	}}
	if step != update.StepCheck {
		r.policy.Manual = []update.Step{step}
		r.policy.Consent = func(context.Context, update.Release, bool) (update.Answer, string) {
			if hold {
				return update.AnswerNone, ""
			}
			return update.AnswerApprove, "test"
		}
	}
	r.restart()
	return r, func() { hold = false }
}

func (r *rig) waits(err error, step update.Step) {
	r.t.Helper()
	w, ok := errors.AsType[*update.Waiting](err)
	if !ok || !errors.Is(err, update.ErrRetry) || w.Decision.Step != step {
		r.t.Fatalf("error is %v, want %s to wait", err, step)
	}
}

// A step that waits has no effect, over restarts and reboots, and goes on once it may.
func TestHold(t *testing.T) {
	for _, step := range update.Steps() {
		for _, interrupted := range []string{"", "restart", "reboot"} {
			t.Run(fmt.Sprint(step, " ", interrupted), func(t *testing.T) {
				r, letGo := held(t, step)
				r.waits(r.m.Run(t.Context()), step)
				for range 3 {
					if interrupted == "reboot" && step == update.StepReboot {
						break // that is what it waited for
					}
					switch interrupted {
					case "restart":
						r.restart()
					case "reboot":
						r.reboot()
					}
					if interrupted != "" && step != update.StepCheck && step != update.StepDownload {
						r.waits(r.m.Resume(t.Context()), step)
					} else if interrupted != "" {
						r.ok(r.m.Resume(t.Context()))
					}
					r.waits(r.m.Run(t.Context()), step)
				}
				if slices.Contains(r.ops, "reboot") {
					t.Fatal("it rebooted")
				}
				touched := slices.ContainsFunc(r.ops, func(op string) bool { return strings.HasPrefix(op, "slot.") || op == "boot.disarm B" })
				armed := slices.Contains(r.ops, "boot.try B")
				if touched != (step == update.StepInstall || step == update.StepReboot) || armed != (step == update.StepReboot) {
					t.Errorf("effects\n\t%s", strings.Join(r.ops, "\n\t"))
				}
				if n := len(r.source.Opened); n > 1 {
					t.Errorf("opened %d times", n)
				}
				if n := count(r.events, "update.waiting"); interrupted == "" && n != 1 {
					t.Errorf("the wait was reported %d times", n)
				}
				if interrupted == "reboot" && step == update.StepReboot {
					r.reboot()
					r.ok(r.m.Resume(t.Context()))
				} else {
					if r.m.Ready(t.Context()) {
						t.Error("ready although it is held")
					}
					letGo()
					if !r.m.Ready(t.Context()) {
						t.Error("not ready")
					}
					r.install()
				}
				if r.slots.Running != "B" || r.job().History[0].Result != update.Committed {
					t.Errorf("job %+v", r.job())
				}
			})
		}
	}
}

func count(list []string, s string) (n int) {
	for _, x := range list {
		if x == s {
			n++
		}
	}
	return n
}

// An operator who stops a rollout, or publishes another release, stops the devices that wait. A device without a line goes on.
func TestHeldTooLong(t *testing.T) {
	for _, step := range []update.Step{update.StepInstall, update.StepReboot} {
		t.Run(string(step)+" withdrawn", func(t *testing.T) {
			r, letGo := held(t, step)
			r.waits(r.m.Run(t.Context()), step)
			r.source.Err = fmt.Errorf("%w: paused", update.ErrNothing)
			letGo()
			if err := r.m.Run(t.Context()); err == nil || errors.Is(err, update.ErrRetry) {
				t.Errorf("error is %v", err)
			}
			job := r.job()
			if job.State != update.Idle || job.History[0].Result != update.Canceled || job.History[0].Fail.Code != "superseded" || len(job.Quarantine) > 0 {
				t.Errorf("job %+v", job)
			}
			if r.boot.Order[0] != "A" || r.boot.Left["B"] != 0 || r.slots.Running != "A" {
				t.Errorf("boot %+v", r.boot)
			}
			r.source.Err = nil
			r.install()
		})
		t.Run(string(step)+" newer", func(t *testing.T) {
			r, letGo := held(t, step)
			r.waits(r.m.Run(t.Context()), step)
			policy := r.policy
			r.offer("3.1", 4, 2)
			r.policy = policy
			r.restart()
			r.waits2(r.m.Resume(t.Context()))
			letGo()
			r.install()
			if h := r.job().History; len(h) != 2 || h[1].Version != "3.1" {
				t.Errorf("history %+v", h)
			}
		})
		t.Run(string(step)+" offline", func(t *testing.T) {
			r, letGo := held(t, step)
			r.waits(r.m.Run(t.Context()), step)
			r.source.Err = fmt.Errorf("no line: %w", update.ErrRetry)
			letGo()
			r.install()
		})
		t.Run(string(step)+" refused", func(t *testing.T) {
			r, letGo := held(t, step)
			r.waits(r.m.Run(t.Context()), step)
			r.source.Err = &update.Refusal{Code: "metadata-expired"}
			letGo()
			r.refused(r.m.Run(t.Context()), "metadata-expired")
			if s := r.job().State; s == update.Idle {
				t.Error("the job was given up")
			}
			r.source.Err = nil
			r.install()
		})
	}
}

// waits2 is for a job whose release was replaced while it waited.
func (r *rig) waits2(err error) {
	r.t.Helper()
	if err == nil || errors.Is(err, update.ErrReboot) {
		r.t.Fatalf("error is %v", err)
	}
}

// A line that becomes metered stops a download at the next checkpoint, which is no failure, and it goes on from there.
func TestLineChanges(t *testing.T) {
	r := newRig(t)
	metered := false
	r.policy = &update.Policy{Metered: "never", Line: func() update.Line {
		if metered {
			return update.LineMetered
		}
		return update.LineFree
	}}
	effect := r.source.Effect
	r.source.Effect = func(op string) (bool, error) { metered = true; return effect(op) }
	r.restart()
	for range 2 * update.MaxCuts {
		r.waits(r.m.Run(t.Context()), update.StepDownload)
	}
	if job := r.job(); job.State != update.Downloading || job.Cuts != 0 || job.Offset == 0 || len(r.source.Opened) != 1 {
		t.Fatalf("job %+v, opened at %v", job, r.source.Opened)
	}
	at := r.job().Offset
	metered, r.source.Effect = false, effect
	r.install()
	if !slices.Equal(r.source.Opened, []int64{0, at}) {
		t.Errorf("opened at %v", r.source.Opened)
	}
}

// What a person says outlives restarts, is about one release, and can be said while the machine works.
func TestWish(t *testing.T) {
	r := newRig(t)
	_, err := r.m.Answer(update.AnswerApprove)
	r.refused(err, "no-release")
	r.policy = &update.Policy{Manual: []update.Step{update.StepDownload}}
	r.restart()
	r.waits(r.m.Run(t.Context()), update.StepDownload)
	if s := r.m.Status(); s.Offered == nil || s.Offered.Version != "3.0" || s.Waiting == nil || s.Waiting.Reasons[0].Code != "manual" {
		t.Fatalf("status %+v", s)
	}
	if _, err := r.m.Answer(update.AnswerReject); err != nil {
		t.Fatal(err)
	}
	r.restart()
	r.waits(r.m.Run(t.Context()), update.StepDownload)
	if s := r.m.Status(); s.Wish.Answer != update.AnswerReject || s.Waiting.Reasons[0].Code != "rejected" {
		t.Errorf("status %+v", s)
	}
	policy := r.policy
	r.offer("3.1", 4, 2)
	r.policy = policy
	r.restart()
	r.waits(r.m.Run(t.Context()), update.StepDownload)
	if s := r.m.Status(); s.Wish.Answer != update.AnswerNone || s.Waiting.Reasons[0].Code != "manual" {
		t.Errorf("the wish was about another release: %+v", s)
	}
	if _, err := r.m.Answer(update.AnswerNow); err != nil {
		t.Fatal(err)
	}
	effect := r.source.Effect
	r.source.Effect = func(op string) (bool, error) {
		_, err := r.m.Answer(update.AnswerApprove) // while the image comes in
		r.ok(err)
		return effect(op)
	}
	r.install()
	if w := r.job().Wish; w.Answer != update.AnswerApprove || w.Version != "3.1" {
		t.Errorf("wish %+v", w)
	}
	if n := count(r.events, "update.decision"); n == 0 {
		t.Error("no event")
	}
}

func TestPostpone(t *testing.T) {
	r := newRig(t)
	r.policy, r.limit = &update.Policy{}, update.PostponeLimit{Times: 2, Total: 24 * time.Hour}
	r.policy.Manual = []update.Step{update.StepInstall}
	r.restart()
	r.waits(r.m.Run(t.Context()), update.StepInstall)
	_, err := r.m.Postpone(25 * time.Hour)
	r.refused(err, "postpone-limit")
	r.policy.Manual = nil
	w, err := r.m.Postpone(20 * time.Hour)
	r.ok(err)
	if w.Postponed != 1 || !w.Until.Equal(r.now.Add(20*time.Hour)) {
		t.Errorf("wish %+v", w)
	}
	r.waits(r.m.Run(t.Context()), update.StepInstall)
	r.now = r.now.Add(10 * time.Hour)
	_, err = r.m.Postpone(15 * time.Hour) // 25 hours after the first
	r.refused(err, "postpone-limit")
	_, err = r.m.Postpone(14 * time.Hour)
	r.ok(err)
	_, err = r.m.Postpone(time.Minute)
	r.refused(err, "postpone-limit")
	r.now = r.now.Add(14*time.Hour - time.Second)
	r.reboot()
	r.waits(r.m.Resume(t.Context()), update.StepInstall)
	if d, ok := r.m.Wait(r.m.Run(t.Context())); !ok || d != time.Second {
		t.Errorf("it waits %v", d)
	}
	r.now = r.now.Add(time.Second)
	r.install()
}

func TestPostponeEndsAtTheDeadline(t *testing.T) {
	r := newRig(t)
	r.source.Release.Class, r.source.Release.Deadline = "security", r.now.Add(2*time.Hour)
	r.policy, r.limit = &update.Policy{Manual: []update.Step{update.StepInstall}}, update.PostponeLimit{Times: 9, Total: 100 * time.Hour}
	r.restart()
	r.waits(r.m.Run(t.Context()), update.StepInstall)
	_, err := r.m.Postpone(3 * time.Hour)
	r.refused(err, "postpone-limit")
	_, err = r.m.Postpone(2 * time.Hour)
	r.ok(err)
	r.now = r.now.Add(2 * time.Hour)
	r.install() // and nobody consented
}

// A person may give up an update that waits, armed or not.
func TestCancelHeld(t *testing.T) {
	for _, step := range []update.Step{update.StepInstall, update.StepReboot} {
		for _, again := range []bool{false, true} {
			r, _ := held(t, step)
			r.waits(r.m.Run(t.Context()), step)
			if again {
				r.restart()
				r.waits(r.m.Resume(t.Context()), step)
			}
			r.ok(r.m.Cancel())
			r.ok(r.m.Run(t.Context()))
			if job := r.job(); job.State != update.Idle || job.History[0].Result != update.Canceled || r.boot.Order[0] != "A" || r.boot.Left["B"] != 0 {
				t.Errorf("%s: job %+v, boot %+v", step, job, r.boot)
			}
			if slices.Contains(r.ops, "reboot") {
				t.Error("it rebooted")
			}
		}
	}
}

// Going back is never held, whether an image failed or a person wants it.
func TestGoingBackIsNotHeld(t *testing.T) {
	r := newRig(t)
	r.install()
	nothing := &update.Policy{Manual: update.Steps(), Line: func() update.Line { return update.LineOffline }}
	r.health = func(context.Context) error { return errors.New("no link") }
	r.offer("3.1", 4, 2)
	r.is(r.m.Run(t.Context()), update.ErrReboot)
	r.policy = nothing
	r.reboot()
	r.is(r.m.Resume(t.Context()), update.ErrReboot)
	r.reboot()
	r.ok(r.m.Resume(t.Context()))
	if r.slots.Running != "B" {
		t.Fatalf("runs %s", r.slots.Running)
	}

	r = twoKept(t, 3)
	r.policy = nothing
	r.health = func(context.Context) error { return nil }
	r.restart()
	r.ok(r.m.Rollback(t.Context()))
	r.is(r.m.Run(t.Context()), update.ErrReboot)
	r.reboot()
	r.ok(r.m.Resume(t.Context()))
	if r.slots.Running != "B" {
		t.Errorf("runs %s", r.slots.Running)
	}
}

func TestExplain(t *testing.T) {
	r := newRig(t)
	r.policy = &update.Policy{Manual: []update.Step{update.StepReboot}, Windows: []update.Window{window(t, "02:00-03:00")}, WindowSteps: []update.Step{update.StepInstall}}
	r.restart()
	show := func() string {
		var b bytes.Buffer
		for _, d := range r.m.Explain(t.Context()) {
			fmt.Fprintf(&b, "%s=%v ", d.Step, d.Allowed)
		}
		return strings.TrimSpace(b.String())
	}
	if got := show(); got != "check=true" {
		t.Errorf("before a look: %s", got)
	}
	r.waits(r.m.Run(t.Context()), update.StepInstall)
	if got := show(); got != "install=false reboot=false" {
		t.Errorf("waiting: %s", got)
	}
	r.now = r.now.Add(2 * time.Hour)
	if got := show(); got != "install=true reboot=false" {
		t.Errorf("in the window: %s", got)
	}
	r.waits(r.m.Run(t.Context()), update.StepReboot)
	if got := show(); got != "reboot=false" {
		t.Errorf("armed: %s", got)
	}
	r.m.Policy = nil
	if got := show(); got != "reboot=true" {
		t.Errorf("without a policy: %s", got)
	}
}

// A manual check is done when a person asks, once.
func TestRequest(t *testing.T) {
	r := newRig(t)
	r.policy = &update.Policy{Manual: []update.Step{update.StepCheck, update.StepDownload}}
	r.restart()
	r.waits(r.m.Run(t.Context()), update.StepCheck)
	r.m.Request()
	r.waits(r.m.Run(t.Context()), update.StepDownload)
	r.waits(r.m.Run(t.Context()), update.StepCheck)
	if s := r.m.Status(); s.Offered == nil {
		t.Error("what was found is forgotten")
	}
}
