// SPDX-License-Identifier: Apache-2.0

package scan

import (
	"bufio"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"strconv"
	"strings"
	"syscall"

	"github.com/backstay/backstay/configs/probe"
	"golang.org/x/sys/unix"
)

// directory opens an unpacked tree.
func (s *Source) directory(opt Options) error {
	root, err := os.OpenRoot(s.Name)
	if err != nil {
		return err
	}
	s.closers = append(s.closers, root)
	s.Kind, s.Root = kindDir, root
	t := ownedTree{t: probe.Dir(root), at: ".", own: &owners{}}
	fi, err := root.Stat(".")
	if err != nil {
		return err
	}
	st, _ := fi.Sys().(*syscall.Stat_t)
	if opt.AssumeRoot && st != nil {
		t.own.assumed, t.own.uid, t.own.gid = true, st.Uid, st.Gid
	}
	if opt.Owners != "" {
		if err := t.own.load(opt.Owners); err != nil {
			return err
		}
	}
	if !opt.AssumeRoot && opt.Owners == "" && st != nil && st.Uid != 0 {
		s.Notes = append(s.Notes, fmt.Sprintf("the top of the tree belongs to user %d, not to root: owners and modes may not be those of the image. "+
			"Scan the image file, or see --assume-root and --owners", st.Uid))
	}
	s.Tree = t.t
	if opt.AssumeRoot || opt.Owners != "" {
		s.Tree = t
	}
	return nil
}

// Bounds of an owner table.
const (
	maxOwners     = 1 << 20
	maxOwnerRange = 1 << 16
)

// owners says what a tree that an ordinary user unpacked cannot: whose the files are in the image.
type owners struct {
	assumed  bool
	uid, gid uint32              // of the user who unpacked: reads as root
	paths    map[string]stamp    // device table: by name
	below    map[string]stamp    // device table, type r: the whole tree below
	inodes   map[[2]uint64]stamp // fakeroot: by device and inode of the build machine
}

// stamp is what the table says of one file.
type stamp struct {
	mode     uint32
	typed    bool // mode has a type: a device that is a plain file on the build machine
	uid, gid uint32
	rdev     uint64
}

// load reads a device table (makedevs, genext2fs, Buildroot's BR2_ROOTFS_DEVICE_TABLE) or what fakeroot -s saves.
func (o *owners) load(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	o.paths, o.below, o.inodes = map[string]stamp{}, map[string]stamp{}, map[[2]uint64]stamp{}
	sc := bufio.NewScanner(f)
	for n := 1; sc.Scan(); n++ {
		line := strings.TrimSpace(sc.Text())
		if line == "" || line[0] == '#' || line[0] == '|' { // | is an extension about attributes
			continue
		}
		if len(o.paths)+len(o.inodes) > maxOwners {
			return fmt.Errorf("%s: %w: more than %d lines", name, probe.ErrTooLarge, maxOwners)
		}
		parse := o.deviceLine
		if strings.HasPrefix(line, "dev=") {
			parse = o.fakerootLine
		}
		if err := parse(line); err != nil {
			return fmt.Errorf("%s:%d: %w", name, n, err)
		}
	}
	return sc.Err()
}

// deviceLine reads "name type mode uid gid major minor start inc count"; "-" is nothing.
func (o *owners) deviceLine(line string) error {
	w := strings.Fields(line)
	if len(w) < 5 || len(w[1]) != 1 {
		return fmt.Errorf("want name, type, mode, uid, gid and more, or the lines of fakeroot")
	}
	var v [10]int64
	for i := 2; i < len(w) && i < len(v); i++ {
		base := 10
		if i == 2 {
			base = 8
		}
		if w[i] == "-" {
			continue
		}
		n, err := strconv.ParseInt(w[i], base, 64)
		if err != nil {
			return fmt.Errorf("%q is not a number", w[i])
		}
		v[i] = n
	}
	st := stamp{mode: uint32(v[2]) & 0o7777, uid: uint32(v[3]), gid: uint32(v[4]), rdev: unix.Mkdev(uint32(v[5]), uint32(v[6]))}
	at := path.Clean("/" + w[0])
	switch w[1] {
	case "f", "F":
		st.mode, st.typed = st.mode|unix.S_IFREG, true
	case "d":
		st.mode, st.typed = st.mode|unix.S_IFDIR, true
	case "r":
		o.below[at] = st
		return nil
	case "c", "b", "p":
		st.typed = true
		st.mode |= map[string]uint32{"c": unix.S_IFCHR, "b": unix.S_IFBLK, "p": unix.S_IFIFO}[w[1]]
	default:
		return fmt.Errorf("type %q is none of f d r c b p", w[1])
	}
	if v[9] == 0 {
		o.paths[at] = st
		return nil
	}
	if v[9] > maxOwnerRange {
		return fmt.Errorf("count %d is more than %d", v[9], maxOwnerRange)
	}
	for i := v[7]; i < v[7]+v[9]; i++ {
		st.rdev = unix.Mkdev(uint32(v[5]), uint32(v[6]+(i-v[7])*v[8]))
		o.paths[at+strconv.FormatInt(i, 10)] = st
	}
	return nil
}

// fakerootLine reads "dev=fd00,ino=123,mode=100644,uid=0,gid=0,nlink=1,rdev=0".
func (o *owners) fakerootLine(line string) error {
	v := map[string]uint64{}
	for part := range strings.SplitSeq(line, ",") {
		key, value, ok := strings.Cut(part, "=")
		base := map[string]int{"dev": 16, "mode": 8}[key]
		if base == 0 {
			base = 10
		}
		n, err := strconv.ParseUint(value, base, 64)
		if !ok || err != nil {
			return fmt.Errorf("bad field %q", part)
		}
		v[key] = n
	}
	o.inodes[[2]uint64{v["dev"], v["ino"]}] = stamp{mode: uint32(v["mode"]), typed: v["mode"]&unix.S_IFMT != 0,
		uid: uint32(v["uid"]), gid: uint32(v["gid"]), rdev: v["rdev"]}
	return nil
}

// of says what is known about a file; the order is that of mkfs: what is said about one file beats what is said about a tree.
func (o *owners) of(at string, fi fs.FileInfo) inode {
	st, _ := fi.Sys().(*syscall.Stat_t)
	if st == nil {
		return inode{}
	}
	in := inode{id: uint64(st.Ino), mode: uint32(st.Mode), uid: st.Uid, gid: st.Gid, rdev: uint64(st.Rdev), size: fi.Size(), nlink: uint32(st.Nlink)}
	if o.assumed && in.uid == o.uid {
		in.uid = 0
	}
	if o.assumed && in.gid == o.gid {
		in.gid = 0
	}
	for d := at; ; d = path.Dir(d) {
		if s, ok := o.below[d]; ok {
			in.uid, in.gid = s.uid, s.gid
			break
		}
		if d == "/" {
			break
		}
	}
	s, ok := o.paths[at]
	if f, found := o.inodes[[2]uint64{uint64(st.Dev), uint64(st.Ino)}]; found {
		s, ok = f, true
	}
	if ok {
		in.uid, in.gid = s.uid, s.gid
		in.mode = in.mode&unix.S_IFMT | s.mode&0o7777
		if kind := s.mode & unix.S_IFMT; s.typed && kind != in.mode&unix.S_IFMT && in.mode&unix.S_IFMT == unix.S_IFREG {
			in.mode, in.rdev = in.mode&0o7777|kind, s.rdev
		}
	}
	return in
}

// ownedTree is a directory whose owners are those of the table.
type ownedTree struct {
	t   probe.Tree
	at  string // where its top is in the image
	own *owners
}

func (t ownedTree) path(name string) string { return path.Join("/", t.at, name) }

func (t ownedTree) Lstat(name string) (fs.FileInfo, error) {
	fi, err := t.t.Lstat(name)
	if err != nil {
		return nil, err
	}
	return info{fi.Name(), t.own.of(t.path(name), fi)}, nil
}

func (t ownedTree) Open(name string) (fs.File, error) { return t.t.Open(name) }

func (t ownedTree) ReadLink(name string) (string, error) { return t.t.ReadLink(name) }

func (t ownedTree) Names(name string) iter.Seq2[string, error] { return t.t.Names(name) }

// Attr is that of the directory.
func (t ownedTree) Attr(name, attr string) ([]byte, error) {
	a, ok := t.t.(interface {
		Attr(name, attr string) ([]byte, error)
	})
	if !ok {
		return nil, unix.ENODATA
	}
	return a.Attr(name, attr)
}

// Sub hands out a directory with its owners.
func (t ownedTree) Sub(name string) (probe.Tree, io.Closer, error) {
	s, ok := t.t.(interface {
		Sub(name string) (probe.Tree, io.Closer, error)
	})
	if !ok {
		return nil, nil, unix.ENOTSUP
	}
	sub, c, err := s.Sub(name)
	if err != nil {
		return nil, nil, err
	}
	return ownedTree{t: sub, at: t.path(name), own: t.own}, c, nil
}
