// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"log/slog"
	"net/url"
	"time"

	"github.com/backstay/backstay/identity"
)

// Request is a request for a device certificate, with who asks for it.
type Request struct {
	CSR   []byte            // DER, PKCS#10
	Label string            // "" or identity.LabelRecover
	Peer  *x509.Certificate // the client certificate of the connection, whose key the handshake proved
	Chain []*x509.Certificate
	Renew bool // Peer is a certificate of this authority; otherwise it is a birth certificate
}

// Issue decides about a request and returns the new certificate followed by the issuing certificate. The issue is on disk
// before the certificate leaves. Each refusal is an identity.Refusal with its own code.
func (c *CA) Issue(r Request) ([]*x509.Certificate, error) {
	certs, id, err := c.decide(r)
	if err != nil {
		c.emit("ca.refused", slog.String("device_id", id), slog.String("why", err.Error()), slog.Bool("renewal", r.Renew))
		return nil, err
	}
	c.emit("ca.issued", slog.String("device_id", id), slog.String("certificate", fmt.Sprintf("%x", certs[0].SerialNumber)),
		slog.String("label", r.Label), slog.Bool("renewal", r.Renew), slog.Time("not_after", certs[0].NotAfter))
	return certs, nil
}

func (c *CA) decide(r Request) ([]*x509.Certificate, string, error) {
	id, err := c.authenticate(r)
	if err != nil {
		return nil, id, err
	}
	csr, err := checkRequest(r.CSR, id)
	if err != nil {
		return nil, id, err
	}
	if identity.SamePublic(csr.PublicKey, r.Peer.PublicKey) {
		return nil, id, deny("key-reused", "the request is for the key it was authenticated with; every certificate gets a new key")
	}
	subject := pkix.Name{CommonName: id}
	if units := csr.Subject.OrganizationalUnit; len(units) == 1 && identity.Class(units[0]).Known() {
		subject.OrganizationalUnit = units // what protects the key, as the device says
	}
	t := &x509.Certificate{Subject: subject}
	if r.Renew {
		if !bytes.Equal(csr.RawSubject, r.Peer.RawSubject) {
			return nil, id, deny("wrong-subject", "a renewal must repeat the subject of the certificate it replaces")
		}
		t.RawSubject = r.Peer.RawSubject
		c.noteSuperseded(id, r.Peer)
	}
	leaf, err := c.issue(t, csr, id, r)
	if err != nil {
		return nil, id, err
	}
	return []*x509.Certificate{leaf, c.issuer}, id, nil
}

// noteSuperseded reports a renewal with a certificate that is not the newest of its device. A reply that was lost explains one;
// a copy of the device explains a series. Whoever reads the events can tell, the authority cannot, so it does not refuse.
func (c *CA) noteSuperseded(id string, peer *x509.Certificate) {
	last, ok := c.Last(id)
	if shown := fmt.Sprintf("%x", peer.SerialNumber); ok && last.Serial != shown {
		c.emit("ca.superseded", slog.String("device_id", id), slog.String("shown", shown), slog.String("newest", last.Serial))
	}
}

// authenticate finds out which device asks.
func (c *CA) authenticate(r Request) (string, error) {
	switch {
	case r.Peer == nil:
		return "", deny("no-certificate", "the connection has no client certificate")
	case r.Label != "" && r.Label != identity.LabelRecover:
		return "", deny("unknown-label", fmt.Sprintf("there is no label %.40q", r.Label))
	case r.Renew:
		return c.verify(r.Peer, r.Chain)
	}
	// A birth certificate: its key is the identity, what it says beside that is not believed.
	id, err := identity.DeviceID(r.Peer.PublicKey)
	if err != nil {
		return "", deny("weak-key", "the client certificate's key is not ECDSA P-256")
	}
	if r.Peer.Subject.CommonName != id || r.Peer.CheckSignature(r.Peer.SignatureAlgorithm, r.Peer.RawTBSCertificate, r.Peer.Signature) != nil {
		return id, deny("not-a-birth-certificate", "a first enrolment is authenticated with the birth certificate, signed by its own key")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.refresh(); err != nil {
		return id, err
	}
	d, known := c.devices[id]
	switch {
	case known && !d.Revoked.IsZero():
		return id, deny("revoked", "device "+id+" was revoked")
	case !known || d.Allowed.IsZero():
		return id, deny("unknown-device", "device "+id+" is not on the birth list")
	}
	return id, nil
}

// checkRequest reads a request and checks everything that does not depend on what was issued before.
func checkRequest(der []byte, id string) (*x509.CertificateRequest, error) {
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, deny("malformed-request", err.Error())
	}
	if k, ok := csr.PublicKey.(*ecdsa.PublicKey); !ok || k.Curve != elliptic.P256() {
		return nil, deny("weak-key", "the request's key is not ECDSA P-256")
	}
	if err := csr.CheckSignature(); err != nil || csr.SignatureAlgorithm == x509.ECDSAWithSHA1 {
		return nil, deny("bad-signature", "the request is not signed by its own key")
	}
	switch {
	case csr.Subject.CommonName != id:
		return nil, deny("wrong-subject", fmt.Sprintf("the request is for %.60q, the connection is of %s", csr.Subject.CommonName, id))
	case len(csr.DNSNames)+len(csr.EmailAddresses)+len(csr.IPAddresses) != 0 ||
		len(csr.URIs) != 1 || csr.URIs[0].String() != identity.URN(id).String():
		return nil, deny("wrong-name", "the request's alternative name is not "+identity.URN(id).String()+" alone")
	}
	return csr, nil
}

// issue signs the certificate and records it.
func (c *CA) issue(t *x509.Certificate, csr *x509.CertificateRequest, id string, r Request) (*x509.Certificate, error) {
	now := c.now().UTC().Truncate(time.Second)
	t.URIs = []*url.URL{identity.URN(id)}
	t.KeyUsage, t.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	t.BasicConstraintsValid = true
	t.NotBefore, t.NotAfter = now.Add(-skew), now.Add(c.life)
	if t.NotBefore.Before(c.issuer.NotBefore) {
		t.NotBefore = c.issuer.NotBefore
	}
	if t.NotAfter.After(c.issuer.NotAfter) {
		t.NotAfter = c.issuer.NotAfter
	}
	if !now.Before(c.issuer.NotAfter) {
		return nil, &identity.Refusal{Class: identity.ErrSetup, Code: "issuer-expired", What: "issue certificate",
			Why: "the issuing certificate ended on " + c.issuer.NotAfter.Format(time.DateOnly)}
	}
	key := sha256.Sum256(csr.RawSubjectPublicKeyInfo)
	c.mu.Lock()
	defer c.mu.Unlock()
	var leaf *x509.Certificate
	err := c.locked(func() error {
		if err := c.refresh(); err != nil {
			return err
		}
		if !c.devices[id].Revoked.IsZero() {
			return deny("revoked", "device "+id+" was revoked")
		}
		if err := c.unbound(csr, key, id); err != nil {
			return err
		}
		var err error
		if leaf, err = sign(t, c.issuer, csr.PublicKey, c.key); err != nil {
			return fmt.Errorf("sign certificate: %w", err)
		}
		i := Issued{Time: now, ID: id, Serial: fmt.Sprintf("%x", leaf.SerialNumber), Key: key[:], NotAfter: leaf.NotAfter,
			Label: r.Label, Renewal: r.Renew}
		if units := leaf.Subject.OrganizationalUnit; len(units) == 1 {
			i.Class = identity.Class(units[0])
		}
		if err := c.appendIssued(i); err != nil {
			return fmt.Errorf("record certificate: %w", err)
		}
		return nil
	})
	return leaf, err
}

// unbound refuses a key that belongs to another device, as an owner's key or as a birth key, and the device's own birth key.
// One key under two names is a clone or a theft.
func (c *CA) unbound(csr *x509.CertificateRequest, key [32]byte, id string) error {
	if other, ok := c.bound[key]; ok && other != id {
		return deny("key-bound", "the request's key belongs to device "+other)
	}
	self, err := identity.DeviceID(csr.PublicKey)
	if err != nil {
		return err
	}
	if _, known := c.devices[self]; known || self == id {
		return deny("key-bound", "the request's key is the birth key of device "+self)
	}
	return nil
}

func deny(code, why string) error {
	return &identity.Refusal{Code: code, What: "enrol device", Why: why}
}
