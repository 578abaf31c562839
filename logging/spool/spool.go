// SPDX-License-Identifier: Apache-2.0

// Package spool keeps the audit log of the device it runs on until somebody has acknowledged it, in a directory of its own.
//
// What a log means is in [Log], once: encoding, signatures, positions, epochs, what goes when space runs out. The bytes are
// kept by one of two stores: audit.db, a bbolt file, or audit.log, a directory of append-only segments, for file systems
// without the shared writable mapping that bbolt needs (JFFS2, some shared folders). A new log takes what works, found out
// by trying; a directory keeps the kind it has, and there are never two logs side by side.
//
// It owns that directory: the store, audit.epoch (the highest epoch number ever used) and at most one quarantined store.
// Only this package may write there; Log holds the lock on the directory, so every command asks the daemon. It does not own
// what events mean (logging), how batches travel (logging/ship), or the key that signs (identity).
//
// An attacker who can write the directory can delete the log, or replace it by an older copy. Both are seen by whoever holds
// a receipt, by this device as soon as such a receipt reaches it, and by this device at the next start if it has a hardware
// counter ([Config.Counter]). He cannot change, remove or reorder a record without [Log.Verify], [Log.Batch] and the next
// start refusing it: every record is kept with its hash, and hashes are checked against signed checkpoints. Whatever is
// refused is renamed away for forensics and a new epoch begins, whose first record says why and repeats the last known
// checkpoint: the product keeps running and keeps logging, and nobody can take the break for an ordinary restart. What he
// can do unseen is to remove the newest commit: it looks like one that a power cut tore.
//
// While flash cannot be written, events wait in a bounded part of memory, critical ones also where they survive a restart
// ([Config.LastResort]). State says so at once, and the log does when it is written again: audit.failed, log.gap with what
// was lost, the events in order, audit.restored.
package spool

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/backstay/backstay/logging"
)

// Group commit: ordinary events are written when commitEvents of them wait or the oldest has waited for commitDelay.
const (
	commitEvents = 64
	commitDelay  = 5 * time.Second
	// retryDelay is how long ordinary events wait after a failed write before they cause the next one.
	retryDelay = time.Second
)

// Capacity limits of a store, in bytes of its files.
const (
	DefaultCapacity = 8 << 20
	MinCapacity     = 512 << 10
	MaxCapacity     = 1 << 30
	// DefaultRing is how many bytes of events wait in memory at most.
	DefaultRing = 64 << 10
	// DefaultKeep is how many acknowledged records stay for local reading.
	DefaultKeep = 256
)

// ErrClosed is returned by every method after Close.
var ErrClosed = errors.New("audit log is closed")

// Config says where a log is kept and how.
type Config struct {
	Dir      string         // created with mode 0700 when missing; whoever can write it can delete the log
	Key      crypto.Signer  // birth key, ECDSA P-256; signs one checkpoint per commit
	Policy   logging.Policy // whose receipts allow deletion; the zero Policy never deletes
	Capacity int64          // bytes; 0 means DefaultCapacity
	Keep     uint64         // acknowledged records kept for reading; 0 means DefaultKeep
	Store    string         // StoreAuto, StoreBolt or StoreSegments for a new log; empty means StoreAuto
	Now      func() time.Time

	// Ring bounds the events that wait in memory while the store cannot be written, in bytes; 0 means DefaultRing.
	Ring int
	// Counter is a hardware counter that shows a store that was put back; it may be nil. Nobody else may advance it.
	Counter Counter
	// LastResort is a file to which critical events are also written while the store cannot be: /dev/pmsg0, whose contents
	// survive a restart. Remains is where they are then found, /sys/fs/pstore/pmsg-ramoops-0. Both may be empty.
	LastResort, Remains string

	// Stamp adds what the composition knows (device, firmware, boot id, monotonic clock, quality of the time) to every
	// event, those of this package included. It may be nil, and must not call the log.
	Stamp func(logging.Event) logging.Event
}

// Log is the audit log of this device. All methods are safe for concurrent use; they block each other while one of them
// writes, that is for one or two fdatasync and one signature.
type Log struct {
	cfg    Config
	signer *logging.CheckpointSigner

	mu      sync.Mutex
	lock    *os.File
	layout  *layout
	store   store // nil while it could not be opened again
	closed  bool
	epoch   uint64
	tree    logging.Tree // at marks.size; computed, never read back, while the process lives
	min     logging.Tree // at marks.pruned
	marks   marks
	head    []byte // newest signed checkpoint
	headAt  uint64 // its size
	signErr error
	full    fill
	read    logging.Tree   // where the last batch ended, so that the next one need not start at min
	sent    uint64         // checkpoints over up to so many records may have been handed out (see folder)
	handing bool           // the newest was, since the last commit: what the next commits will be too
	readers int            // open snapshots
	first   *logging.Event // first record of an epoch that could not be created yet

	pending  ring
	since    time.Time // when the oldest pending event came
	urgent   bool      // a critical event is pending
	retry    time.Time // ordinary events do not write before
	lost     loss
	failed   failure
	notes    []logging.Event // records of our own, for the next commit
	receipts []stored
	reported uint64    // records before this index are named in a log.pruned record
	reportAt time.Time // the next one is not written before
	counter  counting

	changed chan struct{} // closed and replaced at every change of State
	kick    chan struct{} // wakes Run
	fuse    fuse
	packer  packer
}

// marks are the positions of a log: pruned <= acked <= size. The fourth, how far records were sent, belongs to the shipper,
// between acked and size. Only the methods change them, and they keep the order.
type marks struct{ pruned, acked, size uint64 }

func (m *marks) grow(n uint64)   { m.size += n }
func (m *marks) ack(to uint64)   { m.acked = max(m.acked, min(to, m.size)) }
func (m *marks) prune(to uint64) { m.pruned = max(m.pruned, min(to, m.acked)) }
func (m marks) valid() bool      { return m.pruned <= m.acked && m.acked <= m.size }

// loss counts events that could not be kept, until a log.gap record can say so.
type loss struct {
	events, critical uint64
	first, last      time.Time
	reason           string
}

// State is a snapshot of the positions and the health of a log. Always Pruned <= Acked <= Size.
type State struct {
	Origin  logging.Origin
	Store   string // kind of store in use: StoreBolt or StoreSegments
	Pruned  uint64 // records before this index are no longer here
	Acked   uint64 // records before this index are acknowledged by a quorum
	Size    uint64 // records durable here
	Signed  uint64 // records the newest checkpoint covers; what Batch can hand out
	Pending int    // events not durable yet
	Lost    uint64 // events that could not be kept and are not reported in the log yet

	// Failed says why the store cannot be written, empty while it can. The device goes on and events wait in a bounded part
	// of memory; what does not fit is counted in Lost, and audit.failed, log.gap and audit.restored records will tell.
	Failed       string
	FailedSince  time.Time
	CounterError string // why the hardware counter was not read or advanced

	Fill       int // per cent of the capacity in use
	Checkpoint []byte
	SignError  string    // why the newest records are not signed, empty when they are
	OldestTime time.Time // when the oldest pending event came; zero when none waits
}

// Open opens the log in cfg.Dir, or begins a new one. What it finds is verified completely; a store that does not hold is
// moved aside and a new epoch begins (see the package comment), which is not an error.
//
// Flash that is full, broken or read-only is no error either: the log begins in memory, and State.Failed says why.
//
// Errors match logging.ErrSetup when a person must act (a key of the wrong kind, no permission, bbolt demanded where it
// cannot work), logging.ErrRetry when another process holds the lock. Any other error is I/O.
func Open(cfg Config) (*Log, error) { return open(cfg, nil) }

func open(cfg Config, fuse fuse) (*Log, error) {
	signer, err := logging.NewCheckpointSigner(cfg.Key)
	if err != nil {
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	if cfg.Capacity == 0 {
		cfg.Capacity = DefaultCapacity
	}
	if cfg.Capacity < MinCapacity || cfg.Capacity > MaxCapacity {
		return nil, fmt.Errorf("open audit log: capacity %d is not between %d and %d: %w", cfg.Capacity, MinCapacity, MaxCapacity, logging.ErrSetup)
	}
	if cfg.Store == "" {
		cfg.Store = StoreAuto
	}
	if err := checkStoreName(cfg.Store); err != nil {
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	if cfg.Keep == 0 {
		cfg.Keep = DefaultKeep
	}
	if cfg.Ring == 0 {
		cfg.Ring = DefaultRing
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("open audit log: %w: %w", err, logging.ErrSetup)
	}
	l := &Log{cfg: cfg, signer: signer, pending: ring{limit: cfg.Ring}, changed: make(chan struct{}), kick: make(chan struct{}, 1), fuse: fuse}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lock, err = lockDir(cfg.Dir); err != nil {
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	if err := l.start(); err != nil {
		l.release(err)
		if !broken(err) {
			_ = l.lock.Close() // the error of start counts
			return nil, fmt.Errorf("open audit log: %w", err)
		}
		l.fail(err)
	}
	l.recoverRemains()
	if err := l.commit(); err != nil && l.failed.err == nil {
		l.fail(err)
	}
	return l, nil
}

// Close writes what is pending and releases the store. It waits for running exports and verifications.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	err := l.commit()
	l.closed = true
	l.notify()
	if l.store != nil {
		err = errors.Join(err, l.store.close())
		l.store = nil
	}
	if err = errors.Join(err, l.lock.Close()); err != nil {
		return fmt.Errorf("close audit log: %w", err)
	}
	return nil
}

// State returns where the log stands.
func (l *Log) State() State {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := State{
		Origin: l.origin(), Pruned: l.marks.pruned, Acked: l.marks.acked, Size: l.marks.size, Signed: l.headAt,
		Pending: len(l.pending.events), Lost: l.lost.events, Fill: l.full.percent(), Checkpoint: l.head,
	}
	if l.layout != nil {
		s.Store = l.layout.name
	}
	if len(l.pending.events) > 0 {
		s.OldestTime = l.since
	}
	if l.failed.err != nil {
		s.Failed, s.FailedSince = l.failed.err.Error(), l.failed.since
	}
	if l.counter.err != nil {
		s.CounterError = l.counter.err.Error()
	}
	if l.signErr != nil {
		s.SignError = l.signErr.Error()
	}
	return s
}

// Size returns the number of durable records of the present epoch.
func (l *Log) Size() uint64 { return l.State().Size }

// Checkpoint returns the newest signed checkpoint of the present epoch.
func (l *Log) Checkpoint() []byte { return l.State().Checkpoint }

// SPKI returns the public key that signs the checkpoints.
func (l *Log) SPKI() []byte { return l.signer.SPKI() }

// Changed returns a channel that is closed at the next change of the log: a commit, an acknowledgement, a new epoch, Close.
func (l *Log) Changed() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

func (l *Log) notify() {
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *Log) origin() logging.Origin {
	return logging.Origin{Device: l.signer.DeviceID(), Epoch: l.epoch}
}

func (l *Log) disk() disk { return disk{l.fuse} }

func (l *Log) path(name string) string { return filepath.Join(l.cfg.Dir, name) }

func (l *Log) event(code string, attrs ...slog.Attr) logging.Event {
	return l.stamp(logging.NewEvent(code, attrs...))
}

func (l *Log) stamp(e logging.Event) logging.Event {
	if e.Time.IsZero() {
		e.Time = l.cfg.Now()
	}
	if l.cfg.Stamp != nil {
		e = l.cfg.Stamp(e)
	}
	return e
}

// Run writes pending events when their time has come, until ctx ends; then it writes the rest and returns nil. Without Run,
// ordinary events are written by the first Append after their time, by Flush and by Close. A log has one Run at a time.
func (l *Log) Run(ctx context.Context) error {
	timer := time.NewTimer(commitDelay)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			// What is pending must not be lost because the process was asked to stop.
			return l.Flush(context.WithoutCancel(ctx))
		case <-l.kick:
		case <-timer.C:
		}
		l.mu.Lock()
		wait := commitDelay
		if !l.closed && len(l.pending.events) > 0 {
			if wait = commitDelay - time.Since(l.since); wait <= 0 {
				// The error stays visible in State: events wait, and the next round tries again.
				_ = l.commit()
				wait = commitDelay
			}
		}
		l.mu.Unlock()
		timer.Reset(wait)
	}
}
