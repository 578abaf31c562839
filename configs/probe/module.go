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

// moduleCheck wants modules of the kernel not to be loadable.
type moduleCheck struct {
	Names []string `json:"names"`
}

// neverBlock lists modules that embedded systems start from: advice to block them comes from servers and bricks devices.
func neverBlock() []string {
	return []string{"squashfs", "jffs2", "ubifs", "ubi", "overlay", "overlayfs", "ext4", "f2fs", "vfat", "nfs", "mtdblock", "loop", "dm_verity", "dm_mod", "erofs"}
}

func moduleKind() Kind {
	return Kind{
		Name: "module", Target: "modules",
		Want: `{"names": ["dccp", ...]}; file systems that devices start from are refused`,
		Fix:  `write "install NAME /bin/false" (for busybox "blacklist NAME") into /etc/modprobe.d/zz-backstay.conf; a module that is loaded stays until the next start`,
		New: func(target string, want []byte) (Check, error) {
			var c moduleCheck
			if err := decodeWant(want, &c); err != nil {
				return nil, err
			}
			if target != "modules" || len(c.Names) == 0 || len(c.Names) > maxWords {
				return nil, errors.New(`target: want "modules", and names of modules`)
			}
			for i, n := range c.Names {
				c.Names[i] = moduleName(n)
				if slices.Contains(neverBlock(), c.Names[i]) {
					return nil, fmt.Errorf("want.names: %q may hold the root of a device", n)
				}
				if strings.Trim(c.Names[i], "abcdefghijklmnopqrstuvwxyz0123456789_") != "" || c.Names[i] == "" {
					return nil, fmt.Errorf("want.names: %q is no name of a module", n)
				}
			}
			return c, nil
		},
	}
}

// moduleName is a name as the kernel compares it.
func moduleName(s string) string { return strings.ReplaceAll(s, "-", "_") }

func (c moduleCheck) Claims() []string {
	var out []string
	for _, n := range c.Names {
		out = append(out, "module:"+n)
	}
	return out
}

func (c moduleCheck) Tightens(old Check) error {
	o, ok := old.(moduleCheck)
	if !ok {
		return errors.New("another target")
	}
	if n, ok := subset(o.Names, c.Names); !ok {
		return fmt.Errorf("%s may be loaded", n)
	}
	return nil
}

const modulesDir = "/lib/modules"

// modules finds which of the names can be loaded, and where they are.
func (c moduleCheck) modules(ctx context.Context, h *Host) (found map[string]string, files int, err error) {
	found = map[string]string{}
	err = h.Walk(ctx, modulesDir, func(_ Tree, _ string, in Info) error {
		base := path.Base(in.Path)
		name, _, ko := strings.Cut(base, ".ko")
		if in.Mode.IsRegular() && ko {
			files++
			if name = moduleName(name); slices.Contains(c.Names, name) {
				found[name] = in.Path
			}
		}
		return nil
	})
	if err != nil {
		return nil, 0, err
	}
	versions, err := h.Names(modulesDir, 64)
	for _, v := range versions {
		data, rerr := h.Read(ctx, path.Join(modulesDir, v, "modules.builtin"))
		if rerr != nil {
			continue
		}
		for l := range bytes.Lines(data) {
			files++
			name, _, ko := strings.Cut(path.Base(strings.TrimSpace(string(l))), ".ko")
			if name = moduleName(name); ko && slices.Contains(c.Names, name) {
				found[name] = builtIn
			}
		}
	}
	return found, files, err
}

const builtIn = "built into the kernel"

// modprobeLine is a line of modprobe's settings.
type modprobeLine struct {
	file    string
	line    int
	command string // install or blacklist
	module  string
	rest    []string
}

// modprobeLines reads all settings. A file in an earlier directory hides the one of the same name in a later one.
func modprobeLines(ctx context.Context, h *Host) ([]modprobeLine, []string, error) {
	byName := map[string]string{}
	for _, dir := range []string{"/etc/modprobe.d", "/run/modprobe.d", "/usr/local/lib/modprobe.d", "/usr/lib/modprobe.d", "/lib/modprobe.d"} {
		names, err := h.Names(dir, 512)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		for _, n := range names {
			if strings.HasSuffix(n, ".conf") && byName[n] == "" {
				byName[n] = path.Join(dir, n)
			}
		}
	}
	if h.Exists(modprobeFile) { // also the one that a dry run would make, which no list shows
		byName[path.Base(modprobeFile)] = modprobeFile
	}
	if h.Exists("/etc/modprobe.conf") {
		byName["/"] = "/etc/modprobe.conf"
	}
	var read []string
	var out []modprobeLine
	for _, name := range sortedKeys(byName) {
		f := byName[name]
		data, err := h.Read(ctx, f)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrNotRegular) {
			continue // a link to /dev/null puts the file of that name out of use
		}
		if err != nil {
			return nil, nil, err
		}
		read = append(read, f)
		n := 0
		for l := range bytes.Lines(data) {
			n++
			w := strings.Fields(string(l))
			if len(w) > 1 && (w[0] == "install" || w[0] == "blacklist") {
				out = append(out, modprobeLine{f, n, w[0], moduleName(w[1]), w[2:]})
			}
		}
	}
	return out, read, nil
}

// blocks reports whether the line keeps its module out. The modprobe of busybox knows no install and minds blacklist; that of
// kmod loads a module on a blacklist when it is asked for it by name.
func (l modprobeLine) blocks(busybox bool) bool {
	if busybox {
		return l.command == "blacklist"
	}
	return l.command == "install" && len(l.rest) > 0 && slices.Contains([]string{"true", "false"}, path.Base(l.rest[0])) && !slices.Contains(l.rest, ";")
}

// busyboxModprobe reports whether the program that the kernel calls is busybox.
func busyboxModprobe(h *Host) bool {
	p, err := h.Resolve("/sbin/modprobe")
	return err == nil && path.Base(p) == "busybox"
}

// open lists the modules that can be loaded, by name.
func (c moduleCheck) open(ctx context.Context, h *Host) (open map[string]string, lines []modprobeLine, read []string, err error) {
	found, files, err := c.modules(ctx, h)
	if err != nil {
		return nil, nil, nil, err
	}
	lines, read, err = modprobeLines(ctx, h)
	if err != nil {
		return nil, nil, nil, err
	}
	busybox := busyboxModprobe(h)
	open = map[string]string{}
	for n, where := range found {
		blocked := false
		for _, l := range lines {
			if l.module == n && (l.command == "install" || busybox) {
				blocked = l.blocks(busybox)
				if !busybox {
					break // the first counts
				}
			}
		}
		if !blocked || where == builtIn {
			open[n] = where
		}
	}
	return open, lines, append([]string{fmt.Sprintf("%s (%d modules)", modulesDir, files)}, read...), nil
}

func (c moduleCheck) Check(ctx context.Context, h *Host) Verdict {
	open, lines, read, err := c.open(ctx, h)
	if errors.Is(err, fs.ErrNotExist) {
		return notApplicable(modulesDir + ": not there, the kernel loads no modules")
	}
	if err != nil {
		return unknown(err)
	}
	var items []Item
	for _, n := range sortedKeys(open) {
		observed := "can be loaded"
		if open[n] == builtIn {
			observed = builtIn
		} else if slices.ContainsFunc(lines, func(l modprobeLine) bool { return l.module == n && l.command == "blacklist" }) {
			observed = "can be loaded by name: a blacklist only keeps it from loading by itself"
		}
		items = append(items, Item{Subject: n, Where: printable(open[n]), Observed: observed, Expected: "not there, or blocked in modprobe.d"})
	}
	return judged(items, "none of "+strings.Join(c.Names[:min(8, len(c.Names))], ", ")+" can be loaded", read[:min(len(read), MaxItems)]...)
}

func (c moduleCheck) Fix(ctx context.Context, h *Host, want func(string) bool) ([]Change, error) {
	open, lines, _, err := c.open(ctx, h)
	if err != nil {
		return nil, err
	}
	busybox := busyboxModprobe(h)
	var left error
	var add []string
	edits := map[string]*text{}
	for _, n := range sortedKeys(open) {
		if !want(n) {
			continue
		}
		if open[n] == builtIn {
			left = fmt.Errorf("%s is %s: %w", n, builtIn, ErrNoFix)
			continue
		}
		line := "install " + n + " /bin/false"
		if busybox {
			line = "blacklist " + n
		}
		i := slices.IndexFunc(lines, func(l modprobeLine) bool { return l.module == n && l.command == "install" })
		if i < 0 || busybox {
			add = append(add, line)
			continue
		}
		t := edits[lines[i].file]
		if t == nil {
			if t, err = openText(ctx, h, lines[i].file); err != nil {
				return nil, err
			}
			edits[lines[i].file] = t
		}
		t.set(lines[i].line, line)
	}
	var out []Change
	for _, f := range sortedKeys(edits) {
		out = append(out, edits[f].changes(true)...)
	}
	made, err := c.append(ctx, h, add)
	return append(out, made...), errors.Join(left, err)
}

// modprobeFile is our own.
const modprobeFile = "/etc/modprobe.d/zz-backstay.conf"

// append adds lines to our own file, which it makes if need be.
func (c moduleCheck) append(ctx context.Context, h *Host, add []string) ([]Change, error) {
	if len(add) == 0 {
		return nil, nil
	}
	t, err := openText(ctx, h, modprobeFile)
	if err == nil {
		for _, l := range add {
			t.insert(len(t.lines)+1, l)
		}
		return t.changes(true), nil
	}
	p, rerr := h.Resolve(modprobeFile)
	if !errors.Is(err, fs.ErrNotExist) || !errors.Is(rerr, fs.ErrNotExist) || p == "" {
		return nil, err
	}
	uid, gid := h.Root()
	return []Change{{Op: Create, Path: p, After: []byte(strings.Join(add, "\n") + "\n"), Mode: 0o644, UID: uid, GID: gid, NextStart: true}}, nil
}
