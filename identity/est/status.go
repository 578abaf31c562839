// SPDX-License-Identifier: Apache-2.0

package est

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/backstay/backstay/identity"
)

// How long a server may make us wait. Less than the minimum is a busy loop, more than the maximum is a way to keep a device
// from renewing.
const (
	minWait     = 10 * time.Second
	maxWait     = 24 * time.Hour
	defaultWait = time.Minute // when a server that should say does not
)

// Deferred is the error for a server that asks us to come back: it is identity.ErrRetry.
type Deferred struct {
	Op     string
	Status int           // 202, 429 or 503
	After  time.Duration // between 10 s and 24 h, whatever the server wrote
}

func (d *Deferred) Error() string {
	return fmt.Sprintf("%s: the server asks to come back in %s (HTTP %d)", d.Op, d.After, d.Status)
}

// Is reports the class.
func (d *Deferred) Is(target error) bool { return target == identity.ErrRetry }

// ErrorCode names the error.
func (d *Deferred) ErrorCode() string { return "deferred" }

// RetryAfter implements identity.Waiter.
func (d *Deferred) RetryAfter() time.Duration { return d.After }

// status turns any status but 200 into an error.
func (c *Client) status(op string, resp *http.Response, body []byte) error {
	code := resp.StatusCode
	switch {
	case op == "csrattrs" && (code == http.StatusNoContent || code == http.StatusNotFound):
		return errNothing
	case code == http.StatusAccepted, code == http.StatusServiceUnavailable, code == http.StatusTooManyRequests:
		return &Deferred{Op: op, Status: code, After: c.retryAfter(resp.Header.Get("Retry-After"))}
	case code == http.StatusUnauthorized:
		return refuse(op, "unauthorized", "the server wants other credentials (HTTP 401)", nil)
	case code == http.StatusNotFound:
		return refuse(op, "not-found", "the server does not offer this (HTTP 404)", nil)
	case code >= 500:
		return &identity.Refusal{Class: identity.ErrRetry, Code: "server-error", What: op, Why: fmt.Sprintf("HTTP %d%s", code, said(body))}
	}
	return refuse(op, "denied", fmt.Sprintf("HTTP %d%s", code, said(body)), nil)
}

// retryAfter reads seconds or a date and clamps them.
func (c *Client) retryAfter(h string) time.Duration {
	h = strings.TrimSpace(h)
	if h == "" {
		return defaultWait
	}
	if n, err := strconv.ParseInt(h, 10, 64); err == nil {
		// Clamp before multiplying, or a large number of seconds would overflow into a small one.
		return time.Duration(min(max(n, int64(minWait/time.Second)), int64(maxWait/time.Second))) * time.Second
	} else if errors.Is(err, strconv.ErrRange) {
		return maxWait
	}
	at, err := http.ParseTime(h)
	if err != nil {
		return defaultWait
	}
	now := time.Now
	if c.Now != nil {
		now = c.Now
	}
	return min(max(at.Sub(now()), minWait), maxWait)
}

// said is the beginning of a server's plain text, made safe to log.
func said(body []byte) string {
	const limit = 200
	s := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return ' '
		}
		return r
	}, string(body[:min(len(body), limit)]))
	if s = strings.Join(strings.Fields(s), " "); s == "" {
		return ""
	}
	return ": " + s
}

// failed classifies an exchange that brought no reply.
func failed(op string, err error) error {
	var refusal *identity.Refusal
	if errors.As(err, &refusal) {
		return refusal
	}
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("%s: %w", op, err)
	}
	var unverified *tls.CertificateVerificationError
	var unknown x509.UnknownAuthorityError
	if errors.As(err, &unverified) || errors.As(err, &unknown) {
		return refuse(op, "untrusted-server", err.Error(), err)
	}
	if identity.IsRejection(err) {
		return refuse(op, "not-accepted", "the server does not accept our certificate: "+err.Error(), err)
	}
	return &identity.Refusal{Class: identity.ErrRetry, Code: "no-answer", What: op, Why: err.Error(), Err: err}
}

func malformed(op string, err error) error { return refuse(op, "malformed-reply", err.Error(), err) }

func refuse(op, code, why string, err error) error {
	return &identity.Refusal{Code: code, What: op, Why: why, Err: err}
}
