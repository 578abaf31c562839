// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
)

// Bounds of one walk.
const (
	maxEntries = 400_000 // entries visited; a full Debian root has about 60 000
	maxDepth   = 64      // directories below the start
)

// visit sees one entry, which tree knows as name. It must not follow links.
type visit func(tree Tree, name string, in Info) error

type walk struct {
	h    *Host
	ctx  context.Context // of this walk only
	fn   visit
	dev  uint64
	left int
}

// Walk calls fn for every entry below start that is on start's file system, directories first, links not followed, paths
// of the skip list and the kernel's own trees (/proc, /sys, /dev) left out. It ends with ErrTooLarge when the tree has more
// entries than maxEntries or is deeper than maxDepth: whoever asked has then not seen everything.
func (h *Host) Walk(ctx context.Context, start string, fn visit) error {
	in, err := h.Stat(start)
	if err != nil {
		return err
	}
	if !in.Mode.IsDir() {
		return fmt.Errorf("walk %s: not a directory", printable(start))
	}
	w := walk{h: h, ctx: ctx, fn: fn, dev: in.Dev, left: h.entries}
	return w.dir(h.tree, rel(in.Path), in.Path, 0)
}

// dir visits what is in the directory called name of tree, whose path is at.
func (w *walk) dir(tree Tree, name, at string, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("walk %s: %w: deeper than %d directories", printable(at), ErrTooLarge, maxDepth)
	}
	if s, ok := tree.(subTree); ok {
		sub, c, err := s.Sub(name)
		if err != nil {
			return fmt.Errorf("walk %s: %w", printable(at), cause(err))
		}
		defer c.Close()
		tree, name = sub, "."
	}
	for base, err := range tree.Names(name) {
		if err != nil {
			return fmt.Errorf("walk %s: %w", printable(at), cause(err))
		}
		if err := w.entry(tree, path.Join(name, base), path.Join(at, base), depth); err != nil {
			return err
		}
	}
	return nil
}

func (w *walk) entry(tree Tree, name, at string, depth int) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	if w.left--; w.left < 0 {
		return fmt.Errorf("walk: %w: more than %d entries", ErrTooLarge, w.h.entries)
	}
	if w.h.leavesOut(at) {
		return nil
	}
	fi, err := tree.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // gone since the directory was read
	}
	if err != nil {
		return fmt.Errorf("walk %s: %w", printable(at), cause(err))
	}
	in, err := w.h.pretended(infoOf(at, fi))
	if err != nil {
		return nil // taken away by an earlier change of a dry run
	}
	if err := w.fn(tree, name, in); err != nil {
		return err
	}
	if !in.Mode.IsDir() || in.Dev != w.dev {
		return nil
	}
	return w.dir(tree, name, at, depth+1)
}

// leavesOut reports whether walks leave p out.
func (h *Host) leavesOut(p string) bool {
	in := func(dir string) bool { return below(dir, p) }
	return in("/proc") || in("/sys") || in("/dev") || slices.ContainsFunc(h.skip, in)
}
