// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
)

// sshdCheck wants an OpenSSH server setting to have a value. The first value of a keyword counts; Match blocks are
// conditional and count as well, because somebody meets the condition.
type sshdCheck struct {
	keyword string
	OneOf   []string `json:"one_of"`
	Min     int      `json:"min"`  // with max: a number or a time in seconds
	Max     int      `json:"max"`  //
	Deny    []string `json:"deny"` // no word of the value may match one of these patterns
	Default string   `json:"default"`
	Set     string   `json:"set"`
}

func sshdKind() Kind {
	return Kind{
		Name: "sshd", Target: "a keyword of sshd_config",
		Want: `{"one_of": [values]} or {"min": N, "max": N} for a number or a time in seconds or {"deny": [patterns]} for a list of words; ` +
			`"default": what counts when nothing sets it (algorithm lists: those of the version that is here), "set": V for the fix (lists: what is denied is taken out)`,
		Fix: "write set in place of the value that counts, or into sshd_config.d/" + sshdDropIn + " where that is included first, or before the first setting; " +
			"passwords are not switched off while no account has a key",
		New: func(target string, want []byte) (Check, error) {
			c := sshdCheck{keyword: target}
			if err := decodeWant(want, &c); err != nil {
				return nil, err
			}
			return c, c.valid()
		},
	}
}

func (c sshdCheck) valid() error {
	kinds := 0
	for _, given := range []bool{len(c.OneOf) > 0, c.Max > 0, len(c.Deny) > 0} {
		if given {
			kinds++
		}
	}
	for _, p := range c.Deny {
		if _, err := path.Match(p, ""); err != nil {
			return fmt.Errorf("want.deny: %q is no pattern", p)
		}
	}
	switch {
	case c.keyword == "" || strings.ContainsAny(c.keyword, " \t\r\n=#\"'\\") || sshdRenamed(strings.ToLower(c.keyword)) != strings.ToLower(c.keyword):
		return fmt.Errorf("target: %q is no keyword of today", c.keyword)
	case kinds != 1:
		return errors.New("want: exactly one of one_of, max and deny is required")
	case c.Min < 0 || c.Min > c.Max:
		return errors.New("want.min: not between 0 and max")
	case c.Default == "" && !c.algorithms():
		return errors.New("want.default is required: what sshd does when nothing sets it")
	case c.Set != "" && (c.wrong([]string{c.Set}) != "" || strings.ContainsAny(c.Set, " \t\r\n\"'\\#=")):
		return errors.New("want.set: not what the rule wants, so the fix would not help")
	}
	return nil
}

// algorithms reports whether the keyword is a list of algorithms, which has +, - and ^ and defaults that differ by version.
func (c sshdCheck) algorithms() bool {
	return slices.Contains([]string{"ciphers", "macs", "kexalgorithms", "hostkeyalgorithms", "pubkeyacceptedalgorithms", "casignaturealgorithms",
		"hostbasedacceptedalgorithms"}, strings.ToLower(c.keyword))
}

// adds reports whether every line of the keyword counts, not the first.
func (c sshdCheck) adds() bool { return strings.EqualFold(c.keyword, "AcceptEnv") }

func (c sshdCheck) Claims() []string { return []string{"sshd:" + strings.ToLower(c.keyword)} }

func (c sshdCheck) Tightens(old Check) error {
	o, ok := old.(sshdCheck)
	if !ok || !strings.EqualFold(o.keyword, c.keyword) || !strings.EqualFold(o.Default, c.Default) || (o.Max > 0) != (c.Max > 0) || (len(o.OneOf) > 0) != (len(c.OneOf) > 0) {
		return errors.New("another keyword, default or sort of want")
	}
	for _, v := range c.OneOf {
		if o.wrong([]string{v}) != "" {
			return fmt.Errorf("%q is allowed", v)
		}
	}
	if c.Max > o.Max || c.Min < o.Min {
		return fmt.Errorf("%d to %d allows more than %d to %d", c.Min, c.Max, o.Min, o.Max)
	}
	if d, ok := subset(o.Deny, c.Deny); !ok {
		return fmt.Errorf("%s is not denied", d)
	}
	return nil
}

func (c sshdCheck) expect() string {
	switch {
	case len(c.OneOf) > 0:
		return strings.Join(c.OneOf, " or ")
	case c.Max > 0:
		return fmt.Sprintf("%d to %d", c.Min, c.Max)
	}
	return "not " + strings.Join(c.Deny, ", ")
}

// wrong gives the part of a value that is not as wanted, "" when it is.
func (c sshdCheck) wrong(args []string) string {
	switch v := args[0]; {
	case len(c.OneOf) > 0:
		if strings.EqualFold(v, "without-password") { // the old name
			v = "prohibit-password"
		}
		if !slices.ContainsFunc(c.OneOf, func(w string) bool { return strings.EqualFold(w, v) }) {
			return v
		}
	case c.Max > 0:
		if n, ok := sshdNumber(v); !ok || n < c.Min || n > c.Max {
			return v
		}
	default:
		for _, w := range args {
			if c.algorithms() {
				if w = c.denied(w); w != "" {
					return w
				}
			} else if matches(c.Deny, w) {
				return w
			}
		}
	}
	return ""
}

// denied lists the algorithms of a list that are denied. After "-" nothing is added, and a pattern takes away.
func (c sshdCheck) denied(list string) string {
	if strings.HasPrefix(list, "-") {
		return ""
	}
	var out []string
	for w := range strings.SplitSeq(strings.TrimLeft(list, "+^"), ",") {
		if matches(c.Deny, w) {
			out = append(out, w)
		}
	}
	return strings.Join(out, ",")
}

func matches(patterns []string, w string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { ok, _ := path.Match(p, w); return ok })
}

// sshdNumber reads a number, a time such as 1h30m in seconds, or of start:rate:full the full.
func sshdNumber(v string) (int, bool) {
	v = v[strings.LastIndexByte(v, ':')+1:]
	sum, digits := 0, ""
	for _, r := range strings.ToLower(v) {
		if r >= '0' && r <= '9' {
			digits += string(r)
			continue
		}
		unit := map[rune]int{'s': 1, 'm': 60, 'h': 3600, 'd': 86400, 'w': 604800}[r]
		n, err := strconv.Atoi(digits)
		if unit == 0 || err != nil || n > 1<<24 {
			return 0, false
		}
		sum, digits = sum+n*unit, ""
	}
	if digits == "" {
		return sum, v != ""
	}
	n, err := strconv.Atoi(digits)
	return sum + n, err == nil && n <= 1<<24
}

// effective gives the line that counts for everybody, nil when none does, and those that count for some. A "Match all" is
// for everybody, and stands before what is outside of blocks.
func (c sshdCheck) effective(lines []sshdLine) (first *sshdLine, some []sshdLine) {
	seen := map[int]bool{}
	var global *sshdLine
	for _, l := range lines {
		if l.keyword != strings.ToLower(c.keyword) || len(l.args) == 0 || seen[l.block] && !c.adds() || first != nil && l.block != 0 && !c.adds() {
			continue
		}
		seen[l.block] = true
		switch {
		case l.block != 0 && !l.all || c.adds() && global != nil:
			some = append(some, l)
		case l.all && l.block != 0:
			first = &l
		default:
			global = &l
		}
	}
	if first == nil {
		first = global
	}
	return first, some
}

// sshdBad is what is not as wanted.
type sshdBad struct {
	line  sshdLine
	what  string // part of the value
	unset bool   // nothing sets it and the default is wrong
}

// bad lists what counts and is not as wanted; open says why a default cannot be judged.
func (c sshdCheck) bad(ctx context.Context, h *Host, s sshdSetup) (bad []sshdBad, reason string, err error) {
	first, some := c.effective(s.lines)
	if first != nil {
		some = append([]sshdLine{*first}, some...)
		reason = fmt.Sprintf("%s is %s at %s", c.keyword, printable(strings.Join(first.args, " ")), first.where())
	}
	for _, l := range some {
		if w := c.wrong(l.args); w != "" {
			bad = append(bad, sshdBad{line: l, what: w})
		}
	}
	def := c.Default
	if c.algorithms() && (first == nil || strings.ContainsAny(first.args[0][:min(1, len(first.args[0]))], "+-^")) {
		// What the version brings is part of the list.
		v := h.version(ctx, s.program, "OpenSSH_")
		if v == "" {
			return bad, reason, fmt.Errorf("%s is not set, and the version of sshd, which decides, is not known", c.keyword)
		}
		def = strings.Join(sshdOldAlgorithms(c.keyword, v), ",")
		if first != nil && strings.HasPrefix(first.args[0], "-") {
			def = without(def, strings.Split(first.args[0][1:], ","))
		}
		if def = c.denied(def); def != "" {
			return append(bad, sshdBad{what: def + " of OpenSSH " + v, unset: true}), reason, nil
		}
		if first == nil {
			reason = c.keyword + " is not set; OpenSSH " + v + " offers none of these by itself"
		}
		return bad, reason, nil
	}
	if first == nil {
		reason = c.keyword + " is not set, which means " + def
		if c.wrong([]string{def}) != "" {
			bad = append(bad, sshdBad{what: def, unset: true})
		}
	}
	return bad, reason, nil
}

// without takes out of a list what matches a pattern.
func without(list string, patterns []string) string {
	return strings.Join(slices.DeleteFunc(strings.Split(list, ","), func(w string) bool { return w == "" || matches(patterns, w) }), ",")
}

// sshdOldAlgorithms are those that a version offers by itself and the versions after it no longer do.
func sshdOldAlgorithms(keyword, version string) []string {
	old := func(v string) bool { return versionLess(version, v) }
	var out []string
	add := func(until string, words ...string) {
		if old(until) {
			out = append(out, words...)
		}
	}
	switch strings.ToLower(keyword) {
	case "ciphers":
		add("6.7", "aes128-cbc", "3des-cbc", "blowfish-cbc", "cast128-cbc", "aes192-cbc", "aes256-cbc", "arcfour", "arcfour128", "arcfour256")
	case "macs":
		add("6.7", "hmac-md5", "hmac-ripemd160", "hmac-sha1-96", "hmac-md5-96")
		add("99", "hmac-sha1", "hmac-sha1-etm@openssh.com", "umac-64@openssh.com", "umac-64-etm@openssh.com")
	case "kexalgorithms":
		add("6.7", "diffie-hellman-group-exchange-sha1", "diffie-hellman-group1-sha1")
		add("8.2", "diffie-hellman-group14-sha1")
	default:
		add("7.0", "ssh-dss")
		add("8.8", "ssh-rsa")
	}
	return out
}

func (c sshdCheck) Check(ctx context.Context, h *Host) Verdict {
	s, err := findSshd(ctx, h)
	if errors.Is(err, errNoSshd) {
		return notApplicable(err.Error())
	}
	if err != nil {
		return unknown(err)
	}
	bad, reason, err := c.bad(ctx, h, s)
	if err != nil && len(bad) == 0 {
		v := unknown(err)
		v.Implementation = "openssh"
		return v
	}
	var items []Item
	for _, b := range bad {
		it := Item{Subject: c.keyword, Where: b.line.where(), Observed: printable(b.what), Expected: c.expect()}
		switch {
		case b.unset:
			it.Where, it.Observed = s.config, "not set, which means "+printable(b.what)
		case b.line.block != 0 && !b.line.all:
			it.Observed += " in a Match block"
		}
		items = append(items, it)
	}
	v := judged(items, reason, s.read...)
	v.Implementation = "openssh"
	return v
}

// Fix mends every line that counts and is wrong.
func (c sshdCheck) Fix(ctx context.Context, h *Host, want func(string) bool) ([]Change, error) {
	s, err := findSshd(ctx, h)
	if err != nil || !want(c.keyword) {
		return nil, err
	}
	bad, _, err := c.bad(ctx, h, s)
	if err != nil || len(bad) == 0 {
		return nil, err
	}
	if c.Set == "" && len(c.Deny) == 0 {
		return nil, fmt.Errorf("the rule gives no value to set: %w", ErrNoFix)
	}
	if err := c.keepsAWayIn(ctx, h); err != nil {
		return nil, err
	}
	e := sshdEdit{h: h, keyword: c.keyword}
	for _, b := range bad {
		value := c.value(b)
		switch {
		case value == "" && !b.unset && c.adds():
			err = e.drop(ctx, b.line)
		case b.unset && c.algorithms() && versionLess(h.version(ctx, s.program, "OpenSSH_"), "7.5"):
			err = fmt.Errorf("this version of sshd does not know how to leave an algorithm out and would not start: %w", ErrNoFix)
		case value == "":
			err = fmt.Errorf("nothing would be left of %s: %w", printable(b.what), ErrNoFix)
		case b.unset:
			err = e.add(ctx, s, value)
		case b.line.line == 0:
			err = fmt.Errorf("%s gives it on the command line: %w", b.line.file, ErrNoFix)
		default:
			err = e.replace(ctx, b.line, value)
		}
		if err != nil {
			return nil, err
		}
	}
	return proved(ctx, h, c, e.changes())
}

// value is what a fix writes for a wrong line.
func (c sshdCheck) value(b sshdBad) string {
	switch {
	case len(c.Deny) == 0:
		return c.Set
	case b.unset:
		return "-" + strings.Join(c.Deny, ",") // takes out of the default, patterns allowed
	case c.algorithms():
		list := b.line.args[0]
		sign := list[:len(list)-len(strings.TrimLeft(list, "+^"))]
		if rest := without(list[len(sign):], c.Deny); rest != "" {
			return sign + rest
		}
		return ""
	}
	return strings.Join(slices.DeleteFunc(slices.Clone(b.line.args), func(w string) bool { return matches(c.Deny, w) }), " ")
}

// keepsAWayIn refuses to switch off the only way in.
func (c sshdCheck) keepsAWayIn(ctx context.Context, h *Host) error {
	switch strings.ToLower(c.keyword) {
	case "passwordauthentication", "kbdinteractiveauthentication", "usepam":
		return needKey(ctx, h, false, true)
	case "permitrootlogin":
		return needKey(ctx, h, true, !strings.EqualFold(c.Set, "no"))
	}
	return nil
}
