// SPDX-License-Identifier: Apache-2.0

package spool_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/logging/spool"
)

// keys is what an intruder with time works on: the store as bbolt keeps it, record keys and all. The segment store is read
// into a map and written as one segment with every CRC right.
type keys interface {
	Get(key []byte) []byte
	Put(key, value []byte) error
	Delete(key []byte) error
}

type keyMap map[string][]byte

func (m keyMap) Get(k []byte) []byte   { return m[string(k)] }
func (m keyMap) Put(k, v []byte) error { m[string(k)] = v; return nil }
func (m keyMap) Delete(k []byte) error { delete(m, string(k)); return nil }

// edit changes the closed store.
func edit(t *testing.T, b *bench, fn func(keys) error) {
	t.Helper()
	if b.cfg.Store == spool.StoreSegments {
		editSegments(t, b, fn)
		return
	}
	db, err := bbolt.Open(filepath.Join(b.cfg.Dir, "audit.db"), 0o600, &bbolt.Options{Timeout: time.Second, NoFreelistSync: true})
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(db.Update(func(tx *bbolt.Tx) error { return fn(tx.Bucket([]byte("audit"))) }), db.Close())
	if err != nil {
		t.Fatal(err)
	}
}

func editSegments(t *testing.T, b *bench, fn func(keys) error) {
	t.Helper()
	m := keyMap{}
	for _, path := range b.files() {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := spool.SegmentKeys(data, m); err != nil {
			t.Fatal(err)
		}
	}
	if err := fn(m); err != nil {
		t.Fatal(err)
	}
	files := b.files()
	for _, path := range files[1:] {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(files[0], spool.KeysSegment(m), 0o600); err != nil {
		t.Fatal(err)
	}
}

func key(index uint64, kind byte) []byte {
	return append(binary.BigEndian.AppendUint64([]byte{'r'}, index), kind)
}

func value(index uint64, epoch uint64, device string) []byte {
	body := logging.EncodeLeaf(logging.Origin{Device: device, Epoch: epoch}, index, time.Now(), ordinary(666))
	h := logging.LeafHash(body)
	return append(append([]byte{0}, h[:]...), body...)
}

// TestStoreEdits: what an intruder may do to the closed file, and why the log begins anew at the next start.
func TestStoreEdits(t *testing.T) { eachStoreNative(t, testStoreEdits) }

func testStoreEdits(t *testing.T) {
	for _, tc := range []struct {
		name, reason string
		known        uint64 // size of the last checkpoint that can still be known
		edit         func(*bench, logging.Origin) func(keys) error
	}{
		{"edited with its hash", logging.CodeRootMismatch, 65, func(_ *bench, o logging.Origin) func(keys) error {
			return func(b keys) error { return b.Put(key(70, 0), value(70, 1, o.Device)) }
		}},
		{"body cut", logging.CodeRecordAltered, 65, func(*bench, logging.Origin) func(keys) error {
			return func(b keys) error { return b.Put(key(70, 0), []byte{0, 1, 2}) }
		}},
		{"marked as shed", logging.CodeRecordAltered, 65, func(*bench, logging.Origin) func(keys) error {
			return func(b keys) error {
				v := bytes.Clone(b.Get(key(70, 0)))
				v[0] = 2
				return b.Put(key(70, 0), v)
			}
		}},
		{"removed", logging.CodeRecordMissing, 65, func(*bench, logging.Origin) func(keys) error {
			return func(b keys) error { return b.Delete(key(70, 0)) }
		}},
		{"reordered", logging.CodeRootMismatch, 65, func(*bench, logging.Origin) func(keys) error {
			return func(b keys) error {
				x, y := bytes.Clone(b.Get(key(70, 0))), bytes.Clone(b.Get(key(71, 0)))
				return errors.Join(b.Put(key(70, 0), y), b.Put(key(71, 0), x))
			}
		}},
		{"tail removed", logging.CodeRecordMissing, 301, func(*bench, logging.Origin) func(keys) error {
			return func(b keys) error { return b.Delete(key(309, 0)) }
		}},
		{"record added", logging.CodeRecordMissing, 311, func(_ *bench, o logging.Origin) func(keys) error {
			return func(b keys) error { return b.Put(key(311, 0), value(311, 1, o.Device)) }
		}},
		{"checkpoint forged", logging.CodeBadCheckpoint, 0, func(*bench, logging.Origin) func(keys) error {
			return func(b keys) error {
				v := bytes.Clone(b.Get(key(310, 1)))
				v[len(v)-20] ^= 1
				return b.Put(key(310, 1), v)
			}
		}},
		{"checkpoint moved", logging.CodeDamaged, 65, func(*bench, logging.Origin) func(keys) error {
			return func(b keys) error { return b.Put(key(70, 1), bytes.Clone(b.Get(key(310, 1)))) }
		}},
		{"checkpoint is text", logging.CodeMalformed, 65, func(*bench, logging.Origin) func(keys) error {
			return func(b keys) error { return b.Put(key(70, 1), []byte("trust me")) }
		}},
		{"state removed", logging.CodeDamaged, 0, func(*bench, logging.Origin) func(keys) error {
			return func(b keys) error { return b.Delete([]byte("t")) }
		}},
		{"state cut", logging.CodeDamaged, 0, func(*bench, logging.Origin) func(keys) error {
			return func(b keys) error { return b.Put([]byte("t"), []byte{1, 2}) }
		}},
		{"state of next version", logging.CodeUnknownVersion, 0, func(*bench, logging.Origin) func(keys) error {
			return func(b keys) error {
				v := bytes.Clone(b.Get([]byte("t")))
				v[0] = 4
				return b.Put([]byte("t"), v)
			}
		}},
		{"positions out of order", logging.CodeDamaged, 0, func(*bench, logging.Origin) func(keys) error {
			return func(b keys) error {
				v := bytes.Clone(b.Get([]byte("t")))
				binary.BigEndian.PutUint64(v[1+2*8:], 1<<40) // acked
				return b.Put([]byte("t"), v)
			}
		}},
		{"frontier edited", logging.CodeRootMismatch, 311, func(*bench, logging.Origin) func(keys) error {
			return func(b keys) error {
				v := bytes.Clone(b.Get([]byte("t")))
				v[len(v)-1] ^= 1
				return b.Put([]byte("t"), v)
			}
		}},
		{"older than its own receipt", logging.CodeTruncated, 311, func(bn *bench, o logging.Origin) func(keys) error {
			return func(b keys) error {
				note, err := bn.signer.Sign(logging.Checkpoint{Origin: o, Size: 400}, time.Now())
				k := bn.signer.Key().String()
				return errors.Join(err, b.Put([]byte("s"+k[:len("collector.example")+9]), note))
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBench(t)
			l := b.open()
			fillLog(t, l, 300)
			fillLog(t, l, 10)
			origin := l.State().Origin
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			edit(t, b, tc.edit(b, origin))
			wantNewEpoch(t, b, b.open(), tc.reason, tc.known)
		})
	}
}
