// SPDX-License-Identifier: Apache-2.0

package spool_test

import (
	"bytes"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/backstay/backstay/logging/spool"
)

// flash is a model of a file system over power cuts. It follows the effects of a log and knows what is certainly on flash,
// and what only may be:
//
//   - of bytes written or cut since the last fsync of a file, each sector of 512 bytes, and the length;
//   - of names made, renamed or removed since the last fsync of their directory, each step; a rename is atomic.
type flash struct {
	root *node
	base string // path of the root outside
}

// node is a file or a directory.
type node struct {
	data, synced []byte // file: as written, as certain
	names        map[string]*node
	certain      map[string]*node
	steps        []step // from certain to names
}

// step changes names: gone disappears, and name stands for node.
type step struct {
	gone, name string
	node       *node
}

func (s step) apply(names map[string]*node) {
	delete(names, s.gone)
	if s.node != nil {
		names[s.name] = s.node
	}
}

func newFlash(base string) *flash {
	return &flash{base: base, root: &node{names: map[string]*node{}, certain: map[string]*node{}}}
}

func (f *flash) find(path string) *node {
	rel, err := filepath.Rel(f.base, path)
	if err != nil || rel == "." {
		return f.root
	}
	n := f.root
	for part := range strings.SplitSeq(rel, "/") {
		if n = n.names[part]; n == nil {
			return nil
		}
	}
	return n
}

func (f *flash) step(path string, s step) {
	dir := f.find(filepath.Dir(path))
	s.apply(dir.names)
	dir.steps = append(dir.steps, s)
}

// follow takes over one effect.
func (f *flash) follow(t *testing.T, e spool.Effect) {
	base := filepath.Base(e.Path)
	switch e.Op {
	case "create":
		if n := f.find(e.Path); n != nil {
			n.data = nil
			return
		}
		f.step(e.Path, step{name: base, node: &node{}})
	case "mkdir":
		f.step(e.Path, step{name: base, node: &node{names: map[string]*node{}, certain: map[string]*node{}}})
	case "rename":
		f.step(e.Path, step{gone: base, name: filepath.Base(e.To), node: f.find(e.Path)})
	case "remove":
		f.step(e.Path, step{gone: base})
	case "write":
		n := f.find(e.Path)
		if grow := int(e.Offset) + len(e.Data) - len(n.data); grow > 0 {
			n.data = append(bytes.Clone(n.data), make([]byte, grow)...)
		} else {
			n.data = bytes.Clone(n.data)
		}
		copy(n.data[e.Offset:], e.Data)
	case "truncate":
		f.find(e.Path).data = bytes.Clone(f.find(e.Path).data[:e.Offset])
	case "sync", "syncdir":
		n := f.find(e.Path)
		if n == nil {
			t.Fatalf("%s of %s, which is not there", e.Op, e.Path)
		}
		n.synced = n.data
		n.certain, n.steps = maps.Clone(n.names), nil
	}
}

// unsure reports whether anything may or may not be on flash.
func (n *node) unsure() bool {
	if len(n.steps) > 0 || !bytes.Equal(n.data, n.synced) {
		return true
	}
	for _, c := range n.names {
		if c.unsure() {
			return true
		}
	}
	return false
}

// image writes what is on flash after a cut; pick decides about each thing that may be there.
func (n *node) image(t *testing.T, path string, pick func() bool, rng *rand.Rand) {
	t.Helper()
	if n.names == nil {
		if err := os.WriteFile(path, sectors(n.synced, n.data, pick, rng), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		t.Fatal(err)
	}
	names := maps.Clone(n.certain)
	for _, s := range n.steps {
		if pick() {
			s.apply(names)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		names[name].image(t, filepath.Join(path, name), pick, rng)
	}
}

const sector = 512

// sectors mixes two states of a file.
func sectors(synced, data []byte, pick func() bool, rng *rand.Rand) []byte {
	if bytes.Equal(synced, data) {
		return data
	}
	size := len(synced)
	if pick() {
		size = len(data)
	} else if d := len(data) - size; d > 0 && pick() {
		size += rng.IntN(d)
	}
	out := make([]byte, size)
	copy(out, synced)
	for at := 0; at < min(size, len(data)); at += sector {
		end := min(at+sector, size, len(data))
		if pick() {
			copy(out[at:end], data[at:end])
		}
	}
	return out
}
