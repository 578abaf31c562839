// SPDX-License-Identifier: Apache-2.0

package logging_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/backstay/backstay/logging"
)

// join replaces the leaves of the subtree of that level which record at is in by its hash, if the log has all of it and nobody has a
// head inside; the checkpoints inside go, as on a device.
func (r *rig) join(at uint64, level uint8) bool {
	first := at >> level << level
	end := first + 1<<level
	if end > r.tree.Size() {
		return false
	}
	for size := range r.receipts {
		if first < size && size < end {
			return false
		}
	}
	i, j := -1, -1
	var tree logging.Tree
	for k, l := range r.leaves {
		if l.Index == first {
			i = k
		}
		if l.End() == end {
			j = k + 1
		}
		if l.Index >= first && l.End() <= end {
			if err := tree.AppendSubtree(l.Level, l.Hash); err != nil {
				panic(err)
			}
		}
	}
	if i < 0 || j < 0 || tree.Size() != end-first {
		return false // in a larger subtree
	}
	r.leaves = slices.Replace(r.leaves, i, j, logging.Leaf{Index: first, Level: level, Hash: tree.Root()})
	for size := first + 1; size < end; size++ {
		delete(r.heads, size)
	}
	return true
}

// Any way to cut a log into subtrees that are in place has the root of its records.
func TestSubtreesMakeTheSameTree(t *testing.T) {
	_, hashes := randomLeaves(300, 5)
	rng := rand.New(rand.NewPCG(5, 5))
	for size := range 300 {
		var tree logging.Tree
		for at := 0; at < size; {
			level := 0
			for at%(2<<level) == 0 && at+2<<level <= size && rng.IntN(4) > 0 {
				level++
			}
			if err := tree.AppendSubtree(uint8(level), logging.Hash(mth(hashes[at:at+1<<level]))); err != nil {
				t.Fatal(err)
			}
			at += 1 << level
		}
		if tree.Size() != uint64(size) || tree.Root() != logging.Hash(mth(hashes[:size])) {
			t.Fatalf("another root over %d records", size)
		}
	}
}

func TestAppendSubtreeRefuses(t *testing.T) {
	six := mustTree(t, 6)
	for _, tc := range []struct {
		size  uint64
		level uint8
		ok    bool
	}{{6, 1, true}, {6, 2, false}, {6, 63, false}, {6, 255, false}, {0, 62, true}, {0, 63, false}, {1 << 62, 62, false}, {1 << 62, 61, true}} {
		tree := six.Clone()
		if tc.size != 6 {
			tree = logging.Tree{}
			if tc.size > 0 {
				if err := tree.AppendSubtree(62, logging.Hash{1}); err != nil {
					t.Fatal(err)
				}
			}
		}
		before := tree.Root()
		err := tree.AppendSubtree(tc.level, logging.Hash{2})
		if tc.ok != (err == nil) || err != nil && (tree.Size() != tc.size || tree.Root() != before) {
			t.Errorf("level %d at %d: %v, size %d", tc.level, tc.size, err, tree.Size())
		}
		if !tc.ok {
			wantCode(t, err, logging.CodeMalformed)
		}
	}
}

// Every record that is still there has its proof beside subtrees of those that are not, and every size between them has its.
func TestProofsBesideSubtrees(t *testing.T) {
	rng := rand.New(rand.NewPCG(6, 6))
	for range 40 {
		r := newRig(t).grow(t, 1+rng.IntN(120))
		all := slices.Clone(r.leaves)
		for range 6 {
			r.join(rng.Uint64N(r.tree.Size()), uint8(1+rng.IntN(5)))
		}
		trees := map[uint64]logging.Tree{}
		var tree logging.Tree
		left := map[uint64]logging.Leaf{}
		for _, l := range r.leaves {
			if err := tree.AppendSubtree(l.Level, l.Hash); err != nil {
				t.Fatal(err)
			}
			left[l.Index], trees[l.End()] = l, tree.Clone()
		}
		p := logging.Prover{
			Leaf: func(i uint64) (logging.Hash, error) {
				if l, ok := left[i]; ok && l.Level == 0 {
					return l.Hash, nil
				}
				return logging.Hash{}, fmt.Errorf("record %d: %w", i, logging.ErrPruned)
			},
			Subtree: func(start uint64, level uint8) (logging.Hash, bool) {
				l, ok := left[start]
				return l.Hash, ok && l.Level == level
			},
		}
		for i, l := range all {
			proof, err := p.Inclusion(tree.Size(), l.Index)
			if here := left[l.Index]; here.Level > 0 || here.Hash != l.Hash {
				continue // no longer there
			}
			if err != nil || logging.CheckInclusion(proof, tree.Size(), tree.Root(), l.Index, l.Hash) != nil {
				t.Fatalf("record %d of %d: %v", i, len(all), err)
			}
		}
		for old, was := range trees {
			proof, err := p.Consistency(tree.Size(), old)
			if err != nil || logging.CheckConsistency(proof, tree.Size(), tree.Root(), old, was.Root()) != nil {
				t.Fatalf("%d of %d records: %v", old, tree.Size(), err)
			}
		}
	}
}

func TestSubtreesTravel(t *testing.T) {
	r := newRig(t).grow(t, 64).grow(t, 64)
	full := r.batch(64, 128)
	if !r.join(70, 1) || !r.join(96, 4) {
		t.Fatal("not joined")
	}
	from := slices.IndexFunc(r.leaves, func(l logging.Leaf) bool { return l.Index == 64 })
	b := full
	b.Leaves = slices.Clone(r.leaves[from:])
	wire, err := logging.EncodeBatch(b)
	if err != nil {
		t.Fatal(err)
	}
	got, err := logging.DecodeBatch(wire)
	if err != nil || got.End() != 128 || len(got.Leaves) != 64-1-15 || wire[4] != 3 {
		t.Fatalf("%d entries to record %d, version %d, %v", len(got.Leaves), got.End(), wire[4], err)
	}
	first := logging.Head{Origin: r.origin}
	first.Tree = mustHead(t, r, 64)
	next, fresh, _, err := first.Advance(got)
	if err != nil || logging.Records(fresh) != 64 || next.Tree.Root() != r.tree.Root() {
		t.Fatalf("%d records, %v", logging.Records(fresh), err)
	}
	// A consumer that has some of what was shed as one cannot go on: the device has forgotten that it sent it.
	for size, want := range map[uint64]string{71: logging.CodeRolledBack, 70: "", 72: "", 96: "", 100: logging.CodeRolledBack, 112: "", 127: ""} {
		var tree logging.Tree
		for _, l := range append(slices.Clone(newest(r, 64)), full.Leaves...)[:size] {
			tree.Append(l.Hash)
		}
		_, fresh, _, err := (logging.Head{Origin: r.origin, Tree: tree}).Advance(got)
		if code(err) != want || err == nil && logging.Records(fresh) != 128-size {
			t.Errorf("from %d on: %d records, %v", size, logging.Records(fresh), err)
		}
	}
	got.Leaves[6].Hash[0] ^= 1
	_, _, _, err = first.Advance(got)
	wantCode(t, err, logging.CodeRootMismatch)
}

func newest(r *rig, n int) []logging.Leaf { return r.leaves[:n] }

func mustHead(t testing.TB, r *rig, n int) logging.Tree {
	t.Helper()
	var tree logging.Tree
	for _, l := range r.leaves[:n] {
		tree.Append(l.Hash)
	}
	return tree
}

func TestVerifySubtrees(t *testing.T) {
	r := newRig(t).grow(t, 64)
	early := r.head()
	at40 := early
	at40.Size = 40
	shed := logging.EncodeLeaf(r.origin, 64, epoch0, logging.Event{Code: "log.shed",
		Attrs: []logging.Attr{{Name: "count", Value: "19"}, {Name: "ranges", Value: "2-3,5,16-31"}}})
	r.leaves = append(r.leaves, logging.Leaf{Index: 64, Hash: logging.LeafHash(shed), Body: shed})
	r.tree.Append(logging.LeafHash(shed))
	r.grow(t, 10)
	r.leaves[5].Body, r.leaves[5].Side = nil, nil
	for _, n := range []struct {
		at    uint64
		level uint8
	}{{2, 1}, {16, 4}, {32, 3}} {
		if !r.join(n.at, n.level) {
			t.Fatal("not joined")
		}
	}
	report, err := verify(r.header(), r.items(), logging.Expect{Head: &early})
	want := []logging.Range{{First: 2, Last: 3}, {First: 5, Last: 5}, {First: 16, Last: 31}, {First: 32, Last: 39}}
	want = []logging.Range{want[0], want[1], {First: 16, Last: 39}}
	if err != nil || !slices.Equal(report.Shed, want) || report.Records != 75-1-2-24 || report.Unnamed != 8 || !report.HeadChecked || report.Size != 75 {
		t.Fatalf("%+v, %v", report, err)
	}
	// A head inside of what was shed as one cannot be compared, and a device keeps those comparable that it handed out.
	at20 := at40
	at20.Size = 20
	report, err = verify(r.header(), r.items(), logging.Expect{Head: &at20})
	if wantCode(t, err, logging.CodeRolledBack); report.Bad == nil || *report.Bad != (logging.Range{First: 16, Last: 31}) {
		t.Errorf("bad = %v", report.Bad)
	}
	_, err = verify(r.header(), append([]logging.Item{{Receipt: sign(t, r.collector, at20)}}, r.items()...), logging.Expect{Policy: r.policy(t, 1)})
	wantCode(t, err, logging.CodeMalformed)
	var out bytes.Buffer
	if err := logging.WriteExport(&out, r.header(), seq(r.items())); err != nil {
		t.Fatal(err)
	}
	h, items, err := readExport(out.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if again, err := verify(h, items, logging.Expect{}); err != nil || !slices.Equal(again.Shed, want) || again.Unnamed != 8 {
		t.Errorf("%+v, %v", again, err)
	}
	for name, tc := range map[string]struct {
		fn   func(*logging.Leaf)
		code string
	}{
		"another hash":     {func(l *logging.Leaf) { l.Hash[0] ^= 1 }, logging.CodeRootMismatch},
		"one level higher": {func(l *logging.Leaf) { l.Level++ }, logging.CodeMalformed},
		"one level lower":  {func(l *logging.Leaf) { l.Level-- }, logging.CodeRecordMissing},
		"level 200":        {func(l *logging.Leaf) { l.Level = 200 }, logging.CodeMalformed},
		"with a body":      {func(l *logging.Leaf) { l.Body = []byte("{}") }, logging.CodeMalformed},
	} {
		_, err := verify(r.header(), withLeaf(r.items(), 16, tc.fn), logging.Expect{})
		if code(err) != tc.code {
			t.Errorf("%s: %v, want %s", name, err, tc.code)
		}
	}
	// A subtree in the place of records that were not shed shows as what it is.
	r.join(50, 1)
	if report, err := verify(r.header(), r.items(), logging.Expect{}); err != nil || report.Unnamed != 10 || len(report.Shed) != 4 {
		t.Errorf("%+v, %v", report, err)
	}
}

// What is named in any order and cut counts once; beyond the bound the sums decide.
func TestUnnamedRecords(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	for range 50 {
		r := newRig(t).grow(t, 200)
		var texts []string
		want := uint64(0)
		for i := range 190 {
			if rng.IntN(3) > 0 {
				r.leaves[i].Body, r.leaves[i].Side = nil, nil
				if rng.IntN(4) > 0 {
					texts = append(texts, fmt.Sprint(i), fmt.Sprintf("%d-%d", i, i))
				} else {
					want++
				}
			}
		}
		rng.Shuffle(len(texts), func(i, j int) { texts[i], texts[j] = texts[j], texts[i] })
		for _, text := range append(texts, "", "x", "5-", "7-3", "500-900", "99999999999999999999") {
			i := r.tree.Size()
			body := logging.EncodeLeaf(r.origin, i, epoch0, logging.Event{Code: "log.shed", Attrs: []logging.Attr{{Name: "ranges", Value: text}}})
			r.leaves = append(r.leaves, logging.Leaf{Index: i, Hash: logging.LeafHash(body), Body: body})
			r.tree.Append(logging.LeafHash(body))
		}
		r.grow(t, 1)
		if report, err := verify(r.header(), r.items(), logging.Expect{}); err != nil || report.Unnamed != want {
			t.Fatalf("%d unnamed, want %d: %v", report.Unnamed, want, err)
		}
	}
}
