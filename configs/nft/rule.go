// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// reader turns the expressions of one rule into matches. The kernel's expressions are a small program over registers: load a
// field, mask it, compare it.
type reader struct {
	set  func(name string) *set
	regs map[uint32]loaded
	rule Rule
	maps []Rule // one for each element of a verdict map
}

// bothPorts is the source port and the port, which the nft program loads at once.
const bothPorts Field = "ports"

// loaded is what a register holds.
type loaded struct {
	field Field
	text  string // of Other
	size  int    // bytes; 0 is unknown
	host  bool   // a number in the machine's own byte order
	mask  []byte
}

// register gives the four names that a register has one number.
func register(b []byte) uint32 {
	r := be32(b)
	if r >= 1 && r <= 4 {
		return 8 + (r-1)*4
	}
	return r
}

// rules is the rule, or with a verdict map one rule for each of its elements.
func (x *reader) rules() []Rule {
	if x.maps == nil {
		return []Rule{x.rule}
	}
	for i := range x.maps {
		x.maps[i].Matches = slices.Concat(x.rule.Matches, x.maps[i].Matches)
	}
	if x.rule.Action != None {
		return append(x.maps, x.rule)
	}
	return x.maps
}

func (x *reader) load(a map[uint16][]byte, dreg uint16, l loaded) {
	if x.regs == nil {
		x.regs = map[uint32]loaded{}
	}
	x.regs[register(a[dreg])] = l
}

func (x *reader) add(m Match) {
	// The nft program says beside "icmpv6" that it is IPv6.
	if n := len(x.rule.Matches); n > 0 && m.Field == L4Proto && slices.Equal(m.Ranges, one(ICMPv6)) {
		if b := x.rule.Matches[n-1]; b.Field == NFProto && !b.Not && slices.Equal(b.Ranges, one(unix.NFPROTO_IPV6)) {
			x.rule.Matches[n-1] = m
			return
		}
	}
	x.rule.Matches = append(x.rule.Matches, m)
}

func (x *reader) expression(name string, a map[uint16][]byte) {
	switch name {
	case "meta":
		if a[unix.NFTA_META_DREG] != nil {
			x.load(a, unix.NFTA_META_DREG, metaField(be32(a[unix.NFTA_META_KEY])))
		}
	case "ct":
		if a[unix.NFTA_CT_DREG] != nil {
			x.load(a, unix.NFTA_CT_DREG, ctField(be32(a[unix.NFTA_CT_KEY])))
		}
	case "payload":
		if a[unix.NFTA_PAYLOAD_DREG] != nil {
			x.load(a, unix.NFTA_PAYLOAD_DREG, x.payloadField(be32(a[unix.NFTA_PAYLOAD_BASE]), be32(a[unix.NFTA_PAYLOAD_OFFSET]), be32(a[unix.NFTA_PAYLOAD_LEN])))
		}
	case "exthdr", "fib", "rt", "socket", "hash", "numgen", "osf", "tunnel", "xfrm", "inner":
		x.load(a, unix.NFTA_EXTHDR_DREG, loaded{field: Other, text: name}) // attribute 1 of most; whatever the register, it is unknown
		if name != "exthdr" && name != "fib" {
			x.regs = map[uint32]loaded{}
		}
	case "byteorder":
		l := x.regs[register(a[unix.NFTA_BYTEORDER_SREG])]
		l.host = !l.host
		x.load(a, unix.NFTA_BYTEORDER_DREG, l)
	case "bitwise":
		x.bitwise(a)
	case "cmp":
		x.compare(a)
	case "range":
		x.between(a)
	case "lookup":
		x.lookup(a)
	case "immediate":
		x.immediate(a)
	case "reject":
		x.act(Reject, "")
	case "queue":
		x.act(Queue, "")
	case "limit", "quota", "connlimit":
		x.add(Match{Field: Often, Not: be32(a[unix.NFTA_LIMIT_FLAGS])&1 != 0 && name == "limit"})
	case "match":
		x.add(xtMatch(text(a[unix.NFTA_MATCH_NAME]), a[unix.NFTA_MATCH_INFO]))
	case "target":
		x.target(text(a[unix.NFTA_TARGET_NAME]))
	case "dynset":
		x.add(Match{Field: Often}) // it may limit each sender
	case "objref":
		if t := be32(a[1]); t != unix.NFT_OBJECT_COUNTER && t != unix.NFT_OBJECT_CT_HELPER {
			x.add(Match{Field: Often})
		}
	case "counter", "log", "notrack", "last", "dup", "fwd":
	default:
		x.add(Match{Field: Other, Text: name})
	}
}

func (x *reader) act(a Action, to string) {
	if x.rule.Action == None {
		x.rule.Action, x.rule.To = a, to
	}
}

func metaField(key uint32) loaded {
	switch key {
	case unix.NFT_META_IIFNAME:
		return loaded{field: IIfName, size: 16}
	case unix.NFT_META_OIFNAME:
		return loaded{field: OIfName, size: 16}
	case unix.NFT_META_IIF:
		return loaded{field: IIf, size: 4, host: true}
	case unix.NFT_META_OIF:
		return loaded{field: OIf, size: 4, host: true}
	case unix.NFT_META_IIFTYPE:
		return loaded{field: IIfType, size: 2, host: true}
	case unix.NFT_META_L4PROTO:
		return loaded{field: L4Proto, size: 1}
	case unix.NFT_META_NFPROTO:
		return loaded{field: NFProto, size: 1}
	case unix.NFT_META_PROTOCOL:
		return loaded{field: EtherType, size: 2}
	case unix.NFT_META_PKTTYPE:
		return loaded{field: PktType, size: 1}
	}
	return loaded{field: Other, text: "meta"}
}

func ctField(key uint32) loaded {
	switch key {
	case unix.NFT_CT_STATE:
		return loaded{field: CTState, size: 4, host: true}
	case unix.NFT_CT_DIRECTION:
		return loaded{field: CTDirection, size: 1}
	}
	return loaded{field: Other, text: "ct"}
}

// payloadField names what is loaded from a header. In the network header the place and length tell IPv4 from IPv6.
func (x *reader) payloadField(base, off, n uint32) loaded {
	icmp := slices.ContainsFunc(x.rule.Matches, func(m Match) bool {
		return m.Field == L4Proto && !m.Not && !slices.ContainsFunc(m.Ranges, func(r Range) bool { return r.Lo != ICMP && r.Lo != ICMPv6 || r.Hi != r.Lo })
	})
	at := [3]uint32{base, off, n}
	switch at {
	case [3]uint32{unix.NFT_PAYLOAD_TRANSPORT_HEADER, 0, 1}:
		if icmp {
			return loaded{field: ICMPType, size: 1}
		}
	case [3]uint32{unix.NFT_PAYLOAD_TRANSPORT_HEADER, 0, 2}:
		if !icmp {
			return loaded{field: SPort, size: 2}
		}
	case [3]uint32{unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2}:
		if !icmp {
			return loaded{field: DPort, size: 2}
		}
	case [3]uint32{unix.NFT_PAYLOAD_TRANSPORT_HEADER, 0, 4}:
		if !icmp {
			return loaded{field: bothPorts, size: 4}
		}
	case [3]uint32{unix.NFT_PAYLOAD_TRANSPORT_HEADER, 13, 1}:
		return loaded{field: TCPFlags, size: 1}
	case [3]uint32{unix.NFT_PAYLOAD_NETWORK_HEADER, 9, 1}, [3]uint32{unix.NFT_PAYLOAD_NETWORK_HEADER, 6, 1}:
		return loaded{field: L4Proto, size: 1}
	}
	return loaded{field: Other, text: [...]string{"link header", "network header", "transport header", "payload"}[min(base, 3)]}
}

func (x *reader) bitwise(a map[uint16][]byte) {
	l := x.regs[register(a[unix.NFTA_BITWISE_SREG])]
	mask, _ := value(a[unix.NFTA_BITWISE_MASK])
	xor, _ := value(a[unix.NFTA_BITWISE_XOR])
	if mask == nil || l.mask != nil || len(bytes.Trim(xor, "\x00")) > 0 {
		l = loaded{field: Other, text: string(l.field)} // shifts, and more than one mask
	} else {
		l.mask = mask
	}
	x.load(a, unix.NFTA_BITWISE_DREG, l)
}

// number reads a value of a register.
func (l loaded) number(b []byte) uint64 {
	b = b[:min(8, len(b))]
	var v uint64
	if l.host && !isBigEndian {
		for i, c := range b {
			v |= uint64(c) << (8 * i)
		}
		return v
	}
	for _, c := range b {
		v = v<<8 | uint64(c)
	}
	return v
}

var isBigEndian = binary.NativeEndian.Uint16([]byte{0, 1}) == 1

// match begins a match of what a register holds; ok is false, and the match an Other, when it is no number that is known.
func (l loaded) match(data []byte) (m Match, ok bool) {
	m.Field = l.field
	if l.field == "" || l.field == Other || len(data) < l.size || l.size > 8 {
		return Match{Field: Other, Text: l.text}, false
	}
	if l.mask != nil {
		m.Mask = l.number(l.mask[:min(len(l.mask), l.size)])
		if m.Mask == 0 {
			m.Field = Other // compared with nothing left of it
			return m, false
		}
	}
	return m, true
}

func (x *reader) compare(a map[uint16][]byte) {
	l := x.regs[register(a[unix.NFTA_CMP_SREG])]
	data, _ := value(a[unix.NFTA_CMP_DATA])
	op := be32(a[unix.NFTA_CMP_OP])
	if zero(l.mask) && zero(data) && op == unix.NFT_CMP_EQ {
		x.add(Match{Field: Any}) // 0.0.0.0/0
		return
	}
	if l.field == IIfName || l.field == OIfName {
		if l.mask != nil || op > unix.NFT_CMP_NEQ {
			x.add(Match{Field: Other, Text: string(l.field)})
			return
		}
		x.add(Match{Field: l.field, Not: op == unix.NFT_CMP_NEQ, Names: []string{nameOf(data)}})
		return
	}
	m, ok := l.match(data)
	if !ok {
		x.add(m)
		return
	}
	v := l.number(data[:l.size])
	const all = ^uint64(0)
	if l.field == bothPorts {
		if op != unix.NFT_CMP_EQ || m.Mask != 0 {
			x.add(Match{Field: Other, Text: "ports"})
			return
		}
		x.add(Match{Field: SPort, Ranges: one(v >> 16)})
		x.add(Match{Field: DPort, Ranges: one(v & 0xffff)})
		return
	}
	switch op {
	case unix.NFT_CMP_EQ:
		m.Ranges = one(v)
	case unix.NFT_CMP_NEQ:
		m.Not, m.Ranges = true, one(v)
	case unix.NFT_CMP_LT:
		m.Not, m.Ranges = true, []Range{{v, all}}
	case unix.NFT_CMP_LTE:
		m.Ranges = []Range{{0, v}}
	case unix.NFT_CMP_GT:
		m.Not, m.Ranges = true, []Range{{0, v}}
	default:
		m.Ranges = []Range{{v, all}}
	}
	if n := len(x.rule.Matches); n > 0 && op == unix.NFT_CMP_LTE {
		if b := &x.rule.Matches[n-1]; b.Field == m.Field && !b.Not && b.Mask == m.Mask && len(b.Ranges) == 1 && b.Ranges[0].Hi == all {
			b.Ranges[0].Hi = v // "8000-8010" is two comparisons
			return
		}
	}
	x.add(m)
}

// zero reports bytes that are all zero; none are not.
func zero(b []byte) bool { return len(b) > 0 && len(bytes.Trim(b, "\x00")) == 0 }

// nameOf is an interface name to compare with: shorter than the kernel's 16 bytes it is the beginning of one.
func nameOf(data []byte) string {
	if len(data) < 16 && !bytes.Contains(data, []byte{0}) {
		return clean(string(data)) + "*"
	}
	return text(data)
}

func (x *reader) between(a map[uint16][]byte) {
	l := x.regs[register(a[unix.NFTA_RANGE_SREG])]
	from, _ := value(a[unix.NFTA_RANGE_FROM_DATA])
	to, _ := value(a[unix.NFTA_RANGE_TO_DATA])
	m, ok := l.match(from)
	if ok && len(to) >= l.size {
		m.Not = be32(a[unix.NFTA_RANGE_OP]) == unix.NFT_RANGE_NEQ
		m.Ranges = []Range{{l.number(from[:l.size]), l.number(to[:l.size])}}
	}
	if ok && m.Ranges == nil {
		m = Match{Field: Other}
	}
	x.add(m)
}

func (x *reader) lookup(a map[uint16][]byte) {
	s := x.set(text(a[unix.NFTA_LOOKUP_SET]))
	l := x.regs[register(a[unix.NFTA_LOOKUP_SREG])]
	if s == nil {
		x.add(Match{Field: Other, Text: "set"})
		return
	}
	not := be32(a[unix.NFTA_LOOKUP_FLAGS])&unix.NFT_LOOKUP_F_INV != 0
	dreg, mapped := a[unix.NFTA_LOOKUP_DREG]
	if mapped && be32(dreg) != unix.NFT_REG_VERDICT {
		x.load(a, unix.NFTA_LOOKUP_DREG, loaded{field: Other, text: "map"})
		return
	}
	if !mapped {
		m := s.match(l, s.elements)
		m.Not = not
		if s.rest != nil {
			m = Match{Field: Any, Not: not}
		}
		x.add(m)
		return
	}
	x.maps = []Rule{}
	for i := range s.elements {
		e := s.elements[i]
		if e.act != None {
			x.maps = append(x.maps, Rule{Matches: []Match{s.match(l, s.elements[i:i+1])}, Action: e.act, To: e.to})
		}
	}
	if s.rest != nil {
		x.maps = append(x.maps, Rule{Action: s.rest.act, To: s.rest.to})
	}
}

// match is "what the register holds is one of some elements".
func (s *set) match(l loaded, some []element) Match {
	if s.full || l.field == "" || l.field == Other || l.mask != nil {
		return Match{Field: Other, Text: strings.TrimSpace(l.text + " set")}
	}
	m := Match{Field: l.field}
	for _, e := range some {
		if l.field == IIfName || l.field == OIfName {
			m.Names = append(m.Names, text(e.key))
		} else if len(e.key) != (l.size+3)&^3 && len(e.key) != l.size {
			return Match{Field: Other, Text: "set of several fields"}
		}
	}
	if m.Names != nil {
		slices.Sort(m.Names)
		return m
	}
	all, of := s.ranges(func(b []byte) uint64 { return l.number(b[:min(len(b), l.size)]) })
	for i, r := range all {
		if slices.ContainsFunc(some, func(e element) bool { return bytes.Equal(e.key, of[i].key) && !e.stop }) {
			m.Ranges = append(m.Ranges, r)
		}
	}
	return m
}

func (x *reader) immediate(a map[uint16][]byte) {
	if be32(a[unix.NFTA_IMMEDIATE_DREG]) != unix.NFT_REG_VERDICT {
		x.load(a, unix.NFTA_IMMEDIATE_DREG, loaded{field: Other, text: "constant"})
		return
	}
	if act, to, err := verdict(a[unix.NFTA_IMMEDIATE_DATA]); err == nil && act != None {
		x.act(act, to)
	}
}
