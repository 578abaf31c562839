// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"strings"
)

// sshdEdit collects the edits of one fix.
type sshdEdit struct {
	h       *Host
	keyword string
	texts   []*text
	created []Change
}

func (e *sshdEdit) open(ctx context.Context, file string) (*text, error) {
	p, err := e.h.Resolve(file)
	if err != nil {
		return nil, err
	}
	for _, t := range e.texts {
		if t.path == p {
			return t, nil
		}
	}
	t, err := openText(ctx, e.h, file)
	if err == nil {
		e.texts = append(e.texts, t)
	}
	return t, err
}

func (e *sshdEdit) replace(ctx context.Context, l sshdLine, value string) error {
	t, err := e.open(ctx, l.file)
	if err != nil {
		return err
	}
	raw := t.line(l.line)
	t.set(l.line, raw[:len(raw)-len(strings.TrimLeft(raw, " \t"))]+e.keyword+" "+value)
	return nil
}

func (e *sshdEdit) drop(ctx context.Context, l sshdLine) error {
	t, err := e.open(ctx, l.file)
	if err == nil {
		t.disable(l.line)
	}
	return err
}

// add sets the keyword where nothing does: in a file of our own if the configuration includes one before anything else of
// the keyword, which is now everywhere, or before the first directive.
func (e *sshdEdit) add(ctx context.Context, s sshdSetup, value string) error {
	if dir := s.dropInDir(e.h); dir != "" {
		p, err := e.h.Resolve(path.Join(dir, sshdDropIn))
		if err == nil {
			t, err := e.open(ctx, p)
			if err == nil {
				t.insert(len(t.lines)+1, e.keyword+" "+value)
			}
			return err
		}
		if p != "" && errors.Is(err, fs.ErrNotExist) {
			uid, gid := e.h.Root()
			e.created = append(e.created, Change{Op: Create, Path: p, After: []byte(e.keyword + " " + value + "\n"), Mode: 0o600, UID: uid, GID: gid, NextStart: true})
			return nil
		}
	}
	t, err := e.open(ctx, s.config)
	if err != nil {
		return err
	}
	at := len(t.lines) + 1
	for _, l := range s.lines { // before the first directive: the first value counts
		if l.file == s.config && l.line > 0 {
			at = l.line
			break
		}
	}
	t.insert(at, e.keyword+" "+value)
	return nil
}

// dropInDir is the directory of which the configuration includes every .conf outside of Match, "" when there is none.
func (s sshdSetup) dropInDir(h *Host) string {
	for _, l := range s.lines {
		if l.keyword != "include" || l.file != s.config || l.block != 0 {
			continue
		}
		for _, p := range l.args {
			if !strings.HasPrefix(p, "/") {
				p = path.Join("/etc/ssh", p)
			}
			dir, base := path.Split(path.Clean(p))
			if ok, _ := path.Match(base, sshdDropIn); ok && base != sshdDropIn && h.isDir(dir) {
				return path.Clean(dir)
			}
		}
	}
	return ""
}

func (e *sshdEdit) changes() []Change {
	out := e.created
	for _, t := range e.texts {
		out = append(out, t.changes(true)...)
	}
	return out
}
