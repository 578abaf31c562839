// SPDX-License-Identifier: Apache-2.0

package slot_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/update/internal/flash"
)

var errCut = errors.New("power cut")

// fuse counts the effects of a flash and blows at one of them: before it, after it, or in its middle.
type fuse struct {
	at    int // 0: never
	how   string
	count int
	dead  bool
}

// ask says how much of an effect takes place.
func (f *fuse) ask() (part string, err error) {
	if f.dead {
		return "none", errCut
	}
	f.count++
	if f.count != f.at {
		return "all", nil
	}
	f.dead = true
	return f.how, errCut
}

// memory is a raw flash: erasing sets all bits of a block, programming only clears bits. It keeps account of what must not be
// done to a real one.
type memory struct {
	*fuse
	block, page int64
	cells       []byte
	marked      map[int64]bool  // bad blocks
	eraseFails  map[int64]error // by block
	writeFails  map[int64]error
	forgets     map[int64]bool // takes bytes without an error, and gives others back
	sins        []string
	erased      map[int64]int
	programmed  int64 // bytes
	open        int   // blocks without their lock
}

func newMemory(blocks, block, page int64, bad ...int64) *memory {
	m := &memory{fuse: &fuse{}, block: block, page: page, cells: bytes.Repeat([]byte{0x5a}, int(blocks*block)), marked: map[int64]bool{},
		eraseFails: map[int64]error{}, writeFails: map[int64]error{}, forgets: map[int64]bool{}, erased: map[int64]int{}}
	for _, b := range bad {
		m.marked[b] = true
	}
	return m
}

func (m *memory) sin(format string, args ...any) {
	m.sins = append(m.sins, fmt.Sprintf(format, args...))
}

func (m *memory) ReadAt(p []byte, off int64) (int, error) {
	if m.dead {
		return 0, errCut
	}
	if off+int64(len(p)) > int64(len(m.cells)) {
		return 0, io.EOF
	}
	return copy(p, m.cells[off:]), nil
}

func (m *memory) Close() error { return nil }

func (m *memory) Erase(off, n int64) error {
	if off%m.block != 0 || n != m.block {
		m.sin("erase of %d bytes at %d", n, off)
	}
	b := off / m.block
	if m.marked[b] {
		m.sin("erase of bad block %d", b)
	}
	if m.open != 1 {
		m.sin("erase of locked block %d", b)
	}
	part, err := m.ask()
	cells := m.cells[off : off+m.block]
	switch part {
	case "half": // some cells let go, others not
		for i := range cells {
			cells[i] |= byte(i) * 37
		}
	case "all", "after":
		if e := m.eraseFails[b]; e != nil {
			return e
		}
		m.erased[b]++
		for i := range cells {
			cells[i] = 0xff
		}
	}
	return err
}

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if off%m.page != 0 || int64(len(p))%m.page != 0 || off/m.block != (off+int64(len(p))-1)/m.block {
		m.sin("%d bytes programmed at %d", len(p), off)
	}
	for at := int64(0); at < int64(len(p)); at += m.page {
		if blank(p[at : at+m.page]) {
			m.sin("a page of ones programmed at %d", off+at)
		}
		if !m.dead && !blank(m.cells[off+at:off+at+m.page]) {
			m.sin("page at %d programmed twice", off+at)
		}
	}
	part, err := m.ask()
	n := len(p)
	b := off / m.block
	switch part {
	case "none", "before":
		return 0, err
	case "half":
		n = n/2 + 1
	}
	for i := range n {
		m.cells[off+int64(i)] &= p[i]
	}
	m.programmed += int64(n)
	if e := m.writeFails[b]; e != nil && err == nil {
		return n / 2, e
	}
	if m.forgets[b] {
		m.cells[off] ^= 1
	}
	return n, err
}

func (m *memory) Bad(off int64) (bool, error) { return m.marked[off/m.block], nil }

func (m *memory) Unlock(off, n int64) (func(), error) {
	if m.open != 0 {
		m.sin("two locks are open")
	}
	m.open++
	return func() { m.open-- }, nil
}

func (m *memory) MarkBad(off int64) error {
	part, err := m.ask()
	if part == "all" || part == "after" {
		m.marked[off/m.block] = true
	}
	return err
}

// image reads n bytes the way a boot loader does: over the blocks that are not marked.
func (m *memory) image(n int) []byte {
	var all []byte
	for b := range int64(len(m.cells)) / m.block {
		if !m.marked[b] {
			all = append(all, m.cells[b*m.block:(b+1)*m.block]...)
		}
	}
	return all[:n]
}

func blank(p []byte) bool { return !slices.ContainsFunc(p, func(b byte) bool { return b != 0xff }) }

// volume is a UBI volume.
type volume struct {
	*fuse
	leb     int64
	lebs    [][]byte // nil: not mapped
	static  bool
	damaged bool
	left    int64 // bytes of an update still to come
	held    []byte
	busy    bool
	changes int
}

func newVolume(lebs int, leb int64) *volume {
	v := &volume{fuse: &fuse{}, leb: leb, lebs: make([][]byte, lebs)}
	for i := range v.lebs {
		v.lebs[i] = bytes.Repeat([]byte{byte(i)}, int(leb))
	}
	return v
}

func (v *volume) ReadAt(p []byte, off int64) (int, error) {
	switch {
	case v.dead:
		return 0, errCut
	case v.damaged:
		return 0, unix.EBADF
	case v.static:
		n := copy(p, v.held[min(off, int64(len(v.held))):])
		return n, map[bool]error{true: nil, false: io.EOF}[n == len(p)]
	}
	for i := range p {
		at := off + int64(i)
		p[i] = 0xff
		if b := v.lebs[at/v.leb]; b != nil {
			p[i] = b[at%v.leb]
		}
	}
	return len(p), nil
}

func (v *volume) Close() error { return nil }

func (v *volume) Change(leb int, p []byte) error {
	if v.busy {
		return unix.EBUSY
	}
	part, err := v.ask()
	if part == "all" || part == "after" {
		v.changes++
		v.lebs[leb] = append(bytes.Clone(p), bytes.Repeat([]byte{0xff}, int(v.leb)-len(p))...)
	}
	return err
}

func (v *volume) Erase(leb int) error {
	part, err := v.ask()
	if part == "all" || part == "after" {
		v.lebs[leb] = nil
	}
	return err
}

func (v *volume) Info() flash.VolumeInfo {
	i := flash.VolumeInfo{LEB: v.leb, Size: v.leb * int64(len(v.lebs)), Static: v.static, Damaged: v.damaged, Data: int64(len(v.held))}
	if !v.static {
		i.Data = i.Size
	}
	return i
}

func (v *volume) Update(size int64) (io.WriteCloser, error) {
	part, err := v.ask()
	if part != "none" && part != "before" {
		v.damaged, v.held, v.left = true, nil, size
		clear(v.lebs)
	}
	return appender{v}, err
}

// appender takes an update as a whole.
type appender struct{ *volume }

func (v appender) Write(p []byte) (int, error) {
	part, err := v.ask()
	if part == "none" || part == "before" {
		return 0, err
	}
	v.held = append(v.held, p...)
	if v.left -= int64(len(p)); v.left == 0 && part != "half" {
		v.damaged = false
		for i := 0; !v.static && i*int(v.leb) < len(v.held); i++ {
			b := v.held[i*int(v.leb) : min((i+1)*int(v.leb), len(v.held))]
			v.lebs[i] = append(bytes.Clone(b), bytes.Repeat([]byte{0xff}, int(v.leb)-len(b))...)
		}
	}
	return len(p), err
}

func (v appender) Close() error {
	if v.left != 0 {
		return errors.New("bytes are missing")
	}
	return nil
}
