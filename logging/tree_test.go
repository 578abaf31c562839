// SPDX-License-Identifier: Apache-2.0

package logging_test

import (
	"crypto/sha256"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/backstay/backstay/logging"
)

// mth is the Merkle tree hash as RFC 6962 section 2.1 writes it, on the standard library alone.
func mth(d [][32]byte) [32]byte {
	if len(d) == 0 {
		return sha256.Sum256(nil)
	}
	if len(d) == 1 {
		return d[0]
	}
	k := 1
	for k*2 < len(d) {
		k *= 2
	}
	l, r := mth(d[:k]), mth(d[k:])
	return sha256.Sum256(append(append([]byte{1}, l[:]...), r[:]...))
}

func randomLeaves(n int, seed uint64) (bodies [][]byte, hashes [][32]byte) {
	rng := rand.New(rand.NewPCG(seed, 1))
	for range n {
		b := make([]byte, 1+rng.IntN(40))
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		bodies = append(bodies, b)
		hashes = append(hashes, sha256.Sum256(append([]byte{0}, b...)))
	}
	return bodies, hashes
}

func TestTreeAgreesWithTheRFC(t *testing.T) {
	bodies, hashes := randomLeaves(300, 1)
	var tree logging.Tree
	for i := 0; ; i++ {
		if got, want := tree.Root(), logging.Hash(mth(hashes[:i])); got != want {
			t.Fatalf("root over %d records is %v, want %v", i, got, want)
		}
		again, err := logging.NewTree(tree.Size(), tree.Nodes())
		if err != nil || again.Root() != tree.Root() {
			t.Fatalf("rebuilt tree of %d: %v", i, err)
		}
		if i == len(bodies) {
			break
		}
		tree.Append(logging.LeafHash(bodies[i]))
	}
}

func TestTreeCloneIsIndependent(t *testing.T) {
	var a logging.Tree
	for range 6 {
		a.Append(logging.Hash{1})
	}
	b := a.Clone()
	root := a.Root()
	b.Append(logging.Hash{2})
	b.Append(logging.Hash{3})
	if a.Root() != root || a.Size() != 6 {
		t.Error("appending to a clone changed the original")
	}
}

func TestNewTreeRefuses(t *testing.T) {
	for _, tc := range []struct {
		size  uint64
		nodes int
	}{{0, 1}, {1, 0}, {3, 1}, {4, 2}, {1 << 63, 1}} {
		if _, err := logging.NewTree(tc.size, make([]logging.Hash, tc.nodes)); code(err) != logging.CodeMalformed {
			t.Errorf("%d records, %d hashes: %v", tc.size, tc.nodes, err)
		}
	}
}

// Proofs from retained leaves and the frontier before them check against the roots, for every start, index and size.
func TestProofsFromRetainedLeaves(t *testing.T) {
	const n = 40
	_, hashes := randomLeaves(n, 2)
	var trees [n + 1]logging.Tree
	for i, h := range hashes {
		trees[i+1] = trees[i].Clone()
		trees[i+1].Append(h)
	}
	for first := uint64(0); first <= n; first++ {
		p := logging.Prover{Min: trees[first], Leaf: func(i uint64) (logging.Hash, error) {
			if i < first {
				t.Fatalf("leaf %d was asked for, %d is the first retained", i, first)
			}
			return hashes[i], nil
		}}
		for size := first + 1; size <= n; size++ {
			root := trees[size].Root()
			for i := first; i < size; i++ {
				proof, err := p.Inclusion(size, i)
				if err != nil {
					t.Fatalf("inclusion of %d in %d from %d: %v", i, size, first, err)
				}
				if err := logging.CheckInclusion(proof, size, root, i, hashes[i]); err != nil {
					t.Fatal(err)
				}
				if err := logging.CheckInclusion(proof, size, root, i, logging.Hash{1}); code(err) != logging.CodeRootMismatch {
					t.Fatalf("a wrong leaf was accepted: %v", err)
				}
			}
			for old := max(first, 1); old <= size; old++ {
				proof, err := p.Consistency(size, old)
				if err != nil {
					t.Fatalf("consistency of %d and %d from %d: %v", old, size, first, err)
				}
				if err := logging.CheckConsistency(proof, size, root, old, trees[old].Root()); err != nil {
					t.Fatal(err)
				}
				if err := logging.CheckConsistency(proof, size, root, old, logging.Hash{1}); code(err) != logging.CodeForked {
					t.Fatalf("a wrong old root was accepted: %v", err)
				}
			}
		}
	}
}

func TestProofsSayWhenRecordsAreGone(t *testing.T) {
	_, hashes := randomLeaves(20, 3)
	var first logging.Tree
	for _, h := range hashes[:13] {
		first.Append(h)
	}
	p := logging.Prover{Min: first, Leaf: func(i uint64) (logging.Hash, error) { return hashes[i], nil }}
	if _, err := p.Inclusion(20, 5); !errors.Is(err, logging.ErrPruned) {
		t.Errorf("inclusion of a pruned record: %v", err)
	}
	if _, err := p.Consistency(20, 7); !errors.Is(err, logging.ErrPruned) {
		t.Errorf("consistency with a pruned size: %v", err)
	}
	for _, err := range []error{
		second(p.Inclusion(20, 20)), second(p.Inclusion(1<<63, 20)), second(p.Consistency(20, 0)), second(p.Consistency(20, 21)),
		logging.CheckInclusion(nil, 1<<63, logging.Hash{}, 0, logging.Hash{}), logging.CheckConsistency(nil, 5, logging.Hash{}, 6, logging.Hash{}),
	} {
		wantCode(t, err, logging.CodeMalformed)
	}
}

func second[T any](_ T, err error) error { return err }
