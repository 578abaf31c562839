// SPDX-License-Identifier: Apache-2.0

package ship

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"sync/atomic"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"github.com/backstay/backstay/logging"
)

// Limits and times of an MQTT connection.
const (
	// DefaultMaxPacket bounds a packet from the broker to a device, in bytes: a receipt with several cosignatures and its topic.
	DefaultMaxPacket = 16 << 10
	// DefaultTimeout bounds a connection attempt, a write, and the wait for a SUBACK.
	DefaultTimeout = 10 * time.Second
	// DefaultKeepAlive is how long a link may be silent before it is probed; the answer has DefaultTimeout to come.
	DefaultKeepAlive = 30 * time.Second

	// Messages that wait for their reader. A device needs one receipt, the newest.
	inboxDepth      = 16
	inboxDepthBlock = 64
)

// MQTTConfig says where and as whom to connect.
type MQTTConfig struct {
	Broker   string      // "tls://host:port"; mqtts and ssl mean the same. There is no plain-text form
	ClientID string      // device id, or the name of a collector; equals the common name of the certificate
	Proxy    string      // see NewDialer; empty: connect directly
	TLS      *tls.Config // client certificate and pinned roots; required. ServerName defaults to the host of Broker
	Filters  []string    // subscriptions, QoS 1; each must be granted

	MaxPacket int           // bytes, inbound; DefaultMaxPacket
	Timeout   time.Duration // DefaultTimeout
	KeepAlive time.Duration // whole seconds; DefaultKeepAlive

	// Block makes a full inbox stop reading from the connection instead of dropping the newest message. Devices drop: a
	// receipt is superseded by the next. Collectors block: what they drop would have to be sent again.
	Block bool

	// Dial replaces TCP and TLS; Broker, Proxy and TLS are not used then. For tests, and for a tunnel of the product's own.
	Dial func(ctx context.Context) (net.Conn, error)
}

// MQTT is the [Transport] over MQTT 3.1.1.
//
// The client library is used in the one way that does not lose or hang (each of these was measured): a new client for every
// connection, clean session, no automatic reconnect (with it, a publish completes without any PUBACK), no connect retry,
// protocol 4 pinned (no silent fall-back to 3.1), a write timeout (without it a half-open link is never noticed), its stores
// never used for durability, publishes from one goroutine and never from a handler, SUBACK codes looked at, and a connection
// opened by us, because the library obeys proxy variables of the environment.
type MQTT struct {
	cfg   MQTTConfig
	addr  string
	tcp   *Dialer
	inbox chan Message

	client paho.Client
	link   *link
}

// link is the network connection below one client. The library opens it in a goroutine of its own, which may come back after
// the attempt was given up.
type link struct {
	gone chan struct{} // closed when the link is given up
	conn atomic.Pointer[limitConn]
}

func (l *link) open(c *limitConn) (net.Conn, error) {
	l.conn.Store(c)
	select {
	case <-l.gone:
		c.Close() //nolint:errcheck // nobody waits for it any more
		return nil, net.ErrClosed
	default:
		return c, nil
	}
}

func (l *link) close() {
	close(l.gone)
	if c := l.conn.Load(); c != nil {
		c.Close() //nolint:errcheck // being given up
	}
}

// NewMQTT checks cfg. Errors match logging.ErrSetup.
func NewMQTT(cfg MQTTConfig) (*MQTT, error) {
	m := &MQTT{cfg: cfg, inbox: make(chan Message, inboxDepth)}
	if cfg.Block {
		m.inbox = make(chan Message, inboxDepthBlock)
	}
	if m.cfg.MaxPacket == 0 {
		m.cfg.MaxPacket = DefaultMaxPacket
	}
	if m.cfg.Timeout == 0 {
		m.cfg.Timeout = DefaultTimeout
	}
	if m.cfg.KeepAlive == 0 {
		m.cfg.KeepAlive = DefaultKeepAlive
	}
	if cfg.ClientID == "" || len(cfg.ClientID) > 128 {
		return nil, fmt.Errorf("open mqtt transport: client id of 1 to 128 bytes needed: %w", logging.ErrSetup)
	}
	if cfg.Dial != nil {
		return m, nil
	}
	u, err := url.Parse(cfg.Broker)
	if err != nil || u.Port() == "" || u.Hostname() == "" {
		return nil, fmt.Errorf("open mqtt transport: broker %q is not of the form tls://host:port: %w", cfg.Broker, logging.ErrSetup)
	}
	switch u.Scheme {
	case "tls", "ssl", "mqtts":
	default:
		return nil, fmt.Errorf("open mqtt transport: broker %q: only tls:// is spoken: %w", cfg.Broker, logging.ErrSetup)
	}
	if cfg.TLS == nil || cfg.TLS.InsecureSkipVerify {
		return nil, fmt.Errorf("open mqtt transport: TLS configuration that verifies the broker needed: %w", logging.ErrSetup)
	}
	if m.tcp, err = NewDialer(cfg.Proxy, m.cfg.KeepAlive); err != nil {
		return nil, fmt.Errorf("open mqtt transport: %w", err)
	}
	m.addr = u.Host
	m.cfg.TLS = cfg.TLS.Clone()
	if m.cfg.TLS.ServerName == "" {
		m.cfg.TLS.ServerName = u.Hostname()
	}
	return m, nil
}

// Connect implements [Transport]. It takes at most three timeouts: TCP and TLS, CONNACK, SUBACK.
func (m *MQTT) Connect(ctx context.Context, will Message) (<-chan struct{}, error) {
	if err := m.Close(); err != nil {
		return nil, err
	}
	l, lost := &link{gone: make(chan struct{})}, make(chan struct{})
	opts := m.options(l.gone)
	if will.Topic != "" {
		opts.SetBinaryWill(will.Topic, will.Payload, 1, true)
	}
	opts.SetConnectionLostHandler(func(paho.Client, error) { close(lost) })
	opts.SetCustomOpenConnectionFn(func(*url.URL, paho.ClientOptions) (net.Conn, error) {
		c, err := m.dial(ctx)
		if err != nil {
			return nil, err
		}
		return l.open(newLimitConn(c, m.cfg.MaxPacket, m.cfg.Timeout))
	})
	m.client, m.link = paho.NewClient(opts), l
	err := wait(ctx, m.client.Connect(), 2*m.cfg.Timeout)
	if err == nil {
		err = m.subscribe(ctx)
	}
	if err != nil {
		if c := l.conn.Load(); c != nil {
			if r := c.err.Load(); r != nil {
				err = r
			}
		}
		m.Close() //nolint:errcheck // never fails
		return nil, fmt.Errorf("connect to broker: %w", err)
	}
	return lost, nil
}

func (m *MQTT) options(gone <-chan struct{}) *paho.ClientOptions {
	opts := paho.NewClientOptions()
	opts.AddBroker("tls://" + m.addr) // a label: the connection is opened by us
	opts.SetClientID(m.cfg.ClientID)
	opts.SetProtocolVersion(4)
	opts.SetCleanSession(true)
	opts.SetAutoReconnect(false)
	opts.SetConnectRetry(false)
	opts.SetConnectTimeout(m.cfg.Timeout)
	opts.SetWriteTimeout(m.cfg.Timeout)
	opts.SetKeepAlive(m.cfg.KeepAlive)
	opts.SetPingTimeout(m.cfg.Timeout)
	opts.SetOrderMatters(true)
	opts.SetDefaultPublishHandler(func(_ paho.Client, msg paho.Message) {
		in := Message{Topic: msg.Topic(), Payload: msg.Payload(), Retained: msg.Retained()}
		if !m.cfg.Block {
			select {
			case m.inbox <- in:
			default:
			}
			return
		}
		select {
		case m.inbox <- in:
		case <-gone:
		}
	})
	return opts
}

func (m *MQTT) dial(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, m.cfg.Timeout)
	defer cancel()
	if m.cfg.Dial != nil {
		return m.cfg.Dial(ctx)
	}
	c, err := m.tcp.DialContext(ctx, "tcp", m.addr)
	if err != nil {
		return nil, err
	}
	t := tls.Client(c, m.cfg.TLS)
	if err := t.HandshakeContext(ctx); err != nil {
		c.Close() //nolint:errcheck // being given up
		return nil, err
	}
	return t, nil
}

// subscribe looks at the code of every filter: a refused subscription is not an error to the library.
func (m *MQTT) subscribe(ctx context.Context) error {
	if len(m.cfg.Filters) == 0 {
		return nil
	}
	filters := make(map[string]byte, len(m.cfg.Filters))
	for _, f := range m.cfg.Filters {
		filters[f] = 1
	}
	t := m.client.SubscribeMultiple(filters, nil)
	if err := wait(ctx, t, m.cfg.Timeout); err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	sub, ok := t.(*paho.SubscribeToken)
	if !ok {
		return errors.New("subscribe: no result")
	}
	for f, code := range sub.Result() {
		if code > 1 {
			return fmt.Errorf("subscribe to %s: broker refused it: %w", f, logging.ErrRefused)
		}
	}
	return nil
}

// wait returns when the token is done, the context ends or the time is up.
func wait(ctx context.Context, t paho.Token, limit time.Duration) error {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-t.Done():
		return t.Error()
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return fmt.Errorf("no answer from the broker in %v: %w", limit, logging.ErrRetry)
	}
}

// Publish implements [Transport].
func (m *MQTT) Publish(topic string, payload []byte, retain bool) (<-chan struct{}, error) {
	if m.client == nil {
		return nil, fmt.Errorf("publish to %s: not connected: %w", topic, logging.ErrRetry)
	}
	t := m.client.Publish(topic, 1, retain, payload)
	select {
	case <-t.Done():
		if err := t.Error(); err != nil {
			return nil, fmt.Errorf("publish to %s: %w", topic, err)
		}
	default:
	}
	return t.Done(), nil
}

// Receipts implements [Transport].
func (m *MQTT) Receipts() <-chan Message { return m.inbox }

// Close implements [Transport]. It says goodbye for at most a quarter of a second. It never fails.
func (m *MQTT) Close() error {
	if m.client == nil {
		return nil
	}
	m.client.Disconnect(250)
	m.link.close()
	m.client, m.link = nil, nil
	return nil
}

var _ Transport = (*MQTT)(nil)
