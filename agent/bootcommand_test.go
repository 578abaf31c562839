// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/backstay/backstay/testdata/testneed"
	"github.com/backstay/backstay/update"
)

// customScript is a program as RAUC's custom backend has it; it keeps a file for each thing.
const customScript = `#!/bin/sh
set -e
cd "${0%/*}"
case "$1" in
get-primary) cat primary ;;
set-primary) echo "$2" > primary; echo good > "state.$2" ;;
get-state) cat "state.$2" ;;
set-state) echo "$3" > "state.$2" ;;
hang) sleep 60 ;;
flood) head -c 100000 /dev/zero ;;
env) env | sort ;;
*) echo "what is $1?" >&2; exit 1 ;;
esac
`

// TestBootCommand drives a script of the kind products have for RAUC, from a configuration.
func TestBootCommand(t *testing.T) {
	testneed.Native(t)
	dir := t.TempDir()
	put := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	script := put("backend", customScript, 0o700)
	put("primary", "system0\n", 0o600)
	put("state.system0", "good\n", 0o600)
	put("state.system1", "good\n", 0o600)
	b, err := openBoot(bootConfig(t, fmt.Sprintf(`{"kind": "command", "command": [%q]}`, script), "system0", "system1"), [2]update.SlotID{"A", "B"})
	if err != nil {
		t.Fatal(err)
	}
	for _, do := range []func() error{
		func() error { return b.Disarm("B") }, func() error { return b.Try("B", 3) },
		func() error { return b.Keep("B") }, func() error { return b.Disarm("A") },
	} {
		if err := do(); err != nil {
			t.Fatal(err)
		}
	}
	if s, err := b.State(); err != nil || s.Primary != "B" || s.Left["A"] != 0 || s.Left["B"] != 3 || len(s.Order) != 1 {
		t.Errorf("state %+v, %v", s, err)
	}
	if _, err := openBoot(bootConfig(t, `{"kind": "command", "command": ["/nonexistent/x"]}`), [2]update.SlotID{"A", "B"}); !errors.Is(err, update.ErrSetup) {
		t.Errorf("a program that is not there: %v", err)
	}
	began := time.Now()
	if _, err := bootCommand([]string{script}, 200*time.Millisecond)("hang"); err == nil || time.Since(began) > 10*time.Second {
		t.Errorf("a program that hangs: %v after %s", err, time.Since(began))
	}
	if _, err := bootCommand([]string{script}, time.Minute)("flood"); err == nil || !strings.Contains(err.Error(), "more than 4096 bytes") {
		t.Errorf("a program that floods: %v", err)
	}
	if _, err := bootCommand([]string{script}, time.Minute)("other"); err == nil || !strings.Contains(err.Error(), "what is other?") {
		t.Errorf("a program that fails: %v", err)
	}
	t.Setenv("SECRET", "1")
	if out, err := bootCommand([]string{script}, time.Minute)("env"); err != nil || strings.Contains(out, "SECRET") {
		t.Errorf("environment %q, %v", out, err)
	}
}
