// SPDX-License-Identifier: Apache-2.0

package logging

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
)

// Wire format of a batch, versions 1 to 3. Numbers are unsigned varints (encoding/binary).
//
//	"bsab" version(1 byte)
//	len SPKI | len origin | start | count | len checkpoint | inflated length | DEFLATE stream to the end
//
// The stream inflates to count entries: 0x00 len body; 0x01 and the 32-byte leaf hash of a record whose body was shed; from version
// 2 on also 0x02 len body len side, a record with its side record; from version 3 on also 0x03, level (1 byte, 1 to 62) and the
// 32-byte hash of a complete subtree of 2^level shed records, which begins at a multiple of its width. A batch is of the lowest
// version that has what is in it.
// A decoder refuses anything longer, shorter or left over, and never inflates more than the announced length, which is
// itself bounded; so no message can make it allocate more than about MaxBatchInflated twice.
const (
	batchMagic   = "bsab"
	batchPlain   = 1 // version without side records
	batchSided   = 2 // version without subtrees
	batchVersion = 3
	kindBody     = 0
	kindShed     = 1
	kindSided    = 2
	kindTree     = 3
)

// Limits of a batch. A producer aims at TargetBatch and at most MaxBatchLeaves records; a consumer takes up to the maxima.
const (
	// MaxBatchWire bounds an encoded batch in bytes.
	MaxBatchWire = 288 << 10
	// MaxBatchInflated bounds the records of a batch in bytes, with their framing.
	MaxBatchInflated = 256 << 10
	// MaxBatchLeaves bounds the entries of a batch: records, and subtrees of shed ones.
	MaxBatchLeaves = 1024
	// TargetLeaves and TargetInflated are where a producer closes a batch: 64 records or 64 KiB before deflate come to 4 to
	// 16 KiB on the wire.
	TargetLeaves   = 64
	TargetInflated = 64 << 10
)

// Leaf is one record of a log: its body, or only the hash that is left of a shed one; or 2^Level shed records in a row, of which
// only the hash of their subtree is left.
type Leaf struct {
	Index uint64 // of the (first) record, a multiple of 2^Level
	Level uint8  // 0 unless shed, at most MaxLevel
	Hash  Hash   // as the holder claims; Verify and Head.Advance compare it with the body
	Body  []byte // exact bytes; nil when the body was shed
	Side  []byte // personal values the body commits to; nil when there are none, or none any more. No hash covers it
}

// Shed reports whether only the hash is left.
func (l Leaf) Shed() bool { return l.Body == nil }

// Count returns how many records it stands for.
func (l Leaf) Count() uint64 { return 1 << l.Level }

// End returns the index after the last record it stands for.
func (l Leaf) End() uint64 { return l.Index + l.Count() }

// Records returns how many records leaves stand for.
func Records(leaves []Leaf) (n uint64) {
	for _, l := range leaves {
		n += l.Count()
	}
	return n
}

// Batch is a run of consecutive records and the signed checkpoint that covers exactly up to its end.
type Batch struct {
	SPKI       []byte // device key, so that a consumer needs no directory; the device id is its hash
	Origin     Origin
	Start      uint64 // index of the first record
	Leaves     []Leaf // Index and Hash are filled by DecodeBatch; EncodeBatch takes Body, or Hash when Body is nil
	Checkpoint []byte // signed note whose size is End
}

// End returns the index after the last record.
func (b Batch) End() uint64 { return b.Start + Records(b.Leaves) }

// BatchEncoder encodes batches and keeps its deflate state (about 1 MB) between them. The zero value is ready. It is not
// safe for concurrent use.
type BatchEncoder struct{ w *flate.Writer }

// EncodeBatch encodes one batch with a BatchEncoder of its own.
func EncodeBatch(b Batch) ([]byte, error) { return new(BatchEncoder).Encode(b) }

// Encode returns the wire form of b. It refuses what a decoder would refuse.
func (e *BatchEncoder) Encode(b Batch) ([]byte, error) {
	origin := b.Origin.String()
	switch {
	case len(b.Leaves) == 0 || len(b.Leaves) > MaxBatchLeaves:
		return nil, refuse(CodeMalformed, "batch", fmt.Sprintf("%d records", len(b.Leaves)))
	case len(b.SPKI) > MaxSPKI || len(origin) > MaxOrigin || len(b.Checkpoint) > MaxNote || b.Start > math.MaxInt64:
		return nil, refuse(CodeMalformed, "batch", "a field exceeds its limit")
	}
	next := b.Start
	for _, l := range b.Leaves {
		if !complete(next, l.Level) || l.Level > 0 && !l.Shed() {
			return nil, refuse(CodeMalformed, "batch", fmt.Sprintf("record %d cannot be of level %d", next, l.Level))
		}
		next += l.Count()
	}
	raw := appendLeaves(nil, b.Leaves)
	if len(raw) > MaxBatchInflated {
		return nil, refuse(CodeMalformed, "batch", fmt.Sprintf("%d bytes of records, limit %d", len(raw), MaxBatchInflated))
	}
	out := bytes.NewBuffer(append([]byte(batchMagic), versionOf(b.Leaves)))
	out.Write(appendBytes(nil, b.SPKI))
	out.Write(appendBytes(nil, []byte(origin)))
	out.Write(binary.AppendUvarint(binary.AppendUvarint(nil, b.Start), uint64(len(b.Leaves))))
	out.Write(appendBytes(nil, b.Checkpoint))
	out.Write(binary.AppendUvarint(nil, uint64(len(raw))))
	if e.w == nil {
		w, err := flate.NewWriter(out, flate.DefaultCompression)
		if err != nil {
			return nil, fmt.Errorf("encode batch: %w", err)
		}
		e.w = w
	} else {
		e.w.Reset(out)
	}
	if _, err := e.w.Write(raw); err != nil {
		return nil, fmt.Errorf("encode batch: %w", err)
	}
	if err := e.w.Close(); err != nil {
		return nil, fmt.Errorf("encode batch: %w", err)
	}
	if out.Len() > MaxBatchWire {
		return nil, refuse(CodeMalformed, "batch", "too long")
	}
	return out.Bytes(), nil
}

func versionOf(leaves []Leaf) byte {
	v := byte(batchPlain)
	for _, l := range leaves {
		switch {
		case l.Level > 0:
			return batchVersion
		case l.Side != nil:
			v = batchSided
		}
	}
	return v
}

func appendBytes(dst, b []byte) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(b))), b...)
}

func appendLeaves(dst []byte, leaves []Leaf) []byte {
	for _, l := range leaves {
		if l.Shed() {
			if dst = append(dst, kindShed); l.Level > 0 {
				dst = append(dst[:len(dst)-1], kindTree, l.Level)
			}
			dst = append(dst, l.Hash[:]...)
			continue
		}
		if l.Side != nil {
			dst = appendBytes(appendBytes(append(dst, kindSided), l.Body), l.Side)
			continue
		}
		dst = appendBytes(append(dst, kindBody), l.Body)
	}
	return dst
}

// DecodeBatch parses the wire form. It checks the format and its limits, fills Index and Hash of every leaf, and verifies
// nothing else: that is [Head.Advance]. The leaves do not share memory with msg. Errors match ErrRefused with code
// CodeMalformed, or CodeUnknownVersion for a version this program does not know; such a message must be kept or dropped as
// opaque, never acknowledged as understood.
func DecodeBatch(msg []byte) (Batch, error) {
	if len(msg) > MaxBatchWire {
		return Batch{}, refuse(CodeMalformed, "batch", "too long")
	}
	if len(msg) < len(batchMagic)+1 || string(msg[:len(batchMagic)]) != batchMagic {
		return Batch{}, refuse(CodeMalformed, "batch", "not a batch")
	}
	version := msg[len(batchMagic)]
	if v := version; v < batchPlain || v > batchVersion {
		return Batch{}, refuse(CodeUnknownVersion, "batch", fmt.Sprintf("version %d, this program knows %d", v, batchVersion))
	}
	r := &fieldReader{b: msg[len(batchMagic)+1:]}
	var b Batch
	b.SPKI = bytes.Clone(r.bytes(MaxSPKI))
	origin := string(r.bytes(MaxOrigin))
	b.Start = r.number(math.MaxInt64 - MaxBatchLeaves)
	count := r.number(MaxBatchLeaves)
	b.Checkpoint = bytes.Clone(r.bytes(MaxNote))
	size := r.number(MaxBatchInflated)
	if r.err != nil {
		return Batch{}, refuseErr(CodeMalformed, "batch", r.err)
	}
	o, err := ParseOrigin(origin)
	if err != nil {
		return Batch{}, err
	}
	b.Origin = o
	raw, err := inflate(r.b, int(size))
	if err != nil {
		return Batch{}, refuseErr(CodeMalformed, "batch", err)
	}
	b.Leaves, err = parseLeaves(raw, b.Start, int(count), version)
	if err != nil {
		return Batch{}, refuseErr(CodeMalformed, "batch", err)
	}
	return b, nil
}

// inflate returns exactly size bytes from a DEFLATE stream that is exactly comp.
func inflate(comp []byte, size int) ([]byte, error) {
	src := bytes.NewReader(comp) // an io.ByteReader, so that flate does not read past its end
	z := flate.NewReader(src)
	raw, err := io.ReadAll(io.LimitReader(z, int64(size)+1))
	if err != nil {
		return nil, fmt.Errorf("inflate records: %w", err)
	}
	if len(raw) != size {
		return nil, errors.New("records do not have the announced length")
	}
	if src.Len() != 0 {
		return nil, errors.New("bytes after the records")
	}
	return raw, nil
}

func parseLeaves(raw []byte, start uint64, count int, version byte) ([]Leaf, error) {
	if count == 0 {
		return nil, errors.New("no records")
	}
	r := &fieldReader{b: raw}
	leaves := make([]Leaf, 0, count)
	next := start
	for range count {
		l := Leaf{Index: next}
		switch kind := r.take(1); {
		case r.err != nil:
			return nil, r.err
		case kind[0] == kindBody, kind[0] == kindSided && version >= batchSided:
			// raw is this call's own, so the body may alias it.
			l.Body = r.bytes(MaxLeaf)
			if r.err == nil && len(l.Body) == 0 {
				return nil, fmt.Errorf("record %d is empty", l.Index)
			}
			l.Hash = LeafHash(l.Body)
			if kind[0] == kindSided {
				if l.Side = r.bytes(MaxSide); r.err == nil && len(l.Side) == 0 {
					return nil, fmt.Errorf("side record %d is empty", l.Index)
				}
			}
		case kind[0] == kindShed:
			copy(l.Hash[:], r.take(HashSize))
		case kind[0] == kindTree && version >= batchVersion:
			level := r.take(1)
			copy(l.Hash[:], r.take(HashSize))
			if r.err == nil {
				if l.Level = level[0]; l.Level == 0 {
					return nil, fmt.Errorf("the subtree at record %d is of level 0", next)
				}
			}
		default:
			return nil, fmt.Errorf("record %d is of unknown kind %d", l.Index, kind[0])
		}
		if r.err != nil {
			return nil, r.err
		}
		if !complete(next, l.Level) {
			return nil, fmt.Errorf("no subtree of level %d begins at record %d", l.Level, next)
		}
		leaves, next = append(leaves, l), l.End()
	}
	if len(r.b) != 0 {
		return nil, errors.New("bytes after the last record")
	}
	return leaves, nil
}

// fieldReader reads varints and byte fields with a limit each; the first error sticks.
type fieldReader struct {
	b   []byte
	err error
}

func (r *fieldReader) number(limit uint64) uint64 {
	if r.err != nil {
		return 0
	}
	v, n := binary.Uvarint(r.b)
	if n <= 0 || v > limit {
		r.err = errors.New("a number is cut off or exceeds its limit")
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *fieldReader) bytes(limit int) []byte { return r.take(int(r.number(uint64(limit)))) }

func (r *fieldReader) take(n int) []byte {
	if r.err != nil {
		return nil
	}
	if n > len(r.b) {
		r.err = errors.New("cut off")
		return nil
	}
	out := r.b[:n:n]
	r.b = r.b[n:]
	return out
}
