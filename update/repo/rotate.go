// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/backstay/backstay/update"
)

// KeyChange changes who signs for a role.
type KeyChange struct {
	Role      string
	Add       []string // URIs; a file: key that does not exist is created
	Remove    []string // key ids or at least eight of their first digits
	Threshold int      // unchanged if zero
}

// Rotate stages changes of keys: in the next root for root, targets, snapshot
// and timestamp, in the next targets for assign and products. A change without
// content stages the role's document as it is, with a new expiry. It returns
// the roles staged.
//
// A key that is removed is gone for every device that has seen the new version:
// what it signed before and after is refused. The version before is needed as a
// bridge by devices that have slept, so old roots are never deleted.
func (r *Repo) Rotate(changes ...KeyChange) ([]string, error) {
	edits := map[string]*document{}
	for _, c := range changes {
		by, err := r.delegatorOf(c.Role)
		if err != nil {
			return nil, err
		}
		if len(c.Add)+len(c.Remove) == 0 && c.Threshold == 0 {
			by = c.Role // nothing changes but its own expiry
		}
		if edits[by] == nil {
			if edits[by], err = r.editable(by); err != nil {
				return nil, fmt.Errorf("rotate %s: %w", c.Role, err)
			}
		}
		if by == c.Role && len(c.Add)+len(c.Remove) == 0 && c.Threshold == 0 {
			continue
		}
		if err := r.changeKeys(edits[by], c); err != nil {
			return nil, err
		}
	}
	var staged []string
	for _, role := range []string{roleRoot, roleTargets} {
		if d := edits[role]; d != nil {
			if err := r.stage(d, "keys or expiry"); err != nil {
				return staged, err
			}
			staged = append(staged, role)
			delete(edits, role)
		}
	}
	for role, d := range edits {
		if err := r.stage(d, "new expiry"); err != nil {
			return staged, err
		}
		staged = append(staged, role)
	}
	return staged, r.savePolicy()
}

// delegatorOf names the role whose document lists the keys of a role.
func (r *Repo) delegatorOf(role string) (string, error) {
	switch role {
	case roleRoot, roleTargets, roleSnapshot, roleTimestamp:
		return roleRoot, nil
	}
	t, err := r.editable(roleTargets)
	if err != nil {
		return "", err
	}
	if slices.Contains(delegated(t), role) {
		return roleTargets, nil
	}
	return "", refuse("unknown-role", "change keys of "+role, "the roles are root, targets, snapshot, timestamp, %s", strings.Join(delegated(t), ", "))
}

func (r *Repo) changeKeys(d *document, c KeyChange) error {
	a := authorityOf(d, c.Role)
	set := keySet{ids: slices.Clone(a.set.ids), keys: map[string]*metadata.Key{}, threshold: a.set.threshold}
	for _, id := range set.ids {
		set.keys[id] = a.set.keys[id]
	}
	for _, want := range c.Remove {
		id, err := findKey(set.ids, want)
		if err != nil {
			return refuse("unknown-key", "change keys of "+c.Role, "%v", err)
		}
		set.ids = slices.DeleteFunc(set.ids, func(x string) bool { return x == id })
		delete(set.keys, id)
	}
	for _, uri := range c.Add {
		id, key, err := r.prepareKey(uri)
		if err != nil {
			return fmt.Errorf("change keys of %s: %w", c.Role, err)
		}
		if set.keys[id] != nil {
			return refuse("key-twice", "change keys of "+c.Role, "%s is one of its keys already", uri)
		}
		set.ids = append(set.ids, id)
		set.keys[id] = key
	}
	if c.Threshold != 0 {
		set.threshold = c.Threshold
	}
	if err := checkThreshold(c.Role, set.threshold, len(set.ids)); err != nil {
		return err
	}
	if d.targets != nil {
		paths := assignPaths
		if c.Role == rolePolicy {
			paths = policyPaths
		} else if p, ok := strings.CutPrefix(c.Role, productRole("")); ok {
			paths = productPaths(p)
		}
		delegate(d, c.Role, paths, set)
		return nil
	}
	root := &d.root.Signed
	root.Roles[c.Role] = &metadata.Role{KeyIDs: set.ids, Threshold: set.threshold}
	for id, k := range set.keys {
		root.Keys[id] = k
	}
	for id := range root.Keys {
		used := false
		for _, role := range root.Roles {
			used = used || slices.Contains(role.KeyIDs, id)
		}
		if !used {
			delete(root.Keys, id)
		}
	}
	return nil
}

// findKey resolves the beginning of a key id.
func findKey(ids []string, want string) (string, error) {
	var found []string
	for _, id := range ids {
		if len(want) >= 8 && strings.HasPrefix(id, want) {
			found = append(found, id)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return "", fmt.Errorf("no key starts with %q (at least 8 digits are needed)", want)
	}
	return "", fmt.Errorf("%d keys start with %q", len(found), want)
}

// AddProduct stages a new product: its role in the next targets, and an empty
// first document of that role.
func (r *Repo) AddProduct(product string, k RoleKeys) error {
	if !update.IsProduct(product) {
		return refuse("bad-name", "add product", "%q: a product name is up to 64 of a-z, 0-9 and inner hyphens", product)
	}
	role := productRole(product)
	t, err := r.editable(roleTargets)
	if err != nil {
		return err
	}
	if slices.Contains(delegated(t), role) {
		return refuse("exists", "add product "+product, "it is in the repository already")
	}
	set, err := r.prepareKeys(role, k)
	if err != nil {
		return err
	}
	delegate(t, role, productPaths(product), set)
	if err := r.savePolicy(); err != nil {
		return err
	}
	if err := r.stage(t, "product "+product); err != nil {
		return err
	}
	if _, err := r.current(role); !errors.Is(err, errAbsent) {
		return err // it was here before and keeps its history
	}
	return r.stage(newDocument(role), "first version")
}
