// SPDX-License-Identifier: Apache-2.0

package collect_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// pki is a certificate authority that lives as long as one test.
type pki struct {
	t    *testing.T
	dir  string
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pool *x509.CertPool

	mu      sync.Mutex
	revoked map[string]bool
}

func newPKI(t *testing.T) *pki {
	t.Helper()
	p := &pki{t: t, dir: t.TempDir(), pool: x509.NewCertPool(), revoked: make(map[string]bool)}
	p.key, p.cert = p.make(&x509.Certificate{Subject: pkix.Name{CommonName: "TEST root"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign}, nil)
	p.pool.AddCert(p.cert)
	p.write("ca.pem", "CERTIFICATE", p.cert.Raw)
	return p
}

func (p *pki) make(tmpl *x509.Certificate, key *ecdsa.PrivateKey) (*ecdsa.PrivateKey, *x509.Certificate) {
	p.t.Helper()
	var err error
	if key == nil {
		if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			p.t.Fatal(err)
		}
	}
	tmpl.SerialNumber = big.NewInt(time.Now().UnixNano())
	tmpl.NotBefore, tmpl.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := p.cert, p.key
	if parent == nil {
		parent, signer = tmpl, key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, signer)
	if err != nil {
		p.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		p.t.Fatal(err)
	}
	return key, cert
}

func (p *pki) write(name, kind string, der []byte) string {
	path := filepath.Join(p.dir, name)
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		p.t.Fatal(err)
	}
	return path
}

// client returns the TLS configuration of a device or a collector.
func (p *pki) client(name string) *tls.Config {
	key, cert := p.make(&x509.Certificate{Subject: pkix.Name{CommonName: name, Organization: []string{"TEST"}},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, nil)
	if name == "collector" { // it may run in another process
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			p.t.Fatal(err)
		}
		p.write("collector.pem", "CERTIFICATE", cert.Raw)
		p.write("collector.key", "PRIVATE KEY", der)
	}
	return &tls.Config{RootCAs: p.pool, ServerName: "localhost",
		Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}}}
}

// server writes and returns a server certificate.
func (p *pki) server() *tls.Config {
	key, cert := p.make(&x509.Certificate{Subject: pkix.Name{CommonName: "localhost", Organization: []string{"TEST"}}, DNSNames: []string{"localhost"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, nil)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		p.t.Fatal(err)
	}
	p.write("server.pem", "CERTIFICATE", cert.Raw)
	p.write("server.key", "PRIVATE KEY", der)
	return &tls.Config{MinVersion: tls.VersionTLS12, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: p.pool,
		Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}}}
}

// verify is what identity/ca does for a front: the common name is the device, unless it is revoked.
func (p *pki) verify(cs tls.ConnectionState) (string, error) {
	if len(cs.VerifiedChains) == 0 {
		return "", errors.New("not verified")
	}
	name := cs.PeerCertificates[0].Subject.CommonName
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.revoked[name] {
		return "", errors.New("revoked")
	}
	return name, nil
}

func (p *pki) revoke(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.revoked[name] = true
}
