// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/backstay/backstay/logging"
)

// memory is a State that holds bytes.
type memory struct {
	mu    sync.Mutex
	saved map[string][]byte
	saves int
}

func (m *memory) Load(name string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.saved[name], nil
}

func (m *memory) Save(name string, value []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(value) > MaxState {
		return fmt.Errorf("%d bytes for %s", len(value), name)
	}
	if m.saved == nil {
		m.saved = make(map[string][]byte)
	}
	m.saved[name] = append([]byte(nil), value...)
	m.saves++
	return nil
}

func testEnv(t *testing.T, root string) *Env {
	t.Helper()
	return &Env{Root: root, Poll: 50 * time.Millisecond, BootID: "boot-1", Now: time.Now, State: &memory{}, Logger: slog.New(slog.DiscardHandler), writers: &writers{}}
}

// tree makes a tree of files under a directory of its own.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		write(t, filepath.Join(root, name), text)
	}
	return root
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// watching is a source that runs in a test.
type watching struct {
	recorded
	sink *Sink
	stop func() error
}

// observe opens a source and runs it until the test ends, or stop is called. Where the machine has no such thing the test is
// skipped.
func observe(t *testing.T, k Kind, env *Env) *watching {
	t.Helper()
	w, err := k.Open(t.Context(), env)
	if errors.Is(err, ErrUnavailable) || errors.Is(err, os.ErrPermission) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return runWatcher(t, w)
}

func runWatcher(t *testing.T, w Watcher) *watching {
	t.Helper()
	if w.Covers() == "" {
		t.Error("covers nothing")
	}
	t.Log("covers:", w.Covers())
	out := &watching{}
	out.sink = &Sink{name: "test", emit: out.emit, limit: newLimiter(logging.Rate{Per: 10000, Burst: 10000})}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- errors.Join(w.Run(ctx, out.sink), w.Close()) }()
	out.stop = sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	t.Cleanup(func() {
		if err := out.stop(); err != nil {
			t.Error("run:", err)
		}
	})
	return out
}

// eventually returns the first event with a code that fits.
func (w *watching) eventually(t *testing.T, code string, fits func(logging.Event) bool) logging.Event {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if e, ok := w.find(code, fits); ok {
			return e
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	list := w.list
	if len(list) > 30 {
		list = list[len(list)-30:]
	}
	t.Fatalf("no fitting %s among %d events: %+v", code, len(w.list), list)
	return logging.Event{}
}

func (w *watching) find(code string, fits func(logging.Event) bool) (logging.Event, bool) {
	for _, e := range w.of(code) {
		if fits == nil || fits(e) {
			return e, true
		}
	}
	return logging.Event{}, false
}

// is makes a condition on one attribute.
func is(name, value string) func(logging.Event) bool {
	return func(e logging.Event) bool { v, _ := e.Attr(name); return v == value }
}
