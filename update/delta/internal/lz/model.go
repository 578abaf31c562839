// SPDX-License-Identifier: Apache-2.0

package lz

// chance is what was learned about one kind of decision.
type chance struct {
	p uint16 // how likely 1 is, in 1/65536
	n uint8  // how often it was seen, up to a limit
}

const (
	half      = 1 << 15
	minChance = 24 // in 1/65536: nothing is ever certain
	// The first observations move a chance the most. After the limit it forgets old ones at a fixed rate.
	limitFlag    = 60
	limitLiteral = 126
)

func fresh(c []chance) {
	for i := range c {
		c[i] = chance{p: half}
	}
}

// learn moves a chance towards what happened.
func (t *tables) learn(p *uint16, n *uint8, y int, limit uint8) {
	step := t.step[*n]
	if y == 1 {
		*p += uint16((65535 - uint32(*p)) * step >> 16)
	} else {
		*p -= uint16(uint32(*p) * step >> 16)
	}
	if *n < limit {
		*n++
	}
}

// flag codes a decision by what was learned about its kind alone.
func (m *Model) flag(c *chance, y int) int {
	y = m.Coder.bit(y, min(max(uint32(c.p), minChance), 1<<16-minChance))
	m.tables.learn(&c.p, &c.n, y, limitFlag)
	return y
}

// tree codes n bits from the highest on, each learned for those before it.
func (m *Model) tree(t []chance, v, n int) int {
	at := 1
	for i := n - 1; i >= 0; i-- {
		at = at<<1 | m.flag(&t[at], v>>i&1)
	}
	return at - 1<<n
}

// tables holds constants that are shorter to compute than to store.
type tables struct {
	step    [limitLiteral + 1]uint32 // 1/(n+1.6) in 1/65536
	squash  [4096]int16              // 1/(1+exp(-x)) in 1/4096, for x from -8 in steps of 1/256
	stretch [4096]int16              // its inverse: x in 1/256
}

func newTables() *tables {
	t := &tables{}
	for n := range t.step {
		t.step[n] = 655360 / (10*uint32(n) + 16)
	}
	// The curve at every half, and straight lines between: no floating point, so every machine has the same numbers.
	curve := [33]int{1, 2, 4, 6, 10, 17, 27, 45, 73, 120, 194, 310, 488, 747, 1101, 1546, 2048,
		2550, 2995, 3349, 3608, 3786, 3902, 3976, 4024, 4051, 4069, 4079, 4086, 4090, 4092, 4094, 4095}
	at := 0
	for i := range t.squash {
		k, part := i>>7, i&127
		t.squash[i] = int16((curve[k]*(128-part) + curve[k+1]*part + 64) >> 7)
		for ; at <= int(t.squash[i]); at++ {
			t.stretch[at] = int16(i - 2048)
		}
	}
	for ; at < len(t.stretch); at++ {
		t.stretch[at] = 2047
	}
	return t
}

// A literal is guessed by several contexts at once. Their votes are weighed by how right each was before.
const (
	voters   = 8
	slotBits = 16 // chances of one voter
)

type mixer struct {
	weight [3 * 256][voters]int32 // in 1/65536
	// The fields of the chances, side by side: together they would take a third more.
	p [voters << slotBits]uint16
	n [voters << slotBits]uint8
}

func (x *mixer) reset() {
	for i := range x.weight {
		for k := range x.weight[i] {
			x.weight[i][k] = 65536 * 3 / 10
		}
	}
	for i := range x.p {
		x.p[i] = half
	}
	clear(x.n[:])
}

// place returns where the 15 chances of half a byte begin. Different contexts of a voter may share them.
func place(voter int, context, node uint32) uint32 {
	h := (context<<4 + node + 1) * 0x9E3779B1
	h ^= h >> 15
	h *= 0x85EBCA77
	return uint32(voter)<<slotBits | h>>(32-slotBits)&^15
}

// Byte codes the byte of a literal. want stands where the last copy would go on, and next behind it.
func (m *Model) Byte(b, want, next byte) byte {
	run, p := m.State.Run(), uint32(want)
	c1, c2, c3 := uint32(m.last[0]), uint32(m.last[1]), uint32(m.last[2])
	moved, before := uint32(want+m.shift[0]), uint32(want+m.shift[1])
	context := [voters]uint32{
		run,
		1<<24 | c1,
		2<<24 | c2<<8 | c1,
		3<<24 | (c3<<16|c2<<8|c1)*0x2545F491>>8,
		4<<24 | run<<8 | p,
		5<<24 | p<<8 | c1,
		6<<24 | run<<18 | moved<<8 | before,
		7<<24 | p<<8 | uint32(next),
	}
	var at [voters]uint32
	node, part := uint32(1), uint32(1) // bits so far, of the byte and of this half of it, after a leading 1
	for i := range at {
		at[i] = place(i, context[i], 0)
	}
	for k := 7; k >= 0; k-- {
		y := m.vote(&m.mix.weight[run<<8|node], &at, part, int(b>>k)&1)
		node, part = node<<1|y, part<<1|y
		if k == 4 {
			part = 1
			for i := range at {
				at[i] = place(i, context[i], node)
			}
		}
	}
	b = byte(node)
	if b != want {
		m.shift = [2]byte{b - want, m.shift[0]}
	}
	return b
}

// vote codes one bit.
func (m *Model) vote(w *[voters]int32, at *[voters]uint32, part uint32, y int) uint32 {
	var st [voters]int32
	var sum int64
	for i := range st {
		st[i] = int32(m.tables.stretch[m.mix.p[at[i]+part]>>4])
		sum += int64(st[i]) * int64(w[i])
	}
	guess := int32(m.tables.squash[min(max(sum>>16, -2048), 2047)+2048])
	y = m.Coder.bit(y, uint32(guess)<<4)
	miss := (int32(y<<12) - guess) * 4
	for i := range st {
		w[i] += (st[i]*miss + 1<<13) >> 14
		m.tables.learn(&m.mix.p[at[i]+part], &m.mix.n[at[i]+part], y, limitLiteral)
	}
	return uint32(y)
}
