// SPDX-License-Identifier: Apache-2.0

package slot

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/update"
)

// open opens a slot without ever creating or truncating it, and returns how many bytes it has room for. A slot opened for
// writing is locked: a second writer is told to come back later.
func open(d Device, write bool) (*os.File, int64, error) {
	flags := os.O_RDONLY
	if write {
		flags = os.O_RDWR
	}
	if d.Kind == Block && write {
		// The kernel grants O_EXCL without O_CREAT on a block device only if nobody has it mounted or claimed.
		flags |= os.O_EXCL
	}
	f, err := os.OpenFile(d.Path, flags, 0)
	if errors.Is(err, unix.EBUSY) {
		return nil, 0, &update.Refusal{Code: "slot-in-use", What: "open " + d.Path, Why: "the device is mounted or claimed", Err: err}
	}
	if err != nil {
		return nil, 0, err
	}
	room, err := measure(f, d.Kind)
	if err == nil && write {
		err = lock(f)
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, room, nil
}

func measure(f *os.File, kind string) (int64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	switch mode := st.Mode(); {
	case kind == File && mode.IsRegular():
		return st.Size(), nil
	case kind == Block && mode&os.ModeDevice != 0 && mode&os.ModeCharDevice == 0:
		return blockSize(f)
	default:
		return 0, fmt.Errorf("%s is not of kind %q: %w", f.Name(), kind, update.ErrSetup)
	}
}

// lock is advisory: it keeps two writers of ours apart.
func lock(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("lock %s: somebody else is writing it: %w", f.Name(), update.ErrRetry)
	}
	return err
}

// forget asks the kernel to drop what it has cached of f, so that the next read comes from the medium. It is a request: what
// is dirty or mapped stays, and a file system in memory has no medium. Reading the cache instead of the flash is a weaker
// check, not a wrong one, so its result is not looked at.
func forget(f *os.File) {
	_ = f.Sync()
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	dropBlock(f)
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
