// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// sysfsCheck wants files in which the kernel shows its state to have a value.
type sysfsCheck struct {
	target string
	span
	Deny   []string `json:"deny"`   // beginnings of values
	Clear  uint64   `json:"clear"`  // bits of a number that must not be set
	Decode string   `json:"decode"` // text, bracket, list, last-byte, be32
	Absent string   `json:"absent"` // what it means that the file is not there
	Beside string   `json:"beside"` // what is there where the absence means that
	OneWay bool     `json:"one_way"`
}

var decodings = []string{"text", "bracket", "list", "last-byte", "be32"}

func sysfsKind() Kind {
	return Kind{
		Name: "sysfs-value", Target: "a file below /sys or /proc; the last element may hold *",
		Want: `{"one_of": [values], "min": n, "max": n, "deny": [beginnings], "clear": bits, "decode": D, "absent": text, "beside": path, "set": V, "one_way": true}; ` +
			`decode is text (the default), bracket (the word in [brackets]), list (one of the words between commas), last-byte or be32 (of a binary file); ` +
			`absent says why the rule does not apply where the file is not there and beside is`,
		Fix: "write the value into the file; the kernel forgets it at the next start",
		New: func(target string, want []byte) (Check, error) {
			c := sysfsCheck{target: target, Decode: "text"}
			if err := decodeWant(want, &c); err != nil {
				return nil, err
			}
			switch {
			case !slices.Contains(decodings, c.Decode):
				return nil, fmt.Errorf("want.decode: %q, want one of %s", c.Decode, strings.Join(decodings, ", "))
			case c.Deny == nil && c.Clear == 0 && c.span.check() != nil:
				return nil, errors.New("want: give one_of, min, max, deny or clear")
			case strings.ContainsAny(path.Dir(target), "*?["):
				return nil, errors.New("target: only the last element may be a pattern")
			case !strings.HasPrefix(target, "/sys/") && !strings.HasPrefix(target, "/proc/"):
				return nil, errors.New("target: want a file below /sys or /proc")
			case c.Set != "" && (strings.Contains(target, "*") || c.judge(c.Set) != ""):
				return nil, fmt.Errorf("want.set: %q does not make it as wanted", c.Set)
			}
			return c, checkPaths([]string{target})
		},
	}
}

func (c sysfsCheck) Claims() []string { return []string{"kernel:" + c.target} }

// IsOneWay says that the fix cannot be taken back before a restart.
func (c sysfsCheck) IsOneWay() bool { return c.OneWay }

func (c sysfsCheck) Tightens(old Check) error {
	o, ok := old.(sysfsCheck)
	if !ok || o.target != c.target || o.Decode != c.Decode {
		return errors.New("another target")
	}
	if v, ok := subset(o.Deny, c.Deny); !ok {
		return fmt.Errorf("%q is not denied", v)
	}
	if o.Clear&^c.Clear != 0 {
		return fmt.Errorf("bits %#x may be set", o.Clear&^c.Clear)
	}
	if o.span.check() != nil {
		return nil // the floor wants no value
	}
	return c.within(o.span)
}

// value takes the value out of what the file holds.
func (c sysfsCheck) value(data []byte) string {
	text := strings.Join(strings.Fields(string(data)), " ")
	switch c.Decode {
	case "bracket":
		if _, rest, ok := strings.Cut(text, "["); ok {
			text, _, _ = strings.Cut(rest, "]")
		}
	case "last-byte":
		if len(data) == 0 {
			return ""
		}
		return strconv.Itoa(int(data[len(data)-1]))
	case "be32":
		if len(data) != 4 {
			return ""
		}
		return strconv.FormatUint(uint64(binary.BigEndian.Uint32(data)), 10)
	}
	return text
}

// judge says what is wanted instead of a value, "" when it is as wanted.
func (c sysfsCheck) judge(v string) string {
	for _, d := range c.Deny {
		if strings.HasPrefix(v, d) {
			return "not " + d
		}
	}
	if c.Clear != 0 {
		n, err := strconv.ParseUint(v, 0, 64)
		if err != nil || n&c.Clear != 0 {
			return fmt.Sprintf("none of the bits %#x", c.Clear)
		}
	}
	if c.span.check() != nil {
		return ""
	}
	words := []string{v}
	if c.Decode == "list" {
		words = strings.Split(v, ",")
	}
	if slices.ContainsFunc(words, c.good) {
		return ""
	}
	return c.expect()
}

func (c sysfsCheck) files(h *Host) []string {
	dir, base := path.Split(c.target)
	if !strings.ContainsAny(base, "*?[") {
		return []string{c.target}
	}
	var out []string
	names, _ := h.Names(dir, maxStartFiles)
	for _, n := range names {
		if globMatch(base, n) {
			out = append(out, path.Join(dir, n))
		}
	}
	return out
}

func (c sysfsCheck) Check(ctx context.Context, h *Host) Verdict {
	var items []Item
	var read, reason []string
	for _, f := range c.files(h) {
		data, err := h.Read(ctx, f)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return unknown(err)
		}
		v := c.value(data)
		if c.Decode == "text" && len(bytes.TrimSpace(data)) == 0 && !c.good("") {
			v = ""
		}
		read, reason = append(read, f), append(reason, path.Base(f)+" is "+printable(v))
		if want := c.judge(v); want != "" {
			items = append(items, Item{Subject: path.Base(f), Where: f, Observed: printable(v), Expected: want})
		}
	}
	switch {
	case len(read) > 0:
		return judged(items, strings.Join(reason[:min(len(reason), MaxItems)], ", "), read[:min(len(read), MaxItems)]...)
	case c.Absent != "" && (c.Beside == "" && h.Live() || c.Beside != "" && h.Exists(c.Beside)):
		return notApplicable(c.target + " is not there: " + c.Absent)
	case h.Live():
		return Verdict{Result: Unknown, Reason: c.target + " is not there, so the kernel does not show it"}
	}
	return notApplicable(c.target + " can only be read on a running system")
}

func (c sysfsCheck) Fix(ctx context.Context, h *Host, want func(string) bool) ([]Change, error) {
	if c.Set == "" {
		return nil, fmt.Errorf("the rule gives no value to set: %w", ErrNoFix)
	}
	data, err := h.Read(ctx, c.target)
	if errors.Is(err, fs.ErrNotExist) || !want(path.Base(c.target)) || err == nil && c.judge(c.value(data)) == "" {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	p, err := h.Resolve(c.target)
	return []Change{{Op: Kernel, Path: p, Before: data, After: []byte(c.Set + "\n"), OneWay: c.OneWay}}, err
}
