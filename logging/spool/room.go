// SPDX-License-Identifier: Apache-2.0

package spool

import (
	"fmt"
	"log/slog"

	"github.com/backstay/backstay/logging"
)

// What happens when flash runs full, in this order: acknowledged records go; then the bodies of the oldest ordinary
// records, whose hashes stay, so that the log still verifies and everybody sees exactly what is missing (log.shed); then
// new ordinary events are not kept (log.gap); critical ones are, in a share of their own, until that is full too.
const (
	ordinaryPercent = 75 // what ordinary records may fill; the rest is for critical ones
	shedMargin      = 5  // per cent freed beyond need, so that not every commit sheds
	stepRecords     = 256
)

// levels at which a log.capacity record is written, once each until the log is emptier again.
var levels = [...]uint64{70, 85, 95}

// fill knows how full the store is.
type fill struct {
	usable int64 // bytes; the capacity less what a change needs to copy pages or a segment
	used   int64
	shed   uint64 // ordinary records before this index have no body any more
	level  uint64 // highest level reported
}

func newFill(capacity int64, s state) fill {
	return fill{usable: capacity - max(capacity/8, 128<<10), shed: s.shed, level: s.level}
}

// measure asks the store after a commit.
func (f *fill) measure(s store) { f.used, _ = s.space(0) }

func (f *fill) percent() int {
	if f.usable == 0 {
		return 0
	}
	return int(f.used * 100 / f.usable)
}

// fits reports whether need more bytes stay within per cent of what is usable.
func (f *fill) fits(need int64, percent int64) bool { return f.used+need <= f.usable*percent/100 }

// need estimates what events take in the store, with page overhead.
func need(events []logging.Event) int64 {
	n := int64(16 << 10)
	for _, e := range events {
		n += int64(350 + len(e.Message) + 64*len(e.Attrs))
	}
	return n
}

// makeRoom frees what the pending events need, or drops what cannot be kept. It returns records that say what was done, to
// be written before the pending ones; an error matches logging.ErrRetry and means that events were dropped.
func (l *Log) makeRoom() ([]logging.Event, error) {
	var notes []logging.Event
	want := need(l.pending)
	if !l.full.fits(want, ordinaryPercent) {
		if err := l.prune(l.marks.acked); err != nil {
			return nil, err
		}
	}
	if !l.full.fits(want, ordinaryPercent) {
		shed, err := l.shedBodies(want + l.full.usable*shedMargin/100)
		if err != nil {
			return nil, err
		}
		notes = append(notes, shed...)
	}
	notes = append(notes, l.capacityEvents()...)
	return notes, l.dropPending()
}

// dropPending drops pending events that do not fit their share.
func (l *Log) dropPending() error {
	want := need(l.pending)
	ordinary, critical := l.full.fits(want, ordinaryPercent), l.full.fits(want, 100)
	if ordinary {
		return nil
	}
	kept := l.pending[:0]
	dropped := 0
	for _, e := range l.pending {
		if critical && e.Critical() {
			kept = append(kept, e)
			continue
		}
		dropped++
		l.lose(e, "store full")
	}
	l.pending = kept
	if dropped == 0 {
		return nil
	}
	return fmt.Errorf("%d events do not fit into %d bytes: %w", dropped, l.cfg.Capacity, logging.ErrRetry)
}

func (l *Log) capacityEvents() []logging.Event {
	percent := uint64(max(l.full.percent(), 0))
	if percent+10 < l.full.level {
		l.full.level = 0 // emptier again: the next crossing is news
	}
	var notes []logging.Event
	for _, level := range levels {
		if percent >= level && l.full.level < level {
			l.full.level = level
			notes = append(notes, l.event("log.capacity",
				slog.String("message", "audit log fills up"), slog.Uint64("level", level), slog.Uint64("percent", percent),
				slog.Uint64("waiting", l.marks.size-l.marks.acked)))
		}
	}
	return notes
}

// shedBodies drops the bodies of the oldest ordinary records until need more bytes fit. Records of critical events keep
// theirs.
func (l *Log) shedBodies(need int64) ([]logging.Event, error) {
	var gone logging.Range
	count := uint64(0)
	for !l.full.fits(need, ordinaryPercent) && l.full.shed < l.marks.size {
		n, first, last, err := l.shedStep()
		if err != nil {
			return nil, err
		}
		if n > 0 {
			if count == 0 {
				gone.First = first
			}
			gone.Last = last
			count += n
		}
	}
	if count == 0 {
		return nil, nil
	}
	return []logging.Event{l.event("log.shed",
		slog.String("message", "bodies of old records were dropped, their hashes kept"), slog.String("reason", "store full"),
		slog.Uint64("count", count), slog.Uint64("first", gone.First), slog.Uint64("last", gone.Last))}, nil
}

// shedStep handles one piece of the store in one change.
func (l *Log) shedStep() (n, first, last uint64, err error) {
	from := max(l.full.shed, l.marks.pruned)
	_, end := l.store.space(from)
	end = min(end, l.marks.size)
	var u unpacker
	err = l.view(func(r reader) error {
		return r.entries(from, func(e entry) (bool, error) {
			if e.at >= end {
				return false, nil
			}
			if e.kind != kindLeaf || !sheddable(e.value) {
				return true, nil
			}
			if n == 0 {
				first = e.at
			}
			n, last = n+1, e.at
			_, _, err := parseLeaf(e.at, e.value, &u)
			return true, err
		})
	})
	if err != nil {
		return 0, 0, 0, err
	}
	s := l.state()
	s.shed = end
	if err = l.update("shed", &change{shed: span{from, end}, state: s}); err == nil {
		l.full.shed = end
	}
	return n, first, last, err
}

func (l *Log) state() state {
	return state{epoch: l.epoch, marks: l.marks, shed: l.full.shed, level: l.full.level, tree: l.tree, min: l.min}
}
