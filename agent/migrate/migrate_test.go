// SPDX-License-Identifier: Apache-2.0

package migrate_test

import (
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/backstay/backstay/agent/config"
	"github.com/backstay/backstay/agent/migrate"
)

const systemConf = `# a product
[system]
compatible=Acme Cam
bootloader=uboot
boot-attempts=5
bundle-formats=-plain
variant-name=hd

[keyring]
path=/etc/rauc/ca.pem

[handlers]
pre-install=/usr/lib/rauc/pre.sh

[slot.rootfs.0]
device=/dev/disk/by-partlabel/rootfs-a
type=ext4
bootname=A

[slot.rootfs.1]
device = /dev/ubi0_1
type = ubivol
bootname = B

[slot.appfs.0]
device=/dev/mmcblk0p5
parent=rootfs.0

[artifacts.files]
path=/data
`

func device(files map[string]string) fstest.MapFS {
	m := fstest.MapFS{}
	for name, text := range files {
		m[strings.TrimPrefix(name, "/")] = &fstest.MapFile{Data: []byte(text)}
	}
	return m
}

// TestMigrate proposes, for each agent and boot loader, a configuration that this agent accepts, and says what is left out.
func TestMigrate(t *testing.T) {
	for _, tt := range []struct {
		name, agent string
		files       map[string]string
		want        map[string]string // keys of the configuration
		remarks     []string
	}{
		{"rauc on U-Boot", "rauc", map[string]string{"/etc/rauc/system.conf": systemConf, "/etc/fw_env.config": "/dev/x 0 4000"}, map[string]string{
			"product.name": `"Acme-Cam"`, "product.compatible": `"Acme-Cam"`, "update.attempts": "5", "boot.kind": `"uboot"`, "boot.convention": `"rauc"`,
			"slots.A.kind": `"block"`, "slots.A.path": `"/dev/disk/by-partlabel/rootfs-a"`, "slots.B.kind": `"ubi"`, "slots.B.path": `"/dev/ubi0_1"`, "booted.key": `"rauc.slot"`,
		}, []string{"/etc/rauc/ca.pem", "pre-install", "appfs.0", "artifacts.files", "variant-name", `"Acme Cam" becomes "Acme-Cam"`, "update.root_file"}},
		{"rauc on GRUB", "rauc", map[string]string{"/etc/rauc/system.conf": strings.Replace(systemConf, "uboot", "grub\ngrubenv=/boot/g/grubenv", 1)}, map[string]string{
			"boot.kind": `"grub"`, "boot.path": `"/boot/g/grubenv"`}, nil},
		{"rauc on EFI", "rauc", map[string]string{"/etc/rauc/system.conf": strings.Replace(systemConf, "uboot", "efi", 1)}, map[string]string{"boot.kind": `"efi"`}, nil},
		{"rauc on barebox", "rauc", map[string]string{"/etc/rauc/system.conf": strings.NewReplacer("uboot", "barebox", "bootname=A", "bootname=system0").Replace(systemConf)},
			map[string]string{"boot.kind": `"barebox"`, "booted.key": `"bootchooser.active"`, "slots.system0.kind": `"block"`}, []string{"boot.path must name"}},
		{"rauc with a script", "rauc", map[string]string{"/etc/rauc/system.conf": strings.Replace(strings.Replace(systemConf, "uboot", "custom", 1),
			"pre-install=", "bootloader-custom-backend=", 1)}, map[string]string{"boot.kind": `"command"`, "boot.command": `["/usr/lib/rauc/pre.sh"]`}, nil},
		{"mender on U-Boot", "mender", map[string]string{
			"/etc/mender/mender.conf":          `{"ServerURL": "https://hosted.mender.io", "TenantToken": "x", "UpdatePollIntervalSeconds": 1800}`,
			"/var/lib/mender/mender.conf":      `{"RootfsPartA": "/dev/mmcblk0p2", "RootfsPartB": "/dev/mmcblk0p13"}`,
			"/var/lib/mender/device_type":      "device_type=beaglebone\n",
			"/etc/fw_env.config":               "/dev/mmcblk0 0 4000\n",
			"/etc/mender/scripts/ArtifactX_00": "#!/bin/sh",
		}, map[string]string{
			"product.name": `"beaglebone"`, "update.poll": `"30m"`, "boot.kind": `"uboot"`, "boot.convention": `"mender"`, "slots.A.bootname": `"2"`,
			"slots.B.bootname": `"13"`, "slots.B.path": `"/dev/mmcblk0p13"`, "booted.key": `"root"`,
		}, []string{"TenantToken", "ServerURL", "no ArtifactVerifyKey", "/etc/mender/scripts"}},
		{"mender on GRUB", "mender", map[string]string{
			"/etc/mender/mender.conf":                           `{"RootfsPartA": "/dev/sda2", "RootfsPartB": "/dev/sda3", "ArtifactVerifyKeys": ["/k"]}`,
			"/boot/efi/grub-mender-grubenv/mender_grubenv1/env": "x",
		}, map[string]string{"boot.kind": `"grub"`, "boot.convention": `"mender"`, "boot.path": `"/boot/efi/grub-mender-grubenv"`}, []string{"device_type is missing", "ArtifactVerifyKey"}},
		{"swupdate", "swupdate", map[string]string{
			"/etc/swupdate.cfg": "/* x */ globals: {\n public-key-file = \"/k\" \".pem\"; // y\n bootloader = \"uboot\"; verbose = true; };\n" +
				"identify: ( { name = \"a\"; value = \"b\"; }, { name = \"c\" } );\nsuricatta: { url = \"http://h\"; polldelay = 360; list = [1, 2L, 0x3]; };",
			"/etc/hwrevision":    "board1 revA\n",
			"/etc/fw_env.config": "/dev/mtd0 0 4000\n",
		}, map[string]string{"product.name": `"board1"`, "product.compatible": `"board1-revA"`, "boot.kind": `"uboot"`, "boot.convention": `"bootcount"`, "boot.swupdate": "true"},
			[]string{"public-key-file=/k.pem", "suricatta.url=http://h", "polldelay=360", "slots.A and slots.B"}},
	} {
		p, err := migrate.From(tt.agent, device(tt.files), "")
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		cfg, err := config.Parse(p.Config)
		if err != nil {
			t.Fatalf("%s: %v\n%s", tt.name, err, p.Config)
		}
		got := map[string]string{}
		for _, s := range cfg.Effective() {
			got[s.Key] = string(s.Value)
		}
		for key, want := range tt.want {
			if got[key] != want {
				t.Errorf("%s: %s is %s, want %s", tt.name, key, got[key], want)
			}
		}
		for _, r := range tt.remarks {
			if !slices.ContainsFunc(p.Remarks, func(s string) bool { return strings.Contains(s, r) }) {
				t.Errorf("%s: nothing is said about %s:\n%s", tt.name, r, strings.Join(p.Remarks, "\n"))
			}
		}
	}
}

// TestMigrateRefuses holds what cannot become a configuration, and that the error says where.
func TestMigrateRefuses(t *testing.T) {
	deep := strings.Repeat("a: { ", 20)
	for _, tt := range []struct{ agent, text, want string }{
		{"rauc", "", "compatible is missing"},
		{"rauc", "x=1\n", "line 1"},
		{"rauc", "[system\n", "line 1"},
		{"rauc", "[system]\nnonsense\n", "line 2"},
		{"rauc", "\xff", "not UTF-8"},
		{"rauc", strings.Repeat("#\n", 3000), "more than 2000 lines"},
		{"rauc", strings.Repeat("#", 65<<10), "longer than 65536 bytes"},
		{"rauc", strings.NewReplacer("bootname=A", "", "uboot", "grub").Replace(systemConf), "1 slots"},
		{"rauc", strings.Replace(systemConf, "bootname=A", "bootname=B", 1), "slot B is there twice"},
		{"rauc", strings.NewReplacer("bootname=A", "bootname=a slot", "uboot", "grub").Replace(systemConf), "slots.a slot: a slot's name"},
		{"rauc", strings.Replace(systemConf, "uboot", "noop", 1), `bootloader "noop" has no counterpart`},
		{"rauc", strings.Replace(systemConf, "uboot", "custom", 1), "bootloader-custom-backend"},
		{"rauc", systemConf, "/etc/fw_env.config is missing"},
		{"mender", "{}", "RootfsPartA and RootfsPartB"},
		{"mender", "{", "unexpected end"},
		{"mender", `{"RootfsPartA": "/dev/a", "RootfsPartB": "/dev/b2"}`, "/dev/a does not end with the number"},
		{"mender", `{"RootfsPartA": "/dev/a2", "RootfsPartB": "/dev/a2"}`, "the same place"},
		{"swupdate", "globals: {", "a group does not end"},
		{"swupdate", "globals {}", "no '=' or ':' after globals"},
		{"swupdate", "\n\na = \"x", "line 3: a string does not end"},
		{"swupdate", "/* x", "a comment does not end"},
		{"swupdate", "@include \"/etc/x\"", "where a name must be"},
		{"swupdate", deep, "nested deeper"},
		{"swupdate", "a = (" + strings.Repeat("1,", 3000) + ");", "more than 2000 settings"},
		{"swupdate", `globals: { bootloader = "ebg"; };`, `bootloader "ebg" has no counterpart`},
	} {
		file := map[string]string{"rauc": "/etc/rauc/system.conf", "mender": "/etc/mender/mender.conf", "swupdate": "/etc/swupdate.cfg"}[tt.agent]
		_, err := migrate.From(tt.agent, device(map[string]string{file: tt.text}), "")
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s, %.60q: %v, want %q", tt.agent, tt.text, err, tt.want)
		}
	}
	if _, err := migrate.From("rauc", device(nil), "/else/system.conf"); err == nil || !strings.Contains(err.Error(), "else/system.conf") {
		t.Errorf("no file: %v", err)
	}
}

// FuzzMigrate gives each reader any file. What it proposes is a configuration that this agent accepts.
func FuzzMigrate(f *testing.F) {
	f.Add("rauc", systemConf)
	f.Add("mender", `{"RootfsPartA": "/dev/mmcblk0p2", "RootfsPartB": "ubi0_3", "Servers": [{"ServerURL": "x"}]}`)
	f.Add("swupdate", "a: { b = \"c\\n\" \"d\"; e = (1, { f = true; }); }; # x")
	f.Fuzz(func(t *testing.T, agent, text string) {
		file := map[string]string{"rauc": "/etc/rauc/system.conf", "mender": "/etc/mender/mender.conf", "swupdate": "/etc/swupdate.cfg"}[agent]
		p, err := migrate.From(agent, device(map[string]string{file: text, "/etc/fw_env.config": "x"}), "")
		if err != nil {
			return
		}
		if _, err := config.Parse(p.Config); err != nil {
			t.Fatalf("%v\n%s", err, p.Config)
		}
	})
}
