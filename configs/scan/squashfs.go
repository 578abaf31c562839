// SPDX-License-Identifier: Apache-2.0

package scan

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"

	"github.com/backstay/backstay/configs/probe"
	"golang.org/x/sys/unix"
)

// squashfs 4.0, as the kernel's fs/squashfs and mksquashfs define it. All numbers are little-endian. Metadata (inodes,
// directories, tables) is a row of blocks that hold 8 KiB each, compressed; a place in it is a block's position from the start
// of its table and an offset into what the block unpacks to.

const (
	sqMetaSize  = 8 << 10
	sqNone      = 1<<64 - 1 // a table that is not there
	sqNoFrag    = 1<<32 - 1
	sqMaxBlock  = 1 << 20
	sqStored    = 1 << 15 // in the length of a metadata block: not compressed
	sqStoredBig = 1 << 24 // the same of a data block
	sqMaxBlocks = 1 << 22 // blocks of one file: half a TiB at the usual size
	sqMetaCache = 512     // blocks: 4 MiB
	sqDataCache = 8 << 20 // bytes
)

// squashfs is an open image. Caches are bounded; nothing else grows.
type squashfs struct {
	r         io.ReaderAt
	size      int64
	codec     codec
	blockSize int64
	root      uint64
	inodes    int64 // where the tables begin
	dirs      int64
	bytesUsed int64
	ids       table
	frags     table
	xattrs    sqXattrs
	meta      *lru[int64, metaBlock]
	blocks    *lru[int64, []byte]
}

// table is an indexed table: blocks of entries, and a list of where they are.
type table struct {
	at    int64 // of the list
	count uint32
	size  int // of one entry
}

type metaBlock struct {
	data []byte
	next int64 // where the next block begins
}

func openSquashfs(r *io.SectionReader) (*squashfs, error) {
	var h [96]byte
	if _, err := r.ReadAt(h[:], 0); err != nil {
		return nil, fmt.Errorf("read squashfs: %w", noEOF(err))
	}
	le := binary.LittleEndian
	if major, minor := le.Uint16(h[28:]), le.Uint16(h[30:]); major != 4 || minor != 0 {
		return nil, &Unsupported{Name: "squashfs", What: fmt.Sprintf("it is version %d.%d, only 4.0 is read", major, minor), Next: "sasquatch -d ROOT IMAGE, then scan ROOT"}
	}
	v := &squashfs{r: r, size: r.Size(), blockSize: int64(le.Uint32(h[12:])), root: le.Uint64(h[32:]), bytesUsed: int64(le.Uint64(h[40:])),
		ids:    table{int64(le.Uint64(h[48:])), uint32(le.Uint16(h[26:])), 4},
		inodes: int64(le.Uint64(h[64:])), dirs: int64(le.Uint64(h[72:])),
		frags: table{int64(le.Uint64(h[80:])), le.Uint32(h[16:]), 16},
		meta:  newLRU[int64, metaBlock](sqMetaCache), blocks: newLRU[int64, []byte](sqDataCache)}
	if v.blockSize < 4096 || v.blockSize > sqMaxBlock || v.blockSize&(v.blockSize-1) != 0 {
		return nil, fmt.Errorf("read squashfs: blocks of %d bytes", v.blockSize)
	}
	if v.bytesUsed > v.size || v.bytesUsed < int64(len(h)) {
		return nil, fmt.Errorf("read squashfs: %w: it says that it has %d bytes, the image has %d", io.ErrUnexpectedEOF, v.bytesUsed, v.size)
	}
	var err error
	if v.codec, err = codecOf(le.Uint16(h[20:])); err != nil {
		return nil, err
	}
	if err := v.openXattrs(le.Uint64(h[56:])); err != nil {
		return nil, fmt.Errorf("read squashfs: %w", err)
	}
	in, err := v.inode(v.root)
	if err == nil && in.mode&unix.S_IFMT != unix.S_IFDIR {
		err = errors.New("its top is not a directory")
	}
	if err != nil {
		return nil, fmt.Errorf("read squashfs: %w", err)
	}
	return v, nil
}

// block reads the metadata block at a position of the image.
func (v *squashfs) block(at int64) (metaBlock, error) {
	if b, ok := v.meta.get(at); ok {
		return b, nil
	}
	var h [2]byte
	if at < 0 || at > v.bytesUsed-2 {
		return metaBlock{}, fmt.Errorf("metadata at %d is outside of the image", at)
	}
	if _, err := v.r.ReadAt(h[:], at); err != nil {
		return metaBlock{}, noEOF(err)
	}
	n := int(binary.LittleEndian.Uint16(h[:]))
	stored := n&sqStored != 0
	n &^= sqStored
	if n == 0 || n > sqMetaSize || at+2+int64(n) > v.bytesUsed {
		return metaBlock{}, fmt.Errorf("metadata at %d has %d bytes", at, n)
	}
	raw := make([]byte, n)
	if _, err := v.r.ReadAt(raw, at+2); err != nil {
		return metaBlock{}, noEOF(err)
	}
	b := metaBlock{raw, at + 2 + int64(n)}
	if !stored {
		var err error
		if b.data, err = v.codec.unpack(raw, sqMetaSize); err != nil {
			return metaBlock{}, fmt.Errorf("metadata at %d: %w", at, err)
		}
	}
	v.meta.put(at, b, 1)
	return b, nil
}

// metaReader reads metadata from a place on, over the ends of blocks.
type metaReader struct {
	v    *squashfs
	at   int64
	off  int
	left int64 // bytes that may still be read: no structure is longer
}

func (v *squashfs) metadata(table, block int64, off int, limit int64) *metaReader {
	return &metaReader{v: v, at: table + block, off: off, left: limit}
}

func (m *metaReader) read(p []byte) error {
	if m.left -= int64(len(p)); m.left < 0 {
		return errors.New("a structure is longer than its place")
	}
	for len(p) > 0 {
		b, err := m.v.block(m.at)
		if err != nil {
			return err
		}
		if m.off > len(b.data) {
			return fmt.Errorf("offset %d into %d bytes of metadata", m.off, len(b.data))
		}
		n := copy(p, b.data[m.off:])
		p, m.off = p[n:], m.off+n
		if m.off == len(b.data) {
			if len(p) > 0 && len(b.data) < sqMetaSize {
				return fmt.Errorf("metadata ends at %d", b.next)
			}
			m.at, m.off = b.next, 0
		}
	}
	return nil
}

// skip moves on without copying.
func (m *metaReader) skip(n int64) error {
	var buf [512]byte
	for n > 0 {
		k := min(n, int64(len(buf)))
		if err := m.read(buf[:k]); err != nil {
			return err
		}
		n -= k
	}
	return nil
}

// entry reads entry i of an indexed table.
func (v *squashfs) entry(t table, i uint32, p []byte) error {
	if i >= t.count {
		return fmt.Errorf("entry %d of a table of %d", i, t.count)
	}
	per := uint32(sqMetaSize / t.size)
	var h [8]byte
	at := t.at + int64(i/per)*8
	if t.at < 0 || at > v.bytesUsed-8 {
		return fmt.Errorf("a table at %d is outside of the image", t.at)
	}
	if _, err := v.r.ReadAt(h[:], at); err != nil {
		return noEOF(err)
	}
	return v.metadata(int64(binary.LittleEndian.Uint64(h[:])), 0, int(i%per)*t.size, sqMetaSize).read(p[:t.size])
}

// sqFile is what an inode says beyond what all systems know.
type sqFile struct {
	start    int64 // of the data, or block of the directory
	frag     uint32
	offset   uint32 // in the fragment, or in the directory's block
	xattr    uint32
	list     metaReader // where the sizes of the blocks are, or the target of a link
	hasXattr bool
}

// inode reads an inode; its id is its place: block and offset.
func (v *squashfs) inode(id uint64) (inode, error) {
	m := v.metadata(v.inodes, int64(id>>16), int(id&0xffff), sqMetaSize)
	var h [16]byte
	if err := m.read(h[:]); err != nil {
		return inode{}, fmt.Errorf("inode %x: %w", id, err)
	}
	le := binary.LittleEndian
	kind := le.Uint16(h[:])
	in := inode{id: id, mode: uint32(le.Uint16(h[2:])) & 0o7777, nlink: 1}
	var owner [2]uint32
	for i := range owner {
		var b [4]byte
		if err := v.entry(v.ids, uint32(le.Uint16(h[4+2*i:])), b[:]); err != nil {
			return inode{}, fmt.Errorf("inode %x: owner: %w", id, err)
		}
		owner[i] = le.Uint32(b[:])
	}
	in.uid, in.gid = owner[0], owner[1]
	f := &sqFile{frag: sqNoFrag, xattr: sqNoFrag}
	if err := v.body(m, kind, &in, f); err != nil {
		return inode{}, fmt.Errorf("inode %x: %w", id, err)
	}
	f.list = *m
	in.extra = f
	if in.size < 0 {
		return inode{}, fmt.Errorf("inode %x: size %d", id, in.size)
	}
	return in, nil
}

// body reads what follows the head of an inode. Kinds 8 to 14 are those of 1 to 7 with more fields.
func (v *squashfs) body(m *metaReader, kind uint16, in *inode, f *sqFile) error {
	types := []uint32{0, unix.S_IFDIR, unix.S_IFREG, unix.S_IFLNK, unix.S_IFBLK, unix.S_IFCHR, unix.S_IFIFO, unix.S_IFSOCK}
	lengths := []int{0, 16, 16, 8, 8, 8, 4, 4, 24, 40, 8, 12, 12, 8, 8}
	if kind == 0 || int(kind) >= len(lengths) {
		return fmt.Errorf("kind %d", kind)
	}
	in.mode |= types[(kind-1)%7+1]
	var b [40]byte
	if err := m.read(b[:lengths[kind]]); err != nil {
		return err
	}
	le := binary.LittleEndian
	u32 := func(at int) uint32 { return le.Uint32(b[at:]) }
	switch kind {
	case 1:
		f.start, in.nlink, in.size, f.offset = int64(u32(0)), u32(4), int64(le.Uint16(b[8:])), uint32(le.Uint16(b[10:]))
	case 2:
		f.start, f.frag, f.offset, in.size = int64(u32(0)), u32(4), u32(8), int64(u32(12))
	case 3, 10:
		in.nlink, in.size = u32(0), int64(u32(4))
	case 4, 5, 11, 12:
		in.nlink, in.rdev = u32(0), u32Dev(u32(4))
	case 6, 7, 13, 14:
		in.nlink = u32(0)
	case 8:
		in.nlink, in.size, f.start, f.offset, f.xattr = u32(0), int64(u32(4)), int64(u32(8)), uint32(le.Uint16(b[18:])), u32(20)
	case 9:
		f.start, in.size, in.nlink = int64(le.Uint64(b[0:])), int64(le.Uint64(b[8:])), u32(24)
		f.frag, f.offset, f.xattr = u32(28), u32(32), u32(36)
	}
	switch kind {
	case 11, 12:
		f.xattr = u32(8)
	case 13, 14:
		f.xattr = u32(4)
	case 10:
		return v.linkXattr(*m, in, f)
	}
	return nil
}

// linkXattr reads the field that stands behind the target of a link.
func (v *squashfs) linkXattr(m metaReader, in *inode, f *sqFile) error {
	if in.size > maxLink {
		return fmt.Errorf("a link of %d bytes", in.size)
	}
	if err := m.skip(in.size); err != nil {
		return err
	}
	var b [4]byte
	if err := m.read(b[:]); err != nil {
		return err
	}
	f.xattr = binary.LittleEndian.Uint32(b[:])
	return nil
}

// u32Dev reads a device number as the kernel writes it into 32 bits.
func u32Dev(d uint32) uint64 {
	return unix.Mkdev(d>>8&0xfff, d&0xff|d>>12&0xfff00)
}

// list reads a directory: runs of entries, each run with a head that says where their inodes are.
func (v *squashfs) list(dir inode) iter.Seq2[entry, error] {
	return func(yield func(entry, error) bool) {
		f := dir.extra.(*sqFile)
		left := dir.size - 3 // the size counts "." and "..", which are not there
		if left <= 0 {
			return
		}
		m := v.metadata(v.dirs, f.start, int(f.offset), left)
		var h [12]byte
		le := binary.LittleEndian
		for m.left > 0 {
			if err := m.read(h[:]); err != nil {
				yield(entry{}, fmt.Errorf("directory: %w", err))
				return
			}
			count, block := le.Uint32(h[0:])+1, uint64(le.Uint32(h[4:]))
			if count > 256 {
				yield(entry{}, fmt.Errorf("directory: a run of %d entries", count))
				return
			}
			for range count {
				var e [8]byte
				err := m.read(e[:])
				name := make([]byte, int(le.Uint16(e[6:]))+1)
				if err == nil && len(name) > maxName+1 {
					err = fmt.Errorf("a name of %d bytes", len(name))
				}
				if err == nil {
					err = m.read(name)
				}
				if err != nil {
					yield(entry{}, fmt.Errorf("directory: %w", err))
					return
				}
				if !yield(entry{string(name), block<<16 | uint64(le.Uint16(e[0:]))}, nil) {
					return
				}
			}
		}
	}
}

// data reads a file or a link.
func (v *squashfs) data(in inode) (io.ReaderAt, error) {
	f := in.extra.(*sqFile)
	if in.mode&unix.S_IFMT == unix.S_IFLNK {
		b := make([]byte, min(in.size, maxLink))
		m := f.list
		if err := m.read(b); err != nil {
			return nil, err
		}
		return bytesAt(b), nil
	}
	s := &sqData{v: v, f: *f, size: in.size, blocks: in.size / v.blockSize, m: f.list, at: []int64{f.start}}
	if f.frag == sqNoFrag && in.size%v.blockSize != 0 {
		s.blocks++
	}
	if s.blocks > sqMaxBlocks {
		return nil, fmt.Errorf("%w: a file of %d bytes", probe.ErrTooLarge, in.size)
	}
	s.m.left = s.blocks * 4
	return s, nil
}

// sqData reads a file. Where a block begins is known only from the sizes of all before it, so these are read as far as needed.
type sqData struct {
	v      *squashfs
	f      sqFile
	size   int64
	blocks int64
	m      metaReader
	at     []int64 // where the blocks begin
	sizes  []uint32
}

func (s *sqData) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fs.ErrInvalid
	}
	done := 0
	for done < len(p) {
		pos := off + int64(done)
		if pos >= s.size {
			return done, io.EOF
		}
		b, err := s.block(pos / s.v.blockSize)
		if err != nil {
			return done, err
		}
		in := pos % s.v.blockSize
		if b == nil { // a hole
			n := min(int64(len(p)-done), s.v.blockSize-in, s.size-pos)
			clear(p[done : done+int(n)])
			done += int(n)
			continue
		}
		if in >= int64(len(b)) {
			return done, fmt.Errorf("block of %d bytes, wanted byte %d", len(b), in)
		}
		end := min(int64(len(b)), in+s.size-pos)
		done += copy(p[done:], b[in:end])
	}
	return done, nil
}

// block returns block i of the file, nil for a hole.
func (s *sqData) block(i int64) ([]byte, error) {
	if i >= s.blocks {
		return s.fragment()
	}
	for int64(len(s.sizes)) <= i {
		var b [4]byte
		if err := s.m.read(b[:]); err != nil {
			return nil, err
		}
		n := binary.LittleEndian.Uint32(b[:])
		s.sizes = append(s.sizes, n)
		s.at = append(s.at, s.at[len(s.at)-1]+int64(n&^sqStoredBig))
	}
	if s.sizes[i] == 0 {
		return nil, nil
	}
	want := min(s.v.blockSize, s.size-i*s.v.blockSize)
	return s.v.dataBlock(s.at[i], s.sizes[i], want)
}

// fragment returns the end of the file, which shares a block with the ends of others.
func (s *sqData) fragment() ([]byte, error) {
	var e [16]byte
	if err := s.v.entry(s.v.frags, s.f.frag, e[:]); err != nil {
		return nil, fmt.Errorf("fragment: %w", err)
	}
	le := binary.LittleEndian
	b, err := s.v.dataBlock(int64(le.Uint64(e[:])), le.Uint32(e[8:]), 0)
	if err != nil {
		return nil, err
	}
	from, n := int64(s.f.offset), s.size%s.v.blockSize
	if from+n > int64(len(b)) {
		return nil, fmt.Errorf("fragment of %d bytes, wanted %d from %d", len(b), n, from)
	}
	return b[from : from+n], nil
}

// dataBlock reads a block of file data; it must hold want bytes, unless that is 0.
func (v *squashfs) dataBlock(at int64, size uint32, want int64) ([]byte, error) {
	if b, ok := v.blocks.get(at); ok && (want == 0 || int64(len(b)) >= want) {
		return b, nil
	}
	stored := size&sqStoredBig != 0
	n := int64(size &^ sqStoredBig)
	if n == 0 || n > v.blockSize || at < 0 || at > v.bytesUsed-n {
		return nil, fmt.Errorf("a block of %d bytes at %d", n, at)
	}
	b := make([]byte, n)
	if _, err := v.r.ReadAt(b, at); err != nil {
		return nil, noEOF(err)
	}
	if !stored {
		var err error
		if b, err = v.codec.unpack(b, int(v.blockSize)); err != nil {
			return nil, fmt.Errorf("block at %d: %w", at, err)
		}
	}
	if int64(len(b)) < want {
		return nil, fmt.Errorf("block at %d: %d bytes, wanted %d", at, len(b), want)
	}
	v.blocks.put(at, b, len(b))
	return b, nil
}
