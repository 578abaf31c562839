// SPDX-License-Identifier: Apache-2.0

package est_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/backstay/backstay/identity"
	"github.com/backstay/backstay/identity/est"
	"github.com/backstay/backstay/identity/identitytest"
)

func TestRequestsOnTheWire(t *testing.T) {
	r := newRig(t, nil)
	r.client.User, r.client.Password = "device", "once"
	csr := device(t)
	var seen *http.Request
	r.reply = func(w http.ResponseWriter, req *http.Request, csr *x509.CertificateRequest) {
		seen = req
		r.certs(w, r.auth.Issuer, r.auth.Certify(csr, csr.PublicKey, nil))
	}
	for _, c := range []struct {
		path string
		call func() ([]*x509.Certificate, error)
	}{
		{"/.well-known/est/simpleenroll", func() ([]*x509.Certificate, error) { return r.client.SimpleEnroll(t.Context(), csr, "") }},
		{"/.well-known/est/recover/simpleenroll", func() ([]*x509.Certificate, error) { return r.client.SimpleEnroll(t.Context(), csr, "recover") }},
		{"/.well-known/est/simplereenroll", func() ([]*x509.Certificate, error) { return r.client.SimpleReenroll(t.Context(), csr, "") }},
	} {
		certs, err := c.call()
		if err != nil {
			t.Fatal(err)
		}
		if parsed, _ := x509.ParseCertificateRequest(csr); !identity.SamePublic(certs[0].PublicKey, parsed.PublicKey) || len(certs) != 2 {
			t.Error("our certificate is not the first")
		}
		user, pass, ok := seen.BasicAuth()
		if seen.URL.Path != c.path || seen.Method != "POST" || seen.ProtoMajor != 1 || seen.Header.Get("Content-Type") != "application/pkcs10" ||
			!ok || user != "device" || pass != "once" {
			t.Errorf("%s %s %v", seen.Method, seen.URL, seen.Header)
		}
	}
	if certs, err := r.client.CACerts(t.Context(), ""); err != nil || len(certs) != 2 {
		t.Error(certs, err)
	}
	for _, label := range []string{"a/b", "..", "A", "a b", "ä"} {
		if _, err := r.client.SimpleEnroll(t.Context(), csr, label); err == nil {
			t.Errorf("label %q", label)
		}
	}
	if _, err := r.client.SimpleEnroll(t.Context(), []byte("x"), ""); err == nil {
		t.Error("sent nonsense")
	}
}

func TestLinesOf64(t *testing.T) {
	for n := range 200 {
		b := bytes.Repeat([]byte{0xa5}, n)
		w := est.Wrap(b)
		for line := range bytes.Lines(w) {
			if len(line) > 65 || line[len(line)-1] != '\n' {
				t.Fatalf("%d bytes: line %q", n, line)
			}
		}
		if got, err := est.Unwrap(w); err != nil || !bytes.Equal(got, b) {
			t.Fatalf("%d bytes: %v", n, err)
		}
	}
	if _, err := est.Unwrap([]byte("QQ=x")); err == nil {
		t.Error("padding in the middle")
	}
	if _, err := est.Unwrap([]byte("QR==")); err == nil {
		t.Error("bits behind the end")
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	for header, want := range map[string]time.Duration{
		"": time.Minute, "600": 10 * time.Minute, " 600 ": 10 * time.Minute, "0": 10 * time.Second, "-1": 10 * time.Second,
		"1000000000000": 24 * time.Hour, "99999999999999999999": 24 * time.Hour, "soon": time.Minute, "1.5": time.Minute,
		"Mon, 01 Jun 2026 13:00:00 GMT": time.Hour, "Mon, 01 Jun 2020 12:00:00 GMT": 10 * time.Second,
		"Mon, 01 Jun 2099 12:00:00 GMT": 24 * time.Hour, "9223372036854775807": 24 * time.Hour, "-9223372036854775808": 10 * time.Second,
	} {
		r := newRig(t, nil)
		r.client.Now = func() time.Time { return now }
		r.reply = func(w http.ResponseWriter, _ *http.Request, _ *x509.CertificateRequest) {
			if header != "" {
				w.Header().Set("Retry-After", header)
			}
			w.WriteHeader(202)
		}
		_, err := r.client.SimpleEnroll(t.Context(), device(t), "")
		d, ok := errors.AsType[*est.Deferred](err)
		if !ok || d.After != want || d.RetryAfter() != want {
			t.Errorf("%q: %v, want %s", header, err, want)
		}
	}
}

func TestRedirectOnTheSameServer(t *testing.T) {
	r := newRig(t, nil)
	r.reply = func(w http.ResponseWriter, req *http.Request, csr *x509.CertificateRequest) {
		if req.URL.RawQuery == "" {
			http.Redirect(w, req, req.URL.Path+"?again", http.StatusTemporaryRedirect)
			return
		}
		r.certs(w, r.auth.Certify(csr, csr.PublicKey, nil))
	}
	if _, err := r.client.SimpleEnroll(t.Context(), device(t), ""); err != nil {
		t.Error(err)
	}
}

// TestRecoveryWithoutLabels: an authority that knows no labels still gets the birth key's request.
func TestRecoveryWithoutLabels(t *testing.T) {
	r := newRig(t, nil)
	var paths []string
	r.reply = func(w http.ResponseWriter, req *http.Request, csr *x509.CertificateRequest) {
		if paths = append(paths, req.URL.Path); strings.Contains(req.URL.Path, "recover") {
			http.NotFound(w, req)
			return
		}
		r.certs(w, r.auth.Certify(csr, csr.PublicKey, nil))
	}
	e := identity.Enrolment{CSR: device(t), Label: identity.LabelRecover, TLS: r.client.TLS}
	if certs, err := r.client.Enroll(t.Context(), e); err != nil || len(certs) != 3 {
		t.Error(certs, err)
	}
	if len(paths) != 2 {
		t.Errorf("asked %v", paths)
	}
}

func TestAddresses(t *testing.T) {
	for _, bad := range []string{"", "http://x", "https://", "x", "https://u:p@x", "https://x?y", "https://x#y", "ftp://x"} {
		if _, err := est.New(bad, &tls.Config{}); err == nil {
			t.Errorf("%q", bad)
		}
	}
	c, err := est.New("https://est.example:8443/a/", nil)
	if err != nil || c.BaseURL != "https://est.example:8443/a" {
		t.Error(c, err)
	}
	if _, err := c.CACerts(t.Context(), ""); err == nil || !strings.Contains(err.Error(), "no pinned roots") {
		t.Errorf("without roots: %v", err)
	}
	c.TLS = &tls.Config{}
	if _, err := c.CACerts(t.Context(), ""); err == nil || !strings.Contains(err.Error(), "no pinned roots") {
		t.Errorf("with the system's roots: %v", err)
	}
}

func TestCertsOnly(t *testing.T) {
	a := identitytest.NewAuthority(time.Now)
	good, err := est.EncodeCerts([]*x509.Certificate{a.Issuer, a.Root})
	if err != nil {
		t.Fatal(err)
	}
	certs, err := est.ParseCerts(good)
	if err != nil || len(certs) != 2 || !certs[0].Equal(a.Issuer) || !certs[1].Equal(a.Root) {
		t.Fatal(certs, err)
	}
	// Every truncation and every flipped bit either fails or yields certificates; nothing panics.
	for n := range good {
		if _, err := est.ParseCerts(good[:n]); err == nil {
			t.Errorf("cut at %d of %d accepted", n, len(good))
		}
		bad := bytes.Clone(good)
		bad[n] ^= 0x20
		est.ParseCerts(bad)
	}
	if _, err := est.ParseCerts(make([]byte, est.MaxReply+1)); err == nil {
		t.Error("too long")
	}
}

func seeds(f *testing.F) {
	a := identitytest.NewAuthority(time.Now)
	for _, certs := range [][]*x509.Certificate{nil, {a.Root}, {a.Issuer, a.Root}} {
		der, err := est.EncodeCerts(certs)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(der)
	}
	f.Add([]byte{0x30, 0x80})
	f.Add([]byte{0x30, 0x0b, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02})
}

func FuzzParseCerts(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, der []byte) {
		certs, err := est.ParseCerts(der)
		if err != nil {
			return
		}
		if len(certs) == 0 || len(certs) > est.MaxCertificates {
			t.Fatalf("%d certificates", len(certs))
		}
		again, err := est.EncodeCerts(certs)
		if err != nil {
			t.Fatal(err)
		}
		if twice, err := est.ParseCerts(again); err != nil || len(twice) != len(certs) {
			t.Fatalf("does not survive a round trip: %v", err)
		}
	})
}

func FuzzReply(f *testing.F) {
	a := identitytest.NewAuthority(time.Now)
	der, err := est.EncodeCerts([]*x509.Certificate{a.Issuer, a.Root})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(est.Wrap(der))
	f.Add(append(est.Wrap(der), 0))
	f.Add([]byte(base64.StdEncoding.EncodeToString(der)))
	f.Add([]byte("-----BEGIN PKCS7-----\n"))
	f.Add([]byte("\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := est.Unwrap(b)
		if err != nil {
			return
		}
		if again, err := est.Unwrap(est.Wrap(got)); err != nil || !bytes.Equal(again, got) {
			t.Fatal("does not survive a round trip")
		}
		if certs, err := est.ParseCerts(got); err == nil && len(certs) == 0 {
			t.Fatal("no certificate and no error")
		}
	})
}
