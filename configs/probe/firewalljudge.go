// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"

	"github.com/backstay/backstay/configs/nft"
)

// judge asks what becomes of packets that nobody opened a port for.
func (c firewallCheck) judge(ctx context.Context, h *Host, rs nft.Ruleset) Verdict {
	j := firewallJudge{c: c, rs: rs}
	families := []bool{false, true}
	note := "IPv4 and IPv6"
	if !usesIPv6(ctx, h) {
		families, note = families[:1], "IPv4 (IPv6 is off)"
	}
	for _, v6 := range families {
		if c.hook == nft.Forward && !forwards(ctx, h, v6) {
			continue
		}
		before := len(j.items)
		j.family(v6)
		if t := legacyTables(ctx, h, v6); t != "" && len(j.items) > before {
			return Verdict{Result: Unknown, Reason: "the kernel also filters with iptables (" + t + "), whose rules this check does not read"}
		}
	}
	if len(j.items) == 0 && j.unsure != "" {
		return Verdict{Result: Unknown, Reason: j.unsure}
	}
	v := judged(j.items, "what no rule opens is dropped, "+note, append([]string{"nf_tables"}, rs.Chains(c.hook)...)...)
	v.Implementation = "nftables"
	return v
}

// firewallJudge collects what one judgement finds.
type firewallJudge struct {
	c      firewallCheck
	rs     nft.Ruleset
	items  []Item
	unsure string
}

// oddPorts stand for all that no rule names.
var oddPorts = []uint16{26, 2323, 19001, 54321}

func (j *firewallJudge) family(v6 bool) {
	for _, p := range j.ways(v6) {
		j.way(p)
	}
}

// ways lists the interfaces, or for what is forwarded the pairs of them, that are not trusted. An interface without a name
// stands for those that come up later.
func (j *firewallJudge) ways(v6 bool) []nft.Packet {
	links := []nft.Link{{}}
	for _, l := range j.rs.Links {
		if !l.Loopback && l.Up && !linkIs(j.c.Trusted, l.Name) && len(links) < MaxItems {
			links = append(links, l)
		}
	}
	var out []nft.Packet
	for _, a := range links {
		switch j.c.hook {
		case nft.Input:
			out = append(out, nft.Packet{V6: v6, In: a})
		case nft.Output:
			out = append(out, nft.Packet{V6: v6, Out: a})
		default:
			for _, b := range links {
				if a != b || a.Name == "" {
					out = append(out, nft.Packet{V6: v6, In: a, Out: b})
				}
			}
		}
	}
	return out
}

// way judges one interface: everything open is one defect, else each port is.
func (j *firewallJudge) way(p nft.Packet) {
	link := p.In
	if j.c.hook == nft.Output {
		link = p.Out
	}
	name := linkName(link)
	if j.c.hook == nft.Forward {
		name = linkName(p.In) + " to " + linkName(p.Out)
	}
	family := "IPv4"
	if p.V6 {
		family = "IPv6"
	}
	open, why := 0, ""
	for _, proto := range []uint8{nft.TCP, nft.UDP} {
		for _, port := range oddPorts {
			p.Proto, p.Port = proto, port
			if w, ok := j.accepted(p); ok && !j.c.allows(proto, port, link) {
				open, why = open+1, w
			}
		}
	}
	if open == 2*len(oddPorts) {
		j.add(Item{Subject: name, Where: why, Observed: "new connections are accepted", Expected: "dropped, unless a rule opens the port"}, family)
		return
	}
	if open == 0 && !j.c.lists() {
		return
	}
	for _, proto := range []uint8{nft.TCP, nft.UDP} {
		for _, port := range j.edges() {
			p.Proto, p.Port = proto, port
			odd := slices.Contains(oddPorts, port)
			if w, ok := j.accepted(p); ok && !j.c.allows(proto, port, link) && (odd || j.c.lists()) {
				j.add(Item{Subject: portName(proto, port), Where: w, Observed: "open on " + name, Expected: "dropped"}, family)
			}
		}
	}
}

func linkName(l nft.Link) string {
	if l.Name == "" {
		return "any interface"
	}
	return printable(l.Name)
}

// edges lists the ports at which the answer may change.
func (j *firewallJudge) edges() []uint16 {
	edge := slices.Clone(oddPorts)
	add := func(list []nft.Range) {
		for _, r := range list {
			for _, v := range []uint64{r.Lo, r.Hi, r.Lo - 1, r.Hi + 1} {
				if v > 0 && v <= 65535 {
					edge = append(edge, uint16(v))
				}
			}
		}
	}
	add(j.rs.Ports())
	for _, p := range j.c.open {
		add(p.TCP)
		add(p.UDP)
	}
	slices.Sort(edge)
	return slices.Compact(edge)
}

func (j *firewallJudge) accepted(p nft.Packet) (why string, ok bool) {
	r := j.rs.Judge(j.c.hook, p)
	if !r.Dropped && r.Unsure != "" {
		j.unsure = r.Unsure
		return "", false
	}
	return ruleText(r.Why), !r.Dropped
}

// ruleText is a rule in evidence. Names in it are clean; without its quotes it needs none around it.
func ruleText(s string) string { return printable(strings.ReplaceAll(s, `"`, "")) }

// add notes a defect once, however many interfaces and families have it.
func (j *firewallJudge) add(it Item, family string) {
	for i := range j.items {
		if old := &j.items[i]; old.Subject == it.Subject && old.Where == it.Where {
			if !strings.HasSuffix(old.Observed, family) {
				old.Observed += " and " + family
			}
			return
		}
	}
	it.Observed += ", " + family
	if len(j.items) < 4*MaxItems {
		j.items = append(j.items, it)
	}
}

// usesIPv6 reports whether the running kernel speaks IPv6 beyond itself.
func usesIPv6(ctx context.Context, h *Host) bool {
	data, err := h.Read(ctx, "/proc/net/if_inet6")
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	if v, verr := h.Read(ctx, "/proc/sys/net/ipv6/conf/all/disable_ipv6"); verr == nil && strings.TrimSpace(string(v)) == "1" {
		return strings.Contains(strings.ReplaceAll(string(data), " lo\n", ""), " ")
	}
	return true
}

// forwards reports whether the kernel passes packets of a family on. What cannot be read is taken to be on.
func forwards(ctx context.Context, h *Host, v6 bool) bool {
	name := "/proc/sys/net/ipv4/ip_forward"
	if v6 {
		name = "/proc/sys/net/ipv6/conf/all/forwarding"
	}
	data, err := h.Read(ctx, name)
	return !errors.Is(err, fs.ErrNotExist) && (err != nil || strings.TrimSpace(string(data)) != "0")
}

// legacyTables lists the tables of the older packet filter that are loaded and could drop something.
func legacyTables(ctx context.Context, h *Host, v6 bool) string {
	name := "/proc/net/ip_tables_names"
	if v6 {
		name = "/proc/net/ip6_tables_names"
	}
	data, err := h.Read(ctx, name)
	if err != nil {
		return ""
	}
	for t := range strings.FieldsSeq(string(data)) {
		if t == "filter" || t == "mangle" || t == "raw" {
			return name + " " + t
		}
	}
	return ""
}
