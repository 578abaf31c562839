// SPDX-License-Identifier: Apache-2.0

package spool

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
)

// segReader reads a segment store. Files are opened when they are needed, all of them at once when the reader is kept:
// what is deleted or renamed over later can still be read through them.
type segReader struct {
	dir   string
	segs  []*segment
	files map[uint64]*os.File
	now   state
	notes []receiptNote
}

// read implements store.
func (s *segStore) read(keep bool) (reader, error) {
	if len(s.segs) == 0 {
		return nil, damaged(errors.New("no state"))
	}
	r := &segReader{dir: s.dir, segs: s.segs, now: s.now, notes: s.receipts, files: map[uint64]*os.File{}}
	if !keep {
		return r, nil
	}
	r.segs = nil
	for _, g := range s.segs {
		c := *g
		c.marks, c.late = slices.Clip(g.marks), slices.Clip(g.late)
		r.segs = append(r.segs, &c)
		if _, err := r.file(&c); err != nil {
			return nil, errors.Join(err, r.close())
		}
	}
	return r, nil
}

func (r *segReader) state() (state, error) { return r.now, nil }

func (r *segReader) receipts(fn func(string, []byte) error) error {
	for _, n := range r.notes {
		if err := fn(n.key, n.note); err != nil {
			return err
		}
	}
	return nil
}

func (r *segReader) close() error {
	var err error
	for _, f := range r.files {
		err = errors.Join(err, f.Close())
	}
	return err
}

func (r *segReader) file(g *segment) (*os.File, error) {
	if f := r.files[g.seq]; f != nil {
		return f, nil
	}
	f, err := os.Open(filepath.Join(r.dir, segmentName(g.seq)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, damaged(fmt.Errorf("segment %d is gone", g.seq))
	}
	if err == nil {
		r.files[g.seq] = f
	}
	return f, err
}

// walk is where a reader is between records.
type walk struct {
	first uint64
	head  uint64 // newest checkpoint handed out; earlier ones are not wanted, or stand there twice
	late  []place
	fn    func(entry) (bool, error)
}

// place is a checkpoint that stands behind later records.
type place struct {
	seg *segment
	mark
}

// entries implements reader. The CRC was checked at the start, and records and checkpoints bring better ones.
func (r *segReader) entries(first uint64, fn func(entry) (bool, error)) error {
	w := &walk{first: first, head: max(first, 1) - 1, fn: fn}
	from := 0
	for i, g := range r.segs {
		if g.first < first {
			from = i
		}
		for _, m := range g.late {
			if m.at > w.head {
				w.late = append(w.late, place{g, m})
			}
		}
	}
	slices.SortStableFunc(w.late, func(a, b place) int {
		if a.at < b.at {
			return -1
		}
		return min(int(a.at-b.at), 1)
	})
	for _, g := range r.segs[from:] {
		if more, err := r.segment(g, w); err != nil || !more {
			return err
		}
	}
	last := r.segs[len(r.segs)-1]
	_, err := r.lateHeads(w, last.end)
	return err
}

// segment hands out what one file holds.
func (r *segReader) segment(g *segment, w *walk) (more bool, err error) {
	f, err := r.file(g)
	if err != nil {
		return false, err
	}
	offset := int64(segmentHeader)
	if i := sort.Search(len(g.marks), func(i int) bool { return g.marks[i].at >= w.first }); i > 0 {
		offset = g.marks[i-1].offset
	}
	frames := newFrameScanner(f, offset, g.size)
	next := g.first
	for {
		f, err := frames.next()
		if err == io.EOF {
			return true, nil
		}
		if errors.Is(err, errFrame) {
			return false, damaged(fmt.Errorf("segment %d: %w at %d", g.seq, err, frames.offset))
		}
		if err != nil {
			return false, err
		}
		if f.kind != frameRecord && f.kind != frameHead {
			continue
		}
		e := f.entry()
		switch {
		case f.kind == frameRecord:
			if next = e.end(); next <= w.first {
				continue
			}
			if more, err := r.lateHeads(w, e.at); err != nil || !more {
				return more, err
			}
		case e.at <= w.head || e.at < next:
			continue
		default:
			if more, err := r.lateHeads(w, e.at-1); err != nil || !more {
				return more, err
			}
			w.head = e.at
		}
		if more, err := w.fn(e); err != nil || !more {
			return false, err
		}
	}
}

// lateHeads hands out the checkpoints over up to size records that stand elsewhere.
func (r *segReader) lateHeads(w *walk, size uint64) (more bool, err error) {
	for len(w.late) > 0 && w.late[0].at <= size {
		p := w.late[0]
		w.late = w.late[1:]
		if p.at <= w.head || p.at != size {
			continue // one that is not at size lies inside of joined records
		}
		f, err := r.file(p.seg)
		if err != nil {
			return false, err
		}
		frame, err := newFrameScanner(f, p.offset, p.seg.size).next()
		if err != nil || frame.kind != frameHead || frame.entry().at != p.at {
			return false, damaged(fmt.Errorf("segment %d: the checkpoint at %d is gone", p.seg.seq, p.offset))
		}
		w.head = p.at
		if more, err := w.fn(frame.entry()); err != nil || !more {
			return false, err
		}
	}
	return true, nil
}
