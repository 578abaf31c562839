// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"log/slog"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/backstay/backstay/testdata/testneed"
)

func TestProgramPart(t *testing.T) {
	for line, want := range map[string]bool{
		"00400000-00a1b000 r-xp 00000000 fe:00 1234                               /usr/bin/backstay":     true,
		"00a1b000-01000000 r--p 0061b000 fe:00 1234                               /usr/bin/backstay":     true,
		"01000000-01050000 rw-p 00c00000 fe:00 1234                               /usr/bin/backstay":     false, // what was written there would be lost
		"7f0000000000-7f0000021000 r--p 00000000 fe:00 99                         /usr/bin/backstay.old": false,
		"c000000000-c000400000 rw-p 00000000 00:00 0":                                                    false,
		"7ffd3a5c0000-7ffd3a5e1000 rw-p 00000000 00:00 0                          [stack]":               false,
		"zz-00a1b000 r-xp 00000000 fe:00 1234                                     /usr/bin/backstay":     false,
		"00a1b000-00400000 r-xp 00000000 fe:00 1234                               /usr/bin/backstay":     false,
		"": false,
	} {
		from, to, ok := programPart(line, "/usr/bin/backstay")
		if ok != want || (ok && from >= to) {
			t.Errorf("%q: %x to %x, %v", line, from, to, ok)
		}
	}
}

// TestTrim holds that a trim makes the program's part of the resident memory smaller, and that the program goes on.
func TestTrim(t *testing.T) {
	testneed.Native(t)
	before := residentFile(t)
	trim()
	after := residentFile(t)
	t.Logf("%d KiB of files resident, %d KiB after", before, after)
	if after >= before {
		t.Errorf("%d KiB of the program were resident, and %d KiB are", before, after)
	}
	told := ""
	lean(func(code string, _ ...slog.Attr) { told = code })("update.available")
	if told != "update.available" {
		t.Errorf("%q was told", told)
	}
}

func residentFile(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "RssFile:"); ok {
			n, err := strconv.Atoi(strings.Fields(v)[0])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Skip("this kernel does not say what is resident of files")
	return 0
}
