// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"slices"
)

// listenCheck wants the listening sockets of a running system to be known ones.
type listenCheck struct {
	Allow    []listenAllow `json:"allow"`
	Loopback bool          `json:"loopback"` // what only this device reaches is judged, too
	Deleted  bool          `json:"deleted"`  // no program with a socket may be one whose file is gone
}

// listenAllow describes sockets that may be there. What is left out may be anything.
type listenAllow struct {
	Proto string `json:"proto"` // tcp, udp, raw, packet
	Port  int    `json:"port"`
	To    int    `json:"to"`   // the last port of a range
	Bind  string `json:"bind"` // loopback, an address, or a prefix such as 10.0.0.0/8
	Exe   string `json:"exe"`  // path of the program, or its name
}

func listenersKind() Kind {
	return Kind{
		Name: "listeners", Target: `"sockets": the listening TCP and open UDP, raw and packet sockets of a running system`,
		Want: `{"allow": [{"proto": "tcp", "port": N, "to": N, "bind": "loopback", "exe": "/usr/sbin/x"}], "loopback": true, "deleted": true}; ` +
			`give allow or deleted. bind may be an address or a prefix, exe a path or the name of a program, and what is left out may be anything. Loopback sockets count only with loopback; deleted refuses programs whose file is gone`,
		Fix: "what starts the program is put out of use as by start-program, and the program is ended",
		New: func(target string, want []byte) (Check, error) {
			var c listenCheck
			if err := decodeWant(want, &c); err != nil {
				return nil, err
			}
			if target != "sockets" {
				return nil, errors.New(`target: want "sockets"`)
			}
			if len(c.Allow) == 0 && !c.Deleted {
				return nil, errors.New("want: give allow or deleted")
			}
			for i, a := range c.Allow {
				if err := a.check(); err != nil {
					return nil, fmt.Errorf("want.allow[%d]: %w", i, err)
				}
			}
			return c, nil
		},
	}
}

func (a listenAllow) check() error {
	if !slices.Contains([]string{"", "tcp", "udp", "raw", "packet"}, a.Proto) {
		return fmt.Errorf("proto %q, want tcp, udp, raw or packet", a.Proto)
	}
	if a.Port < 0 || a.Port > 65535 || a.To != 0 && (a.To < a.Port || a.To > 65535) {
		return fmt.Errorf("port %d to %d, want 0 to 65535", a.Port, a.To)
	}
	if a.Bind == "" || a.Bind == "loopback" {
		return nil
	}
	_, err := netip.ParseAddr(a.Bind)
	if _, perr := netip.ParsePrefix(a.Bind); err != nil && perr != nil {
		return fmt.Errorf("bind %q, want loopback, an address or a prefix", a.Bind)
	}
	return nil
}

// Claims is empty: what a fix sets depends on what listens.
func (c listenCheck) Claims() []string { return nil }

func (c listenCheck) Tightens(old Check) error {
	o, ok := old.(listenCheck)
	switch {
	case !ok:
		return errors.New("another kind")
	case o.Loopback && !c.Loopback || o.Deleted && !c.Deleted:
		return errors.New("loopback or deleted is missing")
	case len(o.Allow) > 0 && len(c.Allow) == 0:
		return errors.New("without allow every socket is allowed")
	}
	for i, a := range c.Allow {
		if len(o.Allow) > 0 && !slices.ContainsFunc(o.Allow, func(b listenAllow) bool { return b.covers(a) }) {
			return fmt.Errorf("allow[%d] is more than the floor allows", i)
		}
	}
	return nil
}

// covers reports whether everything that b allows, a allows.
func (a listenAllow) covers(b listenAllow) bool {
	last := func(x listenAllow) int { return max(x.Port, x.To) }
	return (a.Proto == "" || a.Proto == b.Proto) && (a.Port == 0 || b.Port >= a.Port && last(b) <= last(a)) &&
		(a.Bind == "" || a.Bind == b.Bind) && (a.Exe == "" || a.Exe == b.Exe)
}

// matches reports whether a socket is one of these; clear is false when that depends on a program that cannot be seen.
func (a listenAllow) matches(l listener, hidden bool) (ok, unclear bool) {
	port := int(l.port)
	if a.Proto != "" && a.Proto != l.proto || a.Port != 0 && (port < a.Port || port > max(a.Port, a.To)) {
		return false, false
	}
	if !a.bound(l) {
		return false, false
	}
	if a.Exe == "" {
		return true, false
	}
	if len(l.procs) == 0 {
		return false, hidden
	}
	for _, p := range l.procs {
		if p.exe == "" {
			return false, true
		}
		if p.exe != a.Exe && path.Base(p.exe) != a.Exe && p.program() != a.Exe {
			return false, false
		}
	}
	return true, false
}

func (a listenAllow) bound(l listener) bool {
	if a.Bind == "" || a.Bind == l.scope() {
		return true
	}
	if p, err := netip.ParsePrefix(a.Bind); err == nil {
		return l.addr.IsValid() && p.Contains(l.addr.Unmap())
	}
	return false
}

func (c listenCheck) Check(ctx context.Context, h *Host) Verdict {
	f := h.listeners(ctx)
	if errors.Is(f.err, errNotLive) {
		return notApplicable(errNotLive.Error())
	}
	items, unclear := c.bad(f)
	if f.err != nil && len(items) == 0 {
		return unknown(f.err)
	}
	if len(items) == 0 && unclear != "" {
		return Verdict{Result: Unknown, Reason: unclear + ": its program may not be seen; run as root"}
	}
	return judged(items, fmt.Sprintf("%d sockets, all as the list says", len(f.list)), f.read...)
}

func (c listenCheck) bad(f *listenerFacts) (items []Item, unclear string) {
	for _, l := range f.list {
		if why, dim := c.judge(l, f.hidden > 0); why != "" {
			expected := "a socket of the list"
			if c.gone(l) {
				expected = "a program whose file is there"
			}
			items = append(items, Item{Subject: l.name(), Where: l.where(), Observed: why, Expected: expected})
		} else if dim {
			unclear = l.name()
		}
	}
	return items, unclear
}

// gone reports whether a program that has the socket was deleted, and that counts.
func (c listenCheck) gone(l listener) bool {
	return c.Deleted && slices.ContainsFunc(l.procs, func(p process) bool { return p.deleted })
}

// judge says what is wrong with one socket, "" for nothing.
func (c listenCheck) judge(l listener, hidden bool) (why string, unclear bool) {
	if c.gone(l) {
		return l.proto + " socket of " + l.owner(), false
	}
	if len(c.Allow) == 0 || l.scope() == "loopback" && !c.Loopback {
		return "", false
	}
	for _, a := range c.Allow {
		ok, dim := a.matches(l, hidden)
		if ok {
			return "", false
		}
		unclear = unclear || dim
	}
	if unclear {
		return "", true
	}
	return "listens on " + l.scope() + ", " + l.owner(), false
}

// Fix puts out of use what starts the programs of the sockets.
func (c listenCheck) Fix(ctx context.Context, h *Host, want func(string) bool) ([]Change, error) {
	f := h.listeners(ctx)
	var names []string
	var end []process
	for _, l := range f.list {
		if why, _ := c.judge(l, f.hidden > 0); why == "" || !want(l.name()) {
			continue
		}
		for _, p := range l.procs {
			end = append(end, p)
			names = append(names, p.program())
		}
	}
	found := h.starts(ctx).on(names...)
	for _, p := range end {
		if !slices.ContainsFunc(found, func(s start) bool { return s.program() == p.program() }) {
			return nil, fmt.Errorf("what starts %s was not found: %w", printable(p.program()), ErrNoFix)
		}
	}
	out, err := neutralise(ctx, h, found)
	if err != nil || !h.isRunningRoot() {
		return out, err
	}
	slices.SortFunc(end, func(a, b process) int { return a.pid - b.pid })
	return stopNow(ctx, h, out, found, slices.CompactFunc(end, func(a, b process) bool { return a.pid == b.pid })), nil
}
