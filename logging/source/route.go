// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/logging"
)

// Bounds of what is remembered of the network.
const (
	maxLinks  = 128
	maxAddrs  = 512
	maxRoutes = 64
)

func routeKind() Kind {
	return Kind{
		Name: "route",
		Sees: "network interfaces, their addresses and default routes that change",
		Rate: logging.Rate{Per: 2, Burst: 60},
		Open: openRoute,
	}
}

// routeWatcher knows how the network is, and tells what becomes different. The numbers are those of the look that saw an entry.
type routeWatcher struct {
	sock   *socket
	links  map[int32]netLink
	addrs  map[netAddr]uint32
	routes map[netRoute]uint32
	seen   map[int32]uint32 // links
	look   uint32

	poll    time.Duration
	due     time.Time // of a rescan, zero without
	scanned time.Time
}

func openRoute(ctx context.Context, env *Env) (Watcher, error) {
	const groups = unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR | unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV6_ROUTE
	s, err := dialNetlink(unix.NETLINK_ROUTE, groups, 128<<10)
	if err != nil {
		return nil, lacks(err, "CONFIG_NET", "netlink sockets")
	}
	// A router may change thousands of routes a second. Only default routes, those without a destination, get through.
	s.filter([]unix.SockFilter{
		bpfLoad(unix.BPF_H, 4),
		bpfEqual(native16(unix.RTM_NEWROUTE), 1, 0),
		bpfEqual(native16(unix.RTM_DELROUTE), 0, 2),
		bpfLoad(unix.BPF_B, unix.SizeofNlMsghdr+1),
		bpfEqual(0, 0, 1),
		bpfReturn(1 << 20),
		bpfReturn(0),
	})
	w := &routeWatcher{sock: s, links: map[int32]netLink{}, addrs: map[netAddr]uint32{}, routes: map[netRoute]uint32{}, seen: map[int32]uint32{}, poll: env.Poll}
	if err := w.rescan(ctx, nil); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return w, nil
}

func (w *routeWatcher) Covers() string {
	return fmt.Sprintf("changes of %d interfaces, %d addresses and %d default routes in the agent's network namespace", len(w.links), len(w.addrs), len(w.routes))
}

func (w *routeWatcher) Close() error { return w.sock.Close() }

func (w *routeWatcher) Run(ctx context.Context, sink *Sink) error {
	defer w.sock.follow(ctx)()
	for {
		data, err := w.sock.receive(ctx, w.due)
		switch {
		case err == nil:
			for m := range messages(data) {
				w.take(m, sink)
			}
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, errQuiet):
		case errors.Is(err, errOverflow):
			// What changed and changed back in between is lost; what is different now is told.
			sink.Lost(0, "network: "+err.Error())
			w.plan()
		case errors.Is(err, errTruncated):
			sink.Lost(1, "network: "+err.Error())
		default:
			return err
		}
		if !w.due.IsZero() && !time.Now().Before(w.due) {
			w.due, w.scanned = time.Time{}, time.Now()
			if err := w.rescan(ctx, sink); err != nil && ctx.Err() == nil {
				return err
			}
		}
	}
}

// plan has everything listed in a moment, but not more often than every poll, whatever flaps.
func (w *routeWatcher) plan() {
	if w.due.IsZero() {
		w.due = time.Now().Add(time.Second)
		if next := w.scanned.Add(w.poll); next.After(w.due) {
			w.due = next
		}
	}
}

// rescan lists everything and tells the differences, to nobody when sink is nil.
func (w *routeWatcher) rescan(ctx context.Context, sink *Sink) error {
	s, err := dialNetlink(unix.NETLINK_ROUTE, 0, 128<<10)
	if err != nil {
		return err
	}
	defer s.Close()
	defer s.follow(ctx)()
	w.look++
	for _, typ := range []uint16{unix.RTM_GETLINK, unix.RTM_GETADDR, unix.RTM_GETROUTE} {
		for try := range netlinkTry {
			err = s.ask(ctx, typ, unix.NLM_F_DUMP, make([]byte, unix.SizeofIfInfomsg), func(m message) bool {
				w.take(m, sink)
				return false
			})
			if !errors.Is(err, errChanged) || try == netlinkTry-1 {
				break
			}
		}
		if errors.Is(err, errChanged) {
			continue // it goes on changing, and each change is announced
		}
		if err != nil {
			return fmt.Errorf("list the network: %w", err)
		}
		w.sweep(typ, sink)
	}
	return nil
}

// sweep tells what the list did not have any more.
func (w *routeWatcher) sweep(typ uint16, sink *Sink) {
	switch typ {
	case unix.RTM_GETLINK:
		for index, look := range w.seen {
			if look != w.look {
				w.link(index, netLink{}, false, sink)
			}
		}
	case unix.RTM_GETADDR:
		for a, look := range w.addrs {
			if look != w.look {
				w.addr(a, false, sink)
			}
		}
	case unix.RTM_GETROUTE:
		for r, look := range w.routes {
			if look != w.look {
				w.route(r, false, sink)
			}
		}
	}
}

func (w *routeWatcher) take(m message, sink *Sink) {
	switch m.typ {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		if index, l, ok := parseLink(m.body); ok {
			w.link(index, l, m.typ == unix.RTM_NEWLINK, sink)
		}
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		if a, ok := parseAddr(m.body); ok {
			w.addr(a, m.typ == unix.RTM_NEWADDR, sink)
		}
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		if r, ok := parseRoute(m.body); ok {
			w.route(r, m.typ == unix.RTM_NEWROUTE, sink)
		}
	}
}

func (w *routeWatcher) link(index int32, l netLink, present bool, sink *Sink) {
	old, known := w.links[index]
	if !present && !known || present && !known && !room(len(w.links), maxLinks, "interfaces", sink) {
		return
	}
	if !present {
		l = old
		delete(w.links, index)
		delete(w.seen, index)
	} else {
		w.links[index], w.seen[index] = l, w.look
	}
	if old.flags&^l.flags&unix.IFF_UP != 0 || !present {
		w.plan() // the kernel takes the IPv4 routes away and does not say so
	}
	change := linkChange(old, l, known, present)
	if sink == nil || change == "" {
		return
	}
	attrs := []slog.Attr{slog.String("message", "a network interface changed"), slog.String("change", change),
		slog.String("interface", l.name), slog.Int("index", int(index))}
	if l.kind != "" {
		attrs = append(attrs, slog.String("kind", l.kind))
	}
	if l.mac != "" {
		attrs = append(attrs, slog.String("hardware_address", l.mac))
	}
	if known && old.name != l.name {
		attrs = append(attrs, slog.String("interface_before", old.name))
	}
	if known && present && old.mac != l.mac {
		attrs = append(attrs, slog.String("hardware_address_before", old.mac))
	}
	if !known && present || present && l.flags&^old.flags&unix.IFF_PROMISC != 0 {
		attrs = append(attrs, slog.String("severity", "medium")) // new ways in, and somebody who listens to everything
	}
	sink.Event("net.link", attrs...)
}

// linkChange names what is different, "" when nothing is.
func linkChange(old, l netLink, known, present bool) string {
	var out []string
	if !present {
		return "removed"
	}
	if !known {
		out = append(out, "added")
	}
	flag := func(bit uint32, on, off string) {
		if was := old.flags & bit; was != l.flags&bit {
			out = append(out, map[bool]string{true: on, false: off}[was == 0])
		}
	}
	flag(unix.IFF_UP, "up", "down")
	flag(unix.IFF_RUNNING, "running", "not running")
	flag(unix.IFF_PROMISC, "promiscuous", "not promiscuous")
	if known && old.name != l.name {
		out = append(out, "renamed")
	}
	if known && old.mac != l.mac {
		out = append(out, "hardware address")
	}
	return strings.Join(out, ", ")
}

func (w *routeWatcher) addr(a netAddr, present bool, sink *Sink) {
	_, known := w.addrs[a]
	if present && !known && !room(len(w.addrs), maxAddrs, "addresses", sink) {
		return
	}
	if present {
		w.addrs[a] = w.look
	} else {
		delete(w.addrs, a)
		w.plan() // the same as for a link: routes that came from this address
	}
	if sink == nil || known == present {
		return
	}
	sink.Event("net.address", append(w.device(a.index), slog.String("message", "an address of the device changed"),
		slog.String("change", added(present)), slog.String("address", a.prefix.String()))...)
}

func (w *routeWatcher) route(r netRoute, present bool, sink *Sink) {
	_, known := w.routes[r]
	if present && !known && !room(len(w.routes), maxRoutes, "default routes", sink) {
		return
	}
	if present {
		w.routes[r] = w.look
	} else {
		delete(w.routes, r)
	}
	if sink == nil || known == present {
		return
	}
	family := "ipv4"
	if r.family == unix.AF_INET6 {
		family = "ipv6"
	}
	attrs := append(w.device(r.oif), slog.String("message", "a default route changed"), slog.String("change", added(present)),
		slog.String("family", family), slog.Uint64("metric", uint64(r.metric)))
	if r.gateway.IsValid() {
		attrs = append(attrs, slog.String("gateway", r.gateway.String()))
	}
	if r.multipath {
		attrs = append(attrs, slog.Bool("multipath", true))
	}
	if r.typ != unix.RTN_UNICAST {
		attrs = append(attrs, slog.Int("route_type", int(r.typ))) // blackhole, unreachable ...
	}
	if r.table != unix.RT_TABLE_MAIN {
		attrs = append(attrs, slog.Uint64("table", uint64(r.table)))
	}
	sink.Event("net.route", attrs...)
}

// room reports whether one more can be remembered. What cannot is not told either: it would be told again and again.
func room(n, limit int, what string, sink *Sink) bool {
	if n < limit {
		return true
	}
	if sink != nil {
		sink.Lost(1, fmt.Sprintf("network: more than %d %s", limit, what))
	}
	return false
}

func (w *routeWatcher) device(index int32) []slog.Attr {
	if l, ok := w.links[index]; ok {
		return []slog.Attr{slog.String("interface", l.name), slog.Int("index", int(index))}
	}
	if index > 0 {
		return []slog.Attr{slog.Int("index", int(index))}
	}
	return nil
}

func added(present bool) string {
	if present {
		return "added"
	}
	return "removed"
}
