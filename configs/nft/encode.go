// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Flags of a table that the older of golang.org/x/sys's headers lack.
const (
	tableOwner = 2
	typePort   = 13 // names of types are for the nft program only
	typeProto  = 12
)

// Stage says how long a table is meant to last.
type Stage int

// The stages, in the order in which a change that could lock somebody out goes through them.
const (
	Learn Stage = iota // drops nothing yet, ends with the process
	Trial              // ends with the process, or after TrialTime
	Keep               // stays until it is replaced or the device restarts
)

// Put replaces our table by t, in one transaction: there is no moment without rules. A kernel without tables that belong to
// a process (before 5.12) keeps a table on trial when the process is killed; its drops end all the same after TrialTime.
func (c *Conn) Put(ctx context.Context, t Table, s Stage) error {
	switch s {
	case Learn:
		t = t.learning()
	case Trial:
		t = t.trial()
	}
	reqs, err := put(t, s != Keep)
	if err != nil {
		return err
	}
	err = c.batch(ctx, reqs)
	if s != Keep && (errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP)) {
		if reqs, err = put(t, false); err != nil {
			return err
		}
		err = c.batch(ctx, reqs)
	}
	return ownError(err)
}

// Remove takes our table away; none there is no error.
func (c *Conn) Remove(ctx context.Context) error {
	return ownError(c.batch(ctx, clear()))
}

func ownError(err error) error {
	switch {
	case errors.Is(err, ErrPermission) && unix.Geteuid() == 0:
		return fmt.Errorf("table %s %s: %w: %w", Family, TableName, ErrForeign, err)
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("table %s %s: the kernel lacks a part of nf_tables that the table needs: %w", Family, TableName, err)
	case err != nil:
		return fmt.Errorf("table %s %s: %w", Family, TableName, err)
	}
	return nil
}

func newRequest(typ uint16, flags uint16, body []byte) request {
	return request{typ: unix.NFNL_SUBSYS_NFTABLES<<8 | typ, flags: flags, family: unix.NFPROTO_INET, body: body}
}

// clear makes the table and deletes it, so that deleting one that is not there is no error.
func clear() []request {
	name := attrString(nil, unix.NFTA_TABLE_NAME, TableName)
	return []request{newRequest(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, name), newRequest(unix.NFT_MSG_DELTABLE, 0, name)}
}

func put(t Table, owner bool) ([]request, error) {
	if t.Family != Family || t.Name != TableName {
		return nil, fmt.Errorf("table %s %s is not ours", t.Family, t.Name)
	}
	body := attrString(nil, unix.NFTA_TABLE_NAME, TableName)
	if owner {
		body = attr32(body, unix.NFTA_TABLE_FLAGS, tableOwner)
	}
	w := writer{reqs: append(clear(), newRequest(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, body))}
	if t.Trial {
		w.trial()
	}
	for _, c := range t.Chains {
		if err := w.chain(c, t.Trial); err != nil {
			return nil, err
		}
	}
	return w.reqs, nil
}

// writer collects the messages of one table.
type writer struct {
	reqs []request
	sets uint32
}

func (w *writer) add(typ uint16, flags uint16, body []byte) {
	w.reqs = append(w.reqs, newRequest(typ, unix.NLM_F_CREATE|flags, body))
}

func (w *writer) chain(c Chain, trial bool) error {
	num := slices.Index(hookNames[:5], c.Hook)
	if num < 0 {
		return fmt.Errorf("chain %s: hook %q", c.Name, c.Hook)
	}
	hook := attr32(attr32(nil, unix.NFTA_HOOK_HOOKNUM, uint32(num)), unix.NFTA_HOOK_PRIORITY, uint32(int32(c.Priority)))
	policy := uint32(0)
	if c.Policy == Accept {
		policy = 1
	}
	b := attrString(nil, unix.NFTA_CHAIN_TABLE, TableName)
	b = attrString(b, unix.NFTA_CHAIN_NAME, c.Name)
	b = nest(b, unix.NFTA_CHAIN_HOOK, hook)
	b = attr32(b, unix.NFTA_CHAIN_POLICY, policy)
	b = attrString(b, unix.NFTA_CHAIN_TYPE, c.Type)
	w.add(unix.NFT_MSG_NEWCHAIN, 0, b)
	for i, r := range c.Rules {
		last := trial && i == len(c.Rules)-1 && r.Action == Drop
		exprs, err := w.rule(r, last)
		if err != nil {
			return fmt.Errorf("chain %s: %w", c.Name, err)
		}
		b := attrString(nil, unix.NFTA_RULE_TABLE, TableName)
		b = attrString(b, unix.NFTA_RULE_CHAIN, c.Name)
		b = nest(b, unix.NFTA_RULE_EXPRESSIONS, exprs)
		w.add(unix.NFT_MSG_NEWRULE, unix.NLM_F_APPEND, b)
	}
	return nil
}

// rule gives the expressions; ends says that it only holds while the trial lasts.
func (w *writer) rule(r Rule, ends bool) ([]byte, error) {
	var out []byte
	for _, m := range r.Matches {
		load, size, host, err := loadOf(m.Field)
		if err != nil {
			return nil, err
		}
		out = append(out, load...)
		if ends {
			out = append(out, lookup(trialSet, 0)...)
			continue
		}
		e, err := w.test(m, size, host)
		if err != nil {
			return nil, err
		}
		out = append(out, e...)
	}
	code := uint32(0)
	switch r.Action {
	case Accept:
		code = 1
	case Drop:
	default:
		return nil, fmt.Errorf("action %q is not one that this package writes", r.Action)
	}
	v := nest(nil, unix.NFTA_DATA_VERDICT, attr32(nil, unix.NFTA_VERDICT_CODE, code))
	return append(out, expr("immediate", nest(attr32(nil, unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_VERDICT), unix.NFTA_IMMEDIATE_DATA, v))...), nil
}

func expr(name string, data []byte) []byte {
	return nest(nil, unix.NFTA_LIST_ELEM, nest(attrString(nil, unix.NFTA_EXPR_NAME, name), unix.NFTA_EXPR_DATA, data))
}

// loadOf gives the expression that loads a field into the first register, the size of the value, and its byte order.
func loadOf(f Field) (e []byte, size int, host bool, err error) {
	meta := func(key uint32) []byte {
		return expr("meta", attr32(attr32(nil, unix.NFTA_META_DREG, unix.NFT_REG_1), unix.NFTA_META_KEY, key))
	}
	payload := func(off, n uint32) []byte {
		b := attr32(nil, unix.NFTA_PAYLOAD_DREG, unix.NFT_REG_1)
		b = attr32(b, unix.NFTA_PAYLOAD_BASE, unix.NFT_PAYLOAD_TRANSPORT_HEADER)
		return expr("payload", attr32(attr32(b, unix.NFTA_PAYLOAD_OFFSET, off), unix.NFTA_PAYLOAD_LEN, n))
	}
	switch f {
	case IIfName:
		return meta(unix.NFT_META_IIFNAME), 16, false, nil
	case OIfName:
		return meta(unix.NFT_META_OIFNAME), 16, false, nil
	case L4Proto:
		return meta(unix.NFT_META_L4PROTO), 1, false, nil
	case NFProto:
		return meta(unix.NFT_META_NFPROTO), 1, false, nil
	case SPort:
		return payload(0, 2), 2, false, nil
	case DPort:
		return payload(2, 2), 2, false, nil
	case ICMPType:
		return payload(0, 1), 1, false, nil
	case CTState:
		return expr("ct", attr32(attr32(nil, unix.NFTA_CT_DREG, unix.NFT_REG_1), unix.NFTA_CT_KEY, unix.NFT_CT_STATE)), 4, true, nil
	}
	return nil, 0, false, fmt.Errorf("match on %q is not one that this package writes", f)
}

func bytesOf(v uint64, size int, host bool) []byte {
	b := make([]byte, 8)
	if host && !isBigEndian {
		binary.LittleEndian.PutUint64(b, v)
		return b[:size]
	}
	binary.BigEndian.PutUint64(b, v)
	return b[8-size:]
}

func data(b []byte) []byte { return attr(nil, unix.NFTA_DATA_VALUE, b) }

func compareTo(op uint32, v []byte) []byte {
	return expr("cmp", nest(attr32(attr32(nil, unix.NFTA_CMP_SREG, unix.NFT_REG_1), unix.NFTA_CMP_OP, op), unix.NFTA_CMP_DATA, data(v)))
}

func (w *writer) test(m Match, size int, host bool) ([]byte, error) {
	op := uint32(unix.NFT_CMP_EQ)
	if m.Not {
		op = unix.NFT_CMP_NEQ
	}
	if m.Field == IIfName || m.Field == OIfName {
		if len(m.Names) != 1 {
			return nil, fmt.Errorf("match on %d interface names", len(m.Names))
		}
		return compareTo(op, nameBytes(m.Names[0])), nil
	}
	var out []byte
	if m.Mask != 0 {
		b := attr32(attr32(attr32(nil, unix.NFTA_BITWISE_SREG, unix.NFT_REG_1), unix.NFTA_BITWISE_DREG, unix.NFT_REG_1), unix.NFTA_BITWISE_LEN, uint32(size))
		b = nest(b, unix.NFTA_BITWISE_MASK, data(bytesOf(m.Mask, size, host)))
		out = expr("bitwise", nest(b, unix.NFTA_BITWISE_XOR, data(make([]byte, size))))
	}
	switch {
	case len(m.Ranges) == 0:
		return nil, fmt.Errorf("match on %q with nothing", m.Field)
	case len(m.Ranges) == 1 && m.Ranges[0].Lo == m.Ranges[0].Hi:
		return append(out, compareTo(op, bytesOf(m.Ranges[0].Lo, size, host))...), nil
	case len(m.Ranges) == 1 && !host:
		r := m.Ranges[0]
		b := attr32(attr32(nil, unix.NFTA_RANGE_SREG, unix.NFT_REG_1), unix.NFTA_RANGE_OP, op)
		b = nest(b, unix.NFTA_RANGE_FROM_DATA, data(bytesOf(r.Lo, size, host)))
		return append(out, expr("range", nest(b, unix.NFTA_RANGE_TO_DATA, data(bytesOf(r.Hi, size, host))))...), nil
	case m.Mask != 0 || m.Not || host:
		return nil, fmt.Errorf("match on %q with more than one value", m.Field)
	}
	return append(out, w.lookup(m, size)...), nil
}

// nameBytes is an interface name as the kernel compares it: all 16 bytes, or only the beginning.
func nameBytes(name string) []byte {
	if rest, any := strings.CutSuffix(name, "*"); any {
		return []byte(rest)
	}
	b := make([]byte, 16)
	copy(b[:15], name)
	return b
}

func lookup(name string, id uint32) []byte {
	b := attrString(nil, unix.NFTA_LOOKUP_SET, name)
	b = attr32(b, unix.NFTA_LOOKUP_SREG, unix.NFT_REG_1)
	if id != 0 {
		b = attr32(b, unix.NFTA_LOOKUP_SET_ID, id)
	}
	return expr("lookup", b)
}

// lookup makes a set without a name and looks into it.
func (w *writer) lookup(m Match, size int) []byte {
	w.sets++
	id := w.sets
	flags := uint32(unix.NFT_SET_ANONYMOUS | unix.NFT_SET_CONSTANT)
	interval := slices.ContainsFunc(m.Ranges, func(r Range) bool { return r.Lo != r.Hi })
	if interval {
		flags |= unix.NFT_SET_INTERVAL
	}
	typ := uint32(typeProto)
	if m.Field == DPort || m.Field == SPort {
		typ = typePort
	} else if m.Field == ICMPType {
		typ = 29 // icmpv6_type
	}
	w.set("__set%d", id, flags, typ, size)
	var list []byte
	elem := func(v uint64, flags uint32) {
		e := nest(nil, unix.NFTA_SET_ELEM_KEY, data(bytesOf(v, size, false)))
		if flags != 0 {
			e = attr32(e, unix.NFTA_SET_ELEM_FLAGS, flags)
		}
		list = nest(list, unix.NFTA_LIST_ELEM, e)
	}
	if interval && m.Ranges[0].Lo > 0 {
		elem(0, unix.NFT_SET_ELEM_INTERVAL_END) // nft reads a set from its lowest end
	}
	top := uint64(1)<<(8*size) - 1
	for i, r := range m.Ranges {
		elem(r.Lo, 0)
		if interval && r.Hi < top && (i+1 == len(m.Ranges) || m.Ranges[i+1].Lo != r.Hi+1) {
			elem(r.Hi+1, unix.NFT_SET_ELEM_INTERVAL_END)
		}
	}
	w.elements("__set%d", id, list)
	return lookup("__set%d", id)
}

func (w *writer) set(name string, id, flags, typ uint32, size int) {
	b := attrString(nil, unix.NFTA_SET_TABLE, TableName)
	b = attrString(b, unix.NFTA_SET_NAME, name)
	b = attr32(b, unix.NFTA_SET_FLAGS, flags)
	b = attr32(b, unix.NFTA_SET_KEY_TYPE, typ)
	b = attr32(b, unix.NFTA_SET_KEY_LEN, uint32(size))
	w.add(unix.NFT_MSG_NEWSET, 0, attr32(b, unix.NFTA_SET_ID, id))
}

func (w *writer) elements(name string, id uint32, list []byte) {
	b := attrString(nil, unix.NFTA_SET_ELEM_LIST_TABLE, TableName)
	b = attrString(b, unix.NFTA_SET_ELEM_LIST_SET, name)
	b = nest(b, unix.NFTA_SET_ELEM_LIST_ELEMENTS, list)
	w.add(unix.NFT_MSG_NEWSETELEM, 0, attr32(b, unix.NFTA_SET_ELEM_LIST_SET_ID, id))
}

// trial makes the set whose elements end by themselves.
func (w *writer) trial() {
	w.sets++
	w.set(trialSet, w.sets, unix.NFT_SET_TIMEOUT, typeProto, 1)
	var list []byte
	for _, r := range trialMatch().Ranges {
		e := nest(nil, unix.NFTA_SET_ELEM_KEY, data([]byte{byte(r.Lo)}))
		e = attr(e, unix.NFTA_SET_ELEM_TIMEOUT, binary.BigEndian.AppendUint64(nil, uint64(TrialTime.Milliseconds())))
		list = nest(list, unix.NFTA_LIST_ELEM, e)
	}
	w.elements(trialSet, w.sets, list)
}
