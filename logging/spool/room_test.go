// SPDX-License-Identifier: Apache-2.0

package spool_test

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/logging/spool"
)

func fileSize(t testing.TB, b *bench) int64 {
	t.Helper()
	var sum int64
	for _, path := range b.files() {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		sum += info.Size()
	}
	return sum
}

// codes counts the records of the log by code; shed ones count as "shed".
func codes(t testing.TB, l *spool.Log) map[string]int {
	t.Helper()
	n := map[string]int{}
	for leaf, err := range l.From(t.Context(), l.State().Pruned) {
		if err != nil {
			t.Fatal(err)
		}
		if leaf.Shed() {
			n["shed"] += int(leaf.Count())
			continue
		}
		r, err := logging.DecodeLeaf(leaf.Body)
		if err != nil {
			t.Fatal(err)
		}
		n[r.Code]++
	}
	return n
}

// noiseText is text that takes its room on flash whatever is done to it.
func noiseText(seed, n int) string {
	var b []byte
	sum := sha256.Sum256(fmt.Append(nil, seed))
	for ; len(b) < n; sum = sha256.Sum256(sum[:]) {
		b = append(b, sum[:]...)
	}
	return base64.StdEncoding.EncodeToString(b)[:n]
}

// TestFullFlash: nobody acknowledges anything for a long time. The file stays within its capacity, every critical event is
// kept with its body, ordinary ones lose theirs but not their place, and everything that happened is in the log.
func TestFullFlash(t *testing.T) { eachStoreNative(t, testFullFlash) }

func testFullFlash(t *testing.T) {
	b := newBench(t)
	const capacity = 2 << 20
	b.cfg.Capacity = capacity
	l := b.open()
	criticals := 0
	for i := range 5000 {
		e := ordinary(i)
		if i%100 == 50 {
			e = critical(i)
			criticals++
		}
		e.Message += noiseText(i, 500)
		if err := l.Append(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if size := fileSize(t, b); size > capacity {
		t.Errorf("file of %d bytes, capacity %d", size, capacity)
	}
	n := codes(t, l)
	t.Logf("state %+v, records %v, file %d", l.State().Fill, n, fileSize(t, b))
	if n["update.installed"] != criticals {
		t.Errorf("%d of %d critical records have their body", n["update.installed"], criticals)
	}
	if n["shed"] == 0 || n["log.shed"] == 0 || n["log.capacity"] == 0 || n["net.listen"] == 0 {
		t.Errorf("records: %v", n)
	}
	shedIsNamed(t, l)
	report, err := l.Verify(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Shed) == 0 || len(report.Gaps) == 0 {
		t.Errorf("report does not say what is missing: %d ranges, %d gaps", len(report.Shed), len(report.Gaps))
	}
	// A consumer that comes back gets all of it, in order, and knows what it does not have.
	c := b.collector()
	receipt := c.take(l)
	s := l.State()
	if got := logging.Records(c.leaves[s.Origin]); got != s.Size {
		t.Errorf("collector has %d of %d records", got, s.Size)
	}
	if err := l.Receipt(t.Context(), receipt); err != nil {
		t.Fatal(err)
	}
	if s := l.State(); s.Acked != s.Size || s.Pruned != s.Size-spool.DefaultKeep {
		t.Errorf("state = %+v", s)
	}
	// Room again: nothing is shed for the next events.
	before := codes(t, l)["log.shed"]
	fillLog(t, l, 200)
	if after := codes(t, l)["log.shed"]; after > before {
		t.Error("shed although there is room")
	}
	l = b.reopen(l)
	if _, err := l.Verify(t.Context()); err != nil {
		t.Error(err)
	}
	if s := l.State(); s.Fill > 60 {
		t.Errorf("after pruning and a restart %d %% are full", s.Fill)
	}
}

// shedIsNamed checks that every record without a body is named in one log.shed record, and no other.
func shedIsNamed(t testing.TB, l *spool.Log) {
	t.Helper()
	named := map[uint64]int{}
	bare := map[uint64]bool{}
	for leaf, err := range l.From(t.Context(), l.State().Pruned) {
		if err != nil {
			t.Fatal(err)
		}
		if leaf.Shed() {
			for i := leaf.Index; i < leaf.End(); i++ {
				bare[i] = true
			}
			continue
		}
		r, err := logging.DecodeLeaf(leaf.Body)
		if err != nil {
			t.Fatal(err)
		}
		if r.Code != "log.shed" {
			continue
		}
		text, _ := r.Attr("ranges")
		count := 0
		for part := range strings.SplitSeq(text, ",") {
			a, b, ok := strings.Cut(part, "-")
			first, err := strconv.ParseUint(a, 10, 64)
			last := first
			if ok {
				last, _ = strconv.ParseUint(b, 10, 64)
			}
			if err != nil || last < first || r.Truncated {
				t.Fatalf("record %d: ranges %q", leaf.Index, text)
			}
			for i := first; i <= last; i++ {
				named[i]++
				count++
			}
		}
		if n := attr(t, r, "count"); n != count {
			t.Errorf("record %d counts %d, names %d", leaf.Index, n, count)
		}
	}
	for i := range bare {
		if named[i] != 1 {
			t.Errorf("record %d has no body and is named %d times", i, named[i])
		}
	}
	for i := range named {
		if !bare[i] && i >= l.State().Pruned {
			t.Errorf("record %d has its body and is named", i)
		}
	}
}

// TestPrunedIsNamed: what was removed is named with the receipt that allowed it, at most once an hour, without a hole.
func TestPrunedIsNamed(t *testing.T) { eachStoreNative(t, testPrunedIsNamed) }

func testPrunedIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.cfg.Keep = 10
		l, err := spool.Open(b.cfg)
		if err != nil {
			t.Fatal(err)
		}
		c := b.collector()
		for i := range 12 {
			fillLog(t, l, 300)
			if err := l.Receipt(t.Context(), c.take(l)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(20 * time.Minute)
			if i == 6 {
				if err := l.Close(); err != nil {
					t.Fatal(err)
				}
				if l, err = spool.Open(b.cfg); err != nil {
					t.Fatal(err)
				}
			}
		}
		defer l.Close()
		fillLog(t, l, 1)
		c.take(l)
		next, n := 0, 0
		for _, leaf := range c.leaves[l.State().Origin] {
			r, err := logging.DecodeLeaf(leaf.Body)
			if err != nil || r.Code != "log.pruned" {
				continue
			}
			n++
			receipt, ok := r.Attr("receipt")
			if attr(t, r, "first") != next || attr(t, r, "count") != attr(t, r, "last")-next+1 || !ok || !strings.HasPrefix(receipt, "collector.example+") {
				t.Errorf("record %d = %+v, want it to begin at %d", leaf.Index, r.Attrs, next)
			}
			next = attr(t, r, "last") + 1
		}
		if n < 3 || n > 6 {
			t.Errorf("%d log.pruned records in four hours", n)
		}
		if pruned := int(l.State().Pruned); next > pruned || pruned-next > 1500 {
			t.Errorf("named up to %d, pruned up to %d", next, pruned)
		}
	})
}

// TestFullOfCriticalEvents: when even the reserve is full, Append says so, the loss is counted, and the log tells it as soon
// as there is room.
func TestFullOfCriticalEvents(t *testing.T) { eachStoreNative(t, testFullOfCriticalEvents) }

func testFullOfCriticalEvents(t *testing.T) {
	b := newBench(t)
	b.cfg.Capacity = spool.MinCapacity
	l := b.open()
	refused := 0
	for i := range 700 {
		e := critical(i)
		e.Message = noiseText(i, 900)
		if err := l.Append(t.Context(), e); errors.Is(err, logging.ErrRetry) {
			refused++
		} else if err != nil {
			t.Fatal(err)
		}
	}
	s := l.State()
	if refused == 0 || s.Lost != uint64(refused) || s.Pending != 0 {
		t.Errorf("refused %d, state %+v", refused, s)
	}
	if size := fileSize(t, b); size > spool.MinCapacity {
		t.Errorf("file of %d bytes", size)
	}
	levels := codes(t, l)["log.capacity"]
	if levels != 3 {
		t.Errorf("%d log.capacity records, want one each at 70, 85 and 95 %%", levels)
	}
	if err := l.Receipt(t.Context(), b.collector().take(l)); err != nil {
		t.Fatal(err)
	}
	if err := l.Append(t.Context(), critical(1)); err != nil {
		t.Fatal(err)
	}
	report, err := l.Verify(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if n := len(report.Gaps); n == 0 || report.Gaps[n-1].Code != "log.gap" || report.Gaps[n-1].Reason != "store full" {
		t.Errorf("gaps = %+v, %d refused", report.Gaps, refused)
	}
	if s := l.State(); s.Lost != 0 {
		t.Errorf("state = %+v", s)
	}
}

// The file does not grow while records come and go.
func TestPruningKeepsTheFileSmall(t *testing.T) { eachStoreNative(t, testPruningKeepsTheFileSmall) }

func testPruningKeepsTheFileSmall(t *testing.T) {
	b := newBench(t)
	b.cfg.Keep = 64
	l := b.open()
	c := b.collector()
	var after10 int64
	for i := range 40 {
		fillLog(t, l, 128)
		if err := l.Receipt(t.Context(), c.take(l)); err != nil {
			t.Fatal(err)
		}
		if i == 9 {
			after10 = fileSize(t, b)
		}
	}
	if size := fileSize(t, b); size > after10+64<<10 {
		t.Errorf("file grew from %d to %d bytes", after10, size)
	}
	if s := l.State(); s.Size-s.Pruned > 64+256+128 {
		t.Errorf("%d records retained", s.Size-s.Pruned)
	}
}
