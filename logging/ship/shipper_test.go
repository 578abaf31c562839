// SPDX-License-Identifier: Apache-2.0

package ship_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/logging/ship"
)

// memLog is a log in memory with the rules of the spool: real leaves, checkpoints and receipts.
type memLog struct {
	t      *testing.T
	signer *logging.CheckpointSigner
	policy logging.Policy

	mu      sync.Mutex
	origin  logging.Origin
	tree    logging.Tree
	roots   []logging.Hash // by size
	leaves  []logging.Leaf
	acked   uint64
	newest  []logging.Receipt
	changed chan struct{}
	fail    error // of the next Batch
}

func newMemLog(t *testing.T, keys ...*logging.ReceiptSigner) *memLog {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := logging.NewCheckpointSigner(key)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, k := range keys {
		names = append(names, k.Key().String())
	}
	policy, err := logging.NewPolicy(names, len(keys))
	if err != nil {
		t.Fatal(err)
	}
	l := &memLog{t: t, signer: signer, policy: policy, origin: logging.Origin{Device: signer.DeviceID(), Epoch: 1}, changed: make(chan struct{})}
	l.roots = []logging.Hash{l.tree.Root()}
	return l
}

func (l *memLog) append(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for range n {
		body := logging.EncodeLeaf(l.origin, l.tree.Size(), time.Now(), logging.Event{Code: "heartbeat"})
		h := logging.LeafHash(body)
		l.leaves = append(l.leaves, logging.Leaf{Index: l.tree.Size(), Hash: h, Body: body})
		l.tree.Append(h)
		l.roots = append(l.roots, l.tree.Root())
	}
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *memLog) state() ship.State {
	return ship.State{Origin: l.origin, Acked: l.acked, Size: l.tree.Size()}
}

func (l *memLog) State(context.Context) (ship.State, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state(), nil
}

func (l *memLog) Changed() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

func (l *memLog) Batch(_ context.Context, from uint64) (logging.Batch, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.fail; err != nil {
		l.fail = nil
		return logging.Batch{}, err
	}
	end := min(from+10, l.tree.Size())
	cp, err := l.signer.Sign(logging.Checkpoint{Origin: l.origin, Size: end, Root: l.roots[end]})
	if err != nil {
		return logging.Batch{}, err
	}
	return logging.Batch{SPKI: l.signer.SPKI(), Origin: l.origin, Start: from, Leaves: l.leaves[from:end], Checkpoint: cp}, nil
}

func (l *memLog) Acknowledge(_ context.Context, note []byte) (uint64, ship.State, error) {
	got, err := l.policy.Open(note)
	if err != nil {
		return 0, ship.State{}, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	c := got[0].Checkpoint
	if c.Origin != l.origin || c.Size > l.tree.Size() || c.Root != l.roots[c.Size] {
		return 0, ship.State{}, &logging.Refusal{Code: logging.CodeBadReceipt, What: "receipt", Why: "not of this log"}
	}
	l.newest = append(l.newest, got...)
	l.acked = max(l.acked, l.policy.Acked(l.newest))
	return c.Size, l.state(), nil
}

// link is a transport in memory. onPublish decides what the broker and everything behind it do.
type link struct {
	mu        sync.Mutex
	connects  int
	fail      error
	lost      chan struct{}
	inbox     chan ship.Message
	onPublish func(b logging.Batch) (puback bool)
	onConnect func() // after a connection was made
	onClose   func() // before one is closed
	open      bool
	bytes     int // published: topics and payloads
	largest   int // of one message
	will      ship.Message
	notes     []ship.PresenceNote // published on the status topic
	t         *testing.T
}

func newLink(t *testing.T) *link { return &link{t: t, inbox: make(chan ship.Message, 64)} }

func (l *link) Connect(_ context.Context, will ship.Message) (<-chan struct{}, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.connects++
	l.will = will
	if l.fail != nil {
		return nil, l.fail
	}
	l.lost, l.open = make(chan struct{}), true
	if l.onConnect != nil {
		l.onConnect()
	}
	return l.lost, nil
}

// behind sets what is behind the broker.
func (l *link) behind(decide func(logging.Batch) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.onPublish = decide
}

func (l *link) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.lost)
}

func (l *link) Publish(topic string, payload []byte, retain bool) (<-chan struct{}, error) {
	l.mu.Lock()
	l.bytes += len(topic) + len(payload)
	l.largest = max(l.largest, len(topic)+len(payload))
	l.mu.Unlock()
	if p, err := ship.ParseTopic(topic); err == nil && p.Kind == ship.Presence && retain {
		n, err := ship.ParsePresence(payload)
		if err != nil {
			l.t.Errorf("status %q: %v", payload, err)
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.notes = append(l.notes, n)
		ack := make(chan struct{})
		close(ack)
		return ack, nil
	}
	b, err := logging.DecodeBatch(payload)
	if err != nil || retain || topic != (ship.Topic{Device: b.Origin.Device, Kind: ship.Audit}).String() {
		l.t.Errorf("published on %s: %v, retained %v", topic, err, retain)
	}
	ack := make(chan struct{})
	l.mu.Lock()
	decide := l.onPublish
	l.mu.Unlock()
	if decide == nil || decide(b) {
		close(ack)
	}
	return ack, nil
}

func (l *link) Receipts() <-chan ship.Message { return l.inbox }

func (l *link) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open && l.onClose != nil {
		l.onClose()
	}
	l.open = false
	return nil
}

func (l *link) deliver(device string, k ship.Kind, payload []byte) {
	l.inbox <- ship.Message{Topic: ship.Topic{Device: device, Kind: k}.String(), Payload: payload}
}

func testKey(t *testing.T, name string) *logging.ReceiptSigner {
	t.Helper()
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := logging.NewReceiptSigner(name, priv)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// rig is a shipper between a log and a link, with the events it emitted.
type rig struct {
	log     *memLog
	link    *link
	shipper *ship.Shipper
	mu      sync.Mutex
	events  []string
	rings   int
}

func newRig(t *testing.T, keys ...*logging.ReceiptSigner) *rig {
	return newRigWith(t, func(*ship.Config) {}, keys...)
}

func newRigWith(t *testing.T, change func(*ship.Config), keys ...*logging.ReceiptSigner) *rig {
	r := &rig{log: newMemLog(t, keys...), link: newLink(t)}
	cfg := ship.Config{Log: r.log, Transports: []ship.Transport{r.link}, Device: r.log.origin.Device, Rejoin: time.Second,
		Doorbell: func() { r.rings++ },
		Emit: func(code string, attrs ...slog.Attr) {
			r.mu.Lock()
			defer r.mu.Unlock()
			if len(attrs) > 0 && code != "delivery.stalled" && code != "delivery.resumed" {
				code += " " + attrs[0].Value.String()
			}
			r.events = append(r.events, code)
		}}
	change(&cfg)
	var err error
	if r.shipper, err = ship.New(cfg); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) run(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.shipper.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	synctest.Wait()
}

func (r *rig) seen() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.events)
}

func (r *rig) sign(t *testing.T, key *logging.ReceiptSigner, c logging.Checkpoint) []byte {
	t.Helper()
	note, err := key.Sign(c, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return note
}

func (r *rig) at(size uint64) logging.Checkpoint {
	return logging.Checkpoint{Origin: r.log.origin, Size: size, Root: r.log.roots[size]}
}

// collector answers batches as an honest collector does.
func (r *rig) collector(t *testing.T, key *logging.ReceiptSigner) func(logging.Batch) bool {
	head := logging.Head{Origin: r.log.origin}
	return func(b logging.Batch) bool {
		next, _, _, err := head.Advance(b)
		if err == nil {
			head = next
		}
		r.link.deliver(b.Origin.Device, ship.Receipt, r.sign(t, key, r.at(head.Tree.Size())))
		return true
	}
}

func TestShipsEverythingOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key := testKey(t, "TEST/collector")
		r := newRig(t, key)
		sent := 0
		honest := r.collector(t, key)
		r.link.behind(func(b logging.Batch) bool { sent += len(b.Leaves); return honest(b) })
		r.log.append(95)
		r.run(t)
		r.log.append(30)
		synctest.Wait()
		if st := r.shipper.Status(); st.Acked != 125 || st.Backlog() != 0 || !st.Connected || st.BacklogAge != 0 {
			t.Errorf("status %+v", st)
		}
		if sent != 125 {
			t.Errorf("%d records were sent, 125 exist", sent)
		}
		if ev := r.seen(); len(ev) != 0 {
			t.Errorf("events %v", ev)
		}
	})
}

func TestWindowHoldsWithoutPuback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, testKey(t, "TEST/collector"))
		batches := 0
		r.link.behind(func(logging.Batch) bool { batches++; return false })
		r.log.append(1000)
		r.run(t)
		if batches != ship.Window {
			t.Errorf("%d batches on the way, want %d", batches, ship.Window)
		}
	})
}

// TestPubackWithoutReceiptMovesNothing: a broker that acknowledges and drops. The shipper goes back, more and more slowly, and says
// so once.
func TestPubackWithoutReceiptMovesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key := testKey(t, "TEST/collector")
		r := newRig(t, key)
		var starts []time.Time
		r.link.behind(func(b logging.Batch) bool {
			if b.Start == 0 {
				starts = append(starts, time.Now())
			}
			return true
		})
		r.log.append(25)
		r.run(t)
		time.Sleep(20 * time.Minute)
		synctest.Wait()
		st := r.shipper.Status()
		if st.Acked != 0 || !st.Stalled || st.BacklogAge != 20*time.Minute {
			t.Errorf("status %+v", st)
		}
		if ev := r.seen(); !slices.Equal(ev, []string{"delivery.stalled"}) {
			t.Errorf("events %v", ev)
		}
		if n := len(starts); n < 5 || n > 15 {
			t.Errorf("went back %d times in 20 min", n)
		}
		r.link.behind(r.collector(t, key))
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		if st := r.shipper.Status(); st.Acked != 25 || st.Stalled {
			t.Errorf("after the collector came back: %+v", st)
		}
		if ev := r.seen(); !slices.Equal(ev, []string{"delivery.stalled", "delivery.resumed"}) {
			t.Errorf("events %v", ev)
		}
	})
}

func TestOfflineIsAStallToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, testKey(t, "TEST/collector"))
		r.link.fail = errors.New("no route")
		r.log.append(1)
		r.run(t)
		time.Sleep(30 * time.Minute)
		synctest.Wait()
		if ev := r.seen(); !slices.Equal(ev, []string{"delivery.stalled"}) {
			t.Errorf("events %v", ev)
		}
		if st := r.shipper.Status(); st.LastError == "" || st.Connected {
			t.Errorf("status %+v", st)
		}
		if n := r.link.connects; n < 8 || n > 30 {
			t.Errorf("%d attempts in 30 min", n)
		}
	})
}

func TestReceiptsThatProveNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key, stranger := testKey(t, "TEST/collector"), testKey(t, "TEST/collector")
		r := newRig(t, key)
		r.log.append(20)
		r.run(t)
		other := newMemLog(t, key)
		other.append(20)
		wrongRoot := r.at(20)
		wrongRoot.Root[0] ^= 1
		larger := r.at(20)
		larger.Size = 21
		foreign := logging.Checkpoint{Origin: other.origin, Size: 20, Root: other.roots[20]}
		flipped := r.sign(t, key, r.at(20))
		flipped[len(flipped)-10] ^= 1
		old := r.at(20)
		old.Origin.Epoch = 2
		for name, note := range map[string][]byte{
			"another key of the same name": r.sign(t, stranger, r.at(20)),
			"wrong root":                   r.sign(t, key, wrongRoot),
			"larger than ours":             r.sign(t, key, larger),
			"foreign log":                  r.sign(t, key, foreign),
			"another epoch":                r.sign(t, key, old),
			"flipped bit":                  flipped,
			"empty":                        {},
			"garbage":                      []byte("x\n\ny"),
		} {
			r.link.deliver(r.log.origin.Device, ship.Receipt, note)
			synctest.Wait()
			if st := r.shipper.Status(); st.Acked != 0 || !st.Connected {
				t.Errorf("%s: status %+v", name, st)
			}
		}
		good := r.sign(t, key, r.at(10))
		r.link.deliver(other.origin.Device, ship.Receipt, good) // on another device's topic
		r.link.inbox <- ship.Message{Topic: "#", Payload: good}
		synctest.Wait()
		if st := r.shipper.Status(); st.Acked != 0 {
			t.Errorf("receipt on a foreign topic: %+v", st)
		}
		for i, size := range []uint64{10, 20, 10, 0} { // forward, and then replayed
			r.link.deliver(r.log.origin.Device, ship.Receipt, r.sign(t, key, r.at(size)))
			synctest.Wait()
			if st, want := r.shipper.Status(), []uint64{10, 20, 20, 20}[i]; st.Acked != want {
				t.Errorf("receipt for %d: acked %d, want %d", size, st.Acked, want)
			}
		}
		if ev := r.seen(); len(ev) == 0 || len(ev) > 4 {
			t.Errorf("a hostile broker made %d events of one connection: %v", len(ev), ev)
		}
	})
}

func TestQuorumMovesTheCursor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := testKey(t, "TEST/vendor"), testKey(t, "TEST/agency")
		r := newRig(t, a, b)
		r.log.append(20)
		r.run(t)
		r.link.deliver(r.log.origin.Device, ship.Receipt, r.sign(t, a, r.at(20)))
		synctest.Wait()
		if st := r.shipper.Status(); st.Acked != 0 {
			t.Errorf("one of two keys: acked %d", st.Acked)
		}
		r.link.deliver(r.log.origin.Device, ship.Receipt, r.sign(t, b, r.at(10)))
		synctest.Wait()
		if st := r.shipper.Status(); st.Acked != 10 {
			t.Errorf("both keys: acked %d, want 10", st.Acked)
		}
	})
}

func TestGoesBackAtOnceWhenABatchIsMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key := testKey(t, "TEST/collector")
		r := newRig(t, key)
		honest, dropped := r.collector(t, key), false
		r.link.behind(func(b logging.Batch) bool {
			if b.Start == 20 && !dropped {
				dropped = true
				return true
			}
			return honest(b)
		})
		r.log.append(200)
		began := time.Now()
		r.run(t)
		if st := r.shipper.Status(); st.Acked != 200 {
			time.Sleep(time.Minute)
			synctest.Wait()
			t.Errorf("acked %d at once, %d after %v", st.Acked, r.shipper.Status().Acked, time.Since(began))
		}
	})
}

func TestReconnectsAndGoesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key := testKey(t, "TEST/collector")
		r := newRig(t, key)
		r.log.append(50)
		r.run(t) // all of it is acknowledged by the broker and lost with it
		r.link.cut()
		synctest.Wait()
		if r.shipper.Status().Connected {
			t.Error("still connected")
		}
		r.link.behind(r.collector(t, key))
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if st := r.shipper.Status(); st.Acked != 50 || r.link.connects != 2 {
			t.Errorf("after %d connections: %+v", r.link.connects, st)
		}
	})
}

func TestDoorbell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, testKey(t, "TEST/collector"))
		r.run(t)
		id := r.log.origin.Device
		for range 50 {
			r.link.deliver(id, ship.Doorbell, []byte("look"))
		}
		synctest.Wait()
		if r.rings != 1 {
			t.Errorf("50 messages at once rang %d times", r.rings)
		}
		time.Sleep(11 * time.Second)
		r.link.inbox <- ship.Message{Topic: ship.Topic{Device: id, Kind: ship.Doorbell}.String(), Retained: true}
		r.link.deliver(id, ship.Doorbell, make([]byte, ship.MaxDoorbell+1))
		synctest.Wait()
		if r.rings != 1 {
			t.Error("a retained or oversized doorbell rang")
		}
		r.link.deliver(id, ship.Doorbell, nil)
		synctest.Wait()
		if r.rings != 2 {
			t.Error("the second doorbell did not ring")
		}
	})
}

func TestNewEpochAndTroubleWithTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key := testKey(t, "TEST/collector")
		r := newRig(t, key)
		r.link.behind(r.collector(t, key))
		r.log.append(30)
		r.run(t)
		// The log is damaged, and begins anew with fewer records than were acknowledged.
		r.log.mu.Lock()
		r.log.fail = fmt.Errorf("read batch: %w", &logging.Refusal{Code: logging.CodeRecordAltered, What: "record 30", Why: "altered"})
		r.log.origin.Epoch, r.log.acked, r.log.newest = 2, 0, nil
		r.log.tree, r.log.leaves, r.log.roots = logging.Tree{}, nil, []logging.Hash{new(logging.Tree).Root()}
		r.log.mu.Unlock()
		r.link.behind(r.collector(t, key))
		r.log.append(5)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if st := r.shipper.Status(); st.Acked != 5 || st.Origin.Epoch != 2 {
			t.Errorf("status %+v", st)
		}
	})
}
