// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/backstay/backstay/agent/config"
	"github.com/backstay/backstay/update"
)

// bootConfig is a configuration file with a boot section on line 3.
func bootConfig(t *testing.T, boot string, names ...string) *config.Config {
	t.Helper()
	if len(names) == 0 {
		names = []string{"", ""}
	}
	path := filepath.Join(t.TempDir(), "config.json")
	text := fmt.Sprintf(`{"product": {"name": "p", "compatible": "c"}, "server": {"ca_file": "/c"},
	"update": {"root_file": "/r", "metadata_url": "https://m/", "targets_url": "https://t/"},
	"boot": %s,
	"slots": {"A": {"kind": "file", "path": "/a", "bootname": %q}, "B": {"kind": "file", "path": "/b", "bootname": %q}}}`, boot, names[0], names[1])
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// TestBootRefusedAtStart holds that a boot loader that is not what the configuration says is refused when the agent starts,
// with the line that says so, and that nothing is written.
func TestBootRefusedAtStart(t *testing.T) {
	dir := t.TempDir()
	garbage := filepath.Join(dir, "garbage")
	if err := os.WriteFile(garbage, []byte("no boot loader's"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, boot := range map[string]string{
		"grub, missing":    fmt.Sprintf(`{"kind": "grub", "path": %q}`, filepath.Join(dir, "none")),
		"grub, garbage":    fmt.Sprintf(`{"kind": "grub", "path": %q}`, garbage),
		"mender, no files": fmt.Sprintf(`{"kind": "grub", "convention": "mender", "path": %q}`, dir),
		"efi, missing":     fmt.Sprintf(`{"kind": "efi", "path": %q}`, filepath.Join(dir, "none")),
		"efi, no entries":  fmt.Sprintf(`{"kind": "efi", "path": %q}`, dir),
		"systemd-boot":     fmt.Sprintf(`{"kind": "efi", "convention": "systemd-boot", "path": %q}`, filepath.Join(dir, "none")),
		"tryboot, missing": fmt.Sprintf(`{"kind": "tryboot", "path": %q}`, filepath.Join(dir, "none")),
		"tryboot, garbage": fmt.Sprintf(`{"kind": "tryboot", "path": %q}`, garbage),
		"android, garbage": fmt.Sprintf(`{"kind": "android", "path": %q, "offset": 0}`, garbage),
		"barebox":          fmt.Sprintf(`{"kind": "barebox", "path": %q}`, garbage),
		"psa, garbage":     fmt.Sprintf(`{"kind": "psa", "path": %q, "copy": %q}`, garbage, filepath.Join(dir, "none")),
		"uboot, missing":   fmt.Sprintf(`{"kind": "uboot", "fw_env_config": %q}`, filepath.Join(dir, "none")),
		"uboot, garbage":   fmt.Sprintf(`{"kind": "uboot", "fw_env_config": %q}`, garbage),
	} {
		names := []string{"", ""}
		switch {
		case strings.HasPrefix(name, "tryboot"):
			names = []string{"2", "3"}
		case strings.HasPrefix(name, "psa"):
			names = []string{"0", "1"}
		}
		_, err := openBoot(bootConfig(t, boot, names...), [2]update.SlotID{"A", "B"})
		if !errors.Is(err, update.ErrSetup) || !strings.Contains(err.Error(), "configuration line 3: boot: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	list, err := os.ReadDir(dir)
	if err != nil || len(list) != 1 {
		t.Errorf("files were made: %v, %v", list, err)
	}
}

// TestBootKinds opens each kind from a configuration.
func TestBootKinds(t *testing.T) {
	dir := t.TempDir()
	put := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	grubenv := put("grubenv", "# GRUB Environment Block\nORDER=one two\none_OK=1\none_TRY=0\ntwo_OK=0\ntwo_TRY=0\n#########################")
	autoboot := put("autoboot.txt", "[all]\ntryboot_a_b=1\nboot_partition=2\n[tryboot]\nboot_partition=2\n")
	const guid = "-8be4df61-93ca-11d2-aa0d-00e098032b8c"
	entry := func(label string) string { return "\x07\x00\x00\x00\x01\x00\x00\x00\x00\x00" + label + "\x00\x00\x00" }
	put("efi/Boot0001"+guid, entry("A"))
	put("efi/Boot0002"+guid, entry("B"))
	efi := put("efi/BootOrder"+guid, "\x07\x00\x00\x00\x01\x00\x02\x00")
	const control = "_a\x00\x00BCAB\x01\x02\x00\x00\xbf\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	misc := put("misc", strings.Repeat("\x00", 2048)+control+string(binary.LittleEndian.AppendUint32(nil, crc32.ChecksumIEEE([]byte(control)))))
	psa := "\x01\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00" + strings.Repeat("g", 32) + strings.Repeat(strings.Repeat("i", 16)+"\x01\x00\x00\x00\x00\x00\x00\x00", 2)
	psa = string(binary.LittleEndian.AppendUint32(nil, crc32.ChecksumIEEE([]byte(psa)))) + psa
	one, two := put("psa1", psa), put("psa2", psa)
	for _, tt := range []struct {
		name, boot string
		names      []string
		changed    string
		want       string
	}{
		{"grub", fmt.Sprintf(`{"kind": "grub", "path": %q}`, grubenv), []string{"one", "two"}, grubenv, "ORDER=two one"},
		{"tryboot", fmt.Sprintf(`{"kind": "tryboot", "path": %q}`, autoboot), []string{"2", "3"}, autoboot, "boot_partition=3"},
		{"android", fmt.Sprintf(`{"kind": "android", "path": %q}`, misc), nil, misc, "\xbe\x00\x1f\x00"},
		{"psa", fmt.Sprintf(`{"kind": "psa", "path": %q, "copy": %q}`, one, two), []string{"0", "1"}, one, "\x01\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00ggg"},
		{"efi", fmt.Sprintf(`{"kind": "efi", "path": %q}`, filepath.Dir(efi)), []string{"A", "0002"}, efi, "\x07\x00\x00\x00\x01\x00"},
	} {
		b, err := openBoot(bootConfig(t, tt.boot, tt.names...), [2]update.SlotID{"A", "B"})
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if s, err := b.State(); err != nil || s.Primary != "A" {
			t.Errorf("%s: %+v, %v", tt.name, s, err)
		}
		if err := b.Try("B", 1); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		if argument, err := rebootArgument(b); err != nil || (argument == "0 tryboot") != (tt.name == "tryboot") {
			t.Errorf("%s: reboot argument %q, %v", tt.name, argument, err)
		}
		if text, err := os.ReadFile(tt.changed); err != nil || !strings.Contains(string(text), tt.want) {
			t.Errorf("%s: %q, %v", tt.name, text, err)
		}
	}
}
