// SPDX-License-Identifier: Apache-2.0

package scan

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"

	"golang.org/x/sys/unix"
)

// ext2, ext3 and ext4 as the kernel's Documentation/filesystems/ext4 defines them. All numbers are little-endian.

const (
	extRoot      = 2
	extSuperAt   = 1024
	extSuperSize = 1024
	extInodeMin  = 128
)

// Features that change what is where. Others do not matter to a reader.
const (
	extRecover    = 0x4 // the journal holds changes that are not in their place yet
	extMetaBG     = 0x10
	extExtents    = 0x40
	ext64Bit      = 0x80
	extCsumSeed   = 0x2000
	extEncrypt    = 0x10000
	extReadable   = 0x2 | extRecover | extMetaBG | extExtents | ext64Bit | 0x100 | 0x200 | 0x400 | extCsumSeed | 0x4000 | 0x8000 | extEncrypt | 0x20000
	extMetaCsum   = 0x400 // ro_compat
	extBigAlloc   = 0x200 // ro_compat: allocation in clusters; the map is still in blocks
	extHasJournal = 0x4   // compat
)

// Flags of an inode.
const (
	extFlagEncrypt = 0x800
	extFlagExtents = 0x80000
	extFlagEAInode = 0x200000
	extFlagInline  = 0x10000000
)

// ext is an open image. It keeps no state of the size of the image.
type ext struct {
	r          io.ReaderAt
	size       int64
	block      int64 // bytes
	blocks     uint64
	inodes     uint32
	perGroup   uint32 // inodes
	blocksPerG uint32
	inodeSize  int64
	descSize   int64
	first      uint32 // data block
	firstMeta  uint32
	compat     uint32
	incompat   uint32
	roCompat   uint32
	seed       uint32 // of the sums
}

// isExt looks closer: the magic is two bytes only.
func isExt(r io.ReaderAt) bool {
	var h [extSuperSize]byte
	if n, _ := r.ReadAt(h[:], extSuperAt); n < len(h) {
		return false
	}
	le := binary.LittleEndian
	return le.Uint32(h[24:]) <= 6 && le.Uint32(h[40:]) != 0 && le.Uint32(h[0:]) != 0 && le.Uint32(h[76:]) <= 1
}

func openExt(r *io.SectionReader) (*ext, error) {
	var h [extSuperSize]byte
	if _, err := r.ReadAt(h[:], extSuperAt); err != nil {
		return nil, fmt.Errorf("read ext4: %w", noEOF(err))
	}
	le := binary.LittleEndian
	v := &ext{r: r, size: r.Size(), block: 1024 << min(le.Uint32(h[24:]), 10), blocks: uint64(le.Uint32(h[4:])), inodes: le.Uint32(h[0:]),
		perGroup: le.Uint32(h[40:]), blocksPerG: le.Uint32(h[32:]), first: le.Uint32(h[20:]), firstMeta: le.Uint32(h[260:]),
		compat: le.Uint32(h[92:]), incompat: le.Uint32(h[96:]), roCompat: le.Uint32(h[100:]), inodeSize: extInodeMin, descSize: 32}
	if le.Uint32(h[76:]) > 0 {
		v.inodeSize = int64(le.Uint16(h[88:]))
	}
	if v.incompat&ext64Bit != 0 {
		v.blocks |= uint64(le.Uint32(h[336:])) << 32
		v.descSize = int64(le.Uint16(h[254:]))
	}
	if err := v.check(h[:]); err != nil {
		return nil, err
	}
	in, err := v.inode(extRoot)
	if err == nil && in.mode&unix.S_IFMT != unix.S_IFDIR {
		err = errors.New("its top is not a directory")
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", v.name(), err)
	}
	return v, nil
}

// check refuses what the rest of the reader does not expect.
func (v *ext) check(h []byte) error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("read ext4: "+format, args...)
	}
	if more := v.incompat &^ extReadable; more != 0 {
		return &Unsupported{Name: "ext4", What: fmt.Sprintf("it uses features that this program does not know: %#x", more), Next: "debugfs -R 'rdump / ROOT' IMAGE, then scan ROOT"}
	}
	if v.block > 64<<10 || v.perGroup == 0 || v.blocksPerG == 0 {
		return bad("blocks of %d bytes, %d blocks and %d inodes to a group", v.block, v.blocksPerG, v.perGroup)
	}
	if v.inodeSize < extInodeMin || v.inodeSize > v.block || v.inodeSize&(v.inodeSize-1) != 0 {
		return bad("inodes of %d bytes", v.inodeSize)
	}
	if v.descSize < 32 || v.descSize > 1024 || v.descSize&(v.descSize-1) != 0 {
		return bad("group descriptors of %d bytes", v.descSize)
	}
	if v.blocks == 0 || v.blocks > uint64(v.size/v.block) {
		return bad("%w: it says that it has %d blocks of %d bytes, the image has %d bytes", io.ErrUnexpectedEOF, v.blocks, v.block, v.size)
	}
	le := binary.LittleEndian
	if v.roCompat&extMetaCsum == 0 {
		return nil
	}
	if h[373] != 1 {
		return bad("sums of type %d", h[373])
	}
	if sum := crc32c(^uint32(0), h[:1020]); sum != le.Uint32(h[1020:]) {
		return bad("the sum of the super block is wrong")
	}
	v.seed = crc32c(^uint32(0), h[104:120])
	if v.incompat&extCsumSeed != 0 {
		v.seed = le.Uint32(h[624:])
	}
	return nil
}

// crc32c is the sum of ext4: not inverted at either end, as the standard library's is.
func crc32c(sum uint32, p []byte) uint32 {
	return ^crc32.Update(^sum, crc32.MakeTable(crc32.Castagnoli), p)
}

// name says which of the three it is.
func (v *ext) name() string {
	switch {
	case v.incompat&(extExtents|ext64Bit) != 0 || v.roCompat&(extMetaCsum|extBigAlloc) != 0:
		return "ext4"
	case v.compat&extHasJournal != 0:
		return "ext3"
	}
	return "ext2"
}

func (v *ext) notes() []string {
	if v.incompat&extRecover != 0 {
		return []string{"the file system was not unmounted: changes in its journal are not seen; run e2fsck -p on a copy first"}
	}
	return nil
}

// read reads bytes at a place of a block.
func (v *ext) read(p []byte, block uint64, off int64) error {
	if block == 0 || block >= v.blocks || off < 0 || off+int64(len(p)) > v.block {
		return fmt.Errorf("block %d is outside of the file system", block)
	}
	_, err := v.r.ReadAt(p, int64(block)*v.block+off)
	return noEOF(err)
}

// table finds the block where the inodes of a group begin.
func (v *ext) table(group uint32) (uint64, error) {
	per := uint32(v.block / v.descSize)
	super := uint64(extSuperAt / v.block)
	at := super + 1 + uint64(group/per)
	if meta := group / per; v.incompat&extMetaBG != 0 && meta >= v.firstMeta {
		// Each run of groups keeps its descriptors in its own first group, behind a copy of the super block if there is one.
		first := meta * per
		at = uint64(v.first) + uint64(first)*uint64(v.blocksPerG)
		if v.hasSuper(first) {
			at++
		}
		if first == 0 {
			at = super + 1
		}
	}
	d := make([]byte, v.descSize)
	if err := v.read(d, at, int64(group%per)*v.descSize); err != nil {
		return 0, fmt.Errorf("group %d: %w", group, err)
	}
	le := binary.LittleEndian
	if v.roCompat&extMetaCsum != 0 {
		var n [4]byte
		le.PutUint32(n[:], group)
		want := le.Uint16(d[30:])
		d[30], d[31] = 0, 0
		if uint16(crc32c(crc32c(v.seed, n[:]), d)) != want {
			return 0, fmt.Errorf("group %d: its sum is wrong", group)
		}
	}
	block := uint64(le.Uint32(d[8:]))
	if v.descSize >= 64 {
		block |= uint64(le.Uint32(d[40:])) << 32
	}
	return block, nil
}

// hasSuper reports whether a group begins with a copy of the super block.
func (v *ext) hasSuper(group uint32) bool {
	const sparse = 1
	if v.roCompat&sparse == 0 || group < 2 {
		return true
	}
	for _, base := range []uint32{3, 5, 7} {
		n := base
		for n < group {
			n *= base
		}
		if n == group {
			return true
		}
	}
	return false
}

// extInode is the raw inode.
type extInode struct {
	raw   []byte // all of it
	flags uint32
	acl   uint64 // block with more attributes
}

// place is where the map of blocks, the extents, or the content itself is.
func (x extInode) place() []byte { return x.raw[40:100] }

func (v *ext) inode(id uint64) (inode, error) {
	if id == 0 || id > uint64(v.inodes) {
		return inode{}, fmt.Errorf("inode %d of %d", id, v.inodes)
	}
	n := uint32(id) - 1
	table, err := v.table(n / v.perGroup)
	if err != nil {
		return inode{}, fmt.Errorf("inode %d: %w", id, err)
	}
	at := int64(n%v.perGroup) * v.inodeSize
	raw := make([]byte, v.inodeSize)
	if err := v.read(raw, table+uint64(at/v.block), at%v.block); err != nil {
		return inode{}, fmt.Errorf("inode %d: %w", id, err)
	}
	if err := v.checkInode(uint32(id), raw); err != nil {
		return inode{}, fmt.Errorf("inode %d: %w", id, err)
	}
	le := binary.LittleEndian
	x := extInode{raw: raw, flags: le.Uint32(raw[32:]), acl: uint64(le.Uint32(raw[104:])) | uint64(le.Uint16(raw[118:]))<<32}
	in := inode{id: id, mode: uint32(le.Uint16(raw)), nlink: uint32(le.Uint16(raw[26:])), extra: x,
		uid: uint32(le.Uint16(raw[2:])) | uint32(le.Uint16(raw[120:]))<<16, gid: uint32(le.Uint16(raw[24:])) | uint32(le.Uint16(raw[122:]))<<16,
		size: int64(uint64(le.Uint32(raw[4:])) | uint64(le.Uint32(raw[108:]))<<32)}
	if in.size < 0 {
		return inode{}, fmt.Errorf("inode %d: size %d", id, in.size)
	}
	if t := in.mode & unix.S_IFMT; t == unix.S_IFCHR || t == unix.S_IFBLK {
		if d := le.Uint32(raw[40:]); d != 0 {
			in.rdev = unix.Mkdev(d>>8&0xff, d&0xff)
		} else {
			in.rdev = u32Dev(le.Uint32(raw[44:]))
		}
	}
	return in, nil
}

// checkInode compares the sum of an inode. Its own place in the inode counts as zero.
func (v *ext) checkInode(id uint32, raw []byte) error {
	if v.roCompat&extMetaCsum == 0 {
		return nil
	}
	le := binary.LittleEndian
	var n [4]byte
	le.PutUint32(n[:], id)
	b := append([]byte(nil), raw...)
	want := uint32(le.Uint16(b[124:]))
	b[124], b[125] = 0, 0
	mask := uint32(0xffff)
	if len(b) > extInodeMin && le.Uint16(b[128:]) >= 4 {
		want |= uint32(le.Uint16(b[130:])) << 16
		b[130], b[131] = 0, 0
		mask = ^uint32(0)
	}
	if crc32c(crc32c(crc32c(v.seed, n[:]), b[100:104]), b)&mask != want {
		return errors.New("its sum is wrong")
	}
	return nil
}

// data reads a file or a link.
func (v *ext) data(in inode) (io.ReaderAt, error) {
	x := in.extra.(extInode)
	if x.flags&extFlagEncrypt != 0 {
		return nil, errors.New("it is encrypted")
	}
	isLink := in.mode&unix.S_IFMT == unix.S_IFLNK
	switch {
	case x.flags&extFlagInline != 0:
		b, err := v.inline(in)
		return bytesAt(b), err
	case isLink && in.size < int64(len(x.place())) && x.flags&extFlagExtents == 0:
		return bytesAt(x.place()[:in.size]), nil
	}
	return v.mapped(in), nil
}

// maxInline is more than any inode holds: inodes are at most as large as a block.
const maxInline = 64 << 10

// inline reads content that is in the inode: 60 bytes in the place of the map, the rest in an attribute.
func (v *ext) inline(in inode) ([]byte, error) {
	x := in.extra.(extInode)
	b := append([]byte(nil), x.place()...)
	if in.size > int64(len(b)) {
		rest, err := v.attr(in, "system.data")
		if err != nil {
			return nil, fmt.Errorf("inode %d: its content: %w", in.id, err)
		}
		b = append(b, rest...)
	}
	if in.size > int64(len(b)) && in.size <= int64(maxInline) {
		b = append(b, make([]byte, in.size-int64(len(b)))...) // zeros at the end are not stored
	}
	if in.size > int64(len(b)) {
		return nil, fmt.Errorf("inode %d: %d bytes inside of it, %d wanted", in.id, len(b), in.size)
	}
	return b[:in.size], nil
}

// attrPrefixes are the numbered beginnings of names of attributes.
func attrPrefix(index byte) string {
	return map[byte]string{1: "user.", 2: "system.posix_acl_access", 3: "system.posix_acl_default", 4: "trusted.", 6: "security.", 7: "system.", 8: "system.richacl"}[index]
}

const extAttrMagic = 0xea020000

// attr looks for an attribute in the inode, then in its block of attributes.
func (v *ext) attr(in inode, name string) ([]byte, error) {
	x := in.extra.(extInode)
	le := binary.LittleEndian
	if len(x.raw) > extInodeMin+4 {
		from := extInodeMin + int(le.Uint16(x.raw[extInodeMin:]))
		if from+4 <= len(x.raw) && le.Uint32(x.raw[from:]) == extAttrMagic {
			value, ok, err := v.findAttr(x.raw[from+4:], 0, name)
			if ok || err != nil {
				return value, err
			}
		}
	}
	if x.acl == 0 {
		return nil, unix.ENODATA
	}
	b := make([]byte, v.block)
	if err := v.read(b, x.acl, 0); err != nil {
		return nil, fmt.Errorf("attributes: %w", err)
	}
	if le.Uint32(b) != extAttrMagic {
		return nil, errors.New("attributes: bad magic")
	}
	value, ok, err := v.findAttr(b, 32, name)
	if !ok && err == nil {
		err = unix.ENODATA
	}
	return value, err
}

// findAttr searches entries from a place of b; values are at places of b or in inodes of their own.
func (v *ext) findAttr(b []byte, from int, name string) (value []byte, found bool, err error) {
	le := binary.LittleEndian
	for from+16 <= len(b) && le.Uint32(b[from:]) != 0 {
		e := b[from:]
		n := int(e[0])
		if 16+n > len(e) {
			return nil, false, errors.New("attributes: a name ends outside")
		}
		key := attrPrefix(e[1]) + string(e[16:16+n])
		from += (16 + n + 3) &^ 3
		if strings.TrimSuffix(key, "\x00") != name {
			continue
		}
		off, inum, size := int(le.Uint16(e[2:])), le.Uint32(e[4:]), int64(le.Uint32(e[8:]))
		if size > maxAttr {
			return nil, false, fmt.Errorf("attributes: a value of %d bytes", size)
		}
		if inum != 0 {
			value, err = v.attrInode(uint64(inum), size)
			return value, err == nil, err
		}
		if int64(off)+size > int64(len(b)) {
			return nil, false, errors.New("attributes: a value ends outside")
		}
		return b[off : off+int(size)], true, nil
	}
	return nil, false, nil
}

// attrInode reads a value that has an inode of its own.
func (v *ext) attrInode(id uint64, size int64) ([]byte, error) {
	in, err := v.inode(id)
	if err != nil {
		return nil, err
	}
	if x := in.extra.(extInode); x.flags&extFlagEAInode == 0 || in.size < size {
		return nil, fmt.Errorf("attributes: inode %d holds no value", id)
	}
	value := make([]byte, size)
	_, err = v.mapped(in).ReadAt(value, 0)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return value, err
}
