// SPDX-License-Identifier: Apache-2.0

package source

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// notice is one inotify event: mask of what happened, to the watch itself or to name inside the watched directory.
type notice struct {
	watch int
	mask  uint32
	name  string
}

// parseNotices splits what was read from an inotify descriptor, in the byte order of the machine. What does not fit the
// structure ends it.
func parseNotices(b []byte, each func(notice)) {
	for len(b) >= unix.SizeofInotifyEvent {
		n := notice{watch: int(int32(binary.NativeEndian.Uint32(b))), mask: binary.NativeEndian.Uint32(b[4:])}
		size := binary.NativeEndian.Uint32(b[12:])
		b = b[unix.SizeofInotifyEvent:]
		if uint64(size) > uint64(len(b)) {
			return
		}
		name, _, _ := bytes.Cut(b[:size], []byte{0})
		n.name = string(name)
		b = b[size:]
		each(n)
	}
}

// inotify watches files and directories by name. Its buffer holds at least fifteen events.
type inotify struct {
	fd  int
	buf [4096]byte
}

func newInotify() (*inotify, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if errors.Is(err, unix.ENOSYS) {
		return nil, fmt.Errorf("kernel without CONFIG_INOTIFY_USER: %w", ErrUnavailable)
	}
	if err != nil {
		return nil, fmt.Errorf("open inotify: %w", err)
	}
	return &inotify{fd: fd}, nil
}

// add watches path; the same object has the same number.
func (n *inotify) add(path string, mask uint32) (int, error) {
	wd, err := unix.InotifyAddWatch(n.fd, path, mask)
	if errors.Is(err, unix.ENOSPC) {
		return 0, fmt.Errorf("watch %s: limit of fs.inotify.max_user_watches", path)
	}
	if err != nil {
		return 0, fmt.Errorf("watch %s: %w", path, err)
	}
	return wd, nil
}

func (n *inotify) remove(wd int) { _, _ = unix.InotifyRmWatch(n.fd, uint32(wd)) }

// read gives each what happened since the last call. An overflow is an event with IN_Q_OVERFLOW and watch -1.
func (n *inotify) read(each func(notice)) error {
	for range 64 { // then let the caller see whether it is to end
		c, err := unix.Read(n.fd, n.buf[:])
		switch {
		case errors.Is(err, unix.EAGAIN):
			return nil
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("read inotify: %w", err)
		case c <= 0:
			return nil
		}
		parseNotices(n.buf[:c], each)
	}
	return nil
}

// Close ends all watches.
func (n *inotify) Close() error { return unix.Close(n.fd) }
