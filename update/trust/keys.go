// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"crypto/ed25519"
	"encoding/hex"
	"fmt"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// Which keys of a role can count.
//
// go-tuf gives up on a role as soon as the role lists a key it cannot use, even
// when the threshold is met without it. A repository could then never introduce
// a new kind of key: every device in the field would refuse the root that names
// it. So keys that cannot be used are taken out of a role's list first; the
// threshold stays, so this can only make a role harder to sign for.
//
// go-tuf verifies the re-serialised form of what is signed, so that must stay
// as parsed. What can be changed is the delegator, from which only keys and
// thresholds are read. A root is both to itself: it is verified by a copy whose
// roles are thinned out, and that copy is kept as the trusted root.

// delegator returns md as one that only lists usable keys. md is unchanged.
func delegator(md *metadata.Metadata[metadata.RootType]) *metadata.Metadata[metadata.RootType] {
	d := *md
	d.Signed.Roles = make(map[string]*metadata.Role, len(md.Signed.Roles))
	for name, r := range md.Signed.Roles {
		d.Signed.Roles[name] = &metadata.Role{KeyIDs: usable(r.KeyIDs, md.Signed.Keys), Threshold: r.Threshold}
	}
	return &d
}

// thin takes unusable keys out of the delegations of an already verified role.
func thin(d *metadata.Delegations) {
	for i := range d.Roles {
		d.Roles[i].KeyIDs = usable(d.Roles[i].KeyIDs, d.Keys)
	}
	if d.SuccinctRoles != nil {
		d.SuccinctRoles.KeyIDs = usable(d.SuccinctRoles.KeyIDs, d.Keys)
	}
}

// usable keeps an id without a key: go-tuf refuses such a role, rightly.
func usable(ids []string, keys map[string]*metadata.Key) []string {
	out := make([]string, 0, len(ids))
	for _, id := range ids {
		if k, ok := keys[id]; !ok || usableKey(k) {
			out = append(out, id)
		}
	}
	return out
}

func usableKey(k *metadata.Key) bool {
	switch k.Type {
	case metadata.KeyTypeEd25519:
		b, err := hex.DecodeString(k.Value.PublicKey)
		return err == nil && len(b) == ed25519.PublicKeySize
	case metadata.KeyTypeECDSA_SHA2_P256, metadata.KeyTypeECDSA_SHA2_P256_COMPAT, metadata.KeyTypeRSASSA_PSS_SHA256:
		_, err := k.ToPublicKey()
		return err == nil
	}
	return false
}

// factoryRoot reads the root that is trusted as it is. It must still be signed
// by its own keys, so that a truncated or unfinished file is noticed in the
// factory and not in the field.
func factoryRoot(raw []byte) (*metadata.Metadata[metadata.RootType], error) {
	return readRoot(raw, nil)
}

// readRoot verifies raw as the root that follows prev, or by itself if prev is
// nil, and returns it as delegator. Expiry is not looked at: an expired root
// may still lead to a newer one.
func readRoot(raw []byte, prev *metadata.Metadata[metadata.RootType]) (*metadata.Metadata[metadata.RootType], error) {
	const what = "root.json"
	if err := scan(raw, metadata.ROOT); err != nil {
		return nil, refuse("malformed-metadata", what, err, "%v", err)
	}
	var self *metadata.Metadata[metadata.RootType]
	err := guard(func() error {
		md, err := metadata.Root().FromBytes(raw)
		if err != nil {
			return fmt.Errorf("%w: %w", errMalformed, err)
		}
		self = delegator(md)
		if prev != nil {
			if err := prev.VerifyDelegate(metadata.ROOT, md); err != nil {
				return err
			}
			if want := prev.Signed.Version + 1; md.Signed.Version != want {
				return refuse("wrong-version", what, nil, "expected version %d, its content says %d", want, md.Signed.Version)
			}
		}
		if md.Signed.Version < 1 {
			return fmt.Errorf("%w: version %d", errMalformed, md.Signed.Version)
		}
		return self.VerifyDelegate(metadata.ROOT, md)
	})
	if err != nil {
		return nil, classify(what, err)
	}
	return self, nil
}
