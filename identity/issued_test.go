// SPDX-License-Identifier: Apache-2.0

package identity_test

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"net"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/backstay/backstay/identity"
	"github.com/backstay/backstay/identity/identitytest"
)

const (
	cryptoSHA256 = crypto.SHA256
	cryptoSHA384 = crypto.SHA384
)

// TestRefusesIssued gives a device every wrong certificate we could think of, at first enrolment and at renewal. It must keep
// what it has, say why, and take a good certificate afterwards.
func TestRefusesIssued(t *testing.T) {
	other := identitytest.NewKey(identity.ClassTPM)
	otherID, _ := identity.DeviceID(other.Public())
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	edit := func(f func(*x509.Certificate)) func(*bench) { return func(b *bench) { b.auth.Edit = f } }
	swap := func(pub any) func(*bench) {
		return func(b *bench) {
			b.auth.Reply = func(r []*x509.Certificate) []*x509.Certificate {
				csr, _ := x509.ParseCertificateRequest(b.auth.Seen[len(b.auth.Seen)-1].CSR)
				return []*x509.Certificate{b.auth.Certify(csr, pub, nil), b.auth.Issuer}
			}
		}
	}
	for _, c := range []struct {
		name, code string
		set        func(*bench)
	}{
		{"nothing", "no-certificate", func(b *bench) { b.auth.Reply = func([]*x509.Certificate) []*x509.Certificate { return nil } }},
		{"another key", "wrong-key", swap(other.Public())},
		{"RSA", "wrong-key", swap(rsaKey.Public())},
		{"another subject", "wrong-subject", edit(func(t *x509.Certificate) { t.RawSubject, t.Subject = nil, pkix.Name{CommonName: otherID} })},
		{"another name", "wrong-name", edit(func(t *x509.Certificate) { t.URIs = []*url.URL{identity.URN(otherID)} })},
		{"two names", "wrong-name", edit(func(t *x509.Certificate) { t.URIs = append(t.URIs, identity.URN(otherID)) })},
		{"no name", "wrong-name", edit(func(t *x509.Certificate) { t.URIs = nil })},
		{"a host name", "wrong-name", edit(func(t *x509.Certificate) { t.DNSNames = []string{"broker.example"} })},
		{"an address", "wrong-name", edit(func(t *x509.Certificate) { t.IPAddresses = []net.IP{{10, 0, 0, 1}} })},
		{"a mailbox", "wrong-name", edit(func(t *x509.Certificate) { t.EmailAddresses = []string{"root@example"} })},
		{"authority", "is-authority", edit(func(t *x509.Certificate) { t.IsCA = true; t.KeyUsage |= x509.KeyUsageCertSign })},
		{"may sign certificates", "is-authority", edit(func(t *x509.Certificate) { t.KeyUsage |= x509.KeyUsageCRLSign })},
		{"key agreement only", "wrong-usage", edit(func(t *x509.Certificate) { t.KeyUsage = x509.KeyUsageKeyAgreement })},
		{"server only", "wrong-usage", edit(func(t *x509.Certificate) { t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })},
		{"already over", "expired", edit(func(t *x509.Certificate) {
			t.NotBefore, t.NotAfter = t.NotBefore.AddDate(-1, 0, 0), t.NotBefore.AddDate(0, 0, -1)
		})},
		{"not yet", "not-yet-valid", edit(func(t *x509.Certificate) { t.NotBefore = t.NotBefore.Add(time.Hour) })},
		{"for ever", "lives-too-long", edit(func(t *x509.Certificate) { t.NotAfter = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC) })},
		{"chain missing", "untrusted-issuer", func(b *bench) { b.auth.Reply = func(r []*x509.Certificate) []*x509.Certificate { return r[:1] } }},
		{"another root", "untrusted-issuer", func(b *bench) {
			evil := identitytest.NewAuthority(b.auth.Now)
			b.auth.Reply = func([]*x509.Certificate) []*x509.Certificate {
				csr, _ := x509.ParseCertificateRequest(b.auth.Seen[len(b.auth.Seen)-1].CSR)
				return []*x509.Certificate{evil.Certify(csr, csr.PublicKey, nil), evil.Issuer, evil.Root}
			}
		}},
		{"unknown critical extension", "untrusted-issuer", edit(func(t *x509.Certificate) {
			t.ExtraExtensions = []pkix.Extension{{Id: []int{1, 2, 3, 4}, Critical: true, Value: []byte{5, 0}}}
		})},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			i := b.open()
			b.must(i.Born(t.Context()))
			c.set(b)
			refused(t, i.Enroll(t.Context()), identity.ErrRefused, c.code)
			b.phase(i, identity.BornOnly)
			if b.events[len(b.events)-1] != "identity.failed" {
				t.Errorf("events %v", b.events)
			}
			b.auth.Edit, b.auth.Reply = nil, nil
			b.must(i.Enroll(t.Context()))
			b.must(i.Confirm())
			have := presented(i)

			c.set(b)
			refused(t, i.Renew(t.Context()), identity.ErrRefused, c.code)
			if !presented(i).Equal(have) || !presented(b.open()).Equal(have) {
				t.Error("the certificate that worked is gone")
			}
			b.auth.Edit, b.auth.Reply = nil, nil
			b.must(i.Renew(t.Context()))
			b.phase(i, identity.Owned)
		})
	}
}

func TestRenewalKeepsTheSubject(t *testing.T) {
	b := newBench(t)
	b.auth.Edit = func(t *x509.Certificate) { t.RawSubject, t.Subject.Organization = nil, []string{"Owner"} }
	i := b.enrolled()
	want := presented(i).RawSubject
	b.auth.Edit = nil
	b.must(i.Renew(t.Context()))
	if got := presented(i).RawSubject; !slices.Equal(got, want) {
		t.Error("the request did not repeat the subject")
	}
	b.auth.Edit = func(t *x509.Certificate) { t.RawSubject, t.Subject.Organization = nil, []string{"Other"} }
	refused(t, i.Renew(t.Context()), identity.ErrRefused, "wrong-subject")
}

func TestAcceptsWhatOtherAuthoritiesDo(t *testing.T) {
	for name, edit := range map[string]func(*x509.Certificate){
		"no usages":          func(t *x509.Certificate) { t.KeyUsage, t.ExtKeyUsage = 0, nil },
		"client and server":  func(t *x509.Certificate) { t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageServerAuth) },
		"any use":            func(t *x509.Certificate) { t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} },
		"begins in a minute": func(t *x509.Certificate) { t.NotBefore = t.NotBefore.Add(time.Minute) },
	} {
		b := newBench(t)
		b.auth.Edit = edit
		i := b.open()
		b.must(i.Born(t.Context()))
		if err := i.Enroll(t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestLateClock: a device whose clock is only a lower bound takes a certificate from its future.
func TestLateClock(t *testing.T) {
	b := newBench(t)
	i := b.open()
	b.must(i.Born(t.Context()))
	b.auth.Edit = func(t *x509.Certificate) { t.NotBefore = t.NotBefore.AddDate(0, 0, 20) }
	refused(t, i.Enroll(t.Context()), identity.ErrRefused, "not-yet-valid")
	b.late = true
	b.must(i.Enroll(t.Context()))
	b.phase(i, identity.Owned)
}
