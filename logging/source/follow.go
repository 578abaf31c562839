// SPDX-License-Identifier: Apache-2.0

package source

import (
	"bytes"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// Bounds of following a file.
const (
	followChunk = 4 << 10
	followOnce  = 1 << 20 // bytes read before others have their turn
	followBack  = 4 << 20 // bytes that were not read yet and still are; older ones are counted as lost
	headBytes   = 64
)

// follower reads what is appended to a file, over rotation, truncation and restarts of the agent.
type follower struct {
	path   string // inside Root
	record int    // size of its records, 0 for lines
	file   *os.File
	wd     int // its inotify watch
	mark   position
	buf    [followChunk]byte
	fill   int  // bytes in buf that are no whole line yet
	skip   bool // until the end of a line that is too long
}

// position is how far a file was read. The hash of its beginning tells it from another that got the same inode number, which on
// a file system in memory happens at each boot.
type position struct {
	inode  uint64
	head   uint32
	headN  int64 // bytes of head
	offset int64
}

// open opens the file where it was left, at its end when it was never seen (fresh), or at its beginning when it is a new one.
// A file that is not there is no error: file stays nil.
func (f *follower) open(fresh bool) error {
	file, err := openRegular(f.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	st, err := file.Stat()
	if err != nil {
		return errors.Join(fmt.Errorf("open log: %w", err), file.Close())
	}
	f.file, f.fill, f.skip = file, 0, false
	inode := inodeOf(st)
	switch {
	case f.mark.inode == inode && f.mark.offset <= st.Size() && f.mark.head == headOf(file, f.mark.headN):
	case f.mark.inode == 0 && fresh:
		f.mark = position{inode: inode, offset: st.Size()}
	default:
		f.mark = position{inode: inode}
	}
	f.mark.headN = min(st.Size(), headBytes)
	f.mark.head = headOf(file, f.mark.headN)
	return nil
}

func inodeOf(st os.FileInfo) uint64 {
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		return uint64(sys.Ino)
	}
	return 0
}

func headOf(f *os.File, n int64) uint32 {
	h := fnv.New32a()
	_, _ = io.Copy(h, io.NewSectionReader(f, 0, n))
	return h.Sum32()
}

// read gives each whole line or record that is new. It returns what was passed over, in bytes, and whether there may be more.
func (f *follower) read(each func([]byte)) (lost int64, more bool, err error) {
	if f.file == nil {
		return 0, false, nil
	}
	st, err := f.file.Stat()
	if err != nil {
		return 0, false, fmt.Errorf("read log: %w", err)
	}
	if st.Size() < f.mark.offset+int64(f.fill) { // emptied in place
		f.mark = position{inode: f.mark.inode}
		f.fill, f.skip = 0, false
	}
	if f.mark.headN < headBytes {
		f.mark.headN = min(st.Size(), headBytes)
		f.mark.head = headOf(f.file, f.mark.headN)
	}
	if behind := st.Size() - f.mark.offset; behind > followBack {
		lost = behind - followBack
		if f.record > 0 {
			lost -= lost % int64(f.record)
		}
		f.mark.offset += lost
		f.fill, f.skip = 0, f.record == 0
	}
	for done := 0; done < followOnce; {
		n, err := f.file.ReadAt(f.buf[f.fill:], f.mark.offset+int64(f.fill))
		f.fill += n
		done += n
		f.take(each)
		if errors.Is(err, io.EOF) || n == 0 && err == nil {
			return lost, false, nil
		}
		if err != nil {
			return lost, false, fmt.Errorf("read log: %w", err)
		}
	}
	return lost, true, nil
}

// take gives each what is whole in the buffer, and keeps the rest at its start.
func (f *follower) take(each func([]byte)) {
	b := f.buf[:f.fill]
	for {
		n := 0
		if f.record > 0 {
			if len(b) < f.record {
				break
			}
			n = f.record
			each(b[:n])
		} else {
			end := bytes.IndexByte(b, '\n')
			if end < 0 && len(b) < len(f.buf) {
				break
			}
			if n = end + 1; end < 0 { // no line is that long
				n = len(b)
			} else if !f.skip {
				each(b[:end])
			}
			f.skip = end < 0
		}
		b = b[n:]
		f.mark.offset += int64(n)
	}
	f.fill = copy(f.buf[:], b)
}

// replaced reports whether another file has the name now.
func (f *follower) replaced() bool {
	st, err := os.Stat(f.path)
	return err == nil && (f.file == nil || inodeOf(st) != f.mark.inode)
}

// close closes the file and keeps the mark.
func (f *follower) close() error {
	if f.file == nil {
		return nil
	}
	err := f.file.Close()
	f.file = nil
	return err
}

// String encodes the position for State.
func (p position) String() string {
	return fmt.Sprintf("%d %d %d %d", p.inode, p.head, p.headN, p.offset)
}

func parsePosition(s string) (p position, ok bool) {
	f := strings.Fields(s)
	if len(f) != 4 {
		return p, false
	}
	var n [4]uint64
	for i := range f {
		var err error
		if n[i], err = strconv.ParseUint(f[i], 10, 63); err != nil {
			return p, false
		}
	}
	if n[1] > 1<<32-1 || n[2] > headBytes {
		return p, false
	}
	return position{inode: n[0], head: uint32(n[1]), headN: int64(n[2]), offset: int64(n[3])}, true
}

// openRotated opens what the file was renamed to, if it is what was being read when the agent stopped.
func (f *follower) openRotated() bool {
	for _, suffix := range [...]string{".1", ".0"} {
		file, err := openRegular(f.path + suffix)
		if err != nil {
			continue
		}
		st, err := file.Stat()
		if err == nil && f.mark.inode != 0 && inodeOf(st) == f.mark.inode && f.mark.offset <= st.Size() && headOf(file, f.mark.headN) == f.mark.head {
			f.file, f.fill, f.skip = file, 0, false
			return true
		}
		_ = file.Close()
	}
	return false
}
