// SPDX-License-Identifier: Apache-2.0

package update

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
)

// Bounds of a download. Memory does not grow with the image.
const (
	defaultChunk      = 128 << 10 // bytes in memory at a time
	defaultCheckpoint = 4 << 20   // fewest bytes between two points a download can continue from
	maxCheckpoints    = 64        // of an image: each is a write of the journal and a flush of the slot
)

// download brings the image into the slot that does not run, and proves that it is there.
//
// The boot loader forgets the slot before its first byte changes, and durably so. Otherwise: an image is kept, its next starts
// fail for a reason of their own while the other slot is being overwritten, the attempts run out, and the boot loader falls back into half an image.
func (m *Machine) download(ctx context.Context, job *Job) error {
	booted, err := m.booted()
	if err != nil {
		return err
	}
	if booted != job.From {
		return fmt.Errorf("write slot %s: the device now runs %s, not %s", job.Slot, booted, job.From)
	}
	if err := m.permit(job.Release); err != nil {
		return err
	}
	if err := m.await(ctx, job, StepDownload); err != nil {
		return err
	}
	if err := m.Boot.Keep(job.From); err != nil {
		return fmt.Errorf("keep running slot %s: %w", job.From, err)
	}
	if err := m.Boot.Disarm(job.Slot); err != nil {
		return fmt.Errorf("disarm slot %s: %w", job.Slot, err)
	}
	if err := m.fetch(ctx, job); err != nil {
		return m.interrupted(ctx, job, err)
	}
	m.emit("update.verified", job)
	sum, err := m.Slots.Digest(ctx, job.Slot, job.Release.Length)
	if err != nil {
		return fmt.Errorf("read back slot %s: %w", job.Slot, err)
	}
	if sum != job.Release.SHA256 {
		return &failed{CodeReadBack, fmt.Errorf("read back slot %s: it holds %x, written was %x", job.Slot, sum, job.Release.SHA256)}
	}
	if err := m.install(ctx, job); err != nil {
		return m.interrupted(ctx, job, err)
	}
	m.emit("update.installed", job)
	return nil
}

// interrupted decides whether a download that ended early goes on later.
func (m *Machine) interrupted(ctx context.Context, job *Job, err error) error {
	if w, is := errors.AsType[*Waiting](err); is {
		return m.held(job, w)
	}
	if ctx.Err() != nil || !errors.Is(err, ErrRetry) || errors.Is(err, ErrRefused) || job.Cuts >= maxCuts {
		return err
	}
	job.Cuts++
	if err := m.save(*job); err != nil {
		return err
	}
	return later{err}
}

// maxFetches bounds how often one run fetches an image from its start because the bytes were wrong.
const maxFetches = 10

// fetch streams the image to the slot from the last checkpoint on. If a continued image turns out wrong, the part that was
// already there is the suspect, and the whole is fetched once more; if a place delivered wrong bytes, from another place.
func (m *Machine) fetch(ctx context.Context, job *Job) error {
	for tries := 0; ; tries++ {
		continued := job.Offset > 0
		err := m.stream(ctx, job)
		no, is := errors.AsType[*Refusal](err)
		again := is && (continued && no.Code == CodeBadHash || errors.Is(err, ErrElsewhere))
		if !again || tries >= maxFetches {
			return err
		}
		if err := m.checkpoint(job, 0); err != nil {
			return err
		}
	}
}

// stream writes the rest of the image and compares its length and digest.
func (m *Machine) stream(ctx context.Context, job *Job) (err error) {
	r := job.Release
	w, err := m.Slots.Writer(job.Slot, r.Length)
	if err != nil {
		return fmt.Errorf("open slot %s: %w", job.Slot, err)
	}
	defer func() {
		if e := w.Close(); e != nil && err == nil {
			err = fmt.Errorf("close slot %s: %w", job.Slot, e)
		}
	}()
	h := sha256.New()
	if job.Offset > r.Length {
		job.Offset = 0
	}
	if job.Offset, err = w.Prefix(ctx, h, job.Offset); err != nil {
		return fmt.Errorf("read slot %s again: %w", job.Slot, err)
	}
	if err := m.copy(ctx, job, w, h); err != nil {
		return err
	}
	if err := w.Sync(); err != nil {
		return fmt.Errorf("sync slot %s: %w", job.Slot, err)
	}
	if sum := [32]byte(h.Sum(nil)); sum != r.SHA256 {
		return &Refusal{Code: CodeBadHash, What: "image of release " + r.Version,
			Why: fmt.Sprintf("its SHA-256 is %x, signed is %x", sum, r.SHA256)}
	}
	return nil
}

// copy moves bytes from the source to the slot, and leaves checkpoints on the way and where the source breaks off.
func (m *Machine) copy(ctx context.Context, job *Job, w Writer, h hash.Hash) error {
	length, at := job.Release.Length, job.Offset
	body, err := m.Source.Open(ctx, job.Release, at)
	if err != nil {
		return fmt.Errorf("open image: %w", err)
	}
	defer body.Close()
	buf := make([]byte, m.chunk())
	for {
		n, rerr := body.Read(buf)
		if err := ctx.Err(); err != nil {
			return err
		}
		if int64(n) > length-at {
			return &Refusal{Code: CodeWrongLength, What: "image of release " + job.Release.Version,
				Why: fmt.Sprintf("it is longer than the signed %d bytes", length)}
		}
		if n > 0 {
			h.Write(buf[:n])
			if k, err := w.Write(buf[:n]); err != nil || k != n {
				return fmt.Errorf("write slot %s at %d: %w", job.Slot, at, orShort(err))
			}
			at += int64(n)
			m.progress(at)
		}
		if at < length && (at-job.Offset >= m.every(length) || (rerr != nil && at > job.Offset)) {
			if err := m.durable(job, w, at); err != nil {
				return err
			}
			if err := m.ask(ctx, StepDownload, job.Release); rerr == nil && !job.Local && err != nil {
				return err
			}
		}
		switch {
		case rerr == nil:
		case !errors.Is(rerr, io.EOF):
			return fmt.Errorf("read image at %d of %d: %w", at, length, rerr)
		case at < length:
			return fmt.Errorf("read image: it ends at %d of %d bytes: %w", at, length, ErrRetry)
		default:
			return nil
		}
	}
}

// durable makes what was written durable, then says so in the journal.
func (m *Machine) durable(job *Job, w Writer, at int64) error {
	if err := w.Sync(); err != nil {
		return fmt.Errorf("sync slot %s: %w", job.Slot, err)
	}
	return m.checkpoint(job, at)
}

func (m *Machine) checkpoint(job *Job, at int64) error {
	job.Offset = at
	return m.save(*job)
}

// progress shows bytes that are written but not yet durable.
func (m *Machine) progress(at int64) {
	m.mu.Lock()
	m.job.Offset = at
	m.mu.Unlock()
	m.changed()
}

func orShort(err error) error {
	if err == nil {
		return io.ErrShortWrite
	}
	return err
}

func (m *Machine) chunk() int64 {
	if m.chunkSize == 0 {
		return defaultChunk
	}
	return m.chunkSize
}

func (m *Machine) every(length int64) int64 {
	if m.checkpointEvery == 0 {
		return max(defaultCheckpoint, length/maxCheckpoints)
	}
	return m.checkpointEvery
}
