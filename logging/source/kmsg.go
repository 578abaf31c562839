// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/logging"
)

const (
	kmsgLevel  = 4       // warning: what is less urgent is not recorded, but for crashes of programs
	kmsgBuffer = 9 << 10 // one record; the kernel's own bound is 8 KiB
	kmsgText   = 512

	// A crash of the kernel is many lines: the first of them are recorded, as one event.
	crashLines   = 10
	crashLine    = 160
	crashMax     = 200 // lines that belong to one crash at most
	crashQuiet   = 500 * time.Millisecond
	crashLongest = 5 * time.Second
)

func kmsgKind() Kind {
	return Kind{
		Name: "kmsg",
		Sees: "warnings and errors of the kernel, its crashes, and crashes of programs it reports",
		Rate: logging.Rate{Per: 2, Burst: 60},
		Open: openKmsg,
	}
}

// kmsgWatcher reads /dev/kmsg, whose records are numbered: what was overwritten before it was read is known by number.
type kmsgWatcher struct {
	env   *Env
	file  *os.File
	buf   []byte
	next  uint64 // number of the record that comes next, when counting
	count bool
	fresh bool // this boot is read from its beginning, and that is not noted yet
	crash kernelCrash
}

func openKmsg(_ context.Context, env *Env) (Watcher, error) {
	fd, err := unix.Open(env.Path("/dev/kmsg"), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, lacks(fmt.Errorf("open /dev/kmsg: %w", err), "CONFIG_PRINTK, or without a /dev/kmsg", "CAP_SYSLOG")
	}
	w := &kmsgWatcher{env: env, file: os.NewFile(uintptr(fd), "/dev/kmsg"), buf: make([]byte, kmsgBuffer)}
	// The agent reads a boot from its beginning when it starts the first time in it. When it starts again, the records between
	// are in the log already; which ones is not worth a write to flash every minute.
	if env.State != nil && env.BootID != "" {
		seen, err := env.State.Load("kmsg")
		w.fresh = err == nil && string(seen) != env.BootID
	}
	if w.fresh {
		w.count = true // from record 0
		return w, nil
	}
	if _, err := w.file.Seek(0, io.SeekEnd); err != nil {
		return nil, errors.Join(fmt.Errorf("read the kernel log from its end: %w", err), w.file.Close())
	}
	return w, nil
}

func (w *kmsgWatcher) Covers() string {
	from := "from now on"
	if w.fresh {
		from = "from the beginning of this boot"
	}
	return "messages of level warning and worse, " + from
}

func (w *kmsgWatcher) Close() error { return w.file.Close() }

func (w *kmsgWatcher) Run(ctx context.Context, sink *Sink) error {
	defer context.AfterFunc(ctx, func() { w.file.SetReadDeadline(time.Unix(1, 0)) })() //nolint:errcheck // closed: nobody waits
	for {
		if err := w.file.SetReadDeadline(w.until()); err != nil {
			return err
		}
		if ctx.Err() != nil {
			w.crash.end(sink)
			return nil
		}
		n, err := w.file.Read(w.buf)
		switch {
		case err == nil:
			w.take(w.buf[:n], sink)
		case errors.Is(err, os.ErrDeadlineExceeded):
			w.quiet(sink)
		case errors.Is(err, syscall.EPIPE):
			// Overwritten. The number of the next record tells how much, where one was read before.
			if !w.count {
				sink.Lost(0, "kernel log: overwritten before it was read")
			}
		case errors.Is(err, syscall.EINVAL):
			sink.Lost(1, "kernel log: a record was larger than any should be")
			w.next++
		default:
			return fmt.Errorf("read the kernel log: %w", err)
		}
	}
}

// until is when quiet has something to do.
func (w *kmsgWatcher) until() time.Time {
	if w.fresh || w.crash.open {
		return time.Now().Add(crashQuiet)
	}
	return time.Time{}
}

func (w *kmsgWatcher) quiet(sink *Sink) {
	w.crash.end(sink)
	if w.fresh {
		w.fresh = false
		if err := w.env.State.Save("kmsg", []byte(w.env.BootID)); err != nil {
			w.env.Logger.Warn("kernel log: the place was not kept, and this boot is read again at the next start", "err", err)
		}
	}
}

// take judges one record.
func (w *kmsgWatcher) take(b []byte, sink *Sink) {
	r, ok := parseKmsg(b)
	if !ok {
		return
	}
	if w.count && r.seq > w.next {
		sink.Lost(r.seq-w.next, "kernel log: overwritten before it was read")
	}
	w.next, w.count = r.seq+1, true
	// Who may write to /dev/kmsg chooses text and level, but cannot speak as the kernel, whose facility is 0.
	if r.facility == 0 {
		if c, ok := parseProcessCrash(r.text); ok {
			if sink.Allow("process.crash") {
				sink.Event("process.crash", c.attrs(r.text)...)
			}
			return
		}
		if w.crash.take(r.text, sink) {
			return
		}
	}
	if r.level > kmsgLevel || r.text == "" || !sink.Allow("kernel.message") {
		return
	}
	attrs := []slog.Attr{slog.String("message", r.text), slog.Int("level", r.level)}
	switch {
	case r.facility != 0:
		attrs = append(attrs, slog.Int("facility", r.facility))
	case r.level <= 2:
		attrs = append(attrs, slog.String("severity", "high"))
	case r.level == 3:
		attrs = append(attrs, slog.String("severity", "medium"))
	}
	sink.Event("kernel.message", attrs...)
}

// kmsgRecord is one record of the kernel log.
type kmsgRecord struct {
	level, facility int
	seq             uint64
	text            string // without what follows the first line, and cut
}

// parseKmsg reads PREFIX,SEQUENCE,TIME,FLAGS[,...];TEXT. Lines that follow begin with a space and name the device it is about.
func parseKmsg(b []byte) (r kmsgRecord, ok bool) {
	head, text, ok := strings.Cut(string(b), ";")
	prefix, rest, ok2 := strings.Cut(head, ",")
	seq, _, ok3 := strings.Cut(rest, ",")
	if !ok || !ok2 || !ok3 {
		return kmsgRecord{}, false
	}
	p, ok := decimal(prefix, 1<<11)
	if !ok {
		return kmsgRecord{}, false
	}
	if r.seq, ok = decimal(seq, 1<<63); !ok {
		return kmsgRecord{}, false
	}
	r.level, r.facility = int(p&7), int(p>>3)
	r.text, _, _ = strings.Cut(text, "\n")
	r.text = r.text[:min(len(r.text), kmsgText)]
	return r, true
}

// decimal reads a number below limit.
func decimal(s string, limit uint64) (n uint64, ok bool) {
	if s == "" || len(s) > 19 {
		return 0, false
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		n = n*10 + uint64(s[i]-'0')
	}
	return n, n < limit
}
