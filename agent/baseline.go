// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/backstay/backstay/configs"
)

// guard runs the configuration engine: at the start, then once a period, and for local commands. One run at a time.
type guard struct {
	profiles []string
	enforce  bool
	period   time.Duration
	logger   *slog.Logger

	run    sync.Mutex // held while the engine works
	engine *configs.Engine

	mu   sync.Mutex // guards what follows
	last configs.Report
}

// keep checks, and repairs where the configuration says so, until ctx ends.
func (g *guard) keep(ctx context.Context) {
	for {
		if _, err := g.look(ctx); err != nil && ctx.Err() == nil {
			g.logger.Warn("baseline", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(g.period):
		}
	}
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
	if err == nil && !dryRun && len(rules) == 0 {
		g.note(r)
	}
	return r, err
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
