// SPDX-License-Identifier: Apache-2.0

package ca_test

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/backstay/backstay/identity"
	"github.com/backstay/backstay/identity/ca"
)

func one() *big.Int { return big.NewInt(1) }

func TestDirectory(t *testing.T) {
	f := newFleet(t)
	_, err := ca.Create(f.dir, f.options())
	refused(t, err, "authority-exists")
	for name, mode := range map[string]os.FileMode{"": 0o700, "root.key": 0o600, "issuing.key": 0o600, "root.crt": 0o644, "devices.jsonl": 0o600} {
		if info, err := os.Stat(filepath.Join(f.dir, name)); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v %v", name, info.Mode(), err)
		}
	}
	// The root key goes into the safe; the authority works without it.
	f.must(os.Rename(filepath.Join(f.dir, "root.key"), filepath.Join(t.TempDir(), "root.key")))
	again := f.must1(ca.Load(f.dir, f.options()))
	if !again.Root().Equal(f.ca.Root()) || again.Name() != "acme" || again.DeviceLife() != ca.DefaultLife {
		t.Error("another authority")
	}
	f.must(f.allowed().Enroll(t.Context()))
}

func TestOptions(t *testing.T) {
	for name, o := range map[string]ca.Options{"name": {Name: strings.Repeat("x", 61)}, "life": {DeviceLife: time.Second}, "long life": {DeviceLife: 6 * 365 * 24 * time.Hour}} {
		if _, err := ca.Create(filepath.Join(t.TempDir(), "ca"), o); err == nil {
			t.Errorf("%s accepted", name)
		}
	}
	dir := filepath.Join(t.TempDir(), "ca")
	c, err := ca.Create(dir, ca.Options{DeviceLife: 48 * time.Hour})
	if err != nil || c.DeviceLife() != 48*time.Hour || c.Name() != "backstay" {
		t.Fatal(err)
	}
	if c, err = ca.Load(dir, ca.Options{}); err != nil || c.DeviceLife() != 48*time.Hour {
		t.Fatal("the life was not kept", err)
	}
}

func TestBrokenDirectories(t *testing.T) {
	_, err := ca.Load(t.TempDir(), ca.Options{})
	refused(t, err, "no-authority")
	other := newFleet(t)
	for name, spoil := range map[string]func(dir string) error{
		"no settings version": func(d string) error {
			return os.WriteFile(filepath.Join(d, "ca.json"), []byte(`{"backstay_ca":2}`), 0o600)
		},
		"settings": func(d string) error { return os.WriteFile(filepath.Join(d, "ca.json"), []byte(`{`), 0o600) },
		"life": func(d string) error {
			return os.WriteFile(filepath.Join(d, "ca.json"), []byte(`{"backstay_ca":1,"device_life":"x"}`), 0o600)
		},
		"no root":        func(d string) error { return os.Remove(filepath.Join(d, "root.crt")) },
		"another root":   func(d string) error { return copyFile(other.dir, d, "root.crt") },
		"another issuer": func(d string) error { return copyFile(other.dir, d, "issuing.crt") },
		"another key":    func(d string) error { return copyFile(other.dir, d, "issuing.key") },
		"readable key":   func(d string) error { return os.Chmod(filepath.Join(d, "issuing.key"), 0o644) },
		"empty key":      func(d string) error { return os.WriteFile(filepath.Join(d, "issuing.key"), nil, 0o600) },
		"two keys": func(d string) error {
			b, err := os.ReadFile(filepath.Join(d, "issuing.key"))
			return errors.Join(err, os.WriteFile(filepath.Join(d, "issuing.key"), append(b, b...), 0o600))
		},
		"list": func(d string) error { return os.WriteFile(filepath.Join(d, "devices.jsonl"), []byte("x\n"), 0o600) },
		"bad id": func(d string) error {
			return os.WriteFile(filepath.Join(d, "devices.jsonl"), []byte(`{"device_id":"x"}`), 0o600)
		},
		"issued":      func(d string) error { return os.WriteFile(filepath.Join(d, "issued.jsonl"), []byte("x\n"), 0o600) },
		"issued line": func(d string) error { return os.WriteFile(filepath.Join(d, "issued.jsonl"), make([]byte, 9000), 0o600) },
	} {
		f := newFleet(t)
		f.must(spoil(f.dir))
		if _, err := ca.Load(f.dir, f.options()); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
}

func copyFile(from, to, name string) error {
	b, err := os.ReadFile(filepath.Join(from, name))
	return errors.Join(err, os.WriteFile(filepath.Join(to, name), b, 0o600))
}

// TestCreateWasCut: settings are written last, so a creation that was cut off can be repeated.
func TestCreateWasCut(t *testing.T) {
	f := newFleet(t)
	f.must(os.Remove(filepath.Join(f.dir, "ca.json")))
	_, err := ca.Load(f.dir, f.options())
	refused(t, err, "no-authority")
	f.must1(ca.Create(f.dir, f.options()))
}

func TestBirthList(t *testing.T) {
	f := newFleet(t)
	a, b := f.device().ID(), f.device().ID()
	f.must(f.ca.Allow(ca.Device{ID: a, Serial: "1", Note: "first"}))
	f.must(f.ca.Allow(ca.Device{ID: a, Serial: "2"})) // corrects the label
	f.must(f.ca.Revoke(b, "known bad"))               // before it was ever seen
	f.must(f.ca.Revoke(b, "again"))
	for _, c := range []*ca.CA{f.ca, f.must1(ca.Load(f.dir, f.options()))} {
		list, err := c.List()
		if err != nil || len(list) != 2 || list[0].ID >= list[1].ID {
			t.Fatal(list, err)
		}
		for _, d := range list {
			if d.ID == a && (d.Serial != "2" || d.Note != "" || !d.Allowed.Equal(f.now)) || d.ID == b && (d.Reason != "known bad" || !d.Allowed.IsZero()) {
				t.Errorf("%+v", d)
			}
		}
		if c.Revoked(a) || !c.Revoked(b) {
			t.Error("the wrong one is revoked")
		}
	}
	refused(t, f.ca.Allow(ca.Device{ID: "cam-1"}), "malformed-id")
	refused(t, f.ca.Revoke("../../etc", ""), "malformed-id")
	refused(t, f.ca.Allow(ca.Device{ID: a, Note: strings.Repeat("x", 201)}), "too-long")
	refused(t, f.ca.Reinstate(f.device().ID()), "unknown-device")
}

// TestTornLastLine: power went while a certificate was recorded. Nobody has the certificate; the next record takes its place.
func TestTornLastLine(t *testing.T) {
	f := newFleet(t)
	i := f.allowed()
	f.must(i.Enroll(t.Context()))
	path := filepath.Join(f.dir, "issued.jsonl")
	w, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	f.must(err)
	_, err = io.WriteString(w, `{"time":"2026-06-01T12:00:00Z","device_id":"`+strings.Repeat("a", 2000))
	f.must(errors.Join(err, w.Close()))
	f.ca = f.must1(ca.Load(f.dir, f.options()))
	s := newServer(f)
	resp, err := s.Get(f.url + "/.well-known/est/cacerts")
	f.must(err)
	resp.Body.Close()
	f.must(i.Renew(t.Context())) // by the other process, which shares the directory
	b, err := os.ReadFile(path)
	f.must(err)
	lines := bytes.Split(bytes.TrimSuffix(b, []byte("\n")), []byte("\n"))
	if len(lines) != 2 {
		t.Fatalf("%d lines: %s", len(lines), b)
	}
	for _, l := range lines {
		var v ca.Issued
		if err := json.Unmarshal(l, &v); err != nil || v.ID != i.ID() {
			t.Errorf("%s: %v", l, err)
		}
	}
}

// newServer is a client that trusts the fleet.
func newServer(f *fleet) *http.Client {
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: f.ca.Pool(), Time: func() time.Time { return f.now }}, DisableKeepAlives: true}}
}

func TestHandlerForms(t *testing.T) {
	f := newFleet(t)
	c := newServer(f)
	for _, r := range []struct {
		method, path, kind, body string
		status                   int
	}{
		{"GET", "cacerts", "", "", 200}, {"GET", "recover/cacerts", "", "", 200}, {"GET", "csrattrs", "", "", 204}, {"GET", "admin/cacerts", "", "", 404},
		{"POST", "cacerts", "", "", 405}, {"GET", "simpleenroll", "", "", 405}, {"POST", "serverkeygen", "application/pkcs10", "", 404},
		{"POST", "simpleenroll", "application/pkcs10", "QUJD", 401}, {"POST", "simplereenroll", "application/pkcs10", "QUJD", 401},
		{"POST", "simpleenroll", "text/plain", "QUJD", 400}, {"POST", "simpleenroll", "application/pkcs10", "#", 400},
		{"POST", "simpleenroll", "Application/PKCS10; x=y", "QUJD", 401}, {"POST", "simpleenroll", "application/pkcs10", strings.Repeat("A", 70<<10), 400},
	} {
		req, err := http.NewRequest(r.method, f.url+"/.well-known/est/"+r.path, strings.NewReader(r.body))
		f.must(err)
		req.Header.Set("Content-Type", r.kind)
		resp, err := c.Do(req)
		f.must(err)
		resp.Body.Close()
		if resp.StatusCode != r.status {
			t.Errorf("%s %s %s: %d, want %d", r.method, r.path, r.kind, resp.StatusCode, r.status)
		}
	}
}

// TestOwnTroubleStaysInside: a server that cannot write its list says so without saying where, and the device tries later.
func TestOwnTroubleStaysInside(t *testing.T) {
	f := newFleet(t)
	i := f.allowed()
	f.must(os.Remove(filepath.Join(f.dir, "issued.jsonl")))
	err := i.Enroll(t.Context())
	if !errors.Is(err, identity.ErrRetry) || strings.Contains(err.Error(), f.dir) {
		t.Error(err)
	}
}

func FuzzIssue(f *testing.F) {
	dir := filepath.Join(f.TempDir(), "ca")
	c, err := ca.Create(dir, ca.Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(nil))
	f.Add([]byte{0x30, 0x82, 0x01, 0x00})
	f.Add([]byte(fmt.Sprint("not a request")))
	f.Fuzz(func(t *testing.T, csr []byte) {
		if certs, err := c.Issue(ca.Request{CSR: csr, Peer: c.Root()}); err == nil || certs != nil {
			t.Error("issued to a stranger")
		}
	})
}
