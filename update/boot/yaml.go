// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ParseYAML reads the YAML that libubootenv takes instead of an fw_env.config (its docs/fw_env_config.md), for one of its
// namespaces. With an empty namespace it is the first, as for fw_setenv.
//
//	uboot:
//	  size: 0x4000
//	  lockfile: /var/lock/fw_printenv.lock
//	  writelist:
//	    - BOOT_ORDER:sw
//	  devices:
//	    - path: /dev/mtd0
//	      offset: 0xA0000
//	      sectorsize: 0x10000
//
// It is a subset of YAML that covers this and no more: nested mappings and lists by indentation, plain and quoted scalars on
// one line, comments. Everything else is refused with its line: tabs, anchors, tags, flow style, block scalars, documents
// after the first.
func ParseYAML(b []byte, namespace string) (Config, error) {
	if len(b) > maxConfig {
		return Config{}, fmt.Errorf("it is longer than %d bytes", maxConfig)
	}
	lines, err := yamlLines(string(b))
	if err != nil {
		return Config{}, err
	}
	p := &yamlParser{lines: lines}
	var names []string
	var found *Config
	for !p.done() {
		l := p.next()
		if l.indent != p.lines[0].indent || l.item || l.key == "" || l.value != "" {
			return Config{}, l.wrong("it is not the name of a namespace")
		}
		if slices.Contains(names, l.key) || len(names) == maxNamespaces {
			return Config{}, l.wrong("namespace %q is there already, or it is one too many", l.key)
		}
		c, err := p.namespace(l.indent)
		if err != nil {
			return Config{}, err
		}
		if err := c.check(); err != nil {
			return Config{}, fmt.Errorf("namespace %q: %w", l.key, err)
		}
		if found == nil && (namespace == "" || namespace == l.key) {
			found = &c
		}
		names = append(names, l.key)
	}
	if found == nil {
		return Config{}, fmt.Errorf("there is no namespace %q, but %q", namespace, names)
	}
	return *found, nil
}

// Bounds of a YAML configuration. Boards have one or two namespaces.
const (
	maxNamespaces = 16
	maxWritelist  = 256
)

// isYAML tells the two syntaxes apart by the first line that has something on it: a namespace, or the start of a document.
func isYAML(b []byte) bool {
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		f := strings.Fields(line)
		return line == "---" || strings.HasSuffix(f[0], ":") || len(f) > 1 && f[1] == ":"
	}
	return false
}

// yamlLine is one line: "key: value", with "- " before it if it begins an item of a list, or an item that is a scalar.
type yamlLine struct {
	n, indent  int
	item       bool
	inner      int // where the key of an item is
	key, value string
}

func (l yamlLine) wrong(format string, args ...any) error {
	return fmt.Errorf("line %d: %w", l.n, fmt.Errorf(format, args...))
}

func yamlLines(text string) ([]yamlLine, error) {
	var lines []yamlLine
	n := 0
	for raw := range strings.Lines(text) {
		n++
		l := yamlLine{n: n}
		body := strings.TrimLeft(raw, " ")
		l.indent = len(raw) - len(body)
		body = strings.TrimRight(body, " \r\n")
		switch {
		case body == "" || body[0] == '#' || body == "---" && len(lines) == 0:
			continue
		case body == "...", body == "---":
			return nil, l.wrong("there is more than one document")
		case body[0] == '\t':
			return nil, l.wrong("a tab is no indentation")
		}
		if rest, ok := strings.CutPrefix(body, "-"); ok && (rest == "" || rest[0] == ' ') {
			l.item = true
			body = strings.TrimLeft(rest, " ")
			l.inner = l.indent + 1 + len(rest) - len(body)
		}
		var err error
		if l.key, l.value, err = yamlPair(body); err != nil {
			return nil, l.wrong("%w", err)
		}
		lines = append(lines, l)
	}
	if len(lines) == 0 {
		return nil, errors.New("there is nothing in it")
	}
	return lines, nil
}

// yamlPair reads "key: value" or, with an empty key, a scalar.
func yamlPair(s string) (key, value string, err error) {
	if s == "" || s[0] == '#' {
		return "", "", errors.New("an item has nothing in it")
	}
	// A colon ends a key only before a space or the end: "- BOOT_ORDER:sw" is a scalar.
	for i := 0; i < len(s) && s[0] != '"' && s[0] != '\''; i++ {
		if i > 0 && s[i] == '#' && s[i-1] == ' ' {
			break
		}
		if s[i] == ':' && (i+1 == len(s) || s[i+1] == ' ') {
			if key, err = yamlScalar(strings.TrimRight(s[:i], " ")); err == nil && key == "" {
				err = errors.New("a key is empty")
			}
			if err != nil {
				return "", "", err
			}
			value, err = yamlScalar(strings.TrimLeft(s[i+1:], " "))
			return key, value, err
		}
	}
	value, err = yamlScalar(s)
	return "", value, err
}

// yamlScalar reads a scalar, and drops a comment after it.
func yamlScalar(s string) (string, error) {
	if s == "" || s[0] == '#' {
		return "", nil
	}
	if q := s[0]; q == '"' || q == '\'' {
		v, rest, ok := strings.Cut(s[1:], string(q))
		rest = strings.TrimLeft(rest, " ")
		if !ok || strings.Contains(v, `\`) || rest != "" && rest[0] != '#' {
			return "", fmt.Errorf("%s is not a quoted word without escapes", s)
		}
		return v, nil
	}
	if strings.ContainsRune("&*!|>%@`{}[],?", rune(s[0])) {
		return "", fmt.Errorf("%q begins what this reader of YAML has not", s[:1])
	}
	s, _, _ = strings.Cut(s, " #")
	s = strings.TrimRight(s, " ")
	if strings.ContainsAny(s, "\t\x00") || strings.Contains(s, ": ") {
		return "", fmt.Errorf("%q is not a plain word", s)
	}
	return s, nil
}

type yamlParser struct {
	lines []yamlLine
	at    int
}

func (p *yamlParser) done() bool { return p.at == len(p.lines) }

func (p *yamlParser) next() yamlLine {
	p.at++
	return p.lines[p.at-1]
}

// block returns the lines that belong to a key at an indentation: the deeper ones, and the items of a list as deep as it.
func (p *yamlParser) block(parent int, list bool) []yamlLine {
	from := p.at
	for !p.done() && (p.lines[p.at].indent > parent || list && p.lines[p.at].indent == parent && p.lines[p.at].item) {
		p.at++
	}
	return p.lines[from:p.at]
}

func (p *yamlParser) namespace(parent int) (Config, error) {
	var c Config
	var seen []string
	var size int64
	opener := p.lines[p.at-1]
	for depth := 0; !p.done() && p.lines[p.at].indent > parent; {
		l := p.next()
		if depth == 0 {
			depth = l.indent
		}
		if l.indent != depth || l.item || l.key == "" || slices.Contains(seen, l.key) {
			return c, l.wrong("it is not a key of the namespace, or is there twice")
		}
		seen = append(seen, l.key)
		var err error
		switch l.key {
		case "size":
			size, err = yamlNumber(l)
		case "lockfile":
			c.Locks, err = append(DefaultLocks(), l.value), nil
			if !strings.HasPrefix(l.value, "/") {
				err = l.wrong("%q is not an absolute path", l.value)
			}
		case "devices":
			c.Areas, err = yamlDevices(l, p.block(l.indent, true))
		case "writelist":
			c.Writable, err = yamlWritelist(l, p.block(l.indent, true))
		default:
			err = l.wrong("%q is none of size, lockfile, devices and writelist", l.key)
		}
		if err != nil {
			return c, err
		}
	}
	for i := range c.Areas {
		c.Areas[i].Size = size
	}
	if len(c.Areas) == 0 {
		return c, opener.wrong("namespace %q has no devices", opener.key)
	}
	return c, nil
}

func yamlNumber(l yamlLine) (int64, error) {
	v, ok := cLiteral(l.value)
	if !ok {
		return 0, l.wrong("%s %q is not a number", l.key, l.value)
	}
	return v, nil
}

func yamlDevices(key yamlLine, lines []yamlLine) ([]Area, error) {
	var list []Area
	var seen []string
	depth, inner := 0, 0
	for i, l := range lines {
		if i == 0 {
			depth = l.indent
		}
		at := l.indent
		if l.item {
			if l.indent != depth || len(list) == 2 {
				return nil, l.wrong("it is not an item of the list of devices, or a third one")
			}
			list, seen, inner = append(list, Area{Line: l.n}), nil, l.inner
			at = l.inner
		}
		if len(list) == 0 || at != inner || l.key == "" || slices.Contains(seen, l.key) {
			return nil, l.wrong("it is not a key of a device, or is there twice")
		}
		seen = append(seen, l.key)
		if err := list[len(list)-1].yamlField(l); err != nil {
			return nil, err
		}
	}
	for _, a := range list {
		if a.Path == "" {
			return nil, fmt.Errorf("line %d: the device has no path", a.Line)
		}
	}
	if key.value != "" {
		return nil, key.wrong("devices are a list")
	}
	return list, nil
}

func (a *Area) yamlField(l yamlLine) (err error) {
	switch l.key {
	case "path":
		a.Path = l.value
	case "offset":
		a.Offset, err = yamlNumber(l)
	case "sectorsize":
		a.Sector, err = yamlNumber(l)
	case "disablelock", "unlock": // see parseArea
		if l.value != "yes" && l.value != "no" {
			err = l.wrong("%s is yes or no, not %q", l.key, l.value)
		}
	default:
		err = l.wrong("%q is none of path, offset, sectorsize and disablelock", l.key)
	}
	return err
}

func yamlWritelist(key yamlLine, lines []yamlLine) ([]string, error) {
	list := []string{} // an empty list permits nothing
	for _, l := range lines {
		name, attrs, ok := strings.Cut(l.value, ":")
		if !l.item || l.indent != lines[0].indent || l.key != "" || !ok || name == "" || !attributes(attrs) || len(list) == maxWritelist {
			return nil, l.wrong("it is not an item \"name:flags\" of the writelist with a type of sdxbim and an access of aroc or w, or one too many")
		}
		if writable(list, name) != "" {
			return nil, l.wrong("variable %q is there already", name)
		}
		list = append(list, l.value)
	}
	if key.value != "" {
		return nil, key.wrong("a writelist is a list")
	}
	return list, nil
}
