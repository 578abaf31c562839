// SPDX-License-Identifier: Apache-2.0

package spool

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/backstay/backstay/logging"
)

// Layout of audit.db. One bucket holds everything, so that a commit touches one branch of one tree and a single critical
// event costs as few pages as bbolt can do. Keys, in the order they sort:
//
//	r <index, 8 bytes big-endian> 0   one record, see leafValue, or shed ones that were joined, see folder
//	r <index, 8 bytes big-endian> 1   signed checkpoint that covers records 0 to index
//	s <key name>+<key hash>           newest receipt of that key: a signed note
//	t                                 positions and frontiers, see encodeState
//
// All numbers are big-endian, but bbolt's own pages are in the byte order of the machine: a file does not open on another
// kind of processor, and evidence leaves the device as an export.
const bucketName = "audit"

// lockTimeout bounds the wait for a file lock. It is never zero: bbolt would wait for ever, even for a lock this same
// process left behind when a damaged file made it panic.
const lockTimeout = 2 * time.Second

// fillPercent makes bbolt fill pages that only grow at the end; its default of 0.5 doubles the file.
const fillPercent = 0.95

// allocSize is the step the file grows in. bbolt's default of 16 MB would take the whole capacity at once.
const allocSize = 64 << 10

// boltStep and maxBoltStep bound the records one transaction sheds: of a larger file more, because each transaction leaves a record
// that says so.
const (
	boltStep    = 256
	maxBoltStep = 1024
)

var stateKey = []byte("t")

// boltStore is a store in one bbolt file.
type boltStore struct {
	db   *bbolt.DB
	used int64
	step uint64 // records one transaction sheds
}

// openBolt opens a file, or creates it.
func openBolt(path string, capacity int64, fresh bool) (store, error) {
	if !fresh {
		if err := checkPages(path); err != nil {
			return nil, err
		}
	}
	b := &boltStore{step: uint64(min(max(capacity>>13, boltStep), maxBoltStep))}
	err := guarded(func() (err error) {
		b.db, err = bbolt.Open(path, 0o600, &bbolt.Options{
			Timeout:        lockTimeout,
			NoFreelistSync: true,
			FreelistType:   bbolt.FreelistMapType,
			// The map never moves, so a long export cannot block a commit that would have to grow it.
			InitialMmapSize: int(capacity),
			MaxSize:         int(capacity),
		})
		return err
	})
	if err != nil {
		return nil, openError(path, err)
	}
	b.db.AllocSize = allocSize
	// bbolt publishes the number of free pages only when a write transaction ends, so one is begun and given up. It writes
	// nothing.
	err = guarded(func() error {
		tx, err := b.db.Begin(true)
		if err != nil {
			return err
		}
		return tx.Rollback()
	})
	if err != nil {
		if !panicked(err) {
			err = errors.Join(err, guarded(b.db.Close))
		}
		return nil, err
	}
	b.measure()
	return b, nil
}

// openError says what an error of bbolt.Open means.
func openError(path string, err error) error {
	switch {
	case errors.Is(err, syscall.EINVAL), errors.Is(err, syscall.ENODEV):
		return fmt.Errorf("open %s: this file system has no shared writable mapping (JFFS2 and some shared folders do not): %w: %w: %w", path, err, errNoMapping, logging.ErrSetup)
	case errors.Is(err, berrors.ErrTimeout):
		return fmt.Errorf("open %s: another process holds its lock: %w", path, logging.ErrRetry)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("open %s: %w: %w", path, err, logging.ErrSetup)
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrChecksum), errors.Is(err, berrors.ErrVersionMismatch), errors.Is(err, berrors.ErrInvalidMapping):
		return damaged(fmt.Errorf("open %s: %w", path, err))
	}
	return fmt.Errorf("open %s: %w", path, err)
}

// errNoMapping means that bbolt cannot work on this file system.
var errNoMapping = errors.New("no shared mapping")

// commit implements store: one transaction.
func (s *boltStore) commit(c *change) error {
	err := guarded(func() error {
		tx, err := s.db.Begin(true)
		if err != nil {
			return err
		}
		b := tx.Bucket([]byte(bucketName))
		if b == nil {
			b, err = tx.CreateBucket([]byte(bucketName))
		}
		if err == nil {
			b.FillPercent = fillPercent
			err = c.put(b)
		}
		if err != nil {
			return errors.Join(err, tx.Rollback())
		}
		return tx.Commit()
	})
	if errors.Is(err, berrors.ErrMaxSizeReached) {
		err = errors.Join(err, errFull)
	}
	if err == nil {
		s.measure()
	}
	return err
}

func (c *change) put(b *bbolt.Bucket) error {
	for _, e := range c.entries {
		key := leafKey(e.at)
		if e.kind == kindHead {
			key = headKey(e.at)
		}
		if err := b.Put(key, e.value); err != nil {
			return err
		}
	}
	for _, r := range c.receipts {
		if err := b.Put(append([]byte{'s'}, r.key...), r.note); err != nil {
			return err
		}
	}
	if err := c.fold(b); err != nil {
		return err
	}
	if err := c.removeRecords(b); err != nil {
		return err
	}
	return b.Put(stateKey, encodeState(c.state))
}

// space implements store. It counts pages in use, not bytes of records: pages are what runs out.
func (s *boltStore) space(first uint64) (int64, uint64) { return s.used, first + s.step }

func (s *boltStore) measure() {
	var size int64
	err := guarded(func() error {
		tx, err := s.db.Begin(false)
		if err != nil {
			return err
		}
		size = tx.Size()
		return tx.Rollback()
	})
	if err != nil {
		return
	}
	stats := s.db.Stats()
	s.used = size - int64(stats.FreePageN+stats.PendingPageN)*int64(s.db.Info().PageSize)
}

func (s *boltStore) close() error { return guarded(s.db.Close) }

// read implements store: a read transaction either way.
func (s *boltStore) read(bool) (reader, error) {
	r := &boltReader{}
	err := guarded(func() (err error) {
		if r.tx, err = s.db.Begin(false); err != nil {
			return err
		}
		if r.bucket = r.tx.Bucket([]byte(bucketName)); r.bucket == nil {
			return errors.Join(damaged(errors.New("no audit bucket")), r.tx.Rollback())
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

// boltReader is a read transaction. After a panic it is left alone.
type boltReader struct {
	tx     *bbolt.Tx
	bucket *bbolt.Bucket
	broken bool
}

func (r *boltReader) guard(fn func() error) error {
	err := guarded(fn)
	r.broken = r.broken || panicked(err)
	return err
}

func (r *boltReader) state() (s state, err error) {
	err = r.guard(func() (err error) {
		s, err = parseState(r.bucket.Get(stateKey))
		return err
	})
	return s, err
}

func (r *boltReader) entries(first uint64, fn func(entry) (bool, error)) error {
	return r.guard(func() error { return eachEntry(r.bucket, first, fn) })
}

// containing returns the key to read from so that nothing of record first is left out: that of first, or of the joined records it is
// one of.
func containing(c *bbolt.Cursor, first uint64) []byte {
	key := leafKey(first)
	if k, _ := c.Seek(key); bytes.Equal(k, key) {
		return headKey(first)
	}
	k, v := c.Prev()
	if k == nil { // beyond the last key, where there is nothing before either, or before the first
		k, v = c.Last()
	}
	for ; k != nil && bytes.Compare(k, key) < 0; k, v = c.Prev() {
		index, kind, ok := parseRecordKey(k)
		if !ok {
			break
		}
		if kind == kindLeaf {
			if (entry{kind: kindLeaf, at: index, value: v}).end() > first {
				return k
			}
			break
		}
	}
	return headKey(first)
}

func eachEntry(b *bbolt.Bucket, first uint64, fn func(entry) (bool, error)) error {
	c := b.Cursor()
	for k, v := c.Seek(containing(c, first)); k != nil; k, v = c.Next() {
		index, kind, ok := parseRecordKey(k)
		if !ok {
			return nil // receipts and state sort behind the records
		}
		e := entry{kind: kind, at: index, value: v}
		if kind == kindHead {
			e.at = index + 1
		}
		if more, err := fn(e); err != nil || !more {
			return err
		}
	}
	return nil
}

func (r *boltReader) receipts(fn func(string, []byte) error) error {
	return r.guard(func() error {
		c := r.bucket.Cursor()
		for k, v := c.Seek([]byte{'s'}); len(k) > 0 && k[0] == 's'; k, v = c.Next() {
			if err := fn(string(k[1:]), v); err != nil {
				return err
			}
		}
		return nil
	})
}

func (r *boltReader) close() error {
	if r.broken {
		return nil
	}
	return guarded(r.tx.Rollback)
}

func recordKey(index uint64, kind byte) []byte {
	return append(binary.BigEndian.AppendUint64([]byte{'r'}, index), kind)
}

func leafKey(index uint64) []byte { return recordKey(index, kindLeaf) }

// headKey is the key of the checkpoint over size records. That over none does not exist; its key sorts before all others.
func headKey(size uint64) []byte {
	if size == 0 {
		return []byte{'r'}
	}
	return recordKey(size-1, kindHead)
}

func parseRecordKey(k []byte) (index uint64, kind byte, ok bool) {
	if len(k) != 10 || k[0] != 'r' || k[9] > kindHead {
		return 0, 0, false
	}
	return binary.BigEndian.Uint64(k[1:]), k[9], true
}
