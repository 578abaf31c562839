// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/testdata/testneed"
)

// datagram encodes netlink messages as the kernel of this machine does.
func datagram(msgs ...message) (b []byte) {
	for _, m := range msgs {
		b = binary.NativeEndian.AppendUint32(b, uint32(unix.SizeofNlMsghdr+len(m.body)))
		b = binary.NativeEndian.AppendUint16(b, m.typ)
		b = binary.NativeEndian.AppendUint16(b, m.flags)
		b = binary.NativeEndian.AppendUint32(b, m.seq)
		b = binary.NativeEndian.AppendUint32(b, 0)
		b = append(b, m.body...)
		for len(b)%4 != 0 {
			b = append(b, 0)
		}
	}
	return b
}

// attribute encodes one attribute.
func attribute(b []byte, typ uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(4+len(value)))
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = append(b, value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func TestMessagesAndAttributesThatAreCutOff(t *testing.T) {
	whole := datagram(message{typ: 16, body: []byte("abc")}, message{typ: 17, body: []byte("defgh")})
	for n := range len(whole) + 1 {
		count := 0
		for m := range messages(whole[:n]) {
			if want := []string{"abc", "defgh"}[count]; string(m.body) != want {
				t.Fatalf("%d bytes: message %d is %q", n, count, m.body)
			}
			count++
		}
		want := 0
		if n >= 16+3 {
			want++
		}
		if n >= 20+16+5 {
			want++
		}
		if count != want {
			t.Errorf("%d bytes: %d messages, want %d", n, count, want)
		}
	}
	attrs := attribute(attribute(nil, 1, []byte("x")), 2|unix.NLA_F_NESTED, []byte("yyyy"))
	for n := range len(attrs) + 1 {
		for typ, v := range attributes(attrs[:n]) {
			if want := []string{"", "x", "yyyy"}[typ]; string(v) != want {
				t.Errorf("%d bytes: attribute %d is %q", n, typ, v)
			}
		}
	}
	// Lengths that would loop for ever or reach outside.
	for _, n := range []uint32{0, 1, 15, 1 << 31, 1<<32 - 1} {
		b := datagram(message{body: []byte("abcd")})
		binary.NativeEndian.PutUint32(b, n)
		for range messages(b) {
			t.Errorf("length %d was taken", n)
		}
	}
}

func FuzzNetlink(f *testing.F) {
	f.Add(datagram(message{typ: unix.NLMSG_ERROR, body: make([]byte, 20)}, message{typ: 20, body: attribute(nil, 1, []byte("lo"))}))
	f.Fuzz(func(t *testing.T, b []byte) {
		n := 0
		for m := range messages(b) {
			_ = m.errno()
			n += 16
			for _, v := range attributes(m.body) {
				n += len(v)
			}
		}
		if n > len(b) {
			t.Errorf("%d bytes out of %d", n, len(b))
		}
	})
}

func dialTest(t *testing.T, proto int, groups uint32, queue int) *socket {
	t.Helper()
	testneed.Native(t)
	s, err := dialNetlink(proto, groups, queue)
	if err != nil {
		t.Skipf("netlink: %v", err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestReceiveEndsWithItsContext(t *testing.T) {
	s := dialTest(t, unix.NETLINK_ROUTE, 0, 64<<10)
	before := runtime.NumGoroutine()
	for range 20 {
		ctx, cancel := context.WithCancel(t.Context())
		stop := s.follow(ctx)
		time.AfterFunc(time.Millisecond, cancel)
		if _, err := s.receive(ctx, time.Time{}); !errors.Is(err, context.Canceled) {
			t.Fatalf("receive: %v", err)
		}
		stop()
	}
	if _, err := s.receive(t.Context(), time.Now().Add(time.Millisecond)); !errors.Is(err, errQuiet) {
		t.Errorf("receive without news: %v", err)
	}
	for i := 0; runtime.NumGoroutine() > before && i < 100; i++ {
		time.Sleep(time.Millisecond)
	}
	if n := runtime.NumGoroutine(); n > before {
		t.Errorf("%d goroutines, %d before", n, before)
	}
}

// Only the kernel is heard: a process with the right to send netlink messages must not write the device's history.
func TestReceiveHearsTheKernelOnly(t *testing.T) {
	s := dialTest(t, unix.NETLINK_ROUTE, 0, 64<<10)
	other := dialTest(t, unix.NETLINK_ROUTE, 0, 64<<10)
	var to unix.Sockaddr
	s.conn.Control(func(fd uintptr) { to, _ = unix.Getsockname(int(fd)) })
	forged := datagram(message{typ: unix.RTM_NEWLINK, body: make([]byte, 16)})
	var err error
	other.conn.Control(func(fd uintptr) { err = unix.Sendto(int(fd), forged, 0, to) })
	if errors.Is(err, unix.EPERM) {
		t.Skip("no right: only a process with CAP_NET_ADMIN can forge")
	}
	if err != nil {
		t.Fatal(err)
	}
	if data, err := s.receive(t.Context(), time.Now().Add(100*time.Millisecond)); !errors.Is(err, errQuiet) {
		t.Errorf("another process was heard: %x, %v", data, err)
	}
}

func TestOverflowAndTruncationAreTold(t *testing.T) {
	s := dialTest(t, unix.NETLINK_ROUTE, 0, 4<<10)
	get := make([]byte, 16)
	for range 100 { // answers that nobody reads
		if err := s.send(unix.RTM_GETLINK, unix.NLM_F_REQUEST|unix.NLM_F_ACK, append(get[:4:4], 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)); err != nil && !errors.Is(err, unix.ENOBUFS) {
			t.Fatal(err)
		}
	}
	if _, err := s.receive(t.Context(), time.Now().Add(time.Second)); !errors.Is(err, errOverflow) {
		t.Errorf("100 answers in 4 KiB: %v", err)
	}
	s = dialTest(t, unix.NETLINK_ROUTE, 0, 64<<10)
	s.buf = s.buf[:32]
	if err := s.send(unix.RTM_GETLINK, unix.NLM_F_REQUEST|unix.NLM_F_DUMP, get); err != nil {
		t.Fatal(err)
	}
	if _, err := s.receive(t.Context(), time.Now().Add(time.Second)); !errors.Is(err, errTruncated) {
		t.Errorf("a list in 32 bytes: %v", err)
	}
}

func TestAsk(t *testing.T) {
	s := dialTest(t, unix.NETLINK_ROUTE, 0, 64<<10)
	for range 2 {
		found := false
		err := s.ask(t.Context(), unix.RTM_GETLINK, unix.NLM_F_DUMP, make([]byte, 16), func(m message) bool {
			for typ, v := range attributes(m.body[min(len(m.body), 16):]) {
				found = found || typ == unix.IFLA_IFNAME && string(v) == "lo\x00"
			}
			return false
		})
		if err != nil || !found {
			t.Errorf("ask for links: %v, lo found: %v", err, found)
		}
	}
	if err := s.ask(t.Context(), 0x7ff, 0, nil, func(message) bool { return false }); !errors.Is(err, unix.EOPNOTSUPP) {
		t.Errorf("a request nobody knows: %v", err)
	}
}

func TestFilterWorksInTheKernel(t *testing.T) {
	s := dialTest(t, unix.NETLINK_ROUTE, 0, 64<<10)
	s.filter([]unix.SockFilter{bpfLoad(unix.BPF_H, 4), bpfEqual(native16(unix.NLMSG_ERROR), 0, 1), bpfReturn(1 << 20), bpfReturn(0)})
	if err := s.send(unix.RTM_GETLINK, unix.NLM_F_REQUEST|unix.NLM_F_DUMP, make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
	if data, err := s.receive(t.Context(), time.Now().Add(50*time.Millisecond)); !errors.Is(err, errQuiet) {
		t.Errorf("passed the filter: %x %v", data, err)
	}
	if err := s.send(0x7ff, unix.NLM_F_REQUEST, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := s.receive(t.Context(), time.Now().Add(time.Second)); err != nil {
		t.Errorf("stopped by the filter: %v", err)
	}
}

func TestLacks(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want string
	}{
		{os.NewSyscallError("socket", unix.EPROTONOSUPPORT), "kernel without CONFIG_AUDIT: not available here (socket: protocol not supported)"},
		{os.NewSyscallError("bind", unix.EPERM), "no right: needs CAP_AUDIT_READ: not available here (bind: operation not permitted)"},
	} {
		err := lacks(tc.err, "CONFIG_AUDIT", "CAP_AUDIT_READ")
		if !errors.Is(err, ErrUnavailable) || err.Error() != tc.want {
			t.Errorf("%v", err)
		}
	}
	if err := lacks(unix.ENOMEM, "x", "y"); errors.Is(err, ErrUnavailable) {
		t.Errorf("%v is a fault, not a fact about the device", err)
	}
}
