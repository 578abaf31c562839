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
	"time"
)

// startedCheck wants the system to start at least one of several programs, and on a running system that one of them runs; or
// none of them.
type startedCheck struct {
	Programs []string `json:"programs"`
	None     bool     `json:"none"`
	With     []string `json:"with"`    // only with one of these arguments
	Ignore   []string `json:"without"` // not with one of these arguments
}

func startedKind() Kind {
	return Kind{
		Name: "started", Target: `"any": all that the system starts; on a running system its processes`,
		Want: `{"programs": [names], "none": true, "with": [arguments], "without": [arguments]}; programs is required; at least one has to be started, with none not one. A program counts only with one of with, if there are any, and none of without; "-k" is also found in "-sk"`,
		New: func(target string, want []byte) (Check, error) {
			var c startedCheck
			if err := decodeWant(want, &c); err != nil {
				return nil, err
			}
			if target != "any" || len(c.Programs) == 0 {
				return nil, errors.New(`target: want "any", with want.programs`)
			}
			return c, nil
		},
	}
}

// Fix is not possible: which of them, and how, is a matter of the product.
func (c startedCheck) Fix(context.Context, *Host, func(string) bool) ([]Change, error) {
	return nil, ErrNoFix
}

// Claims is empty: nothing is set.
func (c startedCheck) Claims() []string { return nil }

func (c startedCheck) Tightens(old Check) error {
	o, ok := old.(startedCheck)
	if !ok || !slices.Equal(c.With, o.With) || c.None != o.None || !slices.Equal(c.Ignore, o.Ignore) {
		return errors.New("it looks for something else")
	}
	if p, ok := subset(c.Programs, o.Programs); !ok && !c.None {
		return fmt.Errorf("%s is enough", p)
	}
	if p, ok := subset(o.Programs, c.Programs); !ok && c.None {
		return fmt.Errorf("%s is missing", p)
	}
	return nil
}

func (c startedCheck) counts(program string, args []string) bool {
	has := func(list []string) bool {
		return slices.ContainsFunc(list, func(want string) bool {
			return slices.ContainsFunc(args, func(a string) bool { return argument(a, want) })
		})
	}
	return slices.Contains(c.Programs, program) && (len(c.With) == 0 || has(c.With)) && !has(c.Ignore)
}

// argument reports whether an argument is the wanted one: a letter also among other letters, a word also before "=".
func argument(have, want string) bool {
	if have == want || strings.HasPrefix(want, "--") && strings.HasPrefix(have, want+"=") {
		return true
	}
	if len(want) != 2 || want[0] != '-' || len(have) < 3 || len(have) > 8 || have[0] != '-' || have[1] == '-' {
		return false
	}
	for i := 1; i < len(have); i++ {
		if !asciiLetter(have[i]) {
			return false
		}
	}
	return strings.IndexByte(have, want[1]) > 0
}

// place is where a program that counts is started, or runs.
type place struct{ program, where, what string }

// places lists them, with what was read; the error is why there may be more.
func (c startedCheck) places(ctx context.Context, h *Host) (found []place, read []string, err error) {
	f := h.starts(ctx)
	for _, s := range f.list {
		if s.enabled && c.counts(s.program(), s.args()) {
			found = append(found, place{s.program(), s.where(), "starts " + s.program()})
		}
	}
	read, err = f.evidence(), f.err()
	if !h.Live() {
		return found, read, err
	}
	p := h.processes(ctx)
	if p.err != nil {
		return found, read, p.err
	}
	read = append(slices.Clone(read), fmt.Sprintf("/proc (%d processes)", len(p.list)))
	running := found[:0:0]
	for _, x := range p.list {
		if c.counts(x.program(), x.args[min(1, len(x.args)):]) {
			running = append(running, place{x.program(), fmt.Sprintf("/proc/%d", x.pid), "runs " + x.program()})
		}
	}
	if c.None {
		return append(running, found...), read, err
	}
	return running, read, nil
}

func (c startedCheck) Check(ctx context.Context, h *Host) Verdict {
	found, read, err := c.places(ctx, h)
	names := strings.Join(c.Programs, ", ")
	var items []Item
	switch {
	case c.None:
		for _, p := range found {
			items = append(items, Item{Subject: p.program, Where: p.where, Observed: p.what + " with " + strings.Join(c.With, " or "), Expected: "without"})
		}
	case len(found) > 0:
		return judged(nil, found[0].where+" "+found[0].what, found[0].where)
	case err == nil && len(read) > 0:
		items = append(items, Item{Subject: c.Programs[0], Where: read[0], Observed: fmt.Sprintf("%d files and tables, none has %s", len(read), names), Expected: "one of them"})
	}
	if err != nil && len(items) == 0 {
		return unknown(err)
	}
	return judged(items, "nothing starts "+names+" with "+strings.Join(c.With, " or "), read...)
}

// persistentCheck wants files to outlive a restart.
type persistentCheck struct{ paths []string }

func persistentKind() Kind {
	return Kind{
		Name: "persistent", Target: "a path", Want: `{"also": [paths]}: what is there of them is not in memory, by links, fstab and, on a running system, mounts`,
		New: func(target string, want []byte) (Check, error) {
			paths, err := pathsOf(target, want)
			return persistentCheck{paths}, err
		},
	}
}

// Fix is not possible: where it should be is a matter of the product.
func (c persistentCheck) Fix(context.Context, *Host, func(string) bool) ([]Change, error) {
	return nil, ErrNoFix
}

// Claims is empty: nothing is set.
func (c persistentCheck) Claims() []string { return nil }

func (c persistentCheck) Tightens(old Check) error {
	o, ok := old.(persistentCheck)
	if !ok {
		return errors.New("another kind")
	}
	if p, ok := subset(o.paths, c.paths); !ok {
		return fmt.Errorf("%s is missing", p)
	}
	return nil
}

// volatile says why what is at a path is gone after a restart, "" when it is not, and where that is written.
func (h *Host) volatile(ctx context.Context, name string) (why, where string, err error) {
	p, err := h.Resolve(name)
	if p == "" {
		return "", "", err
	}
	if h.Live() {
		m, ok, err := h.holding(ctx, p)
		if err != nil || !ok {
			return "", "", errors.Join(err, fmt.Errorf("%s: no mount holds it", name))
		}
		if m.fstype == "tmpfs" || m.fstype == "ramfs" {
			return fmt.Sprintf("%s is on %s", p, m.fstype), at(mountsFile, m.line), nil
		}
		return "", at(mountsFile, m.line), nil
	}
	data, err := h.Read(ctx, fstabFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", "", err
	}
	var best fstabLine
	for _, l := range parseFstab(data) {
		if point := path.Clean("/" + l.point); below(point, p) && len(point) >= len(best.point) {
			best = l
		}
	}
	if best.fstype == "tmpfs" || best.fstype == "ramfs" {
		return fmt.Sprintf("%s is on %s", p, best.fstype), at(fstabFile, best.line), nil
	}
	for _, d := range []string{"/run", "/tmp", "/dev", "/var/run", "/var/tmp", "/var/volatile"} {
		if below(d, p) && (d != "/var/tmp" && d != "/var/run" || best.line == 0) {
			return p + " is in memory or emptied at each start", p, nil
		}
	}
	return "", p, nil
}

func (c persistentCheck) Check(ctx context.Context, h *Host) Verdict {
	var items []Item
	var read []string
	for _, name := range c.paths {
		if !h.Exists(name) && h.linkTo(name) == "" { // a link may point at what is made at the start
			continue
		}
		why, where, err := h.volatile(ctx, name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return unknown(err)
		}
		read = append(read, name)
		if why != "" {
			items = append(items, Item{Subject: name, Where: where, Observed: printable(why), Expected: "kept over a restart"})
		}
	}
	if len(read) == 0 {
		return notApplicable("none of " + strings.Join(c.paths, ", ") + " is there")
	}
	return judged(items, strings.Join(read, ", ")+" outlive a restart", read...)
}

// clockCheck wants the clock not to be behind what the system itself proves.
type clockCheck struct{}

func clockKind() Kind {
	return Kind{
		Name: "clock", Target: `"now"`, Want: `{}: not before the newest of os-release, passwd and the agent's own state`,
		New: func(target string, want []byte) (Check, error) {
			if target != "now" {
				return nil, errors.New(`target: want "now"`)
			}
			return clockCheck{}, decodeWant(want, &struct{}{})
		},
	}
}

// Fix is not possible: the right time is not known.
func (c clockCheck) Fix(context.Context, *Host, func(string) bool) ([]Change, error) {
	return nil, ErrNoFix
}

// Claims is empty: nothing is set.
func (c clockCheck) Claims() []string { return nil }

// Tightens compares nothing: there is one such check.
func (c clockCheck) Tightens(old Check) error {
	if _, ok := old.(clockCheck); !ok {
		return errors.New("another kind")
	}
	return nil
}

func (c clockCheck) Check(_ context.Context, h *Host) Verdict {
	if !h.Live() {
		return unknown(errNotLive)
	}
	made, by := h.made()
	now := time.Now()
	if by == "" {
		return Verdict{Result: Unknown, Reason: "no file proves a time that has passed"}
	}
	var items []Item
	if now.Add(time.Hour).Before(made) {
		items = append(items, Item{Subject: "clock", Where: by, Observed: "the clock says " + stamp(now), Expected: "not before " + stamp(made)})
	}
	return judged(items, "the clock says "+stamp(now)+", after "+by+" of "+stamp(made), by)
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04Z") }
