// SPDX-License-Identifier: Apache-2.0

package ca_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/backstay/backstay/identity"
	"github.com/backstay/backstay/identity/est"
	"github.com/backstay/backstay/identity/identitytest"
	"github.com/backstay/backstay/testdata/testneed"
)

// TestOpenSSLReadsUs gives OpenSSL everything we write: requests, replies, birth and device certificates.
func TestOpenSSLReadsUs(t *testing.T) {
	program := testneed.Program(t, "openssl", "openssl")
	run := func(in []byte, want string, args ...string) string {
		t.Helper()
		cmd := exec.Command(program, args...)
		cmd.Stdin = bytes.NewReader(in)
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), want) {
			t.Fatalf("openssl %s: %v, want %q in:\n%s", strings.Join(args, " "), err, want, out)
		}
		return string(out)
	}
	f := newFleet(t)
	i := f.allowed()
	seen := &spy{}
	flash := &identitytest.Flash{}
	j, err := identity.Open(identity.Config{Keys: flash, State: flash, Enroller: seen, Anchors: f.ca.Pool(), Now: f.options().Now})
	f.must(err)
	f.must(j.Born(t.Context()))
	if j.Enroll(t.Context()) == nil {
		t.Fatal("the spy issued")
	}
	out := run(seen.csr, "verify OK", "req", "-inform", "DER", "-verify", "-noout", "-text")
	for _, want := range []string{"OU = file-bound, CN = " + j.ID(), "URI:urn:backstay:device:" + j.ID(), "ecdsa-with-SHA256", "prime256v1"} {
		if !strings.Contains(out, want) {
			t.Errorf("the request lacks %q:\n%s", want, out)
		}
	}
	run(i.BirthCertificate(), "Dec 31 23:59:59 9999 GMT", "x509", "-inform", "DER", "-noout", "-text")

	resp, err := newServer(f).Get(f.url + "/.well-known/est/cacerts")
	f.must(err)
	body, err := io.ReadAll(resp.Body)
	f.must(err)
	resp.Body.Close()
	out = run([]byte("-----BEGIN PKCS7-----\n"+string(body)+"-----END PKCS7-----\n"), "acme issuing", "pkcs7", "-print_certs")
	if n := strings.Count(out, "BEGIN CERTIFICATE"); n != 2 {
		t.Errorf("%d certificates in cacerts", n)
	}

	f.must(i.Enroll(t.Context()))
	cert, _ := i.TLS().GetClientCertificate(nil)
	dir := t.TempDir()
	for name, der := range map[string][]byte{"leaf.pem": cert.Certificate[0], "issuing.pem": cert.Certificate[1]} {
		f.must(os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	}
	run(nil, "leaf.pem: OK", "verify", "-x509_strict", "-purpose", "sslclient", "-CAfile", filepath.Join(f.dir, "root.crt"),
		"-untrusted", filepath.Join(dir, "issuing.pem"), filepath.Join(dir, "leaf.pem"))
}

// TestWeReadOpenSSL parses a bag of certificates that OpenSSL packed.
func TestWeReadOpenSSL(t *testing.T) {
	program := testneed.Program(t, "openssl", "openssl")
	f := newFleet(t)
	for _, files := range [][]string{{"root.crt"}, {"root.crt", "issuing.crt"}} {
		args := []string{"crl2pkcs7", "-nocrl", "-outform", "DER"}
		for _, name := range files {
			args = append(args, "-certfile", filepath.Join(f.dir, name))
		}
		der, err := exec.Command(program, args...).Output()
		f.must(err)
		certs, err := est.ParseCerts(der)
		if err != nil || len(certs) != len(files) || !certs[0].Equal(f.ca.Root()) {
			t.Errorf("%v: %d certificates, %v", files, len(certs), err)
		}
	}
	der, err := exec.Command(program, "crl2pkcs7", "-nocrl", "-outform", "DER").Output()
	f.must(err)
	if _, err := est.ParseCerts(der); err == nil {
		t.Error("an empty bag is accepted")
	}
	// A signed message is no bag of certificates.
	signed := exec.Command(program, "cms", "-sign", "-signer", filepath.Join(f.dir, "root.crt"), "-inkey", filepath.Join(f.dir, "root.key"),
		"-outform", "DER", "-binary", "-nodetach")
	signed.Stdin = strings.NewReader("text")
	if der, err = signed.Output(); err != nil {
		t.Fatal(err)
	}
	if _, err := est.ParseCerts(der); err == nil {
		t.Error("a signed message is accepted")
	}
}

// spy is an authority that only looks.
type spy struct{ csr []byte }

func (s *spy) Enroll(_ context.Context, e identity.Enrolment) ([]*x509.Certificate, error) {
	s.csr = e.CSR
	return nil, identity.ErrRetry
}
