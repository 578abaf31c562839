// SPDX-License-Identifier: Apache-2.0

package spool

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/backstay/backstay/logging"
)

// lockDir takes the lock on the directory of a log, which one process holds, whatever kind of store is in it. A file system
// without locks is used without: there, nothing but the init system keeps two agents apart.
func lockDir(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w: %w", path, err, logging.ErrSetup)
	}
	for end := time.Now().Add(lockTimeout); ; time.Sleep(lockTimeout / 40) {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil, errors.Is(err, syscall.EINVAL), errors.Is(err, syscall.ENOSYS), errors.Is(err, syscall.ENOLCK), errors.Is(err, syscall.ENOTSUP):
			return f, nil
		case !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR):
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
		case time.Now().After(end):
			return nil, errors.Join(fmt.Errorf("lock %s: another process holds it: %w", path, logging.ErrRetry), f.Close())
		}
	}
}
