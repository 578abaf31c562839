// SPDX-License-Identifier: Apache-2.0

package ship

import (
	"log/slog"
	"time"
)

// forever is a wait that something else ends.
const forever = time.Hour

// resendIn returns how long until what is on the way is sent again.
func (s *Shipper) resendIn() time.Duration {
	if !s.cursor.Waiting() {
		return forever
	}
	return max(0, s.resend-time.Since(s.sentAt))
}

// signIn returns how long until the log is asked again for records it could not sign.
func (s *Shipper) signIn() time.Duration {
	if s.unsigned {
		return s.cfg.ResendAfter
	}
	return forever
}

// stallIn returns how long until a stall is to be reported.
func (s *Shipper) stallIn() time.Duration {
	s.mu.Lock()
	stalled := s.status.Stalled
	s.mu.Unlock()
	if stalled || s.cursor.Acked == s.cursor.Size {
		return forever
	}
	return max(0, s.cfg.StalledAfter-time.Since(s.progress))
}

// checkStall reports a stall once: records wait and nothing was acknowledged for StalledAfter.
func (s *Shipper) checkStall(reason string) {
	if s.stallIn() > 0 {
		return
	}
	s.mu.Lock()
	s.status.Stalled = true
	last := s.status.LastError
	s.mu.Unlock()
	s.cfg.Emit("delivery.stalled",
		slog.String("reason", reason),
		slog.Uint64("waiting", s.cursor.Size-s.cursor.Acked),
		slog.Duration("since", time.Since(s.progress).Round(time.Second)),
		slog.String("last_error", last))
}

// advanced is called when acked rose.
func (s *Shipper) advanced() {
	s.progress = time.Now()
	s.mu.Lock()
	s.status.Acked = s.cursor.Acked
	s.status.LastAck = s.progress
	resumed := s.status.Stalled
	s.status.Stalled = false
	s.marks.drop(s.cursor.Acked)
	s.mu.Unlock()
	if resumed {
		s.cfg.Emit("delivery.resumed", slog.Uint64("acked", s.cursor.Acked), slog.Uint64("waiting", s.cursor.Size-s.cursor.Acked))
	}
}

func (s *Shipper) connected() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status.Connected, s.status.Since, s.status.LastError = true, time.Now(), ""
	s.status.Broker, s.rejoin = s.turn.at, true
}

func (s *Shipper) lost(err error) {
	s.cfg.Logger.Info("audit shipping: not connected", "err", err)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.status.Connected || s.status.Since.IsZero() {
		s.status.Since = time.Now()
	}
	s.status.Connected = false
	if err != nil {
		s.status.LastError = err.Error()
	}
}

func (s *Shipper) publishStatus(st State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st.Origin != s.status.Origin {
		s.marks = nil
	}
	s.status.State, s.status.Sent = st, s.cursor.Sent
	s.marks.add(st.Size, time.Now())
	s.marks.drop(st.Acked)
}

// marks remembers when the log first had a size, coarsely: it is how the age of the backlog is known without reading records.
// Times are those of this process, so after a restart the age is too small, never too large.
type marks []mark

type mark struct {
	size uint64
	when time.Time
}

// maxMarks bounds the memory; beyond it the newest mark is moved instead of a new one made, which keeps the oldest right.
const maxMarks = 256

func (m *marks) add(size uint64, now time.Time) {
	n := len(*m)
	switch {
	case n > 0 && (*m)[n-1].size >= size:
	case n == maxMarks:
		(*m)[n-1].size = size
	default:
		*m = append(*m, mark{size, now})
	}
}

// drop forgets sizes that are acknowledged.
func (m *marks) drop(acked uint64) {
	i := 0
	for i < len(*m) && (*m)[i].size <= acked {
		i++
	}
	*m = append((*m)[:0], (*m)[i:]...)
}

// age returns how long the first record after acked has been there.
func (m marks) age(acked uint64, now time.Time) time.Duration {
	for _, k := range m {
		if k.size > acked {
			return now.Sub(k.when)
		}
	}
	return 0
}
