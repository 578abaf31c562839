// SPDX-License-Identifier: Apache-2.0

package spool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
)

// checkPages walks the pages of a bbolt file before bbolt opens it for writing.
//
// Why: with NoFreelistSync, bbolt.Open finds the free pages by walking the file in a goroutine of its own. A damaged page
// makes that goroutine panic, which no recover of ours can catch: the daemon would die at every start, for ever. A flipped
// high bit in an overflow count makes it fill memory instead. So the shape of every reachable page is checked here first,
// with bounds: who it says it is, what it holds, that it lies inside the file and is reached once.
//
// It reads, does not map, and needs memory for one page and one bit per page. The layout is bbolt's file format version 2,
// in the byte order of the machine.
func checkPages(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("check pages: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("check pages: %w", err)
	}
	w := &pageWalk{f: f, size: info.Size()}
	root, err := w.meta()
	if err != nil {
		return err
	}
	w.seen = make([]bool, w.size/w.pageSize+1)
	return w.page(root, 0)
}

const (
	pageHeader  = 16
	elementSize = 16
	bucketFlag  = 1
	flagBranch  = 1
	flagLeaf    = 2
	flagMeta    = 4
	boltMagic   = 0xED0CDAED
	boltVersion = 2
	maxDepth    = 32
	maxOverflow = 4096
)

type pageWalk struct {
	f        *os.File
	size     int64
	pageSize int64
	high     uint64 // pages in use: ids are below
	seen     []bool
}

func badPage(id uint64, why string) error {
	return damaged(fmt.Errorf("database page %d: %s", id, why))
}

// meta reads both meta pages and returns the root page of the newer valid one.
func (w *pageWalk) meta() (root uint64, err error) {
	var newest uint64
	found := false
	for _, at := range w.metaOffsets() {
		b := make([]byte, pageHeader+64)
		if _, err := w.f.ReadAt(b, at); err != nil {
			continue
		}
		m := b[pageHeader:]
		sum := fnv.New64a()
		sum.Write(m[:56])
		n := binary.NativeEndian
		if n.Uint32(m) != boltMagic || n.Uint32(m[4:]) != boltVersion || n.Uint64(m[56:]) != sum.Sum64() {
			continue
		}
		if at != 0 && at != int64(n.Uint32(m[8:])) {
			continue
		}
		if txid := n.Uint64(m[48:]); !found || txid >= newest {
			newest, found = txid, true
			w.pageSize, root, w.high = int64(n.Uint32(m[8:])), n.Uint64(m[16:]), n.Uint64(m[40:])
		}
	}
	if !found {
		return 0, damaged(errors.New("database has no valid meta page"))
	}
	if w.pageSize < 1024 || w.pageSize > 64<<10 || w.pageSize&(w.pageSize-1) != 0 {
		return 0, damaged(errors.New("database page size is not possible"))
	}
	if w.high > uint64(w.size/w.pageSize) {
		return 0, damaged(errors.New("database file is shorter than its pages"))
	}
	return root, nil
}

// metaOffsets: page 0, and page 1 at any page size there is.
func (w *pageWalk) metaOffsets() []int64 {
	offsets := []int64{0}
	for size := int64(1024); size <= 64<<10; size *= 2 {
		offsets = append(offsets, size)
	}
	return offsets
}

func (w *pageWalk) page(id uint64, depth int) error {
	if id < 2 || id >= w.high {
		return badPage(id, "outside the file")
	}
	if depth > maxDepth {
		return badPage(id, "too deep")
	}
	head := make([]byte, pageHeader)
	if _, err := w.f.ReadAt(head, int64(id)*w.pageSize); err != nil {
		return badPage(id, err.Error())
	}
	n := binary.NativeEndian
	overflow := uint64(n.Uint32(head[12:]))
	if n.Uint64(head) != id {
		return badPage(id, "says it is another")
	}
	if overflow > maxOverflow || id+overflow >= w.high {
		return badPage(id, "runs past the end of the file")
	}
	for i := id; i <= id+overflow; i++ {
		if w.seen[i] {
			return badPage(i, "used twice")
		}
		w.seen[i] = true
	}
	b := make([]byte, int64(overflow+1)*w.pageSize)
	if _, err := w.f.ReadAt(b, int64(id)*w.pageSize); err != nil {
		return badPage(id, err.Error())
	}
	flags, count := n.Uint16(head[8:]), int(n.Uint16(head[10:]))
	if pageHeader+count*elementSize > len(b) {
		return badPage(id, "has more elements than fit")
	}
	switch flags {
	case flagBranch:
		return w.branch(id, b, count, depth)
	case flagLeaf:
		return w.leaf(id, b, count, depth)
	}
	return badPage(id, "is of no kind that belongs here")
}

// element returns what an element points at: pos counts from the element itself.
func element(b []byte, at int, pos, length uint64) ([]byte, bool) {
	start := uint64(at) + pos
	if pos > uint64(len(b)) || length > uint64(len(b)) || start+length > uint64(len(b)) {
		return nil, false
	}
	return b[start : start+length], true
}

func (w *pageWalk) branch(id uint64, b []byte, count, depth int) error {
	n := binary.NativeEndian
	if count == 0 {
		return badPage(id, "branch without elements")
	}
	for i := range count {
		at := pageHeader + i*elementSize
		if _, ok := element(b, at, uint64(n.Uint32(b[at:])), uint64(n.Uint32(b[at+4:]))); !ok {
			return badPage(id, "key outside the page")
		}
		if err := w.page(n.Uint64(b[at+8:]), depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (w *pageWalk) leaf(id uint64, b []byte, count, depth int) error {
	n := binary.NativeEndian
	for i := range count {
		at := pageHeader + i*elementSize
		flags, pos := n.Uint32(b[at:]), uint64(n.Uint32(b[at+4:]))
		klen, vlen := uint64(n.Uint32(b[at+8:])), uint64(n.Uint32(b[at+12:]))
		kv, ok := element(b, at, pos, klen+vlen)
		if !ok {
			return badPage(id, "value outside the page")
		}
		if flags&bucketFlag == 0 {
			continue
		}
		if vlen < 16 {
			return badPage(id, "bucket is cut off")
		}
		value := kv[klen:]
		// A root of 0 is a small bucket kept inside the value: a page of its own kind behind 16 bytes of header.
		if root := n.Uint64(value); root != 0 {
			if err := w.page(root, depth+1); err != nil {
				return err
			}
		} else if err := w.inline(id, value[16:]); err != nil {
			return err
		}
	}
	return nil
}

func (w *pageWalk) inline(id uint64, b []byte) error {
	if len(b) < pageHeader {
		return badPage(id, "small bucket is cut off")
	}
	n := binary.NativeEndian
	count := int(n.Uint16(b[10:]))
	if n.Uint64(b) != 0 || n.Uint16(b[8:]) != flagLeaf || n.Uint32(b[12:]) != 0 || pageHeader+count*elementSize > len(b) {
		return badPage(id, "small bucket makes no sense")
	}
	for i := range count {
		at := pageHeader + i*elementSize
		if _, ok := element(b, at, uint64(n.Uint32(b[at+4:])), uint64(n.Uint32(b[at+8:]))+uint64(n.Uint32(b[at+12:]))); !ok || n.Uint32(b[at:]) != 0 {
			return badPage(id, "value outside a small bucket")
		}
	}
	return nil
}
