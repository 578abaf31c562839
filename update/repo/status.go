// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/backstay/backstay/update"
)

// Status is the state of a repository at one glance.
type Status struct {
	Time      time.Time       `json:"time"`
	Roles     []RoleStatus    `json:"roles"` // by expiry, the first to act on first
	Proposals []Proposal      `json:"proposals"`
	Products  []ProductStatus `json:"products"`
	Published *Published      `json:"published,omitempty"`
	Problems  []string        `json:"problems"` // what keeps devices from updating, now or within a third of a role's life
}

// RoleStatus is one role.
type RoleStatus struct {
	Role      string    `json:"role"`
	Version   int64     `json:"version"` // 0: not signed yet
	Expires   time.Time `json:"expires,omitzero"`
	Due       time.Time `json:"due,omitzero"` // when to sign again
	Keys      int       `json:"keys"`
	Threshold int       `json:"threshold"`
	Here      int       `json:"keys_here"` // private keys on this machine
	Size      int       `json:"size"`      // bytes
	Limit     int       `json:"limit"`     // bytes devices read
	Targets   int       `json:"targets"`
	State     string    `json:"state"` // "ok", "new" (before the first Publish), "due", "expired", "unsigned"
}

// ProductStatus is one product.
type ProductStatus struct {
	Product  string     `json:"product"`
	Releases []Release  `json:"releases"`
	Floor    uint64     `json:"floor"`   // highest security floor ever released
	Counter  uint64     `json:"counter"` // highest release counter ever released
	Rollouts []Assigned `json:"rollouts"`
}

// Assigned is a rollout in force.
type Assigned = update.Assigned

// Status reads the repository; it changes nothing.
func (r *Repo) Status() (Status, error) {
	s := Status{Time: r.now().UTC().Truncate(time.Second), Roles: []RoleStatus{}, Products: []ProductStatus{}, Problems: []string{}}
	var err error
	if s.Proposals, err = r.Proposals(); err != nil {
		return s, err
	}
	roles := []string{roleRoot, roleTargets, roleSnapshot, roleTimestamp}
	if t, err := r.current(roleTargets); err == nil {
		roles = append(roles, delegated(t)...)
	}
	for _, role := range roles {
		st, err := r.roleStatus(role)
		if err != nil {
			return s, err
		}
		s.Roles = append(s.Roles, st)
		if p := st.problem(); p != "" {
			s.Problems = append(s.Problems, p)
		}
	}
	slices.SortStableFunc(s.Roles, func(a, b RoleStatus) int { return a.Expires.Compare(b.Expires) })
	for _, p := range s.Proposals {
		if !p.Complete() {
			s.Problems = append(s.Problems, fmt.Sprintf("%s %d is not signed: %s", p.Role, p.Version, waiting(p)))
		}
	}
	if s.Products, err = r.productStatus(); err != nil {
		return s, err
	}
	s.Published, err = r.published()
	return s, err
}

func (s RoleStatus) problem() string {
	switch s.State {
	case "expired":
		return fmt.Sprintf("%s expired on %s", s.Role, formatTime(s.Expires))
	case "unsigned":
		return s.Role + " is not signed by its keys"
	case "due":
		if s.Role != roleTimestamp && s.Role != roleSnapshot && s.Role != roleAssign {
			return fmt.Sprintf("%s expires on %s; its keys should sign again", s.Role, formatTime(s.Expires))
		}
	}
	return ""
}

func (r *Repo) roleStatus(role string) (RoleStatus, error) {
	st := RoleStatus{Role: role, Limit: sizeLimit(role), State: "unsigned"}
	d, err := r.current(role)
	signed := err == nil
	if errors.Is(err, errAbsent) {
		if d, err = r.staged(role); errors.Is(err, errAbsent) {
			d, err = newDocument(role), nil
		}
	}
	if err != nil {
		return st, err
	}
	list, err := r.authorities(d)
	if errors.Is(err, errAbsent) {
		return st, nil
	}
	if err != nil {
		return st, err
	}
	verified := true
	for _, a := range list {
		st.Keys, st.Threshold, st.Here = len(a.set.ids), a.set.threshold, 0
		for _, id := range a.set.ids {
			if _, err := r.openKey(r.policy.Keys[id]); err == nil {
				st.Here++
			}
		}
		verified = verified && a.verify(d) == nil
	}
	if !signed {
		if role == roleSnapshot || role == roleTimestamp {
			st.State = "new" // publishing signs it
		}
		return st, nil
	}
	b, err := d.encode()
	if err != nil {
		return st, err
	}
	st.Version, st.Expires, st.Due, st.Size = d.version(), d.expires().UTC(), r.dueBy(d), len(b)
	if d.targets != nil {
		st.Targets = len(d.targets.Signed.Targets)
	}
	switch now := r.now(); {
	case !verified:
	case !st.Expires.After(now):
		st.State = "expired"
	case !st.Due.After(now):
		st.State = "due"
	default:
		st.State = "ok"
	}
	return st, nil
}

// dueBy is when a role should be signed again: online roles after a third of
// their life, people after two thirds.
func (r *Repo) dueBy(d *document) time.Time {
	switch d.role {
	case roleTimestamp, roleSnapshot, roleAssign:
		return r.dueAt(d).UTC()
	}
	return d.expires().Add(-d.expires().Sub(d.issued()) / 3).UTC()
}

func (r *Repo) productStatus() ([]ProductStatus, error) {
	products, err := r.products()
	if errors.Is(err, errAbsent) {
		return []ProductStatus{}, nil
	}
	if err != nil {
		return nil, err
	}
	list := []ProductStatus{}
	for _, p := range products {
		st := ProductStatus{Product: p, Rollouts: []Assigned{}}
		if st.Releases, err = r.Releases(p); err != nil {
			return nil, err
		}
		h, err := r.history(p)
		if err != nil {
			return nil, err
		}
		st.Floor, st.Counter = h.floor, h.counter
		a, err := r.Rollouts(p)
		if err != nil && !errors.Is(err, errAbsent) {
			return nil, err
		}
		st.Rollouts = append(st.Rollouts, a.Entries...)
		list = append(list, st)
	}
	return list, nil
}

// published reads what is in the publish directory; nil if nothing is.
func (r *Repo) published() (*Published, error) {
	dir := filepath.Join(r.PublishDir(), "metadata")
	t, err := load(dir, roleTimestamp, 0)
	if errors.Is(err, errAbsent) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	p := &Published{Dir: r.PublishDir(), Timestamp: t.version(), Expires: t.expires().UTC(), Next: r.dueAt(t).UTC()}
	for role, v := range map[string]*int64{roleRoot: &p.Root, roleTargets: &p.Targets, roleSnapshot: &p.Snapshot} {
		list, err := versions(dir, role)
		if err != nil {
			return nil, err
		}
		if len(list) > 0 {
			*v = list[len(list)-1]
		}
	}
	return p, nil
}
