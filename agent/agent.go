// SPDX-License-Identifier: Apache-2.0

// Package agent makes one program of the parts: it reads the configuration, opens what it names, connects the pillars with
// standard types, and runs until it is told to stop or the device has to reboot. It is the only package that knows every
// pillar, and the only one on the device that starts goroutines.
//
// It owns the state directory as a whole and the run directory; each part owns what is inside its own. It decides nothing the
// pillars decide: no signature is checked here, no rule, no state of an update.
//
// A part that cannot start does not stop the others: a broken boot environment must not silence the audit log. It is reported
// as a problem in the status and as an event. Only what nothing works without ends the start: the directories, the state
// database, the identity and the log.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/backstay/backstay/agent/config"
	"github.com/backstay/backstay/agent/control"
	"github.com/backstay/backstay/agent/store"
	"github.com/backstay/backstay/agent/tpm"
	"github.com/backstay/backstay/identity"
	"github.com/backstay/backstay/logging/ship"
	"github.com/backstay/backstay/logging/source"
	"github.com/backstay/backstay/logging/spool"
	"github.com/backstay/backstay/update"
)

// Options is what the program knows and the configuration does not.
type Options struct {
	Version string       // of the agent
	Release time.Time    // when it was released: the device's clock is never earlier
	Logger  *slog.Logger // for the engineer
}

// agent is a running device agent. Fields are set by open and not changed after.
type agent struct {
	cfg      *config.Config
	opt      Options
	logger   *slog.Logger
	started  time.Time
	clock    *Clock
	recorder *recorder
	store    *store.DB
	identity *identity.Identity
	log      *spool.Log

	updater  *updater               // nil when the configuration has no update section, or it cannot start
	progress *progress              // beside updater
	guard    *guard                 // nil when no baseline applies
	policy   *policies              // beside guard; without a client when there is no repository
	shipper  *ship.Shipper          // nil when records stay on the device
	sources  *source.Set            // nil when they could not be configured
	tpms     map[string]*tpm.Device // those with a counter, by path
	intake   programs               // what the product's own programs write

	owned        gate          // opened once the device has a certificate
	identityKick chan struct{} // makes the identity loop look now
	problems     problems
}

// problems are parts that do not work, in words.
type problems struct {
	mu   sync.Mutex
	list []string
}

func (p *problems) add(part string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.list = append(p.list, part+": "+err.Error())
}

func (p *problems) get() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string{}, p.list...)
}

// Run runs the agent until ctx ends, which is a clean stop and returns nil. It returns update.ErrReboot when the process has to
// end because the device reboots: with the reboot method "exit" the caller tells the supervisor, otherwise the kernel is at it.
func Run(ctx context.Context, cfg *config.Config, opt Options) error {
	small()
	a := &agent{cfg: cfg, opt: opt, logger: opt.Logger, started: time.Now(), owned: newGate(), identityKick: make(chan struct{}, 1), tpms: map[string]*tpm.Device{}}
	if err := a.open(ctx); err != nil {
		a.close()
		return err
	}
	socket, err := control.Listen(cfg.Control.Socket, cfg.Control.AllowUIDs)
	if err != nil {
		a.close()
		return err
	}
	notify := newNotifier()
	notify.send("READY=1")
	err = a.serve(ctx, socket, notify)
	notify.send("STOPPING=1")
	if err := a.close(); err != nil {
		a.logger.Error("stop", "err", err)
	}
	return err
}

// open opens every part in the order in which they need each other.
func (a *agent) open(ctx context.Context) error {
	// The run directory lets others through to the sockets in it: each socket says itself who may use it.
	for dir, mode := range map[string]os.FileMode{a.cfg.StateDir: 0o700, a.cfg.RunDir: 0o755} {
		if err := os.MkdirAll(dir, mode); err != nil {
			return fmt.Errorf("start: %w: %w", update.ErrSetup, err)
		}
	}
	a.clock = NewClock(a.opt.Release)
	a.recorder = &recorder{
		clock: a.clock, logger: a.logger, bootID: bootID(a.cfg.Booted.Cmdline),
		device: a.cfg.Product.Compatible, firmware: osVersion(a.cfg.Product.OSRelease),
		private: a.cfg.Audit.Private, hwAddr: hardwareAddress(), config: "config/" + a.cfg.Version(),
	}
	if err := a.openStore(); err != nil {
		return err
	}
	if err := a.openIdentity(ctx); err != nil {
		return err
	}
	if err := a.openLog(); err != nil {
		return err
	}
	a.openSources(ctx)
	a.openIntake()
	a.openShipper()
	a.openBaseline()
	a.openUpdater()
	return nil
}

// close closes what open opened, last first. The log is closed before the store: its last records may be about the stop.
func (a *agent) close() error {
	a.intake.close()
	errs := []error{a.closeSources()}
	if a.log != nil {
		errs = append(errs, a.log.Close())
	}
	for _, d := range a.tpms {
		errs = append(errs, d.Close())
	}
	if a.store != nil {
		errs = append(errs, a.store.Close())
	}
	return errors.Join(errs...)
}

// serve runs every part until ctx ends or one of them asks for the end. The first error decides: a part that fails takes the
// agent down with it, and the init system starts it again.
func (a *agent) serve(ctx context.Context, socket net.Listener, notify notifier) error {
	inner, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var parts sync.WaitGroup
	run := func(part func(context.Context) error) {
		parts.Go(func() {
			if err := part(inner); err != nil {
				stop(err)
			}
		})
	}
	run(a.log.Run)
	run(func(ctx context.Context) error { settle(ctx); return nil })
	run(func(ctx context.Context) error { return a.controlServer().Serve(ctx, socket) })
	for _, part := range a.intake.parts() {
		run(part)
	}
	run(func(ctx context.Context) error { a.keepIdentity(ctx); return nil })
	run(func(ctx context.Context) error { a.heartbeat(ctx, notify); return nil })
	if a.sources != nil {
		for _, part := range a.sources.Parts() {
			run(func(ctx context.Context) error { part(ctx); return nil })
		}
	}
	if a.guard != nil {
		run(func(ctx context.Context) error { a.guard.keep(ctx); return nil })
	}
	if a.policy != nil && a.policy.client != nil {
		run(func(ctx context.Context) error { a.policy.run(ctx, a.owned); return nil })
	}
	if a.shipper != nil {
		run(func(ctx context.Context) error {
			if !a.owned.wait(ctx) {
				return nil
			}
			return a.shipper.Run(ctx)
		})
	}
	if a.updater != nil {
		run(func(ctx context.Context) error { return a.updater.run(ctx, a.owned) })
		run(func(ctx context.Context) error { a.progress.run(ctx); return nil })
	}
	<-inner.Done()
	parts.Wait()
	if ctx.Err() != nil {
		a.recorder.emit("agent.stop", slog.String("reason", "asked to stop"))
		return nil
	}
	err := context.Cause(inner)
	if !errors.Is(err, update.ErrReboot) {
		a.recorder.emit("agent.stop", slog.String("outcome", "failure"), slog.String("reason", err.Error()))
	}
	return err
}

// heartbeat tells the service manager that the agent lives, and records now and then that it does: silence in a log of records
// that come only when something happens could mean anything.
func (a *agent) heartbeat(ctx context.Context, notify notifier) {
	const record = 15 * time.Minute
	period := watchdogPeriod()
	if period == 0 {
		period = record
	}
	tick := time.NewTicker(min(period, record))
	defer tick.Stop()
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		// The log's state is asked for under its lock: a log that hangs does not get its sign of life.
		s := a.log.State()
		notify.send("WATCHDOG=1")
		if time.Since(last) >= record {
			last = time.Now()
			a.recorder.emit("heartbeat", slog.Uint64("size", s.Size), slog.Uint64("acked", s.Acked), slog.Int("fill_percent", s.Fill),
				slog.Uint64("lost", s.Lost))
		}
	}
}
