// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"

	"github.com/backstay/backstay/agent/tpm"
	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/floor"
)

// openFloor opens the security floor. A counter in hardware that does not answer is an error, not a reason to do without: it
// stops updates, and nothing else.
func (a *agent) openFloor(job update.Job) (update.Floor, error) {
	c := floor.Config{Dir: a.cfg.StateDir, Provisioned: provisioned(job)}
	if a.cfg.Floor.Kind != "tpm" {
		return floor.Open(c)
	}
	device, err := a.openTPM(a.cfg.Floor.Device)
	if err != nil {
		return nil, fmt.Errorf("floor.device: %w", err)
	}
	counter, err := tpm.OpenCounter(device, uint32(a.cfg.Floor.Index))
	if err != nil {
		return nil, fmt.Errorf("floor.index: %w", err)
	}
	return floor.OpenCounted(c, counter)
}

// openTPM opens a TPM that the agent keeps open until its end, each once.
func (a *agent) openTPM(path string) (*tpm.Device, error) {
	if d, open := a.tpms[path]; open {
		return d, nil
	}
	d, err := tpm.Open(path)
	if err != nil {
		return nil, err
	}
	a.tpms[path] = d
	return d, nil
}
