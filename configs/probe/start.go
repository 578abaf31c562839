// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// Bounds of looking for everything that the system starts.
const (
	maxStartList   = 16384 // commands
	maxStartRead   = 2048  // files
	maxScript      = 256 << 10
	maxSourced     = 2 // files read with "." from each other
	maxScriptChain = 4 // scripts that run each other
)

// start is one command that the system runs by itself, or would run if it were enabled.
type start struct {
	source  string   // inittab, script, systemd, inetd, xinetd, run, openrc, cron, periodic, profile, hook
	file    string   // where the command is written, resolved
	line    int      // 0 when the file has no line of its own for it
	entry   string   // what brings it about: the link or script in rc.d, the unit, the run directory; resolved up to the last element
	user    string   // who runs it, "" for root or not said
	words   []string // program first; wrappers such as exec, nohup, start-stop-daemon and busybox are taken off
	redirs  []string // where its input and output go
	enabled bool     // false: it is there and nothing starts it
}

// program is the name of what is started.
func (s start) program() string {
	if len(s.words) == 0 {
		return ""
	}
	return baseName(s.words[0])
}

// args are the words after the program.
func (s start) args() []string { return s.words[min(1, len(s.words)):] }

// where names the place in evidence.
func (s start) where() string {
	if s.line == 0 {
		return printable(s.file)
	}
	return at(s.file, s.line)
}

// startFacts is everything that the system starts by itself.
type startFacts struct {
	list   []start
	read   []string // files that were read, for evidence
	boot   int      // how many of them say what runs when the system comes up; 0: how it starts is not known
	looked []string // directories and files that were looked at
	units  map[string]unit
	super  []superService
	errs   []error // what could not be read: whoever found nothing does not know
}

// err joins what could not be read and whether anything was found that starts the system.
func (f *startFacts) err() error {
	if f.boot == 0 && len(f.errs) == 0 {
		return errNoStart
	}
	return errors.Join(f.errs...)
}

// on returns the commands that are enabled and whose program is one of names.
func (f *startFacts) on(names ...string) []start {
	var out []start
	for _, s := range f.list {
		if s.enabled && slices.Contains(names, s.program()) {
			out = append(out, s)
		}
	}
	return out
}

// evidence is what a verdict shows of the files that were read.
func (f *startFacts) evidence() []string { return f.read[:min(len(f.read), MaxItems)] }

var errNoStart = errors.New("no inittab, start scripts, units or run directories: how this system starts is not known")

// starts gives everything the system starts by itself: init, its scripts and what they read or run, units, super-servers,
// supervisors, cron, profiles and hooks. It is made once for a run and kept until something changes; see startFacts.err for
// what could not be read.
func (h *Host) starts(ctx context.Context) *startFacts {
	defer h.sharing("starts", h.started != nil)()
	if h.started == nil {
		c := &startReader{ctx: ctx, h: h, f: &startFacts{units: map[string]unit{}}, seen: map[string]bool{}}
		c.all()
		if ctx.Err() != nil {
			return c.f // not complete: the next caller may have more time
		}
		h.started = c.f
	}
	for _, p := range h.started.looked { // a rule that comes later depends on them, too
		h.note(p)
	}
	return h.started
}

// startReader collects startFacts.
type startReader struct {
	ctx  context.Context // of this collection only
	h    *Host
	f    *startFacts
	seen map[string]bool // scripts, by path, and whether they were enabled
}

func (c *startReader) all() {
	c.inittab()
	c.scripts()
	c.openrc()
	c.systemd()
	c.superServers()
	c.runDirs()
	c.cron()
	c.profiles()
	if err := c.ctx.Err(); err != nil {
		c.f.errs = append(c.f.errs, err)
	}
}

func (c *startReader) fail(err error) {
	if len(c.f.errs) < MaxItems {
		c.f.errs = append(c.f.errs, err)
	}
}

// file reads a configuration file; ok is false when it is not there, or cannot be read, which is noted.
func (c *startReader) file(name string) (data []byte, resolved string, ok bool) {
	in, err := c.h.Stat(name)
	if err != nil || in.Mode.IsDir() {
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrLoop) {
			c.fail(err)
		}
		return nil, "", false
	}
	if in.Mode&fs.ModeCharDevice != 0 { // a link to /dev/null keeps a file away
		return nil, "", false
	}
	if len(c.f.read) >= maxStartRead {
		c.fail(fmt.Errorf("read %s: %w: more than %d start files", printable(name), ErrTooLarge, maxStartRead))
		return nil, "", false
	}
	if data, err = c.h.Read(c.ctx, in.Path); err != nil {
		c.fail(err)
		return nil, "", false
	}
	c.f.read = append(c.f.read, printable(in.Path))
	c.f.looked = append(c.f.looked, in.Path)
	return data, in.Path, true
}

// names lists a directory; nothing when it is not there.
func (c *startReader) names(dir string) []string {
	if p, err := c.h.Resolve(dir); err == nil {
		c.f.looked = append(c.f.looked, p)
	}
	names, err := c.h.Names(dir, maxStartFiles)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && c.h.isDir(dir) {
		c.fail(err)
	}
	return names
}

func (h *Host) isDir(name string) bool {
	in, err := h.Stat(name)
	return err == nil && in.Mode.IsDir()
}

// executable reports whether name is a regular file with an execute bit.
func (h *Host) executable(name string) bool {
	in, err := h.Stat(name)
	return err == nil && in.Mode.IsRegular() && in.Mode&0o111 != 0
}

// entryPath resolves the directory of a name and keeps the last element: a link in rc.d is what starts a script.
func (h *Host) entryPath(name string) string {
	dir, err := h.Resolve(path.Dir(name))
	if err != nil {
		return name
	}
	return path.Join(dir, path.Base(name))
}

// isScript looks at the first bytes: text for a shell begins with "#!" and the name of one.
func (h *Host) isScript(name string) bool {
	in, err := h.Stat(name)
	if err != nil || !in.Mode.IsRegular() || in.Size > maxScript {
		return false
	}
	f, err := openRegular(h.tree, rel(in.Path))
	if o, ok := h.over[in.Path]; ok && o.data != nil {
		return bytesAreScript(o.data)
	}
	if err != nil {
		return false
	}
	defer f.Close()
	var head [64]byte
	n, _ := io.ReadFull(f, head[:])
	return bytesAreScript(head[:n])
}

// bytesAreScript knows the interpreters whose scripts are made of commands.
func bytesAreScript(head []byte) bool {
	l, _, _ := strings.Cut(string(head), "\n")
	l, ok := strings.CutPrefix(l, "#!")
	for w := range strings.FieldsSeq(l) {
		name := path.Base(w)
		if isShell(name) || slices.Contains([]string{"openrc-run", "runscript", "rc.common", "execlineb", "with-contenv", "busybox"}, name) {
			return true
		}
	}
	return ok && strings.TrimSpace(l) == ""
}

// origin is where a command comes from.
type origin struct {
	source, entry, user string
	enabled             bool
	chain               int // scripts above this one
}

// add notes one command and follows what it runs.
func (c *startReader) add(o origin, file string, cmd shellCommand) {
	if len(c.f.list) >= maxStartList {
		if len(c.f.list) == maxStartList {
			c.fail(fmt.Errorf("%w: more than %d commands are started", ErrTooLarge, maxStartList))
		}
		return
	}
	words := unwrap(cmd.words)
	if len(words) == 0 && len(cmd.redirs) == 0 {
		return
	}
	if text, ok := shellText(words); ok && o.chain < maxScriptChain {
		o.chain++
		for _, in := range readScript(text, map[string]string{}, nil) {
			in.line, in.redirs = cmd.line, append(in.redirs, cmd.redirs...)
			c.add(o, file, in)
		}
		return
	}
	c.follow(o, words)
	if len(words) > 0 && slices.Contains(builtins(), words[0]) {
		return
	}
	c.f.list = append(c.f.list, start{source: o.source, file: file, line: cmd.line, entry: o.entry, user: o.user, words: words, redirs: cmd.redirs, enabled: o.enabled})
}

// builtins are commands of the shell that start nothing and are left out of the list.
func builtins() []string {
	return []string{".", "source", "[", "[[", "test", "exit", "return", "cd", ":", "true", "for", "set", "shift", "local", "export", "break", "continue", "trap", "read", "umask", "wait"}
}

// follow reads the scripts that a command runs: by path, through a shell, in a loop over a pattern, through run-parts.
func (c *startReader) follow(o origin, words []string) {
	if o.chain >= maxScriptChain || len(words) == 0 {
		return
	}
	o.chain++
	name := baseName(words[0])
	switch {
	case name == "for":
		for _, w := range words[min(3, len(words)):] {
			if strings.HasPrefix(w, "/") && strings.ContainsAny(w, "*?[") {
				c.pattern(o, w)
			}
		}
	case name == "run-parts":
		if dir := words[len(words)-1]; strings.HasPrefix(dir, "/") {
			c.pattern(o, path.Join(dir, "*"))
		}
	case isShell(name):
		if rest := afterOptions(words[1:], "oO"); len(rest) > 0 && strings.HasPrefix(rest[0], "/") && c.h.isScript(rest[0]) {
			c.script(o, rest[0])
		}
	case strings.HasPrefix(words[0], "/") && c.h.executable(words[0]) && c.h.isScript(words[0]):
		if len(words) > 1 && slices.Contains(stopLabels(), words[1]) {
			return
		}
		c.script(o, words[0])
	}
}

// pattern follows the scripts whose names match; * in a directory is not followed.
func (c *startReader) pattern(o origin, pattern string) {
	dir, base := path.Split(pattern)
	if strings.ContainsAny(dir, "*?[") || !c.h.isDir(dir) {
		return
	}
	for _, n := range c.names(dir) {
		if ok, err := path.Match(base, n); !ok || err != nil || strings.HasPrefix(n, ".") {
			continue
		}
		p := path.Join(dir, n)
		if c.h.executable(p) || strings.HasSuffix(n, ".sh") {
			c.script(origin{source: "script", entry: c.h.entryPath(p), enabled: o.enabled, chain: o.chain}, p)
		}
	}
}

// script reads one script, once, and what it reads with ".".
func (c *startReader) script(o origin, name string) {
	in, err := c.h.Stat(name)
	if err != nil || !in.Mode.IsRegular() {
		return
	}
	if c.seen[in.Path] || !o.enabled && c.seen[in.Path+" off"] {
		return
	}
	if o.enabled {
		c.seen[in.Path] = true
	} else {
		c.seen[in.Path+" off"] = true
	}
	data, resolved, ok := c.file(name)
	if !ok {
		return
	}
	if l, _, _ := strings.Cut(string(data), "\n"); strings.HasPrefix(l, "#!") && !bytesAreScript(data[:min(len(data), 64)]) {
		return // another language
	}
	if strings.HasPrefix(string(data), "\x7fELF") {
		return
	}
	c.text(o, resolved, string(data))
}

// text notes the commands of a script that can run: those outside of functions, in functions that are called, and in those
// that start managers call.
func (c *startReader) text(o origin, file, src string) { c.textWith(o, file, src, nil) }

// textWith is text with variables that are set before.
func (c *startReader) textWith(o origin, file, src string, before func(vars map[string]string)) {
	vars := map[string]string{}
	if before != nil {
		before(vars)
	}
	hops := 0
	var load func(string) []shellCommand
	load = func(name string) []shellCommand {
		if hops >= maxSourced || !strings.HasPrefix(name, "/") || strings.Contains(name, "$") {
			return nil
		}
		in, err := c.h.Stat(name)
		if err != nil || !in.Mode.IsRegular() || in.Size > maxScript {
			return nil
		}
		data, resolved, ok := c.file(name)
		if !ok {
			return nil
		}
		hops++
		list := readScript(string(data), vars, load)
		hops--
		for i := range list {
			if list[i].file == "" {
				list[i].file = resolved
			}
		}
		return list
	}
	cmds := readScript(src, vars, load)
	live := liveFunctions(cmds)
	for _, cmd := range cmds {
		if cmd.in != "" && !live[cmd.in] {
			continue
		}
		f := file
		if cmd.file != "" {
			f = cmd.file
		}
		if len(cmd.words) > 1 && live[cmd.words[0]] { // a function may run its arguments
			c.add(o, f, shellCommand{line: cmd.line, words: cmd.words[1:], redirs: cmd.redirs})
		}
		c.add(o, f, cmd)
	}
	if prog := vars["command"]; o.source == "openrc" && prog != "" {
		line := 1 + strings.Count(src[:max(0, strings.Index(src, "command="))], "\n")
		c.add(o, file, shellCommand{line: line, words: append([]string{prog}, strings.Fields(vars["command_args"]+" "+vars["command_args_foreground"])...)})
	}
}

// liveFunctions are the functions that something calls.
func liveFunctions(cmds []shellCommand) map[string]bool {
	live := map[string]bool{}
	for _, n := range []string{"start", "start_service", "boot", "start_pre", "start_post", "start_instance", "reload", "restart", "main", "service_triggers"} {
		live[n] = true
	}
	defined := map[string]bool{}
	for _, c := range cmds {
		defined[c.in] = true
	}
	for range 8 {
		n := len(live)
		for _, c := range cmds {
			if c.in != "" && !live[c.in] {
				continue
			}
			for _, w := range c.words { // also as the argument of config_foreach and its like
				if defined[w] && w != "" {
					live[w] = true
				}
			}
		}
		if len(live) == n {
			break
		}
	}
	for n := range live {
		if !defined[n] {
			delete(live, n)
		}
	}
	return live
}
