// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/backstay/backstay/logging"
)

// recorded gathers events.
type recorded struct {
	mu   sync.Mutex
	list []logging.Event
}

func (r *recorded) emit(code string, attrs ...slog.Attr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, logging.NewEvent(code, attrs...))
}

func (r *recorded) of(code string) (out []logging.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.list {
		if e.Code == code {
			out = append(out, e)
		}
	}
	return out
}

func attr(t *testing.T, e logging.Event, name string) string {
	t.Helper()
	v, ok := e.Attr(name)
	if !ok {
		t.Fatalf("event %s has no attribute %q: %v", e.Code, name, e.Attrs)
	}
	return v
}

type fakeWatcher struct {
	run    func(ctx context.Context, sink *Sink) error
	closed *int
}

func (f fakeWatcher) Covers() string                            { return "everything" }
func (f fakeWatcher) Run(ctx context.Context, sink *Sink) error { return f.run(ctx, sink) }
func (f fakeWatcher) Close() error                              { *f.closed++; return nil }

func fake(name string, closed *int, run func(ctx context.Context, sink *Sink) error) Kind {
	return Kind{Name: name, Sees: "tests", Rate: logging.Rate{Per: 1, Burst: 10}, Open: func(context.Context, *Env) (Watcher, error) {
		return fakeWatcher{run, closed}, nil
	}}
}

func start(ctx context.Context, s *Set) *sync.WaitGroup {
	var wg sync.WaitGroup
	for _, p := range s.Parts() {
		wg.Go(func() { p(ctx) })
	}
	return &wg
}

func TestFloodIsCountedAndSparesCriticalEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var rec recorded
		closed := 0
		flood := func(ctx context.Context, sink *Sink) error {
			for range 5000 {
				sink.Event("exec")
			}
			sink.Event("debug.enabled")
			<-ctx.Done()
			return nil
		}
		s, err := open(t.Context(), Config{Emit: rec.emit}, []Kind{fake("flood", &closed, flood)})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		wg := start(ctx, s)
		time.Sleep(2 * time.Minute)
		cancel()
		wg.Wait()
		if n := len(rec.of("exec")); n != 10 {
			t.Errorf("%d ordinary events recorded, want the burst of 10", n)
		}
		if len(rec.of("debug.enabled")) != 1 {
			t.Error("the critical event was lost in the flood")
		}
		sup := rec.of("log.suppressed")
		if len(sup) != 1 || attr(t, sup[0], "count") != "4990" || attr(t, sup[0], "count.exec") != "4990" || attr(t, sup[0], "source") != "flood" {
			t.Errorf("suppressed: %+v", sup)
		}
		if closed != 1 {
			t.Errorf("closed %d times", closed)
		}
	})
}

func TestLimiterRefills(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(logging.Rate{Per: 2, Burst: 4})
		passed := func() (n int) {
			for range 100 {
				if l.allow("x", false, true) {
					n++
				}
			}
			return n
		}
		if n := passed(); n != 4 {
			t.Errorf("burst: %d, want 4", n)
		}
		time.Sleep(1500 * time.Millisecond)
		if n := passed(); n != 3 {
			t.Errorf("after 1.5 s at 2 a second: %d, want 3", n)
		}
		for i := range 2 * maxCodes {
			l.allow(fmt.Sprint("code", i), false, true)
		}
		if len(l.counts) > maxCodes+1 {
			t.Errorf("%d codes counted, want at most %d", len(l.counts), maxCodes+1)
		}
		var total, each string
		for _, a := range l.report("s") {
			if a.Key == "count" {
				total = a.Value.String()
			}
			each += a.Key + " "
		}
		if want := fmt.Sprint(100 - 4 + 100 - 3 + 2*maxCodes); total != want || !strings.Contains(each, "count.others") {
			t.Errorf("suppressed %s in all (%s), want %s and others", total, each, want)
		}
	})
}

func TestAllowAsksWithoutTaking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var rec recorded
		s := &Sink{name: "s", emit: rec.emit, limit: newLimiter(logging.Rate{Per: 1, Burst: 3})}
		for range 10 {
			if s.Allow("exec") {
				s.Event("exec")
			}
		}
		if n := len(rec.of("exec")); n != 3 {
			t.Errorf("%d events, want the burst of 3: to ask must cost nothing", n)
		}
		if !s.Allow("exec.writable") {
			t.Error("a critical code must not be refused for the flood of another")
		}
		if got := s.limit.counts; len(got) != 1 || got[0] != (suppressed{code: "exec", count: 7}) {
			t.Errorf("counted %+v, want 7 refused", got)
		}
	})
}

func TestLossIsOneRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var rec recorded
		closed := 0
		lossy := func(ctx context.Context, sink *Sink) error {
			for range 100 {
				sink.Lost(3, "buffer overflow")
			}
			sink.Lost(0, "buffer overflow")
			<-ctx.Done()
			return nil
		}
		s, _ := open(t.Context(), Config{Emit: rec.emit}, []Kind{fake("lossy", &closed, lossy)})
		ctx, cancel := context.WithCancel(t.Context())
		wg := start(ctx, s)
		time.Sleep(lossEvery + time.Second)
		cancel()
		wg.Wait()
		gaps := rec.of("log.gap")
		if len(gaps) != 1 || attr(t, gaps[0], "count") != "300" || attr(t, gaps[0], "at_least") != "true" || attr(t, gaps[0], "reason") != "buffer overflow" {
			t.Errorf("gaps: %+v", gaps)
		}
	})
}

func TestBrokenSourceIsReportedAndOpenedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var rec recorded
		closed, runs := 0, 0
		breaks := func(ctx context.Context, sink *Sink) error {
			if runs++; runs < 3 {
				return errors.New("it broke")
			}
			<-ctx.Done()
			return nil
		}
		s, _ := open(t.Context(), Config{Emit: rec.emit}, []Kind{fake("brittle", &closed, breaks)})
		ctx, cancel := context.WithCancel(t.Context())
		wg := start(ctx, s)
		time.Sleep(time.Minute)
		if st := s.Inventory()[0]; st.State != Working {
			t.Errorf("after a minute: %+v", st)
		}
		cancel()
		wg.Wait()
		if runs != 3 || closed != 3 || len(rec.of("log.source-failed")) != 2 || len(rec.of("log.source-restored")) != 2 {
			t.Errorf("%d runs, %d closed, events %+v", runs, closed, rec.list)
		}
	})
}

func TestInventory(t *testing.T) {
	var rec recorded
	closed := 0
	none := Kind{Name: "none", Open: func(context.Context, *Env) (Watcher, error) {
		return nil, fmt.Errorf("no such socket: %w", ErrUnavailable)
	}}
	idle := func(ctx context.Context, sink *Sink) error { return nil }
	kinds := []Kind{fake("one", &closed, idle), none, fake("two", &closed, idle)}
	s, err := open(t.Context(), Config{Emit: rec.emit, Off: []string{"two"}}, kinds)
	if err != nil {
		t.Fatal(err)
	}
	s.Report()
	inv := rec.of("inventory")
	if len(inv) != 1 || attr(t, inv[0], "one") != "working: everything" || attr(t, inv[0], "none") != "unavailable: no such socket: not available here" ||
		attr(t, inv[0], "two") != "off: by configuration" {
		t.Errorf("inventory: %+v", inv)
	}
	if n := len(s.Parts()); n != 2 {
		t.Errorf("%d parts, want the working source and the accounts", n)
	}
	if err := s.Close(); err != nil || closed != 1 {
		t.Errorf("close: %v, %d closed", err, closed)
	}
	if _, err := open(t.Context(), Config{Off: []string{"three"}}, kinds); !errors.Is(err, logging.ErrSetup) {
		t.Errorf("unknown name: %v", err)
	}
}

func TestKindsAreNamedOnce(t *testing.T) {
	var names []string
	for _, k := range Kinds() {
		if k.Name == "" || k.Sees == "" || k.Open == nil || k.Rate.Burst < 1 || k.Rate.Per <= 0 || slices.Contains(names, k.Name) {
			t.Errorf("kind %+v", k)
		}
		names = append(names, k.Name)
	}
}
