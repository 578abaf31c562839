// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"errors"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// likeFile gives the new file the owner, extended attributes and mode of the old one. Mode comes last: changing the owner
// clears the setuid bit.
func likeFile(f, old *os.File) error {
	fi, err := old.Stat()
	if err != nil {
		return err
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		if err := chownIfOther(f, st.Uid, st.Gid); err != nil {
			return err
		}
	}
	if err := copyAttrs(f, old); err != nil {
		return err
	}
	return f.Chmod(fi.Mode() & permBits)
}

// chownIfOther changes the owner only when it differs, so that a scan by an ordinary user can mend that user's files.
func chownIfOther(f *os.File, uid, gid uint32) error {
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok && st.Uid == uid && st.Gid == gid {
		return nil
	}
	return f.Chown(int(uid), int(gid))
}

// copyAttrs copies extended attributes: SELinux and Smack labels decide who may read the file after the edit. A file
// system without attributes has none to lose.
func copyAttrs(f, old *os.File) error {
	names := make([]byte, 4096)
	n, err := unix.Flistxattr(int(old.Fd()), names)
	if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ENOSYS) {
		return nil
	}
	if err != nil {
		return err
	}
	value := make([]byte, 4096)
	for name := range strings.SplitSeq(strings.TrimRight(string(names[:n]), "\x00"), "\x00") {
		if name == "" || strings.HasPrefix(name, "security.ima") || strings.HasPrefix(name, "security.evm") {
			continue // signatures over the old bytes
		}
		v, err := unix.Fgetxattr(int(old.Fd()), name, value)
		if err == nil {
			err = unix.Fsetxattr(int(f.Fd()), name, value[:v], 0)
		}
		if err != nil && !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.ENOTSUP) {
			return err
		}
	}
	return nil
}
