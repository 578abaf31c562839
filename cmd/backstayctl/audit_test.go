// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/backstay/backstay/cmd/internal/cli"
	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/logging/collect"
)

// auditStore is a collector's store with the log of one device in it.
type auditStore struct {
	dir    string
	key    string
	device string
	origin logging.Origin
	store  *collect.Bolt
	c      *collect.Collector
	signer *logging.CheckpointSigner
	tree   logging.Tree
}

func newAuditStore(t *testing.T, events ...logging.Event) *auditStore {
	t.Helper()
	s := &auditStore{dir: t.TempDir()}
	key, err := collect.CreateKey(filepath.Join(t.TempDir(), "receipt.key"), "TEST/collector")
	if err != nil {
		t.Fatal(err)
	}
	s.key = key.Key().String()
	if s.store, err = collect.Open(s.dir); err != nil {
		t.Fatal(err)
	}
	if s.c, err = collect.New(collect.CollectorConfig{Store: s.store, Key: key}); err != nil {
		t.Fatal(err)
	}
	birth, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if s.signer, err = logging.NewCheckpointSigner(birth); err != nil {
		t.Fatal(err)
	}
	s.device = s.signer.DeviceID()
	s.origin = logging.Origin{Device: s.device, Epoch: 1}
	s.send(t, append([]logging.Event{{Code: "log.start"}, {Code: "boot"}}, events...)...)
	return s
}

func (s *auditStore) send(t *testing.T, events ...logging.Event) {
	t.Helper()
	b := logging.Batch{SPKI: s.signer.SPKI(), Origin: s.origin, Start: s.tree.Size()}
	for _, e := range events {
		body, side := logging.EncodeRecord(s.origin, s.tree.Size(), time.Now(), e)
		s.tree.Append(logging.LeafHash(body))
		b.Leaves = append(b.Leaves, logging.Leaf{Body: body, Side: side})
	}
	var err error
	if b.Checkpoint, err = s.signer.Sign(logging.Checkpoint{Origin: s.origin, Size: s.tree.Size(), Root: s.tree.Root()}); err != nil {
		t.Fatal(err)
	}
	msg, err := logging.EncodeBatch(b)
	if err != nil {
		t.Fatal(err)
	}
	if res, err := s.c.Ingest(context.Background(), s.device, msg); err != nil || res.Stored != len(events) {
		t.Fatalf("%+v, %v", res, err)
	}
}

// ctl runs backstayctl.
func ctl(t *testing.T, want cli.Exit, args ...string) (stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	got := app().Main(t.Context(), args, &cli.Env{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs})
	if got != int(want) {
		t.Errorf("backstayctl %s: exit %d, want %d\n%s%s", strings.Join(args, " "), got, want, out.Bytes(), errs.Bytes())
	}
	return out.String(), errs.String()
}

func contains(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("%q is not in:\n%s", p, text)
		}
	}
}

func TestAuditVerifyComplete(t *testing.T) {
	s := newAuditStore(t)
	s.store.Close()
	out, _ := ctl(t, cli.ExitOK, "audit", "verify", "--store", s.dir, "--receipt-key", s.key)
	contains(t, out, s.origin.String(), "2 of 2", "verified")
	file := filepath.Join(t.TempDir(), "log.txt")
	ctl(t, cli.ExitOK, "audit", "export", "--store", s.dir, "--device", s.device, file)
	ctl(t, cli.ExitOK, "audit", "verify", "--receipt-key", s.key, file)
	ctl(t, cli.ExitFailed, "audit", "export", "--store", s.dir, "--device", s.device, file) // never replaces
	out, _ = ctl(t, cli.ExitOK, "audit", "verify", file)
	contains(t, out, "not checked")

	out, _ = ctl(t, cli.ExitOK, "--json", "audit", "report", "--store", s.dir, "--receipt-key", s.key)
	var r report
	if err := json.Unmarshal([]byte(out), &r); err != nil || r.Result != resultVerified || len(r.Devices) != 1 || r.Devices[0].Logs[0].Receipts[0].Size != 2 {
		t.Errorf("%v: %s", err, out)
	}
	contains(t, out, `"schema": "backstayctl.audit.report/1"`)
	out, _ = ctl(t, cli.ExitOK, "audit", "report", "--store", s.dir, "--receipt-key", s.key)
	contains(t, out, s.device, "TEST/collector for 2 records", "signed by", "1 devices: verified")
}

func TestAuditVerifyFindings(t *testing.T) {
	s := newAuditStore(t, logging.NewEvent("log.gap", slog.String("reason", "kmsg overflow"), slog.Int("count", 17)))
	s.store.Close()
	out, errs := ctl(t, cli.ExitFindings, "audit", "verify", "--store", s.dir)
	contains(t, out, "incomplete")
	contains(t, errs, "not complete", "next:")
	out, _ = ctl(t, cli.ExitFindings, "audit", "report", "--store", s.dir)
	contains(t, out, "kmsg overflow", "17")
	if out, errs = ctl(t, cli.ExitFindings, "--json", "audit", "verify", "--store", s.dir); errs != "" || strings.Count(out, `"schema"`) != 1 {
		t.Errorf("two documents:\n%s%s", out, errs)
	}
}

func TestAuditVerifyAlarms(t *testing.T) {
	s := newAuditStore(t)
	if _, err := s.c.Ingest(t.Context(), s.device, []byte("forged")); err != nil {
		t.Fatal(err)
	}
	s.store.Close()
	_, errs := ctl(t, cli.ExitFindings, "audit", "verify", "--store", s.dir)
	contains(t, errs, "1 alarms")
	out, _ := ctl(t, cli.ExitOK, "device", "list", "--store", s.dir)
	contains(t, out, s.device)
	out, _ = ctl(t, cli.ExitOK, "device", "show", "--store", s.dir, s.device)
	contains(t, out, "malformed", "boot", "log.start")
}

// TestAuditVerifyRefuses edits an export in each way an attacker with an editor has.
func TestAuditVerifyRefuses(t *testing.T) {
	s := newAuditStore(t, logging.Event{Code: "auth.fail", Subject: "mallory"}, logging.Event{Code: "auth.ok", Subject: "mallory"}, logging.Event{Code: "reboot"})
	s.store.Close()
	good := filepath.Join(t.TempDir(), "good.txt")
	ctl(t, cli.ExitOK, "audit", "export", "--store", s.dir, "--device", s.device, good)
	b, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(string(b), "\n")
	line := func(prefix string) int {
		for i, l := range lines {
			if strings.HasPrefix(l, prefix) {
				return i
			}
		}
		t.Fatalf("no line %q", prefix)
		return 0
	}
	edit := func(change func(l []string) []string) string {
		return strings.Join(change(append([]string(nil), lines...)), "")
	}
	_, otherKey := newAuditStore(t), newAuditStore(t).key
	for name, tc := range map[string]struct {
		text string
		want string
		args []string
	}{
		"edited record":         {strings.Replace(string(b), `"event_code":"auth.fail"`, `"event_code":"auth.okay"`, 1), "record 2", nil},
		"edited personal value": {strings.Replace(string(b), `"value":"mallory"`, `"value":"nobody!"`, 1), "record 2", nil},
		"removed record": {edit(func(l []string) []string {
			i := line("leaf 2 ")
			return append(l[:i], l[i+1:]...)
		}), "record", nil},
		"cut off":        {string(b[:len(b)/2]), "", nil},
		"empty":          {"", "", nil},
		"not an export":  {"hello\n", "", nil},
		"other receipts": {string(b), "key", []string{"--receipt-key", otherKey}},
		"other device":   {string(b), "device", []string{"--device", "aaaaaaaaaaaaaaaaaaaaaaaaaa"}},
	} {
		file := filepath.Join(t.TempDir(), "bad.txt")
		if err := os.WriteFile(file, []byte(tc.text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, errs := ctl(t, cli.ExitRefused, append(append([]string{"audit", "verify"}, tc.args...), file)...)
		if t.Failed() {
			t.Fatalf("%s: %s", name, errs)
		}
		contains(t, errs, "error:", "why:", tc.want)
	}
}

func TestAuditUsage(t *testing.T) {
	empty := t.TempDir()
	ctl(t, cli.ExitUsage, "audit", "verify")
	ctl(t, cli.ExitUsage, "audit", "verify", "--store", empty, "file")
	ctl(t, cli.ExitUsage, "audit", "verify", "--store", empty, "--receipt-key", "nonsense")
	ctl(t, cli.ExitUsage, "device", "list")
	ctl(t, cli.ExitNotReady, "device", "list", "--store", empty)
	ctl(t, cli.ExitNotReady, "audit", "verify", filepath.Join(empty, "missing"))
	s := newAuditStore(t)
	s.store.Close()
	ctl(t, cli.ExitNotReady, "device", "show", "--store", s.dir, "aaaaaaaaaaaaaaaaaaaaaaaaaa")
	ctl(t, cli.ExitNotReady, "audit", "export", "--store", s.dir, "--device", s.device, "--epoch", "9", filepath.Join(empty, "x"))
}

// TestAuditWhileInUse reads a store that a running server owns.
func TestAuditWhileInUse(t *testing.T) {
	s := newAuditStore(t)
	defer s.store.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.store.Serve(ctx) }()
	for {
		if _, err := os.Stat(filepath.Join(s.dir, "collect.sock")); err == nil {
			break
		}
		time.Sleep(time.Millisecond)
	}
	ctl(t, cli.ExitOK, "audit", "verify", "--store", s.dir, "--receipt-key", s.key)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
