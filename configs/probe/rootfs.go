// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
)

const mountTable = "/proc/self/mountinfo"

// mounted is one line of the kernel's table of mounts.
type mounted struct {
	line          int
	major, minor  uint64
	point, kind   string
	options, data []string // of the mount, and of the file system
}

// parseMounted reads /proc/self/mountinfo: id, parent, major:minor, root, point, options, optional fields, "-", type, source,
// options of the file system.
func parseMounted(data []byte) []mounted {
	var out []mounted
	n := 0
	for l := range bytes.Lines(data) {
		n++
		head, tail, ok := strings.Cut(strings.TrimRight(string(l), "\n"), " - ")
		f, t := strings.Fields(head), strings.Fields(tail)
		if !ok || len(f) < 6 || len(t) < 3 {
			continue
		}
		maj, min, _ := strings.Cut(f[2], ":")
		m := mounted{line: n, point: unescapeMount(f[4]), kind: t[0], options: strings.Split(f[5], ","), data: strings.Split(t[2], ",")}
		m.major, _ = strconv.ParseUint(maj, 10, 32)
		m.minor, _ = strconv.ParseUint(min, 10, 32)
		out = append(out, m)
	}
	return out
}

// rootCheck wants the root file system to be verified by the kernel, or not to be written.
type rootCheck struct {
	Verity   bool `json:"verity"`
	ReadOnly bool `json:"read_only"`
}

func verityKind() Kind {
	return Kind{
		Name: "root-fs", Target: `"/"`, Want: `{"verity": true} or {"read_only": true}: the root file system is on dm-verity and none of its blocks was found changed, or it is not written; one is required`,
		New: func(target string, want []byte) (Check, error) {
			var c rootCheck
			if err := decodeWant(want, &c); err != nil {
				return nil, err
			}
			if target != "/" || c.Verity == c.ReadOnly {
				return nil, errors.New(`want the target "/", and either verity or read_only`)
			}
			return c, nil
		},
	}
}

func (c rootCheck) Claims() []string { return nil }

func (c rootCheck) Tightens(old Check) error {
	if o, ok := old.(rootCheck); !ok || o != c {
		return errors.New("it asks for something else")
	}
	return nil
}

func (c rootCheck) Fix(context.Context, *Host, func(string) bool) ([]Change, error) {
	return nil, fmt.Errorf("how the root file system is made and mounted is a matter of the image: %w", ErrNoFix)
}

func (c rootCheck) Check(ctx context.Context, h *Host) Verdict {
	data, err := h.Read(ctx, mountTable)
	if errors.Is(err, fs.ErrNotExist) {
		if c.ReadOnly && !h.Live() {
			return c.image(ctx, h)
		}
		return notApplicable("what the root file system is on can only be told on a running system")
	}
	if err != nil {
		return unknown(err)
	}
	table := parseMounted(data)
	root, ok := lastMount(table, "/")
	if !ok {
		return Verdict{Result: Unknown, Reason: mountTable + " has no line for /"}
	}
	if c.ReadOnly {
		return c.written(table, root)
	}
	return c.verity(ctx, h, table, root)
}

func lastMount(table []mounted, point string) (last mounted, ok bool) {
	for _, m := range table {
		if m.point == point {
			last, ok = m, true
		}
	}
	return last, ok
}

// overlayDir is a directory option of an overlay: lowerdir, upperdir.
func (m mounted) overlayDir(name string) string {
	for _, o := range m.data {
		if v, ok := strings.CutPrefix(o, name+"="); ok {
			dirs := strings.Split(v, ":")
			return dirs[len(dirs)-1]
		}
	}
	return ""
}

// holds finds the mount that a directory is on, by its path.
func holds(table []mounted, dir string) (best mounted, ok bool) {
	for _, m := range table {
		if m.point != "/" && (dir == m.point || strings.HasPrefix(dir, m.point+"/")) && len(m.point) >= len(best.point) {
			best, ok = m, true
		}
	}
	return best, ok
}

func (c rootCheck) written(table []mounted, root mounted) Verdict {
	text := fmt.Sprintf("/ is %s, mounted %s", printable(root.kind), printable(strings.Join(root.options, ",")))
	ro := slices.Contains(root.options, "ro") || slices.Contains(root.data, "ro") || slices.Contains([]string{"squashfs", "erofs", "cramfs", "romfs", "iso9660"}, root.kind)
	if upper := root.overlayDir("upperdir"); root.kind == "overlay" && upper != "" {
		m, ok := holds(table, upper)
		text += ", changes go to " + printable(upper)
		ro = ro || ok && (m.kind == "tmpfs" || m.kind == "ramfs")
	}
	if root.kind == "rootfs" || root.kind == "tmpfs" || root.kind == "ramfs" {
		ro, text = true, text+", in memory: changes are gone at the next start"
	}
	var items []Item
	if !ro {
		items = append(items, Item{Subject: "/", Where: at(mountTable, root.line), Observed: text, Expected: "a root file system that is not written"})
	}
	return judged(items, text, mountTable)
}

// image judges what fstab and the kernel's command line say.
func (c rootCheck) image(ctx context.Context, h *Host) Verdict {
	data, err := h.Read(ctx, fstabFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return unknown(err)
	}
	for _, l := range parseFstab(data) {
		if l.point != "/" {
			continue
		}
		text := at(fstabFile, l.line) + " mounts / with " + printable(strings.Join(l.options, ","))
		if slices.Contains(l.options, "ro") {
			return judged(nil, text, fstabFile)
		}
		return judged([]Item{{Subject: "/", Where: at(fstabFile, l.line), Observed: printable(strings.Join(l.options, ",")), Expected: "ro"}}, "", fstabFile)
	}
	return Verdict{Result: Unknown, Reason: "fstab has no line for /: how it is mounted is not known from an image"}
}

func (c rootCheck) verity(ctx context.Context, h *Host, table []mounted, root mounted) Verdict {
	read := []string{mountTable}
	if root.kind == "overlay" {
		lower := root.overlayDir("lowerdir")
		m, ok := holds(table, lower)
		if !ok {
			return Verdict{Result: Unknown, Reason: "/ is an overlay over " + printable(lower) + ", and no mount of the table holds that"}
		}
		root = m
	}
	if root.major == 0 {
		switch root.kind {
		case "rootfs", "tmpfs", "ramfs":
			return notApplicable("/ is in memory: it was loaded with the kernel and is as trustworthy as that")
		}
		return judged([]Item{{Subject: "/", Where: at(mountTable, root.line), Observed: printable(root.kind) + ", on no block device", Expected: "dm-verity"}}, "", read...)
	}
	dir := fmt.Sprintf("/sys/dev/block/%d:%d", root.major, root.minor)
	uuid, err := h.Read(ctx, dir+"/dm/uuid")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return unknown(err)
	}
	if err != nil && !h.Exists(dir) {
		return Verdict{Result: Unknown, Reason: dir + " is not there: sysfs does not show the device of /"}
	}
	read = append(read, dir)
	if !strings.HasPrefix(string(uuid), "CRYPT-VERITY-") {
		obs := "not a device mapper device"
		if err == nil {
			obs = "device mapper, not verity: " + printable(strings.TrimSpace(string(uuid)))
		}
		return judged([]Item{{Subject: "/", Where: dir + "/dm/uuid", Observed: obs, Expected: "dm-verity"}}, "", read...)
	}
	status, serr := h.verityStatus(root.major, root.minor)
	switch {
	case serr != nil:
		return judged(nil, "/ is on dm-verity; whether a changed block was met is not known: "+serr.Error(), append(read, dir+"/dm/uuid")...)
	case !strings.HasPrefix(status, "V"):
		return judged([]Item{{Subject: "/", Where: dir, Observed: "dm-verity met a changed block: " + printable(status), Expected: "V"}}, "", read...)
	}
	return judged(nil, "/ is on dm-verity, no changed block was met", append(read, dir+"/dm/uuid")...)
}

// pseudoCheck wants file systems of the kernel's developers to be closed.
type pseudoCheck struct {
	kinds []string
	Never bool `json:"never"`
}

func debugfsKind() Kind {
	return Kind{
		Name: "pseudo-fs", Target: "types of file systems, with commas between them: debugfs,tracefs",
		Want: `{"never": true} wants them not to be mounted; without it, only root may enter the place where they are`,
		Fix:  "take the permissions of group and others from the place where one is mounted",
		New: func(target string, want []byte) (Check, error) {
			c := pseudoCheck{kinds: strings.Split(target, ",")}
			if target == "" {
				return nil, errors.New("target: name a type of file system")
			}
			return c, decodeWant(want, &c)
		},
	}
}

func (c pseudoCheck) Claims() []string { return prefixed("pseudo:", c.kinds) }

func (c pseudoCheck) Tightens(old Check) error {
	o, ok := old.(pseudoCheck)
	if !ok || o.Never && !c.Never {
		return errors.New("it asks for less")
	}
	if k, ok := subset(o.kinds, c.kinds); !ok {
		return fmt.Errorf("%s is missing", k)
	}
	return nil
}

// open lists the mounts that are not closed, with what is to be seen of them.
func (c pseudoCheck) open(ctx context.Context, h *Host) (list []Info, items []Item, err error) {
	data, err := h.Read(ctx, mountTable)
	if err != nil {
		return nil, nil, err
	}
	for _, m := range parseMounted(data) {
		if !slices.Contains(c.kinds, m.kind) {
			continue
		}
		in, err := h.Stat(m.point)
		if err != nil && !errors.Is(err, fs.ErrPermission) {
			continue // covered by another mount, or in another root
		}
		if !c.Never && (err != nil || in.Mode&0o077 == 0) {
			continue
		}
		list = append(list, in)
		it := Item{Subject: printable(m.point), Where: at(mountTable, m.line), Observed: m.kind + " with mode " + OctalMode(in.Mode), Expected: "mode 0700"}
		if c.Never {
			it.Observed, it.Expected = m.kind+" is mounted", "not mounted"
		}
		items = append(items, it)
	}
	return list, items, nil
}

func (c pseudoCheck) Check(ctx context.Context, h *Host) Verdict {
	_, items, err := c.open(ctx, h)
	if errors.Is(err, fs.ErrNotExist) && !h.Live() {
		return notApplicable("what is mounted can only be told on a running system")
	}
	if err != nil {
		return unknown(err)
	}
	return judged(items, strings.Join(c.kinds, " and ")+": not mounted, or closed to all but root", mountTable)
}

func (c pseudoCheck) Fix(ctx context.Context, h *Host, want func(string) bool) ([]Change, error) {
	list, items, err := c.open(ctx, h)
	var out []Change
	for i, in := range list {
		switch {
		case !want(items[i].Subject):
		case in.Mode&0o077 == 0:
			err = fmt.Errorf("%s is not unmounted: %w", items[i].Subject, ErrNoFix)
		default:
			out = append(out, Change{Op: Chmod, Path: in.Path, OldMode: in.Mode & permBits, Mode: in.Mode & permBits &^ 0o077})
		}
	}
	return out, err
}

// nodeCheck wants device nodes that give the memory of the machine to be closed.
type nodeCheck struct{ modeCheck }

func deviceNodeKind() Kind {
	return Kind{
		Name: "device-node", Target: "a path below /dev", Want: `{"max": "0640", "also": [paths]}; max is required. A group that is root's or one of the system's may keep what max allows it`,
		New: func(target string, want []byte) (Check, error) {
			k := fileModeKind()
			c, err := k.New(target, want)
			if err != nil {
				return nil, err
			}
			return nodeCheck{c.(modeCheck)}, nil
		},
	}
}

func (c nodeCheck) Claims() []string { return nil }

func (c nodeCheck) Tightens(old Check) error {
	o, ok := old.(nodeCheck)
	if !ok {
		return errors.New("another kind")
	}
	return c.modeCheck.Tightens(o.modeCheck)
}

func (c nodeCheck) Check(_ context.Context, h *Host) Verdict {
	var items []Item
	var seen []string
	root, _ := h.Root()
	for _, p := range c.paths {
		in, err := h.Stat(p)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return unknown(err)
		}
		seen = append(seen, p)
		if extra := in.Mode & permBits &^ c.max; extra != 0 || in.UID != root {
			items = append(items, Item{Subject: p, Where: p, Observed: fmt.Sprintf("mode %s, owner %d", OctalMode(in.Mode), in.UID), Expected: "at most " + OctalMode(c.max) + " of root"})
		}
	}
	switch {
	case len(seen) > 0:
		return judged(items, strings.Join(seen, ", ")+": no more than "+OctalMode(c.max), seen...)
	case h.Live() && h.Exists("/dev/null"):
		return judged(nil, "none of "+strings.Join(c.paths, ", ")+" is in /dev", "/dev")
	}
	return notApplicable("device nodes are made when the system starts")
}

func (c nodeCheck) Fix(context.Context, *Host, func(string) bool) ([]Change, error) {
	return nil, fmt.Errorf("device nodes are made anew at each start: %w", ErrNoFix)
}
