// SPDX-License-Identifier: Apache-2.0

package est_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/backstay/backstay/identity"
	"github.com/backstay/backstay/identity/est"
	"github.com/backstay/backstay/identity/identitytest"
)

const pkcs7 = "application/pkcs7-mime; smime-type=certs-only"

// rig is a device and a server that answers enrolments with whatever reply says; everything else it does properly.
type rig struct {
	*testing.T
	auth   *identitytest.Authority
	server *httptest.Server
	client *est.Client
	device *identity.Identity
	flash  *identitytest.Flash
	reply  func(w http.ResponseWriter, r *http.Request, csr *x509.CertificateRequest)
	hits   atomic.Int32
}

func newRig(t *testing.T, edit func(*tls.Config)) *rig {
	t.Helper()
	r := &rig{T: t, auth: identitytest.NewAuthority(time.Now), flash: &identitytest.Flash{}}
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	leaf := r.auth.Certify(&x509.CertificateRequest{}, key.Public(), func(c *x509.Certificate) {
		c.Subject, c.IPAddresses = pkix.Name{CommonName: "est"}, []net.IP{{127, 0, 0, 1}}
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	})
	r.server = httptest.NewUnstartedServer(r)
	r.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	r.server.TLS = &tls.Config{ClientAuth: tls.RequestClientCert,
		Certificates: []tls.Certificate{{Certificate: [][]byte{leaf.Raw, r.auth.Issuer.Raw}, PrivateKey: key}}}
	if edit != nil {
		edit(r.server.TLS)
	}
	r.server.StartTLS()
	t.Cleanup(r.server.Close)
	var err error
	if r.client, err = est.New(r.server.URL, &tls.Config{RootCAs: r.auth.Pool()}); err != nil {
		t.Fatal(err)
	}
	if r.device, err = identity.Open(identity.Config{Keys: r.flash, State: r.flash, Enroller: r.client, Anchors: r.auth.Pool(), Now: time.Now}); err != nil {
		t.Fatal(err)
	}
	if err := r.device.Born(t.Context()); err != nil {
		t.Fatal(err)
	}
	return r
}

// ServeHTTP is the server.
func (r *rig) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.hits.Add(1)
	if strings.HasSuffix(req.URL.Path, "/cacerts") {
		r.certs(w, r.auth.Issuer, r.auth.Root)
		return
	}
	body, _ := io.ReadAll(req.Body)
	der, err := est.Unwrap(body)
	if err != nil {
		http.Error(w, err.Error(), 400)
		return
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		http.Error(w, err.Error(), 400)
		return
	}
	r.reply(w, req, csr)
}

func (r *rig) certs(w http.ResponseWriter, certs ...*x509.Certificate) {
	der, err := est.EncodeCerts(certs)
	if err != nil {
		r.Error(err)
	}
	w.Header().Set("Content-Type", pkcs7)
	w.Write(est.Wrap(der))
}

// good is the body of a proper reply.
func (r *rig) good(csr *x509.CertificateRequest) []byte {
	der, err := est.EncodeCerts([]*x509.Certificate{r.auth.Certify(csr, csr.PublicKey, nil), r.auth.Issuer})
	if err != nil {
		r.Error(err)
	}
	return der
}

type answer = func(r *rig, w http.ResponseWriter, req *http.Request, csr *x509.CertificateRequest)

func body(f func(der []byte) []byte) answer {
	return func(r *rig, w http.ResponseWriter, _ *http.Request, csr *x509.CertificateRequest) {
		w.Header().Set("Content-Type", pkcs7)
		w.Write(f(r.good(csr)))
	}
}

func cert(edit func(*x509.Certificate)) answer {
	return func(r *rig, w http.ResponseWriter, _ *http.Request, csr *x509.CertificateRequest) {
		r.certs(w, r.auth.Certify(csr, csr.PublicKey, edit))
	}
}

func status(code int, header ...string) answer {
	return func(_ *rig, w http.ResponseWriter, _ *http.Request, _ *x509.CertificateRequest) {
		for n := 0; n < len(header); n += 2 {
			w.Header().Set(header[n], header[n+1])
		}
		w.WriteHeader(code)
		fmt.Fprint(w, "no\x1b[31m such\nthing")
	}
}

func typed(kind string, b string) answer {
	return func(r *rig, w http.ResponseWriter, _ *http.Request, csr *x509.CertificateRequest) {
		w.Header().Set("Content-Type", kind)
		if b == "" {
			b = string(est.Wrap(r.good(csr)))
		}
		io.WriteString(w, b)
	}
}

// certificateCount wraps n certificates, ours at position at.
func count(n, at int) answer {
	return func(r *rig, w http.ResponseWriter, _ *http.Request, csr *x509.CertificateRequest) {
		certs := make([]*x509.Certificate, n)
		for i := range certs {
			certs[i] = r.auth.Issuer
		}
		if at >= 0 {
			certs[at] = r.auth.Certify(csr, csr.PublicKey, nil)
		}
		r.certs(w, certs...)
	}
}

// TestHostileReplies is every reply of research's list of bad inputs, and the good forms that look odd. A refused reply leaves
// the device without a certificate and able to enrol at the next attempt.
func TestHostileReplies(t *testing.T) {
	other := identitytest.NewKey(identity.ClassTPM)
	otherID, _ := identity.DeviceID(other.Public())
	b64 := func(der []byte) string { return base64.StdEncoding.EncodeToString(der) }
	for _, c := range []struct {
		name, code string // code "" is accepted
		class      error
		answer     answer
	}{
		{"good", "", nil, body(est.Wrap)},
		{"one line", "", nil, body(func(d []byte) []byte { return []byte(b64(d)) })},
		{"NUL at the end", "", nil, body(func(d []byte) []byte { return append(est.Wrap(d), 0) })},
		{"CRLF, spaces, tabs", "", nil, body(func(d []byte) []byte {
			return []byte("\r\n \t" + strings.ReplaceAll(string(est.Wrap(d)), "\n", " \t\r\n"))
		})},
		{"upper-case type", "", nil, typed("APPLICATION/PKCS7-MIME", "")},
		{"type without parameter", "", nil, typed("application/pkcs7-mime", "")},
		{"leaf only", "", nil, cert(nil)},
		{"ours last of sixteen", "", nil, count(16, 15)},

		{"empty", "malformed-reply", identity.ErrRefused, body(func([]byte) []byte { return nil })},
		{"unpadded", "malformed-reply", identity.ErrRefused, body(func(d []byte) []byte {
			s := b64(d)
			return []byte(s[:len(s)-1])
		})},
		{"URL alphabet", "malformed-reply", identity.ErrRefused, body(func(d []byte) []byte { return []byte("-_" + b64(d)) })},
		{"raw DER", "malformed-reply", identity.ErrRefused, body(func(d []byte) []byte { return d })},
		{"PEM", "malformed-reply", identity.ErrRefused, body(func(d []byte) []byte {
			return pem.EncodeToMemory(&pem.Block{Type: "PKCS7", Bytes: d})
		})},
		{"trailing data", "malformed-reply", identity.ErrRefused, body(func(d []byte) []byte { return est.Wrap(append(d, 0, 0)) })},
		{"cut short", "malformed-reply", identity.ErrRefused, body(func(d []byte) []byte { return est.Wrap(d[:len(d)-1]) })},
		{"10 MB", "reply-too-long", identity.ErrRefused, body(func([]byte) []byte { return bytes.Repeat([]byte("AAAA"), 10<<18) })},
		{"endless", "reply-too-long", identity.ErrRefused, func(r *rig, w http.ResponseWriter, req *http.Request, _ *x509.CertificateRequest) {
			w.Header().Set("Content-Type", pkcs7)
			for req.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		}},
		{"zero certificates", "malformed-reply", identity.ErrRefused, count(0, -1)},
		{"seventeen", "malformed-reply", identity.ErrRefused, count(17, 3)},
		{"a thousand", "reply-too-long", identity.ErrRefused, count(1000, 999)},
		{"none of ours", "wrong-key", identity.ErrRefused, count(3, -1)},
		{"two of ours", "ambiguous-reply", identity.ErrRefused, func(r *rig, w http.ResponseWriter, _ *http.Request, csr *x509.CertificateRequest) {
			r.certs(w, r.auth.Certify(csr, csr.PublicKey, nil), r.auth.Certify(csr, csr.PublicKey, nil))
		}},
		{"another key", "wrong-key", identity.ErrRefused, func(r *rig, w http.ResponseWriter, _ *http.Request, csr *x509.CertificateRequest) {
			r.certs(w, r.auth.Certify(csr, other.Public(), nil))
		}},
		{"changed subject", "wrong-subject", identity.ErrRefused, cert(func(c *x509.Certificate) { c.RawSubject, c.Subject = nil, pkix.Name{CommonName: otherID} })},
		{"changed name", "wrong-name", identity.ErrRefused, cert(func(c *x509.Certificate) { c.URIs = []*url.URL{identity.URN(otherID)} })},
		{"authority", "is-authority", identity.ErrRefused, cert(func(c *x509.Certificate) { c.IsCA = true; c.KeyUsage = x509.KeyUsageCertSign })},
		{"server only", "wrong-usage", identity.ErrRefused, cert(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })},
		{"expired", "expired", identity.ErrRefused, cert(func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = c.NotBefore.AddDate(-2, 0, 0), c.NotBefore.AddDate(-1, 0, 0)
		})},
		{"not yet valid", "not-yet-valid", identity.ErrRefused, cert(func(c *x509.Certificate) { c.NotBefore = c.NotBefore.AddDate(0, 1, 0) })},
		{"until 9999", "lives-too-long", identity.ErrRefused, cert(func(c *x509.Certificate) { c.NotAfter = time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC) })},
		{"root swapped", "untrusted-issuer", identity.ErrRefused, func(r *rig, w http.ResponseWriter, _ *http.Request, csr *x509.CertificateRequest) {
			evil := identitytest.NewAuthority(time.Now)
			r.certs(w, evil.Certify(csr, csr.PublicKey, nil), evil.Issuer, evil.Root)
		}},
		{"HTML", "wrong-content-type", identity.ErrRefused, typed("text/html", "<html>")},
		{"no type", "wrong-content-type", identity.ErrRefused, typed("", "")},
		{"octets", "wrong-content-type", identity.ErrRefused, typed("application/octet-stream", "")},
		{"malformed type", "wrong-content-type", identity.ErrRefused, typed("application/pkcs7-mime; =", "")},
		{"202", "deferred", identity.ErrRetry, status(202)},
		{"202 with a time", "deferred", identity.ErrRetry, status(202, "Retry-After", "3600")},
		{"503", "deferred", identity.ErrRetry, status(503, "Retry-After", "120")},
		{"429", "deferred", identity.ErrRetry, status(429)},
		{"204", "denied", identity.ErrRefused, status(204)},
		{"400", "denied", identity.ErrRefused, status(400)},
		{"403", "denied", identity.ErrRefused, status(403)},
		{"401", "unauthorized", identity.ErrRefused, status(401, "WWW-Authenticate", `Basic realm="x"`)},
		{"404", "not-found", identity.ErrRefused, status(404)},
		{"500", "server-error", identity.ErrRetry, status(500)},
		{"301 to itself", "redirected", identity.ErrRefused, status(301, "Location", "simpleenroll")},
		{"303", "redirected", identity.ErrRefused, status(303, "Location", "cacerts")},
		{"307 to http", "redirected", identity.ErrRefused, func(r *rig, w http.ResponseWriter, req *http.Request, _ *x509.CertificateRequest) {
			http.Redirect(w, req, "http://"+req.Host+req.URL.Path, 307)
		}},
		{"308 to another host", "redirected", identity.ErrRefused, status(308, "Location", "https://127.0.0.2/.well-known/est/simpleenroll")},
		{"307 for ever", "redirected", identity.ErrRefused, status(307, "Location", "simpleenroll")},
		{"connection lost", "no-answer", identity.ErrRetry, func(_ *rig, _ http.ResponseWriter, _ *http.Request, _ *x509.CertificateRequest) {
			panic(http.ErrAbortHandler)
		}},
		{"huge header", "no-answer", identity.ErrRetry, status(200, "X", strings.Repeat("x", 64<<10))},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, nil)
			r.reply = func(w http.ResponseWriter, req *http.Request, csr *x509.CertificateRequest) { c.answer(r, w, req, csr) }
			err := r.device.Enroll(t.Context())
			if c.code == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			var coded interface{ ErrorCode() string }
			if !errors.As(err, &coded) || coded.ErrorCode() != c.code || !errors.Is(err, c.class) {
				t.Fatalf("got %v, want %s (%v)", err, c.code, c.class)
			}
			if strings.ContainsAny(err.Error(), "\x1b\x00") {
				t.Errorf("control characters in %q", err)
			}
			if s := r.device.Status(); s.Certificate != nil || s.Failures != 1 {
				t.Errorf("status %+v", s)
			}
			r.reply = func(w http.ResponseWriter, req *http.Request, csr *x509.CertificateRequest) {
				body(est.Wrap)(r, w, req, csr)
			}
			if err := r.device.Enroll(t.Context()); err != nil {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
}

// TestLostAfterEachByte closes the connection after every byte of a good reply's body.
func TestLostAfterEachByte(t *testing.T) {
	r := newRig(t, nil)
	csr := device(t)
	parsed, _ := x509.ParseCertificateRequest(csr)
	good := est.Wrap(r.good(parsed))
	for n := 0; n < len(good)-1; n += 37 {
		r.reply = func(w http.ResponseWriter, _ *http.Request, _ *x509.CertificateRequest) {
			w.Header().Set("Content-Type", pkcs7)
			w.Header().Set("Content-Length", fmt.Sprint(len(good)))
			w.Write(good[:n])
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}
		if _, err := r.client.SimpleEnroll(t.Context(), csr, ""); !errors.Is(err, identity.ErrRetry) {
			t.Fatalf("after %d bytes: %v", n, err)
		}
	}
}

func device(t *testing.T) []byte {
	t.Helper()
	k := identitytest.NewKey(identity.ClassTPM)
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "x"}}, k)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestHostileServers(t *testing.T) {
	evil := identitytest.NewAuthority(time.Now)
	for _, c := range []struct {
		name, code string
		class      error
		edit       func(*tls.Config)
		name2      string // host to dial instead of 127.0.0.1
	}{
		{"TLS 1.1", "no-answer", identity.ErrRetry, func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }, ""},
		{"another root", "untrusted-server", identity.ErrRefused, func(c *tls.Config) {
			key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			leaf := evil.Certify(&x509.CertificateRequest{}, key.Public(), func(c *x509.Certificate) {
				c.IPAddresses, c.ExtKeyUsage = []net.IP{{127, 0, 0, 1}}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
			})
			c.Certificates = []tls.Certificate{{Certificate: [][]byte{leaf.Raw, evil.Issuer.Raw}, PrivateKey: key}}
		}, ""},
		{"another name", "untrusted-server", identity.ErrRefused, nil, "localhost"},
		{"does not take our certificate", "not-accepted", identity.ErrRefused, func(c *tls.Config) {
			c.VerifyPeerCertificate = func([][]byte, [][]*x509.Certificate) error { return errors.New("no") }
		}, ""},
		{"does not take it under TLS 1.2", "not-accepted", identity.ErrRefused, func(c *tls.Config) {
			c.MaxVersion = tls.VersionTLS12
			c.VerifyPeerCertificate = func([][]byte, [][]*x509.Certificate) error { return errors.New("no") }
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, c.edit)
			if c.name2 != "" {
				r.client.BaseURL = strings.Replace(r.client.BaseURL, "127.0.0.1", c.name2, 1)
			}
			err := r.device.Enroll(t.Context())
			var refusal *identity.Refusal
			if !errors.As(err, &refusal) || refusal.Code != c.code || !errors.Is(err, c.class) {
				t.Errorf("got %v, want %s", err, c.code)
			}
			if r.hits.Load() != 0 {
				t.Error("a request was sent")
			}
		})
	}
}

func TestNoServer(t *testing.T) {
	r := newRig(t, nil)
	r.server.Close()
	if err := r.device.Enroll(t.Context()); !errors.Is(err, identity.ErrRetry) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.client.CACerts(ctx, ""); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
