// SPDX-License-Identifier: Apache-2.0

package lz

import (
	"math"
	"math/bits"
)

// Bit is one bit in the unit of prices.
const Bit = 64

// Prices tells an encoder what a token would cost. No decoder uses it.
type Prices struct{ of [4096]int32 }

// NewPrices returns the table.
func NewPrices() *Prices {
	x := &Prices{}
	for i := range x.of {
		x.of[i] = int32(-Bit*math.Log2((float64(i)+0.5)/4096) + 0.5)
	}
	return x
}

// Bits is how long the stream is so far, with what has not left the interval yet.
func (c *Coder) Bits() float64 {
	return float64(len(c.Out))*8 + 32 - math.Log2(float64(c.high-c.low)+1)
}

func (x *Prices) flag(c chance, y int) int32 {
	p := c.p >> 4
	if y == 0 {
		p = 4095 - p
	}
	return x.of[p]
}

func (x *Prices) tree(t []chance, v, n int) (sum int32) {
	at := 1
	for i := n - 1; i >= 0; i-- {
		y := v >> i & 1
		sum += x.flag(t[at], y)
		at = at<<1 | y
	}
	return sum
}

func (x *Prices) below(t *number, v uint64, n int) int32 {
	if n <= 1 {
		return 0
	}
	left := n - 1
	k := min(left, learned)
	left -= k
	return x.tree(t.top[n][:], int(v>>left)&(1<<k-1), k) + int32(left)*Bit
}

// Copy is the price of saying that a copy follows, and of saying that a literal does.
func (x *Prices) Copy(m *Model, s *State) (yes, no int32) {
	c := m.isCopy[s.Past][min(s.Since, 2)]
	return x.flag(c, 1), x.flag(c, 0)
}

// Rep is the price of naming one of the last sources.
func (x *Prices) Rep(m *Model, s *State, i int) int32 {
	return x.flag(m.isRep[s.Past], 1) + x.tree(m.which[s.Past&63][:], i, 2)
}

// Base is the price of naming a place in the base.
func (x *Prices) Base(m *Model, s *State, delta int64) int32 {
	sum := x.flag(m.isRep[s.Past], 0) + x.flag(m.isBase[s.Past], 1)
	d := delta - s.Align
	sum += x.flag(m.back, is(d < 0))
	v := uint64(max(d, -d))
	n := bits.Len64(v)
	sum += x.tree(m.reach.bits[:], n, 6)
	if n > pageBits {
		whole := is(v&(1<<pageBits-1) == 0)
		sum += x.flag(m.pages[n], whole)
		if whole == 1 {
			return sum + x.below(&m.paged, v>>pageBits, n-pageBits)
		}
	}
	return sum + x.below(&m.reach, v, n)
}

// Hist is the price of naming a place in the output.
func (x *Prices) Hist(m *Model, s *State, delta int64) int32 {
	v := uint64(-delta)
	n := bits.Len64(v)
	sum := x.flag(m.isRep[s.Past], 0) + x.flag(m.isBase[s.Past], 0) + x.tree(m.far.bits[:], n, 6)
	if n <= lowBits+learned+1 {
		return sum + x.below(&m.far, v, n)
	}
	return sum + x.below(&m.far, v>>lowBits, n-lowBits) + x.tree(m.low[:], int(v&(1<<lowBits-1)), lowBits)
}

// Length is the price of the length of a copy.
func (x *Prices) Length(m *Model, t Token, n int) int32 {
	kind := 2
	switch t.Kind {
	case Rep:
		kind = min(t.Rep, 1)
	case Hist:
		kind = 3
	}
	k := bits.Len(uint(n))
	return x.tree(m.size[kind].bits[:], k, 6) + x.below(&m.size[kind], uint64(n), k)
}
