// SPDX-License-Identifier: Apache-2.0

package ship

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/backstay/backstay/logging"
)

// errLink marks errors that end a connection and nothing else.
var errLink = errors.New("link")

// linkError keeps the text of the cause and adds the mark.
type linkError struct{ error }

func (linkError) Is(target error) bool { return target == errLink }
func (e linkError) Unwrap() error      { return e.error }

// session is one connection: connect, go back to what is acknowledged, ship until the link is lost. One goroutine does all of
// it, publishes included.
func (s *Shipper) session(ctx context.Context) error {
	if err := s.refresh(ctx); err != nil {
		return err
	}
	s.link = s.cfg.Transports[s.turn.at]
	s.newPresence()
	lost, err := s.link.Connect(ctx, s.note(Offline, ReasonLost))
	if err != nil {
		return linkError{err}
	}
	defer s.link.Close() //nolint:errcheck // nothing is left to do with it
	s.connected()
	s.step(Rewind{}) //nolint:errcheck // cannot fail
	s.flying = nil
	s.resend = s.cfg.ResendAfter
	s.refused = make(map[string]bool)
	err = s.announce(Online, "")
	for err == nil {
		changed := s.cfg.Log.Changed()
		if err = s.refresh(ctx); err != nil {
			break
		}
		if err = s.fill(ctx, lost); err != nil {
			break
		}
		err = s.await(ctx, lost, changed)
	}
	s.farewell(ctx, err, lost)
	return err
}

// await blocks until one thing has happened and deals with it.
func (s *Shipper) await(ctx context.Context, lost, changed <-chan struct{}) error {
	var puback <-chan struct{}
	if len(s.flying) > 0 {
		puback = s.flying[0]
	}
	timer := time.NewTimer(min(s.resendIn(), s.stallIn(), s.signIn(), s.paceIn(), s.silentIn(), s.homeIn()))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-lost:
		return linkError{errors.New("connection to broker lost")}
	case <-puback:
		s.flying = s.flying[1:]
		return s.step(Puback{})
	case msg := <-s.link.Receipts():
		return s.message(ctx, msg)
	case <-changed:
	case <-timer.C:
		s.checkStall("no receipt")
		if s.silentIn() <= 0 {
			return errSilent
		}
		if s.homeIn() <= 0 {
			return errHome
		}
		if s.cursor.Waiting() && s.resendIn() <= 0 {
			// The broker dropped it, forbids it, or nobody listens: the protocol does not say which. Go back, more slowly each time.
			s.resend = min(2*s.resend, 16*s.cfg.ResendAfter)
			s.sentAt = time.Now()
			s.flying = nil
			return s.step(Rewind{})
		}
	}
	return nil
}

// fill hands over batches while the window is open.
func (s *Shipper) fill(ctx context.Context, lost <-chan struct{}) error {
	s.unsigned = false
	for s.cursor.Wants() && s.pace.wait(time.Now()) == 0 {
		select {
		case <-lost:
			return linkError{errors.New("connection to broker lost")}
		default:
		}
		b, err := s.cfg.Log.Batch(ctx, s.cursor.Sent)
		if err != nil {
			return fmt.Errorf("read batch at record %d: %w", s.cursor.Sent, err)
		}
		if s.unsigned = len(b.Leaves) == 0; s.unsigned {
			return nil
		}
		if b.Origin != s.origin || b.Start != s.cursor.Sent {
			return fmt.Errorf("read batch at record %d: log changed meanwhile: %w", s.cursor.Sent, logging.ErrRetry)
		}
		wire, err := s.enc.Encode(b)
		if err != nil {
			return fmt.Errorf("encode batch at record %d: %w", b.Start, err)
		}
		if err := s.refresh(ctx); err != nil { // the log may have grown past what the cursor knows
			return err
		}
		topic := Topic{s.cfg.Device, Audit}.String()
		puback, err := s.link.Publish(topic, wire, false)
		if err != nil {
			return linkError{err}
		}
		s.pace.spend(len(topic) + len(wire))
		if err := s.step(Published{b.End()}); err != nil {
			return err
		}
		s.flying = append(s.flying, puback)
		s.sentAt = time.Now()
	}
	return nil
}

// message deals with what came in. Nothing a broker sends can end more than the connection.
func (s *Shipper) message(ctx context.Context, msg Message) error {
	t, err := ParseTopic(msg.Topic)
	if err != nil || t.Device != s.cfg.Device {
		s.refuse("topic", fmt.Sprintf("message on topic %.80q", msg.Topic))
		return nil
	}
	switch t.Kind {
	case Doorbell:
		// A retained doorbell would ring at every connection for ever; an oversized one is not ours.
		if msg.Retained || len(msg.Payload) > MaxDoorbell || s.cfg.Doorbell == nil {
			return nil
		}
		if now := time.Now(); now.Sub(s.rang) >= s.cfg.DoorbellEvery {
			s.rang = now
			s.cfg.Doorbell()
		}
		return nil
	case Receipt:
		return s.receipt(ctx, msg.Payload)
	}
	return nil
}

func (s *Shipper) receipt(ctx context.Context, note []byte) error {
	covered, st, err := s.cfg.Log.Acknowledge(ctx, note)
	if errors.Is(err, logging.ErrRefused) {
		code := "receipt"
		var r *logging.Refusal
		if errors.As(err, &r) {
			code = r.Code
		}
		s.refuse(code, err.Error())
		return nil // the log may have begun a new epoch because of it: refresh sees that
	}
	if err != nil {
		return fmt.Errorf("store receipt: %w", err)
	}
	if st.Origin != s.origin {
		return nil // a new epoch began; refresh starts over
	}
	before := s.cursor.Acked
	// A retained receipt of an earlier epoch covers more than this log has; accepted, it says nothing about this one.
	if err := s.step(Acknowledged{Size: min(covered, s.cursor.Size), Acked: st.Acked}); err != nil {
		return fmt.Errorf("%w: %w", err, logging.ErrRetry)
	}
	if s.cursor.Acked > before {
		s.sentAt = time.Now()
		s.resend = s.cfg.ResendAfter
		s.advanced()
	}
	return nil
}

// refuse reports a kind of unacceptable message once per connection: a hostile broker must not be able to fill the log.
func (s *Shipper) refuse(code, why string) {
	s.cfg.Logger.Warn("audit shipping: refused", "code", code, "why", why)
	if s.refused[code] || len(s.refused) >= 16 {
		return
	}
	s.refused[code] = true
	event := "delivery.refused"
	if code == logging.CodeForked {
		event = "delivery.equivocation" // a listed key signed another root for a size of this log
	}
	s.cfg.Emit(event, slog.String("reason", code), slog.String("message", why))
}

// refresh takes the numbers of the log over. A new epoch starts the cursor anew.
func (s *Shipper) refresh(ctx context.Context) error {
	st, err := s.cfg.Log.State(ctx)
	if err != nil {
		return fmt.Errorf("read log state: %w", err)
	}
	if st.Origin != s.origin {
		s.origin = st.Origin
		s.cursor = Cursor{Pruned: st.Pruned, Acked: st.Acked, Sent: st.Acked, Size: st.Size, Flying: s.cursor.Flying, rewound: true}
		s.progress = time.Now()
		s.publishStatus(st)
		return nil
	}
	caughtUp := s.cursor.Acked == s.cursor.Size
	if err := s.step(Appended{st.Size}); err != nil {
		return fmt.Errorf("%w: %w", err, logging.ErrRetry)
	}
	if caughtUp && s.cursor.Acked < s.cursor.Size {
		s.progress = time.Now() // the backlog begins now, not when the last one ended
	}
	if st.Acked > s.cursor.Acked { // acknowledged on another way, for example by a courier's receipt file
		if err := s.step(Acknowledged{Size: st.Acked, Acked: st.Acked}); err != nil {
			return fmt.Errorf("%w: %w", err, logging.ErrRetry)
		}
		s.advanced()
	}
	if st.Pruned > s.cursor.Pruned {
		if err := s.step(Discarded{st.Pruned}); err != nil {
			return fmt.Errorf("%w: %w", err, logging.ErrRetry)
		}
	}
	s.publishStatus(st)
	return nil
}

func (s *Shipper) step(in Input) error {
	next, err := s.cursor.Step(in)
	if err == nil {
		s.cursor = next
	}
	return err
}
