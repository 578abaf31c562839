// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/backstay/backstay/identity"
)

// IssueServer makes a key and a certificate for a server of the fleet. names are host names and IP addresses. The certificate
// lives a year and begins when the issuing certificate does: a device that starts without a clock knows the time only as
// "later than its image", and would otherwise take a server certificate that is younger for one that is not valid yet.
func (c *CA) IssueServer(names []string) (tls.Certificate, error) {
	return c.service(names, x509.ExtKeyUsageServerAuth)
}

// IssueClient makes a key and a certificate for a program of the fleet that is a client of somebody else's broker: a collector.
// The name becomes the common name; it must not look like a device's.
func (c *CA) IssueClient(name string) (tls.Certificate, error) {
	if identity.ValidID(name) {
		return tls.Certificate{}, deny("malformed-id", name+" is the name of a device; a device enrols")
	}
	return c.service([]string{name}, x509.ExtKeyUsageClientAuth)
}

func (c *CA) service(names []string, usage x509.ExtKeyUsage) (tls.Certificate, error) {
	if len(names) == 0 {
		return tls.Certificate{}, errors.New("issue server certificate: no name given")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("issue server certificate: %w", err)
	}
	t := &x509.Certificate{
		Subject:   pkix.Name{Organization: []string{c.name}, CommonName: names[0]},
		NotBefore: c.issuer.NotBefore, NotAfter: c.now().Add(serverLife),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{usage},
		BasicConstraintsValid: true,
	}
	if len(names[0]) > 64 { // X.520 allows no more
		t.Subject.CommonName = ""
	}
	if t.NotAfter.After(c.issuer.NotAfter) {
		t.NotAfter = c.issuer.NotAfter
	}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, n)
		}
	}
	leaf, err := sign(t, c.issuer, key.Public(), c.key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("issue server certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{leaf.Raw, c.issuer.Raw}, PrivateKey: key, Leaf: leaf}, nil
}

// server issues a certificate when it is first needed and again when two thirds of its time are over, so a server that runs
// for years needs no restart.
func (c *CA) server(names []string) func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	var mu sync.Mutex
	var cert *tls.Certificate
	var until time.Time
	return func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		mu.Lock()
		defer mu.Unlock()
		if now := c.now(); cert == nil || now.After(until) {
			fresh, err := c.IssueServer(names)
			if err != nil {
				return nil, err
			}
			cert, until = &fresh, now.Add(fresh.Leaf.NotAfter.Sub(now)/3*2)
		}
		return cert, nil
	}
}

// EnrolTLS is the configuration of the listener that serves Handler under the given names. A client certificate is asked for
// and its key proved by the handshake; Handler decides what it is worth, because a birth certificate has no issuer to check.
func (c *CA) EnrolTLS(names ...string) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: c.server(names), ClientAuth: tls.RequestClientCert, Time: c.now}
}

// ServerTLS is the configuration of every other listener of the fleet: it lets in devices with a living certificate that are
// not revoked, also when a session is resumed. VerifyClient gives the device's id.
func (c *CA) ServerTLS(names ...string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12, GetCertificate: c.server(names), Time: c.now,
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: c.ClientCAs(),
		VerifyConnection: func(cs tls.ConnectionState) error {
			id, err := c.VerifyClient(cs)
			if err != nil {
				c.emit("ca.turned-away", slog.String("device_id", id), slog.String("why", err.Error()))
			}
			return err
		},
	}
}

// ClientCAs is the pool device certificates are verified against.
func (c *CA) ClientCAs() *x509.CertPool {
	p := c.Pool()
	p.AddCert(c.issuer)
	return p
}

// VerifyClient returns the id of the device at the other end of a connection, or an error when its certificate is missing,
// not of this authority, over, or its device revoked. The id is returned with an error too, once the certificate was verified.
func (c *CA) VerifyClient(cs tls.ConnectionState) (string, error) {
	if len(cs.PeerCertificates) == 0 {
		return "", deny("no-certificate", "the connection has no client certificate")
	}
	return c.verify(cs.PeerCertificates[0], cs.PeerCertificates[1:])
}

func (c *CA) verify(leaf *x509.Certificate, chain []*x509.Certificate) (string, error) {
	inter := x509.NewCertPool()
	for _, ca := range chain {
		inter.AddCert(ca)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: c.ClientCAs(), Intermediates: inter, CurrentTime: c.now(),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		return "", &identity.Refusal{Code: "untrusted-certificate", What: "client certificate", Why: err.Error(), Err: err}
	}
	id := leaf.Subject.CommonName
	if !identity.ValidID(id) || len(leaf.URIs) != 1 || leaf.URIs[0].String() != identity.URN(id).String() {
		return "", deny("not-a-device", "the client certificate does not name a device")
	}
	if c.Revoked(id) {
		return id, deny("revoked", "device "+id+" was revoked")
	}
	return id, nil
}
