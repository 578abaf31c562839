// SPDX-License-Identifier: Apache-2.0

package collect

import (
	"context"
	"errors"

	"go.etcd.io/bbolt"
)

// write is one caller's part of a shared transaction.
type write struct {
	fn   func(*bbolt.Tx) error
	err  error
	done bool
}

// update runs fn in a transaction that it may share with others, and returns when that is durable. fn must decide
// whether to fail with ErrConflict before it writes anything.
//
// Whoever gets the lead commits everything queued until then: while one commit is syncing, the next one gathers.
func (s *Bolt) update(ctx context.Context, fn func(*bbolt.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	w := &write{fn: fn}
	s.mu.Lock()
	s.queue = append(s.queue, w)
	s.mu.Unlock()
	s.lead.Lock()
	defer s.lead.Unlock()
	if w.done {
		return w.err
	}
	s.mu.Lock()
	group := s.queue
	s.queue = nil
	s.mu.Unlock()
	if err := s.commit(group); err != nil {
		// One of them spoiled the transaction, or the disk did: each on its own then.
		for _, g := range group {
			g.err = s.commit([]*write{g})
		}
	}
	for _, g := range group {
		g.done = true
	}
	return w.err
}

func (s *Bolt) commit(group []*write) error {
	return guard(func() error {
		return s.db.Update(func(tx *bbolt.Tx) error {
			for _, g := range group {
				g.err = g.fn(tx)
				if g.err != nil && (len(group) == 1 || !errors.Is(g.err, ErrConflict)) {
					return g.err
				}
			}
			return nil
		})
	})
}
