// SPDX-License-Identifier: Apache-2.0

package nft

import "encoding/binary"

// target is an extension of iptables that ends or marks.
func (x *reader) target(name string) {
	switch name {
	case "REJECT", "TARPIT":
		x.act(Reject, "")
	case "DROP":
		x.act(Drop, "")
	case "NFQUEUE":
		x.act(Queue, "")
	}
}

// xtMatch reads the extensions of iptables that are in common use; any other restricts in a way that is not known.
func xtMatch(name string, info []byte) Match {
	switch {
	case name == "comment":
		return Match{Field: Any}
	case name == "limit", name == "statistic", name == "hashlimit":
		return Match{Field: Often}
	case (name == "conntrack" || name == "state") && len(info) >= 4:
		return xtState(name, info)
	case (name == "tcp" || name == "udp") && len(info) >= 8:
		lo, hi := binary.NativeEndian.Uint16(info[4:]), binary.NativeEndian.Uint16(info[6:])
		inv := info[8:]
		if name == "tcp" {
			inv = info[min(len(info), 11):] // option, mask and flags come first
		}
		if len(inv) > 0 && inv[0] == 0 && binary.NativeEndian.Uint32(info) == anyPort {
			return Match{Field: DPort, Ranges: []Range{{uint64(lo), uint64(hi)}}}
		}
	}
	return Match{Field: Other, Text: name}
}

// anyPort is the range 0 to 65535 of source ports, in either byte order of the two halves.
var anyPort = binary.NativeEndian.Uint32([]byte{0, 0, 0xff, 0xff})

// xtState reads the match on connection states when it looks at nothing else.
func xtState(name string, info []byte) Match {
	if name == "state" {
		return Match{Field: CTState, Not: true, Mask: uint64(binary.NativeEndian.Uint32(info)), Ranges: one(0)}
	}
	const flagsAt, invertAt, stateAt = 146, 148, 150 // after eight addresses, two times, a protocol and four ports
	if len(info) < stateAt+2 || binary.NativeEndian.Uint16(info[flagsAt:]) != 1 {
		return Match{Field: Other, Text: name}
	}
	invert := binary.NativeEndian.Uint16(info[invertAt:])&1 != 0
	return Match{Field: CTState, Not: !invert, Mask: uint64(binary.NativeEndian.Uint16(info[stateAt:])), Ranges: one(0)}
}
