// SPDX-License-Identifier: Apache-2.0

// Package source watches the device for what an investigator will ask about: programs that start, files that change, who logs
// in, what is plugged in, what listens, what the kernel says, when the clock jumps, why the last run ended. Each source is one
// file; [Kinds] lists them.
//
// It owns no state but what [State] keeps for it, and no policy: what is done with an event is the log's business. It executes
// nothing and writes nothing to the system it watches; no source may slow the device down, so a source that cannot keep up
// loses events and says how many ([Sink.Lost]), and a source that floods is cut off at its rate, with the count in the log.
//
// Every source is tried when the set opens, and [Set.Inventory] tells which work here, what they see and why others do not:
// a consumer has to know the blind spots of a device. Everything a source reads, kernel records included, may hold text of an
// attacker's choice. A root user can blind each of them; that it went blind is a record of its own where it can be noticed.
package source

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/backstay/backstay/logging"
)

// ErrUnavailable means that this device cannot have the source: the kernel lacks it, or the agent lacks the right. The text
// before it says why, and goes into the inventory. It is tried again at the next start only.
var ErrUnavailable = errors.New("not available here")

// Kind is one source as data.
type Kind struct {
	Name string // stable: it is in configurations and in the inventory
	Sees string // what it sees, a phrase for the inventory and the documentation
	// Rate is how many events it may record. Critical ones (see logging.Event.Critical) have a bucket of their own of the same
	// size, so that a flood of ordinary ones never costs a critical one.
	Rate logging.Rate

	// YieldTo names a kind that sees some of the same better, "" for none. While that one works, Sink.Yields is true, and this
	// one leaves those events out. Which they are is its own affair.
	YieldTo string

	// Open tries whether the source works here and begins to listen. An error that matches ErrUnavailable is a fact about the
	// device, any other is a fault worth trying again. ctx bounds the call only.
	Open func(ctx context.Context, env *Env) (Watcher, error)
}

// Watcher is an open source.
type Watcher interface {
	// Covers says what it can see here, and what it cannot, in one phrase: "execs on / and /data; not on tmpfs".
	Covers() string

	// Run delivers to sink until ctx ends, and returns nil then. Any other return means the source broke: it is opened anew after
	// a while. It is called once, and runs in one goroutine; it must use little memory whatever comes in.
	Run(ctx context.Context, sink *Sink) error

	// Close releases what Open took. It is called after Run returned, or without Run.
	Close() error
}

// Env is what sources may know and use.
type Env struct {
	Root   string        // "/" on a device; tests use a tree of their own. See Path.
	Files  []string      // watched files and directories, absolute, inside Root
	Mounts []string      // mount points whose programs and writes are watched; empty: every one on a real file system
	Poll   time.Duration // how often what cannot be waited for is looked at; 5 s to 30 s

	BootID string           // of this boot
	Now    func() time.Time // trusted time
	State  State
	Logger *slog.Logger

	writers *writers // who wrote files last, from the source that sees it to the ones that see what changed; set by Open
}

// State keeps small values of sources across restarts: which crash was reported already, how far a file was read. Names are
// those of kinds. A value is at most MaxState bytes. Methods are safe for concurrent use; Save returns when the value is
// durable. It costs a flash write: save at most once a minute, and only what changed.
type State interface {
	Load(name string) ([]byte, error) // nil when there is none
	Save(name string, value []byte) error
}

// MaxState bounds a value of State, in bytes.
const MaxState = 16 << 10

// Path returns the place of an absolute name inside Root.
func (e *Env) Path(name string) string {
	if e.Root == "" || e.Root == "/" {
		return name
	}
	return e.Root + name
}

// Kinds lists every source, in the order of the inventory.
func Kinds() []Kind {
	return []Kind{
		kauditKind(),
		processKind(),
		kmsgKind(),
		ueventKind(),
		routeKind(),
		listenerKind(),
		execKind(),
		mountKind(),
		fileKind(),
		accountKind(),
		loginKind(),
		clockKind(),
		crashKind(),
		bootKind(),
	}
}

// Sink takes what one source sees. Its methods may be called from one goroutine.
type Sink struct {
	name  string
	emit  logging.Emit
	limit *limiter
	loss  loss

	yields func() bool // see Kind.YieldTo; nil: never
}

// Event records one event, unless the source is beyond its rate: then it is counted, and the count recorded. The attribute
// "source" is added.
func (s *Sink) Event(code string, attrs ...slog.Attr) {
	e := logging.NewEvent(code, attrs...)
	if !s.limit.allow(code, e.Critical(), true) {
		return
	}
	s.emit(code, append(attrs, slog.String("source", s.name))...)
}

// Yields reports whether the kind named by YieldTo works at present.
func (s *Sink) Yields() bool { return s.yields != nil && s.yields() }

// Allow reports whether the source may still record an event with this code, and counts it as left out when it may not. A
// source asks before work that costs more than the event is worth in a flood: a look into /proc, a hash. What is allowed is
// then given to Event, which takes it from the rate.
func (s *Sink) Allow(code string) bool {
	return s.limit.allow(code, logging.Lookup(code).Critical, false)
}

// Omit counts an event as left out: a source that has no time to look at everything says so.
func (s *Sink) Omit(code string) { s.limit.omit(code, logging.Lookup(code).Critical) }

// Lost reports that the source itself lost n events, 0 when nobody knows how many: a full socket buffer, a queue overflow,
// a counter of the kernel. Reports are gathered for lossEvery, so that an overflow that lasts is one record, not a flood.
func (s *Sink) Lost(n uint64, reason string) { s.loss.add(n, reason) }
