// SPDX-License-Identifier: Apache-2.0

// Package keys holds the key stores of a device: today, files.
//
// A file store owns one directory that nobody else may enter. A key is ECDSA P-256 as PKCS#8, sealed with AES-256-GCM under a
// key derived (HKDF-SHA-256) from the board's stable hardware identifiers and a random salt (class file-bound); on a board
// without such identifiers it lies there as it is (file-plain). Binding stops a copied card or image from working elsewhere.
// It does not stop root on the device, who can read the file and the identifiers: the class says so wherever the key shows.
//
// Whoever can write to the directory can take a key away, which costs the device its identity, but cannot slip one in
// unnoticed: package identity compares the birth key with its recorded certificate.
package keys

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/identity"
)

// nonblock keeps a FIFO in place of a file from holding us.
const nonblock = unix.O_NONBLOCK

// suffix of a file that is being written.
const newSuffix = ".new"

// Options of a file store. The zero value is right on a device.
type Options struct {
	Root string           // where hardware identifiers are read; "" is "/"
	Now  func() time.Time // trusted time for the date in a key file; nil is time.Now
}

// Files is a store of key files. It implements identity.Store.
type Files struct {
	dir   string
	opt   Options
	bound []ID                          // stable identifiers found when the store was opened
	ready func() error                  // whether the kernel's random generator is ready
	fault func(step, name string) error // called before each durable step; tests stop there
}

// File opens the store in dir, making the directory (mode 0700) when it is missing. A directory that is a symbolic link,
// belongs to somebody else or that others may enter is refused. A file left half written by a power cut is removed.
func File(dir string, opt Options) (*Files, error) {
	if opt.Root == "" {
		opt.Root = "/"
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if err := ownDirectory(dir); err != nil {
		return nil, err
	}
	left, err := filepath.Glob(filepath.Join(dir, "*"+newSuffix))
	if err != nil {
		return nil, fmt.Errorf("open key directory %s: %w", dir, err)
	}
	for _, name := range left {
		if err := os.Remove(name); err != nil {
			return nil, fmt.Errorf("remove half-written key: %w", err)
		}
	}
	f := &Files{dir: dir, opt: opt, ready: entropyReady, fault: func(string, string) error { return nil }}
	for _, id := range HardwareIDs(opt.Root) {
		if id.Stable {
			f.bound = append(f.bound, id)
		}
	}
	return f, nil
}

func ownDirectory(dir string) error {
	if err := os.Mkdir(dir, 0o700); err == nil {
		return syncDir(filepath.Dir(dir))
	} else if !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make key directory: %w", err)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("open key directory: %w", err)
	}
	why := ""
	st, ok := info.Sys().(*unixStat)
	switch {
	case !info.IsDir():
		why = "it is not a directory"
	case info.Mode().Perm()&0o077 != 0:
		why = fmt.Sprintf("others may enter it (mode %04o, want 0700)", info.Mode().Perm())
	case !ok || int(st.Uid) != os.Geteuid():
		why = "it belongs to another user"
	default:
		return nil
	}
	return &identity.Refusal{Class: identity.ErrSetup, Code: "unsafe-key-directory", What: "key directory " + dir, Why: why}
}

// Class is what a key made now would be.
func (f *Files) Class() identity.Class {
	if len(f.bound) == 0 {
		return identity.ClassFilePlain
	}
	return identity.ClassFileBound
}

// Generate implements identity.Store.
func (f *Files) Generate(slot identity.Slot) (identity.Key, error) {
	path, err := f.path(slot)
	if err != nil {
		return nil, err
	}
	if _, err := os.Lstat(path); err == nil {
		return nil, fmt.Errorf("make key %s: %w", slot, identity.ErrKeyExists)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("make key %s: %w", slot, err)
	}
	if err := f.ready(); err != nil {
		return nil, fmt.Errorf("make key %s: %w", slot, err)
	}
	f.stir()
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key %s: %w", slot, err)
	}
	b, err := seal(priv, slot, f.bound, f.opt.Now())
	if err != nil {
		return nil, fmt.Errorf("make key %s: %w", slot, err)
	}
	if err := f.create(path, b); err != nil {
		return nil, fmt.Errorf("make key %s: %w", slot, err)
	}
	// What counts is what will be read after the next start.
	return f.Open(slot)
}

// stir gives the kernel what little this board does not share with its siblings. Go takes key material from the kernel alone,
// so this is the only way to add to it; it is not counted as entropy, and a failure costs nothing.
func (f *Files) stir() {
	w, err := os.OpenFile("/dev/urandom", os.O_WRONLY, 0)
	if err != nil {
		return
	}
	defer w.Close()
	for _, id := range HardwareIDs(f.opt.Root) {
		if _, err := w.WriteString(id.Kind + "=" + id.Value + "\n"); err != nil {
			return
		}
	}
}

// Open implements identity.Store.
func (f *Files) Open(slot identity.Slot) (identity.Key, error) {
	path, err := f.path(slot)
	if err != nil {
		return nil, err
	}
	b, readOnly, err := readKeyFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open key %s: %w", slot, identity.ErrNoKey)
	}
	if err != nil {
		return nil, fmt.Errorf("open key %s: %w", slot, err)
	}
	priv, class, err := unseal(b, slot, HardwareIDs(f.opt.Root))
	if err != nil {
		return nil, fmt.Errorf("open key %s: %w", slot, err)
	}
	k := &fileKey{PrivateKey: priv, class: class}
	if readOnly {
		k.image = path + " is on a read-only file system"
	}
	return identity.Checked(k)
}

// Destroy implements identity.Store. The file is unlinked; on flash its bytes may stay in a block that is not erased yet.
func (f *Files) Destroy(slot identity.Slot) error {
	path, err := f.path(slot)
	if err != nil {
		return err
	}
	if err := f.fault("remove", path); err != nil {
		return fmt.Errorf("destroy key %s: %w", slot, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("destroy key %s: %w", slot, err)
	}
	if err := syncDir(f.dir); err != nil {
		return fmt.Errorf("destroy key %s: %w", slot, err)
	}
	return nil
}

func (f *Files) path(slot identity.Slot) (string, error) {
	if !slot.Known() {
		return "", fmt.Errorf("key slot %q: unknown", string(slot))
	}
	return filepath.Join(f.dir, string(slot)+".key"), nil
}

// create writes a file that must not exist yet so that it is there whole or not at all: new name, sync, rename without
// replacing, sync of the directory.
func (f *Files) create(path string, b []byte) error {
	tmp := path + newSuffix
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	w, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	if err := f.fault("write", tmp); err != nil {
		w.Close()
		return err
	}
	_, err = w.Write(b)
	if err := errors.Join(err, w.Sync(), w.Close()); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	if err := f.fault("rename", path); err != nil {
		return err
	}
	if err := renameNew(tmp, path); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	if err := f.fault("sync", path); err != nil {
		return err
	}
	return syncDir(f.dir)
}

// renameNew renames without replacing. File systems that cannot do that in one step get it in two; the directory is ours, so
// nobody comes between.
func renameNew(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	switch {
	case errors.Is(err, unix.EEXIST):
		return identity.ErrKeyExists
	case !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOSYS):
		return err
	}
	if _, err := os.Lstat(to); !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(identity.ErrKeyExists, err)
	}
	return os.Rename(from, to)
}

// readKeyFile reads a key file and says whether it lies on a read-only file system. A link, a FIFO, a device, a file others
// may read or that has a second name is refused: we did not write it.
func readKeyFile(path string) (b []byte, readOnly bool, err error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ELOOP) {
		return nil, false, unsafeFile("it is a symbolic link")
	}
	if err != nil {
		return nil, false, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	file := os.NewFile(uintptr(fd), path)
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, false, err
	}
	st, ok := info.Sys().(*unixStat)
	switch {
	case !info.Mode().IsRegular():
		return nil, false, unsafeFile("it is not a regular file")
	case info.Mode().Perm()&0o077 != 0:
		return nil, false, unsafeFile(fmt.Sprintf("others may read it (mode %04o, want 0600)", info.Mode().Perm()))
	case !ok || int(st.Uid) != os.Geteuid():
		return nil, false, unsafeFile("it belongs to another user")
	case st.Nlink != 1:
		return nil, false, unsafeFile("it has a second name (hard link)")
	case info.Size() > maxKeyFile:
		return nil, false, fmt.Errorf("%w: %d bytes", identity.ErrDamagedKey, info.Size())
	}
	var vfs unix.Statfs_t
	if err := unix.Fstatfs(fd, &vfs); err != nil {
		return nil, false, err
	}
	b = make([]byte, info.Size())
	if _, err := file.ReadAt(b, 0); err != nil && len(b) > 0 {
		return nil, false, err
	}
	return b, int64(vfs.Flags)&unix.ST_RDONLY != 0, nil
}

func unsafeFile(why string) error {
	return &identity.Refusal{Class: identity.ErrSetup, Code: "unsafe-key-file", What: "key file", Why: why}
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// fileKey is a key in memory.
type fileKey struct {
	*ecdsa.PrivateKey
	class identity.Class
	image string
}

func (k *fileKey) Class() identity.Class { return k.class }

// ImagePath says why the key looks like part of the image, "" when it does not.
func (k *fileKey) ImagePath() string { return k.image }
