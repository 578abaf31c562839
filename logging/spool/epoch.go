// SPDX-License-Identifier: Apache-2.0

package spool

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/backstay/backstay/logging"
)

// File names in the directory of a log, beside the stores (see layouts).
const (
	epochName = "audit.epoch"
	newSuffix = ".new" // unfinished: never was the log
	badSuffix = ".bad" // the newest refused store; an older one is replaced, so that flash stays bounded
)

// Reasons of a new epoch, as the first record carries them. A refusal found in the store uses its own code.
const (
	reasonFirst      = "first-start"
	reasonMissing    = "store-missing"
	reasonDamaged    = "store-damaged"
	reasonRolledBack = "rolled-back"
	reasonKey        = "key-changed"
	reasonMoved      = "file-system-changed" // the store cannot work where it is now
)

// start opens what is there or begins the next epoch.
func (l *Log) start() error {
	found, err := l.find()
	if err != nil {
		return err
	}
	if found == nil {
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
	l.layout = found
	err = l.load()
	if isDamage(err) {
		return l.newEpoch(reasonDamaged, err)
	}
	if errors.Is(err, errNoMapping) && l.cfg.Store != StoreBolt {
		return l.newEpoch(reasonMoved, err)
	}
	if err != nil {
		l.release(nil)
	}
	return err
}

// load opens the store and verifies it completely: shape, every record against its hash, the frontiers and every signed
// root. A full check at start costs one SHA-256 over the retained records, about a second for 8 MB on a slow processor.
func (l *Log) load() error {
	var err error
	if l.store, err = l.layout.open(l, l.path(l.layout.file), false); err != nil {
		if d, ok := errors.AsType[*damage](err); ok && d.head != nil {
			l.head = d.head
		}
		l.store = nil
		return err
	}
	var s state
	var got check
	err = l.view(func(r reader) (err error) {
		if s, err = r.state(); err != nil {
			return err
		}
		l.epoch, l.marks = s.epoch, s.marks
		got, err = l.check(r, s)
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
	l.full.measure(l.store)
	l.reported = s.reported
	l.counter.recorded, l.counter.intent = s.counter, s.intent
	l.sent, l.handing = s.sent, false
	return nil
}

// check is what a full pass over a store found.
type check struct {
	head   []byte
	headAt uint64
}

func (l *Log) check(r reader, s state) (check, error) {
	var got check
	tree := s.min.Clone()
	good := s.marks.pruned
	var u unpacker
	err := r.entries(s.marks.pruned, func(e entry) (bool, error) {
		if e.kind == kindLeaf {
			if e.at >= s.marks.size || e.at != tree.Size() {
				return false, missing(tree.Size())
			}
			leaf, _, err := parseLeaf(e.at, e.value, &u)
			if err == nil {
				err = tree.AppendSubtree(leaf.Level, leaf.Hash)
			}
			return true, err
		}
		if e.at > tree.Size() {
			return false, missing(tree.Size())
		}
		head, err := l.checkHead(e.value, e.at)
		if err != nil {
			return false, err
		}
		if head.Root != tree.Root() {
			return false, rootMismatch(good, head.Size)
		}
		good, got = head.Size, check{append([]byte(nil), e.value...), head.Size}
		return true, nil
	})
	if err != nil {
		return got, err
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
	if _, err = logging.OpenCheckpoint(got.head, l.signer.SPKI()); err != nil {
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
	if err := l.quarantine(l.layout); err != nil {
		return err
	}
	return l.begin(epoch)
}

// quarantine moves a store aside, in the place of the one that was there.
func (l *Log) quarantine(k *layout) error {
	path := l.path(k.file)
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, other := range layouts {
		if err := l.disk().remove(l.path(other.file + badSuffix)); err != nil {
			return fmt.Errorf("quarantine audit log: %w", err)
		}
	}
	if err := l.disk().rename(path, path+badSuffix); err != nil {
		return fmt.Errorf("quarantine audit log: %w", err)
	}
	return nil
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

// release gives up the store because of cause, which may be nil. After a panic inside bbolt, or while a snapshot is
// being read, it is abandoned with its map and its lock, because closing it could wait for ever (see guarded); the file is
// renamed next, so the lock is in nobody's way.
func (l *Log) release(cause error) {
	if l.store != nil && !panicked(cause) && l.readers == 0 {
		_ = l.store.close() // the file is moved aside, or was never the log, whatever close says
	}
	l.store = nil
}

// begin creates the store of an epoch with l.first as its first record, and makes it the log.
func (l *Log) begin(epoch uint64) error {
	// The number is used up before anything is signed under it: two logs of one origin would be a fork.
	if err := l.disk().replace(l.path(epochName), append(strconv.AppendUint(nil, epoch, 10), '\n')); err != nil {
		return fmt.Errorf("write epoch: %w", err)
	}
	l.epoch, l.marks = epoch, marks{}
	l.tree, l.min, l.read = logging.Tree{}, logging.Tree{}, logging.Tree{}
	l.sent, l.handing = 0, false
	l.head, l.headAt, l.receipts = nil, 0, nil
	l.full = newFill(l.cfg.Capacity, state{})
	l.reported, l.reportAt, l.counter = 0, time.Time{}, counting{err: l.counter.err}
	if err := l.create(*l.first); err != nil {
		l.release(err)
		return fmt.Errorf("create audit log: %w", err)
	}
	l.first = nil
	l.notify()
	return nil
}

// create makes the store appear complete or not at all: bbolt's own creation is not safe against a power cut (measured: 8
// of 12 images did not open, some made it panic).
func (l *Log) create(first logging.Event) error {
	var err error
	if l.layout, err = l.choose(); err != nil {
		return err
	}
	path := l.path(l.layout.file)
	tmp := path + newSuffix
	if err := l.disk().remove(tmp); err != nil {
		return err
	}
	if l.store, err = l.layout.open(l, tmp, true); err != nil {
		l.store = nil
		return err
	}
	if _, err := l.write("commit", []logging.Event{first}, &change{state: l.state()}); err != nil {
		return err
	}
	err = l.store.close()
	l.store = nil
	if err != nil {
		return err
	}
	if err := l.syncPath(tmp); err != nil {
		return err
	}
	if err := l.disk().install(tmp, path); err != nil {
		return err
	}
	if l.store, err = l.layout.open(l, path, false); err != nil {
		l.store = nil
		return err
	}
	l.full.measure(l.store)
	return nil
}

// syncPath makes the length of a file that bbolt wrote, or the names in a directory, durable before it gets its name.
func (l *Log) syncPath(path string) error {
	return l.disk().syncDir(path)
}

// reopen tries again after a new epoch could not be created.
func (l *Log) reopen() error {
	if l.store != nil {
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
