// SPDX-License-Identifier: Apache-2.0

package repo_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/repo"
)

func TestAddRefuses(t *testing.T) {
	f := newProduct(t)
	f.release(repo.NewRelease{Version: "1.0.0", Counter: 5}, "image one")
	f.release(repo.NewRelease{Version: "1.1.0", Counter: 7, Floor: 6}, "image two")
	tests := []struct {
		name, code string
		n          repo.NewRelease
		image      string
	}{
		{"version with another image", "version-reused", repo.NewRelease{Version: "1.1.0", Counter: 7}, "image three"},
		{"same again", "exists", repo.NewRelease{Version: "1.1.0", Floor: 6}, "image two"},
		{"floor goes down", "floor-lowered", repo.NewRelease{Version: "1.2.0", Floor: 5}, "image three"},
		{"counter below the floor", "below-floor", repo.NewRelease{Version: "1.2.0", Counter: 5, Reissue: true}, "image three"},
		{"counter used", "counter-reused", repo.NewRelease{Version: "1.2.0", Counter: 7}, "image three"},
		{"floor above counter", "malformed-release", repo.NewRelease{Version: "1.2.0", Floor: 9}, "image three"},
		{"unknown class", "bad-class", repo.NewRelease{Version: "1.2.0", Class: "urgent"}, "image three"},
		{"unknown critical", "unknown-critical", repo.NewRelease{Version: "1.2.0", Critical: []string{"encrypted"}}, "image three"},
		{"bad version", "malformed-release", repo.NewRelease{Version: "1/2"}, "image three"},
		{"no hardware", "malformed-release", repo.NewRelease{Version: "1.2.0", Compatible: []string{}}, "image three"},
		{"unknown product", "unknown-product", repo.NewRelease{Product: "acme-hub", Version: "1.0.0"}, "image three"},
		{"empty image", "empty-image", repo.NewRelease{Version: "1.2.0"}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := f.add(tt.n, tt.image)
			wantCode(t, err, tt.code)
		})
	}
	// Nothing of a refused image stays, and nothing is staged.
	files, err := os.ReadDir(filepath.Join(f.dir, "images"))
	must(t, err)
	if len(files) != 2 {
		t.Errorf("%d files in images/, want 2", len(files))
	}
	if p, err := f.Proposals(); err != nil || len(p) != 0 {
		t.Errorf("staged: %+v, %v", p, err)
	}
}

// A release version may go down by newly signed metadata; the floor may not.
func TestReissueOfALowerVersion(t *testing.T) {
	f := newProduct(t)
	f.release(repo.NewRelease{Version: "1.0.0"}, "image one")
	f.release(repo.NewRelease{Version: "1.1.0"}, "image two")
	f.start("1.1.0")
	_, err := f.StartRollout(repo.Rollout{Product: "acme-cam", Version: "1.0.0"})
	wantCode(t, err, "older")
	if _, err := f.StartRollout(repo.Rollout{Product: "acme-cam", Version: "1.0.0", Downgrade: true}); err != nil {
		t.Fatal(err)
	}
	f.publish()
	r, _, err := f.device(f.PublishDir(), &memory{}, cam("1.1.0"))
	must(t, err)
	if r.Version != "1.0.0" {
		t.Errorf("got %s", r.Version)
	}
	dev := cam("1.1.0")
	dev.Floor = 2
	_, _, err = f.device(f.PublishDir(), &memory{}, dev)
	wantCode(t, err, "below-floor")

	// With a floor above it the repository does not offer it either.
	f.release(repo.NewRelease{Version: "1.2.0", Floor: 2}, "image three")
	_, err = f.StartRollout(repo.Rollout{Product: "acme-cam", Version: "1.0.0", Downgrade: true})
	wantCode(t, err, "below-floor")
	// An image that was never released, with a lower version and a counter of
	// its own, is a release like any other.
	n, err := f.add(repo.NewRelease{Version: "1.0.1"}, "image four")
	must(t, err)
	if n.Counter != 4 || n.Floor != 2 {
		t.Errorf("got %+v", n)
	}
}

func TestWithdraw(t *testing.T) {
	f := newProduct(t)
	f.release(repo.NewRelease{Version: "1.0.0"}, "image one")
	f.release(repo.NewRelease{Version: "1.1.0"}, "image two")
	f.start("1.0.0")
	f.start("1.1.0")
	f.publish()
	wantCode(t, f.Withdraw("acme-cam", "2.0.0"), "unknown-release")
	must(t, f.Withdraw("acme-cam", "1.1.0"))
	p, err := f.Proposal("product-acme-cam")
	must(t, err)
	if !slices.Contains(p.Changes, "withdraw firmware/acme-cam/1.1.0.img") {
		t.Errorf("got %q", p.Changes)
	}
	f.signAll()
	f.publish()
	r, _, err := f.device(f.PublishDir(), &memory{}, cam(""))
	must(t, err)
	if r.Version != "1.0.0" {
		t.Errorf("got %s", r.Version)
	}
	if _, _, err := f.device(f.PublishDir(), &memory{}, cam("1.1.0")); !errors.Is(err, update.ErrNothing) {
		t.Errorf("a device that runs it: %v", err)
	}
	_, err = f.add(repo.NewRelease{Version: "1.1.0"}, "image three")
	wantCode(t, err, "version-reused")
	if _, err = f.add(repo.NewRelease{Version: "1.1.0"}, "image two"); err != nil {
		t.Errorf("the same image again: %v", err)
	}
}

func TestRollout(t *testing.T) {
	f := newProduct(t)
	f.release(repo.NewRelease{Version: "1.0.0"}, "image one")
	f.release(repo.NewRelease{Version: "1.1.0"}, "image two")
	get := func(running string) string {
		t.Helper()
		f.publish()
		r, _, err := f.device(f.PublishDir(), &memory{}, cam(running))
		if errors.Is(err, update.ErrNothing) {
			return ""
		}
		must(t, err)
		return r.Version
	}
	want := func(what, running, version string) {
		t.Helper()
		if got := get(running); got != version {
			t.Errorf("%s: a device with %q gets %q, want %q", what, running, got, version)
		}
	}
	bucket := update.Cohort("d1", update.ImagePath("acme-cam", "1.1.0"))
	in, out := bucket/100+1, bucket/100
	f.start("1.0.0")
	want("start", "", "1.0.0")
	start := func(ro repo.Rollout) update.Assignment {
		t.Helper()
		ro.Product, ro.Version = "acme-cam", "1.1.0"
		a, err := f.StartRollout(ro)
		must(t, err)
		return a
	}
	start(repo.Rollout{To: out})
	want("outside the cohort", "1.0.0", "")
	a := start(repo.Rollout{To: in})
	want("inside the cohort", "1.0.0", "1.1.0")
	if len(a.Entries) != 2 || a.Entries[0].Path != update.ImagePath("acme-cam", "1.1.0") || a.Serial != 3 || !a.Issued.Equal(f.now) {
		t.Errorf("got %+v", a)
	}
	start(repo.Rollout{Devices: []string{"d2"}})
	want("others are named", "1.0.0", "")
	start(repo.Rollout{NotBefore: f.now.Add(time.Hour)})
	want("not yet", "1.0.0", "")
	start(repo.Rollout{})
	_, err := f.PauseRollout("acme-cam", "1.1.0")
	must(t, err)
	want("paused", "1.0.0", "")
	want("paused, new device", "", "")
	start(repo.Rollout{To: 50})
	want("widening does not resume", "1.0.0", "")
	_, err = f.ResumeRollout("acme-cam", "1.1.0")
	must(t, err)
	start(repo.Rollout{})
	want("resumed", "1.0.0", "1.1.0")
	_, err = f.StopRollout("acme-cam", "1.1.0")
	must(t, err)
	want("stopped", "1.1.0", "")
	want("stopped, new device", "", "1.0.0")

	for name, err := range map[string]error{
		"no-rollout":           second(f.PauseRollout("acme-cam", "1.1.0")),
		"unknown-release":      second(f.StartRollout(repo.Rollout{Product: "acme-cam", Version: "9"})),
		"unknown-product":      second(f.StopRollout("acme-hub", "1.1.0")),
		"malformed-assignment": second(f.StartRollout(repo.Rollout{Product: "acme-cam", Version: "1.1.0", From: 50, To: 50})),
	} {
		wantCode(t, err, name)
	}
}

func second[A any](_ A, err error) error { return err }

// A release that people have staged but not signed cannot be rolled out.
func TestRolloutNeedsASignedRelease(t *testing.T) {
	f := newProduct(t)
	if _, err := f.add(repo.NewRelease{Version: "1.0.0"}, "image one"); err != nil {
		t.Fatal(err)
	}
	_, err := f.StartRollout(repo.Rollout{Product: "acme-cam", Version: "1.0.0"})
	wantCode(t, err, "unknown-release")
}

func TestAddIsCancelled(t *testing.T) {
	f := newProduct(t)
	ctx, cancel := context.WithCancel(context.Background())
	image := io.MultiReader(strings.NewReader("some"), readerFunc(func(p []byte) (int, error) { cancel(); return copy(p, "more"), nil }))
	_, err := f.Add(ctx, repo.NewRelease{Product: "acme-cam", Version: "1.0.0", Compatible: []string{"x"}}, image)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	files, err := os.ReadDir(filepath.Join(f.dir, "images"))
	must(t, err)
	if len(files) != 0 {
		t.Errorf("%d files stay", len(files))
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestChangesInWords(t *testing.T) {
	f := newProduct(t)
	if _, err := f.add(repo.NewRelease{Version: "1.0.0", Class: "security", Floor: 1}, "image one"); err != nil {
		t.Fatal(err)
	}
	p, err := f.Proposal("product-acme-cam")
	must(t, err)
	want := []string{
		"add firmware/acme-cam/1.0.0.img: 9 bytes, sha256 " + repo.Sum("image one")[:12] + ", counter 1, floor 1, security, for acme-cam-v2",
		"valid until 2027-11-25T12:00:00Z, was 2027-11-25T12:00:00Z",
	}
	if !slices.Equal(p.Changes, want) {
		t.Errorf("got  %q\nwant %q", p.Changes, want)
	}
	f.signAll()
	must(t, f.AddProduct("acme-hub", repo.RoleKeys{Keys: []string{"file:keys/a.pem", "file:keys/b.pem", "file:keys/c.pem"}, Threshold: 2}))
	p, err = f.Proposal("targets")
	must(t, err)
	text := strings.Join(p.Changes, "\n")
	for _, want := range []string{"new role product-acme-hub", "2 of 3 keys must sign", "1 key may be lost", "may sign firmware/acme-hub/*"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	f.signAll()
	if _, err := f.Rotate(repo.KeyChange{Role: "targets"}); err != nil {
		t.Fatal(err)
	}
	p, err = f.Proposal("targets")
	must(t, err)
	if p.Changes[0] != "nothing but a new signature" {
		t.Errorf("got %q", p.Changes)
	}
}

func TestActionsLog(t *testing.T) {
	f := newProduct(t)
	f.publish()
	b, err := os.ReadFile(filepath.Join(f.dir, "actions.log"))
	must(t, err)
	for _, want := range []string{`"action":"created"`, `"action":"staged","role":"root","version":1`, `"action":"signed","role":"root"`,
		`"action":"accepted","role":"targets","version":2`, `"action":"published","role":"timestamp","version":1`} {
		if !strings.Contains(string(b), want) {
			t.Errorf("actions.log lacks %s", want)
		}
	}
}
