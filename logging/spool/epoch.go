// SPDX-License-Identifier: Apache-2.0

package spool

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"go.etcd.io/bbolt"

	"github.com/backstay/backstay/logging"
)

// File names in the directory of a log.
const (
	storeName      = "audit.db"
	newStoreName   = "audit.db.new"
	epochName      = "audit.epoch"
	quarantineName = "audit.db.bad" // the newest refused store; an older one is replaced, so that flash stays bounded
)

// Reasons of a new epoch, as the first record carries them. A refusal found in the store uses its own code.
const (
	reasonFirst      = "first-start"
	reasonMissing    = "store-missing"
	reasonDamaged    = "store-damaged"
	reasonRolledBack = "rolled-back"
	reasonKey        = "key-changed"
)

// start opens what is there or begins the next epoch.
func (l *Log) start() error {
	// Left over by a power cut in create. It never was the log.
	if err := os.Remove(l.path(newStoreName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove unfinished store: %w", err)
	}
	_, err := os.Stat(l.path(storeName))
	if errors.Is(err, fs.ErrNotExist) {
		last, err := l.lastEpoch()
		if err != nil {
			return err
		}
		reason := reasonFirst
		if last > 0 {
			reason = reasonMissing
		}
		if l.first == nil {
			e := l.startEvent(reason, nil, nil, nil)
			l.first = &e
		}
		return l.begin(last + 1)
	}
	if err != nil {
		return err
	}
	if err = l.load(); isDamage(err) {
		return l.newEpoch(reasonDamaged, err)
	}
	if err != nil {
		l.release(nil)
	}
	return err
}

// load opens audit.db and verifies it completely: shape, every record against its hash, the frontiers and every signed
// root. A full check at start costs one SHA-256 over the retained records, about a second for 8 MB on a slow processor.
func (l *Log) load() error {
	if err := checkPages(l.path(storeName)); err != nil {
		return err
	}
	db, err := l.openDB(l.path(storeName))
	if err != nil {
		return err
	}
	l.db = db
	var s state
	var got check
	err = l.view(func(b *bbolt.Bucket) (err error) {
		v := b.Get(stateKey)
		if v == nil {
			return damaged(errors.New("no state"))
		}
		if s, err = parseState(v); err != nil {
			return err
		}
		l.epoch, l.marks = s.epoch, s.marks
		got, err = l.check(b, s)
		return err
	})
	l.head, l.headAt = got.head, got.headAt // the last known checkpoint, also when the rest does not hold
	if err == nil {
		l.receipts, err = l.loadReceipts()
	}
	if err != nil {
		return err
	}
	l.tree, l.min = s.tree, s.min
	l.read = s.min.Clone()
	l.full = newFill(l.cfg.Capacity, s)
	return l.full.first(db)
}

// check is what a full pass over a store found.
type check struct {
	head   []byte
	headAt uint64
}

func (l *Log) check(b *bbolt.Bucket, s state) (check, error) {
	var got check
	tree := s.min.Clone()
	good := s.marks.pruned
	c := b.Cursor()
	for k, v := c.Seek(headKey(s.marks.pruned)); k != nil; k, v = c.Next() {
		index, kind, ok := parseRecordKey(k)
		if !ok {
			break // receipts and state sort behind the records
		}
		if index >= s.marks.size || kind == kindLeaf && index > tree.Size() {
			return got, missing(tree.Size())
		}
		if kind == kindLeaf {
			leaf, _, err := parseLeaf(index, v)
			if err != nil {
				return got, err
			}
			tree.Append(leaf.Hash)
			continue
		}
		head, err := l.checkHead(v, index+1)
		if err != nil {
			return got, err
		}
		if head.Root != tree.Root() {
			return got, rootMismatch(good, head.Size)
		}
		good, got = head.Size, check{append([]byte(nil), v...), head.Size}
	}
	if tree.Size() != s.marks.size {
		return got, missing(tree.Size())
	}
	if tree.Root() != s.tree.Root() {
		return got, rootMismatch(good, s.marks.size)
	}
	if got.head == nil {
		return got, nil
	}
	// Every root was compared; one signature is enough, because the newest root covers all records before it.
	_, err := logging.OpenCheckpoint(got.head, l.signer.SPKI())
	if err != nil {
		return check{}, damaged(err)
	}
	return got, nil
}

// checkHead reads a stored checkpoint without verifying its signature.
func (l *Log) checkHead(v []byte, size uint64) (logging.Checkpoint, error) {
	body, _, _ := strings.Cut(string(v), "\n\n")
	c, err := logging.ParseCheckpointBody(body + "\n")
	if err != nil {
		return c, damaged(err)
	}
	if c.Size != size || c.Origin.Epoch != l.epoch {
		return c, damaged(fmt.Errorf("the checkpoint of %d records is of another place", size))
	}
	if c.Origin.Device != l.signer.DeviceID() {
		return c, damaged(errKeyChanged)
	}
	return c, nil
}

var errKeyChanged = errors.New("the store belongs to another device key")

func rootMismatch(good, end uint64) error {
	return damaged(&logging.Refusal{Code: logging.CodeRootMismatch, What: fmt.Sprintf("records %d to %d", good, end-1),
		Why: "they do not add up to the signed root"})
}

// newEpoch moves the present store aside and begins the next epoch, whose first record says why. Events that wait are kept
// and go into the new epoch.
func (l *Log) newEpoch(reason string, cause error) error {
	if r, ok := errors.AsType[*logging.Refusal](cause); ok && reason == reasonDamaged {
		reason = r.Code
	}
	if errors.Is(cause, errKeyChanged) {
		reason = reasonKey
	}
	return l.newEpochAt(l.epoch+1, reason, cause)
}

func (l *Log) newEpochAt(epoch uint64, reason string, cause error) error {
	last, err := l.lastEpoch()
	if err != nil {
		return err
	}
	if epoch = max(epoch, last+1); epoch > math.MaxInt64 {
		return fmt.Errorf("begin epoch: the last number is used up: %w", logging.ErrSetup)
	}
	event := l.startEvent(reason, cause, l.lastCheckpoint(), l.head)
	l.first = &event
	l.release(cause)
	if err := os.Rename(l.path(storeName), l.path(quarantineName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("quarantine audit log: %w", err)
	}
	return l.begin(epoch)
}

func (l *Log) lastCheckpoint() *logging.Checkpoint {
	if l.head == nil {
		return nil
	}
	c, err := logging.OpenCheckpoint(l.head, l.signer.SPKI())
	if err != nil {
		return nil
	}
	return &c
}

// release gives up the database because of cause, which may be nil. After a panic inside bbolt, or while a snapshot is
// being read, it is abandoned with its map and its lock, because closing it could wait for ever (see guarded); the file is
// renamed next, so the lock is in nobody's way.
func (l *Log) release(cause error) {
	if l.db != nil && !panicked(cause) && l.readers == 0 {
		_ = guarded(l.db.Close) // the file is moved aside, or was never the log, whatever Close says
	}
	l.db = nil
}

// begin creates the store of an epoch with l.first as its first record, and makes it the log.
func (l *Log) begin(epoch uint64) error {
	// The number is used up before anything is signed under it: two logs of one origin would be a fork.
	if err := l.writeFile(epochName, strconv.FormatUint(epoch, 10)+"\n"); err != nil {
		return err
	}
	l.epoch, l.marks = epoch, marks{}
	l.tree, l.min, l.read = logging.Tree{}, logging.Tree{}, logging.Tree{}
	l.head, l.headAt, l.receipts = nil, 0, nil
	l.full = newFill(l.cfg.Capacity, state{})
	if err := l.create(*l.first); err != nil {
		l.release(err)
		return fmt.Errorf("create audit log: %w", err)
	}
	l.first = nil
	l.notify()
	return nil
}

// create makes audit.db appear complete or not at all: bbolt's own creation is not safe against a power cut (measured: 8
// of 12 images did not open, some made it panic).
func (l *Log) create(first logging.Event) error {
	tmp := l.path(newStoreName)
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	db, err := l.openDB(tmp)
	if err != nil {
		return err
	}
	l.db = db
	if _, err := l.write([]logging.Event{first}); err != nil {
		return err
	}
	l.db = nil
	if err := guarded(db.Close); err != nil {
		return err
	}
	if apply, cut := l.cut("created"); cut != nil && !apply {
		return cut
	}
	if err := l.install(tmp, l.path(storeName)); err != nil {
		return err
	}
	if l.db, err = l.openDB(l.path(storeName)); err != nil {
		return err
	}
	return l.full.first(l.db)
}

// reopen tries again after a new epoch could not be created.
func (l *Log) reopen() error {
	if l.db != nil {
		return nil
	}
	return l.start()
}

func (l *Log) lastEpoch() (uint64, error) {
	b, err := os.ReadFile(l.path(epochName))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read epoch: %w", err)
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 63)
	if err != nil {
		return l.epoch, nil // damaged; the number in the store, or a receipt of a later epoch, will correct it
	}
	return n, nil
}

// writeFile replaces a small file durably.
func (l *Log) writeFile(name, text string) error {
	tmp := l.path(name + ".new")
	if err := os.WriteFile(tmp, []byte(text), 0o600); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := l.install(tmp, l.path(name)); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// install makes a finished file durable under its name.
func (l *Log) install(tmp, name string) error {
	if err := syncPath(tmp); err != nil {
		return err
	}
	apply, cut := l.cut("rename " + filepath.Base(name))
	if cut != nil && !apply {
		return cut
	}
	if err := os.Rename(tmp, name); err != nil {
		return err
	}
	if err := syncPath(filepath.Dir(name)); err != nil {
		return err
	}
	return cut
}

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
