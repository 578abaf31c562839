// SPDX-License-Identifier: Apache-2.0

package trust_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/trust"
	"github.com/backstay/backstay/update/trust/trusttest"
)

// fleet is a repository with releases and an assignment, and one device of it.
type fleet struct {
	*device
	source *trust.Source
	self   update.Device
	serial uint64
}

func newFleet(t *testing.T) *fleet {
	t.Helper()
	f := &fleet{device: newDevice(t), self: update.Device{ID: "unit1", Product: trusttest.Product, Compatible: "acme-cam-v2", Version: "1.0.0", Agent: "0.1.0", Floor: 1}}
	f.source = f.newSource()
	return f
}

func (f *fleet) newSource() *trust.Source {
	return trust.NewSource(f.client, func(context.Context) (update.Device, error) { return f.self, nil })
}

func (f *fleet) restart() {
	f.device.restart()
	f.source = f.newSource()
}

func imageData(version string) []byte { return append([]byte("image "+version+" "), pattern(5000)...) }

// release lists an image in a role.
func (f *fleet) release(role, version string, counter, floor uint64) {
	f.t.Helper()
	f.repo.AddTarget(role, update.ImagePath(trusttest.Product, version), imageData(version), map[string]any{
		"backstay": 1, "product": trusttest.Product, "compatible": []string{"acme-cam-v2"}, "version": version,
		"counter": counter, "floor": floor, "kind": "full", "class": "security",
	})
}

// assign makes the online role send version to everybody.
func (f *fleet) assign(version string, counter uint64) {
	f.t.Helper()
	data := imageData(version)
	f.statement("assign", update.Assigned{
		Path: update.ImagePath(trusttest.Product, version), SHA256: sha256.Sum256(data), Length: int64(len(data)), Counter: counter, To: 100,
	})
}

func (f *fleet) statement(role string, entries ...update.Assigned) {
	f.t.Helper()
	f.serial++
	raw, err := json.Marshal(update.Assignment{Product: trusttest.Product, Serial: f.serial, Issued: f.repo.Now, Entries: entries})
	if err != nil {
		f.t.Fatal(err)
	}
	f.repo.AddTarget(role, update.AssignmentPath(trusttest.Product), raw, nil)
}

func (f *fleet) latest() update.Release {
	f.t.Helper()
	r, err := f.source.Latest(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	return r
}

func (f *fleet) nothing() {
	f.t.Helper()
	if _, err := f.source.Latest(f.t.Context()); !errors.Is(err, update.ErrNothing) || errors.Is(err, update.ErrRefused) {
		f.t.Fatalf("got %v, want nothing", err)
	}
}

func (f *fleet) latestRefused(code string) {
	f.t.Helper()
	_, err := f.source.Latest(f.t.Context())
	wantRefusal(f.t, err, code)
}

func TestSource(t *testing.T) {
	f := newFleet(t)
	f.nothing() // no assignment yet
	f.release(trusttest.ProductRole, "1.1.0", 2, 1)
	f.repo.Publish()
	f.nothing()
	f.assign("1.1.0", 2)
	f.repo.Publish()
	r := f.latest()
	if r.Version != "1.1.0" || r.Counter != 2 || r.Floor != 1 || r.SHA256 != sha256.Sum256(imageData("1.1.0")) {
		t.Errorf("release %+v", r)
	}
	body, err := f.source.Open(t.Context(), r, 6)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if got, err := io.ReadAll(body); err != nil || !bytes.Equal(got, imageData("1.1.0")[6:]) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if _, err := f.source.Open(t.Context(), update.Release{}, 0); err == nil {
		t.Error("a release that is none is opened")
	}
	f.self.Version = "1.1.0"
	f.nothing()
}

// A poll that finds nothing new asks two questions and parses nothing, and its
// answer still follows the device and the clock.
func TestSourceUnchanged(t *testing.T) {
	f := newFleet(t)
	f.release(trusttest.ProductRole, "1.1.0", 2, 1)
	f.assign("1.1.0", 2)
	data := imageData("1.1.0")
	later := trusttest.Start.Add(24 * time.Hour)
	f.statement("assign", update.Assigned{
		Path: image, SHA256: sha256.Sum256(data), Length: int64(len(data)), Counter: 2, To: 100, NotBefore: later,
	})
	f.repo.Publish()
	f.nothing()
	f.repo.Asked()
	f.nothing()
	if got := f.repo.Asked(); len(got) != 2 {
		t.Errorf("an unchanged poll asks for %q", got)
	}
	f.setTime(later)
	f.latest()
	f.repo.Asked()
	f.latest()
	if got := f.repo.Asked(); len(got) != 2 {
		t.Errorf("an unchanged poll asks for %q", got)
	}
	f.self.Floor = 3
	f.latestRefused("below-floor")
	f.self.Floor, f.self.Compatible = 1, "other"
	f.latestRefused("incompatible")
	f.self.Compatible = "acme-cam-v2"
	f.latest()
}

// The online key is stolen. It can hold back and choose among what is genuine
// and current, and nothing else.
func TestStolenAssignRole(t *testing.T) {
	t.Run("another image", func(t *testing.T) {
		f := newFleet(t)
		f.release(trusttest.ProductRole, "1.1.0", 2, 1)
		evil := []byte("evil")
		f.statement("assign", update.Assigned{Path: image, SHA256: sha256.Sum256(evil), Length: 4, Counter: 2, To: 100})
		f.repo.Publish()
		f.latestRefused("not-genuine")
	})
	t.Run("an image of its own", func(t *testing.T) {
		f := newFleet(t)
		f.release("assign", "6.6.6", 9, 9)
		f.assign("6.6.6", 9)
		f.repo.Publish()
		f.latestRefused("unknown-target")
	})
	t.Run("an older release", func(t *testing.T) {
		f := newFleet(t)
		f.release(trusttest.ProductRole, "0.9.0", 1, 1)
		f.release(trusttest.ProductRole, "1.1.0", 3, 2)
		data := imageData("0.9.0")
		f.statement("assign", update.Assigned{
			Path: update.ImagePath(trusttest.Product, "0.9.0"), SHA256: sha256.Sum256(data), Length: int64(len(data)), Counter: 1, To: 100, Downgrade: true,
		})
		f.repo.Publish()
		f.self.Version, f.self.Floor = "1.1.0", 2
		f.latestRefused("below-floor")
	})
	t.Run("a higher counter", func(t *testing.T) {
		f := newFleet(t)
		f.release(trusttest.ProductRole, "1.1.0", 2, 1)
		f.assign("1.1.0", 7)
		f.repo.Publish()
		f.latestRefused("not-genuine")
	})
}

// Each statement counts only from the role whose business it is, even where a
// delegation is too wide.
func TestStatementsFromTheWrongRole(t *testing.T) {
	t.Run("assignment from the top role", func(t *testing.T) {
		f := newFleet(t)
		f.release(trusttest.ProductRole, "1.1.0", 2, 1)
		f.statement("targets")
		f.repo.Publish()
		f.latestRefused("not-genuine")
	})
	t.Run("firmware from the online role", func(t *testing.T) {
		f := newFleet(t)
		dg := f.repo.Roles["targets"].Signed.Delegations
		for i := range dg.Roles {
			if dg.Roles[i].Name == "assign" {
				dg.Roles[i].Paths = append(dg.Roles[i].Paths, "firmware/*/*")
			}
		}
		f.release("assign", "1.1.0", 2, 1)
		f.assign("1.1.0", 2)
		f.repo.Publish()
		f.latestRefused("not-genuine")
	})
}

func TestSourceMalformedStatements(t *testing.T) {
	f := newFleet(t)
	f.repo.AddTarget("assign", update.AssignmentPath(trusttest.Product), []byte(`{"backstay":1}`), nil)
	f.repo.Publish()
	f.latestRefused("malformed-assignment")
	f.repo.AddTarget("assign", update.AssignmentPath(trusttest.Product), make([]byte, update.MaxAssignment+1), nil)
	f.repo.Publish()
	f.latestRefused("wrong-length")
	f.repo.AddTarget(trusttest.ProductRole, image, imageData("1.1.0"), nil)
	f.assign("1.1.0", 2)
	f.repo.Publish()
	f.latestRefused("malformed-release")
}

func TestSourceOfABadDevice(t *testing.T) {
	f := newFleet(t)
	f.self.Product = "../x"
	if _, err := f.source.Latest(t.Context()); !errors.Is(err, update.ErrSetup) {
		t.Errorf("got %v", err)
	}
	boom := errors.New("no device")
	s := trust.NewSource(f.client, func(context.Context) (update.Device, error) { return update.Device{}, boom })
	if _, err := s.Latest(t.Context()); !errors.Is(err, boom) {
		t.Errorf("got %v", err)
	}
}

// An attacker replays the set of the day before, with the release of then.
func TestSourceRollback(t *testing.T) {
	f := newFleet(t)
	f.release(trusttest.ProductRole, "1.1.0", 2, 1)
	f.assign("1.1.0", 2)
	f.repo.Publish()
	old := f.repo.Copy()
	f.release(trusttest.ProductRole, "1.2.0", 3, 1)
	f.assign("1.2.0", 3)
	f.repo.Publish()
	if r := f.latest(); r.Version != "1.2.0" {
		t.Fatalf("version %s", r.Version)
	}
	f.repo.Replay(old)
	f.latestRefused("metadata-rollback")
	f.restart()
	f.latestRefused("metadata-rollback")
}
