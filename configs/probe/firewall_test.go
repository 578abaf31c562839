// SPDX-License-Identifier: Apache-2.0

package probe_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/backstay/backstay/configs/nft"
	"github.com/backstay/backstay/configs/probe"
)

// filter is a packet filter in memory. fail may refuse an operation.
type filter struct {
	rules  string // of others, as the nft program writes them
	own    string
	stages []nft.Stage
	links  []nft.Link
	closed bool
	fail   func(op string) error
}

func (f *filter) err(op string) error {
	if f.fail == nil {
		return nil
	}
	return f.fail(op)
}

func (f *filter) Dump(context.Context) (nft.Ruleset, error) {
	rs, err := nft.Parse([]byte(f.rules+f.own), nil)
	rs.Links = f.links
	return rs, errors.Join(err, f.err("dump"))
}

func (f *filter) Put(_ context.Context, t nft.Table, s nft.Stage) error {
	if err := f.err("put"); err != nil {
		return err
	}
	f.stages = append(f.stages, s)
	if s != nft.Learn {
		f.own = t.String()
	}
	return nil
}

func (f *filter) Remove(context.Context) error { f.own = ""; return f.err("remove") }

func (f *filter) Close() error { f.closed = true; return nil }

func live(t testing.TB, dir string, f *filter) *probe.Host {
	t.Helper()
	root, err := os.OpenRoot(dir)
	must(t, err)
	t.Cleanup(func() { root.Close() })
	h := probe.NewHost(root, true)
	h.UsePacketFilter(f)
	return h
}

var (
	lo  = nft.Link{Name: "lo", Index: 1, Loopback: true, Up: true}
	eth = nft.Link{Name: "eth0", Index: 2, Up: true}
	lan = nft.Link{Name: "br-lan", Index: 3, Up: true}
)

// chain is a file with one chain.
func chain(family, hook, policy, rules string) string {
	return "table " + family + " t-" + hook + " {\n chain c {\n type filter hook " + hook + " priority 0; policy " + policy + ";\n" + rules + "\n}\n}\n"
}

const (
	answers = "ct state established,related accept\niif lo accept\n"
	ports   = `{"tcp":["22","8000-8010"],"interfaces":{"eth0":{"udp":["123"]}},"trusted":["br-lan"],"dhcp":true}`
)

func TestFirewall(t *testing.T) {
	forwarding := files{"proc/sys/net/ipv4/ip_forward": "1\n", "proc/sys/net/ipv6/conf/all/forwarding": "0\n"}
	noForwarding := files{"proc/sys/net/ipv4/ip_forward": "0\n", "proc/sys/net/ipv6/conf/all/forwarding": "0\n"}
	six := files{"proc/net/if_inet6": "fe80 02 40 20 80 eth0\n"}
	legacy := files{"proc/net/ip_tables_names": "nat\nfilter\n"}
	socket := "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
	tcp22 := files{"proc/1/stat": "1 (init) S 0 1 1 0 -1 4194560 1 1 1 1 1 1 1 1 20 0 1 0 5 1 1", "proc/1/cmdline": "init\x00", "proc/1/exe": "-> /sbin/init", "proc/net/tcp": socket + "   0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 11 1 0 100 0 0 10 0\n"}
	for name, c := range map[string]struct {
		files              files
		rules              string
		kind, target, want string
		result             string
	}{
		"closed":                   {nil, chain("inet", "input", "drop", answers+"tcp dport 22 accept"), "firewall", "input", "", "pass"},
		"none":                     {nil, "", "firewall", "input", "", "fail; no chain filters it new connections are accepted, IPv4; no chain filters it new connections are accepted, IPv4"},
		"only IPv4":                {six, chain("ip", "input", "drop", ""), "firewall", "input", "", "fail; no chain filters it new connections are accepted, IPv6; no chain filters it new connections are accepted, IPv6"},
		"only IPv4, no IPv6":       {nil, chain("ip", "input", "drop", ""), "firewall", "input", "", "pass"},
		"open by a rule before":    {nil, chain("inet", "input", "drop", "ct state new accept"), "firewall", "input", "", "fail; table inet t-input chain c rule 1: ct state new accept new connections"},
		"open on the interface":    {nil, chain("inet", "input", "drop", "iifname eth0 accept"), "firewall", "input", "", "fail; table inet t-input chain c rule 1: iifname eth0 accept new connections are accepted, IPv4"},
		"open on one that is not":  {nil, chain("inet", "input", "drop", "iifname eth7 accept"), "firewall", "input", "", "pass"},
		"the trusted interface":    {nil, chain("inet", "input", "drop", "iifname br-lan accept"), "firewall", "input", `{"trusted":["br-*"]}`, "pass"},
		"not the trusted one":      {nil, chain("inet", "input", "drop", "iifname br-lan accept"), "firewall", "input", "", "fail"},
		"all high ports":           {nil, chain("inet", "input", "drop", "tcp dport 1024-65535 accept"), "firewall", "input", "", "fail; table inet t-input chain c rule 1: tcp dport 1024-65535 accept open on any interface, IPv4"},
		"as listed":                {nil, chain("inet", "input", "drop", answers+"tcp dport { 22, 8001 } accept\niifname eth0 udp dport 123 accept\niifname br-lan accept\nudp sport 67 udp dport 68 accept"), "firewall", "input", ports, "pass"},
		"one port more":            {nil, chain("inet", "input", "drop", "tcp dport { 22, 23 } accept"), "firewall", "input", ports, "fail; table inet t-input chain c rule 1: tcp dport { 22, 23 } accept open on any interface, IPv4"},
		"one port more in a range": {nil, chain("inet", "input", "drop", "tcp dport 8000-8011 accept"), "firewall", "input", ports, "fail; table inet t-input chain c rule 1: tcp dport 8000-8011 accept open on any interface, IPv4"},
		"on all, listed for one":   {nil, chain("inet", "input", "drop", "udp dport 123 accept"), "firewall", "input", ports, "fail; table inet t-input chain c rule 1: udp dport 123 accept open on any interface, IPv4"},
		"unlisted is not judged":   {nil, chain("inet", "input", "drop", "tcp dport { 22, 23 } accept"), "firewall", "input", "", "pass"},
		"a program decides":        {nil, chain("inet", "input", "drop", "queue num 1"), "firewall", "input", "", "unknown"},
		"iptables beside":          {legacy, "", "firewall", "input", "", "unknown"},
		"iptables beside, closed":  {legacy, chain("inet", "input", "drop", ""), "firewall", "input", "", "pass"},

		"forwards nothing":           {noForwarding, "", "firewall", "forward", "", "not-applicable"},
		"forwards everything":        {forwarding, "", "firewall", "forward", "", "fail; no chain filters it new connections are accepted, IPv4"},
		"forwards from the inside":   {forwarding, chain("inet", "forward", "drop", "iifname br-lan accept"), "firewall", "forward", `{"trusted":["br-lan"]}`, "pass"},
		"forwards into the inside":   {forwarding, chain("inet", "forward", "drop", "oifname br-lan accept"), "firewall", "forward", "", "fail"},
		"speaks to all":              {nil, chain("inet", "input", "drop", ""), "firewall", "output", "", "fail"},
		"speaks to the listed":       {nil, chain("inet", "output", "drop", "udp dport 53 accept\ntcp dport 8883 accept"), "firewall", "output", `{"tcp":["8883"],"udp":["53"]}`, "pass"},
		"local":                      {nil, chain("inet", "input", "drop", answers), "firewall-side", "local", "", "pass"},
		"local, nothing dropped":     {nil, "", "firewall-side", "local", "", "not-applicable"},
		"local, loopback forgotten":  {nil, chain("inet", "input", "drop", "ct state established accept"), "firewall-side", "local", "", "fail; table inet t-input chain c policy drop programs cannot reach each other, IPv4"},
		"local, answers forgotten":   {nil, chain("inet", "input", "drop", "iif lo accept"), "firewall-side", "local", "", "fail; table inet t-input chain c policy drop answers to this device are dropped, IPv4"},
		"holes, none":                {tcp22, chain("inet", "input", "drop", answers+"tcp dport 22 accept"), "firewall-side", "holes", "", "pass"},
		"holes, a range in use":      {tcp22, chain("inet", "input", "drop", answers+"tcp dport 20-25 accept"), "firewall-side", "holes", "", "pass"},
		"holes, one":                 {tcp22, chain("inet", "input", "drop", answers+"tcp dport { 22, 2323 } accept"), "firewall-side", "holes", "", "fail; table inet t-input chain c rule 3: tcp dport { 22, 2323 } accept open, and no program listens"},
		"holes, the other protocol":  {tcp22, chain("inet", "input", "drop", answers+"udp dport 22 accept"), "firewall-side", "holes", "", "fail"},
		"holes, for trusted only":    {tcp22, chain("inet", "input", "drop", answers+"iifname br-lan tcp dport 2323 accept"), "firewall-side", "holes", `{"trusted":["br-lan"]}`, "pass"},
		"holes, closed by a drop":    {tcp22, chain("inet", "input", "drop", answers+"tcp dport 2323 drop"), "firewall-side", "holes", "", "pass"},
		"holes, nothing is dropped":  {tcp22, "", "firewall-side", "holes", "", "not-applicable"},
		"holes, a filter never seen": {nil, chain("inet", "input", "drop", answers), "firewall-side", "holes", "", "unknown"},
	} {
		h := live(t, tree(t, c.files), &filter{rules: c.rules, links: []nft.Link{lo, eth, lan}})
		v := newCheck(t, c.kind, c.target, c.want).Check(context.Background(), h)
		if got := brief(v); !strings.HasPrefix(got, c.result) {
			t.Errorf("%s: %s (%s)", name, got, v.Reason)
		}
		if v.Result == probe.Pass && (len(v.Inspected) < 2 || v.Reason == "") {
			t.Errorf("%s: passes on %q", name, v.Inspected)
		}
	}
}

func TestFirewallThatTheKernelLacks(t *testing.T) {
	for _, c := range []struct {
		err    error
		files  files
		result probe.Result
		says   string
	}{
		{nft.ErrUnsupported, nil, probe.Fail, "not enforceable"},
		{nft.ErrUnsupported, files{"proc/net/ip_tables_names": "filter\n"}, probe.Unknown, "iptables"},
		{nft.ErrPermission, nil, probe.Unknown, "CAP_NET_ADMIN"},
	} {
		h := live(t, tree(t, c.files), &filter{fail: func(string) error { return c.err }})
		v := newCheck(t, "firewall", "input", "").Check(context.Background(), h)
		if v.Result != c.result || !strings.Contains(v.Reason+brief(v), c.says) {
			t.Errorf("%v: %+v", c.err, v)
		}
	}
	// A tree that is not the running system's root says nothing about the packet filter of the machine that looks at it.
	root, err := os.OpenRoot(t.TempDir())
	must(t, err)
	defer root.Close()
	if v := newCheck(t, "firewall", "input", "").Check(context.Background(), probe.NewHost(root, true)); v.Result != probe.Unknown {
		t.Errorf("%+v", v)
	}
}

func TestFirewallWants(t *testing.T) {
	k, err := probe.Find("firewall")
	must(t, err)
	for _, bad := range []string{`{"tcp":["0"]}`, `{"tcp":["65536"]}`, `{"udp":["9-8"]}`, `{"tcp":["ssh"]}`, `{"tcp":["1-"]}`, `{"trusted":["a b"]}`, `{"trusted":["*"]}`,
		`{"trusted":["a\"b"]}`, `{"trusted":["interface-too-long"]}`, `{"interfaces":{"":{}}}`, `{"interfaces":{"eth0":{"tcp":["x"]}}}`, `{"learn_seconds":601}`, `{"learn_seconds":-1}`, `{"ports":[]}`} {
		if _, err := k.New("input", []byte(bad)); err == nil {
			t.Errorf("%s is accepted", bad)
		}
	}
	if _, err := k.New("prerouting", nil); err == nil {
		t.Error("another hook is accepted")
	}
	for _, c := range []struct {
		floor, now string
		ok         bool
	}{
		{`{}`, `{"tcp":["22"]}`, true},
		{`{"tcp":["22"]}`, `{}`, false},
		{`{"tcp":["22"]}`, `{"tcp":[]}`, true},
		{`{"tcp":["20-30"]}`, `{"tcp":["22","25-30"]}`, true},
		{`{"tcp":["20-30"]}`, `{"tcp":["22-31"]}`, false},
		{`{"tcp":["22"]}`, `{"udp":["22"]}`, false},
		{`{"tcp":["22"]}`, `{"interfaces":{"eth0":{"tcp":["22"]}}}`, true},
		{`{"interfaces":{"eth0":{"tcp":["22"]}}}`, `{"tcp":["22"]}`, false},
		{`{"tcp":[]}`, `{"tcp":[],"ping":true}`, false},
		{`{"tcp":[],"ping":true,"mdns":true}`, `{"tcp":[],"ping":true}`, true},
		{`{"trusted":["lan*"]}`, `{}`, true},
		{`{}`, `{"trusted":["lan*"]}`, false},
	} {
		old, err := k.New("input", []byte(c.floor))
		must(t, err)
		now, err := k.New("input", []byte(c.now))
		must(t, err)
		if err := now.(probe.Tightener).Tightens(old); (err == nil) != c.ok {
			t.Errorf("%s over %s: %v", c.now, c.floor, err)
		}
	}
}

func TestFirewallFix(t *testing.T) {
	ctx, all := context.Background(), func(string) bool { return true }
	f := &filter{rules: chain("ip", "input", "accept", ""), links: []nft.Link{lo, eth}}
	h := live(t, tree(t, files{"proc/sys/net/ipv4/ip_forward": "1"}), f)
	if _, err := newCheck(t, "firewall", "input", "").Fix(ctx, h, all); !errors.Is(err, probe.ErrNoFix) || !strings.Contains(err.Error(), "which ports stay open") {
		t.Errorf("a fix without lists: %v", err)
	}
	in, fwd := newCheck(t, "firewall", "input", ports), newCheck(t, "firewall", "forward", `{"tcp":[]}`)
	for _, c := range []probe.Check{in, fwd} {
		plan, err := c.Fix(ctx, h, all)
		if err != nil || len(plan) != 1 || plan[0].Op != probe.Firewall || plan[0].Learn != time.Minute {
			t.Fatalf("%+v %v", plan, err)
		}
		h.Pretend(plan[0])
		if v := c.Check(ctx, h); v.Result != probe.Pass || !h.Holds(ctx, plan[0]) {
			t.Errorf("pretended: %+v", v)
		}
	}
	if f.own != "" || f.stages != nil {
		t.Fatalf("the dry run wrote %v", f.stages)
	}

	h = live(t, tree(t, files{"proc/sys/net/ipv4/ip_forward": "1"}), f)
	var done []probe.Change
	for _, c := range []probe.Check{in, fwd} {
		plan, err := c.Fix(ctx, h, all)
		must(t, err)
		plan[0].Trial = true
		must(t, h.Apply(ctx, plan[0]))
		done = append(done, plan[0])
		if v := c.Check(ctx, h); v.Result != probe.Pass {
			t.Errorf("%+v", v)
		}
		if plan, err := c.Fix(ctx, h, all); err != nil || len(plan) != 0 {
			t.Errorf("a second fix: %+v %v", plan, err)
		}
	}
	must(t, h.Keep(ctx))
	must(t, h.Keep(ctx))
	if got := f.stages; len(got) != 4 || got[0] != nft.Learn || got[1] != nft.Trial || got[2] != nft.Trial || got[3] != nft.Keep {
		t.Errorf("stages %v", got)
	}
	if !strings.Contains(f.own, "hook input") || !strings.Contains(f.own, "hook forward") {
		t.Errorf("kept is\n%s", f.own)
	}
	if err := h.Apply(ctx, done[0]); !errors.Is(err, probe.ErrChanged) {
		t.Errorf("a plan made before another change: %v", err)
	}
	for i := len(done) - 1; i >= 0; i-- {
		inv := done[i].Inverse()
		if !h.Ready(ctx, inv) || h.Holds(ctx, inv) {
			t.Errorf("undo %d: not ready", i)
		}
		must(t, h.Apply(ctx, inv))
		if !h.Holds(ctx, inv) {
			t.Errorf("undo %d: it does not hold", i)
		}
	}
	if f.own != "" {
		t.Errorf("after undo\n%s", f.own)
	}
	must(t, h.Close())
	if !f.closed {
		t.Error("the filter stays open, and with it what is on trial")
	}
}

func TestFirewallThatCannotBeSetLeavesNothing(t *testing.T) {
	ctx := context.Background()
	f := &filter{fail: func(op string) error {
		if op == "put" {
			return errors.New("no")
		}
		return nil
	}}
	h := live(t, t.TempDir(), f)
	plan, err := newCheck(t, "firewall", "input", ports).Fix(ctx, h, func(string) bool { return true })
	must(t, err)
	if err := h.Apply(ctx, plan[0]); err == nil || f.own != "" {
		t.Errorf("%v %q", err, f.own)
	}
	// A connection that the kernel does not follow yet is waited for, and a context that ends takes everything back.
	f.fail = nil
	dir := tree(t, files{"proc/net/tcp": "sl local rem st\n 0: 0100A8C0:0016 0200A8C0:C000 01 0 0 0 0 0 0 0\n", "proc/net/nf_conntrack": ""})
	h = live(t, dir, f)
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if err := h.Apply(short, plan[0]); !errors.Is(err, context.DeadlineExceeded) || f.own != "" {
		t.Errorf("%v %q", err, f.own)
	}
	must(t, os.WriteFile(dir+"/proc/net/nf_conntrack", []byte("ipv4 2 tcp 6 431999 ESTABLISHED src=192.168.0.2 dst=192.168.0.1 sport=49152 dport=22 src=192.168.0.1 dst=192.168.0.2 sport=22 dport=49152 [ASSURED]\n"), 0o600))
	h = live(t, dir, f)
	began := time.Now()
	must(t, h.Apply(ctx, plan[0]))
	if d := time.Since(began); d > 10*time.Second {
		t.Errorf("it waited %v although every connection was known", d)
	}
}
