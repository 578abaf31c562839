// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"context"
	"strings"
)

// text is a file as lines that can be changed one at a time: every other byte, line endings and a missing last newline
// included, stays as it is.
type text struct {
	path   string
	before []byte
	lines  []string // with their endings
}

func openText(ctx context.Context, h *Host, name string) (*text, error) {
	data, err := h.Read(ctx, name)
	if err != nil {
		return nil, err
	}
	p, err := h.Resolve(name)
	if err != nil {
		return nil, err
	}
	t := &text{path: p, before: data}
	for l := range bytes.Lines(data) {
		t.lines = append(t.lines, string(l))
	}
	return t, nil
}

// line returns line n, from 1, without its ending; "" beyond the end.
func (t *text) line(n int) string {
	if n < 1 || n > len(t.lines) {
		return ""
	}
	return strings.TrimRight(t.lines[n-1], "\r\n")
}

// set replaces line n and keeps its ending.
func (t *text) set(n int, s string) {
	if n < 1 || n > len(t.lines) {
		return
	}
	old := t.lines[n-1]
	t.lines[n-1] = s + old[len(strings.TrimRight(old, "\r\n")):]
}

// disabledMark starts a line that a fix put out of use, so that people see who did it and what it was.
const disabledMark = "# disabled by backstay: "

// disable turns line n into a comment.
func (t *text) disable(n int) { t.set(n, disabledMark+t.line(n)) }

// insert puts s before line n; beyond the end it is added after the last line, which gets an ending if it has none.
func (t *text) insert(n int, s string) {
	if n > len(t.lines) {
		if k := len(t.lines); k > 0 && !strings.HasSuffix(t.lines[k-1], "\n") {
			t.lines[k-1] += "\n"
		}
		t.lines = append(t.lines, s+"\n")
		return
	}
	t.lines = append(t.lines[:n-1], append([]string{s + "\n"}, t.lines[n-1:]...)...)
}

// change is the edit from what was read to what the lines are now.
func (t *text) change() Change {
	return Change{Op: Edit, Path: t.path, Before: t.before, After: []byte(strings.Join(t.lines, ""))}
}

// changes is change as a plan: empty when nothing changed.
func (t *text) changes(nextStart bool) []Change {
	c := t.change()
	if bytes.Equal(c.Before, c.After) {
		return nil
	}
	c.NextStart = nextStart
	return []Change{c}
}
