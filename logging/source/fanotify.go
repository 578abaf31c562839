// SPDX-License-Identifier: Apache-2.0

package source

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// fanEvent is one fanotify event. fd is a descriptor of the object, -1 for an overflow; who gets it closes it.
type fanEvent struct {
	mask    uint64
	fd, pid int
}

const fanSize = int(unsafe.Sizeof(unix.FanotifyEventMetadata{}))

// parseFan splits what was read from a fanotify descriptor, in the byte order of the machine. It reads byte by byte, so that
// the alignment of the buffer does not matter. An error means that descriptors may have been left open: the group has to end.
func parseFan(b []byte, each func(fanEvent)) error {
	for len(b) > 0 {
		if len(b) < fanSize {
			return fmt.Errorf("read fanotify: event of %d bytes", len(b))
		}
		size := binary.NativeEndian.Uint32(b)
		if b[4] != unix.FANOTIFY_METADATA_VERSION {
			return fmt.Errorf("read fanotify: events of version %d, not %d", b[4], unix.FANOTIFY_METADATA_VERSION)
		}
		if size < uint32(fanSize) || uint64(size) > uint64(len(b)) {
			return fmt.Errorf("read fanotify: event of %d bytes in %d", size, len(b))
		}
		each(fanEvent{
			mask: binary.NativeEndian.Uint64(b[8:]),
			fd:   int(int32(binary.NativeEndian.Uint32(b[16:]))),
			pid:  int(int32(binary.NativeEndian.Uint32(b[20:]))),
		})
		b = b[size:]
	}
	return nil
}

// fanGroup is one fanotify group: a queue of events of its own, so that a flood of one kind costs nothing of the other. It only
// listens. A group that is asked for permission would stop the device when the agent stops.
type fanGroup struct {
	fd   int
	mask uint64
	// As many events as are read at once, each with an open descriptor.
	buf [128 * 24]byte
}

func newFanGroup(mask uint64) (*fanGroup, error) {
	// O_NONBLOCK for the objects too: to open a pipe or a device that way must not stop the reader.
	fd, err := unix.FanotifyInit(unix.FAN_CLASS_NOTIF|unix.FAN_CLOEXEC|unix.FAN_NONBLOCK,
		unix.O_RDONLY|unix.O_CLOEXEC|unix.O_LARGEFILE|unix.O_NONBLOCK|unix.O_NOATIME)
	switch {
	case errors.Is(err, unix.ENOSYS):
		return nil, fmt.Errorf("kernel without CONFIG_FANOTIFY: %w", ErrUnavailable)
	case errors.Is(err, unix.EPERM):
		return nil, fmt.Errorf("no right: needs CAP_SYS_ADMIN: %w", ErrUnavailable)
	case err != nil:
		return nil, fmt.Errorf("open fanotify: %w", err)
	}
	return &fanGroup{fd: fd, mask: mask}, nil
}

// mark watches the file system path is on. All of it, not the mount: a program that makes a mount of its own is seen too.
func (g *fanGroup) mark(path string) error {
	err := unix.FanotifyMark(g.fd, unix.FAN_MARK_ADD|unix.FAN_MARK_FILESYSTEM, g.mask, unix.AT_FDCWD, path)
	if err != nil {
		return fmt.Errorf("watch programs on %s: %w", path, err)
	}
	return nil
}

// read gives each what is in the queue, at most one buffer full, and tells whether there was anything.
func (g *fanGroup) read(each func(fanEvent)) (bool, error) {
	n, err := unix.Read(g.fd, g.buf[:])
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		return false, nil
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENOENT),
		errors.Is(err, unix.ESTALE), errors.Is(err, unix.ETXTBSY), errors.Is(err, unix.EIO), errors.Is(err, unix.EOPNOTSUPP),
		errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE), errors.Is(err, unix.ENOMEM):
		// The object of the first event could not be opened; the kernel has dropped that event and the queue goes on.
		each(fanEvent{mask: fanUnopened, fd: unix.FAN_NOFD})
		return true, nil
	case err != nil:
		return false, fmt.Errorf("read fanotify: %w", err)
	case n <= 0:
		return false, nil
	}
	return true, parseFan(g.buf[:n], each)
}

// fanUnopened is a mask of our own, for an event whose object the kernel could not open for us.
const fanUnopened = 1 << 63

// Close ends the group and its marks.
func (g *fanGroup) Close() error { return unix.Close(g.fd) }
