// SPDX-License-Identifier: Apache-2.0

package lz

import (
	"errors"
	"fmt"
	"io"
)

// ErrStream says that a stream is not one that an encoder makes, or goes with another base.
var ErrStream = errors.New("the stream makes no sense")

// A decoder reads the base in blocks, and keeps some.
const (
	blockBits = 14
	blocks    = 16
)

// Decoder turns streams into output. It holds about 2.5 MiB.
type Decoder struct {
	m     *Model
	ring  []byte
	input []byte

	base   io.ReaderAt
	length int64 // of the base
	cache  []byte
	held   [blocks]int64 // which block is where in the cache, plus 1

	start, at int64 // where the stream begins and where it is, in the output
	copying   Token // what is left of a copy
	err       error
}

// NewDecoder returns a decoder for outputs of this base, which has length bytes.
func NewDecoder(base io.ReaderAt, length int64) *Decoder {
	d := &Decoder{m: NewModel(), ring: make([]byte, Window), input: make([]byte, 4<<10), base: base, length: length}
	if length > 0 {
		d.cache = make([]byte, blocks<<blockBits)
	}
	return d
}

// Begin starts a stream that tells the output from byte at on; more fills a buffer with the bytes of it that come next, and
// returns 0 at its end.
func (d *Decoder) Begin(at int64, more func([]byte) int) {
	d.m.Reset()
	d.m.Coder.Decode(d.input, more)
	d.start, d.at, d.copying, d.err = at, at, Token{}, nil
}

// Next returns the next n bytes, at most Window and never across a multiple of it. They are valid until it is called again.
func (d *Decoder) Next(n int) ([]byte, error) {
	from := int(d.at & (Window - 1))
	to := from + n
	if to > Window {
		return nil, fmt.Errorf("decode: %d bytes at %d", n, d.at)
	}
	for at := from; at < to && d.err == nil; {
		at += d.step(d.ring[at:to])
	}
	if d.err == nil && d.m.Coder.Cut() {
		d.err = fmt.Errorf("%w: it ends too early", ErrStream)
	}
	return d.ring[from:to], d.err
}

// Buffer is where the next n bytes would go: for bytes that come from elsewhere and are to be handed on the same way. The
// stream cannot be continued after that.
func (d *Decoder) Buffer(n int) []byte {
	d.err = errors.New("decode: the stream was left")
	return d.ring[:n]
}

// End reports an error if the stream says more than was asked for.
func (d *Decoder) End() error {
	if d.err == nil && (d.copying.Len > 0 || d.m.Coder.Rest()) {
		d.err = fmt.Errorf("%w: it goes on after its end", ErrStream)
	}
	return d.err
}

// step writes at least one byte to dst, or sets err.
func (d *Decoder) step(dst []byte) int {
	t := d.copying
	if t.Len == 0 {
		t = d.m.Token(Token{})
		if t.Kind == Literal {
			dst[0] = d.literal()
			d.m.State.Next(t)
			d.m.Saw(dst[0])
			d.at++
			return 1
		}
		if !d.possible(t) {
			return 0
		}
		d.m.State.Next(t)
	}
	n := min(t.Len, len(dst))
	if t.Src.Base {
		d.err = d.fromBase(dst[:n], d.at+t.Src.Delta)
	} else {
		n = d.fromPast(dst[:n], -t.Src.Delta)
	}
	for _, b := range dst[max(n-len(d.m.last), 0):n] {
		d.m.Saw(b)
	}
	d.at += int64(n)
	t.Len -= n
	d.copying = t
	return n
}

// possible refuses a copy from outside of the base, or of the output that this stream has told.
func (d *Decoder) possible(t Token) bool {
	from := d.at + t.Src.Delta
	switch {
	case t.Len == 0:
		d.err = fmt.Errorf("%w: a copy of nothing", ErrStream)
	case t.Src.Base && (from < 0 || from > d.length-int64(t.Len)):
		d.err = fmt.Errorf("%w: a copy of %d bytes at %d from a base of %d", ErrStream, t.Len, from, d.length)
	case !t.Src.Base && (t.Src.Delta >= 0 || t.Src.Delta < -Window || from < d.start):
		d.err = fmt.Errorf("%w: a copy from %d bytes back at %d", ErrStream, -t.Src.Delta, d.at-d.start)
	}
	return d.err == nil
}

func (d *Decoder) literal() byte {
	src := d.m.State.Reps[0]
	from := d.at + src.Delta
	if !src.Base {
		var want byte
		if src.Delta < 0 && src.Delta >= -Window && from >= d.start {
			want = d.ring[from&(Window-1)]
		}
		return d.m.Byte(0, want, 0)
	}
	want, next := d.baseByte(from), d.baseByte(from+1)
	return d.m.Byte(0, want, next)
}

// baseByte returns one byte of the base, 0 outside of it.
func (d *Decoder) baseByte(at int64) byte {
	if at < 0 || at >= d.length {
		return 0
	}
	b, err := d.block(at >> blockBits)
	if err != nil {
		d.err = err
		return 0
	}
	return b[at&(1<<blockBits-1)]
}

// block returns a block of the base; the last one may have no meaning at its end.
func (d *Decoder) block(n int64) ([]byte, error) {
	i := n % blocks
	b := d.cache[i<<blockBits : (i+1)<<blockBits]
	if d.held[i] == n+1 {
		return b, nil
	}
	d.held[i] = 0
	want := min(int64(len(b)), d.length-n<<blockBits)
	if k, err := d.base.ReadAt(b[:want], n<<blockBits); int64(k) < want {
		return nil, fmt.Errorf("read base at %d: %w", n<<blockBits, err)
	}
	d.held[i] = n + 1
	return b, nil
}

func (d *Decoder) fromBase(dst []byte, at int64) error {
	if len(dst) >= 4<<blockBits {
		if k, err := d.base.ReadAt(dst, at); k < len(dst) {
			return fmt.Errorf("read base at %d: %w", at, err)
		}
		return nil
	}
	for len(dst) > 0 {
		b, err := d.block(at >> blockBits)
		if err != nil {
			return err
		}
		n := copy(dst, b[at&(1<<blockBits-1):])
		dst, at = dst[n:], at+int64(n)
	}
	return nil
}

// fromPast copies what can be copied without running into itself or around the ring.
func (d *Decoder) fromPast(dst []byte, back int64) int {
	from := (d.at - back) & (Window - 1)
	n := min(int64(len(dst)), Window-from, back)
	return copy(dst[:n], d.ring[from:from+n])
}
