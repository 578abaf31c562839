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

// span is a set of wanted values: some words, or numbers between two bounds.
type span struct {
	OneOf []string `json:"one_of"`
	Min   *int64   `json:"min"`
	Max   *int64   `json:"max"`
	Set   string   `json:"set"`
}

func (s span) check() error {
	if len(s.OneOf) == 0 && s.Min == nil && s.Max == nil {
		return errors.New("want: give one_of, min or max")
	}
	if strings.ContainsAny(s.Set, "\r\n") {
		return errors.New("want.set: a line has no line break")
	}
	return nil
}

func (s span) good(v string) bool {
	if len(s.OneOf) > 0 && !slices.Contains(s.OneOf, v) {
		return false
	}
	if s.Min == nil && s.Max == nil {
		return true
	}
	n, err := strconv.ParseInt(v, 10, 64)
	return err == nil && (s.Min == nil || n >= *s.Min) && (s.Max == nil || n <= *s.Max)
}

func (s span) expect() string {
	switch {
	case len(s.OneOf) > 0:
		return strings.Join(s.OneOf, " or ")
	case s.Max == nil:
		return "at least " + strconv.FormatInt(*s.Min, 10)
	case s.Min == nil:
		return "at most " + strconv.FormatInt(*s.Max, 10)
	}
	return fmt.Sprintf("%d to %d", *s.Min, *s.Max)
}

// within returns nil when every value of s is one of o.
func (s span) within(o span) error {
	for _, v := range s.OneOf {
		if !o.good(v) {
			return fmt.Errorf("%q is allowed", v)
		}
	}
	switch {
	case len(s.OneOf) > 0:
	case len(o.OneOf) > 0:
		return errors.New("the floor lists values")
	case o.Min != nil && (s.Min == nil || *s.Min < *o.Min):
		return fmt.Errorf("min is below %d", *o.Min)
	case o.Max != nil && (s.Max == nil || *s.Max > *o.Max):
		return fmt.Errorf("max is above %d", *o.Max)
	}
	return nil
}

// sysctlCheck wants a kernel parameter to have a value, now (/proc/sys) and after the next start (sysctl.conf).
type sysctlCheck struct {
	key string
	span
	First  bool `json:"first"`   // only the first word of the value counts
	OneWay bool `json:"one_way"` // the kernel takes the set value back only at a restart
}

func sysctlKind() Kind {
	return Kind{
		Name: "sysctl", Target: "a key such as kernel.kptr_restrict",
		Want: `{"one_of": [values]} or {"min": n, "max": n}, with "set": V for a fix; "first": true judges the first word of the value; "one_way": true says that V stays until a restart`,
		Fix: "write the value below /proc/sys, and into the file that sets another one, else into /etc/sysctl.d/zz-backstay.conf or /etc/sysctl.conf; " +
			"a one-way value is written after everything else, never on trial and never into a file",
		New: func(target string, want []byte) (Check, error) {
			c := sysctlCheck{key: target}
			if err := decodeWant(want, &c); err != nil {
				return nil, err
			}
			if !sysctlName(target) {
				return nil, fmt.Errorf("target: %q is no kernel parameter", target)
			}
			if err := c.span.check(); err != nil {
				return nil, err
			}
			if c.Set != "" && !c.good(c.Set) {
				return nil, fmt.Errorf("want.set: %q is not a wanted value, so the fix would not help", c.Set)
			}
			return c, nil
		},
	}
}

func sysctlName(s string) bool {
	return strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/") == "" && strings.Contains(s, ".") && !strings.Contains(s, "..")
}

func (c sysctlCheck) Claims() []string { return []string{"sysctl:" + c.key} }

// IsOneWay says that the fix cannot be taken back before a restart.
func (c sysctlCheck) IsOneWay() bool { return c.OneWay }

func (c sysctlCheck) Tightens(old Check) error {
	o, ok := old.(sysctlCheck)
	if !ok || o.key != c.key || o.First != c.First || o.OneWay != c.OneWay {
		return errors.New("another target")
	}
	return c.within(o.span)
}

// good judges a value as read.
func (c sysctlCheck) good(v string) bool {
	if c.First {
		v, _, _ = strings.Cut(v, " ")
	}
	return c.span.good(v)
}

func (c sysctlCheck) live() string { return "/proc/sys/" + sysctlPath(c.key) }

// hasSysctls reports whether the tree shows the parameters of a running kernel, so that one that is missing is not built.
func hasSysctls(h *Host) bool { return h.Live() || h.Exists("/proc/sys/kernel") }

func (c sysctlCheck) Check(ctx context.Context, h *Host) Verdict {
	now, lerr := h.Read(ctx, c.live())
	if lerr != nil && !errors.Is(lerr, fs.ErrNotExist) {
		return unknown(lerr)
	}
	settings, err := sysctlSettings(ctx, h)
	if err != nil {
		return unknown(err)
	}
	kept := persisted(settings, sysctlPath(c.key))
	var items []Item
	var read, reason []string
	if lerr == nil {
		v := strings.Join(strings.Fields(string(now)), " ")
		read, reason = append(read, c.live()), append(reason, c.key+" is "+printable(v))
		if !c.good(v) {
			items = append(items, Item{Subject: c.key, Where: c.live(), Observed: printable(v), Expected: c.expect()})
		}
	}
	if kept.line > 0 {
		read, reason = append(read, printable(kept.file)), append(reason, at(kept.file, kept.line)+" sets "+printable(kept.value))
		if !c.good(kept.value) {
			items = append(items, Item{Subject: c.key, Where: at(kept.file, kept.line), Observed: printable(kept.value), Expected: c.expect()})
		}
	}
	switch {
	case lerr == nil || len(items) > 0 && !hasSysctls(h):
		return judged(items, strings.Join(reason, ", "), read...)
	case hasSysctls(h):
		return notApplicable(c.live() + " is not there: the kernel is built without it")
	case kept.line == 0:
		return Verdict{Result: Unknown, Reason: "no file sets " + c.key + " and the kernel's own value is not in an image"}
	}
	return appliedAtStart(ctx, h, reason, read)
}

// appliedAtStart passes what only files say, if something reads the files.
func appliedAtStart(ctx context.Context, h *Host, reason, read []string) Verdict {
	by, err := appliesSysctl(ctx, h)
	if err != nil {
		return unknown(err)
	}
	if by == "" {
		return Verdict{Result: Unknown, Reason: strings.Join(reason, ", ") + ", and nothing was found that reads it at start"}
	}
	return judged(nil, strings.Join(reason, ", ")+", read at start by "+printable(by), append(read, printable(by))...)
}

func (c sysctlCheck) Fix(ctx context.Context, h *Host, want func(string) bool) ([]Change, error) {
	if c.Set == "" {
		return nil, fmt.Errorf("the rule gives no value to set: %w", ErrNoFix)
	}
	if !want(c.key) {
		return nil, nil
	}
	settings, err := sysctlSettings(ctx, h)
	if err != nil {
		return nil, err
	}
	now, lerr := h.Read(ctx, c.live())
	if lerr != nil && (!errors.Is(lerr, fs.ErrNotExist) || hasSysctls(h)) {
		return nil, lerr
	}
	holds := lerr == nil && c.good(strings.Join(strings.Fields(string(now)), " "))
	if holds && persisted(settings, sysctlPath(c.key)).line == 0 {
		return nil, nil
	}
	out, err := c.keep(ctx, h, settings)
	if err != nil || lerr != nil || holds {
		return out, err
	}
	p, err := h.Resolve(c.live())
	return append(out, Change{Op: Kernel, Path: p, Before: now, After: []byte(c.Set + "\n"), OneWay: c.OneWay}), err
}

// keep plans the setting that survives a start. A value that cannot be taken back is not written to a file: it would come
// before the modules and programs that need it otherwise, at every start.
func (c sysctlCheck) keep(ctx context.Context, h *Host, settings []sysctlLine) ([]Change, error) {
	kept := persisted(settings, sysctlPath(c.key))
	switch {
	case kept.line > 0 && c.good(kept.value):
		return nil, nil
	case kept.key == sysctlPath(c.key):
		t, err := openText(ctx, h, kept.file)
		if err != nil {
			return nil, err
		}
		t.setSysctl(kept.line, c.Set)
		return t.changes(false), nil
	case c.OneWay:
		return nil, nil
	}
	return addSysctl(ctx, h, c.key+" = "+c.Set)
}

// setSysctl replaces the value of a line.
func (t *text) setSysctl(line int, value string) {
	raw := t.line(line)
	t.set(line, raw[:strings.IndexByte(raw, '=')+1]+" "+value)
}

// addSysctl plans lines at the end of the file that is read last.
func addSysctl(ctx context.Context, h *Host, lines ...string) ([]Change, error) {
	file := "/etc/sysctl.conf"
	if h.Exists("/etc/sysctl.d") && !h.Exists(file) {
		file = "/etc/sysctl.d/zz-backstay.conf"
	}
	t, err := openText(ctx, h, file)
	if err == nil {
		for _, l := range lines {
			t.insert(len(t.lines)+1, l)
		}
		return t.changes(false), nil
	}
	p, rerr := h.Resolve(file)
	if !errors.Is(err, fs.ErrNotExist) || !errors.Is(rerr, fs.ErrNotExist) || p == "" {
		return nil, err
	}
	uid, gid := h.Root()
	return []Change{{Op: Create, Path: p, After: []byte(strings.Join(lines, "\n") + "\n"), Mode: 0o644, UID: uid, GID: gid}}, nil
}
