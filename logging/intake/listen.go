// SPDX-License-Identifier: Apache-2.0

package intake

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/logging"
)

// Listen opens the JSON socket. Its directory must belong to root or this user and be writable by nobody else, or whoever can
// write it could put a socket of his own there and collect what was meant for the log. The mode is 0600, or 0666 when others
// than this user and root may write: then the kernel's word about who connected decides, and the directory must let them
// through. A socket nobody answers on is removed; anything else at that path is an error. Errors match logging.ErrSetup.
func Listen(path string, uids, gids []int) (*net.UnixListener, error) {
	fail := func(err error) (*net.UnixListener, error) {
		return nil, fmt.Errorf("listen on %s: %w: %w", path, err, logging.ErrSetup)
	}
	mode := fs.FileMode(0o600)
	if len(gids) > 0 {
		mode = 0o666
	}
	for _, uid := range uids {
		if uid != 0 && uid != os.Geteuid() {
			mode = 0o666
		}
	}
	if err := checkDir(filepath.Dir(path), mode&0o066 != 0); err != nil {
		return fail(err)
	}
	if err := removeStale(path, "unixpacket"); err != nil {
		return fail(err)
	}
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return fail(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		return fail(errors.Join(err, l.Close()))
	}
	return l, nil
}

// ListenSyslog opens the syslog socket, which every program may write to (mode 0666). A live socket of another program at that
// path, or a link to one, is an error unless replace is set: two programs cannot both read /dev/log, and the one that is there
// may be what a person relies on. Errors match logging.ErrSetup.
func ListenSyslog(path string, replace bool) (*net.UnixConn, error) {
	fail := func(err error) (*net.UnixConn, error) {
		return nil, fmt.Errorf("listen on %s: %w: %w", path, err, logging.ErrSetup)
	}
	if err := checkDir(filepath.Dir(path), true); err != nil {
		return fail(err)
	}
	if replace {
		if err := removeSocket(path); err != nil {
			return fail(err)
		}
	} else if err := removeStale(path, "unixgram"); err != nil {
		return fail(err)
	}
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return fail(err)
	}
	err = os.Chmod(path, 0o666)
	if raw, e := c.SyscallConn(); e == nil {
		ctl := raw.Control(func(fd uintptr) {
			err = errors.Join(err, unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1))
		})
		err = errors.Join(err, ctl)
	} else {
		err = errors.Join(err, e)
	}
	if err != nil {
		return fail(errors.Join(err, c.Close()))
	}
	return c, nil
}

func checkDir(dir string, open bool) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	perm := info.Mode().Perm()
	switch {
	case !info.IsDir():
		return fmt.Errorf("%s is not a directory", dir)
	case perm&0o022 != 0:
		return fmt.Errorf("directory %s is writable by others (mode %04o)", dir, perm)
	case ok && st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return fmt.Errorf("directory %s belongs to user id %d", dir, st.Uid)
	case open && perm&0o001 == 0:
		return fmt.Errorf("directory %s does not let others through (mode %04o), and others may write", dir, perm)
	}
	return nil
}

// removeStale removes a socket nobody answers on.
func removeStale(path, network string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSocket == 0 {
		return errors.New("something is there that is not a socket of its own")
	}
	c, err := net.Dial(network, path)
	if err == nil {
		return errors.Join(errors.New("another program reads from it"), c.Close())
	}
	switch {
	case errors.Is(err, unix.EPROTOTYPE):
		return errors.New("another program has a socket of another type there")
	case !errors.Is(err, unix.ECONNREFUSED):
		return err
	}
	return os.Remove(path)
}

// removeSocket removes a socket or a link, whoever uses it. A file or a directory is not what this was meant for.
func removeSocket(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode()&(fs.ModeSocket|fs.ModeSymlink) == 0 {
		return errors.New("something is there that is neither a socket nor a link")
	}
	return os.Remove(path)
}
