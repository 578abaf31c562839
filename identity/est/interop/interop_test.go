// SPDX-License-Identifier: Apache-2.0

// Package interop_test enrols with somebody else's EST server, and lets somebody else's client enrol with ours.
package interop_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	peer "github.com/globalsign/est"

	"github.com/backstay/backstay/identity"
	"github.com/backstay/backstay/identity/ca"
	"github.com/backstay/backstay/identity/est"
	"github.com/backstay/backstay/identity/identitytest"
)

func serve(t *testing.T, c *tls.Config, h http.Handler) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h, ErrorLog: log.New(io.Discard, "", 0)}
	done := make(chan struct{})
	go func() { defer close(done); s.Serve(tls.NewListener(l, c)) }()
	t.Cleanup(func() { s.Close(); <-done })
	return l.Addr().String()
}

// signer is the authority behind the peer's server.
type signer struct {
	auth *identitytest.Authority
	fail error
}

type later struct{}

func (later) Error() string   { return "come back" }
func (later) StatusCode() int { return http.StatusAccepted }
func (later) RetryAfter() int { return 600 }

func (s *signer) CACerts(context.Context, string, *http.Request) ([]*x509.Certificate, error) {
	return []*x509.Certificate{s.auth.Issuer, s.auth.Root}, nil
}

func (s *signer) CSRAttrs(context.Context, string, *http.Request) (peer.CSRAttrs, error) {
	return peer.CSRAttrs{}, nil
}

func (s *signer) Enroll(_ context.Context, csr *x509.CertificateRequest, _ string, _ *http.Request) (*x509.Certificate, error) {
	if s.fail != nil {
		return nil, s.fail
	}
	return s.auth.Certify(csr, csr.PublicKey, nil), nil
}

func (s *signer) Reenroll(ctx context.Context, _ *x509.Certificate, csr *x509.CertificateRequest, aps string, r *http.Request) (*x509.Certificate, error) {
	return s.Enroll(ctx, csr, aps, r)
}

func (s *signer) ServerKeyGen(context.Context, *x509.CertificateRequest, string, *http.Request) (*x509.Certificate, []byte, error) {
	return nil, nil, errors.New("no")
}

func (s *signer) TPMEnroll(context.Context, *x509.CertificateRequest, []*x509.Certificate, []byte, []byte, string, *http.Request) ([]byte, []byte, []byte, error) {
	return nil, nil, nil, errors.New("no")
}

func TestOurDeviceTheirServer(t *testing.T) {
	s := &signer{auth: identitytest.NewAuthority(time.Now)}
	h, err := peer.NewRouter(&peer.ServerConfig{CA: s, Timeout: 10 * time.Second, RateLimit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		leaf := s.auth.Certify(&x509.CertificateRequest{}, key.Public(), func(c *x509.Certificate) {
			c.IPAddresses, c.ExtKeyUsage = []net.IP{{127, 0, 0, 1}}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		})
		address := serve(t, &tls.Config{ClientAuth: tls.RequestClientCert, MaxVersion: version,
			Certificates: []tls.Certificate{{Certificate: [][]byte{leaf.Raw, s.auth.Issuer.Raw}, PrivateKey: key}}}, h)
		client, err := est.New("https://"+address, &tls.Config{RootCAs: s.auth.Pool()})
		if err != nil {
			t.Fatal(err)
		}
		flash := &identitytest.Flash{}
		i, err := identity.Open(identity.Config{Keys: flash, State: flash, Enroller: client, Anchors: s.auth.Pool(), Now: time.Now})
		if err != nil {
			t.Fatal(err)
		}
		if err := i.Born(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.fail = later{}
		var d *est.Deferred
		if err := i.Enroll(t.Context()); !errors.As(err, &d) || d.After != 10*time.Minute {
			t.Errorf("deferred: %v", err)
		}
		s.fail = nil
		if err := errors.Join(i.Enroll(t.Context()), i.Renew(t.Context()), i.Confirm(), i.Renew(t.Context())); err != nil {
			t.Fatal(err)
		}
		if certs, err := client.CACerts(t.Context(), ""); err != nil || len(certs) != 2 {
			t.Errorf("cacerts: %v", err)
		}
		if attrs, err := client.CSRAttrs(t.Context(), ""); err != nil || len(attrs) != 0 {
			t.Errorf("csrattrs: %x %v", attrs, err)
		}
	}
}

func TestTheirClientOurServer(t *testing.T) {
	authority, err := ca.Create(filepath.Join(t.TempDir(), "ca"), ca.Options{})
	if err != nil {
		t.Fatal(err)
	}
	address := serve(t, authority.EnrolTLS("127.0.0.1"), authority.Handler())

	birth := identitytest.NewKey(identity.ClassTPM)
	id, _ := identity.DeviceID(birth.Public())
	tpl := &x509.Certificate{SerialNumber: authority.Root().SerialNumber, Subject: pkix.Name{CommonName: id}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, birth.Public(), birth)
	if err != nil {
		t.Fatal(err)
	}
	birthCert, _ := x509.ParseCertificate(der)
	c := &peer.Client{Host: address, ExplicitAnchor: authority.Pool(), ImplicitAnchor: authority.Pool(), DisableKeepAlives: true,
		PrivateKey: birth.PrivateKey, Certificates: []*x509.Certificate{birthCert}}

	if certs, err := c.CACerts(t.Context()); err != nil || len(certs) != 2 {
		t.Fatalf("cacerts: %v", err)
	}
	request := func(subject []byte) (*x509.CertificateRequest, *ecdsa.PrivateKey) {
		key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		r := &x509.CertificateRequest{RawSubject: subject, Subject: pkix.Name{CommonName: id}, URIs: []*url.URL{identity.URN(id)}}
		der, err := x509.CreateCertificateRequest(rand.Reader, r, key)
		if err != nil {
			t.Fatal(err)
		}
		csr, _ := x509.ParseCertificateRequest(der)
		return csr, key
	}
	csr, key := request(nil)
	if _, err := c.Enroll(t.Context(), csr); err == nil || !strings.Contains(err.Error(), "unknown-device") {
		t.Fatalf("a stranger: %v", err)
	}
	if err := authority.Allow(ca.Device{ID: id}); err != nil {
		t.Fatal(err)
	}
	cert, err := c.Enroll(t.Context(), csr)
	if err != nil {
		t.Fatal(err)
	}
	c.AdditionalPathSegment = "recover"
	if _, err := c.Enroll(t.Context(), csr); err != nil {
		t.Errorf("recovery label: %v", err)
	}
	c.AdditionalPathSegment = ""
	issuer, err := c.CACerts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c.PrivateKey, c.Certificates = key, []*x509.Certificate{cert, issuer[0]}
	csr, _ = request(cert.RawSubject)
	if renewed, err := c.Reenroll(t.Context(), csr); err != nil || renewed.Subject.CommonName != id {
		t.Errorf("renewal: %v", err)
	}
	if err := authority.Revoke(id, "test"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Reenroll(t.Context(), csr); err == nil || !strings.Contains(err.Error(), "revoked") {
		t.Errorf("revoked: %v", err)
	}
}
