// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"errors"
	"strings"
)

// token is a word, a quoted text, a sign, or a group in braces.
type token struct {
	text   string
	quoted bool
	group  []token // of "{"
	line   int
}

// Bounds of a file of rules.
const (
	maxText   = 1 << 20
	maxTokens = 200_000
	maxGroups = 8
)

var errText = errors.New("more than this package reads, or braces that do not match")

// lexer takes a file of the nft program apart. A newline is a token: it ends a statement like a semicolon does.
type lexer struct {
	s      string
	line   int
	tokens int
	vars   map[string][]token
}

func (x *lexer) group(deep int) ([]token, error) {
	var out []token
	for {
		t, ok := x.next()
		if x.tokens++; x.tokens > maxTokens || deep > maxGroups {
			return out, errText
		}
		switch {
		case !ok && deep == 0, ok && t.text == "}" && !t.quoted && deep > 0:
			return out, nil
		case !ok, t.text == "}" && !t.quoted:
			return out, errText
		case t.text == "{" && !t.quoted:
			var err error
			if t.group, err = x.group(deep + 1); err != nil {
				return out, err
			}
			if t.group == nil {
				t.group = []token{}
			}
		}
		if v := strings.TrimPrefix(t.text, "$"); v != t.text && !t.quoted && x.vars[v] != nil {
			x.tokens += len(x.vars[v])
			out = append(out, x.vars[v]...)
			continue
		}
		out = append(out, t)
		if deep == 0 {
			out = x.define(out)
		}
	}
}

// define remembers "define NAME = value" when its line ends, so that later lines can use it.
func (x *lexer) define(out []token) []token {
	last := len(out) - 1
	if !out[last].ends() {
		return out
	}
	from := last
	for from > 0 && !out[from-1].ends() {
		from--
	}
	d := out[from:last]
	if len(d) < 4 || d[0].text != "define" || d[2].text != "=" {
		return out
	}
	x.vars[d[1].text] = append([]token(nil), d[3:]...)
	return out[:from]
}

func (t token) ends() bool { return !t.quoted && (t.text == "\n" || t.text == ";") }

func (x *lexer) next() (token, bool) {
	for {
		x.s = strings.TrimLeft(x.s, " \t\r\v\f")
		switch {
		case x.s == "":
			return token{}, false
		case strings.HasPrefix(x.s, "\\\n"):
			x.s, x.line = x.s[2:], x.line+1
			continue
		case x.s[0] == '#':
			end := strings.IndexByte(x.s, '\n')
			if end < 0 {
				end = len(x.s)
			}
			x.s = x.s[end:]
			continue
		}
		break
	}
	t := token{line: x.line}
	switch c := x.s[0]; c {
	case '\n':
		x.line++
		fallthrough
	case '{', '}', ';', ',', '=':
		n := 1
		if c == '=' && strings.HasPrefix(x.s, "==") {
			n = 2
		}
		t.text, x.s = x.s[:n], x.s[n:]
		return t, true
	case '"', '\'':
		end := strings.IndexByte(x.s[1:], c)
		if end < 0 {
			end = len(x.s) - 1
			t.text, x.s = x.s[1:], ""
		} else {
			t.text, x.s = x.s[1:end+1], x.s[end+2:]
		}
		x.line += strings.Count(t.text, "\n")
		t.text, t.quoted = clean(t.text), true
		return t, true
	}
	end := strings.IndexAny(x.s, " \t\r\v\f\n{};,=\"'#")
	if end == 0 || strings.HasPrefix(x.s, "!=") {
		end = min(2, len(x.s))
	}
	if end < 0 {
		end = len(x.s)
	}
	t.text, x.s = clean(x.s[:end]), x.s[end:]
	if t.text == "!" && strings.HasPrefix(x.s, "=") {
		t.text, x.s = "!=", x.s[1:]
	}
	return t, true
}
