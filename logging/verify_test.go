// SPDX-License-Identifier: Apache-2.0

package logging_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/backstay/backstay/logging"
)

func TestVerifyHonestLog(t *testing.T) {
	r := newRig(t).grow(t, 64).grow(t, 64).grow(t, 3)
	r.receipts[131] = r.receipt(t, r.collector)
	head := r.head()
	report, err := verify(r.header(), r.items(), logging.Expect{Device: r.signer.DeviceID(), Policy: r.policy(t, 1), Acked: true, Head: &head})
	if err != nil {
		t.Fatal(err)
	}
	if report.Size != 131 || report.Records != 131 || report.Checkpoints != 3 || report.Acked != 131 || report.Unsigned != 0 ||
		!report.HeadChecked || report.Bad != nil || len(report.Receipts) != 1 || report.Opaque != 0 {
		t.Errorf("report = %+v", report)
	}
	if !report.FirstTime.Equal(epoch0) || !report.LastTime.Equal(epoch0.Add(130*time.Second)) {
		t.Errorf("times %v to %v", report.FirstTime, report.LastTime)
	}
}

// withLeaf returns items with the leaf at index changed by fn; the rig's own leaf stays.
func withLeaf(items []logging.Item, index uint64, fn func(*logging.Leaf)) []logging.Item {
	out := slices.Clone(items)
	for i, it := range out {
		if it.Leaf != nil && it.Leaf.Index == index {
			l := *it.Leaf
			l.Body = bytes.Clone(l.Body)
			fn(&l)
			out[i].Leaf = &l
		}
	}
	return out
}

func withoutLeaf(items []logging.Item, index uint64) []logging.Item {
	return slices.DeleteFunc(slices.Clone(items), func(it logging.Item) bool { return it.Leaf != nil && it.Leaf.Index == index })
}

func edit(l *logging.Leaf) { l.Body = bytes.Replace(l.Body, []byte("socket"), []byte("pocket"), 1) }

func editAndRehash(l *logging.Leaf) { edit(l); l.Hash = logging.LeafHash(l.Body) }

// TestVerifyRefuses is one row per attack: what it does to an honest log of 131 records with checkpoints at 64, 128 and
// 131 and a receipt at 128, which code refuses it, and where the report puts the first bad record.
func TestVerifyRefuses(t *testing.T) {
	r := newRig(t).grow(t, 64).grow(t, 64)
	r.receipts[128] = r.receipt(t, r.collector)
	at128 := r.head()
	r.grow(t, 3)
	other := newRig(t).grow(t, 131)
	shorter := newRig(t)
	shorter.signer, shorter.origin, shorter.collector, shorter.agency = r.signer, r.origin, r.collector, r.agency
	shorter.grow(t, 10)
	forkedTree := r.tree.Clone()
	forkedTree.Append(logging.Hash{1})
	later := r.head()
	later.Size, later.Root = 140, logging.Hash{2}
	nextEpoch := r.head()
	nextEpoch.Origin.Epoch = 2
	wrongRoot := at128
	wrongRoot.Root = logging.Hash{3}
	foreign := other.head()
	bad := func(first, last uint64) *logging.Range { return &logging.Range{First: first, Last: last} }

	for _, tc := range []struct {
		name  string
		items []logging.Item
		want  logging.Expect
		head  func(*logging.Header)
		code  string
		bad   *logging.Range
	}{
		{name: "edited record", items: withLeaf(r.items(), 70, edit), code: logging.CodeRecordAltered, bad: bad(70, 70)},
		{name: "edited record with its hash", items: withLeaf(r.items(), 70, editAndRehash), code: logging.CodeRootMismatch, bad: bad(64, 127)},
		{name: "edited shed hash", items: withLeaf(r.items(), 5, func(l *logging.Leaf) { l.Body = nil; l.Hash[0] ^= 1 }), code: logging.CodeRootMismatch, bad: bad(0, 63)},
		{name: "removed record", items: withoutLeaf(r.items(), 70), code: logging.CodeRecordMissing, bad: bad(70, 70)},
		{name: "removed record, rest renumbered", items: renumber(withoutLeaf(r.items(), 70)), code: logging.CodeRecordMoved, bad: bad(70, 70)},
		{name: "duplicated record", items: slices.Insert(r.items(), 5, r.items()[4]), code: logging.CodeRecordMoved, bad: bad(4, 4)},
		{name: "swapped records", items: swap(r.items(), 10, 11), code: logging.CodeRecordMissing, bad: bad(10, 10)},
		{name: "swapped bodies", items: swapBodies(r.items(), 10, 11), code: logging.CodeRecordMoved, bad: bad(10, 10)},
		{name: "cut tail, checkpoint kept", items: append(r.items()[:100], logging.Item{Checkpoint: r.heads[128]}), code: logging.CodeTruncated, bad: bad(99, 127)},
		{name: "cut tail, receipt kept", want: logging.Expect{Policy: r.policy(t, 1)}, code: logging.CodeTruncated, bad: bad(64, 127),
			items: append(slices.Clone(r.items()[:65]), logging.Item{Receipt: r.receipts[128]})},
		{name: "cut tail, head known", items: r.items()[:65], want: logging.Expect{Head: &at128}, code: logging.CodeRolledBack, bad: bad(64, 127)},
		{name: "older copy, head known", items: shorter.items(), want: logging.Expect{Head: &later}, code: logging.CodeRolledBack, bad: bad(10, 139)},
		{name: "older epoch", items: r.items(), want: logging.Expect{Head: &nextEpoch}, code: logging.CodeRolledBack},
		{name: "rewritten history", items: r.items(), want: logging.Expect{Head: &wrongRoot}, code: logging.CodeForked},
		{name: "head of another device", items: r.items(), want: logging.Expect{Head: &foreign}, code: logging.CodeDeviceMismatch},
		{name: "another device than expected", items: r.items(), want: logging.Expect{Device: other.signer.DeviceID()}, code: logging.CodeDeviceMismatch},
		{name: "key of another device", items: r.items(), head: func(h *logging.Header) { h.SPKI = other.signer.SPKI() }, code: logging.CodeDeviceMismatch},
		{name: "no key", items: r.items(), head: func(h *logging.Header) { h.SPKI = nil }, code: logging.CodeMalformed},
		{name: "log of another device", items: other.items(), code: logging.CodeRecordMoved, bad: bad(0, 0)},
		{name: "checkpoint of another device", items: append(r.items(), logging.Item{Checkpoint: other.heads[131]}), code: logging.CodeDeviceMismatch},
		{name: "forged checkpoint", items: append(r.items(), logging.Item{Checkpoint: forge(r.heads[131])}), code: logging.CodeBadCheckpoint},
		{name: "checkpoint out of order", items: append(r.items(), logging.Item{Checkpoint: r.heads[64]}), code: logging.CodeMalformed},
		{name: "other root of same size", items: append(r.items(), logging.Item{Checkpoint: r.sign(t, swapRoot(r.tree))}), code: logging.CodeRootMismatch, bad: bad(130, 130)},
		{name: "no checkpoint", items: onlyLeaves(r.items()), code: logging.CodeUnsigned},
		{name: "forged receipt", items: append(r.items(), logging.Item{Receipt: forge(r.receipts[128])}), want: logging.Expect{Policy: r.policy(t, 1)}, code: logging.CodeBadReceipt},
		{name: "receipt for another log", items: append(r.items(), logging.Item{Receipt: sign(t, r.collector, foreign)}), want: logging.Expect{Policy: r.policy(t, 1)}, code: logging.CodeBadReceipt},
		{name: "receipt for another root", want: logging.Expect{Policy: r.policy(t, 1)}, code: logging.CodeRootMismatch, bad: bad(130, 130),
			items: append(r.items(), logging.Item{Receipt: sign(t, r.collector, logging.Checkpoint{Origin: r.origin, Size: 131, Root: logging.Hash{9}})})},
		{name: "receipt out of order", items: append(r.items(), logging.Item{Receipt: r.receipts[128]}), want: logging.Expect{Policy: r.policy(t, 1)}, code: logging.CodeMalformed},
		{name: "too few receipts", items: r.items(), want: logging.Expect{Policy: r.policy(t, 2), Acked: true}, code: logging.CodeNoQuorum},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := r.header()
			if tc.head != nil {
				tc.head(&h)
			}
			report, err := verify(h, tc.items, tc.want)
			wantCode(t, err, tc.code)
			if (tc.bad == nil) != (report.Bad == nil) || tc.bad != nil && *tc.bad != *report.Bad {
				t.Errorf("bad = %v, want %v", report.Bad, tc.bad)
			}
		})
	}
}

func renumber(items []logging.Item) []logging.Item {
	next := uint64(0)
	for i, it := range items {
		if it.Leaf != nil {
			l := *it.Leaf
			l.Index = next
			next++
			items[i].Leaf = &l
		}
	}
	return items
}

func swap(items []logging.Item, a, b int) []logging.Item {
	items[a], items[b] = items[b], items[a]
	return items
}

func swapBodies(items []logging.Item, a, b int) []logging.Item {
	x, y := *items[a].Leaf, *items[b].Leaf
	x.Body, y.Body = y.Body, x.Body
	x.Hash, y.Hash = y.Hash, x.Hash
	items[a].Leaf, items[b].Leaf = &x, &y
	return items
}

func onlyLeaves(items []logging.Item) []logging.Item {
	return slices.DeleteFunc(items, func(it logging.Item) bool { return it.Leaf == nil })
}

// forge changes a bit of the last signature in a note.
func forge(note []byte) []byte {
	b := bytes.Clone(note)
	if b[len(b)-10] == 'A' {
		b[len(b)-10] = 'B'
	} else {
		b[len(b)-10] = 'A'
	}
	return b
}

// swapRoot returns a tree of the same size with another last record.
func swapRoot(t logging.Tree) logging.Tree {
	nodes := t.Nodes()
	nodes[len(nodes)-1][0] ^= 1
	out, err := logging.NewTree(t.Size(), nodes)
	if err != nil {
		panic(err)
	}
	return out
}

func sign(t testing.TB, s *logging.ReceiptSigner, c logging.Checkpoint) []byte {
	t.Helper()
	msg, err := s.Sign(c, epoch0)
	if err != nil {
		t.Fatal(err)
	}
	return msg
}

func TestVerifyShedAndGaps(t *testing.T) {
	r := newRig(t).grow(t, 20)
	body := logging.EncodeLeaf(r.origin, 20, epoch0, logging.Event{Code: "log.gap",
		Attrs: []logging.Attr{{Name: "count", Value: "17"}, {Name: "reason", Value: "store full"}}})
	r.leaves = append(r.leaves, logging.Leaf{Index: 20, Hash: logging.LeafHash(body), Body: body})
	r.tree.Append(logging.LeafHash(body))
	r.grow(t, 1)
	for _, i := range []int{3, 4, 5, 9} {
		r.leaves[i].Body = nil
	}
	report, err := verify(r.header(), r.items(), logging.Expect{})
	if err != nil {
		t.Fatal(err)
	}
	want := []logging.Range{{First: 3, Last: 5}, {First: 9, Last: 9}}
	if !slices.Equal(report.Shed, want) {
		t.Errorf("shed = %v, want %v", report.Shed, want)
	}
	if len(report.Gaps) != 1 || report.Gaps[0] != (logging.Gap{Index: 20, Code: "log.gap", Reason: "store full", Count: "17"}) {
		t.Errorf("gaps = %+v", report.Gaps)
	}
	if report.Records != 18 {
		t.Errorf("records = %d", report.Records)
	}
}

// A record this program cannot read is still evidence: its bytes are under the root.
func TestVerifyOpaqueRecord(t *testing.T) {
	r := newRig(t).grow(t, 3)
	body := []byte(`{"metadata":{"version":"9.0.0"},"new":"thing"}`)
	r.leaves = append(r.leaves, logging.Leaf{Index: 3, Hash: logging.LeafHash(body), Body: body})
	r.tree.Append(logging.LeafHash(body))
	r.grow(t, 1)
	report, err := verify(r.header(), r.items(), logging.Expect{})
	if err != nil || report.Opaque != 1 || report.Records != 5 {
		t.Fatalf("%+v, %v", report, err)
	}
}

func TestVerifyFromPrunedStart(t *testing.T) {
	r := newRig(t).grow(t, 50)
	receipt := r.receipt(t, r.collector)
	start := r.tree.Clone()
	r.grow(t, 50)
	h := r.header()
	h.Start = start
	items := append([]logging.Item{{Receipt: receipt}}, r.items()[51:]...)
	report, err := verify(h, items, logging.Expect{Policy: r.policy(t, 1), Acked: true})
	if err != nil || report.First != 50 || report.Size != 100 || report.Records != 50 || report.Acked != 50 {
		t.Fatalf("%+v, %v", report, err)
	}
	// A checkpoint from before the start could not be compared, and must not count as if it had been.
	before := r.sign(t, mustTree(t, 30))
	_, err = verify(h, append([]logging.Item{{Checkpoint: before}}, items...), logging.Expect{})
	wantCode(t, err, logging.CodeMalformed)
	// A wrong frontier is found out by the next signed root.
	h.Start = swapRoot(start)
	_, err = verify(h, items, logging.Expect{})
	wantCode(t, err, logging.CodeRootMismatch)
}

func mustTree(t testing.TB, n int) logging.Tree {
	t.Helper()
	var tree logging.Tree
	for range n {
		tree.Append(logging.Hash{1})
	}
	return tree
}

// The key is checked before any evidence is: an empty log of somebody else is refused too.
func TestVerifyChecksTheKeyFirst(t *testing.T) {
	r, other := newRig(t), newRig(t)
	h := r.header()
	h.SPKI = other.signer.SPKI()
	_, err := verify(h, nil, logging.Expect{})
	wantCode(t, err, logging.CodeDeviceMismatch)
}

func TestVerifyReportsUnsignedTail(t *testing.T) {
	r := newRig(t).grow(t, 10)
	r.grow(t, 5)
	delete(r.heads, 15)
	report, err := verify(r.header(), r.items(), logging.Expect{})
	if err != nil || report.Size != 10 || report.Unsigned != 5 {
		t.Fatalf("%+v, %v", report, err)
	}
}

func TestVerifyPassesReadErrorsOn(t *testing.T) {
	r := newRig(t).grow(t, 10)
	broken := errors.New("disk on fire")
	_, err := logging.Verify(context.Background(), r.header(), func(yield func(logging.Item, error) bool) {
		yield(logging.Item{}, broken)
	}, logging.Expect{})
	if !errors.Is(err, broken) || errors.Is(err, logging.ErrRefused) {
		t.Errorf("error = %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := logging.Verify(ctx, r.header(), seq(r.items()), logging.Expect{}); !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v", err)
	}
}

func TestAdvance(t *testing.T) {
	r := newRig(t).grow(t, 10).grow(t, 10).grow(t, 10)
	head := logging.Head{Origin: r.origin}
	other := newRig(t).grow(t, 10)
	h10, fresh, cp, err := head.Advance(r.batch(0, 10))
	if err != nil || len(fresh) != 10 || cp.Size != 10 || h10.Tree.Size() != 10 {
		t.Fatalf("%v %d %+v", err, len(fresh), cp)
	}
	h30, fresh, _, err := h10.Advance(r.batch(5, 30)) // overlaps
	if err != nil || len(fresh) != 20 || fresh[0].Index != 10 {
		t.Fatalf("overlap: %v, %d fresh", err, len(fresh))
	}
	if h30.Tree.Root() != r.tree.Root() {
		t.Fatal("wrong root after overlap")
	}
	again, fresh, _, err := h30.Advance(r.batch(10, 20)) // duplicate
	if err != nil || len(fresh) != 0 || again.Tree.Size() != 30 {
		t.Fatalf("duplicate: %v, %d fresh", err, len(fresh))
	}
	shed := r.batch(10, 20)
	shed.Leaves[3].Body = nil
	if _, fresh, _, err := h10.Advance(shed); err != nil || !fresh[3].Shed() {
		t.Fatalf("shed: %v", err)
	}
	fork := &rig{signer: r.signer, origin: r.origin, heads: map[uint64][]byte{}}
	fork.tree.Append(logging.Hash{7})
	fork.leaves = []logging.Leaf{{Index: 0, Hash: logging.Hash{7}}}
	fork.grow(t, 9)

	mutate := func(fn func(*logging.Batch)) logging.Batch {
		b := r.batch(10, 20)
		fn(&b)
		return b
	}
	for _, tc := range []struct {
		name  string
		from  logging.Head
		batch logging.Batch
		code  string
	}{
		{"gap", head, r.batch(10, 20), logging.CodeBatchGap},
		{"other device", h10, other.batch(0, 10), logging.CodeDeviceMismatch},
		{"stolen key field", h10, mutate(func(b *logging.Batch) { b.SPKI = other.signer.SPKI() }), logging.CodeDeviceMismatch},
		{"origin and checkpoint disagree", h10, mutate(func(b *logging.Batch) { b.Origin.Epoch = 2 }), logging.CodeMalformed},
		{"checkpoint of another size", h10, mutate(func(b *logging.Batch) { b.Checkpoint = r.heads[30] }), logging.CodeMalformed},
		{"forged checkpoint", h10, mutate(func(b *logging.Batch) { b.Checkpoint = forge(b.Checkpoint) }), logging.CodeBadCheckpoint},
		{"altered record", h10, mutate(func(b *logging.Batch) { edit(&b.Leaves[2]) }), logging.CodeRecordAltered},
		{"altered record and hash", h10, mutate(func(b *logging.Batch) { b.Leaves[2].Hash[0] ^= 1; b.Leaves[2].Body = nil }), logging.CodeRootMismatch},
		{"reordered", h10, mutate(func(b *logging.Batch) { b.Leaves[1], b.Leaves[2] = b.Leaves[2], b.Leaves[1] }), logging.CodeRootMismatch},
		{"rewritten history", h10, fork.batch(0, 10), logging.CodeForked},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, fresh, _, err := tc.from.Advance(tc.batch)
			wantCode(t, err, tc.code)
			if got.Tree.Size() != tc.from.Tree.Size() || fresh != nil {
				t.Error("a refused batch changed the head")
			}
		})
	}
}
