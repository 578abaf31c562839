// SPDX-License-Identifier: Apache-2.0

// Package flash reaches raw flash memory: partitions of the kernel's MTD layer, and volumes of UBI on top of it.
//
// It is the only place with their ioctls. It owns no format and no policy: which blocks hold what, and in which order they
// are erased and written so that a cut leaves something to start from, is for its callers. It never marks a block bad by
// itself, and never attaches, makes or removes a volume.
//
// Memory-mapped tricks are not used: what is read comes from the kernel, which corrects bit errors or says that it cannot.
package flash

import (
	"errors"
	"fmt"
	"io"
)

// Kind is how a memory behaves (MTD_* in the kernel's include/uapi/mtd/mtd-abi.h).
type Kind uint8

const (
	Other     Kind = iota // RAM, ROM or what the kernel does not name
	NOR                   // bits can be cleared one by one; blocks are erased
	NAND                  // pages are written once after an erase, in order; blocks may be bad
	Dataflash             // pages are erased by writing them
)

func (k Kind) String() string {
	return [...]string{"other", "NOR flash", "NAND flash", "dataflash"}[min(k, 3)]
}

// Info describes a partition.
type Info struct {
	Kind      Kind
	Size      int64 // bytes
	EraseSize int64 // of a block, in bytes
	WriteSize int64 // of a page, in bytes; 1 on NOR
	Writable  bool
	BitClear  bool // single bits can be cleared without an erase
}

// MTD is a partition. Writing and erasing are durable when they return.
type MTD interface {
	io.ReaderAt
	// WriteAt programs what was erased before. On NAND, offset and length are multiples of a page, and pages of a block are
	// written in order.
	io.WriterAt
	io.Closer
	Info() Info
	// Erase sets whole blocks to 0xff.
	Erase(off, n int64) error
	// Bad reports whether the block at off is marked bad. Where blocks cannot be bad, none is.
	Bad(off int64) (bool, error)
	// MarkBad marks the block at off bad for ever.
	MarkBad(off int64) error
	// Unlock lifts the write protection of blocks, if there is one, and returns what puts it back.
	Unlock(off, n int64) (relock func(), err error)
}

// VolumeInfo describes a UBI volume.
type VolumeInfo struct {
	Size    int64 // bytes it can hold
	LEB     int64 // bytes of one logical erase block
	Data    int64 // bytes a static volume holds
	Static  bool
	Damaged bool // an update was cut, or a static volume's checksum is wrong: it cannot be read before the next update
}

// Volume is a UBI volume.
type Volume interface {
	io.ReaderAt
	io.Closer
	Info() VolumeInfo
	// Update replaces everything by exactly n bytes. From the call on until the last byte is written and Close has returned,
	// the volume is damaged; a cut leaves it so. It must be the only one who has the volume open.
	Update(n int64) (io.WriteCloser, error)
	// Change replaces one logical erase block of a dynamic volume, as a whole or not at all.
	Change(leb int, p []byte) error
	// Erase takes the flash from one logical erase block of a dynamic volume, which then reads as 0xff. It is durable.
	Erase(leb int) error
}

// ErrUBI says that a volume is not there, or not in a state to be used.
var ErrUBI = errors.New("ubi")

// NextGood returns the first block at or after off, a block boundary, that is not bad and ends at or before end.
func NextGood(m MTD, off, end int64) (int64, error) {
	size := m.Info().EraseSize
	for at := off; at+size <= end; at += size {
		bad, err := m.Bad(at)
		if err != nil {
			return 0, fmt.Errorf("test block at %#x: %w", at, err)
		}
		if !bad {
			return at, nil
		}
	}
	return 0, fmt.Errorf("no good block from %#x to %#x", off, end)
}
