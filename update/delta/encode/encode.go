// SPDX-License-Identifier: Apache-2.0

// Package encode makes payloads: the deltas and compressed images that package delta reads on a device.
//
// It runs on the operator's machine, holds both images and an index of the base in memory (about 8 bytes for each byte of the
// base, at most 600 MiB, and 60 MiB for each processor), and uses every processor. What it writes depends on its input alone,
// not on how many processors there were. It is never linked into the device.
package encode

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"

	"github.com/backstay/backstay/update/delta"
	"github.com/backstay/backstay/update/delta/internal/lz"
)

// The pieces of a group share what is learned, so a longer group makes a smaller payload; a device that continues decodes up to
// a group again, and one whose base is damaged gets up to a group from elsewhere.
const (
	group     = 8
	longGroup = delta.MaxGroup
	small     = 64 << 10 // a payload this small is made again with the longest groups
)

// Result is what was made.
type Result struct {
	Length      int64 // of the payload
	SHA256      [32]byte
	IndexLength int64 // bytes of its beginning that are the index
	IndexSHA256 [32]byte
	BaseLength  int64
	Base        [32]byte // zero for a compressed image
}

// Options of a payload.
type Options struct {
	Group int // pieces of a group, at most delta.MaxGroup; 0: what suits the images
}

// Write writes the payload that makes image from base, which is nil for a compressed image.
func Write(ctx context.Context, w io.Writer, base, image []byte, o Options) (Result, error) {
	if o.Group < 0 || o.Group > delta.MaxGroup {
		return Result{}, fmt.Errorf("encode: %d pieces in a group, 1 to %d are possible", o.Group, delta.MaxGroup)
	}
	if len(image) == 0 || int64(len(image)) > delta.MaxLength || int64(len(base)) > delta.MaxLength {
		return Result{}, fmt.Errorf("encode: an image of %d bytes from a base of %d: neither may exceed %d", len(image), len(base), int64(delta.MaxLength))
	}
	h := delta.Header{Length: int64(len(image)), SHA256: sha256.Sum256(image), Group: cmp.Or(o.Group, group)}
	var index *baseIndex
	if len(base) > 0 {
		h.BaseLength, h.Base = int64(len(base)), sha256.Sum256(base)
		index = newBaseIndex(base)
	}
	streams, err := code(ctx, base, image, index, h.Group)
	if err != nil {
		return Result{}, err
	}
	if o.Group == 0 && total(streams) <= small && len(streams) > 1 {
		h.Group = longGroup
		if streams, err = code(ctx, base, image, index, h.Group); err != nil {
			return Result{}, err
		}
	}
	return write(w, h, image, streams)
}

func total(streams [][]byte) (n int) {
	for _, s := range streams {
		n += len(s)
	}
	return n
}

// code makes the streams of all groups, a few at a time.
func code(ctx context.Context, base, image []byte, index *baseIndex, pieces int) ([][]byte, error) {
	size := pieces * delta.Piece
	streams := make([][]byte, (len(image)+size-1)/size)
	next := make(chan int)
	var wg sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(streams)) {
		wg.Go(func() {
			m, prices := lz.NewModel(), lz.NewPrices()
			for g := range next {
				at := g * size
				data := image[at:min(at+size, len(image))]
				m.Reset()
				m.Coder.Encode()
				p := &parser{m: m, prices: prices, base: base, data: data, start: at, index: index, past: newPastIndex(data, lz.Window)}
				p.code()
				m.Coder.Flush()
				streams[g] = m.Coder.Out
			}
		})
	}
	for g := range streams {
		select {
		case next <- g:
		case <-ctx.Done():
		}
	}
	close(next)
	wg.Wait()
	return streams, ctx.Err()
}

// write puts the parts together. A stream that is no shorter than what it tells is left out.
func write(w io.Writer, h delta.Header, image []byte, streams [][]byte) (Result, error) {
	var digests []byte
	for at := 0; at < len(image); at += delta.Piece {
		sum := sha256.Sum256(image[at:min(at+delta.Piece, len(image))])
		digests = append(digests, sum[:delta.DigestSize]...)
	}
	sizes := make([]int64, len(streams))
	for g, s := range streams {
		at := g * h.Group * delta.Piece
		plain := image[at:min(at+h.Group*delta.Piece, len(image))]
		sizes[g] = int64(len(s))
		if len(s) >= len(plain) {
			streams[g], sizes[g] = plain, -int64(len(plain))
		}
	}
	index := h.Append(nil, digests, sizes)
	r := Result{Length: int64(len(index) + total(streams)), IndexLength: int64(len(index)), IndexSHA256: sha256.Sum256(index),
		BaseLength: h.BaseLength, Base: h.Base}
	if _, err := delta.Parse(index, r.Length); err != nil {
		return Result{}, errors.Join(errors.New("encode: the result cannot be read"), err)
	}
	sum := sha256.New()
	for _, b := range append([][]byte{index}, streams...) {
		sum.Write(b)
		if _, err := w.Write(b); err != nil {
			return Result{}, fmt.Errorf("write payload: %w", err)
		}
	}
	sum.Sum(r.SHA256[:0])
	return r, nil
}
