// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds of talking to the kernel.
const (
	maxDump   = 8 << 20 // bytes of one list
	replyTime = 2 * time.Second
	retries   = 5 // lists that changed while they were read
)

// Conn is a netlink socket. It owns the tables on trial that were made through it: closing it removes them. It is for one
// goroutine at a time.
type Conn struct {
	fd  int
	seq uint32
	buf []byte
}

// Dial opens a socket. The error is ErrUnsupported when the kernel has no netfilter netlink at all.
func Dial() (*Conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EAFNOSUPPORT) {
		return nil, ErrUnsupported
	}
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	c := &Conn{fd: fd, buf: make([]byte, 64<<10)}
	tv := unix.NsecToTimeval(int64(replyTime))
	err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	}
	if err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("netlink", err)
	}
	return c, nil
}

// Close removes what is on trial.
func (c *Conn) Close() error { return unix.Close(c.fd) }

// request is one message.
type request struct {
	typ, flags uint16
	family     uint8
	resID      uint16
	body       []byte
}

// encode puts requests into one buffer, numbered from seq.
func encode(reqs []request, seq uint32) []byte {
	var out []byte
	for i, r := range reqs {
		n := 20 + len(r.body)
		h := make([]byte, 20, n)
		binary.NativeEndian.PutUint32(h[0:], uint32(n))
		binary.NativeEndian.PutUint16(h[4:], r.typ)
		binary.NativeEndian.PutUint16(h[6:], r.flags)
		binary.NativeEndian.PutUint32(h[8:], seq+uint32(i))
		h[16] = r.family
		binary.BigEndian.PutUint16(h[18:], r.resID)
		out = append(append(out, h...), r.body...) // bodies are padded by attr
	}
	return out
}

// message is one reply.
type message struct {
	typ, flags uint16
	seq        uint32
	body       []byte // without the netlink header
}

var errShort = errors.New("netlink: a message is cut off")

// split takes a datagram apart.
func split(data []byte, fn func(message) error) error {
	for len(data) > 0 {
		if len(data) < 16 {
			return errShort
		}
		n := int(binary.NativeEndian.Uint32(data))
		if n < 16 || n > len(data) {
			return errShort
		}
		m := message{
			typ: binary.NativeEndian.Uint16(data[4:]), flags: binary.NativeEndian.Uint16(data[6:]),
			seq: binary.NativeEndian.Uint32(data[8:]), body: data[16:n],
		}
		if err := fn(m); err != nil {
			return err
		}
		data = data[min(len(data), (n+3)&^3):]
	}
	return nil
}

// errno is the error in an NLMSG_ERROR, nil for an acknowledgement.
func (m message) errno() error {
	if len(m.body) < 4 {
		return errShort
	}
	if e := int32(binary.NativeEndian.Uint32(m.body)); e != 0 {
		return unix.Errno(-e)
	}
	return nil
}

func (c *Conn) send(reqs []request) (first, last uint32, err error) {
	first = c.seq + 1
	c.seq += uint32(len(reqs))
	return first, c.seq, os.NewSyscallError("sendto", unix.Sendto(c.fd, encode(reqs, first), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}))
}

// receive calls fn for every message of the datagram that comes next and came from the kernel.
func (c *Conn) receive(ctx context.Context, first uint32, fn func(message) error) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, from, err := unix.Recvfrom(c.fd, c.buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return os.NewSyscallError("recvfrom", err)
		}
		if sa, ok := from.(*unix.SockaddrNetlink); !ok || sa.Pid != 0 {
			continue // only the kernel's word counts
		}
		return split(c.buf[:n], func(m message) error {
			if m.seq < first {
				return nil // the end of something that failed before
			}
			return fn(m)
		})
	}
}

// errDone ends a list; errAgain says that it changed while it was read.
var (
	errDone  = errors.New("done")
	errAgain = errors.New("the rules changed while they were read")
)

// list asks for everything of one kind. fn gets the family and the attributes of each.
func (c *Conn) list(ctx context.Context, typ uint16, family uint8, body []byte, fn func(family uint8, attrs []byte) error) error {
	req := request{typ: unix.NFNL_SUBSYS_NFTABLES<<8 | typ, flags: unix.NLM_F_REQUEST | unix.NLM_F_DUMP, family: family, body: body}
	first, _, err := c.send([]request{req})
	if err != nil {
		return err
	}
	total := 0
	for {
		err := c.receive(ctx, first, func(m message) error {
			if m.flags&unix.NLM_F_DUMP_INTR != 0 {
				return errAgain
			}
			switch m.typ {
			case unix.NLMSG_DONE:
				return errDone
			case unix.NLMSG_ERROR:
				return m.errno()
			}
			if len(m.body) < 4 {
				return errShort
			}
			if total += len(m.body); total > maxDump {
				return errTooLarge
			}
			return fn(m.body[0], m.body[4:])
		})
		if errors.Is(err, errDone) {
			return nil
		}
		if err != nil {
			return kernelError(err)
		}
	}
}

// batch makes all changes or none.
func (c *Conn) batch(ctx context.Context, reqs []request) error {
	all := make([]request, 0, len(reqs)+2)
	all = append(all, request{typ: unix.NFNL_MSG_BATCH_BEGIN, flags: unix.NLM_F_REQUEST, resID: unix.NFNL_SUBSYS_NFTABLES})
	for i, r := range reqs {
		r.flags |= unix.NLM_F_REQUEST
		if i == len(reqs)-1 {
			r.flags |= unix.NLM_F_ACK
		}
		all = append(all, r)
	}
	all = append(all, request{typ: unix.NFNL_MSG_BATCH_END, flags: unix.NLM_F_REQUEST, resID: unix.NFNL_SUBSYS_NFTABLES})
	first, last, err := c.send(all)
	if err != nil {
		return kernelError(err)
	}
	// The acknowledgement asked for is the last thing that the kernel answers, after every error of the batch.
	for {
		err := c.receive(ctx, first, func(m message) error {
			if m.typ != unix.NLMSG_ERROR {
				return nil
			}
			if err := m.errno(); err != nil {
				return err
			}
			if m.seq == last-1 {
				return errDone
			}
			return nil
		})
		if errors.Is(err, errDone) {
			return nil
		}
		if err != nil {
			return kernelError(err)
		}
	}
}

// kernelError gives the errors that mean something to the caller their name.
func kernelError(err error) error {
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w: %w", ErrPermission, err)
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EAFNOSUPPORT):
		return fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	return fmt.Errorf("packet filter: %w", err)
}

// attr appends one attribute, padded.
func attr(b []byte, typ uint16, value []byte) []byte {
	n := len(value) + 4
	b = binary.NativeEndian.AppendUint16(b, uint16(n))
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = append(b, value...)
	for ; n%4 != 0; n++ {
		b = append(b, 0)
	}
	return b
}

func nest(b []byte, typ uint16, value []byte) []byte { return attr(b, typ|unix.NLA_F_NESTED, value) }

func attr32(b []byte, typ uint16, v uint32) []byte {
	return attr(b, typ, binary.BigEndian.AppendUint32(nil, v))
}

func attrString(b []byte, typ uint16, s string) []byte { return attr(b, typ, append([]byte(s), 0)) }

// each calls fn for every attribute.
func each(b []byte, fn func(typ uint16, value []byte) error) error {
	for len(b) >= 4 {
		n := int(binary.NativeEndian.Uint16(b))
		if n < 4 || n > len(b) {
			return errShort
		}
		if err := fn(binary.NativeEndian.Uint16(b[2:])&0x3fff, b[4:n]); err != nil {
			return err
		}
		b = b[min(len(b), (n+3)&^3):]
	}
	return nil
}

// attrs is the last value of each attribute of one level.
func attrs(b []byte) (map[uint16][]byte, error) {
	out := map[uint16][]byte{}
	err := each(b, func(typ uint16, value []byte) error {
		out[typ] = value
		return nil
	})
	return out, err
}

func be32(b []byte) uint32 {
	if len(b) != 4 {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

// text is a string attribute.
func text(b []byte) string {
	for i, c := range b {
		if c == 0 {
			b = b[:i]
			break
		}
	}
	return clean(string(b))
}
