// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

const sshdFile = "/etc/ssh/sshd_config"

// sshdCheck wants an OpenSSH server setting to have a value. The first value of a keyword counts; Match blocks are
// conditional and count as well, because somebody meets the condition.
type sshdCheck struct {
	keyword string
	OneOf   []string `json:"one_of"`
	Default string   `json:"default"` // what the server does when nothing is set
	Set     string   `json:"set"`
}

func sshdKind() Kind {
	return Kind{
		Name: "sshd", Target: "a keyword of sshd_config", Want: `{"one_of": [values], "default": V, "set": V}; one_of and default are required`,
		Fix: "write set in place of the value that counts, or before the first setting",
		New: func(target string, want []byte) (Check, error) {
			c := sshdCheck{keyword: target}
			if err := decodeWant(want, &c); err != nil {
				return nil, err
			}
			switch {
			case target == "" || strings.ContainsAny(target, " \t\r\n=#"):
				return nil, fmt.Errorf("target: %q is no keyword", target)
			case len(c.OneOf) == 0 || c.Default == "":
				return nil, errors.New("want: one_of and default are required")
			case c.Set != "" && !c.good(c.Set):
				return nil, errors.New("want.set: not one of one_of, so the fix would not help")
			}
			return c, nil
		},
	}
}

func (c sshdCheck) Claims() []string { return []string{"sshd:" + strings.ToLower(c.keyword)} }

func (c sshdCheck) Tightens(old Check) error {
	o, ok := old.(sshdCheck)
	if !ok || !strings.EqualFold(o.keyword, c.keyword) || !strings.EqualFold(o.Default, c.Default) {
		return errors.New("another keyword or default")
	}
	for _, v := range c.OneOf {
		if !o.good(v) {
			return fmt.Errorf("%q is allowed", v)
		}
	}
	return nil
}

func (c sshdCheck) good(v string) bool {
	if strings.EqualFold(v, "without-password") { // the old name
		v = "prohibit-password"
	}
	return slices.ContainsFunc(c.OneOf, func(w string) bool { return strings.EqualFold(w, v) })
}

// sshdLine is one directive with its place.
type sshdLine struct {
	file    string
	line    int
	keyword string // lower case
	args    []string
	match   bool // inside a Match block
}

// parseSshd reads the directives of one file. match says whether the file is included from a Match block.
func parseSshd(file string, data []byte, match bool) []sshdLine {
	var out []sshdLine
	n := 0
	for l := range bytes.Lines(data) {
		n++
		words := sshdWords(string(l))
		if len(words) == 0 {
			continue
		}
		k := strings.ToLower(words[0])
		if k == "match" {
			match = true
		}
		out = append(out, sshdLine{file: file, line: n, keyword: k, args: words[1:], match: match})
	}
	return out
}

// sshdWords splits a line as OpenSSH does: white space or one "=" after the keyword, double quotes, # starts a comment.
func sshdWords(s string) []string {
	var out []string
	var w strings.Builder
	quoted, open := false, false
	end := func() {
		if open {
			out = append(out, w.String())
		}
		w.Reset()
		open = false
	}
	for _, c := range s {
		switch {
		case c == '"':
			quoted, open = !quoted, true
		case quoted:
			w.WriteRune(c)
		case c == '#' && !open:
			return out
		case c == ' ' || c == '\t' || c == '\r' || c == '\n' || c == '\f' || c == '=' && len(out) == 0:
			end()
		default:
			w.WriteRune(c)
			open = true
		}
	}
	end()
	return out
}

const (
	maxIncludes     = 64
	maxIncludeDepth = 8
)

// sshdLines reads the configuration with its includes in place.
type sshdReader struct {
	h     *Host
	files []string
}

func (r *sshdReader) read(ctx context.Context, file string, match bool, depth int) ([]sshdLine, error) {
	if depth > maxIncludeDepth || len(r.files) >= maxIncludes {
		return nil, fmt.Errorf("read %s: %w: too many includes", printable(file), ErrTooLarge)
	}
	data, err := r.h.Read(ctx, file)
	if err != nil {
		return nil, err
	}
	r.files = append(r.files, printable(file))
	var out []sshdLine
	for _, l := range parseSshd(file, data, match) {
		out = append(out, l)
		if l.keyword != "include" {
			continue
		}
		for _, pattern := range l.args {
			names, err := r.glob(pattern)
			if err != nil {
				return nil, err
			}
			for _, n := range names {
				sub, err := r.read(ctx, n, l.match, depth+1)
				if err != nil && !errors.Is(err, ErrNotRegular) {
					return nil, err
				}
				out = append(out, sub...)
			}
		}
	}
	return out, nil
}

// glob expands an include: a file, or a pattern in its last element.
func (r *sshdReader) glob(pattern string) ([]string, error) {
	if !strings.HasPrefix(pattern, "/") {
		pattern = path.Join("/etc/ssh", pattern)
	}
	dir, base := path.Split(pattern)
	if strings.ContainsAny(dir, "*?[") {
		return nil, fmt.Errorf("include %s: only the last element may be a pattern", printable(pattern))
	}
	names, err := r.h.Names(dir, 1024)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []string
	for _, n := range names {
		if ok, err := path.Match(base, n); err != nil {
			return nil, fmt.Errorf("include %s: %w", printable(pattern), err)
		} else if ok && (!strings.HasPrefix(n, ".") || strings.HasPrefix(base, ".")) {
			out = append(out, path.Join(dir, n))
		}
	}
	return out, nil
}

// effective gives the lines that set the keyword and count: the first outside Match, and all inside.
func (c sshdCheck) effective(lines []sshdLine) (first *sshdLine, match []sshdLine) {
	names := []string{strings.ToLower(c.keyword)}
	if names[0] == "kbdinteractiveauthentication" {
		names = append(names, "challengeresponseauthentication")
	}
	for _, l := range lines {
		if !slices.Contains(names, l.keyword) || len(l.args) == 0 {
			continue
		}
		if l.match {
			match = append(match, l)
		} else if first == nil {
			first = &l
		}
	}
	return first, match
}

// bad lists the lines that count and are not as wanted.
func (c sshdCheck) bad(lines []sshdLine) (bad []sshdLine, unset bool) {
	first, match := c.effective(lines)
	if first != nil && !c.good(first.args[0]) {
		bad = append(bad, *first)
	}
	for _, l := range match {
		if !c.good(l.args[0]) {
			bad = append(bad, l)
		}
	}
	return bad, first == nil && !c.good(c.Default)
}

func (c sshdCheck) Check(ctx context.Context, h *Host) Verdict {
	r := sshdReader{h: h}
	lines, err := r.read(ctx, sshdFile, false, 0)
	if errors.Is(err, fs.ErrNotExist) && len(r.files) == 0 {
		if h.Exists("/usr/sbin/sshd") {
			return Verdict{Result: Unknown, Reason: "/usr/sbin/sshd is there, " + sshdFile + " is not: where its settings are is not known"}
		}
		return notApplicable("OpenSSH is not here: no /usr/sbin/sshd, no " + sshdFile)
	}
	if err != nil {
		return unknown(err)
	}
	bad, unset := c.bad(lines)
	expect := strings.Join(c.OneOf, " or ")
	var items []Item
	for _, l := range bad {
		obs := l.args[0]
		if l.match {
			obs += " in a Match block"
		}
		items = append(items, Item{Subject: c.keyword, Where: at(l.file, l.line), Observed: printable(obs), Expected: expect})
	}
	if unset {
		items = append(items, Item{Subject: c.keyword, Where: sshdFile, Observed: "not set, which means " + c.Default, Expected: expect})
	}
	reason := c.keyword + " is not set, which means " + c.Default
	if first, _ := c.effective(lines); first != nil {
		reason = fmt.Sprintf("%s is %s at %s", c.keyword, printable(first.args[0]), at(first.file, first.line))
	}
	v := judged(items, reason, r.files...)
	v.Implementation = "openssh"
	return v
}

func (c sshdCheck) Fix(ctx context.Context, h *Host, want func(string) bool) ([]Change, error) {
	if c.Set == "" {
		return nil, fmt.Errorf("the rule gives no value to set: %w", ErrNoFix)
	}
	r := sshdReader{h: h}
	lines, err := r.read(ctx, sshdFile, false, 0)
	if err != nil || !want(c.keyword) {
		return nil, err
	}
	bad, unset := c.bad(lines)
	texts := map[string]*text{}
	open := func(f string) (*text, error) {
		if t := texts[f]; t != nil {
			return t, nil
		}
		t, err := openText(ctx, h, f)
		texts[f] = t
		return t, err
	}
	for _, l := range bad {
		t, err := open(l.file)
		if err != nil {
			return nil, err
		}
		raw := t.line(l.line)
		indent := raw[:len(raw)-len(strings.TrimLeft(raw, " \t"))]
		t.set(l.line, indent+c.keyword+" "+c.Set)
	}
	if unset {
		t, err := open(sshdFile)
		if err != nil {
			return nil, err
		}
		at := len(t.lines) + 1
		for _, l := range lines { // before the first directive: the first value counts
			if l.file == sshdFile {
				at = l.line
				break
			}
		}
		t.insert(at, c.keyword+" "+c.Set)
	}
	var out []Change
	for _, l := range append([]sshdLine{{file: sshdFile}}, bad...) {
		if t := texts[l.file]; t != nil {
			out = append(out, t.changes(true)...)
			delete(texts, l.file)
		}
	}
	return out, nil
}
