// SPDX-License-Identifier: Apache-2.0

package spool

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
)

// checkPages walks the pages of a bbolt file before bbolt opens it for writing.
//
// Why: with NoFreelistSync, bbolt.Open finds the free pages by walking the file in a goroutine of its own. A damaged page
// makes that goroutine panic, which no recover of ours can catch: the daemon would die at every start, for ever (seen in
// TestRandomDamage, also for two keys in the wrong order: bbolt reports that, gives up the transaction, and its goroutine
// walks on without one). A flipped high bit in an overflow count makes it fill memory instead. So everything that walk
// looks at is checked here first, with bounds: who a page says it is, what it holds, that it lies inside the file and is
// reached once, and the order of keys.
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
	_, err = w.page(root, 0, nil, nil)
	return err
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

// page checks the subtree at a page. Its keys must lie in [least, below), where nil means no bound; it returns the last
// one.
func (w *pageWalk) page(id uint64, depth int, least, below []byte) (last []byte, err error) {
	b, err := w.read(id, depth)
	if err != nil {
		return nil, err
	}
	n := binary.NativeEndian
	flags, count := n.Uint16(b[8:]), int(n.Uint16(b[10:]))
	if pageHeader+count*elementSize > len(b) {
		return nil, badPage(id, "has more elements than fit")
	}
	switch flags {
	case flagBranch:
		return w.branch(id, b, count, depth, least, below)
	case flagLeaf:
		return w.leaf(id, b, count, depth, least, below)
	}
	return nil, badPage(id, "is of no kind that belongs here")
}

// read returns a page with its overflow pages, each of which belongs to nobody else.
func (w *pageWalk) read(id uint64, depth int) ([]byte, error) {
	if id < 2 || id >= w.high {
		return nil, badPage(id, "outside the file")
	}
	if depth > maxDepth {
		return nil, badPage(id, "too deep")
	}
	head := make([]byte, pageHeader)
	if _, err := w.f.ReadAt(head, int64(id)*w.pageSize); err != nil {
		return nil, badPage(id, err.Error())
	}
	n := binary.NativeEndian
	overflow := uint64(n.Uint32(head[12:]))
	if n.Uint64(head) != id {
		return nil, badPage(id, "says it is another")
	}
	if overflow > maxOverflow || id+overflow >= w.high {
		return nil, badPage(id, "runs past the end of the file")
	}
	for i := id; i <= id+overflow; i++ {
		if w.seen[i] {
			return nil, badPage(i, "used twice")
		}
		w.seen[i] = true
	}
	b := make([]byte, int64(overflow+1)*w.pageSize)
	if _, err := w.f.ReadAt(b, int64(id)*w.pageSize); err != nil {
		return nil, badPage(id, err.Error())
	}
	return b, nil
}

// element returns what an element points at: pos counts from the element itself.
func element(b []byte, at int, pos, length uint64) ([]byte, bool) {
	start := uint64(at) + pos
	if pos > uint64(len(b)) || length > uint64(len(b)) || start+length > uint64(len(b)) {
		return nil, false
	}
	return b[start : start+length], true
}

// ordered reports whether key may follow last as element i of a page whose keys end before below.
func ordered(i int, last, key, below []byte) bool {
	if c := bytes.Compare(last, key); c > 0 || c == 0 && i > 0 {
		return false
	}
	return below == nil || bytes.Compare(key, below) < 0
}

func (w *pageWalk) branch(id uint64, b []byte, count, depth int, last, below []byte) ([]byte, error) {
	n := binary.NativeEndian
	if count == 0 {
		return nil, badPage(id, "branch without elements")
	}
	keys := make([][]byte, count)
	for i := range count {
		at := pageHeader + i*elementSize
		key, ok := element(b, at, uint64(n.Uint32(b[at:])), uint64(n.Uint32(b[at+4:])))
		if !ok {
			return nil, badPage(id, "key outside the page")
		}
		keys[i] = key
	}
	for i, key := range keys {
		if !ordered(i, last, key, below) {
			return nil, badPage(id, "keys out of order")
		}
		end := below
		if i+1 < count {
			end = keys[i+1]
		}
		var err error
		if last, err = w.page(n.Uint64(b[pageHeader+i*elementSize+8:]), depth+1, key, end); err != nil {
			return nil, err
		}
	}
	return last, nil
}

func (w *pageWalk) leaf(id uint64, b []byte, count, depth int, last, below []byte) ([]byte, error) {
	n := binary.NativeEndian
	for i := range count {
		at := pageHeader + i*elementSize
		klen, vlen := uint64(n.Uint32(b[at+8:])), uint64(n.Uint32(b[at+12:]))
		kv, ok := element(b, at, uint64(n.Uint32(b[at+4:])), klen+vlen)
		if !ok {
			return nil, badPage(id, "value outside the page")
		}
		key := kv[:klen]
		if !ordered(i, last, key, below) {
			return nil, badPage(id, "keys out of order")
		}
		last = key
		if n.Uint32(b[at:])&bucketFlag == 0 {
			continue
		}
		if err := w.bucket(id, kv[klen:], depth); err != nil {
			return nil, err
		}
	}
	return last, nil
}

// bucket checks what a bucket's value points at. A root of 0 is a small bucket kept inside the value: a page of its own
// kind behind 16 bytes of header.
func (w *pageWalk) bucket(id uint64, value []byte, depth int) error {
	if len(value) < 16 {
		return badPage(id, "bucket is cut off")
	}
	if root := binary.NativeEndian.Uint64(value); root != 0 {
		_, err := w.page(root, depth+1, nil, nil)
		return err
	}
	return w.inline(id, value[16:])
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
