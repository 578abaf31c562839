// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"context"
	"strings"
	"testing"

	"github.com/backstay/backstay/testdata/testneed"
)

func TestParseGivesBackWhatIsPrinted(t *testing.T) {
	for name, want := range map[string]Table{"sample": sample(), "empty": {Family: Family, Name: TableName}} {
		got, err := ParseTable([]byte(want.String()))
		if err != nil || got.String() != want.String() {
			t.Errorf("%s: %v\n%s\nwant\n%s", name, err, got, want)
		}
		if name == "sample" && again(t, got).Tables[0].String() != want.String() {
			t.Errorf("%s: parsed, it is written as\n%s", name, again(t, got).Tables[0])
		}
	}
	for _, bad := range []string{"", "table inet backstay {\n", "table inet backstay {\n}\ntable ip x {\n}\n", sample().String() + "# more\n"} {
		if _, err := ParseTable([]byte(bad)); err == nil {
			t.Errorf("%q is a table", bad)
		}
	}
}

func TestJudgeAFileAsTheKernelDoes(t *testing.T) {
	rs, err := Parse([]byte(foreign), nil)
	must(t, err)
	judgeForeign(t, rs)
	if !testneed.Netns(t) {
		return
	}
	c, ctx := kernel(t), context.Background()
	for name, text := range inputs {
		run(t, text)
		loaded, err := c.Dump(ctx)
		must(t, err)
		parsed, err := Parse([]byte(text), nil)
		must(t, err)
		for _, port := range []uint16{1, 22, 23, 80, 443, 5353, 8080, 50000} {
			for _, proto := range []uint8{TCP, UDP} {
				for _, v6 := range []bool{false, true} {
					p := Packet{V6: v6, Proto: proto, Port: port, In: Link{Name: "eth0", Index: 9}}
					a, b := loaded.Judge(Input, p), parsed.Judge(Input, p)
					if a.Dropped != b.Dropped {
						t.Errorf("%s: protocol %d port %d IPv6 %v: the kernel's rules %+v, the file's %+v", name, proto, port, v6, a, b)
					}
				}
			}
		}
		run(t, "flush ruleset\n")
	}
}

// inputs are files as distributions and guides have them.
var inputs = map[string]string{
	"debian": `#!/usr/sbin/nft -f

flush ruleset

table inet filter {
	chain input {
		type filter hook input priority filter;
	}
	chain forward {
		type filter hook forward priority filter;
	}
}
`,
	"alpine": `flush ruleset
table inet filter {
	chain input {
		type filter hook input priority 0; policy drop;
		iifname lo accept comment "Accept any localhost traffic"
		ct state { established, related } accept
		ip protocol icmp icmp type { echo-reply, destination-unreachable, echo-request } limit rate 4/second accept
		ip6 nexthdr ipv6-icmp icmpv6 type {
			destination-unreachable, echo-request,
			nd-neighbor-solicit
		} accept
		tcp dport ssh ct state new limit rate 15/minute accept comment "Avoid brute force on SSH"
		log prefix "drop: { accept }" counter packets 0 bytes 0
	}
}
`,
	"variables": `define open = { 22, 443 }
define wan = eth0
add table ip t
add chain ip t input { type filter hook input priority 0 ; policy accept ; }
add rule ip t input tcp dport $open accept
add rule ip t input iifname $wan counter drop
`,
	"maps": `table inet t {
	set allowed { type inet_service; elements = { 80, 8080 } }
	chain wan { tcp dport vmap { 22 : accept, 23 : drop, 443 : jump tls }
		tcp dport @allowed accept
	}
	chain tls { ct state new accept; }
	chain input { type filter hook input priority -5; policy drop;
		iifname vmap { "lo" : accept, "eth0" : goto wan }
	}
}
`,
	"everything, in the end": `table inet t { chain input { type filter hook input priority 0; policy drop
	ip saddr 10.0.0.1 accept; ip saddr 0.0.0.0/0 accept
	meta nfproto ipv6 tcp flags & (fin|syn|rst|ack) == syn tcp dport 1-1023 drop
	meta l4proto udp udp dport != 53 accept
}
}
`,
	"commented out": `table inet t { chain input { type filter hook input priority 0; policy accept;
	# drop
	tcp dport { 80, # the site
		443 } \
		accept
	meta l4proto { tcp, udp } th dport 22-50000 reject with icmpx admin-prohibited
}
}
`,
}

func TestParseIncludes(t *testing.T) {
	text := "include \"/etc/nftables.d/*.nft\"\ntable inet t { chain i { type filter hook input priority 0; policy accept; }\n}\n"
	rs, err := Parse([]byte(text), nil)
	if err != nil || rs.Missing != "/etc/nftables.d/*.nft" {
		t.Errorf("%v %+v", err, rs)
	}
	loops := func(string) ([][]byte, bool) { return [][]byte{[]byte(text)}, true }
	if _, err := Parse([]byte(text), loops); err == nil {
		t.Error("a file that includes itself is read for ever")
	}
	rs, err = Parse([]byte(text), func(string) ([][]byte, bool) {
		return [][]byte{[]byte("table inet u { chain i { type filter hook input priority 0; drop; } }")}, true
	})
	if r := rs.Judge(Input, Packet{Proto: TCP, Port: 1}); err != nil || rs.Missing != "" || !r.Dropped {
		t.Errorf("%v %+v %+v", err, rs, r)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range inputs {
		f.Add([]byte(s))
	}
	f.Add([]byte(foreign))
	f.Add([]byte(sample().String()))
	f.Fuzz(func(t *testing.T, data []byte) {
		rs, err := Parse(data, nil)
		if err != nil && !strings.Contains(err.Error(), "braces") {
			t.Fatal(err)
		}
		for _, hook := range []string{Input, Forward} {
			rs.Judge(hook, Packet{Proto: TCP, Port: 80, In: Link{Name: "eth0", Index: 2}})
		}
		rs.Ports()
		for _, tb := range rs.Tables {
			if got, err := ParseTable([]byte(tb.String())); err == nil && got.String() != tb.String() {
				t.Fatalf("%q is read as\n%s", tb, got)
			}
			if tb.Family == Family && tb.Name == TableName {
				_, _ = put(tb, true)
			}
		}
	})
}
