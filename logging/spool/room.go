// SPDX-License-Identifier: Apache-2.0

package spool

import (
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/backstay/backstay/logging"
)

// What happens when flash runs full, in this order: acknowledged records go; then the bodies of the oldest ordinary
// records, whose hashes stay, or the hash of each subtree of them (see folder), so that the log still verifies and everybody sees
// exactly what is missing (log.shed); then new ordinary events are not kept (log.gap); critical ones are, in a share of their own,
// until that is full too.
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
		n += int64(350 + len(e.Message) + 64*len(e.Attrs) + 120*len(e.Side))
	}
	return n
}

// makeRoom frees what the pending events need, or drops what cannot be kept: then the error matches logging.ErrRetry.
func (l *Log) makeRoom() error {
	want := need(l.pending.events)
	if !l.full.fits(want, ordinaryPercent) {
		if err := l.prune(l.marks.acked); err != nil {
			return err
		}
	}
	if !l.full.fits(want, ordinaryPercent) {
		if err := l.shedBodies(want + l.full.usable*shedMargin/100); err != nil {
			return err
		}
	}
	l.noteCapacity()
	return l.dropPending()
}

// dropPending drops pending events that do not fit their share.
func (l *Log) dropPending() error {
	want := need(l.pending.events)
	ordinary, critical := l.full.fits(want, ordinaryPercent), l.full.fits(want, 100)
	if ordinary {
		return nil
	}
	dropped := 0
	for _, e := range l.pending.drop(func(e logging.Event) bool { return !critical || !e.Critical() }) {
		dropped++
		l.lose(e, "store full")
	}
	if dropped == 0 {
		return nil
	}
	return fmt.Errorf("%d events do not fit into %d bytes: %w", dropped, l.cfg.Capacity, logging.ErrRetry)
}

// noteCapacity leaves a log.capacity record for the next commit when a level was crossed.
func (l *Log) noteCapacity() {
	percent := uint64(max(l.full.percent(), 0))
	if percent+10 < l.full.level {
		l.full.level = 0 // emptier again: the next crossing is news
	}
	for _, level := range levels {
		if percent >= level && l.full.level < level {
			l.full.level = level
			l.notes = append(l.notes, l.event("log.capacity",
				slog.String("message", "audit log fills up"), slog.Uint64("level", level), slog.Uint64("percent", percent),
				slog.Uint64("waiting", l.marks.size-l.marks.acked)))
		}
	}
}

// shedBodies drops the bodies of the oldest ordinary records until need more bytes fit. Records of critical events keep
// theirs.
func (l *Log) shedBodies(need int64) error {
	for !l.full.fits(need, ordinaryPercent) && l.full.shed < l.marks.size {
		if err := l.shedStep(); err != nil {
			return err
		}
	}
	return nil
}

// shedStep handles one piece of the store in one change, which also holds the log.shed records that name every record it
// takes the body of: no power cut can come between.
func (l *Log) shedStep() error {
	from := max(l.full.shed, l.marks.pruned)
	_, end := l.store.space(from)
	end = min(end, l.marks.size)
	var gone []goner
	var last []byte // body of the newest record in gone
	var u unpacker
	err := l.view(func(r reader) error {
		return r.entries(from, func(e entry) (bool, error) {
			if e.at >= end {
				return false, nil
			}
			if e.kind != kindLeaf || !sheddable(e.value) {
				return true, nil
			}
			leaf, _, err := parseLeaf(e.at, e.value, &u)
			if n := len(gone); n > 0 && gone[n-1].end == e.at {
				gone[n-1].end++
			} else {
				closeGoner(gone, last)
				t := loggedAt(leaf.Body)
				gone = append(gone, goner{span{e.at, e.at + 1}, t, t})
			}
			last = leaf.Body
			return true, err
		})
	})
	if err != nil {
		return err
	}
	if len(gone) == 0 {
		l.full.shed = end
		return nil
	}
	closeGoner(gone, last)
	c := &change{shed: span{from, end}, state: l.state()}
	c.state.shed = end
	written, err := l.write("shed", l.shedEvents(gone), c)
	if written {
		l.full.shed = end
	}
	return err
}

// goner is a run of records that lose their bodies, and when the first and the last of them were logged.
type goner struct {
	span
	first, last time.Time
}

func closeGoner(gone []goner, body []byte) {
	if n := len(gone); n > 0 {
		gone[n-1].last = loggedAt(body)
	}
}

func loggedAt(body []byte) time.Time {
	r, err := logging.DecodeLeaf(body)
	if err != nil {
		return time.Time{}
	}
	return r.Logged
}

// maxRanges bounds the text of one log.shed record: what is longer than an attribute may be goes into a record of its own.
const maxRanges = logging.MaxAttrValue - 48

// shedEvents say which records lose their bodies, how many they are, and when they were logged: what is known of them for ever.
func (l *Log) shedEvents(gone []goner) (events []logging.Event) {
	for len(gone) > 0 {
		var text []byte
		first, last, count := gone[0], gone[0], uint64(0)
		for len(gone) > 0 && len(text) < maxRanges {
			last, gone = gone[0], gone[1:]
			if len(text) > 0 {
				text = append(text, ',')
			}
			text = strconv.AppendUint(text, last.span.first, 10)
			if last.end-1 > last.span.first {
				text = strconv.AppendUint(append(text, '-'), last.end-1, 10)
			}
			count += last.end - last.span.first
		}
		events = append(events, l.event("log.shed",
			slog.String("message", "bodies of old records were dropped, their hashes kept"), slog.String("reason", "store full"),
			slog.Uint64("count", count), slog.Uint64("first", first.span.first), slog.Uint64("last", last.end-1), slog.String("ranges", string(text)),
			slog.Time("first_time", first.first), slog.Time("last_time", last.last)))
	}
	return events
}

func (l *Log) state() state {
	return state{
		epoch: l.epoch, marks: l.marks, shed: l.full.shed, level: l.full.level, reported: l.reported,
		counter: l.counter.recorded, intent: l.counter.intent, sent: l.sent, tree: l.tree, min: l.min,
	}
}
