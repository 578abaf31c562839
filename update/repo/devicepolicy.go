// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/backstay/backstay/update"
)

// SetDevicePolicy stages a configuration policy for the devices of a product. The first one stages the role policy, too, with
// the given keys, in the next targets. It is in force once the keys of these roles have signed and it is published. What is in
// it is checked by who calls: this package knows signatures, not rules.
func (r *Repo) SetDevicePolicy(product string, policy []byte, k RoleKeys) error {
	what := "set policy of " + product
	products, err := r.products()
	if err != nil {
		return err
	}
	switch {
	case !slices.Contains(products, product):
		return refuse("unknown-product", what, "the repository has no signed product %q", product)
	case len(policy) == 0 || len(policy) > update.MaxPolicy:
		return refuse("too-large", what, "%d bytes, devices read 1 to %d", len(policy), update.MaxPolicy)
	}
	d, err := r.policyDocument(k)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	digest := sha256.Sum256(policy)
	if err := keepFile(r.imageFile(digest), policy); err != nil {
		return err
	}
	path := update.PolicyPath(product)
	entry := &metadata.TargetFiles{Length: int64(len(policy)), Hashes: metadata.Hashes{"sha256": digest[:]}, Path: path}
	if sameTarget(d.targets.Signed.Targets[path], entry) {
		return refuse("exists", what, "it is the policy in the repository, unchanged")
	}
	d.targets.Signed.Targets[path] = entry
	return r.stage(d, "policy of "+product)
}

// policyDocument returns what the next version of the role starts from. It makes the role when there is none.
func (r *Repo) policyDocument(k RoleKeys) (*document, error) {
	d, err := r.editable(rolePolicy)
	if !errors.Is(err, errAbsent) {
		if err == nil && len(k.Keys) > 0 {
			return nil, refuse("exists", "set keys of policy", "the role has keys; change them with repo rotate")
		}
		return d, err
	}
	t, err := r.editable(roleTargets)
	if err != nil {
		return nil, err
	}
	set, err := r.prepareKeys(rolePolicy, k)
	if err != nil {
		return nil, err
	}
	delegate(t, rolePolicy, policyPaths, set)
	if err := r.savePolicy(); err != nil {
		return nil, err
	}
	return newDocument(rolePolicy), r.stage(t, "role policy")
}

// DevicePolicy returns the policy of a product and whether it is only staged; nil when there is none.
func (r *Repo) DevicePolicy(product string) (policy []byte, staged bool, err error) {
	d, err := newest(r.stagedDir(), rolePolicy)
	staged = err == nil
	if errors.Is(err, errAbsent) {
		d, err = r.current(rolePolicy)
	}
	if errors.Is(err, errAbsent) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	t := d.targets.Signed.Targets[update.PolicyPath(product)]
	if t == nil {
		return nil, false, nil
	}
	if len(t.Hashes) != 1 || len(t.Hashes["sha256"]) != 32 {
		return nil, false, fmt.Errorf("read policy of %s: not exactly one SHA-256", product)
	}
	digest := [32]byte(t.Hashes["sha256"])
	b, err := readLimited(r.imageFile(digest), update.MaxPolicy)
	if err == nil && sha256.Sum256(b) != digest {
		err = refuse("bad-hash", "read policy of "+product, "the file is not the one that was signed")
	}
	return b, staged, err
}
