// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// exportsCheck wants what NFS shares to be limited.
type exportsCheck struct {
	files []string
	Deny  []string `json:"deny"` // everybody, no_root_squash, insecure, or another option
}

func exportsKind() Kind {
	return Kind{
		Name: "exports", Target: "a file such as /etc/exports; *.exports in the directory of the same name with .d count, too",
		Want: `{"deny": ["everybody", "no_root_squash", "insecure"]}: options, and everybody for a share without a list of hosts; required`,
		Fix:  "put the line out of use",
		New: func(target string, want []byte) (Check, error) {
			c := exportsCheck{files: []string{target, target + ".d/*.exports"}}
			if err := decodeWant(want, &c); err != nil {
				return nil, err
			}
			if len(c.Deny) == 0 {
				return nil, errors.New("want.deny: name at least one option")
			}
			return c, checkPaths([]string{target})
		},
	}
}

func (c exportsCheck) Claims() []string { return prefixed("exports:"+c.files[0]+":", c.Deny) }

func (c exportsCheck) Tightens(old Check) error {
	o, ok := old.(exportsCheck)
	if !ok || o.files[0] != c.files[0] {
		return errors.New("another target")
	}
	if d, ok := subset(o.Deny, c.Deny); !ok {
		return fmt.Errorf("%s is missing", d)
	}
	return nil
}

// export is one share for one list of hosts.
type export struct {
	line, end    int
	path, client string
	options      []string
}

// parseExports reads exports(5). A space between a host and its options makes them options for everybody.
func parseExports(data []byte) []export {
	var out []export
	n, from, held := 0, 0, ""
	for l := range strings.Lines(string(data)) {
		n++
		l = strings.TrimRight(l, "\r\n")
		if held == "" {
			from = n
		}
		held += strings.TrimSuffix(l, `\`)
		if strings.HasSuffix(l, `\`) && len(held) < maxValue {
			continue
		}
		if i := strings.IndexByte(held, '#'); i >= 0 {
			held = held[:i]
		}
		for _, e := range parseExport(held) {
			e.line, e.end = from, n
			if len(out) < maxCommands {
				out = append(out, e)
			}
		}
		held = ""
	}
	return out
}

func parseExport(s string) []export {
	s = strings.TrimSpace(s)
	if s == "" {
		return nil
	}
	path, rest := s, ""
	if s[0] == '"' {
		if i := strings.IndexByte(s[1:], '"'); i >= 0 {
			path, rest = s[1:i+1], s[i+2:]
		}
	} else if i := strings.IndexAny(s, " \t"); i > 0 {
		path, rest = s[:i], s[i:]
	}
	var defaults []string
	var out []export
	for w := range strings.FieldsSeq(rest) {
		if strings.HasPrefix(w, "-") {
			defaults = strings.Split(w[1:], ",")
			continue
		}
		client, opts, _ := strings.Cut(w, "(")
		e := export{path: path, client: client, options: slices.Clone(defaults)}
		for o := range strings.SplitSeq(strings.TrimSuffix(opts, ")"), ",") {
			e.options = append(e.options, strings.TrimSpace(o))
		}
		out = append(out, e)
	}
	if len(out) == 0 {
		out = append(out, export{path: path, options: defaults})
	}
	return out
}

func (e export) everybody() bool {
	return slices.Contains([]string{"", "*", "0.0.0.0/0", "::/0", "0.0.0.0/0.0.0.0"}, e.client)
}

// why lists what is denied of one share. Of opposite options the last one counts.
func (c exportsCheck) why(e export) []string {
	var out []string
	for _, d := range c.Deny {
		if d == "everybody" {
			if e.everybody() {
				out = append(out, "for everybody")
			}
			continue
		}
		opposite := map[string]string{"no_root_squash": "root_squash", "insecure": "secure"}[d]
		on := false
		for _, o := range e.options {
			if o == d {
				on = true
			} else if o == opposite && o != "" || d == "no_root_squash" && o == "all_squash" {
				on = false
			}
		}
		if on {
			out = append(out, d)
		}
	}
	return out
}

func (c exportsCheck) Check(ctx context.Context, h *Host) Verdict {
	files, err := h.expand(c.files)
	if err != nil {
		return unknown(err)
	}
	if len(files) == 0 {
		return notApplicable(c.files[0] + " is not there: nothing is shared")
	}
	var items []Item
	var read []string
	n := 0
	for _, f := range files {
		data, err := h.Read(ctx, f)
		if err != nil {
			return unknown(err)
		}
		read = append(read, printable(f))
		for _, e := range parseExports(data) {
			n++
			if why := c.why(e); len(why) > 0 {
				items = append(items, Item{Subject: printable(e.path), Where: at(f, e.line), Observed: printable(e.path + " " + strings.Join(why, ", ")), Expected: "named hosts, root_squash, secure"})
			}
		}
	}
	return judged(items, fmt.Sprintf("%d shares, all limited", n), read...)
}

func (c exportsCheck) Fix(ctx context.Context, h *Host, want func(string) bool) ([]Change, error) {
	files, err := h.expand(c.files)
	if err != nil {
		return nil, err
	}
	var out []Change
	for _, f := range files {
		t, err := openText(ctx, h, f)
		if err != nil {
			return out, err
		}
		for _, e := range parseExports(t.before) {
			if len(c.why(e)) == 0 || !want(printable(e.path)) {
				continue
			}
			for n := e.line; n <= e.end; n++ {
				if !strings.HasPrefix(t.line(n), disabledMark) {
					t.disable(n)
					t.set(n, strings.TrimSuffix(t.line(n), `\`))
				}
			}
		}
		out = append(out, t.changes(true)...)
	}
	return out, nil
}
