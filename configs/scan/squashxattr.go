// SPDX-License-Identifier: Apache-2.0

package scan

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// sqXattrs are the extended attributes of a squashfs: lists of names and values in metadata blocks, and an indexed table
// that says where the list of each set of attributes is.
type sqXattrs struct {
	ids  table
	at   int64 // where the lists begin
	have bool
}

// Bounds of one list.
const (
	sqMaxAttrs   = 256
	sqOutOfLine  = 1 << 8 // the value is elsewhere: its place is here
	sqXattrLimit = 1 << 20
)

func (v *squashfs) openXattrs(at uint64) error {
	if at == sqNone {
		return nil
	}
	var h [16]byte
	if at > uint64(v.bytesUsed-int64(len(h))) {
		return fmt.Errorf("attributes at %d are outside of the image", at)
	}
	if _, err := v.r.ReadAt(h[:], int64(at)); err != nil {
		return noEOF(err)
	}
	v.xattrs = sqXattrs{ids: table{int64(at) + int64(len(h)), binary.LittleEndian.Uint32(h[8:]), 16}, at: int64(binary.LittleEndian.Uint64(h[:])), have: true}
	return nil
}

func (v *squashfs) attr(in inode, name string) ([]byte, error) {
	f := in.extra.(*sqFile)
	if f.xattr == sqNoFrag {
		return nil, unix.ENODATA
	}
	if !v.xattrs.have {
		return nil, fmt.Errorf("attribute set %d, but there is no table", f.xattr)
	}
	var e [16]byte
	if err := v.entry(v.xattrs.ids, f.xattr, e[:]); err != nil {
		return nil, fmt.Errorf("attributes: %w", err)
	}
	le := binary.LittleEndian
	place, count := le.Uint64(e[:]), le.Uint32(e[8:])
	if count > sqMaxAttrs {
		return nil, fmt.Errorf("%d attributes of one file", count)
	}
	m := v.metadata(v.xattrs.at, int64(place>>16), int(place&0xffff), sqXattrLimit)
	for range count {
		key, value, err := v.oneAttr(m)
		if err != nil {
			return nil, fmt.Errorf("attributes: %w", err)
		}
		if key == name {
			return value, nil
		}
	}
	return nil, unix.ENODATA
}

// oneAttr reads a name and its value.
func (v *squashfs) oneAttr(m *metaReader) (string, []byte, error) {
	var h [4]byte
	if err := m.read(h[:]); err != nil {
		return "", nil, err
	}
	le := binary.LittleEndian
	kind := le.Uint16(h[:])
	prefixes := []string{"user.", "trusted.", "security."}
	if int(kind&^sqOutOfLine) >= len(prefixes) {
		return "", nil, fmt.Errorf("kind %x", kind)
	}
	n := int(le.Uint16(h[2:]))
	if n > maxName {
		return "", nil, fmt.Errorf("a name of %d bytes", n)
	}
	key := make([]byte, n)
	if err := m.read(key); err != nil {
		return "", nil, err
	}
	value, err := v.attrValue(m)
	if err == nil && kind&sqOutOfLine != 0 {
		if len(value) != 8 {
			return "", nil, fmt.Errorf("a place of %d bytes", len(value))
		}
		at := le.Uint64(value)
		value, err = v.attrValue(v.metadata(v.xattrs.at, int64(at>>16), int(at&0xffff), sqXattrLimit))
	}
	return prefixes[kind&^sqOutOfLine] + string(key), value, err
}

func (v *squashfs) attrValue(m *metaReader) ([]byte, error) {
	var h [4]byte
	if err := m.read(h[:]); err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint32(h[:])
	if n > maxAttr {
		return nil, fmt.Errorf("a value of %d bytes", n)
	}
	value := make([]byte, n)
	return value, m.read(value)
}
