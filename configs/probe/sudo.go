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

const (
	sudoersFile  = "/etc/sudoers"
	doasFile     = "/etc/doas.conf"
	maxSudoFiles = 128
)

// privilegeCheck wants nobody to become root without a password, but for listed commands.
type privilegeCheck struct {
	target string
	Allow  []string `json:"allow"` // users and %groups
}

func privilegeKind() Kind {
	return Kind{
		Name: "privilege", Target: `"sudo": /etc/sudoers and what it includes, or "doas": /etc/doas.conf`,
		Want: `{"allow": [users and %groups]}; without a password a user may have fixed commands with their full path, and nothing else`,
		Fix:  "take NOPASSWD or nopass out of the line, put !authenticate out of use",
		New: func(target string, want []byte) (Check, error) {
			c := privilegeCheck{target: target}
			if err := decodeWant(want, &c); err != nil {
				return nil, err
			}
			if target != "sudo" && target != "doas" {
				return nil, errors.New(`target: want "sudo" or "doas"`)
			}
			return c, nil
		},
	}
}

func (c privilegeCheck) Claims() []string { return []string{"privilege:" + c.target} }

func (c privilegeCheck) Tightens(old Check) error {
	o, ok := old.(privilegeCheck)
	if !ok || o.target != c.target {
		return errors.New("another target")
	}
	if a, ok := subset(c.Allow, o.Allow); !ok {
		return fmt.Errorf("%s is allowed", a)
	}
	return nil
}

// grant is one right that asks for no password.
type grant struct {
	who, what string
	file      string
	line      int  // first physical line
	last      int  // last, where a line goes on after a backslash
	off       bool // Defaults with !authenticate
	alone     bool // and nothing else
}

// logical is a line with those that it goes on with.
type logical struct {
	text        string
	first, last int
}

// logicalLines joins lines that end in a backslash and leaves comments out. A # before a number is an id.
func logicalLines(t *text) []logical {
	var out []logical
	var cur strings.Builder
	first := 0
	for n := 1; n <= len(t.lines); n++ {
		if first == 0 {
			first = n
		}
		l := t.line(n)
		if part, more := strings.CutSuffix(l, `\`); more && n < len(t.lines) {
			cur.WriteString(part + " ")
			continue
		}
		cur.WriteString(l)
		if s := strings.TrimSpace(cutComment(cur.String())); s != "" {
			out = append(out, logical{s, first, n})
		}
		cur.Reset()
		first = 0
	}
	return out
}

// cutComment ends a line at a # that starts a word; #include and #1000 are none.
func cutComment(s string) string {
	if f := strings.TrimSpace(s); strings.HasPrefix(f, "#include ") || strings.HasPrefix(f, "#includedir ") {
		return s
	}
	quoted := false
	for i := range len(s) {
		switch {
		case s[i] == '"':
			quoted = !quoted
		case s[i] == '#' && !quoted && (i+1 >= len(s) || s[i+1] < '0' || s[i+1] > '9') && (i == 0 || s[i-1] != '\\'):
			return s[:i]
		}
	}
	return s
}

// sudoers collects the rules of a file and of those it includes.
type sudoers struct {
	h       *Host
	files   []string
	lines   map[string][]logical
	aliases map[string][]string // of commands
}

func (s *sudoers) read(ctx context.Context, name string) error {
	if slices.Contains(s.files, name) {
		return nil
	}
	if len(s.files) >= maxSudoFiles {
		return fmt.Errorf("read %s: %w: more than %d files", printable(name), ErrTooLarge, maxSudoFiles)
	}
	t, err := openText(ctx, s.h, name)
	if err != nil {
		return err
	}
	s.files = append(s.files, name)
	s.lines[name] = logicalLines(t)
	for _, l := range s.lines[name] {
		word, rest := cutWord(l.text)
		to := strings.Trim(strings.TrimSpace(rest), `"`)
		if !strings.HasPrefix(to, "/") {
			to = path.Join(path.Dir(name), to)
		}
		var names []string
		switch word {
		case "#include", "@include":
			names = []string{to}
		case "#includedir", "@includedir":
			list, err := s.h.Names(to, maxSudoFiles)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			for _, n := range list {
				if !strings.Contains(n, ".") && !strings.HasSuffix(n, "~") { // sudo skips what package managers leave
					names = append(names, path.Join(to, n))
				}
			}
		case "Cmnd_Alias", "Cmd_Alias":
			for def := range strings.SplitSeq(rest, ":") {
				if k, v, ok := strings.Cut(def, "="); ok {
					s.aliases[strings.TrimSpace(k)] = splitList(v)
				}
			}
		}
		for _, n := range names {
			if err := s.read(ctx, n); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrNotRegular) {
				return err
			}
		}
	}
	return nil
}

// cutWord splits at the first blank.
func cutWord(s string) (word, rest string) {
	if i := strings.IndexAny(s, " \t"); i >= 0 {
		return s[:i], s[i+1:]
	}
	return s, ""
}

func splitList(s string) []string {
	var out []string
	for w := range strings.SplitSeq(s, ",") {
		out = append(out, strings.TrimSpace(w))
	}
	return out
}

// grants lists the rights without a password that are more than fixed commands.
func (s *sudoers) grants() []grant {
	var out []grant
	for _, f := range s.files {
		for _, l := range s.lines[f] {
			g := grant{file: f, line: l.first, last: l.last}
			word, rest := cutWord(l.text)
			switch {
			case strings.HasPrefix(word, "Defaults"):
				if list := splitList(rest); slices.Contains(list, "!authenticate") {
					g.alone = !slices.ContainsFunc(list, func(w string) bool { return w != "!authenticate" && w != "" })
					g.who, g.what, g.off = "everybody", "Defaults !authenticate: no password is asked", true
					if len(word) > len("Defaults") {
						g.who = word[len("Defaults")+1:]
					}
					out = append(out, g)
				}
			case strings.HasSuffix(word, "_Alias") || strings.ContainsAny(word[:1], "@#") && strings.Contains(word, "include"):
			default:
				if what := s.free(l.text); what != "" {
					g.who, g.what = word, "NOPASSWD: "+what
					out = append(out, g)
				}
			}
		}
	}
	return out
}

// free gives the first command of a rule that needs no password and is not fixed, "" for none.
func (s *sudoers) free(rule string) string {
	if !strings.Contains(rule, "NOPASSWD") {
		return ""
	}
	_, rest, _ := strings.Cut(rule, "=")
	free := false
	for _, part := range splitList(rest) {
		if strings.HasPrefix(part, "(") {
			_, part, _ = strings.Cut(part, ")")
			part = strings.TrimSpace(part)
		}
		for {
			tag, after, ok := strings.Cut(part, ":")
			if !ok || strings.Trim(tag, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_") != "" || tag == "" {
				break
			}
			switch tag {
			case "NOPASSWD":
				free = true
			case "PASSWD":
				free = false
			}
			part = strings.TrimSpace(after)
		}
		if free && !s.fixed(part, 0) {
			return part
		}
	}
	return ""
}

// fixed reports whether a command is a program with a full path that does one thing: no pattern, no directory, no shell or
// editor, from which there is a way to everything.
func (s *sudoers) fixed(cmd string, depth int) bool {
	if cmd == "" || strings.HasPrefix(cmd, "!") {
		return true
	}
	if list, ok := s.aliases[cmd]; ok && depth < 8 {
		return !slices.ContainsFunc(list, func(c string) bool { return !s.fixed(c, depth+1) })
	}
	name, _, _ := strings.Cut(cmd, " ")
	open := []string{"sh", "ash", "bash", "dash", "zsh", "su", "env", "vi", "vim", "nano", "ed", "less", "more", "man", "find", "awk", "sed", "perl", "python", "python3",
		"lua", "tee", "cp", "mv", "dd", "tar", "chmod", "chown", "mount", "busybox", "ssh", "strace", "gdb", "xargs"}
	return strings.HasPrefix(name, "/") && !strings.HasSuffix(name, "/") && !strings.ContainsAny(cmd, "*?[") && !slices.Contains(open, path.Base(name))
}

// find gives the grants that are not allowed.
func (c privilegeCheck) find(ctx context.Context, h *Host) (bad []grant, read []string, err error) {
	var list []grant
	if c.target == "doas" {
		t, err := openText(ctx, h, doasFile)
		if err != nil {
			return nil, nil, err
		}
		list, read = doasGrants(t), []string{doasFile}
	} else {
		s := &sudoers{h: h, lines: map[string][]logical{}, aliases: map[string][]string{}}
		if err := s.read(ctx, sudoersFile); err != nil {
			return nil, nil, err
		}
		list, read = s.grants(), s.files
	}
	for _, g := range list {
		if g.who != "root" && g.who != "#0" && !slices.Contains(c.Allow, g.who) {
			bad = append(bad, g)
		}
	}
	return bad, read, nil
}

func (c privilegeCheck) Check(ctx context.Context, h *Host) Verdict {
	programs := []string{"/usr/bin/" + c.target, "/bin/" + c.target, "/usr/local/bin/" + c.target, "/usr/sbin/" + c.target, "/sbin/" + c.target}
	if !slices.ContainsFunc(programs, h.Exists) {
		return notApplicable("no " + c.target + " is here")
	}
	bad, read, err := c.find(ctx, h)
	if errors.Is(err, fs.ErrNotExist) {
		return notApplicable(c.target + " has no configuration, so it lets nobody do anything")
	}
	if err != nil {
		return unknown(err)
	}
	var items []Item
	for _, g := range bad {
		items = append(items, Item{Subject: printable(g.who), Where: at(g.file, g.line), Observed: printable(g.what), Expected: "a password, or fixed commands"})
	}
	for i := range read {
		read[i] = printable(read[i])
	}
	return judged(items, "nobody becomes root without a password, but for fixed commands", read[:min(len(read), MaxItems)]...)
}

func (c privilegeCheck) Fix(ctx context.Context, h *Host, want func(string) bool) ([]Change, error) {
	bad, _, err := c.find(ctx, h)
	if err != nil {
		return nil, err
	}
	texts := map[string]*text{}
	var order []*text
	for _, g := range bad {
		if !want(printable(g.who)) {
			continue
		}
		t := texts[g.file]
		if t == nil {
			if t, err = openText(ctx, h, g.file); err != nil {
				return nil, err
			}
			texts[g.file], order = t, append(order, t)
		}
		for n := g.line; n <= g.last; n++ {
			switch raw := t.line(n); {
			case g.alone:
				t.disable(n)
			case g.off: // other settings stay
				t.set(n, dropSetting(raw, "!authenticate"))
			case c.target == "doas":
				t.set(n, dropWord(raw, "nopass"))
			default:
				t.set(n, strings.ReplaceAll(strings.ReplaceAll(raw, "NOPASSWD: ", ""), "NOPASSWD:", ""))
			}
		}
	}
	var out []Change
	for _, t := range order {
		out = append(out, t.changes(false)...)
	}
	return out, nil
}
