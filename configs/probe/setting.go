// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
)

// settingCheck looks at one setting of a service: in the files it reads, and at its built-in default where none says.
type settingCheck struct {
	files    []string
	Also     []string     `json:"also"`     // more files; the last element may have *
	Programs []string     `json:"programs"` // the service: without its program and its files the rule does not apply
	Form     string       `json:"form"`     // assign, words, ini, uci, line
	Section  string       `json:"section"`  // ini: its name, "*" for each; uci: its type
	Keys     []string     `json:"keys"`     // names of the setting
	OneOf    []string     `json:"one_of"`   // patterns
	Deny     []string     `json:"deny"`     // patterns
	Default  *string      `json:"default"`  // what counts when it is not set; without it an unset one is as wanted
	When     *settingWhen `json:"when"`     // only where another setting is so
	Set      *string      `json:"set"`      // what a fix writes; without it the line is put out of use
	Secret   bool         `json:"secret"`   // the value is not shown
}

// settingWhen is a condition about another setting of the same section or file.
type settingWhen struct {
	Keys    []string `json:"keys"`
	OneOf   []string `json:"one_of"`
	Default string   `json:"default"`
}

func settingKind() Kind {
	return Kind{
		Name: "setting", Target: "the configuration file of a service",
		Want: `{"also": [files], "programs": [names], "form": F, "section": S, "keys": [names], "one_of": [patterns], "deny": [patterns], "default": V, ` +
			`"when": {"keys": [names], "one_of": [patterns], "default": V}, "set": V, "secret": true}. ` +
			`form: assign (key=value), words (key value), ini (sections; "*" is each), uci (section is a type), line (whole lines, without spaces). ` +
			`keys (but for line) and one of one_of and deny are required; "*" in a pattern stands for anything and case does not matter; a key alone has the value "on". ` +
			`default is what the program does when nothing is set, also where its file is missing`,
		Fix: "write set in place of the value, or after the last line of the section; without set, put the line out of use",
		New: newSetting,
	}
}

func newSetting(target string, want []byte) (Check, error) {
	c := settingCheck{}
	if err := decodeWant(want, &c); err != nil {
		return nil, err
	}
	c.files = append([]string{target}, c.Also...)
	switch {
	case !slices.Contains([]string{"assign", "words", "ini", "uci", "line"}, c.Form):
		return nil, fmt.Errorf("want.form: %q, want assign, words, ini, uci or line", c.Form)
	case len(c.Keys) == 0 && c.Form != "line":
		return nil, errors.New("want.keys: name the setting")
	case len(c.OneOf) == 0 && len(c.Deny) == 0:
		return nil, errors.New("want: give one_of or deny")
	case c.Form == "line" && (len(c.OneOf) > 0 || c.Set != nil || c.Default != nil):
		return nil, errors.New("want: a line is denied or not, it has no value")
	case (c.Form == "uci") != (c.Section != "") && c.Form != "ini":
		return nil, errors.New("want.section: it is for ini and uci, and uci needs it")
	case c.Set != nil && (strings.ContainsAny(*c.Set, "\r\n") || c.badValue(*c.Set)):
		return nil, errors.New("want.set: not as the rule wants it, so the fix would not help")
	}
	return c, checkPaths(c.files)
}

func (c settingCheck) Claims() []string {
	if c.Form == "line" {
		return prefixed("setting:"+c.files[0]+":", c.Deny)
	}
	when := ""
	if c.When != nil {
		when = strings.Join(c.When.Keys, ",")
	}
	return []string{"setting:" + c.files[0] + ":" + c.Section + ":" + c.Keys[0] + ":" + when}
}

func (c settingCheck) Tightens(old Check) error {
	o, ok := old.(settingCheck)
	if !ok || c.files[0] != o.files[0] || c.Form != o.Form || c.Section != o.Section || !slices.Equal(c.Keys, o.Keys) || (c.When == nil) != (o.When == nil) || o.Default != nil && (c.Default == nil || *c.Default != *o.Default) {
		return errors.New("it looks at something else")
	}
	if c.When != nil && (!slices.Equal(c.When.Keys, o.When.Keys) || c.When.Default != o.When.Default || !slices.Equal(c.When.OneOf, o.When.OneOf)) {
		return errors.New("when is another one")
	}
	if f, ok := subset(o.files, c.files); !ok {
		return fmt.Errorf("%s is missing", f)
	}
	if p, ok := subset(o.Programs, c.Programs); !ok {
		return fmt.Errorf("%s is missing", p)
	}
	if v, ok := subset(o.Deny, c.Deny); !ok {
		return fmt.Errorf("%q is not denied", v)
	}
	if v, ok := subset(c.OneOf, o.OneOf); len(o.OneOf) > 0 && (!ok || len(c.OneOf) == 0) {
		return fmt.Errorf("%q is allowed", v)
	}
	return nil
}

// badValue reports whether a value is not as wanted.
func (c settingCheck) badValue(v string) bool {
	return slices.ContainsFunc(c.Deny, foldMatch(v)) || len(c.OneOf) > 0 && !slices.ContainsFunc(c.OneOf, foldMatch(v))
}

// foldMatch compares a value with patterns, case aside.
func foldMatch(v string) func(pattern string) bool {
	v = strings.ToLower(v)
	return func(p string) bool { return starMatch(v, strings.ToLower(p)) }
}

// binDirs are where programs are.
func binDirs() []string {
	return []string{"/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/sbin", "/usr/local/bin", "/usr/libexec", "/opt/bin"}
}

// findProgram gives the path of the first of some programs that is there, "" for none.
func (h *Host) findProgram(names ...string) string {
	for _, n := range names {
		for _, d := range binDirs() {
			if p := path.Join(d, n); h.Exists(p) {
				return p
			}
		}
	}
	return ""
}

// expand lists the files of a rule that are there; the last element may have *.
func (h *Host) expand(patterns []string) (out []string, err error) {
	for _, p := range patterns {
		dir, base := path.Split(p)
		if !strings.Contains(base, "*") {
			if h.Exists(p) {
				out = append(out, p)
			}
			continue
		}
		if !h.isDir(dir) {
			continue
		}
		names, err := h.Names(dir, maxStartFiles)
		if err != nil {
			return out, err
		}
		for _, n := range names {
			if ok, _ := path.Match(base, n); ok && !strings.HasPrefix(n, ".") && !h.isDir(path.Join(dir, n)) {
				out = append(out, path.Join(dir, n))
			}
		}
	}
	return out, nil
}

// offence is a scope where the setting is not as wanted; n is 0 when that is the default.
type offence struct {
	scope settingScope
	line  settingLine
	set   bool
	value string
}

func (c settingCheck) offences(scopes []settingScope) []offence {
	var out []offence
	for _, s := range scopes {
		if c.Form == "line" {
			for _, l := range s.lines {
				if c.badValue(l.value) {
					out = append(out, offence{s, l, true, l.value})
				}
			}
			continue
		}
		if !c.holds(s) {
			continue
		}
		l, set := s.find(c.Keys)
		value := l.value
		if !set {
			if c.Default == nil {
				continue
			}
			value = *c.Default
		}
		if c.badValue(value) {
			out = append(out, offence{s, l, set, value})
		}
	}
	return out
}

// holds reports whether the condition of the rule is met in a scope.
func (c settingCheck) holds(s settingScope) bool {
	if c.When == nil {
		return true
	}
	value := c.When.Default
	if l, ok := s.find(c.When.Keys); ok {
		value = l.value
	}
	return slices.ContainsFunc(c.When.OneOf, foldMatch(value))
}

func (c settingCheck) Check(ctx context.Context, h *Host) Verdict {
	scopes, read, err := c.scopes(ctx, h)
	if err != nil {
		return unknown(err)
	}
	program := h.findProgram(c.Programs...)
	if len(read) == 0 {
		return c.withoutFiles(program)
	}
	var items []Item
	for _, o := range c.offences(scopes) {
		items = append(items, c.item(o))
	}
	if len(scopes) == 0 {
		return notApplicable("no section " + c.Section + " in " + strings.Join(read, ", "))
	}
	v := judged(items, strings.Join(c.Keys, ", ")+" as wanted in "+strings.Join(read[:min(len(read), 4)], ", "), read...)
	v.Implementation = path.Base(program)
	if program == "" {
		v.Implementation = ""
	}
	return v
}

// withoutFiles judges the built-in default of a program that has no file, or says that the function is not there.
func (c settingCheck) withoutFiles(program string) Verdict {
	switch {
	case program == "" && len(c.Programs) == 0:
		return notApplicable(c.files[0] + " is not there")
	case program == "":
		return notApplicable(strings.Join(c.Programs, ", ") + ": no such program, and " + c.files[0] + " is not there")
	case c.Default == nil || c.When != nil || c.Form == "uci" || c.Section == "*":
		return notApplicable(printable(program) + " is here without " + c.files[0] + ": nothing is set up")
	case c.badValue(*c.Default):
		v := judged([]Item{{Subject: c.Keys[0], Where: printable(program), Observed: "no " + c.files[0] + ", which means " + *c.Default, Expected: c.expect()}}, "", printable(program))
		v.Implementation = path.Base(program)
		return v
	}
	v := judged(nil, "no "+c.files[0]+": the built-in default "+*c.Default+" holds", printable(program))
	v.Implementation = path.Base(program)
	return v
}

func (c settingCheck) item(o offence) Item {
	subject := ""
	if len(c.Keys) > 0 {
		subject = c.Keys[0]
	}
	if o.scope.name != "" {
		subject = strings.TrimPrefix(o.scope.name+"."+subject, ".")
	}
	observed := subject + " is " + o.value
	where := printable(o.scope.file)
	switch {
	case c.Form == "line":
		subject, observed = o.value, o.value
	case c.Secret:
		observed = subject + " is a value that many devices have"
		if o.value == "" {
			observed = subject + " is empty"
		}
	}
	if !o.set {
		observed = subject + " is not set, which means " + o.value
	}
	if o.set {
		where = at(o.line.text.path, o.line.n)
	} else if o.scope.begin > 0 {
		where = at(o.scope.file, o.scope.begin)
	}
	return Item{Subject: printable(subject), Where: where, Observed: printable(observed), Expected: c.expect()}
}

func (c settingCheck) expect() string {
	switch {
	case c.Set != nil:
		return *c.Set
	case len(c.OneOf) > 0:
		return strings.Join(c.OneOf, " or ")
	}
	return "not " + strings.Join(c.Deny, ", ")
}

func (c settingCheck) Fix(ctx context.Context, h *Host, want func(string) bool) ([]Change, error) {
	scopes, _, err := c.scopes(ctx, h)
	if err != nil {
		return nil, err
	}
	var errs []error
	var texts []*text
	// From the last line to the first, so that numbers stay right.
	list := slices.DeleteFunc(c.offences(scopes), func(o offence) bool { return !want(c.item(o).Subject) })
	for _, o := range slices.Backward(list) {
		t := o.scope.text
		if o.set {
			t = o.line.text
		}
		if !slices.Contains(texts, t) {
			texts = append(texts, t)
		}
		switch {
		case o.set && c.Set == nil:
			if !strings.HasPrefix(t.line(o.line.n), disabledMark) { // a global setting is one line for many sections
				t.disable(o.line.n)
			}
		case o.set:
			t.set(o.line.n, c.replaced(t.line(o.line.n)))
		case c.Set == nil:
			errs = append(errs, fmt.Errorf("%s has to be set: %w", c.Keys[0], ErrNoFix))
		default:
			t.insert(c.insertAt(o.scope), c.newLine())
		}
	}
	if len(scopes) == 0 && c.Default != nil && c.badValue(*c.Default) && h.findProgram(c.Programs...) != "" {
		errs = append(errs, fmt.Errorf("%s has to be written: %w", c.files[0], ErrNoFix))
	}
	var out []Change
	for _, t := range slices.Backward(texts) {
		out = append(out, t.changes(true)...)
	}
	return out, errors.Join(errs...)
}

func (c settingCheck) insertAt(s settingScope) int {
	if c.Form == "ini" || c.Form == "uci" {
		return s.end + 1
	}
	return len(s.text.lines) + 1
}

func (c settingCheck) newLine() string {
	switch c.Form {
	case "uci":
		return "\toption " + c.Keys[0] + " '" + *c.Set + "'"
	case "ini":
		return c.Keys[0] + " = " + *c.Set
	case "words":
		return c.Keys[0] + " " + *c.Set
	}
	return c.Keys[0] + "=" + *c.Set
}

// replaced keeps the key as it is written and what is before it.
func (c settingCheck) replaced(raw string) string {
	switch c.Form {
	case "uci":
		w := uciWords(raw)
		return raw[:len(raw)-len(strings.TrimLeft(raw, " \t"))] + w[0] + " " + w[1] + " '" + *c.Set + "'"
	case "words":
		s := strings.TrimLeft(raw, " \t")
		key, _, _ := strings.Cut(strings.ReplaceAll(s, "\t", " "), " ")
		end := ""
		if strings.HasSuffix(strings.TrimSpace(raw), ";") {
			end = ";"
		}
		return raw[:len(raw)-len(s)] + strings.TrimSuffix(key, ";") + " " + *c.Set + end
	}
	key, after, ok := strings.Cut(raw, "=")
	if !ok {
		return strings.TrimRight(raw, " \t") + "=" + *c.Set
	}
	return key + "=" + after[:len(after)-len(strings.TrimLeft(after, " \t"))] + *c.Set
}
