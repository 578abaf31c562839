// SPDX-License-Identifier: Apache-2.0

package collect

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"

	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/logging/ship"
)

// Inlet is one way records come in. [Front] and [Subscriber] are inlets.
type Inlet interface {
	// Run serves until ctx ends and then returns nil; it owns and joins every goroutine of the inlet. It is called once.
	Run(ctx context.Context) error
	// Ring sends the doorbell to a device, at most ship.MaxDoorbell bytes of text for its engineer's log. nil means handed over,
	// not heard; an error matches logging.ErrRetry when the device is not reachable now.
	Ring(device, text string) error
}

// Limits of the front.
const (
	maxPacket    = logging.MaxBatchWire + 1024
	maxKeepAlive = 10 * time.Minute
	reverify     = time.Minute
	maxInflight  = 64
)

// FrontConfig is what a Front needs. Listener, TLS, Verify and Collector are required.
type FrontConfig struct {
	Listener  net.Listener // plain TCP; the front does TLS itself and closes it
	TLS       *tls.Config  // server certificate; ClientAuth must ask for a certificate
	Collector *Collector
	Logger    *slog.Logger // may be nil

	// Verify says which device a connection belongs to. It must check the certificate itself: chain, validity, revocation. It is
	// called after the handshake, and again while the device sends when the last time was Reverify ago, so that a revoked
	// device is cut off.
	Verify   func(tls.ConnectionState) (device string, err error)
	Reverify time.Duration // 1 min

	ConnectTimeout time.Duration // TLS handshake and CONNECT together; 10 s

	MaxClients int     // connections; 10000
	Rate       float64 // messages per second and device, in the long run; 20
	Burst      int     // messages a device may send at once; 64
}

// Front is an MQTT 3.1.1 server for devices and nothing else: two publish topics and two subscriptions per device, QoS 1, clean
// sessions, no message passed from one client to another. Retained is the status and nothing else, and the store keeps it, not
// the server; the one will a device may leave says that it is offline.
//
// A batch is stored before its PUBACK; when it cannot be stored the connection is cut without one. The server inside is
// mochi-mqtt, used as a protocol engine: none of its stores, and none of its types, leave this package.
type Front struct {
	cfg    FrontConfig
	server *mqtt.Server
	hook   *hook
}

// NewFront checks cfg. Errors match logging.ErrSetup.
func NewFront(cfg FrontConfig) (*Front, error) {
	if cfg.Listener == nil || cfg.Verify == nil || cfg.Collector == nil || cfg.TLS == nil {
		return nil, fmt.Errorf("open mqtt front: listener, TLS, verify function and collector are needed: %w", logging.ErrSetup)
	}
	if cfg.TLS.ClientAuth != tls.RequireAnyClientCert && cfg.TLS.ClientAuth != tls.RequireAndVerifyClientCert {
		return nil, fmt.Errorf("open mqtt front: TLS configuration does not require a client certificate: %w", logging.ErrSetup)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Reverify <= 0 {
		cfg.Reverify = time.Minute
	}
	if cfg.ConnectTimeout <= 0 {
		cfg.ConnectTimeout = 10 * time.Second
	}
	if cfg.MaxClients <= 0 {
		cfg.MaxClients = 10000
	}
	if cfg.Rate <= 0 {
		cfg.Rate = 20
	}
	if cfg.Burst <= 0 {
		cfg.Burst = 64
	}
	caps := mqtt.NewDefaultServerCapabilities()
	caps.MaximumClients = int64(cfg.MaxClients)
	caps.MaximumClientWritesPending = maxInflight
	caps.MaximumSessionExpiryInterval = 0
	caps.MaximumPacketSize = maxPacket
	caps.ReceiveMaximum = maxInflight
	caps.MaximumInflight = maxInflight
	caps.TopicAliasMaximum = 0
	caps.SharedSubAvailable = 0
	caps.MinimumProtocolVersion = 4
	caps.MaximumQos = 1
	caps.RetainAvailable = 1 // or a will that asks for it is refused; hook sees to it that nothing is kept
	caps.WildcardSubAvailable = 0
	f := &Front{cfg: cfg}
	f.server = mqtt.New(&mqtt.Options{Capabilities: caps, InlineClient: true, SysTopicResendInterval: 3600,
		Logger: slog.New(slog.DiscardHandler)}) // it logs packets, which are records of devices
	f.hook = &hook{front: f, buckets: make(map[string]*bucket)}
	if err := f.server.AddHook(f.hook, nil); err != nil {
		return nil, fmt.Errorf("open mqtt front: %w", err)
	}
	return f, nil
}

// Addr returns where the front listens.
func (f *Front) Addr() net.Addr { return f.cfg.Listener.Addr() }

// Run implements [Inlet].
func (f *Front) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f.hook.ctx = ctx
	l := &listener{front: f, ctx: ctx, failed: make(chan error, 1), open: make(map[net.Conn]bool)}
	if err := f.server.AddListener(l); err != nil {
		return fmt.Errorf("start mqtt front: %w", err)
	}
	if err := f.server.Serve(); err != nil {
		return fmt.Errorf("start mqtt front: %w", err)
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-l.failed:
		err = fmt.Errorf("accept device: %w", err)
	}
	cancel()
	f.server.Close() //nolint:errcheck // it has nothing durable
	l.wg.Wait()
	return err
}

// Ring implements [Inlet].
func (f *Front) Ring(device, text string) error {
	if cl, ok := f.server.Clients.Get(device); !ok || cl.Closed() {
		return fmt.Errorf("ring %s: not connected: %w", device, logging.ErrRetry)
	}
	if len(text) > ship.MaxDoorbell {
		text = text[:ship.MaxDoorbell]
	}
	if err := f.server.Publish(ship.Topic{Device: device, Kind: ship.Doorbell}.String(), []byte(text), false, 1); err != nil {
		return fmt.Errorf("ring %s: %w", device, err)
	}
	return nil
}

// deviceConn is a connection whose certificate was verified.
type deviceConn struct {
	*tls.Conn
	device  string
	checked time.Time // of the last Verify; used by the connection's reader only
}

// listener hands verified connections to the server. The server's own would hand over connections that never finish a
// handshake or never send CONNECT, and would wait for them without end.
type listener struct {
	front  *Front
	ctx    context.Context
	failed chan error
	wg     sync.WaitGroup

	mu     sync.Mutex
	closed bool
	open   map[net.Conn]bool
}

// serve is the loop of Serve: one goroutine per connection, joined by Run.
func (l *listener) serve(establish func(id string, c net.Conn) error) {
	for {
		conn, err := l.front.cfg.Listener.Accept()
		if err != nil {
			if l.isClosed() || errors.Is(err, net.ErrClosed) {
				return
			}
			var ne net.Error
			if errors.As(err, &ne) && ne.Timeout() || isTemporary(err) {
				time.Sleep(50 * time.Millisecond) // out of file descriptors: others will close theirs
				continue
			}
			l.failed <- err
			return
		}
		if !l.track(conn) {
			conn.Close() //nolint:errcheck // too many, or closing
			continue
		}
		l.wg.Go(func() {
			defer l.untrack(conn)
			// A packet that makes the protocol engine panic ends its own connection only.
			defer func() {
				if r := recover(); r != nil {
					l.front.cfg.Logger.Error("mqtt front: connection handler panicked", "remote", conn.RemoteAddr(), "panic", r)
				}
			}()
			l.connection(conn, establish)
		})
	}
}

func (l *listener) connection(conn net.Conn, establish func(id string, c net.Conn) error) {
	log := l.front.cfg.Logger.With("remote", conn.RemoteAddr())
	// One deadline for handshake and CONNECT; the server replaces it by the keep-alive once CONNECT is here.
	if err := conn.SetDeadline(time.Now().Add(l.front.cfg.ConnectTimeout)); err != nil {
		return
	}
	tc := tls.Server(conn, l.front.cfg.TLS)
	if err := tc.HandshakeContext(l.ctx); err != nil {
		log.Info("mqtt front: handshake refused", "err", err)
		return
	}
	device, err := l.front.cfg.Verify(tc.ConnectionState())
	if err == nil && !ship.ValidDevice(device) {
		err = fmt.Errorf("%q is not a device id", device)
	}
	if err != nil {
		log.Info("mqtt front: certificate refused", "err", err)
		return
	}
	err = establish(l.ID(), &deviceConn{Conn: tc, device: device, checked: time.Now()})
	log.Info("mqtt front: connection ended", "device", device, "err", err)
}

func (l *listener) track(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || len(l.open) >= 2*l.front.cfg.MaxClients {
		return false
	}
	l.open[c] = true
	return true
}

func (l *listener) untrack(c net.Conn) {
	c.Close() //nolint:errcheck // may be closed already
	l.mu.Lock()
	delete(l.open, c)
	l.mu.Unlock()
}

func (l *listener) isClosed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed
}
