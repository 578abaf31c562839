// SPDX-License-Identifier: Apache-2.0

package collect

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/backstay/backstay/logging"
)

// Collector turns what an authenticated device sent into stored records and receipts. It is safe for concurrent use.
type Collector struct {
	cfg CollectorConfig

	mu   sync.Mutex
	seen map[string]time.Time // newest message per device, in this process
	gaps map[string]gap       // per device: the batch that could not be used last

	presence sync.Mutex // held from reading a device's status to storing the next one
}

// CollectorConfig is what a Collector needs. Store and Key are required.
type CollectorConfig struct {
	Store  Store
	Key    *logging.ReceiptSigner
	Now    func() time.Time // time in receipts; nil means time.Now
	Alarm  func(Alarm)      // told of every message that raised an alarm; must not block; may be nil
	Logger *slog.Logger     // may be nil

	// Known says whether a device belongs to the fleet; nil means all do. Behind somebody else's broker it keeps a broker that
	// makes up device ids from filling the store with alarms about them.
	Known func(device string) bool

	Presence PresenceStore // keeps what devices say about being there; nil: nobody wants to know

	MissingAfter time.Duration // same unusable batch for this long: CodeMissing. 1 min
}

// gap is a batch beyond what is stored.
type gap struct {
	origin      logging.Origin
	start, size uint64
	since       time.Time
}

// Result says what became of one message.
type Result struct {
	Receipt []byte // publish it, retained, on the device's receipt topic; nil: say nothing
	Size    uint64 // records stored of the log now
	Stored  int    // records that were new
	Alarm   *Alarm // what was wrong with it
}

// New checks cfg. Errors match logging.ErrSetup.
func New(cfg CollectorConfig) (*Collector, error) {
	if cfg.Store == nil || cfg.Key == nil {
		return nil, fmt.Errorf("open collector: store and receipt key are needed: %w", logging.ErrSetup)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.MissingAfter == 0 {
		cfg.MissingAfter = time.Minute
	}
	return &Collector{cfg: cfg, seen: make(map[string]time.Time), gaps: make(map[string]gap)}, nil
}

// conflictTries bounds the repeats when several collectors serve one device.
const conflictTries = 8

// Ingest takes one message that the authenticated device sent on its audit topic.
//
// When it returns nil, everything the Result speaks of is durable and the message may be acknowledged to the device. An
// error is one of storage: acknowledge nothing, the device sends again. What is wrong with the message itself is not an
// error but an Alarm: it is stored as evidence and gets no receipt, so the device keeps its records. Only of a device that is
// not Known nothing at all is stored.
//
// A batch beyond what is stored is not stored; the answer is a receipt for what there is, at which the device goes back. One
// that overlaps is used from the first new record on. One that is already here is answered with the newest receipt.
func (c *Collector) Ingest(ctx context.Context, device string, payload []byte) (Result, error) {
	now := c.cfg.Now()
	if c.cfg.Known != nil && !c.cfg.Known(device) {
		a := Alarm{Device: device, Code: CodeUnknownDevice, Level: Warning, What: "not a device of this fleet", Last: now}
		c.cfg.Logger.Warn("audit message of an unknown device dropped", "device", device)
		return Result{Alarm: &a}, nil
	}
	c.mu.Lock()
	c.seen[device] = now
	c.mu.Unlock()
	b, err := logging.DecodeBatch(payload)
	if err != nil {
		return c.alarm(ctx, device, "", err, payload)
	}
	origin := b.Origin.String()
	if b.Origin.Device != device {
		// Certificate and signature name two devices. Nothing of it is stored in either log.
		return c.alarm(ctx, device, "", &logging.Refusal{Code: logging.CodeDeviceMismatch,
			What: "batch of " + origin, Why: "sent with the certificate of device " + device}, payload)
	}
	for range conflictTries {
		var res Result
		res, err = c.ingest(ctx, b, payload, now)
		if !errors.Is(err, ErrConflict) {
			return res, err
		}
	}
	return Result{}, fmt.Errorf("store batch of %s: %w: %w", origin, err, logging.ErrRetry)
}

func (c *Collector) ingest(ctx context.Context, b logging.Batch, payload []byte, now time.Time) (Result, error) {
	log, known, err := c.log(ctx, b.Origin)
	if err != nil {
		return Result{}, err
	}
	next, fresh, cp, err := log.Head.Advance(b)
	size := log.Head.Tree.Size()
	switch {
	case code(err) == logging.CodeBatchGap:
		return c.gap(ctx, log, b, now)
	case err != nil:
		res, err := c.alarm(ctx, b.Origin.Device, b.Origin.String(), err, payload)
		res.Size = size
		return res, err
	case len(fresh) == 0:
		return Result{Receipt: log.Receipt, Size: size}, nil
	}
	if res, stop, err := c.epoch(ctx, b, known, payload); stop || err != nil {
		return res, err
	}
	// Signed before it is stored, so that records, head and receipt are one transaction; it leaves this process only after.
	receipt, err := c.cfg.Key.Sign(cp, now)
	if err != nil {
		return Result{}, fmt.Errorf("sign receipt: %w", err)
	}
	err = c.cfg.Store.Append(ctx, Commit{Base: log.Head, Next: next, Leaves: fresh, SPKI: b.SPKI, Checkpoint: b.Checkpoint, Receipt: receipt, Time: now})
	if err != nil {
		return Result{}, fmt.Errorf("store batch of %s: %w", b.Origin, err)
	}
	c.forgetGap(b.Origin.Device)
	return Result{Receipt: receipt, Size: next.Tree.Size(), Stored: int(logging.Records(fresh))}, nil
}

// log returns the stored log, or an empty one.
func (c *Collector) log(ctx context.Context, o logging.Origin) (Log, bool, error) {
	log, err := c.cfg.Store.Log(ctx, o)
	if errors.Is(err, ErrUnknown) {
		return Log{Head: logging.Head{Origin: o}}, false, nil
	}
	if err != nil {
		return Log{}, false, fmt.Errorf("read log %s: %w", o, err)
	}
	return log, true, nil
}

// epoch looks at a batch with new records in the light of the other epochs of the device.
func (c *Collector) epoch(ctx context.Context, b logging.Batch, known bool, payload []byte) (res Result, stop bool, err error) {
	newest, err := c.cfg.Store.Newest(ctx, b.Origin.Device)
	if errors.Is(err, ErrUnknown) || err == nil && newest == b.Origin {
		return Result{}, false, nil
	}
	if err != nil {
		return Result{}, true, fmt.Errorf("read newest log of %s: %w", b.Origin.Device, err)
	}
	origin := b.Origin.String()
	if newest.Epoch > b.Origin.Epoch {
		// A log that was closed grows again: the flash was set back to an older image.
		res, err := c.alarm(ctx, b.Origin.Device, origin, &logging.Refusal{Code: logging.CodeRolledBack,
			What: fmt.Sprintf("records from %d on of %s", b.Start, origin), Why: "epoch " + fmt.Sprint(newest.Epoch) + " was seen before"}, payload)
		return res, true, err
	}
	if !known {
		c.raise(ctx, Alarm{Device: b.Origin.Device, Origin: origin, Code: CodeNewEpoch, Level: Notice,
			What: fmt.Sprintf("%s follows %s", origin, newest)}, payload) //nolint:errcheck // a notice; the batch matters more
	}
	return Result{}, false, nil
}

// gap answers a batch that cannot be used yet with a receipt for what there is. For an unknown log that is a receipt for the
// empty log, which promises nothing and says where to begin.
func (c *Collector) gap(ctx context.Context, log Log, b logging.Batch, now time.Time) (Result, error) {
	// Its signature was verified by Advance, so the size is the device's own claim.
	size := log.Head.Tree.Size()
	res := Result{Receipt: log.Receipt, Size: size}
	if size == 0 {
		receipt, err := c.cfg.Key.Sign(logging.Checkpoint{Origin: b.Origin, Root: log.Head.Tree.Root()}, now)
		if err != nil {
			return Result{}, fmt.Errorf("sign receipt: %w", err)
		}
		res.Receipt = receipt
	}
	c.mu.Lock()
	g := c.gaps[b.Origin.Device]
	if g.origin != b.Origin || g.start != b.Start || g.size != size {
		// A device behind a window sends several batches beyond the hole; only the lowest one repeats after it went back.
		if g.origin != b.Origin || g.size != size || b.Start < g.start {
			c.gaps[b.Origin.Device] = gap{b.Origin, b.Start, size, now}
		}
		c.mu.Unlock()
		return res, nil
	}
	missing := now.Sub(g.since) >= c.cfg.MissingAfter
	c.mu.Unlock()
	if !missing {
		return res, nil
	}
	a := Alarm{Device: b.Origin.Device, Origin: b.Origin.String(), Code: CodeMissing, Level: Warning,
		What: fmt.Sprintf("records %d to %d are not here and the device does not send them", size, b.Start-1)}
	if err := c.raise(ctx, a, nil); err != nil {
		return Result{}, err
	}
	res.Alarm = &a
	return res, nil
}

func (c *Collector) forgetGap(device string) {
	c.mu.Lock()
	delete(c.gaps, device)
	c.mu.Unlock()
}

// alarm stores a message that was refused as evidence.
func (c *Collector) alarm(ctx context.Context, device, origin string, refusal error, payload []byte) (Result, error) {
	a := Alarm{Device: device, Origin: origin, Code: code(refusal), Level: Warning, What: refusal.Error()}
	switch a.Code {
	case logging.CodeForked, logging.CodeRootMismatch, logging.CodeRecordAltered, logging.CodeRolledBack, logging.CodeDeviceMismatch:
		a.Level = Critical
	case "":
		return Result{}, refusal // not a refusal: a bug or a failing key, not the device's fault
	}
	if payload == nil {
		payload = []byte{} // an empty message is evidence too
	}
	if err := c.raise(ctx, a, payload); err != nil {
		return Result{}, err
	}
	return Result{Alarm: &a}, nil
}

func (c *Collector) raise(ctx context.Context, a Alarm, evidence []byte) error {
	a.Last = c.cfg.Now()
	c.cfg.Logger.Warn("audit alarm", "device", a.Device, "code", a.Code, "what", a.What)
	if err := c.cfg.Store.Raise(ctx, a, evidence); err != nil {
		return fmt.Errorf("store alarm %s of %s: %w", a.Code, a.Device, err)
	}
	if c.cfg.Alarm != nil {
		c.cfg.Alarm(a)
	}
	return nil
}

// LastSeen returns when a device last sent anything to this process; zero when it did not. A Device of the store has the time
// of the last commit, which survives a restart.
func (c *Collector) LastSeen(device string) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seen[device]
}

func code(err error) string {
	var r *logging.Refusal
	if errors.As(err, &r) {
		return r.Code
	}
	return ""
}

// newestReceipt returns the newest receipt of the newest log of a device; nil when there is none.
func (c *Collector) newestReceipt(ctx context.Context, device string) ([]byte, error) {
	o, err := c.cfg.Store.Newest(ctx, device)
	if err == nil {
		var log Log
		if log, err = c.cfg.Store.Log(ctx, o); err == nil {
			return log.Receipt, nil
		}
	}
	if errors.Is(err, ErrUnknown) {
		return nil, nil
	}
	return nil, fmt.Errorf("read newest receipt of %s: %w", device, err)
}
