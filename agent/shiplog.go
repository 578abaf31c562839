// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"

	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/logging/ship"
	"github.com/backstay/backstay/logging/spool"
)

// shipLog is the spool as the shipper sees it.
type shipLog struct {
	*spool.Log
	policy logging.Policy
}

func (l shipLog) State(context.Context) (ship.State, error) { return l.state(), nil }

func (l shipLog) state() ship.State {
	s := l.Log.State()
	// Only what a checkpoint covers can be sent, so that is the size as far as shipping is concerned.
	return ship.State{Origin: s.Origin, Pruned: s.Pruned, Acked: s.Acked, Size: s.Signed}
}

func (l shipLog) Acknowledge(ctx context.Context, note []byte) (uint64, ship.State, error) {
	if err := l.Receipt(ctx, note); err != nil {
		return 0, l.state(), err
	}
	receipts, err := l.policy.Open(note)
	if err != nil {
		return 0, l.state(), err
	}
	return receipts[0].Checkpoint.Size, l.state(), nil
}
