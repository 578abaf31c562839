// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// fileAbsent wants files not to be there. It is the one kind for which absence is the evidence.
type fileAbsent struct{ paths []string }

const maxPaths = 64

func fileAbsentKind() Kind {
	return Kind{
		Name: "file-absent", Target: "a path; ~/NAME is that file in the home of every account", Want: `{"also": [paths]}`,
		Fix: "remove the file; its bytes are kept for undo",
		New: func(target string, want []byte) (Check, error) {
			paths, err := pathsOf(target, want, "~/")
			return fileAbsent{paths}, err
		},
	}
}

// pathsOf reads a target and the also of want; prefixes are other beginnings than "/" that are allowed.
func pathsOf(target string, want []byte, prefixes ...string) ([]string, error) {
	var w struct {
		Also []string `json:"also"`
	}
	if err := decodeWant(want, &w); err != nil {
		return nil, err
	}
	paths := append([]string{target}, w.Also...)
	return paths, checkPaths(paths, prefixes...)
}

func checkPaths(paths []string, prefixes ...string) error {
	if len(paths) > maxPaths {
		return fmt.Errorf("%d paths, the limit is %d", len(paths), maxPaths)
	}
	for _, p := range paths {
		ok := strings.HasPrefix(p, "/") && path.Clean(p) == p && len(p) <= 512
		for _, pre := range prefixes {
			ok = ok || strings.HasPrefix(p, pre) && path.Clean(p) == p
		}
		if !ok {
			return fmt.Errorf("path %q: want an absolute path without dots or a slash at the end", p)
		}
	}
	return nil
}

func (c fileAbsent) Claims() []string { return prefixed("file:", c.paths) }

func prefixed(prefix string, list []string) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = prefix + s
	}
	return out
}

func (c fileAbsent) Tightens(old Check) error {
	o, ok := old.(fileAbsent)
	if !ok {
		return errors.New("another kind")
	}
	if p, ok := subset(o.paths, c.paths); !ok {
		return fmt.Errorf("%s is missing", p)
	}
	return nil
}

// expand puts the homes in.
func (c fileAbsent) expand(ctx context.Context, h *Host) ([]string, error) {
	var out []string
	for _, p := range c.paths {
		rest, home := strings.CutPrefix(p, "~/")
		if !home {
			out = append(out, p)
			continue
		}
		list, _, err := accounts(ctx, h)
		if err != nil && !errors.Is(err, errNoAccounts) {
			return nil, err
		}
		for _, a := range list {
			if f := path.Join("/", a.home, rest); a.home != "" && !slices.Contains(out, f) {
				out = append(out, f)
			}
		}
	}
	return out, nil
}

func (c fileAbsent) Check(ctx context.Context, h *Host) Verdict {
	paths, err := c.expand(ctx, h)
	if err != nil {
		return unknown(err)
	}
	var items []Item
	var seen []string
	var unseen error
	for _, p := range paths {
		in, err := h.Stat(p)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			seen = append(seen, printable(p)+" (absent)")
		case err != nil:
			unseen = errors.Join(unseen, err)
		case err == nil && in.Mode&fs.ModeCharDevice != 0: // a link to /dev/null is a way to keep a file away
			seen = append(seen, printable(p)+" (a device)")
		case err == nil:
			items = append(items, Item{Subject: printable(p), Where: printable(p), Observed: "there, " + describe(in), Expected: "absent"})
			seen = append(seen, printable(p))
		}
	}
	if len(paths) == 0 {
		return notApplicable("no account has a home")
	}
	if len(items) == 0 && unseen != nil {
		return unknown(unseen)
	}
	return judged(items, "not there", seen...)
}

func describe(in Info) string {
	switch {
	case in.Mode.IsRegular():
		return fmt.Sprintf("%d bytes, mode %s", in.Size, OctalMode(in.Mode))
	case in.Mode.IsDir():
		return "a directory"
	default:
		return "not a regular file"
	}
}

// Fix removes regular files. A link is left to a person: what it points to may be used elsewhere.
func (c fileAbsent) Fix(ctx context.Context, h *Host, want func(string) bool) ([]Change, error) {
	paths, err := c.expand(ctx, h)
	if err != nil {
		return nil, err
	}
	var out []Change
	var errs []error
	for _, p := range paths {
		in, err := h.Stat(p)
		if err != nil || !want(printable(p)) || in.Mode&fs.ModeCharDevice != 0 {
			continue
		}
		if path.Base(in.Path) != path.Base(p) || !in.Mode.IsRegular() {
			errs = append(errs, fmt.Errorf("%s is a link or no regular file: %w", printable(p), ErrNoFix))
			continue
		}
		data, err := h.Read(ctx, p)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, Change{Op: Remove, Path: in.Path, Before: data, OldMode: in.Mode & permBits, UID: in.UID, GID: in.GID})
	}
	return out, errors.Join(errs...)
}
