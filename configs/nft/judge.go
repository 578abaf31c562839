// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// Protocol numbers.
const (
	TCP    = 6
	UDP    = 17
	ICMP   = 1
	ICMPv6 = 58
)

// Connection states, as the kernel's bits.
const (
	stateInvalid     = 1
	stateEstablished = 2
	stateRelated     = 4
	stateNew         = 8
)

// Packet is what is judged: the first packet of a connection, or one of an established connection.
type Packet struct {
	V6          bool
	Proto       uint8
	Port        uint16 // TCP and UDP: where to; ICMP: the type
	From        uint16 // TCP and UDP: where from; 0 is "any", which fits no port that a rule names
	In, Out     Link   // an empty name is an interface that no rule names
	Established bool
}

// Hooks at which packets are judged.
const (
	Input   = "input"
	Forward = "forward"
	Output  = "output"
)

// Ruling is what becomes of a packet.
type Ruling struct {
	Dropped bool
	Why     string // which rule or policy decided; for an accepted packet, the last chain that accepted it
	Unsure  string // it was accepted by the rules that can be judged, and this one cannot
	Chains  int    // base chains that were asked
}

// Judge says what becomes of p. Conditions on what is not known of p, an address or a mark, are taken not to hold: a rule
// that lets in only one sender is no rule that lets in everybody. A limit on how often is taken to hold for accepting and not
// for dropping, because a sender may try again.
func (rs Ruleset) Judge(hook string, p Packet) Ruling {
	out := Ruling{Why: "no chain filters it"}
	for _, at := range rs.hook(hook, p.V6) {
		out.Chains++
		w := judge{table: at.table, p: p}
		act := w.chain(at.chain, 0)
		if act == None || act == Return {
			act = at.chain.Policy
			w.why = at.String() + " policy " + string(act)
		} else {
			w.why = "table " + at.table.Family + " " + at.table.Name + " chain " + w.in.Name + " rule " + strconv.Itoa(w.rule+1) + ": " + w.in.Rules[w.rule].String()
		}
		if w.unsure != "" {
			out.Unsure = at.String() + ": " + w.unsure
		}
		out.Why = w.why
		switch act {
		case Drop, Reject:
			return Ruling{Dropped: true, Why: w.why, Chains: out.Chains}
		case Queue:
			out.Unsure = at.String() + ": a program decides (queue)"
		}
	}
	return out
}

const maxDeep = 16 // jumps, as in the kernel

type judge struct {
	table  *Table
	p      Packet
	why    string
	in     *Chain // where the last rule that fits is
	rule   int
	unsure string
	steps  int
}

// maxSteps bounds the values compared for one judgement; chains that jump to each other twice each would otherwise take 2^16
// times their rules.
const maxSteps = 1_000_000

func (w *judge) chain(c *Chain, deep int) Action {
	for i, r := range c.Rules {
		w.steps++
		for _, m := range r.Matches {
			w.steps += len(m.Ranges) + len(m.Names)
		}
		if w.steps > maxSteps || deep > maxDeep {
			w.unsure = "its jumps are too deep to follow"
			return None
		}
		if r.Action == None || !w.fits(r) {
			continue
		}
		w.in, w.rule = c, i
		switch r.Action {
		case Accept, Drop, Reject, Queue, Return:
			return r.Action
		}
		to := w.table.chain(r.To)
		if to == nil {
			continue
		}
		act := w.chain(to, deep+1)
		if act != None && act != Return {
			return act
		}
		if r.Action == Goto {
			return Return // as if the calling chain had ended
		}
	}
	return None
}

func (w *judge) fits(r Rule) bool {
	for _, m := range r.Matches {
		switch w.match(m) {
		case no:
			return false
		case maybe:
			return false
		case often:
			if r.Action == Drop || r.Action == Reject {
				return false
			}
		}
	}
	return true
}

type truth int

const (
	no truth = iota
	yes
	maybe
	often
)

func (w *judge) match(m Match) truth {
	var ok bool
	switch m.Field {
	case Any:
		ok = true
	case Other:
		return maybe
	case Often:
		return often // also "limit rate over": whoever wants it to fit sends more
	case IIfName:
		ok = nameFits(m.Names, w.p.In.Name)
	case OIfName:
		ok = nameFits(m.Names, w.p.Out.Name)
	default:
		v, known := w.value(m.Field)
		if !known {
			return maybe
		}
		if m.Mask != 0 {
			v &= m.Mask
		}
		ok = slices.ContainsFunc(m.Ranges, func(r Range) bool { return v >= r.Lo && v <= r.Hi })
	}
	if ok != m.Not {
		return yes
	}
	return no
}

func nameFits(names []string, name string) bool {
	return slices.ContainsFunc(names, func(n string) bool {
		if rest, any := strings.CutSuffix(n, "*"); any {
			return strings.HasPrefix(name, rest)
		}
		return n == name && name != ""
	})
}

// value gives a field of the packet; not known is a field that this kind of packet has not.
func (w *judge) value(f Field) (v uint64, known bool) {
	p := w.p
	ports := p.Proto == TCP || p.Proto == UDP
	switch f {
	case IIf:
		return uint64(p.In.Index), true
	case OIf:
		return uint64(p.Out.Index), true
	case IIfType:
		if p.In.Loopback {
			return 772, true
		}
		return 1, true
	case L4Proto:
		return uint64(p.Proto), true
	case NFProto:
		return pick(p.V6, 10, 2), true
	case EtherType:
		return pick(p.V6, 0x86dd, 0x0800), true
	case PktType, CTDirection:
		return 0, true // to this host; in the direction of the first packet
	case CTState:
		return pick(p.Established, stateEstablished, stateNew), true
	case SPort:
		return uint64(p.From), ports
	case DPort:
		return uint64(p.Port), ports
	case TCPFlags:
		return pick(p.Established, 0x10, 0x02), p.Proto == TCP
	case ICMPType:
		return uint64(p.Port), p.Proto == ICMP || p.Proto == ICMPv6
	}
	return 0, false
}

func pick(b bool, yes, no uint64) uint64 {
	if b {
		return yes
	}
	return no
}

// Ports lists the ranges of ports that rules name, lowest first.
func (rs Ruleset) Ports() []Range {
	seen := map[Range]bool{}
	for _, t := range rs.Tables {
		for _, c := range t.Chains {
			for _, r := range c.Rules {
				for _, m := range r.Matches {
					if m.Field == DPort {
						for _, g := range m.Ranges {
							seen[Range{min(g.Lo, 65535), min(g.Hi, 65535)}] = true
						}
					}
				}
			}
		}
	}
	out := make([]Range, 0, len(seen))
	for g := range seen {
		out = append(out, g)
	}
	slices.SortFunc(out, func(a, b Range) int { return cmp.Or(cmp.Compare(a.Lo, b.Lo), cmp.Compare(a.Hi, b.Hi)) })
	return out
}

// Chains names the base chains that are asked at a hook.
func (rs Ruleset) Chains(hook string) []string {
	var out []string
	for _, v6 := range []bool{false, true} {
		for _, at := range rs.hook(hook, v6) {
			if s := at.String(); !slices.Contains(out, s) {
				out = append(out, s)
			}
		}
	}
	return out
}
