// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"path"
	"slices"
	"strings"
)

// superService is one service of inetd or xinetd.
type superService struct {
	source     string // inetd or xinetd
	file       string
	line       int
	end        int // xinetd: the line of the closing brace
	disable    int // xinetd: the line that sets disable, 0 for none
	name, user string
	server     string
	program    string // what runs: the server, or the applet of a busybox
	words      []string
	on         bool
}

// inetdFiles are inetd.conf and its parts.
func (h *Host) inetdFiles() []string {
	var out []string
	if h.Exists("/etc/inetd.conf") {
		out = append(out, "/etc/inetd.conf")
	}
	names, err := h.Names("/etc/inetd.d", maxStartFiles)
	for _, n := range names {
		if p := path.Join("/etc/inetd.d", n); err == nil && !h.isDir(p) {
			out = append(out, p)
		}
	}
	return out
}

// xinetdFiles are xinetd.conf and the services beside it.
func (h *Host) xinetdFiles() []string {
	var out []string
	if h.Exists("/etc/xinetd.conf") {
		out = append(out, "/etc/xinetd.conf")
	}
	names, err := h.Names("/etc/xinetd.d", maxStartFiles)
	for _, n := range names {
		if p := path.Join("/etc/xinetd.d", n); err == nil && !h.isDir(p) && !strings.ContainsAny(n, ".~") { // as xinetd leaves them out
			out = append(out, p)
		}
	}
	return out
}

// parseInetd reads the services: service type protocol wait user server args.
func parseInetd(data []byte) []superService {
	var out []superService
	n := 0
	for l := range strings.Lines(string(data)) {
		n++
		f := strings.Fields(l)
		if len(f) < 6 || strings.HasPrefix(f[0], "#") || len(out) >= maxCommands {
			continue
		}
		e := superService{source: "inetd", line: n, end: n, name: f[0], server: f[5], on: true}
		e.user, _, _ = strings.Cut(f[4], ".")
		e.words = append([]string{f[5]}, f[min(7, len(f)):]...)
		if len(f) > 6 {
			e.program = f[6]
			if path.Base(f[5]) == "busybox" || path.Base(f[6]) == "busybox" {
				e.words = f[6:]
				if path.Base(f[6]) == "busybox" && len(f) > 7 {
					e.program, e.words = f[7], f[7:]
				}
			}
		}
		out = append(out, e)
	}
	return out
}

// parseXinetd reads the service blocks; defaults is the list of services that the block of defaults puts out of use.
func parseXinetd(data []byte) (out []superService, defaults []string) {
	var cur *superService
	inDefaults := false
	n := 0
	for l := range strings.Lines(string(data)) {
		n++
		l = strings.TrimSpace(l)
		f := strings.Fields(l)
		if len(f) == 0 || strings.HasPrefix(l, "#") {
			continue
		}
		switch {
		case f[0] == "service" && len(f) > 1 && cur == nil && len(out) < maxCommands:
			cur = &superService{source: "xinetd", line: n, name: strings.TrimSuffix(f[1], "{"), on: true}
		case f[0] == "defaults":
			inDefaults = true
		case strings.HasPrefix(l, "}"):
			if cur != nil {
				cur.end = n
				out = append(out, *cur)
			}
			cur, inDefaults = nil, false
		default:
			key, value, ok := strings.Cut(l, "=")
			key, value = strings.TrimRight(key, " \t+-"), strings.TrimSpace(value)
			if ok && inDefaults && key == "disabled" {
				defaults = append(defaults, strings.Fields(value)...)
			}
			if ok && cur != nil {
				cur.xinetdSet(n, key, value)
			}
		}
	}
	return out, defaults
}

func (e *superService) xinetdSet(n int, key, value string) {
	switch key {
	case "disable":
		e.disable, e.on = n, value != "yes"
	case "user":
		e.user = value
	case "id":
	case "server":
		e.server, e.program = value, path.Base(value)
		e.words = append([]string{value}, e.words[min(1, len(e.words)):]...)
	case "server_args":
		if len(e.words) == 0 {
			e.words = []string{""}
		}
		e.words = append(e.words[:1], strings.Fields(value)...)
	}
}

// superServices reads both super-servers. The order of the answer is that of the files.
func (c *startReader) superServices() []superService {
	var out []superService
	for _, p := range c.h.inetdFiles() {
		data, file, ok := c.file(p)
		if !ok {
			continue
		}
		for _, e := range parseInetd(data) {
			e.file = file
			out = append(out, e)
		}
	}
	var off []string
	first := len(out)
	for _, p := range c.h.xinetdFiles() {
		data, file, ok := c.file(p)
		if !ok {
			continue
		}
		list, defaults := parseXinetd(data)
		off = append(off, defaults...)
		for _, e := range list {
			e.file = file
			out = append(out, e)
		}
	}
	for i := first; i < len(out); i++ {
		if slices.Contains(off, out[i].name) {
			out[i].on = false
		}
	}
	return out
}

// superServers notes what inetd and xinetd run for a caller.
func (c *startReader) superServers() {
	c.f.super = c.superServices()
	for _, e := range c.f.super {
		if len(e.words) == 0 || e.words[0] == "internal" {
			continue
		}
		c.add(origin{source: e.source, entry: e.name, user: e.user, enabled: e.on, chain: maxScriptChain - 1}, e.file, shellCommand{line: e.line, words: e.words})
	}
}
