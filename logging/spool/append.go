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

// Append adds events in order. If one of them is critical (see logging.Event.Critical), everything pending and all of them
// are durable and signed when Append returns nil. Otherwise they may wait in memory for up to 5 seconds or until 64 of them
// wait, and a power cut before that loses them.
//
// An error means the events are not durable yet; they stay pending and are tried again with the next Append, Run or Flush,
// so the caller must not append them a second time. It matches logging.ErrRetry when they had to be dropped because the
// store is full or cannot be written: they are counted, and a log.gap record will say how many.
func (l *Log) Append(ctx context.Context, events ...logging.Event) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("append to audit log: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return ErrClosed
	}
	var err error
	lost := false
	for _, e := range events {
		e = clamp(l.stamp(e))
		if !l.pending.fits(e) && !time.Now().Before(l.retry) {
			err = errors.Join(err, l.commit())
		}
		if len(l.pending.events) == 0 {
			l.since = time.Now()
			select {
			case l.kick <- struct{}{}:
			default:
			}
		}
		for _, out := range l.pending.add(e) {
			lost = true
			l.lose(out, "not written in time")
		}
		l.urgent = l.urgent || e.Critical()
		l.saveCritical(e)
	}
	if l.due(events) {
		err = errors.Join(err, l.commit())
	}
	if lost {
		err = errors.Join(err, fmt.Errorf("too many events wait: %w", logging.ErrRetry))
	}
	if err != nil {
		return fmt.Errorf("append to audit log: %w", err)
	}
	return nil
}

// due reports whether an append of events must write now. While writing fails, each attempt costs the encoding of all that
// waits, so ordinary events try again once a second; a critical one always does.
func (l *Log) due(events []logging.Event) bool {
	for _, e := range events {
		if e.Critical() {
			return true
		}
	}
	if time.Now().Before(l.retry) {
		return false
	}
	n := len(l.pending.events)
	return l.urgent || n >= commitEvents || n > 0 && time.Since(l.since) >= commitDelay
}

// Flush makes every pending event durable.
func (l *Log) Flush(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("flush audit log: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return ErrClosed
	}
	if err := l.commit(); err != nil {
		return fmt.Errorf("flush audit log: %w", err)
	}
	return nil
}

func (l *Log) lose(e logging.Event, reason string) {
	now := l.cfg.Now()
	if l.lost.events == 0 {
		l.lost.first = now
	}
	l.lost.last, l.lost.reason = now, reason
	l.lost.events++
	if e.Critical() {
		l.lost.critical++
	}
}

// commit writes everything pending. When the store turns out to be damaged, a new epoch begins and takes the events.
func (l *Log) commit() error {
	if !l.waiting() && !l.counter.due(l.cfg) {
		return nil
	}
	err := l.commitOnce()
	if isDamage(err) {
		if e := l.newEpoch(reasonDamaged, err); e != nil {
			err = errors.Join(err, l.fail(e))
		} else {
			err = l.commitOnce()
		}
	}
	l.retry = time.Time{}
	if err != nil {
		l.retry = time.Now().Add(retryDelay)
	}
	return err
}

// commitOnce writes in an order that matters: room first, because making it adds records of its own; then that the store
// had failed, and what was lost; then the events.
func (l *Log) commitOnce() error {
	if err := l.reopen(); err != nil {
		return l.fail(err)
	}
	if l.headAt < l.marks.size {
		if l.signErr = l.signTail(); isDamage(l.signErr) {
			return l.signErr
		}
	}
	if err := l.count(); err != nil {
		return l.fail(err)
	}
	if !l.waiting() {
		return nil
	}
	roomErr := l.makeRoom()
	if roomErr != nil && !errors.Is(roomErr, logging.ErrRetry) {
		return l.fail(roomErr)
	}
	batch, done := l.batch(roomErr)
	if len(batch) == 0 {
		return roomErr
	}
	c := &change{state: l.state()}
	if done.pruned {
		c.state.reported = l.marks.pruned
	}
	written, err := l.write("commit", batch, c)
	if written {
		l.settle(done)
	}
	switch {
	case errors.Is(err, errFull):
		err = errors.Join(err, l.dropPending())
	case err != nil:
		err = l.fail(err)
	}
	return errors.Join(roomErr, err)
}

// waiting reports whether there is anything to write.
func (l *Log) waiting() bool {
	return len(l.pending.events) > 0 || l.lost.events > 0 || len(l.notes) > 0 || l.failed.err != nil
}

// told is what a commit has told besides the events, and what is settled when it is durable.
type told struct{ lost, failed, pruned bool }

// batch puts together what the next commit writes. Without room for them, only critical events are still pending, and our
// own records wait, except that the store fills up.
func (l *Log) batch(roomErr error) (batch []logging.Event, done told) {
	batch = append(batch, l.notes...)
	if roomErr == nil {
		if l.failed.err != nil {
			done.failed = true
			batch = append(batch, l.failed.event(l))
		}
		if l.lost.events > 0 && l.full.fits(need(l.pending.events), 100) {
			done.lost = true
			batch = append(batch, l.gapEvent())
		}
		var e logging.Event
		if e, done.pruned = l.prunedEvent(); done.pruned {
			batch = append(batch, e)
		}
	}
	batch = append(batch, l.pending.events...)
	if done.failed {
		batch = append(batch, l.restoredEvent())
	}
	return batch, done
}

func (l *Log) settle(done told) {
	l.pending.clear()
	l.notes, l.urgent = nil, false
	if done.lost {
		l.lost = loss{}
	}
	if done.pruned {
		l.reported, l.reportAt = l.marks.pruned, time.Now().Add(reportInterval)
	}
	if done.failed {
		l.restored()
	}
	l.notify()
}

func (l *Log) gapEvent() logging.Event {
	return l.event("log.gap",
		slog.String("message", "events could not be kept"),
		slog.Uint64("count", l.lost.events), slog.Uint64("critical", l.lost.critical),
		slog.Time("first_time", l.lost.first), slog.Time("last_time", l.lost.last), slog.String("reason", l.lost.reason))
}

// write encodes events as the next records and commits them with the positions in one change, which may do more; nil means
// all of it is durable. An error of a commit may mean that it happened: then the records are in the store, will be durable
// with the next commit, and written is true.
func (l *Log) write(op string, events []logging.Event, c *change) (written bool, err error) {
	tree := l.tree.Clone()
	head, headAt := l.encode(&tree, events, c)
	next := c.state.marks
	next.grow(tree.Size() - l.marks.size)
	c.state.marks, c.state.tree = next, tree
	if l.handing && op == "commit" && l.sent >= l.marks.size {
		// Somebody fetches records as they come, and will fetch these: saying so now saves a write of its own.
		c.state.sent = next.size
	}
	err = l.update(op, c)
	if err != nil && (isDamage(err) || !l.holds(tree)) {
		return false, err
	}
	l.tree, l.marks = tree, next
	if c.state.sent > l.sent {
		l.sent, l.handing = c.state.sent, false
	}
	if head != nil {
		l.head, l.headAt = head, headAt
	}
	return true, err
}

// holds reports whether the store has exactly the records of tree.
func (l *Log) holds(tree logging.Tree) bool {
	s, err := l.stored()
	return err == nil && s.epoch == l.epoch && s.marks.size == tree.Size() && s.tree.Root() == tree.Root()
}

// encode adds events to a change, with a checkpoint after as many as fit a batch. It returns the newest one, nil when the
// key did not sign.
func (l *Log) encode(tree *logging.Tree, events []logging.Event, c *change) (head []byte, headAt uint64) {
	size, count := 0, 0
	now := l.cfg.Now()
	for i, e := range events {
		body, side := logging.EncodeRecord(l.origin(), tree.Size(), now, e)
		leaf := logging.Leaf{Index: tree.Size(), Hash: logging.LeafHash(body), Body: body, Side: side}
		var flags byte
		if e.Critical() {
			flags = flagCritical
		}
		c.entries = append(c.entries, entry{kind: kindLeaf, at: leaf.Index, value: leafValue(flags, leaf, &l.packer)})
		tree.Append(leaf.Hash)
		size, count = size+len(body)+len(side), count+1
		if count < logging.TargetLeaves && size < logging.TargetInflated-logging.MaxLeaf && i < len(events)-1 {
			continue
		}
		size, count = 0, 0
		if note := l.sign(tree); note != nil {
			head, headAt = note, tree.Size()
			c.entries = append(c.entries, entry{kind: kindHead, at: headAt, value: note})
		}
	}
	return head, headAt
}

// sign returns the signed checkpoint of tree, or nil: records are kept even while the key does not answer, and signTail
// makes up for it.
func (l *Log) sign(tree *logging.Tree) []byte {
	msg, err := l.signer.Sign(logging.Checkpoint{Origin: l.origin(), Size: tree.Size(), Root: tree.Root()})
	l.signErr = err
	return msg
}

// signTail signs what could not be signed when it was written. The hashes come back from the disk, so they must first add
// up to the tree in memory: otherwise an edit of the store would get a signature.
func (l *Log) signTail() error {
	tree := l.min.Clone()
	var heads []logging.Checkpoint
	count, size := 0, 0
	err := l.view(func(r reader) error {
		return eachLeaf(r, l.marks.pruned, l.marks.size, func(leaf logging.Leaf, _ byte) error {
			if err := tree.AppendSubtree(leaf.Level, leaf.Hash); err != nil {
				return err
			}
			if tree.Size() <= l.headAt {
				return nil
			}
			count, size = count+1, size+len(leaf.Body)+len(leaf.Side)
			if count == logging.TargetLeaves || size >= logging.TargetInflated-logging.MaxLeaf || tree.Size() == l.marks.size {
				heads = append(heads, logging.Checkpoint{Origin: l.origin(), Size: tree.Size(), Root: tree.Root()})
				count, size = 0, 0
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	if tree.Root() != l.tree.Root() {
		return damaged(errors.New("records on disk do not add up to the log in memory"))
	}
	change := &change{state: l.state()}
	for _, c := range heads {
		note, err := l.signer.Sign(c)
		if err != nil {
			return err
		}
		change.entries = append(change.entries, entry{kind: kindHead, at: c.Size, value: note})
	}
	if len(heads) == 0 {
		return nil
	}
	if err := l.update("sign", change); err != nil {
		return err
	}
	last := change.entries[len(change.entries)-1]
	l.head, l.headAt = last.value, last.at
	l.notify()
	return nil
}

// startEvent is the first record of an epoch.
func (l *Log) startEvent(reason string, cause error, last *logging.Checkpoint, note []byte) logging.Event {
	attrs := []slog.Attr{slog.String("message", "audit log begins"), slog.String("reason", reason)}
	if cause != nil {
		attrs = append(attrs, slog.String("detail", cause.Error()))
	}
	if last != nil {
		attrs = append(attrs, slog.String("previous_origin", last.Origin.String()), slog.Uint64("previous_size", last.Size),
			slog.String("previous_root", base64.StdEncoding.EncodeToString(last.Root[:])))
	}
	if note != nil {
		attrs = append(attrs, slog.String("previous_checkpoint", string(note)))
	}
	if reason != reasonFirst {
		attrs = append(attrs, slog.String("severity", "high"))
	}
	return l.event("log.start", attrs...)
}
