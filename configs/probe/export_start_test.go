// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"strings"
)

// Starts lists what a tree starts, one command a line: source, place, words, where its output goes, and whether it is off.
func Starts(h *Host) (list []string, err error) {
	f := h.starts(context.Background())
	for _, s := range f.list {
		l := s.source + " " + s.where() + " " + strings.Join(s.words, " ")
		if len(s.redirs) > 0 {
			l += " > " + strings.Join(s.redirs, " ")
		}
		if s.user != "" {
			l += " as " + s.user
		}
		if !s.enabled {
			l += " (off)"
		}
		list = append(list, l)
	}
	return list, f.err()
}

// Script lists the commands of a shell script.
func Script(src string) (out []string) {
	for _, c := range readScript(src, map[string]string{}, nil) {
		l := strings.Join(c.words, " ")
		if c.in != "" {
			l = c.in + ": " + l
		}
		out = append(out, l)
	}
	return out
}

// Unwrap gives what a command line runs.
func Unwrap(line string) string { return strings.Join(unwrap(strings.Fields(line)), " ") }

var (
	ParseUnit    = func(text string) { parseUnit("u", text) }
	ParseXinetd  = func(data []byte) { parseXinetd(data) }
	ParseInetd   = func(data []byte) { parseInetd(data) }
	CronCommand  = cronCommand
	ParseStat    = func(data []byte) error { _, err := parseStat(data); return err }
	ParseSockets = func(proto, data string) (int, error) { l, err := parseSockets(nil, proto, data); return len(l), err }
)

// Listeners lists the listening sockets: name, scope and programs.
func Listeners(h *Host) (list []string, err error) {
	f := h.listeners(context.Background())
	for _, l := range f.list {
		s := l.name() + " " + l.scope()
		for _, p := range l.procs {
			s += " " + p.program()
			if p.deleted {
				s += " (deleted)"
			}
		}
		list = append(list, s)
	}
	return list, f.err
}

// TargetOf names a process for a signal; the zero Target when there is none.
func TargetOf(h *Host, pid int) Target {
	p, err := h.process(pid)
	if err != nil || p.zombie {
		return Target{}
	}
	return *signalTo(p, "TERM").To
}
