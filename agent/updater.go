// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/backstay/backstay/update"
)

// firstRetry is the wait after an attempt that may succeed later; it doubles up to the polling period.
const firstRetry = 10 * time.Second

// updater looks for releases and carries updates through. It is the only user of the machine's Run and Resume.
type updater struct {
	machine *update.Machine
	poll    time.Duration
	logger  *slog.Logger
	wake    chan struct{} // a doorbell or a command; capacity 1

	// looked is told how each look ended: that the repository answered our certificate, or refused it.
	looked func(err error)

	mu      sync.Mutex // guards what follows
	checked time.Time  // end of the last look, trusted time
	next    time.Time
	last    error // what it ended with; nil and ErrNothing are good
}

// run continues what a reboot interrupted, then looks for releases until ctx ends. It returns update.ErrReboot when the process
// has to end for a reboot, nil when ctx ended.
func (u *updater) run(ctx context.Context, owned gate) error {
	if err := u.note(u.machine.Resume(ctx)); errors.Is(err, update.ErrReboot) {
		return err
	}
	if !owned.wait(ctx) {
		return nil
	}
	retry := firstRetry
	for ctx.Err() == nil {
		err := u.note(u.machine.Run(ctx))
		u.looked(err)
		wait := u.poll + time.Duration((rand.Float64()-0.5)*0.2*float64(u.poll))
		switch {
		case errors.Is(err, update.ErrReboot):
			return err
		case errors.Is(err, update.ErrRetry):
			wait = min(wait, retry)
			retry = min(retry*2, u.poll)
		default:
			retry = firstRetry
		}
		if err != nil && !errors.Is(err, update.ErrNothing) && ctx.Err() == nil {
			u.logger.Warn("update", "err", err)
		}
		u.mu.Lock()
		u.next = u.machine.Now().Add(wait)
		u.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-u.wake:
		case <-time.After(wait):
		}
	}
	return nil
}

func (u *updater) note(err error) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.checked, u.last = u.machine.Now(), err
	return err
}

// ring makes run look now. It does not wait.
func (u *updater) ring() {
	select {
	case u.wake <- struct{}{}:
	default: // it is about to look anyway
	}
}

// check asks for the release this device should run, without installing it. It returns nil when the device runs it already.
func (u *updater) check(ctx context.Context) (*update.Release, error) {
	r, err := u.machine.Source.Latest(ctx)
	if errors.Is(err, update.ErrNothing) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("check for update: %w", err)
	}
	return &r, nil
}
