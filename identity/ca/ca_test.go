// SPDX-License-Identifier: Apache-2.0

package ca_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/backstay/backstay/identity"
	"github.com/backstay/backstay/identity/ca"
	"github.com/backstay/backstay/identity/est"
	"github.com/backstay/backstay/identity/identitytest"
)

// fleet is an authority behind a listener.
type fleet struct {
	*testing.T
	dir    string
	ca     *ca.CA
	now    time.Time
	url    string
	mu     sync.Mutex
	events []string
}

func newFleet(t *testing.T) *fleet {
	t.Helper()
	f := &fleet{T: t, dir: filepath.Join(t.TempDir(), "ca"), now: time.Now().Truncate(time.Second)}
	f.ca = f.must1(ca.Create(f.dir, f.options()))
	f.url = f.serve(f.ca.EnrolTLS("127.0.0.1", "localhost"), f.ca.Handler())
	return f
}

// serve is net/http as a fleet server uses it. (httptest would put a certificate of its own before ours.)
func (f *fleet) serve(c *tls.Config, h http.Handler) string {
	f.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	f.must(err)
	s := &http.Server{Handler: h, ErrorLog: log.New(io.Discard, "", 0)}
	done := make(chan struct{})
	go func() { defer close(done); s.Serve(tls.NewListener(l, c)) }()
	f.Cleanup(func() { s.Close(); <-done })
	return "https://" + l.Addr().String()
}

func (f *fleet) options() ca.Options {
	return ca.Options{Name: "acme", Now: func() time.Time { return f.now }, Emit: func(code string, _ ...slog.Attr) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.events = append(f.events, code)
	}}
}

func (f *fleet) must1(c *ca.CA, err error) *ca.CA {
	f.Helper()
	f.must(err)
	return c
}

func (f *fleet) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

// device makes a born device that enrols with the authority.
func (f *fleet) device() *identity.Identity {
	f.Helper()
	flash := &identitytest.Flash{}
	client, err := est.New(f.url, nil)
	f.must(err)
	i, err := identity.Open(identity.Config{Keys: flash, State: flash, Enroller: client, Anchors: f.ca.Pool(), Now: func() time.Time { return f.now }})
	f.must(err)
	f.must(i.Born(f.Context()))
	return i
}

func (f *fleet) allowed() *identity.Identity {
	f.Helper()
	i := f.device()
	f.must(f.ca.Allow(ca.Device{ID: i.ID(), Serial: "SN-7", Note: "bench"}))
	return i
}

func refused(t *testing.T, err error, code string) {
	t.Helper()
	r, ok := errors.AsType[*identity.Refusal](err)
	if !ok || r.Code != code {
		t.Fatalf("got %v, want %s", err, code)
	}
}

// denied checks that a device was refused by the server, with the code in the server's text.
func denied(t *testing.T, err error, code string) {
	t.Helper()
	r, ok := errors.AsType[*identity.Refusal](err)
	if !ok || r.Code != "denied" || !strings.Contains(r.Why, ": "+code+": ") {
		t.Fatalf("got %v, want denied with %s", err, code)
	}
}

func TestLifeOfADevice(t *testing.T) {
	f := newFleet(t)
	i := f.device()
	denied(t, i.Enroll(t.Context()), "unknown-device")
	f.must(f.ca.Allow(ca.Device{ID: i.ID(), Serial: "SN-7", Note: "bench"}))
	f.must(i.Enroll(t.Context()))
	s := i.Status()
	if life := s.Certificate.NotAfter.Sub(f.now); life != ca.DefaultLife || s.Certificate.Subject != "CN="+i.ID()+",OU=file-bound" {
		t.Errorf("%+v", s.Certificate)
	}
	last, ok := f.ca.Last(i.ID())
	if !ok || last.Serial != s.Certificate.Serial || last.Class != identity.ClassFileBound || last.Label != "" || last.Renewal {
		t.Errorf("recorded %+v", last)
	}
	for range 3 {
		f.must(i.Renew(t.Context()))
		f.must(i.Confirm())
	}
	if last, _ = f.ca.Last(i.ID()); !last.Renewal || last.Serial != i.Status().Certificate.Serial {
		t.Errorf("recorded %+v", last)
	}

	f.now = f.now.AddDate(0, 6, 0) // half a year in a drawer
	if i.Status().Phase != identity.Expired {
		t.Fatal(i.Status())
	}
	f.must(i.Maintain(t.Context()))
	if last, _ = f.ca.Last(i.ID()); last.Label != "recover" || i.Status().Phase != identity.Owned {
		t.Errorf("recorded %+v", last)
	}

	f.must(f.ca.Revoke(i.ID(), "stolen"))
	denied(t, i.Renew(t.Context()), "revoked")
	f.now = f.now.AddDate(1, 0, 0)
	denied(t, i.Enroll(t.Context()), "revoked")
	refused(t, f.ca.Allow(ca.Device{ID: i.ID()}), "revoked")
	f.must(f.ca.Reinstate(i.ID()))
	f.must(i.Enroll(t.Context()))
	want := []string{"ca.refused", "ca.issued", "ca.issued", "ca.issued", "ca.issued", "ca.issued", "ca.revoked", "ca.refused", "ca.refused", "ca.issued"}
	if !slices.Equal(f.events, want) {
		t.Errorf("events %v", f.events)
	}
}

func TestTLS12(t *testing.T) {
	f := newFleet(t)
	c := f.ca.EnrolTLS("127.0.0.1")
	c.MaxVersion = tls.VersionTLS12
	f.url = f.serve(c, f.ca.Handler())
	i := f.allowed()
	f.must(i.Enroll(t.Context()))
	f.must(i.Renew(t.Context()))
}

// TestListener is any other listener of the fleet: it lets enrolled devices in, turns others away, and notices a revocation at
// once, whichever program made it.
func TestListener(t *testing.T) {
	f := newFleet(t)
	address := f.serve(f.ca.ServerTLS("127.0.0.1"), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, err := f.ca.VerifyClient(*r.TLS)
		if err != nil {
			http.Error(w, err.Error(), 500)
			return
		}
		io.WriteString(w, id)
	}))
	get := func(c *tls.Config) (string, error) {
		tr := &http.Transport{TLSClientConfig: c, DisableKeepAlives: true}
		defer tr.CloseIdleConnections()
		resp, err := (&http.Client{Transport: tr}).Get(address)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return string(b), err
	}
	// turnedAway connects until the alert wins the race against the closed connection; no attempt may succeed.
	turnedAway := func(c *tls.Config) error {
		for range 50 {
			_, err := get(c)
			if err == nil || identity.IsRejection(err) {
				return err
			}
		}
		return errors.New("the server never said why")
	}
	i := f.allowed()
	if err := turnedAway(i.TLS()); !identity.IsRejection(err) {
		t.Errorf("without a certificate: %v", err)
	}
	f.must(i.Enroll(t.Context()))
	cached := i.TLS().Clone()
	cached.ClientSessionCache = tls.NewLRUClientSessionCache(4)
	for range 2 { // the second time by session ticket
		if id, err := get(cached); err != nil || id != i.ID() {
			t.Errorf("%q %v", id, err)
		}
	}
	birth, _ := x509.ParseCertificate(i.BirthCertificate())
	byBirth := i.TLS().Clone()
	byBirth.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return &tls.Certificate{Certificate: [][]byte{birth.Raw}, PrivateKey: i.Birth()}, nil
	}
	if err := turnedAway(byBirth); !identity.IsRejection(err) {
		t.Errorf("with the birth certificate: %v", err)
	}
	stolen, _ := f.ca.IssueServer([]string{"broker.example"})
	byServer := i.TLS().Clone()
	byServer.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &stolen, nil }
	if err := turnedAway(byServer); !identity.IsRejection(err) {
		t.Errorf("with a server's certificate: %v", err)
	}

	// The command line revokes while the server runs.
	f.must(f.must1(ca.Load(f.dir, f.options())).Revoke(i.ID(), "lost"))
	for name, c := range map[string]*tls.Config{"new session": i.TLS(), "old session": cached} {
		err := turnedAway(c)
		if !identity.IsRejection(err) {
			t.Errorf("%s after revocation: %v", name, err)
		}
		f.must(i.Rejected(err))
	}
	if i.Status().Phase != identity.Refused {
		t.Errorf("%+v", i.Status())
	}
	if !slices.Contains(f.events, "ca.turned-away") {
		t.Errorf("events %v", f.events)
	}
	f.must(os.Remove(filepath.Join(f.dir, "devices.jsonl")))
	if !f.ca.Revoked(i.ID()) {
		t.Error("an unreadable list lets devices in")
	}
}

func TestServerCertificate(t *testing.T) {
	f := newFleet(t)
	cert, err := f.ca.IssueServer([]string{"fleet.example", "127.0.0.1", "::1"})
	f.must(err)
	inter := x509.NewCertPool()
	c, err := x509.ParseCertificate(cert.Certificate[1])
	f.must(err)
	inter.AddCert(c)
	for _, name := range []string{"fleet.example", "127.0.0.1", "::1"} {
		// A device without a clock believes it is the day its image was built.
		for _, at := range []time.Time{f.now, f.now.AddDate(0, 11, 0)} {
			if _, err := cert.Leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: f.ca.Pool(), Intermediates: inter, CurrentTime: at}); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if _, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: f.ca.Pool(), Intermediates: inter, CurrentTime: f.now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err == nil {
		t.Error("a server certificate works as a client's")
	}
	if _, err := f.ca.IssueServer(nil); err == nil {
		t.Error("a server without a name")
	}
	// The listener's certificate is made anew before it ends.
	get := f.ca.EnrolTLS("localhost").GetCertificate
	first, err := get(nil)
	f.must(err)
	if again, _ := get(nil); again != first {
		t.Error("a certificate for each connection")
	}
	f.now = f.now.AddDate(0, 9, 0)
	if later, _ := get(nil); later == first || !later.Leaf.NotAfter.After(first.Leaf.NotAfter) {
		t.Error("not renewed")
	}
}

// request is a well-formed request of a device, to be spoilt.
func request(t *testing.T, i *identity.Identity, key any, edit func(*x509.CertificateRequest)) []byte {
	t.Helper()
	if key == nil {
		key = identitytest.NewKey(identity.ClassTPM)
	}
	r := &x509.CertificateRequest{Subject: pkix.Name{CommonName: i.ID()}, URIs: []*url.URL{identity.URN(i.ID())}}
	if edit != nil {
		edit(r)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, r, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestRefusals(t *testing.T) {
	f := newFleet(t)
	i, other := f.allowed(), f.allowed()
	stranger := f.device()
	f.must(i.Enroll(t.Context()))
	f.must(other.Enroll(t.Context()))
	birth := func(i *identity.Identity) *x509.Certificate {
		c, _ := x509.ParseCertificate(i.BirthCertificate())
		return c
	}
	leaf := func(i *identity.Identity) *tls.Certificate { c, _ := i.TLS().GetClientCertificate(nil); return c }
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	rsaKey, _ := rsa.GenerateKey(rand.Reader, 2048)
	rsaPeer := selfSigned(t, rsaKey, i.ID())
	wrongSelf := selfSigned(t, identitytest.NewKey(identity.ClassTPM), i.ID())
	good := request(t, i, nil, nil)
	broken := slices.Clone(good)
	broken[len(broken)-1] ^= 1
	evil := identitytest.NewAuthority(func() time.Time { return f.now })
	forged := evil.Certify(&x509.CertificateRequest{Subject: pkix.Name{CommonName: i.ID()}, URIs: []*url.URL{identity.URN(i.ID())}}, p384.Public(), nil)
	server, _ := f.ca.IssueServer([]string{"x.example"})

	for _, c := range []struct {
		name, code string
		req        ca.Request
	}{
		{"no client certificate", "no-certificate", ca.Request{CSR: good}},
		{"unknown label", "unknown-label", ca.Request{CSR: good, Peer: birth(i), Label: "admin"}},
		{"not on the list", "unknown-device", ca.Request{CSR: request(t, stranger, nil, nil), Peer: birth(stranger)}},
		{"RSA birth key", "weak-key", ca.Request{CSR: good, Peer: rsaPeer}},
		{"birth certificate under another's name", "not-a-birth-certificate", ca.Request{CSR: good, Peer: wrongSelf}},
		{"owner's certificate at first enrolment", "not-a-birth-certificate", ca.Request{CSR: good, Peer: leaf(i).Leaf}},
		{"forged birth certificate", "not-a-birth-certificate", ca.Request{CSR: good, Peer: tampered(t, birth(i))}},
		{"birth certificate at renewal", "untrusted-certificate", ca.Request{CSR: good, Peer: birth(i), Renew: true}},
		{"certificate of another authority", "untrusted-certificate", ca.Request{CSR: good, Peer: forged, Chain: []*x509.Certificate{evil.Issuer, evil.Root}, Renew: true}},
		{"server's certificate", "untrusted-certificate", ca.Request{CSR: good, Peer: server.Leaf, Renew: true}},
		{"not PKCS#10", "malformed-request", ca.Request{CSR: []byte("x"), Peer: birth(i)}},
		{"P-384", "weak-key", ca.Request{CSR: request(t, i, p384, nil), Peer: birth(i)}},
		{"RSA", "weak-key", ca.Request{CSR: request(t, i, rsaKey, nil), Peer: birth(i)}},
		{"broken signature", "bad-signature", ca.Request{CSR: broken, Peer: birth(i)}},
		{"another's subject", "wrong-subject", ca.Request{CSR: request(t, other, nil, nil), Peer: birth(i)}},
		{"another's name", "wrong-name", ca.Request{CSR: request(t, i, nil, func(r *x509.CertificateRequest) { r.URIs = []*url.URL{identity.URN(other.ID())} }), Peer: birth(i)}},
		{"host name", "wrong-name", ca.Request{CSR: request(t, i, nil, func(r *x509.CertificateRequest) { r.DNSNames = []string{"x.example"} }), Peer: birth(i)}},
		{"address", "wrong-name", ca.Request{CSR: request(t, i, nil, func(r *x509.CertificateRequest) { r.IPAddresses = []net.IP{{1, 2, 3, 4}} }), Peer: birth(i)}},
		{"no name", "wrong-name", ca.Request{CSR: request(t, i, nil, func(r *x509.CertificateRequest) { r.URIs = nil }), Peer: birth(i)}},
		{"own birth key", "key-reused", ca.Request{CSR: request(t, i, i.Birth(), nil), Peer: birth(i)}},
		{"own birth key at renewal", "key-bound", ca.Request{CSR: request(t, i, i.Birth(), sameSubject(leaf(i).Leaf)), Peer: leaf(i).Leaf, Renew: true}},
		{"another's birth key", "key-bound", ca.Request{CSR: request(t, i, other.Birth(), nil), Peer: birth(i)}},
		{"another's key", "key-bound", ca.Request{CSR: request(t, i, leaf(other).PrivateKey, nil), Peer: birth(i)}},
		{"same key at renewal", "key-reused", ca.Request{CSR: request(t, i, leaf(i).PrivateKey, sameSubject(leaf(i).Leaf)), Peer: leaf(i).Leaf, Renew: true}},
		{"changed subject at renewal", "wrong-subject", ca.Request{CSR: good, Peer: leaf(i).Leaf, Renew: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			certs, err := f.ca.Issue(c.req)
			if certs != nil {
				t.Error("issued")
			}
			refused(t, err, c.code)
		})
	}
	before, _ := f.ca.Last(i.ID())
	if _, err := f.ca.Issue(ca.Request{CSR: good, Peer: birth(i)}); err != nil {
		t.Errorf("the request that the others spoil: %v", err)
	}
	if after, _ := f.ca.Last(i.ID()); after.Serial == before.Serial {
		t.Error("not recorded")
	}
	f.now = f.now.AddDate(1, 0, 0)
	_, err := f.ca.Issue(ca.Request{CSR: request(t, i, nil, sameSubject(leaf(i).Leaf)), Peer: leaf(i).Leaf, Renew: true})
	refused(t, err, "untrusted-certificate") // over: the recovery label is for that
	f.now = f.now.AddDate(20, 0, 0)
	_, err = f.ca.Issue(ca.Request{CSR: good, Peer: birth(i)})
	refused(t, err, "issuer-expired")
}

func sameSubject(c *x509.Certificate) func(*x509.CertificateRequest) {
	return func(r *x509.CertificateRequest) { r.RawSubject = c.RawSubject }
}

func selfSigned(t *testing.T, key crypto.Signer, cn string) *x509.Certificate {
	t.Helper()
	c := &x509.Certificate{SerialNumber: one(), Subject: pkix.Name{CommonName: cn}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	out, _ := x509.ParseCertificate(der)
	return out
}

// tampered is a birth certificate whose signature does not fit.
func tampered(t *testing.T, c *x509.Certificate) *x509.Certificate {
	t.Helper()
	der := slices.Clone(c.Raw)
	der[len(der)-1] ^= 1
	out, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestNotADevice: a client certificate of this authority that names no device, or two things at once, lets nobody in.
func TestNotADevice(t *testing.T) {
	f := newFleet(t)
	b, err := os.ReadFile(filepath.Join(f.dir, "issuing.key"))
	f.must(err)
	block, _ := pem.Decode(b)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	f.must(err)
	b, err = os.ReadFile(filepath.Join(f.dir, "issuing.crt"))
	f.must(err)
	block, _ = pem.Decode(b)
	issuer, err := x509.ParseCertificate(block.Bytes)
	f.must(err)
	id, other := f.device().ID(), f.device().ID()
	for name, c := range map[string]struct {
		cn   string
		uris []*url.URL
		code string
	}{
		"device": {id, []*url.URL{identity.URN(id)}, ""}, "no name": {id, nil, "not-a-device"}, "another name": {id, []*url.URL{identity.URN(other)}, "not-a-device"},
		"two names": {id, []*url.URL{identity.URN(id), identity.URN(other)}, "not-a-device"}, "no id": {"collector", []*url.URL{identity.URN("collector")}, "not-a-device"},
	} {
		tpl := &x509.Certificate{SerialNumber: one(), Subject: pkix.Name{CommonName: c.cn}, URIs: c.uris, NotBefore: f.now, NotAfter: f.now.Add(time.Hour),
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
		der, err := x509.CreateCertificate(rand.Reader, tpl, issuer, identitytest.NewKey("").Public(), key)
		f.must(err)
		leaf, err := x509.ParseCertificate(der)
		f.must(err)
		got, err := f.ca.VerifyClient(tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}})
		if c.code == "" {
			if err != nil || got != id {
				t.Errorf("%s: %q %v", name, got, err)
			}
			continue
		}
		refused(t, err, c.code)
	}
	collector, err := f.ca.IssueClient("collector")
	f.must(err)
	_, err = f.ca.VerifyClient(tls.ConnectionState{PeerCertificates: []*x509.Certificate{collector.Leaf}})
	refused(t, err, "not-a-device")
	_, err = f.ca.IssueClient(id)
	refused(t, err, "malformed-id")
	_, err = f.ca.VerifyClient(tls.ConnectionState{})
	refused(t, err, "no-certificate")
}

func TestSupersededCertificateIsReported(t *testing.T) {
	f := newFleet(t)
	i := f.allowed()
	f.must(i.Enroll(t.Context()))
	old, _ := i.TLS().GetClientCertificate(nil)
	f.must(i.Renew(t.Context()))
	if slices.Contains(f.events, "ca.superseded") {
		t.Fatal("an ordinary renewal is reported")
	}
	if _, err := f.ca.Issue(ca.Request{CSR: request(t, i, nil, sameSubject(old.Leaf)), Peer: old.Leaf, Renew: true}); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(f.events, "ca.superseded") {
		t.Errorf("events %v", f.events)
	}
}

func TestManyAtOnce(t *testing.T) {
	f := newFleet(t)
	var devices []*identity.Identity
	for range 12 {
		devices = append(devices, f.allowed())
	}
	errs := make(chan error)
	for _, i := range devices {
		go func() {
			errs <- errors.Join(i.Enroll(context.WithoutCancel(t.Context())), i.Renew(context.WithoutCancel(t.Context())))
		}()
	}
	for range devices {
		f.must(<-errs)
	}
	again := f.must1(ca.Load(f.dir, f.options()))
	for _, i := range devices {
		if last, ok := again.Last(i.ID()); !ok || last.Serial != i.Status().Certificate.Serial {
			t.Errorf("%s: %+v", i.ID(), last)
		}
	}
}
