// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"errors"
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
