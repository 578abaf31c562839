// SPDX-License-Identifier: Apache-2.0

package trust_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/trust"
	"github.com/backstay/backstay/update/trust/trusttest"
)

// device is one client and what surrounds it: a test moves the clock, breaks
// the store and restarts it.
type device struct {
	t      *testing.T
	repo   *trusttest.Repo
	store  *trusttest.Store
	url    string
	config trust.Config
	client *trust.Client

	mu     sync.Mutex
	now    time.Time
	events []string
}

func newDevice(t *testing.T, edit ...func(*trust.Config)) *device {
	t.Helper()
	return deviceFor(t, trusttest.New(t), nil, edit...)
}

func deviceFor(t *testing.T, repo *trusttest.Repo, wrap func(http.Handler) http.Handler, edit ...func(*trust.Config)) *device {
	t.Helper()
	d := &device{t: t, repo: repo, store: &trusttest.Store{}, now: trusttest.Start.Add(time.Hour)}
	d.url = repo.Serve(wrap)
	d.config = trust.Config{
		FactoryRoot: repo.Factory, MetadataURL: d.url + "/metadata", TargetsURL: d.url + "/targets/",
		Store: d.store, Now: d.time, Emit: d.emit,
		Limits: trust.Limits{Header: 20 * time.Second, Idle: 20 * time.Second, File: time.Minute},
	}
	for _, f := range edit {
		f(&d.config)
	}
	d.restart()
	return d
}

func (d *device) time() time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.now
}

func (d *device) setTime(now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.now = now
}

func (d *device) emit(code string, _ ...slog.Attr) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.events = append(d.events, code)
}

func (d *device) emitted(code string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Contains(d.events, code)
}

// restart is a reboot: only the store remains.
func (d *device) restart() {
	d.t.Helper()
	c, err := trust.New(d.config)
	if err != nil {
		d.t.Fatal(err)
	}
	d.client = c
}

func (d *device) refresh() *trust.Trusted {
	d.t.Helper()
	tr, err := d.client.Refresh(d.t.Context())
	if err != nil {
		d.t.Fatalf("refresh: %v", err)
	}
	return tr
}

func (d *device) refused(code string) *update.Refusal {
	d.t.Helper()
	_, err := d.client.Refresh(d.t.Context())
	return wantRefusal(d.t, err, code)
}

func (d *device) state() trust.State {
	d.t.Helper()
	s, err := d.store.LoadTrust()
	if err != nil {
		d.t.Fatal(err)
	}
	return s
}

func wantRefusal(t *testing.T, err error, code string) *update.Refusal {
	t.Helper()
	var r *update.Refusal
	if !errors.As(err, &r) {
		t.Fatalf("got error %v, want refusal %s", err, code)
	}
	if r.Code != code {
		t.Fatalf("refused with %s (%v), want %s", r.Code, r, code)
	}
	if !errors.Is(err, update.ErrRefused) || errors.Is(err, update.ErrRetry) {
		t.Fatalf("refusal %v is in the wrong class", err)
	}
	return r
}

func wantRetry(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, update.ErrRetry) || errors.Is(err, update.ErrRefused) {
		t.Fatalf("got error %v, want one that is ErrRetry", err)
	}
}

func interop(c *trust.Config) { c.Interop = true }

func lookup(t *testing.T, tr *trust.Trusted, path string) (trust.TargetInfo, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	return tr.Target(ctx, path)
}
