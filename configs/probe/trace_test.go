// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestEveryUserOfAFactAnswersForItsPaths(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "etc/init.d"), 0o755); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	h := NewHost(root, false)
	h.starts(t.Context()) // nobody traces yet
	h.started = nil
	h.Trace()
	h.starts(t.Context())
	first := h.Trace()
	h.starts(t.Context())
	second := h.Trace()
	if !slices.Contains(first, "/etc/init.d") || !slices.Equal(first, second) {
		t.Errorf("the first user answers for %q, the second for %q", first, second)
	}
	if got := h.Trace(); len(got) != 0 {
		t.Errorf("nobody asked, and %q was looked up", got)
	}
}
