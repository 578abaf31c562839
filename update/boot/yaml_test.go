// SPDX-License-Identifier: Apache-2.0

package boot_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/backstay/backstay/update/boot"
)

// documented is the example of libubootenv's documentation, with what its parser does not accept left out.
const documented = `uboot:
  size : 0x4000
  lockfile : /var/lock/fw_printenv.lock
  writelist:
    - var1:sw
    - var2:sw
    - var3:dw
  devices:
    - path : /dev/mtd0
      offset : 0xA0000
      sectorsize : 0x10000
    - path : /dev/mtd0
      offset : 0xB0000
      sectorsize : 0x10000
      disablelock : yes

appvar:
  size : 0x4000
  lockfile : /var/lock/appvar.lock

  devices:
    - path : /dev/mtd1
      offset : 0
      sectorsize : 0x10000
`

func TestParseYAML(t *testing.T) {
	two := []boot.Area{{Path: "/dev/mtd0", Offset: 0xA0000, Size: 0x4000, Sector: 0x10000, Line: 9}, {Path: "/dev/mtd0", Offset: 0xB0000, Size: 0x4000, Sector: 0x10000, Line: 12}}
	for _, v := range []struct {
		name, text, space string
		areas             []boot.Area
		writable          []string
		lock              string
	}{
		{"first", documented, "", two, []string{"var1:sw", "var2:sw", "var3:dw"}, "/var/lock/fw_printenv.lock"},
		{"second", documented, "appvar", []boot.Area{{Path: "/dev/mtd1", Size: 0x4000, Sector: 0x10000, Line: 22}}, nil, "/var/lock/appvar.lock"},
		{"list as deep as its key, comments, quotes", "---\n# env\na b: # the one\n size: 0x40   # small\n devices:\n - path: \"/dev/ubi0:env\"\n   offset: 0\n", "a b",
			[]boot.Area{{Path: "/dev/ubi0:env", Size: 0x40, Line: 6}}, nil, ""},
		{"tab", "u:\n  devices:\n    -\tx\n", "", nil, nil, ""},
		{"negative offset, nothing writable", "u:\n  devices:\n    - offset: -0x4000\n      path: /dev/mmcblk0\n  writelist:\n  size: 8192\n", "",
			[]boot.Area{{Path: "/dev/mmcblk0", Offset: -0x4000, Size: 8192, Line: 3}}, []string{}, ""},
	} {
		c, err := boot.ParseYAML([]byte(v.text), v.space)
		if (err != nil) != (v.areas == nil) {
			t.Errorf("%s: %v", v.name, err)
			continue
		}
		if !slices.Equal(c.Areas, v.areas) || !slices.Equal(c.Writable, v.writable) || (c.Writable == nil) != (v.writable == nil) {
			t.Errorf("%s: %+v", v.name, c)
		}
		if v.lock != "" && !slices.Contains(c.Locks, v.lock) {
			t.Errorf("%s: locks %q", v.name, c.Locks)
		}
	}
}

// TestYAMLLine holds that every mistake is refused with its line.
func TestYAMLLine(t *testing.T) {
	good := "u:\n  size: 0x40\n  devices:\n    - path: /env\n      offset: 0\n"
	if _, err := boot.ParseYAML([]byte(good), ""); err != nil {
		t.Fatal(err)
	}
	for _, v := range []struct{ old, new, want string }{
		{"u:", "u: x", "line 1: it is not the name"},
		{"u:", "- u:", "line 1: it is not the name"},
		{"size:", "sise:", "line 2: \"sise\" is none"},
		{"0x40", "many", "line 2: size \"many\""},
		{"0x40", "[64]", "line 2: \"[\" begins"},
		{"0x40", "&a 64", "line 2: \"&\" begins"},
		{"0x40", "0x4", "namespace \"u\": line 4: size"},
		{"  size", "\tsize", "line 2: a tab"},
		{"devices:", "devices: none", "line 3: devices are a list"},
		{"  devices:", "  size: 0x40\n  devices:", "line 3: it is not a key of the namespace, or"},
		{"  devices:", "   devices:", "line 3: it is not a key"},
		{"- path: /env\n      offset", "- offset", "line 4: the device has no path"},
		{"path", "paht", "line 4: \"paht\" is none"},
		{"      offset: 0", "      offset: x", "line 5: offset"},
		{"      offset: 0", "       offset: 0", "line 5: it is not a key"},
		{"      offset: 0", "      disablelock: maybe", "line 5: disablelock"},
		{"      offset: 0\n", "    - path: /b\n    - path: /c\n", "line 6: it is not an item"},
		{"  devices", "  writelist:\n  - a\n  devices", "line 4: it is not an item"},
		{"  devices", "  writelist:\n  - a:qq\n  devices", "line 4: it is not an item"},
		{"  devices", "  writelist:\n  - a:sw\n  - a:sr\n  devices", "line 5: variable \"a\""},
		{"  devices", "  lockfile: rel\n  devices", "line 3: \"rel\" is not an absolute"},
		{"offset: 0\n", "offset: 0\nu:\n", "line 6: namespace \"u\" is there already"},
		{"offset: 0\n", "offset: 0\n---\nv:\n", "line 6: there is more than one"},
		{"/env", "\"/env", "line 4: \"/env is not a quoted"},
		{"- path: /env", "- # nothing", "line 4: an item has nothing"},
		{"- path: /env", "-", "line 4: an item has nothing"},
		{"    - path: /env\n      offset: 0\n", "", "line 1: namespace \"u\" has no devices"},
	} {
		text := strings.Replace(good, v.old, v.new, 1)
		if _, err := boot.ParseYAML([]byte(text), ""); err == nil || !strings.HasPrefix(err.Error(), v.want) {
			t.Errorf("%q: %v, want %q", text, err, v.want)
		}
	}
	if _, err := boot.ParseYAML([]byte(good), "v"); err == nil || !strings.Contains(err.Error(), `"v"`) {
		t.Errorf("a namespace that is not there: %v", err)
	}
	for _, text := range []string{"", "# nothing", strings.Repeat("#\n", 40000)} {
		if _, err := boot.ParseYAML([]byte(text), ""); err == nil {
			t.Errorf("%.20q was read", text)
		}
	}
}

// TestYAMLFile reads a file as the agent does, and sets through its writelist.
func TestYAMLFile(t *testing.T) {
	dir := t.TempDir()
	path, env := filepath.Join(dir, "fw_env.config"), filepath.Join(dir, "env")
	text := fmt.Sprintf("uboot:\n  size: 0x100\n  lockfile: %s\n  writelist:\n    - BOOT_ORDER:sw\n    - serial:sr\n    - n:dw\n  devices:\n    - path: %s\n", filepath.Join(dir, "lock"), env)
	for name, content := range map[string][]byte{path: []byte(text), env: make([]byte, 0x100)} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := boot.ReadConfig(path, "uboot")
	if err != nil {
		t.Fatal(err)
	}
	b := &bed{t: t, config: c}
	b.config.Locks = []string{filepath.Join(dir, "lock")}
	b.create(native(), "BOOT_ORDER=A B", "serial=1")
	for _, v := range []struct {
		name, value string
		ok          bool
	}{{"BOOT_ORDER", "B A", true}, {"serial", "1", true}, {"serial", "2", false}, {"n", "5", true}, {"n", "x", false}, {"other", "1", false}} {
		if err := b.load().Set(v.name, v.value); (err == nil) != v.ok {
			t.Errorf("set %s to %s: %v", v.name, v.value, err)
		}
	}
}
