// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

const fstabFile = "/etc/fstab"

// mountCheck wants a mount to have options: now on a running system, and in fstab.
type mountCheck struct {
	point   string
	Options []string `json:"options"`
	// Mounted limits the check to systems that mount something there.
	Mounted bool `json:"if_mounted"`
}

func mountKind() Kind {
	return Kind{
		Name: "mount", Target: "a mount point", Want: `{"options": ["nosuid", "nodev"], "if_mounted": true}; options is required; with if_mounted the rule does not apply where nothing is mounted there`,
		Fix: "set nosuid, nodev, noexec and hidepid on the mount itself, without taking any option away, and add the options to the line of fstab",
		New: func(target string, want []byte) (Check, error) {
			c := mountCheck{point: target}
			if err := decodeWant(want, &c); err != nil {
				return nil, err
			}
			if len(c.Options) == 0 {
				return nil, errors.New("want.options: name at least one")
			}
			for _, o := range c.Options {
				if o == "" || strings.ContainsAny(o, ", \t\r\n#") {
					return nil, fmt.Errorf("want.options: %q is no mount option", o)
				}
			}
			return c, checkPaths([]string{target})
		},
	}
}

func (c mountCheck) Claims() []string { return []string{"mount:" + c.point} }

func (c mountCheck) Tightens(old Check) error {
	o, ok := old.(mountCheck)
	if !ok || o.point != c.point {
		return errors.New("another target")
	}
	if v, ok := subset(o.Options, c.Options); !ok {
		return fmt.Errorf("%s is missing", v)
	}
	if c.Mounted && !o.Mounted {
		return errors.New("it would not apply where nothing is mounted")
	}
	return nil
}

// fstabLine is one line of fstab.
type fstabLine struct {
	line    int
	device  string
	point   string
	fstype  string
	options []string
	from    int // where in the line the options start
	to      int
}

// parseFstab reads lines of at least four fields.
func parseFstab(data []byte) []fstabLine {
	var out []fstabLine
	n := 0
	for l := range bytes.Lines(data) {
		n++
		s := strings.TrimRight(string(l), "\r\n")
		if strings.HasPrefix(strings.TrimSpace(s), "#") {
			continue
		}
		f := fieldSpans(s)
		if len(f) < 4 {
			continue
		}
		opts := s[f[3][0]:f[3][1]]
		out = append(out, fstabLine{line: n, device: s[f[0][0]:f[0][1]], fstype: s[f[2][0]:f[2][1]], point: unescapeMount(s[f[1][0]:f[1][1]]), options: strings.Split(opts, ","), from: f[3][0], to: f[3][1]})
	}
	return out
}

// fieldSpans gives the beginning and end of each field.
func fieldSpans(s string) [][2]int {
	var out [][2]int
	start := -1
	for i := 0; i <= len(s); i++ {
		space := i == len(s) || s[i] == ' ' || s[i] == '\t'
		switch {
		case space && start >= 0:
			out, start = append(out, [2]int{start, i}), -1
		case !space && start < 0:
			start = i
		}
	}
	return out
}

// unescapeMount resolves the octal escapes of white space in mount tables.
func unescapeMount(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// last finds the line that counts for the point: a later mount covers an earlier one.
func (c mountCheck) last(data []byte) (l fstabLine, ok bool) {
	for _, f := range parseFstab(data) {
		if strings.TrimRight(f.point, "/") == c.point {
			l, ok = f, true
		}
	}
	return l, ok
}

func (c mountCheck) missing(have []string) []string {
	return slices.DeleteFunc(slices.Clone(c.Options), func(o string) bool { return hasOption(have, o) })
}

func (c mountCheck) Check(ctx context.Context, h *Host) Verdict {
	var items []Item
	var read, reason []string
	judge := func(file string, line int, options []string) {
		read = append(read, file)
		opts := printable(strings.Join(options, ","))
		reason = append(reason, fmt.Sprintf("%s mounts %s with %s", at(file, line), c.point, opts))
		if m := c.missing(options); len(m) > 0 {
			items = append(items, Item{Subject: c.point, Where: at(file, line), Observed: opts, Expected: "also " + strings.Join(m, ",")})
		}
	}
	if h.Live() {
		m, ok, err := h.mountOf(ctx, c.point)
		if err != nil {
			return unknown(err)
		}
		switch {
		case !ok && c.Mounted:
			return notApplicable(mountsFile + " has no mount at " + c.point)
		case !ok:
			return judged([]Item{{Subject: c.point, Where: mountsFile, Observed: "no mount of its own", Expected: "a mount with " + strings.Join(c.Options, ",")}}, "", mountsFile)
		}
		judge(mountsFile, m.line, slices.Concat(m.options, m.super))
	}
	data, err := h.Read(ctx, fstabFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return unknown(err)
	}
	if l, ok := c.last(data); err == nil && ok {
		judge(fstabFile, l.line, l.options)
	}
	if len(read) == 0 && c.Mounted {
		return notApplicable(fstabFile + " has no line for " + c.point + "; a mount that something else makes shows on the running system")
	}
	if len(read) == 0 {
		return Verdict{Result: Unknown, Reason: fstabFile + " has no line for " + c.point + "; what mounts it is not known from an image"}
	}
	return judged(items, strings.Join(reason, ", "), read...)
}

// mountOf finds the mount at a path as policies write it; /var/run may be a link to /run.
func (h *Host) mountOf(ctx context.Context, name string) (mountPoint, bool, error) {
	p, err := h.Resolve(name)
	if errors.Is(err, fs.ErrNotExist) {
		return mountPoint{}, false, nil
	}
	if err != nil {
		return mountPoint{}, false, err
	}
	return h.mountAt(ctx, p)
}

func (c mountCheck) Fix(ctx context.Context, h *Host, want func(string) bool) ([]Change, error) {
	if !want(c.point) {
		return nil, nil
	}
	var out []Change
	now := false
	if h.Live() {
		m, ok, err := h.mountOf(ctx, c.point)
		if err != nil || !ok {
			return nil, errors.Join(err, fmt.Errorf("nothing is mounted at %s: %w", c.point, ErrNoFix))
		}
		change, ok := m.remounting(c.missing(slices.Concat(m.options, m.super)))
		if ok {
			out = append(out, change)
		}
		now = ok || len(c.missing(m.options)) == 0
	}
	t, err := openText(ctx, h, fstabFile)
	if h.Live() && errors.Is(err, fs.ErrNotExist) {
		return out, nil
	}
	if err != nil {
		return out, err
	}
	l, ok := c.last(t.before)
	if !ok && h.Live() {
		return out, nil // whatever mounts it is not known; the next run sets the options again
	}
	if !ok {
		return nil, fmt.Errorf("%s has no line for %s: %w", fstabFile, c.point, ErrNoFix)
	}
	t.addOptions(l, c.missing(l.options))
	return append(out, t.changes(!now)...), nil
}

// addOptions puts options into a line of fstab, in place of their opposites.
func (t *text) addOptions(l fstabLine, add []string) {
	opts := l.options
	for _, m := range add {
		name, _, value := strings.Cut(m, "=")
		opts = slices.DeleteFunc(opts, func(o string) bool {
			return o == strings.TrimPrefix(m, "no") && o != m || value && strings.HasPrefix(o, name+"=")
		})
		opts = append(opts, m)
	}
	raw := t.line(l.line)
	t.set(l.line, raw[:l.from]+strings.Join(opts, ",")+raw[l.to:])
}
