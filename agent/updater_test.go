// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/backstay/backstay/agent/config"
	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/trust"
	"github.com/backstay/backstay/update/trust/trusttest"
	"github.com/backstay/backstay/update/updatetest"
)

func mkfifo(path string) error { return syscall.Mkfifo(path, 0o600) }

type noNetwork struct{ asked atomic.Int32 }

func (n *noNetwork) RoundTrip(*http.Request) (*http.Response, error) {
	n.asked.Add(1)
	return nil, errors.New("no network")
}

// stickDevice is an updater whose device has no network, and a directory with a release for it.
func stickDevice(t *testing.T, c config.Update) (u *updater, dir string, net *noNetwork) {
	t.Helper()
	repo := trusttest.New(t)
	image := updatetest.Image("3.0", 5000)
	path := update.ImagePath(trusttest.Product, "3.0")
	repo.AddTarget(trusttest.ProductRole, path, image, map[string]any{"backstay": 1, "product": trusttest.Product, "compatible": []string{"v2"},
		"version": "3.0", "counter": 3, "floor": 1, "kind": "full", "class": "feature"})
	raw, err := json.Marshal(update.Assignment{Product: trusttest.Product, Serial: 1, Issued: repo.Now, Entries: []update.Assigned{
		{Path: path, SHA256: sha256.Sum256(image), Length: int64(len(image)), Counter: 3, To: 100}}})
	if err != nil {
		t.Fatal(err)
	}
	repo.AddTarget("assign", update.AssignmentPath(trusttest.Product), raw, nil)
	repo.Publish()
	dir = t.TempDir()
	for name, b := range repo.Copy() {
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755), os.WriteFile(filepath.Join(dir, name), b, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	net = &noNetwork{}
	now := func() time.Time { return trusttest.Start.Add(time.Hour) }
	client, err := trust.New(trust.Config{FactoryRoot: repo.Factory, MetadataURL: "https://fw.invalid/metadata", TargetsURL: "https://fw.invalid/targets",
		HTTP: &http.Client{Transport: net}, Store: &trusttest.Store{}, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	u = &updater{client: client, poll: time.Hour, logger: slog.New(slog.DiscardHandler), wake: make(chan struct{}, 1), looked: func(error) {}, dirs: c.LocalDirs}
	u.source = trust.NewSource(client, func(context.Context) (update.Device, error) {
		return update.Device{ID: "unit1", Product: trusttest.Product, Compatible: "v2", Version: "1.0", Agent: "1", Floor: 1}, nil
	})
	if c.Automatic == nil {
		c.Automatic = automatic()
	}
	policy, err := newPolicy(c, func() bool { return u.directory() != nil })
	if err != nil {
		t.Fatal(err)
	}
	u.machine = &update.Machine{Source: u.source, Slots: updatetest.NewSlots("A", 8000, "A", "B"),
		Boot:  &updatetest.Boot{Order: []update.SlotID{"A", "B"}, Left: map[update.SlotID]int{"A": 3, "B": 3}},
		Floor: &updatetest.Floor{Value: 1}, Journal: &updatetest.Journal{}, Policy: policy, Now: now,
		Health: func(context.Context) error { return nil }, Reboot: func(context.Context, string) error { return nil }}
	return u, dir, net
}

// A device that was never enrolled and has no line is updated from a stick, by a command.
func TestInstallFromAStick(t *testing.T) {
	u, dir, net := stickDevice(t, config.Update{Line: "offline", Windows: []string{"02:00-03:00"}, WindowSteps: []string{"install"}})
	a := &agent{updater: u, recorder: &recorder{logger: u.logger, clock: NewClock(trusttest.Start)}}
	done := make(chan error, 1)
	go func() { done <- u.run(t.Context(), newGate()) }()
	if err := a.tryInstall(t, dir); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-done:
		if !errors.Is(err, update.ErrReboot) {
			t.Fatal(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatalf("nothing is installed: %+v", u.machine.Status())
	}
	if s := u.machine.Status(); s.State != update.Rebooting || s.Boot.Primary != "B" || net.asked.Load() > 0 {
		t.Errorf("status %+v, %d requests", s, net.asked.Load())
	}
	if u.directory() != nil {
		t.Error("the stick is in use after the run")
	}
}

func (a *agent) tryInstall(t *testing.T, dir string) error {
	d, err := trust.OpenDirectory(dir)
	if err != nil {
		return err
	}
	a.updater.plug(d)
	if _, err := a.updateCheck(t.Context()); err != nil {
		return err
	}
	if _, err := a.updater.machine.Answer(update.AnswerNow); err != nil {
		return err
	}
	a.updater.demand()
	return nil
}

// A directory of the configuration is picked up when a repository appears in it, once, and obeys the policy.
func TestDirectoryAppears(t *testing.T) {
	place := filepath.Join(t.TempDir(), "stick")
	u, dir, net := stickDevice(t, config.Update{Line: "offline", LocalDirs: []string{place}, Automatic: []string{"check", "download", "install"}})
	synctest.Test(t, func(t *testing.T) {
		u.wake = make(chan struct{}, 1) // of this bubble, or its time stands still
		ctx, stop := context.WithCancel(t.Context())
		defer stop() // a failed test must end, too
		done := make(chan error, 1)
		go func() { done <- u.run(ctx, newGate()) }()
		time.Sleep(5 * time.Minute)
		if u.machine.Brief().State != update.Idle {
			t.Fatal("something began")
		}
		if err := os.Symlink(dir, place); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		s := u.machine.Brief()
		if s.State != update.Rebooting || s.Waiting == nil || s.Waiting.Step != update.StepReboot || u.directory() != nil || net.asked.Load() > 0 {
			t.Errorf("status %+v", s)
		}
		if _, err := u.machine.Answer(update.AnswerApprove); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute) // what waits is asked about by itself
		if err := <-done; !errors.Is(err, update.ErrReboot) {
			t.Error(err)
		}
		stop()
	})
}

// A stick that is broken is let go of after a few tries.
func TestBrokenStick(t *testing.T) {
	u, dir, _ := stickDevice(t, config.Update{Line: "free"})
	d, err := trust.OpenDirectory(dir)
	if err != nil {
		t.Fatal(err)
	}
	u.plug(d)
	for range maxLocalTries {
		if u.directory() == nil {
			t.Fatal("let go too early")
		}
		u.putAway(update.ErrRetry)
	}
	if u.directory() != nil {
		t.Error("not let go of")
	}
	for _, err := range []error{nil, update.ErrNothing, &update.Refusal{Code: "metadata-rollback"},
		&update.Waiting{Decision: update.Decision{Step: update.StepInstall}}} {
		d, oerr := trust.OpenDirectory(dir)
		if oerr != nil {
			t.Fatal(oerr)
		}
		u.plug(d)
		if u.putAway(err); u.directory() != nil {
			t.Errorf("after %v the stick is in use", err)
		}
	}
}

func TestProgressFile(t *testing.T) {
	dir := t.TempDir()
	s := update.Status{State: update.Downloading, Slot: "B", Offset: 10, Release: &update.Release{Version: "3.0", Length: 100, Notes: "Fixes the lock."}}
	p := &progress{path: filepath.Join(dir, "update.json"), brief: func() update.Status { return s }, now: func() time.Time { return trusttest.Start },
		logger: slog.New(slog.DiscardHandler), kick: make(chan struct{}, 1)}
	read := func() (v Progress) {
		b, err := os.ReadFile(p.path)
		if err == nil {
			err = json.Unmarshal(b, &v)
		}
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	synctest.Test(t, func(t *testing.T) {
		p.kick = make(chan struct{}, 1)
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		done := make(chan struct{})
		go func() { p.run(ctx); close(done) }()
		synctest.Wait()
		if v := read(); v.State != "downloading" || v.Bytes != 10 || v.Length != 100 || v.Version != "3.0" || v.Notes == "" || v.Schema == "" || v.Time.IsZero() {
			t.Errorf("progress %+v", v)
		}
		writes, last := 0, int64(10)
		for i := range 100 { // ten seconds of changes
			s.Offset = int64(11 + i)
			kick(p.kick)
			time.Sleep(100 * time.Millisecond)
			synctest.Wait()
			if v := read(); v.Bytes != last {
				writes, last = writes+1, v.Bytes
			}
		}
		if writes < 9 || writes > 11 {
			t.Errorf("written %d times in ten seconds", writes)
		}
		s.State, s.Waiting = update.Arming, &update.Decision{Step: update.StepInstall, Reasons: []update.Reason{{Code: "window"}}}
		stop()
		<-done
		if v := read(); v.State != "arming" || v.Waiting == nil || v.Waiting.Reasons[0].Code != "window" {
			t.Errorf("at the end %+v", v)
		}
		if _, err := os.Stat(p.path + ".new"); err == nil {
			t.Error("a temporary file is left")
		}
	})
}
