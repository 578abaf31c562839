// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// dropbearCheck wants the dropbear server to be started with some flags and without others, or with an option that has a
// number in a range. Its built-in default, which counts when nothing says otherwise, lets root log in with a password and
// forwards ports.
type dropbearCheck struct {
	Any     []string `json:"require_any"` // one of these is enough
	All     []string `json:"require_all"`
	Deny    []string `json:"deny"`
	Set     []string `json:"set"` // flags that a fix adds
	Option  string   `json:"option"`
	Min     int      `json:"min"` // of the option's value
	Max     int      `json:"max"`
	Default int      `json:"default"`
	Value   int      `json:"value"` // what a fix writes
}

func dropbearKind() Kind {
	return Kind{
		Name: "dropbear", Target: `"arguments"`,
		Want: `{"require_any": [flags], "require_all": [flags], "deny": [flags], "set": [flags]}, flags such as "-s"; or {"option": "-T", "min": 1, "max": 4, "default": 10, "value": 3}`,
		Fix:  "add and take flags in /etc/default/dropbear or its like, or the options of /etc/config/dropbear on OpenWrt; passwords are not switched off while no account has a key",
		New: func(target string, want []byte) (Check, error) {
			var c dropbearCheck
			if err := decodeWant(want, &c); err != nil {
				return nil, err
			}
			if target != "arguments" {
				return nil, errors.New(`target: want "arguments"`)
			}
			return c, c.valid()
		},
	}
}

// dropbearTakesValue are the options that are followed by a value.
const dropbearTakesValue = "brDGcpPlWKIMTAQ"

func (c dropbearCheck) valid() error {
	flags := len(c.Any) + len(c.All) + len(c.Deny)
	if c.Option != "" {
		if flags > 0 || len(c.Set) > 0 || len(c.Option) != 2 || !strings.ContainsRune("TIK", rune(c.Option[1])) {
			return errors.New("want.option: -T, -I or -K, and no flags")
		}
		if c.Min > c.Max || c.Value != 0 && (c.Value < c.Min || c.Value > c.Max) {
			return errors.New("want: min, value and max are not in order")
		}
		return nil
	}
	if flags == 0 {
		return errors.New("want: give require_any, require_all, deny or option")
	}
	for _, f := range slices.Concat(c.Any, c.All, c.Deny, c.Set) {
		if len(f) != 2 || f[0] != '-' || strings.ContainsRune(dropbearTakesValue, rune(f[1])) {
			return fmt.Errorf("want: %q is no flag of dropbear without a value", f)
		}
	}
	if len(c.Set) > 0 && len(c.bad(c.Set)) > 0 {
		return errors.New("want.set: does not give what the rule requires, so the fix would not help")
	}
	return nil
}

func (c dropbearCheck) Claims() []string {
	out := prefixed("dropbear:", slices.Concat(c.Set, c.Deny))
	if c.Option != "" {
		out = append(out, "dropbear:"+c.Option)
	}
	return out
}

func (c dropbearCheck) Tightens(old Check) error {
	o, ok := old.(dropbearCheck)
	if !ok || o.Option != c.Option || o.Default != c.Default {
		return errors.New("another kind or option")
	}
	if f, ok := subset(o.All, c.All); !ok {
		return fmt.Errorf("%s is not required", f)
	}
	if f, ok := subset(o.Deny, c.Deny); !ok {
		return fmt.Errorf("%s is not denied", f)
	}
	if f, ok := subset(c.Any, o.Any); len(o.Any) > 0 && (!ok || len(c.Any) == 0) {
		return fmt.Errorf("%s is enough", f)
	}
	if c.Min < o.Min || c.Max > o.Max {
		return fmt.Errorf("%d to %d allows more than %d to %d", c.Min, c.Max, o.Min, o.Max)
	}
	return nil
}

// dropbearOptions reads flags, merged ones too (-sgjk, -Rp 22), and the values of options. Of an option that is given twice
// the last counts; -p and -l are kept all, divided by blanks.
func dropbearOptions(words []string) (flags map[string]bool, values map[string]string) {
	flags, values = map[string]bool{}, map[string]string{}
	for i := 0; i < len(words); i++ {
		w := words[i]
		if len(w) < 2 || w[0] != '-' {
			continue
		}
		for j := 1; j < len(w); j++ {
			o := "-" + w[j:j+1]
			if strings.IndexByte(dropbearTakesValue, w[j]) < 0 {
				flags[o] = true
				continue
			}
			v := w[j+1:]
			if v == "" && i+1 < len(words) {
				i++ // the next word is the value
				v = words[i]
			}
			if old, ok := values[o]; ok && (o == "-p" || o == "-l") {
				v = old + " " + v
			}
			values[o] = v
			break
		}
	}
	return flags, values
}

// bad says what is wrong with arguments.
func (c dropbearCheck) bad(words []string) (out []string) {
	flags, values := dropbearOptions(words)
	if c.Option != "" {
		n := c.Default
		v, given := values[c.Option]
		if given {
			n, _ = strconv.Atoi(v)
		}
		switch {
		case n >= c.Min && n <= c.Max:
		case given:
			out = append(out, c.Option+" "+v)
		default:
			out = append(out, fmt.Sprintf("no %s, which means %d", c.Option, c.Default))
		}
		return out
	}
	has := func(f string) bool { return flags[f] }
	if len(c.Any) > 0 && !slices.ContainsFunc(c.Any, has) {
		out = append(out, "none of "+strings.Join(c.Any, " "))
	}
	for _, f := range c.All {
		if !has(f) {
			out = append(out, "no "+f)
		}
	}
	for _, f := range c.Deny {
		if has(f) {
			out = append(out, "has "+f)
		}
	}
	return out
}

func (c dropbearCheck) expect() string {
	var parts []string
	if c.Option != "" {
		parts = append(parts, fmt.Sprintf("%s %d to %d", c.Option, c.Min, c.Max))
	}
	if len(c.Any) > 0 {
		parts = append(parts, "one of "+strings.Join(c.Any, " "))
	}
	if len(c.All) > 0 {
		parts = append(parts, strings.Join(c.All, " "))
	}
	if len(c.Deny) > 0 {
		parts = append(parts, "not "+strings.Join(c.Deny, ", "))
	}
	return strings.Join(parts, ", ")
}

func (c dropbearCheck) Check(ctx context.Context, h *Host) Verdict {
	s, err := findDropbear(ctx, h)
	if errors.Is(err, errNoDropbear) {
		return notApplicable(err.Error())
	}
	if err != nil {
		return Verdict{Result: Unknown, Reason: err.Error(), Implementation: "dropbear"}
	}
	var items, old []Item
	good := ""
	for _, in := range s.servers {
		args := strings.TrimSpace(strings.Join(in.words, " "))
		if args == "" {
			args = "no arguments"
		}
		bad := c.bad(in.words)
		if len(bad) == 0 && good == "" {
			good = "dropbear is started with " + printable(args)
		}
		if v, err := s.variable(ctx, h, in); err == nil && v.line > 0 {
			if in.where = at(v.file, v.line); !slices.Contains(s.read, v.file) {
				s.read = append(s.read, v.file)
			}
		}
		for _, why := range bad {
			it := Item{Subject: "dropbear", Where: in.where, Observed: printable(args) + ": " + why, Expected: c.expect()}
			if in.live {
				old = append(old, it)
			} else {
				items = append(items, it)
			}
		}
	}
	if s.files() == 0 { // nothing but what runs
		items, old = old, nil
	}
	if len(s.servers) == 0 {
		return notApplicable("dropbear is here, and " + uciFile + " starts none")
	}
	v := judged(items, good, s.read...)
	if len(items) == 0 && len(old) > 0 {
		v.Result, v.Items, v.Reason = RebootNeeded, old, "the files are right, and a server runs that was started with other arguments: "+old[0].Observed
	}
	v.Implementation = "dropbear"
	if s.uci {
		v.Implementation = "dropbear on OpenWrt"
	}
	return v
}

// Fix edits the variable that gives the arguments, or the settings of OpenWrt.
func (c dropbearCheck) Fix(ctx context.Context, h *Host, want func(string) bool) ([]Change, error) {
	s, err := findDropbear(ctx, h)
	if err != nil || !want("dropbear") {
		return nil, err
	}
	wrong := func(in dropbearServer) bool { return !in.live && len(c.bad(in.words)) > 0 }
	if !slices.ContainsFunc(s.servers, wrong) {
		return nil, nil
	}
	if err := c.keepsAWayIn(ctx, h); err != nil {
		return nil, err
	}
	if s.uci {
		out, err := c.fixUCI(ctx, h)
		if err != nil {
			return nil, err
		}
		return proved(ctx, h, c, out)
	}
	done := map[string]bool{}
	var out []Change
	for _, in := range s.servers {
		if !wrong(in) {
			continue
		}
		v, err := s.variable(ctx, h, in)
		if err != nil {
			return nil, err
		}
		if done[v.file+"\x00"+v.name] {
			continue
		}
		done[v.file+"\x00"+v.name] = true
		ch, err := v.change(ctx, h, c.words(v.value, in.words))
		if err != nil {
			return nil, err
		}
		out = append(out, ch...)
	}
	return proved(ctx, h, c, out)
}

// keepsAWayIn refuses to switch off the only way in.
func (c dropbearCheck) keepsAWayIn(ctx context.Context, h *Host) error {
	for _, f := range slices.Concat(c.Set, c.All) {
		switch f {
		case "-s":
			return needKey(ctx, h, false, true)
		case "-g":
			return needKey(ctx, h, true, true)
		case "-w":
			return needKey(ctx, h, true, false)
		}
	}
	return nil
}

// words gives the arguments with missing flags added and denied ones taken out. New flags go first: an option at the end
// that lacks its value would swallow them.
func (c dropbearCheck) words(value string, all []string) string {
	var out []string
	have, _ := dropbearOptions(all)
	for _, f := range slices.Concat(c.Set, c.All) {
		if !have[f] {
			have[f] = true
			out = append(out, f)
		}
	}
	fields := strings.Fields(value)
	for i := 0; i < len(fields); i++ {
		w := fields[i]
		if len(w) < 2 || w[0] != '-' {
			out = append(out, w)
			continue
		}
		kept, valued := "-", false
		for j := 1; j < len(w) && !valued; j++ {
			valued = strings.IndexByte(dropbearTakesValue, w[j]) >= 0
			switch {
			case valued && "-"+w[j:j+1] == c.Option: // with its value
				if j == len(w)-1 {
					i++
				}
			case valued:
				kept += w[j:]
				if j == len(w)-1 && i+1 < len(fields) {
					i++
					kept += " " + fields[i]
				}
			case !slices.Contains(c.Deny, "-"+w[j:j+1]):
				kept += w[j : j+1]
			}
		}
		if kept != "-" {
			out = append(out, kept)
		}
	}
	if c.Option != "" && c.Value != 0 {
		out = append([]string{c.Option, strconv.Itoa(c.Value)}, out...)
	}
	return strings.Join(out, " ")
}
