// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"time"

	"github.com/backstay/backstay/agent/control"
	"github.com/backstay/backstay/configs"
	"github.com/backstay/backstay/update"
)

// This file brings what the parts know into the types that travel over the control socket. Nothing is decided here.

func (a *agent) status() control.Status {
	return control.Status{
		Time:     a.clock.Now(),
		Agent:    control.Agent{Version: a.opt.Version, Started: a.started.UTC(), PID: os.Getpid(), Problems: a.problems.get()},
		Identity: a.identityStatus(), Firmware: a.firmwareStatus(), Update: a.updateStatus(), Trust: a.trustStatus(),
		Baseline: a.baselineStatus(), Audit: a.auditStatus(),
	}
}

func (a *agent) identityStatus() control.Identity {
	s := a.identity.Status()
	out := control.Identity{
		DeviceID: s.DeviceID, Product: a.cfg.Product.Name, Compatible: a.cfg.Product.Compatible, Serial: s.Serial,
		KeyClass: string(s.Class), Enrolled: s.Certificate != nil, Problem: s.LastError,
	}
	if spki, err := x509.MarshalPKIXPublicKey(a.identity.Birth().Public()); err == nil {
		out.SPKI = base64.StdEncoding.EncodeToString(spki)
	}
	if c := s.Certificate; c != nil {
		out.Certificate = control.Certificate{Serial: c.Serial, Subject: c.Subject, Issuer: c.Issuer,
			NotBefore: c.NotBefore, NotAfter: c.NotAfter, RenewAt: s.RenewAt}
	}
	return out
}

func (a *agent) firmwareStatus() control.Firmware {
	out := control.Firmware{Version: a.recorder.firmware, Confirmed: true}
	if a.updater == nil {
		return out
	}
	s := a.updater.machine.Status()
	out.Slot, out.Floor = string(s.Booted), s.Floor
	out.Confirmed = s.Booted != s.Slot || s.State != update.Trial && s.State != update.Committing
	if img, known := s.Images[s.Booted]; known {
		out.Counter = img.Counter
	}
	for _, o := range s.History {
		if o.Result == update.Committed && o.Version == out.Version {
			out.Since = o.Ended
		}
	}
	return out
}

func (a *agent) updateStatus() control.Update {
	if a.updater == nil {
		return control.Update{State: string(update.Idle)}
	}
	s := a.updater.machine.Status()
	out := control.Update{Enabled: true, State: string(s.State), Slot: string(s.Slot), Bytes: s.Offset}
	if s.Release != nil {
		out.Release = release(*s.Release)
	}
	a.updater.mu.Lock()
	defer a.updater.mu.Unlock()
	out.CheckedAt, out.NextCheck = a.updater.checked, a.updater.next
	if err := a.updater.last; err != nil && !errors.Is(err, update.ErrNothing) {
		out.Last = Classify(err)
	}
	if w, is := errors.AsType[*update.Waiting](a.updater.last); is {
		out.Last.Code = w.Decision.Reasons[0].Code
		s := step(w.Decision)
		out.Waiting = &s
	}
	return out
}

func step(d update.Decision) control.Step {
	out := control.Step{Step: string(d.Step), Allowed: d.Allowed, Because: d.Because}
	for _, r := range d.Reasons {
		out.Reasons = append(out.Reasons, control.Reason(r))
	}
	return out
}

func release(r update.Release) *control.Release {
	return &control.Release{
		Version: r.Version, Counter: r.Counter, Floor: r.Floor, Length: r.Length, SHA256: hex.EncodeToString(r.SHA256[:]),
		Class: r.Class, Advisories: r.Advisories, Notes: r.Notes, SupportEnd: r.SupportEnd, Deadline: r.Deadline,
	}
}

func (a *agent) trustStatus() control.Trust {
	_, quality := a.clock.Read()
	out := control.Trust{Clock: string(quality)}
	s, err := a.store.LoadTrust()
	if err != nil {
		return out
	}
	out.RootVersion, out.Issued = s.Floors.Root, s.Issued
	var timestamp struct {
		Signed struct {
			Expires time.Time `json:"expires"`
		} `json:"signed"`
	}
	if json.Unmarshal(s.Timestamp, &timestamp) == nil {
		out.Expires = timestamp.Signed.Expires
	}
	return out
}

func (a *agent) baselineStatus() control.Baseline {
	if a.guard == nil {
		return control.Baseline{}
	}
	r := a.guard.report()
	out := control.Baseline{Profiles: a.guard.profiles, Enforce: a.guard.enforce, Counts: counts(r), Scores: scores(r), CheckedAt: r.Started}
	state, problem := a.policy.current()
	out.Policy = control.Policy{ID: state.policy.ID, Serial: state.policy.Serial, Source: state.source, Issued: state.policy.Issued,
		Expires: state.policy.Expires, Problem: problem}
	for _, f := range r.Bad() {
		out.Failed = append(out.Failed, finding(f))
	}
	slices.SortStableFunc(out.Failed, func(x, y control.Finding) int {
		return severityRank(configs.Severity(y.Severity)) - severityRank(configs.Severity(x.Severity))
	})
	out.Failed = out.Failed[:min(len(out.Failed), control.MaxListed)]
	return out
}

func (a *agent) auditStatus() control.Audit {
	s := a.log.State()
	out := control.Audit{
		Origin: s.Origin.String(), Size: s.Size, Sent: s.Acked, Acked: s.Acked, Pruned: s.Pruned,
		Problem: s.SignError, Sources: a.sourceStatus(), Intake: a.intake.status(),
		Store: s.Store, Fill: s.Fill, Signed: s.Signed, Pending: s.Pending, Lost: s.Lost, Failed: s.Failed, FailedSince: s.FailedSince, Counter: s.CounterError,
	}
	if len(a.cfg.Audit.Brokers) > 0 {
		out.Broker = a.cfg.Audit.Brokers[0]
	}
	if a.shipper == nil {
		return out
	}
	sh := a.shipper.Status()
	out.Broker = a.cfg.Audit.Brokers[sh.Broker]
	out.Sent, out.Connected, out.ReceiptAt = max(sh.Sent, s.Acked), sh.Connected, sh.LastAck
	out.BacklogSeconds, out.Stalled = int64(sh.BacklogAge.Seconds()), sh.Stalled
	if out.Problem == "" {
		out.Problem = sh.LastError
	}
	return out
}
