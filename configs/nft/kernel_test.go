// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/backstay/backstay/testdata/testneed"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// kernel opens a socket, or skips the test and says why.
func kernel(t testing.TB) *Conn {
	t.Helper()
	c, err := Dial()
	if err == nil {
		_, err = c.Dump(context.Background())
	}
	if errors.Is(err, ErrUnsupported) || errors.Is(err, ErrPermission) {
		t.Skip(err)
	}
	must(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// run runs the nft program.
func run(t testing.TB, input string, args ...string) string {
	t.Helper()
	cmd := exec.Command(testneed.Program(t, "nft", "nftables"), args...)
	if input != "" {
		name := filepath.Join(t.TempDir(), "rules")
		must(t, os.WriteFile(name, []byte(input), 0o600))
		cmd.Args = append(cmd.Args, "-f", name)
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("nft %v: %v\n%s\n%s", args, err, out, input)
	}
	return string(out)
}

// sample is a table with everything that ours can hold.
func sample() Table {
	t := Table{Family: Family, Name: TableName}
	t.Set(InputChain(Opening{DHCP: true, MDNS: true, Ports: []Open{
		{TCP: []Range{{443, 443}, {22, 22}}},
		{Interface: "eth0", TCP: []Range{{8000, 8010}}, UDP: []Range{{5000, 5010}, {5011, 5020}, {9, 9}, {65000, 65535}}},
		{Interface: "wlan*", UDP: []Range{{123, 123}}},
	}}))
	t.Set(ForwardChain(Opening{Ping: true}))
	t.Set(OutputChain(Opening{Ping: true, DHCP: true, Ports: []Open{{TCP: []Range{{8883, 8883}}, UDP: []Range{{53, 53}, {123, 123}}}}}))
	return t
}

func TestOurTableIsWhatTheKernelAndTheProgramRead(t *testing.T) {
	if !testneed.Netns(t) {
		return
	}
	c, ctx := kernel(t), context.Background()
	want := sample()
	must(t, c.Put(ctx, want, Keep))
	rs, err := c.Dump(ctx)
	must(t, err)
	if own := rs.Own(); own == nil || own.String() != want.String() {
		t.Fatalf("the kernel has\n%v\nwant\n%v", own, want)
	}
	listed := run(t, "", "list", "ruleset")
	if listed != want.String() {
		t.Errorf("nft lists\n%s\nwant\n%s", listed, want)
	}
	must(t, c.Remove(ctx))
	must(t, c.Remove(ctx))
	// The other way round: what we print, nft reads into the same table.
	run(t, want.String())
	rs, err = c.Dump(ctx)
	must(t, err)
	if own := rs.Own(); own == nil || own.String() != want.String() {
		t.Errorf("nft made\n%v\nof\n%v", own, want)
	}
}

// seen is how the nft program describes the same ruleset.
type seen struct {
	Nftables []struct {
		Table *struct{ Family, Name string }
		Chain *struct {
			Family, Table, Name, Type, Hook, Policy string
			Prio                                    int
		}
		Rule *struct{ Family, Table, Chain string }
	}
}

func TestDumpAgreesWithTheProgram(t *testing.T) {
	if !testneed.Netns(t) {
		return
	}
	c, ctx := kernel(t), context.Background()
	run(t, foreign)
	must(t, c.Put(ctx, sample(), Keep))
	rs, err := c.Dump(ctx)
	must(t, err)
	var ref seen
	must(t, json.Unmarshal([]byte(run(t, "", "-j", "list", "ruleset")), &ref))
	got, want := map[string]int{}, map[string]int{}
	for _, tb := range rs.Tables {
		got["table "+tb.Family+" "+tb.Name]++
		for _, ch := range tb.Chains {
			got[strings.Join([]string{"chain", tb.Family, tb.Name, ch.Name, ch.Hook, ch.Type, string(ch.Policy)}, " ")] = ch.Priority
			if n := len(ch.Rules); n > 0 {
				got["rules "+tb.Family+" "+tb.Name+" "+ch.Name] = n
			}
		}
	}
	for _, e := range ref.Nftables {
		switch {
		case e.Table != nil:
			want["table "+e.Table.Family+" "+e.Table.Name]++
		case e.Chain != nil:
			ch := e.Chain
			want[strings.Join([]string{"chain", ch.Family, ch.Table, ch.Name, ch.Hook, ch.Type, ch.Policy}, " ")] = ch.Prio
		case e.Rule != nil:
			want["rules "+e.Rule.Family+" "+e.Rule.Table+" "+e.Rule.Chain]++
		}
	}
	// A verdict map is one rule of the kernel and one of ours for each element.
	want["rules inet fw in"], want["rules inet fw maps"] = 11, 5
	for k := range want {
		if got[k] != want[k] {
			t.Errorf("%s: %d, the program says %d", k, got[k], want[k])
		}
	}
	if len(got) != len(want) {
		t.Errorf("%v\nthe program says\n%v", got, want)
	}
}

// foreign is what other programs make.
const foreign = `
table inet fw {
	set ports { type inet_service; flags interval; elements = { 80, 1000-2000 } }
	set late { type ipv4_addr; timeout 1h; }
	chain in {
		type filter hook input priority filter; policy drop;
		ct state vmap { established : accept, related : accept, invalid : drop }
		iif lo accept
		tcp dport @ports accept
		ip saddr 10.0.0.0/8 tcp dport 22 counter accept
		meta l4proto { tcp, udp } th dport 53 accept
		tcp dport 4000-4010 limit rate 3/second accept
		udp dport 7000 add @late { ip saddr } accept
		jump maps
		reject
	}
	chain maps {
		iifname vmap { "br-lan" : accept, "wan" : return }
		tcp dport vmap { 9000 : accept, 9001-9002 : drop, 9003 : goto other }
	}
	chain other { accept; }
}
table ip nat {
	chain post { type nat hook postrouting priority srcnat; masquerade; }
}
table ip6 six {
	chain in { type filter hook input priority 5; policy accept; ip6 saddr ::/0 tcp dport 8080 accept; }
}
table netdev dev { }
`

func TestTrialEndsWithItsSocket(t *testing.T) {
	if !testneed.Netns(t) {
		return
	}
	c, ctx := kernel(t), context.Background()
	trial, err := Dial()
	must(t, err)
	must(t, trial.Put(ctx, sample(), Learn))
	rs, err := c.Dump(ctx)
	must(t, err)
	if r := rs.Judge(Input, Packet{Proto: TCP, Port: 2323}); r.Dropped || r.Chains != 1 {
		t.Errorf("while it learns: %+v", r)
	}
	must(t, trial.Put(ctx, sample(), Trial))
	rs, err = c.Dump(ctx)
	must(t, err)
	own := rs.Own()
	if own == nil || !own.Trial || !own.Owned || own.Lasting().String() != sample().String() {
		t.Fatalf("on trial the kernel has\n%+v", own)
	}
	for _, v6 := range []bool{false, true} {
		if r := rs.Judge(Input, Packet{V6: v6, Proto: TCP, Port: 2323}); !r.Dropped {
			t.Errorf("on trial: %+v", r)
		}
	}
	if err := c.Remove(ctx); !errors.Is(err, ErrForeign) && !errors.Is(err, ErrPermission) {
		t.Errorf("another socket removes the trial: %v", err)
	}
	must(t, trial.Close())
	rs, err = c.Dump(ctx)
	must(t, err)
	if rs.Own() != nil {
		t.Errorf("the trial outlives its socket: %v", rs.Own())
	}
}

func TestKeepReplacesTheTrialAndOutlivesTheSocket(t *testing.T) {
	if !testneed.Netns(t) {
		return
	}
	c, ctx := kernel(t), context.Background()
	run(t, foreign)
	before := run(t, "", "list", "ruleset")
	trial, err := Dial()
	must(t, err)
	must(t, trial.Put(ctx, sample(), Trial))
	must(t, trial.Put(ctx, sample(), Keep))
	must(t, trial.Close())
	rs, err := c.Dump(ctx)
	must(t, err)
	if own := rs.Own(); own == nil || own.Trial || own.Owned || own.String() != sample().String() {
		t.Errorf("kept is\n%v", own)
	}
	must(t, c.Remove(ctx))
	if after := run(t, "", "list", "ruleset"); after != before {
		t.Errorf("the tables of others were\n%s\nand are\n%s", before, after)
	}
}

func TestATableThatTheKernelRefusesChangesNothing(t *testing.T) {
	if !testneed.Netns(t) {
		return
	}
	c, ctx := kernel(t), context.Background()
	must(t, c.Put(ctx, sample(), Keep))
	bad := sample()
	bad.Chains[1].Name = strings.Repeat("x", 300)
	if err := c.Put(ctx, bad, Keep); err == nil {
		t.Error("a chain with a name that is too long is accepted")
	}
	rs, err := c.Dump(ctx) // also: what the failure left in the socket is not taken for an answer
	must(t, err)
	if own := rs.Own(); own == nil || own.String() != sample().String() {
		t.Errorf("after the refusal\n%v", own)
	}
}

func TestJudgeForeignRules(t *testing.T) {
	if !testneed.Netns(t) {
		return
	}
	c, ctx := kernel(t), context.Background()
	run(t, foreign)
	rs, err := c.Dump(ctx)
	must(t, err)
	judgeForeign(t, rs)
}
