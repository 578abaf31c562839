// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

const maxProgram = 32 << 20 // bytes of a program that are searched for its version

// version finds the version in a program: what follows marker, up to the first other character; the highest, because a
// program also names versions that it has to get along with. "" when it is not there. It is looked up once for a run.
func (h *Host) version(ctx context.Context, program, marker string) string {
	if program == "" {
		return ""
	}
	key := program + "\x00" + marker
	if v, ok := h.versions[key]; ok {
		return v
	}
	v, err := h.findVersion(ctx, program, marker)
	if ctx.Err() != nil {
		return v
	}
	if err != nil {
		v = ""
	}
	if h.versions == nil {
		h.versions = map[string]string{}
	}
	h.versions[key] = v
	return v
}

func (h *Host) findVersion(ctx context.Context, program, marker string) (string, error) {
	p, err := h.Resolve(program)
	if err != nil {
		return "", err
	}
	f, err := openRegular(h.tree, rel(p))
	if err != nil {
		return "", err
	}
	defer f.Close()
	const overlap = 64
	buf := make([]byte, overlap+64<<10)
	kept, best := 0, ""
	for read := 0; read < maxProgram; {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		n, err := io.ReadFull(f, buf[kept:])
		read += n
		end := err != nil
		for rest := buf[:kept+n]; ; {
			i := bytes.Index(rest, []byte(marker))
			if i < 0 || !end && len(rest)-i < overlap {
				break
			}
			rest = rest[i+len(marker):]
			if v := versionText(rest); v != "" && (best == "" || versionLess(best, v)) {
				best = v
			}
		}
		if end {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return best, nil
			}
			return "", fmt.Errorf("read %s: %w", printable(program), cause(err))
		}
		kept = copy(buf, buf[kept+n-overlap:kept+n])
	}
	return best, nil
}

// versionText takes digits and dots from the start of b; a text without a dot is none.
func versionText(b []byte) string {
	n := 0
	for n < len(b) && n < 16 && (b[n] >= '0' && b[n] <= '9' || b[n] == '.') {
		n++
	}
	v := strings.TrimRight(string(b[:n]), ".")
	if !strings.Contains(v, ".") || v[0] == '.' {
		return ""
	}
	return v
}

// versionLess compares versions number by number; a part that is missing is zero.
func versionLess(a, b string) bool {
	as, bs := strings.Split(a, "."), strings.Split(b, ".")
	for i := range max(len(as), len(bs)) {
		var x, y int
		if i < len(as) {
			x, _ = strconv.Atoi(as[i])
		}
		if i < len(bs) {
			y, _ = strconv.Atoi(bs[i])
		}
		if x != y {
			return x < y
		}
	}
	return false
}

// programVersion wants a program not to be older than a version.
type programVersion struct {
	paths  []string
	Marker string   `json:"marker"`
	Min    string   `json:"min"`
	Also   []string `json:"also"`
}

func programVersionKind() Kind {
	return Kind{
		Name: "program-version", Target: "a program", Want: `{"marker": text before the version in the program, "min": "1.2", "also": [paths]}; the first that is there counts`,
		New: func(target string, want []byte) (Check, error) {
			var c programVersion
			if err := decodeWant(want, &c); err != nil {
				return nil, err
			}
			if len(c.Marker) < 4 || len(c.Marker) > 32 || versionText([]byte(c.Min)) != c.Min || c.Min == "" {
				return nil, errors.New("want: marker of 4 to 32 bytes and min such as 1.2 are required")
			}
			c.paths = append([]string{target}, c.Also...)
			return c, checkPaths(c.paths)
		},
	}
}

// Fix needs another program.
func (c programVersion) Fix(context.Context, *Host, func(string) bool) ([]Change, error) {
	return nil, ErrNoFix
}

// Claims is empty: nothing is set.
func (c programVersion) Claims() []string { return nil }

func (c programVersion) Tightens(old Check) error {
	o, ok := old.(programVersion)
	if !ok || o.Marker != c.Marker {
		return errors.New("another marker")
	}
	if p, ok := subset(o.paths, c.paths); !ok {
		return fmt.Errorf("%s is missing", p)
	}
	if versionLess(c.Min, o.Min) {
		return fmt.Errorf("%s is older than %s", c.Min, o.Min)
	}
	return nil
}

func (c programVersion) Check(ctx context.Context, h *Host) Verdict {
	for _, p := range c.paths {
		if !h.Exists(p) {
			continue
		}
		v := h.version(ctx, p, c.Marker)
		if v == "" {
			return Verdict{Result: Unknown, Reason: fmt.Sprintf("no version after %q in %s", c.Marker, p)}
		}
		var items []Item
		if versionLess(v, c.Min) {
			items = []Item{{Subject: p, Where: p, Observed: "version " + v, Expected: "version " + c.Min + " or later"}}
		}
		return judged(items, fmt.Sprintf("%s is version %s", p, v), p)
	}
	return notApplicable("none of " + strings.Join(c.paths, ", ") + " is there")
}
