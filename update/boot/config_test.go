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
			[]boot.Area{{"/dev/mmcblk0", 0x100000, 0x10000}, {"/dev/mmcblk0", 0x110000, 0x10000}}},
		{"sizes are hexadecimal without 0x", "/env 0 40", []boot.Area{{"/env", 0, 0x40}}},
		{"offsets are C literals", "/a 64 0x40\n/b 010 40", []boot.Area{{"/a", 64, 0x40}, {"/b", 8, 0x40}}},
		{"negative offsets", "/dev/a -0x4000 2000\n/dev/a -8192 2000", []boot.Area{{"/dev/a", -0x4000, 0x2000}, {"/dev/a", -8192, 0x2000}}},
		{"comments, blank lines, sectors", "# MTD\n\n\t/env 0x0 0x40 0x1000 4 1\n", []boot.Area{{"/env", 0, 0x40}}},
		{"short lines are skipped", "/dev/a 0x0\n/env 0x0 0x40\n", []boot.Area{{"/env", 0, 0x40}}},
		{"lines that do not scan are skipped", "/dev/a zero 40\n/dev/b 0 size\n/env +0 40", []boot.Area{{"/env", 0, 0x40}}},
		{"a third copy is ignored", "/a 0 40\n/b 0 40\n/c 0 80", []boot.Area{{"/a", 0, 0x40}, {"/b", 0, 0x40}}},
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
			if c.Areas[i] != a {
				t.Errorf("%s: area %d is %+v, want %+v", v.name, i, c.Areas[i], a)
			}
		}
	}
}

func TestReadConfig(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fw_env.config")
	if _, err := boot.ReadConfig(path); !errors.Is(err, update.ErrSetup) {
		t.Errorf("missing: %v", err)
	}
	if err := os.WriteFile(path, []byte("/env -64 40\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := boot.ReadConfig(path)
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
