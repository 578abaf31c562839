// SPDX-License-Identifier: Apache-2.0

package ship

import (
	"bytes"
	"context"
	"fmt"

	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/logging/spool"
)

// Spool makes the log of this device the queue of a shipper.
func Spool(l *spool.Log) Log { return spoolLog{l} }

type spoolLog struct{ l *spool.Log }

// State implements Log.
func (s spoolLog) State(ctx context.Context) (State, error) {
	if err := ctx.Err(); err != nil {
		return State{}, err
	}
	st := s.l.State()
	return State{Origin: st.Origin, Pruned: st.Pruned, Acked: st.Acked, Size: st.Size}, nil
}

// Batch implements Log.
func (s spoolLog) Batch(ctx context.Context, from uint64) (logging.Batch, error) {
	return s.l.Batch(ctx, from)
}

// Changed implements Log.
func (s spoolLog) Changed() <-chan struct{} { return s.l.Changed() }

// Acknowledge implements Log.
func (s spoolLog) Acknowledge(ctx context.Context, note []byte) (uint64, State, error) {
	if err := s.l.Receipt(ctx, note); err != nil {
		return 0, State{}, err
	}
	st, err := s.State(ctx)
	if err != nil {
		return 0, State{}, err
	}
	// The signature is verified; what is left is to read the size again. One of an earlier epoch covers nothing of this log and
	// must not look like a hint to go back, so it counts as one for everything.
	body, _, _ := bytes.Cut(note, []byte("\n\n"))
	c, err := logging.ParseCheckpointBody(string(body) + "\n")
	if err != nil {
		return 0, State{}, fmt.Errorf("read receipt: %w", err)
	}
	if c.Origin != st.Origin {
		return st.Size, st, nil
	}
	return c.Size, st, nil
}
