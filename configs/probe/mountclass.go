// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// mountClass wants every mount of a class to have options: file systems for data, and media that somebody plugs in.
type mountClass struct {
	class   string
	Options []string `json:"options"`
	System  []string `json:"system"` // mount points that hold programs of the system, of the class data
}

func mountClassKind() Kind {
	return Kind{
		Name: "mounts", Target: `"data": file systems on flash or disk that are not the system's own; "removable": media, by fstab, /sys and whatever mounts them when they are plugged in`,
		Want: `{"options": ["nosuid", "nodev"], "system": ["/opt"]}; options is required; system lists further mount points that may have programs with rights`,
		Fix:  "as of kind mount; options of automatic mounts are left to a person, except those of usbmount",
		New: func(target string, want []byte) (Check, error) {
			c := mountClass{class: target}
			if err := decodeWant(want, &c); err != nil {
				return nil, err
			}
			if target != "data" && target != "removable" || len(c.Options) == 0 {
				return nil, errors.New(`target: want "data" or "removable", with want.options`)
			}
			return c, checkPaths(c.System)
		},
	}
}

func (c mountClass) Claims() []string { return []string{"mounts:" + c.class} }

func (c mountClass) Tightens(old Check) error {
	o, ok := old.(mountClass)
	if !ok || o.class != c.class {
		return errors.New("another target")
	}
	if v, ok := subset(o.Options, c.Options); !ok {
		return fmt.Errorf("%s is missing", v)
	}
	if v, ok := subset(c.System, o.System); !ok {
		return fmt.Errorf("%s is left out", v)
	}
	return nil
}

// of reports whether a mount belongs to the class. removable says that the kernel knows the device as removable.
func (c mountClass) of(point, device, fstype string, options []string, removable bool) bool {
	medium := removable || strings.HasPrefix(point, "/media/") || strings.HasPrefix(point, "/run/media/") || strings.HasPrefix(point, "/mnt/usb") || strings.HasPrefix(point, "/mnt/sd") ||
		slices.Contains(options, "user") || slices.Contains(options, "users") || fstype == "iso9660" || fstype == "udf" || strings.HasPrefix(device, "/dev/sr") || strings.HasPrefix(device, "/dev/cdrom")
	if c.class == "removable" {
		if slices.Contains(options, "noauto") && slices.Contains(options, "ro") && !slices.Contains(options, "user") && !slices.Contains(options, "users") {
			return false // root mounts it by hand, to read
		}
		return medium && point != "/" && !slices.Contains([]string{"swap", "none"}, point)
	}
	if medium || !slices.Contains([]string{"ext2", "ext3", "ext4", "f2fs", "ubifs", "jffs2", "yaffs", "yaffs2", "btrfs", "xfs", "vfat", "exfat", "ntfs", "ntfs3", "auto"}, fstype) {
		return false
	}
	for _, d := range append([]string{"/usr", "/bin", "/sbin", "/lib", "/nix", "/rom", "/overlay", "/snap"}, c.System...) {
		if below(d, point) {
			return false
		}
	}
	return point != "/" && strings.HasPrefix(point, "/")
}

// removable asks the kernel about a block device, or the disk that it is a part of.
func (h *Host) removable(ctx context.Context, device string) bool {
	dir, err := h.Resolve("/sys/dev/block/" + device)
	if err != nil {
		return false
	}
	for _, d := range []string{dir, path.Dir(dir)} {
		if v, err := h.Read(ctx, path.Join(d, "removable")); err == nil && strings.TrimSpace(string(v)) == "1" {
			return true
		}
	}
	return strings.Contains(dir, "/usb")
}

func (c mountClass) missing(have []string) []string {
	// user, users and owner imply them, unless an option behind says otherwise.
	for _, u := range []string{"user", "users"} {
		if i := slices.Index(have, u); i >= 0 {
			for _, o := range []string{"nosuid", "nodev", "noexec"} {
				if !slices.Contains(have[i:], strings.TrimPrefix(o, "no")) {
					have = append(slices.Clone(have), o)
				}
			}
		}
	}
	return slices.DeleteFunc(slices.Clone(c.Options), func(o string) bool { return hasOption(have, o) })
}

func (c mountClass) Check(ctx context.Context, h *Host) Verdict {
	var items []Item
	var read []string
	seen := 0
	add := func(subject, where string, options []string) {
		seen++
		if m := c.missing(options); len(m) > 0 {
			items = append(items, Item{Subject: printable(subject), Where: where, Observed: printable(strings.Join(options, ",")), Expected: "also " + strings.Join(m, ",")})
		}
	}
	if h.Live() {
		list, err := h.mounts(ctx)
		if err != nil {
			return unknown(err)
		}
		read = append(read, mountsFile)
		for _, m := range list {
			if c.of(m.point, m.source, m.fstype, nil, h.removable(ctx, m.device)) {
				add(m.point, at(mountsFile, m.line), m.options)
			}
		}
	}
	data, err := h.Read(ctx, fstabFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return unknown(err)
	}
	if err == nil {
		read = append(read, fstabFile)
	}
	for _, l := range parseFstab(data) {
		if c.of(strings.TrimRight(l.point, "/"), l.device, l.fstype, l.options, false) {
			add(l.point, at(fstabFile, l.line), l.options)
		}
	}
	if c.class == "removable" {
		files, err := c.automatic(ctx, h, add)
		if err != nil && len(items) == 0 {
			return unknown(err)
		}
		read = append(read, files...)
	}
	switch {
	case len(items) > 0:
	case len(read) == 0:
		return notApplicable("no " + fstabFile + " and nothing that mounts media: what else mounts file systems shows on the running system")
	case seen == 0:
		return notApplicable(fmt.Sprintf("%s: no mount of %s file systems", strings.Join(read[:min(len(read), 4)], ", "), c.class))
	}
	return judged(items, fmt.Sprintf("%d mounts of %s file systems have %s", seen, c.class, strings.Join(c.Options, ",")), read[:min(len(read), MaxItems)]...)
}

// automatic finds what mounts media when they are plugged in: usbmount, commands in hooks of mdev, udev and hotplug, and the
// options of OpenWrt's block.
func (c mountClass) automatic(ctx context.Context, h *Host, add func(subject, where string, options []string)) (read []string, err error) {
	for _, dir := range []string{"/etc/udev/scripts", "/etc/mdev", "/lib/mdev", "/usr/lib/mdev", "/etc/hotplug.d/block", "/etc/udev/rules.d", "/usr/lib/udev/rules.d", "/lib/udev/rules.d", "/etc/mdev.conf", "/etc/usbmount/usbmount.conf", "/etc/automount.sh"} {
		names := []string{""}
		if h.isDir(dir) {
			if names, err = h.Names(dir, maxStartFiles); err != nil {
				return read, err
			}
		}
		for _, n := range names {
			name := path.Join(dir, n)
			in, serr := h.Stat(name)
			if serr != nil || !in.Mode.IsRegular() || in.Size > maxScript {
				continue
			}
			data, rerr := h.Read(ctx, name)
			if rerr != nil {
				return read, rerr
			}
			before := len(read)
			n := 0
			var always []string
			for l := range strings.Lines(string(data)) {
				n++
				if v, found := strings.CutPrefix(strings.TrimSpace(l), "MOUNT="); found {
					for _, words := range plainWords(v) {
						more, _ := mountArguments(words)
						always = append(always, more...)
					}
				} else if options, ok := mountOptions(l, always); ok {
					add(name, at(name, n), options)
					if len(read) == before {
						read = append(read, printable(name))
					}
				}
			}
		}
	}
	return read, nil
}

// mountOptions reads one line that mounts a device whose name is in a variable, or MOUNTOPTIONS of usbmount. always are
// options that a variable MOUNT gives every such command of the file.
func mountOptions(line string, always []string) (options []string, ok bool) {
	line = strings.TrimSpace(line)
	if strings.HasPrefix(line, "#") {
		return nil, false
	}
	if v, found := strings.CutPrefix(line, "MOUNTOPTIONS="); found {
		return strings.Split(strings.Trim(v, `"' `), ","), true
	}
	for _, words := range plainWords(line) {
		for i, w := range words {
			if name := path.Base(w); name != "mount" && name != "systemd-mount" && w != "MOUNT" {
				continue
			}
			if options, ok = mountArguments(words[i+1:]); ok {
				return append(options, always...), true
			}
			break
		}
	}
	return nil, false
}

// plainWords splits a line of shell, or of a rule that runs one, into commands without quotes and the signs of variables.
func plainWords(line string) [][]string {
	var out [][]string
	for cmd := range strings.FieldsFuncSeq(line, func(r rune) bool { return r == ';' || r == '|' || r == '&' || r == '`' }) {
		clean := strings.Map(func(r rune) rune {
			switch r {
			case '"', '\'', '$', '{', '}', '(', ')', '\\':
				return -1
			}
			return r
		}, cmd)
		if words := strings.Fields(clean); len(words) > 0 {
			out = append(out, words)
		}
	}
	return out
}

// mountArguments gives the options of a mount command for a device that is not fixed: $DEVNAME, /dev/$MDEV, %k.
func mountArguments(args []string) (options []string, ok bool) {
	device := false
	for i, a := range args {
		opts, joined := strings.CutPrefix(a, "--options=")
		switch {
		case a == "-o" || a == "--options":
			if i+1 < len(args) {
				options = append(options, strings.Split(args[i+1], ",")...)
			}
		case joined:
			options = append(options, strings.Split(opts, ",")...)
		case strings.HasPrefix(a, "-o") && len(a) > 2 && !strings.HasPrefix(a, "--"):
			options = append(options, strings.Split(a[2:], ",")...)
		case strings.HasPrefix(a, "/dev/MDEV"), strings.HasPrefix(a, "/dev/%k"), strings.HasPrefix(a, "/dev/DEVNAME"), a == "DEVNAME", a == "envDEVNAME", a == "%N", a == "MDEV",
			strings.HasPrefix(a, "/dev/sd"), strings.HasPrefix(a, "/dev/1"), strings.HasPrefix(a, "/dev/DEVICE"):
			device = true
		}
	}
	if slices.Contains(options, "remount") || slices.Contains(options, "bind") {
		return nil, false
	}
	return options, device
}

func (c mountClass) Fix(ctx context.Context, h *Host, want func(string) bool) ([]Change, error) {
	var out []Change
	if h.Live() {
		list, err := h.mounts(ctx)
		if err != nil {
			return nil, err
		}
		for _, m := range list {
			if c.of(m.point, m.source, m.fstype, nil, h.removable(ctx, m.device)) && want(printable(m.point)) {
				if change, ok := m.remounting(c.missing(m.options)); ok {
					out = append(out, change)
				}
			}
		}
	}
	t, err := openText(ctx, h, fstabFile)
	if err == nil {
		for _, l := range parseFstab(t.before) {
			if c.of(strings.TrimRight(l.point, "/"), l.device, l.fstype, l.options, false) && want(printable(l.point)) {
				t.addOptions(l, c.missing(l.options))
			}
		}
		out = append(out, t.changes(!h.Live())...)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return out, err
	}
	if c.class != "removable" {
		return out, nil
	}
	var nofix error
	_, err = c.automatic(ctx, h, func(subject, where string, options []string) {
		if want(printable(subject)) && len(c.missing(options)) > 0 {
			nofix = fmt.Errorf("%s mounts media: %w", where, ErrNoFix)
		}
	})
	return out, errors.Join(err, nofix)
}

// encrypted wants the file system that holds a directory to be encrypted.
type encrypted struct{ dir string }

func encryptedKind() Kind {
	return Kind{
		Name: "encrypted", Target: "a directory that holds data", Want: `{}`,
		New: func(target string, want []byte) (Check, error) {
			if err := decodeWant(want, &struct{}{}); err != nil {
				return nil, err
			}
			return encrypted{target}, checkPaths([]string{target})
		},
	}
}

// Fix is not possible: what is on the medium would have to be written anew.
func (c encrypted) Fix(context.Context, *Host, func(string) bool) ([]Change, error) {
	return nil, ErrNoFix
}

// Claims is empty: nothing is set.
func (c encrypted) Claims() []string { return nil }

func (c encrypted) Tightens(old Check) error {
	if o, ok := old.(encrypted); !ok || o.dir != c.dir {
		return errors.New("another target")
	}
	return nil
}

func (c encrypted) Check(ctx context.Context, h *Host) Verdict {
	if !h.Live() {
		return unknown(errNotLive)
	}
	p, err := h.Resolve(c.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return notApplicable(c.dir + " is not there")
	}
	if err != nil {
		return unknown(err)
	}
	m, ok, err := h.holding(ctx, p)
	if err != nil || !ok {
		return unknown(errors.Join(err, fmt.Errorf("%s: no mount holds it", c.dir)))
	}
	if m.fstype == "tmpfs" || m.fstype == "ramfs" {
		return judged(nil, c.dir+" is in memory: "+m.fstype, at(mountsFile, m.line))
	}
	if how := h.cryptBelow(ctx, "/sys/dev/block/"+m.device, 0); how != "" {
		return judged(nil, fmt.Sprintf("%s is on %s", c.dir, how), at(mountsFile, m.line), "/sys/dev/block/"+m.device)
	}
	return judged([]Item{{Subject: c.dir, Where: at(mountsFile, m.line), Observed: fmt.Sprintf("%s on %s, which no layer of dm-crypt is below", m.fstype, printable(m.source)),
		Expected: "an encrypted file system"}}, "", mountsFile)
}

// holding finds the mount that a resolved path is in.
func (h *Host) holding(ctx context.Context, p string) (best mountPoint, ok bool, err error) {
	list, err := h.mounts(ctx)
	for _, m := range list {
		if below(m.point, p) && (!ok || len(m.point) >= len(best.point)) {
			best, ok = m, true
		}
	}
	return best, ok, err
}

// cryptBelow looks for dm-crypt in a block device and those it is made of.
func (h *Host) cryptBelow(ctx context.Context, dir string, depth int) string {
	if v, err := h.Read(ctx, path.Join(dir, "dm/uuid")); err == nil {
		uuid := strings.TrimSpace(string(v))
		if strings.HasPrefix(uuid, "CRYPT-") && !strings.HasPrefix(uuid, "CRYPT-VERITY-") && !strings.HasPrefix(uuid, "CRYPT-INTEGRITY-") {
			kind, _, _ := strings.Cut(strings.TrimPrefix(uuid, "CRYPT-"), "-")
			return "dm-crypt (" + printable(kind) + ")"
		}
	}
	names, err := h.Names(path.Join(dir, "slaves"), 64)
	if err != nil || depth > 8 {
		return ""
	}
	for _, n := range names {
		if how := h.cryptBelow(ctx, path.Join(dir, "slaves", n), depth+1); how != "" {
			return how
		}
	}
	return ""
}
