// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"

	"github.com/backstay/backstay/agent/control"
	"github.com/backstay/backstay/agent/tpm"
	"github.com/backstay/backstay/logging/source"
	"github.com/backstay/backstay/logging/spool"
)

// openSources tries what the audit log can watch here, and records which of it works: a consumer has to know the blind spots.
func (a *agent) openSources(ctx context.Context) {
	c := a.cfg.Audit.Sources
	set, err := source.Open(ctx, source.Config{
		Env: source.Env{
			Root: "/", Files: c.Files, Mounts: c.Mounts, Poll: c.Poll.Std(),
			BootID: a.recorder.bootID, Now: a.clock.Now, State: a.store.Sources(), Logger: a.logger,
		},
		Off: c.Off, Emit: a.recorder.emit,
	})
	if err != nil {
		a.part("audit sources", err)
		return
	}
	a.sources = set
	set.Report()
}

// sourceStatus is the inventory as the control socket shows it.
func (a *agent) sourceStatus() []control.Source {
	if a.sources == nil {
		return nil
	}
	var out []control.Source
	for _, s := range a.sources.Inventory() {
		out = append(out, control.Source{Name: s.Name, State: s.State, Detail: s.Detail})
	}
	return out
}

// closeSources closes what was opened and never run, because the start failed later.
func (a *agent) closeSources() error {
	if a.sources == nil {
		return nil
	}
	return a.sources.Close()
}

// openCounter opens the counter in hardware that tells whether the log was put back from an old copy. Without one, only the next
// receipt tells: that is a problem to report, not one to stop for.
func (a *agent) openCounter() spool.Counter {
	if a.cfg.Audit.Counter.Kind != "tpm" {
		return nil
	}
	device, err := a.openTPM(a.cfg.Audit.Counter.Device)
	if err != nil {
		a.part("audit counter", err)
		return nil
	}
	counter, err := tpm.OpenCounter(device, uint32(a.cfg.Audit.Counter.Index))
	if err != nil {
		a.part("audit counter", err)
		return nil
	}
	return counter
}
