// SPDX-License-Identifier: Apache-2.0

package source

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"
)

// netLink, netAddr and netRoute are what is told when it changes. Two that compare equal are the same state.
type netLink struct {
	name, kind, mac string
	flags           uint32 // of linkFlags
}

type netAddr struct {
	index  int32
	prefix netip.Prefix
}

type netRoute struct {
	gateway       netip.Addr
	table, metric uint32
	oif           int32
	family, typ   uint8
	multipath     bool
}

const linkFlags = unix.IFF_UP | unix.IFF_RUNNING | unix.IFF_PROMISC

// parseLink reads a struct ifinfomsg and its attributes.
func parseLink(b []byte) (index int32, l netLink, ok bool) {
	// A bridge announces its ports as links of its own family.
	if len(b) < unix.SizeofIfInfomsg || b[0] != unix.AF_UNSPEC {
		return 0, netLink{}, false
	}
	index = int32(binary.NativeEndian.Uint32(b[4:]))
	l.flags = binary.NativeEndian.Uint32(b[8:]) & linkFlags
	for typ, v := range attributes(b[unix.SizeofIfInfomsg:]) {
		switch typ {
		case unix.IFLA_IFNAME:
			l.name = cText(v, unix.IFNAMSIZ)
		case unix.IFLA_ADDRESS:
			if len(v) > 0 && len(v) <= 20 { // InfiniBand has the longest
				l.mac = hex.EncodeToString(v)
			}
		case unix.IFLA_PROMISCUITY:
			// The flag is only set by who asks for it by name; the count has the programs that capture packets, too.
			if len(v) == 4 && binary.NativeEndian.Uint32(v) > 0 {
				l.flags |= unix.IFF_PROMISC
			}
		case unix.IFLA_LINKINFO:
			for typ, v := range attributes(v) {
				if typ == unix.IFLA_INFO_KIND {
					l.kind = cText(v, 32)
				}
			}
		}
	}
	return index, l, index > 0 && l.name != ""
}

// parseAddr reads a struct ifaddrmsg and its attributes.
func parseAddr(b []byte) (a netAddr, ok bool) {
	if len(b) < unix.SizeofIfAddrmsg {
		return netAddr{}, false
	}
	a.index = int32(binary.NativeEndian.Uint32(b[4:]))
	var addr netip.Addr
	for typ, v := range attributes(b[unix.SizeofIfAddrmsg:]) {
		// IFA_ADDRESS is the other side's on a point-to-point link.
		if ip, good := netip.AddrFromSlice(v); good && (typ == unix.IFA_LOCAL || typ == unix.IFA_ADDRESS && !addr.IsValid()) {
			addr = ip
		}
	}
	a.prefix = netip.PrefixFrom(addr, int(b[1]))
	return a, a.prefix.IsValid()
}

// parseRoute reads a struct rtmsg and its attributes. It takes default routes only.
func parseRoute(b []byte) (r netRoute, ok bool) {
	if len(b) < unix.SizeofRtMsg || b[1] != 0 || binary.NativeEndian.Uint32(b[8:])&unix.RTM_F_CLONED != 0 {
		return netRoute{}, false
	}
	r.family, r.table, r.typ = b[0], uint32(b[4]), b[7]
	for typ, v := range attributes(b[unix.SizeofRtMsg:]) {
		if typ == unix.RTA_DST {
			return netRoute{}, false
		}
		if typ == unix.RTA_GATEWAY {
			r.gateway, _ = netip.AddrFromSlice(v)
		}
		if typ == unix.RTA_MULTIPATH {
			r.multipath = true
		}
		if len(v) != 4 {
			continue
		}
		switch n := binary.NativeEndian.Uint32(v); typ {
		case unix.RTA_OIF:
			r.oif = int32(n)
		case unix.RTA_PRIORITY:
			r.metric = n
		case unix.RTA_TABLE:
			r.table = n
		}
	}
	return r, (r.family == unix.AF_INET || r.family == unix.AF_INET6) && r.table != unix.RT_TABLE_LOCAL
}

// cText is a string that ends at the first NUL, at most limit bytes.
func cText(b []byte, limit int) string {
	s, _, _ := strings.Cut(string(b[:min(len(b), limit)]), "\x00")
	return s
}
