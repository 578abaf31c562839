// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/backstay/backstay/configs/nft"
)

// Firewall replaces our table of the packet filter. Before and After are its text, as the nft program lists it; empty is no
// table.
const Firewall Op = "firewall"

// PacketFilter is the kernel's packet filter: an *nft.Conn. Put and Remove are in force when they return nil and change
// nothing otherwise; what is put for a stage before nft.Keep ends when the filter is closed.
type PacketFilter interface {
	Dump(ctx context.Context) (nft.Ruleset, error)
	Put(ctx context.Context, t nft.Table, s nft.Stage) error
	Remove(ctx context.Context) error
	Close() error
}

// filterPath stands in a Change for our table. It is no path of the tree.
const filterPath = "table " + nft.Family + " " + nft.TableName

// filterFacts is the packet filter of the running system, as far as this run needed it.
type filterFacts struct {
	conn  PacketFilter
	rules *nft.Ruleset // nil until it is read
	trial *nft.Table   // what this run put on trial
}

// UsePacketFilter gives h another packet filter than the kernel's.
func (h *Host) UsePacketFilter(f PacketFilter) { h.filter.conn = f }

// Close ends what is on trial, if anything is. A Host that changed nothing need not be closed.
func (h *Host) Close() error {
	if h.filter.conn == nil {
		return nil
	}
	c := h.filter.conn
	h.filter = filterFacts{}
	return c.Close()
}

func (h *Host) packetFilter() (PacketFilter, error) {
	if h.filter.conn == nil {
		if h.root == nil || h.root.Name() != "/" {
			return nil, errors.New("the packet filter belongs to the running system, and this tree is not its root")
		}
		c, err := nft.Dial()
		if err != nil {
			return nil, err
		}
		h.filter.conn = c
	}
	return h.filter.conn, nil
}

// ruleset gives the packet filter's rules, with what a dry run would have put.
func (h *Host) ruleset(ctx context.Context) (nft.Ruleset, error) {
	if !h.live {
		return nft.Ruleset{}, errNotLive
	}
	if h.filter.rules == nil {
		f, err := h.packetFilter()
		if err != nil {
			return nft.Ruleset{}, err
		}
		rs, err := f.Dump(ctx)
		if err != nil {
			return nft.Ruleset{}, err
		}
		h.filter.rules = &rs
	}
	rs := *h.filter.rules
	o, pretend := h.over[filterPath]
	if !pretend {
		return rs, nil
	}
	var others []nft.Table
	for _, t := range rs.Tables {
		if t.Family != nft.Family || t.Name != nft.TableName {
			others = append(others, t)
		}
	}
	rs.Tables = others
	if len(o.data) > 0 {
		t, err := nft.ParseTable(o.data)
		if err != nil {
			return nft.Ruleset{}, err
		}
		rs.Tables = append(rs.Tables, t)
	}
	return rs, nil
}

// ownTable is our table in words, "" when there is none; trial says that it ends by itself.
func ownTable(rs nft.Ruleset) (text string, trial bool) {
	own := rs.Own()
	if own == nil {
		return "", false
	}
	return own.Lasting().String(), own.Trial
}

// filterIs reports whether our table is as want says.
func (h *Host) filterIs(ctx context.Context, want []byte) bool {
	rs, err := h.ruleset(ctx)
	text, _ := ownTable(rs)
	return err == nil && text == string(want)
}

// filterReady reports whether c may replace our table. One that is gone, after a restart of the device, or that is still on
// trial from a run that died, is nothing that somebody else made.
func (h *Host) filterReady(ctx context.Context, c Change) bool {
	rs, err := h.ruleset(ctx)
	text, trial := ownTable(rs)
	return err == nil && (text == "" || trial || text == string(c.Before))
}

// applyFilter carries out a Firewall change.
func (h *Host) applyFilter(ctx context.Context, c Change) error {
	if err := h.setFilter(ctx, c); err != nil {
		return fmt.Errorf("%s %s: %w", c.Op, c.Path, err)
	}
	return nil
}

// setFilter replaces our table. A table where there was none drops nothing at first, so that the kernel gets to know the
// connections that are open and must live on.
func (h *Host) setFilter(ctx context.Context, c Change) error {
	h.filter.rules = nil
	defer func() { h.filter.rules = nil }()
	if !h.filterReady(ctx, c) {
		return ErrChanged
	}
	f, err := h.packetFilter()
	if err != nil {
		return err
	}
	h.filter.trial = nil
	if len(c.After) == 0 {
		return f.Remove(ctx)
	}
	t, err := nft.ParseTable(c.After)
	if err != nil {
		return err
	}
	if c.Learn > 0 && h.filterIs(ctx, nil) {
		if err := f.Put(ctx, t, nft.Learn); err != nil {
			return err
		}
		if err := h.learn(ctx, c.Learn); err != nil {
			return errors.Join(err, f.Remove(context.WithoutCancel(ctx)))
		}
	}
	if !c.Trial {
		return f.Put(ctx, t, nft.Keep)
	}
	if err := f.Put(ctx, t, nft.Trial); err != nil {
		return err
	}
	h.filter.trial = &t
	return nil
}

// Keep makes what is on trial last. It returns nil when nothing is.
func (h *Host) Keep(ctx context.Context) error {
	if h.filter.trial == nil {
		return nil
	}
	h.filter.rules = nil
	if err := h.filter.conn.Put(ctx, *h.filter.trial, nft.Keep); err != nil {
		return fmt.Errorf("%s %s: %w", Firewall, filterPath, err)
	}
	h.filter.trial = nil
	return nil
}

// learnStep is how often the open connections are compared with those that the kernel follows.
const learnStep = 500 * time.Millisecond

// learn waits until the kernel follows every open connection, at most for longest. A connection that says nothing meanwhile
// is cut when it speaks, unless this device speaks first.
func (h *Host) learn(ctx context.Context, longest time.Duration) error {
	end := time.Now().Add(longest)
	for {
		left := time.Until(end)
		if n, err := h.notFollowed(); err == nil && n == 0 || left <= 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(min(left, learnStep)):
		}
	}
}

// notFollowed counts the TCP connections to other machines that connection tracking does not know. The error says that it
// cannot be told: the list of tracked connections is an option of the kernel.
func (h *Host) notFollowed() (int, error) {
	open := map[[2]uint16]bool{}
	for _, name := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		data, err := h.readNow(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, err
		}
		connections(data, open)
	}
	if len(open) == 0 {
		return 0, nil
	}
	data, err := h.readNow("/proc/net/nf_conntrack")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(data) {
		var ports []uint16
		for w := range strings.FieldsSeq(line) {
			k, v, _ := strings.Cut(w, "=")
			if k == "sport" || k == "dport" {
				n, _ := number(v)
				ports = append(ports, uint16(n))
			}
		}
		for i := 0; i+1 < len(ports); i += 2 {
			delete(open, [2]uint16{ports[i], ports[i+1]})
		}
	}
	return len(open), nil
}

// readNow reads a table of the kernel as it is at this moment.
func (h *Host) readNow(name string) (string, error) {
	p, err := h.Resolve(name)
	if err != nil {
		return "", err
	}
	data, err := h.readFile(h.tree, rel(p), maxNetFile)
	return string(data), err
}

// connections collects the ports, here and there, of the established connections in /proc/net/tcp that leave the machine.
func connections(data string, into map[[2]uint16]bool) {
	for line := range strings.Lines(data) {
		f := strings.Fields(line)
		if len(f) < 4 || f[3] != "01" {
			continue
		}
		_, here, err := hexAddr(f[1])
		there, port, rerr := hexAddr(f[2])
		if err == nil && rerr == nil && !there.Unmap().IsLoopback() && len(into) < maxListeners {
			into[[2]uint16{here, port}] = true
		}
	}
}
