// SPDX-License-Identifier: Apache-2.0

package spool

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// segStore is a store of append-only files in a directory, for file systems on which bbolt cannot open: it maps nothing,
// and asks of the file system only that fsync holds what it promises and that rename is atomic.
//
// A commit is one write at the end of the newest file and one fsync; a power cut leaves it whole, or torn, and a torn one is
// cut off at the next start. A file that is full is never written again: a new one is begun under a temporary name, synced
// and renamed. Pruning deletes whole files. Shedding writes what is left of a file under a temporary name and renames it
// over the old one; the state that says so is durable before, so a power cut in between is made up for at the next commit.
type segStore struct {
	disk     disk
	dir      string
	capacity int64
	limit    int64 // a file that would grow beyond is not appended to

	segs     []*segment // oldest first; the last one is appended to
	active   *os.File   // nil until it is appended to
	dirty    bool       // bytes of a commit that failed, or was torn, stand behind the newest segment
	roll     bool       // beginning a file failed, and it may be there: it is begun again
	spare    []string   // files that are no longer part of the log
	now      state
	receipts []receiptNote
	head     entry // newest checkpoint
}

// segmentsPer is how many full files make up the capacity.
const segmentsPer = 16

const segmentSuffix = ".seg"

// openSegments opens the directory of a store, or makes it. It writes nothing to one that is there: what is left over is
// cleared away by the first commit, after the log was found to hold.
func openSegments(d disk, dir string, capacity int64, fresh bool) (store, error) {
	s := &segStore{disk: d, dir: dir, capacity: capacity, limit: capacity / segmentsPer}
	if fresh {
		return s, d.mkdir(dir)
	}
	names, err := s.list()
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", dir, err)
	}
	if len(names) == 0 {
		return nil, damaged(fmt.Errorf("open %s: there is no segment in it", dir))
	}
	if err := s.load(names); err != nil {
		return nil, fmt.Errorf("open %s: %w", dir, err)
	}
	return s, nil
}

func segmentName(seq uint64) string { return fmt.Sprintf("%016x", seq) + segmentSuffix }

// list returns the names of the segments, oldest first.
func (s *segStore) list() (names []string, err error) {
	entries, err := os.ReadDir(s.dir) // sorted
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		switch name := e.Name(); {
		case strings.HasSuffix(name, newSuffix):
			s.spare = append(s.spare, name)
		case strings.HasSuffix(name, segmentSuffix):
			names = append(names, name)
		}
	}
	return names, nil
}

// load reads all segments, the newest first, because it says which others still count.
func (s *segStore) load(names []string) error {
	last, err := s.scan(names[len(names)-1], true)
	if err == nil && last.state == nil {
		err = damaged(errors.New("no state"))
	}
	if err == nil {
		s.now, err = parseState(last.state)
	}
	if err == nil && s.now.epoch != last.epoch {
		err = damaged(errors.New("the newest segment is of another epoch"))
	}
	if err != nil {
		return last.blame(err)
	}
	s.dirty, s.receipts, s.head = last.torn, last.receipts, last.head
	heads, err := s.heads(names, last)
	if err != nil {
		return last.blame(err)
	}
	for i, name := range names[:len(names)-1] {
		if heads[i+1].first <= s.now.marks.pruned {
			s.spare = append(s.spare, name) // a power cut came before it was deleted
			continue
		}
		if n := len(s.segs); n > 0 && heads[i].first < s.segs[n-1].end {
			s.spare = append(s.spare, name) // it was joined to the one before
			continue
		}
		g, err := s.scan(name, false)
		if err == nil && g.epoch != last.epoch {
			err = damaged(errors.New("a segment is of another epoch"))
		}
		if err == nil {
			err = s.add(&g.segment)
		}
		if err != nil {
			return last.blame(err)
		}
	}
	return last.blame(s.add(&last.segment))
}

// heads reads the headers of all segments but the newest, which is known.
func (s *segStore) heads(names []string, last *scan) ([]*segment, error) {
	var out []*segment
	for _, name := range names[:len(names)-1] {
		f, err := os.Open(filepath.Join(s.dir, name))
		if err != nil {
			return nil, err
		}
		b := make([]byte, segmentHeader)
		n, _ := f.ReadAt(b, 0)
		_ = f.Close() // only read
		g, err := parseHeader(b[:n])
		if err != nil {
			return nil, err
		}
		out = append(out, g)
	}
	return append(out, &last.segment), nil
}

// add puts a segment behind the others.
func (s *segStore) add(g *segment) error {
	want := s.now.marks.pruned
	if n := len(s.segs); n > 0 {
		want = s.segs[n-1].end
	} else if g.first < want {
		want = g.first
	}
	if g.first != want {
		return missing(want)
	}
	s.segs = append(s.segs, g)
	return nil
}

func (s *segStore) scan(name string, newest bool) (*scan, error) {
	f, err := os.Open(filepath.Join(s.dir, name))
	if err != nil {
		return &scan{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return &scan{}, err
	}
	if info.Size() > MaxCapacity {
		return &scan{}, damaged(errors.New("a segment is larger than any that is written"))
	}
	g, err := scanSegment(f, info.Size(), newest)
	if err == nil && name != segmentName(g.seq) {
		err = damaged(fmt.Errorf("segment %d is called %s", g.seq, name))
	}
	return g, err
}

func (s *segStore) newest() *segment {
	if len(s.segs) == 0 {
		return nil
	}
	return s.segs[len(s.segs)-1]
}

// space implements store: a whole file is the piece that is given back at once.
func (s *segStore) space(first uint64) (used int64, end uint64) {
	end = first + boltStep
	for _, g := range s.segs {
		used += g.size
		if g.first <= first && first < g.end {
			end = g.end
		}
	}
	return used, end
}

// commit implements store.
func (s *segStore) commit(c *change) error {
	g := s.newest()
	var b []byte
	begin := g == nil || s.roll || c.shed.end > g.first && g.bodies > 0
	if !begin {
		b = s.group(nil, g, g.groups+1, c)
		begin = g.size+int64(len(b)) > s.limit && g.groups > 1
	}
	if begin {
		g, b = s.begin(c)
	}
	if used, _ := s.space(0); used+int64(len(b)) > s.capacity {
		return fmt.Errorf("%d bytes of %d are used, %d more do not fit: %w", used, s.capacity, len(b), errFull)
	}
	var err error
	if begin {
		err = s.install(g, b)
	} else {
		err = s.append(g, b)
	}
	if err != nil {
		return err
	}
	if err := s.account(g, b, begin); err != nil {
		return err
	}
	s.now = c.state
	for _, r := range c.receipts {
		s.receipts = putReceipt(s.receipts, r)
	}
	for _, e := range c.entries {
		if e.kind == kindHead && e.at >= s.head.at {
			s.head = e
		}
	}
	s.prune()
	s.sweep()
	return s.shed()
}

// group encodes a change as the frames of one group.
func (s *segStore) group(b []byte, g *segment, number uint32, c *change) []byte {
	for _, e := range c.entries {
		b = g.appendEntry(b, number, e)
	}
	for _, r := range c.receipts {
		b = g.appendReceipt(b, number, r)
	}
	return g.appendFrame(b, frameState, number, encodeState(c.state), nil)
}

// begin encodes a new file: what the files before it need not be there for, and the change.
func (s *segStore) begin(c *change) (*segment, []byte) {
	g := &segment{epoch: c.state.epoch, seq: 1}
	if last := s.newest(); last != nil {
		g.seq, g.first = last.seq+1, last.end
	}
	g.end, g.size = g.first, int64(segmentHeader)
	b := g.header()
	if s.head.value != nil {
		b = g.appendEntry(b, 1, s.head)
	}
	for _, r := range s.receipts {
		b = g.appendReceipt(b, 1, r)
	}
	return g, s.group(b, g, 1, c)
}

// append writes a group behind the newest segment. What a failed write left there is gone for good before: half of it and
// half of this one could make a whole.
func (s *segStore) append(g *segment, b []byte) (err error) {
	if s.active == nil {
		if s.active, err = os.OpenFile(filepath.Join(s.dir, segmentName(g.seq)), os.O_RDWR, 0); err != nil {
			return err
		}
	}
	info, err := s.active.Stat()
	if err != nil {
		return err
	}
	switch size := info.Size(); {
	case size < g.size, size > g.size && !s.dirty:
		return damaged(fmt.Errorf("segment %d has %d bytes, %d were written", g.seq, size, g.size))
	case size > g.size:
		if err := errors.Join(s.disk.truncate(s.active, g.size), s.disk.sync(s.active)); err != nil {
			return err
		}
	}
	s.dirty = true
	if err := s.disk.write(s.active, b, g.size); err != nil {
		return err
	}
	if err := s.disk.sync(s.active); err != nil {
		return err
	}
	s.dirty = false
	return nil
}

// install makes a new file durable under its name.
func (s *segStore) install(g *segment, b []byte) error {
	path := filepath.Join(s.dir, segmentName(g.seq))
	f, err := s.disk.create(path + newSuffix)
	if err != nil {
		return err
	}
	err = s.disk.write(f, b, 0)
	if err == nil {
		err = s.disk.sync(f)
	}
	if err == nil {
		s.roll = true
		err = s.disk.install(path+newSuffix, path)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	s.roll, s.dirty = false, false
	return s.close()
}

// account takes over what was written into the description of its segment.
func (s *segStore) account(g *segment, b []byte, begun bool) error {
	from := g.size
	if begun {
		b = b[segmentHeader:]
		s.segs = append(s.segs, g)
	}
	for at := int64(0); at < int64(len(b)); {
		n := int64(frameHeader) + int64(uint32(b[at+4])<<24|uint32(b[at+5])<<16|uint32(b[at+6])<<8|uint32(b[at+7]))
		f := frame{kind: b[at+2], group: g.groups + 1, payload: b[at+frameHeader : at+n], offset: from + at}
		if err := g.note(f); err != nil {
			return err
		}
		at += n
	}
	return nil
}

// sweep removes files that are no longer part of the log. One that stays is tried again.
func (s *segStore) sweep() {
	kept := s.spare[:0]
	for _, name := range s.spare {
		if s.disk.remove(filepath.Join(s.dir, name)) != nil {
			kept = append(kept, name)
		}
	}
	s.spare = kept
}

// prune gives up the files whose records are all pruned.
func (s *segStore) prune() {
	for len(s.segs) > 1 && s.segs[1].first <= s.now.marks.pruned {
		s.spare = append(s.spare, segmentName(s.segs[0].seq))
		s.segs = s.segs[1:]
	}
}

func (s *segStore) close() error {
	if s.active != nil {
		_ = s.active.Close() // every commit synced it
	}
	s.active = nil
	return nil
}
