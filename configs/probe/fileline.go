// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

// fileLine looks at one key of a configuration file made of lines.
type fileLine struct {
	path    string
	Key     string   `json:"key"`
	Sep     string   `json:"sep"`     // between key and value; " " is any white space
	Section string   `json:"section"` // as in [section]; empty for a file without sections
	OneOf   []string `json:"one_of"`  // the value that counts (the last) must be one of these
	Deny    []string `json:"deny"`    // no line may have one of these values
	Default string   `json:"default"` // what counts when the key is not there
	Set     string   `json:"set"`     // what a fix writes; without it a denied line is put out of use
	Comment string   `json:"comment"` // what starts a comment, default "#"
}

func fileLineKind() Kind {
	return Kind{
		Name: "file-line", Target: "a path",
		Want: `{"key": K, "sep": "=", "section": S, "one_of": [values], "deny": [values], "default": V, "set": V, "comment": "#"}; key, sep and one of one_of and deny are required`,
		Fix:  "write set in place of the value, or after the section's last line; without set, put denied lines out of use",
		New: func(target string, want []byte) (Check, error) {
			c := fileLine{path: target, Comment: "#"}
			if err := decodeWant(want, &c); err != nil {
				return nil, err
			}
			switch {
			case c.Key == "" || c.Sep == "":
				return nil, errors.New("want: key and sep are required")
			case len(c.OneOf) == 0 && len(c.Deny) == 0:
				return nil, errors.New("want: give one_of or deny")
			case strings.ContainsAny(c.Key+c.Sep+c.Set+c.Section+c.Comment, "\r\n"):
				return nil, errors.New("want: a line has no line break")
			case c.Set != "" && len(c.OneOf) > 0 && !slices.Contains(c.OneOf, c.Set):
				return nil, errors.New("want.set: not one of one_of, so the fix would not help")
			case slices.Contains(c.Deny, c.Set) && c.Set != "":
				return nil, errors.New("want.set: one of deny, so the fix would not help")
			}
			return c, checkPaths([]string{target})
		},
	}
}

func (c fileLine) Claims() []string {
	return []string{"line:" + c.path + ":" + c.Section + ":" + c.Key}
}

func (c fileLine) Tightens(old Check) error {
	o, ok := old.(fileLine)
	if !ok || o.path != c.path || o.Key != c.Key || o.Sep != c.Sep || o.Section != c.Section || o.Default != c.Default || o.Comment != c.Comment {
		return errors.New("it looks at something else")
	}
	if v, ok := subset(o.Deny, c.Deny); !ok {
		return fmt.Errorf("%q is not denied", v)
	}
	if v, ok := subset(c.OneOf, o.OneOf); len(o.OneOf) > 0 && (!ok || len(c.OneOf) == 0) {
		return fmt.Errorf("%q is allowed", v)
	}
	return nil
}

// setting is one line that sets the key.
type setting struct {
	line  int
	value string
	from  int // where in the line the value starts
}

// parse finds the settings of the key and the last line of the section, 0 when the section is not there.
func (c fileLine) parse(t *text) (found []setting, end int) {
	in := c.Section == ""
	for n := 1; n <= len(t.lines); n++ {
		raw := t.line(n)
		s := strings.TrimSpace(raw)
		if s == "" || strings.HasPrefix(s, c.Comment) {
			continue
		}
		if c.Section != "" && strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") {
			in = s == "["+c.Section+"]"
			if in {
				end = n
			}
			continue
		}
		if !in {
			continue
		}
		end = n
		key, value, from, ok := cutSetting(raw, c.Sep)
		if ok && key == c.Key {
			found = append(found, setting{n, value, from})
		}
	}
	return found, end
}

// cutSetting splits a line at sep and gives the offset of the value. Quotes around a value are not part of it.
func cutSetting(raw, sep string) (key, value string, from int, ok bool) {
	indent := len(raw) - len(strings.TrimLeft(raw, " \t"))
	rest := raw[indent:]
	i := strings.IndexAny(rest, " \t")
	skip := 0
	if strings.TrimSpace(sep) != "" {
		i, skip = strings.Index(rest, sep), len(sep)
	}
	if i < 0 {
		return "", "", 0, false
	}
	after := rest[i+skip:]
	trimmed := strings.TrimLeft(after, " \t")
	from = indent + i + skip + len(after) - len(trimmed)
	value = strings.TrimSpace(trimmed)
	if n := len(value); n >= 2 && (value[0] == '"' || value[0] == '\'') && value[n-1] == value[0] {
		value = value[1 : n-1]
	}
	return strings.TrimSpace(rest[:i]), value, from, true
}

func (c fileLine) bad(found []setting) (bad []setting, effective string) {
	effective = c.Default
	for i, s := range found {
		last := i == len(found)-1
		if slices.Contains(c.Deny, firstWord(s.value, c.Sep)) || last && len(c.OneOf) > 0 && !slices.Contains(c.OneOf, s.value) {
			bad = append(bad, s)
		}
		effective = s.value
	}
	return bad, effective
}

// firstWord is what deny compares where the value itself is a list of words.
func firstWord(v, sep string) string {
	if f := strings.Fields(v); strings.TrimSpace(sep) == "" && len(f) > 0 {
		return strings.Trim(f[0], `"'`)
	}
	return v
}

func (c fileLine) Check(ctx context.Context, h *Host) Verdict {
	t, err := openText(ctx, h, c.path)
	if errors.Is(err, fs.ErrNotExist) {
		return notApplicable(c.path + " is not there")
	}
	if err != nil {
		return unknown(err)
	}
	found, _ := c.parse(t)
	bad, effective := c.bad(found)
	expect := "not " + strings.Join(c.Deny, ", ")
	if len(c.OneOf) > 0 {
		expect = strings.Join(c.OneOf, " or ")
	}
	var items []Item
	for _, s := range bad {
		items = append(items, Item{Subject: c.Key, Where: at(c.path, s.line), Observed: printable(s.value), Expected: expect})
	}
	if len(found) == 0 && len(c.OneOf) > 0 && !slices.Contains(c.OneOf, c.Default) {
		items = append(items, Item{Subject: c.Key, Where: c.path, Observed: "not set", Expected: expect})
	}
	reason := fmt.Sprintf("%s is %s", c.Key, printable(effective))
	if len(found) == 0 {
		reason = fmt.Sprintf("%s is not set, which means %q", c.Key, c.Default)
	}
	return judged(items, reason, c.path)
}

func (c fileLine) Fix(ctx context.Context, h *Host, want func(string) bool) ([]Change, error) {
	t, err := openText(ctx, h, c.path)
	if err != nil || !want(c.Key) {
		return nil, err
	}
	found, end := c.parse(t)
	bad, _ := c.bad(found)
	for _, s := range bad {
		if c.Set == "" {
			t.disable(s.line)
		} else {
			t.set(s.line, t.line(s.line)[:s.from]+c.Set)
		}
	}
	if len(found) == 0 && len(c.OneOf) > 0 && c.Set != "" && !slices.Contains(c.OneOf, c.Default) {
		if c.Section != "" && end == 0 {
			t.insert(len(t.lines)+1, "["+c.Section+"]")
			end = len(t.lines)
		}
		sep := c.Sep
		if c.Section == "" {
			end = len(t.lines)
		}
		t.insert(end+1, c.Key+sep+c.Set)
	}
	return t.changes(true), nil
}
