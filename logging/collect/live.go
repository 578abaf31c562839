// SPDX-License-Identifier: Apache-2.0

package collect

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"github.com/backstay/backstay/logging"
)

// The store file is locked by the process that writes it. So that verification and reports work all the same, that process
// gives a consistent copy of the file to whoever may open the socket beside it (mode 0600): a client connects, reads a copy to
// its end, and sends nothing. There is no protocol to parse on either side.
const (
	socketFile  = "collect.sock"
	copyTimeout = 10 * time.Minute
	copyTrailer = "backstay-copy-complete"
)

// Serve gives copies of the store until ctx ends and then returns nil. It owns and joins its goroutines.
func (s *Bolt) Serve(ctx context.Context) error {
	path := filepath.Join(filepath.Dir(s.db.Path()), socketFile)
	// Whoever holds the lock on the file is the only one who may be listening: a socket that is there was left by a crash.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("listen for readers of the store: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return fmt.Errorf("listen for readers of the store: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil { // the directory is 0700: nobody came in between
		return errors.Join(fmt.Errorf("listen for readers of the store: %w", err), l.Close())
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	stop := context.AfterFunc(ctx, func() { l.Close() }) //nolint:errcheck // ends Accept
	defer stop()
	one := make(chan struct{}, 1) // one copy at a time: each is a long read transaction
	for {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("listen for readers of the store: %w", err)
		}
		wg.Go(func() {
			defer conn.Close() //nolint:errcheck // the copy says itself whether it is complete
			end := context.AfterFunc(ctx, func() { conn.Close() })
			defer end()
			select {
			case one <- struct{}{}:
				defer func() { <-one }()
			case <-ctx.Done():
				return
			}
			_ = conn.SetDeadline(time.Now().Add(copyTimeout))
			_ = s.copyTo(conn) // a reader that went away is no error of the store
		})
	}
}

func (s *Bolt) copyTo(w io.Writer) error {
	return guard(func() error {
		return s.db.View(func(tx *bbolt.Tx) error {
			if _, err := tx.WriteTo(w); err != nil {
				return err
			}
			_, err := io.WriteString(w, copyTrailer)
			return err
		})
	})
}

// OpenLive opens a store for reading whether or not another process has it: itself when it is free, a copy when it is in use.
// Close removes the copy. Errors match fs.ErrNotExist when there is no store, logging.ErrRetry when it is in use and its
// owner gives no copies.
func OpenLive(ctx context.Context, dir string) (*Bolt, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", filepath.Join(dir, socketFile))
	if err != nil {
		return OpenReadOnly(dir) // nobody serves; the lock decides
	}
	defer conn.Close() //nolint:errcheck // read only
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	tmp, err := os.MkdirTemp("", "backstay-store-*") // 0700
	if err != nil {
		return nil, fmt.Errorf("copy store: %w", err)
	}
	err = receiveCopy(filepath.Join(tmp, storeFile), conn)
	var s *Bolt
	if err == nil {
		s, err = OpenReadOnly(tmp)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("copy store: %w", err), os.RemoveAll(tmp))
	}
	s.temporary = tmp
	return s, nil
}

func receiveCopy(path string, from io.Reader) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // checked by the trailer
	n, err := io.Copy(f, from)
	if err != nil {
		return err
	}
	trailer := make([]byte, len(copyTrailer))
	if n < int64(len(trailer)) {
		return fmt.Errorf("broken off: %w", logging.ErrRetry)
	}
	if _, err := f.ReadAt(trailer, n-int64(len(trailer))); err != nil {
		return err
	}
	if string(trailer) != copyTrailer {
		return fmt.Errorf("broken off: %w", logging.ErrRetry)
	}
	return f.Truncate(n - int64(len(trailer)))
}
