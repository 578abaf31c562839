// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"sync"
	"time"

	"github.com/backstay/backstay/agent/config"
	"github.com/backstay/backstay/logging/ship"
)

// prover proves that this device can still be managed, after a repair that could have cut it off: by a new connection, with a
// TLS handshake, to each server it is managed through. A connection that was open before proves nothing: a firewall lets it
// live on.
type prover struct {
	endpoints []endpoint
	window    time.Duration
	dial      func(ctx context.Context, e endpoint) error

	mu    sync.Mutex
	alive []endpoint // those that answered before the trial
}

// endpoint is one server the device is managed through.
type endpoint struct {
	name string // for people
	addr string // host:port
	host string // the name in its certificate
	tls  func() *tls.Config
	via  string // proxy, see ship.NewDialer; empty: direct
}

const (
	proveOnce  = 10 * time.Second // longest one handshake may take
	firstProbe = time.Second      // wait after the first that failed; it doubles
)

// newProver returns nil when the configuration names no server: nothing could be proved then.
func newProver(cfg *config.Config, conf func() *tls.Config) *prover {
	p := &prover{window: cfg.Baseline.Confirm.Std(), dial: handshake}
	type server struct{ name, url, port, via string }
	servers := []server{{"update server", cfg.Update.MetadataURL, "443", ""}}
	for _, b := range cfg.Audit.Brokers {
		servers = append(servers, server{"audit broker", b, "8883", cfg.Audit.Proxy})
	}
	for _, s := range servers {
		u, err := url.Parse(s.url)
		if s.url == "" || err != nil || u.Hostname() == "" {
			continue
		}
		port := u.Port()
		if port == "" {
			port = s.port
		}
		p.endpoints = append(p.endpoints, endpoint{s.name, net.JoinHostPort(u.Hostname(), port), u.Hostname(), conf, s.via})
	}
	if len(p.endpoints) == 0 {
		return nil
	}
	return p
}

// handshake connects anew and closes.
func handshake(ctx context.Context, e endpoint) error {
	ctx, cancel := context.WithTimeout(ctx, proveOnce)
	defer cancel()
	conf := e.tls().Clone()
	conf.ServerName = e.host
	conf.ClientSessionCache = nil // a resumed session does not show the certificates again
	dialer, err := ship.NewDialer(e.via, 0)
	if err != nil {
		return err
	}
	conn, err := dialer.DialContext(ctx, "tcp", e.addr)
	if err != nil {
		return err
	}
	return errors.Join(tls.Client(conn, conf).HandshakeContext(ctx), conn.Close())
}

// managed remembers which servers answer now; those have to answer after the trial. It implements configs.Engine.Managed.
func (p *prover) managed(ctx context.Context) error {
	var alive []endpoint
	var errs []error
	for _, e := range p.endpoints {
		if err := p.dial(ctx, e); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", e.name, err))
		} else {
			alive = append(alive, e)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.alive = alive
	if len(alive) == 0 {
		return errors.Join(errs...)
	}
	return nil
}

// confirm returns nil once every server that answered before has answered again, and an error when the window ends before. It
// implements configs.Engine.Confirm.
func (p *prover) confirm(ctx context.Context) error {
	p.mu.Lock()
	todo := p.alive
	p.mu.Unlock()
	if len(todo) == 0 {
		return errors.New("no server answered before the trial")
	}
	ctx, cancel := context.WithTimeout(ctx, p.window)
	defer cancel()
	for wait := firstProbe; ; wait = min(2*wait, p.window) {
		err := p.dial(ctx, todo[0])
		if err == nil {
			if todo = todo[1:]; len(todo) == 0 {
				return nil
			}
			wait = firstProbe / 2
			continue
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", todo[0].name, err)
		case <-time.After(wait):
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s: %w", todo[0].name, err)
		}
	}
}
