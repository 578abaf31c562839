// SPDX-License-Identifier: Apache-2.0

package collect_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/logging/collect"
	"github.com/backstay/backstay/logging/ship"
)

type frontFixture struct {
	*fixture
	pki   *pki
	front *collect.Front
	addr  string
}

func newFront(t *testing.T, change func(*collect.FrontConfig)) *frontFixture {
	t.Helper()
	f := &frontFixture{fixture: newFixture(t), pki: newPKI(t)}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg := collect.FrontConfig{Listener: l, TLS: f.pki.server(), Verify: f.pki.verify, Collector: f.c}
	if change != nil {
		change(&cfg)
	}
	if f.front, err = collect.NewFront(cfg); err != nil {
		t.Fatal(err)
	}
	f.addr = l.Addr().String()
	run(t, f.front)
	return f
}

// run runs an inlet until the test ends or stop is called.
func run(t *testing.T, in collect.Inlet) (stop func()) {
	t.Helper()
	srv, err := collect.NewServer(in)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- srv.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("Run does not end")
		}
	}
	t.Cleanup(stop)
	return stop
}

// raw is a client that may send anything.
type raw struct {
	t *testing.T
	net.Conn
}

func (f *frontFixture) raw(t *testing.T, name string) *raw {
	t.Helper()
	c, err := tls.Dial("tcp", f.addr, f.pki.client(name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(5 * time.Second))
	return &raw{t, c}
}

func (c *raw) connect(change func(*packets.ConnectPacket)) byte {
	p := packets.NewControlPacket(packets.Connect).(*packets.ConnectPacket)
	p.ProtocolName, p.ProtocolVersion, p.CleanSession, p.Keepalive = "MQTT", 4, true, 30
	change(p)
	p.Write(c)
	got, err := packets.ReadPacket(c)
	if err != nil {
		return 0xff
	}
	ack, ok := got.(*packets.ConnackPacket)
	if !ok {
		return 0xfe
	}
	return ack.ReturnCode
}

// session connects as the certificate's owner.
func (f *frontFixture) session(t *testing.T, d *device) *raw {
	t.Helper()
	c := f.raw(t, d.id())
	if code := c.connect(func(p *packets.ConnectPacket) { p.ClientIdentifier = d.id() }); code != 0 {
		t.Fatalf("CONNACK %d", code)
	}
	return c
}

func (c *raw) publish(topic string, payload []byte, qos byte, retain bool) {
	p := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	p.TopicName, p.Payload, p.Qos, p.Retain, p.MessageID = topic, payload, qos, retain, 7
	p.Write(c)
}

// acked reports whether the next packets bring a PUBACK before the connection ends.
func (c *raw) acked() bool {
	c.SetDeadline(time.Now().Add(2 * time.Second))
	for {
		p, err := packets.ReadPacket(c)
		if err != nil {
			return false
		}
		if _, ok := p.(*packets.PubackPacket); ok {
			return true
		}
	}
}

func (c *raw) subscribe(filter string) byte {
	p := packets.NewControlPacket(packets.Subscribe).(*packets.SubscribePacket)
	p.MessageID, p.Topics, p.Qoss = 9, []string{filter}, []byte{1}
	p.Write(c)
	for {
		got, err := packets.ReadPacket(c)
		if err != nil {
			return 0xff
		}
		if ack, ok := got.(*packets.SubackPacket); ok {
			return ack.ReturnCodes[0]
		}
	}
}

func topicOf(d *device, k ship.Kind) string { return ship.Topic{Device: d.id(), Kind: k}.String() }

func TestFrontTakesABatch(t *testing.T) {
	f := newFront(t, nil)
	d := newDevice(t)
	d.append(10)
	c := f.session(t, d)
	if code := c.subscribe(topicOf(d, ship.Receipt)); code != 1 {
		t.Fatalf("SUBACK %#x", code)
	}
	c.publish(topicOf(d, ship.Audit), encode(t, d.batch(0, 10)), 1, false)
	if !c.acked() {
		t.Fatal("no PUBACK")
	}
	if rep := f.verify(t, d.origin); rep.Size != 10 {
		t.Fatalf("%d records were stored before the PUBACK", rep.Size)
	}
	if f.c.LastSeen(d.id()).IsZero() {
		t.Error("not seen")
	}
}

func TestFrontRefusesConnections(t *testing.T) {
	f := newFront(t, nil)
	d, other := newDevice(t), newDevice(t)
	for name, change := range map[string]func(*packets.ConnectPacket){
		"other client id":    func(p *packets.ConnectPacket) { p.ClientIdentifier = other.id() },
		"no client id":       func(p *packets.ConnectPacket) { p.ClientIdentifier = "" },
		"inline":             func(p *packets.ConnectPacket) { p.ClientIdentifier = "inline" },
		"persistent session": func(p *packets.ConnectPacket) { p.ClientIdentifier, p.CleanSession = d.id(), false },
		"will": func(p *packets.ConnectPacket) {
			p.ClientIdentifier, p.WillFlag, p.WillTopic, p.WillMessage, p.WillQos = d.id(), true, topicOf(d, ship.Audit), []byte("x"), 1
		},
		"MQTT 3.1": func(p *packets.ConnectPacket) {
			p.ClientIdentifier, p.ProtocolName, p.ProtocolVersion = d.id(), "MQIsdp", 3
		},
	} {
		if code := f.raw(t, d.id()).connect(change); code == 0 {
			t.Errorf("%s: accepted", name)
		}
	}
	// MQTT 5, which the engine inside would speak: topic aliases, session expiry and wills with a delay come with it.
	v5 := f.raw(t, d.id())
	body := append([]byte{0, 4, 'M', 'Q', 'T', 'T', 5, 2, 0, 30, 0, 0, byte(len(d.id()))}, d.id()...)
	v5.Write(append([]byte{0x10, byte(len(body))}, body...))
	if answer := make([]byte, 4); true {
		if n, _ := v5.Read(answer); n == 4 && answer[3] == 0 {
			t.Error("MQTT 5: accepted")
		}
	}
	if code := f.raw(t, "not-a-device").connect(func(p *packets.ConnectPacket) { p.ClientIdentifier = "not-a-device" }); code == 0 {
		t.Error("a certificate that names no device: accepted")
	}
	f.pki.revoke(d.id())
	if code := f.raw(t, d.id()).connect(func(p *packets.ConnectPacket) { p.ClientIdentifier = d.id() }); code == 0 {
		t.Error("a revoked certificate: accepted")
	}
	if _, err := collect.NewFront(collect.FrontConfig{Listener: mustListen(t), TLS: &tls.Config{}, Verify: f.pki.verify, Collector: f.c}); !errors.Is(err, logging.ErrSetup) {
		t.Errorf("TLS without client certificates: %v", err)
	}
}

func mustListen(t *testing.T) net.Listener {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// TestFrontCutsARevokedDevice: revocation reaches a connection that is already open.
func TestFrontCutsARevokedDevice(t *testing.T) {
	f := newFront(t, func(c *collect.FrontConfig) { c.Reverify = time.Nanosecond })
	d := newDevice(t)
	d.append(5)
	c := f.session(t, d)
	c.publish(topicOf(d, ship.Audit), encode(t, d.batch(0, 2)), 1, false)
	if !c.acked() {
		t.Fatal("no PUBACK before the revocation")
	}
	f.pki.revoke(d.id())
	c.publish(topicOf(d, ship.Audit), encode(t, d.batch(2, 5)), 1, false)
	if c.acked() {
		t.Fatal("acknowledged after the revocation")
	}
	if dev, err := f.store.Device(t.Context(), d.id()); err != nil || dev.Size != 2 {
		t.Errorf("%+v, %v", dev, err)
	}
}

// TestFrontKeepsVictimConnected: an attacker with a good certificate of his own cannot push another device off.
func TestFrontKeepsVictimConnected(t *testing.T) {
	f := newFront(t, nil)
	victim, thief := newDevice(t), newDevice(t)
	victim.append(1)
	c := f.session(t, victim)
	if code := f.raw(t, thief.id()).connect(func(p *packets.ConnectPacket) { p.ClientIdentifier = victim.id() }); code == 0 {
		t.Fatal("took over the victim's client id")
	}
	c.publish(topicOf(victim, ship.Audit), encode(t, victim.batch(0, 1)), 1, false)
	if !c.acked() {
		t.Fatal("the victim was cut off")
	}
}

func TestFrontRefusesPublishes(t *testing.T) {
	f := newFront(t, nil)
	d, other := newDevice(t), newDevice(t)
	d.append(5)
	other.append(5)
	for name, tc := range map[string]struct {
		topic   string
		payload []byte
		qos     byte
		retain  bool
	}{
		"other device's topic":     {topicOf(other, ship.Audit), encode(t, other.batch(0, 5)), 1, false},
		"other device's receipt":   {topicOf(other, ship.Receipt), []byte("x"), 1, false},
		"own receipt":              {topicOf(d, ship.Receipt), []byte("x"), 1, false},
		"other device's doorbell":  {topicOf(other, ship.Doorbell), []byte("x"), 1, false},
		"retained":                 {topicOf(d, ship.Audit), encode(t, d.batch(0, 5)), 1, true},
		"QoS 0":                    {topicOf(d, ship.Audit), encode(t, d.batch(0, 5)), 0, false},
		"QoS 2":                    {topicOf(d, ship.Audit), encode(t, d.batch(0, 5)), 2, false},
		"$SYS":                     {"$SYS/broker/version", []byte("x"), 1, false},
		"larger than any batch is": {topicOf(d, ship.Audit), make([]byte, logging.MaxBatchWire+4096), 1, false},
	} {
		c := f.session(t, d)
		c.publish(tc.topic, tc.payload, tc.qos, tc.retain)
		if c.acked() {
			t.Errorf("%s: acknowledged", name)
		}
		c.Close()
	}
	if all, err := f.store.Devices(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("something was stored: %+v, %v", all, err)
	}
}

func TestFrontRefusesSubscriptions(t *testing.T) {
	f := newFront(t, nil)
	d, other := newDevice(t), newDevice(t)
	c := f.session(t, d)
	for _, filter := range []string{
		"#", "+/#", "backstay/v1/+/receipt", "backstay/v1/#", topicOf(other, ship.Receipt), topicOf(other, ship.Audit), topicOf(d, ship.Audit),
		"$SYS/#", "$share/g/" + topicOf(d, ship.Receipt), topicOf(d, ship.Receipt) + "/#",
	} {
		if code := c.subscribe(filter); code != 0x80 {
			t.Errorf("%s: SUBACK %#x", filter, code)
		}
	}
	for _, k := range []ship.Kind{ship.Receipt, ship.Doorbell} {
		if code := c.subscribe(topicOf(d, k)); code != 1 {
			t.Errorf("own %s: SUBACK %#x", k, code)
		}
	}
}

// TestFrontDoesNotAcknowledgeWhatItCannotStore is the trap: any other error of the hook would be acknowledged all the same.
func TestFrontDoesNotAcknowledgeWhatItCannotStore(t *testing.T) {
	f := newFront(t, nil)
	d := newDevice(t)
	d.append(5)
	c := f.session(t, d)
	f.store.Close()
	c.publish(topicOf(d, ship.Audit), encode(t, d.batch(0, 5)), 1, false)
	if c.acked() {
		t.Fatal("acknowledged a batch that was not stored")
	}
	c.SetDeadline(time.Now().Add(2 * time.Second))
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("the connection is still open: %v", err)
	}
}

// TestFrontKeepsEvidence: a batch that is wrong is acknowledged, because it is stored as evidence, and gets no receipt.
func TestFrontKeepsEvidence(t *testing.T) {
	f := newFront(t, nil)
	d := newDevice(t)
	c := f.session(t, d)
	c.publish(topicOf(d, ship.Audit), []byte("garbage"), 1, false)
	if !c.acked() {
		t.Fatal("no PUBACK")
	}
	if alarms, _ := f.store.Alarms(t.Context(), d.id()); len(alarms) != 1 {
		t.Fatalf("alarms %+v", alarms)
	}
}

func TestFrontSlowsAFloodDown(t *testing.T) {
	f := newFront(t, func(c *collect.FrontConfig) { c.Rate, c.Burst = 20, 5 })
	d := newDevice(t)
	d.append(1)
	c := f.session(t, d)
	msg := encode(t, d.batch(0, 1))
	began := time.Now()
	for range 15 {
		c.publish(topicOf(d, ship.Audit), msg, 1, false)
		if !c.acked() {
			t.Fatal("cut off")
		}
	}
	if took := time.Since(began); took < 450*time.Millisecond {
		t.Errorf("15 messages in %v at 20 per second after a burst of 5", took)
	}
}

// TestFrontGiantHeader: an announced length is refused before anything is allocated for it.
func TestFrontGiantHeader(t *testing.T) {
	f := newFront(t, nil)
	d := newDevice(t)
	for _, connected := range []bool{false, true} {
		c := f.raw(t, d.id())
		if connected {
			c = f.session(t, d)
		}
		c.Write([]byte{0x30, 0xff, 0xff, 0xff, 0x7f})
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Errorf("connected %v: not cut off", connected)
		}
	}
}

// TestFrontDropsTheSilent: no handshake, or no CONNECT after it, must not hold a connection.
func TestFrontDropsTheSilent(t *testing.T) {
	f := newFront(t, func(c *collect.FrontConfig) { c.ConnectTimeout = 300 * time.Millisecond })
	plain, err := net.Dial("tcp", f.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	for name, c := range map[string]net.Conn{"no handshake": plain, "no CONNECT": f.raw(t, newDevice(t).id())} {
		c.SetDeadline(time.Now().Add(3 * time.Second))
		var ne net.Error
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.As(err, &ne) && ne.Timeout() {
			t.Errorf("%s: still open: %v", name, err)
		}
	}
}

// TestFrontTransport runs the real transport against the front: receipt on subscribing, doorbell.
func TestFrontTransport(t *testing.T) {
	f := newFront(t, nil)
	d := newDevice(t)
	d.append(5)
	f.ingest(t, d.id(), encode(t, d.batch(0, 5)))
	m, err := ship.NewMQTT(ship.MQTTConfig{Broker: "tls://" + f.addr, ClientID: d.id(), TLS: f.pki.client(d.id()), Filters: ship.Filters(d.id())})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := f.front.Ring(d.id(), "x"); !errors.Is(err, logging.ErrRetry) {
		t.Errorf("ring a device that is away: %v", err)
	}
	if _, err := m.Connect(t.Context(), ship.Message{}); err != nil {
		t.Fatal(err)
	}
	receive := func(k ship.Kind) ship.Message {
		t.Helper()
		select {
		case msg := <-m.Receipts():
			if msg.Topic != topicOf(d, k) {
				t.Fatalf("message on %s", msg.Topic)
			}
			return msg
		case <-time.After(5 * time.Second):
			t.Fatalf("no %s", k)
		}
		return ship.Message{}
	}
	if got, err := f.policy.Open(receive(ship.Receipt).Payload); err != nil || got[0].Checkpoint.Size != 5 {
		t.Errorf("receipt on subscribing: %+v, %v", got, err)
	}
	if err := f.front.Ring(d.id(), "look now"); err != nil {
		t.Error(err)
	}
	if msg := receive(ship.Doorbell); string(msg.Payload) != "look now" {
		t.Errorf("doorbell %q", msg.Payload)
	}
}
