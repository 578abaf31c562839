// SPDX-License-Identifier: Apache-2.0

package collect_test

import (
	"encoding/binary"
	"errors"
	"path/filepath"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/logging/collect"
)

// TestStoreTampering edits the file as somebody could who runs the collector, and verifies it as an outsider does.
func TestStoreTampering(t *testing.T) {
	key := func(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }
	for name, tc := range map[string]struct {
		code string
		edit func(leaf, note *bbolt.Bucket) error
	}{
		"edited body": {logging.CodeRecordAltered, func(leaf, _ *bbolt.Bucket) error {
			v := append([]byte(nil), leaf.Get(key(7))...)
			v[len(v)-5] ^= 1
			return leaf.Put(key(7), v)
		}},
		"edited body and hash": {logging.CodeRootMismatch, func(leaf, _ *bbolt.Bucket) error {
			h := logging.LeafHash([]byte("{}"))
			return leaf.Put(key(7), append(h[:], 0, '{', '}'))
		}},
		"removed record":    {logging.CodeRecordMissing, func(leaf, _ *bbolt.Bucket) error { return leaf.Delete(key(7)) }},
		"shed by collector": {"", func(leaf, _ *bbolt.Bucket) error { return leaf.Put(key(7), append(leaf.Get(key(7))[:32:32], 1)) }},
		"swapped records": {logging.CodeRecordMoved, func(leaf, _ *bbolt.Bucket) error {
			a, b := append([]byte(nil), leaf.Get(key(7))...), append([]byte(nil), leaf.Get(key(8))...)
			return errors.Join(leaf.Put(key(7), b), leaf.Put(key(8), a))
		}},
		"cut tail": {logging.CodeTruncated, func(leaf, note *bbolt.Bucket) error {
			for i := uint64(10); i < 20; i++ {
				if err := leaf.Delete(key(i)); err != nil {
					return err
				}
			}
			return errors.Join(note.Delete(append(key(20), 'c')), note.Delete(append(key(20), 'r')))
		}},
		"swapped checkpoint": {logging.CodeBadCheckpoint, func(_, note *bbolt.Bucket) error {
			return note.Put(append(key(10), 'c'), note.Get(append(key(10), 'r')))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			d := newDevice(t)
			d.append(20)
			f.ingest(t, d.id(), encode(t, d.batch(0, 10)))
			f.ingest(t, d.id(), encode(t, d.batch(10, 20)))
			f.store.Close()
			db, err := bbolt.Open(filepath.Join(f.dir, "collect.db"), 0o600, nil)
			if err != nil {
				t.Fatal(err)
			}
			err = db.Update(func(tx *bbolt.Tx) error {
				b := tx.Bucket([]byte("logs")).Bucket(append([]byte(d.id()), key(1)...))
				return tc.edit(b.Bucket([]byte("leaf")), b.Bucket([]byte("note")))
			})
			if err := errors.Join(err, db.Close()); err != nil {
				t.Fatal(err)
			}
			store, err := collect.OpenReadOnly(f.dir)
			if err != nil {
				t.Fatal(err)
			}
			defer store.Close()
			h, items, err := store.Evidence(t.Context(), d.origin, 0)
			if err != nil {
				t.Fatal(err)
			}
			rep, err := logging.Verify(t.Context(), h, items, logging.Expect{Policy: f.policy})
			var r *logging.Refusal
			switch {
			case tc.code == "" && (err != nil || len(rep.Shed) != 1):
				t.Errorf("a dropped body must show as a hole: %+v, %v", rep, err)
			case tc.code != "" && (!errors.As(err, &r) || r.Code != tc.code):
				t.Errorf("%v, want %s", err, tc.code)
			}
		})
	}
}
