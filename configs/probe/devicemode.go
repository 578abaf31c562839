// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// deviceModes wants the nodes of some devices not to be open to everybody: now, and by the rules of mdev and udev that make
// them.
type deviceModes struct {
	Nodes []string `json:"nodes"`
	max   fs.FileMode
}

func deviceModesKind() Kind {
	return Kind{
		Name: "device-modes", Target: `"dev": nodes below /dev on a running system, and what mdev.conf and the rules of udev make of them`,
		Want: `{"nodes": ["mtd", "sd*"], "max": "0660"}: beginnings of names, before digits unless * says before anything, and the most that is allowed; required`,
		Fix:  "take the permissions beyond max out of the line of mdev.conf or of the udev rule",
		New: func(target string, want []byte) (Check, error) {
			var w struct {
				Nodes []string `json:"nodes"`
				Max   string   `json:"max"`
			}
			if err := decodeWant(want, &w); err != nil {
				return nil, err
			}
			m, err := strconv.ParseUint(w.Max, 8, 9)
			if err != nil || target != "dev" || len(w.Nodes) == 0 {
				return nil, errors.New(`target: want "dev", with want.nodes and an octal want.max`)
			}
			return deviceModes{w.Nodes, fs.FileMode(m)}, nil
		},
	}
}

func (c deviceModes) Claims() []string { return prefixed("device:", c.Nodes) }

func (c deviceModes) Tightens(old Check) error {
	o, ok := old.(deviceModes)
	if !ok || c.max&^o.max != 0 {
		return errors.New("max allows more")
	}
	if n, ok := subset(o.Nodes, c.Nodes); !ok {
		return fmt.Errorf("%s is missing", n)
	}
	return nil
}

// about gives the node of the check that a name, or a pattern that begins so, is about; whole says that nothing follows.
func (c deviceModes) about(name string, whole bool) string {
	for _, n := range c.Nodes {
		prefix, any := strings.CutSuffix(n, "*")
		if any && (strings.HasPrefix(name, prefix) || !whole && strings.HasPrefix(prefix, name)) {
			return n
		}
		if any {
			continue
		}
		if strings.HasPrefix(name, n) && (len(name) == len(n) || !asciiLetter(name[len(n)])) || !whole && strings.HasPrefix(n, name) {
			return n
		}
	}
	return ""
}

func asciiLetter(b byte) bool { return b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' }

// deviceRule is one line that gives nodes a mode.
type deviceRule struct {
	line     int
	names    []string // literal beginnings of what it is about
	whole    []bool
	mode     uint64
	from, to int // of the mode in the line
}

// parseMdev reads one line of mdev.conf: [-]regex user:group mode ...; also @major,minor and $VAR=regex, which are not judged.
func parseMdev(line string) (r deviceRule, ok bool) {
	f := fieldSpans(line)
	if len(f) < 3 || strings.HasPrefix(strings.TrimSpace(line), "#") {
		return r, false
	}
	mode, err := strconv.ParseUint(line[f[2][0]:f[2][1]], 8, 12)
	if err != nil {
		return r, false
	}
	pattern := strings.TrimPrefix(line[f[0][0]:f[0][1]], "-")
	if pattern == "" || strings.ContainsAny(pattern[:1], "@$") {
		return r, false
	}
	r.mode, r.from, r.to = mode, f[2][0], f[2][1]
	for _, p := range alternatives(pattern) {
		lit, whole := literalStart(p)
		if lit != "" || strings.HasPrefix(p, ".") {
			r.names, r.whole = append(r.names, lit), append(r.whole, whole)
		}
	}
	return r, true
}

// alternatives splits a regular expression or a pattern of udev at | outside groups, and opens one group at its beginning.
func alternatives(p string) []string {
	p = strings.TrimPrefix(p, "^")
	if strings.HasPrefix(p, "(") {
		if end := strings.IndexByte(p, ')'); end > 0 {
			var out []string
			for a := range strings.SplitSeq(p[1:end], "|") {
				out = append(out, a+p[end+1:])
			}
			return out
		}
	}
	return strings.Split(p, "|")
}

// literalStart is what every name that p matches begins with; whole says that it is all of p.
func literalStart(p string) (lit string, whole bool) {
	i := strings.IndexAny(p, `[]().*+?\{}|^$`)
	if i < 0 {
		return p, true
	}
	if i > 0 && strings.IndexByte("*?{", p[i]) >= 0 && i+1 <= len(p) {
		// in a regular expression the sign before may be missing, in a pattern of udev it may not: the shorter one covers both
		if p[i] == '*' {
			return p[:i], false
		}
		return p[:i-1], false
	}
	return p[:i], false
}

// parseUdev reads one line of a rules file: KERNEL=="mtd*", MODE="0666".
func parseUdev(line string) (r deviceRule, ok bool) {
	if strings.HasPrefix(strings.TrimSpace(line), "#") {
		return r, false
	}
	for _, op := range []string{"MODE=\"", "MODE:=\"", "MODE=\\\""} {
		i := strings.Index(line, op)
		if i < 0 || i > 0 && strings.IndexByte(" \t,", line[i-1]) < 0 {
			continue
		}
		r.from = i + len(op)
		end := strings.IndexByte(line[r.from:], '"')
		if end < 0 {
			return r, false
		}
		r.to = r.from + end
		m, err := strconv.ParseUint(line[r.from:r.to], 8, 12)
		if err != nil {
			return r, false
		}
		r.mode, ok = m, true
		break
	}
	if !ok {
		return r, false
	}
	for _, key := range []string{`KERNEL=="`, `SUBSYSTEM=="`} {
		if i := strings.Index(line, key); i >= 0 && (i == 0 || strings.IndexByte(" \t,", line[i-1]) >= 0) {
			v, _, _ := strings.Cut(line[i+len(key):], `"`)
			for _, p := range strings.Split(v, "|") {
				lit, whole := literalStart(p)
				if key[0] == 'S' { // i2c-dev has i2c-0, mtd has mtd0
					lit, whole = strings.TrimSuffix(lit, "-dev"), false
				}
				r.names, r.whole = append(r.names, lit), append(r.whole, whole)
			}
			if key[0] == 'K' {
				break // more exact than the subsystem
			}
		}
	}
	return r, true
}

// rules calls fn with every rule that gives one of the nodes more than max.
func (c deviceModes) rules(ctx context.Context, h *Host, fn func(t *text, name, node string, r deviceRule)) (read []string, err error) {
	files := []string{"/etc/mdev.conf"}
	dirs := []string{"/etc/udev/rules.d", "/run/udev/rules.d", "/usr/lib/udev/rules.d", "/lib/udev/rules.d"}
	have := map[string]bool{}
	for _, d := range dirs {
		names, err := h.Names(d, maxStartFiles)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, n := range names {
			if strings.HasSuffix(n, ".rules") && !have[n] { // one of the same name in a directory before hides it
				have[n] = true
				files = append(files, path.Join(d, n))
			}
		}
	}
	for _, name := range files {
		t, err := openText(ctx, h, name)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrNotRegular) { // a link to /dev/null keeps a file away
			continue
		}
		if err != nil {
			return read, err
		}
		read = append(read, printable(name))
		parse := parseUdev
		if name == files[0] {
			parse = parseMdev
		}
		for n := range t.lines {
			r, ok := parse(t.line(n + 1))
			if r.line = n + 1; !ok || fs.FileMode(r.mode)&^c.max == 0 {
				continue
			}
			for i, lit := range r.names {
				if node := c.about(lit, r.whole[i]); node != "" {
					fn(t, name, node, r)
					break
				}
			}
		}
	}
	return read, nil
}

// nodes lists those that are there with more than max: the kernel's, or those that are in the image.
func (c deviceModes) nodes(h *Host) ([]Info, error) {
	names, err := h.Names("/dev", 1<<14)
	var out []Info
	for _, n := range names {
		in, err := h.Stat(path.Join("/dev", n))
		if err == nil && in.Mode&fs.ModeDevice != 0 && c.about(n, true) != "" && in.Mode.Perm()&^c.max != 0 {
			out = append(out, in)
		}
	}
	return out, err
}

func (c deviceModes) Check(ctx context.Context, h *Host) Verdict {
	var items []Item
	read, err := c.rules(ctx, h, func(t *text, name, node string, r deviceRule) {
		items = append(items, Item{Subject: node, Where: at(name, r.line), Observed: fmt.Sprintf("mode %04o", r.mode), Expected: "at most " + OctalMode(c.max)})
	})
	if err != nil {
		return unknown(err)
	}
	nodes, err := c.nodes(h)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return unknown(err)
	}
	if err == nil {
		read = append(read, "/dev")
	}
	for _, in := range nodes {
		items = append(items, Item{Subject: c.about(path.Base(in.Path), true), Where: printable(in.Path), Observed: "mode " + OctalMode(in.Mode), Expected: "at most " + OctalMode(c.max)})
	}
	if len(read) == 0 {
		return notApplicable("no /dev, no mdev.conf and no rules of udev: the kernel makes the nodes, for root alone")
	}
	return judged(items, "none of "+strings.Join(c.Nodes, ", ")+" is open to everybody", read[:min(len(read), MaxItems)]...)
}

func (c deviceModes) Fix(ctx context.Context, h *Host, want func(string) bool) ([]Change, error) {
	var order []*text
	_, err := c.rules(ctx, h, func(t *text, _, node string, r deviceRule) {
		if !want(node) {
			return
		}
		if !slices.Contains(order, t) {
			order = append(order, t)
		}
		raw := t.line(r.line)
		t.set(r.line, raw[:r.from]+fmt.Sprintf("%0*o", r.to-r.from, r.mode&uint64(c.max))+raw[r.to:])
	})
	if nodes, _ := c.nodes(h); err == nil && !h.Live() { // on a running system they are made anew by these rules
		for _, in := range nodes {
			if want(c.about(path.Base(in.Path), true)) {
				err = fmt.Errorf("%s is in the image: %w", in.Path, ErrNoFix)
			}
		}
	}
	var out []Change
	for _, t := range order {
		out = append(out, t.changes(true)...)
	}
	return out, err
}
