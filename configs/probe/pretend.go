// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"strings"
)

// planned is what a path would be after the changes that were pretended.
type planned struct {
	data []byte
	gone bool
	mode *fs.FileMode
	link string // what a link says that is not there yet

	remount []string // options of the mount there
	caps    *[]byte
}

// Pretend makes later reads see c as if it had been applied, without writing. A dry run is a run on pretended changes.
func (h *Host) Pretend(c Change) {
	if h.over == nil {
		h.over = map[string]planned{}
	}
	o := h.over[c.Path]
	switch c.Op {
	case Chmod:
		mode := c.Mode
		o.mode = &mode
	case Signal:
		return // processes are as they are until it is sent
	case Remount:
		o.remount = strings.FieldsFunc(string(c.After), func(r rune) bool { return r == ',' })
		o.remount = append([]string{}, o.remount...)
	case Capability:
		o.caps = &c.After
	case Remove, Unlink:
		o = planned{gone: true}
	case Symlink:
		o = planned{link: string(c.After)}
	case Create:
		mode := c.Mode
		o = planned{data: c.After, mode: &mode}
	default:
		o.data = c.After
	}
	h.over[c.Path] = o
	h.Forget(c.Path)
}

// proved gives a plan back if the check passes once it is carried out, which is tried without writing. A file may be such
// that an edit of one line does not do what it says: a quote that goes on over lines, a second place that sets the same.
func proved(ctx context.Context, h *Host, c Check, plan []Change) ([]Change, error) {
	after := newHost(h.tree, h.skip)
	after.root, after.live, after.over, after.guesses, after.versions = h.root, h.live, maps.Clone(h.over), h.guesses, h.versions
	for _, ch := range plan {
		after.Pretend(ch)
	}
	if v := c.Check(ctx, after); v.Result == Fail || v.Result == Unknown {
		return nil, fmt.Errorf("an edit of the settings would not help: %w", ErrNoFix)
	}
	return plan, nil
}

// pretended adjusts what Lstat said for a resolved path.
func (h *Host) pretended(in Info) (Info, error) {
	o, ok := h.over[in.Path]
	if !ok {
		return in, nil
	}
	if o.gone {
		return in, fmt.Errorf("%s: %w", printable(in.Path), fs.ErrNotExist)
	}
	if o.mode != nil {
		in.Mode = in.Mode&^permBits | *o.mode&permBits
	}
	if o.data != nil {
		in.Size = int64(len(o.data))
	}
	return in, nil
}

// Ready reports whether c could be applied to what is there now.
func (h *Host) Ready(ctx context.Context, c Change) bool {
	if c.Op == Firewall {
		return h.filterReady(ctx, c)
	}
	in, err := h.Stat(c.Path)
	switch c.Op {
	case Signal:
		return true
	case Unlink:
		return h.linkTo(c.Path) == string(c.Before)
	case Symlink:
		return h.nothingAt(c.Path)
	case Create:
		return errors.Is(err, fs.ErrNotExist)
	case Chmod:
		return err == nil && in.Mode&permBits == c.OldMode&permBits
	default:
		return h.has(ctx, c, c.Before)
	}
}

// Holds reports whether what is there now is already what c would make of it.
func (h *Host) Holds(ctx context.Context, c Change) bool {
	if c.Op == Firewall {
		return h.filterIs(ctx, c.After)
	}
	in, err := h.Stat(c.Path)
	switch c.Op {
	case Signal:
		return false
	case Unlink:
		return h.nothingAt(c.Path)
	case Symlink:
		return h.linkTo(c.Path) == string(c.After)
	case Remove:
		return errors.Is(err, fs.ErrNotExist)
	case Chmod:
		return err == nil && in.Mode&permBits == c.Mode&permBits
	default:
		return h.has(ctx, c, c.After)
	}
}

func (h *Host) has(ctx context.Context, c Change, want []byte) bool {
	switch c.Op {
	case Remount:
		now := h.mountState(ctx, c.Path)
		return now != nil && bytes.Equal(now, want)
	case Capability:
		return bytes.Equal(h.capabilityOf(c.Path), want)
	}
	now, err := h.Read(ctx, c.Path)
	return err == nil && equalBytes(c.Op, now, want)
}

// equalBytes compares contents; the kernel may answer a written value in its own spacing.
func equalBytes(op Op, a, b []byte) bool {
	if op == Kernel {
		return bytes.Equal(bytes.Join(bytes.Fields(a), []byte(" ")), bytes.Join(bytes.Fields(b), []byte(" ")))
	}
	return bytes.Equal(a, b)
}

// OctalMode is a mode as chmod takes it, with setuid, setgid and sticky bits.
func OctalMode(m fs.FileMode) string { return fmt.Sprintf("%04o", unixMode(m)) }

func unixMode(m fs.FileMode) uint32 {
	u := uint32(m.Perm())
	if m&fs.ModeSetuid != 0 {
		u |= 0o4000
	}
	if m&fs.ModeSetgid != 0 {
		u |= 0o2000
	}
	if m&fs.ModeSticky != 0 {
		u |= 0o1000
	}
	return u
}

// fileMode is the inverse of unixMode.
func fileMode(u uint32) fs.FileMode {
	m := fs.FileMode(u & 0o777)
	if u&0o4000 != 0 {
		m |= fs.ModeSetuid
	}
	if u&0o2000 != 0 {
		m |= fs.ModeSetgid
	}
	if u&0o1000 != 0 {
		m |= fs.ModeSticky
	}
	return m
}
