// SPDX-License-Identifier: Apache-2.0

package slot

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/backstay/backstay/update"
)

// raucKey is the parameter that boot scripts for RAUC, and U-Boot's own bootmeth_rauc, pass.
const raucKey = "rauc.slot"

// maxCmdline bounds what is read of a command line, in bytes. The kernel's own limit is 4096 on most architectures.
const maxCmdline = 64 << 10

// Booted returns the slot that the kernel command line names. A line without a slot, with two different ones, or with one
// that is not configured is ErrSetup: guessing here would end in writing over the running system.
func (s *Set) Booted() (update.SlotID, error) {
	f, err := os.Open(s.cmdline)
	if err != nil {
		return "", fmt.Errorf("find running slot: %w: %w", update.ErrSetup, err)
	}
	defer f.Close()
	line, err := io.ReadAll(io.LimitReader(f, maxCmdline+1))
	if err != nil {
		return "", fmt.Errorf("find running slot: %w", err)
	}
	if len(line) > maxCmdline {
		return "", fmt.Errorf("find running slot: %w: %s is longer than %d bytes", update.ErrSetup, s.cmdline, maxCmdline)
	}
	parse := func(line string) (update.SlotID, error) { return parseCmdline(line, s.key) }
	if s.key == rootKey {
		parse = s.byRoot
	}
	found, err := parse(string(line))
	if err != nil {
		return "", fmt.Errorf("find running slot in %s: %w: %w", s.cmdline, update.ErrSetup, err)
	}
	if _, ok := s.slots[found]; !ok {
		return "", fmt.Errorf("find running slot in %s: %w: slot %q is not configured", s.cmdline, update.ErrSetup, found)
	}
	return found, nil
}

// parseCmdline returns the one slot that the parameters key and rauc.slot agree on. What follows "--" is for init.
func parseCmdline(line, key string) (update.SlotID, error) {
	var found update.SlotID
	for _, word := range words(line) {
		if word == "--" {
			break
		}
		name, value, ok := strings.Cut(word, "=")
		if !ok || (name != key && name != raucKey) {
			continue
		}
		id := update.SlotID(strings.Trim(value, `"`))
		if id == "" {
			return "", fmt.Errorf("parameter %s is empty", name)
		}
		if found != "" && found != id {
			return "", fmt.Errorf("it names two slots, %q and %q", found, id)
		}
		found = id
	}
	if found == "" {
		return "", fmt.Errorf("no parameter %s or %s", key, raucKey)
	}
	return found, nil
}

// words splits a command line as the kernel does: at white space outside double quotes.
func words(line string) []string {
	quoted := false
	return strings.FieldsFunc(line, func(r rune) bool {
		if r == '"' {
			quoted = !quoted
		}
		return !quoted && (r == ' ' || r == '\t' || r == '\n' || r == 0)
	})
}
