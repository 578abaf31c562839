// SPDX-License-Identifier: Apache-2.0

// Package scan checks a root file system before it ships, on the build machine: the rules of package configs against an
// unpacked directory, or read straight out of an image file. It mounts nothing, needs no privilege, starts no program and
// unpacks nothing: a tar or cpio archive is indexed in one pass, squashfs and ext2/3/4 are read in place. Only the contents
// of compressed archives, which cannot be read twice, are kept: in memory, then in a temporary file without a name.
//
// It owns the readers of images, the file of known findings, and the forms of the report (text, JSON, SARIF, JUnit). It
// judges nothing: rules, profiles and verdicts are those of the device, and the same tree gives the same findings in every
// wrapping. It writes nothing but its reports; fixes of a directory are the engine's.
//
// Whoever made the image controls every byte of it. They can make a scan fail or a rule unknown; they must not make it read
// outside the image, hang, take memory without bound, or pass. So the readers of file systems are our own and not a
// library's: the known ones (go-diskfs, CalebQ42/squashfs) are made for images one trusts: they take sizes, counts and
// offsets from the image as lengths of allocations, follow loops, and lack inline data, extended attributes or block maps.
// Ours checks what a field promises against a limit of its own before it acts, reads lazily and keeps caches of fixed size.
// Decompression is other people's: the standard library for gzip and bzip2, klauspost/compress for zstd, xi2/xz for xz
// because it bounds the dictionary a header asks for and knows the filters for machine code that squashfs images use,
// ulikunitz/xz for the old lzma; lz4 and lzo blocks are a page each and our own. Every call into a decoder recovers from
// panics.
package scan

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"

	"github.com/backstay/backstay/configs/probe"
)

// Source is an image, or a directory, opened for a scan.
type Source struct {
	Name  string     // as it was given
	Kind  string     // "directory", "tar (gzip)", "squashfs (xz)", "ext4" ...
	Tree  probe.Tree // what the rules read
	Root  *os.Root   // of a directory: what fixes may change
	Notes []string   // what the reader of a report should know about how it was read

	closers []io.Closer
}

// Options say how to read.
type Options struct {
	Partition  string // of a disk image: number or label
	AssumeRoot bool   // of a directory: what the owner of its top owns belongs to root in the image
	Owners     string // of a directory: a file with modes and owners (device table or fakeroot's)
	TempDir    string // for the contents of compressed archives; os.TempDir when empty
	MaxTemp    int64  // bytes kept there; DefaultMaxTemp when 0
}

// DefaultMaxTemp is how much of a compressed archive is kept at most.
const DefaultMaxTemp = 8 << 30

// Unsupported says that a file is no image this package reads, and how to make one of it.
type Unsupported struct {
	Name, What string
	Next       string
}

func (e *Unsupported) Error() string { return e.Name + ": " + e.What }

// Close lets the image go.
func (s *Source) Close() error {
	var first error
	for i := len(s.closers) - 1; i >= 0; i-- {
		if err := s.closers[i].Close(); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// Open opens a directory or an image. "-" is standard input: an archive, compressed or not.
func Open(ctx context.Context, name string, stdin io.Reader, opt Options) (*Source, error) {
	if opt.MaxTemp == 0 {
		opt.MaxTemp = DefaultMaxTemp
	}
	s := &Source{Name: name}
	err := s.open(ctx, stdin, opt)
	if err == nil {
		return s, nil
	}
	s.Close()
	if u, ok := errors.AsType[*Unsupported](err); ok {
		return nil, &Unsupported{Name: s.Name, What: u.What, Next: u.Next}
	}
	if _, ok := errors.AsType[*fs.PathError](err); ok {
		return nil, err
	}
	return nil, fmt.Errorf("open %s: %w", s.Name, err)
}

func (s *Source) open(ctx context.Context, stdin io.Reader, opt Options) error {
	if s.Name == "-" {
		s.Name = "standard input"
		return s.pipe(ctx, stdin, opt)
	}
	fi, err := os.Stat(s.Name)
	if err != nil {
		return err
	}
	switch {
	case fi.IsDir():
		return s.directory(opt)
	case opt.AssumeRoot || opt.Owners != "":
		return &Unsupported{Name: s.Name, What: "it is an image and knows its owners", Next: "leave out --assume-root and --owners, or name a directory"}
	case !fi.Mode().IsRegular() && fi.Mode()&os.ModeDevice == 0:
		return &Unsupported{Name: s.Name, What: "it is neither a directory nor a file", Next: "for a pipe, use - and standard input"}
	}
	f, err := os.Open(s.Name)
	if err != nil {
		return err
	}
	s.closers = append(s.closers, f)
	size, err := f.Seek(0, io.SeekEnd) // a block device says 0 in its size
	if err != nil {
		return fmt.Errorf("open %s: %w", s.Name, err)
	}
	return s.image(ctx, io.NewSectionReader(f, 0, size), opt)
}

// image opens a file. r is all of it.
func (s *Source) image(ctx context.Context, r *io.SectionReader, opt Options) error {
	head := make([]byte, 16)
	n, _ := r.ReadAt(head, 0)
	if p, ok := packerOf(head[:n]); ok {
		return s.packed(ctx, r, p, opt)
	}
	f, ok := formatOf(r)
	if !ok {
		return s.disk(ctx, r, opt)
	}
	if opt.Partition != "" {
		return &Unsupported{Name: s.Name, What: "it is " + f.name + " and has no partitions", Next: "leave out --partition"}
	}
	return s.volume(ctx, r, f)
}

// volume opens what was recognised as f.
func (s *Source) volume(ctx context.Context, r *io.SectionReader, f format) (err error) {
	defer rescue(&err)
	s.Kind = f.name
	switch f.name {
	case kindTar, kindCPIO:
		return s.archive(ctx, &stream{r: r, direct: r}, f.name, nil)
	case kindSquashfs:
		v, err := openSquashfs(r)
		if err != nil {
			return err
		}
		s.Kind += " (" + v.codec.name + ")"
		s.Tree = newTree(v, v.root)
	case kindExt:
		v, err := openExt(r)
		if err != nil {
			return err
		}
		s.Kind, s.Notes = v.name(), append(s.Notes, v.notes()...)
		s.Tree = newTree(v, extRoot)
	default:
		return &Unsupported{Name: s.Name, What: "it is " + f.name + ", which cannot be scanned in place", Next: f.unpack}
	}
	return nil
}

// packed opens a compressed file: an archive. A compressed file system has to be unpacked first, because reading at any
// place is what its reader does.
func (s *Source) packed(ctx context.Context, r io.Reader, p packer, opt Options) (err error) {
	defer rescue(&err)
	if p.open == nil {
		return &Unsupported{Name: s.Name, What: "it is compressed with " + p.name, Next: p.unpack + ", then scan OUT"}
	}
	plain, err := p.open(careful{r})
	if err != nil {
		return fmt.Errorf("unpack %s: %w", p.name, err)
	}
	return s.front(ctx, careful{plain}, " ("+p.name+")", opt)
}

// front recognises an archive that can only be read from front to back.
func (s *Source) front(ctx context.Context, r io.Reader, how string, opt Options) error {
	first := make([]byte, 64<<10)
	n, err := io.ReadFull(r, first)
	if err != nil && n == 0 {
		return fmt.Errorf("read: %w", noEOF(err))
	}
	f, ok := formatOf(newSection(first[:n]))
	if !ok || f.name != kindTar && f.name != kindCPIO {
		what := "what is in it is no archive"
		if ok {
			what = "it holds " + f.name
		}
		return &Unsupported{Name: s.Name, What: what + how, Next: "unpack it to a file and scan that"}
	}
	keep := &spool{dir: opt.TempDir, limit: opt.MaxTemp}
	s.closers = append(s.closers, keep)
	s.Kind = f.name + how
	return s.archive(ctx, &stream{r: io.MultiReader(newSection(first[:n]), r)}, f.name, keep)
}

func (s *Source) archive(ctx context.Context, in *stream, kind string, keep *spool) error {
	if keep == nil {
		keep = &spool{dir: "", limit: maxKept} // for sparse files only
		s.closers = append(s.closers, keep)
	}
	read := tarIndex
	if kind == kindCPIO {
		read = cpioIndex
	}
	x, err := read(ctx, in, keep)
	if err != nil {
		return err
	}
	s.Notes = append(s.Notes, x.notes...)
	if x.left > 0 {
		s.Notes = append(s.Notes, strconv.Itoa(x.left)+" more like these")
	}
	s.Tree = newTree(x, 0)
	return nil
}

// pipe reads standard input.
func (s *Source) pipe(ctx context.Context, stdin io.Reader, opt Options) (err error) {
	defer rescue(&err)
	head := make([]byte, 16)
	n, err := io.ReadFull(stdin, head)
	if err != nil && n == 0 {
		return fmt.Errorf("read: %w", noEOF(err))
	}
	all := io.MultiReader(newSection(head[:n]), stdin)
	if p, ok := packerOf(head[:n]); ok {
		return s.packed(ctx, all, p, opt)
	}
	return s.front(ctx, all, "", opt)
}

func newSection(b []byte) *io.SectionReader {
	return io.NewSectionReader(bytesAt(b), 0, int64(len(b)))
}

// bytesAt is bytes as an io.ReaderAt.
type bytesAt []byte

func (b bytesAt) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= int64(len(b)) {
		return 0, io.EOF
	}
	n := copy(p, b[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}
