// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"testing"
)

// again reads a table back from the messages that would make it, without a kernel.
func again(t testing.TB, tb Table) Ruleset {
	t.Helper()
	reqs, err := put(tb, false)
	must(t, err)
	d := dump{sets: map[setKey]*set{}, chains: map[setKey]*Chain{}}
	must(t, split(encode(reqs[2:], 1), d.message))
	return d.ruleset()
}

// message takes one message of any kind, as the lists do.
func (d *dump) message(m message) error {
	if len(m.body) < 4 {
		return errShort
	}
	family, b := m.body[0], m.body[4:]
	switch m.typ & 0xff {
	case 0:
		return d.table(family, b)
	case 3:
		return d.chain(family, b)
	case 9:
		if err := d.set(family, b); err != nil {
			return err
		}
		// In the messages that make it, a set without a name is called by its number.
		a, err := attrs(b)
		if err == nil {
			d.sets[setKey{family, text(a[1]), text(a[2]) + string(a[10])}] = d.sets[setKey{family, text(a[1]), text(a[2])}]
		}
		return err
	case 12:
		a, err := attrs(b)
		if s := d.sets[setKey{family, text(a[1]), text(a[2])}]; err == nil && s != nil {
			return s.add(b)
		}
		return err
	case 6:
		return d.rule(family, b)
	}
	return nil
}

func TestDecodeGivesBackWhatWasEncoded(t *testing.T) {
	want := Table{Family: Family, Name: TableName}
	want.Set(InputChain(Opening{DHCP: true, MDNS: true, Ports: []Open{{TCP: []Range{{22, 22}, {443, 500}}}, {Interface: "eth*", UDP: []Range{{1, 9}}}}}))
	if got := again(t, want); len(got.Tables) != 1 || got.Tables[0].String() != want.String() {
		t.Errorf("got\n%v\nwant\n%v", got.Tables, want)
	}
}

type ruling struct {
	hook string
	p    Packet
	drop bool
}

func judgeAll(t *testing.T, rs Ruleset, want map[string]ruling) {
	t.Helper()
	for name, w := range want {
		if r := rs.Judge(w.hook, w.p); r.Dropped != w.drop {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

func judgeForeign(t *testing.T, rs Ruleset) {
	t.Helper()
	eth := Link{Name: "eth0", Index: 7}
	judgeAll(t, rs, map[string]ruling{
		"closed":                     {Input, Packet{Proto: TCP, Port: 2323, In: eth}, true},
		"one port of a set":          {Input, Packet{Proto: TCP, Port: 80, In: eth}, false},
		"a range of a set":           {Input, Packet{Proto: TCP, Port: 1500, In: eth}, false},
		"the end of a range":         {Input, Packet{Proto: TCP, Port: 2000, In: eth}, false},
		"beyond a range":             {Input, Packet{Proto: TCP, Port: 2001, In: eth}, true},
		"for one sender only":        {Input, Packet{Proto: TCP, Port: 22, In: eth}, true},
		"either protocol":            {Input, Packet{Proto: UDP, Port: 53, In: eth}, false},
		"as often as one likes":      {Input, Packet{Proto: TCP, Port: 4005, In: eth}, false},
		"a set that the packets add": {Input, Packet{Proto: UDP, Port: 7000, In: eth}, false},
		"loopback":                   {Input, Packet{Proto: TCP, Port: 1, In: Link{Name: "lo", Index: 1}}, false},
		"an answer":                  {Input, Packet{Proto: TCP, Port: 40000, In: eth, Established: true}, false},
		"a map of names":             {Input, Packet{Proto: TCP, Port: 1, In: Link{Name: "br-lan", Index: 3}}, false},
		"a map that returns":         {Input, Packet{Proto: TCP, Port: 1, In: Link{Name: "wan", Index: 4}}, true},
		"a map of ports":             {Input, Packet{Proto: TCP, Port: 9000, In: eth}, false},
		"a map that drops":           {Input, Packet{Proto: TCP, Port: 9002, In: eth}, true},
		"a map that goes on":         {Input, Packet{Proto: TCP, Port: 9003, In: eth}, false},
		"another family":             {Input, Packet{V6: true, Proto: TCP, Port: 8080, In: eth}, true},
		"no chain":                   {Forward, Packet{Proto: TCP, Port: 1, In: eth}, false},
	})
}

func TestJudgeOurTable(t *testing.T) {
	tb := Table{Family: Family, Name: TableName}
	tb.Set(InputChain(Opening{DHCP: true, Ports: []Open{{TCP: []Range{{22, 22}}}, {Interface: "eth*", UDP: []Range{{100, 200}}}}}))
	tb.Set(ForwardChain(Opening{}))
	eth, wlan := Link{Name: "eth1", Index: 2}, Link{Name: "wlan0", Index: 3}
	want := map[string]ruling{
		"open":              {Input, Packet{Proto: TCP, Port: 22, In: wlan}, false},
		"open, IPv6":        {Input, Packet{V6: true, Proto: TCP, Port: 22, In: wlan}, false},
		"the other one":     {Input, Packet{Proto: UDP, Port: 22, In: wlan}, true},
		"closed":            {Input, Packet{Proto: TCP, Port: 23, In: wlan}, true},
		"on its interface":  {Input, Packet{Proto: UDP, Port: 150, In: eth}, false},
		"not on another":    {Input, Packet{Proto: UDP, Port: 150, In: wlan}, true},
		"an answer":         {Input, Packet{Proto: UDP, Port: 9999, In: wlan, Established: true}, false},
		"loopback":          {Input, Packet{Proto: TCP, Port: 9999, In: Link{Name: "lo", Index: 1, Loopback: true}}, false},
		"an address":        {Input, Packet{Proto: UDP, From: 67, Port: 68, In: wlan}, false},
		"the client's port": {Input, Packet{Proto: UDP, Port: 68, In: wlan}, true},
		"ping":              {Input, Packet{Proto: ICMP, Port: 8, In: wlan}, true},
		"a neighbour":       {Input, Packet{V6: true, Proto: ICMPv6, Port: 135, In: wlan}, false},
		"passing":           {Forward, Packet{Proto: TCP, Port: 22, In: wlan, Out: eth}, true},
		"going out":         {Output, Packet{Proto: TCP, Port: 22, Out: eth}, false},
	}
	judgeAll(t, again(t, tb), want)
	judgeAll(t, again(t, tb.trial()), want)
	trial := again(t, tb.trial()).Tables[0]
	trial.Trial = true // the set says so in a kernel
	if got := trial.Lasting().String(); got != tb.String() {
		t.Errorf("confirmed, the trial is\n%s", got)
	}
	learn := again(t, tb.learning())
	if r := learn.Judge(Input, Packet{Proto: TCP, Port: 23}); r.Dropped {
		t.Errorf("learning drops: %+v", r)
	}
}

// rules is a ruleset with one input chain.
func rules(policy Action, list ...Rule) Ruleset {
	return Ruleset{Tables: []Table{{Family: "inet", Name: "x", Chains: []Chain{
		{Name: "in", Type: "filter", Hook: Input, Policy: policy, Rules: list},
		{Name: "loop", Rules: []Rule{{Action: Jump, To: "loop"}, {Action: Jump, To: "loop"}}},
		{Name: "open", Rules: []Rule{{Action: Accept}}},
		{Name: "empty"},
	}}}}
}

// Each of these is default deny in words, and only the ones marked are in effect.
func TestJudgeReachabilityNotWords(t *testing.T) {
	dport := func(lo, hi uint64) Match { return Match{Field: DPort, Ranges: []Range{{lo, hi}}} }
	tcp := proto(TCP)
	for name, c := range map[string]struct {
		rs   Ruleset
		drop bool
	}{
		"policy":                            {rules(Drop), true},
		"policy accept":                     {rules(Accept), false},
		"a last rule":                       {rules(Accept, Rule{Action: Drop}), true},
		"a last rule that rejects":          {rules(Accept, Rule{Action: Reject}), true},
		"accept before":                     {rules(Drop, Rule{Action: Accept}), false},
		"accept before, in another chain":   {rules(Drop, Rule{Action: Jump, To: "open"}), false},
		"back from a chain":                 {rules(Drop, Rule{Action: Jump, To: "empty"}, Rule{Matches: []Match{dport(1, 9)}, Action: Accept}), true},
		"goto does not come back":           {rules(Accept, Rule{Action: Goto, To: "empty"}, Rule{Action: Drop}), false},
		"a chain that is not there":         {rules(Drop, Rule{Action: Jump, To: "gone"}), true},
		"return in a base chain":            {rules(Drop, Rule{Action: Return}, Rule{Action: Accept}), true},
		"new is accepted":                   {rules(Drop, Rule{Matches: []Match{{Field: CTState, Mask: 2 | 8, Not: true, Ranges: one(0)}}, Action: Accept}), false},
		"only answers are accepted":         {rules(Drop, Rule{Matches: []Match{{Field: CTState, Mask: 2 | 4, Not: true, Ranges: one(0)}}, Action: Accept}), true},
		"all of TCP":                        {rules(Drop, Rule{Matches: []Match{tcp}, Action: Accept}), false},
		"all ports":                         {rules(Drop, Rule{Matches: []Match{tcp, dport(1, 65535)}, Action: Accept}), false},
		"every interface but one":           {rules(Drop, Rule{Matches: []Match{{Field: IIfName, Not: true, Names: []string{"lo"}}}, Action: Accept}), false},
		"the interface":                     {rules(Drop, Rule{Matches: []Match{{Field: IIfName, Names: []string{"eth0"}}}, Action: Accept}), false},
		"the interface by its beginning":    {rules(Drop, Rule{Matches: []Match{{Field: IIfName, Names: []string{"e*"}}}, Action: Accept}), false},
		"another interface":                 {rules(Drop, Rule{Matches: []Match{{Field: IIfName, Names: []string{"eth1"}}}, Action: Accept}), true},
		"one sender":                        {rules(Drop, Rule{Matches: []Match{{Field: Other, Text: "network header"}}, Action: Accept}), true},
		"drops one sender":                  {rules(Accept, Rule{Matches: []Match{{Field: Other}}, Action: Drop}), false},
		"any sender":                        {rules(Drop, Rule{Matches: []Match{{Field: Any}}, Action: Accept}), false},
		"accepted within a limit":           {rules(Drop, Rule{Matches: []Match{{Field: Often}}, Action: Accept}), false},
		"accepted over a limit":             {rules(Drop, Rule{Matches: []Match{{Field: Often, Not: true}}, Action: Accept}), false},
		"dropped over a limit":              {rules(Accept, Rule{Matches: []Match{{Field: Often, Not: true}}, Action: Drop}), false},
		"dropped within a limit":            {rules(Accept, Rule{Matches: []Match{{Field: Often}}, Action: Drop}), false},
		"a program decides":                 {rules(Drop, Rule{Action: Queue}), false},
		"the first packet of TCP":           {rules(Drop, Rule{Matches: []Match{tcp, {Field: TCPFlags, Mask: 0x17, Ranges: one(2)}}, Action: Accept}), false},
		"jumps without end":                 {rules(Drop, Rule{Action: Jump, To: "loop"}), true},
		"a dormant table":                   {Ruleset{Tables: []Table{{Family: "inet", Off: true, Chains: rules(Drop).Tables[0].Chains}}}, false},
		"a table for IPv6":                  {Ruleset{Tables: []Table{{Family: "ip6", Chains: rules(Drop).Tables[0].Chains}}}, false},
		"address translation drops nothing": {Ruleset{Tables: []Table{{Family: "ip", Chains: []Chain{{Name: "in", Type: "nat", Hook: Input, Policy: Drop}}}}}, false},
		"none":                              {Ruleset{}, false},
	} {
		r := c.rs.Judge(Input, Packet{Proto: TCP, Port: 2323, In: Link{Name: "eth0", Index: 2}})
		if r.Dropped != c.drop || r.Why == "" {
			t.Errorf("%s: %+v", name, r)
		}
		if (name == "a program decides" || name == "jumps without end" && !r.Dropped) != (r.Unsure != "") {
			t.Errorf("%s: unsure %q", name, r.Unsure)
		}
	}
}

func FuzzDump(f *testing.F) {
	seed := Table{Family: Family, Name: TableName}
	seed.Set(InputChain(Opening{DHCP: true, MDNS: true, Ping: true, Ports: []Open{{Interface: "eth0", TCP: []Range{{22, 22}, {443, 500}}}}}))
	for _, t := range []Table{seed, seed.trial(), seed.learning()} {
		reqs, err := put(t, true)
		must(f, err)
		f.Add(encode(reqs, 1))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		d := dump{sets: map[setKey]*set{}, chains: map[setKey]*Chain{}}
		err := split(data, d.message)
		rs := d.ruleset()
		for _, hook := range []string{Input, Forward, Output} {
			for _, v6 := range []bool{false, true} {
				if r := rs.Judge(hook, Packet{V6: v6, Proto: TCP, Port: 80, In: Link{Name: "eth0", Index: 2}}); r.Why == "" && r.Chains > 0 {
					t.Errorf("%v: %+v", err, r)
				}
			}
		}
		rs.Ports()
		for _, tb := range rs.Tables {
			_ = tb.Lasting().String()
		}
	})
}
