// SPDX-License-Identifier: Apache-2.0

package spool_test

import (
	"context"
	"errors"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/logging/spool"
)

// hardware is a counter that keeps its value whatever happens to flash. fail says for a call whether it fails, and whether it
// happens all the same.
type hardware struct {
	value uint64
	fail  func(op string) (apply bool, err error)
}

func (h *hardware) Read(context.Context) (uint64, error) {
	if h.fail != nil {
		if _, err := h.fail("read"); err != nil {
			return 0, err
		}
	}
	return h.value, nil
}

func (h *hardware) Next(context.Context) (uint64, error) {
	if h.fail != nil {
		if apply, err := h.fail("next"); err != nil {
			if apply {
				h.value++
			}
			return 0, err
		}
	}
	h.value++
	return h.value, nil
}

// TestCounterShowsRollback: an old copy of the whole directory, receipts and epoch number included, is put back. The counter
// knows, at the next start, without any receipt.
func TestCounterShowsRollback(t *testing.T) { eachStore(t, testCounterShowsRollback) }

func testCounterShowsRollback(t *testing.T) {
	b := newBench(t)
	chip := &hardware{value: 41}
	b.cfg.Counter = chip
	l := b.open()
	if r := decode(t, l, 1); r.Code != "log.counter" || attr(t, r, "value") != 42 {
		t.Errorf("record 1 = %+v", r)
	}
	fillLog(t, l, 50)
	receipt := b.collector().take(l)
	if err := l.Receipt(t.Context(), receipt); err != nil {
		t.Fatal(err)
	}
	old := t.TempDir()
	copyDir(t, b.cfg.Dir, old)
	for range 3 { // three more runs
		l = b.reopen(l)
		fillLog(t, l, 10)
	}
	if s := l.State(); s.Origin.Epoch != 1 || chip.value != 45 {
		t.Fatalf("state = %+v, counter %d", s, chip.value)
	}
	l.Close()
	b.cfg.Dir = old
	l = b.open()
	r := decode(t, l, 0)
	if reason, _ := r.Attr("reason"); reason != "rolled-back" || l.State().Origin.Epoch != 1+1+3 {
		t.Errorf("epoch %d because of %q, want one beyond all that the missing runs can have begun", l.State().Origin.Epoch, reason)
	}
	if r := decode(t, l, 1); r.Code != "log.counter" || attr(t, r, "value") != 46 {
		t.Errorf("record 1 = %+v", r)
	}
	// That was news once.
	epoch := l.State().Origin.Epoch
	l = b.reopen(l)
	if s := l.State(); s.Origin.Epoch != epoch || s.CounterError != "" {
		t.Errorf("state = %+v", s)
	}
	// A receipt of the time before the rollback means nothing any more.
	if err := l.Receipt(t.Context(), receipt); err != nil || l.State().Acked != 0 {
		t.Errorf("%v, state %+v", err, l.State())
	}
}

// TestCounterPowerCuts cuts the power at every step of counting, and lets every call fail in both ways: no start takes that
// for a rollback.
func TestCounterPowerCuts(t *testing.T) { eachStoreNative(t, testCounterPowerCuts) }

func testCounterPowerCuts(t *testing.T) {
	for n := 0; ; n++ {
		b := newBench(t)
		chip := &hardware{value: 10}
		b.cfg.Counter = chip
		cut, at := t.TempDir(), uint64(0)
		steps := 0
		see := func() {
			if steps++; steps == n+1 {
				copyDir(t, b.cfg.Dir, cut)
				at = chip.value
			}
		}
		chip.fail = func(string) (bool, error) { see(); return true, nil }
		for range 2 {
			l, err := spool.OpenWithFuse(b.cfg, func(spool.Effect) (bool, error) { see(); return true, nil })
			if err != nil {
				t.Fatal(err)
			}
			l.Close()
		}
		if at == 0 {
			t.Logf("%d steps", n)
			return
		}
		for further := range uint64(3) {
			dir := t.TempDir()
			copyDir(t, cut, dir)
			cfg := b.cfg
			cfg.Dir, cfg.Counter = dir, &hardware{value: at + further}
			l, err := spool.Open(cfg)
			if err != nil {
				t.Fatal(err)
			}
			reason, _ := decode(t, l, 0).Attr("reason")
			if further == 0 && reason == "rolled-back" {
				t.Errorf("cut %d of two starts, counter at %d: %s", n, at, reason)
			}
			if further == 2 && reason == "first-start" && counted(t, cut, b) && decode(t, l, 0).Origin.Epoch == 1 {
				t.Errorf("cut %d of two starts, counter at %d instead of %d: not noticed", n, at+further, at)
			}
			l.Close()
		}
	}
}

// counted reports whether a log has recorded a count.
func counted(t *testing.T, dir string, b *bench) bool {
	t.Helper()
	cfg := b.cfg
	cfg.Dir, cfg.Counter = t.TempDir(), nil
	copyDir(t, dir, cfg.Dir)
	l, err := spool.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return codes(t, l)["log.counter"] > 0
}

// A counter that does not answer delays counting and nothing else; one that advanced and said it had not is believed.
func TestCounterThatFails(t *testing.T) {
	eachStore(t, func(t *testing.T) {
		for _, op := range []string{"read", "next"} {
			for _, applied := range []bool{false, true} {
				b := newBench(t)
				chip := &hardware{value: 7}
				b.cfg.Counter = chip
				l := b.open()
				chip.fail = func(o string) (bool, error) {
					if o == op {
						return applied, errors.New("TPM_RC_NV_RATE")
					}
					return true, nil
				}
				l = b.reopen(l)
				if s := l.State(); s.CounterError == "" || s.Origin.Epoch != 1 {
					t.Errorf("%s, applied %v: state = %+v", op, applied, s)
				}
				if err := l.Append(t.Context(), critical(1)); err != nil {
					t.Error(err)
				}
				chip.fail = nil
				l = b.reopen(l)
				if s := l.State(); s.CounterError != "" || s.Origin.Epoch != 1 {
					t.Errorf("%s, applied %v: state = %+v", op, applied, s)
				}
			}
		}
	})
}

// A counter that was reset says nothing about the store, but somebody did it.
func TestCounterWentBack(t *testing.T) {
	b := newBench(t)
	chip := &hardware{value: 100}
	b.cfg.Counter = chip
	l := b.open()
	chip.value = 0
	l = b.reopen(l)
	r := decode(t, l, 2)
	if r.Code != "log.counter" || r.Severity != logging.SeverityHigh || r.Outcome != logging.OutcomeFailure || attr(t, r, "previous") != 101 {
		t.Errorf("record 2 = %+v", r)
	}
	if s := l.State(); s.Origin.Epoch != 1 {
		t.Errorf("state = %+v", s)
	}
}

// The counter lasts: one count an hour at most.
func TestCounterIsSpared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		chip := &hardware{}
		b.cfg.Counter = chip
		l, err := spool.Open(b.cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		for range 50 {
			time.Sleep(10 * time.Minute)
			if err := l.Append(t.Context(), critical(1)); err != nil {
				t.Fatal(err)
			}
		}
		if chip.value < 8 || chip.value > 10 {
			t.Errorf("counted %d times in %d minutes", chip.value, 500)
		}
	})
}

// The store is put back with a receipt that is newer than it, or together with its own: the first shows at the start, the
// second when the newest receipt comes.
func TestRolledBackWithReceipt(t *testing.T) {
	eachStore(t, func(t *testing.T) {
		b := newBench(t)
		l := b.open()
		c := b.collector()
		fillLog(t, l, 50)
		if err := l.Receipt(t.Context(), c.take(l)); err != nil {
			t.Fatal(err)
		}
		old := t.TempDir()
		copyDir(t, b.cfg.Dir, old)
		fillLog(t, l, 50)
		newest := c.take(l)
		if err := l.Receipt(t.Context(), newest); err != nil {
			t.Fatal(err)
		}
		l.Close()
		// With its own receipt.
		b.cfg.Dir = old
		l = b.open()
		if s := l.State(); s.Origin.Epoch != 1 || s.Acked != 51 {
			t.Fatalf("state = %+v", s)
		}
		wantCode(t, l.Receipt(t.Context(), newest), logging.CodeRolledBack)
		wantNewEpoch(t, b, l, "rolled-back", 51)
		l.Close()
		// With the newest one: the receipt in the store covers more than there is.
		if err := os.RemoveAll(b.cfg.Dir); err != nil {
			t.Fatal(err)
		}
		b = newBench(t)
		l = b.open()
		fillLog(t, l, 50)
		far, err := b.signer.Sign(logging.Checkpoint{Origin: l.State().Origin, Size: 101}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		edit(t, b, func(k keys) error {
			key := b.signer.Key().String()
			return k.Put([]byte("s"+key[:len("collector.example")+9]), far)
		})
		wantNewEpoch(t, b, b.open(), logging.CodeTruncated, 51)
	})
}
