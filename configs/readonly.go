// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/configs/probe"
)

// Many products boot from a file system that cannot be written. Where the product lays something writable over it, edits just
// work. Where it does not, a changed copy of the one file is kept in StateDir and mounted over it. The mount is gone after a
// reboot, so Rebind makes it again before anything else runs; and it must not outlive the file it was made from, or an update
// of the image would run with a file of the image before: a copy is dropped as soon as the file below is another one.

// ReadOnly says what is done about a file that cannot be written because its file system is read only.
type ReadOnly string

// The ways. The zero value is ReportReadOnly.
const (
	BindReadOnly   ReadOnly = "bind"   // mount a changed copy over it
	ReportReadOnly ReadOnly = "report" // mend it in the image
)

// ErrReadOnly says that a file can only be mended in the image.
var ErrReadOnly = errors.New("its file system is read only: fix it in the image")

const (
	bindsFile = "binds.json"
	bindDir   = "bind"
	maxBinds  = 64
)

// bound is one file that is mounted over.
type bound struct {
	Path     string `json:"path"` // quoted, it need not be UTF-8
	File     string `json:"file"` // in bindDir
	Original string `json:"original"`
}

// rescue carries out c on a copy, and mounts that over the file.
func (e *Engine) rescue(ctx context.Context, h *probe.Host, c probe.Change) error {
	if e.ReadOnly != BindReadOnly || !e.Live || e.Root.Name() != "/" || c.Op != probe.Edit && c.Op != probe.Chmod ||
		strings.HasPrefix(c.Path, "/proc/") || strings.HasPrefix(c.Path, "/sys/") {
		return ErrReadOnly
	}
	dir, err := e.state()
	if err != nil {
		return err
	}
	defer dir.Close()
	list, err := readBinds(dir)
	if err != nil {
		return err
	}
	if len(list) >= maxBinds {
		return fmt.Errorf("%w; %d files are mounted over already", ErrReadOnly, len(list))
	}
	original, err := fingerprint(ctx, h, c.Path)
	if err != nil {
		return fmt.Errorf("%w (%w)", ErrReadOnly, err)
	}
	b := bound{Path: strconv.QuoteToASCII(c.Path), File: hex.EncodeToString(shortSum(c.Path)), Original: original}
	if err := dir.MkdirAll(bindDir, 0o700); err != nil {
		return err
	}
	f, err := dir.OpenFile(path.Join(bindDir, b.File), os.O_RDWR|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	err = h.CopyOut(c, f)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	// The list first: a copy that is not listed is never mounted again, a listed one that is not mounted is made good.
	list = slices.DeleteFunc(list, func(o bound) bool { return o.Path == b.Path })
	if err := writeState(dir, bindsFile, append(list, b)); err != nil {
		return err
	}
	if err := e.bind(b, c.Path); err != nil {
		return fmt.Errorf("%w (%w)", ErrReadOnly, err)
	}
	h.Forget(c.Path)
	return nil
}

func (e *Engine) bind(b bound, target string) error {
	if err := unix.Mount(filepath.Join(e.StateDir, bindDir, b.File), target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount a copy over %s: %w", b.Path, err)
	}
	return nil
}

// Rebind mounts the changed copies again after a boot. Call it at start, before Recover.
func (e *Engine) Rebind(ctx context.Context) error {
	if e.ReadOnly != BindReadOnly || !e.Live || e.StateDir == "" || e.Root.Name() != "/" {
		return nil
	}
	if _, err := os.Stat(filepath.Join(e.StateDir, bindsFile)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	unlock, err := e.lock()
	if err != nil {
		return err
	}
	defer unlock()
	dir, err := e.state()
	if err != nil {
		return err
	}
	defer dir.Close()
	list, err := readBinds(dir)
	if err != nil {
		return err
	}
	var keep []bound
	var errs []error
	for _, b := range list {
		again, err := e.rebind(ctx, b)
		errs = append(errs, err)
		if again {
			keep = append(keep, b)
		} else {
			dir.Remove(path.Join(bindDir, path.Base(b.File))) //nolint:errcheck // it is not listed any more
		}
	}
	if len(keep) != len(list) {
		errs = append(errs, writeState(dir, bindsFile, keep))
	}
	return errors.Join(errs...)
}

// rebind reports whether the copy still has a use.
func (e *Engine) rebind(ctx context.Context, b bound) (keep bool, err error) {
	target, err := strconv.Unquote(b.Path)
	if err != nil || b.File != path.Base(b.File) {
		return false, nil
	}
	if e.isBound(b, target) {
		return true, nil
	}
	now, err := fingerprint(ctx, e.newHost(), target)
	if err != nil || now != b.Original {
		return false, nil // the image brings another file, or none
	}
	if err := e.bind(b, target); err != nil {
		return true, err
	}
	return true, nil
}

// isBound reports whether the target is the copy.
func (e *Engine) isBound(b bound, target string) bool {
	var have, want unix.Stat_t
	return unix.Lstat(target, &have) == nil && unix.Lstat(filepath.Join(e.StateDir, bindDir, b.File), &want) == nil &&
		have.Dev == want.Dev && have.Ino == want.Ino
}

// settle takes the copy of a file away when it is what the image has: after an undo.
func (e *Engine) settle(ctx context.Context, h *probe.Host, p string) error {
	if e.ReadOnly != BindReadOnly || !e.Live {
		return nil
	}
	dir, err := e.state()
	if err != nil {
		return err
	}
	defer dir.Close()
	list, err := readBinds(dir)
	if err != nil || len(list) == 0 {
		return err
	}
	i := slices.IndexFunc(list, func(b bound) bool { return b.Path == strconv.QuoteToASCII(p) })
	if i < 0 {
		return nil
	}
	if now, err := fingerprint(ctx, h, p); err != nil || now != list[i].Original || !e.isBound(list[i], p) {
		return err
	}
	if err := unix.Unmount(p, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
		return fmt.Errorf("uncover %s: %w", list[i].Path, err)
	}
	h.Forget(p)
	file := list[i].File
	if err := writeState(dir, bindsFile, slices.Delete(list, i, i+1)); err != nil {
		return err
	}
	return dir.Remove(path.Join(bindDir, file))
}

func readBinds(dir *os.Root) ([]bound, error) {
	var list []bound
	err := readState(dir, bindsFile, &list)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return list, err
}

// fingerprint tells one file from another: its bytes, mode and owner.
func fingerprint(ctx context.Context, h *probe.Host, p string) (string, error) {
	h.Forget(p)
	in, err := h.Stat(p)
	if err != nil {
		return "", err
	}
	data, err := h.Read(ctx, p)
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %d %d\n", probe.OctalMode(in.Mode), in.UID, in.GID)
	b.Write(data)
	sum := sha256.Sum256(b.Bytes())
	return hex.EncodeToString(sum[:]), nil
}

func shortSum(s string) []byte {
	sum := sha256.Sum256([]byte(s))
	return sum[:8]
}
