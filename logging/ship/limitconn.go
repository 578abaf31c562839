// SPDX-License-Identifier: Apache-2.0

package ship

import (
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/backstay/backstay/logging"
)

// limitConn follows the MQTT framing of what comes in and cuts the link when a packet announces more than max bytes.
//
// It exists because the client allocates the announced length before it reads: five bytes from a hostile broker make a
// device allocate 256 MiB. The offending length is never handed on, so nothing is allocated.
//
// For the same reason it lets through only the kinds of packet that this client asks for. A message at QoS 2 is kept by the
// client until the broker releases it: a broker that sends them with all ids and releases none has a device hold 1 GiB.
//
// It also gives every write its own deadline. The client sets one for publishes but not for its keep-alive ping, so a ping
// behind a full socket buffer would block for ever and the half-open link would never be found out.
//
// Read is called by one goroutine at a time; err may be read from any.
type limitConn struct {
	net.Conn
	write time.Duration
	max   int64
	rest  int64 // bytes of the current packet that are still to come
	mult  int64 // 0: the next byte is a packet type; otherwise the weight of the next length byte
	err   atomic.Pointer[logging.Refusal]
}

func newLimitConn(c net.Conn, maxPacket int, writeTimeout time.Duration) *limitConn {
	return &limitConn{Conn: c, max: int64(maxPacket), write: writeTimeout}
}

// Write implements net.Conn.
func (c *limitConn) Write(p []byte) (int, error) {
	if err := c.Conn.SetWriteDeadline(time.Now().Add(c.write)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// SetWriteDeadline does nothing: the client clears its deadline after a publish, which would also clear that of a ping in
// another goroutine. Write sets its own every time.
func (c *limitConn) SetWriteDeadline(time.Time) error { return nil }

// Read implements net.Conn.
func (c *limitConn) Read(p []byte) (int, error) {
	if r := c.err.Load(); r != nil {
		return 0, r
	}
	n, err := c.Conn.Read(p)
	if r := c.follow(p[:n]); r != nil {
		c.err.Store(r)
		c.Conn.Close() //nolint:errcheck // the link is being given up
		return 0, r
	}
	return n, err
}

func (c *limitConn) follow(b []byte) *logging.Refusal {
	for len(b) > 0 {
		switch {
		case c.mult == 0 && c.rest > 0: // inside a packet
			n := min(c.rest, int64(len(b)))
			c.rest -= n
			b = b[n:]
		case c.mult == 0: // packet type
			if !wanted(b[0]) {
				return &logging.Refusal{Code: logging.CodeMalformed, What: "packet from broker", Why: fmt.Sprintf("type and flags %#02x are not for this client", b[0])}
			}
			c.mult = 1
			b = b[1:]
		default: // remaining length: seven bits a byte, least significant first, at most four bytes
			if c.mult > 1<<21 {
				return &logging.Refusal{Code: logging.CodeMalformed, What: "packet from broker", Why: "length of more than four bytes"}
			}
			c.rest += int64(b[0]&0x7f) * c.mult
			c.mult *= 128
			if c.rest > c.max {
				return &logging.Refusal{Code: logging.CodeMalformed, What: "packet from broker",
					Why: fmt.Sprintf("announces at least %d bytes, limit %d", c.rest, c.max)}
			}
			if b[0]&0x80 == 0 {
				c.mult = 0
			}
			b = b[1:]
		}
	}
	return nil
}

// wanted reports whether a packet that begins so is one a broker may send to this client.
func wanted(b byte) bool {
	switch b {
	case 0x20, 0x40, 0x90, 0xd0: // CONNACK, PUBACK, SUBACK, PINGRESP
		return true
	}
	return b>>4 == 3 && b&0x06 <= 0x02 // PUBLISH at QoS 0 or 1
}
