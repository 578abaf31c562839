// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/backstay/backstay/configs/nft"
)

// firewallSideCheck wants a packet filter that drops to leave the device itself alone, or to have no holes that nobody uses.
type firewallSideCheck struct {
	what    string
	Trusted []string `json:"trusted"`
}

func firewallSideKind() Kind {
	return Kind{
		Name:   "firewall-side",
		Target: "local (programs of the device reach each other, answers come back) or holes (every open port has a program that listens)",
		Want:   `{"trusted": [interfaces that may do everything]}, for holes`,
		New: func(target string, want []byte) (Check, error) {
			c := firewallSideCheck{what: target}
			if err := decodeWant(want, &c); err != nil {
				return nil, err
			}
			if target != "local" && target != "holes" {
				return nil, fmt.Errorf("target: %q, want local or holes", target)
			}
			return c, nil
		},
	}
}

func (c firewallSideCheck) Claims() []string { return nil }

func (c firewallSideCheck) Fix(context.Context, *Host, func(string) bool) ([]Change, error) {
	return nil, ErrNoFix
}

func (c firewallSideCheck) Check(ctx context.Context, h *Host) Verdict {
	rs, err := h.ruleset(ctx)
	if errors.Is(err, nft.ErrUnsupported) {
		return notApplicable("the kernel has no nf_tables, so it drops nothing")
	}
	if err != nil {
		return unknown(err)
	}
	if !rs.Judge(nft.Input, nft.Packet{Proto: nft.TCP, Port: oddPorts[0]}).Dropped {
		return notApplicable("nf_tables drops nothing that comes in unasked")
	}
	if c.what == "local" {
		return c.local(ctx, h, rs)
	}
	return c.holes(ctx, h, rs)
}

func (c firewallSideCheck) local(ctx context.Context, h *Host, rs nft.Ruleset) Verdict {
	lo, link := nft.Link{Name: "lo", Index: 1, Loopback: true}, nft.Link{}
	for _, l := range rs.Links {
		if l.Loopback {
			lo = l
		} else if l.Up {
			link = l
		}
	}
	const free = 40000 // a port that no rule opens
	var items []Item
	for _, v6 := range []bool{false, true} {
		if v6 && !usesIPv6(ctx, h) {
			continue
		}
		family := "IPv4"
		if v6 {
			family = "IPv6"
		}
		if r := rs.Judge(nft.Input, nft.Packet{V6: v6, Proto: nft.TCP, Port: free, In: lo}); r.Dropped {
			items = append(items, Item{Subject: "loopback", Where: ruleText(r.Why), Observed: "programs cannot reach each other, " + family, Expected: "accepted on " + lo.Name})
		}
		if r := rs.Judge(nft.Input, nft.Packet{V6: v6, Proto: nft.TCP, Port: free, In: link, Established: true}); r.Dropped {
			items = append(items, Item{Subject: "answers", Where: ruleText(r.Why), Observed: "answers to this device are dropped, " + family, Expected: "established connections accepted"})
		}
	}
	return judged(items, "loopback and answers are accepted", append([]string{"nf_tables"}, rs.Chains(nft.Input)...)...)
}

// holes compares what is open with who listens.
func (c firewallSideCheck) holes(ctx context.Context, h *Host, rs nft.Ruleset) Verdict {
	f := h.listeners(ctx)
	if f.err != nil {
		return unknown(f.err)
	}
	links := []nft.Link{{}}
	for _, l := range rs.Links {
		if !l.Loopback && l.Up && !linkIs(c.Trusted, l.Name) {
			links = append(links, l)
		}
	}
	var items []Item
	open := 0
	for _, r := range rs.Ports() {
		for _, proto := range []uint8{nft.TCP, nft.UDP} {
			why, is := openOn(rs, links, proto, uint16(r.Lo))
			if !is {
				continue
			}
			open++
			name := portName(proto, uint16(r.Lo))
			if r.Hi > r.Lo {
				name += "-" + strconv.Itoa(int(r.Hi))
			}
			used := slices.ContainsFunc(f.list, func(l listener) bool {
				return l.scope() != "loopback" && uint64(l.port) >= r.Lo && uint64(l.port) <= r.Hi && l.proto == portName(proto, 0)[:3]
			})
			if !used {
				items = append(items, Item{Subject: name, Where: ruleText(why), Observed: "open, and no program listens", Expected: "closed"})
			}
		}
	}
	return judged(items, strconv.Itoa(open)+" open ports, each has a program that listens", append(append([]string{"nf_tables"}, rs.Chains(nft.Input)...), f.read...)...)
}

// openOn finds an interface on which a port is open although the ports that no rule names are not.
func openOn(rs nft.Ruleset, links []nft.Link, proto uint8, port uint16) (why string, ok bool) {
	for _, l := range links {
		for _, v6 := range []bool{false, true} {
			p := nft.Packet{V6: v6, Proto: proto, Port: port, In: l}
			odd := p
			odd.Port = oddPorts[0]
			if r := rs.Judge(nft.Input, p); !r.Dropped && rs.Judge(nft.Input, odd).Dropped {
				return r.Why, true
			}
		}
	}
	return "", false
}
