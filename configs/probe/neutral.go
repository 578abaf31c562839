// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
)

// neutralise plans that none of the given commands is started any more: a line of inittab, of inetd or of a cron table becomes
// a comment, xinetd gets "disable = yes", a link in a runlevel is removed, a script that is only for this program loses its
// execute bits, a unit is masked. A command inside a script that does other things, too, is left to a person, with ErrNoFix.
func neutralise(ctx context.Context, h *Host, list []start) ([]Change, error) {
	n := &neutral{ctx: ctx, h: h, texts: map[string]*text{}, done: map[string]bool{}}
	var errs []error
	// From the last line of each file to the first: an inserted line moves what is below it.
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b start) int {
		if a.file == b.file {
			return b.line - a.line
		}
		return strings.Compare(a.file, b.file)
	})
	for _, s := range list {
		errs = append(errs, n.one(s))
	}
	for _, p := range n.order {
		n.out = append(n.out, n.texts[p].changes(true)...)
	}
	return n.out, errors.Join(errs...)
}

type neutral struct {
	ctx   context.Context // of this plan only
	h     *Host
	texts map[string]*text
	order []string
	done  map[string]bool
	out   []Change
}

func (n *neutral) open(file string) (*text, error) {
	if t := n.texts[file]; t != nil {
		return t, nil
	}
	t, err := openText(n.ctx, n.h, file)
	if err == nil {
		n.texts[file] = t
		n.order = append(n.order, file)
	}
	return t, err
}

func (n *neutral) one(s start) error {
	switch s.source {
	case "inittab", "inetd", "cron":
		return n.comment(s)
	case "xinetd":
		return n.xinetd(s)
	case "script", "openrc", "run":
		return n.script(s)
	}
	return fmt.Errorf("%s is started by %s: %w", printable(s.program()), s.where(), ErrNoFix)
}

// comment puts one line out of use, once. A script in cron.daily has no table.
func (n *neutral) comment(s start) error {
	if s.source == "cron" && s.entry != s.file {
		return n.script(s)
	}
	t, err := n.open(s.file)
	if err != nil {
		return err
	}
	if key := at(s.file, s.line); !n.done[key] {
		n.done[key] = true
		t.disable(s.line)
	}
	return nil
}

func (n *neutral) xinetd(s start) error {
	t, err := n.open(s.file)
	if err != nil {
		return err
	}
	list, _ := parseXinetd(t.before)
	for _, e := range list {
		switch {
		case e.line != s.line:
		case e.disable > 0:
			old := t.line(e.disable)
			t.set(e.disable, old[:strings.IndexByte(old, '=')+1]+" yes")
		default:
			t.insert(e.end, "\tdisable = yes")
		}
	}
	return nil
}

// script takes the execute bits of a script whose name says that it is for the program.
func (n *neutral) script(s start) error {
	in, err := n.h.Stat(s.entry)
	if err != nil || in.Path != s.file || !scriptOf(path.Base(s.file), s.program()) {
		return fmt.Errorf("%s does other things too: %w", printable(s.file), ErrNoFix)
	}
	if n.done[s.file] {
		return nil
	}
	n.done[s.file] = true
	n.out = append(n.out, Change{Op: Chmod, Path: in.Path, OldMode: in.Mode & permBits, Mode: in.Mode & permBits &^ 0o111, NextStart: true})
	return nil
}

// scriptOf reports whether the name of a script says that it is for a program: S50telnet for telnetd.
func scriptOf(script, program string) bool {
	stem := strings.TrimSuffix(strings.TrimPrefix(program, "in."), "d")
	return len(stem) > 2 && strings.Contains(script, stem)
}
