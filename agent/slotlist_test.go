// SPDX-License-Identifier: Apache-2.0

package agent

import "testing"

// TestSlotListWithoutUpdater shows the slots and the boot loader of the configuration although the updater could not start.
func TestSlotListWithoutUpdater(t *testing.T) {
	a := &agent{cfg: bootConfig(t, `{"kind": "grub", "convention": "mender"}`, "2", "3")}
	s, err := a.slotList(t.Context())
	if err != nil || len(s.Items) != 2 || s.Items[1].Bootname != "3" || s.Items[1].Name != "B" {
		t.Errorf("%+v, %v", s, err)
	}
	if s.Boot.Kind != "grub" || s.Boot.Convention != "mender" || s.Boot.Path != "/boot/efi/grub-mender-grubenv" || s.Boot.Problem == "" {
		t.Errorf("%+v", s.Boot)
	}
}
