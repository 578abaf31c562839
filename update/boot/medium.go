// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/update"
)

// medium opens what a boot loader's bytes are on. The tests put one in its place that loses, tears and reorders what was not
// synced.
type medium func(path string, write bool) (mediumFile, error)

type mediumFile interface {
	io.ReaderAt
	io.WriterAt
	io.Seeker
	Sync() error
	Close() error
}

// onDisk opens a file or a block device that is there. It never creates, truncates or extends.
func onDisk(path string, write bool) (mediumFile, error) {
	flags := os.O_RDONLY
	if write {
		flags = os.O_RDWR
	}
	f, err := os.OpenFile(path, flags, 0)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() && (st.Mode()&os.ModeDevice == 0 || st.Mode()&os.ModeCharDevice != 0) {
		err = fmt.Errorf("%s is neither a file nor a block device", path)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// dropCache asks the kernel to forget what it has read, so that the next read is of the medium. It is a request, see package slot.
func dropCache(f mediumFile) {
	if disk, ok := f.(*os.File); ok {
		_ = unix.Fadvise(int(disk.Fd()), 0, 0, unix.FADV_DONTNEED)
	}
}

// readAll reads a whole file of at most limit bytes.
func (m medium) readAll(path string, limit int) ([]byte, error) {
	f, err := m(path, false)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", update.ErrSetup, err)
	}
	defer f.Close()
	n, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	if n > int64(limit) {
		return nil, fmt.Errorf("%w: %s has %d bytes, at most %d are possible", update.ErrSetup, path, n, limit)
	}
	return readAt(f, path, 0, int(n))
}

// read reads n bytes at off.
func (m medium) read(path string, off int64, n int) ([]byte, error) {
	f, err := m(path, false)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", update.ErrSetup, err)
	}
	defer f.Close()
	return readAt(f, path, off, n)
}

func readAt(f mediumFile, path string, off int64, n int) ([]byte, error) {
	dropCache(f)
	b := make([]byte, n)
	k, err := f.ReadAt(b, off)
	if k < n && errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read %s at %d: %w: it ends after %d of %d bytes", path, off, update.ErrSetup, k, n)
	}
	if k < n {
		return nil, fmt.Errorf("read %s at %d: %w", path, off, err)
	}
	return b, nil
}

// overwrite replaces bytes in place: one write, synced, and read back. What is there is neither truncated nor extended, so
// whatever happens the file keeps its length, its name and its blocks; a boot loader may have a list of these.
func (m medium) overwrite(path string, off int64, b []byte) error {
	f, err := m(path, true)
	if err != nil {
		return err
	}
	defer f.Close()
	n, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if off+int64(len(b)) > n {
		return fmt.Errorf("write %s: %d bytes at %d, but it ends at %d", path, len(b), off, n)
	}
	if _, err := f.WriteAt(b, off); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", path, err)
	}
	back, err := readAt(f, path, off, len(b))
	if err != nil {
		return err
	}
	if !bytes.Equal(back, b) {
		return fmt.Errorf("read %s back: it does not hold what was written", path)
	}
	return nil
}

// extend makes a file longer: b begins with what it holds.
func (m medium) extend(path string, b []byte) error {
	f, err := m(path, true)
	if err != nil {
		return err
	}
	defer f.Close()
	n, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if _, err := f.WriteAt(b[n:], n); err != nil {
		return fmt.Errorf("extend %s: %w", path, err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", path, err)
	}
	return nil
}
