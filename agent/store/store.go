// SPDX-License-Identifier: Apache-2.0

// Package store owns state.db, the one file in which the agent remembers what it must not forget: trusted update metadata
// with its version floors and the time it was signed, the update job and its history, and the identity pointers.
//
// Each pillar declares the interface it needs; this package implements it over typed cells of one bbolt database, so that
// everything a pillar saves in one call becomes durable in one transaction or not at all. The audit log is in a file of its
// own (package logging/spool): a full log must never block saving the update job.
//
// Only the agent process writes the file; bbolt holds an exclusive lock while it is open. Whoever can write to it can make the
// device forget metadata, but not install anything: the root chain is verified again from the factory root at each start, and
// the security floor lives elsewhere (package update/floor).
package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"go.etcd.io/bbolt"
)

// schema is the layout number of the buckets below. A file with a higher number was written by a newer agent.
const schema = 1

// maxSize is the most state.db may grow to, in bytes: metadata is capped at about 1.5 MiB by package trust, the rest is small.
const maxSize = 8 << 20

// lockTimeout is how long Open waits for another agent to let go of the file.
const lockTimeout = 3 * time.Second

// ErrLocked means that another process has the file open.
var ErrLocked = errors.New("another backstay process holds it")

// ErrNewer means that a newer agent wrote the file; this one does not know how to read it.
var ErrNewer = errors.New("written by a newer agent")

// ErrCorrupt means that the file cannot be read as a database. The caller moves it away and starts anew.
var ErrCorrupt = errors.New("not a readable state database")

var (
	bucketMeta     = []byte("meta")     // since 1: schema
	bucketTrust    = []byte("trust")    // since 1: state
	bucketUpdate   = []byte("update")   // since 1: job
	bucketIdentity = []byte("identity") // since 1: state
	bucketSource   = []byte("source")   // added to schema 1: one value a source of the audit log
	keySchema      = []byte("schema")
)

// DB is an open state.db. Methods of it and of its cells may be called from several goroutines.
type DB struct{ bolt *bbolt.DB }

// Open opens the database at path, creating it when it is missing. Creation is atomic: bbolt's own initialisation is not safe
// against a power cut, so the file is made under a temporary name, synced and renamed.
func Open(path string) (*DB, error) {
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		if err := create(path); err != nil {
			return nil, fmt.Errorf("create %s: %w", path, err)
		}
	}
	b, err := openBolt(path)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	d := &DB{bolt: b}
	err = d.checkSchema()
	if err == nil {
		err = d.addBuckets()
	}
	if err != nil {
		b.Close()
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return d, nil
}

// Close releases the file.
func (d *DB) Close() error { return d.bolt.Close() }

func create(path string) error {
	tmp := path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	b, err := openBolt(tmp)
	if err != nil {
		return err
	}
	err = b.Update(func(tx *bbolt.Tx) error {
		for _, name := range [][]byte{bucketMeta, bucketTrust, bucketUpdate, bucketIdentity, bucketSource} {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		return tx.Bucket(bucketMeta).Put(keySchema, binary.BigEndian.AppendUint64(nil, schema))
	})
	if err := errors.Join(err, b.Sync(), b.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// openBolt turns the ways in which bbolt fails on a damaged file, panics among them, into ErrCorrupt.
func openBolt(path string) (b *bbolt.DB, err error) {
	defer guard(&err, debug.SetPanicOnFault(true))
	// The freelist is kept in the file: without it, opening walks every page in a goroutine of bbolt's own, where a damaged page
	// would end the process out of reach of guard. It costs 4 KiB a save.
	b, err = bbolt.Open(path, 0o600, &bbolt.Options{Timeout: lockTimeout, FreelistType: bbolt.FreelistMapType, MaxSize: maxSize})
	switch {
	case errors.Is(err, bbolt.ErrTimeout):
		return nil, ErrLocked
	case errors.Is(err, bbolt.ErrInvalid), errors.Is(err, bbolt.ErrChecksum), errors.Is(err, bbolt.ErrVersionMismatch):
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return b, err
}

func (d *DB) checkSchema() (err error) {
	defer guard(&err, debug.SetPanicOnFault(true))
	return d.bolt.View(func(tx *bbolt.Tx) error {
		meta := tx.Bucket(bucketMeta)
		if meta == nil {
			return fmt.Errorf("%w: no meta bucket", ErrCorrupt)
		}
		v := meta.Get(keySchema)
		if len(v) != 8 {
			return fmt.Errorf("%w: no schema number", ErrCorrupt)
		}
		if n := binary.BigEndian.Uint64(v); n > schema {
			return fmt.Errorf("%w: schema %d, this agent knows %d", ErrNewer, n, schema)
		}
		return nil
	})
}

// addBuckets makes the buckets that came after the first release of the schema. The number stays: an older agent, back after a
// failed update, ignores a bucket it does not know, and would refuse a higher number.
func (d *DB) addBuckets() (err error) {
	defer guard(&err, debug.SetPanicOnFault(true))
	missing := false
	err = d.bolt.View(func(tx *bbolt.Tx) error {
		missing = tx.Bucket(bucketSource) == nil
		return nil
	})
	if err != nil || !missing {
		return err
	}
	return d.bolt.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists(bucketSource)
		return err
	})
}

// cell is one value of the database.
type cell struct {
	db     *DB
	bucket []byte
	key    []byte
}

// load returns a copy of the value, nil when there is none.
func (c cell) load() (v []byte, err error) {
	defer guard(&err, debug.SetPanicOnFault(true))
	err = c.db.bolt.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket(c.bucket)
		if b == nil {
			return fmt.Errorf("%w: no bucket %s", ErrCorrupt, c.bucket)
		}
		if got := b.Get(c.key); got != nil {
			v = append([]byte{}, got...)
		}
		return nil
	})
	return v, err
}

// save replaces the value; it is on disk when save returns nil. After an error the old or the new value may be there.
func (c cell) save(v []byte) (err error) {
	defer guard(&err, debug.SetPanicOnFault(true))
	return c.db.bolt.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket(c.bucket)
		if b == nil {
			return fmt.Errorf("%w: no bucket %s", ErrCorrupt, c.bucket)
		}
		return b.Put(c.key, v)
	})
}

// guard turns a fault in the mapped file (a page of garbage, a file cut short under the mapping) into an error. It must be
// deferred directly, with the setting to go back to.
func guard(err *error, before bool) {
	debug.SetPanicOnFault(before)
	if r := recover(); r != nil {
		*err = fmt.Errorf("%w: %v", ErrCorrupt, r)
	}
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
