// SPDX-License-Identifier: Apache-2.0

package scan

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/backstay/backstay/configs/probe"
	"golang.org/x/sys/unix"
)

// Bounds that hold for every kind of image.
const (
	maxDirEntries = 1 << 18 // entries of one directory
	maxDirCache   = 1 << 18 // entries of the directories remembered
	maxName       = 255     // bytes of one name
	maxLink       = 4096    // bytes of one link
	maxAttr       = 64 << 10
)

// inode describes one file of an image.
type inode struct {
	id       uint64 // what the volume finds it by
	mode     uint32 // as the kernel keeps it: type and twelve bits
	uid, gid uint32
	rdev     uint64
	size     int64
	nlink    uint32
	extra    any // the volume's own
}

// entry is one name in a directory.
type entry struct {
	name string
	id   uint64
}

// volume is a file system in an image. Whoever made the image controls every byte of it: each call ends after bounded work
// and bounded memory, and what does not make sense is an error. It is used by one goroutine at a time.
type volume interface {
	inode(id uint64) (inode, error)
	// list yields the entries of a directory without "." and ".."; it ends after the first error. Names are not checked yet.
	list(dir inode) iter.Seq2[entry, error]
	// data reads a regular file or the target of a link; reads past size are not made.
	data(in inode) (io.ReaderAt, error)
	// attr reads an extended attribute; unix.ENODATA when there is none.
	attr(in inode, name string) ([]byte, error)
}

// tree is a volume, or one directory of it, as a probe.Tree.
type tree struct {
	v   volume
	dir *lru[uint64, map[string]uint64]
	top uint64
}

func newTree(v volume, top uint64) *tree {
	return &tree{v: v, dir: newLRU[uint64, map[string]uint64](maxDirCache), top: top}
}

var _ probe.Tree = (*tree)(nil)

// rescue turns a panic of a decoder into an error: some are other people's code, and the image may be made to hit a bug.
func rescue(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("damaged image: %v", r)
	}
}

// guard does so for the methods of a tree, whose errors name what was asked for.
func guard(op, name string, err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("damaged image: %v", r)
	}
	if *err != nil {
		*err = &fs.PathError{Op: op, Path: name, Err: *err}
	}
}

// find looks name up. Links on the way are not followed: the caller resolves them.
func (t *tree) find(name string) (inode, error) {
	if !fs.ValidPath(name) {
		return inode{}, fs.ErrInvalid
	}
	in, err := t.v.inode(t.top)
	if err != nil || name == "." {
		return in, err
	}
	for el := range strings.SplitSeq(name, "/") {
		if in.mode&unix.S_IFMT != unix.S_IFDIR {
			return inode{}, unix.ENOTDIR
		}
		entries, err := t.entries(in)
		if err != nil {
			return inode{}, err
		}
		id, ok := entries[el]
		if !ok {
			return inode{}, fs.ErrNotExist
		}
		if in, err = t.v.inode(id); err != nil {
			return inode{}, err
		}
	}
	return in, nil
}

func (t *tree) entries(dir inode) (map[string]uint64, error) {
	if have, ok := t.dir.get(dir.id); ok {
		return have, nil
	}
	out := map[string]uint64{}
	for e, err := range t.v.list(dir) {
		if err != nil {
			return nil, err
		}
		if len(e.name) > maxName || e.name == "" || e.name == "." || e.name == ".." || strings.ContainsAny(e.name, "/\x00") {
			return nil, fmt.Errorf("damaged image: a directory has an entry called %q", e.name[:min(len(e.name), 40)])
		}
		if len(out) >= maxDirEntries {
			return nil, fmt.Errorf("%w: a directory has more than %d entries", probe.ErrTooLarge, maxDirEntries)
		}
		out[e.name] = e.id
	}
	t.dir.put(dir.id, out, len(out)+8) // an empty directory costs as well
	return out, nil
}

// Open opens a regular file.
func (t *tree) Open(name string) (f fs.File, err error) {
	defer guard("open", name, &err)
	in, err := t.find(name)
	if err != nil {
		return nil, err
	}
	if in.mode&unix.S_IFMT != unix.S_IFREG {
		return nil, probe.ErrNotRegular
	}
	r, err := t.v.data(in)
	if err != nil {
		return nil, err
	}
	return &file{name: name, in: in, r: io.NewSectionReader(r, 0, in.size)}, nil
}

// Lstat describes an entry.
func (t *tree) Lstat(name string) (fi fs.FileInfo, err error) {
	defer guard("lstat", name, &err)
	in, err := t.find(name)
	if err != nil {
		return nil, err
	}
	return info{path.Base(name), in}, nil
}

// ReadLink reads the target of a link.
func (t *tree) ReadLink(name string) (to string, err error) {
	defer guard("readlink", name, &err)
	in, err := t.find(name)
	if err != nil {
		return "", err
	}
	if in.mode&unix.S_IFMT != unix.S_IFLNK {
		return "", unix.EINVAL
	}
	if in.size > maxLink {
		return "", fmt.Errorf("damaged image: a link of %d bytes", in.size)
	}
	r, err := t.v.data(in)
	if err != nil {
		return "", err
	}
	buf := make([]byte, in.size)
	if n, err := r.ReadAt(buf, 0); n < len(buf) {
		return "", errors.Join(io.ErrUnexpectedEOF, err)
	}
	return string(buf), nil
}

// Names lists a directory.
func (t *tree) Names(name string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		entries, err := t.namesOf(name)
		if err != nil {
			yield("", err)
			return
		}
		// Maps have no order; the same image must give the same report.
		for _, n := range slices.Sorted(maps.Keys(entries)) {
			if !yield(n, nil) {
				return
			}
		}
	}
}

func (t *tree) namesOf(name string) (entries map[string]uint64, err error) {
	defer guard("list", name, &err)
	in, err := t.find(name)
	if err != nil {
		return nil, err
	}
	if in.mode&unix.S_IFMT != unix.S_IFDIR {
		return nil, unix.ENOTDIR
	}
	return t.entries(in)
}

// Attr reads an extended attribute.
func (t *tree) Attr(name, attr string) (value []byte, err error) {
	defer guard("getxattr", name, &err)
	in, err := t.find(name)
	if err != nil {
		return nil, err
	}
	return t.v.attr(in, attr)
}

// Sub hands out a directory, so that a walk looks up each name once.
func (t *tree) Sub(name string) (sub probe.Tree, c io.Closer, err error) {
	defer guard("open", name, &err)
	in, err := t.find(name)
	if err != nil {
		return nil, nil, err
	}
	if in.mode&unix.S_IFMT != unix.S_IFDIR {
		return nil, nil, unix.ENOTDIR
	}
	return &tree{v: t.v, dir: t.dir, top: in.id}, nothing{}, nil
}

type nothing struct{}

func (nothing) Close() error { return nil }

// file is an open regular file.
type file struct {
	name string
	in   inode
	r    *io.SectionReader
}

func (f *file) Stat() (fs.FileInfo, error) { return info{path.Base(f.name), f.in}, nil }
func (f *file) Close() error               { return nil }

func (f *file) Read(p []byte) (n int, err error) {
	defer func() {
		if r := recover(); r != nil {
			n, err = 0, &fs.PathError{Op: "read", Path: f.name, Err: fmt.Errorf("damaged image: %v", r)}
		}
	}()
	return f.r.Read(p)
}

// ReadAt reads at a place, as *os.File does.
func (f *file) ReadAt(p []byte, off int64) (n int, err error) {
	defer func() {
		if r := recover(); r != nil {
			n, err = 0, &fs.PathError{Op: "read", Path: f.name, Err: fmt.Errorf("damaged image: %v", r)}
		}
	}()
	return f.r.ReadAt(p, off)
}

// info is the fs.FileInfo of an inode.
type info struct {
	name string
	in   inode
}

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return i.in.size }
func (i info) ModTime() time.Time { return time.Time{} }
func (i info) IsDir() bool        { return i.Mode().IsDir() }
func (i info) Mode() fs.FileMode  { return modeOf(i.in.mode) }

// Sys gives what the probes read of a stat: owner, and which device a node is. All entries are on one file system.
func (i info) Sys() any {
	st := &syscall.Stat_t{Mode: i.in.mode, Uid: i.in.uid, Gid: i.in.gid, Size: i.in.size}
	store(&st.Rdev, i.in.rdev)
	store(&st.Ino, i.in.id)
	store(&st.Nlink, uint64(i.in.nlink))
	return st
}

// store hides that the fields of a stat differ in width between architectures.
func store[T ~uint32 | ~uint64](field *T, v uint64) { *field = T(v) }

// modeOf turns the kernel's mode into Go's.
func modeOf(m uint32) fs.FileMode {
	out := fs.FileMode(m & 0o777)
	switch m & unix.S_IFMT {
	case unix.S_IFDIR:
		out |= fs.ModeDir
	case unix.S_IFLNK:
		out |= fs.ModeSymlink
	case unix.S_IFBLK:
		out |= fs.ModeDevice
	case unix.S_IFCHR:
		out |= fs.ModeDevice | fs.ModeCharDevice
	case unix.S_IFIFO:
		out |= fs.ModeNamedPipe
	case unix.S_IFSOCK:
		out |= fs.ModeSocket
	case unix.S_IFREG:
	default:
		out |= fs.ModeIrregular
	}
	for _, b := range []struct {
		bit uint32
		is  fs.FileMode
	}{{unix.S_ISUID, fs.ModeSetuid}, {unix.S_ISGID, fs.ModeSetgid}, {unix.S_ISVTX, fs.ModeSticky}} {
		if m&b.bit != 0 {
			out |= b.is
		}
	}
	return out
}
