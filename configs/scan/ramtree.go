// SPDX-License-Identifier: Apache-2.0

package scan

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"strings"

	"github.com/backstay/backstay/configs/probe"
	"golang.org/x/sys/unix"
)

// Bounds of an index in memory.
const (
	maxIndex      = 500_000   // entries
	maxIndexBytes = 128 << 20 // names, links and attributes
	maxFollowed   = 40        // links followed to place one entry
	maxElements   = 256       // elements of one name
)

// index is the volume of an archive: entries in memory, contents where they are. Entries come in the order of the archive
// and a later one replaces an earlier one, as when the archive is unpacked.
type index struct {
	nodes []node
	bytes int
	notes []string // what was left out, for the report
	left  int      // notes not kept
}

type node struct {
	in    inode
	kids  map[string]uint64 // of a directory
	data  content
	attrs map[string]string
}

// content is where the bytes of a file are.
type content struct {
	src  io.ReaderAt
	off  int64
	kept int64 // of a longer file the rest is not there
}

func newIndex() *index {
	x := &index{}
	x.nodes = append(x.nodes, node{in: inode{mode: unix.S_IFDIR | 0o755, nlink: 2}, kids: map[string]uint64{}})
	return x
}

// note remembers something that the reader of the report should know.
func (x *index) note(format string, args ...any) {
	if len(x.notes) < 20 {
		x.notes = append(x.notes, fmt.Sprintf(format, args...))
		return
	}
	x.left++
}

func (x *index) grow(n int) error {
	x.bytes += n
	if len(x.nodes) >= maxIndex {
		return fmt.Errorf("%w: more than %d entries", probe.ErrTooLarge, maxIndex)
	}
	if x.bytes > maxIndexBytes {
		return fmt.Errorf("%w: names and attributes take more than %d bytes", probe.ErrTooLarge, maxIndexBytes)
	}
	return nil
}

// add places an entry.
func (x *index) add(name string, n node) error {
	size := len(name)
	for k, v := range n.attrs {
		size += len(k) + len(v)
	}
	if err := x.grow(size); err != nil {
		return err
	}
	dir, base, err := x.place(name)
	if err != nil {
		return err
	}
	isDir := n.in.mode&unix.S_IFMT == unix.S_IFDIR
	if base == "" { // the top itself
		if isDir {
			x.nodes[0].in.mode, x.nodes[0].in.uid, x.nodes[0].in.gid, x.nodes[0].attrs = n.in.mode, n.in.uid, n.in.gid, n.attrs
		}
		return nil
	}
	if old, ok := x.nodes[dir].kids[base]; ok && isDir && x.nodes[old].kids != nil {
		o := &x.nodes[old]
		o.in.mode, o.in.uid, o.in.gid, o.attrs = n.in.mode, n.in.uid, n.in.gid, n.attrs
		return nil
	}
	if isDir {
		n.kids = map[string]uint64{}
	}
	n.in.id = uint64(len(x.nodes))
	n.in.nlink = 1
	x.nodes = append(x.nodes, n)
	x.nodes[dir].kids[base] = n.in.id
	return nil
}

// link gives a file that is there another name.
func (x *index) link(name, target string) error {
	if err := x.grow(len(name)); err != nil {
		return err
	}
	tdir, tbase, err := x.place(target)
	if err != nil {
		return err
	}
	id, ok := x.nodes[tdir].kids[tbase]
	if !ok || x.nodes[id].kids != nil {
		x.note("%s: hard link to %s, which is not in the archive", printable(name), printable(target))
		return nil
	}
	dir, base, err := x.place(name)
	if err != nil || base == "" {
		return err
	}
	x.nodes[dir].kids[base] = id
	x.nodes[id].in.nlink++
	return nil
}

// place finds the directory an entry goes into, making what is missing, as unpacking would. Links that stand in the way are
// followed, inside the tree: an archive may hold lib -> usr/lib and then lib/libc.so.
func (x *index) place(name string) (dir uint64, base string, err error) {
	rest := elements(name)
	if len(rest) == 0 {
		return 0, "", nil
	}
	base = rest[len(rest)-1]
	rest = rest[:len(rest)-1]
	if base == ".." || len(base) > maxName {
		return 0, "", fmt.Errorf("entry %s: bad name", printable(name))
	}
	path := []uint64{0}
	for steps, links := 0, 0; len(rest) > 0; steps++ {
		el := rest[0]
		rest = rest[1:]
		at := path[len(path)-1]
		if steps > maxElements || len(el) > maxName {
			return 0, "", fmt.Errorf("entry %s: name is too long", printable(name))
		}
		if el == ".." {
			path = path[:max(1, len(path)-1)]
			continue
		}
		id, ok := x.nodes[at].kids[el]
		if !ok {
			if id, err = x.mkdir(at, el); err != nil {
				return 0, "", err
			}
		}
		n := &x.nodes[id]
		switch n.in.mode & unix.S_IFMT {
		case unix.S_IFDIR:
			path = append(path, id)
		case unix.S_IFLNK:
			if links++; links > maxFollowed {
				return 0, "", fmt.Errorf("entry %s: %w", printable(name), probe.ErrLoop)
			}
			to, err := x.target(n)
			if err != nil {
				return 0, "", err
			}
			if strings.HasPrefix(to, "/") {
				path = path[:1]
			}
			rest = append(elements(to), rest...)
		default:
			return 0, "", fmt.Errorf("entry %s: it is below something that is not a directory", printable(name))
		}
	}
	return path[len(path)-1], base, nil
}

func (x *index) mkdir(at uint64, name string) (uint64, error) {
	if err := x.grow(len(name)); err != nil {
		return 0, err
	}
	id := uint64(len(x.nodes))
	x.nodes = append(x.nodes, node{in: inode{id: id, mode: unix.S_IFDIR | 0o755, nlink: 1}, kids: map[string]uint64{}})
	x.nodes[at].kids[name] = id
	return id, nil
}

func (x *index) target(n *node) (string, error) {
	buf := make([]byte, min(n.in.size, maxLink))
	_, err := n.data.ReadAt(buf, 0)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return string(buf), err
}

// elements splits a name; "" and "." are left out.
func elements(name string) []string {
	var out []string
	for el := range strings.SplitSeq(name, "/") {
		if el != "" && el != "." {
			out = append(out, el)
		}
	}
	return out
}

func (x *index) inode(id uint64) (inode, error) {
	if id >= uint64(len(x.nodes)) {
		return inode{}, fs.ErrNotExist
	}
	return x.nodes[id].in, nil
}

func (x *index) list(dir inode) iter.Seq2[entry, error] {
	return func(yield func(entry, error) bool) {
		for name, id := range x.nodes[dir.id].kids {
			if !yield(entry{name, id}, nil) {
				return
			}
		}
	}
}

func (x *index) data(in inode) (io.ReaderAt, error) { return x.nodes[in.id].data, nil }

func (x *index) attr(in inode, name string) ([]byte, error) {
	v, ok := x.nodes[in.id].attrs[name]
	if !ok {
		return nil, unix.ENODATA
	}
	return []byte(v), nil
}

// ReadAt reads what was kept. Reading on is an error and not the end of the file: nobody must judge half a file as whole.
func (c content) ReadAt(p []byte, off int64) (int, error) {
	if c.src == nil || off >= c.kept {
		return 0, fmt.Errorf("%w: only the first %d bytes of it were kept", probe.ErrTooLarge, c.kept)
	}
	if rest := c.kept - off; int64(len(p)) > rest {
		n, err := c.src.ReadAt(p[:rest], c.off+off)
		if err == nil {
			err = fmt.Errorf("%w: only the first %d bytes of it were kept", probe.ErrTooLarge, c.kept)
		}
		return n, err
	}
	return c.src.ReadAt(p, c.off+off)
}

// text is content that is at hand.
func text(s string) content { return content{src: strings.NewReader(s), kept: int64(len(s))} }
