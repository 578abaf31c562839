// SPDX-License-Identifier: Apache-2.0

package ship_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/logging/ship"
	"github.com/backstay/backstay/testdata/testneed"
)

// siege is a device with a real transport over TCP, and a broker that is hostile until it is told to be honest.
type siege struct {
	t        *testing.T
	log      *memLog
	key      *logging.ReceiptSigner
	addr     string
	honest   atomic.Bool
	conns    atomic.Int32
	rings    atomic.Int32
	events   atomic.Int32
	longest  atomic.Int64 // time a hostile connection lasted, in nanoseconds
	shipper  *ship.Shipper
	mu       sync.Mutex
	head     logging.Head
	attack   func(*siege, net.Conn)
	messages int // batches the honest collector stored
}

const (
	siegeTimeout   = 300 * time.Millisecond
	siegeKeepAlive = time.Second
	siegeLasts     = 700 * time.Millisecond
)

func newSiege(t *testing.T, attack func(*siege, net.Conn)) *siege {
	s := &siege{t: t, key: testKey(t, "TEST/collector"), attack: attack}
	s.log = newMemLog(t, s.key)
	s.head = logging.Head{Origin: s.log.origin}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	s.addr = l.Addr().String()
	go s.accept(l)
	m, err := ship.NewMQTT(ship.MQTTConfig{ClientID: s.id(), Filters: ship.Filters(s.id()), Timeout: siegeTimeout, KeepAlive: siegeKeepAlive,
		Dial: func(ctx context.Context) (net.Conn, error) { return new(net.Dialer).DialContext(ctx, "tcp", s.addr) }})
	if err != nil {
		t.Fatal(err)
	}
	s.shipper, err = ship.New(ship.Config{Log: s.log, Transports: []ship.Transport{m}, Device: s.id(),
		ResendAfter: 200 * time.Millisecond, Rejoin: 50 * time.Millisecond, BackoffMin: 20 * time.Millisecond, BackoffMax: 100 * time.Millisecond,
		Doorbell: func() { s.rings.Add(1) }, Emit: func(string, ...slog.Attr) { s.events.Add(1) }})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *siege) id() string { return s.log.origin.Device }

func (s *siege) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		s.conns.Add(1)
		go func() {
			defer c.Close()
			if s.honest.Load() {
				s.serve(c, func(p *packets.PublishPacket) { s.collect(c, p) })
				return
			}
			began := time.Now()
			s.attack(s, c)
			for took := int64(time.Since(began)); ; {
				old := s.longest.Load()
				if took <= old || s.longest.CompareAndSwap(old, took) {
					return
				}
			}
		}()
	}
}

// serve is an honest broker up to what it does with a batch.
func (s *siege) serve(c net.Conn, batch func(*packets.PublishPacket)) {
	for {
		p, err := packets.ReadPacket(c)
		if err != nil {
			return
		}
		answer(c, p)
		if pub, ok := p.(*packets.PublishPacket); ok && pub.TopicName == s.topic(ship.Audit) {
			batch(pub)
		}
	}
}

func (s *siege) topic(k ship.Kind) string { return ship.Topic{Device: s.id(), Kind: k}.String() }

func (s *siege) collect(c net.Conn, p *packets.PublishPacket) {
	b, err := logging.DecodeBatch(p.Payload)
	if err != nil {
		s.t.Errorf("batch: %v", err)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if next, _, _, err := s.head.Advance(b); err == nil {
		s.head = next
		s.messages++
	}
	note, err := s.key.Sign(logging.Checkpoint{Origin: s.head.Origin, Size: s.head.Tree.Size(), Root: s.head.Tree.Root()}, time.Now())
	if err != nil {
		s.t.Error(err)
	}
	send(c, s.topic(ship.Receipt), note, 1, false)
}

// send publishes to the device.
func send(c net.Conn, topic string, payload []byte, qos byte, retain bool) error {
	p := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	p.TopicName, p.Payload, p.Qos, p.Retain, p.MessageID = topic, payload, qos, retain, 1
	return p.Write(c)
}

// greet answers CONNECT and SUBSCRIBE and returns when the device is in session.
func (s *siege) greet(c net.Conn) bool {
	for {
		p, err := packets.ReadPacket(c)
		if err != nil {
			return false
		}
		answer(c, p)
		if _, ok := p.(*packets.SubscribePacket); ok {
			return true
		}
	}
}

// flood writes packets again and again until the device hangs up, while it reads and ignores what the device says.
func (s *siege) flood(c net.Conn, raw []byte) {
	go func() {
		for sink := make([]byte, 4096); ; {
			if _, err := c.Read(sink); err != nil {
				return
			}
		}
	}()
	block := bytes.Repeat(raw, max(1, 32<<10/len(raw)))
	for end := time.Now().Add(siegeLasts); time.Now().Before(end); {
		c.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
		if _, err := c.Write(block); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			var ne net.Error
			if !errors.As(err, &ne) || !ne.Timeout() {
				return
			}
		}
	}
}

// wire returns the bytes of a PUBLISH.
func wire(topic string, payload []byte, qos byte, retain bool, ids ...uint16) []byte {
	var b bytes.Buffer
	for _, id := range ids {
		p := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
		p.TopicName, p.Payload, p.Qos, p.Retain, p.MessageID = topic, payload, qos, retain, id
		p.Write(&b)
	}
	return b.Bytes()
}

// established reports whether the device has not hung up, without reading from it.
func established(c net.Conn) bool {
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		return false
	}
	state := uint8(0)
	raw.Control(func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			state = info.State
		}
	})
	return state == 1 // TCP_ESTABLISHED
}

// slowly writes one byte at a time.
func slowly(c net.Conn, raw []byte, each time.Duration) {
	for i := range raw {
		if _, err := c.Write(raw[i : i+1]); err != nil {
			return
		}
		time.Sleep(each)
	}
}

// everyID are acknowledgements of one kind for all packet ids there are.
func everyID(kind byte) []byte {
	raw := make([]byte, 0, 4<<16)
	for id := 1; id < 1<<16; id++ {
		raw = append(raw, kind, 2, byte(id>>8), byte(id))
	}
	return raw
}

// sieges is everything a broker can do to a device. cut is how long one of its connections may last at most; 0 when the device
// has no reason to leave, because it is not harmed.
var sieges = []struct {
	name   string
	attack func(*siege, net.Conn)
	cut    time.Duration
}{
	{"giant header instead of CONNACK", func(_ *siege, c net.Conn) {
		c.Write([]byte{0x20, 0xff, 0xff, 0xff, 0x7f})
		c.Read(make([]byte, 1<<10))
		c.Read(make([]byte, 1<<10))
	}, siegeTimeout},
	{"giant header in session", func(s *siege, c net.Conn) {
		if s.greet(c) {
			c.Write([]byte{0x30, 0xff, 0xff, 0xff, 0x7f})
			s.serve(c, func(*packets.PublishPacket) {})
		}
	}, siegeTimeout},
	{"length that does not end", func(s *siege, c net.Conn) {
		if s.greet(c) {
			c.Write([]byte{0x30, 0x80, 0x80, 0x80, 0x80, 0x01})
			s.serve(c, func(*packets.PublishPacket) {})
		}
	}, siegeTimeout},
	{"never answers CONNECT", func(_ *siege, c net.Conn) {
		for sink := make([]byte, 1<<10); ; {
			if _, err := c.Read(sink); err != nil {
				return
			}
		}
	}, 3 * siegeTimeout},
	{"never answers SUBSCRIBE", func(s *siege, c net.Conn) {
		packets.ReadPacket(c)
		packets.NewControlPacket(packets.Connack).Write(c)
		for sink := make([]byte, 1<<10); ; {
			if _, err := c.Read(sink); err != nil {
				return
			}
		}
	}, 3 * siegeTimeout},
	{"CONNACK byte by byte", func(_ *siege, c net.Conn) {
		slowly(c, []byte{0x20, 0x02, 0, 0}, siegeTimeout)
		c.Read(make([]byte, 1<<10))
	}, 4 * siegeTimeout},
	{"a message byte by byte", func(s *siege, c net.Conn) {
		if s.greet(c) {
			go s.serve(c, func(*packets.PublishPacket) {})
			slowly(c, wire(s.topic(ship.Receipt), make([]byte, 8<<10), 1, false, 1), 20*time.Millisecond)
		}
	}, siegeKeepAlive + 4*siegeTimeout},
	{"stops reading", func(s *siege, c net.Conn) {
		c.(*net.TCPConn).SetReadBuffer(4 << 10)
		if s.greet(c) {
			for established(c) {
				time.Sleep(10 * time.Millisecond)
			}
		}
	}, siegeKeepAlive + 4*siegeTimeout},
	{"reads, and never says anything again", func(s *siege, c net.Conn) {
		if s.greet(c) {
			for sink := make([]byte, 4<<10); ; {
				if _, err := c.Read(sink); err != nil {
					return
				}
			}
		}
	}, siegeKeepAlive + 4*siegeTimeout},
	{"PUBACK for every id, flood", func(s *siege, c net.Conn) {
		if s.greet(c) {
			s.flood(c, everyID(0x40))
		}
	}, 0},
	{"PUBREC for every id, flood", func(s *siege, c net.Conn) {
		if s.greet(c) {
			s.flood(c, everyID(0x50))
		}
	}, siegeTimeout},
	{"SUBACK for every id, flood", func(s *siege, c net.Conn) {
		if s.greet(c) {
			var raw []byte
			for id := 1; id < 1<<16; id++ {
				raw = append(raw, 0x90, 3, byte(id>>8), byte(id), 1)
			}
			s.flood(c, raw)
		}
	}, 0},
	{"messages at QoS 2 that are never released", func(s *siege, c net.Conn) {
		if s.greet(c) {
			junk := make([]byte, 15<<10)
			for id := uint16(1); id < 1<<14; id++ {
				if _, err := c.Write(wire(s.topic(ship.Receipt), junk, 2, false, id)); err != nil {
					return
				}
			}
		}
	}, siegeTimeout},
	{"largest messages, flood", func(s *siege, c net.Conn) {
		if s.greet(c) {
			s.flood(c, wire(s.topic(ship.Receipt), make([]byte, 16<<10-100), 1, false, 1, 2, 3))
		}
	}, 0},
	{"retained junk on all topics", func(s *siege, c net.Conn) {
		if s.greet(c) {
			var raw []byte
			for _, topic := range []string{s.topic(ship.Receipt), s.topic(ship.Doorbell), s.topic(ship.Audit), s.topic(ship.Presence), "$SYS/x", "x", "backstay/v1/+/#"} {
				raw = append(raw, wire(topic, []byte("junk"), 0, true, 0)...)
			}
			s.flood(c, raw)
		}
	}, 0},
	{"receipts: forged, foreign, for another root, larger than the log", func(s *siege, c net.Conn) {
		if !s.greet(c) {
			return
		}
		var raw []byte
		for _, note := range s.badReceipts() {
			raw = append(raw, wire(s.topic(ship.Receipt), note, 1, true, 1)...)
		}
		s.flood(c, raw)
	}, 0},
	{"a good receipt, replayed for ever", func(s *siege, c net.Conn) {
		if s.greet(c) {
			s.log.mu.Lock()
			first := logging.Checkpoint{Origin: s.log.origin, Root: s.log.roots[0]}
			s.log.mu.Unlock()
			note, _ := s.key.Sign(first, time.Now())
			s.flood(c, wire(s.topic(ship.Receipt), note, 1, false, 1))
		}
	}, 0},
	{"doorbell, flood", func(s *siege, c net.Conn) {
		if s.greet(c) {
			s.flood(c, wire(s.topic(ship.Doorbell), []byte("look"), 1, false, 1))
		}
	}, 0},
	{"hangs up at once", func(*siege, net.Conn) {}, siegeTimeout},
	{"hangs up in session", func(s *siege, c net.Conn) { s.greet(c) }, siegeTimeout},
	{"refuses every CONNECT", func(_ *siege, c net.Conn) {
		packets.ReadPacket(c)
		c.Write([]byte{0x20, 2, 0, 3})
	}, siegeTimeout},
	{"another protocol", func(_ *siege, c net.Conn) { c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")) }, siegeTimeout},
	{"malformed packets", func(s *siege, c net.Conn) {
		if s.greet(c) {
			c.Write([]byte{0x32, 3, 0xff, 0xff, 'x', 0x30, 0, 0x40, 0, 0x40, 1, 0, 0x90, 0, 0xf0, 0, 0x00, 0})
			s.serve(c, func(*packets.PublishPacket) {})
		}
	}, siegeTimeout},
	{"sends packets only a client may send", func(s *siege, c net.Conn) {
		if s.greet(c) {
			c.Write([]byte{0xc0, 0, 0xe0, 0, 0x82, 5, 0, 1, 0, 0, 0, 0xa2, 4, 0, 1, 0, 0})
			s.serve(c, func(*packets.PublishPacket) {})
		}
	}, siegeTimeout},
}

// badReceipts are all kinds that prove nothing.
func (s *siege) badReceipts() [][]byte {
	s.log.mu.Lock()
	size := s.log.tree.Size()
	right := logging.Checkpoint{Origin: s.log.origin, Size: size, Root: s.log.roots[size]}
	s.log.mu.Unlock()
	root, larger, foreign := right, right, right
	root.Root[0] ^= 1
	larger.Size++
	foreign.Origin.Device = someDevice
	out := [][]byte{[]byte("junk")}
	for _, c := range []logging.Checkpoint{root, larger, foreign} {
		note, _ := s.key.Sign(c, time.Now())
		out = append(out, note)
	}
	forged, _ := testKey(s.t, "TEST/collector").Sign(right, time.Now())
	return append(out, forged)
}

// How much the heap may grow under any attack, the broker's own side of it included: what is in use, and with what the garbage
// collector has not freed yet.
const (
	maxInUse  = 8 << 20
	maxGrowth = 16 << 20
)

// TestHostileBroker: whatever the broker does, memory stays bounded, the link is given up in time, nothing that was not
// acknowledged counts as such, and afterwards an honest broker gets everything.
func TestHostileBroker(t *testing.T) {
	testneed.Native(t) // times and memory are those of an emulator
	for _, tc := range sieges {
		t.Run(tc.name, func(t *testing.T) {
			s := newSiege(t, tc.attack)
			s.log.append(200)
			runtime.GC()
			var before, now runtime.MemStats
			runtime.ReadMemStats(&before)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- s.shipper.Run(ctx) }()
			var peak uint64
			for end := time.Now().Add(siegeLasts); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
				runtime.ReadMemStats(&now)
				peak = max(peak, now.HeapAlloc)
			}
			if st := s.shipper.Status(); st.Acked != 0 {
				t.Errorf("the broker made the device believe that %d records arrived", st.Acked)
			}
			runtime.GC()
			runtime.ReadMemStats(&now)
			if inUse := int64(now.HeapAlloc) - int64(before.HeapAlloc); inUse > maxInUse {
				t.Errorf("the heap holds %d bytes more than before, at most %d may be", inUse, maxInUse)
			}
			growth := int64(peak) - int64(before.HeapAlloc)
			if growth > maxGrowth {
				t.Errorf("the heap grew by %d bytes, at most %d may be", growth, maxGrowth)
			}
			s.honest.Store(true)
			for end := time.Now().Add(10 * time.Second); s.shipper.Status().Backlog() > 0; time.Sleep(10 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("an honest broker does not get it: %+v", s.shipper.Status())
				}
			}
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.head.Tree.Size() != 200 || s.head.Tree.Root() != s.log.roots[200] {
				t.Errorf("%d of 200 records arrived", s.head.Tree.Size())
			}
			// A little more than promised for a busy machine.
			if longest := time.Duration(s.longest.Load()); tc.cut > 0 && longest > tc.cut+700*time.Millisecond {
				t.Errorf("a connection lasted %v, at most %v are allowed", longest, tc.cut)
			}
			if n := s.rings.Load(); n > 1 {
				t.Errorf("the doorbell rang %d times", n)
			}
			if n := s.events.Load(); n > 4*s.conns.Load()+4 {
				t.Errorf("%d events from %d connections", n, s.conns.Load())
			}
			t.Logf("%d connections, longest %v, heap +%d KiB, %d events", s.conns.Load(), time.Duration(s.longest.Load()).Round(time.Millisecond), growth>>10, s.events.Load())
		})
	}
}
