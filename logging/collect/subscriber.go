// SPDX-License-Identifier: Apache-2.0

package collect

import (
	"context"
	"fmt"
	"hash/fnv"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/logging/ship"
)

// Subscriber takes batches from somebody else's broker (mosquitto, EMQX, NATS) as an ordinary client.
//
// The broker vouches for nothing but the topic: it must let each device publish on its own topics only (see
// configs/examples/mosquitto.acl). Its durability does not matter: what it loses has no receipt and is sent again. A
// shared subscription ($share) must not be used, it breaks the order of a device; several subscribers on one store are fine
// without it, the store decides.
type Subscriber struct {
	cfg   SubscriberConfig
	rings chan reply
}

// SubscriberConfig is what a Subscriber needs. Transport and Collector are required.
type SubscriberConfig struct {
	Transport ship.Transport // see SubscriberMQTT
	Collector *Collector
	Logger    *slog.Logger // may be nil
	Workers   int          // devices stored at once; they share commits. 8

	BackoffMin time.Duration // 500 ms
	BackoffMax time.Duration // 30 s
}

// SubscriberMQTT returns the transport of a subscriber: cfg with the subscription, the packet limit and the back-pressure a
// collector needs. The client id must not be a device id.
func SubscriberMQTT(cfg ship.MQTTConfig) (*ship.MQTT, error) {
	cfg.Filters = []string{ship.Filter(ship.Audit), ship.Filter(ship.Presence)}
	cfg.MaxPacket = maxPacket
	cfg.Block = true
	return ship.NewMQTT(cfg)
}

// reply is something to publish.
type reply struct {
	topic   ship.Topic
	payload []byte
	retain  bool
}

// NewSubscriber checks cfg. Errors match logging.ErrSetup.
func NewSubscriber(cfg SubscriberConfig) (*Subscriber, error) {
	if cfg.Transport == nil || cfg.Collector == nil {
		return nil, fmt.Errorf("open subscriber: transport and collector are needed: %w", logging.ErrSetup)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Workers <= 0 {
		cfg.Workers = 8
	}
	if cfg.BackoffMin <= 0 {
		cfg.BackoffMin = 500 * time.Millisecond
	}
	if cfg.BackoffMax <= 0 {
		cfg.BackoffMax = 30 * time.Second
	}
	return &Subscriber{cfg: cfg, rings: make(chan reply, 64)}, nil
}

// Ring implements [Inlet].
func (s *Subscriber) Ring(device, text string) error {
	if !ship.ValidDevice(device) {
		return fmt.Errorf("ring %.64q: not a device id: %w", device, ErrUnknown)
	}
	if len(text) > ship.MaxDoorbell {
		text = text[:ship.MaxDoorbell]
	}
	select {
	case s.rings <- reply{topic: ship.Topic{Device: device, Kind: ship.Doorbell}, payload: []byte(text)}:
		return nil
	default:
		return fmt.Errorf("ring %s: broker is not reachable: %w", device, logging.ErrRetry)
	}
}

// job is one message on its way to a worker.
type job struct {
	device   string
	kind     ship.Kind // Audit or Presence
	payload  []byte
	retained bool
}

// Run implements [Inlet]. Messages of one device are stored in the order they came; those of different devices side by side,
// so that they share commits. One goroutine does all publishing.
func (s *Subscriber) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	replies := make(chan reply)
	lanes := make([]chan job, s.cfg.Workers)
	for i := range lanes {
		lanes[i] = make(chan job, 4)
		wg.Go(func() { s.work(ctx, lanes[i], replies) })
	}
	defer s.cfg.Transport.Close() //nolint:errcheck // nothing is left to do with it
	for failures := 0; ; failures++ {
		lost, err := s.cfg.Transport.Connect(ctx, ship.Message{})
		if err == nil {
			failures = 0 // there was a broker: while the collector waits, no device of the fleet gets a receipt
			err = s.session(ctx, lost, lanes, replies)
		}
		if ctx.Err() != nil {
			return nil
		}
		s.cfg.Logger.Info("audit subscriber: not connected", "err", err)
		d := s.cfg.BackoffMin << min(failures, 20)
		if d > s.cfg.BackoffMax || d <= 0 {
			d = s.cfg.BackoffMax
		}
		if !s.pause(ctx, d-rand.N(d/2+1), replies) {
			return nil
		}
	}
}

// pause waits for the next attempt. Receipts that come meanwhile have nowhere to go; the devices send again and get them then.
func (s *Subscriber) pause(ctx context.Context, d time.Duration, replies <-chan reply) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-t.C:
			return true
		case <-replies:
		}
	}
}

func (s *Subscriber) session(ctx context.Context, lost <-chan struct{}, lanes []chan job, replies <-chan reply) (err error) {
	defer s.cfg.Transport.Close() //nolint:errcheck // nothing is left to do with it
	// At most one message is held back while its lane is full; the transport stops reading then.
	var held *job
	for {
		in := s.cfg.Transport.Receipts()
		var lane chan job
		var next job
		if held != nil {
			in, lane, next = nil, lanes[laneOf(held.device, len(lanes))], *held
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-lost:
			return fmt.Errorf("connection to broker lost: %w", logging.ErrRetry)
		case msg := <-in:
			t, err := ship.ParseTopic(msg.Topic)
			if err != nil || t.Kind != ship.Presence && (t.Kind != ship.Audit || msg.Retained) {
				s.cfg.Logger.Warn("audit subscriber: message ignored", "topic", msg.Topic[:min(len(msg.Topic), 128)], "retained", msg.Retained)
				continue
			}
			held = &job{t.Device, t.Kind, msg.Payload, msg.Retained}
		case lane <- next:
			held = nil
		case r := <-replies:
			err = s.publish(r)
		case r := <-s.rings:
			err = s.publish(r)
		}
		if err != nil {
			return err
		}
	}
}

func (s *Subscriber) publish(r reply) error {
	_, err := s.cfg.Transport.Publish(r.topic.String(), r.payload, r.retain)
	return err
}

func (s *Subscriber) work(ctx context.Context, lane <-chan job, replies chan<- reply) {
	for {
		var j job
		select {
		case <-ctx.Done():
			return
		case j = <-lane:
		}
		if j.kind == ship.Presence {
			if err := s.cfg.Collector.Presence(ctx, j.device, j.payload, j.retained); err != nil {
				s.cfg.Logger.Error("audit subscriber: status not stored", "device", j.device, "err", err)
			}
			continue
		}
		res, err := s.cfg.Collector.Ingest(ctx, j.device, j.payload)
		if err != nil {
			s.cfg.Logger.Error("audit subscriber: message not stored", "device", j.device, "err", err)
			continue
		}
		if res.Receipt == nil {
			continue
		}
		// Retained, so that a device learns where it stands when it connects. It is signed and only ever moves forward.
		select {
		case replies <- reply{ship.Topic{Device: j.device, Kind: ship.Receipt}, res.Receipt, true}:
		case <-ctx.Done():
			return
		}
	}
}

func laneOf(device string, n int) int {
	h := fnv.New32a()
	h.Write([]byte(device)) //nolint:errcheck // never fails
	return int(h.Sum32() % uint32(n))
}

var (
	_ Inlet = (*Front)(nil)
	_ Inlet = (*Subscriber)(nil)
)
