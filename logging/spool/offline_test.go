// SPDX-License-Identifier: Apache-2.0

package spool_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"

	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/logging/spool"
)

// TestThirtyDaysOffline: 10 000 events a day, nobody acknowledges anything, the default capacity. No event is only counted: whoever
// comes back gets every record in order, or is told its index exactly.
func TestThirtyDaysOffline(t *testing.T) {
	for _, every := range []int{1000, 100} {
		t.Run(fmt.Sprintf("one of %d critical", every), func(t *testing.T) {
			eachStoreNative(t, func(t *testing.T) { testThirtyDaysOffline(t, every) })
		})
	}
}

func testThirtyDaysOffline(t *testing.T, every int) {
	events, b := 30*10000, newBench(t)
	b.cfg.Capacity = spool.DefaultCapacity
	if os.Getenv("BACKSTAY_LONG") != "1" {
		events, b.cfg.Capacity = 4000, 640<<10
	}
	l := b.open()
	start := written(t)
	for i := range events {
		e := ordinary(i)
		if i%every == 0 {
			e = critical(i)
		}
		e.Attrs = append(slices.Clone(e.Attrs), logging.Attr{Name: "n", Value: strconv.Itoa(i)})
		if err := l.Append(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	per := (written(t) - start) / int64(events)
	s := l.State()
	if size := fileSize(t, b); size > b.cfg.Capacity {
		t.Errorf("%d bytes, capacity %d", size, b.cfg.Capacity)
	}
	shedIsNamed(t, l)
	c := b.collector()
	receipt := c.take(l)
	got := c.leaves[s.Origin]
	n := delivered(t, got, every)
	if n.events+n.shed != events || n.critical != (events+every-1)/every || s.Lost != 0 || n.gaps != 0 || logging.Records(got) != s.Size {
		t.Errorf("%+v of %d events, %d lost, %d records of %d", n, events, s.Lost, logging.Records(got), s.Size)
	}
	t.Logf("%d events: %d bytes in %d files, %d bytes written per event; delivered %d events (%d critical) and the exact place of %d more, in %d hashes; fill %d %%",
		events, fileSize(t, b), len(b.files()), per, n.events, n.critical, n.shed, n.hashes, s.Fill)
	if err := l.Receipt(t.Context(), receipt); err != nil {
		t.Fatal(err)
	}
	if err := l.Append(t.Context(), critical(1)); err != nil {
		t.Fatal(err)
	}
	if report, err := l.Verify(t.Context()); err != nil || report.Acked != s.Size {
		t.Errorf("acknowledged %d of %d, %v", report.Acked, s.Size, err)
	}
}

// tally is what a consumer has.
type tally struct{ events, critical, shed, hashes, gaps int }

// delivered counts events by their number, each of which stands behind as many others, delivered or shed, as it should.
func delivered(t *testing.T, leaves []logging.Leaf, every int) (n tally) {
	t.Helper()
	next := uint64(0)
	for _, l := range leaves {
		if l.Index != next {
			t.Fatalf("record %d follows %d", l.Index, next)
		}
		next = l.End()
		if l.Shed() {
			n.shed += int(l.Count())
			n.hashes++
			continue
		}
		r, err := logging.DecodeLeaf(l.Body)
		if err != nil {
			t.Fatal(err)
		}
		text, ok := r.Attr("n")
		switch i, err := strconv.Atoi(text); {
		case r.Code == "log.gap":
			n.gaps++
		case !ok:
		case err != nil || i != n.events+n.shed || (i%every == 0) != (r.Code == "update.installed"):
			t.Fatalf("record %d is event %s, %d came before", l.Index, text, n.events+n.shed)
		default:
			n.events++
			if i%every == 0 {
				n.critical++
			}
		}
	}
	return n
}

// TestShedNeverCrossesAHead: consumers come and go, each at its own pace and without a receipt, exports leave the device, it restarts,
// flash is full all the time. Whoever was handed a checkpoint can go on from there and compare it for ever, and batches stay as small
// as a consumer allows.
func TestShedNeverCrossesAHead(t *testing.T) { eachStoreNative(t, testShedNeverCrossesAHead) }

func testShedNeverCrossesAHead(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 9))
	t.Logf("seed %d", seed)
	b := newBench(t)
	b.cfg.Capacity = 1 << 20
	rounds := 80
	if os.Getenv("BACKSTAY_LONG") == "1" {
		b.cfg.Capacity, rounds = 8<<20, 900
	}
	l := b.open()
	consumers := []*consumer{{t: t}, {t: t}, {t: t}}
	var heads []logging.Checkpoint
	for round := range rounds {
		if dense := rng.IntN(5) == 0 && l.State().Fill < 60; dense {
			// A critical event in the midst of each commit, so that what is shed stands before every checkpoint.
			for range 25 {
				e := critical(round)
				e.Message = noiseText(rng.Int(), rng.IntN(300))
				if err := l.Append(t.Context(), ordinary(1), e, ordinary(2)); err != nil {
					t.Fatal(err)
				}
			}
		}
		for range rng.IntN(200) {
			if err := l.Append(t.Context(), ordinary(round)); err != nil {
				t.Fatal(err)
			}
		}
		switch rng.IntN(8) {
		case 0:
			l = b.reopen(l)
		case 1, 2:
			consumers[rng.IntN(len(consumers))].take(l, rng.IntN(12))
		case 3:
			if rng.IntN(4) == 0 {
				heads = append(heads, exported(t, l))
			}
		}
	}
	most := uint64(0)
	for _, c := range consumers {
		c.take(l, 1<<30)
		if got := logging.Records(c.leaves); got != l.State().Size {
			t.Errorf("a consumer has %d of %d records", got, l.State().Size)
		}
		for _, leaf := range c.leaves {
			most = max(most, leaf.Count())
		}
	}
	shedIsNamed(t, l)
	for _, h := range heads {
		verifyAgainst(t, l, h)
	}
	if most < 16 {
		t.Errorf("one hash stands for %d records at most", most)
	}
	t.Logf("%d records, %d heads, one hash for up to %d records, fill %d %%", l.State().Size, len(heads), most, l.State().Fill)
}

// What was handed out is known after a power cut, without a commit in between.
func TestHandedOutSurvivesACut(t *testing.T) {
	eachStoreNative(t, func(t *testing.T) {
		b := newBench(t)
		b.cfg.Capacity = spool.MinCapacity
		l := b.open()
		for range 9 {
			fillLog(t, l, 37)
		}
		c := &consumer{t: t}
		c.take(l, 5)
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(b.cfg.Dir)); err != nil {
			t.Fatal(err)
		}
		b.cfg.Dir = dir
		l = b.open()
		fillLog(t, l, 3000)
		if logging.Records(shedLeaves(t, l)) == 0 {
			t.Error("nothing was shed")
		}
		if c.take(l, 1<<30); logging.Records(c.leaves) != l.State().Size {
			t.Errorf("%d of %d records", logging.Records(c.leaves), l.State().Size)
		}
	})
}

// A device whose records are fetched as they come writes once that they are handed out, not each time; one that catches up, once in a
// thousand records.
func TestHandingOutIsRarelyWritten(t *testing.T) {
	eachStoreNative(t, func(t *testing.T) {
		b := newBench(t)
		writes := 0
		l, err := spool.OpenWithFuse(b.cfg, func(e spool.Effect) (bool, error) {
			if e.Op == "sent" {
				writes++
			}
			return true, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		c := &consumer{t: t}
		for i := range 40 {
			if err := l.Append(t.Context(), critical(i)); err != nil {
				t.Fatal(err)
			}
			c.take(l, 9)
		}
		if writes != 1 {
			t.Errorf("%d writes for 40 batches", writes)
		}
		fillLog(t, l, 3000)
		if c.take(l, 1<<30); writes > 5 {
			t.Errorf("%d writes for 3000 records", writes-1)
		}
	})
}

func shedLeaves(t *testing.T, l *spool.Log) (out []logging.Leaf) {
	t.Helper()
	for leaf, err := range l.From(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		if leaf.Shed() {
			out = append(out, leaf)
		}
	}
	return out
}

// consumer keeps a head and gives no receipts.
type consumer struct {
	t      *testing.T
	head   logging.Head
	leaves []logging.Leaf
}

// take fetches at most so many batches.
func (c *consumer) take(l *spool.Log, batches int) {
	c.t.Helper()
	c.head.Origin = l.State().Origin
	for range batches {
		b, err := l.Batch(c.t.Context(), c.head.Tree.Size())
		if err != nil {
			c.t.Fatal(err)
		}
		if len(b.Leaves) == 0 {
			return
		}
		wire, err := logging.EncodeBatch(b)
		if err != nil {
			c.t.Fatal(err)
		}
		if len(b.Leaves) > 2*logging.TargetLeaves {
			c.t.Errorf("a batch of %d entries", len(b.Leaves))
		}
		if b, err = logging.DecodeBatch(wire); err != nil {
			c.t.Fatal(err)
		}
		next, fresh, _, err := c.head.Advance(b)
		if err != nil {
			c.t.Fatalf("from %d to %d: %v", b.Start, b.End(), err)
		}
		c.head, c.leaves = next, append(c.leaves, fresh...)
	}
}

// exported takes an export out and returns the head that somebody then knows.
func exported(t *testing.T, l *spool.Log) logging.Checkpoint {
	t.Helper()
	var out bytes.Buffer
	if err := l.Export(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	h, err := logging.OpenCheckpoint(l.State().Checkpoint, l.SPKI())
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func verifyAgainst(t *testing.T, l *spool.Log, head logging.Checkpoint) {
	t.Helper()
	var out bytes.Buffer
	if err := l.Export(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	h, items, err := logging.ReadExport(&out)
	if err != nil {
		t.Fatal(err)
	}
	report, err := logging.Verify(context.Background(), h, items, logging.Expect{Head: &head})
	if err != nil || !report.HeadChecked || report.Unnamed != 0 {
		t.Errorf("head of %d records: checked %v, %d unnamed, %v", head.Size, report.HeadChecked, report.Unnamed, err)
	}
}
