// SPDX-License-Identifier: Apache-2.0

package collect

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"syscall"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/backstay/backstay/logging/ship"
)

// ID, Address, Protocol, Init, Serve and Close make listener what the server takes.
func (l *listener) ID() string                     { return "devices" }
func (l *listener) Address() string                { return l.front.Addr().String() }
func (l *listener) Protocol() string               { return "tls" }
func (l *listener) Init(*slog.Logger) error        { return nil }
func (l *listener) Serve(fn listeners.EstablishFn) { l.serve(fn) }
func (l *listener) Close(closeFn listeners.CloseFn) {
	l.mu.Lock()
	l.closed = true
	conns := make([]interface{ Close() error }, 0, len(l.open))
	for c := range l.open {
		conns = append(conns, c)
	}
	l.mu.Unlock()
	l.front.cfg.Listener.Close() //nolint:errcheck // being given up
	closeFn(l.ID())
	for _, c := range conns {
		c.Close() //nolint:errcheck // being given up
	}
}

func isTemporary(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ECONNABORTED)
}

// hook decides what a device may do. The traps of the engine it is written around:
//
//   - For a 3.1.1 client, any error of OnPublish other than ErrRejectPacket is acknowledged all the same; and ErrRejectPacket
//     leaves the connection open with the message unanswered. So: reject and stop the client.
//   - OnPacketRead sees the packet before the engine lowers its QoS or looks at the topic.
//   - A forbidden publish at QoS 0 is dropped in silence; ours are all QoS 1.
type hook struct {
	mqtt.HookBase
	front *Front
	ctx   context.Context // of Front.Run: the interface of the engine has none

	mu      sync.Mutex
	buckets map[string]*bucket
}

// ID implements mqtt.Hook.
func (h *hook) ID() string { return "backstay" }

// Provides implements mqtt.Hook.
func (h *hook) Provides(b byte) bool {
	switch b {
	case mqtt.OnConnectAuthenticate, mqtt.OnACLCheck, mqtt.OnPacketRead, mqtt.OnPublish, mqtt.OnSubscribed, mqtt.OnWill:
		return true
	}
	return false
}

// OnConnectAuthenticate ties the session to the certificate.
func (h *hook) OnConnectAuthenticate(cl *mqtt.Client, pk packets.Packet) bool {
	dc, ok := cl.Net.Conn.(*deviceConn)
	why := ""
	switch {
	case !ok:
		why = "no verified connection"
	case pk.ProtocolVersion != 4:
		why = "only MQTT 3.1.1 is spoken"
	case pk.Connect.ClientIdentifier != dc.device:
		// Without this a device with a good certificate could push another one off by taking its client id.
		why = "client id is not that of the certificate"
	case !pk.Connect.Clean:
		why = "persistent sessions are not kept"
	case pk.Connect.WillFlag:
		why = willRefusal(dc.device, pk.Connect)
	}
	if why != "" {
		h.log(cl).Warn("mqtt front: refused", "why", why)
		return false
	}
	// The engine cuts a connection that is silent for one and a half times this; 0 would mean never.
	if ka := uint16(maxKeepAlive / time.Second); cl.State.Keepalive == 0 || cl.State.Keepalive > ka {
		cl.State.Keepalive = ka
	}
	return true
}

// willRefusal says what is wrong with a will; "" when it is the one a device may leave: its own status, retained, QoS 1.
func willRefusal(device string, c packets.ConnectParams) string {
	t, err := ship.ParseTopic(c.WillTopic)
	switch {
	case err != nil || t.Device != device || t.Kind != ship.Presence:
		return "will is not for the own status topic"
	case !c.WillRetain || c.WillQos != 1:
		return "will is not retained or not QoS 1"
	}
	if n, err := parsePresence(device, c.WillPayload); err != nil || n.State != ship.Offline {
		return "will does not say that the device is offline"
	}
	return ""
}

// OnWill stores the will of a connection that broke. The engine is told to keep it nowhere and has nobody to send it to.
func (h *hook) OnWill(cl *mqtt.Client, will mqtt.Will) (mqtt.Will, error) {
	if err := h.front.cfg.Collector.Presence(h.ctx, deviceOf(cl), will.Payload, false); err != nil && h.ctx.Err() == nil {
		h.log(cl).Error("mqtt front: will not stored", "err", err)
	}
	will.Retain = false
	return will, nil
}

// OnACLCheck allows each device its own four topics, each in one direction.
func (h *hook) OnACLCheck(cl *mqtt.Client, topic string, write bool) bool {
	device := deviceOf(cl)
	if device == "" {
		return false
	}
	t, err := ship.ParseTopic(topic) // no wildcard gets through
	ok := err == nil && t.Device == device && (t.Kind == ship.Audit || t.Kind == ship.Presence) == write
	if !ok {
		h.log(cl).Warn("mqtt front: refused", "why", "topic", "topic", topic[:min(len(topic), 128)], "write", write)
	}
	return ok
}

// OnPacketRead refuses what no device of ours sends, and slows down one that sends too much: its reader waits here, and TCP
// passes that on.
func (h *hook) OnPacketRead(cl *mqtt.Client, pk packets.Packet) (packets.Packet, error) {
	if pk.FixedHeader.Type != packets.Publish {
		return pk, nil
	}
	// Status is what a broker has to remember, and nothing else is. ParseTopic refuses what the engine would make of an odd topic.
	t, err := ship.ParseTopic(pk.TopicName)
	if status := err == nil && t.Kind == ship.Presence; pk.FixedHeader.Retain != status || pk.FixedHeader.Qos != 1 {
		h.log(cl).Warn("mqtt front: refused", "why", "publish is not QoS 1, or retained and no status")
		return pk, packets.ErrRejectPacket
	}
	if !h.throttle(deviceOf(cl)) {
		return pk, packets.ErrRejectPacket
	}
	return pk, nil
}

// OnPublish stores the message. The engine acknowledges after it returns.
func (h *hook) OnPublish(cl *mqtt.Client, pk packets.Packet) (packets.Packet, error) {
	if cl.Net.Inline {
		return pk, nil // our own receipts and doorbells
	}
	reject := func(why string, err error) (packets.Packet, error) {
		h.log(cl).Error("mqtt front: message not stored", "why", why, "err", err)
		cl.Stop(err)
		return pk, packets.ErrRejectPacket
	}
	dc, ok := cl.Net.Conn.(*deviceConn)
	if !ok {
		return reject("no verified connection", packets.ErrNotAuthorized)
	}
	if now := time.Now(); now.Sub(dc.checked) >= h.front.cfg.Reverify {
		if device, err := h.front.cfg.Verify(dc.ConnectionState()); err != nil || device != dc.device {
			return reject("certificate no longer accepted", errors.Join(packets.ErrNotAuthorized, err))
		}
		dc.checked = now
	}
	if t, err := ship.ParseTopic(pk.TopicName); err != nil || t.Kind == ship.Presence {
		if err == nil {
			err = h.front.cfg.Collector.Presence(h.ctx, dc.device, pk.Payload, false)
		}
		if err != nil {
			return reject("status", err)
		}
		return pk, packets.CodeSuccessIgnore
	}
	res, err := h.front.cfg.Collector.Ingest(h.ctx, dc.device, pk.Payload)
	if err != nil {
		return reject("storage", err)
	}
	h.receipt(cl, dc.device, res.Receipt)
	return pk, packets.CodeSuccessIgnore // acknowledge, pass on to nobody
}

// OnSubscribed sends the newest receipt to a device that has just subscribed, in the place of a retained message: the engine
// would have forgotten those at a restart.
func (h *hook) OnSubscribed(cl *mqtt.Client, pk packets.Packet, codes []byte) {
	device := deviceOf(cl)
	for i, f := range pk.Filters {
		if t, err := ship.ParseTopic(f.Filter); err != nil || t.Kind != ship.Receipt || i >= len(codes) || codes[i] > 1 {
			continue
		}
		receipt, err := h.front.cfg.Collector.newestReceipt(h.ctx, device)
		if err != nil {
			h.log(cl).Error("mqtt front: read newest receipt", "err", err)
			continue
		}
		h.receipt(cl, device, receipt)
	}
}

func (h *hook) receipt(cl *mqtt.Client, device string, note []byte) {
	if note == nil {
		return
	}
	if err := h.front.server.Publish(ship.Topic{Device: device, Kind: ship.Receipt}.String(), note, false, 1); err != nil {
		h.log(cl).Warn("mqtt front: publish receipt", "err", err) // the device asks again by sending again
	}
}

func (h *hook) log(cl *mqtt.Client) *slog.Logger {
	return h.front.cfg.Logger.With("device", deviceOf(cl), "remote", cl.Net.Remote)
}

func deviceOf(cl *mqtt.Client) string {
	if dc, ok := cl.Net.Conn.(*deviceConn); ok {
		return dc.device
	}
	return ""
}

// bucket is a token bucket: it outlives connections, or reconnecting would refill it.
type bucket struct {
	tokens float64
	when   time.Time
}

// throttle takes a token of the device and waits until there is one; false when the front is closing.
func (h *hook) throttle(device string) bool {
	h.mu.Lock()
	now := time.Now()
	b := h.buckets[device]
	if b == nil {
		b = &bucket{tokens: float64(h.front.cfg.Burst), when: now}
		h.buckets[device] = b
	}
	b.tokens = min(float64(h.front.cfg.Burst), b.tokens+now.Sub(b.when).Seconds()*h.front.cfg.Rate)
	b.when = now
	b.tokens--
	wait := time.Duration(max(0, -b.tokens) / h.front.cfg.Rate * float64(time.Second))
	h.mu.Unlock()
	if wait == 0 {
		return h.ctx.Err() == nil
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-h.ctx.Done():
		return false
	}
}
