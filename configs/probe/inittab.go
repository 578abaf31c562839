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

const inittabFile = "/etc/inittab"

// initEntry is one line of /etc/inittab. In busybox the id is a terminal and the runlevels are empty; in sysvinit the id is
// a name.
type initEntry struct {
	line            int
	id, action, cmd string
}

// parseInittab reads the entries; comments and lines with fewer than four fields have none.
func parseInittab(data []byte) []initEntry {
	var out []initEntry
	n := 0
	for l := range bytes.Lines(data) {
		n++
		s := strings.TrimSpace(string(l))
		if s == "" || strings.HasPrefix(s, "#") {
			continue
		}
		f := strings.SplitN(s, ":", 4)
		if len(f) == 4 {
			out = append(out, initEntry{line: n, id: strings.TrimSpace(f[0]), action: strings.TrimSpace(f[2]), cmd: strings.TrimSpace(f[3])})
		}
	}
	return out
}

// starts reports whether init runs the entry while the system comes up or is up.
func (e initEntry) starts() bool {
	return !slices.Contains([]string{"off", "ctrlaltdel", "shutdown", "powerfail", "powerwait", "powerokwait", "powerfailnow", "kbrequest", "initdefault"}, e.action)
}

// commands splits a shell line into simple commands, as words. It is no shell: it errs on the side of seeing a command.
func commands(line string) [][]string {
	var out [][]string
	var cur []string
	word := strings.Builder{}
	flush := func(end bool) {
		if word.Len() > 0 {
			cur = append(cur, word.String())
			word.Reset()
		}
		if end && len(cur) > 0 {
			out, cur = append(out, cur), nil
		}
	}
	for _, c := range line {
		switch c {
		case ' ', '\t':
			flush(false)
		case ';', '&', '|', '(', ')', '`', '{', '}', '\r':
			flush(true)
		case '"', '\'', '$':
		case '#':
			if word.Len() == 0 {
				flush(true)
				return out
			}
			word.WriteRune(c)
		default:
			word.WriteRune(c)
		}
	}
	flush(true)
	return out
}

// runs gives the program of deny that a shell line starts, "" for none. Operands of commands that only name a program do
// not count.
func runs(line string, deny []string) string {
	named := []string{"kill", "killall", "pkill", "pidof", "pgrep", "grep", "rm", "echo", "printf", "logger", "[", "test", "which", "type"}
	for _, words := range commands(line) {
		first := strings.TrimLeft(path.Base(words[0]), "-")
		if first == "busybox" && len(words) > 1 {
			first = words[1]
		}
		if slices.Contains(named, first) {
			continue
		}
		for _, w := range words {
			if b := strings.TrimLeft(path.Base(w), "-"); slices.Contains(deny, b) {
				return b
			}
		}
	}
	return ""
}

// startProgram wants init and the start scripts not to run some programs.
type startProgram struct {
	Deny []string `json:"deny"`
}

func inittabKind() Kind {
	return Kind{
		Name: "start-program", Target: `"init": /etc/inittab, rc.local and the scripts in init.d, rc.d and rcS.d`,
		Want: `{"deny": [program names]}, required`,
		Fix:  "put the line of inittab out of use; take the execute bits of a script named after the program",
		New: func(target string, want []byte) (Check, error) {
			var c startProgram
			if err := decodeWant(want, &c); err != nil {
				return nil, err
			}
			if target != "init" {
				return nil, errors.New(`target: want "init"`)
			}
			if len(c.Deny) == 0 {
				return nil, errors.New("want.deny: name at least one program")
			}
			return c, nil
		},
	}
}

func (c startProgram) Claims() []string { return prefixed("start:", c.Deny) }

func (c startProgram) Tightens(old Check) error {
	o, ok := old.(startProgram)
	if !ok {
		return errors.New("another kind")
	}
	if p, ok := subset(o.Deny, c.Deny); !ok {
		return fmt.Errorf("%s is missing", p)
	}
	return nil
}

// started is one place that runs a denied program.
type started struct {
	program string
	file    Info
	line    int
	script  bool
}

func (s started) subject() string { return s.program }

// scripts lists the start scripts, links resolved, each once.
func scripts(h *Host) ([]Info, error) {
	var out []Info
	seen := map[string]bool{}
	for _, dir := range []string{"/etc/rc.local", "/etc/init.d", "/etc/rc.d", "/etc/rcS.d", "/etc/rc.d/rc.local"} {
		in, err := h.Stat(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		names := []string{""}
		if in.Mode.IsDir() {
			if names, err = h.Names(dir, maxStartFiles); err != nil {
				return nil, err
			}
		}
		for _, n := range names {
			in, err := h.Stat(path.Join(dir, n))
			if err == nil && in.Mode.IsRegular() && !seen[in.Path] {
				seen[in.Path] = true
				out = append(out, in)
			}
		}
	}
	return out, nil
}

func (c startProgram) find(ctx context.Context, h *Host) (found []started, read []string, err error) {
	tab, err := h.Read(ctx, inittabFile)
	if err == nil {
		read = append(read, inittabFile)
		in, _ := h.Stat(inittabFile)
		for _, e := range parseInittab(tab) {
			if p := runs(e.cmd, c.Deny); p != "" && e.starts() {
				found = append(found, started{program: p, file: in, line: e.line})
			}
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	list, err := scripts(h)
	if err != nil {
		return found, read, err
	}
	for _, in := range list {
		if in.Mode&0o111 == 0 && in.Path != "/etc/rc.local" {
			continue
		}
		data, err := h.Read(ctx, in.Path)
		if err != nil {
			return found, read, err
		}
		read = append(read, printable(in.Path))
		n := 0
		for l := range bytes.Lines(data) {
			n++
			if p := runs(string(bytes.TrimSpace(l)), c.Deny); p != "" {
				found = append(found, started{program: p, file: in, line: n, script: true})
			}
		}
	}
	return found, read, nil
}

func (c startProgram) Check(ctx context.Context, h *Host) Verdict {
	found, read, err := c.find(ctx, h)
	if err != nil && len(found) == 0 {
		return unknown(err)
	}
	if len(read) == 0 {
		return Verdict{Result: Unknown, Reason: "no inittab and no start scripts: how this system starts is not known"}
	}
	var items []Item
	for _, s := range found {
		obs := "starts " + s.program
		if s.program != "" && !s.script && strings.Contains(s.program, "telnet") {
			obs += ", a login in clear text"
		}
		items = append(items, Item{Subject: s.subject(), Where: at(s.file.Path, s.line), Observed: obs, Expected: "not started"})
	}
	return judged(items, fmt.Sprintf("%d start files, none runs %s", len(read), strings.Join(c.Deny, ", ")), read[:min(len(read), MaxItems)]...)
}

func (c startProgram) Fix(ctx context.Context, h *Host, want func(string) bool) ([]Change, error) {
	found, _, err := c.find(ctx, h)
	if err != nil {
		return nil, err
	}
	var out []Change
	var tab *text
	done := map[string]bool{}
	for _, s := range found {
		switch {
		case !want(s.subject()):
		case !s.script:
			if tab == nil {
				if tab, err = openText(ctx, h, inittabFile); err != nil {
					return nil, err
				}
			}
			tab.disable(s.line)
		case done[s.file.Path]:
		case strings.Contains(path.Base(s.file.Path), strings.TrimSuffix(strings.TrimPrefix(s.program, "in."), "d")):
			done[s.file.Path] = true
			out = append(out, Change{Op: Chmod, Path: s.file.Path, OldMode: s.file.Mode & permBits, Mode: s.file.Mode & permBits &^ 0o111, NextStart: true})
		default:
			err = fmt.Errorf("%s does other things too: %w", printable(s.file.Path), ErrNoFix)
		}
	}
	if tab != nil {
		out = append(out, tab.changes(true)...)
	}
	return out, err
}
