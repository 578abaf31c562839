// SPDX-License-Identifier: Apache-2.0

package spool

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/backstay/backstay/logging"
)

// Counter is a monotonic counter in hardware that whoever puts back an old copy of the flash cannot put back: a TPM NV
// counter, an RPMB write counter. Only the log advances it. An error means try later, and Next may have advanced it all the
// same.
type Counter interface {
	Read(ctx context.Context) (uint64, error)
	Next(ctx context.Context) (uint64, error) // advances by one and returns the new value
}

// How often the counter is advanced: at each start, for each epoch, and then hourly, so that it lasts longer than the device.
const (
	countInterval = time.Hour
	countRetry    = 10 * time.Minute
	countTimeout  = 10 * time.Second
	// maxCountJump bounds the epoch numbers that a rollback skips.
	maxCountJump = 1 << 20
)

// counting is where the log stands with its counter.
type counting struct {
	recorded uint64    // newest value in a record; 0 when there is none
	intent   uint64    // value that may have been reached without a record; 0 when none
	next     time.Time // the counter is not touched before
	err      error
}

func (c *counting) due(cfg Config) bool { return cfg.Counter != nil && !time.Now().Before(c.next) }

// count compares the counter with what the store recorded of it, advances it, and records the value. What the value will be
// is durable before it is reached, so that a power cut in between is no alarm. A counter beyond that means that this store
// is older than the newest one: a new epoch begins. Its number skips one for every count that is missing, because each
// epoch takes one: none that was used since then is used again.
func (l *Log) count() error {
	if !l.counter.due(l.cfg) {
		return nil
	}
	l.counter.next = time.Now().Add(countRetry)
	ctx, cancel := context.WithTimeout(context.Background(), countTimeout)
	defer cancel()
	now, err := l.cfg.Counter.Read(ctx)
	if err != nil {
		l.counter.err = fmt.Errorf("read hardware counter: %w", err)
		return nil
	}
	recorded := l.counter.recorded
	if allowed := max(recorded, l.counter.intent); allowed > 0 && now > allowed {
		refusal := &logging.Refusal{Code: logging.CodeRolledBack, What: "audit log store", Why: fmt.Sprintf("the hardware counter is at %d, the newest value in the store is %d", now, allowed)}
		if err := l.newEpochAt(l.epoch+1+min(now-allowed, maxCountJump), reasonRolledBack, refusal); err != nil {
			return err
		}
		recorded, l.counter.next = 0, time.Now().Add(countRetry)
	}
	s := l.state()
	s.intent = now + 1
	if err := l.update("counter", &change{state: s}); err != nil {
		return err
	}
	l.counter.intent = s.intent
	value, err := l.cfg.Counter.Next(ctx)
	if err != nil {
		l.counter.err = fmt.Errorf("advance hardware counter: %w", err)
		return nil
	}
	c := &change{state: l.state()}
	c.state.counter, c.state.intent = value, 0
	written, err := l.write("counter", []logging.Event{l.counterEvent(value, recorded)}, c)
	if written {
		l.counter = counting{recorded: value, next: time.Now().Add(countInterval)}
	}
	return err
}

func (l *Log) counterEvent(value, recorded uint64) logging.Event {
	attrs := []slog.Attr{slog.String("message", "hardware counter advanced"), slog.Uint64("value", value)}
	if recorded > 0 {
		attrs = append(attrs, slog.Uint64("previous", recorded))
	}
	if value <= recorded {
		attrs[0] = slog.String("message", "hardware counter went back: it was reset or replaced")
		attrs = append(attrs, slog.String("severity", "high"), slog.String("outcome", "failure"))
	}
	return l.event("log.counter", attrs...)
}
