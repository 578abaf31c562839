// SPDX-License-Identifier: Apache-2.0

package spool_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/logging/spool"
)

// eachStore runs a test once for every kind of store.
func eachStore(t *testing.T, fn func(*testing.T)) {
	for _, name := range []string{spool.StoreBolt, spool.StoreSegments} {
		t.Run(name, fn)
	}
}

// eachStoreNative is eachStore for tests that take minutes under an emulator and in which nothing depends on the architecture.
func eachStoreNative(t *testing.T, fn func(*testing.T)) {
	t.Helper()
	if testing.Short() {
		t.Skip("minutes under an emulator; nothing in it depends on the architecture")
	}
	eachStore(t, fn)
}

// bench is one device with a collector key.
type bench struct {
	t      testing.TB
	cfg    spool.Config
	signer *logging.ReceiptSigner
}

func newBench(t testing.TB) *bench {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rs, err := logging.NewReceiptSigner("collector.example", priv)
	if err != nil {
		t.Fatal(err)
	}
	policy, err := logging.NewPolicy([]string{rs.Key().String()}, 1)
	if err != nil {
		t.Fatal(err)
	}
	store := spool.StoreBolt
	if strings.Contains(t.Name()+"/", "/"+spool.StoreSegments+"/") {
		store = spool.StoreSegments
	}
	return &bench{t: t, signer: rs, cfg: spool.Config{Dir: t.TempDir(), Key: key, Policy: policy, Store: store}}
}

// file is the name of the store in its directory.
func (b *bench) file() string {
	if b.cfg.Store == spool.StoreSegments {
		return "audit.log"
	}
	return "audit.db"
}

// files are the paths of the files the store consists of.
func (b *bench) files() []string {
	b.t.Helper()
	path := filepath.Join(b.cfg.Dir, b.file())
	if b.cfg.Store == spool.StoreBolt {
		return []string{path}
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		b.t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, filepath.Join(path, e.Name()))
	}
	return out
}

func (b *bench) open() *spool.Log {
	b.t.Helper()
	l, err := spool.Open(b.cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { l.Close() })
	return l
}

func (b *bench) reopen(l *spool.Log) *spool.Log {
	b.t.Helper()
	if err := l.Close(); err != nil {
		b.t.Fatal(err)
	}
	return b.open()
}

func ordinary(i int) logging.Event {
	return logging.Event{Code: "net.listen", Message: fmt.Sprintf("listening socket number %d of process sshd", i), Subject: "root"}
}

func critical(i int) logging.Event {
	return logging.Event{Code: "update.installed", Message: fmt.Sprintf("installed release 1.0.%d", i)}
}

// fillLog appends n ordinary events and makes them durable.
func fillLog(t testing.TB, l *spool.Log, n int) {
	t.Helper()
	for i := range n {
		if err := l.Append(t.Context(), ordinary(i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// collector is the consumer side of a test: it stores what verifies and gives receipts.
type collector struct {
	t      testing.TB
	signer *logging.ReceiptSigner
	heads  map[logging.Origin]logging.Head
	leaves map[logging.Origin][]logging.Leaf
}

func (b *bench) collector() *collector {
	return &collector{t: b.t, signer: b.signer, heads: map[logging.Origin]logging.Head{}, leaves: map[logging.Origin][]logging.Leaf{}}
}

// take sends everything from the log's acknowledged position, through the wire format, and returns the last receipt.
func (c *collector) take(l *spool.Log) []byte {
	c.t.Helper()
	var receipt []byte
	start := l.State().Acked
	for {
		b, err := l.Batch(c.t.Context(), start)
		if err != nil {
			c.t.Fatal(err)
		}
		if len(b.Leaves) == 0 {
			return receipt
		}
		wire, err := logging.EncodeBatch(b)
		if err != nil {
			c.t.Fatal(err)
		}
		if b, err = logging.DecodeBatch(wire); err != nil {
			c.t.Fatal(err)
		}
		head, ok := c.heads[b.Origin]
		if !ok {
			head.Origin = b.Origin
		}
		next, fresh, cp, err := head.Advance(b)
		if err != nil {
			c.t.Fatal(err)
		}
		c.heads[b.Origin] = next
		c.leaves[b.Origin] = append(c.leaves[b.Origin], fresh...)
		if receipt, err = c.signer.Sign(cp, time.Now()); err != nil {
			c.t.Fatal(err)
		}
		start = b.End()
	}
}

func wantCode(t testing.TB, err error, code string) {
	t.Helper()
	r, ok := errors.AsType[*logging.Refusal](err)
	if !ok || r.Code != code {
		t.Fatalf("error = %v, want a refusal with code %s", err, code)
	}
	if !errors.Is(err, logging.ErrRefused) {
		t.Fatalf("error %v does not match ErrRefused", err)
	}
}

func TestAppendShipReceiptPrune(t *testing.T) { eachStore(t, testAppendShipReceiptPrune) }

func testAppendShipReceiptPrune(t *testing.T) {
	b := newBench(t)
	b.cfg.Keep = 10
	l := b.open()
	fillLog(t, l, 1000)
	s := l.State()
	if s.Size != 1001 || s.Signed != 1001 || s.Origin.Epoch != 1 {
		t.Fatalf("state = %+v", s)
	}
	c := b.collector()
	receipt := c.take(l)
	if got := len(c.leaves[s.Origin]); got != 1001 {
		t.Fatalf("collector has %d records", got)
	}
	if err := l.Receipt(t.Context(), receipt); err != nil {
		t.Fatal(err)
	}
	if s := l.State(); s.Acked != 1001 || s.Pruned != 991 {
		t.Fatalf("state after receipt = %+v", s)
	}
	l = b.reopen(l)
	if s := l.State(); s.Acked != 1001 || s.Pruned != 991 || s.Size != 1001 || s.Origin.Epoch != 1 {
		t.Fatalf("state after restart = %+v", s)
	}
	report, err := l.Verify(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if report.Records != 10 || report.Size != 1001 || report.Acked != 1001 {
		t.Fatalf("report = %+v", report)
	}
	if err := l.Prune(t.Context(), 1001); err != nil {
		t.Fatal(err)
	}
	l = b.reopen(l)
	if _, err := l.Verify(t.Context()); err != nil {
		t.Fatal(err)
	}
	fillLog(t, l, 10)
	l = b.reopen(l)
	if report, err = l.Verify(t.Context()); err != nil || report.Records != 11 { // with log.pruned
		t.Fatalf("report = %+v, %v", report, err)
	}
	if s := l.State(); s.Origin.Epoch != 1 || s.Pruned != 1001 {
		t.Fatalf("state = %+v", s)
	}
}
