// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/backstay/backstay/agent/config"
	"github.com/backstay/backstay/configs"
)

// told is a guard over a small tree with one rule that can be repaired, and what it emits.
type told struct {
	*guard
	dir, file string
	done      chan struct{}

	mu     sync.Mutex
	events []string
	at     []time.Time
}

const goodFile = "debug=0\n"

func guarded(t *testing.T, enforce bool) *told {
	t.Helper()
	out := &told{dir: t.TempDir(), done: make(chan struct{})}
	out.file = filepath.Join(out.dir, "etc/app.conf")
	out.set(t, goodFile)
	policy, err := configs.ParsePolicy([]byte(`{"schema":1,"id":"p","serial":1,"rules":[{"id":"app.debug","title":"T","why":"W","severity":"high",
		"kind":"file-line","target":"/etc/app.conf","want":{"key":"debug","sep":"=","one_of":["0"],"set":"0"},"fix":"fix"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(out.dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	engine := &configs.Engine{Root: root, Policy: policy, Now: time.Now, StateDir: filepath.Join(t.TempDir(), "s"), Emit: out.emit}
	out.guard = newGuard(config.Baseline{Enforce: enforce, Watch: true, Period: config.Duration(time.Hour)}, engine, slog.New(slog.DiscardHandler))
	return out
}

func (g *told) emit(code string, attrs ...slog.Attr) {
	text := code
	for _, a := range attrs {
		if a.Key == "result" || a.Key == "run" {
			text += " " + a.Value.String()
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.events = append(g.events, text)
	g.at = append(g.at, time.Now())
}

func (g *told) heard(want string) (time.Time, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, e := range g.events {
		if e == want {
			return g.at[i], true
		}
	}
	return time.Time{}, false
}

func (g *told) set(t *testing.T, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(g.file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(g.file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// start runs keep until the test ends, and returns when it has looked once and waits.
func (g *told) start(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	go func() { g.keep(ctx); close(g.done) }()
	t.Cleanup(func() { cancel(); <-g.done })
	g.await(t, "config.state "+map[bool]string{true: "apply", false: "check"}[g.enforce], 10*time.Second)
	time.Sleep(50 * time.Millisecond)
}

func (g *told) await(t *testing.T, event string, limit time.Duration) time.Time {
	t.Helper()
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if at, ok := g.heard(event); ok {
			return at
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	t.Fatalf("no %q among %q", event, g.events)
	return time.Time{}
}

func TestDriftOfAFileIsNoticedAndRepaired(t *testing.T) {
	g := guarded(t, true)
	g.start(t)
	began := time.Now()
	g.set(t, "debug=1\n")
	at := g.await(t, "config.fixed fixed", 10*time.Second)
	// A second is promised; a machine that does other things gets five.
	t.Logf("repaired after %s", at.Sub(began).Round(time.Millisecond))
	if d := at.Sub(began); d > 5*time.Second {
		t.Errorf("repaired after %s", d)
	}
	if b, err := os.ReadFile(g.file); err != nil || string(b) != goodFile {
		t.Errorf("the file is %q, %v", b, err)
	}
	// Its own change concerns nobody: the rule is not looked at again.
	g.run.Lock()
	looked := g.report().Findings[0].Took
	g.run.Unlock()
	time.Sleep(600 * time.Millisecond)
	if now := g.report().Findings[0]; now.Took != looked || now.Result != configs.Fixed {
		t.Errorf("it looked at its own change: %+v", now)
	}
	// A file that goes away and comes back is noticed, too.
	if err := os.RemoveAll(filepath.Join(g.dir, "etc")); err != nil {
		t.Fatal(err)
	}
	time.Sleep(500 * time.Millisecond)
	g.set(t, "debug=1\n# again\n")
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if b, _ := os.ReadFile(g.file); strings.HasPrefix(string(b), "debug=0\n# again") {
			return
		}
	}
	t.Error("a file that was made again is not repaired")
}

// Another program may write while the engine waits for the flash: its bytes are not taken for the engine's.
func TestAWriterThatIsQuickerThanTheFlashIsNoticed(t *testing.T) {
	g := guarded(t, true)
	for _, c := range []struct {
		holds, foreign bool
		own            bool
	}{{true, false, true}, {true, true, false}, {false, false, false}} {
		g.own("/etc/app.conf", func() bool { return c.holds })
		if c.foreign {
			time.Sleep(20 * time.Millisecond)
			g.set(t, "debug=1\n")
		}
		if got := g.isOwn("/etc/app.conf"); got != c.own {
			t.Errorf("%+v: own is %v", c, got)
		}
	}
}

func TestDriftIsOnlyReportedWithoutEnforcement(t *testing.T) {
	g := guarded(t, false)
	g.start(t)
	g.set(t, "debug=1\n")
	g.await(t, "config.drift fail", 10*time.Second)
	g.set(t, goodFile)
	g.await(t, "config.drift pass", 10*time.Second)
}

// A program that writes its own value back after every repair ends in peace: the guard says so and lets it be.
func TestAFightingWriterEndsInContested(t *testing.T) {
	g := guarded(t, true)
	g.start(t)
	stop := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
			if b, err := os.ReadFile(g.file); err == nil && string(b) == goodFile {
				os.WriteFile(g.file, []byte("debug=1\n"), 0o644) //nolint:errcheck // the next round tries again
			}
		}
	})
	g.await(t, "config.drift contested", 60*time.Second)
	close(stop)
	writer.Wait()
	b, err := os.ReadFile(g.file)
	if err != nil || string(b) != "debug=1\n" {
		t.Errorf("the file is %q, %v", b, err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	fixed := 0
	for _, e := range g.events {
		if e == "config.fixed fixed" {
			fixed++
		}
	}
	if fixed < 1 || fixed > 4 || len(g.events) > 10 {
		t.Errorf("%d repairs in %q", fixed, g.events)
	}
}

func TestTheWatchIsWokenByAPolicy(t *testing.T) {
	g := guarded(t, false)
	g.start(t)
	g.run.Lock()
	p := g.engine.Policy
	p.ID, p.Serial = "q", 2
	g.engine.Policy = p
	g.run.Unlock()
	before := g.report().Started
	g.wake()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if g.report().Started.After(before) {
			return
		}
	}
	t.Error("not woken")
}
