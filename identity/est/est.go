// SPDX-License-Identifier: Apache-2.0

// Package est is a client for Enrolment over Secure Transport (RFC 7030, with the clarifications of RFC 8951): the four
// operations a device needs, over the standard library.
//
// It carries requests and reads replies within fixed limits; it stores nothing and trusts nothing it reads. Which certificate
// may become the device's is decided by package identity. An attacker who controls the server can waste one attempt: 256 KiB,
// 30 seconds, 16 certificates. The server's own certificate is verified against pinned roots only.
package est

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/backstay/backstay/identity"
)

// Limits of one exchange.
const (
	MaxReply        = 256 << 10 // bytes of a reply's body
	MaxCertificates = 16        // certificates in a reply
	maxHeader       = 16 << 10
	maxRedirects    = 3
	timeout         = 30 * time.Second
)

// Client talks to one server. It holds no connection between calls and may be used from several goroutines.
type Client struct {
	BaseURL string      // "https://host:port"; a path before /.well-known is allowed
	TLS     *tls.Config // for calls without their own: pinned roots, our certificate, trusted time. Required, see New

	// User and Password authenticate a first enrolment beside the certificate, where the owner hands out one-time tokens.
	// They are only ever sent over TLS to BaseURL's host.
	User, Password string

	Now   func() time.Time                          // for Retry-After dates; nil is time.Now
	Proxy func(*http.Request) (*url.URL, error)     // nil: no proxy
	Wrap  func(http.RoundTripper) http.RoundTripper // around the transport; nil: none
}

// New returns a client after checking that base is an https address.
func New(base string, cfg *tls.Config) (*Client, error) {
	u, err := url.Parse(base)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return nil, fmt.Errorf("enrolment server %q: want https://host[:port][/path]", base)
	}
	return &Client{BaseURL: strings.TrimSuffix(base, "/"), TLS: cfg}, nil
}

// CACerts returns the authority's certificates. They are hints on the way to a pinned root, never roots.
func (c *Client) CACerts(ctx context.Context, label string) ([]*x509.Certificate, error) {
	return c.cacerts(ctx, label, c.TLS)
}

// CSRAttrs returns the DER of the attributes the server asks for, nil when it asks for none (RFC 7030 4.5).
func (c *Client) CSRAttrs(ctx context.Context, label string) ([]byte, error) {
	der, err := c.exchange(ctx, c.TLS, http.MethodGet, label, "csrattrs", nil)
	if errors.Is(err, errNothing) {
		return nil, nil
	}
	return der, err
}

// SimpleEnroll asks for a first certificate. csr is a DER PKCS#10 request. The certificate for the request's key comes first.
func (c *Client) SimpleEnroll(ctx context.Context, csr []byte, label string) ([]*x509.Certificate, error) {
	return c.enroll(ctx, c.TLS, csr, label, "simpleenroll")
}

// SimpleReenroll asks for a certificate that replaces the one TLS presents.
func (c *Client) SimpleReenroll(ctx context.Context, csr []byte, label string) ([]*x509.Certificate, error) {
	return c.enroll(ctx, c.TLS, csr, label, "simplereenroll")
}

// Enroll implements identity.Enroller. An authority answers with the certificate alone (RFC 7030 4.2.3), so what leads to the
// root is asked for as well, unless the reply brought it.
func (c *Client) Enroll(ctx context.Context, e identity.Enrolment) ([]*x509.Certificate, error) {
	op := "simpleenroll"
	if e.Renewal {
		op = "simplereenroll"
	}
	certs, err := c.enroll(ctx, e.TLS, e.CSR, e.Label, op)
	if refusal, ok := errors.AsType[*identity.Refusal](err); ok && refusal.Code == "not-found" && e.Label != "" {
		// An authority that is not ours knows no labels; there the birth key enrols as it did the first time.
		e.Label = ""
		certs, err = c.enroll(ctx, e.TLS, e.CSR, e.Label, op)
	}
	if err != nil || slices.ContainsFunc(certs[1:], func(ca *x509.Certificate) bool { return certs[0].CheckSignatureFrom(ca) == nil }) {
		return certs, err
	}
	cas, err := c.cacerts(ctx, e.Label, e.TLS)
	if err != nil {
		return nil, err
	}
	return append(certs, cas...), nil
}

func (c *Client) cacerts(ctx context.Context, label string, cfg *tls.Config) ([]*x509.Certificate, error) {
	der, err := c.exchange(ctx, cfg, http.MethodGet, label, "cacerts", nil)
	if err != nil {
		return nil, err
	}
	certs, err := ParseCerts(der)
	if err != nil {
		return nil, malformed("cacerts", err)
	}
	return certs, nil
}

func (c *Client) enroll(ctx context.Context, cfg *tls.Config, csr []byte, label, op string) ([]*x509.Certificate, error) {
	req, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		return nil, fmt.Errorf("%s: read our own request: %w", op, err)
	}
	der, err := c.exchange(ctx, cfg, http.MethodPost, label, op, csr)
	if err != nil {
		return nil, err
	}
	certs, err := ParseCerts(der)
	if err != nil {
		return nil, malformed(op, err)
	}
	return ours(op, certs, req.PublicKey)
}

// ours puts the certificate of our key first. Servers add the chain in any order.
func ours(op string, certs []*x509.Certificate, pub crypto.PublicKey) ([]*x509.Certificate, error) {
	at := -1
	for n, c := range certs {
		if !identity.SamePublic(c.PublicKey, pub) {
			continue
		}
		if at >= 0 {
			return nil, refuse(op, "ambiguous-reply", "the reply holds two certificates for our key", nil)
		}
		at = n
	}
	if at < 0 {
		return nil, refuse(op, "wrong-key", "the reply holds no certificate for our key", nil)
	}
	out := []*x509.Certificate{certs[at]}
	return append(append(out, certs[:at]...), certs[at+1:]...), nil
}

// errNothing is a reply without content where that is allowed.
var errNothing = errors.New("the server has nothing to say")

// exchange makes one request and returns the decoded body of a good reply.
func (c *Client) exchange(ctx context.Context, cfg *tls.Config, method, label, op string, csr []byte) ([]byte, error) {
	target, err := c.target(label, op)
	if err != nil {
		return nil, err
	}
	if cfg == nil || cfg.RootCAs == nil {
		return nil, fmt.Errorf("%s: no pinned roots", op)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var body io.Reader
	if csr != nil {
		body = bytes.NewReader(Wrap(csr))
	}
	req, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", op, err)
	}
	if csr != nil {
		req.Header.Set("Content-Type", "application/pkcs10")
		req.Header.Set("Content-Transfer-Encoding", "base64") // RFC 8951 says it means nothing; older servers insist on it
		if c.User != "" || c.Password != "" {
			req.SetBasicAuth(c.User, c.Password)
		}
	}
	transport := c.transport(cfg)
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, CheckRedirect: sameServer}
	if c.Wrap != nil {
		client.Transport = c.Wrap(transport)
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, failed(op, err)
	}
	defer resp.Body.Close()
	return c.reply(op, resp)
}

// transport speaks HTTP/1.1 on one connection. Client certificates are chosen per call, so nothing may be reused.
func (c *Client) transport(cfg *tls.Config) *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	cfg = cfg.Clone()
	cfg.MinVersion = max(cfg.MinVersion, tls.VersionTLS12)
	return &http.Transport{
		Proxy: c.Proxy, TLSClientConfig: cfg, Protocols: protocols, DisableKeepAlives: true, DisableCompression: true,
		TLSHandshakeTimeout: timeout, ResponseHeaderTimeout: timeout, MaxResponseHeaderBytes: maxHeader,
	}
}

func (c *Client) target(label, op string) (string, error) {
	path := "/.well-known/est/"
	if label != "" {
		if strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			return "", fmt.Errorf("%s: label %q: only lower-case letters, digits and hyphens", op, label)
		}
		path += label + "/"
	}
	return c.BaseURL + path + op, nil
}

// sameServer follows a redirect only over https, to the host we meant, and only if the method stays: net/http would turn a
// redirected POST into a GET.
func sameServer(req *http.Request, via []*http.Request) error {
	first := via[0]
	switch {
	case len(via) > maxRedirects:
		return refuse("redirect", "redirected", "more than three times", nil)
	case req.URL.Scheme != "https" || !strings.EqualFold(req.URL.Host, first.URL.Host):
		return refuse("redirect", "redirected", "to another server", nil)
	case req.Method != first.Method:
		return refuse("redirect", "redirected", "in a way that loses the request", nil)
	}
	return nil
}

// reply judges status and type, and decodes the body.
func (c *Client) reply(op string, resp *http.Response) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(resp.Body, MaxReply+1))
	if err != nil {
		return nil, failed(op, err)
	}
	if len(body) > MaxReply {
		return nil, refuse(op, "reply-too-long", fmt.Sprintf("more than %d KiB", MaxReply>>10), nil)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, c.status(op, resp, body)
	}
	want := "application/pkcs7-mime"
	if op == "csrattrs" {
		want = "application/csrattrs"
	}
	if got, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err != nil || got != want {
		return nil, refuse(op, "wrong-content-type", fmt.Sprintf("%.80q, want %s", resp.Header.Get("Content-Type"), want), err)
	}
	der, err := Unwrap(body)
	if err != nil {
		return nil, malformed(op, err)
	}
	if op == "csrattrs" && (len(der) == 0 || bytes.Equal(der, []byte{0x30, 0x00})) { // an empty SEQUENCE
		return nil, errNothing
	}
	return der, nil
}

// Wrap is the transport form of requests and replies: base64 in lines of 64, because libest refuses a request without breaks.
func Wrap(der []byte) []byte {
	s := base64.StdEncoding.EncodeToString(der)
	var b bytes.Buffer
	for len(s) > 64 {
		b.WriteString(s[:64] + "\n")
		s = s[64:]
	}
	b.WriteString(s + "\n")
	return b.Bytes()
}

// Unwrap decodes the transport form: strict base64 without the white space of any line form, or the NUL libest ends with.
func Unwrap(b []byte) ([]byte, error) {
	b = bytes.Map(func(r rune) rune {
		if r == ' ' || r == '\t' || r == '\r' || r == '\n' || r == 0 {
			return -1
		}
		return r
	}, b)
	der, err := base64.StdEncoding.Strict().DecodeString(string(b))
	if err != nil {
		return nil, fmt.Errorf("decode base64: %w", err)
	}
	return der, nil
}
