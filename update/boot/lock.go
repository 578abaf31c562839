// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/update"
)

// Waiting for a lock: fw_setenv holds it for as long as a flash erase takes.
const (
	lockWait = 10 * time.Second
	lockPoll = 20 * time.Millisecond
)

// acquire takes all lock files, in order. A lock file whose directory does not exist is one nobody can hold.
func acquire(c Config) (unlock func(), err error) {
	paths := c.Locks
	if paths == nil {
		paths = DefaultLocks()
	}
	var held []*os.File
	unlock = func() {
		for _, f := range held {
			f.Close()
		}
	}
	for _, path := range paths {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err == nil && !heldAlready(held, f) {
			err = flock(f)
		}
		if err != nil {
			unlock()
			return nil, fmt.Errorf("lock boot environment: %w", err)
		}
		held = append(held, f)
	}
	return unlock, nil
}

// heldAlready reports whether a lock file is one we hold under another name; waiting for it would be for ever.
func heldAlready(held []*os.File, f *os.File) bool {
	st, err := f.Stat()
	for _, h := range held {
		if hs, herr := h.Stat(); err == nil && herr == nil && os.SameFile(st, hs) {
			return true
		}
	}
	return false
}

func flock(f *os.File) error {
	for end := time.Now().Add(lockWait); ; time.Sleep(lockPoll) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, unix.EINTR):
		case !errors.Is(err, unix.EWOULDBLOCK):
			f.Close()
			return fmt.Errorf("%s: %w", f.Name(), err)
		case time.Now().After(end):
			f.Close()
			return fmt.Errorf("%s is held by somebody else: %w", f.Name(), update.ErrRetry)
		}
	}
}
