// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io/fs"
	"path"
	"strings"
)

// Bounds of looking for kernel command lines.
const (
	maxBootFiles = 64
	maxBootLines = 512
	maxBootWords = 4096
)

// bootLine is one kernel command line: that of the running kernel, or one that a boot loader is configured to give.
type bootLine struct {
	where string
	args  string
}

// bootLines are all that were found, and what was read for it.
type bootLines struct {
	list []bootLine
	read []string
	errs []error
}

func (b *bootLines) add(where, args string) {
	if len(b.list) < maxBootLines {
		b.list = append(b.list, bootLine{where, args})
	} else if len(b.list) == maxBootLines {
		b.list = append(b.list, bootLine{where, ""})
		b.errs = append(b.errs, errors.New("more kernel command lines than are looked at"))
	}
}

// bootFile is where a boot loader keeps what it gives to the kernel, and how that is read.
type bootFile struct {
	path  string // a pattern in the last element
	parse func(b *bootLines, file string, data []byte)
}

func bootFiles() []bootFile {
	out := []bootFile{
		{"/etc/default/grub", grubDefault}, {"/etc/kernel/cmdline", wholeFile}, {"/extlinux/extlinux.conf", extlinux},
	}
	for _, dir := range []string{"/boot", "/boot/firmware", "/boot/efi", "/efi", "/"} {
		out = append(out, bootFile{path.Join(dir, "cmdline.txt"), wholeFile}, bootFile{path.Join(dir, "uEnv*.txt"), envText},
			bootFile{path.Join(dir, "*Env.txt"), envText}, bootFile{path.Join(dir, "extlinux.conf"), extlinux},
			bootFile{path.Join(dir, "extlinux/extlinux.conf"), extlinux}, bootFile{path.Join(dir, "syslinux/syslinux.cfg"), extlinux},
			bootFile{path.Join(dir, "boot.cmd"), bootScript}, bootFile{path.Join(dir, "boot.ini"), bootScript},
			bootFile{path.Join(dir, "boot*.scr"), scriptImage}, bootFile{path.Join(dir, "*.dtb"), dtbArgs}, bootFile{path.Join(dir, "dtb"), dtbArgs},
			bootFile{path.Join(dir, "loader/entries/*.conf"), loaderEntry}, bootFile{path.Join(dir, "grub/grub.cfg"), grubConfig},
			bootFile{path.Join(dir, "grub2/grub.cfg"), grubConfig}, bootFile{path.Join(dir, "EFI/BOOT/grub.cfg"), grubConfig})
	}
	return out
}

// bootArguments reads every kernel command line that the tree shows, once for a run.
func (h *Host) bootArguments(ctx context.Context) *bootLines {
	if h.booted == nil {
		b := &bootLines{}
		b.find(ctx, h)
		if ctx.Err() != nil {
			b.errs = append(b.errs, ctx.Err())
			return b
		}
		h.booted = b
	}
	return h.booted
}

func (b *bootLines) find(ctx context.Context, h *Host) {
	for _, f := range append([]bootFile{{"/proc/cmdline", wholeFile}}, bootFiles()...) {
		dir, base := path.Split(f.path)
		names := []string{base}
		if strings.Contains(base, "*") {
			names, _ = h.Names(dir, maxStartFiles)
		}
		for _, n := range names {
			if !globMatch(base, n) || len(b.read) >= maxBootFiles {
				continue
			}
			p := path.Join(dir, n)
			data, err := h.Read(ctx, p)
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrNotRegular) {
				continue
			}
			if err != nil {
				b.errs = append(b.errs, err)
				continue
			}
			before := len(b.list)
			f.parse(b, printable(p), data)
			if len(b.list) > before {
				b.read = append(b.read, printable(p))
			}
		}
	}
	b.ubootArguments(ctx, h)
	b.builtIn(ctx, h)
}

// builtIn adds the command line that was compiled into the kernel.
func (b *bootLines) builtIn(ctx context.Context, h *Host) {
	for _, k := range h.kernelConfigs(ctx).list {
		if v := strings.Trim(k.value("CONFIG_CMDLINE"), `"`); v != "" && v != "n" {
			b.add(k.file+" CONFIG_CMDLINE", v)
			b.read = append(b.read, k.file)
		}
	}
}

// eachLine calls fn for every line without white space around it.
func eachLine(data []byte, fn func(n int, line string)) {
	n := 0
	for l := range bytes.Lines(data) {
		n++
		fn(n, string(bytes.TrimSpace(l)))
	}
}

// wholeFile is a file that holds nothing but the arguments.
func wholeFile(b *bootLines, file string, data []byte) {
	b.add(file, strings.Join(strings.Fields(string(data)), " "))
}

// extlinux reads APPEND lines of the entry that is started by itself.
func extlinux(b *bootLines, file string, data []byte) {
	def, label, first := "", "", ""
	type entry struct {
		n           int
		label, args string
	}
	var list []entry
	eachLine(data, func(n int, l string) {
		k, v := bootWord(l)
		switch strings.ToLower(k) {
		case "default", "ontimeout":
			def = v
		case "label":
			if label = v; first == "" {
				first = v
			}
		case "append":
			list = append(list, entry{n, label, v})
		}
	})
	known := false
	for _, e := range list {
		known = known || e.label == def
	}
	if !known {
		def = first
	}
	for _, e := range list {
		if e.label == def || e.label == "" {
			b.add(at(file, e.n), e.args)
		}
	}
}

func bootWord(l string) (word, rest string) {
	i := strings.IndexAny(l, " \t")
	if i < 0 {
		return l, ""
	}
	return l[:i], strings.TrimSpace(l[i:])
}

// loaderEntry is a boot loader specification entry.
func loaderEntry(b *bootLines, file string, data []byte) {
	eachLine(data, func(n int, l string) {
		if k, v := bootWord(l); k == "options" {
			b.add(at(file, n), v)
		}
	})
}

// envText is a text of U-Boot variables: uEnv.txt and its like.
func envText(b *bootLines, file string, data []byte) {
	eachLine(data, func(n int, l string) {
		if k, v, ok := strings.Cut(l, "="); ok && !strings.HasPrefix(l, "#") {
			b.variable(at(file, n), strings.TrimSpace(k), v)
		}
	})
}

// variable takes what a U-Boot variable gives to the kernel: its value where the name says so, else what it sets bootargs to.
func (b *bootLines) variable(where, name, value string) {
	low := strings.ToLower(name)
	if !strings.Contains(value, "setenv") && (strings.HasSuffix(low, "args") || strings.HasSuffix(low, "cmdline") || strings.HasSuffix(low, "args_extra")) {
		b.add(where, strings.Trim(value, `"'`))
		return
	}
	b.setenv(where, value)
}

// setenv finds "setenv bootargs ..." in a script.
func (b *bootLines) setenv(where, script string) {
	for cmd := range strings.FieldsFuncSeq(script, func(r rune) bool { return r == ';' || r == '\n' || r == '\r' }) {
		rest := strings.TrimSpace(cmd)
		for _, lead := range []string{"then ", "else ", "do ", "env set ", "setenv "} {
			rest = strings.TrimSpace(strings.TrimPrefix(rest, lead))
		}
		if rest == strings.TrimSpace(cmd) {
			continue // sets nothing
		}
		if name, args := bootWord(rest); strings.HasSuffix(name, "args") || strings.HasSuffix(name, "cmdline") {
			b.add(where, strings.Trim(args, `"'`))
		}
	}
}

func bootScript(b *bootLines, file string, data []byte) {
	eachLine(data, func(n int, l string) {
		if !strings.HasPrefix(l, "#") {
			b.setenv(at(file, n), l)
		}
	})
}

// Layout of a U-Boot image: a header of 64 bytes, all numbers big endian.
const (
	uimageMagic  = 0x27051956
	uimageHeader = 64
	uimageScript = 6 // the type of a script, whose data is a list of sizes ended by zero, then the text
)

// scriptImage takes the script out of its header; its lines are those of the text.
func scriptImage(b *bootLines, file string, data []byte) {
	if len(data) < uimageHeader+8 || binary.BigEndian.Uint32(data) != uimageMagic || data[30] != uimageScript {
		bootScript(b, file, data) // some are plain text, or a FIT image, which no line of looks like a command
		return
	}
	size, n := binary.BigEndian.Uint32(data[12:]), binary.BigEndian.Uint32(data[uimageHeader:])
	body := data[uimageHeader:]
	if uint64(size) < uint64(len(body)) {
		body = body[:size]
	}
	if uint64(n)+8 > uint64(len(body)) {
		b.errs = append(b.errs, errors.New(file+": the script is longer than the file"))
		return
	}
	bootScript(b, file, body[8:8+n])
}

// grubConfig reads the entry that is started by itself: the first one, or the one whose number is the default.
func grubConfig(b *bootLines, file string, data []byte) {
	def, entry, depth := 0, -1, 0
	type line struct {
		n, entry int
		args     string
	}
	var list []line
	eachLine(data, func(n int, l string) {
		k, v := bootWord(l)
		switch {
		case k == "set" && strings.HasPrefix(v, "default="):
			if d := strings.Trim(v[len("default="):], `"'`); len(d) == 1 && d[0] >= '0' && d[0] <= '9' {
				def = int(d[0] - '0')
			}
		case k == "menuentry" && depth == 0:
			entry++
			depth++
		case k == "submenu" || k == "menuentry":
			if depth == 0 {
				entry++
			}
			depth++
		case l == "}" && depth > 0:
			depth--
		case strings.HasPrefix(k, "linux"):
			if _, args := bootWord(v); depth < 2 {
				list = append(list, line{n, entry, args})
			}
		}
	})
	for _, l := range list {
		if l.entry == def || l.entry < 0 || entry < def {
			b.add(at(file, l.n), l.args)
		}
	}
}

// grubDefault is what the next grub.cfg is made from.
func grubDefault(b *bootLines, file string, data []byte) {
	eachLine(data, func(n int, l string) {
		if k, v, ok := strings.Cut(l, "="); ok && (k == "GRUB_CMDLINE_LINUX" || k == "GRUB_CMDLINE_LINUX_DEFAULT") {
			b.add(at(file, n), strings.Trim(v, `"'`))
		}
	})
}
