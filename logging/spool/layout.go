// SPDX-License-Identifier: Apache-2.0

package spool

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/logging"
)

// Kinds of store, for Config.Store and State.Store.
const (
	StoreAuto     = "auto"     // what the file system allows
	StoreBolt     = "bolt"     // audit.db, a bbolt file
	StoreSegments = "segments" // audit.log, a directory of append-only files
)

// layout is a kind of store.
type layout struct {
	name string
	file string // in the directory of the log
	open func(l *Log, path string, fresh bool) (store, error)
}

// layouts in the order of preference.
var layouts = [...]*layout{
	{StoreBolt, "audit.db", func(l *Log, path string, fresh bool) (store, error) {
		return openBolt(path, l.cfg.Capacity, fresh)
	}},
	{StoreSegments, "audit.log", func(l *Log, path string, fresh bool) (store, error) {
		return openSegments(l.disk(), path, l.cfg.Capacity, fresh)
	}},
}

func checkStoreName(name string) error {
	switch name {
	case StoreAuto, StoreBolt, StoreSegments:
		return nil
	}
	return fmt.Errorf("no store %q: known are %q, %q and %q: %w", name, StoreAuto, StoreBolt, StoreSegments, logging.ErrSetup)
}

// find returns the layout of the store that is there, nil when none is. A directory keeps the kind it has. Unfinished
// stores, left over by a power cut in create, are removed: they never were the log. A second store beside the first never
// was it either: nothing here puts one there.
func (l *Log) find() (found *layout, err error) {
	for _, k := range layouts {
		if err := l.disk().remove(l.path(k.file + newSuffix)); err != nil {
			return nil, fmt.Errorf("remove unfinished store: %w", err)
		}
		_, err := os.Lstat(l.path(k.file))
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return nil, err
		case found == nil:
			found = k
		default:
			if err := l.quarantine(k); err != nil {
				return nil, err
			}
		}
	}
	return found, nil
}

// choose returns the layout for a new store: the one that is configured, or the first that works here.
func (l *Log) choose() (*layout, error) {
	for _, k := range layouts {
		if k.name == l.cfg.Store {
			return k, nil
		}
	}
	ok, err := l.mapsFiles()
	if err != nil {
		return nil, err
	}
	if ok {
		return layouts[0], nil
	}
	return layouts[1], nil
}

// mapsFiles reports whether bbolt can work in the directory. It does what bbolt does: it maps a file that is open for
// writing, shared, and expects to see through the map what it writes to the file.
func (l *Log) mapsFiles() (bool, error) {
	path := l.path("audit.probe")
	f, err := l.disk().create(path)
	if err != nil {
		return false, fmt.Errorf("probe file system: %w", err)
	}
	ok, err := mapsFile(f)
	err = errors.Join(err, f.Close(), l.disk().remove(path))
	if err != nil {
		return false, fmt.Errorf("probe file system: %w", err)
	}
	return ok, nil
}

func mapsFile(f *os.File) (ok bool, err error) {
	size := os.Getpagesize()
	if err := f.Truncate(int64(size)); err != nil {
		return false, err
	}
	m, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return false, nil // whatever the reason, bbolt would fail with it
	}
	err = guarded(func() error {
		for _, text := range [...]string{"seen", "again"} {
			if _, err := f.WriteAt([]byte(text), 0); err != nil {
				return err
			}
			if ok = string(m[:len(text)]) == text; !ok {
				return nil
			}
		}
		return nil
	})
	if isDamage(err) {
		ok, err = false, nil // the map cannot be read
	}
	return ok, errors.Join(err, unix.Munmap(m))
}
