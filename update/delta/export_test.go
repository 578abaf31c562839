// SPDX-License-Identifier: Apache-2.0

package delta

import (
	"bytes"
	"context"
	"io"

	"github.com/backstay/backstay/update/delta/internal/lz"
)

func (x *Index) Digests() []byte { return x.digests }

func (x *Index) Sizes() (list []int64) {
	for _, g := range x.groups {
		if g.plain {
			list = append(list, -g.length)
		} else {
			list = append(list, g.length)
		}
	}
	return list
}

// Unpack makes the image from a whole payload in memory.
func Unpack(b []byte, base *bytes.Reader) ([]byte, error) {
	if len(b) < HeaderSize {
		return nil, errMalformed
	}
	// The index says how long it is only by its parts.
	var x *Index
	for n := HeaderSize; n <= len(b) && n < 4096 && x == nil; n++ {
		x, _ = Parse(b[:n], int64(len(b)))
	}
	if x == nil || x.Length > Piece/16 {
		return nil, errMalformed
	}
	p := &pieces{x: x, dec: lz.NewDecoder(base, min(x.BaseLength, base.Size())), next: -1, open: func(_ context.Context, off int64) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(b[off:])), nil
	}}
	defer p.close()
	var out []byte
	for n := range x.Pieces() {
		piece, err := p.piece(context.Background(), n)
		if err != nil {
			return nil, err
		}
		out = append(out, piece...)
	}
	return out, nil
}
