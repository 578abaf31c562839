// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"errors"
	"slices"
	"strconv"
	"strings"
)

// Parse reads a file of the nft program. What a rule says beyond the fields this package knows becomes a match that may or
// may not fit. include gives the texts of the files that a pattern names, or false when they cannot be told; it may be nil.
// Ruleset.Missing then says what was not read.
func Parse(data []byte, include func(pattern string) ([][]byte, bool)) (Ruleset, error) {
	p := parser{include: include, vars: map[string][]token{}, sets: map[string][]token{}}
	err := p.file(data, 0)
	return p.rs, err
}

// ParseTable reads what Table.String wrote.
func ParseTable(data []byte) (Table, error) {
	rs, err := Parse(data, nil)
	if err != nil {
		return Table{}, err
	}
	if len(rs.Tables) != 1 || rs.Tables[0].String() != string(data) {
		return Table{}, errors.New("it is not one table as this package writes it")
	}
	return rs.Tables[0], nil
}

type parser struct {
	rs      Ruleset
	include func(string) ([][]byte, bool)
	vars    map[string][]token
	sets    map[string][]token // by family, table and name
	rules   int
}

func (p *parser) file(data []byte, deep int) error {
	if len(data) > maxText || deep > maxGroups {
		return errText
	}
	x := lexer{s: string(data), line: 1, vars: p.vars}
	tokens, err := x.group(0)
	if err != nil {
		return err
	}
	for _, s := range statements(tokens) {
		if err := p.top(s, deep); err != nil {
			return err
		}
	}
	return nil
}

// statements splits at newlines and semicolons.
func statements(tokens []token) [][]token {
	var out [][]token
	from := 0
	for i := 0; i <= len(tokens); i++ {
		if i < len(tokens) && !tokens[i].ends() {
			continue
		}
		if i > from {
			out = append(out, tokens[from:i])
		}
		from = i + 1
	}
	return out
}

// word is token i as a word; "" beyond the end and for a group.
func word(s []token, i int) string {
	if i >= len(s) || s[i].group != nil {
		return ""
	}
	return s[i].text
}

func (p *parser) top(s []token, deep int) error {
	if w := word(s, 0); w == "add" || w == "create" {
		s = s[1:]
	}
	switch word(s, 0) {
	case "flush", "delete", "destroy":
		if word(s, 1) == "ruleset" && word(s, 0) == "flush" {
			p.rs.Tables = nil
		}
	case "include":
		return p.included(word(s, 1), deep)
	case "table":
		t, rest := p.table(s[1:])
		if len(rest) > 0 && rest[0].group != nil {
			return p.body(t, rest[0].group)
		}
	case "chain", "rule", "set", "map":
		t, rest := p.table(s[1:])
		return p.item(t, append([]token{s[0]}, rest...))
	}
	return nil
}

func (p *parser) included(pattern string, deep int) error {
	var texts [][]byte
	ok := false
	if p.include != nil {
		texts, ok = p.include(pattern)
	}
	if !ok {
		p.rs.Missing = pattern
	}
	for _, data := range texts {
		if err := p.file(data, deep+1); err != nil {
			return err
		}
	}
	return nil
}

// table finds or makes the table that "[family] name" names, and gives what follows.
func (p *parser) table(s []token) (*Table, []token) {
	family := "ip"
	if w := word(s, 0); familyNumber(w) != 0 {
		family, s = w, s[1:]
	}
	name := word(s, 0)
	if len(s) > 0 {
		s = s[1:]
	}
	for i := range p.rs.Tables {
		if t := &p.rs.Tables[i]; t.Family == family && t.Name == name {
			return t, s
		}
	}
	p.rs.Tables = append(p.rs.Tables, Table{Family: family, Name: name})
	return &p.rs.Tables[len(p.rs.Tables)-1], s
}

func (p *parser) body(t *Table, group []token) error {
	if len(p.rs.Tables) > maxTables {
		return errText
	}
	for _, s := range statements(group) { // sets first: a rule may come before the set it looks into
		if w := word(s, 0); w == "set" || w == "map" {
			if err := p.item(t, s); err != nil {
				return err
			}
		}
	}
	for _, s := range statements(group) {
		switch word(s, 0) {
		case "chain":
			if err := p.item(t, s); err != nil {
				return err
			}
		case "flags":
			t.Off = slices.ContainsFunc(s, func(k token) bool { return k.text == "dormant" })
		}
	}
	return nil
}

// item reads a chain, a set or one rule of a table.
func (p *parser) item(t *Table, s []token) error {
	name, group := word(s, 1), []token(nil)
	if len(s) > 2 {
		group = s[2].group
	}
	switch s[0].text {
	case "chain":
		c := t.chain(name)
		if c == nil {
			t.Chains = append(t.Chains, Chain{Name: name})
			c = &t.Chains[len(t.Chains)-1]
		}
		if len(t.Chains) > maxChains {
			return errText
		}
		for _, s := range statements(group) {
			if err := p.line(t, c, s); err != nil {
				return err
			}
		}
	case "rule":
		if c := t.chain(name); c != nil && len(s) > 2 {
			return p.line(t, c, s[2:])
		}
	case "set", "map":
		for _, d := range statements(group) {
			if word(d, 0) == "elements" && len(d) > 2 && d[2].group != nil {
				p.sets[t.Family+" "+t.Name+" "+name] = append(p.sets[t.Family+" "+t.Name+" "+name], append(d[2].group, token{text: ","})...)
			}
		}
		if key := t.Family + " " + t.Name + " " + name; p.sets[key] == nil {
			p.sets[key] = []token{}
		}
	}
	return nil
}

// line reads one line of a chain.
func (p *parser) line(t *Table, c *Chain, s []token) error {
	switch word(s, 0) {
	case "type":
		c.base(s)
		return nil
	case "policy":
		c.Policy = Action(word(s, 1))
		return nil
	case "comment", "devices", "device", "flags":
		return nil
	}
	if p.rules++; p.rules > maxRules {
		return errText
	}
	r := ruleParser{s: s, set: func(name string) ([]token, bool) {
		e, ok := p.sets[t.Family+" "+t.Name+" "+name]
		return e, ok
	}}
	c.Rules = append(c.Rules, r.parse()...)
	return nil
}

// base reads "type filter hook input priority filter - 10"; the policy, if any, follows after a semicolon.
func (c *Chain) base(s []token) {
	c.Policy = Accept
	for i := 0; i+1 < len(s); i++ {
		w := word(s, i+1)
		switch word(s, i) {
		case "type":
			c.Type = w
		case "hook":
			c.Hook = w
		case "policy":
			c.Policy = Action(w)
		case "priority":
			c.Priority = priorities[w]
			if n, err := strconv.Atoi(w); err == nil {
				c.Priority = n
			}
			if n, err := strconv.Atoi(word(s, i+3)); err == nil {
				switch word(s, i+2) {
				case "-":
					c.Priority -= n
				case "+":
					c.Priority += n
				}
			}
		}
	}
}

var priorities = map[string]int{"raw": -300, "mangle": -150, "dstnat": -100, "filter": 0, "security": 50, "srcnat": 100}

// numbers reads a value of a field; names gives the numbers of words.
func numbers(list []token, names func(string) (uint64, bool)) ([]Range, bool) {
	var out []Range
	for _, t := range list {
		if t.text == "," || t.ends() {
			continue
		}
		lo, hi, isRange := strings.Cut(t.text, "-")
		a, ok := names(t.text)
		b := a
		if !ok {
			if a, ok = names(lo); !ok {
				return nil, false
			}
			if b = a; isRange {
				if b, ok = names(hi); !ok {
					return nil, false
				}
			}
		}
		out = append(out, Range{a, b})
	}
	slices.SortFunc(out, func(a, b Range) int { return int(min(a.Lo, 1<<31)) - int(min(b.Lo, 1<<31)) })
	return out, len(out) > 0
}
