// SPDX-License-Identifier: Apache-2.0

package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"golang.org/x/sys/unix"
)

// Client calls the agent behind a socket. It keeps no connection between calls and is safe for concurrent use.
type Client struct{ Socket string }

// Call makes one call and decodes the answer into result, which may be nil. The error is an *Error when the agent said no,
// ErrNotRunning when nobody listens, ErrDenied when the socket may not be opened.
func (c *Client) Call(ctx context.Context, method string, params, result any) error {
	resp, done, err := c.do(ctx, method, params)
	if err != nil {
		return err
	}
	defer done()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return fmt.Errorf("read answer to %s: %w", method, err)
	}
	if len(b) > maxAnswer {
		return fmt.Errorf("read answer to %s: larger than %d MiB", method, maxAnswer>>20)
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(b, result); err != nil {
		return fmt.Errorf("read answer to %s: %w", method, err)
	}
	return nil
}

// Stream makes a call whose answer is a byte stream and copies it to w. When it returns an error, what w got is not whole.
func (c *Client) Stream(ctx context.Context, method string, params any, w io.Writer) error {
	resp, done, err := c.do(ctx, method, params)
	if err != nil {
		return err
	}
	defer done()
	if _, err := io.Copy(w, resp.Body); err != nil {
		return fmt.Errorf("read answer to %s: %w", method, err)
	}
	var e Error
	if err := json.Unmarshal([]byte(resp.Trailer.Get(errorTrailer)), &e); err != nil {
		return fmt.Errorf("read answer to %s: it ends early", method)
	}
	if e.Class != "" {
		return &e
	}
	return nil
}

// do sends the call. done must be called when the answer has been read.
func (c *Client) do(ctx context.Context, method string, params any) (*http.Response, func(), error) {
	body, err := json.Marshal(params)
	if err != nil {
		return nil, nil, fmt.Errorf("call %s: %w", method, err)
	}
	if params == nil {
		body = []byte("{}")
	}
	tr := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			d := net.Dialer{Timeout: 5 * time.Second}
			return d.DialContext(ctx, "unix", c.Socket)
		},
		DisableKeepAlives:  true,
		DisableCompression: true,
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://agent"+prefix+method, bytes.NewReader(body))
	if err != nil {
		return nil, nil, fmt.Errorf("call %s: %w", method, err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := (&http.Client{Transport: tr}).Do(req)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.ENOTDIR):
		return nil, nil, fmt.Errorf("%w: nobody listens on %s", ErrNotRunning, c.Socket)
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return nil, nil, fmt.Errorf("open %s: %w", c.Socket, ErrDenied)
	case err != nil:
		return nil, nil, fmt.Errorf("call %s: %w", method, err)
	}
	done := func() { resp.Body.Close(); tr.CloseIdleConnections() }
	if resp.StatusCode == http.StatusOK {
		return resp, done, nil
	}
	defer done()
	var e Error
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil || json.Unmarshal(b, &e) != nil || e.Class == "" {
		return nil, nil, fmt.Errorf("call %s: the agent answered %s", method, resp.Status)
	}
	return nil, nil, &e
}
