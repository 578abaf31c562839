// SPDX-License-Identifier: Apache-2.0

package boot_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/boot"
)

func TestParseConfig(t *testing.T) {
	for _, v := range []struct {
		name, text string
		want       []boot.Area // nil: refused
	}{
		{"two copies", "/dev/mmcblk0 0x100000 0x10000\n/dev/mmcblk0 0x110000 0x10000\n",
			[]boot.Area{{Path: "/dev/mmcblk0", Offset: 0x100000, Size: 0x10000}, {Path: "/dev/mmcblk0", Offset: 0x110000, Size: 0x10000}}},
		{"sizes are hexadecimal without 0x", "/env 0 40", []boot.Area{{Path: "/env", Offset: 0, Size: 0x40}}},
		{"offsets are C literals", "/a 64 0x40\n/b 010 40", []boot.Area{{Path: "/a", Offset: 64, Size: 0x40}, {Path: "/b", Offset: 8, Size: 0x40}}},
		{"negative offsets", "/dev/a -0x4000 2000\n/dev/a -8192 2000", []boot.Area{{Path: "/dev/a", Offset: -0x4000, Size: 0x2000}, {Path: "/dev/a", Offset: -8192, Size: 0x2000}}},
		{"comments, blank lines, sectors", "# MTD\n\n\t/env 0x0 0x40 0x1000 4 1\n  # end\n/b 0 40 # other\n",
			[]boot.Area{{Path: "/env", Offset: 0, Size: 0x40, Sector: 0x1000, Sectors: 4}, {Path: "/b", Offset: 0, Size: 0x40}}},
		{"a third copy is ignored", "/a 0 40\n/b 0 40\n/c 0 80", []boot.Area{{Path: "/a", Offset: 0, Size: 0x40}, {Path: "/b", Offset: 0, Size: 0x40}}},
		{"no line", "# nothing\n", nil},
		{"sizes differ", "/a 0 40\n/b 0 80", nil},
		{"copies overlap", "/a 0x0 40\n/a 0x20 40", nil},
		{"copies overlap at the end", "/a -0x40 40\n/a -0x20 40", nil},
		{"too small", "/a 0 f", nil},
		{"too large", "/a 0 100001", nil},
		{"larger than a number", "/a 0 ffffffffffffffffffff", nil},
		{"too long", strings.Repeat("#\n", 40000), nil},
	} {
		c, err := boot.ParseConfig([]byte(v.text))
		if (err != nil) != (v.want == nil) {
			t.Errorf("%s: error is %v", v.name, err)
			continue
		}
		if len(c.Areas) != len(v.want) {
			t.Errorf("%s: %v", v.name, c.Areas)
			continue
		}
		for i, a := range v.want {
			if c.Areas[i].Line = 0; c.Areas[i] != a {
				t.Errorf("%s: area %d is %+v, want %+v", v.name, i, c.Areas[i], a)
			}
		}
	}
}

// TestConfigLine holds that a configuration is refused with the line that is wrong, where the tools would pass over it.
func TestConfigLine(t *testing.T) {
	for _, v := range []struct{ text, want string }{
		{"/dev/a 0x0\n/env 0x0 0x40\n", "line 1: 2 words"},
		{"\n/env 0 40\n/dev/a zero 40\n", "line 3: offset"},
		{"/env 0 40\n/dev/b 0 size", "line 2: size"},
		{"/env 0 40 sector", "line 1: sector size"},
		{"/env 0 40 1000 many", "line 1: number of sectors"},
		{"/env 0 40 1000 1 2", "line 1: \"2\" is neither"},
		{"/env 0 40 1000 1 0 0", "line 1: 7 words"},
		{"# x\n/a 0 f", "line 2: size"},
		{"/a 0 40\n\n/b 0 80", "line 3: the two copies differ"},
		{"/a 0x0 40\n/a 0x20 40", "line 2: the two copies overlap"},
		{"/a 0 40 2000000", "line 1: 0 sectors of 0x2000000"},
	} {
		if _, err := boot.ParseConfig([]byte(v.text)); err == nil || !strings.HasPrefix(err.Error(), v.want) {
			t.Errorf("%q: %v, want %q", v.text, err, v.want)
		}
	}
	path := filepath.Join(t.TempDir(), "fw_env.config")
	if err := os.WriteFile(path, []byte("# nothing\n/nonexistent/env 0 40\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := boot.ReadConfig(path, "")
	if err != nil {
		t.Fatal(err)
	}
	c.Locks = []string{}
	if _, err := boot.Load(c); !errors.Is(err, update.ErrSetup) || !strings.Contains(err.Error(), path+" line 2: ") {
		t.Errorf("an environment that is not there: %v", err)
	}
	if _, err := boot.ReadConfig(path, "uboot"); !errors.Is(err, update.ErrSetup) {
		t.Errorf("a namespace where there are none: %v", err)
	}
}

func TestReadConfig(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fw_env.config")
	if _, err := boot.ReadConfig(path, ""); !errors.Is(err, update.ErrSetup) {
		t.Errorf("missing: %v", err)
	}
	if err := os.WriteFile(path, []byte("/env -64 40\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := boot.ReadConfig(path, "")
	if err != nil || len(c.Areas) != 1 || c.Areas[0].Offset != -64 {
		t.Errorf("%+v, %v", c, err)
	}
}

// TestNegativeOffset holds that only a block device has an end to count from.
func TestNegativeOffset(t *testing.T) {
	b := newBed(t, 1, 0x40, 0)
	b.config.Areas[0].Offset = -0x40
	if _, err := boot.Load(b.config); !errors.Is(err, update.ErrSetup) || !strings.Contains(err.Error(), "block device") {
		t.Errorf("error is %v", err)
	}
}
