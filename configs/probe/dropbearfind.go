// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

// dropbearServer is one start of the server, or one that runs.
type dropbearServer struct {
	where string   // for evidence
	file  string   // script, inittab or unit; "" for a running one
	live  bool     // read from the process table
	words []string // arguments in the order they apply
}

// dropbearSetup is everything that starts dropbear.
type dropbearSetup struct {
	program string
	servers []dropbearServer
	uci     bool // OpenWrt's settings decide
	read    []string
}

// files counts the servers that files start.
func (s dropbearSetup) files() (n int) {
	for _, in := range s.servers {
		if !in.live {
			n++
		}
	}
	return n
}

var errNoDropbear = errors.New("dropbear is not here: no dropbear or dropbearmulti in /usr/sbin, /sbin, /usr/bin, /bin, and none runs")

func dropbearPrograms() []string {
	return []string{"/usr/sbin/dropbear", "/sbin/dropbear", "/usr/bin/dropbear", "/bin/dropbear", "/usr/sbin/dropbearmulti", "/usr/bin/dropbearmulti"}
}

// The variables that start scripts take arguments from, and the files that set them.
func dropbearVariables() []string {
	return []string{"DROPBEAR_ARGS", "DROPBEAR_EXTRA_ARGS", "DROPBEAR_OPTS"}
}

func dropbearSettings() []string {
	return []string{"/etc/default/dropbear", "/etc/conf.d/dropbear", "/etc/sysconfig/dropbear"}
}

// findDropbear collects what starts the server, on a running system also the servers that run.
func findDropbear(ctx context.Context, h *Host) (dropbearSetup, error) {
	var s dropbearSetup
	for _, p := range dropbearPrograms() {
		if h.Exists(p) {
			s.program, s.read = p, []string{p}
			break
		}
	}
	s.running(ctx, h)
	if s.program == "" && len(s.servers) == 0 {
		return s, errNoDropbear
	}
	if err := s.settings(ctx, h); err != nil {
		return s, err
	}
	f := h.starts(ctx)
	for _, st := range f.on("dropbear", "dropbearmulti") {
		if s.uci && st.file == "/etc/init.d/dropbear" {
			continue // it makes the arguments from the settings
		}
		words := st.args()
		if len(words) > 0 && words[0] == "dropbear" {
			words = words[1:]
		}
		// A variable that nothing sets is no word.
		words = slices.DeleteFunc(slices.Clone(words), func(w string) bool { return strings.HasPrefix(w, "$") })
		s.servers = append(s.servers, dropbearServer{where: st.where(), file: st.file, words: words})
		s.read = append(s.read, printable(st.file))
	}
	if len(s.servers) > 0 || s.uci {
		return s, nil
	}
	// Nothing that is known starts it. A file with its arguments says that something does.
	for _, name := range dropbearSettings() {
		data, err := h.Read(ctx, name)
		if err != nil {
			continue
		}
		in := dropbearServer{where: name, file: name}
		for _, v := range dropbearVariables() {
			value, line := lastAssign(data, v)
			if in.words = append(in.words, strings.Fields(value)...); line > 0 {
				in.where = at(name, line)
			}
		}
		s.servers, s.read = append(s.servers, in), append(s.read, name)
		return s, nil
	}
	why := "nothing that starts at boot runs it"
	if err := f.err(); err != nil {
		why = err.Error()
	}
	return s, fmt.Errorf("%s is here; what starts it is not known: %s", s.program, why)
}

// running adds the servers that run, each set of arguments once. A session's process has the arguments of its server.
func (s *dropbearSetup) running(ctx context.Context, h *Host) {
	if !h.Live() {
		return
	}
	seen := map[string]bool{}
	for _, p := range h.processes(ctx).list {
		if p.program() != "dropbear" || len(p.args) == 0 {
			continue
		}
		words := p.args[1:]
		if key := strings.Join(words, "\x00"); !seen[key] {
			seen[key] = true
			where := fmt.Sprintf("/proc/%d/cmdline", p.pid)
			s.servers = append(s.servers, dropbearServer{where: where, live: true, words: words})
			s.read = append(s.read, where)
		}
	}
}

// settings reads OpenWrt's, which its start script turns into arguments.
func (s *dropbearSetup) settings(ctx context.Context, h *Host) error {
	data, err := h.Read(ctx, uciFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	s.uci, s.read = true, append(s.read, uciFile)
	for _, sec := range parseUCI(data) {
		if sec.used() {
			s.servers = append(s.servers, dropbearServer{where: at(uciFile, sec.line), file: uciFile, words: sec.words()})
		}
	}
	return nil
}

// dropbearVariable is where a fix writes.
type dropbearVariable struct {
	file, name, value string
	line              int // 0: not set yet
	missing           bool
}

// variable finds the assignment that gives a server its arguments: the last one in a settings file whose variable the
// start file names. Settings that a start file names and that are not there can be made.
func (s dropbearSetup) variable(ctx context.Context, h *Host, in dropbearServer) (dropbearVariable, error) {
	if in.file == "" || in.file == uciFile {
		return dropbearVariable{}, ErrNoFix
	}
	text, err := h.Read(ctx, in.file)
	if err != nil {
		return dropbearVariable{}, err
	}
	var empty *dropbearVariable
	for _, file := range dropbearSettings() {
		own := in.file == file || file == "/etc/conf.d/dropbear" // OpenRC reads its own without being told
		if !own && !bytes.Contains(text, []byte(file)) && !bytes.Contains(text, []byte("/etc/default/$")) && !bytes.Contains(text, []byte("/etc/default/${")) {
			continue
		}
		data, err := h.Read(ctx, file)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return dropbearVariable{}, err
		}
		if err != nil && !bytes.Contains(text, []byte(file)) {
			continue
		}
		for _, name := range dropbearVariables() {
			if in.file != file && !bytes.Contains(text, []byte(name)) {
				continue
			}
			v := dropbearVariable{file: file, name: name, missing: err != nil}
			if v.value, v.line = lastAssign(data, name); v.line > 0 {
				return v, nil
			}
			if empty == nil {
				empty = &v
			}
		}
	}
	if empty != nil {
		return *empty, nil
	}
	return dropbearVariable{}, fmt.Errorf("%s has the arguments in its own text: %w", printable(in.file), ErrNoFix)
}

// lastAssign gives the value of the last assignment to name, as it is written there, and its line.
func lastAssign(data []byte, name string) (value string, line int) {
	n := 0
	for l := range bytes.Lines(data) {
		n++
		if v, ok := shellAssign(strings.TrimSpace(string(l)), name); ok {
			value, line = v, n
		}
	}
	return value, line
}

// change writes the words.
func (v dropbearVariable) change(ctx context.Context, h *Host, words string) ([]Change, error) {
	line := v.name + `="` + words + `"`
	if v.missing {
		p, err := h.Resolve(v.file)
		if p == "" || !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("create %s: %w", v.file, ErrNoFix)
		}
		uid, gid := h.Root()
		return []Change{{Op: Create, Path: p, After: []byte(line + "\n"), Mode: 0o644, UID: uid, GID: gid, NextStart: true}}, nil
	}
	t, err := openText(ctx, h, v.file)
	if err != nil {
		return nil, err
	}
	if v.line == 0 {
		t.insert(len(t.lines)+1, line)
		return t.changes(true), nil
	}
	raw := t.line(v.line)
	i := strings.Index(raw, v.name+"=") + len(v.name) + 1
	rest := strings.TrimPrefix(raw[i:], v.value)
	if q := raw[i:]; q != "" && (q[0] == '"' || q[0] == '\'') {
		rest = strings.TrimPrefix(q[1:], v.value)
		rest = strings.TrimPrefix(rest, q[:1])
	}
	t.set(v.line, raw[:i]+`"`+words+`"`+rest)
	return t.changes(true), nil
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
