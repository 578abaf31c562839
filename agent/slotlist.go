// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"encoding/hex"
	"os"
	"slices"

	"github.com/backstay/backstay/agent/control"
	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/boot"
)

// slotList shows the slots and what speaks for which boot loader. It answers without an updater too: then it is what a person
// looks at to find out why there is none.
func (a *agent) slotList(context.Context) (control.Slots, error) {
	out := control.Slots{Items: []control.Slot{}, Evidence: []control.Evidence{}}
	for _, e := range boot.Detect(os.DirFS("/")) {
		out.Evidence = append(out.Evidence, control.Evidence(e))
	}
	if len(a.cfg.Slots) == 0 {
		return out, nil
	}
	out.Boot = control.Bootloader{Kind: a.cfg.Boot.Kind, Path: bootPath(a.cfg.Boot)}
	if conventional(a.cfg.Boot.Kind) {
		out.Boot.Convention = a.cfg.Boot.Convention
	}
	var ids []update.SlotID
	for name := range a.cfg.Slots {
		ids = append(ids, update.SlotID(name))
	}
	slices.Sort(ids)
	var s update.Status
	if a.updater != nil {
		s = a.updater.machine.Status()
		out.Boot.Trial = s.Boot.Trial
		if _, err := a.updater.machine.Boot.State(); err != nil {
			out.Boot.Problem = err.Error()
		}
	} else {
		out.Boot.Problem = "the agent's part update could not start; backstay status says why"
	}
	for _, id := range ids {
		out.Items = append(out.Items, a.slotLine(id, s))
	}
	return out, nil
}

func (a *agent) slotLine(id update.SlotID, s update.Status) control.Slot {
	c := a.cfg.Slots[string(id)]
	line := control.Slot{Name: string(id), Kind: c.Kind, Path: c.Path, Bootname: c.Bootname, Booted: s.Booted == id, Primary: s.Boot.Primary == id, Left: s.Boot.Left[id]}
	if line.Bootname == "" {
		line.Bootname = line.Name
	}
	if img, known := s.Images[id]; known {
		line.Version, line.Counter, line.Image, line.SHA256 = img.Version, img.Counter, img.Path, hex.EncodeToString(img.SHA256[:])
	}
	if a.updater != nil {
		if m, ok := a.updater.machine.Slots.(interface {
			Size(update.SlotID) (int64, error)
		}); ok {
			line.Size, _ = m.Size(id)
		}
	}
	return line
}
