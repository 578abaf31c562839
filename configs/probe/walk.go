// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
)

// Bounds of one walk.
const (
	maxEntries = 400_000 // entries visited; a full Debian root has about 60 000
	maxDepth   = 64      // directories below the start
)

// visit sees one entry; dir holds it under the name base. It must not follow links.
type visit func(dir *os.Root, base string, in Info) error

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
	dir, err := h.root.OpenRoot(rel(in.Path))
	if err != nil {
		return fmt.Errorf("walk %s: %w", printable(start), cause(err))
	}
	defer dir.Close()
	w := walk{h: h, ctx: ctx, fn: fn, dev: in.Dev, left: maxEntries}
	return w.dir(dir, in.Path, 0)
}

func (w *walk) dir(dir *os.Root, at string, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("walk %s: %w: deeper than %d directories", printable(at), ErrTooLarge, maxDepth)
	}
	f, err := dir.Open(".")
	if err != nil {
		return fmt.Errorf("walk %s: %w", printable(at), cause(err))
	}
	defer f.Close()
	for {
		names, err := f.Readdirnames(256)
		for _, base := range names {
			if err := w.entry(dir, base, path.Join(at, base), depth); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("walk %s: %w", printable(at), cause(err))
		}
	}
}

func (w *walk) entry(dir *os.Root, base, at string, depth int) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	if w.left--; w.left < 0 {
		return fmt.Errorf("walk: %w: more than %d entries", ErrTooLarge, maxEntries)
	}
	if slices.Contains(w.h.skip, at) || at == "/proc" || at == "/sys" || at == "/dev" {
		return nil
	}
	fi, err := dir.Lstat(base)
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
	if err := w.fn(dir, base, in); err != nil {
		return err
	}
	if !in.Mode.IsDir() || in.Dev != w.dev {
		return nil
	}
	sub, err := dir.OpenRoot(base)
	if err != nil {
		return fmt.Errorf("walk %s: %w", printable(at), cause(err))
	}
	defer sub.Close()
	return w.dir(sub, at, depth+1)
}
