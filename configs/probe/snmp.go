// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// snmpCheck wants no SNMP community that strangers know, and no user with broken ciphers.
type snmpCheck struct {
	Find  []string `json:"find"`  // default, write, crypto
	Names []string `json:"names"` // more community names that count as known
}

func snmpKind() Kind {
	return Kind{
		Name: "snmp", Target: `"access": snmpd.conf, OpenWrt's settings of snmpd, mini_snmpd and its arguments`,
		Want: `{"find": ["default", "write", "crypto"], "names": [communities]}; find is required: a community with a published name, one that may write, a user with MD5 or DES. What only this device reaches does not count`,
		Fix:  "put the line or the section out of use",
		New: func(target string, want []byte) (Check, error) {
			var c snmpCheck
			if err := decodeWant(want, &c); err != nil {
				return nil, err
			}
			if target != "access" {
				return nil, errors.New(`target: want "access"`)
			}
			if f, ok := subset(c.Find, []string{"default", "write", "crypto"}); !ok || len(c.Find) == 0 {
				return nil, fmt.Errorf("want.find: %q, want default, write or crypto", f)
			}
			return c, nil
		},
	}
}

func (c snmpCheck) Claims() []string { return prefixed("snmp:", c.Find) }

func (c snmpCheck) Tightens(old Check) error {
	o, ok := old.(snmpCheck)
	if !ok {
		return errors.New("another kind")
	}
	if f, ok := subset(o.Find, c.Find); !ok {
		return fmt.Errorf("%s is not searched for", f)
	}
	if n, ok := subset(o.Names, c.Names); !ok {
		return fmt.Errorf("%q is missing", n)
	}
	return nil
}

// snmpAccess is one way in.
type snmpAccess struct {
	file      string
	line, end int
	directive string
	community string
	source    string
	write     bool
	weak      string // of a user: the broken algorithm
	program   bool   // it is an argument or a default of the program, not a line
}

// local reports whether only this device gets in.
func (a snmpAccess) local() bool {
	s := strings.ToLower(a.source)
	if s == "localhost" || s == "localhost6" || strings.HasPrefix(s, "127.") {
		return true
	}
	p, err := netip.ParsePrefix(s)
	if err == nil {
		return p.Addr().IsLoopback()
	}
	ip, err := netip.ParseAddr(s)
	return err == nil && ip.IsLoopback()
}

// knownCommunities are names that are tried first.
func knownCommunities() []string {
	return []string{"public", "private", "admin", "snmp", "snmpd", "manager", "monitor", "community", "cisco", "default", "test", "guest", "write", "read", "rw", "ro",
		"secret", "password", "root", "security", "system", "router", "switch", "0", "1234", "12345", "123456"}
}

// parseSnmpd reads net-snmp's own file.
func parseSnmpd(data []byte) []snmpAccess {
	var out []snmpAccess
	n := 0
	for l := range strings.Lines(string(data)) {
		n++
		f := strings.Fields(l)
		if len(f) < 2 || strings.HasPrefix(f[0], "#") || len(out) >= maxCommands {
			continue
		}
		a := snmpAccess{line: n, end: n, directive: strings.ToLower(f[0])}
		arg := func(i int) string {
			if i < len(f) {
				return strings.Trim(f[i], `"'`)
			}
			return ""
		}
		switch a.directive {
		case "rocommunity", "rocommunity6", "rwcommunity", "rwcommunity6":
			a.community, a.source, a.write = arg(1), arg(2), a.directive[1] == 'w'
		case "authcommunity":
			a.community, a.source, a.write = arg(2), arg(3), strings.Contains(arg(1), "write")
		case "com2sec", "com2sec6", "com2secunix":
			i := 1
			if arg(1) == "-Cn" {
				i = 3
			}
			a.source, a.community = arg(i+1), arg(i+2)
			if a.directive == "com2secunix" {
				a.source = "localhost"
			}
		case "createuser":
			if i := slices.IndexFunc(f, func(w string) bool { return w == "MD5" || w == "DES" }); i > 0 {
				a.weak = f[i]
			}
		default:
			continue
		}
		if a.community != "" || a.weak != "" {
			out = append(out, a)
		}
	}
	return out
}

// parseSnmpUCI reads the settings OpenWrt makes snmpd.conf from.
func parseSnmpUCI(data []byte) []snmpAccess {
	var out []snmpAccess
	for _, s := range parseUCI(data) {
		if s.kind == "com2sec" || s.kind == "com2sec6" || s.kind == "mini_snmpd" {
			if e, ok := s.options["enabled"]; ok && !uciOn(e.value) {
				continue
			}
			a := snmpAccess{line: s.line, end: s.end, directive: s.kind, community: s.options["community"].value, source: s.options["source"].value}
			if a.community == "" && s.kind == "mini_snmpd" {
				a.community = "public" // built in
			}
			out = append(out, a)
		}
	}
	return out
}

// access lists every way in. A program that is there and has no file has its built-in default.
func (c snmpCheck) access(ctx context.Context, h *Host) (out []snmpAccess, read []string, err error) {
	files, err := h.expand([]string{"/etc/snmp/snmpd.conf", "/etc/snmp/snmpd.conf.d/*.conf", "/etc/snmpd.conf", "/usr/share/snmp/snmpd.conf", "/usr/local/etc/snmp/snmpd.conf", "/etc/config/snmpd", "/etc/config/mini_snmpd"})
	if err != nil {
		return nil, nil, err
	}
	for _, f := range files {
		data, err := h.Read(ctx, f)
		if err != nil {
			return out, read, err
		}
		read = append(read, printable(f))
		parse := parseSnmpd
		if strings.HasPrefix(f, "/etc/config/") {
			parse = parseSnmpUCI
		}
		for _, a := range parse(data) {
			if a.file, err = h.Resolve(f); err != nil {
				return out, read, err
			}
			out = append(out, a)
		}
	}
	for _, s := range h.starts(ctx).on("mini_snmpd", "mini-snmpd") {
		a := snmpAccess{file: s.file, line: s.line, directive: "mini_snmpd", community: "public", program: true}
		for i, w := range s.args() {
			if (w == "-c" || w == "--community") && i+1 < len(s.args()) {
				a.community = s.args()[i+1]
			} else if v, ok := strings.CutPrefix(w, "--community="); ok {
				a.community = v
			}
		}
		read = append(read, printable(s.file))
		if !strings.Contains(a.community, "$") {
			out = append(out, a)
		}
	}
	return out, read, nil
}

// why says what is wrong with one way in, "" for nothing. A community is a password: of those that are not known to
// everybody only the kind is told.
func (c snmpCheck) why(a snmpAccess) string {
	known := slices.Contains(knownCommunities(), strings.ToLower(a.community)) || slices.Contains(c.Names, a.community)
	switch {
	case a.weak != "":
		if slices.Contains(c.Find, "crypto") {
			return "a user with " + a.weak
		}
	case a.local():
	case known && slices.Contains(c.Find, "default"):
		return a.directive + " " + a.community
	case a.write && slices.Contains(c.Find, "write"):
		return a.directive + ": a community that may write"
	}
	return ""
}

func (c snmpCheck) Check(ctx context.Context, h *Host) Verdict {
	list, read, err := c.access(ctx, h)
	if err != nil && len(list) == 0 {
		return unknown(err)
	}
	if len(read) == 0 {
		if p := h.findProgram("snmpd", "mini_snmpd"); p != "" {
			return notApplicable(printable(p) + " is here, without configuration and nothing starts it: it answers nobody")
		}
		return notApplicable("no snmpd, no mini_snmpd and no configuration of one")
	}
	var items []Item
	for _, a := range list {
		if why := c.why(a); why != "" {
			items = append(items, Item{Subject: a.directive, Where: at(a.file, a.line), Observed: printable(why), Expected: "SNMPv3 with SHA and AES, or a name of its own and a source"})
		}
	}
	return judged(items, fmt.Sprintf("%d ways in, none as searched for", len(list)), read...)
}

func (c snmpCheck) Fix(ctx context.Context, h *Host, want func(string) bool) ([]Change, error) {
	list, _, err := c.access(ctx, h)
	if err != nil {
		return nil, err
	}
	var out []Change
	var errs []error
	texts := map[string]*text{}
	var order []string
	for _, a := range list {
		if c.why(a) == "" || !want(a.directive) {
			continue
		}
		if a.program {
			errs = append(errs, fmt.Errorf("%s has the community in its arguments: %w", at(a.file, a.line), ErrNoFix))
			continue
		}
		if texts[a.file] == nil {
			t, err := openText(ctx, h, a.file)
			if err != nil {
				return nil, err
			}
			texts[a.file] = t
			order = append(order, a.file)
		}
		for n := a.line; n <= a.end; n++ {
			if s := strings.TrimSpace(texts[a.file].line(n)); s != "" && s[0] != '#' {
				texts[a.file].disable(n)
			}
		}
	}
	for _, f := range order {
		out = append(out, texts[f].changes(true)...)
	}
	return out, errors.Join(errs...)
}
