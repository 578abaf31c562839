// SPDX-License-Identifier: Apache-2.0

// Package delta makes the bytes of an image from a payload that is smaller than the image: a delta, which needs the bytes of
// an older image (the base), or a compressed image, which is a delta from nothing.
//
// It owns the format (docs/delta.md), the decoder, and the choice of the payload on a device. It does not own trust: the digest
// of a payload's index is signed, the index has a digest for every MiB of output, and nothing leaves this package that does not
// have it. Even so the image is believed only when its signed digest was read back from the slot, so a fault here can make an
// update fail and can never make a wrong one succeed.
//
// An attacker who controls the network, the base or both can make the device fetch a bounded number of bytes and then use
// another payload. An operator who signs a hostile payload gets a refusal at its first bad MiB. Memory is the same whatever a
// payload says: a buffer of one MiB, 1.5 MiB of what the decoder learns, and 20 bytes for each MiB of the image.
package delta

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/backstay/backstay/update/delta/internal/lz"
)

// Piece is how many bytes of the output have a digest of their own; the last piece may be shorter.
const Piece = lz.Window

// Bounds of an index. They hold before memory is taken.
const (
	MaxLength = 32 << 30 // bytes of an image
	MaxGroup  = 64       // pieces of a group
	MaxIndex  = HeaderSize + MaxLength/Piece*(DigestSize+binary.MaxVarintLen64)

	// HeaderSize is the part of the index that always has the same size.
	HeaderSize = 90
	// DigestSize is how much of the SHA-256 of a piece is kept. Other bytes with the same would take 2^96 tries to make, and be
	// found by the digest of the image.
	DigestSize = 12
)

// Magic begins every payload.
const Magic = "BkstDlt1"

// Header is what an index says about the whole.
type Header struct {
	Length     int64    // bytes of the output
	SHA256     [32]byte // of the output
	BaseLength int64    // bytes of the base; 0 for a compressed image
	Base       [32]byte // SHA-256 of the base; zero for a compressed image
	Group      int      // pieces that share one stream: where decoding can begin
}

// Index is the beginning of a payload: what the output will be, and where in the payload its parts are.
type Index struct {
	Header
	digests []byte
	groups  []group
}

type group struct {
	at     int64 // in the payload
	length int64
	plain  bool // the bytes themselves, not a stream
}

var order = binary.BigEndian

// Append writes an index: digests has DigestSize bytes for each piece; sizes, for each group, the bytes it has in the payload,
// negative if they are the output itself.
func (h Header) Append(b, digests []byte, sizes []int64) []byte {
	b = append(b, Magic...)
	b = order.AppendUint64(b, uint64(h.Length))
	b = append(b, h.SHA256[:]...)
	b = order.AppendUint64(b, uint64(h.BaseLength))
	b = append(b, h.Base[:]...)
	b = order.AppendUint16(b, uint16(h.Group))
	for i := 0; i*h.Group*DigestSize < len(digests); i++ {
		v := uint64(max(sizes[i], -sizes[i])) << 1
		if sizes[i] < 0 {
			v |= 1
		}
		b = binary.AppendUvarint(b, v)
		b = append(b, digests[i*h.Group*DigestSize:min((i+1)*h.Group*DigestSize, len(digests))]...)
	}
	return b
}

// Parse reads an index. b is the first indexLength bytes of a payload of total bytes.
func Parse(b []byte, total int64) (*Index, error) {
	x := &Index{}
	if len(b) < HeaderSize || len(b) > MaxIndex || string(b[:len(Magic)]) != Magic {
		return nil, malformed("it is not the index of a payload")
	}
	at := int64(len(b))
	b = b[len(Magic):]
	length, base := order.Uint64(b), order.Uint64(b[40:])
	copy(x.SHA256[:], b[8:])
	copy(x.Base[:], b[48:])
	x.Group = int(order.Uint16(b[80:]))
	b = b[HeaderSize-len(Magic):]
	switch {
	case length == 0 || length > MaxLength || base > MaxLength:
		return nil, malformed(fmt.Sprintf("an image of %d bytes from a base of %d", length, base))
	case x.Group == 0 || x.Group > MaxGroup:
		return nil, malformed(fmt.Sprintf("%d pieces in a group", x.Group))
	case (base == 0) != (x.Base == [32]byte{}):
		return nil, malformed("it has a base without bytes, or bytes without a base")
	}
	x.Length, x.BaseLength = int64(length), int64(base)
	pieces := x.Pieces()
	if len(b) < pieces*DigestSize {
		return nil, malformed("it is too short for its pieces")
	}
	x.digests = make([]byte, 0, pieces*DigestSize)
	x.groups = make([]group, 0, (pieces+x.Group-1)/x.Group)
	for left := pieces; left > 0; {
		k := min(left, x.Group)
		v, n := binary.Uvarint(b)
		if n <= 0 || len(b)-n < k*DigestSize || n > 1 && b[n-1] == 0 {
			return nil, malformed("it ends too early")
		}
		g := group{at: at, length: int64(v >> 1), plain: v&1 == 1}
		_, out := x.span(len(x.groups))
		if v>>1 > uint64(out) || g.plain && g.length != out {
			return nil, malformed(fmt.Sprintf("%d bytes for an output of %d", v>>1, out))
		}
		x.digests = append(x.digests, b[n:n+k*DigestSize]...)
		x.groups = append(x.groups, g)
		at, left, b = at+g.length, left-k, b[n+k*DigestSize:]
	}
	if len(b) > 0 || at != total {
		return nil, malformed(fmt.Sprintf("its parts are %d bytes, the payload has %d", at, total))
	}
	return x, nil
}

// Pieces is how many there are.
func (h *Header) Pieces() int { return int((h.Length + Piece - 1) / Piece) }

// span is where the output of a group begins, and how long it is.
func (h *Header) span(g int) (at, length int64) {
	size := int64(h.Group) * Piece
	at = int64(g) * size
	return at, min(size, h.Length-at)
}

// has reports whether b is piece n of the output.
func (x *Index) has(n int, b []byte) bool {
	sum := sha256.Sum256(b)
	return bytes.Equal(sum[:DigestSize], x.digests[n*DigestSize:(n+1)*DigestSize])
}

var errMalformed = errors.New("malformed payload")

func malformed(why string) error { return fmt.Errorf("%w: %s", errMalformed, why) }
