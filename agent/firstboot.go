// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/backstay/backstay/agent/config"
	"github.com/backstay/backstay/agent/control"
	"github.com/backstay/backstay/agent/store"
	"github.com/backstay/backstay/configs"
	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/update"
)

// The first boot is when a product is weakest: what the factory left is on, and nobody has looked. So the repairs that cannot
// cut anybody off are made before the network comes up, by a command of its own that needs no daemon, no network and no
// identity, ends by itself, and whose failure keeps nothing from starting. It runs at every boot: what is right already costs
// a look, and kernel values and mounts have to be set again anyway.

const (
	pendingFile = "first-boot.json" // events until the daemon takes them into the log
	maxPending  = 512
	maxPendFile = 2 << 20
)

// FirstBoot checks and repairs once, without the daemon. What could lock somebody out is left alone: there is no network to
// prove by that it did not. Events wait in the state directory for the daemon.
func FirstBoot(ctx context.Context, cfg *config.Config, opt Options, dryRun bool) (control.Findings, error) {
	if len(cfg.Baseline.Profiles) == 0 {
		return control.Findings{}, &configs.Refusal{Code: configs.CodeUnknownProfile, What: "baseline", Why: "the configuration names no profile"}
	}
	if err := os.MkdirAll(cfg.StateDir, 0o700); err != nil {
		return control.Findings{}, fmt.Errorf("first boot: %w: %w", update.ErrSetup, err)
	}
	clock := NewClock(opt.Release)
	waiting := &pending{}
	rec := &recorder{
		clock: clock, logger: opt.Logger, bootID: bootID(cfg.Booted.Cmdline), device: cfg.Product.Compatible,
		firmware: osVersion(cfg.Product.OSRelease), log: waiting,
		hwAddr: hardwareAddress(), config: "config/" + cfg.Version(), private: cfg.Audit.Private,
	}
	state, err := storedLayers(cfg, clock, rec.emit)
	if err != nil {
		return control.Findings{}, err
	}
	engine, err := newEngine(cfg, state.policy, clock, rec.emit)
	if err != nil {
		return control.Findings{}, err
	}
	defer engine.Root.Close()
	if !dryRun {
		if err := engine.Rebind(ctx); err != nil {
			opt.Logger.Warn("bind changed files over the read-only root", "err", err)
		}
		if _, err := engine.Recover(ctx); err != nil {
			return control.Findings{}, err
		}
	}
	var r configs.Report
	if cfg.Baseline.Enforce {
		r, err = engine.Apply(ctx, nil, dryRun)
	} else {
		r, err = engine.Check(ctx)
	}
	if !dryRun {
		err = errors.Join(err, waiting.save(engine.StateDir))
	}
	return findings(cfg.Baseline.Profiles, r), err
}

// newEngine is the engine a configuration describes, without a way to confirm.
func newEngine(cfg *config.Config, policy configs.Policy, clock *Clock, emit func(string, ...slog.Attr)) (*configs.Engine, error) {
	root, err := os.OpenRoot(cfg.Baseline.Root)
	if err != nil {
		return nil, err
	}
	return &configs.Engine{
		Root: root, Policy: policy, Live: cfg.Baseline.Root == "/", Emit: emit, Now: clock.Now,
		StateDir: filepath.Join(cfg.StateDir, "baseline"), ReadOnly: configs.ReadOnly(cfg.Baseline.ReadOnly),
	}, nil
}

// storedLayers reads the policy in force without the daemon, which holds the database while it runs.
func storedLayers(cfg *config.Config, clock *Clock, emit func(string, ...slog.Attr)) (layered, error) {
	path := filepath.Join(cfg.StateDir, "state.db")
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return layers(cfg.Baseline, nil, emit)
	}
	db, err := store.Open(path)
	if errors.Is(err, store.ErrCorrupt) {
		return layers(cfg.Baseline, nil, emit) // the daemon puts it aside and says so
	}
	if err != nil {
		return layered{}, err
	}
	defer db.Close()
	if known, err := db.LoadTrust(); err == nil {
		clock.Raise(known.Issued)
	}
	return layers(cfg.Baseline, db, emit)
}

// pending is a log of events that are taken into the real one later. It keeps the first of them: a flood comes from one
// defect, and the state that ends the run is reported again by the daemon.
type pending struct{ events []logging.Event }

// Append implements appender.
func (p *pending) Append(_ context.Context, events ...logging.Event) error {
	p.events = append(p.events, events[:min(len(events), maxPending-len(p.events))]...)
	return nil
}

// save adds them to what an earlier run has left.
func (p *pending) save(dir string) error {
	if len(p.events) == 0 {
		return nil
	}
	name := filepath.Join(dir, pendingFile)
	all, err := readPending(name)
	if err != nil {
		all = nil // half a file is no evidence
	}
	all = append(all, p.events...)
	b, err := json.Marshal(all[max(0, len(all)-maxPending):])
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(name+".tmp", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(name+".tmp", name)
}

func readPending(name string) ([]logging.Event, error) {
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxPendFile))
	if err != nil {
		return nil, err
	}
	var out []logging.Event
	return out, json.Unmarshal(b, &out)
}

// takePending writes what runs before the daemon have left into the log, and removes it.
func (r *recorder) takePending(stateDir string) {
	name := filepath.Join(stateDir, "baseline", pendingFile)
	events, err := readPending(name)
	if err == nil && len(events) == 0 {
		return
	}
	if err == nil {
		r.mu.Lock()
		err = r.log.Append(context.Background(), events...)
		r.mu.Unlock()
	}
	if err != nil {
		r.logger.Error("take over the events of the first boot", "err", err)
	}
	os.Remove(name) //nolint:errcheck // at worst they are told twice
}
