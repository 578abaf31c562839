// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/backstay/backstay/logging"
)

// How long a source that broke rests before it is opened again: doubled each time, up to the second number, and back to the
// first once it has run that long.
const (
	restMin = time.Second
	restMax = 5 * time.Minute
)

// States of a source in the inventory.
const (
	Working     = "working"
	Off         = "off"         // by configuration
	Unavailable = "unavailable" // this device cannot
	Failed      = "failed"      // it broke, or does not open; tried again
)

// All stands for every kind in Config.Off: a bench where the agent shares the machine with others watches none of it.
const All = "all"

// Status is one line of the inventory.
type Status struct {
	Name, State, Detail string
}

// Config says which sources run and where their events go.
type Config struct {
	Env  Env
	Off  []string // names of kinds that stay closed, or All
	Emit logging.Emit
}

// Set is the sources of this device. Its methods are safe for concurrent use.
type Set struct {
	cfg     Config
	members []*member
}

type member struct {
	kind   Kind
	sink   *Sink
	mu     sync.Mutex
	status Status
	open   Watcher // until Run takes it
}

// Open tries every kind. It fails only for a name in cfg.Off that is not a kind: that a source does not work here is a line of
// the inventory, never an error.
func Open(ctx context.Context, cfg Config) (*Set, error) { return open(ctx, cfg, Kinds()) }

func open(ctx context.Context, cfg Config, kinds []Kind) (*Set, error) {
	for _, name := range cfg.Off {
		if name != All && !slices.ContainsFunc(kinds, func(k Kind) bool { return k.Name == name }) {
			return nil, fmt.Errorf("open sources: there is none called %q: %w", name, logging.ErrSetup)
		}
	}
	s := &Set{cfg: cfg}
	s.cfg.Env.writers = &writers{}
	for _, k := range kinds {
		m := &member{kind: k, sink: &Sink{name: k.Name, emit: cfg.Emit, limit: newLimiter(k.Rate)}}
		m.status = Status{Name: k.Name, State: Off, Detail: "by configuration"}
		if !slices.Contains(cfg.Off, k.Name) && !slices.Contains(cfg.Off, All) {
			m.try(ctx, &s.cfg.Env)
		}
		s.members = append(s.members, m)
	}
	for _, m := range s.members {
		for _, other := range s.members {
			if other.kind.Name == m.kind.YieldTo {
				m.sink.yields = func() bool { return other.get().State == Working }
			}
		}
	}
	return s, nil
}

// try opens the source and notes how that went.
func (m *member) try(ctx context.Context, env *Env) {
	w, err := m.kind.Open(ctx, env)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.open = w
	switch {
	case errors.Is(err, ErrUnavailable):
		m.status = Status{m.kind.Name, Unavailable, err.Error()}
	case err != nil:
		m.status = Status{m.kind.Name, Failed, err.Error()}
	default:
		m.status = Status{m.kind.Name, Working, w.Covers()}
	}
}

func (m *member) get() Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.status
}

// Inventory tells how each source stands, in the order of Kinds.
func (s *Set) Inventory() []Status {
	out := make([]Status, len(s.members))
	for i, m := range s.members {
		out[i] = m.get()
	}
	return out
}

// Report records the inventory: what this device can see, and what it cannot.
func (s *Set) Report() {
	attrs := []slog.Attr{slog.String("message", "what this device can see")}
	for _, st := range s.Inventory() {
		attrs = append(attrs, slog.String(st.Name, st.State+": "+st.Detail))
	}
	s.cfg.Emit("inventory", attrs...)
}

// Parts returns one function for each source that may work, and one that reports what was left out. The caller runs each in a
// goroutine of its own until ctx ends.
func (s *Set) Parts() []func(ctx context.Context) {
	parts := []func(context.Context){s.account}
	for _, m := range s.members {
		if st := m.get().State; st == Working || st == Failed {
			parts = append(parts, func(ctx context.Context) { m.run(ctx, s) })
		}
	}
	return parts
}

// Close closes the sources that were opened and never run.
func (s *Set) Close() error {
	var errs []error
	for _, m := range s.members {
		if w := m.take(); w != nil {
			errs = append(errs, w.Close())
		}
	}
	return errors.Join(errs...)
}

func (m *member) take() Watcher {
	m.mu.Lock()
	defer m.mu.Unlock()
	w := m.open
	m.open = nil
	return w
}

// run keeps a source alive. A source that breaks is a gap in what the device sees, so each break is a record.
func (m *member) run(ctx context.Context, s *Set) {
	rest := restMin
	for ctx.Err() == nil {
		began := time.Now()
		if w := m.take(); w != nil {
			err := errors.Join(w.Run(ctx, m.sink), w.Close())
			if ctx.Err() != nil {
				return
			}
			if err == nil {
				err = errors.New("ended by itself")
			}
			m.mu.Lock()
			m.status = Status{m.kind.Name, Failed, err.Error()}
			m.mu.Unlock()
			s.cfg.Emit("log.source-failed", slog.String("message", "a source of the audit log broke"),
				slog.String("source", m.kind.Name), slog.String("reason", err.Error()))
		}
		if time.Since(began) > restMax {
			rest = restMin
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(rest):
		}
		rest = min(2*rest, restMax)
		m.try(ctx, &s.cfg.Env)
		if m.get().State == Working {
			s.cfg.Emit("log.source-restored", slog.String("message", "a source of the audit log works again"), slog.String("source", m.kind.Name))
		}
	}
}

// account records what sources left out, until ctx ends; then once more.
func (s *Set) account(ctx context.Context) {
	tick := time.NewTicker(lossEvery)
	defer tick.Stop()
	last := time.Now()
	for done := false; !done; {
		select {
		case <-ctx.Done():
			done = true
		case <-tick.C:
		}
		for _, m := range s.members {
			if attrs := m.sink.loss.report(m.kind.Name); attrs != nil {
				s.cfg.Emit("log.gap", attrs...)
			}
		}
		if !done && time.Since(last) < suppressedEvery {
			continue
		}
		last = time.Now()
		for _, m := range s.members {
			if attrs := m.sink.limit.report(m.kind.Name); attrs != nil {
				s.cfg.Emit("log.suppressed", attrs...)
			}
		}
	}
}
