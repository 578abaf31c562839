// SPDX-License-Identifier: Apache-2.0

package collect

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/bbolt"

	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/logging/ship"
)

// Presence is what a device, or the broker in its name, said last about whether it is there. It is not signed: it helps to find
// a device that fell silent, and proves nothing.
type Presence struct {
	ship.PresenceNote
	Heard time.Time `json:"heard"` // this side's clock; zero: nothing was heard
}

// PresenceStore keeps what devices said last. [Bolt] is one. Calls come one after the other.
type PresenceStore interface {
	// Presence returns what is known; ErrUnknown when there is nothing.
	Presence(ctx context.Context, device string) (Presence, error)
	// SavePresence replaces it, durably.
	SavePresence(ctx context.Context, device string, p Presence) error
}

// Presence takes one message that the authenticated device, or its broker, sent on its status topic; retained when the broker
// repeats it. A message that is not acceptable is logged and changes nothing; an error is one of storage.
func (c *Collector) Presence(ctx context.Context, device string, payload []byte, retained bool) error {
	if c.cfg.Presence == nil || c.cfg.Known != nil && !c.cfg.Known(device) {
		return nil
	}
	n, err := parsePresence(device, payload)
	if err != nil {
		c.cfg.Logger.Warn("status message refused", "device", device, "err", err)
		return nil
	}
	c.presence.Lock()
	defer c.presence.Unlock()
	known, err := c.cfg.Presence.Presence(ctx, device)
	if err != nil && !errors.Is(err, ErrUnknown) {
		return fmt.Errorf("read status of %s: %w", device, err)
	}
	if !n.Newer(known.PresenceNote, retained) {
		return nil
	}
	now := c.cfg.Now()
	if n.State == ship.Online && !retained {
		c.mu.Lock()
		c.seen[device] = now
		c.mu.Unlock()
	}
	if err := c.cfg.Presence.SavePresence(ctx, device, Presence{n, now}); err != nil {
		return fmt.Errorf("store status of %s: %w", device, err)
	}
	return nil
}

// parsePresence reads a status message of a device, which may speak of its own log only.
func parsePresence(device string, payload []byte) (ship.PresenceNote, error) {
	n, err := ship.ParsePresence(payload)
	if err != nil {
		return n, err
	}
	if o, err := logging.ParseOrigin(n.Origin); err != nil || o.Device != device {
		return n, &logging.Refusal{Code: logging.CodeDeviceMismatch, What: "status message", Why: "speaks of another device's log"}
	}
	return n, nil
}

// bucketPresence: device id -> Presence as JSON. It came later than the others, so an older store may be without it.
var bucketPresence = []byte("presence")

// Presence implements [PresenceStore].
func (s *Bolt) Presence(ctx context.Context, device string) (p Presence, err error) {
	err = s.view(ctx, func(tx *bbolt.Tx) error {
		p, err = presenceOf(tx, device)
		return err
	})
	return p, err
}

func presenceOf(tx *bbolt.Tx, device string) (p Presence, err error) {
	b := tx.Bucket(bucketPresence)
	if b == nil {
		return p, ErrUnknown
	}
	v := b.Get([]byte(device))
	if v == nil {
		return p, ErrUnknown
	}
	if err := json.Unmarshal(v, &p); err != nil {
		return p, fmt.Errorf("read status of %s: %w", device, err)
	}
	return p, nil
}

// SavePresence implements [PresenceStore].
func (s *Bolt) SavePresence(ctx context.Context, device string, p Presence) error {
	v, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return s.update(ctx, func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists(bucketPresence)
		if err != nil {
			return err
		}
		return b.Put([]byte(device), v)
	})
}

// ForgetOnline makes every device that was online one of which nothing is known. The process that serves devices calls it at its
// start: who went while it was away has left no word with it.
func (s *Bolt) ForgetOnline(ctx context.Context) error {
	return s.update(ctx, func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists(bucketPresence)
		if err != nil {
			return err
		}
		changed := make(map[string][]byte) // a bucket must not be written while it is walked
		err = b.ForEach(func(k, v []byte) error {
			if !bytes.Contains(v, []byte(ship.Online)) {
				return nil
			}
			var p Presence
			if err := json.Unmarshal(v, &p); err != nil {
				return fmt.Errorf("read status of %s: %w", k, err)
			}
			p.State = ""
			v, err := json.Marshal(p)
			changed[string(k)] = v
			return err
		})
		for k, v := range changed {
			err = errors.Join(err, b.Put([]byte(k), v))
		}
		return err
	})
}

// presences adds what is known of devices to a list that get makes.
func presences(tx *bbolt.Tx, id string, get func(string) *Device) error {
	b := tx.Bucket(bucketPresence)
	if b == nil {
		return nil
	}
	c := b.Cursor()
	for k, _ := c.Seek([]byte(id)); k != nil && (id == "" || string(k) == id); k, _ = c.Next() {
		p, err := presenceOf(tx, string(k))
		if err != nil {
			return err
		}
		get(string(k)).Presence = p
	}
	return nil
}

var _ PresenceStore = (*Bolt)(nil)
