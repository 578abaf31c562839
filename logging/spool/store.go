// SPDX-License-Identifier: Apache-2.0

package spool

import (
	"errors"
	"fmt"

	"github.com/backstay/backstay/logging"
)

// store keeps the bytes of one epoch: records in order, the checkpoints between them, receipts and the state. It knows
// nothing of what they mean; Log does, once for all stores. Log calls one method at a time.
type store interface {
	// commit makes a change durable, all of it or nothing. An error may mean that it happened all the same: read tells.
	// It matches errFull when the change does not fit into the capacity.
	commit(c *change) error
	// read opens what is durable for reading. A reader that is kept shows the same whatever is committed later.
	read(keep bool) (reader, error)
	// space returns the bytes in use, and the end of the piece from record first on that is best shed in one change.
	space(first uint64) (used int64, end uint64)
	// close releases the store, which holds nothing that is not durable.
	close() error
}

// reader reads a store. Values are valid during the call that gets them, and not checked: a record brings its hash, a
// checkpoint its signature.
type reader interface {
	state() (state, error)
	// entries calls fn, until it says no, for what stands from record first on, in order: the checkpoint over exactly first
	// records if it was kept, record first, and so on. When record first is one of joined ones, those come first.
	entries(first uint64, fn func(entry) (more bool, err error)) error
	receipts(fn func(key string, note []byte) error) error
	close() error
}

// entry is a record or a checkpoint.
type entry struct {
	kind  byte
	at    uint64 // index of the (first) record, or number of records the checkpoint covers
	value []byte // see leafValue, or a signed note
}

// Kinds of entries, in the order they stand for one record.
const (
	kindLeaf = 0
	kindHead = 1
)

// change is what one commit does, in this order.
type change struct {
	entries  []entry // new records at the end, and checkpoints wherever they belong
	receipts []receiptNote
	shed     span // records in it lose their body, if they may (see sheddable), and are joined with those before (see folder)
	pruned   span // records in it go, with the checkpoints over them except the newest
	state    state
}

// receiptNote is a receipt as it is stored: the newest of each key.
type receiptNote struct {
	key  string
	note []byte
}

// span is the records from first to end-1.
type span struct{ first, end uint64 }

func (s span) empty() bool { return s.first >= s.end }

// errFull means that a change does not fit into the capacity of the store.
var errFull = errors.New("store is full")

// effect is one step towards durable data, for a fuse.
type effect struct {
	Op     string // a change of the store: commit, sign, receipt, prune, shed, sent, counter; or of a file: see disk
	Path   string
	To     string // new name of a rename
	Offset int64
	Data   []byte
}

// fuse decides for a test whether an effect fails, and whether it happens all the same. nil: it happens.
type fuse func(effect) (apply bool, err error)

func (f fuse) cut(e effect) (apply bool, err error) {
	if f == nil {
		return true, nil
	}
	return f(e)
}

// update commits a change; nil means durable. After an error it may have been committed all the same, so the positions are
// read back: were they not, the next reader would look for records that are gone and take the store for damaged.
func (l *Log) update(op string, c *change) error {
	apply, err := l.fuse.cut(effect{Op: op})
	if apply {
		err = errors.Join(err, l.store.commit(c))
	}
	if err == nil {
		l.full.measure(l.store)
		return nil
	}
	if !isDamage(err) {
		l.resync()
	}
	return fmt.Errorf("write audit log: %w", err)
}

// resync takes over the positions and receipts of the store, as long as it holds the records this process knows.
func (l *Log) resync() {
	s, err := l.stored()
	if err != nil || s.epoch != l.epoch || s.marks.size != l.marks.size || s.tree.Root() != l.tree.Root() {
		return
	}
	l.marks, l.min, l.full.shed = s.marks, s.min, s.shed
	l.reported, l.counter.recorded, l.counter.intent = s.reported, s.counter, s.intent
	l.sent = max(l.sent, s.sent)
	if l.read.Size() < l.min.Size() {
		l.read = l.min.Clone()
	}
	if list, err := l.loadReceipts(); err == nil {
		l.receipts = list
	}
}

func (l *Log) stored() (s state, err error) {
	err = l.view(func(r reader) (err error) {
		s, err = r.state()
		return err
	})
	return s, err
}

// view runs fn with a reader.
func (l *Log) view(fn func(reader) error) error {
	if l.store == nil {
		return fmt.Errorf("read audit log: it is not open: %w", logging.ErrRetry)
	}
	r, err := l.store.read(false)
	if err == nil {
		err = errors.Join(fn(r), r.close())
	}
	if err != nil {
		return fmt.Errorf("read audit log: %w", err)
	}
	return nil
}
