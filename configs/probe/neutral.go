// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
)

// neutralise plans that none of the given commands is started any more: a line of inittab, of inetd or of a cron table becomes
// a comment, xinetd gets "disable = yes", the links of a script in runlevels are removed, a script without links loses its
// execute bits, a supervised directory gets a file "down", a unit is masked. A command inside something that does other
// things, too, is left to a person, with ErrNoFix.
func neutralise(ctx context.Context, h *Host, list []start) ([]Change, error) {
	n := &neutral{ctx: ctx, h: h, denied: list, texts: map[string]*text{}, done: map[string]bool{}}
	var errs []error
	// From the last line of each file to the first: an inserted line moves what is below it.
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b start) int {
		if a.file == b.file {
			return b.line - a.line
		}
		return strings.Compare(a.file, b.file)
	})
	for _, s := range list {
		errs = append(errs, n.one(s))
	}
	for _, p := range n.order {
		n.out = append(n.out, n.texts[p].changes(true)...)
	}
	return n.out, errors.Join(errs...)
}

type neutral struct {
	ctx    context.Context // of this plan only
	h      *Host
	denied []start
	texts  map[string]*text
	order  []string
	done   map[string]bool
	out    []Change
}

func (n *neutral) open(file string) (*text, error) {
	if t := n.texts[file]; t != nil {
		return t, nil
	}
	t, err := openText(n.ctx, n.h, file)
	if err == nil {
		n.texts[file] = t
		n.order = append(n.order, file)
	}
	return t, err
}

// once reports whether key comes for the first time.
func (n *neutral) once(key string) bool {
	first := !n.done[key]
	n.done[key] = true
	return first
}

func (n *neutral) one(s start) error {
	switch {
	case s.source == "inittab" && s.file == n.inittab(), s.source == "inetd", s.source == "cron":
		return n.comment(s)
	case s.source == "xinetd":
		return n.xinetd(s)
	case s.source == "systemd":
		return n.mask(s)
	case s.source == "script", s.source == "openrc", s.source == "run", s.source == "periodic":
		return n.script(s)
	}
	return fmt.Errorf("%s is started in %s, which does other things too: %w", printable(s.program()), s.where(), ErrNoFix)
}

func (n *neutral) inittab() string {
	p, _ := n.h.Resolve(inittabFile)
	return p
}

// comment puts one line out of use, once.
func (n *neutral) comment(s start) error {
	t, err := n.open(s.file)
	if err == nil && n.once(at(s.file, s.line)) {
		t.disable(s.line)
	}
	return err
}

func (n *neutral) xinetd(s start) error {
	t, err := n.open(s.file)
	if err != nil || !n.once(at(s.file, s.line)) {
		return err
	}
	list, _ := parseXinetd(t.before)
	for _, e := range list {
		switch {
		case e.line != s.line:
		case e.disable > 0:
			old := t.line(e.disable)
			t.set(e.disable, old[:strings.IndexByte(old, '=')+1]+" yes")
		default:
			t.insert(e.end, "\tdisable = yes")
		}
	}
	return nil
}

// alone reports whether what the start belongs to is for denied programs only: its name says so, or it starts nothing else.
func (n *neutral) alone(s start, name string) bool {
	if scriptOf(name, s.program()) {
		return true
	}
	for _, o := range n.h.starts(n.ctx).list {
		same := o.file == s.file || s.source == "systemd" && o.entry == s.entry
		if same && !slices.Contains(minor(), o.program()) && !slices.ContainsFunc(n.denied, func(d start) bool { return d.program() == o.program() }) {
			return false
		}
	}
	return true
}

// minor are commands that a start script runs beside its program.
func minor() []string {
	return []string{"", "echo", "printf", "logger", "sleep", "mkdir", "rm", "touch", "chmod", "chown", "kill", "killall", "pidof", "cat", "false", "usage", "log_daemon_msg", "log_end_msg", "procd_open_instance", "procd_close_instance", "procd_set_param", "start", "stop", "restart", "$0", "$1"}
}

// scriptOf reports whether the name of a script says that it is for a program: S50telnet for telnetd.
func scriptOf(script, program string) bool {
	stem := strings.TrimSuffix(strings.TrimPrefix(program, "in."), "d")
	return len(stem) > 2 && strings.Contains(script, stem)
}

// script takes the links away that start a script, or its execute bits where it is started by its name.
func (n *neutral) script(s start) error {
	in, err := n.h.Stat(s.entry)
	target := in.Path
	if s.source == "run" {
		target = path.Join(in.Path, "run")
	}
	if err != nil || target != s.file || !n.alone(s, path.Base(s.entry)+path.Base(in.Path)) {
		return fmt.Errorf("%s does other things too: %w", printable(s.file), ErrNoFix)
	}
	if in.Mode&0o111 == 0 || strings.HasPrefix(path.Base(in.Path), "rc.") && s.source != "run" {
		return fmt.Errorf("%s is read without being executable: %w", printable(s.file), ErrNoFix)
	}
	if !n.once(s.entry) {
		return nil
	}
	links := n.links(s, in.Path)
	switch {
	case len(links) > 0:
		for _, l := range links {
			n.out = append(n.out, Change{Op: Unlink, Path: l, Before: []byte(n.h.linkTo(l)), NextStart: true})
		}
	case s.source == "run":
		uid, gid := n.h.Root()
		n.out = append(n.out, Change{Op: Create, Path: path.Join(in.Path, "down"), Mode: 0o644, After: []byte{}, UID: uid, GID: gid, NextStart: true})
	default:
		n.out = append(n.out, Change{Op: Chmod, Path: in.Path, OldMode: in.Mode & permBits, Mode: in.Mode & permBits &^ 0o111, NextStart: true})
	}
	return nil
}

// links are all names by which runlevels start the same script.
func (n *neutral) links(s start, target string) []string {
	dirs := []string{path.Dir(s.entry)}
	if s.source == "script" {
		dirs = append(dirs, "/etc/rc.d", "/etc/rcS.d", "/etc/rc2.d", "/etc/rc3.d", "/etc/rc4.d", "/etc/rc5.d")
	}
	if s.source == "openrc" {
		for _, l := range []string{"sysinit", "boot", "default", "nonetwork"} {
			dirs = append(dirs, path.Join("/etc/runlevels", l))
		}
	}
	var out []string
	for _, d := range dirs {
		names, err := n.h.Names(d, maxStartFiles)
		if err != nil {
			continue
		}
		for _, name := range names {
			p := n.h.entryPath(path.Join(d, name))
			if n.h.linkTo(p) == "" || s.source == "script" && !isStartName(name) || slices.Contains(out, p) {
				continue
			}
			if r, err := n.h.Resolve(p); err == nil && r == target {
				out = append(out, p)
			}
		}
	}
	return out
}

// mask links a unit, and the sockets and timers that bring it up, to /dev/null where systemd looks first.
func (n *neutral) mask(s start) error {
	if !n.alone(s, "") {
		return fmt.Errorf("%s does other things too: %w", printable(s.entry), ErrNoFix)
	}
	names := []string{s.entry}
	for name, u := range n.h.starts(n.ctx).units {
		if ext := path.Ext(name); (ext == ".socket" || ext == ".timer" || ext == ".path") && slices.Contains(u.pulls(), s.entry) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		if !n.once(name) {
			continue
		}
		p, err := n.h.Resolve(path.Join("/etc/systemd/system", name))
		dir, derr := n.h.Resolve("/etc/systemd/system")
		if derr != nil {
			return derr
		}
		link := path.Join(dir, name)
		switch in, serr := n.h.Stat(link); {
		case n.h.linkTo(link) != "":
			n.out = append(n.out, Change{Op: Unlink, Path: link, Before: []byte(n.h.linkTo(link)), NextStart: true})
		case errors.Is(err, fs.ErrNotExist):
		case serr != nil || p != link || !in.Mode.IsRegular():
			return fmt.Errorf("mask %s: %w", printable(name), ErrNoFix)
		default:
			data, err := n.h.Read(n.ctx, link)
			if err != nil {
				return err
			}
			n.out = append(n.out, Change{Op: Remove, Path: link, Before: data, OldMode: in.Mode & permBits, UID: in.UID, GID: in.GID, NextStart: true})
		}
		n.out = append(n.out, Change{Op: Symlink, Path: link, After: []byte("/dev/null"), NextStart: true})
	}
	return nil
}

// stopNow adds to a plan for the running system what ends the programs: init and the super-servers read their files again
// first, or they would start them once more. With that nothing waits for the next start.
func stopNow(ctx context.Context, h *Host, plan []Change, found []start, end []process) []Change {
	ps := h.processes(ctx)
	if ps.err != nil {
		return plan
	}
	for i := range plan {
		plan[i].NextStart = false
	}
	tell := map[string]bool{}
	for _, s := range found {
		tell[s.source] = true
	}
	for _, p := range ps.list {
		name := p.program()
		switch {
		case p.exe == "":
		// To anything else than an init that is known, HUP may mean to end.
		case p.pid == 1 && tell["inittab"] && slices.Contains([]string{"init", "linuxrc"}, name) && slices.Contains([]string{"busybox", "init", "sysvinit"}, path.Base(p.exe)),
			p.pid == 1 && tell["systemd"] && path.Base(p.exe) == "systemd",
			tell["inetd"] && slices.Contains([]string{"inetd", "openbsd-inetd", "inetutils-inetd"}, name), tell["xinetd"] && name == "xinetd":
			plan = append(plan, signalTo(p, "HUP"))
		}
	}
	ls := h.listeners(ctx)
	for _, p := range end {
		if p.pid == 1 || p.pid == os.Getpid() || p.exe == "" || len(plan) > MaxItems*4 {
			continue
		}
		c := signalTo(p, "TERM")
		for _, l := range ls.list {
			if l.of([]process{p}) && (c.To.Port == "" || l.scope() != "loopback") {
				c.To.Inode, c.To.Port = l.inode, l.name()
			}
		}
		plan = append(plan, c)
	}
	return plan
}
