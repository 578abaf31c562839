// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"slices"
	"strings"
)

// Bounds of reading one shell script.
const (
	maxCommands  = 4096 // simple commands of one script
	maxVariables = 512
	maxValue     = 4096 // bytes of one expanded word; a longer one is cut, which defeats A=$A$A
)

// shellCommand is one simple command of a script: its words after quotes and known variables, and where output and input go.
type shellCommand struct {
	file   string // "" for the script itself, else what it reads with "."
	line   int
	words  []string
	redirs []string
	in     string // the function whose body it is in
}

// shellScript reads the simple commands of a script. It is no shell: conditions are not decided, except that nothing after a
// plain "exit" and nothing below "if false" runs, and a branch called stop does not start anything. Variables have the last
// value that was written above.
type shellScript struct {
	src  string
	pos  int
	line int
	vars map[string]string
	out  []shellCommand

	cur    shellCommand
	word   strings.Builder
	open   bool   // a word has begun, perhaps an empty one
	redir  bool   // the next word is where a redirection goes
	depth  int    // of compound commands
	cases  []bool // open case commands: true while a pattern is expected
	stop   int    // depth of the stop) branch or dead condition being left out, 0 for none
	inFunc string
	fnAt   int      // depth outside the function
	heres  []string // delimiters of here-documents that begin at the next line
	cond   bool     // the command is the condition of an if or while
	and    bool     // the command runs only if the one before it did well, or badly
	nest   int      // substitutions this is inside of
	done   bool

	load func(name string) []shellCommand // reads a file that the script reads with "."; may be nil
}

// maxNest bounds substitutions inside each other.
const maxNest = 8

// readScript returns the simple commands of src. vars is updated, so that a file which is read with "." leaves its variables
// behind; load reads such a file.
func readScript(src string, vars map[string]string, load func(name string) []shellCommand) []shellCommand {
	s := &shellScript{src: src, line: 1, vars: vars, load: load}
	for s.pos < len(s.src) && !s.done && len(s.out) < maxCommands {
		s.step()
	}
	if !s.done {
		s.endCommand()
	}
	return s.out
}

func (s *shellScript) peek(n int) byte {
	if s.pos+n < len(s.src) {
		return s.src[s.pos+n]
	}
	return 0
}

// step takes one character or operator.
func (s *shellScript) step() {
	c := s.src[s.pos]
	s.pos++
	switch c {
	case ' ', '\t', '\r':
		s.endWord()
	case '\n':
		s.endCommand()
		s.line++
		s.hereDocuments()
	case '#':
		if s.open {
			s.put("#")
			return
		}
		for s.pos < len(s.src) && s.src[s.pos] != '\n' {
			s.pos++
		}
	case '\\':
		s.escape()
	case '\'':
		s.single()
	case '"':
		s.double()
	case '$':
		s.dollar(true)
	case '<', '>':
		s.redirect(c)
	case '`':
		s.backquote()
	case ';', '&', '|', '(', ')':
		s.operator(c)
	default:
		s.word.WriteByte(c)
		s.open = true
	}
}

func (s *shellScript) put(text string) {
	s.open = true
	if s.word.Len()+len(text) <= maxValue {
		s.word.WriteString(text)
	}
}

// hereDocuments leaves out the text that a command reads.
func (s *shellScript) hereDocuments() {
	for _, delim := range s.heres {
		for s.pos < len(s.src) {
			l, _, _ := strings.Cut(s.src[s.pos:], "\n")
			s.pos = min(s.pos+len(l)+1, len(s.src))
			s.line++
			if strings.TrimSpace(l) == delim {
				break
			}
		}
	}
	s.heres = nil
}

func (s *shellScript) endWord() {
	if !s.open {
		return
	}
	w := s.word.String()
	s.word.Reset()
	s.open = false
	if s.redir {
		s.redir = false
		s.cur.redirs = append(s.cur.redirs, w)
		return
	}
	if len(s.cur.words) == 0 {
		s.cur.line = s.line
		if s.keyword(w) {
			return
		}
	}
	s.cur.words = append(s.cur.words, w)
	if len(s.cur.words) >= 2 && s.cur.words[0] == "case" && w == "in" {
		s.cur = shellCommand{}
		s.depth++
		s.cases = append(s.cases, true)
	}
}

// keyword takes a reserved word where a command begins.
func (s *shellScript) keyword(w string) bool {
	if n := len(s.cases); n > 0 && s.cases[n-1] && w != "esac" {
		return false // a pattern
	}
	switch w {
	case "then", "do", "else", "elif", "!", "time":
		s.cond = w == "elif"
		if s.stop == s.depth && (w == "else" || w == "elif") {
			s.stop = 0
		}
	case "if", "while", "until", "{":
		s.depth++
		s.cond = w == "if" || w == "while"
	case "fi", "done", "}", "esac":
		if w == "esac" && len(s.cases) > 0 {
			s.cases = s.cases[:len(s.cases)-1]
		}
		s.leave()
	default:
		return false
	}
	return true
}

func (s *shellScript) leave() {
	if s.stop == s.depth {
		s.stop = 0
	}
	s.depth = max(0, s.depth-1)
	if s.inFunc != "" && s.depth == s.fnAt {
		s.inFunc = ""
	}
}

func (s *shellScript) operator(c byte) {
	n := len(s.cases)
	pattern := n > 0 && s.cases[n-1]
	switch {
	case pattern && c == '|':
		s.endWord()
	case pattern && c == '(':
	case pattern && c == ')':
		s.endWord()
		if labels := s.cur.words; len(labels) > 0 && !slices.ContainsFunc(labels, func(l string) bool { return !slices.Contains(stopLabels(), l) }) && s.stop == 0 {
			s.stop = s.depth
		}
		s.cur = shellCommand{}
		s.cases[n-1] = false
	case c == '(' && s.open && s.peek(0) == ')': // name()
		s.pos++
		name := s.word.String()
		s.word.Reset()
		s.open = false
		s.endCommand()
		if s.inFunc == "" {
			s.inFunc, s.fnAt = name, s.depth
		}
	case c == '(':
		s.endCommand()
		s.depth++
	case c == ')' && s.depth == 0:
		s.endCommand()
		s.done = s.done || s.nest > 0
	case c == ')':
		s.endCommand()
		s.leave()
	case c == ';' && s.peek(0) == ';':
		s.pos++
		s.endCommand()
		if n > 0 {
			s.cases[n-1] = true
			if s.stop == s.depth {
				s.stop = 0
			}
		}
	case c == '&' && (s.peek(0) == '>'):
		s.endWord()
	case (c == '&' || c == '|') && s.peek(0) == c:
		s.pos++
		s.endCommand()
		s.and = true
	default:
		s.endCommand()
	}
}

// stopLabels are arguments of a start script that end a program or only look.
func stopLabels() []string { return []string{"stop", "status", "kill", "stop_post"} }

func (s *shellScript) endCommand() {
	s.endWord()
	s.redir = false
	c, cond, and := s.cur, s.cond, s.and
	s.cur, s.cond = shellCommand{}, false
	s.and = and && len(c.words) == 0
	if n := len(s.cases); n > 0 && s.cases[n-1] {
		return
	}
	if len(c.words) == 0 {
		if len(c.redirs) > 0 && s.stop == 0 {
			c.in = s.inFunc
			c.line = s.line
			s.out = append(s.out, c)
		}
		return
	}
	if s.assigns(c.words) {
		return
	}
	switch c.words[0] {
	case "for", "select":
		s.depth++ // its "do" opens nothing of its own
	case "function":
		if len(c.words) > 1 && s.inFunc == "" {
			s.inFunc, s.fnAt = c.words[1], s.depth
			if c.words[len(c.words)-1] == "{" {
				s.depth++
			}
		}
		return
	case "false":
		if cond && s.stop == 0 && len(c.words) == 1 {
			s.stop = s.depth
		}
	case "exit":
		if s.depth == 0 && s.inFunc == "" && !and && s.nest == 0 {
			s.done = true
		}
	}
	if s.stop != 0 || slices.Contains(stopLabels(), s.inFunc) || s.inFunc == "stop_service" {
		return
	}
	c.in = s.inFunc
	s.out = append(s.out, c)
	if (c.words[0] == "." || c.words[0] == "source") && len(c.words) > 1 && s.load != nil {
		for _, l := range s.load(c.words[1]) {
			if l.in == "" {
				l.in = s.inFunc
			}
			s.out = append(s.out, l)
		}
	}
}

// assigns takes a command that only sets variables.
func (s *shellScript) assigns(words []string) bool {
	if slices.Contains([]string{"export", "local", "readonly", "declare"}, words[0]) {
		words = words[1:]
	}
	for _, w := range words {
		if n := nameLen(w); n == 0 || n == len(w) || w[n] != '=' {
			return false
		}
	}
	for _, w := range words {
		n := nameLen(w)
		if len(s.vars) < maxVariables || s.vars[w[:n]] != "" {
			s.vars[w[:n]] = w[n+1:]
		}
	}
	return len(words) > 0
}
