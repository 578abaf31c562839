// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/logging/client"
	"github.com/backstay/backstay/logging/intake"
)

// agent is the real other side.
func agent(t *testing.T, path string, rate logging.Rate) (events *atomic.Int64, stop func()) {
	t.Helper()
	l, err := intake.Listen(path, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	events = new(atomic.Int64)
	s := intake.New(intake.Config{Rate: rate, Emit: func(string, ...slog.Attr) {},
		Record: func(context.Context, logging.Event, bool) (uint64, error) { events.Add(1); return 7, nil }})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	return events, func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func short(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "bs")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

func TestWriteSurvivesARestartOfTheAgent(t *testing.T) {
	path := short(t)
	log := client.New(path)
	defer log.Close()
	err := log.Write(t.Context(), client.Event{Code: "x"})
	if !client.NotRunning(err) {
		t.Fatalf("without an agent: %v", err)
	}
	for range 2 {
		events, stop := agent(t, path, logging.Rate{Per: 100, Burst: 100})
		for range 3 {
			if err := log.Write(t.Context(), client.Event{Code: "x", Severity: "low", Attrs: map[string]any{"n": 1.5, "b": true}, Durable: true}); err != nil {
				t.Error(err)
			}
		}
		if n := events.Load(); n != 3 {
			t.Errorf("%d events recorded, want 3", n)
		}
		stop()
	}
}

func TestRefusalsSayWhetherToTryAgain(t *testing.T) {
	path := short(t)
	_, stop := agent(t, path, logging.Rate{Per: 0.001, Burst: 2})
	defer stop()
	log := client.New(path)
	defer log.Close()
	for _, tt := range []struct {
		e         client.Event
		code      string
		temporary bool
	}{
		{client.Event{Code: "BAD"}, "malformed", false},
		{client.Event{Code: "x", Attrs: map[string]any{"list": []int{1}}}, "malformed", false},
		{client.Event{Code: "x", Message: strings.Repeat("x", client.MaxMessage)}, "malformed", false},
		{client.Event{Code: "x"}, "rate", true},
	} {
		var r *client.Refused
		if err := log.Write(t.Context(), tt.e); !errors.As(err, &r) || r.Code != tt.code || r.Temporary() != tt.temporary {
			t.Errorf("%.40s: %v, want %s", tt.e.Code, err, tt.code)
		}
	}
}

func TestWriteEndsWithItsContext(t *testing.T) {
	path := short(t)
	l, err := net.Listen("unixpacket", path) // takes connections and never answers
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	log := client.New(path)
	defer log.Close()
	done := make(chan error, 1)
	go func() { done <- log.Write(ctx, client.Event{Code: "x"}) }()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// TestImportsTheStandardLibraryOnly holds that a product's program which writes events does not link the agent.
func TestImportsTheStandardLibraryOnly(t *testing.T) {
	if os.Getenv("BACKSTAY_TEST_EMULATED") != "" {
		t.Skip("runs the Go command; runs on the build machine only")
	}
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(string(out)); got != "github.com/backstay/backstay/logging/client" {
		t.Errorf("links %s", got)
	}
}
