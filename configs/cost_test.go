// SPDX-License-Identifier: Apache-2.0

package configs_test

import (
	"os"
	"strings"
	"testing"

	"github.com/backstay/backstay/configs"
)

// A full check of every profile leaves the tree, the state directory and the disk as they are.
func TestACheckWritesNothing(t *testing.T) {
	dir, _ := plant(t)
	e := engine(t, dir, load(t, configs.Profiles()...))
	tree := snapshot(t, dir)
	// The kernel counts for the whole process, and what an earlier test left running may write beside the check.
	for try := 1; ; try++ {
		before := written(t)
		check(t, e)
		check(t, e)
		n := written(t) - before
		if n == 0 {
			break
		}
		if try == 5 {
			t.Errorf("two checks wrote %d bytes, and so did four times two before", n)
			break
		}
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
