// SPDX-License-Identifier: Apache-2.0

package spool

import (
	"errors"
	"log/slog"
	"strings"
	"syscall"
	"time"

	"github.com/backstay/backstay/logging"
)

// ring holds the events that are not durable yet, in order, in a bounded part of memory. While the store works that is at
// most what one commit writes. While it does not, the ring is the alternative store: what comes when it is full is lost,
// except that a critical event takes the place of the oldest ordinary ones.
type ring struct {
	events []logging.Event
	size   int // bytes
	limit  int
}

// eventSize is what an event takes of a ring: about what it has in bytes when encoded without names.
func eventSize(e logging.Event) int {
	n := 64
	for _, s := range [...]string{e.Code, string(e.Quality), e.BootID, e.Message, e.Device, e.Firmware, e.Subject, e.Session, e.Rule, e.Policy, e.Before, e.After} {
		n += len(s)
	}
	for _, a := range e.Attrs {
		n += 4 + len(a.Name) + len(a.Value)
	}
	return n
}

func (r *ring) fits(e logging.Event) bool { return r.size+eventSize(e) <= r.limit }

// add takes an event and returns those that are lost for it.
func (r *ring) add(e logging.Event) (lost []logging.Event) {
	if !r.fits(e) {
		if !e.Critical() {
			return []logging.Event{e}
		}
		free := r.limit - r.size
		for _, o := range r.events {
			if !o.Critical() {
				free += eventSize(o)
			}
		}
		if free < eventSize(e) {
			return []logging.Event{e}
		}
		lost = r.drop(func(o logging.Event) bool { return !o.Critical() && !r.fits(e) })
	}
	r.events = append(r.events, e)
	r.size += eventSize(e)
	return lost
}

// drop removes the events that must go, oldest first, and returns them.
func (r *ring) drop(goes func(logging.Event) bool) (gone []logging.Event) {
	kept := r.events[:0]
	for _, e := range r.events {
		if goes(e) {
			r.size -= eventSize(e)
			gone = append(gone, e)
			continue
		}
		kept = append(kept, e)
	}
	clear(r.events[len(kept):])
	r.events = kept
	return gone
}

func (r *ring) clear() {
	clear(r.events)
	r.events, r.size = r.events[:0], 0
	if cap(r.events) > 4*commitEvents {
		r.events = nil
	}
}

// clamp cuts the texts of an event to a little more than a record can hold, so that waiting events are bounded; the record
// still says that it was cut.
func clamp(e logging.Event) logging.Event {
	cut := func(s *string, limit int) {
		if limit += logging.MaxAttrValue + 1; len(*s) > limit {
			*s = strings.Clone((*s)[:limit])
		}
	}
	cut(&e.Code, logging.MaxAttrName)
	cut(&e.Message, logging.MaxMessage)
	for _, s := range [...]*string{&e.BootID, &e.Device, &e.Firmware, &e.Subject, &e.Session, &e.Rule, &e.Policy, &e.Before, &e.After} {
		cut(s, logging.MaxField)
	}
	if most := logging.MaxAttrs + 1; len(e.Attrs) > most {
		e.Attrs = e.Attrs[:most]
	}
	for i := range e.Attrs {
		if a := &e.Attrs[i]; len(a.Name) > 3*logging.MaxAttrName+logging.MaxAttrValue || len(a.Value) > 2*logging.MaxAttrValue+1 {
			e.Attrs = append([]logging.Attr(nil), e.Attrs...) // the caller's stay as they are
			break
		}
	}
	for i := range e.Attrs {
		cut(&e.Attrs[i].Name, 3*logging.MaxAttrName)
		cut(&e.Attrs[i].Value, logging.MaxAttrValue)
	}
	return e
}

// failure says since when, and why, the store cannot be written.
type failure struct {
	err   error
	since time.Time
}

// broken reports whether an error at the start means that flash does not work now, as opposed to being set up wrongly: the
// log then begins in memory.
func broken(err error) bool {
	for _, no := range [...]syscall.Errno{syscall.EIO, syscall.EROFS, syscall.ENOSPC, syscall.EDQUOT, syscall.ENOMEM, syscall.ENFILE, syscall.EMFILE} {
		if errors.Is(err, no) {
			return true
		}
	}
	return false
}

// fail notes that the store cannot be written, and returns why. Damage is not that: a new epoch begins.
func (l *Log) fail(err error) error {
	if l.failed.err == nil && err != nil && !isDamage(err) {
		l.failed = failure{err: err, since: l.cfg.Now()}
		for _, e := range l.pending.events {
			l.saveCritical(e)
		}
		l.notify()
	}
	return err
}

// event is the first record about a failure.
func (f failure) event(l *Log) logging.Event {
	return l.event("audit.failed", slog.Time("time", f.since),
		slog.String("message", "audit log could not be written; events waited in memory"), slog.String("reason", f.err.Error()))
}

// restoredEvent is the last record about it.
func (l *Log) restoredEvent() logging.Event {
	return l.event("audit.restored",
		slog.String("message", "audit log is written again"), slog.Time("since", l.failed.since),
		slog.Int("count", len(l.pending.events)), slog.Uint64("lost", l.lost.events), slog.Uint64("lost_critical", l.lost.critical))
}

func (l *Log) restored() {
	l.failed = failure{}
	l.forgetSaved()
}
