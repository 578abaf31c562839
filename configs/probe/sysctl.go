// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// sysctlCheck wants a kernel parameter to have a value, now (/proc/sys) and after the next start (sysctl.conf).
type sysctlCheck struct {
	key   string
	OneOf []string `json:"one_of"`
	Min   *int64   `json:"min"`
	Max   *int64   `json:"max"`
	Set   string   `json:"set"`
}

func sysctlKind() Kind {
	return Kind{
		Name: "sysctl", Target: "a key such as kernel.kptr_restrict",
		Want: `{"one_of": [values]} or {"min": n, "max": n}, with "set": V for a fix`,
		Fix:  "write the value below /proc/sys, and into the file that sets another one, else into /etc/sysctl.d/zz-backstay.conf or /etc/sysctl.conf",
		New: func(target string, want []byte) (Check, error) {
			c := sysctlCheck{key: target}
			if err := decodeWant(want, &c); err != nil {
				return nil, err
			}
			if strings.Trim(target, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/") != "" || !strings.Contains(target, ".") || strings.Contains(target, "..") {
				return nil, fmt.Errorf("target: %q is no kernel parameter", target)
			}
			if len(c.OneOf) == 0 && c.Min == nil && c.Max == nil {
				return nil, errors.New("want: give one_of, min or max")
			}
			if c.Set != "" && !c.good(c.Set) {
				return nil, fmt.Errorf("want.set: %q is not a wanted value, so the fix would not help", c.Set)
			}
			return c, nil
		},
	}
}

func (c sysctlCheck) Claims() []string { return []string{"sysctl:" + c.key} }

func (c sysctlCheck) Tightens(old Check) error {
	o, ok := old.(sysctlCheck)
	if !ok || o.key != c.key {
		return errors.New("another target")
	}
	for _, v := range c.OneOf {
		if !o.good(v) {
			return fmt.Errorf("%q is allowed", v)
		}
	}
	switch {
	case len(c.OneOf) > 0:
	case len(o.OneOf) > 0:
		return errors.New("the floor lists values")
	case o.Min != nil && (c.Min == nil || *c.Min < *o.Min):
		return fmt.Errorf("min is below %d", *o.Min)
	case o.Max != nil && (c.Max == nil || *c.Max > *o.Max):
		return fmt.Errorf("max is above %d", *o.Max)
	}
	return nil
}

func (c sysctlCheck) good(v string) bool {
	if len(c.OneOf) > 0 && !slices.Contains(c.OneOf, v) {
		return false
	}
	if c.Min == nil && c.Max == nil {
		return true
	}
	n, err := strconv.ParseInt(v, 10, 64)
	return err == nil && (c.Min == nil || n >= *c.Min) && (c.Max == nil || n <= *c.Max)
}

func (c sysctlCheck) expect() string {
	switch {
	case len(c.OneOf) > 0:
		return strings.Join(c.OneOf, " or ")
	case c.Max == nil:
		return fmt.Sprintf("at least %d", *c.Min)
	case c.Min == nil:
		return fmt.Sprintf("at most %d", *c.Max)
	}
	return fmt.Sprintf("%d to %d", *c.Min, *c.Max)
}

func (c sysctlCheck) live() string { return "/proc/sys/" + strings.ReplaceAll(c.key, ".", "/") }

// sysctlLine is one setting of a sysctl file.
type sysctlLine struct {
	line       int
	key, value string
}

// parseSysctl reads "key = value" lines; a leading dash (ignore errors) and / for . in keys are allowed, as procps does.
func parseSysctl(data []byte) []sysctlLine {
	var out []sysctlLine
	n := 0
	for l := range bytes.Lines(data) {
		n++
		s := strings.TrimSpace(string(l))
		if s == "" || s[0] == '#' || s[0] == ';' {
			continue
		}
		k, v, ok := strings.Cut(s, "=")
		k = strings.TrimSpace(strings.TrimPrefix(k, "-"))
		if !ok || k == "" {
			continue
		}
		if i := strings.IndexAny(k, "./"); i >= 0 && k[i] == '/' {
			k = strings.NewReplacer("/", ".", ".", "/").Replace(k)
		}
		out = append(out, sysctlLine{n, k, strings.Join(strings.Fields(v), " ")})
	}
	return out
}

// sysctlFiles lists the files in the order in which they are read: those of the directories by file name, a name in an
// earlier directory hiding the same name in a later one, then sysctl.conf.
func sysctlFiles(h *Host) ([]string, error) {
	byName := map[string]string{}
	for _, dir := range []string{"/etc/sysctl.d", "/run/sysctl.d", "/usr/local/lib/sysctl.d", "/usr/lib/sysctl.d", "/lib/sysctl.d"} {
		names, err := h.Names(dir, 512)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, n := range names {
			if strings.HasSuffix(n, ".conf") && byName[n] == "" {
				byName[n] = path.Join(dir, n)
			}
		}
	}
	var out []string
	for _, p := range byName {
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b string) int { return strings.Compare(path.Base(a), path.Base(b)) })
	if h.Exists("/etc/sysctl.conf") {
		out = append(out, "/etc/sysctl.conf")
	}
	return out, nil
}

// persisted finds the setting that holds after a start; line 0 when no file sets the key.
func (c sysctlCheck) persisted(ctx context.Context, h *Host) (file string, last sysctlLine, err error) {
	files, err := sysctlFiles(h)
	if err != nil {
		return "", last, err
	}
	for _, f := range files {
		data, err := h.Read(ctx, f)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrNotRegular) {
			continue
		}
		if err != nil {
			return "", last, err
		}
		for _, l := range parseSysctl(data) {
			if l.key == c.key {
				file, last = f, l
			}
		}
	}
	return file, last, nil
}

func (c sysctlCheck) Check(ctx context.Context, h *Host) Verdict {
	now, lerr := h.Read(ctx, c.live())
	if lerr != nil && !errors.Is(lerr, fs.ErrNotExist) {
		return unknown(lerr)
	}
	file, kept, err := c.persisted(ctx, h)
	if err != nil {
		return unknown(err)
	}
	if lerr != nil && kept.line == 0 {
		if h.Live() || h.Exists("/proc/sys/kernel") {
			return notApplicable(c.live() + " is not there: the kernel is built without it")
		}
		return Verdict{Result: Unknown, Reason: "no file sets " + c.key + " and the kernel's own value is not in an image"}
	}
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
		read, reason = append(read, printable(file)), append(reason, at(file, kept.line)+" sets "+printable(kept.value))
		if !c.good(kept.value) {
			items = append(items, Item{Subject: c.key, Where: at(file, kept.line), Observed: printable(kept.value), Expected: c.expect()})
		}
	}
	return judged(items, strings.Join(reason, ", "), read...)
}

func (c sysctlCheck) Fix(ctx context.Context, h *Host, want func(string) bool) ([]Change, error) {
	if c.Set == "" {
		return nil, fmt.Errorf("the rule gives no value to set: %w", ErrNoFix)
	}
	if !want(c.key) {
		return nil, nil
	}
	out, err := c.keep(ctx, h)
	if err != nil {
		return nil, err
	}
	now, err := h.Read(ctx, c.live())
	if errors.Is(err, fs.ErrNotExist) || err == nil && c.good(strings.Join(strings.Fields(string(now)), " ")) {
		return out, nil
	}
	if err != nil {
		return nil, err
	}
	p, err := h.Resolve(c.live())
	return append(out, Change{Op: Kernel, Path: p, Before: now, After: []byte(c.Set + "\n")}), err
}

// keep plans the setting that survives a start.
func (c sysctlCheck) keep(ctx context.Context, h *Host) ([]Change, error) {
	file, kept, err := c.persisted(ctx, h)
	if err != nil || kept.line > 0 && c.good(kept.value) {
		return nil, err
	}
	if kept.line > 0 {
		t, err := openText(ctx, h, file)
		if err != nil {
			return nil, err
		}
		raw := t.line(kept.line)
		t.set(kept.line, raw[:strings.IndexByte(raw, '=')+1]+" "+c.Set)
		return t.changes(false), nil
	}
	line := c.key + " = " + c.Set
	file = "/etc/sysctl.conf"
	if h.Exists("/etc/sysctl.d") && !h.Exists(file) {
		file = "/etc/sysctl.d/zz-backstay.conf"
	}
	t, err := openText(ctx, h, file)
	if err == nil {
		t.insert(len(t.lines)+1, line)
		return t.changes(false), nil
	}
	p, rerr := h.Resolve(file)
	if !errors.Is(err, fs.ErrNotExist) || !errors.Is(rerr, fs.ErrNotExist) || p == "" {
		return nil, err
	}
	uid, gid := h.Root()
	return []Change{{Op: Create, Path: p, After: []byte(line + "\n"), Mode: 0o644, UID: uid, GID: gid}}, nil
}
