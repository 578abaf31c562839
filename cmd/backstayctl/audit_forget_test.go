// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/backstay/backstay/cmd/internal/cli"
	"github.com/backstay/backstay/logging"
)

// TestForgetLeavesNoTraceAndEveryProof deletes one user of two, and then everybody.
func TestForgetLeavesNoTraceAndEveryProof(t *testing.T) {
	old := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var events []logging.Event
	for range 50 {
		events = append(events,
			logging.Event{Code: "auth.ok", Subject: "alice-in-chains", Attrs: []logging.Attr{{Name: "source_address", Value: "192.0.2.77"}}},
			logging.Event{Code: "auth.ok", Subject: "bob-the-builder", Time: old})
	}
	s := newAuditStore(t, events...)
	file := filepath.Join(s.dir, "collect.db")
	has := func(text string) bool {
		t.Helper()
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return bytes.Contains(b, []byte(text))
	}
	ctl(t, cli.ExitRetry, "audit", "forget", "--store", s.dir, "--value", "alice-in-chains")
	s.store.Close()
	if !has("alice-in-chains") {
		t.Fatal("the value is not in the file: this test looks at nothing")
	}
	ctl(t, cli.ExitUsage, "audit", "forget", "--store", s.dir)
	ctl(t, cli.ExitUsage, "audit", "forget", "--store", s.dir, "--all", "--value", "x")
	ctl(t, cli.ExitUsage, "audit", "forget", "--store", s.dir, "--before", "soon")
	ctl(t, cli.ExitNotReady, "audit", "forget", "--store", filepath.Join(s.dir, "none"), "--all")
	ctl(t, cli.ExitNotReady, "audit", "forget", "--store", s.dir, "--device", "abcdefghijklmnopqrstuvwxyz")

	with, without := filepath.Join(t.TempDir(), "with"), filepath.Join(t.TempDir(), "without")
	ctl(t, cli.ExitOK, "audit", "export", "--store", s.dir, "--device", s.device, with)
	ctl(t, cli.ExitOK, "audit", "export", "--store", s.dir, "--device", s.device, "--without-personal", without)
	for name, want := range map[string]bool{with: true, without: false} {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b, []byte("alice-in-chains")) != want {
			t.Errorf("%s: personal values there: %v, want %v", name, !want, want)
		}
		ctl(t, cli.ExitOK, "audit", "verify", name)
	}

	out, _ := ctl(t, cli.ExitOK, "audit", "forget", "--store", s.dir, "--value", "alice-in-chains")
	contains(t, out, "forgot 50 values")
	if has("alice-in-chains") || !has("bob-the-builder") || !has("192.0.2.77") {
		t.Error("not exactly one user is gone")
	}
	out, _ = ctl(t, cli.ExitOK, "audit", "forget", "--store", s.dir, "--device", s.device, "--before", "2026-02-01")
	contains(t, out, "forgot 50 values")
	out, _ = ctl(t, cli.ExitOK, "--json", "audit", "forget", "--store", s.dir, "--all")
	contains(t, out, `"values": 50`)
	if has("bob-the-builder") || has("192.0.2.77") {
		t.Error("something is left")
	}
	out, _ = ctl(t, cli.ExitOK, "audit", "verify", "--store", s.dir, "--receipt-key", s.key)
	contains(t, out, "verified", "102 of 102")
}
