// SPDX-License-Identifier: Apache-2.0

package probe_test

import (
	"context"
	"strings"
	"testing"
)

func TestFirewallFiles(t *testing.T) {
	const (
		script   = "#!/bin/sh\nnft -f /etc/nftables.conf\niptables-restore < /etc/iptables/rules.v4\nsysctl -p\n"
		rcS      = "::sysinit:/etc/init.d/rcS\n"
		zones    = "config defaults\n\toption input 'REJECT'\n\toption forward 'REJECT'\n\nconfig zone\n\toption name 'lan'\n\toption input 'ACCEPT'\n\toption forward 'ACCEPT'\n\nconfig zone\n\toption name 'wan'\n\toption input 'REJECT'\n"
		save     = "# Generated\n*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -j ACCEPT\nCOMMIT\n*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n:own - [0:0]\n"
		accepted = "-A INPUT -i lo -j ACCEPT\n-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -m comment --comment \"accept all\" -j ACCEPT\n-A INPUT -s 10.0.0.0/8 -p tcp -m tcp --dport 22 -j ACCEPT\n-A INPUT -p tcp -m multiport --dports 80,443 -j ACCEPT\n"
		end      = "COMMIT\n"
	)
	with := func(more files) files {
		out := files{"etc/inittab": rcS, "etc/init.d/rcS": script, "etc/sysctl.conf": "net.ipv6.conf.all.disable_ipv6 = 1\n"}
		for n, text := range more {
			out[n] = text
		}
		return out
	}
	const trusted = `{"trusted":["lan*"]}`
	for name, c := range map[string]struct {
		files        files
		target, want string
		result       string
	}{
		"nothing":                    {with(nil), "input", "", "not-applicable"},
		"closed":                     {with(files{"etc/nftables.conf": chain("inet", "input", "drop", answers)}), "input", "", "pass"},
		"open":                       {with(files{"etc/nftables.conf": chain("inet", "input", "accept", answers)}), "input", "", "fail; /etc/nftables.conf: table inet t-input chain c policy accept new connections are accepted, IPv4 and IPv6"},
		"open for IPv6":              {with(files{"etc/nftables.conf": chain("ip", "input", "drop", answers)}), "input", "", "fail; /etc/nftables.conf: no chain filters it new connections are accepted, IPv6"},
		"closed, never loaded":       {files{"etc/inittab": rcS, "etc/init.d/rcS": "#!/bin/sh\necho nft\n", "etc/nftables.conf": chain("inet", "input", "drop", answers)}, "input", "", "unknown"},
		"closed by an include":       {with(files{"etc/nftables.nft": "include \"/etc/nftables.d/*.nft\"\n", "etc/nftables.d/a.nft": chain("inet", "input", "drop", "")}), "input", "", "pass"},
		"opened by an include":       {with(files{"etc/nftables.nft": chain("inet", "input", "drop", "") + "include \"/etc/nftables.d/*.nft\"\n", "etc/nftables.d/a.nft": "add rule inet t-input c accept\n"}), "input", "", "fail"},
		"an include that is odd":     {with(files{"etc/nftables.nft": chain("inet", "input", "drop", "") + "include \"*/x.nft\"\n"}), "input", "", "unknown"},
		"braces that do not match":   {with(files{"etc/nftables.conf": "table inet t {\n"}), "input", "", "unknown"},
		"forward, not switched on":   {with(files{"etc/nftables.conf": chain("inet", "input", "drop", "")}), "forward", "", "not-applicable"},
		"forward, switched on":       {with(files{"etc/nftables.conf": chain("inet", "input", "drop", ""), "etc/sysctl.conf": "net.ipv4.ip_forward=1\n"}), "forward", "", "fail"},
		"zones":                      {with(files{"etc/config/firewall": zones, "etc/init.d/rcS": "#!/bin/sh\n/etc/init.d/firewall start\n", "etc/init.d/firewall": "#!/bin/sh\nfw4 start\n"}), "input", trusted, "pass"},
		"zones, lan is not trusted":  {with(files{"etc/config/firewall": zones}), "input", "", "fail; /etc/config/firewall: table inet fw4 chain input rule 1: iifname lan accept new connections are accepted"},
		"zones, wan is open":         {with(files{"etc/config/firewall": strings.Replace(zones, "input 'REJECT'\n", "input 'ACCEPT'\n", 2)}), "input", trusted, "fail"},
		"iptables":                   {with(files{"etc/iptables/rules.v4": save + accepted + end}), "input", "", "pass"},
		"iptables, no IPv6":          {files{"etc/inittab": rcS, "etc/init.d/rcS": script, "etc/iptables/rules.v4": save + accepted + end}, "input", "", "fail; /etc/iptables/rules.v4: no chain filters it new connections are accepted, IPv6"},
		"iptables, both":             {files{"etc/inittab": rcS, "etc/init.d/rcS": script, "etc/iptables/rules.v4": save + end, "etc/iptables/rules.v6": save + end}, "input", "", "pass"},
		"iptables, accepts":          {with(files{"etc/iptables/rules.v4": save + accepted + "-A INPUT -j ACCEPT\n" + end}), "input", "", "fail"},
		"iptables, in its own chain": {with(files{"etc/iptables/rules.v4": save + "-A INPUT -j own\n-A own -m state --state NEW -j ACCEPT\n" + end}), "input", "", "fail"},
		"iptables, all but one":      {with(files{"etc/iptables/rules.v4": save + "-A INPUT ! -i lo -j ACCEPT\n" + end}), "input", "", "fail"},
		"iptables, policy accept":    {with(files{"etc/iptables/rules.v4": strings.Replace(save, "INPUT DROP", "INPUT ACCEPT", 1) + accepted + end}), "input", "", "fail"},
		"iptables, a last drop":      {with(files{"etc/iptables/rules.v4": strings.Replace(save, "INPUT DROP", "INPUT ACCEPT", 1) + accepted + "-A INPUT -j REJECT --reject-with icmp-port-unreachable\n" + end}), "input", "", "pass"},
		"iptables, listed":           {with(files{"etc/iptables/rules.v4": save + accepted + end}), "input", `{"tcp":["80"]}`, "fail; /etc/iptables/rules.v4: table ip filter chain INPUT rule 4: tcp dport { 80, 443 } accept open on any interface, IPv4"},
		"iptables, an odd match":     {with(files{"etc/iptables/rules.v4": save + "-A INPUT -m recent --rcheck --seconds 9 -j ACCEPT\n" + end}), "input", "", "pass"},
	} {
		v := newCheck(t, "firewall", c.target, c.want).Check(context.Background(), host(t, tree(t, c.files)))
		if got := brief(v); !strings.HasPrefix(got, c.result) {
			t.Errorf("%s: %s (%s)", name, got, v.Reason)
		}
	}
}

func FuzzFirewallNFTFile(f *testing.F) {
	fuzzFile(f, "etc/nftables.conf", "firewall", "input", `{"trusted":["lan*"]}`, nil,
		chain("inet", "input", "drop", answers), "include \"/etc/*\"\n", "define a = { 1 }\ntable ip t { chain c { tcp dport $a accept; } }\n")
}

func FuzzFirewallIPTables(f *testing.F) {
	fuzzFile(f, "etc/iptables/rules.v4", "firewall", "input", `{"tcp":["22"]}`, nil,
		"*filter\n:INPUT DROP [0:0]\n-A INPUT ! -i lo -p tcp -m tcp --dport 1: -j ACCEPT\nCOMMIT\n", "*filter\n:INPUT\n-A INPUT -j\n")
}

func FuzzFirewallUCI(f *testing.F) {
	fuzzFile(f, "etc/config/firewall", "firewall", "input", "", nil,
		"config defaults\n option input ACCEPT\nconfig zone\n option name wan\n option input 'REJECT'\n", "config zone\n")
}
