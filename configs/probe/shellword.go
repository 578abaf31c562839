// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"strings"
)

func (s *shellScript) escape() {
	if s.pos >= len(s.src) {
		return
	}
	if s.src[s.pos] == '\n' {
		s.line++
	} else {
		s.put(s.src[s.pos : s.pos+1])
	}
	s.pos++
}

func (s *shellScript) single() {
	end := strings.IndexByte(s.src[s.pos:], '\'')
	if end < 0 {
		end = len(s.src) - s.pos
	}
	text := s.src[s.pos : s.pos+end]
	s.line += strings.Count(text, "\n")
	s.put(text)
	s.pos = min(s.pos+end+1, len(s.src))
}

func (s *shellScript) double() {
	s.open = true
	for s.pos < len(s.src) && s.src[s.pos] != '"' {
		c := s.src[s.pos]
		s.pos++
		switch {
		case c == '\\':
			s.escape()
		case c == '$':
			s.dollar(false)
		case c == '`':
			s.backquote()
		default:
			if c == '\n' {
				s.line++
			}
			s.put(string([]byte{c}))
		}
	}
	s.pos = min(s.pos+1, len(s.src))
}

// dollar expands a variable after its "$". split says that it stands outside of quotes, where its value makes several words.
func (s *shellScript) dollar(split bool) {
	if s.peek(0) == '(' {
		s.pos++
		s.substitute(s.src)
		return
	}
	name, other := "", ""
	if s.peek(0) == '{' {
		end := strings.IndexByte(s.src[s.pos:], '}')
		if end < 0 {
			return
		}
		inner := s.src[s.pos+1 : s.pos+end]
		s.pos += end + 1
		name = inner[:nameLen(inner)]
		other = strings.TrimLeft(inner[len(name):], ":-=+")
	} else {
		n := nameLen(s.src[s.pos:])
		name = s.src[s.pos : s.pos+n]
		s.pos += n
	}
	value, ok := s.vars[name]
	if !ok || value == "" {
		value = other
	}
	if !ok && other == "" {
		value = "$" + name
	}
	if !split {
		s.put(value)
		return
	}
	for i, w := range strings.Fields(value) {
		if i > 0 {
			s.endWord()
		}
		s.put(w)
	}
}

// substitute reads the commands of $(...) from pos to the parenthesis that ends it: what a substitution runs is started like
// anything else, and its output is not known.
func (s *shellScript) substitute(src string) {
	s.put("$()")
	if s.nest >= maxNest {
		return
	}
	sub := &shellScript{src: src, pos: s.pos, line: s.line, vars: s.vars, nest: s.nest + 1}
	for sub.pos < len(sub.src) && !sub.done && len(s.out)+len(sub.out) < maxCommands {
		sub.step()
	}
	sub.endCommand()
	s.pos, s.line = sub.pos, sub.line
	if s.stop != 0 {
		return
	}
	for _, c := range sub.out {
		c.in = s.inFunc
		s.out = append(s.out, c)
	}
}

// backquote is the old form of a substitution.
func (s *shellScript) backquote() {
	end := strings.IndexByte(s.src[s.pos:], '`')
	if end < 0 {
		end = len(s.src) - s.pos
	}
	after := min(s.pos+end+1, len(s.src))
	s.substitute(s.src[:s.pos+end])
	s.pos = after
}

// nameLen is the length of the variable name at the start of s.
func nameLen(s string) int {
	for i := range len(s) {
		c := s[i]
		if c != '_' && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (i == 0 || c < '0' || c > '9') {
			return i
		}
	}
	return len(s)
}

func (s *shellScript) redirect(c byte) {
	if t := s.word.String(); s.open && len(t) == 1 && t[0] >= '0' && t[0] <= '9' {
		s.word.Reset() // the descriptor
		s.open = false
	}
	s.endWord()
	if c == '<' && s.peek(0) == '<' && s.peek(1) != '<' {
		s.pos++
		if s.peek(0) == '-' {
			s.pos++
		}
		for s.peek(0) == ' ' {
			s.pos++
		}
		end := strings.IndexAny(s.src[s.pos:], " \t\r\n;&|)")
		if end < 0 {
			end = len(s.src) - s.pos
		}
		s.heres = append(s.heres, strings.Trim(strings.Trim(s.src[s.pos:s.pos+end], `\`), `"'`))
		s.pos += end
		return
	}
	for s.peek(0) == '>' || s.peek(0) == '<' || s.peek(0) == '&' || s.peek(0) == '|' {
		s.pos++
	}
	s.redir = true
}
