// SPDX-License-Identifier: Apache-2.0

package ship

import "time"

// triesPerBroker is how many attempts in a row must bring nothing before the next broker is tried.
const triesPerBroker = 2

// rotation chooses one of n brokers, the first being the one that is wanted. No I/O: it is told what happened.
//
// After triesPerBroker failed attempts it moves on to the next. Away from the first, it says when to go home; that is one
// attempt, and if it fails the broker that worked is next again, so a first broker that stays away costs one connection
// attempt each time and not an outage.
type rotation struct {
	n, at  int
	failed int       // attempts in a row at this broker
	since  time.Time // when the first was left, or last tried in vain
	worked int       // the broker to return to when going home fails
	trial  bool      // the present attempt is the one at home
}

// fail notes an attempt that brought nothing.
func (r *rotation) fail(now time.Time) {
	if r.trial {
		r.trial, r.at, r.failed, r.since = false, r.worked, 0, now
		return
	}
	if r.failed++; r.failed >= triesPerBroker {
		r.next(now)
	}
}

// next gives up on the present broker.
func (r *rotation) next(now time.Time) {
	if r.trial {
		r.fail(now)
		return
	}
	if r.at == 0 {
		r.since = now
	}
	r.at, r.failed = (r.at+1)%r.n, 0
}

// good notes that the present broker does its work.
func (r *rotation) good() { r.failed, r.trial = 0, false }

// home makes the first broker the next one to try.
func (r *rotation) home() { r.worked, r.at, r.failed, r.trial = r.at, 0, 0, true }

// homeIn returns how long until it is time to go home after an absence of at most d.
func (r *rotation) homeIn(now time.Time, d time.Duration) time.Duration {
	if r.at == 0 {
		return forever
	}
	return max(0, d-now.Sub(r.since))
}
