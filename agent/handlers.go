// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"slices"

	"github.com/backstay/backstay/agent/control"
	"github.com/backstay/backstay/identity"
	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/update"
)

// controlServer answers the local commands. A refused caller and every command that changes something are audit records.
func (a *agent) controlServer() *control.Server {
	return &control.Server{
		Handler: a.handlers(), AllowUIDs: a.cfg.Control.AllowUIDs, Classify: Classify, Log: a.logger,
		Denied: func(c control.Caller, call string) {
			a.recorder.emit("control.refused", slog.String("call", call), slog.Int("uid", c.UID), slog.Int("pid", c.PID))
		},
	}
}

func (a *agent) handlers() control.Handler {
	h := control.Handler{
		control.MethodStatus: read(func(context.Context) (control.Status, error) { return a.status(), nil }),

		control.MethodIdentityShow:   read(func(context.Context) (control.Identity, error) { return a.identityStatus(), nil }),
		control.MethodIdentityEnroll: command(a, control.MethodIdentityEnroll, a.certify((*identity.Identity).Enroll)),
		control.MethodIdentityRenew:  command(a, control.MethodIdentityRenew, a.certify((*identity.Identity).Renew)),

		control.MethodSlotList: read(a.slotList),

		control.MethodAuditTail:   control.Typed(a.tail),
		control.MethodAuditVerify: read(a.verifyLog),
		control.MethodAuditExport: control.Typed(a.export),
	}
	if a.guard != nil {
		h[control.MethodBaselineCheck] = read(a.baselineCheck)
		h[control.MethodBaselineApply] = control.Typed(a.baselineApply)
		h[control.MethodBaselineExplain] = control.Typed(a.baselineExplain)
		h[control.MethodBaselineUndo] = command(a, control.MethodBaselineUndo, a.baselineUndo)
	}
	if a.updater != nil {
		h[control.MethodUpdateCheck] = read(a.updateCheck)
		h[control.MethodUpdateInstall] = control.Typed(a.updateInstall)
		h[control.MethodUpdateStatus] = read(a.updateExplain)
		h[control.MethodUpdateApprove] = command(a, control.MethodUpdateApprove, a.updateAnswer(update.AnswerApprove))
		h[control.MethodUpdateReject] = command(a, control.MethodUpdateReject, a.updateAnswer(update.AnswerReject))
		h[control.MethodUpdatePostpone] = control.Typed(a.updatePostpone)
		h[control.MethodUpdateHistory] = read(a.updateHistory)
		h[control.MethodUpdateCancel] = command(a, control.MethodUpdateCancel, a.updateCancel)
		h[control.MethodUpdatePardon] = command(a, control.MethodUpdatePardon, a.updatePardon)
		h[control.MethodSlotMarkGood] = command(a, control.MethodSlotMarkGood, a.mark(update.Good))
		h[control.MethodSlotMarkBad] = command(a, control.MethodSlotMarkBad, a.mark(update.Bad))
		h[control.MethodSlotRollback] = command(a, control.MethodSlotRollback, a.rollback)
	}
	return h
}

// read is a call without parameters that changes nothing.
func read[R any](f func(context.Context) (R, error)) control.Method {
	return control.Typed(func(ctx context.Context, _ control.None) (R, error) { return f(ctx) })
}

// command is a call without parameters that changes the device: it leaves a record of who asked, before it acts.
func command[R any](a *agent, name string, f func(context.Context) (R, error)) control.Method {
	return read(func(ctx context.Context) (R, error) {
		a.recordCommand(ctx, name)
		return f(ctx)
	})
}

func (a *agent) recordCommand(ctx context.Context, name string, attrs ...slog.Attr) {
	c, _ := control.CallerOf(ctx)
	a.recorder.emit("control.command", append([]slog.Attr{
		slog.String("call", name), slog.String("subject", fmt.Sprintf("uid %d", c.UID)), slog.Int("pid", c.PID)}, attrs...)...)
}

func (a *agent) certify(f func(*identity.Identity, context.Context) error) func(context.Context) (control.Identity, error) {
	return func(ctx context.Context) (control.Identity, error) {
		if err := f(a.identity, ctx); err != nil {
			return control.Identity{}, err
		}
		kick(a.identityKick) // the loop opens the gate and computes its next time
		return a.identityStatus(), nil
	}
}

func kick(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

func (a *agent) export(ctx context.Context, p control.ExportParams) (control.Stream, error) {
	c, _ := control.CallerOf(ctx)
	a.recorder.emit("log.exported", slog.String("message", "the log was exported"), slog.String("subject", fmt.Sprintf("uid %d", c.UID)),
		slog.Int("pid", c.PID), slog.Bool("without_personal", p.WithoutPersonal))
	return func(w io.Writer) error {
		return a.log.Evidence(ctx, func(h logging.Header, items iter.Seq2[logging.Item, error]) error {
			if p.WithoutPersonal {
				items = logging.WithoutPersonal(items)
			}
			return logging.WriteExport(w, h, items)
		})
	}, nil
}

func (a *agent) verifyLog(ctx context.Context) (control.AuditReport, error) {
	if err := a.log.Flush(ctx); err != nil {
		return control.AuditReport{}, err
	}
	r, err := a.log.Verify(ctx)
	out := control.AuditReport{
		OK: err == nil, Origin: r.Origin, First: r.First, Size: r.Size, Root: r.Root, Gaps: uint64(len(r.Gaps)), Unsigned: r.Unsigned,
		FirstAt: r.FirstTime, LastAt: r.LastTime,
	}
	for _, s := range r.Shed {
		out.Shed += s.Last - s.First + 1
	}
	for _, k := range r.Receipts {
		out.Receipts = append(out.Receipts, k.Key)
	}
	refusal, ok := errors.AsType[*logging.Refusal](err)
	if !ok {
		return out, err
	}
	out.Bad = &control.BadRange{Code: refusal.Code, Why: refusal.Error()}
	if r.Bad != nil {
		out.Bad.First, out.Bad.Last = r.Bad.First, r.Bad.Last
	}
	return out, nil
}

func (a *agent) updatePardon(context.Context) (control.Done, error) {
	if err := a.updater.machine.Pardon(); err != nil {
		return control.Done{}, err
	}
	a.updater.ring()
	return control.Done{What: "the quarantine is empty"}, nil
}

func (a *agent) mark(v update.Verdict) func(context.Context) (control.Done, error) {
	return func(ctx context.Context) (control.Done, error) {
		if err := a.updater.machine.Mark(ctx, v); err != nil {
			return control.Done{}, err
		}
		a.updater.ring()
		return control.Done{What: "running slot marked " + string(v), Reboot: v == update.Bad}, nil
	}
}

func (a *agent) rollback(ctx context.Context) (control.Done, error) {
	if err := a.updater.machine.Rollback(ctx); err != nil {
		return control.Done{}, err
	}
	a.updater.ring()
	return control.Done{What: "going back to the other slot", Reboot: true}, nil
}

func (a *agent) updateHistory(context.Context) (control.History, error) {
	s := a.updater.machine.Status()
	var out control.History
	for _, o := range slices.Backward(s.History) {
		line := control.Outcome{Result: string(o.Result), Version: o.Version, Slot: string(o.Slot), Began: o.Began, Ended: o.Ended}
		if o.Fail != nil {
			line.Code, line.Why = o.Fail.Code, o.Fail.Why
		}
		out.Items = append(out.Items, line)
	}
	for _, q := range s.Quarantine {
		out.Quarantine = append(out.Quarantine, control.Quarantine{
			Version: q.Version, SHA256: hex.EncodeToString(q.SHA256[:]), Attempts: q.Attempts, NotBefore: q.NotBefore, Never: q.Never, Why: q.Why})
	}
	return out, nil
}
