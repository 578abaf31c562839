// SPDX-License-Identifier: Apache-2.0

package slot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/internal/flash"
)

// A UBI volume is a row of logical erase blocks (LEB). UBI keeps bad blocks and wear away from its users.
//
// A dynamic volume is written LEB by LEB with UBI's atomic change: each holds either what it held or all of what is new,
// wherever the power fails, so writing continues at the start of a LEB. A static volume carries a checksum over everything in it
// and is taken as a whole or not at all: writing starts over.

// store is an opened volume. It implements medium.
type store struct {
	flash.Volume
	info flash.VolumeInfo
	lebs int
}

// maxLEB bounds a LEB: one is held in memory while it is written.
const maxLEB = 8 << 20

func newStore(v flash.Volume) (*store, error) {
	i := v.Info()
	if i.LEB <= 0 || i.LEB > maxLEB || i.Size < i.LEB || i.Size%i.LEB != 0 || i.Size/i.LEB > maxBlocks || i.Data < 0 || i.Data > i.Size {
		return nil, fmt.Errorf("%w: a volume of %d bytes in blocks of %d that holds %d is beyond what is supported", update.ErrSetup, i.Size, i.LEB, i.Data)
	}
	return &store{v, i, int(i.Size / i.LEB)}, nil
}

func (s *store) room() int64 { return s.info.Size }
func (s *store) fresh()      {} // volumes are not cached

// Size returns what can be read: of a static volume what was written to it.
func (s *store) Size() int64 {
	switch {
	case s.info.Damaged:
		return 0
	case s.info.Static:
		return s.info.Data
	}
	return s.info.Size
}

// writer returns the way to write. A dynamic volume whose update as a whole was cut, by somebody else, takes no less than
// another one.
func (s *store) writer(id update.SlotID, size int64) (update.Writer, error) {
	w := &volumeWriter{s: s, id: id, size: size}
	if s.info.Static || s.info.Damaged {
		return &wholeWriter{volumeWriter: w}, nil
	}
	return w, nil
}

// volumeWriter writes one image to a dynamic volume. It implements update.Writer.
type volumeWriter struct {
	s        *store
	id       update.SlotID
	size, at int64
	buf      []byte // the bytes since the start of the LEB
	old      []byte
	wiped    bool
	err      error // the first failure: what follows it would be in the wrong place
}

// Write takes the next bytes, and writes every LEB that is full. What would go past the size of the image is not taken.
func (w *volumeWriter) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	if int64(len(p)) > w.size-w.at {
		return 0, pastEnd(w.id, len(p), w.at, w.size)
	}
	if w.buf == nil {
		w.buf, w.old = make([]byte, 0, w.s.info.LEB), make([]byte, min(w.s.info.LEB, 64<<10))
	}
	done := 0
	for done < len(p) {
		k := min(len(p)-done, int(w.s.info.LEB)-len(w.buf))
		w.buf = append(w.buf, p[done:done+k]...)
		w.at += int64(k)
		done += k
		if len(w.buf) < int(w.s.info.LEB) && w.at < w.size {
			continue
		}
		if err := w.put(int((w.at - 1) / w.s.info.LEB)); err != nil {
			return done - k, w.fail(err)
		}
		w.buf = w.buf[:0]
	}
	return done, nil
}

func (w *volumeWriter) fail(err error) error {
	if errors.Is(err, unix.EBUSY) {
		err = inUse("the volume", "it is mounted or open elsewhere", err)
	}
	w.err = fmt.Errorf("write slot %s: %w", w.id, err)
	return w.err
}

// put changes a LEB, unless it holds the same already: UBI reads with error correction, and moves what begins to fade.
func (w *volumeWriter) put(leb int) error {
	for at := 0; ; {
		if at == len(w.buf) {
			return nil
		}
		k := min(len(w.buf)-at, len(w.old))
		if _, err := w.s.ReadAt(w.old[:k], int64(leb)*w.s.info.LEB+int64(at)); err != nil || !bytes.Equal(w.old[:k], w.buf[at:at+k]) {
			return w.s.Change(leb, w.buf)
		}
		at += k
	}
}

// Prefix copies the LEBs that the first n bytes fill to dst.
func (w *volumeWriter) Prefix(ctx context.Context, dst io.Writer, n int64) (int64, error) {
	if n < 0 || n > w.size {
		return 0, fmt.Errorf("read slot %s: a prefix of %d bytes in an image of %d", w.id, n, w.size)
	}
	n -= n % w.s.info.LEB
	if err := drain(ctx, dst, w.s, n); err != nil {
		return 0, fmt.Errorf("read slot %s: %w", w.id, err)
	}
	w.at, w.buf = n, w.buf[:0]
	return n, nil
}

// Sync has nothing to wait for, because a change is durable when it returns. Once the image is complete it erases the LEBs after
// it: UBIFS takes what is left there for its own.
func (w *volumeWriter) Sync() error {
	if w.at < w.size || w.wiped || w.err != nil {
		return w.err
	}
	for leb := int((w.size-1)/w.s.info.LEB) + 1; leb < w.s.lebs; leb++ {
		if err := w.s.Erase(leb); err != nil {
			return w.fail(err)
		}
	}
	w.wiped = true
	return nil
}

// Close releases the slot.
func (w *volumeWriter) Close() error { return w.s.Close() }

// wholeWriter writes one image to a volume that is taken as a whole.
type wholeWriter struct {
	*volumeWriter
	all io.WriteCloser
}

// Write writes the next bytes. The first ones empty the volume.
func (w *wholeWriter) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	if int64(len(p)) > w.size-w.at {
		return 0, pastEnd(w.id, len(p), w.at, w.size)
	}
	var err error
	if w.all == nil {
		if w.all, err = w.s.Update(w.size); err != nil {
			return 0, w.fail(err)
		}
	}
	n, err := w.all.Write(p)
	w.at += int64(n)
	if err != nil {
		return n, w.fail(err)
	}
	return n, nil
}

// Prefix keeps nothing: what such a volume has been given so far cannot be read before it has all of it.
func (w *wholeWriter) Prefix(_ context.Context, _ io.Writer, n int64) (int64, error) {
	if n < 0 || n > w.size || w.all != nil {
		return 0, fmt.Errorf("read slot %s: a prefix of %d bytes in an image of %d", w.id, n, w.size)
	}
	return 0, nil
}

// Sync makes the volume valid once the last byte is there.
func (w *wholeWriter) Sync() error {
	if w.at < w.size || w.wiped || w.err != nil {
		return w.err
	}
	if err := w.all.Close(); err != nil {
		return w.fail(err)
	}
	w.wiped = true
	return nil
}
