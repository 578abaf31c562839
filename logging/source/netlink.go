// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds of talking to the kernel.
const (
	netlinkBuf = 16 << 10 // one datagram; the largest the sources get is an audit record of 9 KiB
	netlinkAsk = 2 * time.Second
	netlinkTry = 3 // lists that changed while they were read
)

// What receive may return besides the errors of ctx and of the system.
var (
	errQuiet     = errors.New("nothing came in time")
	errOverflow  = errors.New("the queue of the socket was full")
	errTruncated = errors.New("a message was larger than any should be")
	errChanged   = errors.New("the list changed while it was read")
)

// socket is a netlink socket that hears the kernel only. It waits in the runtime's poller, so it costs neither a thread nor a
// goroutine of its own. It is for one goroutine at a time.
type socket struct {
	file *os.File
	conn syscall.RawConn
	read func(fd uintptr) bool // made once: receive must not cost memory
	buf  []byte
	out  []byte
	seq  uint32

	n, flags int // of the last read
	from     unix.Sockaddr
	err      error
}

// dialNetlink opens a socket that hears groups (a mask) and whose queue in the kernel holds about queue bytes. The error is the
// system's; see lacks.
func dialNetlink(proto int, groups uint32, queue int) (*socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	// The kernel doubles the number, for its own overhead, and caps it. A small queue is a bound, not a fault, so no error counts.
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, queue/2) //nolint:errcheck // the default serves
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("bind", err)
	}
	s := &socket{file: os.NewFile(uintptr(fd), "netlink"), buf: make([]byte, netlinkBuf)}
	if s.conn, err = s.file.SyscallConn(); err != nil {
		return nil, errors.Join(err, s.file.Close())
	}
	s.read = func(fd uintptr) bool {
		s.n, _, s.flags, s.from, s.err = unix.Recvmsg(int(fd), s.buf, nil, 0)
		return s.err != unix.EAGAIN
	}
	return s, nil
}

// lacks gives the error of opening something in the kernel its place in the inventory: what option the kernel was built
// without, or what right the agent misses.
func lacks(err error, option, right string) error {
	switch {
	case errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EAFNOSUPPORT), errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENXIO):
		return fmt.Errorf("kernel without %s: %w (%w)", option, ErrUnavailable, err)
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return fmt.Errorf("no right: needs %s: %w (%w)", right, ErrUnavailable, err)
	}
	return err
}

func (s *socket) Close() error { return s.file.Close() }

// follow makes a receive that waits return when ctx ends. The caller calls stop when it is through with ctx.
func (s *socket) follow(ctx context.Context) (stop func() bool) {
	return context.AfterFunc(ctx, func() { s.file.SetReadDeadline(time.Unix(1, 0)) }) //nolint:errcheck // closed: nobody waits
}

// receive returns the next datagram of the kernel; it is good until the next call. It waits until the given time, and for ever
// when that is zero. What any process but the kernel sent to the socket is passed over.
func (s *socket) receive(ctx context.Context, until time.Time) ([]byte, error) {
	// The order matters: ctx may end before the deadline set here replaces the one set by follow, but then Err tells; if it ends
	// after that, follow's deadline comes last.
	if err := s.file.SetReadDeadline(until); err != nil {
		return nil, err
	}
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		err := s.conn.Read(s.read)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			return nil, errQuiet
		}
		if err != nil {
			return nil, err
		}
		switch s.err {
		case nil:
		case unix.EINTR:
			continue
		case unix.ENOBUFS:
			return nil, errOverflow
		default:
			return nil, os.NewSyscallError("recvmsg", s.err)
		}
		if sa, ok := s.from.(*unix.SockaddrNetlink); !ok || sa.Pid != 0 {
			continue // another process; only the kernel is port 0
		}
		if s.flags&unix.MSG_TRUNC != 0 {
			return nil, errTruncated
		}
		return s.buf[:s.n], nil
	}
}

// filter lets the kernel drop what prog refuses before it is queued, so that it neither wakes the agent nor fills the queue.
// The sources look again at what passes: a kernel that takes no filter costs time, not truth.
func (s *socket) filter(prog []unix.SockFilter) {
	p := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	s.conn.Control(func(fd uintptr) { //nolint:errcheck // see above
		unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &p) //nolint:errcheck // see above
	})
}

// Instructions of socket filters. They load numbers as big endian, whatever the machine is.
func bpfLoad(size uint16, offset uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | size | unix.BPF_ABS, K: offset}
}

// bpfEqual jumps over yes or no instructions.
func bpfEqual(k uint32, yes, no uint8) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: yes, Jf: no, K: k}
}

func bpfReturn(bytes uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: bytes}
}

// native16 and native32 are what a filter loads where the machine stored v.
func native16(v uint16) uint32 {
	return uint32(binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, v)))
}

func native32(v uint32) uint32 {
	return binary.BigEndian.Uint32(binary.NativeEndian.AppendUint32(nil, v))
}

// message is one netlink message.
type message struct {
	typ, flags uint16
	seq        uint32
	body       []byte
}

// messages takes a datagram apart. What is cut off ends the list.
func messages(b []byte) iter.Seq[message] {
	return func(yield func(message) bool) {
		for len(b) >= unix.SizeofNlMsghdr {
			n := binary.NativeEndian.Uint32(b)
			if n < unix.SizeofNlMsghdr || uint64(n) > uint64(len(b)) {
				return
			}
			m := message{typ: binary.NativeEndian.Uint16(b[4:]), flags: binary.NativeEndian.Uint16(b[6:]), seq: binary.NativeEndian.Uint32(b[8:])}
			m.body = b[unix.SizeofNlMsghdr:n]
			if !yield(m) {
				return
			}
			b = b[min(len(b), (int(n)+3)&^3):]
		}
	}
}

// attributes takes the attributes of a message apart. What is cut off ends the list.
func attributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= 4 {
			n := int(binary.NativeEndian.Uint16(b))
			if n < 4 || n > len(b) || !yield(binary.NativeEndian.Uint16(b[2:])&0x3fff, b[4:n]) {
				return
			}
			b = b[min(len(b), (n+3)&^3):]
		}
	}
}

// errno is the error in the message that ends an answer, nil when all went well.
func (m message) errno() error {
	if len(m.body) < 4 {
		if m.typ == unix.NLMSG_DONE {
			return nil // kernels before 4.13 say nothing here
		}
		return unix.EBADMSG
	}
	if e := int32(binary.NativeEndian.Uint32(m.body)); e != 0 {
		return unix.Errno(-e)
	}
	return nil
}

// send sends one message to the kernel.
func (s *socket) send(typ, flags uint16, body []byte) error {
	s.seq++
	b := binary.NativeEndian.AppendUint32(s.out[:0], uint32(unix.SizeofNlMsghdr+len(body)))
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = binary.NativeEndian.AppendUint16(b, flags)
	b = binary.NativeEndian.AppendUint32(b, s.seq)
	b = binary.NativeEndian.AppendUint32(b, 0)
	s.out = append(b, body...)
	var err error
	cerr := s.conn.Control(func(fd uintptr) {
		err = unix.Sendto(int(fd), s.out, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	})
	return errors.Join(cerr, os.NewSyscallError("sendto", err))
}

// ask sends a request and hands fn each message of the answer, until that ends or fn has enough. Lists end by themselves, and
// have to be read to their end: until then the kernel takes no other request for one. For the rest fn says when. A list that
// changed while the kernel wrote it is errChanged: some of it may be missing or twice.
// It takes at most netlinkAsk, and ends with ctx only where the caller has a follow.
func (s *socket) ask(ctx context.Context, typ, flags uint16, body []byte, fn func(m message) (enough bool)) error {
	if err := s.send(typ, unix.NLM_F_REQUEST|flags, body); err != nil {
		return err
	}
	until := time.Now().Add(netlinkAsk)
	changed := false
	for {
		data, err := s.receive(ctx, until)
		if err != nil {
			return err
		}
		for m := range messages(data) {
			if m.seq != s.seq {
				continue // the rest of an answer that was given up
			}
			changed = changed || m.flags&unix.NLM_F_DUMP_INTR != 0
			end := m.typ == unix.NLMSG_ERROR || m.typ == unix.NLMSG_DONE // a list that fails on the way ends with its error
			if end && m.errno() != nil {
				return os.NewSyscallError("netlink", m.errno())
			}
			if !end && !fn(m) {
				continue
			}
			if changed {
				return errChanged
			}
			return nil
		}
	}
}
