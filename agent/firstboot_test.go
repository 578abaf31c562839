// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/backstay/backstay/agent/config"
	"github.com/backstay/backstay/agent/store"
	"github.com/backstay/backstay/logging"
)

func TestFirstBootRepairsWithoutTheDaemon(t *testing.T) {
	root, state := t.TempDir(), t.TempDir()
	etc := filepath.Join(root, "etc")
	if err := os.Mkdir(etc, 0o755); err != nil {
		t.Fatal(err)
	}
	shadow := "root::19000:0:99999:7:::\n"
	for name, text := range map[string]string{"fstab": "tmpfs /tmp tmpfs mode=1777 0 0\n", "passwd": "root:x:0:0::/:/bin/sh\n", "shadow": shadow, "cmdline": "backstay.boot=first\n"} {
		if err := os.WriteFile(filepath.Join(etc, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cfg := &config.Config{StateDir: state}
	cfg.Baseline.Profiles, cfg.Baseline.Root, cfg.Baseline.Enforce = []string{"base"}, root, true
	cfg.Booted.Cmdline = filepath.Join(etc, "cmdline")
	opt := Options{Release: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC), Logger: slog.New(slog.DiscardHandler)}
	f, err := FirstBoot(t.Context(), cfg, opt, false)
	if err != nil || f.Counts.Fixed == 0 {
		t.Fatalf("%+v %v", f.Counts, err)
	}
	if b, err := os.ReadFile(filepath.Join(etc, "shadow")); err != nil || string(b) != shadow {
		t.Errorf("what could lock somebody out was done: %q %v", b, err)
	}
	if _, err := os.Stat(filepath.Join(state, "state.db")); err == nil {
		t.Error("it made the daemon's database")
	}

	// The daemon takes the events over, once, as events of that boot.
	rec := &recorder{clock: NewClock(time.Time{}), logger: opt.Logger, bootID: "second"}
	var log kept
	rec.start(&log)
	rec.takePending(state)
	var codes []string
	for _, e := range log.events {
		codes = append(codes, e.Code)
		if stamped := rec.stamp(e); stamped.BootID != "first" || stamped.Time.IsZero() {
			t.Errorf("%s is of boot %q at %s", e.Code, stamped.BootID, stamped.Time)
		}
	}
	for _, want := range []string{"config.fixed", "config.drift", "config.state"} {
		if !slices.Contains(codes, want) {
			t.Errorf("no %s among %q", want, codes)
		}
	}
	n := len(log.events)
	rec.takePending(state)
	if len(log.events) != n {
		t.Error("they were taken over twice")
	}
	if stamped := rec.stamp(logging.NewEvent("x")); stamped.BootID != "second" {
		t.Errorf("an event of this boot is of boot %q", stamped.BootID)
	}

	// While the daemon runs there is nothing to do here.
	db, err := store.Open(filepath.Join(state, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := FirstBoot(t.Context(), cfg, opt, false); !errors.Is(err, store.ErrLocked) {
		t.Errorf("beside a daemon: %v", err)
	}
}

func TestPendingIsBounded(t *testing.T) {
	dir := t.TempDir()
	p := &pending{}
	for range 3 * maxPending {
		if err := p.Append(context.Background(), logging.Event{Code: "x"}); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := p.save(dir); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := readPending(filepath.Join(dir, pendingFile)); err != nil || len(got) != maxPending {
		t.Errorf("%d events, %v", len(got), err)
	}
	if err := os.WriteFile(filepath.Join(dir, pendingFile), []byte("[{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readPending(filepath.Join(dir, pendingFile)); err == nil {
		t.Error("half a file is read")
	}
	if err := p.save(dir); err != nil {
		t.Errorf("half a file is in the way: %v", err)
	}
}
