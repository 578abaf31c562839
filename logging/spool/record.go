// SPDX-License-Identifier: Apache-2.0

package spool

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/backstay/backstay/logging"
)

// The bytes of a record, the same in every store: flags (1 byte), leaf hash (32 bytes), length of the side record (2 bytes) and
// side record if the flag says so, body, deflated if the flag says so; nothing after the hash when shed, except the level when it is
// that of a subtree of shed records (see flagTree). Nothing else here reads or writes them.
const (
	flagCritical = 1
	flagShed     = 2
	flagPacked   = 4 // see packer
	flagSide     = 8
)

func leafValue(flags byte, leaf logging.Leaf, p *packer) []byte {
	body := leaf.Body
	if leaf.Shed() {
		flags |= flagShed
	} else if packed := p.pack(body); packed != nil {
		flags, body = flags|flagPacked, packed
	}
	if leaf.Side != nil && !leaf.Shed() {
		flags |= flagSide
	}
	v := make([]byte, 0, 1+logging.HashSize+2+len(leaf.Side)+len(body))
	v = append(append(v, flags), leaf.Hash[:]...)
	if flags&flagSide != 0 {
		v = append(binary.BigEndian.AppendUint16(v, uint16(len(leaf.Side))), leaf.Side...)
	}
	return append(v, body...)
}

// parseLeaf copies a record out of a store and checks its body against the hash kept with it.
func parseLeaf(index uint64, v []byte, u *unpacker) (leaf logging.Leaf, flags byte, err error) {
	if leaf, flags, err = splitLeaf(index, v, u); err != nil {
		return leaf, flags, err
	}
	if flags&flagShed != 0 {
		if _, ok := nodeOf(index, v); !ok {
			return leaf, flags, altered(index, "it is marked as shed and has a body")
		}
		return leaf, flags, nil
	}
	if logging.LeafHash(leaf.Body) != leaf.Hash {
		return leaf, flags, altered(index, "its bytes do not have the hash kept with it")
	}
	return leaf, flags, nil
}

// splitLeaf copies a record without checking it, for an export that must show what is there.
// What does not unpack comes as it is: it will not have its hash.
func splitLeaf(index uint64, v []byte, u *unpacker) (leaf logging.Leaf, flags byte, err error) {
	if len(v) < 1+logging.HashSize {
		return leaf, 0, altered(index, "it is cut off")
	}
	leaf = logging.Leaf{Index: index, Hash: logging.Hash(v[1 : 1+logging.HashSize])}
	body := v[1+logging.HashSize:]
	if v[0]&flagShed != 0 {
		leaf.Level, _ = levelOf(v)
		return leaf, v[0], nil
	}
	if v[0]&flagSide != 0 {
		if len(body) < 2 || int(binary.BigEndian.Uint16(body)) > len(body)-2 {
			return leaf, v[0], altered(index, "its side record is cut off")
		}
		end := 2 + int(binary.BigEndian.Uint16(body))
		leaf.Side, body = append([]byte{}, body[2:end]...), body[end:]
	}
	if v[0]&flagPacked != 0 {
		if leaf.Body, err = u.unpack(body); err == nil {
			return leaf, v[0], nil
		}
	}
	leaf.Body = append(make([]byte, 0, len(v)), body...)
	return leaf, v[0], nil
}

// sheddable reports whether a record has a body that may be dropped.
func sheddable(v []byte) bool {
	return len(v) > 1+logging.HashSize && v[0]&(flagCritical|flagShed) == 0
}

// shedValue returns a record without its body.
func shedValue(v []byte) []byte {
	return append([]byte{flagShed}, v[1:1+logging.HashSize]...)
}

// eachLeaf calls fn for what stands for the records from first to end-1, in order, each checked against its hash. Shed records that
// were joined come as one, even if it begins before first or ends after end.
func eachLeaf(r reader, first, end uint64, fn func(leaf logging.Leaf, flags byte) error) error {
	next := first
	if next >= end {
		return nil
	}
	var u unpacker
	err := r.entries(first, func(e entry) (bool, error) {
		if e.kind == kindHead {
			return true, nil
		}
		if e.at != next && (next != first || e.at > first) {
			return false, missing(next)
		}
		leaf, flags, err := parseLeaf(e.at, e.value, &u)
		if err == nil {
			err = fn(leaf, flags)
		}
		next = e.end()
		return next < end, err
	})
	if err == nil && next < end {
		err = missing(next)
	}
	return err
}

// extend appends the stored hashes up to size to tree. It stops before size when that lies inside of shed records that were joined.
func extend(r reader, tree *logging.Tree, size uint64) error {
	return eachLeaf(r, tree.Size(), size, func(leaf logging.Leaf, _ byte) error {
		if leaf.Index < tree.Size() {
			return inside(tree.Size())
		}
		if leaf.End() > size {
			return nil
		}
		return tree.AppendSubtree(leaf.Level, leaf.Hash)
	})
}

// reach is extend to exactly size.
func reach(r reader, tree *logging.Tree, size uint64) error {
	err := extend(r, tree, size)
	if err == nil && tree.Size() < size {
		err = inside(size)
	}
	return err
}

var errInside = errors.New("it is in the midst of records that were shed and joined")

// inside says that a position lies inside of shed records that were joined. That is no damage: nobody who needs the position was told
// of it.
func inside(at uint64) error {
	return &logging.Refusal{Code: logging.CodeMalformed, What: fmt.Sprintf("position %d", at), Why: errInside.Error(), Err: errInside}
}

const stateVersion = 3

// state is what a store keeps beside records: version, the numbers below in this order, then the frontiers at size and
// at pruned, 32 bytes a hash; how many there are follows from the sizes. All numbers are big-endian. Version 1 had the
// first six numbers, version 2 the first nine.
type state struct {
	epoch     uint64
	marks     marks
	shed      uint64 // ordinary records before this index have no body any more
	level     uint64 // highest capacity level reported
	reported  uint64 // records before this index are named in a log.pruned record, or were never pruned
	counter   uint64 // newest value of the hardware counter that is in a record
	intent    uint64 // value the hardware counter may have reached without a record; 0 when none
	sent      uint64 // checkpoints over up to so many records may have been handed out (see folder)
	tree, min logging.Tree
}

func (s *state) numbers() []*uint64 {
	return []*uint64{&s.epoch, &s.marks.pruned, &s.marks.acked, &s.marks.size, &s.shed, &s.level, &s.reported, &s.counter, &s.intent, &s.sent}
}

const (
	stateNumbersV1 = 6
	stateNumbersV2 = 9
)

func encodeState(s state) []byte {
	v := []byte{stateVersion}
	for _, n := range s.numbers() {
		v = binary.BigEndian.AppendUint64(v, *n)
	}
	for _, t := range [...]logging.Tree{s.tree, s.min} {
		for _, h := range t.Nodes() {
			v = append(v, h[:]...)
		}
	}
	return v
}

func parseState(v []byte) (s state, err error) {
	if len(v) == 0 {
		return s, damaged(errors.New("no state"))
	}
	numbers := s.numbers()
	switch v[0] {
	case 1:
		numbers = numbers[:stateNumbersV1]
	case 2:
		numbers = numbers[:stateNumbersV2]
	case stateVersion:
	default:
		return s, damaged(&logging.Refusal{Code: logging.CodeUnknownVersion, What: "store", Why: fmt.Sprintf("version %d, this program knows %d", v[0], stateVersion)})
	}
	fixed := 1 + 8*len(numbers)
	if len(v) < fixed {
		return s, damaged(errors.New("state is cut off"))
	}
	for i, n := range numbers {
		*n = binary.BigEndian.Uint64(v[1+8*i:])
	}
	if v[0] == 1 {
		s.reported = s.marks.pruned
	}
	if v[0] < stateVersion {
		s.sent = s.marks.size
	}
	if !s.marks.valid() {
		return s, damaged(errors.New("positions are out of order"))
	}
	hashes := make([]logging.Hash, 0, len(v)/logging.HashSize)
	for rest := v[fixed:]; len(rest) >= logging.HashSize; rest = rest[logging.HashSize:] {
		hashes = append(hashes, logging.Hash(rest[:logging.HashSize]))
	}
	for at := 0; at <= len(hashes); at++ {
		if s.tree, err = logging.NewTree(s.marks.size, hashes[:at]); err == nil {
			s.min, err = logging.NewTree(s.marks.pruned, hashes[at:])
			break
		}
	}
	if err != nil || len(v) != fixed+len(hashes)*logging.HashSize {
		return s, damaged(errors.New("frontiers do not belong to the positions"))
	}
	return s, nil
}
