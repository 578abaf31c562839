// SPDX-License-Identifier: Apache-2.0

package slot

import (
	"fmt"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// blockSize returns the size of a block device in bytes. Seeking to the end says it without an ioctl, whose number and whose
// argument differ between architectures.
func blockSize(f *os.File) (int64, error) {
	n, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, fmt.Errorf("measure %s: %w", f.Name(), err)
	}
	return n, nil
}

// dropBlock drops the buffers of a block device. It needs CAP_SYS_ADMIN, and without it does nothing.
func dropBlock(f *os.File) {
	if st, err := f.Stat(); err == nil && st.Mode()&os.ModeDevice != 0 {
		_, _ = unix.IoctlRetInt(int(f.Fd()), unix.BLKFLSBUF)
	}
}

// sameDevice reports whether two nodes lead to one block device.
func sameDevice(a, b os.FileInfo) bool {
	sa, ok := a.Sys().(*syscall.Stat_t)
	if !ok {
		return false
	}
	sb, ok := b.Sys().(*syscall.Stat_t)
	if !ok {
		return false
	}
	return sa.Mode&syscall.S_IFMT == syscall.S_IFBLK && sb.Mode&syscall.S_IFMT == syscall.S_IFBLK && sa.Rdev == sb.Rdev
}
