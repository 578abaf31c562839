// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"context"
	"sync"
	"time"
)

// pacer holds all downloads of a client together to a rate. It keeps one time and no bytes: after every read it waits until
// those bytes were due, so a line that was idle has saved nothing up.
type pacer struct {
	rate int64 // bytes per second; 0: no limit

	mu   sync.Mutex
	free time.Time // when what was read so far is paid for
}

// part shortens a buffer to what a tenth of a second may bring.
func (p *pacer) part(b []byte) []byte {
	if p == nil || p.rate <= 0 {
		return b
	}
	return b[:min(int64(len(b)), max(p.rate/10, 1))]
}

// wait returns when n bytes were due, or with the reason why ctx ended.
func (p *pacer) wait(ctx context.Context, n int) error {
	if p == nil || p.rate <= 0 || n <= 0 {
		return nil
	}
	now := time.Now()
	p.mu.Lock()
	if p.free.Before(now) {
		p.free = now
	}
	p.free = p.free.Add(time.Duration(float64(n) / float64(p.rate) * float64(time.Second)))
	d := p.free.Sub(now)
	p.mu.Unlock()
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
