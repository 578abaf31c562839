// SPDX-License-Identifier: Apache-2.0

package component

import (
	"archive/tar"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/update"
)

// tree is a component that is a directory, with what a tar archive holds. The archive is kept beside it only until it is
// unpacked. A file at the top of the tree, written last, says which archive it came from.
type tree struct{ pair }

// mark is the name of that file.
const mark = ".backstay-component"

// Bounds of an archive, besides its signed length.
const (
	maxEntries = 1 << 16
	maxNameLen = 1024
)

func (t *tree) archive() string { return t.path + ".tar" }

// from reports whether a tree came from the archive of c.
func from(dir string, c update.Component) (bool, error) {
	f, err := os.Open(filepath.Join(dir, mark))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 256))
	sum, _, _ := strings.Cut(string(b), " ")
	return sum == hex.EncodeToString(c.SHA256[:]), err
}

func (t *tree) runs(_ context.Context, c update.Component) (bool, error) { return from(t.path, c) }

func (t *tree) install(ctx context.Context, c update.Component, image io.Reader) error {
	if ready, err := from(t.other(), c); ready || err != nil {
		return err
	}
	if err := put(ctx, t.archive(), c, image); err != nil {
		return err
	}
	if err := os.RemoveAll(t.other()); err != nil {
		return err
	}
	if err := t.unpack(ctx, c); err != nil {
		return err
	}
	return os.Remove(t.archive())
}

func (t *tree) activate(_ context.Context, c update.Component) error {
	if done, err := from(t.path, c); done || err != nil {
		return err
	}
	if ready, err := from(t.other(), c); err != nil || !ready {
		return errors.Join(err, fmt.Errorf("%s does not hold it any more", t.other()))
	}
	return t.swap()
}

func (t *tree) rollback(_ context.Context, c update.Component) error {
	if active, err := from(t.path, c); !active || err != nil {
		return err
	}
	return t.back()
}

// unpack makes the tree. Everything in it is durable before its mark is.
func (t *tree) unpack(ctx context.Context, c update.Component) error {
	f, err := os.Open(t.archive())
	if err != nil {
		return err
	}
	defer f.Close()
	if err := os.Mkdir(t.other(), 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(t.other())
	if err != nil {
		return err
	}
	defer root.Close()
	if err := Unpack(ctx, root, f, c.Length); err != nil {
		var no *update.Refusal
		if errors.As(err, &no) {
			no.What = "component " + c.Name + " " + c.Version
		}
		return err
	}
	top, err := os.Open(t.other())
	if err != nil {
		return err
	}
	defer top.Close()
	if err := unix.Syncfs(int(top.Fd())); err != nil {
		return err
	}
	m, err := root.OpenFile(mark, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(m, "%x %s\n", c.SHA256, c.Version)
	return errors.Join(err, m.Sync(), m.Close(), top.Sync())
}

// Unpack writes what a tar archive holds below root: directories, regular files, and links that stay inside. Anything else is
// refused, and so are names that leave root, set-user-id bits, extended attributes, and more bytes than limit.
func Unpack(ctx context.Context, root *os.Root, archive io.Reader, limit int64) error {
	r := tar.NewReader(archive)
	for n := 0; ; n++ {
		h, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return unsafe("it is no tar archive: %v", err)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if n >= maxEntries {
			return unsafe("it has more than %d entries", maxEntries)
		}
		name, err := allowed(h)
		if err != nil {
			return err
		}
		if limit -= max(h.Size, 0); limit < 0 {
			return unsafe("its files are longer than itself")
		}
		if err := entry(root, r, h, name); err != nil {
			return fmt.Errorf("unpack %.100q: %w", h.Name, err)
		}
	}
}

func unsafe(format string, args ...any) error {
	return &update.Refusal{Code: "bad-archive", What: "unpack tree", Why: fmt.Sprintf(format, args...)}
}

// allowed returns the name of an entry below the root.
func allowed(h *tar.Header) (string, error) {
	name := path.Clean(h.Name)
	switch {
	case len(h.Name) > maxNameLen || len(h.Linkname) > maxNameLen:
		return "", unsafe("a name is longer than %d bytes", maxNameLen)
	case !filepath.IsLocal(h.Name) || strings.ContainsRune(h.Name, 0):
		return "", unsafe("%.100q leaves the tree", h.Name)
	case name == mark:
		return "", unsafe("%q is not for an archive to bring", mark)
	case h.Mode&0o6000 != 0:
		return "", unsafe("%.100q has a set-user-id or set-group-id bit", h.Name)
	case h.Typeflag == tar.TypeSymlink && !inside(path.Join(path.Dir(name), h.Linkname), h.Linkname):
		return "", unsafe("%.100q leads out of the tree to %.100q", h.Name, h.Linkname)
	case h.Typeflag == tar.TypeLink && !inside(path.Clean(h.Linkname), h.Linkname):
		return "", unsafe("%.100q is a link to %.100q", h.Name, h.Linkname)
	}
	for k := range h.PAXRecords {
		if strings.HasPrefix(k, "SCHILY.xattr.") || strings.HasPrefix(k, "GNU.sparse.") {
			return "", unsafe("%.100q has %s, which is not supported", h.Name, k)
		}
	}
	return name, nil
}

func inside(resolved, link string) bool {
	return link != "" && !path.IsAbs(link) && resolved != ".." && !strings.HasPrefix(resolved, "../")
}

func entry(root *os.Root, r io.Reader, h *tar.Header, name string) error {
	mode := fs.FileMode(h.Mode & 0o777)
	switch h.Typeflag {
	case tar.TypeDir:
		if name != "." {
			if err := root.Mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
		}
	case tar.TypeReg:
		f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, r)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	case tar.TypeSymlink:
		if err := root.Symlink(h.Linkname, name); err != nil {
			return err
		}
	case tar.TypeLink:
		return root.Link(path.Clean(h.Linkname), name)
	default:
		return unsafe("%.100q is of type %q: neither file, directory nor link", h.Name, h.Typeflag)
	}
	if os.Geteuid() == 0 {
		if err := root.Lchown(name, h.Uid, h.Gid); err != nil {
			return err
		}
	}
	if h.Typeflag == tar.TypeSymlink {
		return nil
	}
	return errors.Join(root.Chmod(name, mode), root.Chtimes(name, h.ModTime, h.ModTime))
}

func owner(st fs.FileInfo) (uid, gid int) {
	if s, ok := st.Sys().(*syscall.Stat_t); ok {
		return int(s.Uid), int(s.Gid)
	}
	return -1, -1
}
