// SPDX-License-Identifier: Apache-2.0

package spool_test

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/logging/spool"
)

// TestShedRuns makes a log in which records were shed, and treats copies of it.
func TestShedRuns(t *testing.T) {
	eachStoreNative(t, func(t *testing.T) {
		b := newBench(t)
		b.cfg.Capacity, b.cfg.Keep = spool.MinCapacity, 1<<30
		l := b.open()
		fillLog(t, l, 3500)
		var run logging.Leaf
		for leaf, err := range l.From(t.Context(), 0) {
			if err != nil {
				t.Fatal(err)
			}
			if run.Count() < leaf.Count() {
				run = leaf
			}
		}
		if run.Count() < 64 {
			t.Fatalf("one hash stands for %d records at most", run.Count())
		}
		l.Close()
		for name, fn := range map[string]func(*testing.T, *bench, logging.Leaf){
			"receipt inside": receiptInside, "prune inside": pruneInside,
			"edited hash":  func(t *testing.T, b *bench, run logging.Leaf) { editedRun(t, b, run, func(v []byte) { v[9] ^= 1 }) },
			"lower level":  func(t *testing.T, b *bench, run logging.Leaf) { editedRun(t, b, run, func(v []byte) { v[33]-- }) },
			"higher level": func(t *testing.T, b *bench, run logging.Leaf) { editedRun(t, b, run, func(v []byte) { v[33]++ }) },
			"level 62":     func(t *testing.T, b *bench, run logging.Leaf) { editedRun(t, b, run, func(v []byte) { v[33] = 62 }) },
			"level 0":      func(t *testing.T, b *bench, run logging.Leaf) { editedRun(t, b, run, func(v []byte) { v[33] = 0 }) },
			"no level":     func(t *testing.T, b *bench, run logging.Leaf) { editedRun(t, b, run, func(v []byte) { v[0] &^= 16 }) },
			"not shed":     func(t *testing.T, b *bench, run logging.Leaf) { editedRun(t, b, run, func(v []byte) { v[0] &^= 2 }) },
		} {
			t.Run(name, func(t *testing.T) {
				c := *b
				c.t, c.cfg.Dir = t, t.TempDir()
				if err := os.CopyFS(c.cfg.Dir, os.DirFS(b.cfg.Dir)); err != nil {
					t.Fatal(err)
				}
				fn(t, &c, run)
			})
		}
	})
}

// A receipt for a size inside of records that were shed as one is for a log this device did not send: a new epoch begins.
func receiptInside(t *testing.T, b *bench, run logging.Leaf) {
	l := b.open()
	far, err := b.signer.Sign(logging.Checkpoint{Origin: l.State().Origin, Size: run.Index + 5}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Batch(t.Context(), run.Index+5); !errors.Is(err, logging.ErrRefused) || l.State().Origin.Epoch != 1 {
		t.Errorf("batch from within: %v", err)
	}
	wantCode(t, l.Receipt(t.Context(), far), logging.CodeRolledBack)
	if s := l.State(); s.Origin.Epoch != 2 {
		t.Errorf("state = %+v", s)
	}
}

// Pruning takes all that one hash stands for, or nothing of it.
func pruneInside(t *testing.T, b *bench, run logging.Leaf) {
	l := b.open()
	if err := l.Receipt(t.Context(), b.collector().take(l)); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ to, want uint64 }{{run.End() - 1, run.Index}, {run.End(), run.End()}, {run.End() + 1, 0}} {
		if err := l.Prune(t.Context(), tc.to); err != nil {
			t.Fatal(err)
		}
		if s := l.State(); s.Pruned > tc.to || tc.want > 0 && s.Pruned != tc.want {
			t.Errorf("pruned to %d, asked for %d", s.Pruned, tc.to)
		}
		l = b.reopen(l)
		if _, err := l.Verify(t.Context()); err != nil || l.State().Origin.Epoch != 1 {
			t.Fatal(err)
		}
	}
	// Reading from any place gives what stands for the record there.
	for _, at := range []uint64{l.State().Pruned, run.End() + 100, run.End() + 101, l.Size() - 1} {
		for leaf, err := range l.From(t.Context(), at) {
			if err != nil || leaf.Index > at || leaf.End() <= at {
				t.Errorf("from %d: records %d to %d, %v", at, leaf.Index, leaf.End()-1, err)
			}
			break
		}
	}
}

// Who edits the hash of shed records on flash is found out, whether it is of one or of many; so is who changes what it stands for.
func editedRun(t *testing.T, b *bench, run logging.Leaf, fn func(v []byte)) {
	edit(t, b, func(k keys) error {
		v := bytes.Clone(k.Get(key(run.Index, 0)))
		fn(v)
		return k.Put(key(run.Index, 0), v)
	})
	l := b.open()
	reason, _ := decode(t, l, 0).Attr("reason")
	if l.State().Origin.Epoch != 2 || !slices.Contains([]string{logging.CodeRootMismatch, logging.CodeRecordMissing, logging.CodeRecordAltered, logging.CodeDamaged}, reason) {
		t.Errorf("epoch %d because of %q", l.State().Origin.Epoch, reason)
	}
}
