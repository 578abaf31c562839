// SPDX-License-Identifier: Apache-2.0

// Package update decides when a device changes its firmware, and gets it through every step of that change.
//
// It owns the lifecycle of one update: choosing a release, writing it to the slot that is not running, trying it, and keeping
// it or going back. The steps are rows of one table (table.go), and the machine (machine.go) has no other way forward and no
// other way to recover. The package does no I/O of its own: images, slots, boot loader, floor and journal are interfaces,
// implemented by update/trust, update/slot, update/boot, update/floor and agent/store.
//
// It does not own trust. A Release is believed because a Source verified it; the bytes of its image are believed by nobody
// until the digest read back from the slot equals the signed one, and nothing here parses an image.
//
// What it stores is the Job, through a Journal. Who can write the journal can make the device repeat, drop or revert an
// update, and can name a digest of their own for a job already past its check. They cannot lower the floor through it, and
// the boot loader's own verification (where there is one) does not read it. The journal belongs to root alone.
//
// An attacker who controls the network controls when images arrive, how slowly, and whether they are cut short; that costs
// a bounded number of bytes and a quarantined release.
package update

import (
	"context"
	"errors"
	"io"
)

// ErrReboot says that a reboot has been asked for and the process has to end. The job is saved; Resume continues it.
var ErrReboot = errors.New("reboot needed")

// SlotID names one of the places an image can boot from: "A" or "B", as the boot loader and the configuration spell it.
type SlotID string

// Source says which release this device should run, and gives the bytes of its image.
type Source interface {
	// Latest returns the newest release meant for this device. Its metadata is verified when Latest returns. It returns
	// ErrNothing if the device is up to date, an error that is ErrRefused if a check said no, and one that is ErrRetry if the
	// answer may be different later.
	Latest(ctx context.Context) (Release, error)
	// Open returns the bytes of the image from offset off on. They are not verified. The reader ends at the end of the image,
	// or with an error that is ErrRetry if the rest can be had by opening again.
	Open(ctx context.Context, r Release, off int64) (io.ReadCloser, error)
}

// Slots reaches the places where images are stored. Its methods are called by one goroutine at a time.
type Slots interface {
	// Booted returns the slot the running system was started from.
	Booted() (SlotID, error)
	// Writer opens a slot for an image of size bytes, keeping what the slot holds. It refuses the booted slot, and a slot
	// that is smaller than size.
	Writer(id SlotID, size int64) (Writer, error)
	// Reader opens a slot, the booted one too, for what it holds now. What is read is only as good as a digest over it.
	Reader(id SlotID) (SlotReader, error)
	// Digest returns the SHA-256 of the first size bytes of the slot, read from the medium rather than from a cache where the
	// system allows it.
	Digest(ctx context.Context, id SlotID, size int64) ([32]byte, error)
}

// SlotReader reads the bytes of a slot. ReadAt may be called from several goroutines.
type SlotReader interface {
	io.ReaderAt
	io.Closer
	// Size returns how many bytes the slot has, which is more than those of the image in it.
	Size() int64
}

// Writer writes an image to a slot, in order. It never writes past the size it was opened for.
type Writer interface {
	io.Writer
	// Prefix copies the first kept bytes that the slot already holds to w, and continues writing after them. Kept is n, or
	// less where the medium cannot be written from n on: flash continues at the start of an erase block, and what is only
	// taken as a whole, such as a static UBI volume, from 0. Prefix is called before the first Write; without it, writing
	// starts at 0.
	Prefix(ctx context.Context, w io.Writer, n int64) (kept int64, err error)
	// Sync returns when everything written is durable: all of it once the image is complete, and before that as much of it
	// as Prefix would keep.
	Sync() error
	// Close releases the slot. It does not make anything durable.
	Close() error
}

// Bootloader tells the boot loader what to start. Every method that writes is idempotent, makes its change as a whole or not
// at all, is durable when it returns nil, and may have made its change even if it returns an error.
type Bootloader interface {
	// Disarm makes sure that id is not started, neither by choice nor as a fall-back. It refuses to disarm the only slot left.
	Disarm(id SlotID) error
	// Try makes the boot loader start id next, at most attempts times (1 to 9), and the slot that was the default after that.
	Try(id SlotID, attempts int) error
	// Keep makes id the default, with a full count of attempts, and ends any trial.
	Keep(id SlotID) error
	// State returns what the boot loader would do.
	State() (BootState, error)
}

// BootState is what the boot loader would do at the next start.
type BootState struct {
	Primary SlotID         `json:"primary"`         // what it starts next; empty if nothing has attempts left
	Order   []SlotID       `json:"order"`           // what it may start, first choice first
	Left    map[SlotID]int `json:"left"`            // attempts left
	Trial   bool           `json:"trial,omitempty"` // it counts down to a fall-back, if it can tell a trial from a kept slot
}

// Floor is the security floor: the release counter below which no image may be installed. It never decreases.
type Floor interface {
	// Get returns the floor. A floor that cannot be read is an error, never 0.
	Get() (uint64, error)
	// Raise makes the floor at least v, durably. It may have done so even if it returns an error.
	Raise(v uint64) error
}

// Journal keeps the job over a loss of power.
type Journal interface {
	// Load returns the last job saved, and the zero Job if none ever was.
	Load() (Job, error)
	// Save replaces the job as a whole, and is durable when it returns nil.
	Save(Job) error
}
