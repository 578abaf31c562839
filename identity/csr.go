// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net/url"
	"time"
)

// urnPrefix begins the URI a device certificate carries as its only subject alternative name.
const urnPrefix = "urn:backstay:device:"

// URN is the name of a device in a certificate's subject alternative name.
func URN(deviceID string) *url.URL {
	return &url.URL{Scheme: "urn", Opaque: "backstay:device:" + deviceID}
}

// request makes the PKCS#10 request for a key. subject is copied byte for byte when set (RFC 7030 4.2.2 asks for that at
// re-enrolment); otherwise the subject is the device id and, as organisational unit, the class that protects the key.
func request(k Key, deviceID string, subject []byte) ([]byte, error) {
	t := &x509.CertificateRequest{RawSubject: subject, URIs: []*url.URL{URN(deviceID)}, SignatureAlgorithm: x509.ECDSAWithSHA256}
	if subject == nil {
		t.Subject = pkix.Name{CommonName: deviceID, OrganizationalUnit: []string{string(k.Class())}}
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, t, k)
	if err != nil {
		return nil, fmt.Errorf("make certificate request: %w", err)
	}
	return csr, nil
}

// maxLife bounds a certificate we accept: one that lives for decades is a mistake or an attempt to outlive revocation.
const maxLife = 10 * 366 * 24 * time.Hour

// clockSkew is how far our clock may be behind that of whoever issued a certificate.
const clockSkew = 10 * time.Minute

// Expect is what a certificate issued to us must be.
type Expect struct {
	Public   crypto.PublicKey // the key of our request
	DeviceID string
	Subject  []byte // raw subject it must repeat; nil: any subject whose common name is DeviceID
	Anchors  *x509.CertPool
	Now      time.Time
	// ClockLate says that Now is only a lower bound: a certificate that begins later than Now is then evidence about the
	// clock, not about the certificate.
	ClockLate bool
}

// CheckIssued decides whether the first certificate of a reply may become ours, and returns it with the intermediates that
// lead to a pinned root, the root left out. The reply comes from a server that may lie: key, subject, alternative name, use,
// life and chain are each compared, and nothing in the reply becomes a trust anchor.
func CheckIssued(reply []*x509.Certificate, want Expect) ([]*x509.Certificate, error) {
	if len(reply) == 0 {
		return nil, refuseCert("no-certificate", "the reply holds none", nil)
	}
	leaf := reply[0]
	if err := checkLeaf(leaf, want); err != nil {
		return nil, err
	}
	at := want.Now
	switch {
	case !at.Before(leaf.NotAfter):
		return nil, refuseCert("expired", "it ended on "+leaf.NotAfter.UTC().Format(time.RFC3339), nil)
	case leaf.NotAfter.Sub(leaf.NotBefore) > maxLife:
		return nil, refuseCert("lives-too-long", "it is valid until "+leaf.NotAfter.UTC().Format(time.RFC3339), nil)
	case at.Before(leaf.NotBefore):
		if !want.ClockLate && leaf.NotBefore.Sub(at) > clockSkew {
			return nil, refuseCert("not-yet-valid", "it begins on "+leaf.NotBefore.UTC().Format(time.RFC3339), nil)
		}
		at = leaf.NotBefore
	}
	inter := x509.NewCertPool()
	for _, c := range reply[1:] {
		inter.AddCert(c)
	}
	chains, err := leaf.Verify(x509.VerifyOptions{
		Roots: want.Anchors, Intermediates: inter, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return nil, refuseCert("untrusted-issuer", err.Error(), err)
	}
	chain := chains[0]
	return chain[:len(chain)-1], nil
}

// checkLeaf compares everything but time and chain.
func checkLeaf(leaf *x509.Certificate, want Expect) error {
	switch {
	case !SamePublic(leaf.PublicKey, want.Public):
		return refuseCert("wrong-key", "it certifies another key than the one requested", nil)
	case leaf.IsCA || leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0:
		return refuseCert("is-authority", "it may sign other certificates", nil)
	case leaf.KeyUsage != 0 && leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return refuseCert("wrong-usage", "its key usage lacks digital signature", nil)
	case leaf.Subject.CommonName != want.DeviceID:
		return refuseCert("wrong-subject", fmt.Sprintf("its common name is %.80q, not %s", leaf.Subject.CommonName, want.DeviceID), nil)
	case want.Subject != nil && !bytes.Equal(leaf.RawSubject, want.Subject):
		return refuseCert("wrong-subject", "its subject differs from the one requested", nil)
	case len(leaf.DNSNames)+len(leaf.EmailAddresses)+len(leaf.IPAddresses) != 0 ||
		len(leaf.URIs) != 1 || leaf.URIs[0].String() != urnPrefix+want.DeviceID:
		return refuseCert("wrong-name", "its alternative name is not "+urnPrefix+want.DeviceID+" alone", nil)
	case !clientUse(leaf):
		return refuseCert("wrong-usage", "its extended key usage lacks client authentication", nil)
	}
	return nil
}

// clientUse reports whether extended key usage is absent or names client authentication.
func clientUse(c *x509.Certificate) bool {
	for _, u := range c.ExtKeyUsage {
		if u == x509.ExtKeyUsageClientAuth || u == x509.ExtKeyUsageAny {
			return true
		}
	}
	return len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) == 0
}

// SamePublic reports whether two public keys are equal.
func SamePublic(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b)
}

func refuseCert(code, why string, err error) error {
	return &Refusal{Code: code, What: "issued certificate", Why: why, Err: err}
}
