// SPDX-License-Identifier: Apache-2.0

package spool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/backstay/backstay/logging"
)

// Layout of audit.db. One bucket holds everything, so that a commit touches one branch of one tree and a single critical
// event costs as few pages as bbolt can do. Keys, in the order they sort:
//
//	r <index, 8 bytes big-endian> 0   one record: flags (1 byte), leaf hash (32 bytes), body; no body when shed
//	r <index, 8 bytes big-endian> 1   signed checkpoint that covers records 0 to index
//	s <key name>+<key hash>           newest receipt of that key: a signed note
//	t                                 positions and frontiers, see putState
//
// All numbers are big-endian, but bbolt's own pages are in the byte order of the machine: a file does not open on another
// kind of processor, and evidence leaves the device as an export.
const (
	bucketName   = "audit"
	stateVersion = 1

	flagCritical = 1
	flagShed     = 2

	kindLeaf = 0
	kindHead = 1
)

// lockTimeout bounds the wait for the file lock. It is never zero: bbolt would wait for ever, even for a lock this same
// process left behind when a damaged file made it panic.
const lockTimeout = 2 * time.Second

// fillPercent makes bbolt fill pages that only grow at the end; its default of 0.5 doubles the file.
const fillPercent = 0.95

// allocSize is the step the file grows in. bbolt's default of 16 MB would take the whole capacity at once.
const allocSize = 64 << 10

// damage marks a refusal that means the store itself is wrong, not the access to it.
type damage struct {
	err      *logging.Refusal
	panicked bool // inside bbolt: the database must not be touched again
}

func (d *damage) Error() string { return d.err.Error() }
func (d *damage) Unwrap() error { return d.err }

func damaged(err error) error {
	r, ok := errors.AsType[*logging.Refusal](err)
	if !ok {
		r = &logging.Refusal{Code: logging.CodeDamaged, What: storeName, Why: err.Error(), Err: err}
	}
	return &damage{err: r}
}

func isDamage(err error) bool {
	_, ok := errors.AsType[*damage](err)
	return ok
}

func panicked(err error) bool {
	d, ok := errors.AsType[*damage](err)
	return ok && d.panicked
}

// guarded runs fn such that a damaged or truncated file cannot take the process down: bbolt maps the file and panics on
// pages that make no sense, and a page that is gone is a SIGBUS. After a panic the bbolt.DB must not be used again, not
// even closed: its locks are in an unknown state. Everything here runs in the goroutine of the caller, where the
// recover is; bbolt's own helpers (Update, Check) start others or roll back through the damage, and are not used.
func guarded(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = &damage{panicked: true, err: &logging.Refusal{Code: logging.CodeDamaged, What: storeName, Why: fmt.Sprintf("a page makes no sense: %v", r)}}
		}
	}()
	return fn()
}

func (l *Log) openDB(path string) (*bbolt.DB, error) {
	var db *bbolt.DB
	err := guarded(func() (err error) {
		db, err = bbolt.Open(path, 0o600, &bbolt.Options{
			Timeout:        lockTimeout,
			NoFreelistSync: true,
			FreelistType:   bbolt.FreelistMapType,
			// The map never moves, so a long export cannot block a commit that would have to grow it.
			InitialMmapSize: int(l.cfg.Capacity),
			MaxSize:         int(l.cfg.Capacity),
		})
		return err
	})
	if err != nil {
		return nil, openError(path, err)
	}
	db.AllocSize = allocSize
	return db, nil
}

// openError says what an error of bbolt.Open means.
func openError(path string, err error) error {
	switch {
	case errors.Is(err, syscall.EINVAL):
		return fmt.Errorf("open %s: this file system has no shared writable mapping (JFFS2 and some shared folders do not): %w: %w", path, err, logging.ErrSetup)
	case errors.Is(err, berrors.ErrTimeout):
		return fmt.Errorf("open %s: another process holds its lock: %w", path, logging.ErrRetry)
	case errors.Is(err, os.ErrPermission), errors.Is(err, syscall.EROFS):
		return fmt.Errorf("open %s: %w: %w", path, err, logging.ErrSetup)
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrChecksum), errors.Is(err, berrors.ErrVersionMismatch), errors.Is(err, berrors.ErrInvalidMapping):
		return damaged(fmt.Errorf("open %s: %w", path, err))
	}
	return fmt.Errorf("open %s: %w", path, err)
}

// update runs fn in a write transaction and commits it; nil means durable. After an error the transaction may have been
// committed all the same, so the positions are read back: were they not, the next reader would look for records that are
// gone and take the store for damaged.
func (l *Log) update(op string, fn func(*bbolt.Bucket) error) error {
	apply, err := l.cut(op)
	if apply {
		err = errors.Join(err, updateDB(l.db, fn))
	}
	if err == nil {
		l.full.measure(l.db)
		return nil
	}
	if !isDamage(err) {
		l.resync()
	}
	return fmt.Errorf("write %s: %w", storeName, err)
}

// resync takes over the positions and receipts of the store, as long as it holds the records this process knows.
func (l *Log) resync() {
	s, err := l.stored()
	if err != nil || s.epoch != l.epoch || s.marks.size != l.marks.size || s.tree.Root() != l.tree.Root() {
		return
	}
	l.marks, l.min, l.full.shed = s.marks, s.min, s.shed
	if l.read.Size() < l.min.Size() {
		l.read = l.min.Clone()
	}
	if list, err := l.loadReceipts(); err == nil {
		l.receipts = list
	}
}

func (l *Log) stored() (s state, err error) {
	err = l.view(func(b *bbolt.Bucket) (err error) {
		s, err = parseState(b.Get(stateKey))
		return err
	})
	return s, err
}

// cut asks the fuse of a test whether op fails, and whether it happens all the same; without a fuse it happens.
func (l *Log) cut(op string) (apply bool, err error) {
	if l.fuse == nil {
		return true, nil
	}
	return l.fuse(op)
}

func updateDB(db *bbolt.DB, fn func(*bbolt.Bucket) error) error {
	return guarded(func() error {
		tx, err := db.Begin(true)
		if err != nil {
			return err
		}
		b, err := bucket(tx)
		if err == nil {
			b.FillPercent = fillPercent
			err = fn(b)
		}
		if err != nil {
			return errors.Join(err, tx.Rollback())
		}
		return tx.Commit()
	})
}

func bucket(tx *bbolt.Tx) (*bbolt.Bucket, error) {
	if b := tx.Bucket([]byte(bucketName)); b != nil {
		return b, nil
	}
	if tx.Writable() {
		return tx.CreateBucket([]byte(bucketName))
	}
	return nil, damaged(errors.New("no audit bucket"))
}

// view runs fn in a read transaction.
func (l *Log) view(fn func(*bbolt.Bucket) error) error {
	if l.db == nil {
		return fmt.Errorf("read %s: it is not open: %w", storeName, logging.ErrRetry)
	}
	err := guarded(func() error {
		tx, err := l.db.Begin(false)
		if err != nil {
			return err
		}
		b, err := bucket(tx)
		if err == nil {
			err = fn(b)
		}
		return errors.Join(err, tx.Rollback())
	})
	if err != nil {
		return fmt.Errorf("read %s: %w", storeName, err)
	}
	return nil
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

func receiptKey(r logging.Receipt) []byte { return fmt.Appendf(nil, "s%s+%08x", r.Key, r.KeyHash) }

var stateKey = []byte("t")

func parseRecordKey(k []byte) (index uint64, kind byte, ok bool) {
	if len(k) != 10 || k[0] != 'r' || k[9] > kindHead {
		return 0, 0, false
	}
	return binary.BigEndian.Uint64(k[1:]), k[9], true
}

func leafValue(flags byte, leaf logging.Leaf) []byte {
	if leaf.Shed() {
		flags |= flagShed
	}
	v := make([]byte, 0, 1+logging.HashSize+len(leaf.Body))
	return append(append(append(v, flags), leaf.Hash[:]...), leaf.Body...)
}

// parseLeaf copies a record out of the map and checks its body against the hash kept with it.
func parseLeaf(index uint64, v []byte) (leaf logging.Leaf, flags byte, err error) {
	if len(v) < 1+logging.HashSize {
		return leaf, 0, altered(index, "it is cut off")
	}
	flags = v[0]
	leaf = logging.Leaf{Index: index, Hash: logging.Hash(v[1 : 1+logging.HashSize])}
	body := v[1+logging.HashSize:]
	if flags&flagShed != 0 {
		if len(body) != 0 {
			return leaf, flags, altered(index, "it is marked as shed and has a body")
		}
		return leaf, flags, nil
	}
	leaf.Body = append(make([]byte, 0, len(body)), body...)
	if logging.LeafHash(leaf.Body) != leaf.Hash {
		return leaf, flags, altered(index, "its bytes do not have the hash kept with it")
	}
	return leaf, flags, nil
}

func altered(index uint64, why string) error {
	return damaged(&logging.Refusal{Code: logging.CodeRecordAltered, What: fmt.Sprintf("record %d", index), Why: why})
}

func missing(index uint64) error {
	return damaged(&logging.Refusal{Code: logging.CodeRecordMissing, What: fmt.Sprintf("record %d", index), Why: "it is not in the store"})
}

// eachLeaf calls fn for every record from first to end-1, in order, each checked against its hash.
func eachLeaf(b *bbolt.Bucket, first, end uint64, fn func(leaf logging.Leaf, flags byte) error) error {
	next := first
	c := b.Cursor()
	for k, v := c.Seek(leafKey(first)); next < end; k, v = c.Next() {
		index, kind, ok := parseRecordKey(k)
		if !ok || index > next {
			return missing(next)
		}
		if kind == kindHead {
			continue
		}
		leaf, flags, err := parseLeaf(index, v)
		if err != nil {
			return err
		}
		if err := fn(leaf, flags); err != nil {
			return err
		}
		next++
	}
	return nil
}

// state is what is stored under stateKey: version, epoch, pruned, acked, size, shed, level, then the frontiers at size and
// at pruned, 32 bytes a hash; how many there are follows from the sizes.
type state struct {
	epoch     uint64
	marks     marks
	shed      uint64 // ordinary records before this index have no body any more
	level     uint64 // highest capacity level reported
	tree, min logging.Tree
}

func putState(b *bbolt.Bucket, s state) error {
	v := []byte{stateVersion}
	for _, n := range [...]uint64{s.epoch, s.marks.pruned, s.marks.acked, s.marks.size, s.shed, s.level} {
		v = binary.BigEndian.AppendUint64(v, n)
	}
	for _, t := range [...]logging.Tree{s.tree, s.min} {
		for _, h := range t.Nodes() {
			v = append(v, h[:]...)
		}
	}
	return b.Put(stateKey, v)
}

func parseState(v []byte) (state, error) {
	const fixed = 1 + 6*8
	if len(v) < fixed {
		return state{}, damaged(errors.New("state is cut off"))
	}
	if v[0] != stateVersion {
		return state{}, damaged(&logging.Refusal{Code: logging.CodeUnknownVersion, What: "store", Why: fmt.Sprintf("version %d, this program knows %d", v[0], stateVersion)})
	}
	n := func(i int) uint64 { return binary.BigEndian.Uint64(v[1+8*i:]) }
	s := state{epoch: n(0), marks: marks{n(1), n(2), n(3)}, shed: n(4), level: n(5)}
	if !s.marks.valid() {
		return state{}, damaged(errors.New("positions are out of order"))
	}
	hashes := make([]logging.Hash, 0, len(v)/logging.HashSize)
	for rest := v[fixed:]; len(rest) >= logging.HashSize; rest = rest[logging.HashSize:] {
		hashes = append(hashes, logging.Hash(rest[:logging.HashSize]))
	}
	var err error
	for at := 0; at <= len(hashes); at++ {
		if s.tree, err = logging.NewTree(s.marks.size, hashes[:at]); err == nil {
			s.min, err = logging.NewTree(s.marks.pruned, hashes[at:])
			break
		}
	}
	if err != nil || len(v) != fixed+len(hashes)*logging.HashSize {
		return state{}, damaged(errors.New("frontiers do not belong to the positions"))
	}
	return s, nil
}
