// SPDX-License-Identifier: Apache-2.0

package spool_test

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/logging/spool"
)

func decode(t testing.TB, l *spool.Log, index uint64) logging.Record {
	t.Helper()
	for leaf, err := range l.From(t.Context(), index) {
		if err != nil {
			t.Fatal(err)
		}
		r, err := logging.DecodeLeaf(leaf.Body)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	t.Fatalf("no record %d", index)
	return logging.Record{}
}

func TestFirstRecordOpensTheEpoch(t *testing.T) { eachStore(t, testFirstRecordOpensTheEpoch) }

func testFirstRecordOpensTheEpoch(t *testing.T) {
	l := newBench(t).open()
	r := decode(t, l, 0)
	if reason, _ := r.Attr("reason"); r.Code != "log.start" || reason != "first-start" {
		t.Errorf("first record = %+v", r)
	}
	if s := l.State(); s.Size != 1 || s.Signed != 1 || len(s.Checkpoint) == 0 {
		t.Errorf("state = %+v", s)
	}
}

func TestCriticalEventsAreDurableAtOnce(t *testing.T) {
	eachStore(t, testCriticalEventsAreDurableAtOnce)
}

func testCriticalEventsAreDurableAtOnce(t *testing.T) {
	b := newBench(t)
	l := b.open()
	for i := range 5 {
		if err := l.Append(t.Context(), ordinary(i)); err != nil {
			t.Fatal(err)
		}
	}
	if s := l.State(); s.Pending != 5 || s.Size != 1 || s.OldestTime.IsZero() {
		t.Errorf("ordinary events did not wait: %+v", s)
	}
	if err := l.Append(t.Context(), critical(1)); err != nil {
		t.Fatal(err)
	}
	if s := l.State(); s.Pending != 0 || s.Size != 7 || s.Signed != 7 {
		t.Errorf("state after a critical event: %+v", s)
	}
	// Order is kept: the critical event did not overtake.
	if r := decode(t, l, 6); r.Code != "update.installed" {
		t.Errorf("record 6 is %s", r.Code)
	}
	for i := range 64 {
		if err := l.Append(t.Context(), ordinary(i)); err != nil {
			t.Fatal(err)
		}
	}
	if s := l.State(); s.Pending != 0 || s.Size != 71 {
		t.Errorf("64 ordinary events did not commit: %+v", s)
	}
}

func TestRunWritesAfterFiveSeconds(t *testing.T) { eachStore(t, testRunWritesAfterFiveSeconds) }

func testRunWritesAfterFiveSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		l, err := spool.Open(b.cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := l.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		time.Sleep(17 * time.Second) // the timer of Run is somewhere in between
		if err := l.Append(ctx, ordinary(1)); err != nil {
			t.Fatal(err)
		}
		changed := l.Changed()
		time.Sleep(4900 * time.Millisecond)
		synctest.Wait()
		if s := l.State(); s.Pending != 1 {
			t.Errorf("written too early: %+v", s)
		}
		time.Sleep(200 * time.Millisecond)
		synctest.Wait()
		if s := l.State(); s.Pending != 0 || s.Size != 2 {
			t.Errorf("not written after five seconds: %+v", s)
		}
		select {
		case <-changed:
		default:
			t.Error("nobody was told")
		}
		if err := l.Append(ctx, ordinary(2)); err != nil {
			t.Fatal(err)
		}
		cancel()
		wg.Wait()
		if s := l.State(); s.Pending != 0 || s.Size != 3 {
			t.Errorf("the end of Run did not write the rest: %+v", s)
		}
	})
}

// Without Run, the first Append after five seconds writes.
func TestAppendWritesWhatIsDue(t *testing.T) { eachStore(t, testAppendWritesWhatIsDue) }

func testAppendWritesWhatIsDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, err := spool.Open(newBench(t).cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		for range 2 {
			if err := l.Append(t.Context(), ordinary(1)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(6 * time.Second)
		}
		if s := l.State(); s.Size != 3 {
			t.Errorf("state = %+v", s)
		}
	})
}

func TestStampFillsEveryRecord(t *testing.T) { eachStore(t, testStampFillsEveryRecord) }

func testStampFillsEveryRecord(t *testing.T) {
	b := newBench(t)
	b.cfg.Stamp = func(e logging.Event) logging.Event {
		e.Firmware, e.BootID, e.Quality = "1.0.0", "boot-1", logging.QualityNTP
		return e
	}
	l := b.open()
	fillLog(t, l, 1)
	for i := range uint64(2) {
		if r := decode(t, l, i); r.Firmware != "1.0.0" || r.BootID != "boot-1" || r.Quality != logging.QualityNTP {
			t.Errorf("record %d = %+v", i, r)
		}
	}
}

// flakyKey stops signing when told to, as a TPM does.
type flakyKey struct {
	crypto.Signer
	broken bool
}

func (k *flakyKey) Sign(r io.Reader, d []byte, o crypto.SignerOpts) ([]byte, error) {
	if k.broken {
		return nil, errors.New("TPM is busy")
	}
	return k.Signer.Sign(r, d, o)
}

// A key that does not answer delays the signature, not the record; afterwards every record is covered, in pieces that fit
// a batch.
func TestKeyThatDoesNotAnswer(t *testing.T) { eachStore(t, testKeyThatDoesNotAnswer) }

func testKeyThatDoesNotAnswer(t *testing.T) {
	b := newBench(t)
	key := &flakyKey{Signer: b.cfg.Key}
	b.cfg.Key = key
	l := b.open()
	key.broken = true
	fillLog(t, l, 200)
	if err := l.Append(t.Context(), critical(1)); err != nil {
		t.Fatal(err)
	}
	s := l.State()
	if s.Size != 202 || s.Signed != 1 || !strings.Contains(s.SignError, "TPM is busy") {
		t.Errorf("state = %+v", s)
	}
	if batch, err := l.Batch(t.Context(), 1); err != nil || len(batch.Leaves) != 0 {
		t.Errorf("unsigned records were handed out: %d, %v", len(batch.Leaves), err)
	}
	l = b.reopen(l) // the unsigned records survive a restart
	key.broken = false
	for start := uint64(1); start < s.Size; {
		batch, err := l.Batch(t.Context(), start)
		if err != nil || len(batch.Leaves) == 0 || len(batch.Leaves) > logging.TargetLeaves {
			t.Fatalf("batch from %d: %d records, %v", start, len(batch.Leaves), err)
		}
		start = batch.End()
	}
	l = b.reopen(l) // and so do signatures that came later than the records behind them
	c := b.collector()
	c.take(l)
	if got := len(c.leaves[s.Origin]); got != 202 {
		t.Errorf("collector has %d records", got)
	}
	if s := l.State(); s.Signed != 202 || s.SignError != "" {
		t.Errorf("state = %+v", s)
	}
	if _, err := l.Verify(t.Context()); err != nil {
		t.Error(err)
	}
}

// An error of a commit may mean that it happened. Either way each event is in the log once, in order.
func TestFailedCommits(t *testing.T) { eachStore(t, testFailedCommits) }

func testFailedCommits(t *testing.T) {
	for _, applied := range []bool{false, true} {
		t.Run(fmt.Sprintf("applied %v", applied), func(t *testing.T) {
			b := newBench(t)
			broken := errors.New("write failed")
			fail := false
			l, err := spool.OpenWithFuse(b.cfg, func(e spool.Effect) (bool, error) {
				if fail && e.Op == "commit" {
					return applied, broken
				}
				return true, nil
			})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			fail = true
			if err := l.Append(t.Context(), critical(0)); !errors.Is(err, broken) {
				t.Errorf("error = %v", err)
			}
			if err := l.Append(t.Context(), critical(1)); !errors.Is(err, broken) {
				t.Errorf("error = %v", err)
			}
			fail = false
			if err := l.Append(t.Context(), critical(2)); err != nil {
				t.Fatal(err)
			}
			var got []string
			for leaf, err := range l.From(t.Context(), 1) {
				if err != nil {
					t.Fatal(err)
				}
				r, err := logging.DecodeLeaf(leaf.Body)
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, strings.TrimPrefix(r.Message, "installed release ")+r.Code[:6])
			}
			want := "[audit log could not be written; events waited in memoryaudit. 1.0.0update 1.0.1update 1.0.2update audit log is written againaudit.]"
			if !applied && fmt.Sprint(got) != want {
				t.Errorf("records = %v", got)
			}
			for i := range 3 {
				if n := strings.Count(fmt.Sprint(got), fmt.Sprintf("1.0.%dupdate", i)); n != 1 {
					t.Errorf("event %d is there %d times: %v", i, n, got)
				}
			}
			if s := l.State(); s.Pending != 0 || s.Failed != "" {
				t.Errorf("state = %+v", s)
			}
			if _, err := l.Verify(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestExportOfALiveLogVerifiesOffline(t *testing.T) {
	eachStore(t, testExportOfALiveLogVerifiesOffline)
}

func testExportOfALiveLogVerifiesOffline(t *testing.T) {
	b := newBench(t)
	l := b.open()
	fillLog(t, l, 300)
	c := b.collector()
	if err := l.Receipt(t.Context(), c.take(l)); err != nil {
		t.Fatal(err)
	}
	fillLog(t, l, 10)
	var out bytes.Buffer
	if err := l.Export(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	h, items, err := logging.ReadExport(&out)
	if err != nil {
		t.Fatal(err)
	}
	report, err := logging.Verify(t.Context(), h, items, logging.Expect{Policy: b.cfg.Policy, Acked: true, Device: l.State().Origin.Device})
	if err != nil || report.Size != 311 || report.Acked != 301 {
		t.Errorf("%+v, %v", report, err)
	}
}

// Appending, reading, shipping and verifying at the same time; run with -race.
func TestConcurrentUse(t *testing.T) { eachStore(t, testConcurrentUse) }

func testConcurrentUse(t *testing.T) {
	b := newBench(t)
	b.cfg.Keep = 1
	l := b.open()
	c := b.collector()
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 100 {
				e := ordinary(i)
				if i%25 == 0 {
					e = critical(w)
				}
				if err := l.Append(t.Context(), e); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Go(func() {
		for range 10 {
			if r := c.take(l); r != nil {
				if err := l.Receipt(t.Context(), r); err != nil {
					t.Error(err)
				}
			}
		}
	})
	wg.Go(func() {
		for range 10 {
			if _, err := l.Verify(t.Context()); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
	if err := l.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.take(l)
	got := 0
	for _, leaf := range c.leaves[l.State().Origin] {
		if r, err := logging.DecodeLeaf(leaf.Body); err == nil && !strings.HasPrefix(r.Code, "log.") {
			got++
		}
	}
	if got != 400 {
		t.Errorf("collector has %d events", got)
	}
}
