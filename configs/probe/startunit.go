// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"path"
	"slices"
	"strings"
)

// maxUnits bounds the units that are looked at.
const maxUnits = 1024

// unit is one systemd unit that something starts, or that a link asks for although it is masked.
type unit struct {
	name, file string // file is the fragment that counts, resolved
	masked     bool
	opts       []unitOption
}

// unitOption is one setting, in the order they apply: of the fragment, then of its drop-ins.
type unitOption struct {
	file                string
	line                int
	section, key, value string
}

// get lists the values of a key; an empty value clears what came before it.
func (u unit) get(section, key string) []unitOption {
	var out []unitOption
	for _, o := range u.opts {
		if o.section != section || o.key != key {
			continue
		}
		if o.value == "" {
			out = nil
			continue
		}
		out = append(out, o)
	}
	return out
}

// last is the value that counts of a key that has one.
func (u unit) last(section, key string) string {
	if l := u.get(section, key); len(l) > 0 {
		return l[len(l)-1].value
	}
	return ""
}

// unitDirs are where units are, the one that counts first.
func unitDirs() []string {
	return []string{"/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"}
}

// parseUnit reads the settings of one unit file; a backslash at the end of a line continues it.
func parseUnit(file, text string) []unitOption {
	var out []unitOption
	section, held, from, n := "", "", 0, 0
	for l := range strings.Lines(text) {
		n++
		l = strings.TrimRight(l, "\r\n")
		t := strings.TrimSpace(l)
		if t != "" && (t[0] == '#' || t[0] == ';') || held == "" && t == "" {
			continue
		}
		if held == "" {
			from = n
		}
		if len(held) < maxValue {
			held += " " + strings.TrimSuffix(t, `\`)
		}
		if strings.HasSuffix(t, `\`) {
			continue
		}
		t, held = strings.TrimSpace(held), ""
		if strings.HasPrefix(t, "[") && strings.HasSuffix(t, "]") {
			section = t[1 : len(t)-1]
			continue
		}
		if k, v, ok := strings.Cut(t, "="); ok && len(out) < maxVariables {
			out = append(out, unitOption{file, from, section, strings.TrimSpace(k), strings.TrimSpace(v)})
		}
	}
	return out
}

// hasSystemd reports whether units mean anything here.
func (h *Host) hasSystemd() bool {
	return slices.ContainsFunc([]string{"/usr/lib/systemd/systemd", "/lib/systemd/systemd", "/sbin/systemd"}, h.Exists)
}

// systemd follows the links in *.wants and *.requires, and from there what units pull in.
func (c *startReader) systemd() {
	here := c.h.hasSystemd()
	type wanted struct{ name, by string }
	var queue []wanted
	seenDir := map[string]bool{}
	for _, dir := range unitDirs() {
		real, err := c.h.Resolve(dir)
		if err != nil || seenDir[real] {
			continue
		}
		seenDir[real] = true
		for _, n := range c.names(dir) {
			if !strings.HasSuffix(n, ".wants") && !strings.HasSuffix(n, ".requires") {
				continue
			}
			if t, _, _ := strings.Cut(n, "."); slices.Contains(notBoot(), t) {
				continue
			}
			for _, u := range c.names(path.Join(dir, n)) {
				queue = append(queue, wanted{u, c.h.entryPath(path.Join(dir, n, u))})
			}
		}
	}
	for len(queue) > 0 && len(c.f.units) < maxUnits {
		w := queue[0]
		queue = queue[1:]
		if _, ok := c.f.units[w.name]; ok {
			continue
		}
		u, ok := c.unit(w.name)
		c.f.units[w.name] = u
		if !ok || u.masked {
			continue
		}
		if here {
			c.f.boot++
		}
		c.unitStarts(u, here)
		for _, n := range u.pulls() {
			queue = append(queue, wanted{n, ""})
		}
	}
}

// notBoot are targets that are reached when the system goes down or is being mended.
func notBoot() []string {
	return []string{"shutdown", "reboot", "poweroff", "halt", "kexec", "rescue", "emergency", "umount", "final", "suspend", "hibernate", "sleep"}
}

// unit reads the fragment of name that counts, and its drop-ins.
func (c *startReader) unit(name string) (unit, bool) {
	u := unit{name: name}
	stem, ext := strings.TrimSuffix(name, path.Ext(name)), path.Ext(name)
	names := []string{name}
	if t, _, ok := strings.Cut(stem, "@"); ok {
		names = append(names, t+"@"+ext)
	}
	for _, n := range names {
		for _, dir := range unitDirs() {
			p := path.Join(dir, n)
			if c.h.linkTo(p) == "/dev/null" {
				u.masked, u.file = true, p
				return u, true
			}
			data, file, ok := c.file(p)
			if !ok {
				continue
			}
			u.file, u.masked = file, len(data) == 0
			u.opts = parseUnit(file, string(data))
			c.dropIns(&u, names)
			return u, true
		}
	}
	return u, false
}

func (c *startReader) dropIns(u *unit, names []string) {
	seen := map[string]bool{}
	for _, n := range names {
		for _, dir := range unitDirs() {
			d := path.Join(dir, n+".d")
			if real, err := c.h.Resolve(d); err != nil || seen[real] {
				continue
			} else {
				seen[real] = true
			}
			for _, f := range c.names(d) {
				if !strings.HasSuffix(f, ".conf") || seen[f] {
					continue
				}
				seen[f] = true
				if data, file, ok := c.file(path.Join(d, f)); ok {
					u.opts = append(u.opts, parseUnit(file, string(data))...)
				}
			}
		}
	}
}

// pulls are the units that this one brings up.
func (u unit) pulls() []string {
	var out []string
	for _, k := range []string{"Wants", "Requires", "BindsTo", "Upholds", "Requisite"} {
		for _, o := range u.get("Unit", k) {
			out = append(out, strings.Fields(o.value)...)
		}
	}
	stem, ext := strings.TrimSuffix(u.name, path.Ext(u.name)), path.Ext(u.name)
	switch ext {
	case ".socket":
		switch s := u.last("Socket", "Service"); {
		case s != "":
			out = append(out, s)
		case slices.Contains([]string{"yes", "true", "1", "on"}, strings.ToLower(u.last("Socket", "Accept"))):
			out = append(out, stem+"@.service")
		default:
			out = append(out, stem+".service")
		}
	case ".timer", ".path":
		section := map[string]string{".timer": "Timer", ".path": "Path"}[ext]
		if s := u.last(section, "Unit"); s != "" {
			out = append(out, s)
		} else {
			out = append(out, stem+".service")
		}
	}
	return out
}

// unitStarts notes what a service runs.
func (c *startReader) unitStarts(u unit, enabled bool) {
	o := origin{source: "systemd", entry: u.name, user: u.last("Service", "User"), enabled: enabled}
	if o.user == "" && slices.Contains([]string{"yes", "true", "1", "on"}, strings.ToLower(u.last("Service", "DynamicUser"))) {
		o.user = u.name
	}
	vars := map[string]string{}
	for _, e := range u.get("Service", "Environment") {
		for w := range strings.FieldsSeq(strings.Trim(e.value, `"`)) {
			if k, v, ok := strings.Cut(strings.Trim(w, `"`), "="); ok {
				vars[k] = v
			}
		}
	}
	for _, e := range u.get("Service", "EnvironmentFile") {
		if data, _, ok := c.file(strings.TrimPrefix(e.value, "-")); ok {
			readScript(string(data), vars, nil)
		}
	}
	for _, k := range []string{"ExecStartPre", "ExecStart", "ExecStartPost", "ExecCondition"} {
		for _, e := range u.get("Service", k) {
			// ";" separates commands, as in a shell; of the rest of a shell's syntax only quotes and variables are the same.
			for _, cmd := range readScript(strings.TrimLeft(e.value, "-@:+!|"), vars, nil) {
				cmd.line = e.line
				c.add(o, e.file, cmd)
			}
		}
	}
}
