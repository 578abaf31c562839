// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
)

// Root is the owner and group that count as root's: 0 on a running system; in an image those of its top directory, so that
// a tree that an ordinary user unpacked is not all findings.
func (h *Host) Root() (uid, gid uint32) {
	if h.live {
		return 0, 0
	}
	in, err := h.Stat("/")
	if err != nil {
		return 0, 0
	}
	return in.UID, in.GID
}

// modeCheck wants files owned by root with no permission beyond a maximum.
type modeCheck struct {
	paths    []string
	max      fs.FileMode
	children bool // also what is in directories, one level
	start    bool // the files belong to the start of the system
}

func fileModeKind() Kind {
	return Kind{
		Name: "file-mode", Target: "a path", Want: `{"max": "0640", "also": [paths]}; max is required`,
		Fix: "take away the permissions beyond max; the owner is left to a person",
		New: func(target string, want []byte) (Check, error) {
			var w struct {
				Max  string   `json:"max"`
				Also []string `json:"also"`
			}
			if err := decodeWant(want, &w); err != nil {
				return nil, err
			}
			m, err := strconv.ParseUint(w.Max, 8, 12)
			if err != nil {
				return nil, fmt.Errorf("want.max: %q, want an octal mode such as 0640", w.Max)
			}
			c := modeCheck{paths: append([]string{target}, w.Also...), max: fileMode(uint32(m))}
			return c, checkPaths(c.paths)
		},
	}
}

func startFilesKind() Kind {
	return Kind{
		Name: "start-files", Target: "a file or directory that the system starts from", Want: `{"also": [paths]}`,
		Fix: "take away write permission from group and others; the owner is left to a person",
		New: func(target string, want []byte) (Check, error) {
			paths, err := pathsOf(target, want)
			return modeCheck{paths: paths, max: fileMode(0o7755), children: true, start: true}, err
		},
	}
}

func (c modeCheck) Claims() []string { return prefixed("mode:", c.paths) }

func (c modeCheck) Tightens(old Check) error {
	o, ok := old.(modeCheck)
	if !ok || o.children != c.children {
		return errors.New("another kind")
	}
	if p, ok := subset(o.paths, c.paths); !ok {
		return fmt.Errorf("%s is missing", p)
	}
	if c.max&^o.max != 0 {
		return fmt.Errorf("mode %s allows more than %s", OctalMode(c.max), OctalMode(o.max))
	}
	return nil
}

const maxStartFiles = 2048

// files lists what is there of the paths, and of directories what is in them.
func (c modeCheck) files(h *Host) ([]Info, error) {
	var out []Info
	seen := map[string]bool{}
	add := func(name string, must bool) error {
		in, err := h.Stat(name)
		if errors.Is(err, fs.ErrNotExist) || !must && errors.Is(err, ErrLoop) {
			return nil
		}
		if err == nil && !seen[in.Path] && (in.Mode.IsRegular() || in.Mode.IsDir()) {
			seen[in.Path] = true
			out = append(out, in)
		}
		return err
	}
	for _, p := range c.paths {
		if err := add(p, true); err != nil {
			return nil, err
		}
		if in, err := h.Stat(p); !c.children || err != nil || !in.Mode.IsDir() {
			continue
		}
		names, err := h.Names(p, maxStartFiles)
		if err != nil {
			return nil, err
		}
		for _, n := range names {
			if err := add(path.Join(p, n), false); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// excess are the permissions that a file has and should not. A group that is root's own may write start files: it has no
// other members on such systems.
func (c modeCheck) excess(in Info, rootGroup uint32) fs.FileMode {
	bits := in.Mode & permBits &^ c.max
	if c.start {
		bits &= 0o022
		if in.GID == 0 || in.GID == rootGroup {
			bits &= 0o002
		}
	}
	return bits
}

func (c modeCheck) Check(_ context.Context, h *Host) Verdict {
	files, err := c.files(h)
	if err != nil {
		return unknown(err)
	}
	if len(files) == 0 {
		return notApplicable(fmt.Sprintf("none of %v is there", c.paths))
	}
	var items []Item
	var seen []string
	root, rootGroup := h.Root()
	for _, in := range files {
		if len(seen) < MaxItems {
			seen = append(seen, printable(in.Path))
		}
		it := Item{Subject: printable(in.Path), Where: printable(in.Path), Observed: "mode " + OctalMode(in.Mode)}
		if bits := c.excess(in, rootGroup); bits != 0 {
			it.Expected = "mode " + OctalMode(in.Mode&^bits)
			items = append(items, it)
		} else if in.UID != root {
			it.Observed, it.Expected = fmt.Sprintf("owner %d", in.UID), fmt.Sprintf("owner %d", root)
			items = append(items, it)
		}
	}
	return judged(items, fmt.Sprintf("%d files and directories, none with more than it should", len(files)), seen...)
}

func (c modeCheck) Fix(_ context.Context, h *Host, want func(string) bool) ([]Change, error) {
	files, err := c.files(h)
	if err != nil {
		return nil, err
	}
	var out []Change
	root, rootGroup := h.Root()
	for _, in := range files {
		if bits := c.excess(in, rootGroup); bits != 0 && want(printable(in.Path)) {
			out = append(out, Change{Op: Chmod, Path: in.Path, OldMode: in.Mode & permBits, Mode: in.Mode & permBits &^ bits})
		} else if in.UID != root && want(printable(in.Path)) {
			err = fmt.Errorf("owner of %s: %w", printable(in.Path), ErrNoFix)
		}
	}
	return out, err
}
