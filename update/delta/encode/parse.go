// SPDX-License-Identifier: Apache-2.0

package encode

import "github.com/backstay/backstay/update/delta/internal/lz"

// The tokens of a stretch of output are chosen as a shortest path: the places of the output are its nodes, every possible token
// is an edge, and an edge is as long as the model says the token would be now.
const (
	stretch  = 4096 // places looked ahead
	nice     = 192  // a copy of this length is taken at once
	tooGood  = 32   // with one of the last sources agreeing for so long, no other is looked for in the base
	depth    = 16   // places tried, in the base and in the output
	leastNew = 6    // bytes a copy from a new place in the base must have
)

type node struct {
	price int32
	from  int32
	token lz.Token
	state lz.State
}

// parser codes one group.
type parser struct {
	m      *lz.Model
	prices *lz.Prices
	base   []byte
	data   []byte // the output of the group
	start  int    // where it is in the whole output
	index  *baseIndex
	past   *pastIndex
	nodes  [stretch + 1]node
	found  []match
	lit    [3][2]float64 // what literals have cost of late: by run, and by whether the byte was the wanted one
}

// code appends the stream for all of data.
func (p *parser) code() {
	for i := range p.lit {
		p.lit[i] = [2]float64{6 * lz.Bit, 2 * lz.Bit}
	}
	// Right after a copy the wanted byte would have been copied too: literals there must not look cheap, or they become so.
	p.lit[1][1] = 8 * lz.Bit
	for at := 0; at < len(p.data); {
		at = p.stretch(at)
	}
}

// stretch codes what begins at at, and returns where it ends.
func (p *parser) stretch(at int) int {
	limit := min(stretch, len(p.data)-at)
	for i := range limit + 1 {
		p.nodes[i].price = 1 << 30
	}
	p.nodes[0] = node{state: p.m.State}
	var long lz.Token
	stop := 0
	for ; stop < limit; stop++ {
		p.reach(stop)
		if long = p.edges(stop, at+stop, limit); long.Len > 0 {
			break
		}
	}
	p.reach(stop)
	var path []int
	for k := stop; k > 0; k = int(p.nodes[k].from) {
		path = append(path, k)
	}
	for k := len(path) - 1; k >= 0; k-- {
		n := &p.nodes[path[k]]
		p.put(at+int(n.from), n.token)
	}
	if long.Len > 0 {
		p.put(at+stop, long)
	}
	return at + stop + long.Len
}

// reach works out the state at a node whose best way is known.
func (p *parser) reach(i int) {
	if i > 0 {
		n := &p.nodes[i]
		n.state = p.nodes[n.from].state
		n.state.Next(n.token)
	}
}

// edges offers every token that could follow node i. It returns one that is to be taken at once, if there is one.
func (p *parser) edges(i, at, limit int) lz.Token {
	n := &p.nodes[i]
	s := &n.state
	yes, no := p.prices.Copy(p.m, s)
	want, _ := p.wanted(s, at)
	hit := 0
	if want == p.data[at] {
		hit = 1
	}
	p.offer(i, i+1, n.price+no+int32(p.lit[s.Run()][hit]), lz.Token{Kind: lz.Literal, Len: 1})
	best := 0
	for r, src := range s.Reps {
		t := lz.Token{Kind: lz.Rep, Rep: r, Src: src, Len: same(p.from(src, at), p.data[at:])}
		if t.Len >= nice {
			return t
		}
		best = max(best, t.Len)
		p.lengths(i, limit, n.price+yes+p.prices.Rep(p.m, s, r), 1, t)
	}
	if p.index != nil && best < tooGood {
		if t := p.fromBase(i, at, limit, best, n.price+yes); t.Len > 0 {
			return t
		}
	}
	p.found = p.past.find(at, depth, nice, p.found[:0])
	for _, c := range p.found {
		t := lz.Token{Kind: lz.Hist, Src: lz.Source{Delta: int64(c.at - at)}, Len: c.n}
		if t.Len >= nice && t.Len > best {
			return t
		}
		p.lengths(i, limit, n.price+yes+p.prices.Hist(p.m, s, t.Src.Delta), 3, t)
	}
	return lz.Token{}
}

func (p *parser) fromBase(i, at, limit, best int, price int32) (long lz.Token) {
	s := &p.nodes[i].state
	p.found = p.index.find(p.data[at:], p.start+at+int(s.Align), depth, max(best, leastNew-1), p.found[:0])
	for _, c := range p.found {
		t := lz.Token{Kind: lz.Base, Src: lz.Source{Base: true, Delta: int64(c.at - p.start - at)}, Len: c.n}
		if t.Len >= nice && t.Len >= long.Len {
			long = t
		}
		p.lengths(i, limit, price+p.prices.Base(p.m, s, t.Src.Delta), leastNew, t)
	}
	return long
}

// lengths offers a copy with every length that may pay.
func (p *parser) lengths(i, limit int, price int32, least int, t lz.Token) {
	full := min(t.Len, limit-i)
	for l := full; l >= least; l-- {
		if l < full-16 && l > 32 {
			l = 32 // of long copies only the longest and the shortest
		}
		t.Len = l
		p.offer(i, i+l, price+p.prices.Length(p.m, t, l), t)
	}
}

func (p *parser) offer(from, to int, price int32, t lz.Token) {
	if n := &p.nodes[to]; price < n.price {
		n.price, n.from, n.token = price, int32(from), t
	}
}

// from returns the bytes at a source, none if it is impossible.
func (p *parser) from(s lz.Source, at int) []byte {
	q := at + int(s.Delta)
	if s.Base {
		if q += p.start; q >= 0 && q < len(p.base) {
			return p.base[q:]
		}
		return nil
	}
	if s.Delta < 0 && q >= 0 {
		return p.data[q:]
	}
	return nil
}

// wanted returns the byte where the last copy would go on, and the one behind it.
func (p *parser) wanted(s *lz.State, at int) (want, next byte) {
	src := s.Reps[0]
	if b := p.from(src, at); len(b) > 0 {
		want = b[0]
	}
	if b := p.from(src, at+1); src.Base && len(b) > 0 {
		next = b[0]
	}
	return want, next
}

// put codes a token, and what literals cost is learned from it.
func (p *parser) put(at int, t lz.Token) {
	m := p.m
	m.Token(t)
	if t.Kind == lz.Literal {
		want, next := p.wanted(&m.State, at)
		c := &p.lit[m.State.Run()][0]
		if want == p.data[at] {
			c = &p.lit[m.State.Run()][1]
		}
		before := m.Coder.Bits()
		m.Byte(p.data[at], want, next)
		*c += ((m.Coder.Bits()-before)*lz.Bit - *c) / 512
	}
	for _, b := range p.data[at+max(t.Len-3, 0) : at+t.Len] {
		m.Saw(b)
	}
	m.State.Next(t)
}
