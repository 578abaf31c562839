// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"slices"
	"strconv"
	"strings"
)

// String is the table as the nft program lists it.
func (t Table) String() string {
	var b strings.Builder
	b.WriteString("table " + t.Family + " " + t.Name + " {\n")
	for i, c := range t.Chains {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString("\tchain " + c.Name + " {\n")
		if c.Hook != "" {
			b.WriteString("\t\ttype " + c.Type + " hook " + c.Hook + " priority " + priorityText(c.Priority) + "; policy " + string(c.Policy) + ";\n")
		}
		for _, r := range c.Rules {
			b.WriteString("\t\t" + r.String() + "\n")
		}
		b.WriteString("\t}\n")
	}
	b.WriteString("}\n")
	return b.String()
}

// priorityText names a priority near that of the filters as nft does.
func priorityText(p int) string {
	switch {
	case p == 0:
		return "filter"
	case p >= -10 && p < 0:
		return "filter - " + strconv.Itoa(-p)
	case p > 0 && p <= 10:
		return "filter + " + strconv.Itoa(p)
	}
	return strconv.Itoa(p)
}

// String is the rule as the nft program lists it, as far as this package knows it.
func (r Rule) String() string {
	var w []string
	proto := ""
	for i, m := range r.Matches {
		if n := protocolOf(m); n != "" {
			proto = n
			if i+1 < len(r.Matches) && slices.Contains([]Field{SPort, DPort, TCPFlags, ICMPType}, r.Matches[i+1].Field) {
				continue // "tcp dport 22" says it all
			}
		}
		w = append(w, m.text(proto))
	}
	switch r.Action {
	case None:
	case Jump, Goto:
		w = append(w, string(r.Action)+" "+r.To)
	default:
		w = append(w, string(r.Action))
	}
	return strings.Join(w, " ")
}

// protocols are the names of the protocols that rules name.
var protocols = map[uint64]string{ICMP: "icmp", TCP: "tcp", UDP: "udp", ICMPv6: "ipv6-icmp", 2: "igmp", 132: "sctp", 33: "dccp", 136: "udplite", 47: "gre", 50: "esp", 51: "ah"}

// protocolOf is the protocol that a match demands, "" for another match.
func protocolOf(m Match) string {
	if m.Field != L4Proto || m.Not || len(m.Ranges) != 1 || m.Ranges[0].Lo != m.Ranges[0].Hi {
		return ""
	}
	return protocols[m.Ranges[0].Lo]
}

func (m Match) text(proto string) string {
	field := string(m.Field)
	name := func(v uint64) string { return strconv.FormatUint(v, 10) }
	switch m.Field {
	case Other:
		return "<" + strings.TrimSpace("unknown "+m.Text) + ">"
	case Any:
		return "<any>"
	case Often:
		return "<limit>"
	case CTState:
		if m.Mask != 0 && m.Not && len(m.Ranges) == 1 && m.Ranges[0] == (Range{}) {
			return "ct state " + states(m.Mask)
		}
		name = states
	case SPort, DPort:
		if proto != "" {
			field = proto + strings.TrimPrefix(field, "th")
		}
	case ICMPType:
		if proto == "ipv6-icmp" {
			field = "icmpv6 type"
			name = func(v uint64) string {
				if s := icmp6Types[v]; s != "" {
					return s
				}
				return strconv.FormatUint(v, 10)
			}
		}
	case L4Proto:
		name = func(v uint64) string {
			if s := protocols[v]; s != "" {
				return s
			}
			return strconv.FormatUint(v, 10)
		}
	case NFProto:
		name = func(v uint64) string { return map[uint64]string{2: "ipv4", 10: "ipv6"}[v] }
	}
	if m.Not {
		field += " !="
	}
	var list []string
	for _, n := range m.Names {
		list = append(list, `"`+n+`"`)
	}
	for _, r := range m.Ranges {
		s := name(r.Lo)
		if r.Hi != r.Lo {
			s += "-" + name(r.Hi)
		}
		list = append(list, s)
	}
	if len(list) == 1 {
		return field + " " + list[0]
	}
	return field + " { " + strings.Join(list, ", ") + " }"
}

// states names connection states in nft's order.
func states(v uint64) string {
	var out []string
	for _, s := range stateNames {
		if v&s.bit != 0 {
			out = append(out, s.name)
		}
	}
	return strings.Join(out, ",")
}

var stateNames = []struct {
	bit  uint64
	name string
}{{stateInvalid, "invalid"}, {stateEstablished, "established"}, {stateRelated, "related"}, {stateNew, "new"}, {64, "untracked"}}

// icmp6Types are the names of the messages that IPv6 cannot do without.
var icmp6Types = map[uint64]string{
	1: "destination-unreachable", 2: "packet-too-big", 3: "time-exceeded", 4: "parameter-problem",
	130: "mld-listener-query", 131: "mld-listener-report", 132: "mld-listener-done", 143: "mld2-listener-report",
	133: "nd-router-solicit", 134: "nd-router-advert", 135: "nd-neighbor-solicit", 136: "nd-neighbor-advert",
	128: "echo-request", 129: "echo-reply",
}
