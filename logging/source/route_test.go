// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/testdata/testneed"
)

var goldenRoute = [...]struct{ little, big string }{
	{"000001000700000043110100000000000900030065746830000000000a0001000200c0a80001000008001e000100000010001280090001007665746800000000", "00000001000000070001114300000000000900036574683000000000000a00010200c0a8000100000008001e0000000100108012000900017665746800000000"},
	{"021880000700000008000100c000020908000200c0000201090003006574683000000000", "021880000000000700080001c000020900080002c0000201000900036574683000000000"},
	{"02000000fe0300010000000008000f00fe00000008000500c00002fe08000400070000000800060064000000", "02000000fe030001000000000008000f000000fe00080005c00002fe00080004000000070008000600000064"},
	{"0a000000fe0900010000000014000500fe80000000000000000000000000ffff08000400070000000800060000040000", "0a000000fe0900010000000000140005fe80000000000000000000000000ffff00080004000000070008000600000400"},
}

func TestParseRtnetlink(t *testing.T) {
	golden := func(i int) []byte { return native(t, goldenRoute[i].little, goldenRoute[i].big) }
	index, l, ok := parseLink(golden(0))
	if want := (netLink{"eth0", "veth", "0200c0a80001", unix.IFF_UP | unix.IFF_RUNNING | unix.IFF_PROMISC}); !ok || index != 7 || l != want {
		t.Errorf("link: %d %+v %v", index, l, ok)
	}
	a, ok := parseAddr(golden(1))
	if want := (netAddr{7, netip.MustParsePrefix("192.0.2.1/24")}); !ok || a != want {
		t.Errorf("address: %+v %v", a, ok)
	}
	r, ok := parseRoute(golden(2))
	if want := (netRoute{netip.MustParseAddr("192.0.2.254"), 254, 100, 7, unix.AF_INET, unix.RTN_UNICAST, false}); !ok || r != want {
		t.Errorf("route: %+v %v", r, ok)
	}
	r, ok = parseRoute(golden(3))
	if want := (netRoute{netip.MustParseAddr("fe80::ffff"), 254, 1024, 7, unix.AF_INET6, unix.RTN_UNICAST, false}); !ok || r != want {
		t.Errorf("IPv6 route: %+v %v", r, ok)
	}
	port, dst := golden(0), golden(2)
	port[0], dst[1] = unix.AF_BRIDGE, 24
	if _, _, ok := parseLink(port); ok {
		t.Error("a port that left its bridge is no link that went away")
	}
	if _, ok := parseRoute(dst); ok {
		t.Error("192.0.2.0/24 is no default route")
	}
	for n := range 12 {
		_, _, a := parseLink(golden(0)[:n])
		_, b := parseAddr(golden(1)[:min(n, 7)])
		_, c := parseRoute(golden(2)[:n])
		if a || b || c {
			t.Errorf("%d bytes were taken: %v %v %v", n, a, b, c)
		}
	}
}

func FuzzRtnetlink(f *testing.F) {
	for _, g := range goldenRoute {
		f.Add(native(f, g.little, g.big))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if index, l, ok := parseLink(b); ok && (index <= 0 || l.name == "" || len(l.name) > unix.IFNAMSIZ || len(l.kind) > 32 || len(l.mac) > 40) {
			t.Errorf("link %d %+v", index, l)
		}
		if a, ok := parseAddr(b); ok && !a.prefix.IsValid() {
			t.Errorf("address %+v", a)
		}
		parseRoute(b)
	})
}

func newRouteWatcher() *routeWatcher {
	return &routeWatcher{links: map[int32]netLink{}, addrs: map[netAddr]uint32{}, routes: map[netRoute]uint32{}, seen: map[int32]uint32{}, poll: time.Second}
}

func TestNetworkIsBounded(t *testing.T) {
	w := newRouteWatcher()
	var rec recorded
	sink := testSink(&rec)
	for i := range int32(2 * maxAddrs) {
		w.link(i+1, netLink{name: "veth"}, true, sink)
		w.addr(netAddr{i, netip.MustParsePrefix("192.0.2.1/24")}, true, sink)
		w.route(netRoute{oif: i, family: unix.AF_INET}, true, sink)
	}
	if len(w.links) != maxLinks || len(w.addrs) != maxAddrs || len(w.routes) != maxRoutes || len(w.seen) != maxLinks {
		t.Errorf("%d links, %d addresses, %d routes", len(w.links), len(w.addrs), len(w.routes))
	}
	if want := uint64(3*2*maxAddrs - maxLinks - maxAddrs - maxRoutes); sink.loss.count != want {
		t.Errorf("lost %d, want %d", sink.loss.count, want)
	}
	// The same again is no news, and a lifetime that was renewed is the same.
	rec.list = nil
	w.addr(netAddr{1, netip.MustParsePrefix("192.0.2.1/24")}, true, sink)
	w.link(1, netLink{name: "veth"}, true, sink)
	if len(rec.list) != 0 {
		t.Errorf("told twice: %+v", rec.list)
	}
}

func TestRescanTellsTheDifferences(t *testing.T) {
	s := dialTest(t, unix.NETLINK_ROUTE, 0, 64<<10)
	_ = s
	w := newRouteWatcher()
	if err := w.rescan(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	gone := netAddr{1, netip.MustParsePrefix("203.0.113.7/24")}
	w.link(9999, netLink{name: "gone0"}, true, nil)
	w.addr(gone, true, nil)
	lo := netAddr{1, netip.MustParsePrefix("127.0.0.1/8")}
	_, had := w.addrs[lo]
	delete(w.addrs, lo)
	var rec recorded
	if err := w.rescan(t.Context(), testSink(&rec)); err != nil {
		t.Fatal(err)
	}
	await(t, &rec, "net.link", "change", "removed", "interface", "gone0")
	await(t, &rec, "net.address", "change", "removed", "address", "203.0.113.7/24", "interface", "lo")
	if had {
		await(t, &rec, "net.address", "change", "added", "address", "127.0.0.1/8")
	}
}

// rt makes one change of the network of this namespace.
func rt(t *testing.T, typ, flags uint16, body []byte) {
	t.Helper()
	s, err := dialNetlink(unix.NETLINK_ROUTE, 0, 64<<10)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.ask(context.Background(), typ, flags|unix.NLM_F_ACK, body, func(message) bool { return false }); err != nil {
		t.Fatalf("rtnetlink %d: %v", typ, err)
	}
}

func ifinfo(index int, flags, change uint32) []byte {
	b := binary.NativeEndian.AppendUint32(nil, 0)
	b = binary.NativeEndian.AppendUint32(b, uint32(index))
	b = binary.NativeEndian.AppendUint32(b, flags)
	return binary.NativeEndian.AppendUint32(b, change)
}

func addLink(t *testing.T, name, kind string) int {
	t.Helper()
	b := attribute(ifinfo(0, 0, 0), unix.IFLA_IFNAME, append([]byte(name), 0))
	rt(t, unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, attribute(b, unix.IFLA_LINKINFO, attribute(nil, unix.IFLA_INFO_KIND, []byte(kind))))
	i, err := net.InterfaceByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return i.Index
}

func num32(v int) []byte { return binary.NativeEndian.AppendUint32(nil, uint32(v)) }

func TestNetworkOfThisKernel(t *testing.T) {
	testneed.Native(t)
	if !testneed.Netns(t) {
		return
	}
	rec := live(t, routeKind(), &Env{Poll: 100 * time.Millisecond})
	index := addLink(t, "test0", "bridge")
	await(t, rec, "net.link", "interface", "test0", "change", "added", "kind", "bridge")
	rt(t, unix.RTM_NEWLINK, 0, ifinfo(index, unix.IFF_UP, unix.IFF_UP))
	await(t, rec, "net.link", "interface", "test0", "change", "up, running")
	rt(t, unix.RTM_NEWLINK, 0, ifinfo(index, unix.IFF_PROMISC, unix.IFF_PROMISC))
	await(t, rec, "net.link", "interface", "test0", "change", "promiscuous")

	addr := append([]byte{unix.AF_INET, 24, 0, 0}, num32(index)...)
	addr = attribute(attribute(addr, unix.IFA_LOCAL, []byte{192, 0, 2, 1}), unix.IFA_ADDRESS, []byte{192, 0, 2, 1})
	rt(t, unix.RTM_NEWADDR, unix.NLM_F_CREATE, addr)
	await(t, rec, "net.address", "interface", "test0", "change", "added", "address", "192.0.2.1/24")

	route := func(dst int, gateway byte) []byte {
		b := []byte{unix.AF_INET, byte(dst), 0, 0, unix.RT_TABLE_MAIN, unix.RTPROT_STATIC, 0, unix.RTN_UNICAST, 0, 0, 0, 0}
		if dst > 0 {
			b = attribute(b, unix.RTA_DST, []byte{198, 51, 100, 0})
		}
		return attribute(attribute(b, unix.RTA_GATEWAY, []byte{192, 0, 2, gateway}), unix.RTA_OIF, num32(index))
	}
	rt(t, unix.RTM_NEWROUTE, unix.NLM_F_CREATE, route(24, 253))
	rt(t, unix.RTM_NEWROUTE, unix.NLM_F_CREATE, route(0, 254))
	await(t, rec, "net.route", "interface", "test0", "change", "added", "gateway", "192.0.2.254", "family", "ipv4")
	if n := len(rec.of("net.route")); n != 1 {
		t.Errorf("%d routes, want the default route alone", n)
	}
	// The kernel does not announce the routes it drops with the link: the look after it finds out.
	rt(t, unix.RTM_NEWLINK, 0, ifinfo(index, 0, unix.IFF_UP))
	await(t, rec, "net.link", "interface", "test0", "change", "down, not running")
	await(t, rec, "net.route", "interface", "test0", "change", "removed")
	rt(t, unix.RTM_DELLINK, 0, ifinfo(index, 0, 0))
	await(t, rec, "net.address", "interface", "test0", "change", "removed")
	await(t, rec, "net.link", "interface", "test0", "change", "removed")
}
