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

	"github.com/backstay/backstay/logging/collect"
	"github.com/backstay/backstay/logging/ship"
)

// What a stolen device certificate can do through the example configurations of other people's brokers: its own device's
// part, and nothing of another device.

func TestMosquittoACL(t *testing.T) {
	p := newPKI(t)
	acl(t, p, mosquitto(t, p).addr)
}

func TestNATSACL(t *testing.T) {
	p := newPKI(t)
	acl(t, p, natsServer(t, p).addr)
}

// theft is a broker with a victim, a thief and a collector.
type theft struct {
	*fixture
	pki           *pki
	addr          string
	sub           *collect.Subscriber
	victim, thief *device
	honest        *client
	lost          <-chan struct{}
	stored        uint64 // records of the victim
}

func acl(t *testing.T, p *pki, addr string) {
	a := &theft{fixture: newFixture(t), pki: p, addr: addr, victim: newDevice(t), thief: newDevice(t)}
	a.sub = newSubscriber(t, a.fixture, p, addr)
	run(t, a.sub)
	a.victim.append(40)
	a.thief.append(5)
	a.honest = a.dial(t, a.victim, a.victim.id(), ship.Filters(a.victim.id())...)
	will := ship.Message{Topic: topicOf(a.victim, ship.Presence), Payload: status(a.victim, ship.Offline, "v")}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) { // nats-server needs a moment to listen and decide
		var err error
		if a.lost, err = a.honest.Connect(t.Context(), will); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	a.works(t, "at first")
	// Now that the collector is subscribed: nats-server keeps a retained message for new subscribers a moment after it has it.
	a.honest.Publish(topicOf(a.victim, ship.Presence), status(a.victim, ship.Online, "v"), true)
	t.Run("kick", a.kick)
	t.Run("read", a.read)
	t.Run("write", a.write)
	t.Run("no certificate", a.stranger)
	a.works(t, "in the end")
	if pr := a.state(t, a.victim, ship.Online); pr.Session != "v" || pr.State != ship.Online {
		t.Errorf("the victim's status: %+v", pr)
	}
	a.intact(t)
	// The victim's own will works on this broker.
	a.honest.Cut()
	if pr := a.state(t, a.victim, ship.Offline); pr.State != ship.Offline {
		t.Errorf("after the victim's link broke: %+v", pr)
	}
}

// client is a connection that can also break.
type client struct {
	*ship.MQTT
	conn net.Conn
}

// Cut ends the connection without a goodbye, so that the broker publishes the will.
func (c *client) Cut() { c.conn.Close() }

func (a *theft) dial(t *testing.T, cert *device, clientID string, filters ...string) *client {
	t.Helper()
	c, conf := &client{}, a.pki.client(cert.id())
	m, err := ship.NewMQTT(ship.MQTTConfig{ClientID: clientID, Filters: filters, Timeout: 5 * time.Second, Dial: func(ctx context.Context) (net.Conn, error) {
		conn, err := (&tls.Dialer{Config: conf}).DialContext(ctx, "tcp", a.addr)
		c.conn = conn
		return conn, err
	}})
	if err != nil {
		t.Fatal(err)
	}
	c.MQTT = m
	t.Cleanup(func() { m.Close() })
	return c
}

// works proves that the victim is connected, is heard and hears.
func (a *theft) works(t *testing.T, when string) {
	t.Helper()
	a.deliver(t, when)
	if err := a.sub.Ring(a.victim.id(), "look"); err != nil {
		t.Fatal(err)
	}
	a.hears(t, when, ship.Doorbell)
}

func (a *theft) deliver(t *testing.T, when string) {
	t.Helper()
	if _, err := a.honest.Publish(topicOf(a.victim, ship.Audit), encode(t, a.victim.batch(a.stored, a.stored+1)), false); err != nil {
		t.Fatalf("%s: %v", when, err)
	}
	a.stored++
	msg := a.hears(t, when, ship.Receipt)
	if got, err := a.policy.Open(msg.Payload); err != nil || got[0].Checkpoint.Size != a.stored {
		t.Errorf("%s: the victim received %q: %v", when, msg.Payload, err)
	}
}

func (a *theft) hears(t *testing.T, when string, k ship.Kind) ship.Message {
	t.Helper()
	select {
	case msg := <-a.honest.Receipts():
		if msg.Topic != topicOf(a.victim, k) || k == ship.Doorbell && string(msg.Payload) != "look" {
			t.Fatalf("%s: the victim heard %q on %s instead of its %s", when, msg.Payload, msg.Topic, k)
		}
		return msg
	case <-a.lost:
		t.Fatalf("%s: the victim was pushed off", when)
	case <-time.After(10 * time.Second):
		t.Fatalf("%s: the victim heard no %s", when, k)
	}
	return ship.Message{}
}

// intact compares what the collector has of the victim with what the victim sent.
func (a *theft) intact(t *testing.T) {
	t.Helper()
	if dev, err := a.store.Device(t.Context(), a.victim.id()); err != nil || dev.Size != a.stored || dev.Open != 0 {
		t.Errorf("the victim's log has %d records and %d alarms, want %d and none: %v", dev.Size, dev.Open, a.stored, err)
	}
}

// kick: the thief says he is the victim, and his certificate says otherwise.
func (a *theft) kick(t *testing.T) {
	for range 3 {
		taker := a.dial(t, a.thief, a.victim.id())
		if _, err := taker.Connect(t.Context(), ship.Message{}); err != nil {
			t.Logf("connection in the victim's name refused: %v", err)
		}
		a.deliver(t, "while a thief used its client id")
		taker.Close()
	}
}

// read: whatever the thief subscribes to, he hears nothing of the victim, live or retained.
func (a *theft) read(t *testing.T) {
	for _, filter := range []string{
		"#", "+/#", "backstay/#", "backstay/v1/+/receipt", "backstay/v1/+/audit", "backstay/v1/+/status", "+/+/+/doorbell",
		topicOf(a.victim, ship.Receipt), topicOf(a.victim, ship.Doorbell), topicOf(a.victim, ship.Audit), topicOf(a.victim, ship.Presence),
		topicOf(a.thief, ship.Audit), topicOf(a.thief, ship.Presence), "$SYS/#", "$MQTT/#", "$MQTT/sub/#", "$MQTT/msgs/#", "$MQTT/rmsgs/#", "$JS/#", "$KV/#",
		"$share/g/" + topicOf(a.victim, ship.Receipt),
	} {
		ear := a.dial(t, a.thief, a.thief.id(), filter)
		_, err := ear.Connect(t.Context(), ship.Message{})
		a.deliver(t, "while a thief listens to "+filter)
		if err == nil {
			select {
			case msg := <-ear.Receipts():
				t.Errorf("subscribed to %s, the thief heard %q on %s", filter, msg.Payload, msg.Topic)
			case <-time.After(200 * time.Millisecond):
			}
		}
		ear.Close()
	}
}

// write: nothing the thief publishes, retained or not, or leaves as a will, reaches the collector or the victim as the victim's.
func (a *theft) write(t *testing.T) {
	forged := encode(t, a.victim.batch(a.stored, a.stored+3)) // as if he had the victim's key too
	for _, tc := range []struct {
		topic   string
		payload []byte
	}{
		{topicOf(a.victim, ship.Audit), forged},
		{topicOf(a.victim, ship.Audit), encode(t, a.thief.batch(0, 5))},
		{topicOf(a.victim, ship.Receipt), []byte("x")},
		{topicOf(a.victim, ship.Doorbell), []byte("x")},
		{topicOf(a.victim, ship.Presence), status(a.victim, ship.Online, "forged")},
		{"$MQTT/msgs/" + topicOf(a.victim, ship.Receipt), []byte("x")},
		{"$JS/API/STREAM/DELETE/$MQTT_msgs", nil},
	} {
		for _, retain := range []bool{false, true} {
			m := a.dial(t, a.thief, a.thief.id())
			if _, err := m.Connect(t.Context(), ship.Message{Topic: tc.topic, Payload: tc.payload}); err != nil {
				// A will for such a topic may be refused outright.
				if _, err = m.Connect(t.Context(), ship.Message{}); err != nil {
					t.Fatalf("the thief may not even use his own device: %v", err)
				}
			}
			m.Publish(tc.topic, tc.payload, retain)
			time.Sleep(50 * time.Millisecond)
			m.Cut() // the broker publishes the will
		}
	}
	time.Sleep(300 * time.Millisecond)
	a.works(t, "after a thief wrote to its topics")
	a.intact(t)
	// His own device's part he can do, and no more.
	m := a.dial(t, a.thief, a.thief.id(), ship.Filters(a.thief.id())...)
	if _, err := m.Connect(t.Context(), ship.Message{}); err != nil {
		t.Fatal(err)
	}
	m.Publish(topicOf(a.thief, ship.Audit), encode(t, a.thief.batch(0, 5)), false)
	select {
	case msg := <-m.Receipts():
		if msg.Topic != topicOf(a.thief, ship.Receipt) {
			t.Errorf("the thief heard %s", msg.Topic)
		}
	case <-time.After(5 * time.Second):
		t.Error("the test proves nothing: this certificate does not work at all")
	}
}

// stranger has no certificate, or one of somebody else's authority.
func (a *theft) stranger(t *testing.T) {
	other := newPKI(t).client(a.victim.id())
	other.RootCAs = a.pki.pool
	for name, conf := range map[string]*tls.Config{"none": {RootCAs: a.pki.pool, ServerName: "localhost"}, "of another authority": other} {
		c, err := tls.Dial("tcp", a.addr, conf)
		if err != nil {
			continue
		}
		c.SetDeadline(time.Now().Add(2 * time.Second))
		hello := packets.NewControlPacket(packets.Connect).(*packets.ConnectPacket)
		hello.ProtocolName, hello.ProtocolVersion, hello.CleanSession, hello.ClientIdentifier = "MQTT", 4, true, a.victim.id()
		hello.Write(c)
		if n, err := c.Read(make([]byte, 1)); n > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("certificate %s: the broker talks to it: %v", name, err)
		}
		c.Close()
	}
}
