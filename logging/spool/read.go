// SPDX-License-Identifier: Apache-2.0

package spool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"

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
	if l.headAt < l.marks.size && l.store != nil {
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
	l.handOut(b.End())
	return b, nil
}

// handStep is how many records more are said to be handed out than were, so that a backlog does not cost a write for each batch.
const handStep = 1024

// handOut makes durable, before a checkpoint over size records leaves, that it may have: from then on it stays comparable. Flash that
// cannot be written must not stop what is delivered from it: this process remembers, and the next commit says it.
func (l *Log) handOut(size uint64) {
	l.handing = size == l.headAt
	if size <= l.sent {
		return
	}
	l.sent = min(size+handStep, l.marks.size)
	if l.store != nil {
		_ = l.update("sent", &change{state: l.state()})
	}
}

func (l *Log) fillBatch(b *logging.Batch) error {
	tree := l.min.Clone()
	if l.read.Size() <= b.Start && l.read.Size() >= l.min.Size() {
		tree = l.read.Clone()
	}
	var root logging.Hash // at the end of the batch
	var end logging.Tree
	err := l.view(func(r reader) error {
		if err := reach(r, &tree, b.Start); err != nil {
			return err
		}
		size, taken := 0, 0
		var u unpacker
		err := r.entries(b.Start, func(e entry) (bool, error) {
			if e.kind == kindHead && e.at == b.Start {
				return true, nil
			}
			if e.kind == kindHead {
				// The largest run that ends in a checkpoint within the target, or the first one at all.
				if taken == 0 || len(b.Leaves) <= logging.TargetLeaves && size <= logging.TargetInflated {
					taken, root, end = len(b.Leaves), tree.Root(), tree.Clone()
					b.Checkpoint = slices.Clone(e.value)
				}
				return true, nil
			}
			if taken > 0 && (len(b.Leaves) >= logging.TargetLeaves || size >= logging.TargetInflated) {
				return false, nil
			}
			if e.at != tree.Size() {
				return false, missing(tree.Size())
			}
			leaf, _, err := parseLeaf(e.at, e.value, &u)
			if err != nil {
				return false, err
			}
			if logging.CheckSide(leaf) != nil {
				// Somebody changed the value on flash. The record is whole and goes; Verify tells about the value.
				leaf.Side = nil
			}
			if err := tree.AppendSubtree(leaf.Level, leaf.Hash); err != nil {
				return false, err
			}
			b.Leaves, size = append(b.Leaves, leaf), size+len(leaf.Body)+len(leaf.Side)+logging.HashSize
			return true, nil
		})
		b.Leaves = b.Leaves[:taken]
		return err
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

// From returns the records from index on, as they are when it is their turn, up to the newest; the first may stand for earlier ones
// too, when they were shed and joined. Each is checked against its hash. The iteration ends with an error that matches logging.ErrRefused at a record that is altered, or was pruned
// meanwhile.
func (l *Log) From(ctx context.Context, index uint64) iter.Seq2[logging.Leaf, error] {
	return func(yield func(logging.Leaf, error) bool) {
		for {
			leaves, err := l.some(ctx, index)
			for _, leaf := range leaves {
				if !yield(leaf, nil) {
					return
				}
				index = leaf.End()
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
	err := l.view(func(r reader) error {
		return eachLeaf(r, index, min(index+stepRecords/4, l.marks.size), func(leaf logging.Leaf, _ byte) error {
			leaves = append(leaves, leaf)
			return nil
		})
	})
	return leaves, err
}

// Evidence calls fn with everything the store holds of the present epoch, for logging.Verify or logging.WriteExport: one
// consistent snapshot, which commits meanwhile do not change. The sequence is valid during the call and can be used
// once. It does not check anything, so that a damaged store can be exported. Space freed meanwhile is not reused before fn
// returns: a slow fn makes the store grow, up to its capacity. Its checkpoints stay comparable from then on: whoever gets the evidence
// can tell later whether the log still continues it.
func (l *Log) Evidence(ctx context.Context, fn func(logging.Header, iter.Seq2[logging.Item, error]) error) error {
	return l.evidence(ctx, true, func(s *snapshot) error { return fn(s.header, s.items) })
}

func (l *Log) evidence(ctx context.Context, leaves bool, fn func(*snapshot) error) error {
	snap, err := l.snapshot(ctx, leaves)
	if err != nil {
		return fmt.Errorf("read audit log: %w", err)
	}
	defer func() {
		l.mu.Lock()
		l.readers--
		l.mu.Unlock()
	}()
	return errors.Join(fn(snap), snap.reader.close())
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
	err := l.evidence(ctx, false, func(s *snapshot) (err error) {
		want.Head = s.head
		report, err = logging.Verify(ctx, s.header, s.items, want)
		return err
	})
	return report, err
}

// snapshot is a kept reader and what is needed to walk it.
type snapshot struct {
	ctx    context.Context
	reader reader
	header logging.Header
	head   *logging.Checkpoint // newest
	state  state
	notes  []stored // receipts, smallest first
}

func (l *Log) snapshot(ctx context.Context, leaves bool) (*snapshot, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, ErrClosed
	}
	if err := l.reopen(); err != nil {
		return nil, err
	}
	if leaves {
		l.handOut(l.headAt)
	}
	s := &snapshot{ctx: ctx, head: l.lastCheckpoint(), notes: slices.Clone(l.receipts)}
	slices.SortStableFunc(s.notes, func(a, b stored) int {
		return int(min(max(int64(a.receipt.Checkpoint.Size)-int64(b.receipt.Checkpoint.Size), -1), 1))
	})
	var err error
	if s.reader, err = l.store.read(true); err != nil {
		return nil, err
	}
	if s.state, err = s.reader.state(); err != nil {
		return nil, errors.Join(err, s.reader.close())
	}
	l.readers++
	s.header = logging.Header{SPKI: l.signer.SPKI(), Origin: l.origin(), Start: s.state.min}
	return s, nil
}

// items yields records, checkpoints and receipts in the order logging.Item asks for. Records are read a few at a time and handed out
// outside of the reader, so that a panic of the caller is its own.
func (s *snapshot) items(yield func(logging.Item, error) bool) {
	at := s.state.marks.pruned
	if !s.receipts(at, yield) {
		return
	}
	for {
		items, next, err := s.some(at)
		for _, it := range items {
			if !yield(it, nil) {
				return
			}
			if it.Leaf == nil {
				continue
			}
			// The newest receipts are few; most records have none.
			if !s.receipts(it.Leaf.End(), yield) {
				return
			}
		}
		if err != nil {
			yield(logging.Item{}, err)
			return
		}
		if at = next; at >= s.state.marks.size {
			return
		}
	}
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

// some reads up to stepRecords/4 records with the checkpoints after each, and the checkpoint before the first of all. What is wrong
// with a record is for the reader to find: the hash that is kept with it goes along.
func (s *snapshot) some(first uint64) (items []logging.Item, next uint64, err error) {
	if err := s.ctx.Err(); err != nil {
		return nil, first, err
	}
	next = first
	taken := 0
	var u unpacker
	err = s.reader.entries(first, func(e entry) (bool, error) {
		switch {
		case e.kind == kindHead && e.at == first && first > s.state.marks.pruned:
			return true, nil // was yielded with the record before it
		case e.kind == kindHead && e.at <= s.state.marks.size:
			items = append(items, logging.Item{Checkpoint: slices.Clone(e.value)})
			return true, nil
		case e.kind == kindHead || e.at >= s.state.marks.size || taken == stepRecords/4:
			return false, nil
		}
		leaf, _, err := splitLeaf(e.at, e.value, &u)
		if err == nil {
			items = append(items, logging.Item{Leaf: &leaf})
			next, taken = max(leaf.End(), first), taken+1
		}
		return true, err
	})
	if err == nil && taken == 0 {
		next = s.state.marks.size // nothing is there: the reader finds out
	}
	return items, next, err
}
