// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/logging"
)

const (
	auditGroup   = 1 // AUDIT_NLGRP_READLOG
	auditPending = 16
	auditRecords = 4 // of one event that are worth an event of ours
	auditText    = 1 << 10
	auditWait    = time.Second // for the rest of the records of one event
	auditStatuss = 30 * time.Second
)

func kauditKind() Kind {
	return Kind{
		Name: "kernel-audit",
		Sees: "what the kernel's audit tells: logins, accounts, denials, anomalies, modules, changes of audit itself, and what rules ask for",
		Rate: logging.Rate{Per: 10, Burst: 200},
		Open: openKaudit,
	}
}

// auditEvent gathers the records of one event.
type auditEvent struct {
	id      auditID
	began   time.Time
	syscall []byte // text of the SYSCALL record
	path    []byte // and of the first PATH record that is not of a parent directory
	mains   []auditMain
}

// auditMain is one record that is worth an event.
type auditMain struct {
	typ  uint16
	text string
}

// kauditWatcher listens beside whoever else does: it never becomes the audit daemon, whose place is a lock on the whole system,
// and never changes a setting. Only the loss counter is asked for.
type kauditWatcher struct {
	sock, control *socket
	events        []auditEvent // in the order of their beginning
	free          []auditEvent
	fields, inner auditFields // of the record that is looked at, and of what a program says in it
	call, path    auditFields // of its system call
	status        auditStatus
	asks          bool // may ask for the status
	poll          time.Duration
	received      uint64 // since the status was asked for
}

func openKaudit(ctx context.Context, env *Env) (Watcher, error) {
	s, err := dialNetlink(unix.NETLINK_AUDIT, auditGroup, 128<<10)
	if err != nil {
		return nil, lacks(err, "CONFIG_AUDIT", "CAP_AUDIT_READ")
	}
	w := &kauditWatcher{sock: s, poll: max(env.Poll, auditStatuss)}
	if w.control, err = dialNetlink(unix.NETLINK_AUDIT, 0, 16<<10); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	w.status, err = w.ask(ctx)
	w.asks = err == nil
	return w, nil
}

// ask returns the state of audit. It needs CAP_AUDIT_CONTROL, and the first name space of processes.
func (w *kauditWatcher) ask(ctx context.Context) (st auditStatus, err error) {
	ok := false
	err = w.control.ask(ctx, unix.AUDIT_GET, 0, nil, func(m message) bool {
		if m.typ == unix.AUDIT_GET {
			st, ok = parseAuditStatus(m.body)
		}
		return ok
	})
	if err == nil && !ok {
		err = unix.EBADMSG
	}
	return st, err
}

func (w *kauditWatcher) Covers() string {
	switch {
	case !w.asks:
		return "audit records; not how many were lost, nor whether audit is on: needs CAP_AUDIT_CONTROL outside containers"
	case w.status.enabled == 0:
		return "denials only: audit is off (audit_enabled is 0), so neither logins nor rules are recorded"
	}
	s := "audit records"
	if w.status.pid == 0 {
		s += ", beside no audit daemon"
	}
	if w.status.wait > 0 {
		s += fmt.Sprintf("; programs wait up to %d ticks when audit falls behind (backlog_wait_time)", w.status.wait)
	}
	return s
}

func (w *kauditWatcher) Close() error { return errors.Join(w.sock.Close(), w.control.Close()) }

func (w *kauditWatcher) Run(ctx context.Context, sink *Sink) error {
	defer w.sock.follow(ctx)()
	defer w.control.follow(ctx)()
	next := time.Now().Add(w.poll)
	for {
		until := next
		if len(w.events) > 0 && w.events[0].began.Add(auditWait).Before(until) {
			until = w.events[0].began.Add(auditWait)
		}
		if !w.asks && len(w.events) == 0 {
			until = time.Time{}
		}
		data, err := w.sock.receive(ctx, until)
		switch {
		case err == nil && len(data) >= unix.SizeofNlMsghdr:
			// One record is one message. What the header says of its length was wrong in some kernels.
			w.take(message{typ: binary.NativeEndian.Uint16(data[4:]), body: data[unix.SizeofNlMsghdr:]}, sink)
		case ctx.Err() != nil:
			w.flush(time.Now().Add(auditWait), sink)
			return nil
		case err == nil, errors.Is(err, errQuiet):
		case errors.Is(err, errOverflow):
			sink.Lost(0, "kernel audit: "+err.Error())
		case errors.Is(err, errTruncated):
			sink.Lost(1, "kernel audit: "+err.Error())
		default:
			return err
		}
		now := time.Now()
		w.flush(now, sink)
		if w.asks && !now.Before(next) {
			next = now.Add(w.poll)
			if st, err := w.ask(ctx); err == nil { // else it is asked again
				w.compare(st, sink)
			}
		}
	}
}

// compare reports what the kernel says it lost since it was last asked.
func (w *kauditWatcher) compare(st auditStatus, sink *Sink) {
	if st.lost > w.status.lost {
		n := uint64(st.lost - w.status.lost)
		if st.pid == 0 {
			// Without an audit daemon the kernel also counts as lost what only the daemon would have got: at most every record we
			// received.
			n -= min(n, w.received)
		}
		if n > 0 {
			sink.Lost(n, "kernel audit: records lost in the kernel")
		}
	}
	if st.enabled != 0 && w.status.enabled == 0 { // the one change the kernel makes no record of
		sink.Event("kernel.audit-config", slog.String("message", auditMessage("kernel.audit-config")), slog.String("setting", "audit_enabled"),
			slog.Uint64("value", uint64(st.enabled)), slog.String("value_before", "0"))
	}
	w.status, w.received = st, 0
}

// take sorts one record.
func (w *kauditWatcher) take(m message, sink *Sink) {
	w.received++
	switch m.typ {
	case auditSyscall, auditPath, auditEOE:
	default:
		if !auditWorth(m.typ) {
			return
		}
	}
	id, text, ok := parseAudit(m.body)
	if !ok {
		return
	}
	if m.typ < auditFirstKernel || m.typ > auditLastKernel { // what programs send stands alone
		w.record(&auditEvent{id: id}, auditMain{m.typ, text}, sink)
		return
	}
	i := slices.IndexFunc(w.events, func(e auditEvent) bool { return e.id == id })
	if m.typ == auditEOE {
		if i >= 0 {
			w.end(i, sink)
		}
		return
	}
	if i < 0 {
		if m.typ == auditPath {
			return // its SYSCALL was not worth to wait for
		}
		if len(w.events) >= auditPending {
			w.end(0, sink)
		}
		w.events = append(w.events, w.empty(id))
		i = len(w.events) - 1
	}
	w.events[i].add(m.typ, text)
}

// empty returns an event, one that was used before when there is one.
func (w *kauditWatcher) empty(id auditID) auditEvent {
	var e auditEvent
	if n := len(w.free); n > 0 {
		e, w.free = w.free[n-1], w.free[:n-1]
	}
	return auditEvent{id: id, began: time.Now(), syscall: e.syscall[:0], path: e.path[:0], mains: e.mains[:0]}
}

func (e *auditEvent) add(typ uint16, text string) {
	switch typ {
	case auditSyscall:
		e.syscall = append(e.syscall[:0], text[:min(len(text), auditText)]...)
	case auditPath:
		if len(e.path) == 0 && !strings.Contains(text, " nametype=PARENT") {
			e.path = append(e.path, text[:min(len(text), auditText)]...)
		}
	default:
		if len(e.mains) < auditRecords {
			e.mains = append(e.mains, auditMain{typ, strings.Clone(text[:min(len(text), auditText)])})
		}
	}
}

// flush ends the events that have waited long enough. Records of a system call that no rule asked for come alone, without an end.
func (w *kauditWatcher) flush(now time.Time, sink *Sink) {
	for len(w.events) > 0 && !now.Before(w.events[0].began.Add(auditWait)) {
		w.end(0, sink)
	}
}

func (w *kauditWatcher) end(i int, sink *Sink) {
	e := w.events[i]
	w.events = slices.Delete(w.events, i, i+1)
	for _, m := range e.mains {
		w.record(&e, m, sink)
	}
	// Somebody's rule asked for this system call, by a key.
	if len(e.mains) == 0 && len(e.syscall) > 0 && !strings.Contains(string(e.syscall), " key=(null)") && strings.Contains(string(e.syscall), " key=") {
		w.record(&e, auditMain{typ: auditSyscall}, sink)
	}
	w.free = append(w.free, e)
}
