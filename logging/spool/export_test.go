// SPDX-License-Identifier: Apache-2.0

package spool

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"slices"

	"github.com/backstay/backstay/logging"
)

// Effect is one step towards durable data.
type Effect = effect

// OpenWithFuse opens a log whose durable effects ask fuse first: whether they fail, and whether they happen all the same.
func OpenWithFuse(cfg Config, fuse func(Effect) (apply bool, err error)) (*Log, error) {
	return open(cfg, fuse)
}

// CheckPages is the check of the shape of a database file.
var CheckPages = checkPages

// OpenError turns an error of bbolt.Open into the error of Open.
var OpenError = openError

// LeafValue is what a store keeps of an ordinary record.
func LeafValue(leaf logging.Leaf) []byte { return leafValue(0, leaf, &packer{}) }

// SegmentKeys reads a segment into the keys bbolt would keep.
func SegmentKeys(data []byte, m map[string][]byte) error {
	g, err := parseHeader(data)
	if err != nil {
		return err
	}
	frames := newFrameScanner(bytes.NewReader(data), g.size, int64(len(data)))
	for {
		f, err := frames.next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		switch f.kind {
		case frameRecord:
			m[string(leafKey(f.entry().at))] = slices.Clone(f.entry().value)
		case frameHead:
			m[string(headKey(f.entry().at))] = slices.Clone(f.entry().value)
		case frameReceipt:
			m["s"+f.receipt().key] = f.receipt().note
		case frameState:
			m["t"] = slices.Clone(f.payload)
		}
	}
}

// KeysSegment writes such keys as the first segment of epoch 1.
func KeysSegment(m map[string][]byte) []byte {
	g := &segment{epoch: 1, seq: 1}
	b := g.header()
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if index, kind, ok := parseRecordKey([]byte(k)); ok {
			b = g.appendEntry(b, 1, entry{kind: kind, at: index + uint64(kind), value: m[k]})
		} else if k[0] == 's' {
			b = g.appendReceipt(b, 1, receiptNote{key: k[1:], note: m[k]})
		}
	}
	if v, ok := m["t"]; ok {
		return g.appendFrame(b, frameState, 1, v, nil)
	}
	return g.appendFrame(b, frameEnd, 1, nil, nil)
}

// ParseRemains reads what a last resort kept.
var ParseRemains = parseRemains

// ScanSegment reads one segment.
func ScanSegment(data []byte, newest bool) (records uint64, torn bool, err error) {
	s, err := scanSegment(bytes.NewReader(data), int64(len(data)), newest)
	return s.end - s.first, s.torn, err
}

// UseSegments opens a store, reads everything and commits to it twice. An error is that of opening or reading.
func UseSegments(dir string) error {
	s, err := openSegments(disk{}, dir, MinCapacity, false)
	if err != nil {
		return err
	}
	defer s.close()
	read := func() (n int, err error) {
		r, err := s.read(true)
		if err != nil {
			return 0, err
		}
		defer r.close()
		st, err := r.state()
		if err != nil {
			return 0, err
		}
		return n, r.entries(st.marks.pruned, func(entry) (bool, error) { n++; return true, nil })
	}
	before, err := read()
	if err != nil {
		return err
	}
	g := s.(*segStore)
	for range 2 {
		v := append(make([]byte, 33), "body"...)
		if err := s.commit(&change{entries: []entry{{kindLeaf, g.newest().end, v}}, state: g.now}); err != nil {
			return nil // full, or at the end of numbers
		}
	}
	if s, err = openSegments(disk{}, dir, MinCapacity, false); err != nil {
		return fmt.Errorf("what was written does not open: %v", err)
	}
	if after, err := read(); err != nil || after < before {
		return fmt.Errorf("%d entries, %d before: %v", after, before, err)
	}
	return nil
}

// HealSegment gives the header and every frame the CRC it should have.
func HealSegment(data []byte) []byte {
	if len(data) < segmentHeader {
		return data
	}
	copy(data, segmentMagic)
	seed := crc32.Checksum(data[:segmentHeader-4], castagnoli)
	binary.BigEndian.PutUint32(data[segmentHeader-4:], seed)
	for at := segmentHeader; at+frameHeader <= len(data); {
		n := int(binary.BigEndian.Uint32(data[at+4:]) % maxPayload)
		copy(data[at:], frameMagic)
		body := data[at+frameHeader : min(at+frameHeader+n, len(data))]
		sum := crc32.Update(crc32.Update(seed, castagnoli, data[at:at+12]), castagnoli, body)
		binary.BigEndian.PutUint32(data[at+12:], sum)
		at += frameHeader + n
	}
	return data
}

// BeginInVain lets the commit that begins the second file of a store fail when the file has its name already. A smaller
// change, which would fit into the first file, must be what the next start finds.
func BeginInVain(dir string) error {
	broken := false
	d := disk{fuse: func(e effect) (bool, error) {
		if broken && e.Op == "syncdir" {
			return true, errors.New("input/output error")
		}
		return true, nil
	}}
	s, err := openSegments(d, dir, MinCapacity, true)
	if err != nil {
		return err
	}
	now := state{epoch: 1}
	put := func(size int) error {
		now.level++
		return s.commit(&change{receipts: []receiptNote{{"key", make([]byte, size)}}, state: now})
	}
	if err := errors.Join(put(10), put(MinCapacity/segmentsPer-4096)); err != nil {
		return err
	}
	broken = true
	if err := put(8192); err == nil {
		return errors.New("no error")
	}
	broken = false
	if err := errors.Join(put(10), s.close()); err != nil {
		return err
	}
	if s, err = openSegments(d, dir, MinCapacity, false); err != nil {
		return err
	}
	if got := s.(*segStore).now.level; got != now.level {
		return fmt.Errorf("the state of change %d is there, want that of %d", got, now.level)
	}
	return nil
}
