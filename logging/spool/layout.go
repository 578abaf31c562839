// SPDX-License-Identifier: Apache-2.0

package spool

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// layout is a kind of store.
type layout struct {
	name string // in Config.Store and State.Store
	file string // in the directory of the log
	open func(l *Log, path string, fresh bool) (store, error)
}

var boltLayout = layout{
	name: "bolt", file: "audit.db",
	open: func(l *Log, path string, fresh bool) (store, error) { return openBolt(path, l.cfg.Capacity, fresh) },
}

var layouts = [...]*layout{&boltLayout}

// find returns the layout of the store that is there, nil when none is. Unfinished ones, left over by a power cut in
// create, are removed: they never were the log.
func (l *Log) find() (found *layout, err error) {
	for _, k := range layouts {
		if err := l.disk().remove(l.path(k.file + newSuffix)); err != nil {
			return nil, fmt.Errorf("remove unfinished store: %w", err)
		}
		_, err := os.Lstat(l.path(k.file))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if found == nil {
			found = k
		}
	}
	return found, nil
}

// choose returns the layout for a new store.
func (l *Log) choose() (*layout, error) { return &boltLayout, nil }
