// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"crypto/sha256"
	"path/filepath"

	"github.com/backstay/backstay/update"
)

// EditAssignment lets a test sign a statement that StartRollout would refuse.
func (r *Repo) EditAssignment(product string, edit func(*update.Assignment)) error {
	_, err := r.editAssignment(product, "test", func(a *update.Assignment) error { edit(a); return nil })
	return err
}

// WriteOrder is the order in which Publish writes, by group.
func (r *Repo) WriteOrder() ([][]string, error) {
	s, err := r.build()
	if err != nil {
		return nil, err
	}
	return s.order(), nil
}

// ParsePolicy is for the fuzz test.
func ParsePolicy(b []byte) error {
	_, err := parsePolicy(b)
	return err
}

// SignatureCount is how many signatures a document in force carries.
func (r *Repo) SignatureCount(role string) (int, error) {
	d, err := r.current(role)
	if err != nil {
		return 0, err
	}
	return len(*d.head().sigs), nil
}

// Sum is the hex SHA-256 of a string.
func Sum(s string) string { return hexDigest(sha256.Sum256([]byte(s))) }

// StageVersion stages a role's document and then gives it another version.
func (r *Repo) StageVersion(role string, version int64) error {
	d, err := r.editable(role)
	if err != nil {
		return err
	}
	if err := r.stage(d, "test"); err != nil {
		return err
	}
	if err := r.unstage(role); err != nil {
		return err
	}
	d.stamp(version, r.now(), r.policy.Expiry.of(role))
	b, err := d.encode()
	if err != nil {
		return err
	}
	return replaceFile(filepath.Join(r.stagedDir(), fileName(role, version)), b, 0o644)
}

// SetKeyURI changes where the policy says a key is.
func (r *Repo) SetKeyURI(id, uri string) { r.policy.Keys[id] = uri }
