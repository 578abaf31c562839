// SPDX-License-Identifier: Apache-2.0

package repo_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/backstay/backstay/testdata/testneed"
	"github.com/backstay/backstay/update/repo"
)

// A version that skips one, or is out of range, is not accepted whoever signed
// it: a device takes the jump for what it is and cannot come back.
func TestVersionRange(t *testing.T) {
	f := newProduct(t)
	for _, v := range []int64{5, 1<<53 - 1} {
		must(t, f.StageVersion("targets", v))
		_, err := f.Sign("targets")
		wantCode(t, err, "version-range")
	}
}

// What devices cannot read is refused when it is staged, not when it is too
// late: here more releases than one role may have.
func TestTooManyReleases(t *testing.T) {
	f := newProduct(t)
	// 128 references of 64 bytes make an entry of over 8 kB.
	refs := make([]string, 128)
	for i := range refs {
		refs[i] = fmt.Sprintf("CVE-with-a-name-that-is-sixty-four-bytes-long-all-in-all-%07d", i)
	}
	var err error
	for i := 0; i < repo.MaxRole/8000 && err == nil; i++ {
		_, err = f.add(repo.NewRelease{Version: fmt.Sprint(i), Advisories: refs}, fmt.Sprint("image ", i))
	}
	wantCode(t, err, "too-large")
}

func TestMissingRootIsNotPublished(t *testing.T) {
	f := newProduct(t)
	for range 2 {
		if _, err := f.Rotate(repo.KeyChange{Role: "root"}); err != nil {
			t.Fatal(err)
		}
		f.signAll()
	}
	must(t, os.Remove(filepath.Join(f.dir, "metadata", "1.root.json")))
	_, err := f.Publish(t.Context())
	wantCode(t, err, "root-missing")
}

func TestWrongKeyBehindAURI(t *testing.T) {
	f := newProduct(t)
	f.SetKeyURI(roleKey(t, f, "root"), "file:keys/targets-1.pem")
	if _, err := f.Rotate(repo.KeyChange{Role: "root"}); err != nil {
		t.Fatal(err)
	}
	_, err := f.Sign("root")
	wantCode(t, err, "wrong-key")
}

func TestCounterOfAVersionStays(t *testing.T) {
	f := newProduct(t)
	f.release(repo.NewRelease{Version: "1.0.0"}, "image one")
	must(t, f.Withdraw("acme-cam", "1.0.0"))
	f.signAll()
	_, err := f.add(repo.NewRelease{Version: "1.0.0", Counter: 2}, "image one")
	wantCode(t, err, "counter-changed")
	r, err := f.add(repo.NewRelease{Version: "1.0.0"}, "image one")
	must(t, err)
	if r.Counter != 1 {
		t.Errorf("got counter %d", r.Counter)
	}
}

// Keys made by OpenSSL, as a custodian without our tool makes them.
func TestKeysOfOpenSSL(t *testing.T) {
	openssl := testneed.Program(t, "openssl", "openssl")
	for name, args := range map[string][]string{
		"ed25519": {"-algorithm", "ed25519"},
		"p256":    {"-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			private := filepath.Join(dir, "root.pem")
			for _, a := range [][]string{
				append([]string{"genpkey", "-out", private}, args...),
				{"pkey", "-in", private, "-pubout", "-out", private + ".pub"},
			} {
				if out, err := exec.Command(openssl, a...).CombinedOutput(); err != nil {
					t.Fatalf("%v: %s", err, out)
				}
			}
			must(t, os.Chmod(private, 0o600))
			key, err := repo.OpenKeyFile(private)
			must(t, err)
			f := newFleet(t, repo.Setup{Root: repo.RoleKeys{Keys: []string{"pub:" + private + ".pub"}}})
			must(t, f.sign(custodian{key: key}, "root"))
			f.signAll()
			f.publish()
		})
	}
}
