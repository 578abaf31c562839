// SPDX-License-Identifier: Apache-2.0

package collect_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/logging/collect"
)

// device makes batches of a log that only exists in memory.
type device struct {
	t      *testing.T
	signer *logging.CheckpointSigner
	origin logging.Origin
	tree   logging.Tree
	roots  []logging.Hash
	leaves []logging.Leaf
}

func newDevice(t *testing.T) *device {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := logging.NewCheckpointSigner(key)
	if err != nil {
		t.Fatal(err)
	}
	d := &device{t: t, signer: signer}
	d.begin(1)
	return d
}

// begin starts an epoch.
func (d *device) begin(epoch uint64) {
	d.origin = logging.Origin{Device: d.signer.DeviceID(), Epoch: epoch}
	d.tree, d.leaves = logging.Tree{}, nil
	d.roots = []logging.Hash{d.tree.Root()}
}

func (d *device) id() string { return d.origin.Device }

func (d *device) append(n int) {
	for range n {
		body := logging.EncodeLeaf(d.origin, d.tree.Size(), time.Now(), logging.Event{Code: "heartbeat", Message: fmt.Sprint(d.tree.Size())})
		l := logging.Leaf{Index: d.tree.Size(), Hash: logging.LeafHash(body), Body: body}
		d.leaves = append(d.leaves, l)
		d.tree.Append(l.Hash)
		d.roots = append(d.roots, d.tree.Root())
	}
}

func (d *device) batch(from, to uint64) logging.Batch {
	d.t.Helper()
	cp, err := d.signer.Sign(logging.Checkpoint{Origin: d.origin, Size: to, Root: d.roots[to]})
	if err != nil {
		d.t.Fatal(err)
	}
	return logging.Batch{SPKI: d.signer.SPKI(), Origin: d.origin, Start: from, Leaves: slices.Clone(d.leaves[from:to]), Checkpoint: cp}
}

func encode(t *testing.T, b logging.Batch) []byte {
	t.Helper()
	msg, err := logging.EncodeBatch(b)
	if err != nil {
		t.Fatal(err)
	}
	return msg
}

func receiptKey(t *testing.T, name string) *logging.ReceiptSigner {
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

type fixture struct {
	dir    string
	store  *collect.Bolt
	key    *logging.ReceiptSigner
	policy logging.Policy
	c      *collect.Collector
	now    time.Time
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{dir: t.TempDir(), key: receiptKey(t, "TEST/collector"), now: time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)}
	var err error
	if f.store, err = collect.Open(f.dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.store.Close() })
	if f.policy, err = logging.NewPolicy([]string{f.key.Key().String()}, 1); err != nil {
		t.Fatal(err)
	}
	if f.c, err = collect.New(collect.CollectorConfig{Store: f.store, Presence: f.store, Key: f.key, Now: func() time.Time { return f.now }}); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *fixture) ingest(t *testing.T, device string, msg []byte) collect.Result {
	t.Helper()
	res, err := f.c.Ingest(t.Context(), device, msg)
	if err != nil {
		t.Fatal(err)
	}
	if res.Receipt != nil {
		got, err := f.policy.Open(res.Receipt)
		if err != nil || got[0].Checkpoint.Size != res.Size {
			t.Fatalf("receipt %q for %d records: %v", res.Receipt, res.Size, err)
		}
	}
	return res
}

// verify checks what is stored of a log as an outsider would.
func (f *fixture) verify(t *testing.T, o logging.Origin) logging.Report {
	t.Helper()
	h, items, err := f.store.Evidence(t.Context(), o, 0)
	if err != nil {
		t.Fatal(err)
	}
	rep, err := logging.Verify(t.Context(), h, items, logging.Expect{Device: o.Device, Policy: f.policy})
	if err != nil {
		t.Fatalf("verify %s: %v", o, err)
	}
	return rep
}

// TestAnyOrderConverges sends batches shuffled, twice, overlapping and with holes, as a broker that redelivers might, and
// always follows with the device's go-back-N.
func TestAnyOrderConverges(t *testing.T) {
	f := newFixture(t)
	d := newDevice(t)
	d.append(400)
	seed := mrand.Uint64()
	r := mrand.New(mrand.NewPCG(seed, 1))
	stored := 0
	for range 200 {
		from := r.Uint64N(390)
		res := f.ingest(t, d.id(), encode(t, d.batch(from, from+1+r.Uint64N(min(60, 400-from)))))
		stored += res.Stored
		if res.Alarm != nil {
			t.Fatalf("seed %d: alarm %+v", seed, res.Alarm)
		}
		if res.Receipt == nil {
			t.Fatalf("seed %d: an honest batch got no receipt", seed)
		}
	}
	for at := uint64(0); at < 400; {
		to := min(at+50, 400)
		res := f.ingest(t, d.id(), encode(t, d.batch(at, to)))
		stored += res.Stored
		at = max(to, res.Size)
	}
	if stored != 400 {
		t.Errorf("seed %d: %d records stored of 400", seed, stored)
	}
	rep := f.verify(t, d.origin)
	if rep.Size != 400 || rep.Records != 400 || rep.Acked != 400 {
		t.Errorf("seed %d: report %+v", seed, rep)
	}
	i := uint64(0)
	for l, err := range f.store.Records(t.Context(), d.origin, 0) {
		if err != nil || l.Index != i || string(l.Body) != string(d.leaves[i].Body) {
			t.Fatalf("record %d: %+v, %v", i, l, err)
		}
		i++
	}
}

func TestGapIsAnsweredWithWhatThereIs(t *testing.T) {
	f := newFixture(t)
	d := newDevice(t)
	d.append(100)
	res := f.ingest(t, d.id(), encode(t, d.batch(50, 60)))
	if res.Stored != 0 || res.Receipt == nil || res.Size != 0 {
		t.Fatalf("gap in an unknown log: %+v", res)
	}
	f.ingest(t, d.id(), encode(t, d.batch(0, 20)))
	res = f.ingest(t, d.id(), encode(t, d.batch(50, 60)))
	if res.Stored != 0 || res.Size != 20 || res.Alarm != nil {
		t.Fatalf("gap: %+v", res)
	}
	f.now = f.now.Add(2 * time.Minute)
	res = f.ingest(t, d.id(), encode(t, d.batch(50, 60)))
	if res.Alarm == nil || res.Alarm.Code != collect.CodeMissing {
		t.Fatalf("a device that never sends what is missing raised no alarm: %+v", res)
	}
	f.ingest(t, d.id(), encode(t, d.batch(20, 100)))
	f.verify(t, d.origin)
}

// forge changes a batch after it was made; sign says whether the attacker has the device key.
func TestWhatIsWrongBecomesEvidence(t *testing.T) {
	other := newDevice(t)
	other.append(50)
	for name, tc := range map[string]struct {
		code string
		msg  func(d *device) []byte
	}{
		"edited record": {logging.CodeRootMismatch, func(d *device) []byte {
			b := d.batch(20, 40)
			b.Leaves[3].Body = append(slices.Clone(b.Leaves[3].Body), ' ')
			return encode(t, b)
		}},
		"removed record": {logging.CodeMalformed, func(d *device) []byte {
			b := d.batch(20, 40)
			b.Leaves = slices.Delete(b.Leaves, 3, 4)
			return encode(t, b)
		}},
		"rewritten history": {logging.CodeRootMismatch, func(d *device) []byte {
			d.begin(1)
			d.append(10)
			d.leaves[5].Body = []byte("{}")
			d.append(60)
			return encode(t, d.batch(20, 60))
		}},
		"two roots for one size": {logging.CodeForked, func(d *device) []byte {
			d.begin(1)
			time.Sleep(2 * time.Millisecond) // another logged_time, so other records
			d.append(20)
			return encode(t, d.batch(10, 20))
		}},
		"signature broken": {logging.CodeBadCheckpoint, func(d *device) []byte {
			b := d.batch(20, 40)
			b.Checkpoint[len(b.Checkpoint)-9] ^= 1
			return encode(t, b)
		}},
		"another device's batch": {logging.CodeDeviceMismatch, func(*device) []byte { return encode(t, other.batch(0, 10)) }},
		"another device's key": {logging.CodeDeviceMismatch, func(d *device) []byte {
			b := d.batch(20, 40)
			b.SPKI = other.signer.SPKI()
			return encode(t, b)
		}},
		"not a batch":     {logging.CodeMalformed, func(*device) []byte { return []byte("hello") }},
		"empty":           {logging.CodeMalformed, func(*device) []byte { return nil }},
		"unknown version": {logging.CodeUnknownVersion, func(d *device) []byte { b := encode(t, d.batch(20, 40)); b[4] = 9; return b }},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			d := newDevice(t)
			d.append(60)
			f.ingest(t, d.id(), encode(t, d.batch(0, 20)))
			id, origin, msg := d.id(), d.origin, tc.msg(d)
			for range 3 {
				res := f.ingest(t, id, msg)
				if res.Receipt != nil || res.Stored != 0 {
					t.Fatalf("got a receipt or was stored: %+v", res)
				}
				if res.Alarm == nil || res.Alarm.Code != tc.code {
					t.Fatalf("alarm %+v, want %s", res.Alarm, tc.code)
				}
			}
			alarms, err := f.store.Alarms(t.Context(), id)
			if err != nil || len(alarms) != 1 || alarms[0].Count != 3 || len(alarms[0].Evidence) != 1 {
				t.Fatalf("alarms %+v, %v", alarms, err)
			}
			if kept, err := f.store.Message(t.Context(), alarms[0].Evidence[0]); err != nil || string(kept) != string(msg) {
				t.Errorf("evidence: %v", err)
			}
			if rep := f.verify(t, origin); rep.Size != 20 {
				t.Errorf("the log has %d records, want 20", rep.Size)
			}
			if _, err := f.store.Device(t.Context(), other.id()); !errors.Is(err, collect.ErrUnknown) {
				t.Errorf("something was stored for the other device: %v", err)
			}
		})
	}
}

func TestUnknownDeviceLeavesNothing(t *testing.T) {
	f := newFixture(t)
	d := newDevice(t)
	d.append(5)
	c, err := collect.New(collect.CollectorConfig{Store: f.store, Key: f.key, Known: func(id string) bool { return id == "somebody else" }})
	if err != nil {
		t.Fatal(err)
	}
	for _, msg := range [][]byte{encode(t, d.batch(0, 5)), []byte("garbage")} {
		res, err := c.Ingest(t.Context(), d.id(), msg)
		if err != nil || res.Receipt != nil || res.Alarm == nil || res.Alarm.Code != collect.CodeUnknownDevice {
			t.Errorf("%+v, %v", res, err)
		}
	}
	if all, err := f.store.Devices(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("something was stored: %+v, %v", all, err)
	}
}

func TestEpochs(t *testing.T) {
	f := newFixture(t)
	d := newDevice(t)
	d.append(30)
	f.ingest(t, d.id(), encode(t, d.batch(0, 20)))
	first := *d
	d.begin(2)
	d.append(10)
	if res := f.ingest(t, d.id(), encode(t, d.batch(0, 10))); res.Stored != 10 {
		t.Fatalf("new epoch: %+v", res)
	}
	if res := f.ingest(t, d.id(), encode(t, first.batch(0, 20))); res.Receipt == nil || res.Alarm != nil {
		t.Errorf("a repeat of the old epoch: %+v", res)
	}
	res := f.ingest(t, d.id(), encode(t, first.batch(20, 30)))
	if res.Alarm == nil || res.Alarm.Code != logging.CodeRolledBack || res.Receipt != nil {
		t.Errorf("the old epoch grows again: %+v", res)
	}
	dev, err := f.store.Device(t.Context(), d.id())
	if err != nil || len(dev.Logs) != 2 || dev.Logs[0].Size != 20 || dev.Logs[1].Size != 10 || dev.Open != 2 {
		t.Errorf("device %+v, %v", dev, err)
	}
	// Ten epochs and more: they sort as numbers.
	for e := uint64(9); e < 12; e++ {
		d.begin(e)
		d.append(1)
		f.ingest(t, d.id(), encode(t, d.batch(0, 1)))
	}
	if o, err := f.store.Newest(t.Context(), d.id()); err != nil || o.Epoch != 11 {
		t.Errorf("newest %v, %v", o, err)
	}
}

func TestShedRecordsKeepTheirPlace(t *testing.T) {
	f := newFixture(t)
	d := newDevice(t)
	d.append(30)
	b := d.batch(0, 30)
	for i := 10; i < 15; i++ {
		b.Leaves[i].Body = nil
	}
	f.ingest(t, d.id(), encode(t, b))
	rep := f.verify(t, d.origin)
	if !slices.Equal(rep.Shed, []logging.Range{{First: 10, Last: 14}}) || rep.Records != 25 {
		t.Errorf("report %+v", rep)
	}
}

// TestManyDevicesAndCollectors: 16 devices at once, each served by two collectors on one store that both get every batch.
func TestManyDevicesAndCollectors(t *testing.T) {
	f := newFixture(t)
	second, err := collect.New(collect.CollectorConfig{Store: f.store, Key: f.key})
	if err != nil {
		t.Fatal(err)
	}
	devices := make([]*device, 16)
	for i := range devices {
		devices[i] = newDevice(t)
		devices[i].append(200)
	}
	var wg sync.WaitGroup
	for _, d := range devices {
		for _, c := range []*collect.Collector{f.c, second} {
			wg.Go(func() {
				for at := uint64(0); at < 200; at += 20 {
					if res, err := c.Ingest(t.Context(), d.id(), encode(t, d.batch(at, at+20))); err != nil || res.Alarm != nil {
						t.Errorf("%+v, %v", res, err)
					}
				}
			})
		}
	}
	wg.Wait()
	for _, d := range devices {
		if rep := f.verify(t, d.origin); rep.Size != 200 {
			t.Errorf("%s has %d records", d.id(), rep.Size)
		}
	}
	all, err := f.store.Devices(t.Context())
	if err != nil || len(all) != len(devices) {
		t.Errorf("%d devices, %v", len(all), err)
	}
}

// TestStoreReopens: the store survives being opened again, and a second process is told to wait.
func TestStoreReopens(t *testing.T) {
	f := newFixture(t)
	d := newDevice(t)
	d.append(40)
	f.ingest(t, d.id(), encode(t, d.batch(0, 20)))
	if _, err := collect.OpenReadOnly(f.dir); !errors.Is(err, logging.ErrRetry) {
		t.Errorf("a second opener: %v", err)
	}
	f.store.Close()
	store, err := collect.OpenReadOnly(f.dir)
	if err != nil {
		t.Fatal(err)
	}
	if log, err := store.Log(t.Context(), d.origin); err != nil || log.Head.Tree.Size() != 20 {
		t.Errorf("%+v, %v", log, err)
	}
	store.Close()
	if _, err := collect.OpenReadOnly(t.TempDir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no store: %v", err)
	}
}

// TestOpenLive reads a store while the collector that owns it goes on writing.
func TestOpenLive(t *testing.T) {
	f := newFixture(t)
	d := newDevice(t)
	d.append(40)
	f.ingest(t, d.id(), encode(t, d.batch(0, 20)))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.store.Serve(ctx) }()
	socket := filepath.Join(f.dir, "collect.sock")
	for {
		if fi, err := os.Stat(socket); err == nil && fi.Mode().Perm() == 0o600 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	live, err := collect.OpenLive(ctx, f.dir)
	if err != nil {
		t.Fatal(err)
	}
	f.ingest(t, d.id(), encode(t, d.batch(20, 40)))
	if dev, err := live.Device(ctx, d.id()); err != nil || dev.Size != 20 {
		t.Errorf("%+v, %v", dev, err)
	}
	h, items, err := live.Evidence(ctx, d.origin, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := logging.Verify(ctx, h, items, logging.Expect{Policy: f.policy}); err != nil {
		t.Error(err)
	}
	if err := live.Close(); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	f.store.Close()
	if live, err = collect.OpenLive(t.Context(), f.dir); err != nil {
		t.Fatal(err)
	}
	if dev, err := live.Device(t.Context(), d.id()); err != nil || dev.Size != 40 {
		t.Errorf("%+v, %v", dev, err)
	}
	live.Close()
}

// TestBrokenOffCopyIsNotAStore: the owner of the store dies in the middle of a copy.
func TestBrokenOffCopyIsNotAStore(t *testing.T) {
	f := newFixture(t)
	d := newDevice(t)
	d.append(20)
	f.ingest(t, d.id(), encode(t, d.batch(0, 20)))
	f.store.Close()
	whole, err := os.ReadFile(filepath.Join(f.dir, "collect.db"))
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 5, len(whole) / 2, len(whole)} {
		dir := t.TempDir()
		l, err := net.Listen("unix", filepath.Join(dir, "collect.sock"))
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			if c, err := l.Accept(); err == nil {
				c.Write(whole[:n])
				c.Close()
			}
		}()
		if s, err := collect.OpenLive(t.Context(), dir); !errors.Is(err, logging.ErrRetry) {
			t.Errorf("%d of %d bytes: %v, %v", n, len(whole), s, err)
		}
		l.Close()
	}
}

// TestAppendComparesAndSets: a commit on a state that is no longer there changes nothing.
func TestAppendComparesAndSets(t *testing.T) {
	f := newFixture(t)
	d := newDevice(t)
	d.append(30)
	head := func(size uint64, leaves []logging.Leaf) logging.Head {
		h := logging.Head{Origin: d.origin}
		for _, l := range leaves[:size] {
			h.Tree.Append(l.Hash)
		}
		return h
	}
	f.ingest(t, d.id(), encode(t, d.batch(0, 20)))
	other := slices.Clone(d.leaves)
	other[3].Hash[0] ^= 1
	for name, base := range map[string]logging.Head{
		"new log": head(0, d.leaves), "older": head(10, d.leaves), "newer": head(30, d.leaves), "another root": head(20, other),
	} {
		err := f.store.Append(t.Context(), collect.Commit{Base: base, Next: head(30, d.leaves), Leaves: d.leaves[20:30],
			SPKI: d.signer.SPKI(), Checkpoint: []byte("c"), Receipt: []byte("r"), Time: f.now})
		if !errors.Is(err, collect.ErrConflict) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if rep := f.verify(t, d.origin); rep.Size != 20 {
		t.Errorf("%d records", rep.Size)
	}
}

// TestStorageFailureIsAnError: when it cannot be stored there must be neither receipt nor acknowledgement.
func TestStorageFailureIsAnError(t *testing.T) {
	f := newFixture(t)
	d := newDevice(t)
	d.append(20)
	f.store.Close()
	for name, msg := range map[string][]byte{"good": encode(t, d.batch(0, 20)), "bad": []byte("x")} {
		if res, err := f.c.Ingest(t.Context(), d.id(), msg); err == nil || res.Receipt != nil {
			t.Errorf("%s: %+v, %v", name, res, err)
		}
	}
}

func TestReceiptKeyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "receipt.key")
	made, err := collect.OpenKey(path, "TEST.example/collector")
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := collect.OpenKey(path, "other name is ignored")
	if err != nil || loaded.Key().String() != made.Key().String() {
		t.Fatalf("%v, %v", loaded.Key(), err)
	}
	if _, err := logging.ParseReceiptKey(made.Key().String()); err != nil {
		t.Error(err)
	}
	if fi, _ := os.Stat(path); fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", fi.Mode())
	}
	if _, err := collect.CreateKey(path, "TEST"); !errors.Is(err, os.ErrExist) {
		t.Errorf("the key was replaced: %v", err)
	}
	os.Chmod(path, 0o640)
	if _, err := collect.LoadKey(path); !errors.Is(err, logging.ErrSetup) {
		t.Errorf("a key others can read: %v", err)
	}
	os.Chmod(path, 0o600)
	os.WriteFile(path, []byte("not a key"), 0o600)
	if _, err := collect.OpenKey(path, "TEST"); !errors.Is(err, logging.ErrSetup) {
		t.Errorf("garbage: %v", err)
	}
}

// memStore is a Store without durability, so that fuzzing is not about syncs.
type memStore struct {
	logs   map[logging.Origin]collect.Log
	alarms int
}

func (m *memStore) Log(_ context.Context, o logging.Origin) (collect.Log, error) {
	log, ok := m.logs[o]
	if !ok {
		return log, collect.ErrUnknown
	}
	return log, nil
}

func (m *memStore) Newest(_ context.Context, device string) (newest logging.Origin, err error) {
	for o := range m.logs {
		if o.Device == device && o.Epoch > newest.Epoch {
			newest = o
		}
	}
	if newest.Epoch == 0 {
		return newest, collect.ErrUnknown
	}
	return newest, nil
}

func (m *memStore) Append(_ context.Context, c collect.Commit) error {
	m.logs[c.Next.Origin] = collect.Log{Head: c.Next, SPKI: c.SPKI, Checkpoint: c.Checkpoint, Receipt: c.Receipt}
	return nil
}

func (m *memStore) Raise(context.Context, collect.Alarm, []byte) error {
	m.alarms++
	return nil
}

// FuzzIngest: whatever comes in, the answer is a receipt for what is stored or an alarm, and never both.
func FuzzIngest(f *testing.F) {
	d := newDevice(&testing.T{})
	d.append(5)
	for _, b := range []logging.Batch{d.batch(0, 3), d.batch(2, 5), d.batch(3, 5)} {
		msg, err := logging.EncodeBatch(b)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(msg)
	}
	f.Add([]byte("bsab\x01"))
	key := receiptKey(&testing.T{}, "TEST/collector")
	policy, err := logging.NewPolicy([]string{key.Key().String()}, 1)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		store := &memStore{logs: make(map[logging.Origin]collect.Log)}
		c, err := collect.New(collect.CollectorConfig{Store: store, Key: key})
		if err != nil {
			t.Fatal(err)
		}
		res, err := c.Ingest(t.Context(), d.id(), msg)
		if err != nil || (res.Receipt == nil) == (res.Alarm == nil) {
			t.Fatalf("%+v, %v", res, err)
		}
		if res.Receipt != nil {
			got, err := policy.Open(res.Receipt)
			if err != nil || got[0].Checkpoint.Size != res.Size || got[0].Checkpoint.Root != d.roots[res.Size] {
				t.Fatalf("a receipt for a log the device does not have: %+v, %v", got, err)
			}
		}
	})
}
