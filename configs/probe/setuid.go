// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
)

// setuidCheck wants only listed programs to run with their owner's or group's rights.
type setuidCheck struct {
	start string
	Allow []string `json:"allow"`
	// AllowWith allows a path when another file is there: busybox may be setuid when /etc/busybox.conf limits its applets.
	AllowWith map[string]string `json:"allow_with"`
}

func setuidKind() Kind {
	return Kind{
		Name: "setuid", Target: "a directory; what is below it on the same file system is searched",
		Want: `{"allow": [paths], "allow_with": {"/bin/busybox": "/etc/busybox.conf"}}`,
		Fix:  "take the setuid and setgid bits away",
		New: func(target string, want []byte) (Check, error) {
			c := setuidCheck{start: target}
			if err := decodeWant(want, &c); err != nil {
				return nil, err
			}
			if target == "/" {
				return c, nil
			}
			return c, checkPaths([]string{target})
		},
	}
}

func (c setuidCheck) Claims() []string { return []string{"setuid:" + c.start} }

func (c setuidCheck) Tightens(old Check) error {
	o, ok := old.(setuidCheck)
	if !ok || o.start != c.start {
		return errors.New("another target")
	}
	if p, ok := subset(c.Allow, o.Allow); !ok {
		return fmt.Errorf("%s may not be allowed", p)
	}
	for p, with := range c.AllowWith {
		if _, ok := subset([]string{p}, o.Allow); !ok && o.AllowWith[p] != with {
			return fmt.Errorf("%s may not be allowed", p)
		}
	}
	return nil
}

const privBits = fs.ModeSetuid | fs.ModeSetgid

// maxFound bounds what one search keeps; a tree with more is broken and fails anyway.
const maxFound = 4096

func (c setuidCheck) find(ctx context.Context, h *Host) (found []Info, files int, err error) {
	err = h.Walk(ctx, c.start, func(_ Tree, _ string, in Info) error {
		if !in.Mode.IsRegular() {
			return nil
		}
		files++
		if in.Mode&privBits == 0 || slices.Contains(c.Allow, in.Path) {
			return nil
		}
		if with, ok := c.AllowWith[in.Path]; ok && h.Exists(with) {
			return nil
		}
		if len(found) < maxFound {
			found = append(found, in)
		}
		return nil
	})
	slices.SortFunc(found, func(a, b Info) int { return cmp.Compare(a.Path, b.Path) })
	return found, files, err
}

func (c setuidCheck) Check(ctx context.Context, h *Host) Verdict {
	found, files, err := c.find(ctx, h)
	if errors.Is(err, fs.ErrNotExist) {
		return notApplicable(err.Error())
	}
	if err != nil && len(found) == 0 {
		return unknown(err)
	}
	var items []Item
	for _, in := range found {
		items = append(items, Item{Subject: printable(in.Path), Where: printable(in.Path),
			Observed: fmt.Sprintf("mode %s, owner %d", OctalMode(in.Mode), in.UID), Expected: "mode " + OctalMode(in.Mode&^privBits)})
	}
	return judged(items, fmt.Sprintf("%d files, no setuid or setgid program that is not listed", files), fmt.Sprintf("%s (%d files)", c.start, files))
}

func (c setuidCheck) Fix(ctx context.Context, h *Host, want func(string) bool) ([]Change, error) {
	found, _, err := c.find(ctx, h)
	var out []Change
	for _, in := range found {
		if want(printable(in.Path)) {
			out = append(out, Change{Op: Chmod, Path: in.Path, OldMode: in.Mode & permBits, Mode: in.Mode & permBits &^ privBits})
		}
	}
	return out, err
}
