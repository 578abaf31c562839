// SPDX-License-Identifier: Apache-2.0

package intake

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/logging"
)

const (
	writeTimeout    = time.Second // for an answer to a program that does not read
	suppressedEvery = time.Minute
)

// Server takes events from programs. Its methods are safe for concurrent use.
type Server struct {
	cfg            Config
	socket, syslog *accounts

	accepted, refused, suppressed, below atomic.Uint64
}

// New returns a server; Serve, ServeSyslog and Account do its work.
func New(cfg Config) *Server {
	return &Server{cfg: cfg, socket: newAccounts(cfg.Rate), syslog: newAccounts(cfg.Rate)}
}

// Counts says what came in.
func (s *Server) Counts() Counts {
	return Counts{Accepted: s.accepted.Load(), Refused: s.refused.Load(), Suppressed: s.suppressed.Load(), Below: s.below.Load()}
}

// places counts open connections.
type places struct {
	mu    sync.Mutex
	all   int
	byUID map[int]int
}

func (p *places) enter(uid int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.all >= maxConns || p.byUID[uid] >= maxPerUID {
		return false
	}
	p.all++
	p.byUID[uid]++
	return true
}

func (p *places) leave(uid int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all--
	if p.byUID[uid]--; p.byUID[uid] == 0 {
		delete(p.byUID, uid)
	}
}

// Serve answers the programs that connect to l until ctx ends; then it returns nil. It closes l. Each connection is served by a
// goroutine of its own, which it joins.
func (s *Server) Serve(ctx context.Context, l *net.UnixListener) error {
	stop := context.AfterFunc(ctx, func() { l.Close() }) //nolint:errcheck // ends Accept
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	room := &places{byUID: map[int]int{}}
	for {
		c, err := l.AcceptUnix()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				c.Close() //nolint:errcheck // nothing was said
			}
			return nil
		case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE), errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.ENOMEM):
			time.Sleep(100 * time.Millisecond) // the rest of the device needs them more
			continue
		case err != nil:
			return fmt.Errorf("serve programs: %w", err)
		}
		p, ok := s.admit(c, room)
		if !ok {
			continue
		}
		wg.Go(func() {
			defer room.leave(p.UID)
			s.conversation(ctx, c, p)
		})
	}
}

// admit decides about a new connection. One that is refused gets its answer and is closed.
func (s *Server) admit(c *net.UnixConn, room *places) (Peer, bool) {
	p, err := peerOf(c)
	var why answer
	switch {
	case err != nil:
		why = refusal("not-allowed", err)
	case !s.allowed(p):
		s.denied(p)
		why = refusal("not-allowed", fmt.Errorf("user id %d may not write to the audit log: audit.intake.allow_uids", p.UID))
	case !room.enter(p.UID):
		why = refusal("busy", errors.New("too many connections"))
	default:
		return p, true
	}
	s.refused.Add(1)
	s.turnAway(c, why)
	return p, false
}

// turnAway answers and closes. A socket that is closed with something unread in it makes the kernel throw away what the other
// side has not read either, the answer included: so nothing more may come, and what is there is read.
func (s *Server) turnAway(c *net.UnixConn, a answer) {
	defer c.Close() //nolint:errcheck // nothing was taken
	if s.reply(c, a) != nil || c.CloseRead() != nil || c.SetReadDeadline(time.Now().Add(writeTimeout)) != nil {
		return
	}
	buf := make([]byte, 1)
	for {
		if n, _, _, _, err := c.ReadMsgUnix(buf, nil); err != nil || n == 0 {
			return
		}
	}
}

func (s *Server) denied(p Peer) {
	if !s.socket.note(p.UID) {
		return
	}
	attrs := []slog.Attr{slog.String("message", "a program that may not write to the audit log tried to"), slog.String("subject", p.subject())}
	for _, a := range p.attrs(SourceSocket) {
		attrs = append(attrs, slog.String(a.Name, a.Value))
	}
	s.cfg.Emit(CodeRefused, attrs...)
}

// conversation reads messages and answers each, until the program goes or ctx ends.
func (s *Server) conversation(ctx context.Context, c *net.UnixConn, p Peer) {
	stop := context.AfterFunc(ctx, func() { c.Close() }) //nolint:errcheck // ends the read
	defer stop()
	defer c.Close()                   //nolint:errcheck // every message was answered
	buf := make([]byte, MaxMessage+1) // one byte more shows a message that is too long
	for {
		n, _, flags, _, err := c.ReadMsgUnix(buf, nil)
		if err != nil || n == 0 {
			return
		}
		var a answer
		if flags&unix.MSG_TRUNC != 0 {
			a = refusal("malformed", fmt.Errorf("longer than %d bytes", MaxMessage))
		} else {
			a = s.take(ctx, buf[:n], p)
		}
		if a.Error == "malformed" {
			s.refused.Add(1)
		}
		if s.reply(c, a) != nil {
			return
		}
	}
}

// answer is what a program gets for each message. Size is set when the event is durable: it is one of the records before it.
type answer struct {
	OK      bool   `json:"ok"`
	Durable bool   `json:"durable,omitempty"`
	Size    uint64 `json:"size,omitempty"`
	Error   string `json:"error,omitempty"` // not-allowed, busy, malformed, rate, full
	Why     string `json:"why,omitempty"`
}

func refusal(code string, err error) answer { return answer{Error: code, Why: err.Error()} }

func (s *Server) reply(c *net.UnixConn, a answer) error {
	b, err := json.Marshal(a)
	if err != nil {
		return err
	}
	if err := c.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	_, err = c.Write(b)
	return err
}

// take records one message.
func (s *Server) take(ctx context.Context, b []byte, p Peer) answer {
	m, err := parseMessage(b)
	if err != nil {
		// Malformed messages cost no flash, but they cost time: they count like any other.
		if !s.socket.allow(p.UID, false) {
			return s.tooFast()
		}
		return refusal("malformed", err)
	}
	m.event.Subject = p.subject()
	m.event.Attrs = append(p.attrs(SourceSocket), m.event.Attrs...)
	costly := m.durable || m.event.Critical()
	if !s.socket.allow(p.UID, costly) {
		return s.tooFast()
	}
	size, err := s.cfg.Record(ctx, m.event, m.durable)
	switch {
	case errors.Is(err, logging.ErrRetry):
		return refusal("full", err)
	case err != nil:
		return refusal("failed", err)
	}
	s.accepted.Add(1)
	return answer{OK: true, Durable: m.durable, Size: size}
}

func (s *Server) tooFast() answer {
	s.suppressed.Add(1)
	return refusal("rate", errors.New("beyond audit.intake.rate; the event was counted, not recorded"))
}

// ServeSyslog reads lines from c until ctx ends; then it returns nil. It closes c and leaves the socket's name where it is: a
// program that took the place over meanwhile must keep it, and the next start knows a name nobody answers to.
func (s *Server) ServeSyslog(ctx context.Context, c *net.UnixConn) error {
	stop := context.AfterFunc(ctx, func() { c.Close() }) //nolint:errcheck // ends the read
	defer stop()
	defer c.Close() //nolint:errcheck // read only
	buf, oob := make([]byte, MaxMessage), make([]byte, unix.CmsgSpace(unix.SizeofUcred)+64)
	for {
		n, oobn, _, _, err := c.ReadMsgUnix(buf, oob)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("serve syslog lines: %w", err)
		}
		p, ok := senderOf(oob[:oobn])
		if !ok || n == 0 {
			s.refused.Add(1)
			continue
		}
		s.line(ctx, ParseLine(buf[:n]), p)
	}
}

// line records one syslog line. Only root's processes report logins: anybody can write "Accepted password for root".
func (s *Server) line(ctx context.Context, l Line, p Peer) {
	if s.cfg.Login != nil && p.UID == 0 {
		if code, attrs, ok := s.cfg.Login(l.App, l.Message); ok {
			e := logging.NewEvent(code, attrs...)
			e.Attrs = append(e.Attrs, p.attrs(SourceSyslog)...)
			s.record(ctx, e, p)
			return
		}
	}
	if l.Severity > s.cfg.Level && !l.always() {
		s.below.Add(1)
		return
	}
	s.record(ctx, l.event(p), p)
}

func (s *Server) record(ctx context.Context, e logging.Event, p Peer) {
	if !s.syslog.allow(p.UID, e.Critical()) {
		s.suppressed.Add(1)
		return
	}
	// An event that finds no room is counted by the log, which reports the gap itself.
	if _, err := s.cfg.Record(ctx, e, false); err == nil {
		s.accepted.Add(1)
	}
}

// Account records once a minute what was left out, until ctx ends; then once more, and returns.
func (s *Server) Account(ctx context.Context) {
	tick := time.NewTicker(suppressedEvery)
	defer tick.Stop()
	for done := false; !done; {
		select {
		case <-ctx.Done():
			done = true
		case <-tick.C:
		}
		for _, attrs := range append(s.socket.report(SourceSocket), s.syslog.report(SourceSyslog)...) {
			s.cfg.Emit("log.suppressed", attrs...)
		}
	}
}
