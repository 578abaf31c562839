// SPDX-License-Identifier: Apache-2.0

package plantroot

import "strings"

// firewallRules is a packet filter that is default deny in effect. Its traps: words of a drop in comments, a set that is
// written over several lines, an accept that is for answers only.
const firewallRules = `#!/usr/sbin/nft -f
# policy accept is for testing only
flush ruleset

table inet filter {
	set services {
		type inet_service
		elements = { 22,
			8080 }
	}
	chain input {
		type filter hook input priority filter; policy drop;
		ct state { established, related } accept
		iifname "lo" accept
		meta l4proto { icmp, ipv6-icmp } accept
		tcp dport @services accept comment "accept all"
	}
	chain forward {
		type filter hook forward priority filter; policy drop;
	}
}
`

// firewallSkeleton is what a clean system has.
func firewallSkeleton() []file {
	return []file{
		{name: "etc/nftables.conf", mode: 0o600, text: firewallRules},
		{name: "etc/init.d/S35nftables", mode: 0o755, text: "#!/bin/sh\n[ \"$1\" = start ] && /usr/sbin/nft -f /etc/nftables.conf\n"},
		{name: "usr/sbin/nft", mode: 0o755, text: "nft\n"},
	}
}

// firewallDefects say "policy drop" and let everything in, and pass everything on.
func firewallDefects() []defect {
	open := strings.Replace(firewallRules, "\t\tiifname \"lo\" accept\n", "\t\tct state new accept # until the app is done\n", 1)
	open = strings.Replace(open, "hook forward priority filter; policy drop;", "hook forward priority filter; policy accept;", 1)
	return []defect{{rules: []string{"firewall.input", "firewall.forward"}, files: []file{{name: "etc/nftables.conf", mode: 0o600, text: open}}}}
}
