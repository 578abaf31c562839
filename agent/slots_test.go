// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/backstay/backstay/agent/config"
	"github.com/backstay/backstay/update"
)

// TestSlotsRefusedAtStart holds that a slot that is not what the configuration says is refused when the agent starts, with the
// line that says so, and that nothing is written.
func TestSlotsRefusedAtStart(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	a, b := file("a", "image a"), file("b", "image b")
	for _, tt := range []struct{ kind, path, want string }{
		{"file", b, ""},
		{"file", a, "is slot A as well"},
		{"file", filepath.Join(dir, "none"), "no such file"},
		{"block", b, "is not of kind \"block\""},
		{"block", "/dev/null", "is not of kind \"block\""},
		{"emmc-boot", b, "is not a block device"},
		{"mtd", "/dev/null", "ask /dev/null for its flash"},
		{"mtd", "mtd:none", "no flash is named \"none\""},
		{"ubi", "/dev/null", "is not a volume"},
		{"ubi", "ubi7:none", "has no volume of that name"},
	} {
		path := filepath.Join(t.TempDir(), "config.json")
		text := fmt.Sprintf(`{"product": {"name": "p", "compatible": "c"}, "server": {"ca_file": "/c"},
	"update": {"root_file": "/r", "metadata_url": "https://m/", "targets_url": "https://t/"},
	"slots": {"A": {"kind": "file", "path": %q},
		"B": {"kind": %q,
			"path": %q}}}`, a, tt.kind, tt.path)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, err := config.Load(path)
		if tt.path == a {
			if err == nil {
				t.Error("one place as two slots")
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = openSlots(cfg)
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("%s %s: %v", tt.kind, tt.path, err)
		case tt.want != "" && (!errors.Is(err, update.ErrSetup) || !strings.Contains(err.Error(), "configuration line 5: slots.B.path: ") ||
			!strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s %s: %v", tt.kind, tt.path, err)
		}
	}
	for path, want := range map[string]string{a: "image a", b: "image b"} {
		if got, err := os.ReadFile(path); string(got) != want {
			t.Errorf("%s holds %q, %v", path, got, err)
		}
	}
}
