// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/backstay/backstay/agent/config"
	"github.com/backstay/backstay/configs"
	"github.com/backstay/backstay/configs/watch"
)

// guard runs the configuration engine, one run at a time: by itself (see keep) and for local commands.
type guard struct {
	profiles []string
	enforce  bool
	watch    bool
	period   time.Duration // between two full looks
	live     time.Duration // between two looks at what no watch can see
	logger   *slog.Logger
	kick     chan struct{} // capacity 1: look at everything now

	run    sync.Mutex // held while the engine works, and for what follows
	engine *configs.Engine
	mine   map[string]stamp // files the engine changed, as it left them

	mu   sync.Mutex // guards what follows
	last configs.Report
	open *watch.Watcher // while keep waits
}

func newGuard(cfg config.Baseline, engine *configs.Engine, logger *slog.Logger) *guard {
	engine.Trace = cfg.Watch
	g := &guard{
		profiles: cfg.Profiles, enforce: cfg.Enforce, watch: cfg.Watch, period: cfg.Period.Std(), live: livePeriod, logger: logger,
		kick: make(chan struct{}, 1), engine: engine, mine: map[string]stamp{},
	}
	engine.Changed = g.own
	return g
}

// look is one round: a repair when enforcing, a check when not.
func (g *guard) look(ctx context.Context) (configs.Report, error) {
	if g.enforce {
		return g.apply(ctx, nil, false)
	}
	return g.check(ctx)
}

func (g *guard) check(ctx context.Context) (configs.Report, error) {
	g.run.Lock()
	defer g.run.Unlock()
	r, err := g.engine.Check(ctx)
	if err == nil {
		g.note(r)
	}
	return r, err
}

func (g *guard) apply(ctx context.Context, rules []string, dryRun bool) (configs.Report, error) {
	g.run.Lock()
	defer g.run.Unlock()
	r, err := g.engine.Apply(ctx, rules, dryRun)
	if err == nil && !dryRun {
		g.note(r)
	}
	return r, err
}

// adopt replaces the policy, runs it, and calls commit when the run went through; otherwise the policy before stays in force.
// What the run has repaired by then stays repaired: a policy is never looser than the floor it was made for.
func (g *guard) adopt(ctx context.Context, p configs.Policy, commit func() error) (configs.Report, error) {
	g.run.Lock()
	defer g.run.Unlock()
	old := g.engine.Policy
	g.engine.Policy = p
	var r configs.Report
	var err error
	if g.enforce {
		r, err = g.engine.Apply(ctx, nil, false)
	} else {
		r, err = g.engine.Check(ctx)
	}
	if err == nil {
		err = commit()
	}
	if err != nil {
		g.engine.Policy = old
		return r, err
	}
	g.note(r)
	return r, nil
}

func (g *guard) undo(ctx context.Context) ([]configs.Planned, error) {
	g.run.Lock()
	defer g.run.Unlock()
	return g.engine.Undo(ctx)
}

// explain returns a rule and the name of the policy in force.
func (g *guard) explain(id string) (configs.Rule, string, error) {
	g.run.Lock()
	defer g.run.Unlock()
	r, _, err := g.engine.Explain(id)
	return r, g.engine.Policy.ID, err
}

func (g *guard) note(r configs.Report) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.last = r
}

// report returns the outcome of the last whole run.
func (g *guard) report() configs.Report {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.last
}

// worst returns a rule that fails with a severity above the given one, "" when none does.
func (g *guard) worst(ctx context.Context, above string) (string, error) {
	r, err := g.check(ctx)
	if err != nil {
		return "", err
	}
	limit := severityRank(configs.Severity(above))
	for _, f := range r.Bad() {
		if severityRank(f.Severity) > limit {
			return f.Rule, nil
		}
	}
	return "", nil
}

func severityRank(s configs.Severity) int {
	return slices.Index([]configs.Severity{configs.Low, configs.Medium, configs.High, configs.Critical}, s)
}
