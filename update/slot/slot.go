// SPDX-License-Identifier: Apache-2.0

// Package slot is where an image goes: a partition, raw flash, a UBI volume, or a file that stands for one.
//
// It owns the way bytes get to and from a slot: never to the slot the system runs from, never past the end of the slot or of
// the size announced, durable when Sync returns, and read back from the medium as far as the kernel lets it. It does not know
// what an image is, and does not decide which slot is written.
//
// Who may write the slots: root, and this package. Who controls the kernel command line (the boot loader) says which slot is
// the running one; a lie there makes the agent overwrite the system it runs from, so a command line that names two slots, or
// one that is not configured, is an error. On block devices and UBI volumes the kernel guards as well: one that is mounted is busy.
//
// An attacker who controls the bytes written can fill the slot, and nothing else. One who controls what a slot holds already can
// make it be written again.
package slot

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/backstay/backstay/update"
)

// Kinds of slots.
const (
	File     = "file"      // a regular file
	Block    = "block"     // a block device, usually a partition
	EMMCBoot = "emmc-boot" // a boot partition of an eMMC, which the kernel keeps read-only otherwise
	MTD      = "mtd"       // raw NOR or NAND flash
	UBI      = "ubi"       // a UBI volume
)

// Device says where one slot is.
type Device struct {
	Kind string // one of the kinds
	// Path is absolute, and may be a symbolic link such as /dev/disk/by-partlabel/rootfs-a. Raw flash may also be named
	// "mtd:NAME" and a UBI volume "ubi0:NAME", because their numbers change when a partition is added.
	Path string
	// Size is how long a slot of kind File is, in bytes. It is made that long when it does not exist yet. Zero: the file must
	// exist, and is as long as it is. Everything else has its own size.
	Size int64
}

// Config says where all slots are, and how to find the one that runs.
type Config struct {
	Slots   map[update.SlotID]Device
	Cmdline string // file with the kernel command line; default /proc/cmdline
	Key     string // parameter that names the running slot; default backstay.slot. rauc.slot is understood as well.
	Sys     string // where sysfs is; default /sys
}

// Set is the slots of one device. It implements update.Slots; its methods are called by one goroutine at a time.
type Set struct {
	slots   map[update.SlotID]Device
	cmdline string
	key     string
	sys     string
}

// A ConfigError says which setting of which slot is wrong. It is update.ErrSetup.
type ConfigError struct {
	ID  update.SlotID
	Key string // "kind", "path" or "size"
	Err error
}

func (e *ConfigError) Error() string   { return fmt.Sprintf("slot %s: %s: %v", e.ID, e.Key, e.Err) }
func (e *ConfigError) Unwrap() []error { return []error{update.ErrSetup, e.Err} }

// chunk is how much is compared and written at a time.
const chunk = 128 << 10

// Open checks the configuration against the device: every slot is opened for reading once. It makes missing files, takes back
// the permission to write that a cut may have left on a boot partition, and writes to no slot.
func Open(c Config) (*Set, error) {
	s := &Set{slots: map[update.SlotID]Device{}, cmdline: c.Cmdline, key: c.Key, sys: c.Sys}
	if s.cmdline == "" {
		s.cmdline = "/proc/cmdline"
	}
	if s.key == "" {
		s.key = "backstay.slot"
	}
	if s.sys == "" {
		s.sys = "/sys"
	}
	if len(c.Slots) < 2 {
		return nil, fmt.Errorf("open slots: %w: %d configured, an update needs two", update.ErrSetup, len(c.Slots))
	}
	for _, id := range slices.Sorted(maps.Keys(c.Slots)) {
		d := c.Slots[id]
		if err := s.prepare(id, d); err != nil {
			return nil, err
		}
		for other, o := range s.slots {
			if s.same(d, o) {
				return nil, &ConfigError{id, "path", fmt.Errorf("%s is slot %s as well", d.Path, other)}
			}
		}
		s.slots[id] = d
	}
	return s, nil
}

// prepare checks one slot, and makes its file if it says how long that is.
func (s *Set) prepare(id update.SlotID, d Device) error {
	fail := func(key, format string, args ...any) error {
		return &ConfigError{id, key, fmt.Errorf(format, args...)}
	}
	switch d.Kind {
	case File, Block, EMMCBoot, MTD, UBI:
	default:
		return fail("kind", "%q is none of %s, %s, %s, %s and %s", d.Kind, File, Block, EMMCBoot, MTD, UBI)
	}
	if id == "" || (!filepath.IsAbs(d.Path) && !Named(d.Kind, d.Path)) {
		return fail("path", "%q is not an absolute path", d.Path)
	}
	if d.Size < 0 || (d.Kind != File && d.Size != 0) {
		return fail("size", "%d does not fit kind %q", d.Size, d.Kind)
	}
	if _, err := os.Stat(d.Path); d.Kind == File && d.Size > 0 && errors.Is(err, os.ErrNotExist) {
		return create(d)
	}
	if d.Kind == EMMCBoot {
		if err := s.protect(d.Path); err != nil {
			return fail("path", "%w", err)
		}
	}
	m, err := s.open(d, false)
	if err != nil {
		return fail("path", "%w", err)
	}
	return m.Close()
}

// Named reports whether path names a slot of this kind without being a path.
func Named(kind, path string) bool {
	_, name, ok := strings.Cut(path, ":")
	return ok && name != "" && (kind == MTD && strings.HasPrefix(path, "mtd:") || kind == UBI && isUBIName(path))
}

// node returns the device node of a slot.
func (s *Set) node(d Device) string {
	switch d.Kind {
	case MTD:
		if path, err := s.mtdNode(d.Path); err == nil {
			return path
		}
	case UBI:
		if path, err := s.ubiNode(d.Path); err == nil {
			return path
		}
	}
	return d.Path
}

// same reports whether two slots are one place.
func (s *Set) same(a, b Device) bool { return same(s.node(a), s.node(b)) }

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
	if booted == id || s.same(d, running) {
		return nil, &update.Refusal{Code: "slot-in-use", What: "write slot " + string(id), Why: "the running system was started from it"}
	}
	m, err := s.open(d, true)
	if err != nil {
		return nil, fmt.Errorf("write slot %s: %w", id, err)
	}
	if room := m.room(); size <= 0 || size > room {
		err = &update.Refusal{Code: "slot-too-small", What: "write slot " + string(id),
			Why: fmt.Sprintf("the image is %d bytes long, the slot has %d", size, room)}
		return nil, errors.Join(err, m.Close())
	}
	w, err := m.writer(id, size)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("write slot %s: %w", id, err), m.Close())
	}
	return w, nil
}

// Reader opens a slot for what it holds now.
func (s *Set) Reader(id update.SlotID) (update.SlotReader, error) {
	d, err := s.device(id)
	if err != nil {
		return nil, err
	}
	m, err := s.open(d, false)
	if err != nil {
		return nil, fmt.Errorf("read slot %s: %w", id, err)
	}
	return m, nil
}

// Digest returns the SHA-256 of the first size bytes of a slot.
func (s *Set) Digest(ctx context.Context, id update.SlotID, size int64) ([32]byte, error) {
	d, err := s.device(id)
	if err != nil {
		return [32]byte{}, err
	}
	m, err := s.open(d, false)
	if err != nil {
		return [32]byte{}, fmt.Errorf("read slot %s: %w", id, err)
	}
	defer m.Close()
	if room := m.Size(); size < 0 || size > room {
		return [32]byte{}, fmt.Errorf("read slot %s: %d bytes wanted, it has %d", id, size, room)
	}
	m.fresh()
	h := sha256.New()
	if err := drain(ctx, h, m, size); err != nil {
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
	m, err := s.open(d, false)
	if err != nil {
		return 0, fmt.Errorf("measure slot %s: %w", id, err)
	}
	return m.room(), m.Close()
}

func (s *Set) device(id update.SlotID) (Device, error) {
	d, ok := s.slots[id]
	if !ok {
		return Device{}, fmt.Errorf("find slot %q: %w: it is not configured", id, update.ErrSetup)
	}
	return d, nil
}
