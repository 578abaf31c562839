// SPDX-License-Identifier: Apache-2.0

package flashtest

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"syscall"

	"github.com/backstay/backstay/update/internal/flash"
)

// MTD is a partition. Opening and closing it is up to the test: it stays what it is.
type MTD struct {
	Power  *Power
	Data   []byte
	Marked map[int64]bool // blocks marked bad
	Broken map[int64]bool // blocks whose erase fails, as one that has gone bad since
	Locked map[int64]bool // blocks with a write protection
	info   flash.Info
	next   map[int64]int64 // NAND: per block, where the next page may be written
}

var _ flash.MTD = (*MTD)(nil)

// NewMTD returns an erased partition of so many blocks. On NOR, a step programs 512 bytes at most.
func NewMTD(kind flash.Kind, blocks, eraseSize, pageSize int64) *MTD {
	return &MTD{
		Power: &Power{}, Data: bytes.Repeat([]byte{0xff}, int(blocks*eraseSize)),
		Marked: map[int64]bool{}, Broken: map[int64]bool{}, Locked: map[int64]bool{}, next: map[int64]int64{},
		info: flash.Info{Kind: kind, Size: blocks * eraseSize, EraseSize: eraseSize, WriteSize: pageSize, Writable: true, BitClear: kind == flash.NOR},
	}
}

// Picture returns a copy of the memory as it is, with power.
func (m *MTD) Picture() *MTD {
	c := *m
	c.Power, c.Data = &Power{}, slices.Clone(m.Data)
	c.Marked, c.Broken, c.Locked, c.next = clone(m.Marked), clone(m.Broken), clone(m.Locked), clone(m.next)
	return &c
}

func clone[V any](m map[int64]V) map[int64]V {
	c := map[int64]V{}
	for k, v := range m {
		c[k] = v
	}
	return c
}

func (m *MTD) Info() flash.Info { return m.info }
func (m *MTD) Close() error     { return nil }

func (m *MTD) block(off int64) int64 { return off - off%m.info.EraseSize }

func (m *MTD) ReadAt(p []byte, off int64) (int, error) {
	if err := m.Power.check(); err != nil {
		return 0, err
	}
	if off < 0 || off >= m.info.Size {
		return 0, io.EOF
	}
	n := copy(p, m.Data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt clears bits, page by page. What was not erased before stays cleared, as on the real thing.
func (m *MTD) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > m.info.Size {
		return 0, syscall.ENOSPC
	}
	step := int64(512)
	if m.info.Kind != flash.NOR {
		step = m.info.WriteSize
		if off%step != 0 || int64(len(p))%step != 0 {
			return 0, fmt.Errorf("write %d bytes at %#x: not whole pages of %d: %w", len(p), off, step, syscall.EINVAL)
		}
	}
	done := 0
	for done < len(p) {
		at := off + int64(done)
		n := int(min(int64(len(p)-done), step-at%step))
		if err := m.page(at, p[done:done+n]); err != nil {
			return done, err
		}
		done += n
	}
	return done, nil
}

func (m *MTD) page(at int64, p []byte) error {
	b := m.block(at)
	switch {
	case m.Locked[b]:
		return syscall.EROFS
	case m.Marked[b]:
		return fmt.Errorf("write at %#x: the block is marked bad: %w", at, syscall.EIO)
	case m.info.Kind == flash.NAND && at-b < m.next[b]:
		return fmt.Errorf("write at %#x: the page is not the next one since the erase: %w", at, syscall.EIO)
	}
	m.next[b] = at - b + int64(len(p))
	return m.Power.step(len(p), func(i int) {
		if m.info.Kind == flash.Dataflash {
			m.Data[at+int64(i)] = p[i]
		} else {
			m.Data[at+int64(i)] &= p[i]
		}
	})
}

func (m *MTD) Erase(off, n int64) error {
	size := m.info.EraseSize
	if off < 0 || n <= 0 || off%size != 0 || n%size != 0 || off+n > m.info.Size {
		return syscall.EINVAL
	}
	for b := off; b < off+n; b += size {
		if m.Locked[b] {
			return syscall.EROFS
		}
		if m.Marked[b] || m.Broken[b] {
			return fmt.Errorf("erase at %#x: %w", b, syscall.EIO)
		}
		m.next[b] = size // whatever a cut leaves, it cannot be programmed
		if err := m.Power.step(int(size), func(i int) { m.Data[b+int64(i)] = 0xff }); err != nil {
			return err
		}
		m.next[b] = 0
	}
	return nil
}

func (m *MTD) Bad(off int64) (bool, error) {
	if off%m.info.EraseSize != 0 {
		return false, syscall.EINVAL
	}
	return m.Marked[off], m.Power.check()
}

func (m *MTD) MarkBad(off int64) error {
	if m.info.Kind != flash.NAND || off%m.info.EraseSize != 0 {
		return syscall.EINVAL
	}
	if err := m.Power.step(1, func(int) { m.Marked[off] = true }); err != nil {
		return err
	}
	return nil
}

func (m *MTD) Unlock(off, n int64) (func(), error) {
	var were []int64
	for b := m.block(off); b < off+n; b += m.info.EraseSize {
		if m.Locked[b] {
			were = append(were, b)
			delete(m.Locked, b)
		}
	}
	return func() {
		for _, b := range were {
			m.Locked[b] = true
		}
	}, m.Power.check()
}
