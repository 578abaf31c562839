// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"slices"
)

// Open is what one interface, or every one, lets through.
type Open struct {
	Interface string // "" is every one; a trailing * is any rest
	TCP, UDP  []Range
}

// Opening is what a chain of ours lets through beside answers to what was sent and what stays inside the device.
type Opening struct {
	Ports   []Open
	Trusted []string // interfaces from which, or to which, everything may go
	Ping    bool     // all of ICMP; without, only what IPv6 needs to work
	DHCP    bool     // answers to a DHCP client
	MDNS    bool     // questions for names of the local network
}

// InputChain drops what is not opened and comes from outside.
func InputChain(o Opening) Chain {
	c := base(Input)
	c.add(Rule{Matches: []Match{{Field: IIfName, Names: []string{"lo"}}}})
	c.open(o, IIfName)
	if o.DHCP {
		c.add(Rule{Matches: []Match{proto(UDP), {Field: SPort, Ranges: one(67)}, {Field: DPort, Ranges: one(68)}}})
		c.add(Rule{Matches: []Match{proto(UDP), {Field: SPort, Ranges: one(547)}, {Field: DPort, Ranges: one(546)}}})
	}
	return c
}

// ForwardChain drops what is not opened and only passes through.
func ForwardChain(o Opening) Chain {
	c := base(Forward)
	c.open(o, IIfName)
	return c
}

// OutputChain drops what the device sends by itself and is not opened.
func OutputChain(o Opening) Chain {
	c := base(Output)
	c.add(Rule{Matches: []Match{{Field: OIfName, Names: []string{"lo"}}}})
	c.open(o, OIfName)
	if o.DHCP {
		c.add(Rule{Matches: []Match{proto(UDP), {Field: SPort, Ranges: one(68)}, {Field: DPort, Ranges: one(67)}}})
		c.add(Rule{Matches: []Match{proto(UDP), {Field: SPort, Ranges: one(546)}, {Field: DPort, Ranges: one(547)}}})
	}
	return c
}

func base(hook string) Chain {
	c := Chain{Name: hook, Type: "filter", Hook: hook, Priority: Priority, Policy: Drop}
	c.add(Rule{Matches: []Match{{Field: CTState, Mask: stateEstablished | stateRelated, Not: true, Ranges: one(0)}}})
	return c
}

func (c *Chain) add(r Rule) {
	r.Action = Accept
	c.Rules = append(c.Rules, r)
}

func proto(n uint64) Match { return Match{Field: L4Proto, Ranges: one(n)} }

func (c *Chain) open(o Opening, name Field) {
	for _, n := range o.Trusted {
		c.add(Rule{Matches: []Match{{Field: name, Names: []string{n}}}})
	}
	if o.Ping {
		c.add(Rule{Matches: []Match{{Field: L4Proto, Ranges: []Range{{ICMP, ICMP}, {ICMPv6, ICMPv6}}}}})
	} else if c.Hook != Forward {
		// Errors, groups and neighbours: without them IPv6 finds nobody on its own cable.
		c.add(Rule{Matches: []Match{proto(ICMPv6), {Field: ICMPType, Ranges: []Range{{1, 1}, {2, 2}, {3, 3}, {4, 4},
			{130, 130}, {131, 131}, {132, 132}, {133, 133}, {134, 134}, {135, 135}, {136, 136}, {143, 143}}}}})
	}
	if o.MDNS {
		c.add(Rule{Matches: []Match{proto(UDP), {Field: DPort, Ranges: one(5353)}}})
	}
	for _, p := range o.Ports {
		for _, half := range []struct {
			proto  uint64
			ranges []Range
		}{{TCP, p.TCP}, {UDP, p.UDP}} {
			if len(half.ranges) == 0 {
				continue
			}
			var m []Match
			if p.Interface != "" {
				m = append(m, Match{Field: name, Names: []string{p.Interface}})
			}
			c.add(Rule{Matches: append(m, proto(half.proto), Match{Field: DPort, Ranges: merge(half.ranges)})})
		}
	}
}

// merge sorts ranges and joins those that overlap or touch, as the kernel's intervals need it.
func merge(list []Range) []Range {
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b Range) int { return int(a.Lo) - int(b.Lo) })
	out := list[:1]
	for _, r := range list[1:] {
		last := &out[len(out)-1]
		if r.Lo > last.Hi && (r.Lo > last.Hi+1 || r.Lo == r.Hi || last.Lo == last.Hi) {
			out = append(out, r)
			continue
		}
		last.Hi = max(last.Hi, r.Hi)
	}
	return out
}

// Set puts a chain of ours into the table, in place of the one at the same hook.
func (t *Table) Set(c Chain) {
	for i := range t.Chains {
		if t.Chains[i].Hook == c.Hook {
			t.Chains[i] = c
			return
		}
	}
	t.Chains = append(t.Chains, c)
}

// learning is the table that drops nothing and makes the kernel follow connections: those that are open before a drop are
// then known and live on.
func (t Table) learning() Table {
	t.Chains = slices.Clone(t.Chains)
	for i, c := range t.Chains {
		c.Policy = Accept
		c.Rules = c.Rules[:min(1, len(c.Rules))]
		t.Chains[i] = c
	}
	return t
}

// trialSet names the set whose elements end: while they are there, the last rule of each chain drops.
const trialSet = "trial"

// trial is the table whose drops end by themselves.
func (t Table) trial() Table {
	t.Trial = true
	t.Chains = slices.Clone(t.Chains)
	for i, c := range t.Chains {
		if c.Policy == Drop {
			c.Policy = Accept
			c.Rules = append(slices.Clone(c.Rules), Rule{Matches: []Match{trialMatch()}, Action: Drop})
			t.Chains[i] = c
		}
	}
	return t
}

func trialMatch() Match { return Match{Field: NFProto, Ranges: []Range{{2, 2}, {10, 10}}} }

// Lasting is a table of ours as it will be when its trial is confirmed.
func (t Table) Lasting() Table {
	if !t.Trial {
		return t
	}
	t.Trial = false
	t.Chains = slices.Clone(t.Chains)
	for i, c := range t.Chains {
		n := len(c.Rules) - 1
		if c.Hook == "" || n < 0 || c.Rules[n].Action != Drop || c.Rules[n].String() != (Rule{Matches: []Match{trialMatch()}, Action: Drop}).String() {
			continue
		}
		c.Rules, c.Policy = c.Rules[:n], Drop
		t.Chains[i] = c
	}
	return t
}
