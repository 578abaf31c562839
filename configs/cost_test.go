// SPDX-License-Identifier: Apache-2.0

package configs_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/backstay/backstay/configs"
	"github.com/backstay/backstay/testdata/testneed"
)

// A full check of every profile leaves the tree, the state directory and the disk as they are.
func TestACheckWritesNothing(t *testing.T) {
	testneed.Native(t)
	// In a process of its own: go test has this one write down every file that it opens.
	const child = "BACKSTAY_TEST_COUNTED"
	if os.Getenv(child) == "" {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestACheckWritesNothing$")
		cmd.Env = append(os.Environ(), child+"=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	dir, _ := plant(t)
	e := engine(t, dir, load(t, configs.Profiles()...))
	tree, before := snapshot(t, dir), written(t)
	check(t, e)
	check(t, e)
	if n := written(t) - before; n != 0 {
		t.Errorf("two checks wrote %d bytes", n)
	}
	sameTree(t, tree, snapshot(t, dir), "check")
	if left := snapshot(t, e.StateDir); len(left) > 0 {
		t.Errorf("two checks left %v", left)
	}
}

// written is how many bytes this process has sent to disks so far, as the kernel counts them.
func written(t *testing.T) (n int64) {
	t.Helper()
	data, err := os.ReadFile("/proc/self/io")
	if err != nil {
		t.Skip("the kernel does not count what a process writes:", err)
	}
	for line := range strings.Lines(string(data)) {
		if v, ok := strings.CutPrefix(line, "write_bytes: "); ok {
			for _, c := range strings.TrimSpace(v) {
				n = 10*n + int64(c-'0')
			}
		}
	}
	return n
}
