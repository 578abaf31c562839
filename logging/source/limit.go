// SPDX-License-Identifier: Apache-2.0

package source

import (
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/backstay/backstay/logging"
)

// How often what was left out is reported.
const (
	suppressedEvery = time.Minute
	lossEvery       = 10 * time.Second
	// maxCodes bounds the codes counted one by one; the rest is counted together.
	maxCodes = 8
)

// limiter counts what its buckets do not let through. It is safe for concurrent use.
type limiter struct {
	mu                 sync.Mutex
	ordinary, critical logging.Bucket
	counts             []suppressed
	first              time.Time
}

// suppressed is how often one code was left out.
type suppressed struct {
	code            string
	count, critical uint64
}

func newLimiter(r logging.Rate) *limiter {
	now := time.Now()
	return &limiter{ordinary: logging.NewBucket(r, now), critical: logging.NewBucket(r, now)}
}

// allow takes a token, or counts the event as suppressed. With take false the token stays, for the event itself.
func (l *limiter) allow(code string, critical, take bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	b := &l.ordinary
	if critical {
		b = &l.critical
	}
	if b.Fill(now) {
		if take {
			b.Tokens--
		}
		return true
	}
	l.count(code, critical, now)
	return false
}

func (l *limiter) omit(code string, critical bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count(code, critical, time.Now())
}

// count notes one event that was left out. It is called with the lock held.
func (l *limiter) count(code string, critical bool, now time.Time) {
	if len(l.counts) == 0 {
		l.first = now
	}
	i := slices.IndexFunc(l.counts, func(s suppressed) bool { return s.code == code })
	if i < 0 && len(l.counts) == maxCodes {
		code, i = "others", maxCodes
		l.counts = append(l.counts, suppressed{code: code})
	} else if i < 0 && len(l.counts) < maxCodes {
		i = len(l.counts)
		l.counts = append(l.counts, suppressed{code: code})
	} else if i < 0 {
		i = maxCodes
	}
	l.counts[i].count++
	if critical {
		l.counts[i].critical++
	}
}

// report returns the attributes of a log.suppressed event, nil when nothing was left out, and starts counting anew.
func (l *limiter) report(source string) []slog.Attr {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.counts) == 0 {
		return nil
	}
	var total, critical uint64
	var each []slog.Attr
	for _, s := range l.counts {
		total += s.count
		critical += s.critical
		each = append(each, slog.Uint64("count."+s.code, s.count))
	}
	attrs := []slog.Attr{
		slog.String("message", "events beyond the rate of a source were not recorded"), slog.String("source", source),
		slog.Uint64("count", total), slog.Uint64("critical", critical), slog.Duration("during", time.Since(l.first).Round(time.Second)),
	}
	if critical > 0 {
		attrs = append(attrs, slog.String("severity", "high"))
	}
	l.counts = nil
	return append(attrs, each...)
}

// loss gathers what a source lost by itself. It is safe for concurrent use.
type loss struct {
	mu     sync.Mutex
	times  uint64 // reports
	count  uint64 // events
	open   bool   // at least one report did not know how many
	reason string
	first  time.Time
}

func (l *loss) add(n uint64, reason string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.times == 0 {
		l.first = time.Now()
	}
	l.times++
	l.count += n
	l.open = l.open || n == 0
	l.reason = reason
}

// report returns the attributes of a log.gap event, nil when nothing was lost, and starts counting anew.
func (l *loss) report(source string) []slog.Attr {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.times == 0 {
		return nil
	}
	attrs := []slog.Attr{
		slog.String("message", "a source could not deliver everything it saw"), slog.String("source", source),
		slog.String("reason", l.reason), slog.Uint64("count", l.count), slog.Bool("at_least", l.open),
		slog.Uint64("reports", l.times), slog.Duration("during", time.Since(l.first).Round(time.Second)),
	}
	l.times, l.count, l.open = 0, 0, false
	return attrs
}
