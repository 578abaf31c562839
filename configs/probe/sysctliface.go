// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
)

// ifaceCheck wants a parameter of every network interface to have an effective value. What the kernel does on an interface
// follows from the value of the interface and that of "all", in a way that differs from key to key; "default" is what
// interfaces get that appear later, and is judged as one.
type ifaceCheck struct {
	family, name string
	span
	Combine string `json:"combine"`
	Builtin *int64 `json:"builtin"` // the kernel's own value of an interface; nil: it differs between systems
}

// combine gives the effective value of own, the value of an interface, together with all. forwarding is that of the
// interface. The formulas are those of include/linux/inetdevice.h and net/ipv6 (exthdrs.c, ndisc.c, addrconf.h).
func combine(how string, all, own, forwarding int64) int64 {
	switch how {
	case "max":
		return max(all, own)
	case "min":
		return min(all, own)
	case "or":
		return truth(all != 0 || own != 0)
	case "and":
		return truth(all != 0 && own != 0)
	case "redirects": // IN_DEV_RX_REDIRECTS: a host is redirected by either value, a router by both
		if forwarding != 0 {
			return truth(all != 0 && own != 0)
		}
		return truth(all != 0 || own != 0)
	case "ra": // ipv6_accept_ra: a router takes advertisements with 2 only
		if forwarding != 0 {
			return truth(own == 2)
		}
	}
	return own
}

var combinations = []string{"max", "min", "or", "and", "redirects", "ra", "own"}

func truth(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

const maxIfaces = 1024

func sysctlIfaceKind() Kind {
	return Kind{
		Name: "sysctl-iface", Target: "net.ipv4.conf.*.NAME or net.ipv6.conf.*.NAME",
		Want: `{"combine": "max", "one_of": [values], "set": V} or with "min" and "max"; combine is how the kernel makes one value of that of the interface and that of all: ` +
			strings.Join(combinations, ", ") + `; required. "builtin": N is the kernel's own value of an interface, for an image that sets only all`,
		Fix: "write the value for all and default, and for each interface that still is not as wanted; the first two also into the sysctl files",
		New: func(target string, want []byte) (Check, error) {
			var c ifaceCheck
			if err := decodeWant(want, &c); err != nil {
				return nil, err
			}
			pre, name, ok := strings.Cut(target, ".conf.*.")
			if !ok || (pre != "net.ipv4" && pre != "net.ipv6") || !sysctlName(pre+"."+name) || strings.ContainsAny(name, "./") {
				return nil, fmt.Errorf("target: %q, want net.ipv4.conf.*.NAME or net.ipv6.conf.*.NAME", target)
			}
			c.family, c.name = pre[len("net."):], name
			if !slices.Contains(combinations, c.Combine) {
				return nil, fmt.Errorf("want.combine: %q, want one of %s", c.Combine, strings.Join(combinations, ", "))
			}
			if err := c.span.check(); err != nil {
				return nil, err
			}
			if n, err := strconv.ParseInt(c.Set, 10, 64); c.Set != "" && (err != nil || !c.goodN(combine(c.Combine, n, n, 0))) {
				return nil, fmt.Errorf("want.set: %q is not a wanted value, so the fix would not help", c.Set)
			}
			return c, nil
		},
	}
}

func (c ifaceCheck) target() string { return "net." + c.family + ".conf.*." + c.name }

func (c ifaceCheck) Claims() []string { return []string{"sysctl:" + c.target()} }

func (c ifaceCheck) Tightens(old Check) error {
	o, ok := old.(ifaceCheck)
	if !ok || o.target() != c.target() || o.Combine != c.Combine {
		return errors.New("another target")
	}
	return c.within(o.span)
}

func (c ifaceCheck) goodN(v int64) bool { return c.good(strconv.FormatInt(v, 10)) }

func (c ifaceCheck) path(iface, name string) string {
	return "net/" + c.family + "/conf/" + iface + "/" + name
}

// ifaceValues are the values of one tree or of the next start, by interface.
type ifaceValues struct {
	own, forwarding map[string]int64
	from            map[string]sysctlLine // the line that sets an interface's value at the next start
}

// read takes the values of the running kernel. It returns fs.ErrNotExist when there is no such key at all.
func (c ifaceCheck) read(ctx context.Context, h *Host) (v ifaceValues, names []string, err error) {
	names, err = h.Names("/proc/sys/net/"+c.family+"/conf", maxIfaces)
	if err != nil {
		return v, nil, err
	}
	v = ifaceValues{own: map[string]int64{}, forwarding: map[string]int64{}, from: map[string]sysctlLine{}}
	var had []string
	for _, n := range names {
		data, err := h.Read(ctx, "/proc/sys/"+c.path(n, c.name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // gone meanwhile, or an interface without this key
		}
		if err != nil {
			return v, nil, err
		}
		if v.own[n], err = strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64); err != nil {
			return v, nil, fmt.Errorf("read %s: %q is not a number", c.path(n, c.name), printable(string(data)))
		}
		if fwd, err := h.Read(ctx, "/proc/sys/"+c.path(n, "forwarding")); err == nil {
			v.forwarding[n], _ = strconv.ParseInt(strings.TrimSpace(string(fwd)), 10, 64)
		}
		had = append(had, n)
	}
	if len(had) == 0 {
		return v, nil, fs.ErrNotExist
	}
	return v, had, nil
}

// next lays what the files set over the values.
func (c ifaceCheck) next(settings []sysctlLine, v ifaceValues, names []string) ifaceValues {
	out := ifaceValues{own: map[string]int64{}, forwarding: v.forwarding, from: map[string]sysctlLine{}}
	for _, n := range names {
		out.own[n] = v.own[n]
		s := persisted(settings, c.path(n, c.name))
		if s.line == 0 {
			continue
		}
		out.from[n] = s
		if k, err := strconv.ParseInt(s.value, 10, 64); err == nil {
			out.own[n] = k
		}
	}
	return out
}

// bad lists the interfaces whose effective value is not as wanted. Nobody reaches the loopback interface from outside.
func (c ifaceCheck) bad(v ifaceValues, names []string) (out []string) {
	for _, n := range names {
		if n != "all" && n != "lo" && !c.goodN(combine(c.Combine, v.own["all"], v.own[n], v.forwarding[n])) {
			out = append(out, n)
		}
	}
	return out
}

// item describes one interface. The subject names the interface, so that a waiver can.
func (c ifaceCheck) item(v ifaceValues, n string) Item {
	it := Item{Subject: printable(n), Where: "/proc/sys/" + printable(c.path(n, c.name)), Expected: c.expect()}
	it.Observed = fmt.Sprintf("%d here and %d in all is %d in effect", v.own[n], v.own["all"], combine(c.Combine, v.own["all"], v.own[n], v.forwarding[n]))
	if c.Combine == "own" || c.Combine == "ra" {
		it.Observed = strconv.FormatInt(v.own[n], 10)
	}
	for _, from := range []string{n, "all"} {
		if s := v.from[from]; s.line > 0 {
			it.Where = at(s.file, s.line)
			break
		}
	}
	return it
}

func (c ifaceCheck) Check(ctx context.Context, h *Host) Verdict {
	settings, err := sysctlSettings(ctx, h)
	if err != nil {
		return unknown(err)
	}
	v, names, err := c.read(ctx, h)
	if errors.Is(err, fs.ErrNotExist) {
		if hasSysctls(h) {
			return notApplicable("/proc/sys/" + c.path("*", c.name) + " is not there: the kernel is built without it")
		}
		return c.image(ctx, h, settings)
	}
	if err != nil {
		return unknown(err)
	}
	var items []Item
	read := []string{"/proc/sys/" + c.path("*", c.name)}
	bad := c.bad(v, names)
	for _, n := range bad {
		items = append(items, c.item(v, n))
	}
	after := c.next(settings, v, names)
	for _, n := range c.bad(after, names) {
		s, own := after.from[n]
		if all := after.from["all"]; !own {
			s = all
		}
		if s.line == 0 {
			continue // no file has a part in it
		}
		read = append(read, printable(s.file))
		if it := c.item(after, n); !slices.Contains(items, it) {
			items = append(items, it)
		}
	}
	return judged(items, fmt.Sprintf("%s is %s in effect on %d interfaces", c.target(), c.expect(), len(names)), read...)
}

// image judges what the files say alone. What they leave open is tried with 0 and with 1, the defaults of the kernel and
// of the systems that change them; a verdict that depends on it is unknown. Where a file sets all, somebody has decided
// about this key, and interfaces that no file names have the kernel's own value, if the rule knows it.
func (c ifaceCheck) image(ctx context.Context, h *Host, settings []sysctlLine) Verdict {
	all, def := persisted(settings, c.path("all", c.name)), persisted(settings, c.path("default", c.name))
	fwd := c.forwards(settings)
	if c.Combine == "redirects" && fwd.line > 0 && fwd.value != "0" && all.line > 0 && before(settings, all, fwd) {
		all.value = "0" // the kernel stops obeying redirects when it becomes a router (inet_forward_change)
	}
	open := []int64{0, 1}
	owns := hypotheses(def, open)
	if c.Builtin != nil && all.line > 0 && def.line == 0 {
		owns = []int64{*c.Builtin}
	}
	outcomes := map[bool]bool{}
	for _, f := range hypotheses(fwd, open) {
		for _, a := range hypotheses(all, open) {
			for _, own := range owns {
				outcomes[c.goodN(combine(c.Combine, a, own, f))] = true
			}
		}
	}
	var reason, read []string
	for _, s := range []sysctlLine{all, def} {
		if s.line > 0 {
			reason, read = append(reason, at(s.file, s.line)+" sets "+printable(s.key)+" to "+printable(s.value)), append(read, printable(s.file))
		}
	}
	switch {
	case len(reason) == 0:
		return Verdict{Result: Unknown, Reason: "no file sets " + c.target() + " and the kernel's own values are not in an image"}
	case len(outcomes) > 1:
		return Verdict{Result: Unknown, Reason: strings.Join(reason, ", ") + "; the effect depends on values that are not in an image"}
	case outcomes[true]:
		return appliedAtStart(ctx, h, reason, read)
	}
	it := Item{Subject: "default", Observed: strings.Join(reason, ", "), Expected: c.expect()}
	if it.Where = at(all.file, all.line); def.line > 0 {
		it.Where = at(def.file, def.line)
	}
	return judged([]Item{it}, "", read...)
}

// hypotheses are the values a setting can have at the next start: its own, or open where no file gives one.
func hypotheses(s sysctlLine, open []int64) []int64 {
	if n, err := strconv.ParseInt(s.value, 10, 64); err == nil && s.line > 0 {
		return []int64{n}
	}
	return open
}

// forwards finds the line that makes a router of the system or not. ip_forward is another name of conf.all.forwarding.
func (c ifaceCheck) forwards(settings []sysctlLine) sysctlLine {
	s := persisted(settings, c.path("all", "forwarding"))
	if ip := persisted(settings, "net/ipv4/ip_forward"); c.family == "ipv4" && ip.line > 0 && (s.line == 0 || before(settings, s, ip)) {
		s = ip
	}
	return s
}

// before reports whether a is written to the kernel before b.
func before(settings []sysctlLine, a, b sysctlLine) bool {
	return slices.Index(settings, a) < slices.Index(settings, b)
}

func (c ifaceCheck) Fix(ctx context.Context, h *Host, want func(string) bool) ([]Change, error) {
	if c.Set == "" {
		return nil, fmt.Errorf("the rule gives no value to set: %w", ErrNoFix)
	}
	settings, err := sysctlSettings(ctx, h)
	if err != nil {
		return nil, err
	}
	v, names, err := c.read(ctx, h)
	if errors.Is(err, fs.ErrNotExist) && !hasSysctls(h) {
		if !want("default") || c.image(ctx, h, settings).Result != Fail {
			return nil, nil
		}
		return c.keep(ctx, h, settings, []string{"all", "default"})
	}
	if err != nil {
		return nil, err
	}
	wanted := func(list []string) []string {
		return slices.DeleteFunc(list, func(n string) bool { return !want(printable(n)) })
	}
	bad, later := wanted(c.bad(v, names)), wanted(c.bad(c.next(settings, v, names), names))
	if len(bad)+len(later) == 0 {
		return nil, nil
	}
	keep := []string{"all", "default"}
	for _, n := range later {
		if persisted(settings, c.path(n, c.name)).line > 0 && !slices.Contains(keep, n) {
			keep = append(keep, n)
		}
	}
	out, err := c.keep(ctx, h, settings, keep)
	if err != nil {
		return nil, err
	}
	set, _ := strconv.ParseInt(c.Set, 10, 64)
	for _, n := range []string{"all", "default"} {
		if !slices.Contains(names, n) || c.goodN(v.own[n]) || len(bad) == 0 {
			continue
		}
		if out, err = c.write(ctx, h, out, n); err != nil {
			return nil, err
		}
		v.own[n] = set
	}
	for _, n := range wanted(c.bad(v, names)) {
		if out, err = c.write(ctx, h, out, n); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (c ifaceCheck) write(ctx context.Context, h *Host, plan []Change, iface string) ([]Change, error) {
	name := "/proc/sys/" + c.path(iface, c.name)
	now, err := h.Read(ctx, name)
	if err != nil {
		return nil, err
	}
	p, err := h.Resolve(name)
	return append(plan, Change{Op: Kernel, Path: p, Before: now, After: []byte(c.Set + "\n")}), err
}

// keep plans the lines for the next start: one for each of the names that has none or a wrong one.
func (c ifaceCheck) keep(ctx context.Context, h *Host, settings []sysctlLine, names []string) ([]Change, error) {
	texts := map[string]*text{}
	var order, add []string
	for _, n := range names {
		s := persisted(settings, c.path(n, c.name))
		switch {
		case s.line > 0 && c.good(s.value):
		case s.line > 0 && s.key == c.path(n, c.name):
			t := texts[s.file]
			if t == nil {
				var err error
				if t, err = openText(ctx, h, s.file); err != nil {
					return nil, err
				}
				texts[s.file] = t
				order = append(order, s.file)
			}
			t.setSysctl(s.line, c.Set)
		default:
			add = append(add, sysctlKey(c.path(n, c.name))+" = "+c.Set)
		}
	}
	var out []Change
	for _, f := range order {
		out = append(out, texts[f].changes(false)...)
	}
	if len(add) == 0 {
		return out, nil
	}
	// A file that is edited above may be the one that gets the lines: one change for each file.
	for _, f := range []string{"/etc/sysctl.conf", "/etc/sysctl.d/zz-backstay.conf"} {
		if t := texts[f]; t != nil {
			for _, l := range add {
				t.insert(len(t.lines)+1, l)
			}
			out = nil
			for _, f := range order {
				out = append(out, texts[f].changes(false)...)
			}
			return out, nil
		}
	}
	more, err := addSysctl(ctx, h, add...)
	return append(out, more...), err
}
