// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Bounds of a U-Boot environment, in bytes. Boards use 4 KiB to 256 KiB.
const (
	minUbootEnv = 16
	maxUbootEnv = 1 << 20
)

const fwEnvConfig = "/etc/fw_env.config"

// ubootArea is where one copy of the environment is.
type ubootArea struct {
	path         string
	offset, size int64 // a negative offset counts from the end
}

// ubootEnv is the environment of the boot loader. Its variables are outside of any file system; who can write them decides
// what the device boots.
type ubootEnv struct {
	areas []ubootArea
	from  string // the file that says where they are
	vars  []string
	err   error // why the variables could not be read; fs.ErrNotExist when nothing says that there are any
}

// get returns a variable.
func (e *ubootEnv) get(name string) (string, bool) {
	for _, v := range e.vars {
		if k, value, ok := strings.Cut(v, "="); ok && k == name {
			return value, true
		}
	}
	return "", false
}

// parseFwEnv reads an fw_env.config: "path offset size ...", of which the first two lines count. The offset is a C literal,
// the size hexadecimal with or without 0x.
func parseFwEnv(data []byte) (out []ubootArea, err error) {
	for l := range bytes.Lines(data) {
		f := strings.Fields(string(l))
		if len(f) < 3 || l[0] == '#' || len(out) == 2 {
			continue
		}
		off, err1 := strconv.ParseInt(f[1], 0, 64)
		size, err2 := strconv.ParseUint(strings.TrimPrefix(strings.TrimPrefix(f[2], "0x"), "0X"), 16, 62)
		if err1 != nil || err2 != nil {
			continue
		}
		if size < minUbootEnv || size > maxUbootEnv {
			return nil, fmt.Errorf("%s: size of %s is %#x, possible is %#x to %#x", fwEnvConfig, printable(f[0]), size, minUbootEnv, maxUbootEnv)
		}
		out = append(out, ubootArea{f[0], off, int64(size)})
	}
	switch {
	case len(out) == 0:
		return nil, errors.New(fwEnvConfig + ": no line says where the environment is")
	case len(out) == 2 && out[0].size != out[1].size:
		return nil, errors.New(fwEnvConfig + ": the two copies differ in size")
	}
	return out, nil
}

// parseUbootEnv reads the copies of an environment: a checksum in the byte order of the target, in the redundant format a
// flag byte, then "name=value" ended by zero bytes. Of two intact copies the one with the higher flag counts, where 0
// follows 255.
func parseUbootEnv(copies [][]byte) ([]string, error) {
	head := 4
	if len(copies) > 1 {
		head = 5
	}
	best, flag := -1, byte(0)
	for i, c := range copies {
		if len(c) < head+2 || !ubootIntact(c, head) {
			continue
		}
		f := c[4]
		if best < 0 || head == 5 && (f > flag && !(f == 255 && flag == 0) || f == 0 && flag == 255) {
			best, flag = i, f
		}
	}
	if best < 0 {
		return nil, errors.New("no copy of the environment has a right checksum: U-Boot would use its built-in one")
	}
	data := copies[best][head:]
	if end := bytes.Index(data, []byte{0, 0}); end >= 0 {
		data = data[:end]
	}
	var vars []string
	for v := range bytes.SplitSeq(data, []byte{0}) {
		if len(v) > 0 && len(vars) < maxBootWords {
			vars = append(vars, string(v))
		}
	}
	return vars, nil
}

func ubootIntact(c []byte, head int) bool {
	sum := crc32.ChecksumIEEE(c[head:])
	return sum == binary.LittleEndian.Uint32(c) || sum == binary.BigEndian.Uint32(c)
}

// ubootEnv reads the environment that fw_env.config names, or a file of its own in the boot directory, once for a run.
func (h *Host) ubootEnv(ctx context.Context) *ubootEnv {
	if h.uboot == nil {
		h.uboot = h.findUbootEnv(ctx)
	}
	return h.uboot
}

func (h *Host) findUbootEnv(ctx context.Context) *ubootEnv {
	data, err := h.Read(ctx, fwEnvConfig)
	if errors.Is(err, fs.ErrNotExist) {
		return h.ubootEnvFile(ctx)
	}
	e := &ubootEnv{from: fwEnvConfig, err: err}
	if err != nil {
		return e
	}
	if e.areas, e.err = parseFwEnv(data); e.err != nil {
		return e
	}
	var copies [][]byte
	var errs []error
	for _, a := range e.areas {
		c, err := h.readArea(ctx, a)
		errs = append(errs, err)
		copies = append(copies, c)
	}
	// One copy that cannot be read may be the current one: the other alone does not tell what U-Boot uses.
	if e.err = errors.Join(errs...); e.err == nil {
		e.vars, e.err = parseUbootEnv(copies)
	}
	return e
}

// ubootEnvFile is an environment in a file system, as boards with a FAT boot partition have it.
func (h *Host) ubootEnvFile(ctx context.Context) *ubootEnv {
	for _, dir := range []string{"/boot", "/boot/firmware", "/boot/efi", "/"} {
		main, err := h.Read(ctx, path.Join(dir, "uboot.env"))
		if err != nil || len(main) > maxUbootEnv {
			continue
		}
		copies := [][]byte{main}
		e := &ubootEnv{from: path.Join(dir, "uboot.env"), areas: []ubootArea{{path.Join(dir, "uboot.env"), 0, int64(len(main))}}}
		if spare, err := h.Read(ctx, path.Join(dir, "uboot-redund.env")); err == nil && len(spare) == len(main) {
			copies = append(copies, spare)
		}
		e.vars, e.err = parseUbootEnv(copies)
		return e
	}
	return &ubootEnv{err: fmt.Errorf("no %s and no uboot.env: %w", fwEnvConfig, fs.ErrNotExist)}
}

// readArea reads one copy. It is the one place that opens a device: a block device or an MTD partition, named by a file of
// root, on a running system. Reading these has no effect.
func (h *Host) readArea(ctx context.Context, a ubootArea) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	in, err := h.Stat(a.path)
	if err != nil {
		return nil, err
	}
	var f fs.File
	switch {
	case in.Mode.IsRegular():
		f, err = openRegular(h.tree, rel(in.Path))
	case h.live && h.root != nil && isStore(in):
		f, err = h.openStore(in)
	default:
		return nil, fmt.Errorf("%s: %w", printable(a.path), ErrNotRegular)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", printable(a.path), cause(err))
	}
	defer f.Close()
	at := a.offset
	if at < 0 {
		if s, ok := f.(io.Seeker); ok && !in.Mode.IsRegular() {
			end, err := s.Seek(0, io.SeekEnd)
			if err != nil {
				return nil, cause(err)
			}
			if _, err = s.Seek(0, io.SeekStart); err != nil {
				return nil, cause(err)
			}
			at += end
		} else {
			at += in.Size
		}
	}
	if at < 0 {
		return nil, fmt.Errorf("read %s: offset %d is before the beginning", printable(a.path), a.offset)
	}
	if s, ok := f.(io.Seeker); ok {
		_, err = s.Seek(at, io.SeekStart)
	} else {
		_, err = io.CopyN(io.Discard, f, min(at, maxKernelImage))
	}
	buf := make([]byte, a.size)
	if err == nil {
		_, err = io.ReadFull(f, buf)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s at %#x: %w", printable(a.path), at, cause(err))
	}
	return buf, nil
}

const mtdMajor = 90

func isStore(in Info) bool {
	block := in.Mode&fs.ModeDevice != 0 && in.Mode&fs.ModeCharDevice == 0
	return block || in.Mode&fs.ModeCharDevice != 0 && deviceMajor(in.Rdev) == mtdMajor
}

// openStore looks at the type again after the open: the name may have been exchanged.
func (h *Host) openStore(in Info) (fs.File, error) {
	f, err := h.root.OpenFile(rel(in.Path), os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err != nil || !isStore(infoOf(in.Path, fi)) {
		f.Close()
		return nil, ErrNotRegular
	}
	return f, nil
}

func deviceMajor(dev uint64) uint64 { return dev>>8&0xfff | dev>>32&^0xfff }

// ubootArguments adds what the variables give to the kernel.
func (b *bootLines) ubootArguments(ctx context.Context, h *Host) {
	e := h.ubootEnv(ctx)
	if e.err != nil {
		return // its own rules say so; without it the other sources still count
	}
	for _, v := range e.vars {
		if name, value, ok := strings.Cut(v, "="); ok {
			b.variable(e.from+" "+printable(name), name, value)
		}
	}
	b.read = append(b.read, e.from)
}

// ubootCheck wants a variable of the boot loader to have a value.
type ubootCheck struct {
	name  string
	OneOf []string `json:"one_of"`
	Deny  []string `json:"deny"`
	Unset string   `json:"unset"` // what it means when it is not set; without it, not set is as wanted by deny alone
	With  []string `json:"with"`  // "VALUE:NAME": that value is wanted only where the variable NAME is set too
}

func ubootKind() Kind {
	return Kind{
		Name: "uboot-env", Target: "a variable of the U-Boot environment",
		Want: `{"one_of": [values], "deny": [values], "unset": V, "with": ["VALUE:OTHER"]}: unset is what U-Boot does when the variable is not there; with asks for another variable beside a value; one_of or deny is required`,
		New: func(target string, want []byte) (Check, error) {
			c := ubootCheck{name: target}
			if err := decodeWant(want, &c); err != nil {
				return nil, err
			}
			if target == "" || strings.ContainsAny(target, "= \t\r\n\x00") {
				return nil, fmt.Errorf("target: %q is no variable", target)
			}
			if len(c.OneOf)+len(c.Deny) == 0 {
				return nil, errors.New("want: give one_of or deny")
			}
			return c, nil
		},
	}
}

func (c ubootCheck) Claims() []string { return nil }

func (c ubootCheck) Tightens(old Check) error {
	o, ok := old.(ubootCheck)
	if !ok || o.name != c.name || o.Unset != c.Unset {
		return errors.New("another target")
	}
	if v, ok := subset(c.OneOf, o.OneOf); len(o.OneOf) > 0 && (!ok || len(c.OneOf) == 0) {
		return fmt.Errorf("%q is allowed", v)
	}
	if v, ok := subset(o.Deny, c.Deny); !ok {
		return fmt.Errorf("%q is not denied", v)
	}
	return nil
}

func (c ubootCheck) Check(ctx context.Context, h *Host) Verdict {
	e := h.ubootEnv(ctx)
	switch {
	case errors.Is(e.err, fs.ErrNotExist) && e.from == "":
		return notApplicable(e.err.Error() + ": nothing says that the device has a U-Boot environment")
	case e.err != nil:
		return unknown(e.err)
	}
	v, set := e.get(c.name)
	show := c.name + " is " + printable(v)
	if !set {
		v, show = c.Unset, c.name+" is not set"
		if c.Unset != "" {
			show += ", which means " + c.Unset
		}
	}
	good := len(c.OneOf) == 0 || slices.Contains(c.OneOf, v) || !set && c.Unset == "" && len(c.OneOf) == 0
	good = good && !(set && slices.Contains(c.Deny, v))
	expect := strings.Join(c.OneOf, " or ")
	if len(c.OneOf) == 0 {
		expect = "not " + strings.Join(c.Deny, ", ")
	}
	for _, w := range c.With {
		if value, other, _ := strings.Cut(w, ":"); value == v {
			if _, ok := e.get(other); !ok {
				good, expect = false, expect+", "+value+" with "+other
			}
		}
	}
	var items []Item
	if !good {
		items = append(items, Item{Subject: c.name, Where: printable(e.from), Observed: show, Expected: expect})
	}
	v2 := judged(items, show, e.from)
	v2.Implementation = "U-Boot"
	return v2
}

func (c ubootCheck) Fix(context.Context, *Host, func(string) bool) ([]Change, error) {
	return nil, fmt.Errorf("the environment of the boot loader is changed in the image: %w", ErrNoFix)
}

// ubootAccess wants the store of the environment to be root's alone.
type ubootAccess struct {
	ReadOnly bool `json:"read_only"`
}

func ubootAccessKind() Kind {
	return Kind{
		Name: "uboot-access", Target: `"environment": the devices or files that hold the variables of U-Boot`, Want: `{"read_only": true} also wants MTD partitions that the kernel does not write`,
		Fix: "take the write permission of group and others from a file; device nodes are made anew at each start",
		New: func(target string, want []byte) (Check, error) {
			var c ubootAccess
			if target != "environment" {
				return nil, errors.New(`target: want "environment"`)
			}
			return c, decodeWant(want, &c)
		},
	}
}

func (c ubootAccess) Claims() []string { return []string{"mode:" + fwEnvConfig} }

func (c ubootAccess) Tightens(old Check) error {
	if o, ok := old.(ubootAccess); !ok || o.ReadOnly && !c.ReadOnly {
		return errors.New("it asks for less")
	}
	return nil
}

func (c ubootAccess) Check(ctx context.Context, h *Host) Verdict {
	e := h.ubootEnv(ctx)
	if len(e.areas) == 0 {
		if e.err != nil && !errors.Is(e.err, fs.ErrNotExist) {
			return unknown(e.err)
		}
		return notApplicable("no " + fwEnvConfig + " and no uboot.env: nothing says that the device has a U-Boot environment")
	}
	var items []Item
	var read []string
	for _, p := range c.paths(e) {
		in, err := h.Stat(p)
		if errors.Is(err, fs.ErrNotExist) {
			continue // an image has no device nodes
		}
		if err != nil {
			return unknown(err)
		}
		read = append(read, printable(p))
		if in.Mode&0o002 != 0 || in.Mode&0o020 != 0 && !diskGroup(in) {
			items = append(items, Item{Subject: printable(p), Where: printable(p), Observed: "mode " + OctalMode(in.Mode), Expected: "written by root alone"})
		}
		if it, ok := c.writable(ctx, h, in, p); ok {
			items = append(items, it)
		}
	}
	if len(read) <= 1 && len(items) == 0 && !h.Live() && !slices.Contains(read, e.areas[0].path) {
		return Verdict{Result: Unknown, Reason: e.from + " names " + printable(e.areas[0].path) + ", which is not in an image"}
	}
	return judged(items, strings.Join(read, ", ")+": written by root alone", read...)
}

// diskGroup reports whether a device is of the group that systems give block devices to, which has no members.
func diskGroup(in Info) bool { return in.GID == 6 && in.Mode&fs.ModeDevice != 0 || in.GID == 0 }

func (c ubootAccess) paths(e *ubootEnv) []string {
	out := []string{}
	if e.from == fwEnvConfig {
		out = append(out, fwEnvConfig)
	}
	for _, a := range e.areas {
		if !slices.Contains(out, a.path) {
			out = append(out, a.path)
		}
	}
	return out
}

// writable looks at the flag of an MTD partition that says whether the kernel writes it.
func (c ubootAccess) writable(ctx context.Context, h *Host, in Info, p string) (Item, bool) {
	if !c.ReadOnly || !strings.HasPrefix(path.Base(in.Path), "mtd") {
		return Item{}, false
	}
	file := "/sys/class/mtd/" + path.Base(in.Path) + "/flags"
	data, err := h.Read(ctx, file)
	n, perr := strconv.ParseUint(strings.TrimSpace(string(data)), 0, 64)
	const mtdWriteable = 0x400
	if err != nil || perr != nil || n&mtdWriteable == 0 {
		return Item{}, false
	}
	return Item{Subject: printable(p), Where: file, Observed: "the kernel writes it", Expected: "a read-only partition"}, true
}

func (c ubootAccess) Fix(ctx context.Context, h *Host, want func(string) bool) ([]Change, error) {
	var out []Change
	var err error
	for _, p := range c.paths(h.ubootEnv(ctx)) {
		in, serr := h.Stat(p)
		bits := in.Mode & 0o022
		switch {
		case serr != nil || bits == 0 || !want(printable(p)):
		case in.Mode.IsRegular():
			out = append(out, Change{Op: Chmod, Path: in.Path, OldMode: in.Mode & permBits, Mode: in.Mode & permBits &^ bits})
		default:
			err = fmt.Errorf("%s is made at each start, by mdev or udev: %w", printable(p), ErrNoFix)
		}
	}
	return out, err
}
