// SPDX-License-Identifier: Apache-2.0

// Package slot is where an image goes: a partition, or a file that stands for one.
//
// It owns the way bytes get to and from a slot: never to the slot the system runs from, never past the end of the slot or of
// the size announced, durable when Sync returns, and read back from the medium as far as the kernel lets it. It does not know
// what an image is, and does not decide which slot is written.
//
// Who may write the slots: root, and this package. Who controls the kernel command line (the boot loader) says which slot is
// the running one; a lie there makes the agent overwrite the system it runs from, so a command line that names two slots, or
// one that is not configured, is an error. On block devices the kernel guards as well: a device that is mounted is busy.
//
// An attacker who controls the bytes written can fill the slot, and nothing else.
package slot

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/backstay/backstay/update"
)

// Kinds of slots.
const (
	File  = "file"  // a regular file
	Block = "block" // a block device, usually a partition
)

// Device says where one slot is.
type Device struct {
	Kind string // File or Block
	Path string // absolute; may be a symbolic link such as /dev/disk/by-partlabel/rootfs-a
	// Size is how long a slot of kind File is, in bytes. It is made that long when it does not exist yet. Zero: the file must
	// exist, and is as long as it is. A block device has its own size.
	Size int64
}

// Config says where all slots are, and how to find the one that runs.
type Config struct {
	Slots   map[update.SlotID]Device
	Cmdline string // file with the kernel command line; default /proc/cmdline
	Key     string // parameter that names the running slot; default backstay.slot. rauc.slot is understood as well.
}

// Set is the slots of one device. It implements update.Slots; its methods are called by one goroutine at a time.
type Set struct {
	slots   map[update.SlotID]Device
	cmdline string
	key     string
}

// chunk is how much of a slot is in memory at a time.
const chunk = 128 << 10

// Open checks the configuration and makes missing files. It does not open any slot.
func Open(c Config) (*Set, error) {
	s := &Set{slots: map[update.SlotID]Device{}, cmdline: c.Cmdline, key: c.Key}
	if s.cmdline == "" {
		s.cmdline = "/proc/cmdline"
	}
	if s.key == "" {
		s.key = "backstay.slot"
	}
	if len(c.Slots) < 2 {
		return nil, fmt.Errorf("open slots: %w: %d configured, an update needs two", update.ErrSetup, len(c.Slots))
	}
	for id, d := range c.Slots {
		if err := prepare(id, d); err != nil {
			return nil, err
		}
		for other, o := range s.slots {
			if same(d.Path, o.Path) {
				return nil, fmt.Errorf("open slots: %w: %s and %s are both %s", update.ErrSetup, id, other, d.Path)
			}
		}
		s.slots[id] = d
	}
	return s, nil
}

// prepare checks one slot, and makes its file if it says how long that is.
func prepare(id update.SlotID, d Device) error {
	if id == "" || !filepath.IsAbs(d.Path) {
		return fmt.Errorf("open slot %q: %w: path %q is not absolute", id, update.ErrSetup, d.Path)
	}
	if d.Kind != File && d.Kind != Block {
		return fmt.Errorf("open slot %s: %w: kind %q is neither %q nor %q", id, update.ErrSetup, d.Kind, File, Block)
	}
	if d.Size < 0 || (d.Kind == Block && d.Size != 0) {
		return fmt.Errorf("open slot %s: %w: size %d does not fit kind %q", id, update.ErrSetup, d.Size, d.Kind)
	}
	_, err := os.Stat(d.Path)
	if d.Kind == File && d.Size > 0 && errors.Is(err, os.ErrNotExist) {
		return create(d)
	}
	if err != nil {
		return fmt.Errorf("open slot %s: %w: %w", id, update.ErrSetup, err)
	}
	return nil
}

// create makes a file slot under a temporary name, so that a slot of half its size is never seen.
func create(d Device) error {
	tmp := d.Path + ".new"
	f, err := os.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("create slot: %w", err)
	}
	err = f.Truncate(d.Size)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(tmp, d.Path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(d.Path))
	}
	if err != nil {
		return fmt.Errorf("create slot %s: %w", d.Path, err)
	}
	return nil
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// Writer opens a slot for an image of size bytes. The returned writer holds a lock on the slot until it is closed.
func (s *Set) Writer(id update.SlotID, size int64) (update.Writer, error) {
	d, err := s.device(id)
	if err != nil {
		return nil, err
	}
	booted, err := s.Booted()
	if err != nil {
		return nil, fmt.Errorf("write slot %s: %w", id, err)
	}
	running := s.slots[booted]
	if booted == id || same(d.Path, running.Path) {
		return nil, &update.Refusal{Code: "slot-in-use", What: "write slot " + string(id), Why: "the running system was started from it"}
	}
	f, room, err := open(d, true)
	if err != nil {
		return nil, fmt.Errorf("write slot %s: %w", id, err)
	}
	if size <= 0 || size > room {
		f.Close()
		return nil, &update.Refusal{Code: "slot-too-small", What: "write slot " + string(id),
			Why: fmt.Sprintf("the image is %d bytes long, the slot has %d", size, room)}
	}
	return &Writer{f: f, id: id, size: size}, nil
}

// Reader opens a slot for what it holds now.
func (s *Set) Reader(id update.SlotID) (update.SlotReader, error) {
	d, err := s.device(id)
	if err != nil {
		return nil, err
	}
	f, room, err := open(d, false)
	if err != nil {
		return nil, fmt.Errorf("read slot %s: %w", id, err)
	}
	return &reader{f, room}, nil
}

// reader reads a slot. It implements update.SlotReader.
type reader struct {
	*os.File
	room int64
}

// Size returns how many bytes the slot has.
func (r *reader) Size() int64 { return r.room }

// Digest returns the SHA-256 of the first size bytes of a slot.
func (s *Set) Digest(ctx context.Context, id update.SlotID, size int64) ([32]byte, error) {
	d, err := s.device(id)
	if err != nil {
		return [32]byte{}, err
	}
	f, room, err := open(d, false)
	if err != nil {
		return [32]byte{}, fmt.Errorf("read slot %s: %w", id, err)
	}
	defer f.Close()
	if size < 0 || size > room {
		return [32]byte{}, fmt.Errorf("read slot %s: %d bytes wanted, it has %d", id, size, room)
	}
	forget(f)
	h := sha256.New()
	if err := copyN(ctx, h, f, size); err != nil {
		return [32]byte{}, fmt.Errorf("read slot %s: %w", id, err)
	}
	return [32]byte(h.Sum(nil)), nil
}

// Size returns how many bytes a slot has room for.
func (s *Set) Size(id update.SlotID) (int64, error) {
	d, err := s.device(id)
	if err != nil {
		return 0, err
	}
	f, room, err := open(d, false)
	if err != nil {
		return 0, fmt.Errorf("measure slot %s: %w", id, err)
	}
	return room, f.Close()
}

func (s *Set) device(id update.SlotID) (Device, error) {
	d, ok := s.slots[id]
	if !ok {
		return Device{}, fmt.Errorf("find slot %q: %w: it is not configured", id, update.ErrSetup)
	}
	return d, nil
}

// Writer writes one image. It implements update.Writer.
type Writer struct {
	f    *os.File
	id   update.SlotID
	size int64
	at   int64
}

// Write writes the next bytes. What would go past the size of the image is not written at all.
func (w *Writer) Write(p []byte) (int, error) {
	if int64(len(p)) > w.size-w.at {
		return 0, fmt.Errorf("write slot %s: %d bytes at %d pass the announced %d", w.id, len(p), w.at, w.size)
	}
	n, err := w.f.WriteAt(p, w.at)
	w.at += int64(n)
	if err != nil {
		return n, fmt.Errorf("write slot %s: %w", w.id, err)
	}
	return n, nil
}

// Prefix copies the first n bytes of the slot to dst and goes on writing after them: a file and a block device take all n.
func (w *Writer) Prefix(ctx context.Context, dst io.Writer, n int64) (int64, error) {
	if n < 0 || n > w.size {
		return 0, fmt.Errorf("read slot %s: a prefix of %d bytes in an image of %d", w.id, n, w.size)
	}
	if n > 0 {
		forget(w.f)
	}
	if err := copyN(ctx, dst, w.f, n); err != nil {
		return 0, fmt.Errorf("read slot %s: %w", w.id, err)
	}
	w.at = n
	return n, nil
}

// Sync returns when everything written is durable.
func (w *Writer) Sync() error {
	if err := w.f.Sync(); err != nil {
		return fmt.Errorf("sync slot %s: %w", w.id, err)
	}
	return nil
}

// Close releases the slot.
func (w *Writer) Close() error { return w.f.Close() }

// copyN copies the first n bytes of f, wherever f stands.
func copyN(ctx context.Context, dst io.Writer, f *os.File, n int64) error {
	buf := make([]byte, chunk)
	for at := int64(0); at < n; {
		if err := ctx.Err(); err != nil {
			return err
		}
		k, err := f.ReadAt(buf[:min(int64(len(buf)), n-at)], at)
		if k == 0 {
			return fmt.Errorf("at %d of %d: %w", at, n, err)
		}
		if _, err := dst.Write(buf[:k]); err != nil {
			return err
		}
		at += int64(k)
	}
	return nil
}
