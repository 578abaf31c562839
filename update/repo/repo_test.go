// SPDX-License-Identifier: Apache-2.0

package repo_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/repo"
	"github.com/backstay/backstay/update/trust"
)

// fleet is a repository with a clock that the test moves.
type fleet struct {
	*repo.Repo
	t   *testing.T
	dir string
	now time.Time
}

func (f *fleet) options() repo.Options {
	return repo.Options{Now: func() time.Time { return f.now }, Wait: 100 * time.Millisecond}
}

// newFleet creates a repository with one product and all keys on this machine.
func newFleet(t *testing.T, setup repo.Setup) *fleet {
	t.Helper()
	t.Parallel() // most of the time is spent in fsync
	f := &fleet{t: t, dir: filepath.Join(t.TempDir(), "repo"), now: time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)}
	r, err := repo.Create(f.dir, f.options(), setup)
	if err != nil {
		t.Fatal(err)
	}
	f.Repo = r
	t.Cleanup(func() { f.Repo.Close() })
	return f
}

func newProduct(t *testing.T) *fleet {
	t.Helper()
	f := newFleet(t, repo.Setup{})
	must(t, f.AddProduct("acme-cam", repo.RoleKeys{}))
	f.signAll()
	return f
}

func (f *fleet) signAll() {
	f.t.Helper()
	list, err := f.SignAll()
	if err != nil {
		f.t.Fatal(err)
	}
	for _, s := range list {
		if !s.Accepted {
			f.t.Fatalf("%s %d: %s", s.Role, s.Version, s.Waiting)
		}
	}
}

func (f *fleet) add(n repo.NewRelease, image string) (repo.Release, error) {
	if n.Product == "" {
		n.Product = "acme-cam"
	}
	if n.Compatible == nil {
		n.Compatible = []string{"acme-cam-v2"}
	}
	return f.Add(context.Background(), n, strings.NewReader(image))
}

// release adds and signs a release.
func (f *fleet) release(n repo.NewRelease, image string) repo.Release {
	f.t.Helper()
	r, err := f.add(n, image)
	if err != nil {
		f.t.Fatal(err)
	}
	f.signAll()
	return r
}

func (f *fleet) start(version string) {
	f.t.Helper()
	if _, err := f.StartRollout(repo.Rollout{Product: "acme-cam", Version: version}); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fleet) publish() repo.Published {
	f.t.Helper()
	p, err := f.Publish(context.Background())
	if err != nil {
		f.t.Fatal(err)
	}
	return p
}

type memory struct{ state trust.State }

func (m *memory) LoadTrust() (trust.State, error) { return m.state, nil }
func (m *memory) SaveTrust(s trust.State) error   { m.state = s; return nil }

// device returns what a device over HTTP makes of a directory.
func (f *fleet) device(dir string, store trust.Store, dev update.Device) (update.Release, []byte, error) {
	f.t.Helper()
	srv := httptest.NewServer(http.FileServer(http.Dir(dir)))
	defer srv.Close()
	factory, err := f.FactoryRoot()
	must(f.t, err)
	c, err := trust.New(trust.Config{FactoryRoot: factory, MetadataURL: srv.URL + "/metadata", TargetsURL: srv.URL + "/targets",
		HTTP: srv.Client(), Store: store, Now: func() time.Time { return f.now }})
	must(f.t, err)
	ctx := context.Background()
	trusted, err := c.Refresh(ctx)
	if err != nil {
		return update.Release{}, nil, err
	}
	info, err := trusted.Target(ctx, update.AssignmentPath(dev.Product))
	if err != nil {
		return update.Release{}, nil, err
	}
	b, err := c.Fetch(ctx, info, update.MaxAssignment)
	must(f.t, err)
	a, err := update.ParseAssignment(b)
	must(f.t, err)
	e, err := a.For(dev, f.now)
	if err != nil {
		return update.Release{}, nil, err
	}
	image, err := trusted.Target(ctx, e.Path)
	if err != nil {
		return update.Release{}, nil, err
	}
	custom, err := update.ParseCustom(image.Custom)
	must(f.t, err)
	r, err := update.Choose(dev, update.Genuine{Path: image.Path, Length: image.Length, SHA256: image.SHA256, Custom: custom}, e)
	if err != nil {
		return r, nil, err
	}
	body, err := c.Open(ctx, image, 0)
	must(f.t, err)
	defer body.Close()
	bytes, err := io.ReadAll(body)
	return r, bytes, err
}

func cam(version string) update.Device {
	return update.Device{ID: "d1", Product: "acme-cam", Compatible: "acme-cam-v2", Version: version, Agent: "1.0.0"}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantCode(t *testing.T, err error, code string) {
	t.Helper()
	r, ok := errors.AsType[*update.Refusal](err)
	if !ok || !errors.Is(err, update.ErrRefused) || r.Code != code {
		t.Fatalf("got %v (%+v), want a refusal with code %s", err, r, code)
	}
}

func TestDeviceInstallsWhatIsPublished(t *testing.T) {
	f := newProduct(t)
	f.release(repo.NewRelease{Version: "1.0.0", Class: "security", MinAgent: "0.1.0"}, "image one")
	f.start("1.0.0")
	f.publish()
	r, b, err := f.device(f.PublishDir(), &memory{}, cam(""))
	must(t, err)
	if string(b) != "image one" || r.Version != "1.0.0" || r.Counter != 1 || r.Class != "security" {
		t.Errorf("got %+v with %q", r, b)
	}
	// The next release reaches a device that has seen the first.
	store := &memory{}
	_, _, err = f.device(f.PublishDir(), store, cam(""))
	must(t, err)
	f.now = f.now.Add(time.Hour)
	f.release(repo.NewRelease{Version: "1.1.0"}, "image two")
	f.start("1.1.0")
	f.publish()
	r, b, err = f.device(f.PublishDir(), store, cam("1.0.0"))
	must(t, err)
	if string(b) != "image two" || r.Counter != 2 {
		t.Errorf("got %+v with %q", r, b)
	}
	if _, _, err := f.device(f.PublishDir(), store, cam("1.1.0")); !errors.Is(err, update.ErrNothing) {
		t.Errorf("up to date: %v", err)
	}
}

func TestPublishIsIdempotentAndRefreshes(t *testing.T) {
	f := newProduct(t)
	first := f.publish()
	if !first.Changed || first.Timestamp != 1 || first.Snapshot != 1 || first.Root != 1 || first.Targets != 2 {
		t.Fatalf("first: %+v", first)
	}
	if want := f.now.Add(24 * time.Hour); !first.Next.Equal(want) {
		t.Errorf("next refresh at %s, want %s", first.Next, want)
	}
	f.now = first.Next
	if p := f.publish(); p.Changed || p.Timestamp != 1 {
		t.Errorf("nothing is due: %+v", p)
	}
	f.now = f.now.Add(time.Second)
	if p := f.publish(); !p.Changed || p.Timestamp != 2 || p.Snapshot != 1 {
		t.Errorf("the timestamp is due: %+v", p)
	}
	f.now = f.now.Add(11 * 24 * time.Hour) // assign is due too, and so the snapshot
	p := f.publish()
	if !p.Changed || p.Timestamp != 3 || p.Snapshot != 2 {
		t.Errorf("assign and snapshot are due: %+v", p)
	}
	_, _, err := f.device(f.PublishDir(), &memory{}, cam(""))
	wantCode(t, err, "unknown-target") // nothing rolled out, and nothing else wrong
}

// With a clock that went back, what is signed would expire too early, or look
// older than what devices have.
func TestPublishRefusesAClockThatWentBack(t *testing.T) {
	f := newProduct(t)
	f.now = f.now.Add(time.Hour)
	f.publish()
	f.now = f.now.Add(-time.Hour)
	_, err := f.Publish(context.Background())
	wantCode(t, err, "clock")
}

func TestPublishRefusesExpired(t *testing.T) {
	f := newProduct(t)
	f.publish()
	f.now = f.now.Add(366 * 24 * time.Hour)
	_, err := f.Publish(context.Background())
	wantCode(t, err, "metadata-expired")
	// The way out: sign again.
	if _, err := f.Rotate(repo.KeyChange{Role: "root"}, repo.KeyChange{Role: "targets"}, repo.KeyChange{Role: "product-acme-cam"}, repo.KeyChange{Role: "assign"}); err != nil {
		t.Fatal(err)
	}
	f.signAll()
	if p := f.publish(); p.Root != 2 {
		t.Errorf("got %+v", p)
	}
}

// A device comes first: what it would refuse is not published, and what was
// published stays as it is.
func TestPublishRefusesWhatADeviceRefuses(t *testing.T) {
	f := newProduct(t)
	f.release(repo.NewRelease{Version: "1.0.0"}, "image one")
	f.start("1.0.0")
	f.publish()
	before := tree(t, f.PublishDir())
	must(t, f.EditAssignment("acme-cam", func(a *update.Assignment) { a.Entries[0].Counter++ }))
	_, err := f.Publish(context.Background())
	wantCode(t, err, "simulation")
	if !strings.Contains(err.Error(), "counter") {
		t.Errorf("the reason is lost: %v", err)
	}
	if after := tree(t, f.PublishDir()); !slices.Equal(before, after) {
		t.Errorf("the published tree has changed:\n%s\n%s", before, after)
	}
	f.start("1.0.0")
	f.publish()
}

// tree lists files and their content.
func tree(t *testing.T, dir string) []string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(dir, func(name string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(name)
		rel, _ := filepath.Rel(dir, name)
		list = append(list, fmt.Sprintf("%s %x", rel, b))
		return err
	})
	must(t, err)
	return list
}

func TestWriteOrder(t *testing.T) {
	f := newProduct(t)
	f.release(repo.NewRelease{Version: "1.0.0"}, "image one")
	f.start("1.0.0")
	groups, err := f.WriteOrder()
	must(t, err)
	kinds := []string{"targets/", "metadata/", ".targets.json", ".root.json", ".snapshot.json", "metadata/timestamp.json"}
	for i, g := range groups {
		if len(g) == 0 {
			t.Errorf("group %d is empty", i)
		}
		for _, name := range g {
			if !strings.Contains(name, kinds[i]) {
				t.Errorf("%s is in group %d", name, i)
			}
		}
	}
}

func TestLayout(t *testing.T) {
	f := newProduct(t)
	r := f.release(repo.NewRelease{Version: "1.0.0"}, "image one")
	f.start("1.0.0")
	f.publish()
	for _, name := range []string{
		"metadata/1.root.json", "metadata/2.targets.json", "metadata/2.product-acme-cam.json", "metadata/2.assign.json",
		"metadata/1.snapshot.json", "metadata/timestamp.json", "targets/firmware/acme-cam/" + r.SHA256 + ".1.0.0.img",
	} {
		if _, err := os.Stat(filepath.Join(f.PublishDir(), name)); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"timestamp.json", "1.snapshot.json", "1.root.json", "2.targets.json"} {
		b, err := os.ReadFile(filepath.Join(f.PublishDir(), "metadata", name))
		must(t, err)
		if !bytes.Contains(b, []byte(`"x-issued": "2026-11-25T12:00:00Z"`)) {
			t.Errorf("%s does not say when it was issued", name)
		}
	}
}

func TestOneProcessAtATime(t *testing.T) {
	f := newProduct(t)
	if _, err := repo.Open(f.dir, f.options()); !errors.Is(err, update.ErrRetry) {
		t.Fatalf("second open: %v", err)
	}
	f.Close()
	r, err := repo.Open(f.dir, f.options())
	must(t, err)
	f.Repo = r
	if _, err := repo.Open(t.TempDir(), f.options()); !errors.Is(err, update.ErrSetup) {
		t.Errorf("no repository: %v", err)
	}
	_, err = repo.Create(f.dir, f.options(), repo.Setup{})
	wantCode(t, err, "exists")
}

// A restored backup must not go out: devices have seen later versions, and the
// same number must not come out twice.
func TestOldCopyIsNotPublished(t *testing.T) {
	f := newProduct(t)
	f.release(repo.NewRelease{Version: "1.0.0"}, "image one")
	f.publish()
	backup := filepath.Join(t.TempDir(), "backup")
	must(t, os.CopyFS(backup, os.DirFS(f.dir)))
	f.now = f.now.Add(time.Hour)
	f.start("1.0.0")
	f.publish()

	must(t, os.RemoveAll(filepath.Join(backup, "public")))
	must(t, os.CopyFS(filepath.Join(backup, "public"), os.DirFS(f.PublishDir())))
	must(t, filepath.WalkDir(filepath.Join(backup, "keys"), func(name string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			err = os.Chmod(name, 0o600)
		}
		return err
	}))
	old, err := repo.Open(backup, f.options())
	must(t, err)
	defer old.Close()
	_, err = old.Publish(context.Background())
	wantCode(t, err, "behind")
	f.now = f.now.Add(time.Hour)
	if _, err := old.StartRollout(repo.Rollout{Product: "acme-cam", Version: "1.0.0", To: 5}); err != nil {
		t.Fatal(err)
	}
	_, err = old.Publish(context.Background())
	wantCode(t, err, "version-reused")
}

func TestVerify(t *testing.T) {
	f := newProduct(t)
	r := f.release(repo.NewRelease{Version: "1.0.0"}, "image one")
	f.start("1.0.0")
	f.publish()
	ctx := context.Background()
	rep, err := f.Verify(ctx)
	must(t, err)
	if len(rep.Problems) > 0 || rep.Images != 1 || rep.Documents < 4 || rep.Files < 6 {
		t.Fatalf("got %+v", rep)
	}
	breakages := []struct{ name, file, want string }{
		{"stored image", "images/" + r.SHA256, "not those that were signed"},
		{"published image", "public/targets/firmware/acme-cam/" + r.SHA256 + ".1.0.0.img", "refuse an image"},
		{"published document", "public/metadata/1.snapshot.json", "would refuse what is published"},
		{"root", "metadata/1.root.json", "root"},
	}
	for _, b := range breakages {
		t.Run(b.name, func(t *testing.T) {
			name := filepath.Join(f.dir, b.file)
			good, err := os.ReadFile(name)
			must(t, err)
			bad := bytes.Replace(good, []byte("1"), []byte("2"), 1)
			if bytes.Equal(bad, good) {
				bad = bytes.Replace(good, []byte("one"), []byte("two"), 1)
			}
			must(t, os.WriteFile(name, bad, 0o644))
			defer os.WriteFile(name, good, 0o644)
			rep, err := f.Verify(ctx)
			if err != nil {
				if !strings.Contains(err.Error(), b.want) {
					t.Errorf("got error %v", err)
				}
				return
			}
			if !strings.Contains(strings.Join(rep.Problems, "\n"), b.want) {
				t.Errorf("got %q, want %q", rep.Problems, b.want)
			}
		})
	}
	// A damaged image is not copied out either.
	must(t, os.RemoveAll(f.PublishDir()))
	must(t, os.WriteFile(filepath.Join(f.dir, "images", r.SHA256), []byte("image two"), 0o644))
	_, err = f.Publish(ctx)
	wantCode(t, err, "bad-hash")
}

func TestStatus(t *testing.T) {
	f := newProduct(t)
	f.release(repo.NewRelease{Version: "1.0.0", Floor: 1}, "image one")
	f.start("1.0.0")
	f.publish()
	s, err := f.Status()
	must(t, err)
	if len(s.Problems) != 0 || len(s.Roles) != 6 || s.Roles[0].Role != "timestamp" || s.Published == nil || s.Published.Timestamp != 1 {
		t.Errorf("got %+v", s)
	}
	if p := s.Products[0]; p.Floor != 1 || p.Counter != 1 || len(p.Releases) != 1 || len(p.Rollouts) != 1 {
		t.Errorf("got %+v", p)
	}
	for _, r := range s.Roles {
		if r.State != "ok" || r.Keys != 1 || r.Here != 1 || r.Size == 0 || r.Limit == 0 {
			t.Errorf("got %+v", r)
		}
	}
	f.now = f.now.Add(300 * 24 * time.Hour)
	s, err = f.Status()
	must(t, err)
	if len(s.Problems) != 6 {
		t.Errorf("after 300 days: %q", s.Problems)
	}
}
