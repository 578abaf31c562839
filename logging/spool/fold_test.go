// SPDX-License-Identifier: Apache-2.0

package spool

import (
	"bytes"
	"math/bits"
	"math/rand/v2"
	"testing"

	"github.com/backstay/backstay/logging"
)

// foldProgram makes entries of bytes: records with and without a body, joined ones, checkpoints.
func foldProgram(program []byte) (entries []entry, tree logging.Tree, gap int) {
	since := 0
	for i, op := range program {
		at := tree.Size()
		hash := logging.LeafHash([]byte{byte(i), byte(i >> 8)})
		switch {
		case op < 40 && at > 0:
			entries = append(entries, entry{kind: kindHead, at: at, value: []byte{op}})
			since = 0
			continue
		case op < 60:
			v := append(append([]byte{flagCritical}, hash[:]...), bytes.Repeat([]byte{op}, 40*int(op))...)
			entries = append(entries, entry{at: at, value: v})
			tree.Append(hash)
		default:
			level := min(uint8(bits.TrailingZeros8(op)), uint8(bits.TrailingZeros64(at)))
			entries = append(entries, entry{at: at, value: node{at, level, hash}.value()})
			if tree.AppendSubtree(level, hash) != nil {
				return entries[:len(entries)-1], tree, gap
			}
		}
		since++
		gap = max(gap, since)
	}
	return entries, tree, gap
}

func fold(t *testing.T, in []entry, sent, newest uint64) (out []entry) {
	t.Helper()
	f := &folder{sent: sent, newest: newest, bound: func(uint64) bool { return false }}
	f.out = func(e entry) error {
		out = append(out, e)
		return nil
	}
	for _, e := range in {
		if err := f.put(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.flush(); err != nil {
		t.Fatal(err)
	}
	return out
}

// FuzzFold: whatever is folded is the same tree; checkpoints that were handed out stay and can be computed; those beyond that stay are
// never far apart; a run between them takes a logarithm of its length; folding again changes nothing that is joined.
func FuzzFold(f *testing.F) {
	rng := rand.New(rand.NewPCG(1, 10))
	for range 40 {
		program := make([]byte, rng.IntN(900))
		dense := rng.IntN(256)
		for i := range program {
			program[i] = byte(min(255, rng.IntN(256)+dense))
		}
		f.Add(program, uint64(rng.IntN(400)))
	}
	f.Fuzz(func(t *testing.T, program []byte, sent uint64) {
		if len(program) > 4000 {
			return
		}
		in, tree, gap := foldProgram(program)
		newest, heads := uint64(0), map[uint64]bool{}
		for _, e := range in {
			if e.kind == kindHead {
				newest, heads[e.at] = e.at, true
			}
		}
		out := fold(t, in, sent, newest)
		checkFold(t, out, tree, heads, sent, newest, gap)
		checkFold(t, fold(t, out, sent, newest), tree, heads, sent, newest, gap)
	})
}

func checkFold(t *testing.T, out []entry, want logging.Tree, heads map[uint64]bool, sent, newest uint64, gap int) {
	t.Helper()
	var tree logging.Tree
	kept := map[uint64]bool{}
	run, length, since := 0, uint64(0), 0
	for _, e := range out {
		if e.kind == kindHead {
			if e.at != tree.Size() {
				t.Fatalf("checkpoint over %d records behind %d", e.at, tree.Size())
			}
			kept[e.at] = true
			run, length, since = 0, 0, 0
			continue
		}
		if e.at != tree.Size() {
			t.Fatalf("record %d behind %d", e.at, tree.Size())
		}
		leaf, _, err := splitLeaf(e.at, e.value, &unpacker{})
		if err == nil {
			err = tree.AppendSubtree(leaf.Level, leaf.Hash)
		}
		if err != nil {
			t.Fatal(err)
		}
		if since++; since > foldEntries+gap {
			t.Fatalf("%d entries without a checkpoint, at most %d before", since, gap)
		}
		if !leaf.Shed() {
			run, length = 0, 0
			continue
		}
		run, length = run+1, length+leaf.Count()
		if most := 2 * bits.Len64(length); run > most {
			t.Fatalf("%d hashes for %d records", run, length)
		}
	}
	if tree.Size() != want.Size() || tree.Root() != want.Root() {
		t.Fatal("another tree")
	}
	for at := range heads {
		if (at <= sent || at == newest) && !kept[at] {
			t.Fatalf("the checkpoint over %d records is gone, %d were handed out", at, sent)
		}
	}
}
