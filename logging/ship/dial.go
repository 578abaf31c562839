// SPDX-License-Identifier: Apache-2.0

package ship

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"golang.org/x/net/proxy"

	"github.com/backstay/backstay/logging"
)

// maxProxyAnswer bounds what a proxy may say before the tunnel is open, in bytes.
const maxProxyAnswer = 4096

// Dialer opens TCP connections to brokers: directly, or through the one proxy it was made with. Variables of the environment
// are never looked at: whoever can set one would decide where the device sends its log, and TLS hides only the content.
type Dialer struct {
	tcp   net.Dialer
	proxy *url.URL // nil: direct
}

// NewDialer takes "" for direct connections, http://host:port for a proxy that knows CONNECT, or socks5://host:port. The proxy
// resolves the broker's name. It is asked without a password: the configuration has no place for a secret. Errors match
// logging.ErrSetup.
func NewDialer(through string, keepAlive time.Duration) (*Dialer, error) {
	d := &Dialer{tcp: net.Dialer{KeepAlive: keepAlive}}
	if through == "" {
		return d, nil
	}
	u, err := url.Parse(through)
	if err != nil || u.Hostname() == "" || u.Port() == "" || u.User != nil || strings.Trim(u.Path, "/") != "" {
		return nil, fmt.Errorf("open proxy: %q is not of the form http://host:port or socks5://host:port: %w", through, logging.ErrSetup)
	}
	if u.Scheme != "http" && u.Scheme != "socks5" {
		return nil, fmt.Errorf("open proxy: %q: only http:// (CONNECT) and socks5:// are spoken: %w", through, logging.ErrSetup)
	}
	d.proxy = u
	return d, nil
}

// DialContext connects to addr within the time of ctx, the proxy's answer included.
func (d *Dialer) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	if d.proxy == nil {
		return d.tcp.DialContext(ctx, network, addr)
	}
	c, err := d.through(ctx, network, addr)
	if err != nil {
		return nil, fmt.Errorf("connect through proxy %s: %w", d.proxy.Host, err)
	}
	return c, nil
}

func (d *Dialer) through(ctx context.Context, network, addr string) (net.Conn, error) {
	if d.proxy.Scheme == "socks5" {
		// The library is linked already: the MQTT client brings it.
		s, err := proxy.SOCKS5(network, d.proxy.Host, nil, &d.tcp)
		if err != nil {
			return nil, err
		}
		cd, ok := s.(proxy.ContextDialer)
		if !ok {
			return nil, errors.New("socks5: no deadline possible")
		}
		return cd.DialContext(ctx, network, addr)
	}
	c, err := d.tcp.DialContext(ctx, network, d.proxy.Host)
	if err != nil {
		return nil, err
	}
	// A proxy that says nothing is cut off with the context, whether that has a deadline or is cancelled.
	stop := context.AfterFunc(ctx, func() { c.Close() }) //nolint:errcheck // being given up
	err = tunnel(c, addr)
	if !stop() {
		err = ctx.Err()
	}
	if err != nil {
		c.Close() //nolint:errcheck // being given up
		return nil, err
	}
	return c, nil
}

// tunnel asks for a connection to addr and reads the answer, not one byte more: what follows belongs to TLS.
func tunnel(c net.Conn, addr string) error {
	if _, err := fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", addr, addr); err != nil {
		return err
	}
	answer := make([]byte, 0, 256)
	for one := make([]byte, 1); ; {
		if _, err := c.Read(one); err != nil {
			return fmt.Errorf("read its answer: %w", err)
		}
		answer = append(answer, one[0])
		if n := len(answer); n >= 4 && string(answer[n-4:]) == "\r\n\r\n" {
			break
		}
		if len(answer) == maxProxyAnswer {
			return &logging.Refusal{Code: logging.CodeMalformed, What: "answer of the proxy", Why: fmt.Sprintf("no end after %d bytes", maxProxyAnswer)}
		}
	}
	line, _, _ := strings.Cut(string(answer), "\r\n")
	// "HTTP/1.1 200 Connection established"; anything from 200 to 299 opens the tunnel.
	if len(line) < 12 || !strings.HasPrefix(line, "HTTP/1.") || line[8] != ' ' || line[9] != '2' || len(line) > 12 && line[12] != ' ' {
		return fmt.Errorf("it refused: %.80q: %w", line, logging.ErrRetry)
	}
	return nil
}
