// SPDX-License-Identifier: Apache-2.0

package source

import (
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// writers remembers who wrote the last watched files. fanotify tells who, but not what changed; inotify and a look at the
// file tell what, but not who. The inode brings both together: it stays the same when a new file takes the place of an old
// one. Safe for concurrent use, and for use as a nil pointer.
type writers struct {
	mu   sync.Mutex
	ring [32]writer
	next int
}

type writer struct {
	dev   device
	inode uint64
	pid   int
	who   process
	exe   string
	at    time.Time
}

// writerKept is how long the last writer of a file is the one who made a change that is noticed. It may be noticed twice, as
// that of a file and as that of an account.
const writerKept = time.Minute

func (w *writers) note(one writer) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range w.ring {
		if w.ring[i].dev == one.dev && w.ring[i].inode == one.inode {
			w.ring[i] = one
			return
		}
	}
	w.ring[w.next] = one
	w.next = (w.next + 1) % len(w.ring)
}

// of returns what is known of the last writer of a file as attributes.
func (w *writers) of(st *unix.Stat_t) []slog.Attr {
	if w == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range w.ring {
		one := &w.ring[i]
		if one.inode == 0 || one.inode != uint64(st.Ino) || one.dev != deviceOf(st) || time.Since(one.at) > writerKept {
			continue
		}
		attrs := one.who.attrs(nil, one.pid)
		if one.exe != "" {
			attrs = append(attrs, slog.String("exe", one.exe))
		}
		return attrs
	}
	return nil
}
