// SPDX-License-Identifier: Apache-2.0

package slot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/update"
)

// Raw flash is erased in blocks, which sets every bit, and programmed in pages, which only clears bits. NAND is delivered with
// bad blocks and gets more. An image on it is written as nandwrite writes it and as boot loaders read it: in order, over the
// good blocks. So a bad block is no hole in the image; it moves everything after it.
//
// A block is always erased and programmed, even if it already reads as wanted. Cells that were being erased or programmed when
// the power failed may read right today and wrong tomorrow; only going through with both makes them stable.

// rawFlash is raw flash as the kernel shows it. Offsets are those of the chip, its bad blocks included.
type rawFlash interface {
	io.ReaderAt
	io.WriterAt // whole pages of an erased block
	io.Closer
	Erase(off, n int64) error // one block, n bytes long
	Bad(off int64) (bool, error)
	MarkBad(off int64) error // for ever
	Unlock(off, n int64) (relock func(), err error)
}

// geometry is what a flash is made of, in bytes.
type geometry struct {
	size, block, page int64
	nand              bool // blocks may be bad, and can be marked
}

// Bounds of a geometry. One block is held in memory while it is written.
const (
	maxBlock  = 8 << 20
	maxBlocks = 1 << 20
)

func (g geometry) check() error {
	if g.block <= 0 || g.page <= 0 || g.block > maxBlock || g.block%g.page != 0 || g.size < g.block || g.size/g.block > maxBlocks {
		return fmt.Errorf("%w: flash of %d bytes in blocks of %d and pages of %d is beyond what is supported", update.ErrSetup, g.size, g.block, g.page)
	}
	return nil
}

// chip is a flash without its bad blocks. It implements medium.
type chip struct {
	rawFlash
	geometry
	bad  []int64  // numbers of bad blocks, ascending
	held *os.File // the lock, if it is open for writing
}

func openChip(f rawFlash, g geometry) (*chip, error) {
	if err := g.check(); err != nil {
		return nil, err
	}
	c := &chip{rawFlash: f, geometry: g}
	for n := int64(0); g.nand && n < g.size/g.block; n++ {
		bad, err := f.Bad(n * g.block)
		if err != nil {
			return nil, fmt.Errorf("ask for bad block %d: %w", n, err)
		}
		if bad {
			c.bad = append(c.bad, n)
		}
	}
	return c, nil
}

func (c *chip) room() int64 { return (c.size/c.block - int64(len(c.bad))) * c.block }
func (c *chip) Size() int64 { return c.room() }
func (c *chip) fresh()      {} // character devices of flash have no cache

func (c *chip) Close() error {
	if c.held != nil {
		c.held.Close()
	}
	return c.rawFlash.Close()
}

// physical returns the block of the chip that holds block n of the image.
func (c *chip) physical(n int64) int64 {
	for _, bad := range c.bad {
		if bad > n {
			break
		}
		n++
	}
	return n
}

// ReadAt reads as if there were no bad blocks.
func (c *chip) ReadAt(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		at := off + int64(done)
		if at >= c.room() {
			return done, io.EOF
		}
		in := at % c.block
		k := min(int64(len(p)-done), c.block-in)
		n, err := c.rawFlash.ReadAt(p[done:done+int(k)], c.physical(at/c.block)*c.block+in)
		done += n
		if int64(n) < k {
			return done, errOr(err, io.ErrUnexpectedEOF)
		}
	}
	return done, nil
}

func errOr(err, other error) error {
	if err != nil {
		return err
	}
	return other
}

func (c *chip) writer(id update.SlotID, size int64) (update.Writer, error) {
	return &flashWriter{c: c, id: id, size: size, spare: max(2, c.size/c.block/50), back: make([]byte, min(c.block, max(c.page, 64<<10)))}, nil
}

// flashWriter writes one image to raw flash. It implements update.Writer.
type flashWriter struct {
	c        *chip
	id       update.SlotID
	size, at int64
	buf      []byte  // the bytes since the start of the block
	back     []byte  // what was read to compare
	failed   []int64 // blocks that failed since one last succeeded, not yet marked
	spare    int64   // how many more blocks may be given up
	wiped    bool
	err      error // the first failure: what follows it would be in the wrong place
}

// maxFailed is how many failures in a row end a write. No block is marked bad before another one has taken the same bytes: a
// controller or a supply that fails everything must not cost a chip.
const maxFailed = 3

// errWorn says that a block took the bytes and does not give them back.
var errWorn = errors.New("it holds something else than was written")

// Write takes the next bytes, and writes every block that is full. What would go past the size of the image is not taken.
func (w *flashWriter) Write(p []byte) (int, error) {
	if int64(len(p)) > w.size-w.at {
		return 0, pastEnd(w.id, len(p), w.at, w.size)
	}
	if w.err != nil {
		return 0, w.err
	}
	if w.buf == nil {
		w.buf = make([]byte, 0, w.c.block)
	}
	done := 0
	for done < len(p) {
		k := min(len(p)-done, int(w.c.block)-len(w.buf))
		w.buf = append(w.buf, p[done:done+k]...)
		w.at += int64(k)
		done += k
		if len(w.buf) < int(w.c.block) && w.at < w.size {
			continue
		}
		if err := w.place((w.at - 1) / w.c.block); err != nil {
			w.err = fmt.Errorf("write slot %s: %w", w.id, err)
			return done - k, w.err
		}
		w.buf = w.buf[:0]
	}
	return done, nil
}

// place writes the buffer as block n of the image, into the first block that takes it.
func (w *flashWriter) place(n int64) error {
	for {
		if (n+1)*w.c.block > w.c.room() {
			return fmt.Errorf("no good block is left for byte %d of %d", n*w.c.block, w.size)
		}
		block := w.c.physical(n)
		err := w.program(block)
		if err == nil {
			return w.retire()
		}
		if err := w.give(block, fmt.Errorf("block %d: %w", block, err)); err != nil {
			return err
		}
	}
}

// give takes a block out of use that failed with err, if it is one that flash wears out with.
func (w *flashWriter) give(block int64, err error) error {
	worn := errors.Is(err, unix.EIO) || errors.Is(err, errWorn)
	if !worn || !w.c.nand || len(w.failed) >= maxFailed-1 || w.spare == 0 {
		return err
	}
	w.spare--
	w.failed = append(w.failed, block)
	w.c.bad = append(w.c.bad, block)
	slices.Sort(w.c.bad)
	return nil
}

// retire marks what failed, now that another block has succeeded.
func (w *flashWriter) retire() error {
	for _, block := range w.failed {
		if err := w.c.MarkBad(block * w.c.block); err != nil {
			return fmt.Errorf("mark block %d bad: %w", block, err)
		}
	}
	w.failed = w.failed[:0]
	return nil
}

// program erases a block, writes the buffer to it, and reads it again. The last page is filled up with ones. Pages of ones are
// not programmed: an erased page holds them already, and file systems on NAND count on being the first to program it.
func (w *flashWriter) program(block int64) error {
	off := block * w.c.block
	relock, err := w.c.Unlock(off, w.c.block)
	if err != nil {
		return fmt.Errorf("unlock: %w", err)
	}
	defer relock()
	if err := w.c.Erase(off, w.c.block); err != nil {
		return fmt.Errorf("erase: %w", err)
	}
	p := w.buf
	for int64(len(p))%w.c.page != 0 {
		p = append(p, 0xff)
	}
	for from := int64(0); from < int64(len(p)); {
		to := from
		for to < int64(len(p)) && !blank(p[to:to+w.c.page]) {
			to += w.c.page
		}
		if from < to {
			if _, err := w.c.WriteAt(p[from:to], off+from); err != nil {
				return fmt.Errorf("program: %w", err)
			}
		}
		from = to + w.c.page // to is at a blank page, or at the end
	}
	return w.compare(p, off)
}

func (w *flashWriter) compare(p []byte, off int64) error {
	for at := 0; at < len(p); {
		k := min(len(p)-at, len(w.back))
		if _, err := w.c.rawFlash.ReadAt(w.back[:k], off+int64(at)); err != nil {
			return fmt.Errorf("read again: %w", err)
		}
		if !bytes.Equal(w.back[:k], p[at:at+k]) {
			return errWorn
		}
		at += k
	}
	return nil
}

func blank(p []byte) bool {
	for _, b := range p {
		if b != 0xff {
			return false
		}
	}
	return true
}

// Prefix copies the blocks that the first n bytes fill to dst. A block that is only begun is written again as a whole: it was
// erased, and nobody knows which of its pages hold.
func (w *flashWriter) Prefix(ctx context.Context, dst io.Writer, n int64) (int64, error) {
	if n < 0 || n > w.size {
		return 0, fmt.Errorf("read slot %s: a prefix of %d bytes in an image of %d", w.id, n, w.size)
	}
	n -= n % w.c.block
	if err := drain(ctx, dst, w.c, n); err != nil {
		return 0, fmt.Errorf("read slot %s: %w", w.id, err)
	}
	w.at, w.buf = n, w.buf[:0]
	return n, nil
}

// Sync has nothing to wait for, because flash is programmed when the system call returns. Once the image is complete it erases
// the rest of the slot: what scans a whole partition, as UBI and JFFS2 do, must not find pieces of the image before.
func (w *flashWriter) Sync() error {
	if w.at < w.size || w.wiped || w.err != nil {
		return w.err
	}
	for n := (w.size-1)/w.c.block + 1; (n+1)*w.c.block <= w.c.room(); n++ {
		for {
			block := w.c.physical(n)
			err := w.wipe(block)
			if err == nil {
				break
			}
			if err := w.give(block, fmt.Errorf("erase block %d: %w", block, err)); err != nil {
				return fmt.Errorf("write slot %s: %w", w.id, err)
			}
			if (n+1)*w.c.block > w.c.room() {
				break
			}
		}
		if err := w.retire(); err != nil {
			return fmt.Errorf("write slot %s: %w", w.id, err)
		}
	}
	w.wiped = true
	return nil
}

// wipe erases a block. Erasing NOR takes up to a second a block and reading it a hundredth of that, so there it looks first.
func (w *flashWriter) wipe(block int64) error {
	if !w.c.nand && w.compareBlank(block*w.c.block) {
		return nil
	}
	relock, err := w.c.Unlock(block*w.c.block, w.c.block)
	if err != nil {
		return fmt.Errorf("unlock: %w", err)
	}
	defer relock()
	return w.c.Erase(block*w.c.block, w.c.block)
}

func (w *flashWriter) compareBlank(off int64) bool {
	for at := int64(0); at < w.c.block; {
		k := min(w.c.block-at, int64(len(w.back)))
		if _, err := w.c.rawFlash.ReadAt(w.back[:k], off+at); err != nil || !blank(w.back[:k]) {
			return false
		}
		at += k
	}
	return true
}

// Close releases the slot.
func (w *flashWriter) Close() error { return w.c.Close() }
