// SPDX-License-Identifier: Apache-2.0

package spool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// shed drops the bodies that the state says are gone. It is idempotent: what a power cut or a full disk kept from
// happening happens with the next commit.
func (s *segStore) shed() error {
	for i := 0; i < len(s.segs)-1; i++ {
		g := s.segs[i]
		if g.bodies == 0 || g.end > s.now.shed {
			continue
		}
		from := i
		if i > 0 && s.segs[i-1].bodies == 0 && s.segs[i-1].size <= s.limit/4 {
			from-- // joined, so that small files do not become many
		}
		joined, err := s.rewrite(s.segs[from : i+1])
		if err != nil || joined == nil {
			return err
		}
		if from < i {
			s.spare = append(s.spare, segmentName(g.seq))
		}
		segs := append(append([]*segment(nil), s.segs[:from]...), joined)
		s.segs = append(segs, s.segs[i+1:]...)
		i = from
		s.sweep()
	}
	return nil
}

// rewrite writes what is left of segments into the place of the first. It returns nil when there is no room to do it.
func (s *segStore) rewrite(segs []*segment) (*segment, error) {
	out := &segment{epoch: segs[0].epoch, seq: segs[0].seq, first: segs[0].first, end: segs[0].first}
	size := int64(segmentHeader + frameHeader)
	for _, g := range segs {
		size += g.size - g.bodies
	}
	if used, _ := s.space(0); used+size > s.capacity {
		return nil, nil
	}
	path := filepath.Join(s.dir, segmentName(out.seq))
	f, err := s.disk.create(path + newSuffix)
	if err != nil {
		return nil, err
	}
	w := &segmentWriter{disk: s.disk, f: f, seg: out, buf: out.header()}
	fold := s.folder(w, out.first)
	for _, g := range segs {
		if err = w.copy(s.dir, g, fold); err != nil {
			break
		}
	}
	if err == nil {
		err = fold.flush()
	}
	if err == nil {
		err = w.frame(frameEnd, nil)
	}
	if err == nil {
		err = w.flush()
	}
	if err == nil {
		err = s.disk.sync(f)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	if err := s.disk.install(path+newSuffix, path); err != nil {
		return nil, err
	}
	return out, nil
}

// folder joins what is left of records. Checkpoints that stand behind later records, wherever that is, keep their place in the tree. The
// first checkpoint of a file stays, because what stands in the file before is not looked at.
func (s *segStore) folder(w *segmentWriter, first uint64) *folder {
	late := map[uint64]bool{}
	for _, g := range s.segs {
		for _, m := range g.late {
			late[m.at] = true
		}
	}
	pruned := s.now.marks.pruned
	return &folder{
		sent: s.now.sent, newest: s.head.at, pos: first, entries: foldEntries, out: w.entry,
		bound: func(at uint64) bool { return at <= pruned || late[at] },
	}
}

// segmentWriter writes a file in one group.
type segmentWriter struct {
	disk   disk
	f      *os.File
	seg    *segment
	buf    []byte
	offset int64 // of buf
}

const writeSize = 32 << 10

func (w *segmentWriter) frame(kind byte, payload []byte) error {
	f := frame{kind: kind, group: 1, payload: payload, offset: w.offset + int64(len(w.buf))}
	w.buf = w.seg.appendFrame(w.buf, kind, 1, payload, nil)
	if err := w.seg.note(f); err != nil || len(w.buf) < writeSize {
		return err
	}
	return w.flush()
}

func (w *segmentWriter) flush() error {
	err := w.disk.write(w.f, w.buf, w.offset)
	w.offset += int64(len(w.buf))
	w.buf = w.buf[:0]
	return err
}

func (w *segmentWriter) entry(e entry) error {
	kind := byte(frameRecord)
	if e.kind == kindHead {
		kind = frameHead
	}
	return w.frame(kind, append(binary.BigEndian.AppendUint64(nil, e.at), e.value...))
}

// copy takes over the records, without the bodies that go, and the checkpoints of a segment.
func (w *segmentWriter) copy(dir string, g *segment, fold *folder) error {
	in, err := os.Open(filepath.Join(dir, segmentName(g.seq)))
	if err != nil {
		return err
	}
	defer in.Close()
	frames := newFrameScanner(in, int64(segmentHeader), g.size)
	for {
		f, err := frames.next()
		if err == io.EOF {
			return nil
		}
		if err == nil && !f.intact(g.seed) || errors.Is(err, errFrame) {
			return damaged(fmt.Errorf("segment %d: the bytes at %d are not what was written", g.seq, f.offset))
		}
		if err != nil {
			return err
		}
		if f.kind != frameRecord && f.kind != frameHead {
			continue
		}
		e := f.entry()
		if e.kind == kindLeaf && sheddable(e.value) {
			e.value = shedValue(e.value)
		}
		if err := fold.put(e); err != nil {
			return err
		}
	}
}
