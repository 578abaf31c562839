// SPDX-License-Identifier: Apache-2.0

package spool_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"io"
	"math"
	mrand "math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/logging/spool"
)

func copyDir(t testing.TB, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

// TestRolledBackStore: the flash is put back to an older state. The device does not know, until a receipt reaches it that
// covers more than it has; then it begins a new epoch that says so, and does not append to a history others know longer.
func TestRolledBackStore(t *testing.T) { eachStore(t, testRolledBackStore) }

func testRolledBackStore(t *testing.T) {
	b := newBench(t)
	l := b.open()
	fillLog(t, l, 100)
	old := t.TempDir()
	copyDir(t, b.cfg.Dir, old)
	fillLog(t, l, 100)
	c := b.collector()
	receipt := c.take(l)
	l.Close()
	b.cfg.Dir = old
	l = b.open()
	if s := l.State(); s.Size != 101 || s.Origin.Epoch != 1 {
		t.Fatalf("state = %+v", s)
	}
	wantCode(t, l.Receipt(t.Context(), receipt), logging.CodeRolledBack)
	wantNewEpoch(t, b, l, "rolled-back", 101)
	// The same receipt again is of an earlier epoch now, and means nothing.
	if err := l.Receipt(t.Context(), receipt); err != nil {
		t.Error(err)
	}
	if s := l.State(); s.Origin.Epoch != 2 {
		t.Errorf("epoch %d", s.Origin.Epoch)
	}
}

// A receipt of a later epoch: the whole directory was put back or removed.
func TestRolledBackEpoch(t *testing.T) { eachStore(t, testRolledBackEpoch) }

func testRolledBackEpoch(t *testing.T) {
	b := newBench(t)
	l := b.open()
	receipt, err := b.signer.Sign(logging.Checkpoint{Origin: logging.Origin{Device: l.State().Origin.Device, Epoch: 7}, Size: 3}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	wantCode(t, l.Receipt(t.Context(), receipt), logging.CodeRolledBack)
	if s := l.State(); s.Origin.Epoch != 8 {
		t.Errorf("epoch %d", s.Origin.Epoch)
	}
	last, err := b.signer.Sign(logging.Checkpoint{Origin: logging.Origin{Device: l.State().Origin.Device, Epoch: math.MaxInt64}, Size: 3}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Receipt(t.Context(), last); err == nil {
		t.Error("no error at the last epoch there is")
	}
	if s := l.State(); s.Origin.Epoch != 8 {
		t.Errorf("epoch %d", s.Origin.Epoch)
	}
}

// TestReceiptsThatMoveNothing: forged, foreign, replayed, smaller, or for a root that is not ours.
func TestReceiptsThatMoveNothing(t *testing.T) { eachStore(t, testReceiptsThatMoveNothing) }

func testReceiptsThatMoveNothing(t *testing.T) {
	b := newBench(t)
	l := b.open()
	fillLog(t, l, 100)
	old := b.collector().take(l)
	fillLog(t, l, 100)
	newest := b.collector().take(l)
	if err := l.Receipt(t.Context(), newest); err != nil {
		t.Fatal(err)
	}
	origin := l.State().Origin
	_, priv, _ := ed25519.GenerateKey(rand.Reader)
	stranger, err := logging.NewReceiptSigner("collector.example", priv)
	if err != nil {
		t.Fatal(err)
	}
	sign := func(s *logging.ReceiptSigner, c logging.Checkpoint) []byte {
		msg, err := s.Sign(c, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return msg
	}
	for _, tc := range []struct {
		name, code string
		msg        []byte
	}{
		{"replayed", "", old}, {"the same again", "", newest},
		{"of a stranger", logging.CodeBadReceipt, sign(stranger, logging.Checkpoint{Origin: origin, Size: 201})},
		{"of the device itself", logging.CodeBadReceipt, l.Checkpoint()},
		{"for another device", logging.CodeDeviceMismatch, sign(b.signer, logging.Checkpoint{Origin: newBench(t).open().State().Origin, Size: 201})},
		{"for another root", logging.CodeForked, sign(b.signer, logging.Checkpoint{Origin: origin, Size: 201, Root: logging.Hash{1}})},
		{"for another root in between", logging.CodeForked, sign(b.signer, logging.Checkpoint{Origin: origin, Size: 150, Root: logging.Hash{1}})},
		{"empty", logging.CodeMalformed, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := l.State()
			err := l.Receipt(t.Context(), tc.msg)
			if tc.code == "" && err != nil {
				t.Error(err)
			} else if tc.code != "" {
				wantCode(t, err, tc.code)
			}
			if s := l.State(); s.Acked != before.Acked || s.Pruned != before.Pruned || s.Origin != before.Origin {
				t.Errorf("state = %+v", s)
			}
		})
	}
}

func TestPruneNeedsTheQuorum(t *testing.T) { eachStore(t, testPruneNeedsTheQuorum) }

func testPruneNeedsTheQuorum(t *testing.T) {
	b := newBench(t)
	_, priv, _ := ed25519.GenerateKey(rand.Reader)
	agency, err := logging.NewReceiptSigner("agency.example", priv)
	if err != nil {
		t.Fatal(err)
	}
	if b.cfg.Policy, err = logging.NewPolicy([]string{b.signer.Key().String(), agency.Key().String()}, 2); err != nil {
		t.Fatal(err)
	}
	b.cfg.Keep = 1
	l := b.open()
	fillLog(t, l, 1000)
	receipt := b.collector().take(l)
	for range 2 { // one key twice is one key
		if err := l.Receipt(t.Context(), receipt); err != nil {
			t.Fatal(err)
		}
	}
	if s := l.State(); s.Acked != 0 || s.Pruned != 0 {
		t.Fatalf("one of two keys moved the log: %+v", s)
	}
	wantCode(t, l.Prune(t.Context(), 1), logging.CodeNoQuorum)
	l = b.reopen(l) // the first receipt is remembered
	got, err := b.cfg.Policy.Open(receipt)
	if err != nil {
		t.Fatal(err)
	}
	second, err := agency.Sign(got[0].Checkpoint, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Receipt(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	if s := l.State(); s.Acked != 1001 || s.Pruned != 1000 {
		t.Errorf("state = %+v", s)
	}
	// Without a policy nothing is ever deletable, also what was acknowledged under another one stays acknowledged.
	b.cfg.Policy = logging.Policy{}
	l = b.reopen(l)
	if s := l.State(); s.Acked != 1001 {
		t.Errorf("state = %+v", s)
	}
	wantCode(t, l.Receipt(t.Context(), second), logging.CodeBadReceipt)
}

func TestBatchBounds(t *testing.T) { eachStore(t, testBatchBounds) }

func testBatchBounds(t *testing.T) {
	b := newBench(t)
	b.cfg.Keep = 1
	l := b.open()
	fillLog(t, l, 1000)
	if err := l.Receipt(t.Context(), b.collector().take(l)); err != nil {
		t.Fatal(err)
	}
	for _, start := range []uint64{999, 1002, math.MaxUint64} {
		_, err := l.Batch(t.Context(), start)
		wantCode(t, err, logging.CodeMalformed)
	}
	if batch, err := l.Batch(t.Context(), 1001); err != nil || len(batch.Leaves) != 0 {
		t.Errorf("batch at the end: %d records, %v", len(batch.Leaves), err)
	}
	// Many small commits share a batch; a large append is cut into batches.
	for i := range 100 {
		if err := l.Append(t.Context(), critical(i)); err != nil {
			t.Fatal(err)
		}
	}
	for start := uint64(1001); start < 1101; {
		batch, err := l.Batch(t.Context(), start)
		if err != nil || len(batch.Leaves) == 0 || len(batch.Leaves) > logging.TargetLeaves {
			t.Fatalf("batch from %d: %d records, %v", start, len(batch.Leaves), err)
		}
		if start == 1001 && len(batch.Leaves) != logging.TargetLeaves {
			t.Errorf("first batch has %d records", len(batch.Leaves))
		}
		start = batch.End()
	}
	// Any start inside gives a batch that continues there.
	if batch, err := l.Batch(t.Context(), 1050); err != nil || batch.Start != 1050 || batch.Leaves[0].Index != 1050 {
		t.Errorf("%+v, %v", batch.Start, err)
	}
}

// TestPositionsKeepTheirOrder does random things and looks at pruned <= acked <= size after each; positions never go back
// within an epoch.
func TestPositionsKeepTheirOrder(t *testing.T) { eachStoreNative(t, testPositionsKeepTheirOrder) }

func testPositionsKeepTheirOrder(t *testing.T) {
	b := newBench(t)
	b.cfg.Keep = 5
	l := b.open()
	c := b.collector()
	seed := mrand.Uint64()
	rng := mrand.New(mrand.NewPCG(seed, 4))
	var last spool.State
	for i := range 400 {
		switch rng.IntN(8) {
		case 0, 1, 2:
			fillLog(t, l, rng.IntN(40))
		case 3:
			l.Append(t.Context(), critical(i))
		case 4:
			if r := c.take(l); r != nil {
				l.Receipt(t.Context(), r)
			}
		case 5:
			l.Prune(t.Context(), uint64(rng.IntN(int(l.Size()+10))))
		case 6:
			l.Batch(t.Context(), uint64(rng.IntN(int(l.Size()+10))))
		case 7:
			if rng.IntN(5) == 0 {
				l = b.reopen(l)
			}
			l.Export(t.Context(), io.Discard)
		}
		s := l.State()
		if s.Pruned > s.Acked || s.Acked > s.Size || s.Signed > s.Size {
			t.Fatalf("seed %d, step %d: %+v", seed, i, s)
		}
		if s.Origin.Epoch != 1 || s.Pruned < last.Pruned || s.Acked < last.Acked || s.Size < last.Size {
			t.Fatalf("seed %d, step %d: from %+v to %+v", seed, i, last, s)
		}
		last = s
	}
	if _, err := l.Verify(t.Context()); err != nil {
		t.Error(err)
	}
}
