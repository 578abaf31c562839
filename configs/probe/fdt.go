// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// The flattened device tree, as chapter 5 of its specification has it: a header, a block of tokens, a block of names.
const (
	fdtMagic     = 0xd00dfeed
	fdtHeader    = 40
	fdtBeginNode = 1
	fdtEndNode   = 2
	fdtProp      = 3
	fdtNop       = 4
	fdtEnd       = 9
	maxFDTDepth  = 32
	maxFDTTokens = 1 << 18
)

// fdtProperty finds a property of a node such as "/chosen"; ok is false when the tree has none.
func fdtProperty(dtb []byte, node, name string) (value []byte, ok bool, err error) {
	if len(dtb) < fdtHeader || binary.BigEndian.Uint32(dtb) != fdtMagic {
		return nil, false, errors.New("not a device tree")
	}
	structs, err1 := fdtBlock(dtb, 8, 36)
	names, err2 := fdtBlock(dtb, 12, 32)
	if err := errors.Join(err1, err2); err != nil {
		return nil, false, err
	}
	var at []string
	for range maxFDTTokens {
		if len(structs) < 4 {
			return nil, false, errors.New("device tree ends in the middle")
		}
		token := binary.BigEndian.Uint32(structs)
		structs = structs[4:]
		switch token {
		case fdtBeginNode:
			end := bytes.IndexByte(structs, 0)
			if end < 0 || len(at) >= maxFDTDepth {
				return nil, false, errors.New("device tree has a node without end, or too deep")
			}
			at = append(at, string(structs[:end]))
			structs = structs[min(len(structs), (end+4)&^3):]
		case fdtEndNode:
			at = at[:max(0, len(at)-1)]
		case fdtProp:
			if len(structs) < 8 {
				return nil, false, errors.New("device tree ends in the middle")
			}
			size, off := binary.BigEndian.Uint32(structs), binary.BigEndian.Uint32(structs[4:])
			structs = structs[8:]
			if uint64(size) > uint64(len(structs)) {
				return nil, false, errors.New("device tree has a property that is longer than the file")
			}
			if strings.Join(at, "/") == node && fdtName(names, off) == name {
				return structs[:size], true, nil
			}
			structs = structs[min(uint64(len(structs)), (uint64(size)+3)&^3):]
		case fdtNop:
		case fdtEnd:
			return nil, false, nil
		default:
			return nil, false, fmt.Errorf("device tree has token %d", token)
		}
	}
	return nil, false, errors.New("device tree has too many parts")
}

// fdtBlock cuts out a block whose offset and size are at these places of the header.
func fdtBlock(dtb []byte, off, size int) ([]byte, error) {
	o, n := uint64(binary.BigEndian.Uint32(dtb[off:])), uint64(binary.BigEndian.Uint32(dtb[size:]))
	if o+n > uint64(len(dtb)) {
		return nil, errors.New("device tree has a block outside of the file")
	}
	return dtb[o : o+n], nil
}

func fdtName(names []byte, off uint32) string {
	if uint64(off) >= uint64(len(names)) {
		return ""
	}
	name := names[off:]
	if i := bytes.IndexByte(name, 0); i >= 0 {
		return string(name[:i])
	}
	return ""
}

// dtbArgs reads /chosen/bootargs.
func dtbArgs(b *bootLines, file string, data []byte) {
	v, ok, err := fdtProperty(data, "/chosen", "bootargs")
	if err != nil {
		b.errs = append(b.errs, fmt.Errorf("read %s: %w", file, err))
	}
	if ok {
		b.add(file+" /chosen/bootargs", string(bytes.TrimRight(v, "\x00")))
	}
}
