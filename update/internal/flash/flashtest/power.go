// SPDX-License-Identifier: Apache-2.0

// Package flashtest is flash memory in memory: it holds bytes, behaves as NOR, NAND or a UBI volume does when it is written,
// and loses its power where a test wants it to.
//
// A test of cuts keeps a picture of the memory, runs what it tests once to learn how many steps it takes, and then once for
// every number of steps and every kind of tear:
//
//	for cut := range steps {
//		p.Cut(cut, tear)
//		err := change(m)       // ends in ErrCut
//		p.On()
//		check(m)
//	}
package flashtest

import "errors"

// ErrCut is what every access returns once the power is gone.
var ErrCut = errors.New("power is cut")

// Tear is what the step that was cut leaves behind.
type Tear int

const (
	Nothing Tear = iota // it did not begin
	Half                // the first half of its bytes
	Noise               // a bit here and there, as an erase or a program pulse that was too short
	Tears               // how many kinds there are
)

// Power feeds any number of memories. The zero value never fails. It is for one goroutine.
type Power struct {
	// Steps counts the steps that were taken since On or Cut: a page programmed, a block erased, a byte flag cleared.
	Steps int

	armed bool
	left  int
	tear  Tear
	off   bool
}

// Cut takes the power away in step number left, counted from 0.
func (p *Power) Cut(left int, tear Tear) { *p = Power{armed: true, left: left, tear: tear} }

// On brings the power back, for good.
func (p *Power) On() { *p = Power{} }

// Gone reports whether the power is gone.
func (p *Power) Gone() bool { return p.off }

func (p *Power) check() error {
	if p.off {
		return ErrCut
	}
	return nil
}

// step does what is asked, or the part of it that the cut leaves. set sets byte i of n.
func (p *Power) step(n int, set func(i int)) error {
	if p.off {
		return ErrCut
	}
	if p.armed && p.left == 0 {
		p.off = true
		for i := range n {
			if p.tear == Half && i < n/2 || p.tear == Noise && (uint32(i)*2654435761>>7)&3 == 0 {
				set(i)
			}
		}
		return ErrCut
	}
	if p.armed {
		p.left--
	}
	p.Steps++
	for i := range n {
		set(i)
	}
	return nil
}
