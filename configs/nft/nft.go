// SPDX-License-Identifier: Apache-2.0

// Package nft reads and judges the kernel's packet filter, and writes one table of its own into it.
//
// It speaks netlink itself: no program is started. [Conn.Dump] reads every table; [Ruleset.Judge] says what becomes of a
// packet, because only that counts: a chain may say "drop" at its end and let everything in before. [Parse] reads the
// same from a file of the nft program. [Conn.Put] replaces the table "inet backstay" in one transaction and touches no
// other: a drop in any table wins, so another program's table can make ours stricter and never looser.
//
// A table can be put on trial. The kernel then removes it when the socket that made it is closed, so also when the process
// is killed, and stops dropping after [TrialTime] when the process only hangs. Whoever controls a dump (root, in another
// table) can make this package say that it cannot judge; it cannot make it read without bound.
package nft

import (
	"errors"
	"strings"
	"time"
)

// Our table.
const (
	Family    = "inet"
	TableName = "backstay"
	Priority  = -10 // before the usual filters: what they accept we still see, whatever order they are in
)

// TrialTime is how long a table on trial drops packets when nobody takes it back and nobody confirms it.
const TrialTime = 5 * time.Minute

// Errors of the kernel's side.
var (
	ErrUnsupported = errors.New("the kernel has no nf_tables")
	ErrPermission  = errors.New("the packet filter is for root (CAP_NET_ADMIN)")
	ErrForeign     = errors.New("another process owns the table")
	errTooLarge    = errors.New("more than this package reads")
)

// Ruleset is what decides about packets.
type Ruleset struct {
	Tables  []Table
	Links   []Link // of the running system; empty for a file
	Missing string // of a file: what it includes and could not be read
}

// Link is a network interface.
type Link struct {
	Name     string
	Index    int
	Loopback bool
	Up       bool
}

// Table is one table.
type Table struct {
	Family string // inet, ip, ip6; arp, bridge and netdev are kept and not judged
	Name   string
	Off    bool // dormant: the kernel skips it
	Owned  bool // it belongs to a process
	Trial  bool // it is ours and ends by itself
	Chains []Chain
}

// Chain is a list of rules; it is a base chain when Hook is set.
type Chain struct {
	Name     string
	Type     string // filter, nat, route
	Hook     string // input, forward, output, prerouting, postrouting, ingress
	Priority int
	Policy   Action // Accept or Drop
	Rules    []Rule
}

// Rule accepts, drops or passes on the packets that fit every match.
type Rule struct {
	Matches []Match
	Action  Action
	To      string // Jump and Goto: the chain
}

// Action is what a rule does. None goes on with the next rule.
type Action string

// The actions. Reject is a drop that answers; Queue asks a program, which nobody can foresee.
const (
	None   Action = ""
	Accept Action = "accept"
	Drop   Action = "drop"
	Reject Action = "reject"
	Jump   Action = "jump"
	Goto   Action = "goto"
	Return Action = "return"
	Queue  Action = "queue"
)

// Field is what a match looks at.
type Field string

// The fields whose value is known for a packet that is judged. Every other field may or may not fit.
const (
	IIfName     Field = "iifname"
	OIfName     Field = "oifname"
	IIf         Field = "iif"
	OIf         Field = "oif"
	IIfType     Field = "iiftype"
	L4Proto     Field = "meta l4proto"
	NFProto     Field = "meta nfproto"
	EtherType   Field = "meta protocol"
	PktType     Field = "meta pkttype"
	CTState     Field = "ct state"
	CTDirection Field = "ct direction"
	SPort       Field = "th sport"
	DPort       Field = "th dport"
	TCPFlags    Field = "tcp flags"
	ICMPType    Field = "icmp type"
	Any         Field = "any" // fits every packet
	Often       Field = "limit"
	Other       Field = "other" // fits or not; Text says what it is
)

// Match compares one field.
type Match struct {
	Field  Field
	Not    bool
	Mask   uint64   // applied before comparing; 0 means all bits
	Ranges []Range  // numbers: the value is in one of them
	Names  []string // interface names; a trailing * is any rest
	Text   string   // Other: what it looks at
}

// Range is an inclusive range of values.
type Range struct{ Lo, Hi uint64 }

// one is the range of a single value.
func one(v uint64) []Range { return []Range{{v, v}} }

// Own returns our table, nil when there is none.
func (rs Ruleset) Own() *Table {
	for i, t := range rs.Tables {
		if t.Family == Family && t.Name == TableName {
			return &rs.Tables[i]
		}
	}
	return nil
}

// Hook lists the base chains that judge packets of one family at one hook, in the order in which the kernel asks them, each
// with its table.
func (rs Ruleset) hook(hook string, v6 bool) []place {
	var out []place
	for ti := range rs.Tables {
		t := &rs.Tables[ti]
		if t.Off || t.Family != "inet" && (t.Family != "ip6" || !v6) && (t.Family != "ip" || v6) {
			continue
		}
		for ci := range t.Chains {
			c := &t.Chains[ci]
			if c.Hook != hook || c.Type == "nat" {
				continue
			}
			at := len(out)
			for at > 0 && out[at-1].chain.Priority > c.Priority {
				at--
			}
			out = append(out[:at], append([]place{{t, c}}, out[at:]...)...)
		}
	}
	return out
}

type place struct {
	table *Table
	chain *Chain
}

func (p place) String() string {
	return "table " + p.table.Family + " " + p.table.Name + " chain " + p.chain.Name
}

func (t *Table) chain(name string) *Chain {
	for i := range t.Chains {
		if t.Chains[i].Name == name {
			return &t.Chains[i]
		}
	}
	return nil
}

// clean makes a name from the kernel or a file safe to print and to compare.
func clean(s string) string {
	if len(s) > 256 {
		s = s[:256]
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\uFFFD' {
			return '?'
		}
		return r
	}, s)
}
