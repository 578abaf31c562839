// SPDX-License-Identifier: Apache-2.0

package slot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/update"
)

// medium is one opened slot: what differs between a file, a partition, raw flash and a UBI volume.
type medium interface {
	update.SlotReader
	// room returns how many bytes an image may have.
	room() int64
	// fresh makes what is read next come from the medium and not from a cache, as far as the kernel lets it.
	fresh()
	// writer returns what writes an image of size bytes here. It owns the medium: closing it closes the slot.
	writer(id update.SlotID, size int64) (update.Writer, error)
}

// open opens a slot without ever creating, truncating or erasing it. A slot opened for writing is locked: a second writer is
// told to come back later.
func (s *Set) open(d Device, write bool) (medium, error) {
	switch d.Kind {
	case File, Block:
		return openDisk(d, write)
	case EMMCBoot:
		return s.openEMMC(d, write)
	case MTD:
		return s.openMTD(d, write)
	case UBI:
		return s.openUBI(d, write)
	}
	return nil, fmt.Errorf("%w: kind %q is not known", update.ErrSetup, d.Kind)
}

// openNode opens a device or a file, and says in the terms of this package why that cannot be done.
func openNode(path string, write bool, more int) (*os.File, error) {
	flags := os.O_RDONLY
	if write {
		flags = os.O_RDWR | more
	}
	f, err := os.OpenFile(path, flags, 0)
	if errors.Is(err, unix.EBUSY) {
		return nil, inUse(path, "the device is mounted or claimed", err)
	}
	if err != nil || !write {
		return f, err
	}
	if err := lock(f); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func inUse(path, why string, err error) error {
	return &update.Refusal{Code: "slot-in-use", What: "open " + path, Why: why, Err: err}
}

// lock is advisory: it keeps two writers of ours apart.
func lock(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("lock %s: somebody else is writing it: %w", f.Name(), update.ErrRetry)
	}
	return err
}

// piece is how much of a slot is read at a time; two pieces are in memory.
const piece = 256 << 10

// drain copies the first n bytes of r to dst. While one piece goes to dst, which usually is a hash, the next one is being read:
// without that the flash waits for the processor and the processor for the flash.
func drain(ctx context.Context, dst io.Writer, r io.ReaderAt, n int64) error {
	type full struct {
		b   []byte
		err error
	}
	size := min(piece, max(n, 1))
	empty, filled := make(chan []byte, 2), make(chan full, 2)
	empty <- aligned(size)
	if n > piece {
		empty <- aligned(size)
	}
	go func() {
		defer close(filled)
		for at := int64(0); at < n; {
			b := <-empty
			if b == nil {
				return
			}
			k, err := r.ReadAt(b[:min(size, n-at)], at)
			if int64(k) == min(size, n-at) {
				err = nil
			} else if err == nil {
				err = io.ErrUnexpectedEOF
			}
			if err != nil {
				err = fmt.Errorf("at %d of %d: %w", at, n, err)
			}
			filled <- full{b[:k], err}
			if err != nil {
				return
			}
			at += int64(k)
		}
	}()
	var err error
	for p := range filled {
		if err == nil {
			err = errors.Join(ctx.Err(), p.err)
		}
		if err == nil {
			_, err = dst.Write(p.b)
		}
		if err != nil {
			empty <- nil // the reader ends; what it has still read is dropped
			continue
		}
		empty <- p.b[:size]
	}
	return err
}
