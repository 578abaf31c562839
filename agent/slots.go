// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"slices"

	"github.com/backstay/backstay/agent/config"
	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/slot"
)

// openSlots opens the slots that are configured, and looks at each: what is no flash now, or has the wrong name, would be found
// out when half an update is done.
func openSlots(cfg *config.Config) (names [2]update.SlotID, set *slot.Set, err error) {
	if len(cfg.Slots) != 2 {
		return names, nil, fmt.Errorf("slots: %w: %d configured, an update needs two", update.ErrSetup, len(cfg.Slots))
	}
	c := slot.Config{Slots: map[update.SlotID]slot.Device{}, Cmdline: cfg.Booted.Cmdline, Key: cfg.Booted.Key}
	var ids []update.SlotID
	for name, s := range cfg.Slots {
		ids = append(ids, update.SlotID(name))
		c.Slots[update.SlotID(name)] = slot.Device{Kind: s.Kind, Path: s.Path}
	}
	slices.Sort(ids)
	set, err = slot.Open(c)
	if wrong, ok := errors.AsType[*slot.ConfigError](err); ok {
		key := "slots." + string(wrong.ID) + "." + wrong.Key
		err = fmt.Errorf("configuration line %d: %s: %w", cfg.Line(key), key, wrong.Err)
		if !errors.Is(err, update.ErrSetup) {
			err = fmt.Errorf("%w: %w", update.ErrSetup, err)
		}
	}
	return [2]update.SlotID{ids[0], ids[1]}, set, err
}
