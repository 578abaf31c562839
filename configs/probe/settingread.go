// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"slices"
	"strings"
)

// settingScope is where a setting holds: a section, or all files together when they have none.
type settingScope struct {
	name  string
	file  string
	text  *text
	begin int // the line that opens it, 0 for none
	end   int // its last line
	lines []settingLine
}

type settingLine struct {
	text       *text
	n          int
	key, value string
}

// find gives the last setting of one of the keys.
func (s settingScope) find(keys []string) (settingLine, bool) {
	for _, l := range slices.Backward(s.lines) {
		if slices.ContainsFunc(keys, func(k string) bool { return foldKey(k) == l.key }) {
			return l, true
		}
	}
	return settingLine{}, false
}

// foldKey makes names comparable: of "Read Only" and "read only" case and spaces do not matter.
func foldKey(k string) string { return strings.ToLower(strings.Join(strings.Fields(k), "")) }

// scopes reads the files.
func (c settingCheck) scopes(ctx context.Context, h *Host) (out []settingScope, read []string, err error) {
	names, err := h.expand(c.files)
	if err != nil {
		return nil, nil, err
	}
	var all settingScope
	var global []settingLine
	for _, f := range names {
		t, err := openText(ctx, h, f)
		if err != nil {
			return out, read, err
		}
		read = append(read, printable(f))
		cur := settingScope{file: f, text: t}
		done := func() {
			switch {
			case c.Form != "ini" && c.Form != "uci":
				all.lines = append(all.lines, cur.lines...)
				all.file, all.text, all.end = f, t, cur.end
			case c.Form == "ini" && cur.begin == 0 || foldKey(cur.name) == "global":
				global = append(global, cur.lines...)
				fallthrough
			default:
				out = append(out, cur)
			}
		}
		for n := 1; n <= len(t.lines); n++ {
			l, section, ok := c.parseLine(t.line(n))
			if section != nil {
				done()
				cur = settingScope{name: *section, file: f, text: t, begin: n, end: n}
			}
			if ok {
				l.text, l.n = t, n
				cur.lines, cur.end = append(cur.lines, l), n
			}
		}
		done()
	}
	if c.Form != "ini" && c.Form != "uci" {
		if all.text == nil {
			return nil, read, nil
		}
		return []settingScope{all}, read, nil
	}
	return c.pick(out, global), read, nil
}

// pick leaves the sections that the rule is about; what the global section sets holds in the others, too.
func (c settingCheck) pick(list []settingScope, global []settingLine) []settingScope {
	var out []settingScope
	for _, s := range list {
		isGlobal := s.begin == 0 || foldKey(s.name) == "global"
		switch {
		case c.Form == "uci" && s.name == c.Section, c.Form == "ini" && c.Section == "" && s.begin == 0:
		case c.Form == "ini" && c.Section == "*" && !isGlobal:
			s.lines = append(slices.Clone(global), s.lines...)
		case c.Form == "ini" && c.Section != "" && c.Section != "*" && foldKey(s.name) == foldKey(c.Section):
		default:
			continue
		}
		out = append(out, s)
	}
	return out
}

// parseLine reads one line: a setting, or the beginning of a section.
func (c settingCheck) parseLine(raw string) (l settingLine, section *string, ok bool) {
	s := strings.TrimSpace(raw)
	if s == "" || s[0] == '#' || s[0] == ';' && c.Form != "words" || len(raw) > maxValue {
		return l, nil, false
	}
	switch c.Form {
	case "line":
		return settingLine{key: "", value: strings.Join(strings.Fields(s), "")}, nil, true
	case "uci":
		w := uciWords(raw)
		if len(w) >= 2 && w[0] == "config" {
			return l, &w[1], false
		}
		if len(w) >= 3 && (w[0] == "option" || w[0] == "list") {
			return settingLine{key: foldKey(w[1]), value: w[2]}, nil, true
		}
		return l, nil, false
	case "ini":
		if s[0] == '[' && strings.Contains(s, "]") {
			name := s[1:strings.IndexByte(s, ']')]
			return l, &name, false
		}
	}
	key, value := s, "on"
	if c.Form == "words" {
		if i := strings.IndexAny(s, " \t"); i > 0 {
			key, value = s[:i], s[i+1:]
		}
		value = strings.TrimSuffix(strings.TrimSpace(value), ";")
	} else if k, v, found := strings.Cut(s, "="); found {
		key, value = k, v
	}
	return settingLine{key: foldKey(key), value: strings.Trim(strings.TrimSpace(value), `"'`)}, nil, true
}
