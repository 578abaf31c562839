// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Bounds of reading kernel configurations.
const (
	maxKernelConfig  = 4 << 20   // text; a distribution's has 300 KiB
	maxKernelImage   = 128 << 20 // file
	maxKernelRaw     = 256 << 20 // decompressed
	maxKernelConfigs = 8
	maxGzipStarts    = 8 // places in an image that look like the start of compressed data
)

// kernelConfig is what a kernel was built with.
type kernelConfig struct {
	file    string
	text    []byte // begins with a line break, so that every line has one before it
	version string // "6.1", "" when it does not say
}

// kernelConfigs are those of the kernels in a tree.
type kernelConfigs struct {
	list  []kernelConfig
	tried []string // kernel images without one that could be read
	errs  []error
}

func newKernelConfig(file string, text []byte) kernelConfig {
	k := kernelConfig{file: printable(file), text: append([]byte("\n"), text...)}
	for l := range bytes.Lines(text[:min(len(text), 1024)]) {
		f := strings.Fields(string(l))
		if len(f) >= 5 && f[0] == "#" && strings.HasPrefix(f[1], "Linux") && f[3] == "Kernel" {
			k.version = f[2]
		}
	}
	return k
}

// isKernelConfig tells a configuration from any other text.
func isKernelConfig(text []byte) bool { return bytes.Contains(text, []byte("\nCONFIG_")) }

// value is that of an option: "y", "m", a number, a text in quotes; "n" when it is not set or not known to this kernel.
func (k kernelConfig) value(option string) string {
	i := bytes.Index(k.text, []byte("\n"+option+"="))
	if i < 0 {
		return "n"
	}
	rest := k.text[i+len(option)+2:]
	if e := bytes.IndexByte(rest, '\n'); e >= 0 {
		rest = rest[:e]
	}
	return string(bytes.TrimRight(rest, "\r "))
}

// arch is the architecture in the kernel's own words, "" when it cannot be told.
func (k kernelConfig) arch() string {
	for _, a := range [][2]string{{"CONFIG_X86_64", "x86_64"}, {"CONFIG_X86_32", "x86"}, {"CONFIG_ARM64", "arm64"}, {"CONFIG_ARM", "arm"},
		{"CONFIG_MIPS", "mips"}, {"CONFIG_RISCV", "riscv"}, {"CONFIG_PPC", "powerpc"}, {"CONFIG_LOONGARCH", "loongarch"}} {
		if k.value(a[0]) == "y" {
			return a[1]
		}
	}
	return ""
}

// kernelConfigs finds the configuration of the running kernel, or those of the kernels in an image: as a file, else inside
// of the kernel image itself. It is made once for a run.
func (h *Host) kernelConfigs(ctx context.Context) *kernelConfigs {
	if h.kernels == nil {
		k := &kernelConfigs{}
		k.find(ctx, h)
		if ctx.Err() != nil {
			return k
		}
		h.kernels = k
	}
	return h.kernels
}

func (k *kernelConfigs) find(ctx context.Context, h *Host) {
	if data, err := h.Read(ctx, "/proc/config.gz"); err == nil {
		if text, err := gunzip(bytes.NewReader(data)); err == nil && isKernelConfig(text) {
			k.list = append(k.list, newKernelConfig("/proc/config.gz", text))
			return
		}
	}
	release, _ := h.Read(ctx, "/proc/sys/kernel/osrelease")
	running := string(bytes.TrimSpace(release))
	files := kernelFiles(h, "config")
	if own := "/boot/config-" + running; running != "" && h.Exists(own) {
		files = []string{own}
	}
	for _, f := range files {
		if text, err := h.Read(ctx, f); err == nil && isKernelConfig(text) && len(k.list) < maxKernelConfigs {
			k.list = append(k.list, newKernelConfig(f, text))
		} else if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrNotRegular) {
			k.errs = append(k.errs, err)
		}
	}
	if len(k.list) > 0 {
		return
	}
	for _, f := range kernelFiles(h, "vmlinuz", "vmlinux", "Image", "zImage", "uImage", "bzImage", "kernel") {
		if len(k.tried) >= maxKernelConfigs {
			break
		}
		text, err := h.embeddedConfig(ctx, f)
		switch {
		case err == nil:
			k.list = append(k.list, newKernelConfig(f, text))
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, ErrNotRegular):
		default:
			k.tried = append(k.tried, printable(f)+": "+err.Error())
		}
	}
}

// kernelFiles lists the files that begin with one of the names where kernels are kept, and in the directories of modules,
// each once.
func kernelFiles(h *Host, prefixes ...string) []string {
	dirs := []string{"/boot", "/boot/firmware", "/"}
	for _, m := range []string{"/lib/modules", "/usr/lib/modules"} {
		names, _ := h.Names(m, maxStartFiles)
		for _, n := range names[:min(len(names), maxKernelConfigs)] {
			dirs = append(dirs, path.Join(m, n))
		}
	}
	var out, seen []string
	for _, d := range dirs {
		names, _ := h.Names(d, maxStartFiles)
		for _, n := range names {
			p := path.Join(d, n)
			in, err := h.Stat(p)
			if err != nil || !in.Mode.IsRegular() || slices.Contains(seen, in.Path) || !slices.ContainsFunc(prefixes, func(s string) bool {
				return n == s || strings.HasPrefix(n, s+"-") || strings.HasPrefix(n, s+".") || strings.HasPrefix(n, s+"_")
			}) {
				continue
			}
			seen, out = append(seen, in.Path), append(out, p)
		}
	}
	return out
}

func gunzip(r io.Reader) ([]byte, error) {
	z, err := gzip.NewReader(r)
	if err != nil {
		return nil, err
	}
	z.Multistream(false)
	text, err := io.ReadAll(io.LimitReader(z, maxKernelConfig+1))
	if len(text) > maxKernelConfig {
		return nil, ErrTooLarge
	}
	return text, err
}

// errNoEmbedded says what could not be found in a kernel image.
var errNoEmbedded = errors.New("no configuration inside that could be read: not built in, or compressed with something else than gzip")

// embeddedConfig reads the configuration that CONFIG_IKCONFIG puts into a kernel. An image is read as a stream: it may be
// larger than the memory of the device.
func (h *Host) embeddedConfig(ctx context.Context, name string) ([]byte, error) {
	in, err := h.Stat(name)
	if err != nil {
		return nil, err
	}
	if in.Size > maxKernelImage {
		return nil, fmt.Errorf("%w: %d bytes, the limit is %d", ErrTooLarge, in.Size, maxKernelImage)
	}
	open := func() (io.ReadCloser, error) { return openRegular(h.tree, rel(in.Path)) }
	f, err := open()
	if err != nil {
		return nil, err
	}
	s := imageScanner{ctx: ctx}
	text, err := s.scan(io.LimitReader(f, maxKernelImage))
	f.Close()
	if err == nil || !errors.Is(err, errNoEmbedded) {
		return text, err
	}
	for _, start := range s.starts {
		if text, err := configInPayload(ctx, open, start); err == nil {
			return text, nil
		}
	}
	return nil, errNoEmbedded
}

// configInPayload looks into data that is compressed from start on.
func configInPayload(ctx context.Context, open func() (io.ReadCloser, error), start int64) ([]byte, error) {
	f, err := open()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if _, err := io.CopyN(io.Discard, f, start); err != nil {
		return nil, err
	}
	z, err := gzip.NewReader(io.LimitReader(f, maxKernelImage))
	if err != nil {
		return nil, err
	}
	z.Multistream(false)
	inner := imageScanner{ctx: ctx}
	return inner.scan(io.LimitReader(z, maxKernelRaw))
}

// imageScanner looks for an embedded configuration in a stream, and on the way for where compressed data may begin.
type imageScanner struct {
	ctx    context.Context // of this scan only
	starts []int64
}

func (s *imageScanner) scan(r io.Reader) ([]byte, error) {
	marker, magic := []byte("IKCFG_ST"), []byte{0x1f, 0x8b, 8}
	buf := make([]byte, 0, 128<<10)
	var base int64 // offset of buf in the stream
	for {
		if err := s.ctx.Err(); err != nil {
			return nil, err
		}
		n, rerr := io.ReadFull(r, buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if i := bytes.Index(buf, append(marker, magic...)); i >= 0 {
			text, err := gunzip(io.MultiReader(bytes.NewReader(buf[i+len(marker):]), r))
			if err == nil && isKernelConfig(text) {
				return text, nil
			}
			return nil, errNoEmbedded
		}
		for from := 0; len(s.starts) < maxGzipStarts; {
			i := bytes.Index(buf[from:], magic)
			if i < 0 {
				break
			}
			if at := base + int64(from+i); !slices.Contains(s.starts, at) {
				s.starts = append(s.starts, at)
			}
			from += i + 1
		}
		if rerr != nil { // the end, or damaged data: what there was has been looked at
			return nil, errNoEmbedded
		}
		const overlap = 16 // a marker may be cut in two
		base += int64(len(buf) - overlap)
		buf = buf[:copy(buf, buf[len(buf)-overlap:])]
	}
}

// olderThan compares versions as far as both have numbers.
func olderThan(have, want string) bool {
	h, w := strings.Split(have, "."), strings.Split(want, ".")
	for i := range w {
		if i >= len(h) {
			return false
		}
		a, err := strconv.Atoi(strings.TrimRightFunc(h[i], func(r rune) bool { return r < '0' || r > '9' }))
		b, _ := strconv.Atoi(w[i])
		if err != nil || a != b {
			return err == nil && a < b
		}
	}
	return false
}
