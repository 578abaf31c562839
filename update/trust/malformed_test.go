// SPDX-License-Identifier: Apache-2.0

package trust_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/trust/trusttest"
)

const timestampFile, snapshotFile, targetsFile, rootFile = "metadata/timestamp.json", "metadata/2.snapshot.json", "metadata/2.targets.json", "metadata/2.root.json"

// Malformed metadata that nobody signed: what a mirror or the network can send.
func TestMalformedUnsigned(t *testing.T) {
	deep := strings.Repeat(`{"a":`, 3000) + "1" + strings.Repeat("}", 3000)
	docs := map[string]string{
		"empty": "", "text": "<html>login</html>", "null": "null", "array": "[]", "number": "7", "object": "{}", "cut": `{"signed":{"_type":`,
		"null signed":          `{"signed":null,"signatures":[]}`,
		"no signatures":        `{"signed":{"_type":"ROLE"}}`,
		"null signature":       `{"signed":{"_type":"ROLE"},"signatures":[null]}`,
		"null signatures":      `{"signed":{"_type":"ROLE"},"signatures":null}`,
		"other type":           `{"signed":{"_type":"mirror"},"signatures":[]}`,
		"type number":          `{"signed":{"_type":7},"signatures":[]}`,
		"null target":          `{"signed":{"_type":"ROLE","targets":{"x":null}},"signatures":[]}`,
		"null target, case":    `{"signed":{"_type":"ROLE","TARGETS":{"x":null}},"signatures":[]}`,
		"null meta entry":      `{"signed":{"_type":"ROLE","meta":{"snapshot.json":null}},"signatures":[]}`,
		"other null meta":      `{"signed":{"_type":"ROLE","meta":{"snapshot.json":{"version":1},"targets.json":null}},"signatures":[]}`,
		"null meta":            `{"signed":{"_type":"ROLE","meta":null},"signatures":[]}`,
		"null key":             `{"signed":{"_type":"ROLE","keys":{"a":null},"roles":{}},"signatures":[]}`,
		"null role":            `{"signed":{"_type":"ROLE","keys":{},"roles":{"root":null}},"signatures":[]}`,
		"null delegated key":   `{"signed":{"_type":"ROLE","targets":{},"delegations":{"keys":{"a":null},"roles":[]}},"signatures":[]}`,
		"null delegated role":  `{"signed":{"_type":"ROLE","targets":{},"delegations":{"keys":{},"roles":[null]}},"signatures":[]}`,
		"bits":                 `{"signed":{"_type":"ROLE","targets":{},"delegations":{"keys":{},"succinct_roles":{"bit_length":99}}},"signatures":[]}`,
		"deep":                 `{"signed":{"_type":"ROLE","x":` + deep + `},"signatures":[]}`,
		"two of one key id":    `{"signed":{"_type":"ROLE","meta":{"snapshot.json":{"version":1}}},"signatures":[{"keyid":"a","sig":"00"},{"keyid":"a","sig":"00"}]}`,
		"something after":      `{"signed":{"_type":"ROLE","meta":{"snapshot.json":{"version":1}}},"signatures":[]} {}`,
		"odd hex":              `{"signed":{"_type":"ROLE","meta":{"snapshot.json":{"version":1}}},"signatures":[{"keyid":"a","sig":"000"}]}`,
		"string version":       `{"signed":{"_type":"ROLE","version":"1","meta":{"snapshot.json":{"version":1}}},"signatures":[]}`,
		"huge version":         `{"signed":{"_type":"ROLE","version":1e99,"meta":{"snapshot.json":{"version":1}}},"signatures":[]}`,
		"date":                 `{"signed":{"_type":"ROLE","expires":"tomorrow","meta":{"snapshot.json":{"version":1}}},"signatures":[]}`,
		"signatures no object": `{"signed":{"_type":"ROLE","meta":{"snapshot.json":{"version":1}}},"signatures":["x"]}`,
	}
	for _, file := range []string{timestampFile, snapshotFile, targetsFile, rootFile} {
		role := strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(file, "metadata/"), "2."), ".json")
		if testing.Short() && file != timestampFile {
			continue // one role is enough where a program is emulated
		}
		for name, doc := range docs {
			doc = strings.ReplaceAll(doc, "ROLE", role)
			t.Run(role+" "+name, func(t *testing.T) {
				// In a repository without hashes nothing stands between these bytes and
				// the parser; ours pin them, so the bytes are refused before.
				d := newDevice(t, interop)
				for _, m := range d.repo.Snapshot.Signed.Meta {
					m.Hashes, m.Length = nil, 0
				}
				d.repo.Publish("targets", "snapshot")
				d.repo.Snapshot.Signed.Meta["targets.json"] = metadata.MetaFile(2)
				d.repo.SignSnapshot()
				d.repo.Timestamp.Signed.Meta["snapshot.json"] = metadata.MetaFile(2)
				d.repo.SignTimestamp()
				d.repo.SetFile(file, []byte(doc))
				if _, err := d.client.Refresh(t.Context()); !errors.Is(err, update.ErrRefused) || errors.Is(err, update.ErrRetry) {
					t.Errorf("got %v, want a refusal", err)
				}
			})
		}
	}
}

// What our repositories pin is refused by its digest, whatever is in it.
func TestPinnedMetadata(t *testing.T) {
	for _, file := range []string{snapshotFile, targetsFile} {
		for name, bend := range map[string]func([]byte){
			"a bit":      func(b []byte) { b[len(b)/2] ^= 1 },
			"a space":    func(b []byte) { b[len(b)-1], b[len(b)-2] = ' ', '}' },
			"null entry": func(b []byte) { copy(b, `{"signed":{"_type":"targets","targets":{"x":null}},"signatures":[]}`) },
		} {
			t.Run(file+" "+name, func(t *testing.T) {
				d := newDevice(t)
				d.repo.Publish()
				raw := bytes.Clone(d.repo.File(file))
				bend(raw)
				d.repo.SetFile(file, raw)
				if _, err := d.client.Refresh(t.Context()); !errors.Is(err, update.ErrRefused) {
					t.Errorf("got %v, want a refusal", err)
				}
			})
		}
	}
	d := newDevice(t)
	d.repo.Publish()
	raw := bytes.Clone(d.repo.File(targetsFile))
	d.repo.SetFile(targetsFile, append(bytes.TrimSuffix(raw, []byte("}")), " }"...)[:len(raw)])
	d.refused("malformed-metadata")
	// Longer than pinned ends at the pinned length.
	d.repo.SetFile(targetsFile, append(raw, ' '))
	d.refused("wrong-length")
	// Other bytes of the same length and meaning: only the digest tells.
	d = newDevice(t)
	d.repo.Snapshot.Signed.Meta["x.json"] = trusttest.Pin([]byte("{}"), 1)
	d.repo.Publish()
	raw = bytes.Clone(d.repo.File(targetsFile))
	d.repo.SetFile(targetsFile, bytes.Replace(raw, []byte(`"sig":"`), []byte(`"sIg":"`), 1))
	d.refused("bad-hash")
}

// Malformed metadata that is signed: a mistake of the repository, or a thief of
// one key who wants to stop the agent rather than to replace it.
func TestMalformedSigned(t *testing.T) {
	for name, bend := range map[string]func(signed map[string]any){
		"no meta":           func(s map[string]any) { delete(s, "meta") },
		"null meta":         func(s map[string]any) { s["meta"] = nil },
		"empty meta":        func(s map[string]any) { s["meta"] = map[string]any{} },
		"no snapshot.json":  func(s map[string]any) { s["meta"] = map[string]any{"other.json": map[string]any{"version": 1}} },
		"snapshot null":     func(s map[string]any) { s["meta"] = map[string]any{"snapshot.json": nil} },
		"snapshot case":     func(s map[string]any) { s["meta"] = map[string]any{"Snapshot.json": map[string]any{"version": 1}} },
		"no hash":           func(s map[string]any) { s["meta"] = map[string]any{"snapshot.json": map[string]any{"version": 1}} },
		"version zero":      func(s map[string]any) { s["version"] = 0 },
		"version negative":  func(s map[string]any) { s["version"] = -4 },
		"snapshot negative": func(s map[string]any) { s["meta"].(map[string]any)["snapshot.json"].(map[string]any)["version"] = -1 },
	} {
		for _, cached := range []bool{false, true} {
			t.Run(fmt.Sprint(name, " after another ", cached), func(t *testing.T) {
				d := newDevice(t)
				if cached {
					d.refresh()
				}
				signed := trusttest.Signed(t, d.repo.File(timestampFile))
				signed["version"] = 2
				bend(signed)
				d.repo.SetFile(timestampFile, trusttest.SignMap(t, signed, d.repo.Keys["timestamp"]...))
				_, err := d.client.Refresh(t.Context())
				if cached && strings.HasPrefix(name, "version") {
					wantRefusal(t, err, "metadata-rollback")
					return
				}
				if cached && name == "snapshot negative" {
					wantRefusal(t, err, "metadata-rollback")
					return
				}
				wantRefusal(t, err, "malformed-metadata")
			})
		}
	}
	t.Run("snapshot without hashes", func(t *testing.T) {
		d := newDevice(t)
		d.repo.Publish()
		d.repo.Snapshot.Signed.Meta["assign.json"] = metadata.MetaFile(2)
		d.repo.SignSnapshot()
		d.repo.SignTimestamp()
		d.refused("malformed-metadata")
	})
}

// unusableKeys are keys of roles that this client cannot use.
func unusableKeys(t *testing.T) map[string]*metadata.Key {
	good := trusttest.NewKey(t).Public.Value.PublicKey
	return map[string]*metadata.Key{
		"post-quantum":   {Type: "ml-dsa", Scheme: "ml-dsa-65/1", Value: metadata.KeyVal{PublicKey: "-----BEGIN PUBLIC KEY-----"}},
		"short ed25519":  {Type: "ed25519", Scheme: "ed25519", Value: metadata.KeyVal{PublicKey: good[:62]}},
		"long ed25519":   {Type: "ed25519", Scheme: "ed25519", Value: metadata.KeyVal{PublicKey: good + "00"}},
		"empty ed25519":  {Type: "ed25519", Scheme: "ed25519"},
		"no hex":         {Type: "ed25519", Scheme: "ed25519", Value: metadata.KeyVal{PublicKey: strings.Repeat("zz", 32)}},
		"no PEM":         {Type: "ecdsa", Scheme: "ecdsa-sha2-nistp256", Value: metadata.KeyVal{PublicKey: good}},
		"rsa, no PEM":    {Type: "rsa", Scheme: "rsassa-pss-sha256", Value: metadata.KeyVal{PublicKey: "x"}},
		"no type at all": {},
	}
}

// A role may list keys of a kind that this client does not know, if the
// threshold is met without them. Otherwise no repository could ever introduce
// one while such devices are in the field.
func TestUnusableKeysAreSkipped(t *testing.T) {
	for name, key := range unusableKeys(t) {
		t.Run(name, func(t *testing.T) {
			d := newDevice(t)
			d.refresh()
			for _, role := range []string{"root", "timestamp", "snapshot", "targets"} {
				d.repo.Root.Signed.Keys["new"+role] = key
				d.repo.Root.Signed.Roles[role].KeyIDs = append([]string{"new" + role}, d.repo.Root.Signed.Roles[role].KeyIDs...)
			}
			dg := d.repo.Roles["targets"].Signed.Delegations
			dg.Keys["new"] = key
			for i := range dg.Roles {
				dg.Roles[i].KeyIDs = append([]string{"new"}, dg.Roles[i].KeyIDs...)
			}
			d.repo.AddTarget(trusttest.ProductRole, image, []byte("image"), nil)
			d.repo.Publish("root", "targets", trusttest.ProductRole, "assign", "snapshot", "timestamp")
			if _, err := lookup(t, d.refresh(), image); err != nil {
				t.Fatal(err)
			}
			// As the root a device is born with.
			d.config.FactoryRoot = d.repo.File(rootFile)
			d.restart()
			d.refresh()
			d.repo.Publish("root", "timestamp")
			d.refresh()
		})
	}
}

// Skipping a key never makes a role easier to sign for.
func TestUnusableKeysDoNotCount(t *testing.T) {
	for name, key := range unusableKeys(t) {
		for _, role := range []string{"root", "timestamp", "snapshot", "targets"} {
			t.Run(name+" "+role, func(t *testing.T) {
				d := newDevice(t)
				d.repo.Root.Signed.Keys["new"] = key
				r := d.repo.Root.Signed.Roles[role]
				r.KeyIDs, r.Threshold = append(r.KeyIDs, "new"), 2
				d.repo.Publish("root", "targets", "snapshot", "timestamp")
				d.refused("bad-signature")
			})
		}
		t.Run(name+" alone", func(t *testing.T) {
			d := newDevice(t)
			d.repo.Root.Signed.Keys["new"] = key
			d.repo.Root.Signed.Roles["timestamp"].KeyIDs = []string{"new"}
			d.repo.Publish("root", "timestamp")
			d.refused("bad-signature")
		})
	}
}

func TestThresholds(t *testing.T) {
	for name, bend := range map[string]func(d *device, r *metadata.Role){
		"two needed, one signs": func(d *device, r *metadata.Role) {
			k := trusttest.NewKey(d.t)
			d.repo.Root.Signed.Keys[k.ID] = k.Public
			r.KeyIDs, r.Threshold = append(r.KeyIDs, k.ID), 2
		},
		"one key under two ids": func(d *device, r *metadata.Role) {
			k := *d.repo.Keys["timestamp"][0]
			k.ID = "alias"
			d.repo.Root.Signed.Keys["alias"] = k.Public
			r.KeyIDs, r.Threshold = append(r.KeyIDs, "alias"), 2
			d.repo.Keys["timestamp"] = append(d.repo.Keys["timestamp"], &k)
		},
		"one id twice":       func(_ *device, r *metadata.Role) { r.KeyIDs, r.Threshold = append(r.KeyIDs, r.KeyIDs[0]), 2 },
		"threshold zero":     func(_ *device, r *metadata.Role) { r.Threshold = 0 },
		"threshold negative": func(_ *device, r *metadata.Role) { r.Threshold = -1 },
		"no keys":            func(_ *device, r *metadata.Role) { r.KeyIDs = nil },
		"id without key":     func(_ *device, r *metadata.Role) { r.KeyIDs = append(r.KeyIDs, "nowhere") },
	} {
		t.Run(name, func(t *testing.T) {
			d := newDevice(t)
			bend(d, d.repo.Root.Signed.Roles["timestamp"])
			d.repo.Publish("root", "timestamp")
			d.refused("bad-signature")
		})
	}
}

// Every file must be signed: one signature bent at a time.
func TestSignatureOfEachRole(t *testing.T) {
	for _, role := range []string{"root", "timestamp", "snapshot", "targets", trusttest.ProductRole} {
		t.Run(role, func(t *testing.T) {
			d := newDevice(t)
			d.repo.AddTarget(trusttest.ProductRole, image, []byte("image"), nil)
			good := d.repo.Keys[role]
			d.repo.Keys[role] = []*trusttest.Key{trusttest.NewKey(t)}
			d.repo.Publish("root", "targets", trusttest.ProductRole, "assign", "snapshot", "timestamp")
			if role == trusttest.ProductRole {
				_, err := lookup(t, d.refresh(), image)
				wantRefusal(t, err, "bad-signature")
			} else {
				d.refused("bad-signature")
			}
			d.repo.Keys[role] = good
			d.repo.Root.Signed.Version = 1
			d.repo.Publish("root", "targets", trusttest.ProductRole, "assign", "snapshot", "timestamp")
			if _, err := lookup(t, d.refresh(), image); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// Roots of every kind of key that TUF names.
func TestKeyTypes(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]*trusttest.Key{
		"ecdsa": trusttest.SignerKey(t, ec, func(msg []byte) []byte {
			h := sha256.Sum256(msg)
			sig, _ := ecdsa.SignASN1(rand.Reader, ec, h[:])
			return sig
		}),
	}
	if !testing.Short() { // making an RSA key takes minutes where a program is emulated
		rs, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		keys["rsa"] = trusttest.SignerKey(t, rs, func(msg []byte) []byte {
			h := sha256.Sum256(msg)
			sig, _ := rsa.SignPSS(rand.Reader, rs, crypto.SHA256, h[:], nil)
			return sig
		})
	}
	for name, k := range keys {
		t.Run(name, func(t *testing.T) {
			d := newDevice(t)
			for _, role := range []string{"root", "timestamp", "snapshot", "targets"} {
				if role != "root" {
					d.repo.Rotate(role)
				}
				d.repo.Keys[role] = append(d.repo.Keys[role], k)
				if err := d.repo.Root.Signed.AddKey(k.Public, role); err != nil {
					t.Fatal(err)
				}
				d.repo.Root.Signed.Roles[role].Threshold = 2
			}
			d.repo.Publish("root", "targets", "snapshot", "timestamp")
			d.refresh()
		})
	}
}

// A file under another version's or another role's name.
func TestWrongPlace(t *testing.T) {
	d := newDevice(t)
	d.repo.Root.Signed.Version = 4
	d.repo.SignRoot(d.repo.Keys["root"])
	d.repo.SetFile(rootFile, d.repo.File("metadata/4.root.json"))
	d.refused("wrong-version")

	d = newDevice(t, interop)
	d.repo.Publish()
	d.repo.Snapshot.Signed.Version = 7
	d.repo.SignSnapshot()
	d.repo.SetFile(snapshotFile, d.repo.File("metadata/7.snapshot.json"))
	d.repo.Timestamp.Signed.Meta["snapshot.json"] = metadata.MetaFile(2)
	d.repo.SignTimestamp()
	d.refused("wrong-version")

	d = newDevice(t, interop)
	d.repo.Publish()
	d.repo.Snapshot.Signed.Meta["targets.json"] = metadata.MetaFile(7)
	d.repo.SignSnapshot()
	d.repo.SignTimestamp()
	d.repo.SetFile("metadata/7.targets.json", d.repo.File(targetsFile))
	d.refused("wrong-version")

	d = newDevice(t)
	d.repo.SetFile(timestampFile, d.repo.File("metadata/1.snapshot.json"))
	d.refused("malformed-metadata")
}

// The same version with other content is not a new version: the first stays.
func TestSameVersionOtherContent(t *testing.T) {
	d := newDevice(t)
	d.refresh()
	first := d.repo.File(timestampFile)
	d.repo.Timestamp.Signed.UnrecognizedFields = map[string]any{"x-issued": "2026-03-02T00:00:00Z"}
	d.repo.SignTimestamp()
	d.restart()
	d.refresh()
	if string(d.state().Timestamp) != string(first) {
		t.Error("a timestamp was replaced by another of its version")
	}
}

// Fields that this client does not know are signed like the rest.
func TestUnknownFieldsAreKept(t *testing.T) {
	d := newDevice(t)
	d.repo.Root.Signed.UnrecognizedFields = map[string]any{"x-policy": map[string]any{"a": 1, "b": []any{"c"}}}
	custom := json.RawMessage(`{"z":9007199254740991,"a":"ü","null":null}`)
	d.repo.AddTarget(trusttest.ProductRole, image, []byte("image"), custom)
	d.repo.Publish("root", trusttest.ProductRole, "targets", "snapshot", "timestamp")
	info, err := lookup(t, d.refresh(), image)
	if err != nil {
		t.Fatal(err)
	}
	if string(info.Custom) != string(custom) {
		t.Errorf("custom is %s", info.Custom)
	}
}
