// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
)

// sysctlPathCheck wants a parameter that names a program or a place for core files to name one that only root can change.
type sysctlPathCheck struct {
	key     string
	Core    bool    `json:"core"` // it is a pattern for core files
	Default *string `json:"default"`
	Set     string  `json:"set"`
}

func sysctlPathKind() Kind {
	return Kind{
		Name: "sysctl-path", Target: "a key whose value is a path, such as kernel.modprobe",
		Want: `{"core": true, "default": V, "set": V}: core says that the value is a pattern for core files, default is what the kernel has by itself`,
		Fix:  "write the value below /proc/sys, and into the sysctl files",
		New: func(target string, want []byte) (Check, error) {
			c := sysctlPathCheck{key: target}
			if err := decodeWant(want, &c); err != nil {
				return nil, err
			}
			if !sysctlName(target) || strings.ContainsAny(c.Set, "\r\n") {
				return nil, fmt.Errorf("target: %q is no kernel parameter", target)
			}
			return c, nil
		},
	}
}

func (c sysctlPathCheck) Claims() []string { return []string{"sysctl:" + c.key} }

func (c sysctlPathCheck) Tightens(old Check) error {
	if o, ok := old.(sysctlPathCheck); !ok || o.key != c.key || o.Core != c.Core {
		return errors.New("another target")
	}
	return nil
}

// sysctl is the part of the check that knows where the value is and how it is set.
func (c sysctlPathCheck) sysctl() sysctlCheck {
	return sysctlCheck{key: c.key, span: span{OneOf: []string{c.Set}, Set: c.Set}}
}

func (c sysctlPathCheck) Check(ctx context.Context, h *Host) Verdict {
	name := c.sysctl().live()
	now, err := h.Read(ctx, name)
	if errors.Is(err, fs.ErrNotExist) {
		if hasSysctls(h) {
			return notApplicable(name + " is not there: the kernel is built without it")
		}
		now = nil
	} else if err != nil {
		return unknown(err)
	}
	settings, serr := sysctlSettings(ctx, h)
	if serr != nil {
		return unknown(serr)
	}
	kept := persisted(settings, sysctlPath(c.key))
	var items []Item
	var read, reason []string
	look := func(where, file, value string) {
		read = append(read, file)
		why := c.judge(ctx, h, value)
		if why == "" {
			reason = append(reason, c.key+" is "+printable(value))
			return
		}
		items = append(items, Item{Subject: c.key, Where: where, Observed: printable(value) + ": " + why, Expected: "a path that only root changes"})
	}
	if err == nil {
		look(name, name, string(bytes.TrimSpace(now)))
	}
	if kept.line > 0 {
		look(at(kept.file, kept.line), printable(kept.file), kept.value)
	}
	switch {
	case len(read) == 0 && c.Default != nil:
		look("built-in default of "+c.key, "built-in default of "+c.key, *c.Default)
		return judged(items, strings.Join(reason, ", ")+" by itself", read...)
	case len(read) == 0:
		return Verdict{Result: Unknown, Reason: "no file sets " + c.key + " and the kernel's own value is not in an image"}
	case err != nil && len(items) == 0:
		return appliedAtStart(ctx, h, reason, read)
	}
	return judged(items, strings.Join(reason, ", "), read...)
}

// judge says what is wrong with a value, "" for nothing.
func (c sysctlPathCheck) judge(ctx context.Context, h *Host, v string) string {
	p, pipe := strings.CutPrefix(v, "|")
	p, _, _ = strings.Cut(p, " ")
	switch {
	case v == "":
		return ""
	case c.Core && !pipe && !strings.HasPrefix(v, "/"):
		return c.coresInPlace(ctx, h)
	case !strings.HasPrefix(p, "/"):
		return "not an absolute path"
	case c.Core && !pipe:
		dir := path.Dir(p)
		if in, err := h.Stat(dir); err == nil && in.Mode&0o077 != 0 {
			return "core files go to " + printable(dir) + ", which others can read or write"
		}
		return h.openToOthers(dir)
	}
	return h.openToOthers(p)
}

// coresInPlace judges a pattern without a directory: each program leaves its core file where it runs, if it may at all.
func (c sysctlPathCheck) coresInPlace(ctx context.Context, h *Host) string {
	data, err := h.Read(ctx, "/proc/1/limits")
	if err != nil {
		return "" // a limit of 0 is the default, and nothing says otherwise
	}
	for l := range bytes.Lines(data) {
		rest, ok := strings.CutPrefix(string(l), "Max core file size")
		if f := strings.Fields(rest); ok && len(f) > 0 && f[0] != "0" {
			return "programs leave core files where they run, and init allows them " + f[0] + " bytes"
		}
	}
	return ""
}

// openToOthers names the first part of a path that others than root can change, "" for none. What is not there cannot be
// put there when its directory is root's.
func (h *Host) openToOthers(p string) string {
	for _, shared := range []string{"/tmp", "/var/tmp", "/dev/shm", "/run/shm", "/media", "/www", "/var/www"} {
		if p == shared || strings.HasPrefix(p, shared+"/") {
			return shared + " is no place that only root changes"
		}
	}
	root, rootGroup := h.Root()
	for dir := p; ; dir = path.Dir(dir) {
		in, err := h.Stat(dir)
		if errors.Is(err, fs.ErrNotExist) && dir != "/" {
			continue
		}
		if err != nil {
			return err.Error()
		}
		if in.UID != root || in.Mode&0o002 != 0 || in.Mode&0o020 != 0 && in.GID != 0 && in.GID != rootGroup {
			return printable(dir) + " can be changed by others than root"
		}
		if dir == "/" {
			return ""
		}
	}
}

func (c sysctlPathCheck) Fix(ctx context.Context, h *Host, want func(string) bool) ([]Change, error) {
	if c.Set == "" {
		return nil, fmt.Errorf("the rule gives no value to set: %w", ErrNoFix)
	}
	if v := c.Check(ctx, h); v.Result != Fail || !want(c.key) {
		return nil, nil
	}
	if why := c.judge(ctx, h, c.Set); why != "" {
		return nil, fmt.Errorf("%s is no better: %s", c.Set, why)
	}
	return c.sysctl().Fix(ctx, h, want)
}
