// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"

	"github.com/backstay/backstay/identity"
	"github.com/backstay/backstay/identity/est"
)

// maxRequest bounds the body of a request, in bytes; a P-256 request takes about 700.
const maxRequest = 64 << 10

// Handler serves EST (RFC 7030) below /.well-known/est/, with the labels "" and "recover": cacerts, csrattrs, simpleenroll
// and simplereenroll. It must stand behind a listener with EnrolTLS.
func (c *CA) Handler() http.Handler {
	mux := http.NewServeMux()
	for _, label := range []string{"", identity.LabelRecover} {
		base := "/.well-known/est/"
		if label != "" {
			base += label + "/"
		}
		mux.HandleFunc("GET "+base+"cacerts", c.serveCACerts)
		mux.HandleFunc("GET "+base+"csrattrs", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
		mux.HandleFunc("POST "+base+"simpleenroll", func(w http.ResponseWriter, r *http.Request) { c.serveEnrol(w, r, label, false) })
		mux.HandleFunc("POST "+base+"simplereenroll", func(w http.ResponseWriter, r *http.Request) { c.serveEnrol(w, r, label, true) })
	}
	return mux
}

// serveCACerts answers with the root too: a client that has no other way to learn it may show it to a person. Ours ignores it.
func (c *CA) serveCACerts(w http.ResponseWriter, _ *http.Request) {
	writeCerts(w, []*x509.Certificate{c.issuer, c.root})
}

func (c *CA) serveEnrol(w http.ResponseWriter, r *http.Request, label string, renew bool) {
	csr, err := readRequest(w, r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	req := Request{CSR: csr, Label: label, Renew: renew}
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		req.Peer, req.Chain = r.TLS.PeerCertificates[0], r.TLS.PeerCertificates[1:]
	}
	certs, err := c.Issue(req)
	var refusal *identity.Refusal
	switch {
	case err == nil:
		writeCerts(w, certs[:1]) // RFC 7030 4.2.3: only the certificate that was issued; cacerts has the rest
	case !errors.As(err, &refusal):
		// Our own trouble; what it is stays here.
		http.Error(w, "the authority cannot issue now", http.StatusInternalServerError)
	case refusal.Code == "no-certificate":
		http.Error(w, refusal.Why, http.StatusUnauthorized)
	case refusal.Code == "malformed-request":
		http.Error(w, "the request is not PKCS#10", http.StatusBadRequest)
	case errors.Is(refusal, identity.ErrRefused):
		http.Error(w, refusal.Code+": "+refusal.Why, http.StatusForbidden)
	default:
		http.Error(w, "the authority cannot issue now", http.StatusServiceUnavailable)
	}
}

func readRequest(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || !strings.EqualFold(kind, "application/pkcs10") {
		return nil, errors.New("want content type application/pkcs10")
	}
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	if err != nil {
		return nil, fmt.Errorf("read request: %w", err)
	}
	der, err := est.Unwrap(b)
	if err != nil {
		return nil, errors.New("the request is not base64")
	}
	return der, nil
}

func writeCerts(w http.ResponseWriter, certs []*x509.Certificate) {
	der, err := est.EncodeCerts(certs)
	if err != nil {
		http.Error(w, "the authority cannot answer now", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/pkcs7-mime; smime-type=certs-only")
	w.Header().Set("Content-Transfer-Encoding", "base64") // means nothing since RFC 8951; older clients insist on it
	w.Write(est.Wrap(der))                                //nolint:errcheck // the client left
}
