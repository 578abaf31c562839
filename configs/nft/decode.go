// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"

	"golang.org/x/sys/unix"
)

// Most of each kind that is read; a device with more is not judged.
const (
	maxTables   = 256
	maxChains   = 4096
	maxRules    = 65536
	maxSets     = 4096
	maxElements = 65536
)

// Dump reads every table. A list that changes while it is read is read again.
func (c *Conn) Dump(ctx context.Context) (Ruleset, error) {
	for try := 1; ; try++ {
		rs, err := c.dump(ctx)
		if try < retries && errors.Is(err, errAgain) {
			continue
		}
		if err != nil {
			return Ruleset{}, err
		}
		rs.Links = links()
		return rs, nil
	}
}

func (c *Conn) dump(ctx context.Context) (Ruleset, error) {
	d := dump{sets: map[setKey]*set{}, chains: map[setKey]*Chain{}}
	err := c.list(ctx, unix.NFT_MSG_GETTABLE, unix.NFPROTO_UNSPEC, nil, d.table)
	if errors.Is(err, unix.EINVAL) { // no such subsystem
		return Ruleset{}, fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	if err != nil || len(d.tables) == 0 {
		return Ruleset{}, err
	}
	if err := c.list(ctx, unix.NFT_MSG_GETCHAIN, unix.NFPROTO_UNSPEC, nil, d.chain); err != nil {
		return Ruleset{}, err
	}
	for _, t := range d.tables {
		f := familyNumber(t.Family)
		of := attrString(nil, unix.NFTA_SET_TABLE, t.Name)
		if err := c.list(ctx, unix.NFT_MSG_GETSET, f, of, d.set); err != nil {
			return Ruleset{}, err
		}
	}
	for k, s := range d.sets {
		of := attrString(attrString(nil, unix.NFTA_SET_ELEM_LIST_TABLE, k.table), unix.NFTA_SET_ELEM_LIST_SET, k.name)
		fill := func(_ uint8, attrs []byte) error { return s.add(attrs) }
		if err := c.list(ctx, unix.NFT_MSG_GETSETELEM, k.family, of, fill); err != nil {
			return Ruleset{}, err
		}
	}
	if err := c.list(ctx, unix.NFT_MSG_GETRULE, unix.NFPROTO_UNSPEC, nil, d.rule); err != nil {
		return Ruleset{}, err
	}
	return d.ruleset(), nil
}

// links lists the interfaces; none when they cannot be listed, then no interface is judged by name.
func links() []Link {
	list, err := net.Interfaces()
	if err != nil {
		return nil
	}
	var out []Link
	for _, l := range list {
		out = append(out, Link{Name: clean(l.Name), Index: l.Index, Loopback: l.Flags&net.FlagLoopback != 0, Up: l.Flags&net.FlagUp != 0})
	}
	return out
}

// dump is what was read so far.
type dump struct {
	tables []Table
	chains map[setKey]*Chain
	order  []setKey
	sets   map[setKey]*set
	rules  int
}

type setKey struct {
	family      uint8
	table, name string
}

var families = map[uint8]string{
	unix.NFPROTO_INET: "inet", unix.NFPROTO_IPV4: "ip", unix.NFPROTO_IPV6: "ip6",
	unix.NFPROTO_ARP: "arp", unix.NFPROTO_BRIDGE: "bridge", unix.NFPROTO_NETDEV: "netdev",
}

func familyNumber(name string) uint8 {
	for n, s := range families {
		if s == name {
			return n
		}
	}
	return unix.NFPROTO_UNSPEC
}

func (d *dump) table(family uint8, b []byte) error {
	a, err := attrs(b)
	if err != nil {
		return err
	}
	if len(d.tables) >= maxTables {
		return errTooLarge
	}
	flags := be32(a[unix.NFTA_TABLE_FLAGS])
	d.tables = append(d.tables, Table{Family: families[family], Name: text(a[unix.NFTA_TABLE_NAME]),
		Off: flags&unix.NFT_TABLE_F_DORMANT != 0, Owned: flags&tableOwner != 0})
	return nil
}

func (d *dump) chain(family uint8, b []byte) error {
	a, err := attrs(b)
	if err != nil {
		return err
	}
	c := &Chain{Name: text(a[unix.NFTA_CHAIN_NAME]), Type: text(a[unix.NFTA_CHAIN_TYPE])}
	if hook, ok := a[unix.NFTA_CHAIN_HOOK]; ok {
		h, err := attrs(hook)
		if err != nil {
			return err
		}
		c.Hook = hookName(families[family], be32(h[unix.NFTA_HOOK_HOOKNUM]))
		c.Priority = int(int32(be32(h[unix.NFTA_HOOK_PRIORITY])))
		c.Policy = Drop
		if be32(a[unix.NFTA_CHAIN_POLICY]) == 1 {
			c.Policy = Accept
		}
	}
	k := setKey{family, text(a[unix.NFTA_CHAIN_TABLE]), c.Name}
	if d.chains[k] == nil {
		d.order = append(d.order, k)
	}
	if len(d.order) > maxChains {
		return errTooLarge
	}
	d.chains[k] = c
	return nil
}

var hookNames = []string{"prerouting", Input, Forward, Output, "postrouting", "ingress"}

func hookName(family string, n uint32) string {
	if family == "netdev" {
		return "ingress"
	}
	if int(n) >= len(hookNames) {
		return "?"
	}
	return hookNames[n]
}

func (d *dump) rule(family uint8, b []byte) error {
	a, err := attrs(b)
	if err != nil {
		return err
	}
	if d.rules++; d.rules > maxRules {
		return errTooLarge
	}
	table := text(a[unix.NFTA_RULE_TABLE])
	c := d.chains[setKey{family, table, text(a[unix.NFTA_RULE_CHAIN])}]
	if c == nil {
		return errAgain // made since the chains were listed
	}
	x := reader{set: func(name string) *set { return d.sets[setKey{family, table, name}] }}
	err = each(a[unix.NFTA_RULE_EXPRESSIONS], func(_ uint16, elem []byte) error {
		e, err := attrs(elem)
		if err != nil {
			return err
		}
		data, err := attrs(e[unix.NFTA_EXPR_DATA])
		if err != nil {
			return err
		}
		x.expression(text(e[unix.NFTA_EXPR_NAME]), data)
		return nil
	})
	c.Rules = append(c.Rules, x.rules()...)
	return err
}

// ruleset puts chains into their tables.
func (d *dump) ruleset() Ruleset {
	for _, k := range d.order {
		for i := range d.tables {
			t := &d.tables[i]
			if t.Name == k.table && familyNumber(t.Family) == k.family {
				t.Chains = append(t.Chains, *d.chains[k])
			}
		}
	}
	return Ruleset{Tables: d.tables}
}

// set is a set or map of the kernel.
type set struct {
	flags    uint32
	elements []element
	full     bool     // more than maxElements: it may hold anything
	rest     *element // what is in no other element
}

type element struct {
	key, end []byte // end: the last key, of a concatenation of ranges
	stop     bool   // the first value that is not in the interval that began before
	act      Action // of a verdict map
	to       string
}

func (d *dump) set(family uint8, b []byte) error {
	a, err := attrs(b)
	if err != nil {
		return err
	}
	if len(d.sets) >= maxSets {
		return errTooLarge
	}
	k := setKey{family, text(a[unix.NFTA_SET_TABLE]), text(a[unix.NFTA_SET_NAME])}
	if k.table == TableName && k.name == trialSet {
		for i := range d.tables {
			t := &d.tables[i]
			t.Trial = t.Trial || t.Name == k.table && familyNumber(t.Family) == family
		}
	}
	d.sets[k] = &set{flags: be32(a[unix.NFTA_SET_FLAGS])}
	return nil
}

const elemKeyEnd = 10 // NFTA_SET_ELEM_KEY_END

func (s *set) add(b []byte) error {
	a, err := attrs(b)
	if err != nil {
		return err
	}
	return each(a[unix.NFTA_SET_ELEM_LIST_ELEMENTS], func(_ uint16, b []byte) error {
		a, err := attrs(b)
		if err != nil {
			return err
		}
		if len(s.elements) >= maxElements {
			s.full = true
			return nil
		}
		e := element{stop: be32(a[unix.NFTA_SET_ELEM_FLAGS])&unix.NFT_SET_ELEM_INTERVAL_END != 0}
		if e.key, err = value(a[unix.NFTA_SET_ELEM_KEY]); err != nil {
			return err
		}
		if e.end, err = value(a[elemKeyEnd]); err != nil {
			return err
		}
		e.key, e.end = bytes.Clone(e.key), bytes.Clone(e.end) // the buffer is used again
		e.act, e.to, err = verdict(a[unix.NFTA_SET_ELEM_DATA])
		if len(e.key) == 0 {
			s.rest = &e
			return err
		}
		s.elements = append(s.elements, e)
		return err
	})
}

// value is the bytes of a data attribute.
func value(b []byte) ([]byte, error) {
	a, err := attrs(b)
	return a[unix.NFTA_DATA_VALUE], err
}

// verdict reads the verdict of a data attribute; None when it holds none.
func verdict(b []byte) (Action, string, error) {
	a, err := attrs(b)
	if err != nil || a[unix.NFTA_DATA_VERDICT] == nil {
		return None, "", err
	}
	v, err := attrs(a[unix.NFTA_DATA_VERDICT])
	if err != nil {
		return None, "", err
	}
	to := text(v[unix.NFTA_VERDICT_CHAIN])
	switch code := int32(be32(v[unix.NFTA_VERDICT_CODE])); {
	case code&0xff == 0 && code >= 0:
		return Drop, "", nil
	case code == 1:
		return Accept, "", nil
	case code == unix.NFT_JUMP:
		return Jump, to, nil
	case code == unix.NFT_GOTO:
		return Goto, to, nil
	case code == unix.NFT_RETURN:
		return Return, "", nil
	case code == unix.NFT_CONTINUE, code == unix.NFT_BREAK:
		return None, "", nil
	}
	return Queue, "", nil
}

// ranges turns the elements into ranges of numbers, lowest first; the action of each is beside it.
func (s *set) ranges(number func([]byte) uint64) ([]Range, []element) {
	list := slices.Clone(s.elements)
	slices.SortStableFunc(list, func(a, b element) int { return bytes.Compare(a.key, b.key) })
	var out []Range
	var of []element
	for i, e := range list {
		if e.stop || len(e.key) == 0 {
			continue
		}
		lo := number(e.key)
		hi := lo
		switch {
		case e.end != nil:
			hi = number(e.end)
		case s.flags&unix.NFT_SET_INTERVAL != 0:
			hi = 1<<(8*min(7, len(e.key))) - 1
			for _, n := range list[i+1:] {
				if !bytes.Equal(n.key, e.key) {
					hi = number(n.key) - 1
					break
				}
			}
		}
		out, of = append(out, Range{lo, hi}), append(of, e)
	}
	return out, of
}
