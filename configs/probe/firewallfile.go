// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/backstay/backstay/configs/nft"
)

// firewallSource is a kind of file that says what the packet filter will hold.
type firewallSource struct {
	name  string
	files []string // those that are there are read together
	load  []string // programs that put them into the kernel
	read  func(ctx context.Context, h *Host, name string, data []byte, into *nft.Ruleset) error
}

// firewallSources are looked at in this order; the first that is there counts. OpenWrt's replaces all others.
func firewallSources() []firewallSource {
	return []firewallSource{
		{"uci firewall", []string{"/etc/config/firewall"}, []string{"fw3", "fw4", "firewall"}, readUCIFirewall},
		{"nftables", []string{"/etc/nftables.conf", "/etc/nftables.nft", "/etc/sysconfig/nftables.conf"}, []string{"nft", "nftables"}, readNFTFile},
		{"iptables", []string{"/etc/iptables/rules.v4", "/etc/iptables/rules.v6", "/etc/iptables/iptables.rules", "/etc/iptables/ip6tables.rules",
			"/etc/iptables/rules-save", "/etc/iptables/rules6-save", "/etc/iptables.rules", "/etc/ip6tables.rules", "/etc/iptables.conf", "/etc/ip6tables.conf",
			"/etc/sysconfig/iptables", "/etc/sysconfig/ip6tables"},
			[]string{"iptables-restore", "ip6tables-restore", "iptables", "ip6tables", "netfilter-persistent", "iptables-legacy-restore", "iptables-nft-restore"}, readIPTables},
	}
}

// checkFiles judges what an image will load.
func (c firewallCheck) checkFiles(ctx context.Context, h *Host) Verdict {
	for _, s := range firewallSources() {
		var rs nft.Ruleset
		var read []string
		for _, name := range s.files {
			data, err := h.Read(ctx, name)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err == nil {
				err = s.read(ctx, h, name, data, &rs)
			}
			if err != nil {
				return Verdict{Result: Unknown, Reason: printable(name) + ": " + err.Error()}
			}
			read = append(read, name)
		}
		if read != nil && c.hook == nft.Forward && s.name != "uci firewall" && !imageForwards(ctx, h) && !forwards(ctx, h, false) && !forwards(ctx, h, true) {
			return notApplicable("no file switches forwarding on, and the kernel's own value is off")
		}
		if read != nil {
			return c.judgeFiles(ctx, h, s, rs, read)
		}
	}
	return notApplicable("no file configures a packet filter (nftables, iptables, UCI); what the running device has is judged there")
}

func (c firewallCheck) judgeFiles(ctx context.Context, h *Host, s firewallSource, rs nft.Ruleset, read []string) Verdict {
	if rs.Missing != "" {
		return Verdict{Result: Unknown, Reason: read[0] + " includes " + printable(rs.Missing) + ", which cannot be read"}
	}
	j := firewallJudge{c: c, rs: rs}
	j.family(false)
	note := "IPv4 and IPv6"
	if s.name == "iptables" && len(rs.Chains(c.hook)) < 2 && offIPv6(ctx, h) {
		note = "IPv4 (IPv6 is switched off)"
	} else {
		j.family(true)
	}
	for i := range j.items {
		j.items[i].Where = printable(read[0]) + ": " + j.items[i].Where
	}
	if len(j.items) == 0 && j.unsure != "" {
		return Verdict{Result: Unknown, Reason: j.unsure}
	}
	v := judged(j.items, "what no rule opens is dropped, "+note, read...)
	v.Implementation = s.name
	if v.Result == Pass {
		started := h.starts(ctx)
		if !startsFilter(started, s.load) {
			v = Verdict{Result: Unknown, Reason: read[0] + " drops what it has to, and nothing was found that loads it at start"}
			if err := started.err(); err != nil {
				v.Reason += ": " + err.Error()
			}
		}
	}
	return v
}

// startsFilter reports whether something that is started is one of the programs, or a unit or script named after one.
func startsFilter(f *startFacts, names []string) bool {
	for _, s := range f.list {
		entry := strings.TrimLeft(strings.TrimSuffix(path.Base(s.entry), ".service"), "SK0123456789")
		if s.enabled && (slices.Contains(names, s.program()) || slices.Contains(names, entry)) {
			return true
		}
	}
	return false
}

// imageForwards reports whether a file makes the kernel pass packets on.
func imageForwards(ctx context.Context, h *Host) bool {
	settings, err := sysctlSettings(ctx, h)
	for _, key := range []string{"net/ipv4/ip_forward", "net/ipv4/conf/all/forwarding", "net/ipv6/conf/all/forwarding"} {
		if l := persisted(settings, key); l.line > 0 && l.value != "0" {
			return true
		}
	}
	return err != nil
}

// offIPv6 reports whether the image switches IPv6 off by itself.
func offIPv6(ctx context.Context, h *Host) bool {
	settings, err := sysctlSettings(ctx, h)
	l := persisted(settings, "net/ipv6/conf/all/disable_ipv6")
	if err != nil || l.line == 0 || l.value != "1" {
		return false
	}
	by, err := appliesSysctl(ctx, h)
	return err == nil && by != ""
}

// readNFTFile reads a file of the nft program with what it includes.
func readNFTFile(ctx context.Context, h *Host, _ string, data []byte, into *nft.Ruleset) error {
	rs, err := nft.Parse(data, func(pattern string) ([][]byte, bool) { return includedRules(ctx, h, pattern) })
	into.Tables, into.Missing = append(into.Tables, rs.Tables...), rs.Missing
	return err
}

// includedRules reads the files that a pattern names; only the last element may have a star.
func includedRules(ctx context.Context, h *Host, pattern string) ([][]byte, bool) {
	dir, base := path.Split(pattern)
	if !strings.HasPrefix(pattern, "/") || strings.ContainsAny(dir, "*?[") {
		return nil, false
	}
	if !strings.ContainsAny(base, "*?[") {
		data, err := h.Read(ctx, pattern)
		return [][]byte{data}, err == nil
	}
	names, err := h.Names(dir, 512)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, true
	}
	var out [][]byte
	for _, n := range names {
		if ok, _ := path.Match(base, n); !ok || strings.HasPrefix(n, ".") {
			continue
		}
		data, rerr := h.Read(ctx, dir+n)
		out, err = append(out, data), errors.Join(err, rerr)
	}
	return out, err == nil
}

// readUCIFirewall turns the zones of OpenWrt into chains: what a zone does not say, the defaults say, and those of fw4 accept
// nothing unless told.
func readUCIFirewall(_ context.Context, _ *Host, _ string, data []byte, into *nft.Ruleset) error {
	sections := parseUCI(data)
	policy := map[string]string{nft.Input: "REJECT", nft.Forward: "REJECT", nft.Output: "REJECT"}
	for _, s := range sections {
		for hook := range policy {
			if o, ok := s.options[hook]; s.kind == "defaults" && ok {
				policy[hook] = o.value
			}
		}
	}
	t := nft.Table{Family: "inet", Name: "fw4"}
	for _, hook := range []string{nft.Input, nft.Forward, nft.Output} {
		c := nft.Chain{Name: hook, Type: "filter", Hook: hook, Policy: uciAction(policy[hook])}
		for _, s := range sections {
			o, ok := s.options[hook]
			if s.kind != "zone" || !ok {
				continue
			}
			field := nft.IIfName
			if hook == nft.Output {
				field = nft.OIfName
			}
			name := s.options["name"].value
			c.Rules = append(c.Rules, nft.Rule{Matches: []nft.Match{{Field: field, Names: []string{name}}}, Action: uciAction(o.value)})
			into.Links = append(into.Links, nft.Link{Name: name, Index: len(into.Links) + 100, Up: true})
		}
		t.Chains = append(t.Chains, c)
	}
	if len(sections) == 0 {
		return fmt.Errorf("it has no sections")
	}
	into.Tables = append(into.Tables, t)
	return nil
}

func uciAction(v string) nft.Action {
	if strings.EqualFold(v, "ACCEPT") {
		return nft.Accept
	}
	return nft.Drop
}
