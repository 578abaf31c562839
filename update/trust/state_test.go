// SPDX-License-Identifier: Apache-2.0

package trust_test

import (
	"bytes"
	"maps"
	"testing"

	"github.com/backstay/backstay/update/trust"
	"github.com/backstay/backstay/update/trust/trusttest"
)

// Damage: a power cut or a worn cell leaves any part of the stored metadata in
// any state. The next refresh repairs it and the floors hold meanwhile.
func TestDamagedState(t *testing.T) {
	damage := map[string]func([]byte) []byte{
		"empty":     func([]byte) []byte { return []byte{} },
		"cut":       func(b []byte) []byte { return b[:len(b)/2] },
		"zeroed":    func(b []byte) []byte { return make([]byte, len(b)) },
		"other":     func([]byte) []byte { return []byte("{}") },
		"null":      func([]byte) []byte { return []byte("null") },
		"bit":       func(b []byte) []byte { c := bytes.Clone(b); c[len(c)/3] ^= 4; return c },
		"swapped":   func([]byte) []byte { return nil },
		"null meta": func([]byte) []byte { return []byte(`{"signed":{"_type":"timestamp","meta":null},"signatures":null}`) },
	}
	if testing.Short() { // enough where a program is emulated
		maps.DeleteFunc(damage, func(how string, _ func([]byte) []byte) bool { return how != "cut" && how != "null meta" })
	}
	parts := map[string]func(*trust.State) *[]byte{
		"timestamp": func(s *trust.State) *[]byte { return &s.Timestamp },
		"snapshot":  func(s *trust.State) *[]byte { return &s.Snapshot },
		"root":      func(s *trust.State) *[]byte { return &s.Roots[0] },
	}
	for part, where := range parts {
		for how, bend := range damage {
			t.Run(part+" "+how, func(t *testing.T) {
				d := damagedDevice(t)
				d.store.Edit(func(s *trust.State) {
					p := where(s)
					*p = bend(*p)
					if how == "swapped" {
						*p = s.Targets["targets"]
					}
				})
				d.recovers()
				if how != "empty" && !d.emitted("update.trust-damaged") {
					t.Error("damage is not reported")
				}
			})
		}
	}
	for how, bend := range damage {
		t.Run("targets "+how, func(t *testing.T) {
			d := damagedDevice(t)
			d.store.Edit(func(s *trust.State) {
				for name := range s.Targets {
					s.Targets[name] = bend(s.Targets[name])
				}
			})
			d.recovers()
		})
	}
}

// damagedDevice returns a device with a rotated root and every role stored.
func damagedDevice(t *testing.T) *device {
	t.Helper()
	d := newDevice(t)
	d.repo.AddTarget(trusttest.ProductRole, image, []byte("image"), nil)
	d.repo.Rotate("timestamp")
	d.repo.Publish("root", "targets", trusttest.ProductRole, "snapshot", "timestamp")
	if _, err := lookup(t, d.refresh(), image); err != nil {
		t.Fatal(err)
	}
	return d
}

func (d *device) recovers() {
	d.t.Helper()
	d.restart()
	old := d.repo.Copy()
	tr := d.refresh()
	if _, err := lookup(d.t, tr, image); err != nil {
		d.t.Errorf("look up after damage: %v", err)
	}
	if got := tr.Versions(); got != (trust.Versions{Root: 2, Timestamp: 2, Snapshot: 2, Targets: 2}) {
		d.t.Errorf("versions %+v", got)
	}
	s := d.state()
	if len(s.Roots) != 1 || !bytes.Equal(s.Roots[0], d.repo.File("metadata/2.root.json")) || !bytes.Equal(s.Timestamp, d.repo.File("metadata/timestamp.json")) {
		d.t.Error("the state is not repaired")
	}
	d.repo.Publish()
	d.refresh()
	d.repo.Replay(old)
	d.restart()
	d.refused("metadata-rollback")
}

// An image in the other slot may have been built with an older or newer factory
// root. Both work, offline from the stored chain where that reaches.
func TestOtherFactoryRoot(t *testing.T) {
	d := newDevice(t)
	factory1 := d.config.FactoryRoot
	for range 3 {
		d.repo.Rotate("timestamp")
		d.repo.Publish("root", "timestamp")
	}
	d.refresh()
	if n := len(d.state().Roots); n != 3 {
		t.Fatalf("%d roots kept", n)
	}
	// Newer image: starts at 3, needs only 4 of the stored ones, keeps the rest.
	d.config.FactoryRoot = d.repo.File("metadata/3.root.json")
	d.restart()
	if got := d.refresh().Versions().Root; got != 4 {
		t.Errorf("root %d", got)
	}
	d.repo.Rotate("timestamp")
	d.repo.Publish("root", "timestamp")
	d.refresh()
	// Back to the older image: the chain from 1 is still there.
	d.config.FactoryRoot = factory1
	d.restart()
	for v := 2; v <= 4; v++ {
		d.repo.SetFile("metadata/"+string(rune('0'+v))+".root.json", nil)
	}
	if got := d.refresh().Versions().Root; got != 5 {
		t.Errorf("root %d", got)
	}
}

// The chain that an older image needs was never stored: it is fetched, and an
// attacker who withholds it gains nothing.
func TestOlderFactoryRootWithoutChain(t *testing.T) {
	d := newDevice(t)
	factory1 := d.config.FactoryRoot
	d.repo.Publish("root", "timestamp")
	d.repo.Publish("root", "timestamp")
	d.config.FactoryRoot = d.repo.File("metadata/3.root.json")
	d.restart()
	d.refresh()
	d.config.FactoryRoot = factory1
	d.restart()
	root2 := d.repo.File("metadata/2.root.json")
	d.repo.SetFile("metadata/2.root.json", nil)
	d.refused("root-rollback")
	d.repo.SetFile("metadata/2.root.json", root2)
	if got := d.refresh().Versions().Root; got != 3 {
		t.Errorf("root %d", got)
	}
}

func TestRolesOutsideTheSnapshotAreForgotten(t *testing.T) {
	d := damagedDevice(t)
	d.store.Edit(func(s *trust.State) { s.Targets["gone"] = []byte("{}") })
	d.repo.Publish()
	d.restart()
	d.refresh()
	if _, ok := d.state().Targets["gone"]; ok {
		t.Error("a role that no snapshot lists is kept")
	}
}

// The state has a bound however many roles there are; what is left out is
// fetched again.
func TestCacheIsBounded(t *testing.T) {
	repo := trusttest.New(t)
	for i := range 40 {
		repo.ListTarget(trusttest.ProductRole, "firmware/"+trusttest.Product+"/"+string(rune('a'+i%26))+string(rune('a'+i/26))+".img", 1, [32]byte{}, nil)
	}
	repo.AddTarget(trusttest.ProductRole, image, []byte("image"), nil)
	repo.Publish()
	d := deviceFor(t, repo, nil, func(c *trust.Config) { c.Limits.Cache = 4000 })
	for range 2 {
		if _, err := lookup(t, d.refresh(), image); err != nil {
			t.Fatal(err)
		}
		s := d.state()
		if s.Targets[trusttest.ProductRole] != nil || s.Targets["targets"] == nil {
			t.Error("the largest role is not the one left out")
		}
		d.restart()
	}
}

func TestRootChainIsBounded(t *testing.T) {
	repo := trusttest.New(t)
	d := deviceFor(t, repo, nil, func(c *trust.Config) { c.Limits.RootChain = int64(len(repo.Factory)) * 5 / 2 })
	for range 3 {
		repo.Publish("root", "timestamp")
	}
	d.refused("wrong-length")
	if n := len(d.state().Roots); n != 2 {
		t.Errorf("%d roots kept, want the 2 that fit", n)
	}
}

func TestRotationsAreBounded(t *testing.T) {
	repo := trusttest.New(t)
	d := deviceFor(t, repo, nil, func(c *trust.Config) { c.Limits.Rotations = 3 })
	for range 5 {
		repo.Publish("root", "timestamp")
	}
	if got := d.refresh().Versions().Root; got != 4 {
		t.Errorf("root %d after one refresh, want 4", got)
	}
	if got := d.refresh().Versions().Root; got != 6 {
		t.Errorf("root %d after two, want 6", got)
	}
}
