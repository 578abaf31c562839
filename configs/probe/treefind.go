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

	"golang.org/x/sys/unix"
)

// treeCheck wants nothing of one class below some directories, but for what is allowed.
type treeCheck struct {
	starts []string
	what   treeClass
	Find   string   `json:"find"`
	Also   []string `json:"also"`
	Skip   []string `json:"skip"`
	Allow  []string `json:"allow"` // paths; of capabilities "PATH NAME..." with the names that it may have
}

// treeClass is one thing to look for.
type treeClass struct {
	name   string
	class  class
	expect string
	good   string
	fix    func(f fact) Change
}

func treeClasses() []treeClass {
	return []treeClass{
		{"world-writable", writable, "not writable by everybody", "no file that everybody may write", func(f fact) Change {
			return Change{Op: Chmod, Path: f.Path, OldMode: f.Mode & permBits, Mode: f.Mode & permBits &^ 0o002}
		}},
		{"not-sticky", unsticky, "the sticky bit", "no directory that everybody may write without the sticky bit", func(f fact) Change {
			return Change{Op: Chmod, Path: f.Path, OldMode: f.Mode & permBits, Mode: f.Mode&permBits | fs.ModeSticky}
		}},
		{"capability", capable, "no capabilities", "no program with capabilities that are not listed", func(f fact) Change {
			return Change{Op: Capability, Path: f.Path, Before: f.attr}
		}},
		{"unowned", unowned, "an owner and a group that the system has", "nothing of an unknown user or group", nil},
		{"device", device, "device nodes below /dev only", "no device node", nil},
	}
}

func treeKind() Kind {
	return Kind{
		Name: "tree", Target: "a directory; what is below it on the same file system is searched, all rules with one walk",
		Want: `{"find": "world-writable" | "not-sticky" | "capability" | "unowned" | "device", "also": [directories], "skip": [directories], "allow": [paths]}; find is required; with capability an allowed path is "PATH NAME...", as "/usr/bin/ping net_raw"`,
		Fix:  "take the write permission of everybody away, set the sticky bit, take capabilities away; owners and device nodes are left to a person",
		New: func(target string, want []byte) (Check, error) {
			var c treeCheck
			if err := decodeWant(want, &c); err != nil {
				return nil, err
			}
			var names []string
			for _, t := range treeClasses() {
				if names = append(names, t.name); t.name == c.Find {
					c.what = t
				}
			}
			if c.what.name == "" {
				return nil, fmt.Errorf("want.find: %q, want one of %s", c.Find, strings.Join(names, ", "))
			}
			c.starts = append([]string{target}, c.Also...)
			paths := slices.Concat(c.Also, c.Skip)
			if target != "/" {
				paths = append(paths, target)
			}
			return c, checkPaths(paths)
		},
	}
}

func (c treeCheck) Claims() []string { return prefixed("tree:"+c.Find+":", c.starts) }

func (c treeCheck) Tightens(old Check) error {
	o, ok := old.(treeCheck)
	if !ok || o.Find != c.Find {
		return errors.New("it looks for something else")
	}
	if s, ok := subset(o.starts, c.starts); !ok {
		return fmt.Errorf("%s is missing", s)
	}
	if s, ok := subset(c.Skip, o.Skip); !ok {
		return fmt.Errorf("%s is left out", s)
	}
	if s, ok := subset(c.Allow, o.Allow); !ok {
		return fmt.Errorf("%s may not be allowed", s)
	}
	return nil
}

// find lists the defects, and where it looked. The error is why there may be more.
func (c treeCheck) find(ctx context.Context, h *Host) (found []fact, looked []string, err error) {
	seen := map[string]bool{}
	var errs []error
	for _, s := range c.starts {
		list, files, err := h.searched(ctx, s, c.what.class)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if looked = append(looked, fmt.Sprintf("%s (one of %d files)", s, files)); err != nil {
			errs = append(errs, err)
		}
		for _, f := range list {
			if !seen[f.Path] && !c.allowed(f) && !slices.ContainsFunc(c.Skip, func(d string) bool { return below(d, f.Path) }) {
				seen[f.Path] = true
				found = append(found, f)
			}
		}
	}
	return found, looked, errors.Join(errs...)
}

func (c treeCheck) allowed(f fact) bool {
	switch c.what.class {
	case device:
		return harmlessDevice(f.Info)
	case capable:
		for _, a := range c.Allow {
			words := strings.Fields(a)
			if len(words) > 0 && words[0] == f.Path {
				_, ok := subset(capabilities(f.attr), words[1:])
				return ok
			}
		}
		return false
	}
	return slices.Contains(c.Allow, f.Path)
}

// harmlessDevice knows the nodes that programs find in their change-root: null, zero, full, random, urandom, tty, ptmx.
func harmlessDevice(in Info) bool {
	if path.Base(path.Dir(in.Path)) != "dev" || in.Mode&fs.ModeCharDevice == 0 {
		return false
	}
	major, minor := unix.Major(in.Rdev), unix.Minor(in.Rdev)
	return major == 1 && slices.Contains([]uint32{3, 5, 7, 8, 9}, minor) || major == 5 && (minor == 0 || minor == 2)
}

func (c treeCheck) observed(f fact) string {
	switch c.what.class {
	case capable:
		return "capabilities " + CapabilityText(f.attr)
	case unowned:
		return fmt.Sprintf("owner %d, group %d", f.UID, f.GID)
	case device:
		kind := "block"
		if f.Mode&fs.ModeCharDevice != 0 {
			kind = "character"
		}
		return fmt.Sprintf("%s device %d:%d, mode %s", kind, unix.Major(f.Rdev), unix.Minor(f.Rdev), OctalMode(f.Mode))
	}
	return "mode " + OctalMode(f.Mode)
}

func (c treeCheck) Check(ctx context.Context, h *Host) Verdict {
	if c.what.class == unowned && !h.Exists(passwdFile) {
		return notApplicable("no " + passwdFile + ": the system has no users")
	}
	found, looked, err := c.find(ctx, h)
	if err != nil && len(found) == 0 {
		return unknown(err)
	}
	if len(looked) == 0 {
		return notApplicable("none of " + strings.Join(c.starts, ", ") + " is there")
	}
	if _, ok := h.tree.(attrTree); !ok && c.what.class == capable && len(found) == 0 {
		return Verdict{Result: Unknown, Reason: "this kind of image does not keep the capabilities of programs"}
	}
	var items []Item
	for _, f := range found {
		items = append(items, Item{Subject: printable(f.Path), Where: printable(f.Path), Observed: c.observed(f), Expected: c.what.expect})
	}
	return judged(items, c.what.good+" in "+strings.Join(looked, ", "), looked...)
}

func (c treeCheck) Fix(ctx context.Context, h *Host, want func(string) bool) ([]Change, error) {
	found, _, err := c.find(ctx, h)
	if c.what.fix == nil && len(found) > 0 {
		return nil, ErrNoFix
	}
	var out []Change
	for _, f := range found {
		if !want(printable(f.Path)) {
			continue
		}
		out = append(out, c.what.fix(f))
	}
	return out, err
}
