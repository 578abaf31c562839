// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"time"

	"github.com/backstay/backstay/update"
)

// looking is the longest the identity loop sleeps: the clock may be set meanwhile, and a sleep does not notice.
const looking = time.Minute

// keepIdentity enrols the device and renews its certificate for as long as ctx lasts.
func (a *agent) keepIdentity(ctx context.Context) {
	for {
		if a.identity.Due(a.clock.Now()) {
			if err := a.identity.Maintain(ctx); err != nil && ctx.Err() == nil {
				a.logger.Warn("certificate", "err", err)
			}
			if a.enrolled() {
				a.owned.open()
			}
		}
		wait := looking
		if at := a.identity.NextDue(a.clock.Now()); !at.IsZero() {
			wait = min(max(at.Sub(a.clock.Now()), time.Second), looking)
		}
		select {
		case <-ctx.Done():
			return
		case <-a.identityKick:
		case <-time.After(wait):
		}
	}
}

// looked is told how each look for a release ended. What it verified may hold a newer configuration policy.
func (a *agent) looked(err error) {
	a.certificateUsed(err)
	if a.policy != nil {
		kick(a.policy.wake)
	}
}

// certificateUsed tells the identity how a connection made with its certificate ended. An answer of any kind proves the present
// key, and the one before it is destroyed; a refusal of the certificate makes the next round enrol again with the birth key.
func (a *agent) certificateUsed(err error) {
	switch {
	case err == nil || errors.Is(err, update.ErrNothing) || errors.Is(err, update.ErrRefused):
		err = a.identity.Confirm()
	default:
		err = a.identity.Rejected(err)
	}
	if err != nil {
		a.logger.Error("note the use of the certificate", "err", err)
	}
}

// enrolled reports whether there is a certificate to present.
func (a *agent) enrolled() bool { return a.identity.Status().Certificate != nil }

// gate is closed until open is called; then everyone passes.
type gate struct{ ch chan struct{} }

func newGate() gate { return gate{make(chan struct{})} }

// open may be called more than once, from one goroutine.
func (g gate) open() {
	select {
	case <-g.ch:
	default:
		close(g.ch)
	}
}

func (g gate) wait(ctx context.Context) bool {
	select {
	case <-g.ch:
		return true
	case <-ctx.Done():
		return false
	}
}
