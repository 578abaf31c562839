// SPDX-License-Identifier: Apache-2.0

package encode

import (
	"encoding/binary"
	"math/bits"
)

// baseIndex finds places in the base by the bytes that stand there. It is read by all workers at once.
type baseIndex struct {
	base  []byte
	shift uint
	step  int      // every step-th place is in it
	head  []uint32 // by hash: the last place, in steps, plus 1
	prev  []uint32 // by place: the one before it with the same hash
}

const (
	baseKey   = 8       // bytes that are hashed
	maxPlaces = 1 << 27 // places in the index: 650 MiB of memory
)

func newBaseIndex(base []byte) *baseIndex {
	x := &baseIndex{base: base, step: 1}
	for len(base)/x.step > maxPlaces {
		x.step *= 2
	}
	n := max(len(base)-baseKey+1, 0) / x.step
	b := min(max(bits.Len(uint(n)), 10), 25)
	x.shift = uint(64 - b)
	x.head = make([]uint32, 1<<b)
	x.prev = make([]uint32, n)
	var last uint64
	for i := range n {
		key := binary.LittleEndian.Uint64(base[i*x.step:])
		if i > 0 && key == last {
			continue // in a run of one byte the first place is the one to copy from
		}
		last = key
		h := x.hash(key)
		x.prev[i] = x.head[h]
		x.head[h] = uint32(i + 1)
	}
	return x
}

func (x *baseIndex) hash(key uint64) uint64 { return key * 0x9E3779B185EBCA87 >> x.shift }

// match is a place whose bytes agree with what is looked for.
type match struct{ at, n int }

// find appends places that agree for more than least bytes, each for more than the ones before, or as many but nearer to want.
func (x *baseIndex) find(data []byte, want, depth, least int, out []match) []match {
	if len(data) < baseKey || len(x.prev) == 0 {
		return out
	}
	best, bestFar := least, 0
	for p := x.head[x.hash(binary.LittleEndian.Uint64(data))]; p != 0 && depth > 0; p = x.prev[p-1] {
		depth--
		at := int(p-1) * x.step
		n := same(x.base[at:], data)
		far := bits.Len(uint(max(at-want, want-at)))
		if n > best || n == best && far < bestFar {
			best, bestFar = n, far
			out = append(out, match{at, n})
		}
	}
	return out
}

// same returns how many bytes a and b begin with in common.
func same(a, b []byte) int {
	n := min(len(a), len(b))
	i := 0
	for ; i+8 <= n; i += 8 {
		if d := binary.LittleEndian.Uint64(a[i:]) ^ binary.LittleEndian.Uint64(b[i:]); d != 0 {
			return i + bits.TrailingZeros64(d)>>3
		}
	}
	for i < n && a[i] == b[i] {
		i++
	}
	return i
}

// pastIndex finds places in the output of a group, as far as it is coded.
type pastIndex struct {
	data         []byte
	three, four  []int32 // by hash of so many bytes: the last place, plus 1
	prev         []int32 // by place: the one before it with the same hash of four
	filled       int     // places below are in it
	window, near int
}

func newPastIndex(data []byte, window int) *pastIndex {
	return &pastIndex{data: data, three: make([]int32, 1<<14), four: make([]int32, 1<<18), prev: make([]int32, len(data)),
		window: window, near: 4096}
}

func hashThree(b []byte) uint32 {
	return (uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16) * 0x9E3779B1 >> (32 - 14)
}

func hashFour(b []byte) uint32 { return binary.LittleEndian.Uint32(b) * 0x9E3779B1 >> (32 - 18) }

func (x *pastIndex) fill(upto int) {
	for ; x.filled < upto && x.filled+4 <= len(x.data); x.filled++ {
		i := x.filled
		x.three[hashThree(x.data[i:])] = int32(i + 1)
		h := hashFour(x.data[i:])
		x.prev[i] = x.four[h]
		x.four[h] = int32(i + 1)
	}
}

// find appends places before i, each that agrees for longer than the ones before, further and further away.
func (x *pastIndex) find(i, depth, enough int, out []match) []match {
	x.fill(i)
	if i+4 > len(x.data) {
		return out
	}
	best := 2
	if p := int(x.three[hashThree(x.data[i:])]) - 1; p >= 0 && i-p <= x.near {
		if n := same(x.data[p:], x.data[i:]); n > best {
			best = n
			out = append(out, match{p, n})
		}
	}
	for p := int(x.four[hashFour(x.data[i:])]) - 1; p >= 0 && i-p <= x.window && depth > 0 && best < enough; p = int(x.prev[p]) - 1 {
		depth--
		if i+best < len(x.data) && x.data[p+best] != x.data[i+best] {
			continue
		}
		if n := same(x.data[p:], x.data[i:]); n > best {
			best = n
			out = append(out, match{p, n})
		}
	}
	return out
}
