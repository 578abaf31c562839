// SPDX-License-Identifier: Apache-2.0

package scan

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/backstay/backstay/configs/probe"
)

// Bounds of what is kept of archives that can only be read from front to back.
const (
	maxKept   = 64 << 20 // bytes of one file; no probe reads more
	maxMemory = 16 << 20 // bytes kept in memory; more goes to the nameless file
)

// stream is an archive, read from front to back.
type stream struct {
	r      io.Reader
	at     int64
	direct io.ReaderAt // the same bytes, when they can be read at any place
	zeros  bool        // the last read gave a whole tar block of zeros
}

func (s *stream) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.at += int64(n)
	if n > 0 {
		s.zeros = n == tarBlock && allZero(p[:n])
	}
	return n, err
}

// seekable is a stream that is a file: what is not wanted is not read.
type seekable struct{ *stream }

func (s seekable) Seek(off int64, whence int) (int64, error) {
	at, err := s.r.(io.Seeker).Seek(off, whence)
	if err == nil {
		s.at = at
	}
	return at, err
}

// content says where the bytes are that body is about to give.
func (s *stream) content(ctx context.Context, body io.Reader, size int64, encoded bool, keep *spool) (content, error) {
	if size < 0 {
		return content{}, fmt.Errorf("a file of %d bytes", size)
	}
	if s.direct != nil && !encoded {
		return content{src: s.direct, off: s.at, kept: size}, nil
	}
	return keep.add(ctx, body, min(size, maxKept))
}

// spool keeps the contents of compressed archives: in memory, then in a file that has no name any more. It is not
// unpacking: nothing in it has a name, a mode or an owner, and it is gone when the process is.
type spool struct {
	dir   string // for the file
	limit int64
	mem   []byte
	file  *os.File
	size  int64
}

func (s *spool) Close() error {
	if s.file == nil {
		return nil
	}
	return s.file.Close()
}

// add keeps size bytes of r.
func (s *spool) add(ctx context.Context, r io.Reader, size int64) (content, error) {
	c := content{src: s, off: s.size, kept: size}
	buf := make([]byte, min(size, 256<<10))
	for left := size; left > 0; {
		if err := ctx.Err(); err != nil {
			return c, err
		}
		n, err := io.ReadFull(r, buf[:min(left, int64(len(buf)))])
		if err != nil {
			return c, err
		}
		if err := s.write(buf[:n]); err != nil {
			return c, err
		}
		left -= int64(n)
	}
	return c, nil
}

func (s *spool) write(p []byte) error {
	if s.size += int64(len(p)); s.size > s.limit {
		return fmt.Errorf("%w: the archive unpacks to more than %d bytes", probe.ErrTooLarge, s.limit)
	}
	if s.file == nil && len(s.mem)+len(p) <= maxMemory {
		s.mem = append(s.mem, p...)
		return nil
	}
	if s.file == nil {
		f, err := os.CreateTemp(s.dir, "backstay-scan-")
		if err != nil {
			return err
		}
		if err := os.Remove(f.Name()); err != nil {
			f.Close()
			return err
		}
		s.file = f
	}
	at := s.size - int64(len(p)) - int64(len(s.mem))
	if allZero(p) { // a hole: archives that unpack to nothing but zeros cost nothing
		return s.file.Truncate(at + int64(len(p)))
	}
	_, err := s.file.WriteAt(p, at)
	return err
}

func allZero(p []byte) bool {
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}

// ReadAt reads what was kept.
func (s *spool) ReadAt(p []byte, off int64) (int, error) {
	var n int
	if off < int64(len(s.mem)) {
		n = copy(p, s.mem[off:])
	}
	if n == len(p) || s.file == nil {
		if n < len(p) {
			return n, io.EOF
		}
		return n, nil
	}
	m, err := s.file.ReadAt(p[n:], off+int64(n)-int64(len(s.mem)))
	return n + m, err
}
