// SPDX-License-Identifier: Apache-2.0

package logging

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"math/bits"

	"golang.org/x/mod/sumdb/tlog"
)

// Hash is an RFC 6962 SHA-256 hash: of a leaf, of a node, of a tree.
type Hash = tlog.Hash

// HashSize is the length of a Hash in bytes.
const HashSize = tlog.HashSize

// LeafHash returns SHA-256(0x00 || body), the RFC 6962 hash of a leaf.
func LeafHash(body []byte) Hash { return tlog.RecordHash(body) }

// Tree is the frontier of a Merkle tree (its compact range): the roots of the complete subtrees that make it up, largest
// first, at most 63 hashes. It can be appended to and knows its root; it does not hold leaves. The zero Tree is empty.
//
// A Tree is a value with a slice inside: use [Tree.Clone] before two copies are appended to.
type Tree struct {
	size  uint64
	nodes []Hash
}

// NewTree rebuilds a tree from the two things [Tree.Size] and [Tree.Nodes] gave. It refuses a number of hashes that cannot
// belong to that size; whether the hashes are right only a signed root can tell. Errors match ErrRefused.
func NewTree(size uint64, nodes []Hash) (Tree, error) {
	if size > math.MaxInt64 {
		return Tree{}, refuse(CodeMalformed, "tree", "size out of range")
	}
	if bits.OnesCount64(size) != len(nodes) {
		return Tree{}, refuse(CodeMalformed, "tree", fmt.Sprintf("%d hashes cannot be the frontier of %d records", len(nodes), size))
	}
	return Tree{size: size, nodes: append([]Hash(nil), nodes...)}, nil
}

// Size returns the number of leaves.
func (t *Tree) Size() uint64 { return t.size }

// Nodes returns a copy of the frontier, largest subtree first.
func (t *Tree) Nodes() []Hash { return append([]Hash(nil), t.nodes...) }

// Clone returns an independent copy.
func (t *Tree) Clone() Tree { return Tree{size: t.size, nodes: t.Nodes()} }

// NodeHash returns SHA-256(0x01 || left || right), the RFC 6962 hash of an inner node.
func NodeHash(left, right Hash) Hash { return tlog.NodeHash(left, right) }

// MaxLevel is the highest level of a subtree: 2^62 records.
const MaxLevel = 62

// Append adds the leaf with hash h at index Size.
func (t *Tree) Append(h Hash) { t.add(0, h) }

// AppendSubtree adds the complete subtree of 2^level leaves with hash h at index Size, which must be a multiple of its width:
// only there is it a node of the tree. Errors match ErrRefused.
func (t *Tree) AppendSubtree(level uint8, h Hash) error {
	if !complete(t.size, level) {
		return refuse(CodeMalformed, "tree", fmt.Sprintf("no subtree of level %d begins at record %d", level, t.size))
	}
	t.add(level, h)
	return nil
}

// complete reports whether a subtree of that level may begin at a record.
func complete(start uint64, level uint8) bool {
	return level <= MaxLevel && start&(1<<level-1) == 0 && start <= math.MaxInt64-1<<level
}

func (t *Tree) add(level uint8, h Hash) {
	for n := t.size >> level; n&1 == 1; n >>= 1 {
		last := len(t.nodes) - 1
		h = tlog.NodeHash(t.nodes[last], h)
		t.nodes = t.nodes[:last]
	}
	t.nodes = append(t.nodes, h)
	t.size += 1 << level
}

// Root returns the RFC 6962 root hash; of the empty tree it is the hash of the empty string.
func (t *Tree) Root() Hash {
	if len(t.nodes) == 0 {
		return sha256.Sum256(nil)
	}
	h := t.nodes[len(t.nodes)-1]
	for i := len(t.nodes) - 2; i >= 0; i-- {
		h = tlog.NodeHash(t.nodes[i], h)
	}
	return h
}

// ErrPruned means a proof needs leaves that are no longer here; whoever holds the receipts has them.
var ErrPruned = errors.New("records before the oldest retained one are needed")

// Prover computes RFC 6962 proofs from the leaves still retained and the frontier at the oldest of them, so no node hash
// need be stored. A proof costs time linear in the retained leaves.
type Prover struct {
	Min  Tree                             // frontier at the first retained leaf
	Leaf func(index uint64) (Hash, error) // hash of a retained leaf: Min.Size() <= index < size

	// Subtree returns the hash of the 2^level leaves from start on when they are retained as one; it may be nil. Every other
	// leaf still has its proof: no node beside its path lies inside of such a subtree. Leaf answers ErrPruned inside of one.
	Subtree func(start uint64, level uint8) (h Hash, ok bool)
}

// Inclusion proves that the tree of size records holds the leaf at index. The error is ErrPruned (wrapped) when index is
// before the retained leaves.
func (p Prover) Inclusion(size, index uint64) ([]Hash, error) {
	if index >= size || size > math.MaxInt64 {
		return nil, refuse(CodeMalformed, "inclusion proof", fmt.Sprintf("record %d is not in a log of %d", index, size))
	}
	proof, err := tlog.ProveRecord(int64(size), int64(index), tlog.HashReaderFunc(p.read))
	if err != nil {
		return nil, fmt.Errorf("prove record %d of %d: %w", index, size, err)
	}
	return proof, nil
}

// Consistency proves that the tree of size records has the tree of old records as its prefix, for 1 <= old <= size.
func (p Prover) Consistency(size, old uint64) ([]Hash, error) {
	if old == 0 || old > size || size > math.MaxInt64 {
		return nil, refuse(CodeMalformed, "consistency proof", fmt.Sprintf("no proof from %d to %d records", old, size))
	}
	proof, err := tlog.ProveTree(int64(size), int64(old), tlog.HashReaderFunc(p.read))
	if err != nil {
		return nil, fmt.Errorf("prove consistency of %d and %d: %w", old, size, err)
	}
	return proof, nil
}

// CheckInclusion checks a proof of [Prover.Inclusion] against a root somebody signed. Errors match ErrRefused.
func CheckInclusion(proof []Hash, size uint64, root Hash, index uint64, leaf Hash) error {
	if size > math.MaxInt64 || index >= size {
		return refuse(CodeMalformed, "inclusion proof", "index out of range")
	}
	if err := tlog.CheckRecord(proof, int64(size), root, int64(index), leaf); err != nil {
		return refuseErr(CodeRootMismatch, "inclusion proof", err)
	}
	return nil
}

// CheckConsistency checks a proof of [Prover.Consistency] against two roots somebody signed. Errors match ErrRefused.
func CheckConsistency(proof []Hash, size uint64, root Hash, old uint64, oldRoot Hash) error {
	if size > math.MaxInt64 || old == 0 || old > size {
		return refuse(CodeMalformed, "consistency proof", "size out of range")
	}
	if err := tlog.CheckTree(proof, int64(size), root, int64(old), oldRoot); err != nil {
		return refuseErr(CodeForked, "consistency proof", err)
	}
	return nil
}

func (p Prover) read(indexes []int64) ([]Hash, error) {
	out := make([]Hash, len(indexes))
	for i, x := range indexes {
		level, n := tlog.SplitStoredHashIndex(x)
		h, err := p.subtree(level, uint64(n))
		if err != nil {
			return nil, err
		}
		out[i] = h
	}
	return out, nil
}

// subtree returns the hash of the complete subtree of 2^level leaves that starts at leaf n*2^level. A subtree that begins
// before the retained leaves and ends inside them splits until its left part is a node of the frontier.
func (p Prover) subtree(level int, n uint64) (Hash, error) {
	first, end := n<<level, (n+1)<<level
	if end <= p.Min.size {
		// The frontier's subtrees are those whose end is the size with its low bits cut off.
		rest := p.Min.size
		for i := len(p.Min.nodes) - 1; i >= 0; i-- {
			width := rest & -rest
			if rest == end && width == end-first {
				return p.Min.nodes[i], nil
			}
			rest -= width
		}
		return Hash{}, ErrPruned
	}
	if level == 0 {
		return p.Leaf(first)
	}
	if p.Subtree != nil && first >= p.Min.size {
		if h, ok := p.Subtree(first, uint8(level)); ok {
			return h, nil
		}
	}
	left, err := p.subtree(level-1, 2*n)
	if err != nil {
		return Hash{}, err
	}
	right, err := p.subtree(level-1, 2*n+1)
	if err != nil {
		return Hash{}, err
	}
	return tlog.NodeHash(left, right), nil
}
