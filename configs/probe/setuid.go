// SPDX-License-Identifier: Apache-2.0

package probe

import (
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
	// AllowText allows a program that has a text in it: a busybox that gives up its rights for the applets that need none
	// says so when it lacks them.
	AllowText map[string]string `json:"allow_text"`
}

func setuidKind() Kind {
	return Kind{
		Name: "setuid", Target: "a directory; what is below it on the same file system is searched",
		Want: `{"allow": [paths], "allow_with": {"/bin/busybox": "/etc/busybox.conf"}, "allow_text": {path: a text in the program}}; the second and third allow a path when another file is there, or when the program has the text`,
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
	for p, text := range c.AllowText {
		if _, ok := subset([]string{p}, o.Allow); !ok && o.AllowText[p] != text {
			return fmt.Errorf("%s may not be allowed", p)
		}
	}
	return nil
}

const privBits = fs.ModeSetuid | fs.ModeSetgid

func (c setuidCheck) find(ctx context.Context, h *Host) (found []Info, files int, err error) {
	list, files, err := h.searched(ctx, c.start, privileged)
	for _, f := range list {
		if !slices.Contains(c.Allow, f.Path) && !c.allowedWith(ctx, h, f.Path) {
			found = append(found, f.Info)
		}
	}
	return found, files, err
}

func (c setuidCheck) allowedWith(ctx context.Context, h *Host, p string) bool {
	if with, ok := c.AllowWith[p]; ok && h.Exists(with) {
		return true
	}
	text, ok := c.AllowText[p]
	return ok && h.contains(ctx, p, text)
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
