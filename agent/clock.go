// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Clock is the agent's opinion of the time. Many devices start without one: a clock that says 1970 would accept metadata that
// expired years ago, and one that was set back would revive a waiver. So the time is never earlier than a floor that only
// rises: the release date of the agent, the last time that was stored, and every issue date read in verified metadata.
//
// Its methods may be called from several goroutines.
type Clock struct {
	mu     sync.Mutex
	floor  time.Time // wall time
	since  time.Time // monotonic reading when floor was set
	system func() time.Time
	synced func() bool
}

// Quality says how far the time may be believed.
type Quality string

const (
	QualitySynced Quality = "synced" // the kernel says a time daemon disciplines the clock
	QualitySystem Quality = "system" // the system clock, at or above the floor
	QualityFloor  Quality = "floor"  // the system clock is behind the floor: the floor plus the time since it was set
)

// NewClock returns a clock that is never earlier than floor.
func NewClock(floor time.Time) *Clock {
	return &Clock{floor: floor, since: time.Now(), system: time.Now, synced: kernelSynced}
}

// Now returns the trusted time in UTC.
func (c *Clock) Now() time.Time { t, _ := c.Read(); return t }

// Read returns the trusted time in UTC and its quality.
func (c *Clock) Read() (time.Time, Quality) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.system()
	atLeast := c.floor.Add(now.Sub(c.since)) // monotonic difference: the floor goes on ticking
	switch {
	case now.Round(0).Before(c.floor) || now.Round(0).Before(atLeast.Add(-maxStepBack)):
		return atLeast.UTC().Round(0), QualityFloor
	case c.synced():
		return now.UTC().Round(0), QualitySynced
	}
	return now.UTC().Round(0), QualitySystem
}

// maxStepBack is how far the system clock may fall behind the ticking floor before the floor is used: a time daemon corrects a
// drifting clock by small steps, and these must not be taken for an attack.
const maxStepBack = time.Minute

// Raise lifts the floor to an authenticated lower bound of the time; an earlier one is ignored.
func (c *Clock) Raise(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.system()
	if t.After(c.floor.Add(now.Sub(c.since))) {
		c.floor, c.since = t.Round(0), now
	}
}

// kernelSynced asks the kernel whether a time daemon disciplines the clock (adjtimex(2): STA_UNSYNC clear).
func kernelSynced() bool {
	var tx unix.Timex
	state, err := unix.Adjtimex(&tx)
	return err == nil && state != unix.TIME_ERROR && tx.Status&unix.STA_UNSYNC == 0
}
