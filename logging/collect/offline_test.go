// SPDX-License-Identifier: Apache-2.0

package collect_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/logging/spool"
)

// TestMonthOffline: a device without a network for 30 days, 10 000 events a day in a log of 8 MiB, and then the network is back.
// The log stays within its budget; every event is at the consumer with its body, or named by its index as one whose body was
// dropped, or counted as one that was not kept; no critical event is among the last two.
func TestMonthOffline(t *testing.T) {
	days, capacity := 3, int64(1<<20)
	if os.Getenv("BACKSTAY_LONG") == "1" {
		days, capacity = 30, 8<<20
	}
	for _, store := range []string{spool.StoreBolt, spool.StoreSegments} {
		t.Run(store, func(t *testing.T) { monthOffline(t, store, days, capacity) })
	}
}

const perDay = 10000

// offline is what happened on the device.
type offline struct {
	appended, critical int
	largest            int64
}

func monthOffline(t *testing.T, store string, days int, capacity int64) {
	f := newFixture(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := f.now
	dir := filepath.Join(t.TempDir(), "audit")
	l, err := spool.Open(spool.Config{Dir: dir, Key: key, Policy: f.policy, Capacity: capacity, Store: store, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var o offline
	for range days {
		o.day(t, l, dir, &now)
	}
	if o.largest > capacity {
		t.Errorf("the log took %d bytes of %d", o.largest, capacity)
	}
	size := l.State().Size
	f.now = now
	send(t, f, l)
	// The network is back and there is room again: now the log can say what it could not keep.
	if err := l.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := deliver(t, f, l)
	t.Logf("%d days, %d events (%d critical), %d records: largest %d bytes of %d; delivered %d with body, %d named as dropped, %d counted as not kept",
		days, o.appended, o.critical, size, o.largest, capacity, got.bodies, len(got.shed), got.lost)
	got.account(t, o)
	if s := l.State(); s.Acked < size {
		t.Errorf("after return: %+v", s)
	}
}

// day appends a day's events: one in a thousand is critical.
func (o *offline) day(t *testing.T, l *spool.Log, dir string, now *time.Time) {
	t.Helper()
	for i := range perDay {
		*now = now.Add(24 * time.Hour / perDay)
		e := logging.NewEvent("exec", slog.String("path", fmt.Sprintf("/usr/libexec/acme/worker-%d", i%17)), slog.Int("pid", 1000+i%30000),
			slog.Int("uid", 33), slog.String("mark", "ordinary"))
		if i%1000 == 500 {
			e = logging.NewEvent("account.change", slog.String("subject", "root"), slog.String("change", "password"), slog.String("mark", "critical"))
			o.critical++
		}
		e.BootID, e.Firmware, e.Device, e.Time = "6d1f2b7e-0c0f-4a57-9e0d-4f4f0a1b2c3d", "2.4.1", "acme-cam-v2", *now
		o.appended++
		if err := l.Append(t.Context(), e); err != nil && !errors.Is(err, logging.ErrRetry) {
			t.Fatal(err)
		}
		if i%1000 == 999 {
			o.largest = max(o.largest, bytesIn(t, dir))
		}
	}
	if err := l.Flush(t.Context()); err != nil && !errors.Is(err, logging.ErrRetry) {
		t.Fatal(err)
	}
}

func bytesIn(t *testing.T, dir string) (n int64) {
	t.Helper()
	err := filepath.Walk(dir, func(_ string, fi os.FileInfo, err error) error {
		if err == nil && !fi.IsDir() {
			n += fi.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// delivered is what the consumer has.
type delivered struct {
	bodies, critical int
	shed             []uint64 // indexes without a body
	named            []uint64 // indexes that log.shed records name
	lost             int      // events that log.gap records count
}

// send brings everything to the collector, as a shipper would.
func send(t *testing.T, f *fixture, l *spool.Log) {
	t.Helper()
	for at := l.State().Acked; at < l.State().Size; {
		b, err := l.Batch(t.Context(), at)
		if err != nil {
			t.Fatal(err)
		}
		if len(b.Leaves) == 0 {
			break
		}
		res := f.ingest(t, b.Origin.Device, encode(t, b))
		if res.Alarm != nil || res.Receipt == nil {
			t.Fatalf("batch at %d: %+v", at, res)
		}
		at = b.End()
		if err := l.Receipt(t.Context(), res.Receipt); err != nil {
			t.Fatal(err)
		}
	}
}

// deliver sends what is left, and reads everything back from the collector.
func deliver(t *testing.T, f *fixture, l *spool.Log) (d delivered) {
	t.Helper()
	send(t, f, l)
	origin := l.State().Origin
	f.verify(t, origin)
	_, items, err := f.store.Evidence(t.Context(), origin, 0)
	if err != nil {
		t.Fatal(err)
	}
	for item, err := range items {
		if err != nil {
			t.Fatal(err)
		}
		if item.Leaf != nil {
			d.take(t, item.Leaf)
		}
	}
	return d
}

func (d *delivered) take(t *testing.T, leaf *logging.Leaf) {
	t.Helper()
	if leaf.Shed() {
		d.shed = append(d.shed, leaf.Index)
		return
	}
	r, err := logging.DecodeLeaf(leaf.Body)
	if err != nil {
		t.Fatal(err)
	}
	switch mark, _ := r.Attr("mark"); {
	case mark == "ordinary":
		d.bodies++
	case mark == "critical":
		d.bodies++
		d.critical++
	case r.Code == "log.shed":
		ranges, _ := r.Attr("ranges")
		d.named = append(d.named, indexes(t, ranges)...)
	case r.Code == "log.gap":
		count, _ := r.Attr("count")
		n, err := strconv.Atoi(count)
		if err != nil {
			t.Fatal(err)
		}
		d.lost += n
		if c, _ := r.Attr("critical"); c != "0" {
			t.Errorf("%s critical events were not kept", c)
		}
	}
}

// indexes reads "3-9,12".
func indexes(t *testing.T, ranges string) (out []uint64) {
	t.Helper()
	for part := range strings.SplitSeq(ranges, ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		a, err1 := strconv.ParseUint(first, 10, 64)
		b, err2 := strconv.ParseUint(last, 10, 64)
		if err1 != nil || err2 != nil || b < a {
			t.Fatalf("ranges %q", ranges)
		}
		for i := a; i <= b; i++ {
			out = append(out, i)
		}
	}
	return out
}

// account compares: nothing is missing, nothing is there twice.
func (d *delivered) account(t *testing.T, o offline) {
	t.Helper()
	slices.Sort(d.named)
	if !slices.Equal(d.shed, d.named) {
		t.Errorf("%d records have no body, %d are named by log.shed records, and they are not the same", len(d.shed), len(d.named))
	}
	if d.critical != o.critical {
		t.Errorf("%d of %d critical events arrived", d.critical, o.critical)
	}
	if sum := d.bodies + len(d.shed) + d.lost; sum < o.appended || len(d.shed) == 0 {
		t.Errorf("%d events: %d arrived, %d were dropped by name, %d counted", o.appended, d.bodies, len(d.shed), d.lost)
	}
}
