// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/backstay/backstay/update"
)

// Every file of a repository is written under a temporary name in its own
// directory, synced, renamed and the directory synced: after a power cut it is
// there as a whole or not at all. Temporary names start with a dot, so a file
// server and git can leave them out.

// replaceFile writes a file that may exist already.
func replaceFile(name string, b []byte, mode fs.FileMode) error {
	return writeVia(name, mode, func(w io.Writer) error {
		_, err := w.Write(b)
		return err
	})
}

// keepFile writes a file whose content must never change: it does nothing if
// the file has this content, and refuses if it has another one.
func keepFile(name string, b []byte) error {
	old, err := os.ReadFile(name)
	switch {
	case err == nil && bytes.Equal(old, b):
		return nil
	case err == nil:
		return refuse("version-reused", "write "+filepath.Base(name),
			"a file of that name exists with other content; clients that have it would never see the new one")
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	return replaceFile(name, b, 0o644)
}

// writeVia creates name with the content that fill writes.
func writeVia(name string, mode fs.FileMode, fill func(io.Writer) error) error {
	dir := filepath.Dir(name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails after the rename, and should
	err = fill(f)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}

// importImage copies a stream into dir under the name of its digest, if accept
// agrees once digest and length are known. Memory does not depend on the size
// of the image.
func importImage(ctx context.Context, dir string, src io.Reader, accept func(digest [32]byte, length int64) error) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails after the rename, and should
	defer f.Close()
	h := sha256.New()
	length, err := io.Copy(io.MultiWriter(f, h), contextReader{ctx, src})
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		return fmt.Errorf("store image: %w", err)
	}
	digest := [32]byte(h.Sum(nil))
	if err := accept(digest, length); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), filepath.Join(dir, hexDigest(digest))); err != nil {
		return err
	}
	return syncDir(dir)
}

// hashFile returns digest and length of a file.
func hashFile(ctx context.Context, name string) (digest [32]byte, length int64, err error) {
	f, err := os.Open(name)
	if err != nil {
		return digest, 0, err
	}
	defer f.Close()
	h := sha256.New()
	length, err = io.Copy(h, contextReader{ctx, f})
	if err != nil {
		return digest, 0, fmt.Errorf("read %s: %w", name, err)
	}
	h.Sum(digest[:0])
	return digest, length, nil
}

// contextReader ends a copy when its context does.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// lockDir takes the repository's lock, waiting at most that long for another
// process to give it back. The lock ends with the process, so a crash leaves
// nothing to clean up.
func lockDir(dir string, wait time.Duration) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(wait); ; time.Sleep(50 * time.Millisecond) {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", dir, err)
		}
		if time.Now().After(deadline) {
			f.Close()
			return nil, fmt.Errorf("lock %s: another process works on this repository: %w", dir, update.ErrRetry)
		}
	}
}

func refuse(code, what, why string, args ...any) error {
	if len(args) > 0 {
		why = fmt.Sprintf(why, args...)
	}
	return &update.Refusal{Code: code, What: what, Why: why}
}
