// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/backstay/backstay/update"
)

// maxRedirects is how often one request may be sent on, always to a host that the configuration names.
const maxRedirects = 3

// NewTransport returns the transport for a [Config].HTTP: proxy from the
// environment, limits on dialling, the TLS handshake and headers, no
// decompression. conf is the client's certificate and roots, nil for none.
func NewTransport(conf *tls.Config) *http.Transport {
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: 15 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:        conf,
		TLSHandshakeTimeout:    15 * time.Second,
		ResponseHeaderTimeout:  30 * time.Second,
		MaxResponseHeaderBytes: 32 << 10,
		MaxIdleConns:           2,
		MaxIdleConnsPerHost:    1,
		IdleConnTimeout:        30 * time.Second,
		DisableCompression:     true,
	}
}

// restrict returns a client of our own over the transport of c. known are the origins it may be redirected to.
func restrict(c *http.Client, known map[string]bool) *http.Client {
	out := &http.Client{CheckRedirect: func(req *http.Request, via []*http.Request) error { return redirect(req, via, known) }}
	if c != nil && c.Transport != nil {
		out.Transport = c.Transport
	} else {
		out.Transport = NewTransport(nil)
	}
	return out
}

// redirect: one to another host would hand the requests of this device, and its client certificate, to whoever that host is.
// The hosts that the configuration names get both anyway. None leads from https to http.
func redirect(req *http.Request, via []*http.Request, known map[string]bool) error {
	if len(via) > maxRedirects {
		return errors.New("too many redirects")
	}
	first := via[0].URL
	down := first.Scheme == "https" && req.URL.Scheme != "https"
	same := req.URL.Host == first.Host && req.URL.Scheme == first.Scheme
	if down || !same && !known[req.URL.Scheme+"://"+req.URL.Host] {
		return refuse("cross-host-redirect", first.Host, nil, "it redirects to %s://%s", req.URL.Scheme, req.URL.Host)
	}
	return nil
}

// get starts one request to a mirror from byte off on. It returns the response with a
// header of status 200 or 206 and a body under the limits; errors are
// [update.ErrRetry] or a refusal. 403 and 404 are errAbsent as well: object
// stores answer 403 for what is not there.
func (c *Client) get(ctx context.Context, m *mirror, url string, off int64) (*http.Response, error) {
	rctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(c.limits.Header, func() { cancel(errSlow) })
	fail := func(err error) (*http.Response, error) {
		timer.Stop()
		cancel(nil)
		return nil, err
	}
	req, err := http.NewRequestWithContext(rctx, http.MethodGet, url, nil)
	if err != nil {
		return fail(fmt.Errorf("fetch %s: %w", url, err))
	}
	req.Header.Set("Accept-Encoding", "identity")
	req.Header.Set("User-Agent", "backstay")
	if off > 0 {
		req.Header.Set("Range", "bytes="+strconv.FormatInt(off, 10)+"-")
	}
	client, pace := m.http, (*pacer)(nil)
	if client == nil {
		client, pace = c.http, &c.pace
	}
	resp, err := client.Do(req)
	if err != nil {
		return fail(transportError(rctx, url, err))
	}
	timer.Stop()
	if enc := resp.Header.Get("Content-Encoding"); enc != "" && enc != "identity" {
		err = fmt.Errorf("fetch %s: content encoding %q was not asked for", url, enc)
	} else if resp.StatusCode == http.StatusNotFound || resp.StatusCode == http.StatusForbidden {
		err = fmt.Errorf("fetch %s: HTTP %d: %w", url, resp.StatusCode, errAbsent)
	} else if resp.StatusCode != http.StatusOK && (off == 0 || resp.StatusCode != http.StatusPartialContent) {
		err = fmt.Errorf("fetch %s: HTTP %d", url, resp.StatusCode)
	}
	if err != nil {
		// Small bodies are read so that the connection can be used again.
		_, _ = io.CopyN(io.Discard, &pacedBody{ctx: rctx, body: resp.Body, timer: timer, limits: c.limits, url: url}, 4<<10)
		resp.Body.Close()
		return fail(retry(err))
	}
	resp.Body = &pacedBody{ctx: rctx, body: resp.Body, cancel: cancel, timer: timer, limits: c.limits, url: url, pace: pace}
	return resp, nil
}

// metadata fetches one metadata file of at most limit bytes.
func (c *Client) metadata(ctx context.Context, name string, limit int64) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, c.limits.File, errSlow)
	defer cancel()
	resp, err := c.get(ctx, c.from, c.from.base+"/"+name, 0)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return readAll(resp, name, limit)
}

func readAll(resp *http.Response, what string, limit int64) ([]byte, error) {
	raw, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(raw)) > limit {
		return nil, refuse("wrong-length", what, nil, "it is longer than %d bytes", limit)
	}
	return raw, nil
}

// pacedBody is a response body whose server may neither stop nor trickle.
type pacedBody struct {
	ctx    context.Context // of this request alone
	body   io.ReadCloser
	cancel context.CancelCauseFunc
	timer  *time.Timer // cancels ctx with errSlow
	limits Limits
	url    string
	pace   *pacer // nil: none

	waited time.Duration
	got    int64
}

func (p *pacedBody) Read(b []byte) (int, error) {
	b = p.pace.part(b)
	p.timer.Reset(p.limits.Idle)
	start := time.Now()
	n, err := p.body.Read(b)
	p.timer.Stop()
	p.waited += time.Since(start)
	p.got += int64(n)
	if werr := p.pace.wait(p.ctx, n); werr != nil && err == nil {
		err = werr
	}
	if err != nil && err != io.EOF {
		return n, transportError(p.ctx, p.url, err)
	}
	if err == nil && p.waited >= p.limits.Window {
		if float64(p.got) < float64(p.limits.MinRate)*p.waited.Seconds() {
			return n, retry(fmt.Errorf("fetch %s: %w: %d bytes in %s", p.url, errSlow, p.got, p.waited.Round(time.Second)))
		}
		p.waited, p.got = 0, 0
	}
	return n, err
}

func (p *pacedBody) Close() error {
	p.timer.Stop()
	p.cancel(nil)
	return p.body.Close()
}

// transportError names the reason why this package ended a request, if it did.
// The caller's own cancellation stays recognisable and is in no class.
func transportError(ctx context.Context, url string, err error) error {
	if r, ok := errors.AsType[*update.Refusal](err); ok {
		return r
	}
	cause := context.Cause(ctx)
	switch {
	case errors.Is(cause, errSlow):
		return retry(fmt.Errorf("fetch %s: %w", url, errSlow))
	case cause != nil:
		return fmt.Errorf("fetch %s: %w", url, cause)
	}
	// The library's text repeats method and URL.
	text := err
	if u := errors.Unwrap(err); u != nil && strings.Contains(err.Error(), url) {
		text = u
	}
	return retry(fmt.Errorf("fetch %s: %w", url, text))
}
