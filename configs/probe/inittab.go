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

func (c startProgram) find(ctx context.Context, h *Host) (*startFacts, []start) {
	f := h.starts(ctx)
	// What a super-server offers is kind inetd's.
	return f, slices.DeleteFunc(f.on(c.Deny...), func(s start) bool { return s.source == "inetd" || s.source == "xinetd" })
}

func (c startProgram) Check(ctx context.Context, h *Host) Verdict {
	f, found := c.find(ctx, h)
	if err := f.err(); err != nil && len(found) == 0 {
		return unknown(err)
	}
	var items []Item
	for _, s := range found {
		obs := "starts " + s.program()
		if strings.Contains(s.program(), "telnet") {
			obs += ", a login in clear text"
		}
		items = append(items, Item{Subject: s.program(), Where: s.where(), Observed: obs, Expected: "not started"})
	}
	return judged(items, fmt.Sprintf("%d start files, none runs %s", len(f.read), strings.Join(c.Deny, ", ")), f.evidence()...)
}

func (c startProgram) Fix(ctx context.Context, h *Host, want func(string) bool) ([]Change, error) {
	f, found := c.find(ctx, h)
	found = slices.DeleteFunc(found, func(s start) bool { return !want(s.program()) })
	out, err := neutralise(ctx, h, found)
	if len(found) == 0 {
		err = f.err()
	}
	return out, err
}
