// SPDX-License-Identifier: Apache-2.0

package repo_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/repo"
	"github.com/backstay/backstay/update/trust"
)

func TestDevicePolicy(t *testing.T) {
	f := newProduct(t)
	const product = "acme-cam"
	wantCode(t, f.SetDevicePolicy("other", []byte("{}"), repo.RoleKeys{}), "unknown-product")
	wantCode(t, f.SetDevicePolicy(product, nil, repo.RoleKeys{}), "too-large")
	wantCode(t, f.SetDevicePolicy(product, make([]byte, update.MaxPolicy+1), repo.RoleKeys{}), "too-large")
	if b, _, err := f.DevicePolicy(product); b != nil || err != nil {
		t.Fatalf("a new repository has a policy: %q %v", b, err)
	}
	must(t, f.SetDevicePolicy(product, []byte(`{"serial":1}`), repo.RoleKeys{}))
	if b, staged, err := f.DevicePolicy(product); string(b) != `{"serial":1}` || !staged || err != nil {
		t.Fatalf("staged: %q %v %v", b, staged, err)
	}
	f.signAll()
	f.publish()
	wantCode(t, f.SetDevicePolicy(product, []byte(`{"serial":1}`), repo.RoleKeys{}), "exists")
	wantCode(t, f.SetDevicePolicy(product, []byte(`{"serial":2}`), repo.RoleKeys{Keys: []string{"file:keys/new.pem"}}), "exists")

	srv := httptest.NewServer(http.FileServer(http.Dir(f.PublishDir())))
	defer srv.Close()
	factory, err := f.FactoryRoot()
	must(t, err)
	c, err := trust.New(trust.Config{FactoryRoot: factory, MetadataURL: srv.URL + "/metadata", TargetsURL: srv.URL + "/targets",
		Store: &memory{}, Now: f.options().Now})
	must(t, err)
	fetch := func() string {
		t.Helper()
		tr, err := c.Refresh(context.Background())
		must(t, err)
		info, err := tr.Policy(context.Background(), product)
		must(t, err)
		b, err := c.Fetch(context.Background(), info, update.MaxPolicy)
		must(t, err)
		return string(b)
	}
	if got := fetch(); got != `{"serial":1}` {
		t.Errorf("the device has %q", got)
	}
	must(t, f.SetDevicePolicy(product, []byte(`{"serial":2}`), repo.RoleKeys{}))
	f.signAll()
	f.publish()
	if got := fetch(); got != `{"serial":2}` {
		t.Errorf("the device has %q", got)
	}
	// The keys of the role can be changed, and it keeps what it may sign.
	if _, err := f.Rotate(repo.KeyChange{Role: "policy", Add: []string{"file:keys/policy-2.pem"}}); err != nil {
		t.Fatal(err)
	}
	f.signAll()
	must(t, f.SetDevicePolicy(product, []byte(`{"serial":3}`), repo.RoleKeys{}))
	f.signAll()
	f.publish()
	if got := fetch(); got != `{"serial":3}` {
		t.Errorf("after new keys the device has %q", got)
	}
	// A file that was changed in the repository is not what was signed.
	files, err := filepath.Glob(filepath.Join(f.Dir(), "images", "*"))
	must(t, err)
	for _, name := range files {
		if b, _ := os.ReadFile(name); strings.HasPrefix(string(b), `{"serial":3`) {
			must(t, os.WriteFile(name, []byte(`{"serial":4}`), 0o644))
		}
	}
	_, _, err = f.DevicePolicy(product)
	wantCode(t, err, "bad-hash")
}
