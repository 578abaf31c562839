// SPDX-License-Identifier: Apache-2.0

package updatetest_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/cjson"

	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/trust/trusttest"
	"github.com/backstay/backstay/update/updatetest"
)

func hexOf(b []byte) string { return hex.EncodeToString(b) }

func metadataName(version int64, role string) string {
	return fmt.Sprintf("metadata/%d.%s.json", version, role)
}

// wrongdoing is one attempt to make the device install, or keep, what it should not.
type wrongdoing struct {
	name string
	play func(*rig)
	want string // code of the refusal; "nothing", "retry" or "setup" for the classes of errors without one
	dirt bool   // the other slot may have been written, and is not started
}

// Attacks that were measured on other update agents, and the faults for which those had to publish advisories. docs/attacks.md
// shows them side by side, cve_test.go says which fault is which.
var attacks = []wrongdoing{
	{"older release, validly signed", func(r *rig) { r.offer("1.0.0", 3) }, "below-floor", false},
	{"older release named v1.0", func(r *rig) { r.offer("v1.0", 3) }, "below-floor", false},
	{"older release named release-1", func(r *rig) { r.offer("release-1", 3) }, "below-floor", false},
	{"older release named 9.9.9", func(r *rig) { r.offer("9.9.9", 4) }, "below-floor", false},
	{"older version that nobody asked to go back to", func(r *rig) {
		image := updatetest.Image("1.9.9", rigImage)
		r.release("1.9.9", 6, image)
		r.assignPath(update.Assigned{Path: update.ImagePath(trusttest.Product, "1.9.9"), SHA256: sha256.Sum256(image), Length: rigImage, Counter: 6, To: 100})
		r.repo.Publish()
	}, "nothing", false},
	{"unsigned", func(r *rig) { r.repo.Keys[trusttest.ProductRole] = nil; r.offer("2.1.0", 6) }, "malformed-metadata", false},
	{"unsigned pre-release", func(r *rig) { r.repo.Keys[trusttest.ProductRole] = nil; r.offer("2.1.0-beta.1", 6) }, "malformed-metadata", false},
	{"wrong key", func(r *rig) {
		r.repo.Keys[trusttest.ProductRole] = []*trusttest.Key{trusttest.NewKey(r.t)}
		r.offer("2.1.0", 6)
	}, "bad-signature", false},
	{"wrong key under the name of the right one", func(r *rig) {
		k := *r.repo.Keys[trusttest.ProductRole][0]
		k.Sign = trusttest.NewKey(r.t).Sign
		r.repo.Keys[trusttest.ProductRole] = []*trusttest.Key{&k}
		r.offer("2.1.0", 6)
	}, "bad-signature", false},
	{"signature of 0 bytes", func(r *rig) {
		r.offer("2.1.0", 6)
		r.bend(trusttest.ProductRole, func(b []byte) []byte {
			from := bytes.Index(b, []byte(`"sig":"`)) + len(`"sig":"`)
			to := from + bytes.IndexByte(b[from:], '"')
			return append(b[:from:from], b[to:]...)
		})
	}, "bad-signature", false},
	{"key file missing", func(r *rig) { r.offer("2.1.0", 6); r.config.FactoryRoot = nil }, "malformed-metadata", false},
	{"key file empty JSON", func(r *rig) { r.offer("2.1.0", 6); r.config.FactoryRoot = []byte("{}") }, "malformed-metadata", false},
	{"wrong hardware", func(r *rig) {
		image := updatetest.Image("2.1.0", rigImage)
		c := custom("2.1.0", 6)
		c["compatible"] = []string{"acme-cam-v9", hardware + "x", strings.ToUpper(hardware)}
		r.repo.AddTarget(trusttest.ProductRole, update.ImagePath(trusttest.Product, "2.1.0"), image, c)
		r.assign("2.1.0", 6, image)
		r.repo.Publish()
	}, "incompatible", false},
	{"expired signer", func(r *rig) {
		r.repo.Roles[trusttest.ProductRole].Signed.Expires = r.now.Add(-time.Minute)
		r.offer("2.1.0", 6)
	}, "metadata-expired", false},
	{"bit flip in the image", func(r *rig) {
		image := r.offer("2.1.0", 6)
		bad := bytes.Clone(image)
		bad[750_000] ^= 0x10
		r.repo.SetFile(served("2.1.0", image), bad)
	}, "bad-hash", true},
	{"image cut short", func(r *rig) { image := r.offer("2.1.0", 6); r.repo.SetFile(served("2.1.0", image), image[:625_000]) }, "wrong-length", false},
	{"image cut short in the middle of a connection", func(r *rig) {
		image := r.offer("2.1.0", 6)
		r.wrap = func(w http.ResponseWriter, req *http.Request) bool {
			if strings.HasSuffix(req.URL.Path, ".img") {
				w.Header().Set("Content-Length", strconv.Itoa(len(image)))
				_, _ = w.Write(image[:625_000])
				panic(http.ErrAbortHandler)
			}
			return false
		}
	}, "retry", true},
	{"image with more at its end", func(r *rig) {
		image := r.offer("2.1.0", 6)
		r.repo.SetFile(served("2.1.0", image), append(bytes.Clone(image), "more"...))
	}, "wrong-length", false},
	{"frozen: nothing newer is shown", func(r *rig) {
		r.offer("2.1.0", 6)
		r.repo.Publish()
		old := r.repo.Copy()
		r.repo.Publish()
		r.repo.Replay(old)
		r.now = r.repo.Timestamp.Signed.Expires.Add(time.Second)
	}, "metadata-expired", false},
	{"old metadata again", func(r *rig) {
		old := r.repo.Copy()
		r.repo.Publish()
		if err := r.attempt(); err != nil && !errors.Is(err, update.ErrNothing) {
			r.t.Fatal(err)
		}
		r.repo.Replay(old)
	}, "metadata-rollback", false},
	{"old and new metadata mixed", func(r *rig) {
		old := r.repo.Roles[trusttest.ProductRole].Signed.Version
		pin := trusttest.Pin(r.repo.File(metadataName(old, trusttest.ProductRole)), old)
		r.repo.Publish()
		_ = r.attempt() // sees them, and is up to date
		r.repo.Snapshot.Signed.Meta[trusttest.ProductRole+".json"] = pin
		r.repo.Snapshot.Signed.Version++
		r.repo.SignSnapshot()
		r.repo.Timestamp.Signed.Version++
		r.repo.SignTimestamp()
	}, "metadata-rollback", false},
	{"image that no role lists", func(r *rig) {
		image := updatetest.Image("2.1.0", rigImage)
		r.repo.SetFile(served("2.1.0", image), image)
		r.assign("2.1.0", 6, image)
		r.repo.Publish()
	}, "unknown-target", false},
	{"name with a suffix that another signed name has not", func(r *rig) {
		image := r.offer("2.1.0", 6)
		for _, suffix := range []string{".gz", ".zst", ".img"} {
			r.repo.SetFile(served("2.1.0", image)+suffix, image)
		}
		r.assignPath(update.Assigned{Path: update.ImagePath(trusttest.Product, "2.1.0") + ".gz", SHA256: sha256.Sum256(image), Length: rigImage, Counter: 6, To: 100})
		r.repo.Publish()
	}, "malformed-assignment", false},
	{"properties changed after they were signed", func(r *rig) {
		r.offer("2.1.0", 6)
		r.bend(trusttest.ProductRole, func(b []byte) []byte {
			return bytes.ReplaceAll(b, []byte(`"counter":6`), []byte(`"counter":9`))
		})
	}, "bad-signature", false},
	{"properties changed, and nothing else", func(r *rig) {
		r.offer("2.1.0", 6)
		name := metadataName(r.repo.Roles[trusttest.ProductRole].Signed.Version, trusttest.ProductRole)
		r.repo.SetFile(name, bytes.ReplaceAll(r.repo.File(name), []byte(`"counter":6`), []byte(`"counter":9`)))
	}, "bad-hash", false},
	{"length beyond 32 bits", func(r *rig) {
		image := updatetest.Image("2.1.0", rigImage)
		r.repo.ListTarget(trusttest.ProductRole, update.ImagePath(trusttest.Product, "2.1.0"), 1<<32+rigImage, sha256.Sum256(image), custom("2.1.0", 6))
		r.repo.SetFile(served("2.1.0", image), image)
		r.assignPath(update.Assigned{Path: update.ImagePath(trusttest.Product, "2.1.0"), SHA256: sha256.Sum256(image), Length: 1<<32 + rigImage, Counter: 6, To: 100})
		r.repo.Publish()
	}, "slot-too-small", false},
	{"length beyond 31 bits in the assignment alone", func(r *rig) {
		image := updatetest.Image("2.1.0", rigImage)
		r.release("2.1.0", 6, image)
		r.assignPath(update.Assigned{Path: update.ImagePath(trusttest.Product, "2.1.0"), SHA256: sha256.Sum256(image), Length: 1<<31 + rigImage, Counter: 6, To: 100})
		r.repo.Publish()
	}, "not-genuine", false},
	{"other bytes after the first look", func(r *rig) {
		// The good image until it is asked for again, as whoever holds the server sees a resume coming.
		image := r.offer("2.1.0", 6)
		bad := bytes.Clone(image)
		bad[1_030_000] ^= 1
		first := true
		r.wrap = func(w http.ResponseWriter, req *http.Request) bool {
			if !strings.HasSuffix(req.URL.Path, ".img") {
				return false
			}
			if first {
				first = false
				w.Header().Set("Content-Length", strconv.Itoa(len(image)))
				_, _ = w.Write(image[:1_000_000])
				panic(http.ErrAbortHandler)
			}
			r.repo.SetFile(served("2.1.0", image), bad)
			return false
		}
		_ = r.attempt()
	}, "bad-hash", true},
	{"a key twice in the properties", func(r *rig) {
		r.offer("2.1.0", 6)
		r.resign(trusttest.ProductRole, func(b []byte) []byte {
			return bytes.Replace(b, []byte(`"counter":6`), []byte(`"counter":6,"counter":9`), 1)
		})
	}, "malformed-release", false},
	{"path that leads elsewhere", func(r *rig) {
		image := r.offer("2.1.0", 6)
		r.assignPath(update.Assigned{Path: "firmware/acme-cam/../../../etc/passwd.img", SHA256: sha256.Sum256(image), Length: rigImage, Counter: 6, To: 100})
		r.repo.Publish()
	}, "malformed-assignment", false},
	{"body that unpacks to more", func(r *rig) {
		r.offer("2.1.0", 6)
		r.wrap = func(w http.ResponseWriter, req *http.Request) bool {
			if strings.HasSuffix(req.URL.Path, ".img") {
				w.Header().Set("Content-Encoding", "gzip")
			}
			return false
		}
	}, "retry", false},
	{"image of another product", func(r *rig) {
		c := custom("2.1.0", 6)
		c["product"] = "acme-door"
		image := updatetest.Image("2.1.0", rigImage)
		r.repo.AddTarget(trusttest.ProductRole, update.ImagePath(trusttest.Product, "2.1.0"), image, c)
		r.assign("2.1.0", 6, image)
		r.repo.Publish()
	}, "not-genuine", false},
	{"stolen online keys name another image", func(r *rig) {
		r.offer("2.1.0", 6)
		r.assign("2.1.0", 6, updatetest.Image("implant", rigImage))
		r.repo.Publish()
	}, "not-genuine", false},
}

// resign bends the signed part of a role in a way that its own key signs: the holder of the key is the attacker.
func (r *rig) resign(role string, f func([]byte) []byte) {
	r.bend(role, func(b []byte) []byte {
		from, to := bytes.Index(b, []byte(`"signed":`))+len(`"signed":`), len(b)-1
		if at := bytes.Index(b, []byte(`,"signatures"`)); at > from {
			to = at
		}
		signed := f(bytes.Clone(b[from:to]))
		var last map[string]any // what a parser that takes the last of two sees, and so what its check of the signature runs on
		r.ok(json.Unmarshal(signed, &last))
		payload, err := cjson.EncodeCanonical(last)
		r.ok(err)
		k := r.repo.Keys[role][0]
		return fmt.Appendf(nil, `{"signatures":[{"keyid":%q,"sig":"%x"}],"signed":%s}`, k.ID, k.Sign(payload), signed)
	})
}

// TestAttack plays every attack against a whole device, and holds what is in its slots afterwards. In the end the device still
// installs what is genuine. The last line of each case is a row of docs/attacks.md.
func TestAttack(t *testing.T) {
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			honest := r.repo.Keys[trusttest.ProductRole]
			root, expires, now := r.config.FactoryRoot, r.repo.Roles[trusttest.ProductRole].Signed.Expires, r.now
			a.play(r)
			err := r.attempt()
			got := code(err)
			for class, is := range map[string]error{"nothing": update.ErrNothing, "retry": update.ErrRetry, "setup": update.ErrSetup} {
				if got == "" && errors.Is(err, is) {
					got = class
				}
			}
			if got == "" && err == nil {
				got = "nothing"
			}
			if got != a.want {
				t.Fatalf("the attempt ended with %q (%v), want %s", got, err, a.want)
			}
			touched := r.safe()
			if touched && !a.dirt {
				t.Error("the other slot was written to")
			}
			t.Logf("row\t%s\t%s\t%v", a.name, got, touched)
			r.recovers(honest, root, expires, now)
		})
	}
}

// recovers holds that the attack left nothing behind that keeps a genuine release away.
func (r *rig) recovers(honest []*trusttest.Key, root []byte, expires, now time.Time) {
	r.t.Helper()
	r.wrap, r.config.FactoryRoot, r.now = nil, root, now.Add(2*time.Hour)
	r.repo.Now = r.now
	r.repo.Keys[trusttest.ProductRole] = honest
	role := r.repo.Roles[trusttest.ProductRole]
	role.Signed.Expires = expires
	clear(role.Signed.Targets)
	r.repo.Snapshot.Signed.Version += 20
	r.repo.Timestamp.Signed.Version += 20
	role.Signed.Version += 20
	r.repo.Roles["assign"].Signed.Version += 20
	r.repo.Timestamp.Signed.Expires = r.now.AddDate(0, 0, 7)
	r.offer("3.0.0", 7)
	var err error
	for range 4 { // what was begun ends first
		if err = r.attempt(); errors.Is(err, update.ErrReboot) {
			return
		}
	}
	r.t.Errorf("after the attack a genuine release is not installed: %v", err)
}
