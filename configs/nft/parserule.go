// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"slices"
	"strconv"
	"strings"
)

// ruleParser reads one rule of a file.
type ruleParser struct {
	s    []token
	set  func(name string) ([]token, bool)
	rule Rule
	maps []Rule
}

// keywords begin a statement or a match; what this package does not know lasts until one of them.
var keywords = strings.Fields("accept drop reject return continue jump goto queue counter log limit quota comment ct meta tcp udp th sctp dccp udplite " +
	"ip ip6 icmp icmpv6 iif oif iifname oifname iiftype ether vlan arp fib rt socket masquerade snat dnat redirect tproxy add update notrack vmap xt")

func (x *ruleParser) peek() string { return word(x.s, 0) }

func (x *ruleParser) take() string {
	w := word(x.s, 0)
	if len(x.s) > 0 {
		x.s = x.s[1:]
	}
	return w
}

// skip leaves out what is not understood.
func (x *ruleParser) skip() {
	for len(x.s) > 0 && (x.s[0].quoted || !slices.Contains(keywords, x.s[0].text)) {
		x.s = x.s[1:]
	}
}

func (x *ruleParser) add(m Match) { x.rule.Matches = append(x.rule.Matches, m) }

func (x *ruleParser) other(what string) {
	x.add(Match{Field: Other, Text: what})
	x.skip()
}

func (x *ruleParser) parse() []Rule {
	for len(x.s) > 0 {
		x.one()
	}
	r := reader{rule: x.rule, maps: x.maps}
	return r.rules()
}

func (x *ruleParser) act(a Action, to string) {
	if x.rule.Action == None {
		x.rule.Action, x.rule.To = a, to
	}
}

func (x *ruleParser) one() {
	switch w := x.take(); w {
	case "accept", "drop", "return":
		x.act(Action(w), "")
	case "continue":
	case "reject", "queue":
		x.act(Action(w), "")
		x.skip()
	case "jump", "goto":
		x.act(Action(w), x.take())
	case "counter", "log", "comment", "notrack":
		x.skip()
	case "limit", "quota":
		over := slices.ContainsFunc(x.s[:min(3, len(x.s))], func(t token) bool { return t.text == "over" })
		x.skip()
		x.add(Match{Field: Often, Not: over})
	case "add", "update":
		x.skip()
		x.add(Match{Field: Often})
	case "masquerade", "snat", "dnat", "redirect", "tproxy":
		x.s = nil
	case "iif", "iifname":
		x.names(IIfName)
	case "oif", "oifname":
		x.names(OIfName)
	case "meta":
		x.meta()
	case "ct":
		x.ct()
	case "tcp", "udp", "th", "sctp", "dccp", "udplite":
		x.transport(w)
	case "icmp", "icmpv6":
		x.icmp(w)
	case "ip", "ip6":
		x.network(w)
	case "iiftype", "ether", "vlan", "arp", "fib", "rt", "socket", "vmap", "xt":
		x.other(w)
	default:
		x.other("")
	}
}

// operator reads the sign before a value.
func (x *ruleParser) operator() (not bool) {
	switch x.peek() {
	case "!=":
		x.take()
		return true
	case "==":
		x.take()
	}
	return false
}

// value is the list that a match compares with, and whether it is a verdict map. ok is false when it cannot be told.
func (x *ruleParser) value() (list []token, isMap, ok bool) {
	if x.peek() == "vmap" {
		x.take()
		isMap = true
	}
	if len(x.s) == 0 {
		return nil, isMap, false
	}
	t := x.s[0]
	x.s = x.s[1:]
	switch {
	case t.group != nil:
		return t.group, isMap, !slices.ContainsFunc(t.group, func(t token) bool { return t.text == "." })
	case strings.HasPrefix(t.text, "@"):
		list, ok = x.set(t.text[1:])
		return list, isMap, ok
	case t.text == ".", len(x.s) > 0 && x.s[0].text == ".":
		return nil, isMap, false
	}
	list = []token{t}
	for len(x.s) > 1 && x.s[0].text == "," { // "established,related"
		list = append(list, x.s[1])
		x.s = x.s[2:]
	}
	return list, isMap, true
}

// compare reads operator and value of a field and adds the match, or for a map the rules of its elements.
func (x *ruleParser) compare(f Field, make func(list []token, not bool) (Match, bool)) {
	not := x.operator()
	list, isMap, ok := x.value()
	if !ok {
		x.other(string(f))
		return
	}
	if !isMap {
		m, ok := make(list, not)
		if !ok {
			m = Match{Field: Other, Text: string(f)}
		}
		x.add(m)
		return
	}
	x.maps = []Rule{}
	for len(list) > 0 {
		end := slices.IndexFunc(list, func(t token) bool { return t.text == "," })
		if end < 0 {
			end = len(list)
		}
		x.element(f, list[:end], make)
		list = list[min(end+1, len(list)):]
	}
}

// element reads "key : verdict" of a verdict map.
func (x *ruleParser) element(f Field, s []token, make func([]token, bool) (Match, bool)) {
	s = slices.DeleteFunc(slices.Clone(s), func(t token) bool { return t.ends() })
	var flat []token
	for _, t := range s { // "lo:accept" may be one word
		if k, v, cut := strings.Cut(t.text, ":"); cut && !t.quoted && t.group == nil {
			for _, w := range []string{k, ":", v} {
				if w != "" {
					flat = append(flat, token{text: w})
				}
			}
			continue
		}
		flat = append(flat, t)
	}
	colon := slices.IndexFunc(flat, func(t token) bool { return t.text == ":" && !t.quoted })
	if colon < 1 {
		return
	}
	m, ok := make(flat[:colon], false)
	switch {
	case flat[0].text == "*" && !flat[0].quoted:
		m = Match{Field: Any}
	case !ok:
		m = Match{Field: Other, Text: string(f)}
	}
	v := ruleParser{s: flat[colon+1:], set: x.set}
	for len(v.s) > 0 {
		v.one()
	}
	if v.rule.Action != None {
		x.maps = append(x.maps, Rule{Matches: []Match{m}, Action: v.rule.Action, To: v.rule.To})
	}
}

func (x *ruleParser) names(f Field) {
	x.compare(f, func(list []token, not bool) (Match, bool) {
		m := Match{Field: f, Not: not}
		for _, t := range list {
			if t.text != "," && !t.ends() {
				m.Names = append(m.Names, t.text)
			}
		}
		return m, len(m.Names) > 0
	})
}

func (x *ruleParser) numbers(f Field, names func(string) (uint64, bool)) {
	x.compare(f, func(list []token, not bool) (Match, bool) {
		r, ok := numbers(list, names)
		return Match{Field: f, Not: not, Ranges: r}, ok
	})
}

func plain(s string) (uint64, bool) {
	n, err := strconv.ParseUint(s, 0, 32)
	return n, err == nil
}

func protocolNumber(s string) (uint64, bool) {
	for n, name := range protocols {
		if s == name || s == "icmpv6" && n == ICMPv6 {
			return n, true
		}
	}
	return plain(s)
}

func (x *ruleParser) meta() {
	switch w := x.take(); w {
	case "iif", "iifname":
		x.names(IIfName)
	case "oif", "oifname":
		x.names(OIfName)
	case "l4proto":
		x.numbers(L4Proto, protocolNumber)
	case "nfproto":
		x.numbers(NFProto, func(s string) (uint64, bool) {
			v := map[string]uint64{"ipv4": 2, "ipv6": 10}[s]
			return v, v != 0
		})
	case "protocol":
		x.numbers(EtherType, func(s string) (uint64, bool) {
			v := map[string]uint64{"ip": 0x800, "ip6": 0x86dd, "arp": 0x806}[s]
			return v, v != 0
		})
	case "pkttype":
		x.numbers(PktType, func(s string) (uint64, bool) {
			i := slices.Index([]string{"host", "broadcast", "multicast"}, strings.Replace(s, "unicast", "host", 1))
			return uint64(max(i, 0)), i >= 0
		})
	default:
		if x.peek() == "set" {
			x.skip()
			return
		}
		x.other("meta " + w)
	}
}

func (x *ruleParser) ct() {
	w := x.take()
	if w != "state" {
		if x.peek() != "set" {
			x.other("ct")
		}
		x.skip()
		return
	}
	x.compare(CTState, func(list []token, not bool) (Match, bool) {
		m := Match{Field: CTState, Not: !not, Ranges: one(0)}
		for _, t := range list {
			for _, s := range stateNames {
				if t.text == s.name {
					m.Mask |= s.bit
				}
			}
		}
		return m, m.Mask != 0
	})
}

// services are the names of ports that rules use without knowing it.
var services = map[string]uint64{
	"ftp": 21, "ssh": 22, "telnet": 23, "smtp": 25, "domain": 53, "bootps": 67, "bootpc": 68, "tftp": 69, "http": 80, "ntp": 123, "snmp": 161,
	"https": 443, "syslog": 514, "dhcpv6-client": 546, "dhcpv6-server": 547, "mdns": 5353, "mqtt": 1883, "secure-mqtt": 8883, "http-alt": 8080,
}

func portNumber(s string) (uint64, bool) {
	if v := services[s]; v != 0 {
		return v, true
	}
	n, ok := plain(s)
	return n, ok && n <= 65535
}

func (x *ruleParser) transport(proto string) {
	if n, ok := protocolNumber(proto); ok && !x.has(n) {
		x.add(Match{Field: L4Proto, Ranges: one(n)})
	}
	switch x.take() {
	case "dport":
		x.numbers(DPort, portNumber)
	case "sport":
		x.numbers(SPort, portNumber)
	default:
		x.other(proto)
	}
}

// has reports whether the last match but one already demands the protocol, as in "udp sport 67 udp dport 68".
func (x *ruleParser) has(proto uint64) bool {
	return slices.ContainsFunc(x.rule.Matches, func(m Match) bool {
		return m.Field == L4Proto && !m.Not && slices.Equal(m.Ranges, one(proto))
	})
}

func (x *ruleParser) icmp(proto string) {
	n := uint64(ICMP)
	if proto == "icmpv6" {
		n = ICMPv6
	}
	if !x.has(n) {
		x.add(Match{Field: L4Proto, Ranges: one(n)})
	}
	if x.take() != "type" {
		x.other(proto)
		return
	}
	x.numbers(ICMPType, func(s string) (uint64, bool) {
		if proto == "icmpv6" {
			for v, name := range icmp6Types {
				if s == name {
					return v, true
				}
			}
		} else if s == "echo-request" {
			return 8, true
		}
		return plain(s)
	})
}

func (x *ruleParser) network(family string) {
	switch w := x.take(); w {
	case "protocol", "nexthdr":
		x.numbers(L4Proto, protocolNumber)
	case "saddr", "daddr":
		not := x.operator()
		list, isMap, ok := x.value()
		if ok && !isMap && !not && len(list) == 1 && strings.HasSuffix(list[0].text, "/0") {
			x.add(Match{Field: NFProto, Ranges: one(pick(family == "ip6", 10, 2))})
			return
		}
		x.add(Match{Field: Other, Text: family + " " + w})
	default:
		x.other(family + " " + w)
	}
}
