// SPDX-License-Identifier: Apache-2.0

package ship

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
	"testing/iotest"
	"time"

	"github.com/backstay/backstay/logging"
)

// readerConn is a connection that only reads.
type readerConn struct {
	net.Conn
	r      io.Reader
	closed bool
}

func (c *readerConn) Read(p []byte) (int, error) { return c.r.Read(p) }
func (c *readerConn) Close() error               { c.closed = true; return nil }

func packet(kind byte, n int) []byte {
	b := []byte{kind}
	for v := n; ; {
		d := byte(v % 128)
		if v /= 128; v > 0 {
			b = append(b, d|0x80)
			continue
		}
		b = append(b, d)
		break
	}
	return append(b, make([]byte, n)...)
}

func TestLimitConnFollowsFraming(t *testing.T) {
	var stream []byte
	for _, n := range []int{0, 1, 2, 127, 128, 300, 16383, 16384, 20000, 0, 0} {
		stream = append(stream, packet(0x30, n)...)
	}
	for _, kind := range []byte{0x20, 0x31, 0x32, 0x3b, 0x40, 0x90, 0xd0} { // a DUP and a retained PUBLISH among them
		stream = append(stream, packet(kind, 3)...)
	}
	for name, r := range map[string]io.Reader{
		"whole": bytes.NewReader(stream), "bytes": iotest.OneByteReader(bytes.NewReader(stream)), "halves": iotest.HalfReader(bytes.NewReader(stream)),
	} {
		got, err := io.ReadAll(newLimitConn(&readerConn{r: r}, 20000, time.Second))
		if err != nil || !bytes.Equal(got, stream) {
			t.Errorf("%s: %d of %d bytes, %v", name, len(got), len(stream), err)
		}
	}
}

func TestLimitConnCuts(t *testing.T) {
	for name, tail := range map[string][]byte{
		"one too many":      packet(0x30, 20001)[:4],
		"largest":           {0x30, 0xff, 0xff, 0xff, 0x7f},
		"length never ends": {0x30, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80},
		"QoS 2":             packet(0x34, 5)[:1],
		"QoS 3":             packet(0x36, 5)[:1],
		"PUBREC":            packet(0x50, 2)[:1],
		"CONNECT":           packet(0x10, 12)[:1],
		"flags of a PUBACK": packet(0x42, 2)[:1],
	} {
		good := packet(0x30, 1000)
		inner := &readerConn{r: bytes.NewReader(append(bytes.Clone(good), tail...))}
		got, err := io.ReadAll(newLimitConn(inner, 20000, time.Second))
		if !errors.Is(err, logging.ErrRefused) || !inner.closed {
			t.Errorf("%s: %v, closed %v", name, err, inner.closed)
		}
		if len(got) > len(good) {
			t.Errorf("%s: %d bytes after the good packet were handed on", name, len(got)-len(good))
		}
		inner.r = iotest.OneByteReader(bytes.NewReader(append(bytes.Clone(good), tail...)))
		if got, err = io.ReadAll(newLimitConn(inner, 20000, time.Second)); !errors.Is(err, logging.ErrRefused) {
			t.Errorf("%s, byte by byte: %v after %d bytes", name, err, len(got))
		}
	}
}

func FuzzLimitConn(f *testing.F) {
	f.Add([]byte{0x30, 0xff, 0xff, 0xff, 0x7f}, 3)
	f.Add(packet(0x30, 300), 1)
	f.Fuzz(func(t *testing.T, b []byte, chunk int) {
		c := newLimitConn(&readerConn{r: bytes.NewReader(b)}, 512, time.Second)
		buf := make([]byte, max(1, chunk%64))
		for {
			_, err := c.Read(buf)
			if err != nil {
				return
			}
			if c.rest < 0 || c.rest > 512 {
				t.Fatalf("follows %d bytes of a packet", c.rest)
			}
		}
	})
}
