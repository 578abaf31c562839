// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// dropbearCheck wants the dropbear server to be started with some flags and without others. Its built-in default, which
// counts when nothing says otherwise, lets root log in with a password and forwards ports.
type dropbearCheck struct {
	Any  []string `json:"require_any"` // one of these is enough
	All  []string `json:"require_all"`
	Deny []string `json:"deny"`
	Set  []string `json:"set"` // flags that a fix adds
}

func dropbearKind() Kind {
	return Kind{
		Name: "dropbear", Target: `"arguments"`,
		Want: `{"require_any": [flags], "require_all": [flags], "deny": [flags], "set": [flags]}, flags such as "-s"`,
		Fix:  "add and take flags in /etc/default/dropbear or its like, or the options of /etc/config/dropbear on OpenWrt",
		New: func(target string, want []byte) (Check, error) {
			var c dropbearCheck
			if err := decodeWant(want, &c); err != nil {
				return nil, err
			}
			if target != "arguments" {
				return nil, errors.New(`target: want "arguments"`)
			}
			all := slices.Concat(c.Any, c.All, c.Deny, c.Set)
			if len(c.Any)+len(c.All)+len(c.Deny) == 0 {
				return nil, errors.New("want: give require_any, require_all or deny")
			}
			for _, f := range all {
				if len(f) != 2 || f[0] != '-' || strings.ContainsRune(dropbearTakesValue, rune(f[1])) {
					return nil, fmt.Errorf("want: %q is no flag of dropbear without a value", f)
				}
			}
			if len(c.Set) > 0 && len(c.bad(map[string]bool{}, c.Set)) > 0 {
				return nil, errors.New("want.set: does not give what the rule requires, so the fix would not help")
			}
			return c, nil
		},
	}
}

// dropbearTakesValue are the options that are followed by a value.
const dropbearTakesValue = "brDGcpPlWKIMTAQ"

func (c dropbearCheck) Claims() []string { return prefixed("dropbear:", slices.Concat(c.Set, c.Deny)) }

func (c dropbearCheck) Tightens(old Check) error {
	o, ok := old.(dropbearCheck)
	if !ok {
		return errors.New("another kind")
	}
	if f, ok := subset(o.All, c.All); !ok {
		return fmt.Errorf("%s is not required", f)
	}
	if f, ok := subset(o.Deny, c.Deny); !ok {
		return fmt.Errorf("%s is not denied", f)
	}
	if f, ok := subset(c.Any, o.Any); len(o.Any) > 0 && (!ok || len(c.Any) == 0) {
		return fmt.Errorf("%s is enough", f)
	}
	return nil
}

// dropbearFlags reads flags, merged ones too (-sgjk, -Rp 22), up to the values that options take.
func dropbearFlags(words []string) map[string]bool {
	flags := map[string]bool{}
	for i := 0; i < len(words); i++ {
		w := words[i]
		if len(w) < 2 || w[0] != '-' {
			continue
		}
		for j := 1; j < len(w); j++ {
			if strings.IndexByte(dropbearTakesValue, w[j]) >= 0 {
				if j == len(w)-1 {
					i++ // the next word is the value
				}
				break
			}
			flags["-"+w[j:j+1]] = true
		}
	}
	return flags
}

// bad says what is wrong with the flags plus some more; "" parts are right.
func (c dropbearCheck) bad(flags map[string]bool, more []string) (out []string) {
	has := func(f string) bool { return flags[f] || slices.Contains(more, f) }
	if len(c.Any) > 0 && !slices.ContainsFunc(c.Any, has) {
		out = append(out, "none of "+strings.Join(c.Any, " "))
	}
	for _, f := range c.All {
		if !has(f) {
			out = append(out, "no "+f)
		}
	}
	for _, f := range c.Deny {
		if has(f) {
			out = append(out, "has "+f)
		}
	}
	return out
}

func (c dropbearCheck) expect() string {
	var parts []string
	if len(c.Any) > 0 {
		parts = append(parts, "one of "+strings.Join(c.Any, " "))
	}
	if len(c.All) > 0 {
		parts = append(parts, strings.Join(c.All, " "))
	}
	if len(c.Deny) > 0 {
		parts = append(parts, "not "+strings.Join(c.Deny, " "))
	}
	return strings.Join(parts, ", ")
}

// dropbearSetup is what starts dropbear and with which arguments.
type dropbearSetup struct {
	program string   // the file of the server
	starter string   // the script or inittab
	sources string   // the variable files the starter reads, in its text
	words   []string // arguments in the order they apply
	file    string   // where variables are set, "" when there is none yet
	line    int      // of the last assignment, 0 when there is none
	name    string   // of the variable
	read    []string
}

var errNoDropbear = errors.New("dropbear is not here")

func dropbearVariables() []string {
	return []string{"DROPBEAR_ARGS", "DROPBEAR_EXTRA_ARGS", "DROPBEAR_OPTS"}
}

func dropbearPrograms() []string {
	return []string{"/usr/sbin/dropbear", "/sbin/dropbear", "/usr/bin/dropbear", "/bin/dropbear", "/usr/sbin/dropbearmulti", "/usr/bin/dropbearmulti"}
}

func findDropbear(ctx context.Context, h *Host) (dropbearSetup, error) {
	s := dropbearSetup{name: dropbearVariables()[0]}
	for _, p := range dropbearPrograms() {
		if h.Exists(p) {
			s.program, s.read = p, []string{p}
			break
		}
	}
	if s.program == "" {
		return s, errNoDropbear
	}
	if err := s.start(ctx, h); err != nil {
		return s, err
	}
	for _, f := range []string{"/etc/default/dropbear", "/etc/conf.d/dropbear", "/etc/sysconfig/dropbear"} {
		data, err := h.Read(ctx, f)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return s, err
		}
		s.read = append(s.read, f)
		s.variables(f, data)
	}
	return s, nil
}

// start finds the script or inittab line that runs the server and the flags written there.
func (s *dropbearSetup) start(ctx context.Context, h *Host) error {
	list, err := scripts(h)
	if err != nil {
		return err
	}
	if in, err := h.Stat(inittabFile); err == nil && in.Mode.IsRegular() {
		list = append(list, in)
	}
	for _, in := range list {
		data, err := h.Read(ctx, in.Path)
		if err != nil {
			return err
		}
		for l := range bytes.Lines(data) {
			words, ok := dropbearCall(string(bytes.TrimSpace(l)))
			if !ok {
				continue
			}
			if s.starter == "" {
				s.read = append(s.read, printable(in.Path))
			}
			s.starter, s.sources = in.Path, string(data)
			s.words = append(s.words, words...)
		}
	}
	return nil
}

// dropbearCall gives the words after the server's name in a line that starts it.
func dropbearCall(line string) ([]string, bool) {
	if strings.HasPrefix(line, "#") || strings.Contains(line, "dropbearkey") || strings.Contains(line, "-K ") || strings.Contains(line, " stop") {
		return nil, false
	}
	for _, words := range commands(line) {
		for i, w := range words {
			if w != "dropbear" && !strings.HasSuffix(w, "bin/dropbear") {
				continue
			}
			switch first := path.Base(words[0]); {
			case slices.Contains([]string{"killall", "kill", "pidof", "echo", "printf", "rm", "test", "[", "."}, first):
				continue
			case first == "start-stop-daemon" && slices.Contains(words, "--stop"):
				continue
			case i > 0 && strings.Contains(words[i-1], "="):
				continue
			}
			return slices.DeleteFunc(words[i+1:], func(w string) bool { return w == "--" || slices.Contains(dropbearVariables(), w) }), true
		}
	}
	return nil, false
}

// variables takes the assignments of one file, the last of each name, as the shell does.
func (s *dropbearSetup) variables(file string, data []byte) {
	if s.file == "" {
		s.file = file
	}
	for _, name := range dropbearVariables() {
		if s.starter != "" && !strings.Contains(s.sources, name) {
			continue
		}
		var value string
		n := 0
		for l := range bytes.Lines(data) {
			n++
			v, ok := shellAssign(strings.TrimSpace(string(l)), name)
			if !ok {
				continue
			}
			value = strings.NewReplacer("${"+name+"}", value, "$"+name, value).Replace(v)
			s.file, s.line, s.name = file, n, name
		}
		s.words = append(s.words, strings.Fields(value)...)
	}
}

// shellAssign reads NAME=value, with or without export and quotes.
func shellAssign(line, name string) (string, bool) {
	line = strings.TrimSpace(strings.TrimPrefix(line, "export "))
	v, ok := strings.CutPrefix(line, name+"=")
	if !ok {
		return "", false
	}
	if v != "" && (v[0] == '"' || v[0] == '\'') {
		if end := strings.IndexByte(v[1:], v[0]); end >= 0 {
			return v[1 : end+1], true
		}
		return v[1:], true
	}
	if i := strings.IndexAny(v, " \t;#"); i >= 0 {
		v = v[:i]
	}
	return v, true
}

func (c dropbearCheck) Check(ctx context.Context, h *Host) Verdict {
	s, err := findDropbear(ctx, h)
	if errors.Is(err, errNoDropbear) {
		return notApplicable("dropbear is not here: no dropbear or dropbearmulti in /usr/sbin, /sbin, /usr/bin, /bin")
	}
	if err != nil {
		return unknown(err)
	}
	if v, ok := c.checkUCI(ctx, h, s); ok {
		return v
	}
	if s.starter == "" && s.file == "" {
		return Verdict{Result: Unknown, Reason: s.program + " is here; what starts it was not found in inittab, init.d or rc.d", Implementation: "dropbear"}
	}
	where := s.starter
	if s.line > 0 {
		where = at(s.file, s.line)
	}
	args := strings.Join(s.words, " ")
	if strings.TrimSpace(args) == "" {
		args = "no arguments"
	}
	var items []Item
	for _, why := range c.bad(dropbearFlags(s.words), nil) {
		items = append(items, Item{Subject: "dropbear", Where: where, Observed: printable(args) + ": " + why, Expected: c.expect()})
	}
	v := judged(items, "dropbear is started with "+printable(args), s.read...)
	v.Implementation = "dropbear"
	return v
}

func (c dropbearCheck) Fix(ctx context.Context, h *Host, want func(string) bool) ([]Change, error) {
	s, err := findDropbear(ctx, h)
	if err != nil || !want("dropbear") {
		return nil, err
	}
	if h.Exists(uciFile) {
		return c.fixUCI(ctx, h)
	}
	if len(c.bad(dropbearFlags(s.words), nil)) == 0 {
		return nil, nil
	}
	if s.line > 0 {
		t, err := openText(ctx, h, s.file)
		if err != nil {
			return nil, err
		}
		raw := t.line(s.line)
		v, _ := shellAssign(strings.TrimSpace(raw), s.name)
		i := strings.Index(raw, s.name+"=") + len(s.name) + 1
		rest := strings.TrimLeft(strings.TrimPrefix(raw[i:], v), `"'`)
		if q := raw[i:]; q != "" && (q[0] == '"' || q[0] == '\'') {
			rest = strings.TrimPrefix(q[1:], v)
			rest = strings.TrimPrefix(rest, q[:1])
		}
		t.set(s.line, raw[:i]+`"`+c.words(v, s.words)+`"`+rest)
		return t.changes(true), nil
	}
	if s.file != "" {
		t, err := openText(ctx, h, s.file)
		if err != nil {
			return nil, err
		}
		t.insert(len(t.lines)+1, s.name+`="`+c.words("", s.words)+`"`)
		return t.changes(true), nil
	}
	for _, name := range dropbearVariables() {
		p, err := h.Resolve("/etc/default/dropbear")
		if strings.Contains(s.sources, "/etc/default/dropbear") && strings.Contains(s.sources, name) && errors.Is(err, fs.ErrNotExist) && p != "" {
			uid, gid := h.Root()
			return []Change{{Op: Create, Path: p, After: []byte(name + `="` + c.words("", s.words) + "\"\n"), Mode: 0o644, UID: uid, GID: gid, NextStart: true}}, nil
		}
	}
	return nil, fmt.Errorf("%s has the arguments in its own text: %w", printable(s.starter), ErrNoFix)
}

// words gives the arguments with missing flags added and denied ones taken out. New flags go first: an option at the end
// that lacks its value would swallow them.
func (c dropbearCheck) words(value string, all []string) string {
	var out []string
	have := dropbearFlags(all)
	for _, f := range slices.Concat(c.Set, c.All) {
		if !have[f] {
			have[f] = true
			out = append(out, f)
		}
	}
	for w := range strings.FieldsSeq(value) {
		for _, d := range c.Deny {
			if len(w) > 1 && w[0] == '-' && dropbearFlags([]string{w})[d] {
				w = "-" + strings.Replace(w[1:], d[1:], "", 1)
			}
		}
		if w != "-" {
			out = append(out, w)
		}
	}
	return strings.Join(out, " ")
}
