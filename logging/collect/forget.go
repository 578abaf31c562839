// SPDX-License-Identifier: Apache-2.0

package collect

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"go.etcd.io/bbolt"

	"github.com/backstay/backstay/logging"
)

// forgetStep is how many records one transaction of Forget looks at.
const forgetStep = 4096

// Forget deletes the personal values for which match returns true from the side records of one log, and returns how many. No
// record changes, and every proof holds as before. It is called on a store nobody else has open. What was deleted is still in free
// pages of the file until [Rewrite].
func (s *Bolt) Forget(ctx context.Context, o logging.Origin, match func(l logging.Leaf, p logging.Personal) bool) (n int, err error) {
	for from, done := uint64(0), false; !done; {
		err := s.update(ctx, func(tx *bbolt.Tx) error {
			b := logBucket(tx, o)
			if b == nil || b.Bucket(bucketLeaf) == nil {
				return ErrUnknown
			}
			step := 0
			from, step, done, err = forgetSome(b.Bucket(bucketLeaf), from, match)
			n += step
			return err
		})
		if err != nil {
			return n, fmt.Errorf("forget personal values in %s: %w", o, err)
		}
	}
	return n, nil
}

func forgetSome(b *bbolt.Bucket, from uint64, match func(logging.Leaf, logging.Personal) bool) (next uint64, n int, done bool, err error) {
	var changed []logging.Leaf
	c := b.Cursor()
	k, v := c.Seek(be64(from))
	for seen := 0; k != nil && seen < forgetStep; k, v = c.Next() {
		seen++
		l, err := leafValue(k, v)
		if err != nil {
			return from, 0, false, err
		}
		next = l.End()
		hit := 0
		side, any := logging.Forget(l.Side, func(p logging.Personal) bool {
			m := match(l, p)
			if m {
				hit++
			}
			return m
		})
		if any {
			n += hit
			l.Side = side
			changed = append(changed, l)
		}
	}
	for _, l := range changed {
		if err := b.Put(be64(l.Index), leafBytes(l)); err != nil {
			return from, 0, false, err
		}
	}
	return next, n, k == nil, nil
}

// Rewrite copies the store in dir into a new file, which takes its place: what was deleted is in no page of that. The blocks of
// the old file are free for the file system then; a disk that keeps old blocks keeps them. Errors match logging.ErrRetry when another
// process has the store.
func Rewrite(dir string) (err error) {
	s, err := Open(dir)
	if err != nil {
		return err
	}
	defer s.Close() //nolint:errcheck // its file is gone or unchanged
	path := filepath.Join(dir, storeFile)
	tmp := path + ".rewrite"
	if err := os.Remove(tmp); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("rewrite store: %w", err)
	}
	out, err := openBolt(tmp, false)
	if err != nil {
		return fmt.Errorf("rewrite store: %w", err)
	}
	err = guard(func() error { return bbolt.Compact(out, s.db, 4<<20) })
	if e := out.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err == nil {
		err = syncDir(dir)
	}
	if err != nil {
		return fmt.Errorf("rewrite store: %w", err)
	}
	return nil
}
