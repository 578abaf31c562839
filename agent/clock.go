// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/logging"
)

// Clock is the agent's opinion of the time. Many devices start without one: a clock that says 1970 would accept metadata that
// expired years ago, and one that was set back would revive a waiver. So the time is never earlier than a floor that only
// rises: the release date of the agent, and every issue date read in verified metadata. The system's own time is never made
// the floor: one bad reading of a battery clock, years ahead, would make every certificate look expired for ever.
//
// Its methods may be called from several goroutines.
type Clock struct {
	mu     sync.Mutex
	floor  time.Time // wall time
	since  time.Time // reading of the system's clock, with its monotonic part, when floor was set
	signed bool      // the floor comes from verified metadata
	system func() time.Time
	synced func() bool
}

// NewClock returns a clock that is never earlier than release, the date the agent was released.
func NewClock(release time.Time) *Clock {
	return &Clock{floor: release, since: time.Now(), system: time.Now, synced: kernelSynced}
}

// maxStepBack is how far the system clock may fall behind the ticking floor before the floor is used: a time daemon corrects a
// drifting clock by small steps, and these must not be taken for an attack.
const maxStepBack = time.Minute

// Now returns the trusted time in UTC.
func (c *Clock) Now() time.Time { t, _ := c.Read(); return t }

// Read returns the trusted time in UTC and how far it may be believed.
func (c *Clock) Read() (time.Time, logging.Quality) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.system()
	floor := c.floor.Add(now.Sub(c.since)) // the difference is monotonic: the floor goes on ticking
	now = now.Round(0).UTC()
	switch {
	case now.Before(floor.Add(-maxStepBack)) && c.signed:
		return floor.UTC(), logging.QualitySigned
	case now.Before(floor.Add(-maxStepBack)):
		return floor.UTC(), logging.QualityNone
	case c.synced():
		return now, logging.QualityNTP
	}
	return now, logging.QualityRTC
}

// Late reports that the time is only a lower bound: it comes from the floor.
func (c *Clock) Late() bool {
	_, q := c.Read()
	return q == logging.QualitySigned || q == logging.QualityNone
}

// Raise lifts the floor to a time read in verified metadata; an earlier one is ignored.
func (c *Clock) Raise(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.system()
	if t.After(c.floor.Add(now.Sub(c.since))) {
		c.floor, c.since, c.signed = t.Round(0), now, true
	}
}

// kernelSynced asks the kernel whether a time daemon disciplines the clock (adjtimex(2): STA_UNSYNC clear).
func kernelSynced() bool {
	var tx unix.Timex
	state, err := unix.Adjtimex(&tx)
	return err == nil && state != unix.TIME_ERROR && tx.Status&unix.STA_UNSYNC == 0
}

// clockError is how far the disciplined clock may be off, as the kernel estimates (adjtimex(2): maxerror); 0 when it cannot tell.
func clockError() time.Duration {
	var tx unix.Timex
	if _, err := unix.Adjtimex(&tx); err != nil {
		return 0
	}
	return time.Duration(tx.Maxerror) * time.Microsecond
}
