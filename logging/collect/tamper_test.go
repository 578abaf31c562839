// SPDX-License-Identifier: Apache-2.0

package collect_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"flag"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/logging/collect"
	"github.com/backstay/backstay/logging/spool"
)

var update = flag.Bool("update", false, "rewrite the table in docs/audit.md")

// scene is a device, its collector and a third party, before an attack: 21 records with receipts, the last of which the third
// party has seen, and 10 more that only the device has.
type scene struct {
	*fixture
	dir      string
	key      *ecdsa.PrivateKey
	signer   *logging.CheckpointSigner
	log      *spool.Log
	origin   logging.Origin
	old      string // copy of the store as it was after the first receipt
	receipts [][]byte
	known    logging.Checkpoint // what the third party has seen
	leaves   []logging.Leaf
	head     []byte // signed by the device, over all of them
}

func newScene(t *testing.T) *scene {
	t.Helper()
	s := &scene{fixture: newFixture(t), dir: t.TempDir(), old: t.TempDir()}
	var err error
	if s.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	if s.signer, err = logging.NewCheckpointSigner(s.key); err != nil {
		t.Fatal(err)
	}
	s.open(t)
	s.origin = s.log.State().Origin
	s.emit(t, 10)
	s.ship(t)
	s.log.Close()
	if err := os.CopyFS(s.old, os.DirFS(s.dir)); err != nil {
		t.Fatal(err)
	}
	s.open(t)
	s.emit(t, 10)
	s.ship(t)
	if s.known, err = logging.OpenCheckpoint(s.log.Checkpoint(), s.signer.SPKI()); err != nil {
		t.Fatal(err)
	}
	s.emit(t, 10)
	for l, err := range s.log.From(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		s.leaves = append(s.leaves, l)
	}
	s.head = s.log.Checkpoint()
	if len(s.leaves) != 31 || s.known.Size != 21 || len(s.receipts) != 2 {
		t.Fatalf("%d records, %d seen, %d receipts", len(s.leaves), s.known.Size, len(s.receipts))
	}
	return s
}

func (s *scene) open(t *testing.T) {
	t.Helper()
	var err error
	if s.log, err = spool.Open(spool.Config{Dir: s.dir, Key: s.key, Policy: s.policy, Store: spool.StoreBolt}); err != nil {
		t.Fatal(err)
	}
	log := s.log
	t.Cleanup(func() { log.Close() })
}

func (s *scene) emit(t *testing.T, n int) {
	t.Helper()
	for range n {
		if err := s.log.Append(t.Context(), logging.Event{Code: "auth.ok", Subject: "root", Message: "logged in"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.log.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// ship sends what has no receipt, and takes the receipts.
func (s *scene) ship(t *testing.T) {
	t.Helper()
	for st := s.log.State(); st.Acked < st.Size; st = s.log.State() {
		b, err := s.log.Batch(t.Context(), st.Acked)
		if err != nil {
			t.Fatal(err)
		}
		res := s.ingest(t, s.origin.Device, encode(t, b))
		if res.Receipt == nil {
			t.Fatalf("no receipt: %+v", res.Alarm)
		}
		if err := s.log.Receipt(t.Context(), res.Receipt); err != nil {
			t.Fatal(err)
		}
		s.receipts = append(s.receipts, res.Receipt)
	}
}

// onFlash changes the closed store of the device and returns what the device says at its next start.
func (s *scene) onFlash(t *testing.T, edit func(b *bbolt.Bucket) error) string {
	t.Helper()
	s.log.Close()
	db, err := bbolt.Open(filepath.Join(s.dir, "audit.db"), 0o600, &bbolt.Options{NoFreelistSync: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.Update(func(tx *bbolt.Tx) error { return edit(tx.Bucket([]byte("audit"))) }), db.Close()); err != nil {
		t.Fatal(err)
	}
	s.open(t)
	return s.device(t)
}

// device returns why the device began a new log; "" when it did not.
func (s *scene) device(t *testing.T) string {
	t.Helper()
	if s.log.State().Origin == s.origin {
		if _, err := s.log.Verify(t.Context()); err != nil {
			return refusal(err)
		}
		return ""
	}
	for l, err := range s.log.From(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		r, err := l.Decode()
		if err != nil {
			t.Fatal(err)
		}
		reason, _ := r.Attr("reason")
		return reason
	}
	return ""
}

// takes returns how the device refuses a receipt; "" when it takes it or it moves nothing.
func (s *scene) takes(t *testing.T, note []byte) string {
	t.Helper()
	before := s.log.State().Acked
	err := s.log.Receipt(t.Context(), note)
	if after := s.log.State(); after.Origin == s.origin && after.Acked != before {
		t.Errorf("the cursor moved from %d to %d", before, after.Acked)
	}
	return refusal(err)
}

// sent returns what the collector says to records that an agent under the attacker's control sends with this checkpoint.
func (s *scene) sent(t *testing.T, leaves []logging.Leaf, from int, head []byte) string {
	t.Helper()
	b := logging.Batch{SPKI: s.signer.SPKI(), Origin: s.origin, Start: uint64(from), Leaves: leaves[from:], Checkpoint: head}
	msg, err := logging.EncodeBatch(b)
	if err != nil {
		t.Fatal(err)
	}
	res := s.ingest(t, s.origin.Device, msg)
	if res.Alarm == nil {
		return ""
	}
	if res.Receipt != nil || res.Stored > 0 {
		t.Errorf("what raised %s was stored or got a receipt", res.Alarm.Code)
	}
	return res.Alarm.Code
}

// alarms returns the codes of the collector's alarms about the device.
func (s *scene) alarms(t *testing.T) string {
	t.Helper()
	all, err := s.store.Alarms(t.Context(), s.origin.Device)
	if err != nil {
		t.Fatal(err)
	}
	var codes []string
	for _, a := range all {
		codes = append(codes, a.Code)
	}
	return strings.Join(codes, ", ")
}

// exported returns what a third party says, who has a file, the receipt key and the head it saw.
func (s *scene) exported(t *testing.T, leaves []logging.Leaf, notes ...logging.Item) string {
	t.Helper()
	var items []logging.Item
	for i := range leaves {
		items = append(items, logging.Item{Leaf: &leaves[i]})
	}
	return s.verified(t, append(items, notes...))
}

func (s *scene) verified(t *testing.T, items []logging.Item) string {
	t.Helper()
	_, err := s.verify(t, items)
	return refusal(err)
}

// report is what a third party finds in all records.
func (s *scene) report(t *testing.T, leaves []logging.Leaf) (logging.Report, error) {
	t.Helper()
	var items []logging.Item
	for i := range leaves {
		items = append(items, logging.Item{Leaf: &leaves[i]})
	}
	return s.verify(t, append(items, logging.Item{Checkpoint: s.head}))
}

// unnamed is what a report says about records that are not there without a record of the device about it.
func unnamed(r logging.Report, err error) string {
	if err == nil && r.Unnamed > 0 && len(r.Shed) > 0 {
		return "unnamed"
	}
	return refusal(err)
}

func (s *scene) verify(t *testing.T, items []logging.Item) (rep logging.Report, err error) {
	t.Helper()
	h := logging.Header{SPKI: s.signer.SPKI(), Origin: s.origin}
	var file bytes.Buffer
	if err := logging.WriteExport(&file, h, sequence(items)); err != nil {
		t.Fatal(err)
	}
	h, read, err := logging.ReadExport(&file)
	if err == nil {
		rep, err = logging.Verify(t.Context(), h, read, logging.Expect{Device: s.origin.Device, Policy: s.policy, Head: &s.known})
	}
	return rep, err
}

func sequence(items []logging.Item) iter.Seq2[logging.Item, error] {
	return func(yield func(logging.Item, error) bool) {
		for _, it := range items {
			if !yield(it, nil) {
				return
			}
		}
	}
}

// sign makes the device's key sign any leaves, as an intruder with root can have it do.
func (s *scene) sign(t *testing.T, leaves []logging.Leaf) []byte {
	t.Helper()
	var tree logging.Tree
	for _, l := range leaves {
		if err := tree.AppendSubtree(l.Level, l.Hash); err != nil {
			t.Fatal(err)
		}
	}
	note, err := s.signer.Sign(logging.Checkpoint{Origin: s.origin, Size: tree.Size(), Root: tree.Root()})
	if err != nil {
		t.Fatal(err)
	}
	return note
}

// receiptFor is a receipt of any key about anything.
func (s *scene) receiptFor(t *testing.T, key *logging.ReceiptSigner, c logging.Checkpoint) []byte {
	t.Helper()
	note, err := key.Sign(c, s.now)
	if err != nil {
		t.Fatal(err)
	}
	return note
}

// whole is the checkpoint over all records.
func (s *scene) whole(t *testing.T) logging.Checkpoint {
	t.Helper()
	c, err := logging.OpenCheckpoint(s.head, s.signer.SPKI())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// edited are all records with one changed: its bytes, and its hash too when rehash is set.
func (s *scene) edited(index int, rehash bool) []logging.Leaf {
	out := slices.Clone(s.leaves)
	out[index].Body = bytes.Replace(out[index].Body, []byte("logged in"), []byte("logged on"), 1)
	if rehash {
		out[index].Hash = logging.LeafHash(out[index].Body)
	}
	return out
}

// joined are all records, with one subtree as if it had been shed.
func (s *scene) joined(first int, level uint8) []logging.Leaf {
	var tree logging.Tree
	for _, l := range s.leaves[first : first+1<<level] {
		tree.Append(l.Hash)
	}
	return slices.Replace(slices.Clone(s.leaves), first, first+1<<level, logging.Leaf{Index: uint64(first), Level: level, Hash: tree.Root()})
}

// without are all records but one.
func (s *scene) without(index int) []logging.Leaf {
	return slices.Delete(slices.Clone(s.leaves), index, index+1)
}

func (s *scene) swapped(a, b int) []logging.Leaf {
	out := slices.Clone(s.leaves)
	out[a], out[b] = out[b], out[a]
	out[a].Index, out[b].Index = uint64(a), uint64(b)
	return out
}

// renamed are all records with the personal value beside one changed.
func (s *scene) renamed(index int) []logging.Leaf {
	out := slices.Clone(s.leaves)
	out[index].Side = bytes.Replace(out[index].Side, []byte("root"), []byte("joe!"), 1)
	return out
}

func recordKey(index int) []byte {
	return append(binary.BigEndian.AppendUint64([]byte{'r'}, uint64(index)), 0)
}

// recordValue is a record as the device's store keeps it.
func recordValue(l logging.Leaf) []byte {
	const withSide = 8
	v := append([]byte{withSide}, l.Hash[:]...)
	v = append(binary.BigEndian.AppendUint16(v, uint16(len(l.Side))), l.Side...)
	return append(v, l.Body...)
}

func refusal(err error) string {
	var r *logging.Refusal
	if errors.As(err, &r) {
		return r.Code
	}
	if err != nil {
		return err.Error()
	}
	return ""
}

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
