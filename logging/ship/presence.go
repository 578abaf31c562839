// SPDX-License-Identifier: Apache-2.0

package ship

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/backstay/backstay/logging"
)

// MaxPresence bounds a message on a status topic in bytes.
const MaxPresence = 512

// States of a device in a [PresenceNote].
const (
	Online  = "online"
	Offline = "offline"
)

// Reasons a device gives for being offline.
const (
	ReasonLost    = "connection lost" // written by the broker: the will
	ReasonStopped = "stopped"         // the agent ended, for a reboot for instance
	ReasonMoved   = "other broker"    // it connects to another broker now
	ReasonLog     = "log unavailable" // the link was given up because the log could not be read
)

// PresenceNote is a message on a status topic: what the device said when it connected or went, or what it left with the
// broker to say in its place. It is not signed and proves nothing; the log does. It answers "when was this device last heard
// of, and how much does it have", also for a device that has nothing to send.
type PresenceNote struct {
	Version int       `json:"v"`               // 1
	State   string    `json:"state"`           // Online or Offline
	Reason  string    `json:"reason"`          // of Offline; empty when online
	Session string    `json:"session"`         // random, one per connection: a late will is told from news by it
	At      time.Time `json:"at"`              // device's clock; in a will, of the connection
	Since   time.Time `json:"since"`           // of the connection, device's clock
	Origin  string    `json:"origin"`          // of the log
	Size    uint64    `json:"size"`            // records in it
	Acked   uint64    `json:"acked,omitempty"` // of these, with receipts
}

// ParsePresence reads a note that a device sent. Fields it does not know are ignored, so that a newer device is understood.
// Errors match logging.ErrRefused with code logging.CodeMalformed.
func ParsePresence(b []byte) (PresenceNote, error) {
	bad := func(why string) (PresenceNote, error) {
		return PresenceNote{}, &logging.Refusal{Code: logging.CodeMalformed, What: "status message", Why: why}
	}
	if len(b) > MaxPresence {
		return bad(fmt.Sprintf("%d bytes, limit %d", len(b), MaxPresence))
	}
	var n PresenceNote
	if err := json.Unmarshal(b, &n); err != nil {
		return bad("not a JSON object of the known form")
	}
	if n.Version != 1 {
		return bad(fmt.Sprintf("version %d", n.Version))
	}
	if n.State != Online && n.State != Offline {
		return bad("unknown state")
	}
	if _, err := logging.ParseOrigin(n.Origin); err != nil {
		return bad("no origin in it")
	}
	for _, s := range []string{n.Reason, n.Session} {
		if len(s) > 64 {
			return bad("text too long")
		}
		for _, r := range s { // it is shown in tables
			if r < ' ' || r > '~' {
				return bad("text is not printable ASCII")
			}
		}
	}
	return n, nil
}

// encode never fails: there is nothing in a note that JSON cannot say.
func (n PresenceNote) encode() []byte {
	n.Version = 1
	b, _ := json.Marshal(n)
	return b
}

// Newer decides between what is known of a device and what came in. Brokers repeat what they retained, and the will of a dead
// connection may come after the device is back, on another broker even: of another connection than the known one counts what
// the device says itself now, and else only what is about a later connection.
func (n PresenceNote) Newer(known PresenceNote, retained bool) bool {
	switch {
	case known.State == "" || n.Session == known.Session:
		return true
	case n.State == Online && !retained:
		return true
	}
	return n.Since.After(known.Since)
}

// farewellTime bounds the wait for the broker's answer to a goodbye.
const farewellTime = time.Second

// newPresence begins a connection.
func (s *Shipper) newPresence() {
	var id [8]byte
	rand.Read(id[:]) //nolint:errcheck // never fails
	s.presence = PresenceNote{Session: hex.EncodeToString(id[:]), Since: s.began.UTC().Truncate(time.Second)}
}

// note is the present state as a message.
func (s *Shipper) note(state, reason string) Message {
	n := s.presence
	n.State, n.Reason, n.At = state, reason, time.Now().UTC().Truncate(time.Second)
	n.Origin, n.Size, n.Acked = s.origin.String(), s.cursor.Size, s.cursor.Acked
	return Message{Topic: Topic{s.cfg.Device, Presence}.String(), Payload: n.encode(), Retained: true}
}

// announce publishes the present state.
func (s *Shipper) announce(state, reason string) error {
	m := s.note(state, reason)
	if _, err := s.link.Publish(m.Topic, m.Payload, m.Retained); err != nil {
		return linkError{err}
	}
	s.pace.spend(len(m.Topic) + len(m.Payload))
	return nil
}

// farewell says why the device goes, when it goes of its own accord: then the broker does not publish the will.
func (s *Shipper) farewell(ctx context.Context, err error, lost <-chan struct{}) {
	reason := ReasonLog
	switch {
	case ctx.Err() != nil:
		reason = ReasonStopped
	case errors.Is(err, errLink):
		return
	case errors.Is(err, errHome), errors.Is(err, errSilent):
		reason = ReasonMoved
	}
	m := s.note(Offline, reason)
	done, err := s.link.Publish(m.Topic, m.Payload, m.Retained)
	if err != nil {
		return
	}
	t := time.NewTimer(farewellTime)
	defer t.Stop()
	select {
	case <-done:
	case <-lost:
	case <-t.C:
	}
}
