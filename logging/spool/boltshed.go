// SPDX-License-Identifier: Apache-2.0

package spool

import (
	"bytes"

	"go.etcd.io/bbolt"
)

// fold drops the bodies of a span of records and joins what is left, with what is left of those before.
func (c *change) fold(b *bbolt.Bucket) error {
	if c.shed.empty() {
		return nil
	}
	newest, err := newestHead(b)
	if err != nil {
		return err
	}
	before := map[string][]byte{} // what may go: keys, and the values of those that may stay as they are
	var gone [][]byte             // the same keys in order
	var left []entry
	note := func(key, value []byte) {
		before[string(key)] = value
		gone = append(gone, key)
	}
	f := &folder{sent: c.state.sent, newest: newest, bound: func(at uint64) bool { return at <= c.state.marks.pruned }}
	f.out = func(e entry) error {
		if e.kind == kindHead {
			delete(before, string(headKey(e.at)))
		} else if _, ok := nodeOf(e.at, e.value); ok {
			if bytes.Equal(before[string(leafKey(e.at))], e.value) {
				delete(before, string(leafKey(e.at)))
			} else {
				left = append(left, e)
			}
		}
		return nil
	}
	from := c.foldFrom(b)
	err = eachEntry(b, from, func(e entry) (bool, error) {
		switch _, shed := nodeOf(e.at, e.value); {
		case e.kind == kindHead && e.at <= from:
			return true, nil
		case e.kind == kindHead && e.at > c.shed.end, e.kind == kindLeaf && e.at >= c.shed.end:
			return false, nil
		case e.kind == kindHead:
			note(headKey(e.at), nil)
		case shed:
			note(leafKey(e.at), bytes.Clone(e.value))
		case sheddable(e.value):
			note(leafKey(e.at), nil)
			e.value = shedValue(e.value)
		}
		return true, f.put(e)
	})
	if err == nil {
		err = f.flush()
	}
	if err != nil {
		return err
	}
	// Deleted first: bbolt joins half-empty pages only where keys were deleted, and pages are what we need back.
	for _, key := range gone {
		if _, ok := before[string(key)]; !ok {
			continue
		}
		if err := b.Delete(key); err != nil {
			return err
		}
	}
	for _, e := range left {
		if err := b.Put(leafKey(e.at), e.value); err != nil {
			return err
		}
	}
	return nil
}

// foldFrom returns where the part of the log begins that a fold looks at: behind the last checkpoint before the span.
func (c *change) foldFrom(b *bbolt.Bucket) uint64 {
	from := c.shed.first
	cur := b.Cursor()
	k, _ := cur.Seek(leafKey(from))
	if k == nil {
		return from
	}
	for k, _ = cur.Prev(); k != nil; k, _ = cur.Prev() {
		index, kind, ok := parseRecordKey(k)
		if !ok || kind == kindHead || index < c.state.marks.pruned {
			break
		}
		from = index
	}
	return from
}

// removeRecords deletes records with their checkpoints. The newest checkpoint stays: it is what this device can say about
// its log when every record is acknowledged and gone.
func (c *change) removeRecords(b *bbolt.Bucket) error {
	if c.pruned.empty() {
		return nil
	}
	newest, err := newestHead(b)
	if err != nil {
		return err
	}
	var gone [][]byte
	err = eachEntry(b, c.pruned.first, func(e entry) (bool, error) {
		switch {
		case e.kind == kindLeaf && e.at < c.pruned.end:
			gone = append(gone, leafKey(e.at))
		case e.kind == kindHead && e.at <= c.pruned.end && e.at != newest:
			gone = append(gone, headKey(e.at))
		}
		return e.at < c.pruned.end, nil
	})
	for _, key := range gone {
		if err == nil {
			err = b.Delete(key)
		}
	}
	return err
}

// newestHead returns how many records the newest checkpoint covers.
func newestHead(b *bbolt.Bucket) (uint64, error) {
	c := b.Cursor()
	k, _ := c.Seek([]byte{'s'})
	if k == nil {
		k, _ = c.Last()
	} else {
		k, _ = c.Prev()
	}
	for ; k != nil; k, _ = c.Prev() {
		index, kind, ok := parseRecordKey(k)
		if !ok {
			break
		}
		if kind == kindHead {
			return index + 1, nil
		}
	}
	return 0, nil
}
