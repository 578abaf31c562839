// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/internal/flash"
)

// storage is where one copy of an environment lies. Every call opens the device and closes it again: nobody else is kept
// from it between two changes, and UBI updates a volume only for the one who has it alone.
type storage interface {
	// read returns the bytes of the copy. An error that is errDamaged says that the medium has none to give, as after a write
	// that was cut: the boot loader will not read that copy either.
	read() ([]byte, error)
	// write replaces the copy, durably. A cut leaves the copy damaged, old or new.
	write(raw []byte) error
	// scheme says how the flags of two copies are used.
	scheme() scheme
}

// scheme is how two copies say which one is current (U-Boot's tools/env/fw_env.c).
type scheme int

const (
	incremental scheme = iota // the higher number, where 0 follows 255
	boolean                   // 1 is current, 0 is not: on NOR flash a byte becomes 0 without an erase
)

// obsoleter is a storage with the boolean scheme.
type obsoleter interface {
	// obsolete sets the flags of the copy to 0, and nothing else.
	obsolete() error
}

// errDamaged is in every error of a copy that cannot be read now and can be written.
var errDamaged = errors.New("damaged")

// damaged marks the errors that tell of the medium, not of the machine.
func damaged(err error) error {
	if errors.Is(err, unix.EIO) || errors.Is(err, unix.EBADMSG) || errors.Is(err, flash.ErrUBI) {
		return fmt.Errorf("%w: %w", errDamaged, err)
	}
	return err
}

// hardware opens what an environment lies on. The tests put memory in its place that loses its power.
type hardware struct {
	kind      func(path string) (kind, error)
	files     files
	mtd       func(path string, write bool) (flash.MTD, error)
	volume    func(path string, write bool) (flash.Volume, error)
	unprotect func(path string) (restore func() error, err error)
}

// files are the operations on a file system and on block devices.
type files interface {
	open(path string, write bool) (mediumFile, error)
	create(path string, perm os.FileMode) (mediumFile, error)
	rename(from, to string) error
	syncDir(path string) error
}

// kind is what a path leads to.
type kind int

const (
	kindFile kind = iota
	kindBlock
	kindMTD
	kindUBI
)

func device() *hardware {
	return &hardware{kind: kindOf, files: osFiles{}, mtd: flash.OpenMTD, volume: flash.OpenVolume,
		unprotect: func(path string) (func() error, error) { return flash.Unprotect("/sys", path) }}
}

// kindOf takes a name with a volume ("/dev/ubi0:env", "/dev/mtd3:env") for UBI, as both tools do.
func kindOf(path string) (kind, error) {
	if dev, _, ok := strings.Cut(path, ":"); ok {
		if base := filepath.Base(dev); strings.HasPrefix(base, "ubi") || strings.HasPrefix(base, "mtd") {
			return kindUBI, nil
		}
	}
	st, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return 0, err
	}
	switch mode := st.Mode(); {
	case mode.IsRegular():
		return kindFile, nil
	case mode&os.ModeCharDevice != 0 && strings.HasPrefix(filepath.Base(real), "ubi"):
		return kindUBI, nil
	case mode&os.ModeCharDevice != 0:
		return kindMTD, nil
	case mode&os.ModeDevice != 0:
		return kindBlock, nil
	}
	return 0, fmt.Errorf("%s is neither a file nor a block device nor flash", path)
}

// place opens the storage of one copy. single is true if there is no other.
func (h *hardware) place(a Area, single bool) (storage, error) {
	k, err := h.kind(a.Path)
	if err != nil {
		return nil, err
	}
	switch {
	case k == kindUBI && a.Offset != 0:
		return nil, fmt.Errorf("offset %#x of %s: a volume begins at 0", a.Offset, a.Path)
	case k == kindUBI:
		return &volumeCopy{hw: h, area: a, single: single}, nil
	case k == kindMTD:
		return h.placeMTD(a)
	case a.Offset < 0 && k != kindBlock:
		return nil, fmt.Errorf("offset %d of %s: only a block device has an end to count from", a.Offset, a.Path)
	}
	return &diskCopy{hw: h, area: a, file: k == kindFile, single: single}, nil
}

// diskCopy is a copy in a file or on a block device.
type diskCopy struct {
	hw           *hardware
	area         Area
	file, single bool
}

func (d *diskCopy) scheme() scheme { return incremental }

// begin returns where the copy begins.
func (d *diskCopy) begin(f mediumFile) (int64, error) {
	if d.area.Offset >= 0 {
		return d.area.Offset, nil
	}
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, err
	}
	if end+d.area.Offset < 0 {
		return 0, fmt.Errorf("offset %d of %s: it has only %d bytes", d.area.Offset, d.area.Path, end)
	}
	return end + d.area.Offset, nil
}

func (d *diskCopy) read() ([]byte, error) {
	f, err := d.hw.files.open(d.area.Path, false)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	at, err := d.begin(f)
	if err != nil {
		return nil, err
	}
	// What the boot loader reads is the medium, so this should be too. It is a request, see package slot.
	if f, ok := f.(*os.File); ok {
		_ = unix.Fadvise(int(f.Fd()), at, d.area.Size, unix.FADV_DONTNEED)
	}
	raw := make([]byte, d.area.Size)
	if _, err := f.ReadAt(raw, at); err != nil {
		return nil, damaged(fmt.Errorf("read %s at %d: %w", d.area.Path, at, err))
	}
	return raw, nil
}

// write writes in place. A single environment that is a whole file of its own is replaced instead, because an in-place write
// that is cut would leave none. In place, only sectors that change are written: a change within the first of them, where the
// checksum is, is then one sector, which a medium writes as a whole.
func (d *diskCopy) write(raw []byte) (err error) {
	restore, err := d.hw.unprotect(d.area.Path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, restore()) }()
	f, err := d.hw.files.open(d.area.Path, true)
	if err != nil {
		return err
	}
	defer f.Close()
	if d.single && d.file && d.area.Offset == 0 {
		size, err := f.Seek(0, io.SeekEnd)
		if err != nil {
			return err
		}
		if size == d.area.Size {
			return replace(d.hw.files, d.area.Path, raw)
		}
	}
	at, err := d.begin(f)
	if err != nil {
		return err
	}
	if err := d.overwrite(f, at, raw); err != nil {
		return fmt.Errorf("write %s at %d: %w", d.area.Path, at, err)
	}
	return f.Sync()
}

func (d *diskCopy) overwrite(f mediumFile, at int64, raw []byte) error {
	const sector = 512
	old := make([]byte, len(raw))
	n, err := f.ReadAt(old, at)
	if !d.single || err != nil || n < len(raw) {
		_, err := f.WriteAt(raw, at)
		return err
	}
	for off := 0; off < len(raw); {
		next := min(len(raw), int((at+int64(off))/sector*sector+sector-at))
		if !bytes.Equal(raw[off:next], old[off:next]) {
			if _, err := f.WriteAt(raw[off:next], at+int64(off)); err != nil {
				return err
			}
		}
		off = next
	}
	return nil
}

// replace puts a new file in the place of one: whatever happens, there is one of them.
func replace(fs files, path string, raw []byte) error {
	perm := os.FileMode(0o600)
	if st, err := os.Stat(path); err == nil {
		perm = st.Mode().Perm()
	}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	tmp := path + ".new"
	w, err := fs.create(tmp, perm)
	if err != nil {
		return err
	}
	_, err = w.WriteAt(raw, 0)
	if err == nil {
		err = w.Sync()
	}
	if e := w.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = fs.rename(tmp, path)
	}
	if err != nil {
		return err
	}
	return fs.syncDir(filepath.Dir(path))
}

// osFiles are those of the operating system.
type osFiles struct{}

func (osFiles) open(path string, write bool) (mediumFile, error) { return onDisk(path, write) }

func (osFiles) create(path string, perm os.FileMode) (mediumFile, error) {
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, perm)
}

func (osFiles) rename(from, to string) error { return os.Rename(from, to) }

func (osFiles) syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// setup marks an error as one of the configuration or of the device.
func setup(err error) error { return fmt.Errorf("%w: %w", update.ErrSetup, err) }
