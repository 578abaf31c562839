// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

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
		// openrc-run evaluates the arguments once more, so quotes inside hold words together.
		for _, cmd := range readScript(prog+" "+vars["command_args"]+" "+vars["command_args_foreground"], map[string]string{}, nil) {
			cmd.line = line
			c.add(o, file, cmd)
		}
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
