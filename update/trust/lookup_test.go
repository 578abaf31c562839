// SPDX-License-Identifier: Apache-2.0

package trust_test

import (
	"crypto/sha512"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/backstay/backstay/update/trust"
	"github.com/backstay/backstay/update/trust/trusttest"
)

func TestTarget(t *testing.T) {
	d := newDevice(t)
	d.repo.AddTarget(trusttest.ProductRole, image, []byte("image"), map[string]any{"version": "1.1.0"})
	d.repo.Publish()
	tr := d.refresh()
	d.repo.Asked()
	info, err := lookup(t, tr, image)
	if err != nil {
		t.Fatal(err)
	}
	if info.Path != image || info.Length != 5 || info.Role != trusttest.ProductRole || string(info.Custom) != `{"version":"1.1.0"}` {
		t.Errorf("info %+v", info)
	}
	if got := d.repo.Asked(); !slices.Equal(got, []string{"metadata/2." + trusttest.ProductRole + ".json"}) {
		t.Errorf("asked for %q", got)
	}
	// Asked again, also after a restart, it is not fetched again.
	if _, err := lookup(t, tr, image); err != nil {
		t.Fatal(err)
	}
	d.restart()
	tr = d.refresh()
	d.repo.Asked()
	if _, err := lookup(t, tr, image); err != nil {
		t.Fatal(err)
	}
	if got := d.repo.Asked(); len(got) != 0 {
		t.Errorf("asked for %q", got)
	}
	for _, path := range []string{"firmware/acme-cam/9.9.9.img", "firmware/other/1.1.0.img", "nothing", "firmware/acme-cam/a/b.img"} {
		_, err := lookup(t, tr, path)
		wantRefusal(t, err, "unknown-target")
	}
}

// A role may speak only about the paths it was delegated.
func TestRoleOutsideItsPaths(t *testing.T) {
	d := newDevice(t)
	d.repo.AddTarget("assign", image, []byte("evil"), nil)
	d.repo.AddTarget(trusttest.ProductRole, "firmware/other/1.img", []byte("evil"), nil)
	d.repo.Publish()
	tr := d.refresh()
	for _, path := range []string{image, "firmware/other/1.img"} {
		_, err := lookup(t, tr, path)
		wantRefusal(t, err, "unknown-target")
	}
}

func TestNamesThatAreNotAllowed(t *testing.T) {
	d := newDevice(t)
	bad := []string{"", "/", "a//b", "../x", "a/../b", "a/./b", "a b", "a?b", "a#b", "a%2fb", "a\\b", "a\x00b", "ä", "a/", strings.Repeat("a", 513)}
	for _, path := range bad {
		if path != "" {
			d.repo.ListTarget("targets", path, 1, [32]byte{1}, nil)
		}
	}
	d.repo.Publish()
	tr := d.refresh()
	for _, path := range bad {
		_, err := lookup(t, tr, path)
		wantRefusal(t, err, "unknown-target")
	}
	for _, role := range []string{"", "..", "../x", "a b", "A", "a/b", "?", ".a", strings.Repeat("a", 129), "root", "timestamp", "snapshot", "targets", "assign"} {
		t.Run("role "+role, func(t *testing.T) {
			d := newDevice(t)
			dg := d.repo.Roles["targets"].Signed.Delegations
			dg.Roles = append(dg.Roles, metadata.DelegatedRole{Name: role, KeyIDs: dg.Roles[0].KeyIDs, Threshold: 1, Paths: []string{"*"}})
			d.repo.Publish()
			d.refused("malformed-metadata")
		})
	}
	t.Run("hash prefixes", func(t *testing.T) {
		d := newDevice(t)
		dg := d.repo.Roles["targets"].Signed.Delegations
		dg.Roles = append(dg.Roles, metadata.DelegatedRole{Name: "bin", KeyIDs: dg.Roles[0].KeyIDs, Threshold: 1, PathHashPrefixes: []string{"00"}})
		d.repo.Publish()
		d.refused("malformed-metadata")
	})
	t.Run("bins", func(t *testing.T) {
		d := newDevice(t)
		dg := d.repo.Roles["targets"].Signed.Delegations
		dg.SuccinctRoles = &metadata.SuccinctRoles{KeyIDs: dg.Roles[0].KeyIDs, Threshold: 1, BitLength: 2, NamePrefix: "../x"}
		dg.Roles = nil
		d.repo.Publish()
		d.refused("malformed-metadata")
	})
}

// Bins: 2^n roles that share the targets by the hash of their names.
func TestSuccinctRoles(t *testing.T) {
	d := newDevice(t)
	k := trusttest.NewKey(t)
	dg := d.repo.Roles["targets"].Signed.Delegations
	dg.Roles = nil
	dg.Keys[k.ID] = k.Public
	dg.SuccinctRoles = &metadata.SuccinctRoles{KeyIDs: []string{k.ID}, Threshold: 1, BitLength: 3, NamePrefix: "bin"}
	delete(d.repo.Roles, "assign")
	delete(d.repo.Roles, trusttest.ProductRole)
	paths := []string{"a/1.img", "a/2.img", "b/3.img", "c/4.img"}
	for i, name := range dg.SuccinctRoles.GetRoles() {
		d.repo.Roles[name] = metadata.Targets(trusttest.Start.AddDate(0, 6, 0))
		d.repo.Keys[name] = []*trusttest.Key{k}
		for _, p := range paths {
			d.repo.ListTarget(name, p, int64(i), [32]byte{byte(i)}, nil)
		}
	}
	d.repo.Publish()
	tr := d.refresh()
	for _, p := range paths {
		want := dg.SuccinctRoles.GetRolesForTarget(p)[0].Name
		info, err := lookup(t, tr, p)
		if err != nil || info.Role != want {
			t.Errorf("%s: found in %s, %v; want %s", p, info.Role, err, want)
		}
	}
}

// One role with two delegators is not in our repositories. Elsewhere each
// delegation is verified by its own keys: a role that one delegator vouches for
// is not thereby vouched for by the other.
func TestTwoDelegators(t *testing.T) {
	build := func(t *testing.T, edit ...func(*trust.Config)) *device {
		d := newDevice(t, edit...)
		d.repo.Delegate("targets", "left", "a/*")
		d.repo.Delegate("targets", "right", "b/*")
		d.repo.Delegate("left", "shared", "a/*")
		d.repo.Delegate("right", "shared", "b/*")
		d.repo.AddTarget("shared", "a/x", []byte("a"), nil)
		d.repo.AddTarget("shared", "b/x", []byte("b"), nil)
		return d
	}
	d := build(t)
	d.repo.Publish()
	tr := d.refresh()
	if _, err := lookup(t, tr, "a/x"); err != nil {
		t.Fatal(err)
	}
	_, err := lookup(t, tr, "b/x")
	wantRefusal(t, err, "malformed-metadata")

	d = build(t, interop)
	d.repo.Publish()
	tr = d.refresh()
	for _, p := range []string{"a/x", "b/x"} {
		if _, err := lookup(t, tr, p); err != nil {
			t.Fatal(err)
		}
	}

	// Right now trusts another key for it. What left vouches for stays found.
	other := trusttest.NewKey(t)
	dg := d.repo.Roles["right"].Signed.Delegations
	dg.Keys = map[string]*metadata.Key{other.ID: other.Public}
	dg.Roles[0].KeyIDs = []string{other.ID}
	d.repo.Publish()
	tr = d.refresh()
	for range 2 {
		if _, err := lookup(t, tr, "a/x"); err != nil {
			t.Fatal(err)
		}
		d.repo.Asked()
		_, err := lookup(t, tr, "b/x")
		wantRefusal(t, err, "bad-signature")
		if got := d.repo.Asked(); len(got) > 1 {
			t.Errorf("asked for %q", got)
		}
	}
}

func TestWalkIsBounded(t *testing.T) {
	repo := trusttest.New(t)
	from := "targets"
	for i := range 8 {
		to := "deep-" + string(rune('a'+i))
		repo.Delegate(from, to, "deep/*")
		from = to
	}
	repo.AddTarget(from, "deep/x", []byte("x"), nil)
	repo.Publish()
	d := deviceFor(t, repo, nil)
	if _, err := lookup(t, d.refresh(), "deep/x"); err != nil {
		t.Fatal(err)
	}
	d = deviceFor(t, repo, nil, func(c *trust.Config) { c.Limits.Roles = 4 })
	_, err := lookup(t, d.refresh(), "deep/x")
	wantRefusal(t, err, "unknown-target")
}

func TestDelegationCycleEnds(t *testing.T) {
	d := newDevice(t, interop)
	d.repo.Delegate("targets", "one", "c/*")
	d.repo.Delegate("one", "two", "c/*")
	d.repo.Delegate("two", "one", "c/*")
	d.repo.Publish()
	_, err := lookup(t, d.refresh(), "c/x")
	wantRefusal(t, err, "unknown-target")
}

func TestRoleMissingInTheSnapshot(t *testing.T) {
	d := newDevice(t)
	d.repo.Delegate("targets", "ghost", "ghost/*")
	d.repo.Publish("targets", "snapshot", "timestamp")
	delete(d.repo.Snapshot.Signed.Meta, "ghost.json")
	d.repo.SignSnapshot()
	d.repo.SignTimestamp()
	_, err := lookup(t, d.refresh(), "ghost/x")
	wantRefusal(t, err, "malformed-metadata")
}

func TestExpiredRole(t *testing.T) {
	d := newDevice(t)
	d.repo.Roles[trusttest.ProductRole].Signed.Expires = trusttest.Start
	d.repo.AddTarget(trusttest.ProductRole, image, []byte("image"), nil)
	d.repo.Publish()
	_, err := lookup(t, d.refresh(), image)
	wantRefusal(t, err, "metadata-expired")
}

// Our repositories list one digest, a sha256: two would let a mirror choose
// which file of two it serves under one name.
func TestOneDigest(t *testing.T) {
	long := sha512.Sum512([]byte("image"))
	for name, bend := range map[string]func(*metadata.TargetFiles){
		"two":       func(f *metadata.TargetFiles) { f.Hashes["sha512"] = long[:] },
		"other":     func(f *metadata.TargetFiles) { f.Hashes = metadata.Hashes{"sha512": long[:]} },
		"short":     func(f *metadata.TargetFiles) { f.Hashes["sha256"] = f.Hashes["sha256"][:31] },
		"negative":  func(f *metadata.TargetFiles) { f.Length = -1 },
		"uppercase": func(f *metadata.TargetFiles) { f.Hashes = metadata.Hashes{"SHA256": f.Hashes["sha256"]} },
	} {
		t.Run(name, func(t *testing.T) {
			d := newDevice(t)
			bend(d.repo.AddTarget(trusttest.ProductRole, image, []byte("image"), nil))
			d.repo.Publish()
			_, err := lookup(t, d.refresh(), image)
			wantRefusal(t, err, "malformed-metadata")
		})
	}
	t.Run("no consistent snapshots", func(t *testing.T) {
		d := newDevice(t)
		d.repo.AddTarget(trusttest.ProductRole, image, []byte("image"), nil)
		d.repo.Root.Signed.ConsistentSnapshot = false
		d.repo.Publish("root", trusttest.ProductRole, "targets", "snapshot", "timestamp")
		for _, role := range []string{"snapshot", "targets", trusttest.ProductRole} {
			d.repo.SetFile("metadata/"+role+".json", d.repo.File("metadata/2."+role+".json"))
		}
		_, err := lookup(t, d.refresh(), image)
		wantRefusal(t, err, "malformed-metadata")
	})
}

func TestTrustedExpires(t *testing.T) {
	d := newDevice(t)
	if got := d.refresh().Expires(); !got.Equal(d.repo.Timestamp.Signed.Expires) {
		t.Errorf("expires %v, want that of the timestamp", got)
	}
	if got := d.refresh().Expires().Sub(trusttest.Start); got != 7*24*time.Hour {
		t.Errorf("after an unchanged check: in %v", got)
	}
}
