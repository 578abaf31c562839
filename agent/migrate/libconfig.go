// SPDX-License-Identifier: Apache-2.0

package migrate

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

const maxNesting = 16

// parseLibconfig reads what swupdate.cfg uses of libconfig's language: groups, strings that follow each other, numbers,
// booleans, arrays and lists, three kinds of comments. It returns scalars by path: "globals.bootloader", "identify.0.name".
// An @include is refused: the file it names would have to be read.
func parseLibconfig(text string) (map[string]string, error) {
	p := &libconfig{s: text, line: 1, out: map[string]string{}}
	if err := p.settings("", 0, false); err != nil {
		return nil, fmt.Errorf("line %d: %w", p.line, err)
	}
	return p.out, nil
}

type libconfig struct {
	s    string // what is left
	line int
	out  map[string]string
}

// skip goes over white space and comments.
func (p *libconfig) skip() error {
	for {
		trimmed := strings.TrimLeft(p.s, " \t\r\n\f")
		p.take(len(p.s) - len(trimmed))
		end := -1
		switch {
		case strings.HasPrefix(p.s, "#"), strings.HasPrefix(p.s, "//"):
			end = strings.IndexByte(p.s, '\n')
			if end < 0 {
				end = len(p.s)
			}
		case strings.HasPrefix(p.s, "/*"):
			if end = strings.Index(p.s, "*/") + 2; end < 2 {
				return errors.New("a comment does not end")
			}
		default:
			return nil
		}
		p.take(end)
	}
}

func (p *libconfig) take(n int) string {
	word := p.s[:n]
	p.line += strings.Count(word, "\n")
	p.s = p.s[n:]
	return word
}

// punct takes a character if it is the next.
func (p *libconfig) punct(c byte) bool {
	if p.s != "" && p.s[0] == c {
		p.take(1)
		return true
	}
	return false
}

func (p *libconfig) word() string {
	n := 0
	for n < len(p.s) && (p.s[n] >= 'a' && p.s[n] <= 'z' || p.s[n] >= 'A' && p.s[n] <= 'Z' || p.s[n] >= '0' && p.s[n] <= '9' || strings.IndexByte("-_*+.", p.s[n]) >= 0) {
		n++
	}
	return p.take(n)
}

// settings reads "name = value;" up to the end of the group.
func (p *libconfig) settings(path string, depth int, inGroup bool) error {
	if depth > maxNesting {
		return fmt.Errorf("nested deeper than %d levels", maxNesting)
	}
	for {
		if err := p.skip(); err != nil {
			return err
		}
		switch {
		case p.s == "" && !inGroup, inGroup && p.punct('}'):
			return nil
		case p.s == "":
			return errors.New("a group does not end")
		}
		name := p.word()
		if name == "" {
			return fmt.Errorf("%.20q where a name must be", p.s)
		}
		if err := p.skip(); err != nil {
			return err
		}
		if !p.punct('=') && !p.punct(':') {
			return fmt.Errorf("no '=' or ':' after %s", name)
		}
		if err := p.value(join(path, name), depth); err != nil {
			return err
		}
		if err := p.skip(); err != nil {
			return err
		}
		_ = p.punct(';') || p.punct(',') // both optional
	}
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func (p *libconfig) value(path string, depth int) error {
	if err := p.skip(); err != nil {
		return err
	}
	if len(p.out) >= maxEntries || len(path) > 1024 {
		return fmt.Errorf("more than %d settings", maxEntries)
	}
	switch {
	case p.punct('{'):
		return p.settings(path, depth+1, true)
	case p.punct('['):
		return p.list(path, ']', depth+1)
	case p.punct('('):
		return p.list(path, ')', depth+1)
	case strings.HasPrefix(p.s, `"`):
		return p.text(path)
	}
	word := p.word()
	if word == "" {
		return fmt.Errorf("%.20q where a value must be", p.s)
	}
	p.out[path] = word
	return nil
}

func (p *libconfig) list(path string, end byte, depth int) error {
	if depth > maxNesting {
		return fmt.Errorf("nested deeper than %d levels", maxNesting)
	}
	for i := 0; ; i++ {
		if err := p.skip(); err != nil {
			return err
		}
		if p.punct(end) {
			return nil
		}
		if p.s == "" {
			return errors.New("a list does not end")
		}
		if err := p.value(path+"."+strconv.Itoa(i), depth); err != nil {
			return err
		}
		if err := p.skip(); err != nil {
			return err
		}
		_ = p.punct(',')
	}
}

// text reads strings that stand side by side as one.
func (p *libconfig) text(path string) error {
	var b strings.Builder
	for p.punct('"') {
		for {
			if p.s == "" {
				return errors.New("a string does not end")
			}
			c := p.take(1)
			if c == `"` {
				break
			}
			if c == `\` && p.s != "" {
				c = unescape(p.take(1))
			}
			b.WriteString(c)
		}
		if err := p.skip(); err != nil {
			return err
		}
	}
	p.out[path] = b.String()
	return nil
}

func unescape(c string) string {
	switch c {
	case "n":
		return "\n"
	case "t":
		return "\t"
	case "r":
		return "\r"
	}
	return c
}
