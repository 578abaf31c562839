// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/boot"
)

// TestUBootConventions takes each of U-Boot's keys from a configuration to the variables that are written.
func TestUBootConventions(t *testing.T) {
	for _, v := range []struct {
		name, keys string
		names      []string
		vars, want []string // want after a slot is tried; nil: refused
	}{
		{"rauc with names", `"convention": "rauc"`, []string{"system0", "system1"},
			[]string{"BOOT_ORDER=system0 system1", "BOOT_system0_LEFT=3", "BOOT_system1_LEFT=3"}, []string{"BOOT_ORDER=system1 system0", "BOOT_system0_LEFT=3", "BOOT_system1_LEFT=2"}},
		{"mender", `"convention": "mender"`, []string{"9", "10"}, []string{"mender_boot_part=9", "mender_boot_part_hex=9"},
			[]string{"mender_boot_part=10", "mender_boot_part_hex=a", "upgrade_available=1", "bootcount=0", "bootlimit=2"}},
		{"a variable of one's own, and SWUpdate's", `"convention": "bootcount", "variable": "rootpart", "swupdate": true`, []string{"1", "2"}, []string{"rootpart=1"},
			[]string{"rootpart=2", "upgrade_available=1", "bootcount=0", "bootlimit=2", "ustate=1"}},
		{"a canary that is there", `"canary": "board=7"`, nil, []string{"board=7", "BOOT_ORDER=A"}, []string{"board=7", "BOOT_ORDER=B A", "BOOT_B_LEFT=2"}},
		{"a canary that is not", `"canary": "board=7"`, nil, []string{"BOOT_ORDER=A"}, nil},
		{"another environment of the file", `"namespace": "other"`, nil, []string{"BOOT_ORDER=A"}, nil},
	} {
		dir := t.TempDir()
		env, list := filepath.Join(dir, "env"), filepath.Join(dir, "fw_env.config")
		text := fmt.Sprintf("uboot:\n  size: 0x200\n  lockfile: %s\n  devices:\n    - path: %s\n", filepath.Join(dir, "lock"), env)
		for path, b := range map[string][]byte{env: make([]byte, 0x200), list: []byte(text)} {
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		c, err := boot.ReadConfig(list, "uboot")
		if err != nil {
			t.Fatal(err)
		}
		if err := boot.Create(c, binary.LittleEndian, v.vars); err != nil {
			t.Fatal(err)
		}
		cfg := bootConfig(t, fmt.Sprintf(`{"kind": "uboot", "fw_env_config": %q, %s}`, list, v.keys), v.names...)
		u, err := openBoot(cfg, [2]update.SlotID{"A", "B"})
		if v.want == nil {
			if !errors.Is(err, update.ErrSetup) {
				t.Errorf("%s: %v", v.name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", v.name, err)
			continue
		}
		if err := u.Try("B", 2); err != nil {
			t.Errorf("%s: %v", v.name, err)
		}
		e, err := boot.Load(c)
		if err != nil || !slices.Equal(e.All(), v.want) {
			t.Errorf("%s: %q, want %q: %v", v.name, e.All(), v.want, err)
		}
	}
}
