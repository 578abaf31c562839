// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	mountsFile = "/proc/self/mountinfo"
	maxMounts  = 8192
)

// mountPoint is one mount as the kernel has it.
type mountPoint struct {
	line           int
	device         string // major:minor
	point          string
	options        []string // of this mount: nosuid, nodev, noexec, relatime
	fstype, source string
	super          []string // of the file system: hidepid, size
}

// parseMountinfo reads /proc/self/mountinfo; lines that are none are left out.
func parseMountinfo(data []byte) []mountPoint {
	var out []mountPoint
	n := 0
	for l := range bytes.Lines(data) {
		n++
		f := strings.Fields(string(l))
		sep := slices.Index(f, "-")
		if len(f) < 9 || sep < 6 || len(f) < sep+4 || len(out) >= maxMounts {
			continue
		}
		out = append(out, mountPoint{line: n, device: f[2], point: unescapeMount(f[4]), options: strings.Split(f[5], ","),
			fstype: f[sep+1], source: unescapeMount(f[sep+2]), super: strings.Split(f[sep+3], ",")})
	}
	return out
}

// mounts gives the mounts of the running system that can be seen: of several over each other the last.
func (h *Host) mounts(ctx context.Context) ([]mountPoint, error) {
	data, err := h.Read(ctx, mountsFile)
	if err != nil {
		return nil, err
	}
	last := map[string]int{}
	all := parseMountinfo(data)
	for i, m := range all {
		last[m.point] = i
	}
	var out []mountPoint
	for i, m := range all {
		if last[m.point] != i {
			continue
		}
		if o, ok := h.over[m.point]; ok && o.remount != nil {
			m = m.with(o.remount)
		}
		out = append(out, m)
	}
	return out, nil
}

// with is m after a remount with options.
func (m mountPoint) with(options []string) mountPoint {
	keep := func(list []string) []string {
		return slices.DeleteFunc(slices.Clone(list), func(o string) bool {
			_, flag := mountFlags()[o]
			return flag || strings.HasPrefix(o, "hidepid=")
		})
	}
	m.options, m.super = keep(m.options), keep(m.super)
	for _, o := range options {
		if strings.HasPrefix(o, "hidepid=") {
			m.super = append(m.super, o)
		} else {
			m.options = append(m.options, o)
		}
	}
	return m
}

// mountFlags are the flags that a remount may set and clear: of the new call and of the old one.
func mountFlags() map[string][2]uint64 {
	return map[string][2]uint64{
		"nosuid": {unix.MOUNT_ATTR_NOSUID, unix.MS_NOSUID}, "nodev": {unix.MOUNT_ATTR_NODEV, unix.MS_NODEV}, "noexec": {unix.MOUNT_ATTR_NOEXEC, unix.MS_NOEXEC},
	}
}

// state is what a Remount is about: those of its options that the mount has, sorted.
func (m mountPoint) state() []string {
	var out []string
	for _, o := range m.options {
		if _, ok := mountFlags()[o]; ok {
			out = append(out, o)
		}
	}
	for _, o := range m.super {
		if strings.HasPrefix(o, "hidepid=") {
			out = append(out, "hidepid="+hidepid(o))
		}
	}
	slices.Sort(out)
	return out
}

// hidepid gives the number of an option that newer kernels show as a word.
func hidepid(option string) string {
	v := strings.TrimPrefix(option, "hidepid=")
	if i := slices.Index([]string{"off", "noaccess", "invisible", "", "ptraceable"}, v); i >= 0 {
		return strconv.Itoa(i)
	}
	return v
}

// hasOption reports whether a mount has what is wanted, or more.
func hasOption(have []string, want string) bool {
	if strings.HasPrefix(want, "hidepid=") {
		return slices.ContainsFunc(have, func(o string) bool {
			return strings.HasPrefix(o, "hidepid=") && hidepid(o) >= hidepid(want)
		})
	}
	return slices.Contains(have, want)
}

// mountAt finds the mount at a resolved path.
func (h *Host) mountAt(ctx context.Context, p string) (mountPoint, bool, error) {
	list, err := h.mounts(ctx)
	i := slices.IndexFunc(list, func(m mountPoint) bool { return m.point == p })
	if err != nil || i < 0 {
		return mountPoint{}, false, err
	}
	return list[i], true, nil
}

// remounting plans a Remount that adds options; ok is false when all of them are there already or none can be set so.
func (m mountPoint) remounting(add []string) (c Change, ok bool) {
	before := m.state()
	after := slices.Clone(before)
	for _, o := range add {
		if _, flag := mountFlags()[o]; flag && !slices.Contains(after, o) {
			after = append(after, o)
		}
		if strings.HasPrefix(o, "hidepid=") && m.fstype == "proc" && !hasOption(after, o) {
			after = append(slices.DeleteFunc(after, func(a string) bool { return strings.HasPrefix(a, "hidepid=") }), o)
		}
	}
	slices.Sort(after)
	c = Change{Op: Remount, Path: m.point, Before: []byte(strings.Join(before, ",")), After: []byte(strings.Join(after, ","))}
	return c, !bytes.Equal(c.Before, c.After)
}

// mountState is the current state of a mount in the form of a Remount, nil when nothing is mounted there.
func (h *Host) mountState(ctx context.Context, p string) []byte {
	m, ok, err := h.mountAt(ctx, p)
	if err != nil || !ok {
		return nil
	}
	return []byte(strings.Join(m.state(), ","))
}

// remount sets the options of one mount, not of its file system, except hidepid, which is one of the whole /proc. It looks
// afterwards whether the kernel has them: an old one takes some silently and does nothing.
func (h *Host) remount(ctx context.Context, c Change) error {
	if !h.live {
		return errNotLive
	}
	h.forgetMounts()
	m, ok, err := h.mountAt(ctx, c.Path)
	if err != nil {
		return err
	}
	if !ok || string(c.Before) != strings.Join(m.state(), ",") {
		return ErrChanged
	}
	dir, err := h.root.OpenFile(rel(c.Path), os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return cause(err)
	}
	defer dir.Close()
	want := strings.FieldsFunc(string(c.After), func(r rune) bool { return r == ',' })
	if err := setMount(int(dir.Fd()), m, want); err != nil {
		return err
	}
	h.forgetMounts()
	if now := h.mountState(ctx, c.Path); !bytes.Equal(now, c.After) {
		return fmt.Errorf("the mount has %q afterwards", now)
	}
	return nil
}

func (h *Host) forgetMounts() {
	if p, err := h.Resolve(mountsFile); err == nil {
		h.bytes -= len(h.files[p].data)
		delete(h.files, p)
	}
}

// setMount changes the flags of the mount that fd is the top of, and hidepid where it differs.
func setMount(fd int, m mountPoint, want []string) error {
	var attr unix.MountAttr
	old := restated(m.options)
	for name, flag := range mountFlags() {
		if slices.Contains(want, name) {
			attr.Attr_set |= flag[0]
			old |= uintptr(flag[1])
		} else if slices.Contains(m.options, name) {
			attr.Attr_clr |= flag[0]
			old &^= uintptr(flag[1])
		}
	}
	var err error
	if attr != (unix.MountAttr{}) {
		err = unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr)
	}
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) { // before Linux 5.12, or a filter of system calls
		err = remountOld(fd, unix.MS_BIND|old, "")
	}
	if err != nil {
		return fmt.Errorf("remount: %w", err)
	}
	i := slices.IndexFunc(want, func(o string) bool { return strings.HasPrefix(o, "hidepid=") })
	had := slices.IndexFunc(m.state(), func(o string) bool { return strings.HasPrefix(o, "hidepid=") })
	if i < 0 && had < 0 || i >= 0 && had >= 0 && want[i] == m.state()[had] {
		return nil
	}
	option := "hidepid=0"
	if i >= 0 {
		option = want[i]
	}
	if err := remountOld(fd, old, option); err != nil {
		return fmt.Errorf("remount with %s: %w", option, err)
	}
	return nil
}

func remountOld(fd int, flags uintptr, data string) error {
	return unix.Mount("", "/proc/self/fd/"+strconv.Itoa(fd), "", unix.MS_REMOUNT|flags, data)
}

// restated are the flags that the old call would clear if they were not given again.
func restated(options []string) uintptr {
	var out uintptr
	for name, flag := range map[string]uintptr{"ro": unix.MS_RDONLY, "nosuid": unix.MS_NOSUID, "nodev": unix.MS_NODEV, "noexec": unix.MS_NOEXEC,
		"noatime": unix.MS_NOATIME, "nodiratime": unix.MS_NODIRATIME, "relatime": unix.MS_RELATIME, "nosymfollow": 0x100} {
		if slices.Contains(options, name) {
			out |= flag
		}
	}
	if out&(unix.MS_NOATIME|unix.MS_RELATIME) == 0 {
		out |= unix.MS_STRICTATIME
	}
	return out
}
