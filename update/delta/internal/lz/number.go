// SPDX-License-Identifier: Apache-2.0

package lz

import "math/bits"

// learned is how many bits after the highest are learned; the ones below are nearly random.
const learned = 3

// number is what was learned about numbers of one kind: how many bits they have, and the highest of those.
type number struct {
	bits [64]chance
	top  [64][1 << learned]chance
}

func (n *number) reset() {
	fresh(n.bits[:])
	for i := range n.top {
		fresh(n.top[i][:])
	}
}

// number codes v, below 1<<63.
func (m *Model) number(t *number, v uint64) uint64 {
	return m.below(t, v, m.tree(t.bits[:], bits.Len64(v), 6))
}

// below codes the bits of v below its highest one, of n in all.
func (m *Model) below(t *number, v uint64, n int) uint64 {
	if n <= 1 {
		return uint64(n)
	}
	left := n - 1
	k := min(left, learned)
	left -= k
	top := uint64(1)<<k | uint64(m.tree(t.top[n][:], int(v>>left)&(1<<k-1), k))
	return top<<left | m.Coder.direct(v, left)
}
