// SPDX-License-Identifier: Apache-2.0

package ship

import (
	"errors"
	"time"
)

// Reasons to give up a link that works.
var (
	errHome   = errors.New("the first broker is to be tried again")
	errSilent = errors.New("the broker takes records and nobody behind it signs for them")
)

// goodLink is how long a link must have lasted to count as one although nothing was acknowledged on it.
const goodLink = time.Minute

// after decides what follows a session that ended with err: which broker is next, and how long to wait.
func (s *Shipper) after(err error) time.Duration {
	now, was := time.Now(), s.turn.at
	defer func() {
		if was == 0 && s.turn.at != 0 {
			s.homeAfter = s.cfg.HomeAfter + time.Duration(s.cfg.Rand()*float64(s.cfg.HomeAfter/2))
		}
		s.mu.Lock()
		s.status.Broker = s.turn.at
		s.mu.Unlock()
	}()
	switch {
	case errors.Is(err, errHome):
		s.turn.home()
		return 0 // every device has its own time of going home, see homeAfter
	case errors.Is(err, errSilent):
		s.turn.next(now)
	case now.Sub(s.began) > goodLink || s.Status().LastAck.After(s.began):
		// That link was good: a broker that restarts often must not be met with ever longer waits.
		s.turn.good()
		s.failures = 0
	default:
		s.turn.fail(now)
	}
	if s.turn.at > was {
		return s.backoff(0) // a broker that was not tried yet in this round
	}
	d := s.backoff(s.failures)
	s.failures++
	return d
}

// backoff is the wait before the next attempt.
//
// A lost connection is an event of the broker, and the whole fleet has it in the same instant. So the first attempt after it
// comes anywhere within Rejoin: 10 000 devices in 30 s are 333 handshakes a second, when all of them at once would put down
// the broker that has just come up. What fails after that waits from half of d to d, with d doubling from twice Rejoin to
// BackoffMax: that keeps the rate, a narrower wait would push the fleet together again. Before the first connection of this
// process it is the device's own network that is coming up, and d doubles from BackoffMin.
func (s *Shipper) backoff(failures int) time.Duration {
	first := s.cfg.BackoffMin
	if s.rejoin {
		if failures == 0 {
			return time.Duration(s.cfg.Rand() * float64(s.cfg.Rejoin))
		}
		first = max(s.cfg.Rejoin, s.cfg.BackoffMin)
	}
	d := first << min(failures, 20)
	if d > s.cfg.BackoffMax || d <= 0 {
		d = s.cfg.BackoffMax
	}
	return d - time.Duration(s.cfg.Rand()*float64(d/2))
}

// homeIn returns how long until the first broker is to be tried again.
func (s *Shipper) homeIn() time.Duration { return s.turn.homeIn(time.Now(), s.homeAfter) }

// silentIn returns how long until the broker is given up for another: records wait, and on this connection nobody signed for
// any. With one broker there is nowhere to go.
func (s *Shipper) silentIn() time.Duration {
	if s.turn.n < 2 || !s.cursor.Waiting() {
		return forever
	}
	since := s.progress
	if s.began.After(since) {
		since = s.began
	}
	return max(0, s.cfg.StalledAfter-time.Since(since))
}

// paceIn returns how long until the rate allows the next batch.
func (s *Shipper) paceIn() time.Duration {
	if !s.cursor.Wants() || s.unsigned {
		return forever
	}
	if d := s.pace.wait(time.Now()); d > 0 {
		return d
	}
	return forever // fill sends what there is
}
