// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"errors"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Tree is what a [Host] reads from: a directory, or a file system image on the build machine. Names are relative to its
// top, with slashes, "." is the top; no method follows a link in the last element, and none leaves the tree. Errors are those
// of package io/fs. A Tree is used by one goroutine at a time.
type Tree interface {
	// Open opens a regular file for reading. It never blocks, whatever name is.
	Open(name string) (fs.File, error)
	// Lstat describes an entry; Sys is a *syscall.Stat_t.
	Lstat(name string) (fs.FileInfo, error)
	ReadLink(name string) (string, error)
	// Names lists a directory, in any order, without "." and "..". It ends after the first error.
	Names(name string) iter.Seq2[string, error]
}

// attrTree is a Tree that keeps extended attributes. No attribute is an error that is unix.ENODATA.
type attrTree interface {
	Attr(name, attr string) ([]byte, error)
}

// subTree is a Tree that can hand out one of its directories, so that a walk need not start every name at the top.
type subTree interface {
	Sub(name string) (Tree, io.Closer, error)
}

// dirTree is a directory. os.Root keeps every name below it, links included.
type dirTree struct {
	root *os.Root
	dir  *os.File // root itself, of a tree that Sub made; nil otherwise
}

// Dir is a directory as a Tree, for those who wrap one.
func Dir(root *os.Root) Tree { return dirTree{root: root} }

func (t dirTree) Open(name string) (fs.File, error) {
	f, err := t.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (t dirTree) Lstat(name string) (fs.FileInfo, error) { return t.root.Lstat(name) }

func (t dirTree) ReadLink(name string) (string, error) { return t.root.Readlink(name) }

func (t dirTree) Names(name string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		f := t.dir
		if name != "." || f == nil {
			var err error
			if f, err = t.root.Open(name); err != nil {
				yield("", err)
				return
			}
			defer f.Close()
		} else if _, err := f.Seek(0, io.SeekStart); err != nil {
			yield("", err)
			return
		}
		for {
			names, err := f.Readdirnames(256)
			for _, n := range names {
				if !yield(n, nil) {
					return
				}
			}
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				yield("", err)
				return
			}
		}
	}
}

func (t dirTree) Sub(name string) (Tree, io.Closer, error) {
	r, err := t.root.OpenRoot(name)
	if err != nil {
		return nil, nil, err
	}
	f, err := r.Open(".")
	if err != nil {
		r.Close()
		return nil, nil, err
	}
	sub := dirTree{r, f}
	return sub, sub, nil
}

// Close ends the use of a tree that Sub made.
func (t dirTree) Close() error { return errors.Join(t.dir.Close(), t.root.Close()) }

// Attr reads through the open parent directory: lgetxattr then follows no link, neither in the last element nor before it.
// It needs no right to read the file. Where there is no /proc the file is opened.
func (t dirTree) Attr(name, attr string) ([]byte, error) {
	dir := t.dir
	if dir == nil || strings.Contains(name, "/") {
		var err error
		if dir, err = t.root.Open(filepath.Dir(name)); err != nil {
			return nil, err
		}
		defer dir.Close()
	}
	buf := make([]byte, 256)
	n, err := unix.Lgetxattr("/proc/self/fd/"+strconv.Itoa(int(dir.Fd()))+"/"+filepath.Base(name), attr, buf)
	if errors.Is(err, unix.ENOENT) {
		f, oerr := openRegular(t, name)
		if oerr != nil {
			return nil, oerr
		}
		defer f.Close()
		n, err = unix.Fgetxattr(int(f.(*os.File).Fd()), attr, buf)
	}
	if err != nil {
		return nil, &fs.PathError{Op: "getxattr", Path: name, Err: err}
	}
	return buf[:n], nil
}
