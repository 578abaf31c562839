// SPDX-License-Identifier: Apache-2.0

package ship

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/backstay/backstay/logging"
)

// peer is a listener whose connections are served by handle.
func peer(t *testing.T, handle func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				handle(c)
			}()
		}
	}()
	return l.Addr().String()
}

func line(t *testing.T, c net.Conn) string {
	t.Helper()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	b := make([]byte, 5)
	if _, err := io.ReadFull(c, b); err != nil {
		t.Error(err)
	}
	return string(b)
}

// join copies both ways until one side ends.
func join(a, b net.Conn) {
	go io.Copy(a, b) //nolint:errcheck // ends with the test
	io.Copy(b, a)    //nolint:errcheck // ends with the test
}

func TestConnectProxy(t *testing.T) {
	broker := peer(t, func(c net.Conn) { c.Write([]byte("hello")); io.Copy(io.Discard, c) })
	proxy := peer(t, func(c net.Conn) {
		var request []byte
		for one := make([]byte, 1); !bytes.HasSuffix(request, []byte("\r\n\r\n")); request = append(request, one...) {
			if _, err := c.Read(one); err != nil {
				return
			}
		}
		target, ok := strings.CutPrefix(string(request), "CONNECT ")
		target, _, _ = strings.Cut(target, " ")
		if !ok || target != broker {
			c.Write([]byte("HTTP/1.1 403 Forbidden\r\n\r\n"))
			return
		}
		up, err := net.Dial("tcp", target)
		if err != nil {
			return
		}
		defer up.Close()
		c.Write([]byte("HTTP/1.1 200 OK\r\nX-Filler: y\r\n\r\n"))
		join(c, up)
	})
	d, err := NewDialer("http://"+proxy, 0)
	if err != nil {
		t.Fatal(err)
	}
	c, err := d.DialContext(t.Context(), "tcp", broker)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := line(t, c); got != "hello" {
		t.Errorf("through the proxy came %q: the answer of the proxy took part of it", got)
	}
	if _, err := d.DialContext(t.Context(), "tcp", "127.0.0.1:1"); err == nil || !strings.Contains(err.Error(), "403 Forbidden") {
		t.Errorf("a proxy that says no: %v", err)
	}
}

func TestSocksProxy(t *testing.T) {
	broker := peer(t, func(c net.Conn) { c.Write([]byte("hello")); io.Copy(io.Discard, c) })
	_, port, _ := net.SplitHostPort(broker)
	var name string
	proxy := peer(t, func(c net.Conn) {
		head := make([]byte, 3)
		io.ReadFull(c, head)
		if !bytes.Equal(head, []byte{5, 1, 0}) {
			t.Errorf("greeting % x: it offers more than no authentication", head)
		}
		c.Write([]byte{5, 0})
		req := make([]byte, 5)
		io.ReadFull(c, req)
		host := make([]byte, int(req[4])+2)
		io.ReadFull(c, host)
		name = string(host[:len(host)-2])
		up, err := net.Dial("tcp", broker)
		if err != nil {
			return
		}
		defer up.Close()
		c.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
		join(c, up)
	})
	d, err := NewDialer("socks5://"+proxy, 0)
	if err != nil {
		t.Fatal(err)
	}
	c, err := d.DialContext(t.Context(), "tcp", "broker.example:"+port)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := line(t, c); got != "hello" || name != "broker.example" {
		t.Errorf("%q came, the proxy was asked for %q", got, name)
	}
}

// TestProxyThatDoesNotAnswer: neither kind of proxy may hold the device beyond the deadline or make it remember what it says.
func TestProxyThatDoesNotAnswer(t *testing.T) {
	for name, handle := range map[string]func(net.Conn){
		"silent": func(c net.Conn) { io.Copy(io.Discard, c) },
		"endless": func(c net.Conn) {
			for {
				if _, err := c.Write([]byte("HTTP/1.1 200 OK\r\nX: y\r\n")); err != nil {
					return
				}
			}
		},
		"hangs up": func(c net.Conn) {},
		"another protocol": func(c net.Conn) {
			c.Write([]byte("SSH-2.0-OpenSSH_9.2\r\n\r\n"))
			io.Copy(io.Discard, c)
		},
	} {
		addr := peer(t, handle)
		for _, scheme := range []string{"http://", "socks5://"} {
			d, err := NewDialer(scheme+addr, 0)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			began := time.Now()
			c, err := d.DialContext(ctx, "tcp", "broker.example:8883")
			cancel()
			if err == nil {
				c.Close()
				t.Errorf("%s %s: connected", name, scheme)
			}
			if took := time.Since(began); took > 2*time.Second {
				t.Errorf("%s %s: after %v", name, scheme, took)
			}
		}
	}
}

func TestProxyConfigRefusals(t *testing.T) {
	for _, p := range []string{"https://p:3128", "socks4://p:1080", "p:3128", "http://p", "http://user:secret@p:3128", "http://p:3128/x", "socks5://:1080"} {
		if _, err := NewDialer(p, 0); !errors.Is(err, logging.ErrSetup) {
			t.Errorf("%s: %v", p, err)
		}
	}
}

// scripted is a connection that answers with given bytes and takes everything.
type scripted struct {
	net.Conn
	r *bytes.Reader
}

func (s scripted) Read(p []byte) (int, error)  { return s.r.Read(p) }
func (s scripted) Write(p []byte) (int, error) { return len(p), nil }

func FuzzProxyAnswer(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\n\r\nrest"))
	f.Add([]byte("HTTP/1.0 407 Proxy Authentication Required\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 2\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("y", 2*maxProxyAnswer) + "\r\n\r\n")) // must not be read to its end
	f.Fuzz(func(t *testing.T, b []byte) {
		s := scripted{r: bytes.NewReader(b)}
		err := tunnel(s, "broker:8883")
		used := len(b) - s.r.Len()
		if used > maxProxyAnswer {
			t.Fatalf("read %d bytes", used)
		}
		if err == nil && (!bytes.HasPrefix(b, []byte("HTTP/1.")) || b[9] != '2' || !bytes.HasSuffix(b[:used], []byte("\r\n\r\n"))) {
			t.Fatalf("accepted %q", b[:used])
		}
	})
}
