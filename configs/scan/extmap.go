// SPDX-License-Identifier: Apache-2.0

package scan

import (
	"encoding/binary"
	"fmt"
	"io"
	"iter"
)

// Where the blocks of a file are: extents, or the map of blocks of ext2 and ext3; and directories, which are files of such.

const (
	extExtentMagic = 0xf30a
	extMaxDepth    = 5
	extUnwritten   = 1 << 15 // in the length of an extent: allocated and never written, so it reads as zeros
	extMaxDir      = 64 << 20
)

// extData reads a file through its map.
type extData struct {
	v    *ext
	in   inode
	leaf []byte // the last node of extents read
	at   uint64 // its block
}

func (v *ext) mapped(in inode) *extData { return &extData{v: v, in: in} }

func (d *extData) ReadAt(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		pos := off + int64(done)
		if pos >= d.in.size {
			return done, io.EOF
		}
		block, err := d.find(uint64(pos / d.v.block))
		if err != nil {
			return done, fmt.Errorf("inode %d: %w", d.in.id, err)
		}
		in := pos % d.v.block
		n := int(min(int64(len(p)-done), d.v.block-in, d.in.size-pos))
		if block == 0 {
			clear(p[done : done+n])
		} else if err := d.v.read(p[done:done+n], block, in); err != nil {
			return done, fmt.Errorf("inode %d: %w", d.in.id, err)
		}
		done += n
	}
	return done, nil
}

// find gives the block of the file system that holds block n of the file, 0 for a hole.
func (d *extData) find(n uint64) (uint64, error) {
	x := d.in.extra.(extInode)
	if n >= 1<<32 {
		return 0, fmt.Errorf("block %d of a file", n)
	}
	if x.flags&extFlagExtents == 0 {
		return d.pointer(x.place(), n)
	}
	node, depth := x.place(), -1
	le := binary.LittleEndian
	for {
		if le.Uint16(node) != extExtentMagic {
			return 0, fmt.Errorf("extents without their magic")
		}
		count, level := int(le.Uint16(node[2:])), int(le.Uint16(node[6:]))
		if count*12+12 > len(node) || level > extMaxDepth || depth >= 0 && level != depth-1 {
			return 0, fmt.Errorf("%d extents at depth %d", count, level)
		}
		if depth = level; depth == 0 {
			return leafBlock(node[12:12+12*count], uint32(n)), nil
		}
		at := childBlock(node[12:12+12*count], uint32(n))
		if at == 0 {
			return 0, nil
		}
		if at != d.at || d.leaf == nil {
			b := make([]byte, d.v.block)
			if err := d.v.read(b, at, 0); err != nil {
				return 0, err
			}
			d.leaf, d.at = b, at
		}
		node = d.leaf
	}
}

// leafBlock looks n up among extents.
func leafBlock(extents []byte, n uint32) uint64 {
	le := binary.LittleEndian
	for e := extents; len(e) >= 12; e = e[12:] {
		first, length := le.Uint32(e), uint32(le.Uint16(e[4:]))
		unwritten := length > extUnwritten
		if unwritten {
			length -= extUnwritten
		}
		if n < first || n-first >= length {
			continue
		}
		if unwritten {
			return 0
		}
		return uint64(le.Uint32(e[8:])) | uint64(le.Uint16(e[6:]))<<32 + uint64(n-first)
	}
	return 0
}

// childBlock finds the last index that begins at or before n.
func childBlock(indexes []byte, n uint32) uint64 {
	le := binary.LittleEndian
	var at uint64
	for e := indexes; len(e) >= 12 && le.Uint32(e) <= n; e = e[12:] {
		at = uint64(le.Uint32(e[4:])) | uint64(le.Uint16(e[8:]))<<32
	}
	return at
}

// pointer looks n up in the map of ext2: 12 direct blocks, then tables of one, two and three levels.
func (d *extData) pointer(place []byte, n uint64) (uint64, error) {
	le := binary.LittleEndian
	if n < 12 {
		return uint64(le.Uint32(place[4*n:])), nil
	}
	n -= 12
	per := uint64(d.v.block / 4)
	for levels, span := 1, per; levels <= 3; levels, span = levels+1, span*per {
		if n >= span {
			n -= span
			continue
		}
		at := uint64(le.Uint32(place[4*(11+levels):]))
		for ; levels > 0 && at != 0; levels-- {
			span /= per
			var b [4]byte
			if err := d.v.read(b[:], at, int64(n/span%per)*4); err != nil {
				return 0, err
			}
			at = uint64(le.Uint32(b[:]))
		}
		return at, nil
	}
	return 0, fmt.Errorf("block %d of a file", n)
}

// list reads a directory from front to back. The nodes of a hashed directory look like empty entries to that.
func (v *ext) list(dir inode) iter.Seq2[entry, error] {
	return func(yield func(entry, error) bool) {
		x := dir.extra.(extInode)
		switch {
		case x.flags&extFlagEncrypt != 0:
			yield(entry{}, fmt.Errorf("directory %d: it is encrypted", dir.id))
		case dir.size > extMaxDir:
			yield(entry{}, fmt.Errorf("directory %d: %d bytes", dir.id, dir.size))
		case x.flags&extFlagInline != 0:
			v.listInline(dir, yield)
		default:
			v.listBlocks(dir, yield)
		}
	}
}

func (v *ext) listBlocks(dir inode, yield func(entry, error) bool) {
	d := v.mapped(dir)
	b := make([]byte, v.block)
	for at := int64(0); at < dir.size; at += v.block {
		block, err := d.find(uint64(at / v.block))
		if err == nil && block == 0 {
			err = fmt.Errorf("a hole at %d", at)
		}
		if err == nil {
			err = v.read(b, block, 0)
		}
		if err == nil {
			err = v.checkDir(dir, b)
		}
		if err != nil {
			yield(entry{}, fmt.Errorf("directory %d: %w", dir.id, err))
			return
		}
		if !entries(b, dir.id, yield) {
			return
		}
	}
}

// checkDir compares the sum at the end of a block of entries. Nodes of a hashed directory keep theirs elsewhere; they are not
// believed, because reading from front to back does not use them.
func (v *ext) checkDir(dir inode, b []byte) error {
	le := binary.LittleEndian
	tail := b[len(b)-12:]
	if v.roCompat&extMetaCsum == 0 || le.Uint32(tail) != 0 || le.Uint16(tail[4:]) != 12 || tail[7] != 0xde {
		return nil
	}
	var n [4]byte
	le.PutUint32(n[:], uint32(dir.id))
	sum := crc32c(crc32c(v.seed, n[:]), dir.extra.(extInode).raw[100:104])
	if crc32c(sum, b[:len(b)-12]) != le.Uint32(tail[8:]) {
		return fmt.Errorf("the sum of a block is wrong")
	}
	return nil
}

// entries reads one block; it returns false when nothing more is wanted.
func entries(b []byte, dir uint64, yield func(entry, error) bool) bool {
	le := binary.LittleEndian
	for at := 0; at+8 <= len(b); {
		e := b[at:]
		length, n := int(le.Uint16(e[4:])), int(e[6])
		if length == 0xffff || length == 0 { // 64 KiB do not fit into 16 bits
			length = len(b)
		}
		if length < 8 || length%4 != 0 || length > len(e) || n+8 > length {
			yield(entry{}, fmt.Errorf("directory %d: an entry of %d bytes with a name of %d", dir, length, n))
			return false
		}
		name := string(e[8 : 8+n])
		if id := le.Uint32(e); id != 0 && name != "." && name != ".." {
			if !yield(entry{name, uint64(id)}, nil) {
				return false
			}
		}
		at += length
	}
	return true
}

// listInline reads a directory inside of its inode: the number of its parent, then entries, which go on in an attribute.
func (v *ext) listInline(dir inode, yield func(entry, error) bool) {
	place := dir.extra.(extInode).place()
	if !entries(place[4:], dir.id, yield) || dir.size <= int64(len(place)) {
		return
	}
	rest, err := v.attr(dir, "system.data")
	if err != nil {
		yield(entry{}, fmt.Errorf("directory %d: %w", dir.id, err))
		return
	}
	entries(rest, dir.id, yield)
}
