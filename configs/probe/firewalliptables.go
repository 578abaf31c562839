// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"path"
	"slices"
	"strings"

	"github.com/backstay/backstay/configs/nft"
)

// readIPTables reads what iptables-save wrote. A file for IPv6 has a 6 in its name.
func readIPTables(_ context.Context, _ *Host, name string, data []byte, into *nft.Ruleset) error {
	t := nft.Table{Family: "ip", Name: "filter"}
	if strings.Contains(path.Base(name), "6") {
		t.Family = "ip6"
	}
	in := ""
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || line[0] == '#':
		case line[0] == '*':
			in = line[1:]
		case line == "COMMIT":
			in = ""
		case in != "filter":
		case line[0] == ':':
			chain, policy, _ := strings.Cut(line[1:], " ")
			t.Chains = append(t.Chains, iptablesChain(chain, policy))
		default:
			iptablesRule(&t, uciWords(line))
		}
	}
	if len(t.Chains) > 0 {
		into.Tables = append(into.Tables, t)
	}
	return nil
}

func iptablesChain(name, policy string) nft.Chain {
	c := nft.Chain{Name: name}
	hook := map[string]string{"INPUT": nft.Input, "FORWARD": nft.Forward, "OUTPUT": nft.Output}[name]
	if hook != "" {
		c.Type, c.Hook, c.Policy = "filter", hook, nft.Accept
		if strings.HasPrefix(policy, "DROP") {
			c.Policy = nft.Drop
		}
	}
	return c
}

// iptablesRule adds one -A or -P line. What it does not know restricts the rule in a way that is not known.
func iptablesRule(t *nft.Table, w []string) {
	if len(w) < 3 {
		return
	}
	i := slices.IndexFunc(t.Chains, func(c nft.Chain) bool { return c.Name == w[1] })
	if i < 0 {
		return
	}
	c := &t.Chains[i]
	switch w[0] {
	case "-P":
		c.Policy = iptablesChain(c.Name, w[2]).Policy
		return
	case "-A":
	default:
		return
	}
	x := iptablesReader{w: w[2:]}
	for len(x.w) > 0 {
		x.one(x.next())
	}
	c.Rules = append(c.Rules, x.rule)
}

// iptablesReader reads the words of one rule.
type iptablesReader struct {
	w    []string
	not  bool
	rule nft.Rule
}

func (x *iptablesReader) next() string {
	if len(x.w) == 0 {
		return ""
	}
	s := x.w[0]
	x.w = x.w[1:]
	return s
}

func (x *iptablesReader) add(m nft.Match) {
	m.Not = m.Not != x.not
	x.rule.Matches, x.not = append(x.rule.Matches, m), false
}

func (x *iptablesReader) one(word string) {
	switch word {
	case "!":
		x.not = true
	case "-i", "--in-interface":
		x.add(nft.Match{Field: nft.IIfName, Names: []string{strings.Replace(x.next(), "+", "*", 1)}})
	case "-o", "--out-interface":
		x.add(nft.Match{Field: nft.OIfName, Names: []string{strings.Replace(x.next(), "+", "*", 1)}})
	case "-p", "--protocol":
		x.add(iptablesProtocol(x.next()))
	case "--dport", "--destination-port", "--dports":
		x.add(iptablesPorts(nft.DPort, x.next()))
	case "--sport", "--source-port", "--sports":
		x.add(iptablesPorts(nft.SPort, x.next()))
	case "--ctstate", "--state":
		x.add(iptablesStates(x.next()))
	case "-m", "--match":
		if slices.Contains([]string{"limit", "hashlimit", "statistic"}, x.next()) {
			x.add(nft.Match{Field: nft.Often})
		}
	case "--comment", "--limit", "--limit-burst", "--reject-with", "--log-prefix", "--log-level", "--mode", "--probability":
		x.next()
	case "-s", "--source", "-d", "--destination":
		if strings.HasSuffix(x.next(), "/0") {
			x.add(nft.Match{Field: nft.Any})
		} else {
			x.add(nft.Match{Field: nft.Other, Text: "address"})
		}
	case "-j", "--jump", "-g", "--goto":
		x.rule.Action, x.rule.To = iptablesTarget(word == "-g" || word == "--goto", x.next())
	default:
		if strings.HasPrefix(word, "-") {
			x.add(nft.Match{Field: nft.Other, Text: word})
		}
	}
}

func iptablesTarget(end bool, name string) (nft.Action, string) {
	switch name {
	case "ACCEPT":
		return nft.Accept, ""
	case "DROP":
		return nft.Drop, ""
	case "REJECT", "TARPIT":
		return nft.Reject, ""
	case "RETURN":
		return nft.Return, ""
	case "NFQUEUE", "QUEUE":
		return nft.Queue, ""
	}
	if end {
		return nft.Goto, name
	}
	return nft.Jump, name // of a chain that is not there, as LOG, nothing comes
}

func iptablesProtocol(s string) nft.Match {
	n := map[string]uint64{"tcp": nft.TCP, "udp": nft.UDP, "icmp": nft.ICMP, "icmpv6": nft.ICMPv6, "ipv6-icmp": nft.ICMPv6}[s]
	if v, ok := number(s); ok {
		n = uint64(v)
	}
	if s == "all" || s == "0" {
		return nft.Match{Field: nft.Any}
	}
	if n == 0 {
		return nft.Match{Field: nft.Other, Text: "protocol " + s}
	}
	return nft.Match{Field: nft.L4Proto, Ranges: []nft.Range{{Lo: n, Hi: n}}}
}

func iptablesPorts(f nft.Field, s string) nft.Match {
	m := nft.Match{Field: f}
	for part := range strings.SplitSeq(s, ",") {
		lo, hi, cut := strings.Cut(part, ":")
		if !cut {
			hi = lo
		}
		if hi == "" {
			hi = "65535"
		}
		if lo == "" {
			lo = "0"
		}
		a, aok := number(lo)
		b, bok := number(hi)
		if !aok || !bok {
			return nft.Match{Field: nft.Other, Text: "port " + part}
		}
		m.Ranges = append(m.Ranges, nft.Range{Lo: uint64(a), Hi: uint64(b)})
	}
	return m
}

func iptablesStates(s string) nft.Match {
	m := nft.Match{Field: nft.CTState, Not: true, Ranges: []nft.Range{{}}}
	for w := range strings.SplitSeq(s, ",") {
		m.Mask |= map[string]uint64{"INVALID": 1, "ESTABLISHED": 2, "RELATED": 4, "NEW": 8, "UNTRACKED": 64}[w]
	}
	if m.Mask == 0 {
		return nft.Match{Field: nft.Other, Text: "state " + s}
	}
	return m
}
