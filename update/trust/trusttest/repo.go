// SPDX-License-Identifier: Apache-2.0

// Package trusttest makes TUF repositories, whole and broken, for tests of
// package trust. Keys are generated when a test runs and die with it.
//
// It has no policy: it signs and serves whatever the test asks for, so that no
// check of package trust is tested against itself.
package trusttest

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/cjson"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// Start is the time at which repositories of this package are made.
var Start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// Product is the product whose role a new repository has.
const Product = "acme-cam"

// ProductRole is the offline role of Product.
const ProductRole = "product-" + Product

// Key is a signing key with the form that metadata lists it in.
type Key struct {
	ID     string
	Public *metadata.Key
	Sign   func(payload []byte) []byte
}

// NewKey returns a new Ed25519 key.
func NewKey(t testing.TB) *Key {
	t.Helper()
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	check(t, err)
	return SignerKey(t, priv, func(msg []byte) []byte { return ed25519.Sign(priv, msg) })
}

// SignerKey returns a key over a private key of any type go-tuf knows.
func SignerKey(t testing.TB, priv crypto.Signer, sign func([]byte) []byte) *Key {
	t.Helper()
	pub, err := metadata.KeyFromPublicKey(priv.Public())
	check(t, err)
	id, err := pub.ID()
	check(t, err)
	return &Key{ID: id, Public: pub, Sign: sign}
}

// Repo is a repository in memory. A test changes the exported metadata, calls
// Publish, and may then change the served Files at will.
type Repo struct {
	t         testing.TB
	Now       time.Time
	Root      *metadata.Metadata[metadata.RootType]
	Timestamp *metadata.Metadata[metadata.TimestampType]
	Snapshot  *metadata.Metadata[metadata.SnapshotType]
	Roles     map[string]*metadata.Metadata[metadata.TargetsType]
	Keys      map[string][]*Key // by role; all of them sign
	Factory   []byte            // the first published root

	mu     sync.Mutex
	files  map[string][]byte // by path below the server's root
	asked  []string
	bodies func(path string, b []byte) []byte
}

// New returns a repository in backstay's form, published once: offline roles
// root, targets and ProductRole, online roles timestamp, snapshot and assign.
func New(t testing.TB) *Repo {
	t.Helper()
	r := &Repo{
		t: t, Now: Start, files: map[string][]byte{},
		Root:      metadata.Root(Start.AddDate(1, 0, 0)),
		Timestamp: metadata.Timestamp(Start.AddDate(0, 0, 7)),
		Snapshot:  metadata.Snapshot(Start.AddDate(0, 0, 30)),
		Roles:     map[string]*metadata.Metadata[metadata.TargetsType]{},
		Keys:      map[string][]*Key{},
	}
	for _, role := range []string{"root", "timestamp", "snapshot", "targets"} {
		k := NewKey(t)
		r.Keys[role] = []*Key{k}
		check(t, r.Root.Signed.AddKey(k.Public, role))
	}
	r.Roles["targets"] = metadata.Targets(Start.AddDate(0, 6, 0))
	r.Delegate("targets", ProductRole, "firmware/"+Product+"/*")
	r.Delegate("targets", "assign", "assign/*")
	r.Publish()
	r.Factory = r.File("metadata/1.root.json")
	return r
}

// Delegate adds a role with a new key below delegator and makes it if it is
// new; a role that exists keeps its keys.
func (r *Repo) Delegate(delegator, role string, paths ...string) {
	r.t.Helper()
	if r.Roles[role] == nil {
		r.Roles[role] = metadata.Targets(Start.AddDate(0, 6, 0))
		r.Keys[role] = []*Key{NewKey(r.t)}
	}
	d := r.Roles[delegator].Signed.Delegations
	if d == nil {
		d = &metadata.Delegations{Keys: map[string]*metadata.Key{}}
		r.Roles[delegator].Signed.Delegations = d
	}
	entry := metadata.DelegatedRole{Name: role, Threshold: 1, Paths: paths}
	for _, k := range r.Keys[role] {
		d.Keys[k.ID] = k.Public
		entry.KeyIDs = append(entry.KeyIDs, k.ID)
	}
	d.Roles = append(d.Roles, entry)
}

// AddTarget lists data as a target of a role and serves it.
func (r *Repo) AddTarget(role, name string, data []byte, custom any) *metadata.TargetFiles {
	r.t.Helper()
	f := r.ListTarget(role, name, int64(len(data)), sha256.Sum256(data), custom)
	dir, base := path.Split(name)
	r.SetFile("targets/"+dir+f.Hashes["sha256"].String()+"."+base, data)
	return f
}

// ListTarget lists a target without serving it.
func (r *Repo) ListTarget(role, name string, length int64, sum [32]byte, custom any) *metadata.TargetFiles {
	r.t.Helper()
	f := metadata.TargetFile()
	f.Length, f.Hashes = length, metadata.Hashes{"sha256": sum[:]}
	if custom != nil {
		raw, err := json.Marshal(custom)
		check(r.t, err)
		f.Custom = (*json.RawMessage)(&raw)
	}
	r.Roles[role].Signed.Targets[name] = f
	return f
}

// Rotate gives a top role a new key and takes the old ones away. A new root
// version is published by the next Publish("root", ...).
func (r *Repo) Rotate(role string) {
	r.t.Helper()
	for _, k := range r.Keys[role] {
		check(r.t, r.Root.Signed.RevokeKey(k.ID, role))
	}
	r.Keys[role] = []*Key{NewKey(r.t)}
	check(r.t, r.Root.Signed.AddKey(r.Keys[role][0].Public, role))
}

// Publish signs and serves a new version of the given roles, first those that
// others list; without any, of all but the root. The first makes version 1 of
// all.
func (r *Repo) Publish(roles ...string) {
	r.t.Helper()
	all := len(roles) == 0
	first := r.File("metadata/1.root.json") == nil
	want := func(role string) bool { return all || slices.Contains(roles, role) }
	bump := func(v *int64) {
		if !first {
			*v++
		}
	}
	if first || slices.Contains(roles, "root") {
		bump(&r.Root.Signed.Version)
		r.SignRoot(r.Keys["root"])
	}
	for _, name := range slices.Sorted(maps.Keys(r.Roles)) {
		md := r.Roles[name]
		if !want(name) && r.Snapshot.Signed.Meta[name+".json"] != nil {
			continue
		}
		if r.Snapshot.Signed.Meta[name+".json"] != nil {
			bump(&md.Signed.Version)
		}
		raw := Sign(r.t, md, r.Keys[name])
		r.SetFile(fmt.Sprintf("metadata/%d.%s.json", md.Signed.Version, name), raw)
		r.Snapshot.Signed.Meta[name+".json"] = Pin(raw, md.Signed.Version)
	}
	if want("snapshot") {
		bump(&r.Snapshot.Signed.Version)
		r.Snapshot.Signed.UnrecognizedFields = r.issued()
		r.SignSnapshot()
	}
	if want("timestamp") {
		bump(&r.Timestamp.Signed.Version)
		r.Timestamp.Signed.UnrecognizedFields = r.issued()
		r.SignTimestamp()
	}
}

func (r *Repo) issued() map[string]any {
	return map[string]any{"x-issued": r.Now.UTC().Format(time.RFC3339)}
}

// SignRoot signs the root as it is with the given keys and serves it.
func (r *Repo) SignRoot(keys []*Key) {
	r.t.Helper()
	r.SetFile(fmt.Sprintf("metadata/%d.root.json", r.Root.Signed.Version), Sign(r.t, r.Root, keys))
}

// SignSnapshot signs the snapshot as it is, serves it and pins it in the
// timestamp, which is not signed.
func (r *Repo) SignSnapshot() {
	r.t.Helper()
	raw := Sign(r.t, r.Snapshot, r.Keys["snapshot"])
	r.SetFile(fmt.Sprintf("metadata/%d.snapshot.json", r.Snapshot.Signed.Version), raw)
	r.Timestamp.Signed.Meta["snapshot.json"] = Pin(raw, r.Snapshot.Signed.Version)
}

// SignTimestamp signs the timestamp as it is and serves it.
func (r *Repo) SignTimestamp() {
	r.t.Helper()
	r.SetFile("metadata/timestamp.json", Sign(r.t, r.Timestamp, r.Keys["timestamp"]))
}

// Pin describes a file as a snapshot or timestamp lists it.
func Pin(raw []byte, version int64) *metadata.MetaFiles {
	sum := sha256.Sum256(raw)
	return &metadata.MetaFiles{Version: version, Length: int64(len(raw)), Hashes: metadata.Hashes{"sha256": sum[:]}}
}

// Sign returns md with exactly the signatures of keys.
func Sign[T metadata.Roles](t testing.TB, md *metadata.Metadata[T], keys []*Key) []byte {
	t.Helper()
	payload, err := cjson.EncodeCanonical(md.Signed)
	check(t, err)
	md.Signatures = nil
	for _, k := range keys {
		md.Signatures = append(md.Signatures, metadata.Signature{KeyID: k.ID, Signature: k.Sign(payload)})
	}
	raw, err := md.ToBytes(false)
	check(t, err)
	return raw
}

// SignMap signs a signed part of any shape.
func SignMap(t testing.TB, signed map[string]any, keys ...*Key) []byte {
	t.Helper()
	raw, err := TrySignMap(signed, keys...)
	check(t, err)
	return raw
}

// TrySignMap is SignMap for what may have no canonical form.
func TrySignMap(signed map[string]any, keys ...*Key) ([]byte, error) {
	payload, err := cjson.EncodeCanonical(signed)
	if err != nil {
		return nil, err
	}
	sigs := []map[string]any{}
	for _, k := range keys {
		sigs = append(sigs, map[string]any{"keyid": k.ID, "sig": fmt.Sprintf("%x", k.Sign(payload))})
	}
	return json.Marshal(map[string]any{"signed": signed, "signatures": sigs})
}

// Signed returns the signed part of metadata for a test to bend.
func Signed(t testing.TB, raw []byte) map[string]any {
	t.Helper()
	var md struct {
		Signed map[string]any `json:"signed"`
	}
	check(t, json.Unmarshal(raw, &md))
	return md.Signed
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
