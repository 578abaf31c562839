// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/backstay/backstay/configs/nft"
)

// firewallCheck wants what nobody opened to be dropped.
type firewallCheck struct {
	hook       string
	TCP        []string                 `json:"tcp"`
	UDP        []string                 `json:"udp"`
	Interfaces map[string]firewallPorts `json:"interfaces"`
	Trusted    []string                 `json:"trusted"`
	Ping       bool                     `json:"ping"`
	DHCP       bool                     `json:"dhcp"`
	MDNS       bool                     `json:"mdns"`
	Learn      *int                     `json:"learn_seconds"`

	open []nft.Open // of the lists above
}

type firewallPorts struct {
	TCP []string `json:"tcp"`
	UDP []string `json:"udp"`
}

// Limits of one policy, and of the time to learn.
const (
	maxPortRanges = 256
	maxLearn      = 600
	usualLearn    = 60
)

func firewallKind() Kind {
	return Kind{
		Name: "firewall", Target: "input, forward or output",
		Want: `nothing: what no rule opens is dropped. With lists also: nothing else is open. {"tcp": ["443", "8000-8010"], "udp": [], "interfaces": {"eth0": {"tcp": ["22"]}}, ` +
			`"trusted": ["br-lan", "lan*"] (interfaces that may do everything), "ping": true, "dhcp": true (answers to a client), "mdns": true, "learn_seconds": 60}`,
		Fix: "replace the table inet backstay of the running kernel, when the lists say what stays open; no other table is touched, no file is written",
		New: func(target string, want []byte) (Check, error) {
			c := firewallCheck{hook: target}
			if err := decodeWant(want, &c); err != nil {
				return nil, err
			}
			if !slices.Contains([]string{nft.Input, nft.Forward, nft.Output}, target) {
				return nil, fmt.Errorf("target: %q, want input, forward or output", target)
			}
			return c.parse()
		},
	}
}

func (c firewallCheck) parse() (Check, error) {
	total := 0
	ranges := func(field string, list []string) ([]nft.Range, error) {
		var out []nft.Range
		for _, s := range list {
			lo, hi, cut := strings.Cut(s, "-")
			if !cut {
				hi = lo
			}
			a, aok := number(lo)
			b, bok := number(hi)
			if !aok || !bok || a < 1 || b > 65535 || a > b {
				return nil, fmt.Errorf("want.%s: %q, want a port or a range of ports", field, s)
			}
			out = append(out, nft.Range{Lo: uint64(a), Hi: uint64(b)})
			total++
		}
		return out, nil
	}
	add := func(field, name string, p firewallPorts) error {
		tcp, err := ranges(field+"tcp", p.TCP)
		if err != nil {
			return err
		}
		udp, err := ranges(field+"udp", p.UDP)
		c.open = append(c.open, nft.Open{Interface: name, TCP: tcp, UDP: udp})
		return err
	}
	if err := add("", "", firewallPorts{c.TCP, c.UDP}); err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(c.Interfaces)) {
		if err := add("interfaces."+name+".", name, c.Interfaces[name]); err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Concat(slices.Collect(maps.Keys(c.Interfaces)), c.Trusted) {
		if len(name) < 1 || len(name) > 15 || strings.ContainsFunc(strings.TrimSuffix(name, "*"), notInName) || name == "*" {
			return nil, fmt.Errorf("want: %q is no name of an interface", name)
		}
	}
	if total > maxPortRanges {
		return nil, fmt.Errorf("want: %d ports and ranges, the limit is %d", total, maxPortRanges)
	}
	if c.Learn != nil && (*c.Learn < 0 || *c.Learn > maxLearn) {
		return nil, fmt.Errorf("want.learn_seconds: %d, want 0 to %d", *c.Learn, maxLearn)
	}
	return c, nil
}

// notInName keeps interface names to what a rule's text can hold.
func notInName(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._-@:", r)
}

// lists reports whether the rule says which ports are open. Without, it says only that the others are not.
func (c firewallCheck) lists() bool { return c.TCP != nil || c.UDP != nil || c.Interfaces != nil }

func (c firewallCheck) Claims() []string { return []string{"firewall:" + c.hook} }

func (c firewallCheck) Tightens(old Check) error {
	o, ok := old.(firewallCheck)
	if !ok || o.hook != c.hook {
		return errors.New("another target")
	}
	if n, ok := subset(c.Trusted, o.Trusted); !ok {
		return fmt.Errorf("%s may not be trusted", n)
	}
	if !o.lists() {
		return nil
	}
	switch {
	case !c.lists():
		return errors.New("the floor says which ports are open")
	case c.Ping && !o.Ping, c.DHCP && !o.DHCP, c.MDNS && !o.MDNS:
		return errors.New("the floor opens neither ping, dhcp nor mdns, unless it says so")
	}
	for _, p := range c.open {
		link := nft.Link{Name: p.Interface}
		for proto, list := range map[uint8][]nft.Range{nft.TCP: p.TCP, nft.UDP: p.UDP} {
			for _, r := range list {
				for port := r.Lo; port <= r.Hi; port++ {
					if !o.allows(proto, uint16(port), link) {
						return fmt.Errorf("%s may not be open", portName(proto, uint16(port)))
					}
				}
			}
		}
	}
	return nil
}

func portName(proto uint8, port uint16) string {
	name := "tcp/"
	if proto == nft.UDP {
		name = "udp/"
	}
	return name + strconv.Itoa(int(port))
}

// allows reports whether the rule opens a port on an interface.
func (c firewallCheck) allows(proto uint8, port uint16, link nft.Link) bool {
	if proto == nft.UDP && (c.MDNS && port == 5353 || c.DHCP && (port == 68 || port == 546)) {
		return true
	}
	for _, p := range c.open {
		if p.Interface != "" && !linkIs([]string{p.Interface}, link.Name) {
			continue
		}
		list := p.TCP
		if proto == nft.UDP {
			list = p.UDP
		}
		if slices.ContainsFunc(list, func(r nft.Range) bool { return uint64(port) >= r.Lo && uint64(port) <= r.Hi }) {
			return true
		}
	}
	return false
}

// linkIs compares a name with names that may end in *.
func linkIs(names []string, name string) bool {
	return slices.ContainsFunc(names, func(n string) bool {
		if rest, any := strings.CutSuffix(n, "*"); any {
			return strings.HasPrefix(name, rest) || name == n
		}
		return n == name
	})
}

func (c firewallCheck) Check(ctx context.Context, h *Host) Verdict {
	if !h.Live() {
		return c.checkFiles(ctx, h)
	}
	rs, err := h.ruleset(ctx)
	if errors.Is(err, nft.ErrUnsupported) {
		if t := legacyTables(ctx, h, false) + legacyTables(ctx, h, true); t != "" {
			return Verdict{Result: Unknown, Reason: "the kernel filters with iptables (" + t + "), whose rules this check does not read"}
		}
		return judged([]Item{{Subject: "kernel", Where: "netlink", Observed: "the kernel has no packet filter (no nf_tables, no iptables): not enforceable",
			Expected: "a kernel with nf_tables; until then services bound to the addresses that need them"}}, "", "netlink")
	}
	if err != nil {
		return unknown(err)
	}
	if c.hook == nft.Forward && !forwards(ctx, h, false) && !forwards(ctx, h, true) {
		return notApplicable("the kernel forwards nothing: net.ipv4.ip_forward and net.ipv6.conf.all.forwarding are 0")
	}
	return c.judge(ctx, h, rs)
}

func (c firewallCheck) Fix(ctx context.Context, h *Host, _ func(string) bool) ([]Change, error) {
	if !h.Live() {
		return nil, fmt.Errorf("an image has no packet filter to set: %w", ErrNoFix)
	}
	if !c.lists() {
		return nil, fmt.Errorf("the policy does not say which ports stay open%s; adjust the rule with tcp and udp: %w", listening(ctx, h), ErrNoFix)
	}
	rs, err := h.ruleset(ctx)
	if err != nil {
		return nil, err
	}
	t := nft.Table{Family: nft.Family, Name: nft.TableName}
	if own := rs.Own(); own != nil {
		t = own.Lasting()
		t.Chains = slices.Clone(t.Chains)
		if _, err := nft.ParseTable([]byte(t.String())); err != nil {
			t.Chains = nil // somebody else wrote into it: begin anew
		}
	}
	before, _ := ownTable(rs)
	t.Set(c.chain())
	learn := usualLearn
	if c.Learn != nil {
		learn = *c.Learn
	}
	change := Change{Op: Firewall, Path: filterPath, Before: []byte(before), After: []byte(t.String()), Learn: time.Duration(learn) * time.Second}
	if string(change.Before) == string(change.After) {
		return nil, nil
	}
	return []Change{change}, nil
}

func (c firewallCheck) chain() nft.Chain {
	o := nft.Opening{Ports: c.open, Trusted: c.Trusted, Ping: c.Ping, DHCP: c.DHCP, MDNS: c.MDNS}
	switch c.hook {
	case nft.Forward:
		return nft.ForwardChain(o)
	case nft.Output:
		return nft.OutputChain(o)
	}
	return nft.InputChain(o)
}

// listening suggests the ports to open: those of programs that listen now.
func listening(ctx context.Context, h *Host) string {
	f := h.listeners(ctx)
	var names []string
	for _, l := range f.list {
		if (l.proto == "tcp" || l.proto == "udp") && l.scope() != "loopback" && !slices.Contains(names, l.name()) && len(names) < 8 {
			names = append(names, l.name())
		}
	}
	if f.err != nil || len(names) == 0 {
		return ""
	}
	slices.Sort(names)
	return " (listening now: " + strings.Join(names, ", ") + ")"
}
