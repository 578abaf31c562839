// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"

	"github.com/backstay/backstay/agent/config"
	"github.com/backstay/backstay/agent/store"
	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/trust"
)

func (a *agent) openUpdater() {
	if !a.cfg.HasUpdate() {
		return
	}
	if err := a.tryOpenUpdater(); err != nil {
		a.part("update", err)
	}
}

func (a *agent) tryOpenUpdater() error {
	root, err := os.ReadFile(a.cfg.Update.RootFile)
	if err != nil {
		return fmt.Errorf("read update.root_file: %w: %w", update.ErrSetup, err)
	}
	client, err := trust.New(trust.Config{
		FactoryRoot: root, MetadataURL: a.cfg.Update.MetadataURL, TargetsURL: a.cfg.Update.TargetsURL, Mirrors: mirrors(a.cfg.Update.Mirrors),
		Limits: trust.Limits{Bandwidth: int64(a.cfg.Update.Bandwidth)},
		HTTP:   &http.Client{Transport: trust.NewTransport(a.identity.TLS())},
		Store:  trustStore{a.store, a.clock}, Now: a.clock.Now, Emit: a.recorder.emit,
	})
	if err != nil {
		return err
	}
	if a.policy != nil {
		a.policy.client = client
	}
	names, slots, err := openSlots(a.cfg)
	if err != nil {
		return err
	}
	loader, err := openBoot(a.cfg, names)
	if err != nil {
		return err
	}
	job, err := a.store.Load()
	if err != nil {
		return err
	}
	limit, err := a.openFloor(job)
	if err != nil {
		return err
	}
	checks := health{checks: a.cfg.Update.Health, connected: a.connected, worst: a.worst}
	u := &updater{
		poll: a.cfg.Update.Poll.Std(), logger: a.logger, wake: make(chan struct{}, 1), looked: a.looked,
		client: client, source: trust.NewSource(client, a.device(limit)), dirs: a.cfg.Update.LocalDirs,
	}
	when, err := newPolicy(a.cfg.Update, func() bool { return u.directory() != nil })
	if err != nil {
		return err
	}
	parts, err := openComponents(a.cfg)
	if err != nil {
		return err
	}
	changed := make(chan struct{}, 1)
	u.machine = &update.Machine{
		Source: payloads(a.cfg.Update, u.source, slots, a.store, a.recorder.emit), Components: parts,
		Slots: slots, Boot: loader, Floor: limit, Journal: a.store,
		Health: newWatchdog(a.cfg.Update.Watchdog, a.logger).guard(checks.run), Reboot: a.restart, Emit: lean(a.recorder.emit), Now: a.clock.Now,
		BootID: func() string { return a.recorder.bootID },
		Names:  names, Attempts: a.cfg.Update.Attempts, TrialTimeout: a.cfg.Update.TrialTimeout.Std(),
		Policy: when, Late: a.clock.Late, Changed: func() { kick(changed) },
		Postponing: update.PostponeLimit{Times: a.cfg.Update.PostponeTimes, Total: a.cfg.Update.PostponeTotal.Std()},
	}
	a.updater = u
	a.progress = &progress{path: filepath.Join(a.cfg.RunDir, "update.json"), brief: u.machine.Brief, now: a.clock.Now, logger: a.logger, kick: changed}
	return nil
}

func mirrors(list []config.Mirror) (out []trust.Mirror) {
	for _, m := range list {
		out = append(out, trust.Mirror(m))
	}
	return out
}

// provisioned reports whether this device has dealt with an update before. Its floor was written before that: when it is
// missing now it was lost or taken away, and the device is not a new one.
func provisioned(job update.Job) bool { return len(job.Images) > 0 || len(job.History) > 0 }

// trustStore raises the clock with every newer time that verified metadata was signed at.
type trustStore struct {
	*store.DB
	clock *Clock
}

func (t trustStore) SaveTrust(s trust.State) error {
	if err := t.DB.SaveTrust(s); err != nil {
		return err
	}
	t.clock.Raise(s.Issued)
	return nil
}

// device is what this device knows about itself when it asks for a release.
func (a *agent) device(f update.Floor) func(context.Context) (update.Device, error) {
	return func(context.Context) (update.Device, error) {
		v, err := f.Get()
		return update.Device{
			ID: a.identity.ID(), Product: a.cfg.Product.Name, Compatible: a.cfg.Product.Compatible,
			Version: a.recorder.firmware, Agent: a.opt.Version, Floor: v,
		}, err
	}
}
