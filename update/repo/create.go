// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// Setup says how a new repository starts. Every field may be zero.
type Setup struct {
	Root, Targets, Snapshot, Timestamp, Assign RoleKeys

	Expiry  Expiry // DefaultExpiry if zero
	Publish string // "public" if empty
}

// RoleKeys are the keys of one role.
type RoleKeys struct {
	// Keys are URIs. A file: key that does not exist is created. Without any,
	// one key is created as file:keys/<role>-1.pem.
	Keys []string

	// Threshold is how many of the keys must sign; 1 if zero.
	Threshold int
}

// Create makes a repository in dir, which must not hold one: it stages the
// first root, targets and assign documents, signs them with the keys that are
// on this machine and accepts what is complete. With all keys here that is all
// of it; otherwise the custodians sign next.
func Create(dir string, o Options, s Setup) (*Repo, error) {
	if _, err := os.Stat(filepath.Join(dir, "policy.json")); err == nil {
		return nil, refuse("exists", "create repository "+dir, "there is one already")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	r := newRepo(dir, o)
	var err error
	if r.lock, err = lockDir(dir, r.wait); err != nil {
		return nil, err
	}
	if err := r.create(s); err != nil {
		r.Close()
		return nil, fmt.Errorf("create repository: %w", err)
	}
	return r, nil
}

func (r *Repo) create(s Setup) error {
	if s.Expiry == (Expiry{}) {
		s.Expiry = DefaultExpiry()
	}
	if s.Publish == "" {
		s.Publish = "public"
	}
	if err := s.Expiry.check(); err != nil {
		return err
	}
	r.policy = Policy{Expiry: s.Expiry, Keys: map[string]string{}, Publish: s.Publish}

	root := newDocument(roleRoot)
	for role, k := range map[string]RoleKeys{
		roleRoot: s.Root, roleTargets: s.Targets, roleSnapshot: s.Snapshot, roleTimestamp: s.Timestamp,
	} {
		keys, err := r.prepareKeys(role, k)
		if err != nil {
			return err
		}
		root.root.Signed.Roles[role] = &metadata.Role{KeyIDs: keys.ids, Threshold: keys.threshold}
		for id, key := range keys.keys {
			root.root.Signed.Keys[id] = key
		}
	}
	targets := newDocument(roleTargets)
	keys, err := r.prepareKeys(roleAssign, s.Assign)
	if err != nil {
		return err
	}
	delegate(targets, roleAssign, assignPaths, keys)

	// The policy comes last of the plain files: with it the repository exists.
	ignore := []byte("/keys/\n/images/\n/public/\n/lock\n.new-*\n")
	if err := replaceFile(filepath.Join(r.dir, ".gitignore"), ignore, 0o644); err != nil {
		return err
	}
	if err := r.savePolicy(); err != nil {
		return err
	}
	if err := r.record(Action{Action: "created"}); err != nil {
		return err
	}
	for _, d := range []*document{root, targets, newDocument(roleAssign)} {
		if err := r.stage(d, "first version"); err != nil {
			return err
		}
	}
	_, err = r.SignAll()
	return err
}

// keySet is what a delegation needs to know about a role's keys.
type keySet struct {
	ids       []string
	keys      map[string]*metadata.Key
	threshold int
}

// prepareKeys opens or creates the keys of a role and remembers where they are.
func (r *Repo) prepareKeys(role string, k RoleKeys) (keySet, error) {
	if len(k.Keys) == 0 {
		k.Keys = []string{schemeFile + filepath.Join("keys", role+"-1.pem")}
	}
	if k.Threshold == 0 {
		k.Threshold = 1
	}
	set := keySet{keys: map[string]*metadata.Key{}, threshold: k.Threshold}
	for _, uri := range k.Keys {
		id, key, err := r.prepareKey(uri)
		if err != nil {
			return set, fmt.Errorf("%s: %w", role, err)
		}
		if set.keys[id] != nil {
			return set, refuse("key-twice", "set keys of "+role, "%s is the same key as another one", uri)
		}
		set.ids = append(set.ids, id)
		set.keys[id] = key
	}
	return set, checkThreshold(role, k.Threshold, len(set.ids))
}

func checkThreshold(role string, threshold, keys int) error {
	if threshold < 1 || threshold > keys {
		return refuse("threshold", "set keys of "+role, "a threshold of %d cannot be met by %d keys", threshold, keys)
	}
	return nil
}

// prepareKey returns the TUF form of the key behind a URI, creating a key file
// that does not exist.
func (r *Repo) prepareKey(uri string) (string, *metadata.Key, error) {
	pub, err := r.public(uri)
	if path, ok := cutFile(uri); ok && errors.Is(err, ErrNoKey) {
		signer, kerr := NewKey(r.keyPath(path))
		if kerr != nil {
			return "", nil, kerr
		}
		pub, err = signer.Public(), nil
	}
	if err != nil {
		return "", nil, err
	}
	key, err := tufKey(pub)
	if err != nil {
		return "", nil, err
	}
	id, err := key.ID()
	if err != nil {
		return "", nil, err
	}
	r.policy.Keys[id] = uri
	return id, key, nil
}

// delegate makes d delegate paths to a role, or changes the keys of a role it
// delegates to.
func delegate(d *document, role, paths string, set keySet) {
	s := &d.targets.Signed
	if s.Delegations == nil {
		s.Delegations = &metadata.Delegations{}
	}
	dl := s.Delegations
	if dl.Keys == nil {
		dl.Keys = map[string]*metadata.Key{}
	}
	for id, k := range set.keys {
		dl.Keys[id] = k
	}
	entry := metadata.DelegatedRole{Name: role, KeyIDs: set.ids, Threshold: set.threshold, Terminating: true, Paths: []string{paths}}
	for i := range dl.Roles {
		if dl.Roles[i].Name == role {
			dl.Roles[i] = entry
			dropUnusedKeys(dl)
			return
		}
	}
	dl.Roles = append(dl.Roles, entry)
}

// dropUnusedKeys removes keys that no role uses any more, so that a revoked key
// is nowhere in the document.
func dropUnusedKeys(dl *metadata.Delegations) {
	used := map[string]bool{}
	for _, role := range dl.Roles {
		for _, id := range role.KeyIDs {
			used[id] = true
		}
	}
	for id := range dl.Keys {
		if !used[id] {
			delete(dl.Keys, id)
		}
	}
}

// logAttrs gives the composition root what actions.log has.
func logAttrs(a Action) []slog.Attr {
	return []slog.Attr{
		slog.String("role", a.Role), slog.Int64("version", a.Version), slog.String("digest", a.Digest),
		slog.String("key", a.Key), slog.String("detail", a.Detail),
	}
}
