// SPDX-License-Identifier: Apache-2.0

package flash

import (
	"errors"
	"fmt"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// flags of a partition, from the kernel's include/uapi/mtd/mtd-abi.h.
const (
	mtdDataflash    = 6
	mtdMLCNANDFlash = 8
	mtdWriteable    = 0x400
	mtdBitWriteable = 0x800
)

// ioctl passes a pointer. The request numbers differ between architectures and come from x/sys, as do the structures.
func ioctl[T any](f *os.File, request uint, arg *T) (int, error) {
	n, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), uintptr(request), uintptr(unsafe.Pointer(arg)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

type mtd struct {
	f    *os.File
	info Info
}

// OpenMTD opens the character device of a partition (/dev/mtd0).
func OpenMTD(path string, write bool) (MTD, error) {
	mode := os.O_RDONLY
	if write {
		mode = os.O_RDWR
	}
	f, err := os.OpenFile(path, mode, 0)
	if err != nil {
		return nil, err
	}
	var raw unix.MtdInfo
	if _, err := ioctl(f, unix.MEMGETINFO, &raw); err != nil {
		f.Close()
		return nil, fmt.Errorf("ask %s for its flash: %w", path, err)
	}
	// MEMGETINFO has 32 bits for the size; where the device ends has as many as it takes.
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("measure %s: %w", path, err)
	}
	m := &mtd{f: f, info: Info{
		Size: size, EraseSize: int64(raw.Erasesize), WriteSize: max(1, int64(raw.Writesize)),
		Writable: raw.Flags&mtdWriteable != 0, BitClear: raw.Flags&mtdBitWriteable != 0,
	}}
	switch raw.Type {
	case unix.MTD_NORFLASH:
		m.info.Kind = NOR
	case unix.MTD_NANDFLASH, mtdMLCNANDFlash:
		m.info.Kind = NAND
	case mtdDataflash:
		m.info.Kind = Dataflash
	}
	if m.info.EraseSize <= 0 {
		f.Close()
		return nil, fmt.Errorf("ask %s for its flash: it has no erase blocks", path)
	}
	return m, nil
}

func (m *mtd) Info() Info                               { return m.info }
func (m *mtd) ReadAt(p []byte, off int64) (int, error)  { return m.f.ReadAt(p, off) }
func (m *mtd) WriteAt(p []byte, off int64) (int, error) { return m.f.WriteAt(p, off) }
func (m *mtd) Close() error                             { return m.f.Close() }
func (m *mtd) Bad(off int64) (bool, error) {
	if m.info.Kind != NAND {
		return false, nil
	}
	n, err := ioctl(m.f, unix.MEMGETBADBLOCK, &off)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return false, nil
	}
	return n > 0, err
}

func (m *mtd) MarkBad(off int64) error {
	_, err := ioctl(m.f, unix.MEMSETBADBLOCK, &off)
	return err
}

func (m *mtd) Erase(off, n int64) error {
	if off < 0 || n <= 0 || off%m.info.EraseSize != 0 || n%m.info.EraseSize != 0 || off+n > m.info.Size {
		return fmt.Errorf("erase %s from %#x to %#x: these are not whole blocks of it", m.f.Name(), off, off+n)
	}
	// One call per block: a long erase of many blocks cannot be interrupted, not even by a signal.
	for end := off + n; off < end; off += m.info.EraseSize {
		if _, err := ioctl(m.f, unix.MEMERASE64, &unix.EraseInfo64{Start: uint64(off), Length: uint64(m.info.EraseSize)}); err != nil {
			return fmt.Errorf("erase %s at %#x: %w", m.f.Name(), off, err)
		}
	}
	return nil
}

// Unlock asks first, so that what was not locked is not locked afterwards. Flash that knows no locks says that it cannot
// answer, and is unlocked. The structure has 32 bits: beyond 4 GiB there is no NOR flash.
func (m *mtd) Unlock(off, n int64) (func(), error) {
	if m.info.Kind != NOR || off+n > 1<<32-1 {
		return func() {}, nil
	}
	area := unix.EraseInfo{Start: uint32(off), Length: uint32(n)}
	locked, err := ioctl(m.f, unix.MEMISLOCKED, &area)
	if err != nil || locked <= 0 {
		return func() {}, nil
	}
	if _, err := ioctl(m.f, unix.MEMUNLOCK, &area); err != nil {
		return nil, fmt.Errorf("unlock %s from %#x to %#x: %w", m.f.Name(), off, off+n, err)
	}
	return func() { _, _ = ioctl(m.f, unix.MEMLOCK, &area) }, nil
}
