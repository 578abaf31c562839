// SPDX-License-Identifier: Apache-2.0

package slot

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/update"
)

// disk is a slot in a regular file or on a block device.
type disk struct {
	*os.File
	n      int64
	direct *os.File // the same without a cache, while it is being read again; nil where the system has no such thing
	closed func() error
}

func openDisk(d Device, write bool) (medium, error) {
	more := 0
	if d.Kind != File {
		// The kernel grants O_EXCL without O_CREAT on a block device only if nobody has it mounted or claimed.
		more = os.O_EXCL
	}
	f, err := openNode(d.Path, write, more)
	if err != nil {
		return nil, err
	}
	n, err := measure(f, d.Kind)
	if err != nil {
		f.Close()
		return nil, err
	}
	return &disk{File: f, n: n}, nil
}

// measure returns the size of a file or block device. Seeking to the end of a device says it without an ioctl, whose number
// and whose argument differ between architectures.
func measure(f *os.File, kind string) (int64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	switch mode := st.Mode(); {
	case kind == File && mode.IsRegular():
		return st.Size(), nil
	case kind != File && mode&os.ModeDevice != 0 && mode&os.ModeCharDevice == 0:
		n, err := f.Seek(0, io.SeekEnd)
		if err != nil {
			return 0, fmt.Errorf("measure %s: %w", f.Name(), err)
		}
		return n, nil
	default:
		return 0, fmt.Errorf("%w: %s is not of kind %q", update.ErrSetup, f.Name(), kind)
	}
}

func (d *disk) Size() int64 { return d.n }
func (d *disk) room() int64 { return d.n }

// fresh drops what the kernel has cached, and opens the way past the cache where there is one. A file system in memory has
// no medium, and what is dirty or mapped by somebody else stays. Reading the cache instead of the flash is a weaker check, not
// a wrong one, so results are not looked at.
func (d *disk) fresh() {
	_ = d.Sync()
	d.drop()
	if st, err := d.Stat(); err == nil && st.Mode()&os.ModeDevice != 0 {
		_, _ = unix.IoctlRetInt(int(d.Fd()), unix.BLKFLSBUF) // needs CAP_SYS_ADMIN
	}
	if d.direct == nil {
		d.direct, _ = os.OpenFile(d.Name(), os.O_RDONLY|unix.O_DIRECT, 0)
	}
}

func (d *disk) drop() { _ = unix.Fadvise(int(d.Fd()), 0, 0, unix.FADV_DONTNEED) }

// ReadAt reads past the cache after fresh, if the kernel takes this place, length and buffer. The tail of an image does not
// fill a sector, and goes through the cache, which is empty.
func (d *disk) ReadAt(p []byte, off int64) (int, error) {
	if d.direct != nil && len(p) > 0 && (int64(len(p))|off|int64(uintptr(unsafe.Pointer(&p[0]))))%pageSize == 0 {
		if n, err := d.direct.ReadAt(p, off); err == nil {
			return n, nil
		}
	}
	return d.File.ReadAt(p, off)
}

func (d *disk) Close() error {
	if d.direct != nil {
		d.direct.Close()
	}
	err := d.File.Close()
	if d.closed != nil {
		if e := d.closed(); err == nil {
			err = e
		}
	}
	return err
}

func (d *disk) writer(id update.SlotID, size int64) (update.Writer, error) {
	return &Writer{d: d, id: id, size: size}, nil
}

// pageSize is what sectors and the pages of flash memory divide, and what a difference is rounded to.
const pageSize = 4096

// aligned returns n bytes that begin at a multiple of a page, as reading past the cache wants.
func aligned(n int64) []byte {
	b := make([]byte, n+pageSize)
	skip := (pageSize - int64(uintptr(unsafe.Pointer(&b[0]))%pageSize)) % pageSize
	return b[skip : skip+n : skip+n]
}

// Writer writes one image to a file or block device. It implements update.Writer.
//
// What the slot already holds is not written again: the slot had the release before last, and an image that was built to change
// little changes little. Looking is a read, so it is done less and less while it finds nothing.
type Writer struct {
	d       *disk
	id      update.SlotID
	size    int64
	at      int64
	pushed  int64 // up to here the kernel was told to begin writing
	written int64 // bytes that were different
	old     []byte
	blind   int // pieces to write without a look
	misses  int // looks in a row that found nothing
}

const (
	maxBlind = 63      // most pieces written without a look
	push     = 1 << 20 // bytes after which the kernel is told to begin writing
)

// Write writes the next bytes. What would go past the size of the image is not written at all.
func (w *Writer) Write(p []byte) (int, error) {
	if int64(len(p)) > w.size-w.at {
		return 0, pastEnd(w.id, len(p), w.at, w.size)
	}
	done := 0
	for done < len(p) {
		// Up to the next boundary, so that a piece always meets the same pages whatever size it arrives in.
		k := min(len(p)-done, int(chunk-w.at%chunk))
		if err := w.put(p[done : done+k]); err != nil {
			return done, fmt.Errorf("write slot %s at %d: %w", w.id, w.at, err)
		}
		done += k
	}
	if w.at-w.pushed >= push {
		// Hashing, and waiting for the network, goes on while the flash writes. A kernel without it writes at Sync.
		_ = unix.SyncFileRange(int(w.d.Fd()), w.pushed, w.at-w.pushed, unix.SYNC_FILE_RANGE_WRITE)
		w.pushed = w.at
	}
	return done, nil
}

// put writes one piece, or of it what differs.
func (w *Writer) put(p []byte) error {
	from, to := 0, len(p)
	if w.blind > 0 && !zero(p) {
		w.blind--
	} else if from, to = w.differs(p); to-from == len(p) {
		w.blind = min(1<<min(w.misses, 10)-1, maxBlind)
		w.misses++
	} else {
		w.misses = 0
	}
	if from < to {
		if _, err := w.d.WriteAt(p[from:to], w.at+int64(from)); err != nil {
			return err
		}
		w.written += int64(to - from)
	}
	w.at += int64(len(p))
	return nil
}

// differs returns the part of p, in whole pages, that the slot does not hold.
func (w *Writer) differs(p []byte) (from, to int) {
	if w.old == nil {
		w.old = make([]byte, chunk)
	}
	old := w.old[:len(p)]
	if n, _ := w.d.File.ReadAt(old, w.at); n != len(p) {
		return 0, len(p) // what cannot be read is written
	}
	to = len(p)
	for from < to && bytes.Equal(old[from:min(from+pageSize, to)], p[from:min(from+pageSize, to)]) {
		from = min(from+pageSize, to)
	}
	for from < to {
		last := (to - 1) / pageSize * pageSize
		if last < from || !bytes.Equal(old[last:to], p[last:to]) {
			break
		}
		to = last
	}
	return from, to
}

func zero(p []byte) bool {
	for len(p) >= 8 {
		if p[0]|p[1]|p[2]|p[3]|p[4]|p[5]|p[6]|p[7] != 0 {
			return false
		}
		p = p[8:]
	}
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}

// Prefix copies the first n bytes of the slot to dst and goes on writing after them: a file and a block device keep all n.
func (w *Writer) Prefix(ctx context.Context, dst io.Writer, n int64) (int64, error) {
	if n < 0 || n > w.size {
		return 0, fmt.Errorf("read slot %s: a prefix of %d bytes in an image of %d", w.id, n, w.size)
	}
	w.d.fresh()
	if n > 0 {
		if err := drain(ctx, dst, w.d, n); err != nil {
			return 0, fmt.Errorf("read slot %s: %w", w.id, err)
		}
	}
	w.at, w.pushed = n, n
	return n, nil
}

// Sync returns when everything written is durable. It gives the memory back that the kernel used for it: a device has little,
// and the image is not read again before it is checked, from the flash.
func (w *Writer) Sync() error {
	if err := w.d.Sync(); err != nil {
		return fmt.Errorf("sync slot %s: %w", w.id, err)
	}
	w.d.drop()
	w.pushed = w.at
	return nil
}

// Close releases the slot.
func (w *Writer) Close() error { return w.d.Close() }

func pastEnd(id update.SlotID, n int, at, size int64) error {
	return fmt.Errorf("write slot %s: %d bytes at %d pass the announced %d", id, n, at, size)
}

// same reports whether two paths are one file or one device, by whatever names.
func same(a, b string) bool {
	sa, err := os.Stat(a)
	if err != nil {
		return false
	}
	sb, err := os.Stat(b)
	if err != nil {
		return false
	}
	return os.SameFile(sa, sb) || sameDevice(sa, sb)
}

// sameDevice reports whether two nodes lead to one device.
func sameDevice(a, b os.FileInfo) bool {
	sa, ok := a.Sys().(*syscall.Stat_t)
	if !ok {
		return false
	}
	sb, ok := b.Sys().(*syscall.Stat_t)
	if !ok {
		return false
	}
	kind := sa.Mode & syscall.S_IFMT
	return (kind == syscall.S_IFBLK || kind == syscall.S_IFCHR) && kind == sb.Mode&syscall.S_IFMT && sa.Rdev == sb.Rdev
}
