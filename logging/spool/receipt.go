// SPDX-License-Identifier: Apache-2.0

package spool

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/backstay/backstay/logging"
)

// stored is the newest receipt of one key.
type stored struct {
	note    []byte
	receipt logging.Receipt
}

// pruneStep is how many acknowledged records beyond Keep come together before they are removed: each removal rewrites
// pages, and flash does not like it.
const pruneStep = 256

// Receipt takes an acknowledgement from anywhere: only a signature of a key in the policy, over our own root, moves
// anything. It is durable when Receipt returns nil. A receipt that is older than what is known, of an earlier epoch, or of
// records no longer here is not an error and changes nothing.
//
// Errors match logging.ErrRefused: CodeMalformed, CodeBadReceipt, CodeDeviceMismatch when it proves nothing;
// CodeForked when a listed key signed another root for a size of this log, which is evidence against it or against this
// device; CodeRolledBack when it acknowledges records, or an epoch, that this device does not have: the store was put back
// to an older state, and a new epoch has begun. After that the caller must take the positions from State again.
func (l *Log) Receipt(ctx context.Context, msg []byte) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("take receipt: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return ErrClosed
	}
	got, err := l.cfg.Policy.Open(msg)
	if err != nil {
		return fmt.Errorf("take receipt: %w", err)
	}
	if err := l.reopen(); err != nil {
		return fmt.Errorf("take receipt: %w", err)
	}
	fresh, err := l.accept(got)
	if err != nil {
		return fmt.Errorf("take receipt: %w", err)
	}
	if len(fresh) == 0 {
		return nil
	}
	if err := l.keep(fresh, msg); err != nil {
		return fmt.Errorf("take receipt: %w", err)
	}
	if keep := l.cfg.Keep; l.marks.acked > keep && l.marks.acked-keep >= l.marks.pruned+pruneStep {
		if err := l.prune(l.marks.acked - keep); err != nil {
			return fmt.Errorf("take receipt: %w", l.damage(err))
		}
	}
	l.notify()
	return nil
}

// accept returns those of the receipts that say something new and true.
func (l *Log) accept(got []logging.Receipt) ([]logging.Receipt, error) {
	c := got[0].Checkpoint
	what := fmt.Sprintf("receipt of %s for %d records of %s", got[0].Key, c.Size, c.Origin)
	refuse := func(code, why string) error { return &logging.Refusal{Code: code, What: what, Why: why} }
	switch {
	case c.Origin.Device != l.signer.DeviceID():
		return nil, refuse(logging.CodeDeviceMismatch, "it is for another device")
	case c.Origin.Epoch < l.epoch:
		return nil, nil
	case c.Origin.Epoch > l.epoch || c.Size > l.marks.size:
		refusal := refuse(logging.CodeRolledBack, fmt.Sprintf("this device has %d records of epoch %d", l.marks.size, l.epoch))
		return nil, errors.Join(refusal, l.newEpochAt(c.Origin.Epoch+1, reasonRolledBack, refusal))
	case c.Size < l.marks.pruned:
		return nil, nil
	}
	var fresh []logging.Receipt
	for _, r := range got {
		if known := l.newest(r); known == nil || r.Checkpoint.Size > known.Checkpoint.Size {
			fresh = append(fresh, r)
		}
	}
	root, err := l.rootAt(c.Size)
	if errors.Is(err, errInside) {
		// Such a size never left this store: the device that sent it had another one.
		refusal := refuse(logging.CodeRolledBack, "this device shed records before and after that size as one, and had not sent them")
		return nil, errors.Join(refusal, l.newEpochAt(l.epoch+1, reasonRolledBack, refusal))
	}
	if err != nil {
		return nil, l.damage(err)
	}
	if root != c.Root {
		return nil, refuse(logging.CodeForked, "its root is not the root of the log on this device")
	}
	return fresh, nil
}

func (l *Log) newest(r logging.Receipt) *logging.Receipt {
	for i := range l.receipts {
		if k := &l.receipts[i].receipt; k.Key == r.Key && k.KeyHash == r.KeyHash {
			return k
		}
	}
	return nil
}

// rootAt returns the root over the first size records, for pruned <= size.
func (l *Log) rootAt(size uint64) (logging.Hash, error) {
	if size == l.marks.size {
		return l.tree.Root(), nil
	}
	tree := l.min.Clone()
	err := l.view(func(r reader) error { return reach(r, &tree, size) })
	return tree.Root(), err
}

// keep stores receipts and the position they add up to in one transaction.
func (l *Log) keep(fresh []logging.Receipt, msg []byte) error {
	next := append([]stored(nil), l.receipts...)
	for _, r := range fresh {
		next = replace(next, stored{note: msg, receipt: r})
	}
	marks := l.marks
	marks.ack(l.cfg.Policy.Acked(receiptsOf(next)))
	c := &change{state: l.state()}
	c.state.marks = marks
	for _, r := range fresh {
		c.receipts = append(c.receipts, receiptNote{key: receiptKey(r), note: msg})
	}
	if err := l.update("receipt", c); err != nil {
		return l.damage(err)
	}
	l.receipts, l.marks = next, marks
	return nil
}

func replace(list []stored, s stored) []stored {
	for i, o := range list {
		if o.receipt.Key == s.receipt.Key && o.receipt.KeyHash == s.receipt.KeyHash {
			list[i] = s
			return list
		}
	}
	return append(list, s)
}

func receiptsOf(list []stored) []logging.Receipt {
	out := make([]logging.Receipt, len(list))
	for i, s := range list {
		out[i] = s.receipt
	}
	return out
}

func receiptKey(r logging.Receipt) string { return fmt.Sprintf("%s+%08x", r.Key, r.KeyHash) }

// loadReceipts reads the stored receipts; one that the present policy does not accept counts for nothing and is left out.
func (l *Log) loadReceipts() ([]stored, error) {
	var list []stored
	err := l.view(func(r reader) error {
		return r.receipts(func(key string, v []byte) error {
			note := append([]byte(nil), v...)
			got, err := l.cfg.Policy.Open(note)
			if err != nil || got[0].Checkpoint.Origin != l.origin() {
				return nil
			}
			if got[0].Checkpoint.Size > l.marks.size {
				return damaged(&logging.Refusal{Code: logging.CodeTruncated, What: "log of this device",
					Why: fmt.Sprintf("a receipt in the store covers %d records, %d are here", got[0].Checkpoint.Size, l.marks.size)})
			}
			for _, r := range got {
				if receiptKey(r) == key {
					list = append(list, stored{note: note, receipt: r})
				}
			}
			return nil
		})
	})
	return list, err
}

// Prune removes the records before index to. It refuses (CodeNoQuorum) to remove any that a quorum has not acknowledged.
// The log prunes itself when receipts arrive; Prune is for a smaller retention than Config.Keep.
func (l *Log) Prune(ctx context.Context, to uint64) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("prune audit log: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed:
		return ErrClosed
	case to > l.marks.acked:
		return &logging.Refusal{Code: logging.CodeNoQuorum, What: fmt.Sprintf("pruning before record %d", to),
			Why: fmt.Sprintf("only %d records are acknowledged", l.marks.acked)}
	}
	if err := l.reopen(); err != nil {
		return fmt.Errorf("prune audit log: %w", err)
	}
	if err := l.prune(to); err != nil {
		return fmt.Errorf("prune audit log: %w", l.damage(err))
	}
	l.notify()
	return nil
}

// prune removes records in steps, each with the frontier that replaces them in the same transaction. The hashes that go
// into the frontier are checked against the tree in memory first: after this, nothing could tell a wrong one.
func (l *Log) prune(to uint64) error {
	to = min(to, l.marks.acked)
	if to <= l.marks.pruned {
		return nil
	}
	if root, err := l.rootFromDisk(); err != nil {
		return err
	} else if root != l.tree.Root() {
		return rootMismatch(l.marks.pruned, l.marks.size)
	}
	for l.marks.pruned < to {
		end := min(l.marks.pruned+stepRecords, to)
		s := l.state()
		s.min = l.min.Clone()
		if err := l.view(func(r reader) (err error) {
			end, err = pruneTo(r, &s.min, end, to)
			return err
		}); err != nil || end == l.marks.pruned {
			return err // what is joined stays until all of it may go
		}
		s.marks.prune(end)
		if err := l.update("prune", &change{pruned: span{l.marks.pruned, end}, state: s}); err != nil {
			return err
		}
		l.marks, l.min = s.marks, s.min
		if l.read.Size() < end {
			l.read = l.min.Clone()
		}
	}
	return nil
}

// pruneTo adds to the frontier what may be pruned up to end, and the records joined there, if all of them are before limit.
func pruneTo(r reader, tree *logging.Tree, end, limit uint64) (uint64, error) {
	err := extend(r, tree, end)
	if err == nil && tree.Size() < end {
		err = eachLeaf(r, tree.Size(), tree.Size()+1, func(leaf logging.Leaf, _ byte) error {
			if leaf.End() > limit {
				return nil
			}
			return tree.AppendSubtree(leaf.Level, leaf.Hash)
		})
	}
	return tree.Size(), err
}

// reportInterval bounds how often log.pruned records come: pruning is ordinary, and each record is one more to prune.
const reportInterval = time.Hour

// prunedEvent names the records that were pruned since the last such record, and the receipts that allowed it.
func (l *Log) prunedEvent() (e logging.Event, due bool) {
	if l.marks.pruned <= l.reported || time.Now().Before(l.reportAt) {
		return e, false
	}
	attrs := []slog.Attr{
		slog.String("message", "acknowledged records were removed"),
		slog.Uint64("count", l.marks.pruned-l.reported), slog.Uint64("first", l.reported), slog.Uint64("last", l.marks.pruned-1),
		slog.Uint64("acknowledged", l.marks.acked),
	}
	for _, s := range l.receipts[:min(len(l.receipts), maxNamedReceipts)] {
		if c := s.receipt.Checkpoint; c.Size >= l.marks.pruned {
			attrs = append(attrs, slog.String("receipt", fmt.Sprintf("%s %d %s", receiptKey(s.receipt), c.Size, base64.StdEncoding.EncodeToString(c.Root[:]))))
		}
	}
	return l.event("log.pruned", attrs...), true
}

const maxNamedReceipts = 8

func (l *Log) rootFromDisk() (logging.Hash, error) {
	tree := l.min.Clone()
	err := l.view(func(r reader) error { return reach(r, &tree, l.marks.size) })
	return tree.Root(), err
}

// damage begins a new epoch if err means that the store is damaged, and returns err all the same.
func (l *Log) damage(err error) error {
	if !isDamage(err) {
		return err
	}
	return errors.Join(err, l.newEpoch(reasonDamaged, err))
}
