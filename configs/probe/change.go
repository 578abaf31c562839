// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
	"time"
)

// Op is what a change does to one path.
type Op string

// The operations. Each but Signal has an inverse, so that whatever was applied can be undone.
const (
	Edit   Op = "edit"   // replace the bytes of a file; owner, mode and attributes stay
	Create Op = "create" // make a file that was not there, owned by root, with Mode
	Remove Op = "remove" // take a file away
	Chmod  Op = "chmod"  // set permission, setuid, setgid and sticky bits
	Kernel Op = "kernel" // write a value below /proc or /sys, in place

	Unlink     Op = "unlink"     // take away the symbolic link that says Before
	Symlink    Op = "symlink"    // make a symbolic link that says After, where nothing is
	Signal     Op = "signal"     // tell a running process to end or to read its files again; it has no inverse
	Remount    Op = "remount"    // give the mount at Path the options After, of those that Before and After are about
	Capability Op = "capability" // set or remove the capabilities of a program
)

// Change is one planned write. Path is resolved: absolute inside the root and without links.
type Change struct {
	Op            Op
	Path          string
	Before, After []byte      // Edit, Create, Remove, Kernel; Unlink, Symlink: the text of the link; Remount: nodev,nosuid; Capability: the attribute
	OldMode, Mode fs.FileMode // Chmod: both; Create: Mode; Remove: OldMode
	UID, GID      uint32      // Remove: whose file it was, for the inverse
	To            *Target     `json:",omitempty"` // Signal: which process
	NextStart     bool        // a running program keeps the old setting until it is started again
	OneWay        bool        `json:",omitempty"` // Kernel: it cannot be taken back before a restart, which takes it back by itself

	Learn time.Duration // Firewall: how long the kernel may take to get to know the open connections
	Trial bool          `json:"-"` // Firewall: it ends with this process, or when Host.Keep is not called for some minutes

	// Redact hides secrets in a line of a printed difference; nil when the file has none.
	Redact func(line string) string `json:"-"`
}

// ErrChanged says that the file is not what the plan was made from; plan again.
var ErrChanged = errors.New("it changed since it was read")

// permBits are the bits Chmod sets.
const permBits = fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky

// Inverse is the change that takes c back.
func (c Change) Inverse() Change {
	n := c
	n.Before, n.After, n.OldMode, n.Mode = c.After, c.Before, c.Mode, c.OldMode
	switch c.Op {
	case Create:
		n.Op, n.OldMode, n.Mode = Remove, c.Mode, c.Mode
	case Remove:
		n.Op, n.OldMode, n.Mode = Create, c.OldMode, c.OldMode
	case Unlink:
		n.Op = Symlink
	case Symlink:
		n.Op = Unlink
	}
	return n
}

// Undoable reports whether c can be taken back before a restart. What a signal ended is started again by whoever started it, after the files
// are as they were.
func (c Change) Undoable() bool { return c.Op != Signal && !c.OneWay }

// Apply carries out c. A file is replaced by a synced copy under a temporary name in its own directory, renamed over it,
// and the directory is synced, so a power cut leaves the old or the new bytes and a nil error means that they are on disk.
// It returns ErrChanged, having written nothing, when the file is not what c was planned from. After another error a
// Kernel write or the in-place write over a bind mount may have happened.
func (h *Host) Apply(ctx context.Context, c Change) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if h.root == nil {
		return fmt.Errorf("%s %s: an image is read only", c.Op, printable(c.Path))
	}
	if c.Op == Firewall {
		return h.applyFilter(ctx, c)
	}
	defer h.Forget(c.Path)
	if c.Op == Signal {
		if err := h.signal(ctx, c); err != nil {
			return fmt.Errorf("%s %s: %w", c.Op, printable(c.Path), err)
		}
		return nil
	}
	if c.Op == Unlink || c.Op == Symlink {
		if err := h.link(c); err != nil {
			return fmt.Errorf("%s %s: %w", c.Op, printable(c.Path), err)
		}
		return nil
	}
	if p, err := h.Resolve(c.Path); p != c.Path {
		return fmt.Errorf("%s %s: %w", c.Op, printable(c.Path), errors.Join(ErrChanged, err))
	}
	var err error
	switch c.Op {
	case Edit:
		err = h.edit(c)
	case Create:
		err = h.create(c)
	case Remove:
		err = h.remove(c)
	case Chmod:
		err = h.chmod(c)
	case Kernel:
		err = h.kernel(c)
	case Remount:
		err = h.remount(ctx, c)
	case Capability:
		err = h.setCapability(c)
	default:
		err = errors.New("unknown operation")
	}
	if errors.Is(err, syscall.EROFS) && h.OnReadOnly != nil {
		err = h.OnReadOnly(ctx, c)
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", c.Op, printable(c.Path), err)
	}
	return nil
}

// same checks that the file still has the bytes the plan was made from.
func (h *Host) same(c Change) error {
	now, err := h.readFile(h.tree, rel(c.Path), MaxFile)
	if err != nil {
		return err
	}
	if !equalBytes(c.Op, now, c.Before) {
		return ErrChanged
	}
	return nil
}

func (h *Host) edit(c Change) error {
	if err := h.same(c); err != nil {
		return err
	}
	f, err := openRegular(h.tree, rel(c.Path))
	if err != nil {
		return err
	}
	defer f.Close()
	old := f.(*os.File) // changes are made below an os.Root only
	tmp, err := h.writeTemp(c.Path, c.After, func(f *os.File) error { return likeFile(f, old) })
	if errors.Is(err, syscall.EROFS) {
		// Its directory cannot be written; the file can where a copy was bound over it. Elsewhere this fails the same way.
		return h.overwrite(c.Path, c.After, true)
	}
	if err != nil {
		return err
	}
	err = h.root.Rename(tmp, rel(c.Path))
	if err == nil {
		return h.syncDir(c.Path)
	}
	h.root.Remove(tmp)
	if !errors.Is(err, syscall.EBUSY) {
		return cause(err)
	}
	// A single file bound over a read-only root cannot be renamed over. The copy for undo exists; write in place.
	return h.overwrite(c.Path, c.After, true)
}

func (h *Host) create(c Change) error {
	if _, err := h.root.Lstat(rel(c.Path)); !errors.Is(err, fs.ErrNotExist) {
		return ErrChanged
	}
	tmp, err := h.writeTemp(c.Path, c.After, func(f *os.File) error {
		return errors.Join(chownIfOther(f, c.UID, c.GID), f.Chmod(c.Mode&permBits))
	})
	if err != nil {
		return err
	}
	// Link fails where the name appeared meanwhile; rename would replace it.
	err = h.root.Link(tmp, rel(c.Path))
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOTSUP) { // a file system without links
		err = h.root.Rename(tmp, rel(c.Path))
	}
	h.root.Remove(tmp)
	if err != nil {
		return cause(err)
	}
	return h.syncDir(c.Path)
}

func (h *Host) remove(c Change) error {
	if err := h.same(c); err != nil {
		return err
	}
	if err := h.root.Remove(rel(c.Path)); err != nil {
		return cause(err)
	}
	return h.syncDir(c.Path)
}

// chmod works on the open file: a path could be exchanged for a link between look and change.
func (h *Host) chmod(c Change) error {
	fi, err := h.root.Lstat(rel(c.Path))
	if err != nil {
		return cause(err)
	}
	if !fi.Mode().IsRegular() && !fi.IsDir() {
		return ErrNotRegular
	}
	f, err := h.root.OpenFile(rel(c.Path), os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return cause(err)
	}
	defer f.Close()
	if fi, err = f.Stat(); err != nil {
		return cause(err)
	}
	if fi.Mode()&permBits != c.OldMode&permBits {
		return ErrChanged
	}
	return errors.Join(f.Chmod(c.Mode&permBits), f.Sync())
}

// kernel writes one parameter. The kernel may set others with it: ip_forward resets those of every interface.
func (h *Host) kernel(c Change) error {
	if err := h.same(c); err != nil {
		return err
	}
	for p := range h.files {
		if strings.HasPrefix(p, "/proc/sys/") {
			h.bytes -= len(h.files[p].data)
			delete(h.files, p)
		}
	}
	return h.overwrite(c.Path, c.After, false)
}

func (h *Host) overwrite(p string, data []byte, sync bool) error {
	f, err := h.root.OpenFile(rel(p), os.O_WRONLY|os.O_TRUNC|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return cause(err)
	}
	_, err = f.Write(data)
	if sync && err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return cause(err)
	}
	return nil
}

// writeTemp leaves data, synced, beside p and returns its name for os.Root. The name is fixed so that what a power cut
// left behind is replaced by the next try instead of piling up; it starts with a dot so that run-parts and rcS skip it.
func (h *Host) writeTemp(p string, data []byte, dress func(*os.File) error) (string, error) {
	tmp := rel(path.Join(path.Dir(p), "."+path.Base(p)+".backstay"))
	if err := h.root.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", cause(err)
	}
	f, err := h.root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return "", cause(err)
	}
	_, err = f.Write(data)
	if err == nil {
		err = dress(f)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		h.root.Remove(tmp)
		return "", cause(err)
	}
	return tmp, nil
}

func (h *Host) syncDir(p string) error {
	d, err := h.root.Open(rel(path.Dir(p)))
	if err != nil {
		return cause(err)
	}
	defer d.Close()
	return cause(d.Sync())
}
