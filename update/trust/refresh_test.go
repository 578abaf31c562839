// SPDX-License-Identifier: Apache-2.0

package trust_test

import (
	"errors"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/trust"
	"github.com/backstay/backstay/update/trust/trusttest"
)

const image = "firmware/" + trusttest.Product + "/1.1.0.img"

func TestRefresh(t *testing.T) {
	d := newDevice(t)
	tr := d.refresh()
	want := []string{"metadata/2.root.json", "metadata/timestamp.json", "metadata/1.snapshot.json", "metadata/1.targets.json"}
	if got := d.repo.Asked(); !slices.Equal(got, want) {
		t.Errorf("asked for %q, want %q", got, want)
	}
	if got := tr.Versions(); got != (trust.Versions{Root: 1, Timestamp: 1, Snapshot: 1, Targets: 1}) {
		t.Errorf("versions %+v", got)
	}
	if !tr.Issued().Equal(trusttest.Start) {
		t.Errorf("issued %v, want %v", tr.Issued(), trusttest.Start)
	}
	if d.store.Saves() != 1 {
		t.Errorf("saved %d times, want one transaction", d.store.Saves())
	}
	s := d.state()
	if string(s.Timestamp) != string(d.repo.File("metadata/timestamp.json")) || string(s.Targets["targets"]) != string(d.repo.File("metadata/1.targets.json")) {
		t.Error("what is stored is not what was served, byte for byte")
	}
	if f := s.Floors; f.Root != 1 || f.Timestamp != 1 || f.Snapshot != 1 || f.Roles["assign"] != 1 || f.Roles[trusttest.ProductRole] != 1 {
		t.Errorf("floors %+v", f)
	}
	if !d.emitted("update.verified") {
		t.Error("new metadata is not reported")
	}
}

func TestUnchangedTimestampEndsAtOnce(t *testing.T) {
	d := newDevice(t)
	d.repo.AddTarget(trusttest.ProductRole, image, []byte("image"), nil)
	d.repo.Publish()
	if tr := d.refresh(); tr.Unchanged() {
		t.Error("the first refresh says unchanged")
	}
	d.repo.Asked()
	tr := d.refresh()
	if want := []string{"metadata/2.root.json", "metadata/timestamp.json"}; !slices.Equal(d.repo.Asked(), want) || !tr.Unchanged() {
		t.Error("an unchanged timestamp does not end the check")
	}
	if d.store.Saves() != 1 {
		t.Errorf("saved %d times, an unchanged check writes nothing", d.store.Saves())
	}
	// It can still be asked, from what is stored.
	if _, err := lookup(t, tr, image); err != nil {
		t.Errorf("look up after an unchanged check: %v", err)
	}
	if want := []string{"metadata/2." + trusttest.ProductRole + ".json"}; !slices.Equal(d.repo.Asked(), want) {
		t.Error("a look-up after an unchanged check fetches more than the role it lacks")
	}
	// A new root or timestamp is noticed, and not asked for twice.
	d.repo.Publish()
	d.repo.Asked()
	if tr := d.refresh(); tr.Unchanged() || tr.Versions().Timestamp != 3 {
		t.Errorf("a new timestamp is not noticed: %+v", tr.Versions())
	}
	if got := d.repo.Asked(); len(got) != 4 {
		t.Errorf("asked for %q", got)
	}
}

func TestUnchangedTimestampStillExpires(t *testing.T) {
	d := newDevice(t)
	d.refresh()
	d.setTime(d.repo.Timestamp.Signed.Expires.Add(time.Second))
	d.refused("metadata-expired")
}

// An unchanged check must notice that the expiry of a role below came first.
func TestUnchangedTimestampExpiresWithTheRoleBelow(t *testing.T) {
	d := newDevice(t)
	d.repo.Roles[trusttest.ProductRole].Signed.Expires = trusttest.Start.Add(48 * time.Hour)
	d.repo.AddTarget(trusttest.ProductRole, image, []byte("image"), nil)
	d.repo.Publish()
	if _, err := lookup(t, d.refresh(), image); err != nil {
		t.Fatal(err)
	}
	d.setTime(trusttest.Start.Add(49 * time.Hour))
	tr := d.refresh()
	if tr.Unchanged() {
		t.Error("unchanged although a role that was used has expired")
	}
	_, err := lookup(t, tr, image)
	wantRefusal(t, err, "metadata-expired")
}

func TestStoredMetadataReplacedBehindAnUnchangedCheck(t *testing.T) {
	d := newDevice(t)
	d.refresh()
	tr := d.refresh()
	d.store.Edit(func(s *trust.State) { s.Targets["targets"] = []byte("{}") })
	_, err := lookup(t, tr, image)
	wantRetry(t, err)
	if d.refresh().Unchanged() {
		t.Error("the next refresh does not take the long way")
	}
}

// A refresh that fails half way keeps what it had verified by then.
func TestFailedRefreshKeepsWhatIsVerified(t *testing.T) {
	d := newDevice(t)
	d.refresh()
	d.repo.Rotate("snapshot")
	d.repo.Publish("root", "snapshot", "timestamp", "targets")
	d.repo.SetFile("metadata/2.snapshot.json", nil)
	_, err := d.client.Refresh(t.Context())
	wantRetry(t, err)
	s := d.state()
	if len(s.Roots) != 1 || s.Floors.Root != 2 || s.Floors.Timestamp != 2 {
		t.Errorf("after a failed refresh: %d roots, floors %+v", len(s.Roots), s.Floors)
	}
}

func TestStoreErrors(t *testing.T) {
	boom := errors.New("disk full")
	for _, applied := range []bool{false, true} {
		d := newDevice(t)
		d.store.Fail = func(op string) (bool, error) {
			if op == "save" {
				return applied, boom
			}
			return true, nil
		}
		if tr, err := d.client.Refresh(t.Context()); tr != nil || !errors.Is(err, boom) {
			t.Errorf("save fails (applied %v): got %v, %v; nothing may be trusted that is not durable", applied, tr, err)
		}
		d.store.Fail = nil
		d.restart()
		d.refresh()
	}
	d := newDevice(t)
	d.store.Fail = func(string) (bool, error) { return false, boom }
	if _, err := d.client.Refresh(t.Context()); !errors.Is(err, boom) {
		t.Errorf("load fails: %v", err)
	}
	if got := d.repo.Asked(); len(got) != 0 {
		t.Errorf("without floors, still asked for %q", got)
	}
}

func TestServerAnswers(t *testing.T) {
	for _, code := range []int{http.StatusForbidden, http.StatusNotFound} {
		d := newDevice(t)
		d.repo.Asked()
		d2 := deviceFor(t, d.repo, func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/metadata/2.root.json" {
					http.Error(w, "no", code)
					return
				}
				next.ServeHTTP(w, r)
			})
		})
		d2.refresh()
	}
	for _, path := range []string{"/metadata/2.root.json", "/metadata/timestamp.json", "/metadata/1.snapshot.json", "/metadata/1.targets.json"} {
		d := deviceFor(t, trusttest.New(t), func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == path {
					http.Error(w, "no", http.StatusInternalServerError)
					return
				}
				next.ServeHTTP(w, r)
			})
		})
		_, err := d.client.Refresh(t.Context())
		wantRetry(t, err)
	}
	// Not there is as good as not yet there, except for the next root.
	for _, path := range []string{"metadata/timestamp.json", "metadata/1.snapshot.json", "metadata/1.targets.json"} {
		d := newDevice(t)
		d.repo.SetFile(path, nil)
		_, err := d.client.Refresh(t.Context())
		wantRetry(t, err)
	}
}

func TestNewChecksItsConfig(t *testing.T) {
	good := newDevice(t).config
	for name, edit := range map[string]func(*trust.Config){
		"no store": func(c *trust.Config) { c.Store = nil },
		"no root":  func(c *trust.Config) { c.FactoryRoot = nil },
		"bad root": func(c *trust.Config) { c.FactoryRoot = c.FactoryRoot[:len(c.FactoryRoot)-2] },
		"unsigned root": func(c *trust.Config) {
			c.FactoryRoot = trusttest.SignMap(t, trusttest.Signed(t, c.FactoryRoot), trusttest.NewKey(t))
		},
		"file URL": func(c *trust.Config) { c.MetadataURL = "file:///etc/repo" },
		"no URL":   func(c *trust.Config) { c.TargetsURL = "" },
		"query":    func(c *trust.Config) { c.TargetsURL += "?a=b" },
		"user":     func(c *trust.Config) { c.MetadataURL = "https://a:b@localhost/" },
	} {
		c := good
		edit(&c)
		if _, err := trust.New(c); !errors.Is(err, update.ErrSetup) {
			t.Errorf("%s: got %v, want one that is ErrSetup", name, err)
		}
	}
}
