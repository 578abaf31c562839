// SPDX-License-Identifier: Apache-2.0

package collect_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"github.com/backstay/backstay/logging/collect"
	"github.com/backstay/backstay/logging/ship"
)

func status(d *device, state, session string) []byte {
	b, _ := json.Marshal(ship.PresenceNote{Version: 1, State: state, Session: session, Origin: d.origin.String(), Size: 7})
	return b
}

// state returns what the store knows of a device, after waiting until it is want or not for long.
func (f *fixture) state(t *testing.T, d *device, want string) collect.Presence {
	t.Helper()
	var p collect.Presence
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		p, _ = f.store.Presence(t.Context(), d.id())
		if p.State == want {
			break
		}
	}
	return p
}

func withWill(d *device, topic string, payload []byte, qos byte, retain bool) func(*packets.ConnectPacket) {
	return func(p *packets.ConnectPacket) {
		p.ClientIdentifier, p.WillFlag, p.WillTopic, p.WillMessage, p.WillQos, p.WillRetain = d.id(), true, topic, payload, qos, retain
	}
}

// TestFrontTakesStatusAndWill: the one retained message and the one will there may be.
func TestFrontTakesStatusAndWill(t *testing.T) {
	f := newFront(t, nil)
	d := newDevice(t)
	c := f.raw(t, d.id())
	if code := c.connect(withWill(d, topicOf(d, ship.Presence), status(d, ship.Offline, "a"), 1, true)); code != 0 {
		t.Fatalf("CONNACK %d for a will that is allowed", code)
	}
	c.publish(topicOf(d, ship.Presence), status(d, ship.Online, "a"), 1, true)
	if !c.acked() {
		t.Fatal("no PUBACK for a status")
	}
	if p := f.state(t, d, ship.Online); p.State != ship.Online || p.Size != 7 || p.Heard.IsZero() {
		t.Errorf("after the birth: %+v", p)
	}
	if all, err := f.store.Devices(t.Context()); err != nil || len(all) != 1 || all[0].Presence.State != ship.Online {
		t.Errorf("a device that only said it is there: %+v, %v", all, err)
	}
	c.Close()
	if p := f.state(t, d, ship.Offline); p.State != ship.Offline {
		t.Errorf("after the link broke: %+v", p)
	}
	// An orderly end leaves no will behind.
	c = f.raw(t, d.id())
	c.connect(withWill(d, topicOf(d, ship.Presence), status(d, ship.Offline, "b"), 1, true))
	c.publish(topicOf(d, ship.Presence), status(d, ship.Online, "b"), 1, true)
	c.acked()
	packets.NewControlPacket(packets.Disconnect).Write(c)
	c.Close()
	time.Sleep(200 * time.Millisecond)
	if p := f.state(t, d, ship.Online); p.Session != "b" || p.State != ship.Online {
		t.Errorf("DISCONNECT published the will: %+v", p)
	}
	// Nothing of it was kept by the server itself: a fresh subscriber could not even ask for it.
	if code := f.session(t, d).subscribe(topicOf(d, ship.Presence)); code != 0x80 {
		t.Errorf("a device may read the status topic: SUBACK %#x", code)
	}
	if err := f.store.ForgetOnline(t.Context()); err != nil {
		t.Fatal(err)
	}
	if p, err := f.store.Presence(t.Context(), d.id()); err != nil || p.State != "" || p.Session != "b" {
		t.Errorf("after a restart of the server: %+v, %v", p, err)
	}
}

func TestFrontRefusesWillsAndStatus(t *testing.T) {
	f := newFront(t, nil)
	d, other := newDevice(t), newDevice(t)
	off := status(d, ship.Offline, "a")
	for name, change := range map[string]func(*packets.ConnectPacket){
		"audit topic":           withWill(d, topicOf(d, ship.Audit), off, 1, true),
		"receipt topic":         withWill(d, topicOf(d, ship.Receipt), off, 1, true),
		"another's status":      withWill(d, topicOf(other, ship.Presence), status(other, ship.Offline, "a"), 1, true),
		"own topic, their log":  withWill(d, topicOf(d, ship.Presence), status(other, ship.Offline, "a"), 1, true),
		"not retained":          withWill(d, topicOf(d, ship.Presence), off, 1, false),
		"QoS 0":                 withWill(d, topicOf(d, ship.Presence), off, 0, true),
		"QoS 2":                 withWill(d, topicOf(d, ship.Presence), off, 2, true),
		"says online":           withWill(d, topicOf(d, ship.Presence), status(d, ship.Online, "a"), 1, true),
		"junk":                  withWill(d, topicOf(d, ship.Presence), []byte("x"), 1, true),
		"larger than any":       withWill(d, topicOf(d, ship.Presence), append(off, []byte(strings.Repeat(" ", ship.MaxPresence))...), 1, true),
		"wildcard in the topic": withWill(d, "backstay/v1/+/status", off, 1, true),
	} {
		if code := f.raw(t, d.id()).connect(change); code == 0 {
			t.Errorf("will %s: accepted", name)
		}
	}
	for name, tc := range map[string]struct {
		topic  string
		qos    byte
		retain bool
	}{
		"not retained": {topicOf(d, ship.Presence), 1, false},
		"QoS 0":        {topicOf(d, ship.Presence), 0, true},
		"another's":    {topicOf(other, ship.Presence), 1, true},
	} {
		c := f.session(t, d)
		c.publish(tc.topic, off, tc.qos, tc.retain)
		if c.acked() {
			t.Errorf("status %s: acknowledged", name)
		}
		c.Close()
	}
	// What is not a status is acknowledged, or the device would be cut off by an older server, and changes nothing.
	c := f.session(t, d)
	c.publish(topicOf(d, ship.Presence), []byte("junk"), 1, true)
	c.publish(topicOf(d, ship.Presence), status(other, ship.Online, "a"), 1, true)
	if !c.acked() {
		t.Error("junk on the status topic cut the device off")
	}
	for _, x := range []*device{d, other} {
		if p, err := f.store.Presence(t.Context(), x.id()); err == nil {
			t.Errorf("stored: %+v", p)
		}
	}
}

// TestCollectorOrdersStatus: what brokers repeat or say late does not undo what is known.
func TestCollectorOrdersStatus(t *testing.T) {
	f := newFixture(t)
	d := newDevice(t)
	for i, tc := range []struct {
		state, session string
		retained       bool
		want           string // session and state after it
	}{
		{ship.Offline, "a", true, "a offline"},
		{ship.Online, "b", false, "b online"},
		{ship.Offline, "a", false, "b online"}, // the late will of a
		{ship.Online, "a", true, "b online"},   // a's birth, that another broker kept
		{ship.Offline, "b", false, "b offline"},
		{ship.Online, "c", false, "c online"},
	} {
		if err := f.c.Presence(t.Context(), d.id(), status(d, tc.state, tc.session), tc.retained); err != nil {
			t.Fatal(err)
		}
		if p, err := f.store.Presence(t.Context(), d.id()); err != nil || p.Session+" "+p.State != tc.want {
			t.Errorf("step %d: %s %s, want %s, %v", i, p.Session, p.State, tc.want, err)
		}
	}
	if f.c.LastSeen(d.id()).IsZero() {
		t.Error("a birth is a sign of life")
	}
}

// TestPresenceOfUnknownDevices: a broker that makes up devices must not fill the store.
func TestPresenceOfUnknownDevices(t *testing.T) {
	f := newFixture(t)
	c, err := collect.New(collect.CollectorConfig{Store: f.store, Presence: f.store, Key: f.key, Known: func(string) bool { return false }})
	if err != nil {
		t.Fatal(err)
	}
	d := newDevice(t)
	if err := c.Presence(t.Context(), d.id(), status(d, ship.Online, "a"), false); err != nil {
		t.Fatal(err)
	}
	if all, err := f.store.Devices(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("%+v, %v", all, err)
	}
}

// TestSubscriberTakesRetainedStatusOnly: behind somebody else's broker, what it repeats of a status is news and what it repeats
// of an audit topic is not.
func TestSubscriberTakesRetainedStatusOnly(t *testing.T) {
	f := newFixture(t)
	d := newDevice(t)
	d.append(5)
	tr := &fakeTransport{inbox: make(chan ship.Message, 8), lost: make(chan struct{})}
	s, err := collect.NewSubscriber(collect.SubscriberConfig{Transport: tr, Collector: f.c})
	if err != nil {
		t.Fatal(err)
	}
	run(t, s)
	tr.inbox <- ship.Message{Topic: topicOf(d, ship.Audit), Payload: encode(t, d.batch(0, 5)), Retained: true}
	tr.inbox <- ship.Message{Topic: topicOf(d, ship.Doorbell), Payload: []byte("x"), Retained: true}
	tr.inbox <- ship.Message{Topic: topicOf(d, ship.Presence), Payload: status(d, ship.Online, "a"), Retained: true}
	if p := f.state(t, d, ship.Online); p.State != ship.Online {
		t.Errorf("retained status: %+v", p)
	}
	if _, err := f.store.Log(t.Context(), d.origin); err == nil {
		t.Error("a retained batch was stored")
	}
	tr.inbox <- ship.Message{Topic: topicOf(d, ship.Audit), Payload: encode(t, d.batch(0, 5))}
	for end := time.Now().Add(3 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if log, err := f.store.Log(t.Context(), d.origin); err == nil && log.Head.Tree.Size() == 5 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("a batch was not stored")
		}
	}
}

// fakeTransport delivers what a test puts in.
type fakeTransport struct {
	inbox chan ship.Message
	lost  chan struct{}
}

func (f *fakeTransport) Connect(context.Context, ship.Message) (<-chan struct{}, error) {
	return f.lost, nil
}
func (f *fakeTransport) Publish(string, []byte, bool) (<-chan struct{}, error) {
	return nil, nil
}
func (f *fakeTransport) Receipts() <-chan ship.Message { return f.inbox }
func (f *fakeTransport) Close() error                  { return nil }
