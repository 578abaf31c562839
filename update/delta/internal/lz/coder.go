// SPDX-License-Identifier: Apache-2.0

package lz

// Coder is a binary arithmetic coder: it keeps an interval of 32-bit numbers, and every decision takes the part of it that is
// as large as the decision is likely. Bytes on which both ends of the interval agree leave it at the top.
//
// One type works in both directions, so that what a stream means is written down once.
type Coder struct {
	low, high uint32 // the interval, both inside
	code      uint32 // decoding: the four bytes of the stream that lie in it
	decoding  bool

	more func([]byte) int // decoding: fills a buffer with what follows, 0 at the end
	buf  []byte
	in   []byte // of buf, not used yet
	over int    // zeros that stood for bytes after the end

	Out []byte // encoding: the stream so far
}

const (
	top  = 1<<32 - 1
	look = 4 // bytes a decoder reads before it needs them: so many zeros after the end say nothing
)

// Encode starts a new stream.
func (c *Coder) Encode() { *c = Coder{high: top} }

// Decode starts to read a stream, into buf.
func (c *Coder) Decode(buf []byte, more func([]byte) int) {
	*c = Coder{high: top, decoding: true, more: more, buf: buf}
	for range look {
		c.code = c.code<<8 | uint32(c.next())
	}
}

func (c *Coder) next() byte {
	if len(c.in) == 0 {
		if c.over == 0 {
			c.in = c.buf[:c.more(c.buf)]
		}
		if len(c.in) == 0 {
			c.over++
			return 0
		}
	}
	b := c.in[0]
	c.in = c.in[1:]
	return b
}

// Cut reports whether more was read than the stream had.
func (c *Coder) Cut() bool { return c.over > look }

// Rest reports whether the stream has bytes that were not read.
func (c *Coder) Rest() bool { return len(c.in) > 0 || (c.over == 0 && c.more(c.buf) > 0) }

// bit codes y, which is 1 with a chance of p in 65536, 0 < p < 65536.
func (c *Coder) bit(y int, p uint32) int {
	mid := c.low + uint32(uint64(c.high-c.low)*uint64(p)>>16)
	if c.decoding {
		y = is(c.code <= mid)
	}
	if y == 1 {
		c.high = mid
	} else {
		c.low = mid + 1
	}
	for (c.low^c.high)>>24 == 0 {
		if c.decoding {
			c.code = c.code<<8 | uint32(c.next())
		} else {
			c.Out = append(c.Out, byte(c.high>>24))
		}
		c.low <<= 8
		c.high = c.high<<8 | 255
	}
	return y
}

// direct codes the n lowest bits of v, about which nothing is known.
func (c *Coder) direct(v uint64, n int) uint64 {
	var got uint64
	for i := n - 1; i >= 0; i-- {
		got = got<<1 | uint64(c.bit(int(v>>i)&1, half))
	}
	return got
}

// Flush ends a stream with the fewest bytes that, followed by zeros, lie in the interval.
func (c *Coder) Flush() {
	for n := 0; ; n++ {
		rest := uint64(top) >> (8 * n) // what bytes that are left out could be
		v := (uint64(c.low) + rest) &^ rest
		if v <= uint64(c.high) {
			for i := range n {
				c.Out = append(c.Out, byte(v>>(24-8*i)))
			}
			return
		}
	}
}
