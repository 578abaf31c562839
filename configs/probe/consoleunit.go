// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"context"
	"path"
	"slices"
	"strings"
)

// consoleUnits are the units of systemd that run something at a terminal: those that something starts, and the login prompts
// that a generator makes for the consoles of the kernel.
func (h *Host) consoleUnits(ctx context.Context) (out []wayIn, read []string) {
	started := h.starts(ctx)
	var names []string
	for n := range started.units {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		if u := started.units[n]; u.file != "" && !u.masked {
			out = append(out, u.waysIn()...)
		}
	}
	if len(names) > 0 {
		read = append(read, "systemd units")
	}
	generated, from := h.generatedGettys(ctx)
	r := &startReader{ctx: ctx, h: h, f: &startFacts{units: map[string]unit{}}, seen: map[string]bool{}}
	for _, n := range generated {
		if u, ok := r.unit(n); ok && !u.masked && !slices.Contains(names, n) {
			out, read = append(out, u.waysIn()...), append(read, from)
		}
	}
	return out, read
}

// waysIn are the commands of a unit that talks to a terminal.
func (u unit) waysIn() (out []wayIn) {
	tty := u.last("Service", "TTYPath")
	if tty == "" && !strings.HasPrefix(u.last("Service", "StandardInput"), "tty") {
		return nil
	}
	stem := strings.TrimSuffix(u.name, path.Ext(u.name))
	_, instance, template := strings.Cut(stem, "@")
	if tty = path.Base(tty); template && (strings.Contains(tty, "%") || tty == ".") {
		tty = instance
	}
	if tty == "." {
		tty = "console"
	}
	for _, e := range u.get("Service", "ExecStart") {
		cmd := strings.TrimLeft(e.value, "-@:+!|")
		what := initEntry{action: "respawn", cmd: cmd}.opens()
		out = append(out, wayIn{what: what, terminal: tty, start: start{source: "systemd", file: e.file, line: e.line, entry: u.name, words: strings.Fields(cmd), enabled: true}})
	}
	return out
}

// generatedGettys are the units that systemd-getty-generator starts: one for each console of the kernel that is a line.
func (h *Host) generatedGettys(ctx context.Context) (units []string, from string) {
	const generator = "systemd-getty-generator"
	found := false
	for _, dir := range []string{"/etc/systemd/system-generators", "/run/systemd/system-generators", "/usr/local/lib/systemd/system-generators",
		"/usr/lib/systemd/system-generators", "/lib/systemd/system-generators"} {
		p := path.Join(dir, generator)
		if h.linkTo(p) == "/dev/null" {
			return nil, ""
		}
		if found = h.executable(p); found {
			break
		}
	}
	if !found {
		return nil, ""
	}
	add := func(tty string) {
		if u := "serial-getty@" + tty + ".service"; serial(tty) && tty != "console" && !slices.Contains(units, u) {
			units = append(units, u)
		}
	}
	if data, err := h.Read(ctx, "/sys/class/tty/console/active"); err == nil {
		for w := range bytes.FieldsSeq(data) {
			add(string(w))
		}
		return units, "/sys/class/tty/console/active"
	}
	b := h.bootArguments(ctx)
	for _, l := range b.list {
		for w := range strings.FieldsSeq(l.args) {
			if w == "systemd.getty_auto=no" || w == "systemd.getty_auto=0" {
				return nil, ""
			}
			if v, ok := strings.CutPrefix(w, "console="); ok {
				tty, _, _ := strings.Cut(v, ",")
				add(tty)
			}
		}
	}
	return units, strings.Join(b.read, ", ")
}

// disableExec puts the ExecStart lines of a drop-in out of use, the empty one that clears the unit's own included.
func disableExec(ctx context.Context, h *Host, file string) (*text, error) {
	t, err := openText(ctx, h, file)
	if err != nil {
		return nil, err
	}
	for _, o := range parseUnit(file, string(t.before)) {
		if o.section == "Service" && o.key == "ExecStart" {
			for n := o.line; n <= len(t.lines); n++ {
				more := strings.HasSuffix(strings.TrimSpace(t.line(n)), `\`)
				t.disable(n)
				if !more {
					break
				}
			}
		}
	}
	return t, nil
}
