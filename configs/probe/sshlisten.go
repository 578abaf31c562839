// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
)

// sshListen wants the SSH servers to listen on chosen addresses or interfaces.
type sshListen struct {
	Allow []string `json:"allow"`
}

func sshListenKind() Kind {
	return Kind{
		Name: "ssh-listen", Target: `"servers": dropbear and sshd`,
		Want: `{"allow": [addresses and interfaces]}; default: any, as long as one is chosen`,
		New: func(target string, want []byte) (Check, error) {
			var c sshListen
			if err := decodeWant(want, &c); err != nil {
				return nil, err
			}
			if target != "servers" {
				return nil, errors.New(`target: want "servers"`)
			}
			return c, nil
		},
	}
}

// Fix is for a person: which network is the one that manages the device is not to be seen here.
func (c sshListen) Fix(context.Context, *Host, func(string) bool) ([]Change, error) {
	return nil, ErrNoFix
}

// Claims is empty: nothing is set.
func (c sshListen) Claims() []string { return nil }

func (c sshListen) Tightens(old Check) error {
	o, ok := old.(sshListen)
	if !ok {
		return errors.New("another kind")
	}
	if a, ok := subset(c.Allow, o.Allow); len(o.Allow) > 0 && (!ok || len(c.Allow) == 0) {
		return errors.New("it may listen on " + a)
	}
	return nil
}

// endpoint is one place where a server listens: an address, an interface, or "" for everywhere.
type endpoint struct{ where, at, server string }

func (c sshListen) Check(ctx context.Context, h *Host) Verdict {
	var ends []endpoint
	var read []string
	s, err := findDropbear(ctx, h)
	if err == nil {
		read = s.read
		for _, in := range s.servers {
			ends = append(ends, dropbearEnds(in)...)
		}
	} else if !errors.Is(err, errNoDropbear) {
		return unknown(err)
	}
	d, err := findSshd(ctx, h)
	if err == nil {
		read = append(read, d.read...)
		ends = append(ends, sshdEnds(d)...)
	} else if !errors.Is(err, errNoSshd) {
		return unknown(err)
	}
	if len(ends) == 0 {
		return notApplicable("no SSH server is here: no sshd, and no dropbear that listens by itself")
	}
	var items []Item
	var good []string
	for _, e := range ends {
		it := Item{Subject: e.server, Where: e.where, Observed: "listens on " + printable(e.at), Expected: "one of " + strings.Join(c.Allow, ", ")}
		switch {
		case e.at == "":
			it.Observed = "listens on every address"
			if len(c.Allow) == 0 {
				it.Expected = "the address or interface that manages the device"
			}
			items = append(items, it)
		case len(c.Allow) > 0 && !slices.Contains(c.Allow, e.at):
			items = append(items, it)
		default:
			good = append(good, e.server+" on "+printable(e.at))
		}
	}
	return judged(items, strings.Join(good, ", "), read...)
}

// dropbearEnds reads -p and -l. With -i a super-server listens.
func dropbearEnds(in dropbearServer) []endpoint {
	flags, values := dropbearOptions(in.words)
	if flags["-i"] {
		return nil
	}
	if l := values["-l"]; l != "" {
		return []endpoint{{in.where, l, "dropbear"}}
	}
	var out []endpoint
	for p := range strings.FieldsSeq(values["-p"]) {
		out = append(out, endpoint{in.where, hostOf(p), "dropbear"})
	}
	if len(out) == 0 {
		out = []endpoint{{in.where, "", "dropbear"}}
	}
	return out
}

// sshdEnds reads ListenAddress, of which every line counts.
func sshdEnds(s sshdSetup) []endpoint {
	var out []endpoint
	for _, l := range s.lines {
		if l.keyword == "listenaddress" && len(l.args) > 0 && l.block == 0 {
			out = append(out, endpoint{l.where(), hostOf(l.args[0]), "sshd"})
		}
	}
	if len(out) == 0 {
		out = []endpoint{{s.config, "", "sshd"}}
	}
	return out
}

// hostOf gives the host of HOST, HOST:PORT, [HOST]:PORT or PORT; "" for every address.
func hostOf(p string) string {
	if a, err := netip.ParseAddr(strings.Trim(p, "[]")); err == nil {
		if a.IsUnspecified() {
			return ""
		}
		return a.String()
	}
	i := strings.LastIndexByte(p, ':')
	if i < 0 {
		if strings.Trim(p, "0123456789") == "" || p == "*" {
			return ""
		}
		return p
	}
	host := strings.Trim(p[:i], "[]")
	if a, err := netip.ParseAddr(host); host == "*" || err == nil && a.IsUnspecified() {
		return ""
	}
	return host
}
