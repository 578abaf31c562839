// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/backstay/backstay/agent/config"
	"github.com/backstay/backstay/configs"
	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/trust"
)

// The policy in force is made of layers. What is compiled in is the lowest; the maker's floor in the image may tighten it; an
// operator's policy, which arrives signed like firmware, may tighten that, or waive with a reason and an end. A layer that
// cannot be used is left out as a whole and reported: the device falls back to the last one that can.

// Sources of the policy in force.
const (
	fromOperator = "operator"
	fromMaker    = "maker"
	fromBuiltIn  = "built-in"
)

// storedPolicy is the operator's policy that was taken over last.
type storedPolicy struct {
	configs.Accepted
	Raw []byte `json:"raw"`
}

// policyStore keeps it. SavePolicy is durable when it returns nil; a zero policy means that there is none.
type policyStore interface {
	LoadPolicy(v any) error
	SavePolicy(v any) error
}

// layered is a policy and where it is from.
type layered struct {
	floor  configs.Policy // without the operator's
	policy configs.Policy
	source string
	stored configs.Accepted // of the operator's; zero without
	why    string           // why a layer was left out at the start, "" when none was
}

// layers composes the policy in force. Only profiles that do not exist are an error: the rest has something to fall back to.
func layers(cfg config.Baseline, store policyStore, emit func(string, ...slog.Attr)) (layered, error) {
	floor, err := configs.Load(cfg.Profiles...)
	if err != nil {
		return layered{}, err
	}
	l := layered{floor: floor, policy: floor, source: fromBuiltIn}
	if cfg.FloorFile != "" {
		data, err := os.ReadFile(cfg.FloorFile)
		if err == nil {
			floor, err = configs.LoadFloor(data, cfg.Profiles...)
		}
		if err != nil {
			l.why = err.Error()
			reportPolicy(emit, fromMaker, configs.Policy{}, nil, err)
		} else {
			l.floor, l.policy, l.source = floor, floor, fromMaker
		}
	}
	var stored storedPolicy
	if store == nil {
		return l, nil
	}
	if err := store.LoadPolicy(&stored); err != nil || len(stored.Raw) == 0 {
		if err != nil {
			l.why = err.Error()
			reportPolicy(emit, fromOperator, configs.Policy{}, nil, err)
		}
		return l, nil
	}
	l.stored = stored.Accepted // also when it cannot be used: what comes next must be newer
	op, merged, err := l.read(stored.Raw)
	if err != nil {
		l.why = err.Error()
		reportPolicy(emit, fromOperator, op, stored.Raw, err)
		return l, nil
	}
	l.policy, l.source = merged, fromOperator
	return l, nil
}

// read parses an operator's policy and lays it over the floor.
func (l layered) read(raw []byte) (op, merged configs.Policy, err error) {
	if op, err = configs.ParsePolicy(raw); err != nil {
		return op, merged, err
	}
	merged, err = configs.Merge(l.floor, op)
	return op, merged, err
}

// reportPolicy records that a policy was taken over, or why not.
func reportPolicy(emit func(string, ...slog.Attr), source string, p configs.Policy, raw []byte, err error, attrs ...slog.Attr) {
	attrs = append([]slog.Attr{slog.String("source", source), slog.String("policy", p.ID), slog.Uint64("serial", p.Serial)}, attrs...)
	if raw != nil {
		sum := sha256.Sum256(raw)
		attrs = append(attrs, slog.String("after", "sha256:"+hex.EncodeToString(sum[:])))
	}
	if err != nil {
		attrs = append(attrs, slog.String("severity", "high"), slog.String("outcome", "failure"), slog.String("code", configs.Code(err)),
			slog.String("why", err.Error()))
	}
	emit(configs.EventPolicy, attrs...)
}

// policies takes over the operator's policies as they are published.
type policies struct {
	guard   *guard
	client  *trust.Client
	product string
	poll    time.Duration
	store   policyStore
	now     func() time.Time
	emit    func(string, ...slog.Attr)
	logger  *slog.Logger
	wake    chan struct{} // the updater has looked; capacity 1

	mu      sync.Mutex // guards what follows
	state   layered
	refused [sha256.Size]byte // what was refused last: it is fetched and reported once
	problem string
}

// run takes over the newest policy now and whenever there is a newer one, until ctx ends.
func (p *policies) run(ctx context.Context, owned gate) {
	if !owned.wait(ctx) {
		return
	}
	for ctx.Err() == nil {
		err := p.fetch(ctx)
		if err != nil && !errors.Is(err, update.ErrNothing) && ctx.Err() == nil {
			p.logger.Warn("configuration policy", "err", err)
		}
		if !sleep(ctx, jitter(p.poll), p.wake) {
			return
		}
	}
}

// fetch looks for a newer policy and takes it over. The updater's look at the repository serves this one, too; without one it
// looks itself.
func (p *policies) fetch(ctx context.Context) error {
	t, ok := p.client.Last()
	if !ok {
		var err error
		if t, err = p.client.Refresh(ctx); err != nil {
			return err
		}
	}
	info, err := t.Policy(ctx, p.product)
	if err != nil {
		return p.note(err)
	}
	p.mu.Lock()
	known := info.SHA256 == p.state.stored.SHA256 && p.state.source == fromOperator || info.SHA256 == p.refused
	p.mu.Unlock()
	if known {
		return nil
	}
	raw, err := p.client.Fetch(ctx, info, update.MaxPolicy)
	if err != nil {
		return err
	}
	return p.note(p.accept(ctx, raw))
}

// note keeps a refusal for the status.
func (p *policies) note(err error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case err == nil || errors.Is(err, update.ErrNothing):
		p.problem = ""
	case errors.Is(err, update.ErrRefused) || errors.Is(err, configs.ErrRefused):
		p.problem = err.Error()
	}
	return err
}

// accept takes over a policy whose signature was verified: checks it, runs it, and makes it the last good one. A refusal
// leaves everything as it was.
func (p *policies) accept(ctx context.Context, raw []byte) error {
	p.mu.Lock()
	state := p.state
	p.mu.Unlock()
	offered := configs.Accepted{SHA256: sha256.Sum256(raw)}
	op, merged, err := state.read(raw)
	offered.Serial = op.Serial
	if err == nil {
		err = configs.CheckSerial(state.stored, offered)
	}
	if err == nil {
		err = configs.CheckFresh(op, p.now())
	}
	if err != nil {
		if errors.Is(err, configs.ErrRefused) {
			p.mu.Lock()
			p.refused = offered.SHA256
			p.mu.Unlock()
			reportPolicy(p.emit, fromOperator, op, raw, err, slog.Uint64("serial_in_force", state.stored.Serial))
		}
		return err
	}
	// The serial is stored last: after a power cut the same policy is taken over again, never skipped.
	report, err := p.guard.adopt(ctx, merged, func() error { return p.store.SavePolicy(storedPolicy{offered, raw}) })
	if err != nil {
		return fmt.Errorf("take over policy %s: %w", op.ID, err)
	}
	p.mu.Lock()
	p.state.policy, p.state.source, p.state.stored, p.state.why = merged, fromOperator, offered, ""
	p.mu.Unlock()
	reportPolicy(p.emit, fromOperator, op, raw, nil, slog.Int("rules", len(merged.Rules)), slog.Int("waivers", len(op.Waivers)),
		slog.Int("bad", len(report.Bad())), slog.Uint64("serial_before", state.stored.Serial))
	return nil
}

// current returns the policy in force and what was refused last, "" when nothing was.
func (p *policies) current() (layered, string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.problem != "" {
		return p.state, p.problem
	}
	return p.state, p.state.why
}
