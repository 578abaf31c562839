// SPDX-License-Identifier: Apache-2.0

package ship

import "time"

// pace holds publishing down to a rate: a token bucket of one second's worth, counted in bytes of payload and topic. A batch
// is sent when the bucket is not in debt and may put it into debt, so one that is larger than a second's worth gets through
// and the rate holds over time. It outlives connections: reconnecting does not fill it.
type pace struct {
	rate   float64 // bytes per second; 0: no limit
	tokens float64
	when   time.Time // of the last look; zero before the first
}

// newPace starts with a full bucket; 0 is no limit.
func newPace(rate int) pace { return pace{rate: float64(rate), tokens: float64(rate)} }

// wait returns how long nothing may be sent yet; 0 means now.
func (p *pace) wait(now time.Time) time.Duration {
	if p.rate == 0 {
		return 0
	}
	if !p.when.IsZero() {
		p.tokens = min(p.rate, p.tokens+max(0, now.Sub(p.when).Seconds())*p.rate)
	}
	p.when = now
	if p.tokens >= 0 {
		return 0
	}
	// A whole millisecond more, or rounding would make the caller come back at once.
	return time.Duration(-p.tokens/p.rate*float64(time.Second)) + time.Millisecond
}

// spend counts n bytes that were sent.
func (p *pace) spend(n int) { p.tokens -= float64(n) }
