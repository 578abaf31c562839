// SPDX-License-Identifier: Apache-2.0

package spool

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
)

// A segment is one file of the segment store: a header, then frames, only ever appended to. All numbers are big-endian, so
// a file opens on any machine.
//
//	header  "bk-log\x00\x01", epoch (8), sequence number (8), index of the first record (8), CRC-32C of these (4)
//	frame   "Bk", kind (1), 0, length of the payload (4), group (4), CRC-32C (4), payload
//
// Frames of one commit form a group and carry its number: 1, 2, 3 in each file. A frame of kind state or end closes the
// group, and a group without one never happened. The CRC starts from that of the header and covers the frame, so bytes of
// another file, which a file system may leave in a torn one, do not pass.
//
//	record      index (8), see leafValue, or shed ones that were joined, see folder
//	checkpoint  number of records covered (8), signed note; follows those records, or stands later when it was signed later
//	receipt     length of the key (2), key, note; replaces the one of the same key
//	state       see encodeState; replaces the one before
//	end         nothing; instead of a state in a file that was rewritten
//
// Receipts, the state and the newest checkpoint are repeated at the start of every file that is begun, so that all files
// before it can go.
const (
	segmentMagic  = "bk-log\x00\x01"
	segmentHeader = len(segmentMagic) + 3*8 + 4
	frameMagic    = "Bk"
	frameHeader   = 16
	maxPayload    = 64 << 10
	markStep      = 64

	frameRecord  = 1
	frameHead    = 2
	frameReceipt = 3
	frameState   = 4
	frameEnd     = 5
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// segment is what is known of one file.
type segment struct {
	epoch, seq uint64
	first, end uint64 // records
	size       int64  // end of the last whole group
	groups     uint32
	seed       uint32 // CRC of the header
	bodies     int64  // bytes that shedding would free
	entries    int    // records, and joined ones
	marks      []mark // every markStep entries, for finding one
	late       []mark // checkpoints that stand behind records they do not cover
}

// mark says where the frame of a record, or of the checkpoint over so many records, begins.
type mark struct {
	at     uint64
	offset int64
}

// frame is one frame that was read; the payload is valid until the next.
type frame struct {
	kind    byte
	group   uint32
	sum     uint32
	payload []byte
	offset  int64
}

func (g *segment) header() []byte {
	b := append(make([]byte, 0, segmentHeader), segmentMagic...)
	for _, n := range [...]uint64{g.epoch, g.seq, g.first} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	g.seed = crc32.Checksum(b, castagnoli)
	return binary.BigEndian.AppendUint32(b, g.seed)
}

func parseHeader(b []byte) (*segment, error) {
	if len(b) < segmentHeader || string(b[:len(segmentMagic)]) != segmentMagic {
		return nil, damaged(errors.New("a segment does not begin like one"))
	}
	n := func(i int) uint64 { return binary.BigEndian.Uint64(b[len(segmentMagic)+8*i:]) }
	g := &segment{epoch: n(0), seq: n(1), first: n(2), end: n(2), size: int64(segmentHeader)}
	g.seed = crc32.Checksum(b[:segmentHeader-4], castagnoli)
	if g.seed != binary.BigEndian.Uint32(b[segmentHeader-4:]) || g.first > 1<<62 {
		return nil, damaged(errors.New("the header of a segment is damaged"))
	}
	return g, nil
}

// appendFrame adds a frame of a group to b. The payload is given in two parts.
func (g *segment) appendFrame(b []byte, kind byte, group uint32, head, body []byte) []byte {
	start := len(b)
	b = append(append(b, frameMagic...), kind, 0)
	b = binary.BigEndian.AppendUint32(b, uint32(len(head)+len(body)))
	b = binary.BigEndian.AppendUint32(b, group)
	sum := crc32.Update(g.seed, castagnoli, b[start:])
	sum = crc32.Update(crc32.Update(sum, castagnoli, head), castagnoli, body)
	b = binary.BigEndian.AppendUint32(b, sum)
	return append(append(b, head...), body...)
}

// appendEntry adds the frame of a record or a checkpoint.
func (g *segment) appendEntry(b []byte, group uint32, e entry) []byte {
	kind := byte(frameRecord)
	if e.kind == kindHead {
		kind = frameHead
	}
	return g.appendFrame(b, kind, group, binary.BigEndian.AppendUint64(nil, e.at), e.value)
}

func (g *segment) appendReceipt(b []byte, group uint32, r receiptNote) []byte {
	head := append(binary.BigEndian.AppendUint16(nil, uint16(len(r.key))), r.key...)
	return g.appendFrame(b, frameReceipt, group, head, r.note)
}

// frameScanner reads frames in order. It checks their form, not their CRC.
type frameScanner struct {
	r      *bufio.Reader
	offset int64
	buf    []byte
}

func newFrameScanner(r io.ReaderAt, from, to int64) *frameScanner {
	return &frameScanner{r: bufio.NewReaderSize(io.NewSectionReader(r, from, to-from), 8<<10), offset: from}
}

var errFrame = errors.New("a frame makes no sense")

// next returns io.EOF at the end, and errFrame (wrapped) for what is no frame.
func (s *frameScanner) next() (f frame, err error) {
	var h [frameHeader]byte
	if n, err := io.ReadFull(s.r, h[:]); err == io.ErrUnexpectedEOF || err == io.EOF && n > 0 {
		return f, errFrame
	} else if err != nil {
		return f, err
	}
	n := binary.BigEndian.Uint32(h[4:])
	f = frame{kind: h[2], group: binary.BigEndian.Uint32(h[8:]), sum: binary.BigEndian.Uint32(h[12:]), offset: s.offset}
	if string(h[:2]) != frameMagic || h[3] != 0 || f.kind < frameRecord || f.kind > frameEnd || n > maxPayload {
		return f, errFrame
	}
	s.buf = slices.Grow(s.buf[:0], int(n))[:n]
	if _, err := io.ReadFull(s.r, s.buf); err != nil {
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			err = errFrame
		}
		return f, err
	}
	f.payload = s.buf
	if (f.kind == frameRecord || f.kind == frameHead) && n < 8 || f.kind == frameReceipt && (n < 2 || 2+uint32(binary.BigEndian.Uint16(f.payload)) > n) {
		return f, errFrame
	}
	s.offset += frameHeader + int64(n)
	return f, nil
}

func (f frame) end() int64 { return f.offset + frameHeader + int64(len(f.payload)) }

// intact reports whether the frame has its CRC.
func (f frame) intact(seed uint32) bool {
	h := append(append(make([]byte, 0, frameHeader), frameMagic...), f.kind, 0)
	h = binary.BigEndian.AppendUint32(h, uint32(len(f.payload)))
	h = binary.BigEndian.AppendUint32(h, f.group)
	return crc32.Update(crc32.Update(seed, castagnoli, h), castagnoli, f.payload) == f.sum
}

func (f frame) entry() entry {
	e := entry{kind: kindLeaf, at: binary.BigEndian.Uint64(f.payload), value: f.payload[8:]}
	if f.kind == frameHead {
		e.kind = kindHead
	}
	return e
}

func (f frame) receipt() receiptNote {
	n := 2 + int(binary.BigEndian.Uint16(f.payload))
	return receiptNote{key: string(f.payload[2:n]), note: slices.Clone(f.payload[n:])}
}

// note takes over what a frame adds to the segment.
func (g *segment) note(f frame) error {
	switch f.kind {
	case frameRecord:
		e := f.entry()
		if e.at != g.end {
			return missing(g.end)
		}
		end := e.end()
		if _, ok := levelOf(e.value); !ok || end <= e.at || end > 1<<62 {
			return altered(e.at, "it stands for no number of records there is")
		}
		if g.entries%markStep == 0 {
			g.marks = append(g.marks, mark{e.at, f.offset})
		}
		g.entries++
		if sheddable(e.value) {
			g.bodies += int64(len(e.value) - len(shedValue(e.value)))
		}
		g.end = end
	case frameHead:
		if at := f.entry().at; at < g.end {
			g.late = append(g.late, mark{at, f.offset})
		} else if at > g.end {
			return missing(g.end)
		}
	case frameState, frameEnd:
		g.size, g.groups = f.end(), f.group
	}
	return nil
}

// scan is what a pass over one file found, in its whole groups.
type scan struct {
	segment
	state    []byte
	receipts []receiptNote
	head     entry // newest checkpoint
	torn     bool  // bytes of a group that never happened follow
}

// scanSegment reads a file of size bytes. Only in the newest file may the last group be torn; what else is not as it was
// written is damage, and then the result holds what was found before it.
func scanSegment(r io.ReaderAt, size int64, newest bool) (*scan, error) {
	head := make([]byte, segmentHeader)
	if n, err := r.ReadAt(head, 0); err != nil && err != io.EOF {
		return &scan{}, fmt.Errorf("read segment: %w", err)
	} else if head = head[:n]; int64(n) > size {
		head = head[:size]
	}
	g, err := parseHeader(head)
	if err != nil {
		return &scan{}, err
	}
	whole := &scan{segment: *g}
	now := scan{segment: *g}
	frames := newFrameScanner(r, g.size, size)
	for {
		f, err := frames.next()
		if err == io.EOF && now.size == frames.offset {
			return whole, nil
		}
		if err == nil && (!f.intact(g.seed) || f.group != whole.groups+1) || errors.Is(err, errFrame) || err == io.EOF {
			return whole, whole.judge(r, size, f, newest)
		}
		if err != nil {
			return whole, fmt.Errorf("read segment: %w", err)
		}
		if err := now.take(f); err != nil {
			whole.head = now.head
			return whole, err
		}
		if f.kind == frameState || f.kind == frameEnd {
			*whole = now
		}
	}
}

func (s *scan) take(f frame) error {
	if err := s.note(f); err != nil {
		return err
	}
	switch f.kind {
	case frameHead:
		if e := f.entry(); e.at >= s.head.at {
			s.head = entry{kind: kindHead, at: e.at, value: slices.Clone(e.value)}
		}
	case frameReceipt:
		s.receipts = putReceipt(s.receipts, f.receipt())
	case frameState:
		s.state = slices.Clone(f.payload)
	}
	return nil
}

func putReceipt(list []receiptNote, r receiptNote) []receiptNote {
	for i := range list {
		if list[i].key == r.key {
			list = slices.Clone(list)
			list[i] = r
			return list
		}
	}
	return append(list[:len(list):len(list)], r)
}

// judge says what a bad frame after the whole groups means. A group is only begun when the one before it is durable, so a
// frame of a later group than the first after the whole ones proves that this one was durable once.
func (s *scan) judge(r io.ReaderAt, size int64, bad frame, newest bool) error {
	if newest && !s.laterGroup(r, size) {
		s.torn = true
		return nil
	}
	if bad.kind == frameRecord && len(bad.payload) >= 8 {
		if e := bad.entry(); e.at == s.end || e.at < s.end+maxPayload {
			if _, _, err := parseLeaf(e.at, e.value, &unpacker{}); err != nil {
				return err
			}
		}
	}
	return damaged(fmt.Errorf("segment %d: the bytes from %d on are not what was written", s.seq, s.size))
}

// maxSuspects bounds what laterGroup looks at more closely; nothing but malice has that many.
const maxSuspects = 1 << 14

// laterGroup searches the rest of a file, byte by byte, because the length of a bad frame may be what is bad.
func (s *scan) laterGroup(r io.ReaderAt, size int64) bool {
	const window = 64 << 10
	buf := make([]byte, window+frameHeader-1)
	suspects := 0
	for at := s.size; at < size; at += window {
		n, err := r.ReadAt(buf[:min(int64(len(buf)), size-at)], at)
		if err != nil && err != io.EOF {
			return true // not readable is not torn
		}
		for i := 0; i+frameHeader <= n && i < window; i++ {
			h := buf[i : i+frameHeader]
			if string(h[:2]) != frameMagic || h[3] != 0 || binary.BigEndian.Uint32(h[8:]) <= s.groups+1 {
				continue
			}
			if suspects++; suspects > maxSuspects {
				return true
			}
			if f, err := newFrameScanner(r, at+int64(i), size).next(); err == nil && f.intact(s.seed) {
				return true
			}
		}
	}
	return false
}

// blame gives damage the newest checkpoint that was found, for the first record of the next epoch.
func (s *scan) blame(err error) error {
	if d, ok := errors.AsType[*damage](err); ok && s.head.at > 0 {
		d.head = s.head.value
	}
	return err
}
