// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
)

// startProgram wants the system not to start some programs, and on a running system that none of them runs.
type startProgram struct {
	Deny    []string `json:"deny"`
	With    []string `json:"with"`    // only with one of these arguments
	Without []string `json:"without"` // only without any of these arguments
	Super   string   `json:"super"`   // what inetd and xinetd run: "" does not count, "too", "only"
	Ports   []string `json:"ports"`   // nothing may listen there, loopback excepted
	Root    bool     `json:"root"`    // only when it runs as root
}

func inittabKind() Kind {
	return Kind{
		Name: "start-program", Target: `"init": all that the system starts: inittab, start scripts and what they read and run, units, supervisors, cron, profiles and hooks; on a running system its processes, too`,
		Want: `{"deny": [program names], "with": [arguments], "without": [arguments], "super": "too", "root": true, "ports": ["tcp/23"]}; deny is required. ` +
			`A program counts only with one of with and none of without: "-e" is also found in "-le", "*" stands for anything. super adds what inetd and xinetd run, or takes it "only", root leaves out what another user runs, ports are looked at on a running system`,
		Fix: "put the line of inittab or of a cron table out of use, take the execute bits or the links of a script for the program, mask its unit; on a running system tell init and end the program",
		New: func(target string, want []byte) (Check, error) {
			var c startProgram
			if err := decodeWant(want, &c); err != nil {
				return nil, err
			}
			if target != "init" {
				return nil, errors.New(`target: want "init"`)
			}
			if len(c.Deny) == 0 {
				return nil, errors.New("want.deny: name at least one program")
			}
			if !slices.Contains([]string{"", "too", "only"}, c.Super) {
				return nil, fmt.Errorf(`want.super: %q, want "too" or "only"`, c.Super)
			}
			for _, p := range c.Ports {
				proto, port, _ := strings.Cut(p, "/")
				if _, err := strconv.ParseUint(port, 10, 16); err != nil || proto != "tcp" && proto != "udp" {
					return nil, fmt.Errorf(`want.ports: %q, want "tcp/23" or "udp/69"`, p)
				}
			}
			return c, nil
		},
	}
}

func (c startProgram) Claims() []string {
	return prefixed("start:", prefixed(strings.Join(c.With, " ")+"/"+strings.Join(c.Without, " ")+":", c.Deny))
}

func (c startProgram) Tightens(old Check) error {
	o, ok := old.(startProgram)
	if !ok {
		return errors.New("another kind")
	}
	if p, ok := subset(o.Deny, c.Deny); !ok {
		return fmt.Errorf("%s is missing", p)
	}
	if p, ok := subset(o.Ports, c.Ports); !ok {
		return fmt.Errorf("%s is missing", p)
	}
	if p, ok := subset(o.With, c.With); len(c.With) > 0 && (!ok || len(o.With) == 0) {
		return fmt.Errorf("%q does not count", p)
	}
	if p, ok := subset(c.Without, o.Without); !ok {
		return fmt.Errorf("with %q it does not count", p)
	}
	if c.Super != o.Super && c.Super != "too" || c.Root && !o.Root {
		return errors.New("super is missing, or root is new")
	}
	return nil
}

// denies reports whether a program with arguments is denied.
func (c startProgram) denies(program string, args []string) bool {
	if !slices.Contains(c.Deny, program) && !slices.Contains(c.Deny, "*") {
		return false
	}
	has := func(pattern string) bool { return hasArg(args, pattern) }
	return (len(c.With) == 0 || slices.ContainsFunc(c.With, has)) && !slices.ContainsFunc(c.Without, has)
}

// hasArg looks for an argument: "-e" alone or merged with other letters, "--x" alone or before "=", "*" for anything.
func hasArg(args []string, pattern string) bool {
	letter := len(pattern) == 2 && pattern[0] == '-' && pattern[1] != '-'
	if strings.Contains(pattern, " ") { // several arguments in a row
		return starMatch(" "+strings.Join(args, " ")+" ", "* "+pattern+" *")
	}
	for _, a := range args {
		switch {
		case strings.Contains(pattern, "*"):
			if starMatch(a, pattern) {
				return true
			}
		case a == pattern || strings.HasPrefix(a, pattern+"="):
			return true
		case letter && len(a) > 2 && len(a) <= 7 && a[0] == '-' && nameLen(a[1:]) == len(a)-1 && strings.IndexByte(a, pattern[1]) > 0:
			return true
		}
	}
	return false
}

// starMatch compares with a pattern in which "*" stands for any text, slashes included.
func starMatch(s, pattern string) bool {
	parts := strings.Split(pattern, "*")
	last := len(parts) - 1
	if last == 0 {
		return s == pattern
	}
	if !strings.HasPrefix(s, parts[0]) {
		return false
	}
	s = s[len(parts[0]):]
	for _, p := range parts[1:last] {
		i := strings.Index(s, p)
		if i < 0 {
			return false
		}
		s = s[i+len(p):]
	}
	return strings.HasSuffix(s, parts[last])
}

// found are the commands that start what is denied.
func (c startProgram) found(f *startFacts) []start {
	var out []start
	for _, s := range f.list {
		super := s.source == "inetd" || s.source == "xinetd"
		if s.enabled && (c.Super == "too" || super == (c.Super == "only")) && (!c.Root || s.asRoot()) && c.denies(s.program(), slices.Concat(s.args(), s.redirs)) {
			out = append(out, s)
		}
	}
	return out
}

func (s start) asRoot() bool { return s.user == "" || s.user == "root" || s.user == "0" }

// running are the processes of what is denied.
func (c startProgram) running(ps *processFacts) []process {
	var out []process
	for _, p := range ps.list {
		// A shell that runs may be a person's.
		if !p.kernel() && !p.zombie && c.Super != "only" && !isShell(p.program()) && (!c.Root || p.uid == 0) && c.denies(p.program(), p.args[min(1, len(p.args)):]) {
			out = append(out, p)
		}
	}
	return out
}

// subject is what a waiver names: the program, not its arguments.
func subjectOf(program string) string { return printable(program) }

func (c startProgram) Check(ctx context.Context, h *Host) Verdict {
	f := h.starts(ctx)
	items := c.started(f)
	read := f.evidence()
	errs := []error{f.err()}
	what := fmt.Sprintf("%d start files, none runs %s", len(f.read), c.names())
	if h.Live() {
		more, n, err := c.now(ctx, h)
		items, errs = append(items, more...), append(errs, err)
		read = append([]string{"/proc"}, read...)
		what += fmt.Sprintf("; nor does one of %d processes", n)
	}
	if err := errors.Join(errs...); err != nil && len(items) == 0 {
		return unknown(err)
	}
	v := judged(items, what, read...)
	if len(items) > 0 {
		v.Implementation = items[0].Subject
	}
	return v
}

func (c startProgram) names() string {
	short := func(list []string, n int) string {
		if len(list) <= n {
			return strings.Join(list, ", ")
		}
		return strings.Join(list[:n], ", ") + " or their like"
	}
	s := short(c.Deny, 3)
	if len(c.With) > 0 {
		s += " with " + short(c.With, 1)
	}
	if len(c.Without) > 0 {
		s += " without " + short(c.Without, 1)
	}
	return s
}

func (c startProgram) started(f *startFacts) []Item {
	var items []Item
	for _, s := range c.found(f) {
		items = append(items, Item{Subject: subjectOf(s.program()), Where: s.where(), Observed: "starts " + s.program() + remark(s.program(), s.args()), Expected: "not started"})
	}
	return items
}

// remark says what makes it worse. Arguments are not shown: they may hold passwords.
func remark(program string, args []string) string {
	if !strings.Contains(program, "telnetd") {
		return ""
	}
	for i, a := range args {
		if strings.HasPrefix(a, "-") && strings.HasSuffix(a, "l") && i+1 < len(args) && isShell(baseName(args[i+1])) || strings.HasPrefix(a, "-l/") && isShell(baseName(a[2:])) {
			return ", a shell without login"
		}
	}
	return ", a login in clear text"
}

// now judges the processes and the ports; n is how many processes there are.
func (c startProgram) now(ctx context.Context, h *Host) (items []Item, n int, err error) {
	ps := h.processes(ctx)
	for _, p := range c.running(ps) {
		items = append(items, Item{Subject: subjectOf(p.program()), Where: "/proc/" + strconv.Itoa(p.pid), Observed: p.program() + " runs" + remark(p.program(), p.args), Expected: "not running"})
	}
	if len(c.Ports) == 0 || ps.err != nil {
		return items, len(ps.list), ps.err
	}
	ls := h.listeners(ctx)
	for _, l := range ls.list {
		if !slices.Contains(c.Ports, l.name()) || l.scope() == "loopback" || l.of(c.running(ps)) {
			continue
		}
		items = append(items, Item{Subject: l.name(), Where: l.where(), Observed: "listens on " + l.name() + ", " + l.owner(), Expected: "nothing listens there"})
	}
	return items, len(ps.list), ls.err
}

// of reports whether one of the processes has the socket.
func (l listener) of(list []process) bool {
	return slices.ContainsFunc(l.procs, func(p process) bool {
		return slices.ContainsFunc(list, func(q process) bool { return q.pid == p.pid })
	})
}

// where is the table that has the socket.
func (l listener) where() string {
	if l.addr.Is6() {
		return "/proc/net/" + l.proto + "6"
	}
	return "/proc/net/" + l.proto
}

// owner names the programs behind a socket.
func (l listener) owner() string {
	if len(l.procs) == 0 {
		return "of the kernel or of a hidden process"
	}
	var out []string
	for _, p := range l.procs {
		s := printable(p.exe)
		if p.exe == "" || path.Base(p.exe) != p.program() {
			s = printable(p.program()) + " (" + s + ")"
		}
		if p.deleted {
			s += ", whose file is gone"
		}
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return strings.Join(out, ", ")
}

func (c startProgram) Fix(ctx context.Context, h *Host, want func(string) bool) ([]Change, error) {
	f := h.starts(ctx)
	found := slices.DeleteFunc(c.found(f), func(s start) bool { return !want(subjectOf(s.program())) })
	out, err := neutralise(ctx, h, found)
	if len(found) == 0 {
		err = f.err()
	}
	if !h.isRunningRoot() {
		return out, err
	}
	end := slices.DeleteFunc(c.running(h.processes(ctx)), func(p process) bool { return !want(subjectOf(p.program())) })
	if slices.Contains(c.Deny, "*") {
		end = nil // which of them it is, only a person can say
	}
	return stopNow(ctx, h, out, found, end), err
}
