// SPDX-License-Identifier: Apache-2.0

package source

import (
	"log/slog"
	"time"
)

// repeat counts a failure that happens again and again.
type repeat struct {
	attrs []slog.Attr
	until time.Time
	count uint64
}

// flush records failures that were counted and whose time is over.
func (l *loginWatcher) flush(all bool) {
	now := time.Now()
	for key, r := range l.repeats {
		if !all && now.Before(r.until) {
			continue
		}
		if r.count == 0 {
			delete(l.repeats, key)
			continue
		}
		l.sink.Event("auth.fail", append(r.attrs, slog.Uint64("count", r.count))...)
		r.count, r.until = 0, now.Add(loginAgain)
		if all {
			delete(l.repeats, key)
		}
	}
}

// What tells of logins.
const (
	fromLog    = 1 << iota // a login program's own line
	fromPAM                // a line of its PAM module
	fromRecord             // wtmp or btmp
)

// twins finds what several origins tell of the same thing: one of each belongs together.
type twins struct {
	list [maxTwins]twin
	next int
}

type twin struct {
	key     string
	origins int
	at      time.Time
}

func (t *twins) known(key string, origin int, now time.Time) bool {
	for i := range t.list {
		e := &t.list[i]
		if e.key == key && e.origins&origin == 0 && now.Sub(e.at) < loginSame {
			e.origins |= origin
			return true
		}
	}
	t.list[t.next] = twin{key, origin, now}
	t.next = (t.next + 1) % maxTwins
	return false
}
