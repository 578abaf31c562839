// SPDX-License-Identifier: Apache-2.0

package source

import (
	"log/slog"
	"time"
)

// maxSeen bounds the table of what was recorded lately: about 100 KiB with the longest paths.
const maxSeen = 192

// seenKey is one program, or one file, and who started or changed it. An inode number alone could come back as another file.
type seenKey struct {
	dev   device
	inode uint64
	ctime int64 // of a program
	uid   int   // effective
	write bool
}

// seen is what is known of one key within the window that began when it was last recorded.
type seen struct {
	key   seenKey
	code  string
	path  string
	why   string
	until time.Time // end of the window
	count uint64    // not recorded yet
	pid   int       // of the last
	who   process
	exe   string // of the writer
}

// seenTable keeps the same thing that happens again and again from filling the log: it is recorded when it happens first, and
// once more at the end of each window, with the number of times. Nothing is lost but the moments between.
type seenTable struct {
	list map[seenKey]*seen
	due  time.Time // earliest end of a window with something to record; zero: none
}

// find returns the entry of a key whose window is open.
func (t *seenTable) find(k seenKey, now time.Time) *seen {
	s := t.list[k]
	if s == nil || s.count == 0 && now.After(s.until) {
		return nil
	}
	return s
}

// add begins a window. Where there is no room, the entry whose window ends first gives way; flush records it.
func (t *seenTable) add(s *seen, now time.Time, flush func(*seen)) {
	if t.list == nil {
		t.list = make(map[seenKey]*seen)
	}
	if len(t.list) >= maxSeen {
		var first *seen
		for k, old := range t.list {
			if old.count == 0 && now.After(old.until) {
				delete(t.list, k)
			} else if first == nil || old.until.Before(first.until) {
				first = old
			}
		}
		if len(t.list) >= maxSeen {
			t.drop(first, flush)
		}
	}
	t.list[s.key] = s
	t.note(s)
}

func (t *seenTable) drop(s *seen, flush func(*seen)) {
	delete(t.list, s.key)
	if s.count > 0 {
		flush(s)
	}
}

// again counts one more.
func (t *seenTable) again(s *seen, pid int) {
	s.count++
	s.pid = pid
	t.note(s)
}

func (t *seenTable) note(s *seen) {
	if s.count > 0 && (t.due.IsZero() || s.until.Before(t.due)) {
		t.due = s.until
	}
}

// flush records what is due, and everything when all is set.
func (t *seenTable) flush(now time.Time, all bool, window time.Duration, record func(*seen)) {
	if !all && (t.due.IsZero() || now.Before(t.due)) {
		return
	}
	t.due = time.Time{}
	for k, s := range t.list {
		switch {
		case s.count > 0 && (all || !now.Before(s.until)):
			record(s)
			s.count, s.until = 0, now.Add(window)
		case s.count == 0 && now.After(s.until):
			delete(t.list, k)
		default:
			t.note(s)
		}
	}
}

// wait returns how long until flush has something to do, 0 when it has nothing.
func (t *seenTable) wait(now time.Time) time.Duration {
	if t.due.IsZero() {
		return 0
	}
	return max(t.due.Sub(now), time.Millisecond)
}

// appendID adds a number, unless it is unknown.
func appendID(attrs []slog.Attr, name string, id int) []slog.Attr {
	if id < 0 {
		return attrs
	}
	return append(attrs, slog.Int(name, id))
}

func (p process) attrs(attrs []slog.Attr, pid int) []slog.Attr {
	if pid > 0 {
		attrs = appendID(attrs, "pid", pid)
	}
	attrs = appendID(attrs, "ppid", p.ppid)
	attrs = appendID(attrs, "uid", p.uid)
	if p.euid != p.uid {
		attrs = appendID(attrs, "euid", p.euid)
	}
	return attrs
}
