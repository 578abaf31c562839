// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// linesCheck looks for lines in any of several files, whatever their syntax is: lines that must not be there, or one that
// must.
type linesCheck struct {
	files   []string
	Also    []string `json:"also"`
	Deny    []string `json:"deny"`
	Require []string `json:"require"`
	Unless  []string `json:"unless"` // a denied line that matches one of these is right all the same
	Comment string   `json:"comment"`
	Disable bool     `json:"disable"`
	Subject string   `json:"subject"`
}

func linesKind() Kind {
	return Kind{
		Name: "lines", Target: "a path; * stands for part of one name",
		Want: `{"also": [paths], "deny": [patterns], "unless": [patterns], "require": [patterns], "comment": "#", "disable": true, "subject": S}; deny or require is required. A pattern is a whole line, in which * stands for anything, upper case for lower case, and one space for any white space; a line that begins with a sign of comment has none`,
		Fix:  "with disable: put denied lines out of use",
		New: func(target string, want []byte) (Check, error) {
			c := linesCheck{Comment: "#;"}
			if err := decodeWant(want, &c); err != nil {
				return nil, err
			}
			if len(c.Deny) == 0 && len(c.Require) == 0 || c.Subject == "" {
				return nil, errors.New("want: give subject, and deny or require")
			}
			c.files = append([]string{target}, c.Also...)
			return c, checkPaths(c.files)
		},
	}
}

func (c linesCheck) Claims() []string {
	if !c.Disable {
		return nil
	}
	return prefixed("lines:"+c.Subject+":", c.files)
}

func (c linesCheck) Tightens(old Check) error {
	o, ok := old.(linesCheck)
	if !ok || !slices.Equal(c.files, o.files) || c.Comment != o.Comment {
		return errors.New("it looks at other files")
	}
	if d, ok := subset(o.Deny, c.Deny); !ok {
		return fmt.Errorf("%q is not denied", d)
	}
	if u, ok := subset(c.Unless, o.Unless); !ok {
		return fmt.Errorf("%q is let through", u)
	}
	if r, ok := subset(c.Require, o.Require); len(o.Require) > 0 && (!ok || len(c.Require) == 0) {
		return fmt.Errorf("%q is enough", r)
	}
	return nil
}

// lineMatches compares a line with a pattern; both are in lower case with single spaces.
func lineMatches(pattern, line string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == line
	}
	if !strings.HasPrefix(line, parts[0]) {
		return false
	}
	line = line[len(parts[0]):]
	last := parts[len(parts)-1]
	for _, p := range parts[1 : len(parts)-1] {
		i := strings.Index(line, p)
		if i < 0 {
			return false
		}
		line = line[i+len(p):]
	}
	return strings.HasSuffix(line, last)
}

// plainLine is a line as patterns see it, "" for a comment.
func (c linesCheck) plainLine(l string) string {
	l = strings.Join(strings.Fields(l), " ")
	if l == "" || strings.IndexByte(c.Comment, l[0]) >= 0 {
		return ""
	}
	return strings.ToLower(l)
}

// foundLine is one line of a file.
type foundLine struct {
	text *text
	name string
	line int

	pattern string
}

func (c linesCheck) find(ctx context.Context, h *Host) (denied, required []foundLine, read []string, err error) {
	for _, pattern := range c.files {
		names, err := h.glob(pattern)
		if err != nil {
			return denied, required, read, err
		}
		for _, name := range names {
			in, err := h.Stat(name)
			if err != nil || !in.Mode.IsRegular() {
				continue
			}
			t, err := openText(ctx, h, name)
			if err != nil {
				return denied, required, read, err
			}
			read = append(read, printable(name))
			for n := range t.lines {
				l := c.plainLine(t.line(n + 1))
				is := func(list []string) int {
					return slices.IndexFunc(list, func(p string) bool { return l != "" && lineMatches(strings.ToLower(p), l) })
				}
				if i := is(c.Deny); i >= 0 && is(c.Unless) < 0 {
					denied = append(denied, foundLine{t, name, n + 1, c.Deny[i]})
				}
				if i := is(c.Require); i >= 0 {
					required = append(required, foundLine{t, name, n + 1, c.Require[i]})
				}
			}
		}
	}
	return denied, required, read, nil
}

// glob lists what a path with * in some of its elements stands for, sorted; without * it is the path, if it is there.
func (h *Host) glob(pattern string) ([]string, error) {
	list := []string{"/"}
	for el := range strings.SplitSeq(strings.TrimPrefix(pattern, "/"), "/") {
		var next []string
		for _, dir := range list {
			if !strings.Contains(el, "*") {
				if p := path.Join(dir, el); h.Exists(p) {
					next = append(next, p)
				}
				continue
			}
			names, err := h.Names(dir, maxStartFiles)
			if errors.Is(err, fs.ErrNotExist) || !h.isDir(dir) {
				continue
			}
			if err != nil {
				return nil, err
			}
			for _, n := range names {
				if ok, _ := path.Match(el, n); ok && !strings.HasPrefix(n, ".") {
					next = append(next, path.Join(dir, n))
				}
			}
		}
		list = next
	}
	return list, nil
}

func (c linesCheck) Check(ctx context.Context, h *Host) Verdict {
	denied, required, read, err := c.find(ctx, h)
	if err != nil && len(denied) == 0 {
		return unknown(err)
	}
	if len(read) == 0 {
		return notApplicable("none of " + strings.Join(c.files, ", ") + " is there")
	}
	var items []Item
	for _, d := range denied { // the line itself may hold a secret
		items = append(items, Item{Subject: c.Subject, Where: at(d.name, d.line), Observed: "a line like " + d.pattern, Expected: "no such line"})
	}
	if len(c.Require) > 0 && len(required) == 0 {
		items = append(items, Item{Subject: c.Subject, Where: read[0], Observed: "no line sets it", Expected: strings.Join(c.Require, " or ")})
	}
	reason := "no denied line"
	if len(required) > 0 {
		reason = at(required[0].name, required[0].line) + " sets it"
	}
	return judged(items, c.Subject+": "+reason, read[:min(len(read), MaxItems)]...)
}

func (c linesCheck) Fix(ctx context.Context, h *Host, want func(string) bool) ([]Change, error) {
	denied, required, _, err := c.find(ctx, h)
	if err != nil || !want(c.Subject) {
		return nil, err
	}
	if !c.Disable || len(c.Require) > 0 && len(required) == 0 {
		return nil, ErrNoFix
	}
	var order []*text
	for _, d := range denied {
		if !slices.Contains(order, d.text) {
			order = append(order, d.text)
		}
		d.text.disable(d.line)
	}
	var out []Change
	for _, t := range order {
		out = append(out, t.changes(true)...)
	}
	return out, nil
}
