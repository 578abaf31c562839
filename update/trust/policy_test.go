// SPDX-License-Identifier: Apache-2.0

package trust_test

import (
	"errors"
	"testing"
	"time"

	"github.com/backstay/backstay/update"
)

func TestPolicyComesFromItsRole(t *testing.T) {
	for _, c := range []struct {
		role string
		set  func(d *device)
		code string
	}{
		{"policy", func(d *device) { d.repo.Delegate("targets", "policy", "policy/*") }, ""},
		{"targets", func(*device) {}, "not-genuine"},
		{"assign", func(d *device) {
			for i, r := range d.repo.Roles["targets"].Signed.Delegations.Roles {
				if r.Name == "assign" {
					d.repo.Roles["targets"].Signed.Delegations.Roles[i].Paths = append(r.Paths, "policy/*")
				}
			}
		}, "not-genuine"},
		{"assign", func(*device) {}, "unknown"},
	} {
		d := newDevice(t)
		if _, ok := d.client.Last(); ok {
			t.Fatal("there is a last refresh before the first")
		}
		c.set(d)
		d.repo.AddTarget(c.role, update.PolicyPath("cam"), []byte("{}"), nil)
		d.repo.Publish()
		if _, err := d.client.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		d.repo.Asked()
		trusted, ok := d.client.Last()
		if !ok {
			t.Fatal("no last refresh after one")
		}
		info, err := trusted.Policy(t.Context(), "cam")
		switch c.code {
		case "":
			if err != nil || info.Role != "policy" || info.Length != 2 {
				t.Errorf("%+v %v", info, err)
			}
			if raw, err := d.client.Fetch(t.Context(), info, update.MaxPolicy); err != nil || string(raw) != "{}" {
				t.Errorf("%q %v", raw, err)
			}
			for _, name := range d.repo.Asked() {
				if name == "/metadata/timestamp.json" {
					t.Error("the server was asked for a timestamp again")
				}
			}
			if _, err := trusted.Policy(t.Context(), "other"); !errors.Is(err, update.ErrNothing) {
				t.Errorf("a product without one: %v", err)
			}
			if _, err := trusted.Policy(t.Context(), "../x"); !errors.Is(err, update.ErrSetup) {
				t.Errorf("a product that is no name: %v", err)
			}
			d.setTime(d.time().Add(1000 * time.Hour))
			if _, ok := d.client.Last(); ok {
				t.Error("what has expired is still the last refresh")
			}
		case "unknown":
			if !errors.Is(err, update.ErrNothing) {
				t.Errorf("a role that was not delegated: %v", err)
			}
		default:
			var r *update.Refusal
			if !errors.As(err, &r) || r.Code != c.code {
				t.Errorf("signed by %s: %v", c.role, err)
			}
		}
	}
}
