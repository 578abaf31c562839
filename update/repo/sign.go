// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"
)

// stagedRoles lists the roles with a proposal, in the order in which they can
// be accepted: a delegator before the roles it delegates to.
func (r *Repo) stagedRoles() ([]string, error) {
	files, err := filepath.Glob(filepath.Join(r.stagedDir(), "*.json"))
	if err != nil {
		return nil, err
	}
	var first, second, rest []string
	for _, f := range files {
		name := strings.TrimSuffix(filepath.Base(f), ".json")
		_, role, ok := strings.Cut(name, ".")
		switch {
		case !ok || strings.Contains(role, ".sig."):
		case role == roleRoot:
			first = append(first, role)
		case role == roleTargets:
			second = append(second, role)
		case isRole(role):
			rest = append(rest, role)
		}
	}
	return append(append(first, second...), rest...), nil
}

// Proposals lists what is staged, with its changes and the signatures it has
// and needs.
func (r *Repo) Proposals() ([]Proposal, error) {
	roles, err := r.stagedRoles()
	if err != nil {
		return nil, err
	}
	list := []Proposal{}
	for _, role := range roles {
		p, err := r.Proposal(role)
		if err != nil {
			return nil, err
		}
		list = append(list, p)
	}
	return list, nil
}

// Proposal returns the proposal of one role.
func (r *Repo) Proposal(role string) (Proposal, error) {
	d, err := r.staged(role)
	if errors.Is(err, errAbsent) {
		return Proposal{}, refuse("no-proposal", "show proposal of "+role, "nothing is staged for this role")
	}
	if err != nil {
		return Proposal{}, err
	}
	old, err := r.current(role)
	if errors.Is(err, errAbsent) {
		old, err = nil, nil
	}
	if err != nil {
		return Proposal{}, err
	}
	p, err := describe(d, old)
	if err != nil {
		return p, err
	}
	list, err := r.authorities(d)
	if errors.Is(err, errAbsent) {
		return p, nil // its delegator is itself waiting: nobody's threshold is known yet
	}
	if err != nil {
		return p, err
	}
	for _, a := range list {
		t, err := r.progress(a, d)
		if err != nil {
			return p, err
		}
		p.Needs = append(p.Needs, t)
	}
	return p, nil
}

// SignAll signs every proposal with the keys that are on this machine, accepts
// what becomes complete, and goes on until nothing moves: a new root can ask
// for a re-signed targets role. It returns what is left or has been accepted.
func (r *Repo) SignAll() ([]Signed, error) {
	done := map[string]int{}
	list := []Signed{}
	for moved := true; moved; {
		moved = false
		roles, err := r.stagedRoles()
		if err != nil {
			return list, err
		}
		for _, role := range roles {
			s, err := r.Sign(role)
			if err != nil {
				return list, err
			}
			if i, seen := done[fmt.Sprint(s.Role, s.Version)]; seen {
				s.Keys += list[i].Keys
				list[i] = s
			} else {
				done[fmt.Sprint(s.Role, s.Version)] = len(list)
				list = append(list, s)
			}
			moved = moved || s.Accepted
		}
	}
	return list, nil
}

// Signed is the outcome of signing one proposal.
type Signed struct {
	Role     string `json:"role"`
	Version  int64  `json:"version"`
	Keys     int    `json:"signed_with"` // keys of this machine that signed now
	Accepted bool   `json:"accepted"`
	Waiting  string `json:"waiting,omitempty"` // why it is not accepted
}

// Sign signs the proposal of one role with every key of its authorities that is
// on this machine, and accepts it if that is enough. A key that has signed
// already does not sign again.
func (r *Repo) Sign(role string) (Signed, error) {
	p, err := r.Proposal(role)
	if err != nil {
		return Signed{}, err
	}
	s := Signed{Role: role, Version: p.Version}
	d, err := r.staged(role)
	if err != nil {
		return s, err
	}
	tried := map[string]bool{}
	for _, need := range p.Needs {
		for _, k := range need.Keys {
			if k.Signed || k.URI == "" || tried[k.ID] {
				continue
			}
			tried[k.ID] = true
			key, err := r.openKey(k.URI)
			if errors.Is(err, ErrNoKey) {
				continue
			}
			if err != nil {
				return s, err
			}
			sig, err := signDocument(d, key)
			if err != nil {
				return s, err
			}
			if sig.KeyID != k.ID {
				return s, refuse("wrong-key", "sign "+role, "%s holds key %.12s, policy.json says %.12s", k.URI, sig.KeyID, k.ID)
			}
			if err := r.AddSignature(sig); err != nil {
				return s, err
			}
			s.Keys++
		}
	}
	if p, err = r.Proposal(role); err != nil {
		return s, err
	}
	if s.Waiting = waiting(p); s.Waiting != "" {
		return s, nil
	}
	if err := r.Accept(role); err != nil {
		return s, err
	}
	s.Accepted = true
	return s, nil
}

// waiting says which signatures a proposal lacks; empty if none.
func waiting(p Proposal) string {
	if len(p.Needs) == 0 {
		return "the role that delegates to it has not been signed yet"
	}
	var missing []string
	for _, n := range p.Needs {
		if n.Have < n.Need {
			missing = append(missing, fmt.Sprintf("%d of %d signatures by keys of %s", n.Have, n.Need, n.Authority))
		}
	}
	return strings.Join(missing, "; ")
}

// AddSignature adds a detached signature, from this machine or a custodian's.
// It replaces an earlier one of the same key. A signature that does not verify,
// or is by a key without a say in the role, is refused.
func (r *Repo) AddSignature(s Signature) error {
	what := "add signature of " + s.Role
	if !isRole(s.Role) {
		return refuse("bad-signature", "add signature", "it names no role")
	}
	d, err := r.staged(s.Role)
	if errors.Is(err, errAbsent) {
		return refuse("no-proposal", what, "nothing is staged for this role")
	}
	if err != nil {
		return err
	}
	digest, err := d.digest()
	if err != nil {
		return err
	}
	if s.Version != d.version() || s.Digest != digest {
		return refuse("other-proposal", what, "it is for version %d with digest %.12s, staged is version %d with digest %.12s",
			s.Version, s.Digest, d.version(), digest)
	}
	list, err := r.authorities(d)
	if err != nil {
		return err
	}
	payload, err := d.payload()
	if err != nil {
		return err
	}
	sig, err := hex.DecodeString(s.Sig)
	if err != nil {
		return err
	}
	for _, a := range list {
		for _, id := range a.set.ids {
			if id != s.KeyID || a.set.keys[id] == nil {
				continue
			}
			if !checkSignature(a.set.keys[id], payload, sig) {
				return refuse("bad-signature", what, "the signature of key %.12s does not verify", id)
			}
			return r.saveSignature(s)
		}
	}
	return refuse("no-say", what, "key %.12s is not one of this role's", s.KeyID)
}

func (r *Repo) saveSignature(s Signature) error {
	s.Format = 1
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	name := fmt.Sprintf("%d.%s.sig.%.16s.json", s.Version, s.Role, s.KeyID)
	if err := replaceFile(filepath.Join(r.stagedDir(), name), append(b, '\n'), 0o644); err != nil {
		return err
	}
	return r.record(Action{Action: "signed", Role: s.Role, Version: s.Version, Digest: s.Digest, Key: s.KeyID})
}

// Accept puts a proposal in force. Every authority's threshold must be met: for
// a root that of the root before and its own. Afterwards documents that the new
// keys no longer cover are staged again, to be signed by the new ones.
func (r *Repo) Accept(role string) error {
	d, err := r.staged(role)
	if errors.Is(err, errAbsent) {
		return refuse("no-proposal", "accept "+role, "nothing is staged for this role")
	}
	if err != nil {
		return err
	}
	if err := r.acceptable(d); err != nil {
		return err
	}
	if err := r.install(d, "accepted"); err != nil {
		return err
	}
	if err := r.unstage(role); err != nil {
		return err
	}
	return r.restage(role)
}

// acceptable checks a signed document as strictly as a device would, and that
// it follows the one in force.
func (r *Repo) acceptable(d *document) error {
	what := fmt.Sprintf("accept %s %d", d.role, d.version())
	next := int64(1)
	if cur, err := r.current(d.role); err == nil {
		next = cur.version() + 1
	} else if !errors.Is(err, errAbsent) {
		return err
	}
	if d.version() != next {
		return refuse("version-range", what, "the next version is %d", next)
	}
	now := r.now()
	if !d.expires().After(now) {
		return refuse("metadata-expired", what, "it expired on %s; stage it again", formatTime(d.expires()))
	}
	if d.issued().After(now.Add(time.Minute)) {
		return refuse("from-the-future", what, "it says it was issued on %s", formatTime(d.issued()))
	}
	list, err := r.authorities(d)
	if err != nil {
		return err
	}
	for _, a := range list {
		t, err := r.progress(a, d)
		if err != nil {
			return err
		}
		if err := a.verify(d); err != nil {
			return refuse("threshold", what, "%d of %d signatures by keys of %s", t.Have, t.Need, a.name)
		}
	}
	return nil
}

// install writes a signed document to metadata/, keeping only signatures by
// keys that have a say, and records it.
func (r *Repo) install(d *document, action string) error {
	b, err := d.encode()
	if err != nil {
		return err
	}
	if err := checkDocument(d, len(b)); err != nil {
		return err
	}
	name := filepath.Join(r.metadataDir(), fileName(d.role, d.version()))
	if d.role == roleTimestamp {
		err = replaceFile(name, b, 0o644)
	} else {
		err = keepFile(name, b)
	}
	if err != nil {
		return err
	}
	digest, err := d.digest()
	if err != nil {
		return err
	}
	return r.record(Action{Action: action, Role: d.role, Version: d.version(), Digest: digest})
}

// restage stages again what a change of keys in role has left without valid
// signatures. Snapshot and timestamp are not staged; publishing signs them.
func (r *Repo) restage(role string) error {
	var affected []string
	switch role {
	case roleRoot:
		affected = []string{roleTargets}
	case roleTargets:
		t, err := r.current(roleTargets)
		if err != nil {
			return err
		}
		affected = delegated(t)
	}
	for _, role := range affected {
		d, err := r.current(role)
		if errors.Is(err, errAbsent) {
			continue
		}
		if err != nil {
			return err
		}
		list, err := r.authorities(d)
		if err != nil {
			return err
		}
		if len(list) == 1 && list[0].verify(d) == nil {
			continue
		}
		if _, err := newest(r.stagedDir(), role); err == nil {
			continue // an edit of it is waiting and will be signed by the new keys
		}
		if d, err = d.clone(); err != nil {
			return err
		}
		if err := r.stage(d, "its keys have changed"); err != nil {
			return err
		}
	}
	return nil
}

func formatTime(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func cutFile(uri string) (string, bool) { return strings.CutPrefix(uri, schemeFile) }
