// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"bytes"
	"crypto"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Proposal is a staged document: the next version of a role, not in force until
// enough keys have signed it and it is accepted.
type Proposal struct {
	Role    string      `json:"role"`
	Version int64       `json:"version"`
	Digest  string      `json:"digest"`  // SHA-256 of the signed part; what custodians compare by voice
	File    string      `json:"file"`    // relative to the repository; hand it to a custodian
	Changes []string    `json:"changes"` // against the version in force
	Needs   []Threshold `json:"needs"`   // all must be met
	Expires string      `json:"expires"` // RFC 3339
}

// Threshold is how far the signatures of one authority have come. A root
// proposal has two: the root in force and the proposed one itself.
type Threshold struct {
	Authority string      `json:"authority"` // "root 1", "targets 3"
	Need      int         `json:"need"`
	Have      int         `json:"have"`
	Keys      []KeyStatus `json:"keys"`
}

// KeyStatus is one key of an authority.
type KeyStatus struct {
	ID     string `json:"id"`
	URI    string `json:"uri,omitempty"` // where the policy says the private key is
	Signed bool   `json:"signed"`
}

// Complete reports whether every threshold is met.
func (p Proposal) Complete() bool {
	for _, n := range p.Needs {
		if n.Have < n.Need {
			return false
		}
	}
	return len(p.Needs) > 0
}

// Signature is a detached signature of a proposal, in the form it travels in
// from a custodian's machine to the repository.
type Signature struct {
	Format  int    `json:"backstay"` // 1
	Role    string `json:"role"`
	Version int64  `json:"version"`
	Digest  string `json:"digest"` // SHA-256 of the signed part
	KeyID   string `json:"keyid"`
	Sig     string `json:"sig"` // hex
}

// stage writes d as the next version of its role, replacing a proposal of that
// version and its signatures.
func (r *Repo) stage(d *document, why string) error {
	next := int64(1)
	cur, err := r.current(d.role)
	switch {
	case err == nil:
		next = cur.version() + 1
	case !errors.Is(err, errAbsent):
		return err
	}
	if next > maxVersion {
		return refuse("version-range", "stage "+d.role, "there is no version after %d", next-1)
	}
	d.stamp(next, r.now(), r.policy.Expiry.of(d.role))
	b, err := d.encode()
	if err != nil {
		return err
	}
	if err := checkDocument(d, len(b)); err != nil {
		return err
	}
	if err := r.unstage(d.role); err != nil {
		return err
	}
	if err := replaceFile(filepath.Join(r.stagedDir(), fileName(d.role, next)), b, 0o644); err != nil {
		return err
	}
	digest, err := d.digest()
	if err != nil {
		return err
	}
	return r.record(Action{Action: "staged", Role: d.role, Version: next, Digest: digest, Detail: why})
}

// checkDocument holds a document to the limits that devices have.
func checkDocument(d *document, size int) error {
	if limit := sizeLimit(d.role); size > limit {
		return refuse("too-large", "stage "+d.role, "%d bytes, devices read %d", size, limit)
	}
	if d.targets != nil && len(d.targets.Signed.Targets) > MaxTargets {
		return refuse("too-large", "stage "+d.role, "%d targets, devices read %d; withdraw old releases", len(d.targets.Signed.Targets), MaxTargets)
	}
	return nil
}

// unstage removes the proposal of a role with its signatures.
func (r *Repo) unstage(role string) error {
	entries, err := os.ReadDir(r.stagedDir())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if _, rest, ok := strings.Cut(e.Name(), "."); ok && (rest == role+".json" || strings.HasPrefix(rest, role+".sig.")) {
			if err := os.Remove(filepath.Join(r.stagedDir(), e.Name())); err != nil {
				return err
			}
		}
	}
	return syncDir(r.stagedDir())
}

// Discard drops the proposal of a role.
func (r *Repo) Discard(role string) error {
	d, err := r.staged(role)
	if err != nil {
		return err
	}
	if err := r.unstage(role); err != nil {
		return err
	}
	return r.record(Action{Action: "discarded", Role: role, Version: d.version()})
}

// staged returns the proposal of a role with the signatures collected so far;
// the error is errAbsent if there is none.
func (r *Repo) staged(role string) (*document, error) {
	d, err := newest(r.stagedDir(), role)
	if err != nil {
		return nil, err
	}
	digest, err := d.digest()
	if err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(r.stagedDir(), fmt.Sprintf("%d.%s.sig.*.json", d.version(), role)))
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		s, err := readSignature(f)
		if err != nil {
			return nil, err
		}
		if s.Role != role || s.Version != d.version() || s.Digest != digest {
			continue // of an earlier form of this proposal
		}
		sig, err := hex.DecodeString(s.Sig)
		if err != nil {
			return nil, fmt.Errorf("read signature %s: %w", f, err)
		}
		d.setSignature(s.KeyID, sig)
	}
	return d, nil
}

// editable returns a copy of what the next version of a role starts from: its
// proposal if there is one, else the version in force.
func (r *Repo) editable(role string) (*document, error) {
	d, err := newest(r.stagedDir(), role)
	if errors.Is(err, errAbsent) {
		d, err = r.current(role)
	}
	if err != nil {
		return nil, err
	}
	return d.clone()
}

func readSignature(file string) (Signature, error) {
	var s Signature
	b, err := readLimited(file, 64<<10)
	if err != nil {
		return s, err
	}
	if s, err = ParseSignature(b); err != nil {
		return s, fmt.Errorf("read %s: %w", file, err)
	}
	return s, nil
}

// ParseSignature reads a detached signature.
func ParseSignature(b []byte) (Signature, error) {
	var s Signature
	if len(b) > 64<<10 {
		return s, fmt.Errorf("read signature: %d bytes, the limit is %d", len(b), 64<<10)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return s, fmt.Errorf("read signature: %w", err)
	}
	if s.Format != 1 || !isRole(s.Role) || len(s.KeyID) != 64 || s.Version < 1 {
		return s, errors.New("read signature: not a detached signature of a proposal")
	}
	if _, err := hex.DecodeString(s.KeyID + s.Sig); err != nil {
		return s, fmt.Errorf("read signature: %w", err)
	}
	return s, nil
}

// isRole accepts the names that roles may have; they become file names.
func isRole(s string) bool {
	if s == "" || len(s) > 80 {
		return false
	}
	for _, c := range s {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// SignProposal signs a proposal file on a machine without the repository. The
// caller has shown the person what it changes: see [Describe].
func SignProposal(proposal []byte, key crypto.Signer) (Signature, error) {
	d, err := parseProposal(proposal)
	if err != nil {
		return Signature{}, err
	}
	return signDocument(d, key)
}

// Describe says what a proposal file changes against the document in force,
// which may be nil for a first version.
func Describe(proposal, inForce []byte) (Proposal, error) {
	d, err := parseProposal(proposal)
	if err != nil {
		return Proposal{}, err
	}
	var old *document
	if inForce != nil {
		if old, err = parseDocument(d.role, inForce); err != nil {
			return Proposal{}, err
		}
	}
	return describe(d, old)
}

func describe(d, old *document) (Proposal, error) {
	digest, err := d.digest()
	if err != nil {
		return Proposal{}, err
	}
	return Proposal{Role: d.role, Version: d.version(), Digest: digest, Changes: diff(old, d),
		File: filepath.Join("staged", fileName(d.role, d.version())), Expires: formatTime(d.expires())}, nil
}

// parseProposal finds the role out from the document itself. Products and the
// assign role are the same type as targets, so the name is in an extra field.
func parseProposal(b []byte) (*document, error) {
	var peek struct {
		Signed struct {
			Type string `json:"_type"`
			Role string `json:"x-role"`
		} `json:"signed"`
	}
	if err := json.Unmarshal(b, &peek); err != nil {
		return nil, fmt.Errorf("read proposal: %w", err)
	}
	role := peek.Signed.Role
	if role == "" {
		role = peek.Signed.Type
	}
	if !isRole(role) {
		return nil, errors.New("read proposal: it does not say for which role it is")
	}
	return parseDocument(role, b)
}

func signDocument(d *document, key crypto.Signer) (Signature, error) {
	id, err := KeyID(key.Public())
	if err != nil {
		return Signature{}, err
	}
	payload, err := d.payload()
	if err != nil {
		return Signature{}, err
	}
	sig, err := signPayload(key, payload)
	if err != nil {
		return Signature{}, fmt.Errorf("sign %s %d: %w", d.role, d.version(), err)
	}
	digest, err := d.digest()
	if err != nil {
		return Signature{}, err
	}
	return Signature{Format: 1, Role: d.role, Version: d.version(), Digest: digest, KeyID: id, Sig: hex.EncodeToString(sig)}, nil
}

// authority is a document that says which keys sign a role.
type authority struct {
	name string
	doc  *document
	set  keySet
}

// authorities lists whose threshold a document of this role must meet.
func (r *Repo) authorities(d *document) ([]authority, error) {
	switch d.role {
	case roleRoot:
		var list []authority
		if d.version() > 1 {
			prev, err := load(r.metadataDir(), roleRoot, d.version()-1)
			if err != nil {
				return nil, err
			}
			list = append(list, authorityOf(prev, roleRoot))
		}
		return append(list, authorityOf(d, roleRoot)), nil
	case roleTargets, roleSnapshot, roleTimestamp:
		root, err := r.current(roleRoot)
		if err != nil {
			return nil, err
		}
		return []authority{authorityOf(root, d.role)}, nil
	}
	targets, err := r.current(roleTargets)
	if err != nil {
		return nil, err
	}
	return []authority{authorityOf(targets, d.role)}, nil
}

func authorityOf(by *document, role string) authority {
	a := authority{name: fmt.Sprintf("%s %d", by.role, by.version()), doc: by}
	if by.root != nil {
		if e := by.root.Signed.Roles[role]; e != nil {
			a.set = keySet{ids: e.KeyIDs, keys: by.root.Signed.Keys, threshold: e.Threshold}
		}
		return a
	}
	if dl := by.targets.Signed.Delegations; dl != nil {
		for _, e := range dl.Roles {
			if e.Name == role {
				a.set = keySet{ids: e.KeyIDs, keys: dl.Keys, threshold: e.Threshold}
			}
		}
	}
	return a
}

// verify checks d with the code that devices use.
func (a authority) verify(d *document) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("verify %s: malformed key: %v", d.role, p)
		}
	}()
	meta := d.head().meta
	if a.doc.root != nil {
		return a.doc.root.VerifyDelegate(d.role, meta)
	}
	return a.doc.targets.VerifyDelegate(d.role, meta)
}

// progress counts the valid signatures of d by a's keys.
func (r *Repo) progress(a authority, d *document) (Threshold, error) {
	t := Threshold{Authority: a.name, Need: a.set.threshold}
	payload, err := d.payload()
	if err != nil {
		return t, err
	}
	for _, id := range a.set.ids {
		signed := false
		for _, s := range *d.head().sigs {
			if key := a.set.keys[id]; s.KeyID == id && key != nil {
				signed = checkSignature(key, payload, s.Signature)
			}
		}
		if signed {
			t.Have++
		}
		t.Keys = append(t.Keys, KeyStatus{ID: id, URI: r.policy.Keys[id], Signed: signed})
	}
	return t, nil
}
