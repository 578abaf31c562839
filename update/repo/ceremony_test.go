// SPDX-License-Identifier: Apache-2.0

package repo_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/backstay/backstay/update/repo"
)

// custodian is a person with a root key on another machine.
type custodian struct {
	key crypto.Signer
	uri string // public half, as the repository knows it
	id  string
}

func newCustodian(t *testing.T) custodian {
	t.Helper()
	dir := t.TempDir()
	key, err := repo.NewKey(filepath.Join(dir, "root.pem"))
	must(t, err)
	return custodianOf(t, dir, key)
}

func custodianOf(t *testing.T, dir string, key crypto.Signer) custodian {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	must(t, err)
	pub := filepath.Join(dir, "root.pub")
	must(t, os.WriteFile(pub, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o644))
	id, err := repo.KeyID(key.Public())
	must(t, err)
	return custodian{key, "pub:" + pub, id}
}

// sign does what the custodian's machine does: it sees only the file.
func (f *fleet) sign(c custodian, role string) error {
	f.t.Helper()
	p, err := f.Proposal(role)
	must(f.t, err)
	b, err := os.ReadFile(filepath.Join(f.dir, p.File))
	must(f.t, err)
	described, err := repo.Describe(b, nil)
	must(f.t, err)
	if described.Role != role || described.Digest != p.Digest {
		f.t.Fatalf("the custodian sees %s %s, the repository %s %s", described.Role, described.Digest, role, p.Digest)
	}
	s, err := repo.SignProposal(b, c.key)
	must(f.t, err)
	return f.AddSignature(s)
}

func TestOneOfTwoSignaturesIsRefused(t *testing.T) {
	a, b := newCustodian(t), newCustodian(t)
	f := newFleet(t, repo.Setup{Root: repo.RoleKeys{Keys: []string{a.uri, b.uri}, Threshold: 2}})
	wantCode(t, f.Accept("root"), "threshold")
	must(t, f.sign(a, "root"))
	wantCode(t, f.Accept("root"), "threshold")
	must(t, f.sign(a, "root")) // twice is still once
	wantCode(t, f.Accept("root"), "threshold")
	if _, err := f.FactoryRoot(); err == nil {
		t.Fatal("a root with one signature of two is in force")
	}
	p, err := f.Proposal("root")
	must(t, err)
	if n := p.Needs[0]; p.Complete() || n.Need != 2 || n.Have != 1 || len(n.Keys) != 2 {
		t.Errorf("got %+v", p.Needs)
	}
	if !slices.Contains(p.Changes, "root: no key may be lost") {
		t.Errorf("the margin is not said: %q", p.Changes)
	}
	must(t, f.sign(b, "root"))
	f.signAll() // accepts root, then targets and assign with the keys here
	if n, err := f.SignatureCount("root"); n != 2 || err != nil {
		t.Errorf("root has %d signatures: %v", n, err)
	}
	f.publish()
}

// A device that has seen root 2 refuses what the key that root 2 revoked signs,
// and needs the old key's word to get there.
func TestRotationRevokesAKey(t *testing.T) {
	a, b, c := newCustodian(t), newCustodian(t), newCustodian(t)
	f := newFleet(t, repo.Setup{Root: repo.RoleKeys{Keys: []string{a.uri, b.uri}, Threshold: 2}})
	must(t, f.sign(a, "root"))
	must(t, f.sign(b, "root"))
	f.signAll()
	store := &memory{}
	must(t, f.AddProduct("acme-cam", repo.RoleKeys{}))
	f.signAll()
	f.release(repo.NewRelease{Version: "1.0.0"}, "image one")
	f.start("1.0.0")
	f.publish()
	_, _, err := f.device(f.PublishDir(), store, cam(""))
	must(t, err)

	f.now = f.now.Add(time.Hour)
	if _, err := f.Rotate(repo.KeyChange{Role: "root", Add: []string{c.uri}, Remove: []string{b.id[:10]}}); err != nil {
		t.Fatal(err)
	}
	must(t, f.sign(a, "root"))
	must(t, f.sign(c, "root"))
	wantCode(t, f.Accept("root"), "threshold") // the old root has 1 of 2
	must(t, f.sign(b, "root"))
	must(t, f.Accept("root"))
	f.publish()
	_, _, err = f.device(f.PublishDir(), store, cam(""))
	must(t, err)
	if n := len(store.state.Roots); n != 1 {
		t.Errorf("the device has %d later roots", n)
	}

	if _, err := f.Rotate(repo.KeyChange{Role: "root"}); err != nil {
		t.Fatal(err)
	}
	wantCode(t, f.sign(b, "root"), "no-say")
	must(t, f.sign(a, "root"))
	wantCode(t, f.Accept("root"), "threshold")
	must(t, f.sign(c, "root"))
	must(t, f.Accept("root"))
	if p := f.publish(); p.Root != 3 {
		t.Errorf("got %+v", p)
	}
	// A device from the factory climbs all of them.
	_, _, err = f.device(f.PublishDir(), &memory{}, cam(""))
	must(t, err)
}

// Changing who signs targets and a product leaves documents that nobody of the
// new keys has signed. They must be signed again before anything is published.
func TestRotationOfOfflineKeysSignsAgain(t *testing.T) {
	f := newProduct(t)
	f.publish()
	old := roleKey(t, f, "targets")
	if _, err := f.Rotate(repo.KeyChange{Role: "targets", Add: []string{"file:keys/targets-2.pem"}, Remove: []string{old}}); err != nil {
		t.Fatal(err)
	}
	if s, err := f.Sign("root"); err != nil || !s.Accepted {
		t.Fatal(s, err)
	}
	_, err := f.Publish(t.Context())
	wantCode(t, err, "unsigned")
	f.signAll()
	f.publish()

	old = roleKey(t, f, "product-acme-cam")
	if _, err := f.Rotate(repo.KeyChange{Role: "product-acme-cam", Add: []string{"file:keys/cam-2.pem"}, Remove: []string{old}}); err != nil {
		t.Fatal(err)
	}
	f.signAll()
	f.publish()
	if now := roleKey(t, f, "product-acme-cam"); now == old {
		t.Error("the key is the old one")
	}
}

func roleKey(t *testing.T, f *fleet, role string) string {
	t.Helper()
	if _, err := f.Rotate(repo.KeyChange{Role: role}); err != nil {
		t.Fatal(err)
	}
	p, err := f.Proposal(role)
	must(t, err)
	must(t, f.Discard(role))
	return p.Needs[0].Keys[0].ID
}

// Online keys rotate through a new root; publishing signs with the new ones.
func TestRotationOfTheTimestampKey(t *testing.T) {
	f := newProduct(t)
	f.publish()
	s, err := f.Status()
	must(t, err)
	i := slices.IndexFunc(s.Roles, func(r repo.RoleStatus) bool { return r.Role == "timestamp" })
	if s.Roles[i].Version != 1 {
		t.Fatalf("got %+v", s.Roles[i])
	}
	if _, err := f.Rotate(repo.KeyChange{Role: "timestamp", Add: []string{"file:keys/timestamp-2.pem"}, Threshold: 2}); err != nil {
		t.Fatal(err)
	}
	f.signAll()
	if p := f.publish(); p.Timestamp != 2 {
		t.Errorf("got %+v", p)
	}
	if n, err := f.SignatureCount("timestamp"); n != 2 || err != nil {
		t.Errorf("timestamp has %d signatures: %v", n, err)
	}
	must(t, os.Remove(filepath.Join(f.dir, "keys/timestamp-1.pem")))
	f.now = f.now.Add(48 * time.Hour)
	_, err = f.Publish(t.Context())
	wantCode(t, err, "threshold")
}

func TestAddSignatureRefuses(t *testing.T) {
	a, b := newCustodian(t), newCustodian(t)
	f := newFleet(t, repo.Setup{Root: repo.RoleKeys{Keys: []string{a.uri, b.uri}, Threshold: 2}})
	p, err := f.Proposal("root")
	must(t, err)
	file, err := os.ReadFile(filepath.Join(f.dir, p.File))
	must(t, err)
	good, err := repo.SignProposal(file, a.key)
	must(t, err)
	stranger, err := repo.SignProposal(file, newCustodian(t).key)
	must(t, err)
	tests := []struct {
		name, code string
		change     func(*repo.Signature)
	}{
		{"bad bytes", "bad-signature", func(s *repo.Signature) { s.Sig = strings.Repeat("00", 64) }},
		{"by another key's name", "bad-signature", func(s *repo.Signature) { s.KeyID = b.id }},
		{"stranger", "no-say", func(s *repo.Signature) { *s = stranger }},
		{"other digest", "other-proposal", func(s *repo.Signature) { s.Digest = strings.Repeat("0", 64) }},
		{"other version", "other-proposal", func(s *repo.Signature) { s.Version = 2 }},
		{"nothing staged", "no-proposal", func(s *repo.Signature) { s.Role = "product-x" }},
		{"role is a path", "bad-signature", func(s *repo.Signature) { s.Role = "../root" }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := good
			tt.change(&s)
			wantCode(t, f.AddSignature(s), tt.code)
		})
	}
	must(t, f.AddSignature(good))
}

// What was signed is what is accepted: an edit after signing drops signatures.
func TestEditDropsSignatures(t *testing.T) {
	a, b := newCustodian(t), newCustodian(t)
	f := newFleet(t, repo.Setup{Root: repo.RoleKeys{Keys: []string{a.uri, b.uri}, Threshold: 2}})
	must(t, f.sign(a, "root"))
	must(t, f.sign(b, "root"))
	must(t, f.Accept("root"))
	if _, err := f.Rotate(repo.KeyChange{Role: "root"}); err != nil {
		t.Fatal(err)
	}
	must(t, f.sign(a, "root"))
	c := newCustodian(t)
	if _, err := f.Rotate(repo.KeyChange{Role: "root", Add: []string{c.uri}}); err != nil {
		t.Fatal(err)
	}
	p, err := f.Proposal("root")
	must(t, err)
	if p.Version != 2 || p.Needs[0].Have != 0 {
		t.Errorf("got %+v", p)
	}
	// A signature of the earlier form that comes in late, by a merge say, does
	// not displace the valid one of the same key.
	must(t, f.sign(a, "root"))
	name := filepath.Join(f.dir, "staged", "2.root.sig.ffffffffffffffff.json")
	must(t, os.WriteFile(name, []byte(`{"backstay":1,"role":"root","version":2,"digest":"`+strings.Repeat("0", 64)+
		`","keyid":"`+a.id+`","sig":"00"}`), 0o644))
	if p, err = f.Proposal("root"); err != nil || p.Needs[0].Have != 1 {
		t.Errorf("got %+v, %v", p, err)
	}
}

func TestExpiredProposalIsNotAccepted(t *testing.T) {
	a, b := newCustodian(t), newCustodian(t)
	f := newFleet(t, repo.Setup{Root: repo.RoleKeys{Keys: []string{a.uri, b.uri}, Threshold: 2}})
	must(t, f.sign(a, "root"))
	must(t, f.sign(b, "root"))
	start := f.now
	f.now = start.Add(-time.Hour)
	wantCode(t, f.Accept("root"), "from-the-future")
	f.now = start.Add(366 * 24 * time.Hour)
	wantCode(t, f.Accept("root"), "metadata-expired")
}

func TestKeyChangesRefused(t *testing.T) {
	f := newProduct(t)
	key := roleKey(t, f, "root")
	tests := []struct {
		name, code string
		c          repo.KeyChange
	}{
		{"last key", "threshold", repo.KeyChange{Role: "root", Remove: []string{key}}},
		{"threshold above keys", "threshold", repo.KeyChange{Role: "root", Threshold: 2}},
		{"negative threshold", "threshold", repo.KeyChange{Role: "root", Threshold: -1}},
		{"unknown key", "unknown-key", repo.KeyChange{Role: "root", Remove: []string{"0123456789"}}},
		{"too short an id", "unknown-key", repo.KeyChange{Role: "root", Remove: []string{key[:7]}}},
		{"same key twice", "key-twice", repo.KeyChange{Role: "root", Add: []string{"file:keys/root-1.pem"}}},
		{"unknown role", "unknown-role", repo.KeyChange{Role: "product-acme-hub", Threshold: 1}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := f.Rotate(tt.c)
			wantCode(t, err, tt.code)
		})
	}
	wantCode(t, f.AddProduct("acme-cam", repo.RoleKeys{}), "exists")
	wantCode(t, f.AddProduct("Acme/Cam", repo.RoleKeys{}), "bad-name")
}

func TestKeyFiles(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "k.pem")
	if _, err := repo.NewKey(path); err != nil {
		t.Fatal(err)
	}
	if _, err := repo.NewKey(path); err == nil {
		t.Error("an existing key was overwritten")
	}
	must(t, os.Chmod(path, 0o640))
	_, err := repo.OpenKeyFile(path)
	wantCode(t, err, "key-readable")
	if _, err := repo.OpenKeyFile(filepath.Join(dir, "absent.pem")); !errors.Is(err, repo.ErrNoKey) {
		t.Errorf("absent key: %v", err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	must(t, err)
	if _, err := repo.KeyID(p384.Public()); err == nil {
		t.Error("P-384 is accepted; go-tuf would label it P-256 and no device could verify")
	}
}

// Keys elsewhere: any crypto.Signer behind a URI, here ECDSA P-256.
func TestOtherKeySources(t *testing.T) {
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	f := &fleet{t: t, dir: filepath.Join(t.TempDir(), "repo"), now: time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)}
	o := f.options()
	o.OpenKey = func(uri string) (crypto.Signer, error) {
		if uri != "token:slot=1" {
			return nil, repo.ErrNoKey
		}
		return p256, nil
	}
	token := repo.RoleKeys{Keys: []string{"token:slot=1"}}
	r, err := repo.Create(f.dir, o, repo.Setup{Root: token, Timestamp: token})
	must(t, err)
	f.Repo = r
	defer r.Close()
	must(t, f.AddProduct("acme-cam", repo.RoleKeys{}))
	f.signAll()
	f.release(repo.NewRelease{Version: "1.0.0"}, "image one")
	f.start("1.0.0")
	f.publish()
	_, b, err := f.device(f.PublishDir(), &memory{}, cam(""))
	must(t, err)
	if string(b) != "image one" {
		t.Errorf("got %q", b)
	}
}

func FuzzParseSignature(f *testing.F) {
	f.Add([]byte(`{"backstay":1,"role":"root","version":2,"digest":"00","keyid":"` + strings.Repeat("0", 64) + `","sig":"00"}`))
	f.Add([]byte(`{"role":"../x"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := repo.ParseSignature(b)
		if err == nil && (strings.ContainsAny(s.Role, "/.") || s.Role == "") {
			t.Fatalf("accepted %+v", s)
		}
	})
}

func FuzzDescribe(f *testing.F) {
	f.Add([]byte(`{"signed":{"_type":"targets","x-role":"product-a","version":1,"spec_version":"1.0.31","expires":"2027-01-01T00:00:00Z",`+
		`"targets":{"x":null}},"signatures":[]}`), []byte(nil))
	f.Add([]byte(`{"signed":{"_type":"root","version":1,"spec_version":"1.0.31","expires":"2027-01-01T00:00:00Z","keys":{"a":null},`+
		`"roles":{"root":null}},"signatures":[]}`), []byte(`{}`))
	f.Fuzz(func(_ *testing.T, a, b []byte) {
		// A custodian's machine reads files from the network side: no panic.
		_, _ = repo.Describe(a, b)
		_, _ = repo.Describe(a, nil)
	})
}

func FuzzParsePolicy(f *testing.F) {
	f.Add([]byte(`{"backstay":1,"expiry":{"root":"8760h","targets":"8760h","product":"8760h","assign":"720h","snapshot":"336h","timestamp":"72h"},"keys":{},"publish":"public"}`))
	f.Add([]byte(`{"backstay":1,"expiry":{"root":"1ns"}}`))
	f.Fuzz(func(_ *testing.T, b []byte) { _ = repo.ParsePolicy(b) })
}
