// SPDX-License-Identifier: Apache-2.0

package collect

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"github.com/backstay/backstay/logging"
)

// Layout of collect.db, schemas 1 and 2. Numbers in keys are 64 bit big-endian, so that keys sort as numbers do.
//
//	meta      "schema" -> 1; 2 once a device has sent a subtree
//	logs      device id, epoch -> bucket { head -> headJSON, leaf { index -> hash, kind, body }, note { size, kind -> note } }
//	alarms    device id, 0, origin, 0, code -> Alarm as JSON
//	messages  SHA-256 -> message kept as evidence
//
// A subtree of records that a device shed as one stands at the index of the first of them.
//
// A leaf is stored with its hash although the hash follows from the body: an edited body then names itself.
var (
	bucketMeta     = []byte("meta")
	bucketLogs     = []byte("logs")
	bucketAlarms   = []byte("alarms")
	bucketMessages = []byte("messages")
	bucketLeaf     = []byte("leaf")
	bucketNote     = []byte("note")
	keySchema      = []byte("schema")
	keyHead        = []byte("head")
)

const (
	storeSchema    = 1
	treeSchema     = 2 // there are leaves of kind leafTree
	storeFile      = "collect.db"
	lockTimeout    = 3 * time.Second
	mmapSize       = 1 << 30
	leafBody       = 0
	leafShed       = 1
	leafSided      = 2 // length of the side record (2 bytes), side record, body
	leafTree       = 3 // level (1 byte)
	noteCheckpoint = 'c'
	noteReceipt    = 'r'
)

// Bolt is the [Store] and [Reader] of one machine: one bbolt file, one process. Concurrent writes share a commit, so many
// devices cost few syncs.
type Bolt struct {
	db    *bbolt.DB
	lead  sync.Mutex // held by the caller that commits for all
	mu    sync.Mutex
	queue []*write

	temporary string // directory to remove on Close
}

type headJSON struct {
	Size       uint64    `json:"size"`
	Root       []byte    `json:"root"`
	Nodes      [][]byte  `json:"nodes"`
	SPKI       []byte    `json:"spki"`
	Checkpoint []byte    `json:"checkpoint"`
	Receipt    []byte    `json:"receipt"`
	First      time.Time `json:"first"`
	Seen       time.Time `json:"seen"`
	Shed       uint64    `json:"shed"`
}

// Open opens the store in dir, creating it when there is none. Errors match logging.ErrRetry when another process has it,
// logging.ErrSetup when a newer program wrote it.
func Open(dir string) (*Bolt, error) { return open(dir, false) }

// OpenReadOnly opens an existing store for verification and reports. It does not change the file.
func OpenReadOnly(dir string) (*Bolt, error) { return open(dir, true) }

func open(dir string, readOnly bool) (*Bolt, error) {
	path := filepath.Join(dir, storeFile)
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) && !readOnly {
		if err := createStore(path); err != nil {
			return nil, fmt.Errorf("create store %s: %w", path, err)
		}
	} else if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	db, err := openBolt(path, readOnly)
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", path, err)
	}
	s := &Bolt{db: db}
	err = guard(func() error {
		return db.View(func(tx *bbolt.Tx) error {
			m := tx.Bucket(bucketMeta)
			if m == nil {
				return fmt.Errorf("not a collector store: %w", logging.ErrSetup)
			}
			if v := m.Get(keySchema); len(v) != 8 || binary.BigEndian.Uint64(v) < storeSchema || binary.BigEndian.Uint64(v) > treeSchema {
				return fmt.Errorf("schema %x, this program knows %d: %w", v, treeSchema, logging.ErrSetup)
			}
			return nil
		})
	})
	if err != nil {
		db.Close() //nolint:errcheck // being given up
		return nil, fmt.Errorf("open store %s: %w", path, err)
	}
	return s, nil
}

func openBolt(path string, readOnly bool) (db *bbolt.DB, err error) {
	err = guard(func() error {
		db, err = bbolt.Open(path, 0o600, &bbolt.Options{
			Timeout: lockTimeout, ReadOnly: readOnly,
			// Address space, not memory: without it a growing file waits for the reader of a long copy to finish.
			InitialMmapSize: mmapSize,
			// The list of free pages is kept in the file: without it bbolt makes it by walking the file in a goroutine of its
			// own, where a damaged page is a panic that guard cannot catch.
			FreelistType: bbolt.FreelistMapType,
		})
		return err
	})
	if errors.Is(err, bbolt.ErrTimeout) {
		return nil, fmt.Errorf("another process holds it: %w", logging.ErrRetry)
	}
	return db, err
}

// createStore makes the file under another name first: bbolt's own initialisation is not safe against a power cut.
func createStore(path string) error {
	tmp := path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	db, err := openBolt(tmp, false)
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, name := range [][]byte{bucketMeta, bucketLogs, bucketAlarms, bucketMessages} {
			if _, err := tx.CreateBucket(name); err != nil {
				return err
			}
		}
		return tx.Bucket(bucketMeta).Put(keySchema, be64(storeSchema))
	})
	if e := db.Close(); err == nil {
		err = e
	}
	if err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// Close waits for running transactions and releases the file.
func (s *Bolt) Close() error {
	err := s.db.Close()
	if s.temporary != "" {
		err = errors.Join(err, os.RemoveAll(s.temporary))
	}
	return err
}

// guard turns a fault in a damaged or truncated mapping, and bbolt's panics about damaged pages, into an error.
func guard(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("store is damaged: %v", r)
		}
	}()
	return fn()
}

func (s *Bolt) view(ctx context.Context, fn func(*bbolt.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return guard(func() error { return s.db.View(fn) })
}

func be64(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func logKey(o logging.Origin) []byte { return append([]byte(o.Device), be64(o.Epoch)...) }

func logBucket(tx *bbolt.Tx, o logging.Origin) *bbolt.Bucket {
	return tx.Bucket(bucketLogs).Bucket(logKey(o))
}

// Log implements [Store].
func (s *Bolt) Log(ctx context.Context, o logging.Origin) (log Log, err error) {
	err = s.view(ctx, func(tx *bbolt.Tx) error {
		b := logBucket(tx, o)
		if b == nil {
			return ErrUnknown
		}
		log, err = readHead(o, b.Get(keyHead))
		return err
	})
	return log, err
}

func readHead(o logging.Origin, v []byte) (Log, error) {
	var j headJSON
	if err := json.Unmarshal(v, &j); err != nil {
		return Log{}, fmt.Errorf("read head of %s: %w", o, err)
	}
	nodes := make([]logging.Hash, len(j.Nodes))
	for i, n := range j.Nodes {
		if len(n) != logging.HashSize {
			return Log{}, fmt.Errorf("read head of %s: not a hash", o)
		}
		nodes[i] = logging.Hash(n)
	}
	tree, err := logging.NewTree(j.Size, nodes)
	if err != nil {
		return Log{}, fmt.Errorf("read head of %s: %w", o, err)
	}
	if root := tree.Root(); !bytes.Equal(root[:], j.Root) {
		return Log{}, fmt.Errorf("read head of %s: stored frontier and root differ: store is damaged", o)
	}
	return Log{Head: logging.Head{Origin: o, Tree: tree}, SPKI: j.SPKI, Checkpoint: j.Checkpoint, Receipt: j.Receipt,
		First: j.First, Seen: j.Seen, Shed: j.Shed}, nil
}

// Newest implements [Store].
func (s *Bolt) Newest(ctx context.Context, device string) (o logging.Origin, err error) {
	err = s.view(ctx, func(tx *bbolt.Tx) error {
		c := tx.Bucket(bucketLogs).Cursor()
		k, _ := c.Seek(append([]byte(device), 0xff))
		if k == nil {
			k, _ = c.Last()
		} else {
			k, _ = c.Prev()
		}
		if len(k) != len(device)+8 || string(k[:len(device)]) != device {
			return ErrUnknown
		}
		o = logging.Origin{Device: device, Epoch: binary.BigEndian.Uint64(k[len(device):])}
		return nil
	})
	return o, err
}

// Append implements [Store].
func (s *Bolt) Append(ctx context.Context, c Commit) error {
	return s.update(ctx, func(tx *bbolt.Tx) error {
		old, err := current(tx, c.Base)
		if err != nil {
			return err
		}
		b, err := tx.Bucket(bucketLogs).CreateBucketIfNotExists(logKey(c.Next.Origin))
		if err != nil {
			return err
		}
		shed, joined, err := putLeaves(b, c.Leaves)
		if err == nil && joined {
			err = tx.Bucket(bucketMeta).Put(keySchema, be64(treeSchema))
		}
		if err != nil {
			return err
		}
		size := c.Next.Tree.Size()
		notes, err := b.CreateBucketIfNotExists(bucketNote)
		if err != nil {
			return err
		}
		notes.FillPercent = 0.95
		if err := notes.Put(append(be64(size), noteCheckpoint), c.Checkpoint); err != nil {
			return err
		}
		if err := notes.Put(append(be64(size), noteReceipt), c.Receipt); err != nil {
			return err
		}
		root := c.Next.Tree.Root()
		j := headJSON{Size: size, Root: root[:], SPKI: c.SPKI, Checkpoint: c.Checkpoint, Receipt: c.Receipt,
			First: old.First, Seen: c.Time, Shed: old.Shed + shed}
		if j.First.IsZero() {
			j.First = c.Time
		}
		for _, n := range c.Next.Tree.Nodes() {
			j.Nodes = append(j.Nodes, n[:])
		}
		v, err := json.Marshal(j)
		if err != nil {
			return err
		}
		return b.Put(keyHead, v)
	})
}

// current returns the stored log if it is at base.
func current(tx *bbolt.Tx, base logging.Head) (Log, error) {
	b := logBucket(tx, base.Origin)
	if b == nil {
		if base.Tree.Size() != 0 {
			return Log{}, ErrConflict
		}
		return Log{}, nil
	}
	old, err := readHead(base.Origin, b.Get(keyHead))
	if err != nil {
		return Log{}, err
	}
	if old.Head.Tree.Size() != base.Tree.Size() || old.Head.Tree.Root() != base.Tree.Root() {
		return Log{}, ErrConflict
	}
	return old, nil
}

func putLeaves(b *bbolt.Bucket, leaves []logging.Leaf) (shed uint64, joined bool, err error) {
	lb, err := b.CreateBucketIfNotExists(bucketLeaf)
	if err != nil {
		return 0, false, err
	}
	lb.FillPercent = 0.95 // keys only ever grow
	for _, l := range leaves {
		if l.Shed() {
			shed += l.Count()
		}
		joined = joined || l.Level > 0
		if err := lb.Put(be64(l.Index), leafBytes(l)); err != nil {
			return 0, false, err
		}
	}
	return shed, joined, nil
}

// leafBytes is the inverse of leafValue.
func leafBytes(l logging.Leaf) []byte {
	v := append(make([]byte, 0, logging.HashSize+3+len(l.Side)+len(l.Body)), l.Hash[:]...)
	switch {
	case l.Shed() && l.Level > 0:
		return append(v, leafTree, l.Level)
	case l.Shed():
		return append(v, leafShed)
	case l.Side != nil:
		v = append(binary.BigEndian.AppendUint16(append(v, leafSided), uint16(len(l.Side))), l.Side...)
		return append(v, l.Body...)
	}
	return append(append(v, leafBody), l.Body...)
}

// Raise implements [Store].
func (s *Bolt) Raise(ctx context.Context, a Alarm, evidence []byte) error {
	return s.update(ctx, func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketAlarms)
		key := []byte(a.Device + "\x00" + a.Origin + "\x00" + a.Code)
		next := a
		if v := b.Get(key); v != nil {
			if err := json.Unmarshal(v, &next); err != nil {
				return fmt.Errorf("read alarm: %w", err)
			}
			next.What, next.Last, next.Level = a.What, a.Last, a.Level
		} else {
			next.First, next.Count, next.Evidence = a.Last, 0, []string{}
		}
		next.Count++
		if evidence != nil && len(next.Evidence) < MaxEvidence {
			sum := sha256.Sum256(evidence)
			if name := hex.EncodeToString(sum[:]); !slices.Contains(next.Evidence, name) {
				next.Evidence = append(next.Evidence, name)
				if err := tx.Bucket(bucketMessages).Put(sum[:], evidence); err != nil {
					return err
				}
			}
		}
		v, err := json.Marshal(next)
		if err != nil {
			return err
		}
		return b.Put(key, v)
	})
}
