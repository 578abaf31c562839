// SPDX-License-Identifier: Apache-2.0

// Package lz is the coding of the bytes of a payload: an output is told as copies from the base, copies from the output before,
// and literals, and every decision of that telling is coded with what was learned from the ones before (docs/delta.md has the
// format bit by bit).
//
// It owns the model, which both ends run in step, and the decoder. It allocates when it is made and never after, whatever a
// stream says. It does not know where a base or a stream comes from, and believes neither: a stream can say anything, and gets
// either bytes, as many as were asked for, or an error. That they are the right bytes is for the caller to check.
package lz

import "math/bits"

// Window is how far back in the output a copy may reach, and the size of the decoder's buffer.
const Window = 1 << 20

// Kind is what a token does.
type Kind uint8

// Kinds of tokens.
const (
	Literal Kind = iota
	Hist         // copies from the output before
	Base         // copies from the base
	Rep          // goes on where one of the last four copies would be by now
)

// Source says where copied bytes come from. Delta is the place of the source less the place it is copied to.
type Source struct {
	Base  bool
	Delta int64
}

// Token is one step of a stream.
type Token struct {
	Kind Kind
	Rep  int    // Rep: which of the last sources
	Src  Source // of a copy
	Len  int    // bytes; 1 for a literal
}

// State is what the coding of a token depends on besides what was learned.
type State struct {
	Past  uint8     // the last four kinds
	Since int       // literals since the last copy
	Reps  [4]Source // of the last copies, all different once there were four, the latest first
	Align int64     // Delta of the last copy from the base
}

// Next moves the state over a token.
func (s *State) Next(t Token) {
	s.Past = s.Past<<2 | uint8(t.Kind)
	if t.Kind == Literal {
		s.Since++
		return
	}
	s.Since = 0
	if t.Src.Base {
		s.Align = t.Src.Delta
	}
	i := 0
	for i < 3 && s.Reps[i] != t.Src {
		i++
	}
	copy(s.Reps[1:i+1], s.Reps[:i])
	s.Reps[0] = t.Src
}

// Run is the context of a literal: far from a copy, right after one, or soon after one.
func (s *State) Run() uint32 {
	switch {
	case s.Since == 0:
		return 1
	case s.Since < 8:
		return 2
	}
	return 0
}

// Model is what both ends know at the same point of a stream.
type Model struct {
	Coder Coder
	State State

	tables *tables
	isCopy [256][3]chance
	isRep  [256]chance
	isBase [256]chance
	which  [64][4]chance
	size   [4]number // Rep of the last source, Rep of another, Base, Hist
	back   chance    // Align falls
	reach  number
	pages  [64]chance // Align moves by whole pages
	paged  number
	far    number
	low    [16]chance
	mix    mixer
	last   [3]byte // of the output
	shift  [2]byte // by how much the last literals differed from the predicted byte, if they did
}

// NewModel returns a model, of 1.7 MB; Reset makes it usable.
func NewModel() *Model {
	return &Model{tables: newTables()}
}

// Reset forgets everything.
func (m *Model) Reset() {
	for i := range m.isCopy {
		fresh(m.isCopy[i][:])
	}
	fresh(m.isRep[:])
	fresh(m.isBase[:])
	for i := range m.which {
		fresh(m.which[i][:])
	}
	for i := range m.size {
		m.size[i].reset()
	}
	m.back = chance{p: half}
	m.reach.reset()
	fresh(m.pages[:])
	m.paged.reset()
	m.far.reset()
	fresh(m.low[:])
	m.mix.reset()
	m.last, m.shift, m.State = [3]byte{}, [2]byte{}, State{}
}

// Saw tells the model the next byte of the output.
func (m *Model) Saw(b byte) { m.last[2], m.last[1], m.last[0] = m.last[1], m.last[0], b }

// Token codes a token, except the byte of a literal. A decoder passes the zero Token and looks at the result, which may be
// impossible: a length of 0, a source outside of everything.
func (m *Model) Token(t Token) Token {
	s := &m.State
	if m.flag(&m.isCopy[s.Past][min(s.Since, 2)], is(t.Kind != Literal)) == 0 {
		return Token{Kind: Literal, Len: 1}
	}
	if m.flag(&m.isRep[s.Past], is(t.Kind == Rep)) == 1 {
		t.Kind = Rep
		t.Rep = m.tree(m.which[s.Past&63][:], t.Rep, 2)
		t.Src = s.Reps[t.Rep]
		t.Len = m.length(min(t.Rep, 1), t.Len)
		return t
	}
	if m.flag(&m.isBase[s.Past], is(t.Kind == Base)) == 1 {
		t.Kind = Base
		t.Src = Source{true, s.Align + m.align(t.Src.Delta-s.Align)}
		t.Len = m.length(2, t.Len)
		return t
	}
	t.Kind = Hist
	t.Src = Source{false, -m.distance(-t.Src.Delta)}
	t.Len = m.length(3, t.Len)
	return t
}

func is(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (m *Model) length(kind, n int) int {
	t := &m.size[kind]
	v := m.number(t, uint64(n))
	return int(min(v, 1<<31-1))
}

// pageBits: files move by whole blocks of a file system.
const pageBits = 12

func (m *Model) align(d int64) int64 {
	v, sign := uint64(d), int64(1)
	back := is(d < 0)
	if back == 1 {
		v = -v
	}
	if m.flag(&m.back, back) == 1 {
		sign = -1
	}
	n := m.tree(m.reach.bits[:], bits.Len64(v), 6)
	if n > pageBits && m.flag(&m.pages[n], is(v&(1<<pageBits-1) == 0)) == 1 {
		return sign * int64(m.below(&m.paged, v>>pageBits, n-pageBits)<<pageBits)
	}
	return sign * int64(m.below(&m.reach, v, n))
}

// lowBits of a distance are learned: records in files have even lengths.
const lowBits = 4

func (m *Model) distance(d int64) int64 {
	v := uint64(d)
	n := m.tree(m.far.bits[:], bits.Len64(v), 6)
	if n <= lowBits+learned+1 {
		return int64(m.below(&m.far, v, n))
	}
	high := m.below(&m.far, v>>lowBits, n-lowBits)
	return int64(high<<lowBits | uint64(m.tree(m.low[:], int(v&(1<<lowBits-1)), lowBits)))
}
