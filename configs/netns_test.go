// SPDX-License-Identifier: Apache-2.0

package configs_test

import (
	"encoding/binary"
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// veth makes a cable between this network namespace and that of another process: near here, far there.
func veth(t testing.TB, near, far string, pid int) {
	t.Helper()
	peer := make([]byte, unix.SizeofIfInfomsg)
	peer = rtattr(peer, unix.IFLA_IFNAME, append([]byte(far), 0))
	peer = rtattr(peer, unix.IFLA_NET_NS_PID, binary.NativeEndian.AppendUint32(nil, uint32(pid)))
	const infoPeer = 1 // VETH_INFO_PEER
	info := rtattr(nil, unix.IFLA_INFO_KIND, []byte("veth"))
	info = rtattr(info, unix.IFLA_INFO_DATA, rtattr(nil, infoPeer, peer))
	body := make([]byte, unix.SizeofIfInfomsg)
	body = rtattr(body, unix.IFLA_IFNAME, append([]byte(near), 0))
	body = rtattr(body, unix.IFLA_LINKINFO, info)
	rtnetlink(t, unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, body)
}

// linkUp gives an interface an address and switches it on.
func linkUp(t testing.TB, name string, addr net.IP) {
	t.Helper()
	link, err := net.InterfaceByName(name)
	if err != nil {
		t.Fatal(err)
	}
	if addr != nil {
		body := []byte{unix.AF_INET, 24, 0, 0}
		body = binary.NativeEndian.AppendUint32(body, uint32(link.Index))
		body = rtattr(body, unix.IFA_LOCAL, addr.To4())
		rtnetlink(t, unix.RTM_NEWADDR, unix.NLM_F_CREATE, body)
	}
	body := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(body[4:], uint32(link.Index))
	binary.NativeEndian.PutUint32(body[8:], unix.IFF_UP)
	binary.NativeEndian.PutUint32(body[12:], unix.IFF_UP)
	rtnetlink(t, unix.RTM_NEWLINK, 0, body)
}

func rtattr(b []byte, typ uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(4+len(value)))
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = append(b, value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// rtnetlink sends one request and wants no error back.
func rtnetlink(t testing.TB, typ, flags uint16, body []byte) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	msg := binary.NativeEndian.AppendUint32(nil, uint32(16+len(body)))
	msg = binary.NativeEndian.AppendUint16(msg, typ)
	msg = binary.NativeEndian.AppendUint16(msg, unix.NLM_F_REQUEST|unix.NLM_F_ACK|flags)
	msg = append(append(msg, make([]byte, 8)...), body...)
	if err := unix.Sendto(fd, msg, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, buf, 0)
	if err != nil || n < 20 {
		t.Fatal(n, err)
	}
	if e := int32(binary.NativeEndian.Uint32(buf[16:])); e != 0 {
		t.Fatalf("rtnetlink message %d: %v", typ, unix.Errno(-e))
	}
}
