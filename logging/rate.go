// SPDX-License-Identifier: Apache-2.0

package logging

import "time"

// Rate is how much something may do: Burst at once, and Per more in each second.
type Rate struct {
	Per   float64
	Burst int
}

// Bucket holds tokens of a [Rate]. It is for one goroutine.
type Bucket struct {
	Rate   Rate
	Tokens float64
	At     time.Time // when it was last looked at
}

// NewBucket returns a full bucket.
func NewBucket(r Rate, now time.Time) Bucket {
	return Bucket{Rate: r, Tokens: float64(r.Burst), At: now}
}

// Fill adds what came in since the last call, and reports whether there is a token.
func (b *Bucket) Fill(now time.Time) bool {
	// A clock that was set back gives no tokens; time.Time carries the monotonic reading, so this is belt and braces.
	if d := now.Sub(b.At); d > 0 {
		b.Tokens = min(float64(b.Rate.Burst), b.Tokens+d.Seconds()*b.Rate.Per)
	}
	b.At = now
	return b.Tokens >= 1
}

// Take takes a token, if there is one.
func (b *Bucket) Take(now time.Time) bool {
	if !b.Fill(now) {
		return false
	}
	b.Tokens--
	return true
}
