// SPDX-License-Identifier: Apache-2.0

package spool

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// disk is the file system for everything here that is not bbolt's own: each step asks the fuse first.
type disk struct{ fuse fuse }

func (d disk) do(e effect, fn func() error) error {
	apply, err := d.fuse.cut(e)
	if apply {
		err = errors.Join(err, fn())
	}
	return err
}

// create opens a new empty file; one that is there is emptied.
func (d disk) create(path string) (f *os.File, err error) {
	err = d.do(effect{Op: "create", Path: path}, func() (err error) {
		f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
		return err
	})
	if err != nil && f != nil {
		_ = f.Close() // nothing is in it
		f = nil
	}
	return f, err
}

func (d disk) write(f *os.File, data []byte, at int64) error {
	return d.do(effect{Op: "write", Path: f.Name(), Offset: at, Data: data}, func() error {
		_, err := f.WriteAt(data, at)
		return err
	})
}

func (d disk) truncate(f *os.File, size int64) error {
	return d.do(effect{Op: "truncate", Path: f.Name(), Offset: size}, func() error { return f.Truncate(size) })
}

func (d disk) sync(f *os.File) error {
	return d.do(effect{Op: "sync", Path: f.Name()}, f.Sync)
}

// syncDir makes the names in a directory durable.
func (d disk) syncDir(path string) error {
	return d.do(effect{Op: "syncdir", Path: path}, func() error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		return errors.Join(f.Sync(), f.Close())
	})
}

func (d disk) mkdir(path string) error {
	return d.do(effect{Op: "mkdir", Path: path}, func() error { return os.Mkdir(path, 0o700) })
}

func (d disk) rename(from, to string) error {
	return d.do(effect{Op: "rename", Path: from, To: to}, func() error { return os.Rename(from, to) })
}

// remove removes a file, or a directory with the files in it. Nothing there is no error.
func (d disk) remove(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && info.IsDir() {
		entries, err := os.ReadDir(path)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if err := d.unlink(filepath.Join(path, e.Name())); err != nil {
				return err
			}
		}
	}
	return d.unlink(path)
}

func (d disk) unlink(path string) error {
	return d.do(effect{Op: "remove", Path: path}, func() error { return os.Remove(path) })
}

// replace replaces a small file durably.
func (d disk) replace(path string, data []byte) error {
	tmp := path + ".new"
	f, err := d.create(tmp)
	if err != nil {
		return err
	}
	if err := errors.Join(d.write(f, data, 0), d.sync(f), f.Close()); err != nil {
		return err
	}
	return d.install(tmp, path)
}

// install gives a finished, synced file or directory its name, durably.
func (d disk) install(tmp, path string) error {
	if err := d.rename(tmp, path); err != nil {
		return err
	}
	return d.syncDir(filepath.Dir(path))
}
