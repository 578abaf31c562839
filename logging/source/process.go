// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/logging"
)

// Numbers of the proc connector, from linux/connector.h and linux/cn_proc.h.
const (
	connectorProc   = 1 // index and value of its messages, and its group
	connectorListen = 1
	connectorHeader = 20 // struct cn_msg
	procHeader      = 16 // struct proc_event before what differs

	procNone     = 0
	procExec     = 0x2
	procUID      = 0x4
	procGID      = 0x40
	procCoredump = 0x40000000
)

const (
	connectorWait = time.Second // for the kernel's answer
	maxIDs        = 256         // processes whose ids are remembered
)

func processKind() Kind {
	return Kind{
		Name:    "process",
		Sees:    "processes that become root, that crash, and, where exec does not see it better, programs that start",
		Rate:    logging.Rate{Per: 5, Burst: 100},
		YieldTo: "exec",
		Open:    openProcess,
	}
}

// processWatcher hears the proc connector. It tells numbers only, and the program is looked up in /proc: who was faster than
// that has none in the record. So starts of programs are left to exec, which gets hold of the file itself, while that works.
type processWatcher struct {
	sock  *socket
	proc  procReader
	ids   map[uint32]*processIDs
	order []uint32 // of ids, oldest first
	poll  time.Duration
	quiet bool           // starts are filtered out in the kernel
	execs logging.Bucket // the part of the rate for starts of programs: a flood of them must not hide who became root in it
}

// processIDs is what was last heard of a process.
type processIDs struct {
	ruid, euid, rgid, egid uint32
	uids, gids, told       bool
}

func openProcess(ctx context.Context, env *Env) (Watcher, error) {
	s, err := dialNetlink(unix.NETLINK_CONNECTOR, connectorProc, 128<<10)
	if err != nil {
		return nil, lacks(err, "CONFIG_CONNECTOR", "CAP_NET_ADMIN")
	}
	w := &processWatcher{sock: s, proc: newProcReader(env), ids: map[uint32]*processIDs{}, poll: max(env.Poll, time.Second), execs: logging.NewBucket(logging.Rate{Per: 3, Burst: 60}, time.Now())}
	w.filter(true)
	if err := w.listen(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return w, nil
}

// filter has the kernel drop what nobody looks at: forks and exits above all, and starts of programs where exec sees them.
func (w *processWatcher) filter(execs bool) {
	w.quiet = !execs
	exec := uint32(procExec)
	if !execs {
		exec = procNone
	}
	w.sock.filter([]unix.SockFilter{
		bpfLoad(unix.BPF_W, unix.SizeofNlMsghdr+connectorHeader),
		bpfEqual(native32(exec), 4, 0),
		bpfEqual(native32(procUID), 3, 0),
		bpfEqual(native32(procGID), 2, 0),
		bpfEqual(native32(procCoredump), 1, 0),
		bpfEqual(native32(procNone), 0, 1),
		bpfReturn(1 << 20),
		bpfReturn(0),
	})
}

// listen asks the kernel to begin, and waits for its answer. A kernel without the proc connector, and one asked from a
// container, says nothing.
func (w *processWatcher) listen(ctx context.Context) error {
	defer w.sock.follow(ctx)()
	b := binary.NativeEndian.AppendUint32(nil, connectorProc)
	b = binary.NativeEndian.AppendUint32(b, connectorProc)
	b = append(b, make([]byte, 8)...)          // sequence and acknowledgement
	b = binary.NativeEndian.AppendUint16(b, 4) // length of what follows the flags
	b = binary.NativeEndian.AppendUint16(b, 0) // flags
	b = binary.NativeEndian.AppendUint32(b, connectorListen)
	if err := w.sock.send(unix.NLMSG_DONE, 0, b); errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("the agent has a network namespace of its own, and the kernel tells of processes in the first only: %w", ErrUnavailable)
	} else if err != nil {
		return lacks(err, "CONFIG_PROC_EVENTS", "CAP_NET_ADMIN")
	}
	until := time.Now().Add(connectorWait)
	for {
		data, err := w.sock.receive(ctx, until)
		if errors.Is(err, errQuiet) {
			return fmt.Errorf("kernel without CONFIG_PROC_EVENTS, or the agent is in a container: %w", ErrUnavailable)
		}
		if err != nil && !errors.Is(err, errOverflow) && !errors.Is(err, errTruncated) {
			return err
		}
		for m := range messages(data) {
			// Others' answers look the same: any answer means that the kernel can, and the error tells whether somebody may.
			if ev, ok := parseProcEvent(m.body); ok && ev.what == procNone {
				if ev.a != 0 {
					return lacks(unix.Errno(ev.a), "CONFIG_PROC_EVENTS", "CAP_NET_ADMIN")
				}
				return nil
			}
		}
	}
}

func (w *processWatcher) Covers() string {
	return "processes that become root or crash, of the whole device; programs that start only while exec does not work"
}

func (w *processWatcher) Close() error { return w.sock.Close() }

func (w *processWatcher) Run(ctx context.Context, sink *Sink) error {
	defer w.sock.follow(ctx)()
	for {
		if yields := sink.Yields(); yields != w.quiet {
			w.filter(!yields)
		}
		data, err := w.sock.receive(ctx, time.Now().Add(w.poll))
		switch {
		case err == nil:
			for m := range messages(data) {
				if ev, ok := parseProcEvent(m.body); ok {
					w.take(ev, sink)
				}
			}
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, errQuiet):
		case errors.Is(err, errOverflow):
			sink.Lost(0, "processes: "+err.Error())
			clear(w.ids) // what is remembered may have changed
			w.order = w.order[:0]
		case errors.Is(err, errTruncated):
			sink.Lost(1, "processes: "+err.Error())
		default:
			return err
		}
	}
}

// procEvent is one event. What a and b are depends on it: real and effective id, or the parent.
type procEvent struct {
	what      uint32
	pid, tgid uint32
	a, b      uint32
}

// parseProcEvent reads a struct cn_msg with a struct proc_event.
func parseProcEvent(b []byte) (ev procEvent, ok bool) {
	word := func(i int) uint32 { return binary.NativeEndian.Uint32(b[i:]) }
	if len(b) < connectorHeader+procHeader+8 || word(0) != connectorProc || word(4) != connectorProc {
		return procEvent{}, false
	}
	b = b[connectorHeader:]
	ev = procEvent{what: word(0), pid: word(procHeader), tgid: word(procHeader + 4)}
	switch ev.what {
	case procNone: // the answer to listen: an error number
		return procEvent{a: ev.pid}, true
	case procUID, procGID:
		if len(b) < procHeader+16 {
			return procEvent{}, false
		}
		fallthrough
	case procCoredump: // with the parent since Linux 4.17
		if len(b) >= procHeader+16 {
			ev.a, ev.b = word(procHeader+8), word(procHeader+12)
		}
	}
	return ev, ev.tgid != 0
}

func (w *processWatcher) take(ev procEvent, sink *Sink) {
	switch ev.what {
	case procExec:
		switch {
		case sink.Yields():
		case !w.execs.Take(time.Now()):
			sink.Omit("exec")
		case sink.Allow("exec"):
			sink.Event("exec", w.describe(ev.tgid, "a program started")...)
		}
	case procUID, procGID:
		if w.gained(ev) && sink.Allow("process.privilege") {
			w.ids[ev.tgid].told = true
			attrs := w.describe(ev.tgid, "a process of another user became root")
			kind := "uid"
			if ev.what == procGID {
				kind = "gid"
			}
			sink.Event("process.privilege", append(attrs, slog.String("gained", kind), slog.Uint64("real_id", uint64(ev.a)))...)
		}
	case procCoredump:
		if sink.Allow("process.crash") {
			sink.Event("process.crash", append(w.describe(ev.tgid, "a program crashed"), slog.String("reason", "signal"))...)
		}
	}
}

// gained reports whether the event is one of a process that was not root and is now. The kernel tells the new ids, not the old.
//
// A real id that is not root's, with an effective one that is, is a set-uid program. Both root's may be a daemon that went back
// to root after it had put it down for a while, which the event before told; or somebody who was never root, su after its
// check, or an exploit. Where no event came before, the parent tells: a process that became root by no right of its own was
// started by its user.
func (w *processWatcher) gained(ev procEvent) bool {
	p := w.remember(ev.tgid)
	real, effective, known := &p.ruid, &p.euid, &p.uids
	if ev.what == procGID {
		real, effective, known = &p.rgid, &p.egid, &p.gids
	}
	before, beforeE, was := *real, *effective, *known
	*real, *effective, *known = ev.a, ev.b, true
	switch {
	case ev.b != 0:
		p.told = p.told && ev.a == 0
		return false
	case p.told:
		return false // by its other ids, or on the way
	case ev.a != 0:
		return !was || beforeE != 0
	case was:
		return before != 0 && beforeE != 0
	case ev.what == procGID:
		return false // groups come with the user; alone they are told by their set-gid program
	}
	st := w.proc.status(int(ev.tgid))
	if st.ppid <= 0 {
		return false
	}
	parent := w.proc.status(st.ppid)
	return parent.uid > 0
}

// remember returns what is known of a process. The oldest gives way.
func (w *processWatcher) remember(pid uint32) *processIDs {
	if p := w.ids[pid]; p != nil {
		return p
	}
	if len(w.order) >= maxIDs {
		delete(w.ids, w.order[0])
		w.order = append(w.order[:0], w.order[1:]...)
	}
	p := &processIDs{}
	w.ids[pid] = p
	w.order = append(w.order, pid)
	return p
}

// describe says what /proc knows of a process: it may be gone by now.
func (w *processWatcher) describe(pid uint32, message string) []slog.Attr {
	attrs := []slog.Attr{slog.String("message", message), slog.Uint64("pid", uint64(pid))}
	st := w.proc.status(int(pid))
	for _, n := range []struct {
		name  string
		value int
	}{{"ppid", st.ppid}, {"uid", st.uid}, {"euid", st.euid}} {
		if n.value >= 0 {
			attrs = append(attrs, slog.Int(n.name, n.value))
		}
	}
	exe := w.proc.exe(int(pid))
	if path, gone := strings.CutSuffix(exe, " (deleted)"); gone {
		exe = path
		attrs = append(attrs, slog.Bool("deleted", true))
	}
	switch {
	case exe != "":
		attrs = append(attrs, slog.String("exe", exe))
	case st.uid < 0:
		attrs = append(attrs, slog.Bool("vanished", true)) // before anybody could look
	}
	return attrs
}
