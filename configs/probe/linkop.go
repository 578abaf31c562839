// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"syscall"
	"time"
)

// lstat and readLink are those of the tree with the links that a dry run pretends. Only links are pretended here; what else
// is pretended, Stat and Read know.
func (h *Host) lstat(name string) (fs.FileInfo, error) {
	o, ok := h.over["/"+name]
	if ok && o.link != "" {
		return pretendedLink(path.Base(name)), nil
	}
	fi, err := h.tree.Lstat(name)
	if ok && o.gone && err == nil && fi.Mode()&fs.ModeSymlink != 0 {
		return nil, fs.ErrNotExist
	}
	return fi, err
}

func (h *Host) readLink(name string) (string, error) {
	if o, ok := h.over["/"+name]; ok && (o.link != "" || o.gone) {
		if o.gone {
			return "", fs.ErrNotExist
		}
		return o.link, nil
	}
	return h.tree.ReadLink(name)
}

// pretendedLink describes a link that is not there yet.
type pretendedLink string

func (l pretendedLink) Name() string       { return string(l) }
func (l pretendedLink) Size() int64        { return 0 }
func (l pretendedLink) Mode() fs.FileMode  { return fs.ModeSymlink | 0o777 }
func (l pretendedLink) ModTime() time.Time { return time.Time{} }
func (l pretendedLink) IsDir() bool        { return false }
func (l pretendedLink) Sys() any           { return &syscall.Stat_t{} }

// linkTo is the text of a link in the last element, "" when it is none.
func (h *Host) linkTo(name string) string {
	to, err := h.readLink(rel(h.entryPath(name)))
	if err != nil {
		return ""
	}
	return to
}

// nothingAt reports whether the last element of name is free, not even a dangling link.
func (h *Host) nothingAt(name string) bool {
	p := h.entryPath(name)
	if o, ok := h.over[p]; ok {
		return o.gone
	}
	_, err := h.lstat(rel(p))
	return errors.Is(err, fs.ErrNotExist)
}

// link makes or removes a symbolic link. The text of a link is never followed here: only its directory is resolved.
func (h *Host) link(c Change) error {
	if dir, err := h.Resolve(path.Dir(c.Path)); err != nil || path.Join(dir, path.Base(c.Path)) != c.Path {
		return errors.Join(ErrChanged, err)
	}
	if c.Op == Symlink {
		if !h.nothingAt(c.Path) {
			return ErrChanged
		}
		if err := h.root.Symlink(string(c.After), rel(c.Path)); err != nil {
			return fmt.Errorf("make the link: %w", cause(err))
		}
		return h.syncDir(c.Path)
	}
	if to := h.linkTo(c.Path); to == "" || to != string(c.Before) {
		return ErrChanged
	}
	if err := h.root.Remove(rel(c.Path)); err != nil {
		return cause(err)
	}
	return h.syncDir(c.Path)
}
