// SPDX-License-Identifier: Apache-2.0

package ship_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/logging/ship"
)

// broker is the hostile one: it answers as handle says. handle returns false to stop reading for good, which is what a
// half-open peer does.
type broker struct {
	handle func(c net.Conn, p packets.ControlPacket) bool
	conns  atomic.Int32
}

func (b *broker) dial(t *testing.T) func(context.Context) (net.Conn, error) {
	return func(context.Context) (net.Conn, error) {
		client, server := net.Pipe()
		t.Cleanup(func() { server.Close() })
		b.conns.Add(1)
		go func() {
			for {
				p, err := packets.ReadPacket(server)
				if err != nil || !b.handle(server, p) {
					return
				}
			}
		}()
		return client, nil
	}
}

// answer is what an honest broker says to a packet.
func answer(c net.Conn, p packets.ControlPacket) bool {
	switch p := p.(type) {
	case *packets.ConnectPacket:
		packets.NewControlPacket(packets.Connack).Write(c)
	case *packets.SubscribePacket:
		ack := packets.NewControlPacket(packets.Suback).(*packets.SubackPacket)
		ack.MessageID, ack.ReturnCodes = p.MessageID, p.Qoss
		ack.Write(c)
	case *packets.PublishPacket:
		puback(c, p.MessageID)
	case *packets.PingreqPacket:
		packets.NewControlPacket(packets.Pingresp).Write(c)
	}
	return true
}

func puback(c net.Conn, id uint16) {
	ack := packets.NewControlPacket(packets.Puback).(*packets.PubackPacket)
	ack.MessageID = id
	ack.Write(c)
}

func connect(t *testing.T, b *broker, cfg ship.MQTTConfig) (*ship.MQTT, <-chan struct{}, error) {
	t.Helper()
	cfg.ClientID, cfg.Dial = someDevice, b.dial(t)
	if cfg.Timeout == 0 {
		cfg.Timeout = 300 * time.Millisecond
	}
	cfg.Filters = ship.Filters(someDevice)
	m, err := ship.NewMQTT(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	lost, err := m.Connect(t.Context(), ship.Message{})
	return m, lost, err
}

func within(t *testing.T, d time.Duration, ch <-chan struct{}, what string) time.Duration {
	t.Helper()
	began := time.Now()
	select {
	case <-ch:
	case <-time.After(d):
		t.Fatalf("%s: not within %v", what, d)
	}
	return time.Since(began)
}

func TestConnectRefusals(t *testing.T) {
	refuse := func(c net.Conn, p packets.ControlPacket) bool {
		if s, ok := p.(*packets.SubscribePacket); ok {
			ack := packets.NewControlPacket(packets.Suback).(*packets.SubackPacket)
			ack.MessageID, ack.ReturnCodes = s.MessageID, []byte{1, 0x80}
			ack.Write(c)
			return true
		}
		return answer(c, p)
	}
	if _, _, err := connect(t, &broker{handle: refuse}, ship.MQTTConfig{}); !errors.Is(err, logging.ErrRefused) {
		t.Errorf("subscription refused by SUBACK: %v", err)
	}
	silent := func(c net.Conn, p packets.ControlPacket) bool {
		_, sub := p.(*packets.SubscribePacket)
		return sub || answer(c, p)
	}
	if _, _, err := connect(t, &broker{handle: silent}, ship.MQTTConfig{}); !errors.Is(err, logging.ErrRetry) {
		t.Errorf("no SUBACK: %v", err)
	}
	dead := &broker{handle: func(net.Conn, packets.ControlPacket) bool { return true }}
	if _, _, err := connect(t, dead, ship.MQTTConfig{}); err == nil {
		t.Error("no CONNACK: connected")
	}
	if n := dead.conns.Load(); n != 1 {
		t.Errorf("no CONNACK: %d connections, want 1 (no retry, no fall-back to MQTT 3.1)", n)
	}
	old := &broker{handle: func(c net.Conn, p packets.ControlPacket) bool {
		ack := packets.NewControlPacket(packets.Connack).(*packets.ConnackPacket)
		ack.ReturnCode = packets.ErrRefusedBadProtocolVersion
		ack.Write(c)
		return true
	}}
	if _, _, err := connect(t, old, ship.MQTTConfig{}); err == nil || old.conns.Load() != 1 {
		t.Errorf("refused protocol version: %v, %d connections, want one", err, old.conns.Load())
	}
}

func TestConfigRefusals(t *testing.T) {
	for name, cfg := range map[string]ship.MQTTConfig{
		"plain text":     {ClientID: "x", Broker: "tcp://localhost:1883", TLS: &tls.Config{}},
		"no port":        {ClientID: "x", Broker: "tls://localhost", TLS: &tls.Config{}},
		"no TLS":         {ClientID: "x", Broker: "tls://localhost:8883"},
		"no client id":   {Broker: "tls://localhost:8883", TLS: &tls.Config{}},
		"unverified TLS": {ClientID: "x", Broker: "tls://localhost:8883", TLS: &tls.Config{InsecureSkipVerify: true}},
		"websocket":      {ClientID: "x", Broker: "wss://localhost:443", TLS: &tls.Config{}},
	} {
		if _, err := ship.NewMQTT(cfg); !errors.Is(err, logging.ErrSetup) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestGiantPacketAllocatesNothing: five bytes make the bare library allocate 256 MiB.
func TestGiantPacketAllocatesNothing(t *testing.T) {
	ready := make(chan net.Conn, 1)
	b := &broker{handle: func(c net.Conn, p packets.ControlPacket) bool {
		ok := answer(c, p)
		if _, sub := p.(*packets.SubscribePacket); sub {
			ready <- c
		}
		return ok
	}}
	_, lost, err := connect(t, b, ship.MQTTConfig{})
	if err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	(<-ready).Write([]byte{0x30, 0xff, 0xff, 0xff, 0x7f})
	within(t, 5*time.Second, lost, "link cut after a giant header")
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 4<<20 {
		t.Fatalf("allocated %d bytes for a header", grown)
	}
}

// TestGiantConnack: the limit holds before the session does.
func TestGiantConnack(t *testing.T) {
	b := &broker{handle: func(c net.Conn, _ packets.ControlPacket) bool {
		c.Write([]byte{0x20, 0xff, 0xff, 0xff, 0x7f})
		return true
	}}
	if _, _, err := connect(t, b, ship.MQTTConfig{}); !errors.Is(err, logging.ErrRefused) {
		t.Fatalf("giant CONNACK: %v", err)
	}
}

func TestHalfOpenPeerIsCut(t *testing.T) {
	b := &broker{handle: func(c net.Conn, p packets.ControlPacket) bool {
		_, pub := p.(*packets.PublishPacket)
		return !pub && answer(c, p)
	}}
	m, lost, err := connect(t, b, ship.MQTTConfig{})
	if err != nil {
		t.Fatal(err)
	}
	topic := ship.Topic{Device: someDevice, Kind: ship.Audit}.String()
	var failed error
	for range 3 { // the first is read, later ones meet nobody
		if _, failed = m.Publish(topic, make([]byte, 8<<10), false); failed != nil {
			break
		}
	}
	if d := within(t, 3*time.Second, lost, "half-open link noticed"); d > 2*time.Second {
		t.Errorf("noticed after %v, write timeout is 300ms", d)
	}
}

// TestHalfOpenPeerIsCutByPing: nothing is published; the keep-alive alone must notice, although its write blocks.
func TestHalfOpenPeerIsCutByPing(t *testing.T) {
	b := &broker{handle: func(c net.Conn, p packets.ControlPacket) bool {
		_, sub := p.(*packets.SubscribePacket)
		return answer(c, p) && !sub
	}}
	_, lost, err := connect(t, b, ship.MQTTConfig{KeepAlive: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	within(t, 5*time.Second, lost, "silent peer noticed")
}

func TestForgedPubacksAreIgnored(t *testing.T) {
	b := &broker{handle: func(c net.Conn, p packets.ControlPacket) bool {
		pub, ok := p.(*packets.PublishPacket)
		if !ok {
			return answer(c, p)
		}
		for id := range uint16(300) {
			if id != pub.MessageID {
				puback(c, id)
			}
		}
		return true
	}}
	m, lost, err := connect(t, b, ship.MQTTConfig{Timeout: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	ack, err := m.Publish(ship.Topic{Device: someDevice, Kind: ship.Audit}.String(), []byte("x"), false)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-ack:
		t.Fatal("a PUBACK for another packet completed the publish")
	case <-lost:
		t.Fatal("forged PUBACKs ended the link")
	case <-time.After(300 * time.Millisecond):
	}
}

// TestEnvironmentProxyIsIgnored: the library would send the device's traffic wherever all_proxy says.
func TestEnvironmentProxyIsIgnored(t *testing.T) {
	proxy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	target, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	for _, k := range []string{"all_proxy", "ALL_PROXY", "https_proxy", "HTTPS_PROXY"} {
		t.Setenv(k, "socks5://"+proxy.Addr().String())
	}
	got := make(chan string, 2)
	for name, l := range map[string]net.Listener{"proxy": proxy, "broker": target} {
		go func() {
			if c, err := l.Accept(); err == nil {
				got <- name
				c.Close()
			}
		}()
	}
	m, err := ship.NewMQTT(ship.MQTTConfig{Broker: "tls://" + target.Addr().String(), ClientID: someDevice, TLS: &tls.Config{}, Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Connect(t.Context(), ship.Message{}); err == nil {
		t.Fatal("connected to a listener that hangs up")
	}
	if where := <-got; where != "broker" {
		t.Fatalf("connected to the %s", where)
	}
}

func TestConnectEndsWithContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	b := &broker{handle: func(net.Conn, packets.ControlPacket) bool { cancel(); return true }}
	m, err := ship.NewMQTT(ship.MQTTConfig{ClientID: someDevice, Dial: b.dial(t), Timeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if _, err := m.Connect(ctx, ship.Message{}); !errors.Is(err, context.Canceled) || time.Since(began) > 5*time.Second {
		t.Fatalf("%v after %v", err, time.Since(began))
	}
}
