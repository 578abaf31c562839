// SPDX-License-Identifier: Apache-2.0

package ship

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/logging/spool"
)

// State is what a log knows about itself, all of it durable.
type State struct {
	Origin logging.Origin
	Pruned uint64 // index of the oldest record still here
	Acked  uint64 // records a quorum has acknowledged
	Size   uint64
}

// Log is the queue the shipper reads from: the spool of the device. It is called from one goroutine.
type Log interface {
	// State returns the present numbers. After Origin changed (a new epoch), the others belong to the new log.
	State(ctx context.Context) (State, error)

	// Batch returns records from index from on, about logging.TargetLeaves or logging.TargetInflated of them, and a checkpoint
	// that covers exactly up to their end; or no records when none of them is signed yet. Every record was compared with the
	// tree before: what was altered on flash is not sent. from must be within [Pruned, Size). An error may mean that the log
	// began a new epoch; State says.
	Batch(ctx context.Context, from uint64) (logging.Batch, error)

	// Acknowledge takes a receipt note from outside. It must verify the signature, the origin, that the covered root is the
	// root of its own tree at that size, and that the size is not beyond its own; and store the receipt durably before it
	// returns. covered is the size the note is about, state the numbers after it. Errors match logging.ErrRefused when the
	// note is not acceptable; nothing has changed then.
	Acknowledge(ctx context.Context, note []byte) (covered uint64, state State, err error)

	// Changed returns a channel that is closed when State may have changed since the call.
	Changed() <-chan struct{}
}

// Config is what a shipper needs. Log, Transports and Device are required.
type Config struct {
	Log        Log
	Transports []Transport    // one per broker, in order of preference; never two are connected at once
	Device     string         // device id
	Emit       logging.Emit   // delivery.stalled, delivery.resumed, delivery.refused; may be nil
	Doorbell   func()         // called for a doorbell message, at most once per DoorbellEvery; must not block; may be nil
	Logger     *slog.Logger   // for the engineer; may be nil
	Rand       func() float64 // jitter in [0, 1); nil means math/rand
	MaxRate    int            // most bytes published per second, in the long run; 0: no limit

	ResendAfter   time.Duration // no receipt for this long: send again; doubles without progress up to 16 times. 10 s
	StalledAfter  time.Duration // no progress for this long with a backlog: delivery.stalled, and the next broker. 5 min
	BackoffMin    time.Duration // first wait after a failed attempt while there was no connection yet; doubles. 1 s
	BackoffMax    time.Duration // longest. 5 min
	Rejoin        time.Duration // the first wait after a lost connection is up to this long. 30 s
	HomeAfter     time.Duration // time at another broker before the first is tried again, and up to half as much more. 30 min
	DoorbellEvery time.Duration // 10 s
}

// Status is what the control socket shows. Everything in it is the device's own view.
type Status struct {
	State
	Sent       uint64        // records handed to the present connection
	Broker     int           // index of the transport in use, or to be tried next
	Connected  bool          // to a broker that granted the subscriptions
	Since      time.Time     // of the present connection, or of its loss
	BacklogAge time.Duration // at least how long the oldest record without a quorum of receipts has waited; 0 without backlog
	Stalled    bool          // delivery.stalled was reported and no progress made since
	LastAck    time.Time     // when acked last rose in this process; zero before
	LastError  string        // why the last connection or attempt ended; empty while all is well
}

// Backlog returns the number of records without a quorum of receipts.
func (s Status) Backlog() uint64 { return s.Size - s.Acked }

// Shipper delivers one log. Make it with New; call Run once.
type Shipper struct {
	cfg Config
	enc logging.BatchEncoder

	cursor Cursor
	origin logging.Origin
	marks  marks
	turn   rotation
	pace   pace

	link      Transport // of the present connection
	presence  PresenceNote
	failures  int           // attempts in a row that brought nothing
	rejoin    bool          // there was a connection in this process
	homeAfter time.Duration // HomeAfter with the jitter of this absence
	began     time.Time     // of the present connection or attempt

	flying   []<-chan struct{} // one per batch without PUBACK, oldest first
	resend   time.Duration     // present resend interval
	progress time.Time         // last time acked rose, or the backlog began
	sentAt   time.Time         // last time a batch was handed over, a rewind happened, or acked rose
	rang     time.Time
	refused  map[string]bool // refusal codes already reported on this connection
	unsigned bool            // the log has records it could not sign yet

	mu     sync.Mutex
	status Status
}

// New checks cfg and fills in the defaults. Errors match logging.ErrSetup.
func New(cfg Config) (*Shipper, error) {
	if cfg.Log == nil || len(cfg.Transports) == 0 || !ValidDevice(cfg.Device) || cfg.MaxRate < 0 {
		return nil, fmt.Errorf("open shipper: log, transport and a device id are needed: %w", logging.ErrSetup)
	}
	set := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	set(&cfg.ResendAfter, 10*time.Second)
	set(&cfg.StalledAfter, 5*time.Minute)
	set(&cfg.BackoffMin, time.Second)
	set(&cfg.BackoffMax, 5*time.Minute)
	set(&cfg.Rejoin, 30*time.Second)
	set(&cfg.HomeAfter, 30*time.Minute)
	set(&cfg.DoorbellEvery, 10*time.Second)
	if cfg.Emit == nil {
		cfg.Emit = func(string, ...slog.Attr) {}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Rand == nil {
		cfg.Rand = rand.Float64
	}
	return &Shipper{cfg: cfg, turn: rotation{n: len(cfg.Transports)}, pace: newPace(cfg.MaxRate)}, nil
}

// Filters returns the subscriptions of a device, for [MQTTConfig].
func Filters(device string) []string {
	return []string{Topic{device, Receipt}.String(), Topic{device, Doorbell}.String()}
}

// Status returns the present state. It may be called from any goroutine.
func (s *Shipper) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.status
	st.BacklogAge = s.marks.age(st.Acked, time.Now())
	return st
}

// Run connects, ships and reconnects until ctx ends; it then says goodbye, closes the transport and returns nil. It returns an
// error only when the log was closed or needs a person (logging.ErrSetup); everything else is tried again. While the broker is
// away it holds no memory, and it returns after a wait with jitter, so that a fleet does not come back as one wave.
func (s *Shipper) Run(ctx context.Context) error {
	for {
		s.began = time.Now()
		err := s.session(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if !errors.Is(err, errLink) && (errors.Is(err, spool.ErrClosed) || errors.Is(err, logging.ErrSetup)) {
			return fmt.Errorf("ship audit log: %w", err)
		}
		s.lost(err)
		if !s.pause(ctx, s.after(err)) {
			return nil
		}
	}
}

// pause waits d. The log goes on growing meanwhile, so a stall is noticed offline as well.
func (s *Shipper) pause(ctx context.Context, d time.Duration) bool {
	end := time.NewTimer(d)
	defer end.Stop()
	for {
		changed := s.cfg.Log.Changed()
		if err := s.refresh(ctx); err != nil {
			s.cfg.Logger.Warn("audit shipping: read log state", "err", err)
		}
		look := time.NewTimer(s.stallIn())
		select {
		case <-ctx.Done():
			look.Stop()
			return false
		case <-end.C:
			look.Stop()
			return true
		case <-look.C:
			s.checkStall("offline")
		case <-changed:
		}
		look.Stop()
	}
}
