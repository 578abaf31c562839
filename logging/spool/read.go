// SPDX-License-Identifier: Apache-2.0

package spool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"

	"go.etcd.io/bbolt"

	"github.com/backstay/backstay/logging"
)

// Batch returns the records from start to a signed checkpoint, ready to be encoded: up to logging.TargetLeaves records and
// logging.TargetInflated bytes, more only when one commit was larger. It returns a batch without records when nothing
// signed is there from start on.
//
// Every record is checked against its hash and the records against the signed root before they are handed out, so an edit
// on disk is never sent as if it were the log. When that fails, the error matches logging.ErrRefused, the store has been
// moved aside and a new epoch has begun: take the positions from State again. A start before Pruned or after Size is refused
// with CodeMalformed.
func (l *Log) Batch(ctx context.Context, start uint64) (logging.Batch, error) {
	if err := ctx.Err(); err != nil {
		return logging.Batch{}, fmt.Errorf("read batch: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return logging.Batch{}, ErrClosed
	}
	b := logging.Batch{SPKI: l.signer.SPKI(), Origin: l.origin(), Start: start}
	if start < l.marks.pruned || start > l.marks.size {
		return b, &logging.Refusal{Code: logging.CodeMalformed, What: fmt.Sprintf("batch from record %d", start),
			Why: fmt.Sprintf("records %d to %d are here", l.marks.pruned, l.marks.size)}
	}
	if l.headAt < l.marks.size && l.db != nil {
		if l.signErr = l.signTail(); isDamage(l.signErr) {
			return b, fmt.Errorf("read batch: %w", l.damage(l.signErr))
		}
	}
	if start >= l.headAt {
		return b, nil
	}
	if err := l.fillBatch(&b); err != nil {
		return logging.Batch{}, fmt.Errorf("read batch: %w", l.damage(err))
	}
	return b, nil
}

func (l *Log) fillBatch(b *logging.Batch) error {
	tree := l.min.Clone()
	if l.read.Size() <= b.Start && l.read.Size() >= l.min.Size() {
		tree = l.read.Clone()
	}
	var root logging.Hash // at the end of the batch
	var end logging.Tree
	err := l.view(func(bk *bbolt.Bucket) error {
		if err := extend(bk, &tree, b.Start); err != nil {
			return err
		}
		size, taken := 0, 0
		c := bk.Cursor()
		for k, v := c.Seek(leafKey(b.Start)); ; k, v = c.Next() {
			index, kind, ok := parseRecordKey(k)
			if !ok {
				break
			}
			if kind == kindHead {
				// The largest run that ends in a checkpoint within the target, or the first one at all.
				if taken == 0 || len(b.Leaves) <= logging.TargetLeaves && size <= logging.TargetInflated {
					taken, root, end = len(b.Leaves), tree.Root(), tree.Clone()
					b.Checkpoint = slices.Clone(v)
				}
				continue
			}
			if taken > 0 && (len(b.Leaves) >= logging.TargetLeaves || size >= logging.TargetInflated) {
				break
			}
			if index != tree.Size() {
				return missing(tree.Size())
			}
			leaf, _, err := parseLeaf(index, v)
			if err != nil {
				return err
			}
			tree.Append(leaf.Hash)
			b.Leaves, size = append(b.Leaves, leaf), size+len(leaf.Body)+logging.HashSize
		}
		b.Leaves = b.Leaves[:taken]
		return nil
	})
	if err != nil {
		return err
	}
	c, err := logging.OpenCheckpoint(b.Checkpoint, b.SPKI)
	if err != nil {
		return damaged(err)
	}
	if c.Origin != b.Origin || c.Size != b.End() || c.Root != root {
		return rootMismatch(l.marks.pruned, b.End())
	}
	l.read = end
	return nil
}

// From returns the records from index on, as they are when it is their turn, up to the newest. Each is checked against its
// hash. The iteration ends with an error that matches logging.ErrRefused at a record that is altered, or was pruned
// meanwhile.
func (l *Log) From(ctx context.Context, index uint64) iter.Seq2[logging.Leaf, error] {
	return func(yield func(logging.Leaf, error) bool) {
		for {
			leaves, err := l.some(ctx, index)
			for _, leaf := range leaves {
				if !yield(leaf, nil) {
					return
				}
				index = leaf.Index + 1
			}
			if err != nil {
				yield(logging.Leaf{}, err)
				return
			}
			if len(leaves) == 0 {
				return
			}
		}
	}
}

// some returns a few records, read in one short transaction, so that a slow reader holds up nothing.
func (l *Log) some(ctx context.Context, index uint64) ([]logging.Leaf, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("read audit log: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, ErrClosed
	}
	if index < l.marks.pruned {
		return nil, &logging.Refusal{Code: logging.CodeRecordMissing, What: fmt.Sprintf("record %d", index), Why: "it was pruned"}
	}
	if index >= l.marks.size {
		return nil, nil
	}
	var leaves []logging.Leaf
	err := l.view(func(b *bbolt.Bucket) error {
		return eachLeaf(b, index, min(index+stepRecords/4, l.marks.size), func(leaf logging.Leaf, _ byte) error {
			leaves = append(leaves, leaf)
			return nil
		})
	})
	return leaves, err
}

// Evidence calls fn with everything the store holds of the present epoch, for logging.Verify or logging.WriteExport: one
// consistent snapshot, which commits meanwhile do not change. The sequence is valid during the call and can be used
// once. It does not check anything, so that a damaged store can be exported. Pages freed meanwhile are not reused before
// fn returns: a slow fn makes the file grow, up to its capacity.
func (l *Log) Evidence(ctx context.Context, fn func(logging.Header, iter.Seq2[logging.Item, error]) error) error {
	snap, err := l.snapshot(ctx)
	if err != nil {
		return fmt.Errorf("read audit log: %w", err)
	}
	defer func() {
		l.mu.Lock()
		l.readers--
		l.mu.Unlock()
	}()
	// fn is not run under guarded: its panics are its own.
	return errors.Join(fn(snap.header, snap.items), guarded(snap.tx.Rollback))
}

// Export writes the evidence in the form of logging.WriteExport.
func (l *Log) Export(ctx context.Context, w io.Writer) error {
	return l.Evidence(ctx, func(h logging.Header, items iter.Seq2[logging.Item, error]) error {
		return logging.WriteExport(w, h, items)
	})
}

// Verify checks the store on disk against its signatures, against the receipts in it, and against the newest checkpoint
// this process remembers. A refusal (logging.ErrRefused) names the first record that is wrong; it changes nothing.
func (l *Log) Verify(ctx context.Context) (logging.Report, error) {
	var report logging.Report
	want := logging.Expect{Device: l.signer.DeviceID(), Policy: l.cfg.Policy}
	l.mu.Lock()
	want.Head = l.lastCheckpoint()
	l.mu.Unlock()
	err := l.Evidence(ctx, func(h logging.Header, items iter.Seq2[logging.Item, error]) (err error) {
		report, err = logging.Verify(ctx, h, items, want)
		return err
	})
	return report, err
}

// snapshot is an open read transaction and what is needed to walk it.
type snapshot struct {
	ctx    context.Context
	tx     *bbolt.Tx
	bucket *bbolt.Bucket
	header logging.Header
	state  state
	notes  []stored // receipts, smallest first
}

func (l *Log) snapshot(ctx context.Context) (*snapshot, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, ErrClosed
	}
	if err := l.reopen(); err != nil {
		return nil, err
	}
	s := &snapshot{ctx: ctx, notes: slices.Clone(l.receipts)}
	slices.SortStableFunc(s.notes, func(a, b stored) int {
		return int(min(max(int64(a.receipt.Checkpoint.Size)-int64(b.receipt.Checkpoint.Size), -1), 1))
	})
	err := guarded(func() (err error) {
		if s.tx, err = l.db.Begin(false); err != nil {
			return err
		}
		if s.bucket, err = bucket(s.tx); err == nil {
			s.state, err = parseState(s.bucket.Get(stateKey))
		}
		if err != nil {
			return errors.Join(err, s.tx.Rollback())
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	l.readers++
	s.header = logging.Header{SPKI: l.signer.SPKI(), Origin: l.origin(), Start: s.state.min}
	return s, nil
}

// items yields records, checkpoints and receipts in the order logging.Item asks for. The pages are read a few records at a
// time under guarded, and handed out outside of it.
func (s *snapshot) items(yield func(logging.Item, error) bool) {
	at := s.state.marks.pruned
	if !s.receipts(at, yield) || !s.leadingHead(at, yield) {
		return
	}
	for at < s.state.marks.size {
		items, next, err := s.some(at)
		for _, it := range items {
			if !yield(it, nil) {
				return
			}
			if it.Leaf == nil {
				continue
			}
			// The newest receipts are few; most records have none.
			if !s.receipts(it.Leaf.Index+1, yield) {
				return
			}
		}
		if err != nil {
			yield(logging.Item{}, err)
			return
		}
		at = next
	}
}

// leadingHead yields the checkpoint that stands right before the first record, if it was kept.
func (s *snapshot) leadingHead(at uint64, yield func(logging.Item, error) bool) bool {
	var head []byte
	err := guarded(func() error {
		head = slices.Clone(s.bucket.Get(headKey(at)))
		return nil
	})
	if err != nil {
		yield(logging.Item{}, err)
		return false
	}
	return head == nil || yield(logging.Item{Checkpoint: head}, nil)
}

func (s *snapshot) receipts(upTo uint64, yield func(logging.Item, error) bool) bool {
	for len(s.notes) > 0 && (s.notes[0].receipt.Checkpoint.Size <= upTo) {
		note := s.notes[0].note
		s.notes = s.notes[1:]
		if !yield(logging.Item{Receipt: note}, nil) {
			return false
		}
	}
	return true
}

// some reads the items of up to stepRecords/4 records. What is wrong with a record is for the reader to find: the hash
// that is kept with it goes along.
func (s *snapshot) some(first uint64) (items []logging.Item, next uint64, err error) {
	if err := s.ctx.Err(); err != nil {
		return nil, first, err
	}
	next = min(first+stepRecords/4, s.state.marks.size)
	err = guarded(func() error {
		c := s.bucket.Cursor()
		for k, v := c.Seek(leafKey(first)); k != nil; k, v = c.Next() {
			index, kind, ok := parseRecordKey(k)
			if !ok || index >= next {
				break
			}
			if kind == kindHead {
				items = append(items, logging.Item{Checkpoint: slices.Clone(v)})
				continue
			}
			if len(v) < 1+logging.HashSize {
				return altered(index, "it is cut off")
			}
			leaf := logging.Leaf{Index: index, Hash: logging.Hash(v[1 : 1+logging.HashSize])}
			if v[0]&flagShed == 0 {
				leaf.Body = append([]byte{}, v[1+logging.HashSize:]...)
			}
			items = append(items, logging.Item{Leaf: &leaf})
		}
		return nil
	})
	return items, next, err
}
