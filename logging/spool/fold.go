// SPDX-License-Identifier: Apache-2.0

package spool

import "github.com/backstay/backstay/logging"

// Shed records in a row need not keep a hash each: the complete subtrees among them are kept as one hash (RFC 6962), so that a run of
// n of them takes at most 2 log n. A log that nobody fetches for a month fits its capacity because of it.
//
// A signed root over some, but not all, records of such a subtree can no longer be computed. So no subtree may lie on both sides of a
// size that somebody else may hold a root for: the end of any batch, or of any export, that was handed out. Every such size has its
// checkpoint in the store, and state.sent says, durably and beforehand, up to where checkpoints may have been handed out. Those
// beyond are of no use inside of a subtree and go; of the others beyond, enough stay for batches to end at.

// flagTree marks the hash of a subtree: its level, one byte, follows.
const flagTree = 16

// node is what is left of shed records: the hash of the subtree of 2^level of them that begins at record at.
type node struct {
	at    uint64
	level uint8
	hash  logging.Hash
}

// value is how a node is kept.
func (n node) value() []byte {
	if n.level == 0 {
		return append([]byte{flagShed}, n.hash[:]...)
	}
	return append(append([]byte{flagShed | flagTree}, n.hash[:]...), n.level)
}

// nodeOf reads the value of a shed record, or of several; false when it has a body or makes no sense.
func nodeOf(at uint64, v []byte) (n node, ok bool) {
	level, ok := levelOf(v)
	if !ok || len(v) != 1+logging.HashSize+int(min(level, 1)) || v[0]&flagShed == 0 || !aligned(at, level) {
		return n, false
	}
	return node{at, level, logging.Hash(v[1 : 1+logging.HashSize])}, true
}

// levelOf returns the level of a value: 0 of any that is a single record.
func levelOf(v []byte) (level uint8, ok bool) {
	if len(v) == 0 || v[0]&flagTree == 0 {
		return 0, true
	}
	if v[0]&flagShed == 0 || len(v) != 2+logging.HashSize {
		return 0, false
	}
	level = v[1+logging.HashSize]
	return level, level > 0 && level <= logging.MaxLevel
}

func aligned(at uint64, level uint8) bool { return at&(1<<level-1) == 0 && at < 1<<62 }

// end returns the index after what an entry stands for; of a checkpoint, the number of records it covers.
func (e entry) end() uint64 {
	if level, ok := levelOf(e.value); ok && e.kind == kindLeaf && aligned(e.at, level) {
		return e.at + 1<<level
	}
	return e.at + uint64(1-e.kind)
}

// Of the checkpoints that may go, one stays after so many entries, or bytes as they are sent: a batch, which ends at a checkpoint,
// never has more than these and what stood between two checkpoints that were written.
const (
	foldEntries = logging.TargetLeaves / 2
	foldBytes   = logging.TargetInflated
)

// folder takes the entries of a part of a log in order and hands them out with shed records joined.
type folder struct {
	sent, newest uint64
	bound        func(at uint64) bool // reports whether a size must stay comparable beside those with a checkpoint up to sent
	out          func(entry) error

	run     []node // shed records at the end, which the next may be joined with
	pos     uint64 // end of what was put in
	last    uint64 // newest checkpoint handed out
	entries int    // handed out since
	bytes   int
	u       unpacker
}

func (f *folder) put(e entry) error {
	if e.kind == kindHead {
		return f.head(e)
	}
	f.pos = e.end()
	if n, ok := nodeOf(e.at, e.value); ok {
		f.join(n)
		return nil
	}
	if err := f.flush(); err != nil {
		return err
	}
	if leaf, _, err := splitLeaf(e.at, e.value, &f.u); err == nil {
		f.bytes += len(leaf.Body) + len(leaf.Side)
	}
	f.entries++
	return f.out(e)
}

// join adds a node to the run. Two halves of a subtree become one, at most once for each record and level: a run costs one hash for
// each of its records, whenever they come.
func (f *folder) join(n node) {
	for len(f.run) > 0 && !f.bound(n.at) {
		l := f.run[len(f.run)-1]
		if l.level != n.level || l.at+1<<l.level != n.at || l.level == logging.MaxLevel || !aligned(l.at, l.level+1) {
			break
		}
		n = node{l.at, l.level + 1, logging.NodeHash(l.hash, n.hash)}
		f.run = f.run[:len(f.run)-1]
	}
	f.run = append(f.run, n)
}

// head hands a checkpoint out, or not. One that stands behind later records was signed later than others, and stays.
func (f *folder) head(e entry) error {
	late := e.at < f.pos
	if !late && (e.at == f.last || e.at > f.sent && e.at != f.newest && f.entries+len(f.run) < foldEntries && f.bytes < foldBytes) {
		return nil
	}
	if err := f.flush(); err != nil {
		return err
	}
	if !late {
		f.last, f.entries, f.bytes = e.at, 0, 0
	}
	return f.out(e)
}

func (f *folder) flush() error {
	for _, n := range f.run {
		f.entries++
		if err := f.out(entry{kind: kindLeaf, at: n.at, value: n.value()}); err != nil {
			return err
		}
	}
	f.run = f.run[:0]
	return nil
}
