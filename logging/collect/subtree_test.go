// SPDX-License-Identifier: Apache-2.0

package collect_test

import (
	"errors"
	"path/filepath"
	"slices"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/logging/collect"
)

// Subtrees of shed records are stored, found and exported as what they are: exact ranges of indices.
func TestSubtreesOfShedRecords(t *testing.T) {
	f := newFixture(t)
	d := newDevice(t)
	d.append(700)
	b := d.batch(0, 200)
	b.Leaves = d.joined(t, b.Leaves, 8, 3)
	b.Leaves = d.joined(t, b.Leaves, 64, 6)
	if res := f.ingest(t, d.id(), encode(t, b)); res.Alarm != nil || res.Size != 200 || res.Stored != 200 {
		t.Fatalf("%+v", res)
	}
	if res := f.ingest(t, d.id(), encode(t, b)); res.Alarm != nil || res.Size != 200 || res.Stored != 0 {
		t.Fatalf("the same again: %+v", res)
	}
	more := d.batch(100, 400) // a device that sent some of it before, and shed more since
	more.Start, more.Leaves = 64, d.joined(t, append(slices.Clone(d.leaves[64:100]), more.Leaves...), 64, 6)
	if res := f.ingest(t, d.id(), encode(t, more)); res.Alarm != nil || res.Size != 400 || res.Stored != 200 {
		t.Fatalf("%+v", res)
	}
	more = d.batch(400, 700)
	more.Leaves = d.joined(t, more.Leaves, 512, 7)
	if res := f.ingest(t, d.id(), encode(t, more)); res.Alarm != nil || res.Size != 700 || res.Stored != 300 {
		t.Fatalf("%+v", res)
	}
	want := []logging.Range{{First: 8, Last: 15}, {First: 64, Last: 127}, {First: 512, Last: 639}}
	if rep := f.verify(t, d.origin); !slices.Equal(rep.Shed, want) || rep.Records != 700-8-64-128 || rep.Size != 700 {
		t.Errorf("report %+v", rep)
	}
	if dev, err := f.store.Device(t.Context(), d.id()); err != nil || dev.Logs[0].Shed != 8+64+128 || dev.Size != 700 {
		t.Errorf("device %+v, %v", dev, err)
	}
	for _, from := range []uint64{0, 7, 8, 9, 63, 64, 100, 127, 128, 200, 511, 512, 600, 639, 640, 699} {
		for l, err := range f.store.Records(t.Context(), d.origin, from) {
			if err != nil || l.Index > from || l.End() <= from {
				t.Errorf("from %d: records %d to %d, %v", from, l.Index, l.End()-1, err)
			}
			break
		}
		_, _, err := f.store.Evidence(t.Context(), d.origin, from)
		inside := slices.ContainsFunc(want, func(r logging.Range) bool { return r.First < from && from <= r.Last })
		if inside != (err != nil) || inside && !errors.Is(err, collect.ErrUnknown) {
			t.Errorf("evidence from %d: %v", from, err)
		}
	}
	// A device that shed on both sides of what it sent has forgotten that it did: evidence, and no receipt.
	d.append(68)
	back := d.batch(640, 768)
	back.Leaves = d.joined(t, back.Leaves, 640, 7)
	if res := f.ingest(t, d.id(), encode(t, back)); res.Alarm == nil || res.Alarm.Code != logging.CodeRolledBack || res.Alarm.Level != collect.Critical || res.Receipt != nil {
		t.Errorf("%+v", res)
	}
	// The store says that it has them, to programs that would not know.
	f.store.Close()
	db, err := bbolt.Open(filepath.Join(f.dir, "collect.db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.View(func(tx *bbolt.Tx) error {
		if v := tx.Bucket([]byte("meta")).Get([]byte("schema")); len(v) != 8 || v[7] != 2 {
			t.Errorf("schema %x", v)
		}
		return nil
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	s, err := collect.OpenReadOnly(f.dir)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
}

// joined replaces leaves by their subtree.
func (d *device) joined(t *testing.T, leaves []logging.Leaf, first uint64, level uint8) []logging.Leaf {
	t.Helper()
	var tree logging.Tree
	for _, l := range d.leaves[first : first+1<<level] {
		tree.Append(l.Hash)
	}
	i := slices.IndexFunc(leaves, func(l logging.Leaf) bool { return l.Index == first })
	if i < 0 {
		t.Fatalf("record %d is not there", first)
	}
	return slices.Replace(slices.Clone(leaves), i, i+1<<level, logging.Leaf{Index: first, Level: level, Hash: tree.Root()})
}
