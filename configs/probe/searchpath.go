// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// loginFiles are read when somebody logs in, or by cron; those of profile.d are added to them.
func loginFiles(h *Host) ([]string, error) {
	out := []string{"/etc/profile", "/etc/environment", "/etc/login.defs", "/etc/bash.bashrc", "/etc/bashrc", "/etc/crontab",
		"/root/.profile", "/root/.bash_profile", "/root/.bashrc", "/etc/rc.conf", "/etc/init.d/rcS", "/etc/inittab"}
	names, err := h.Names("/etc/profile.d", maxStartFiles)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, n := range names {
		if strings.HasSuffix(n, ".sh") {
			out = append(out, path.Join("/etc/profile.d", n))
		}
	}
	return out, nil
}

// pathCheck wants no directory in the search path that somebody else can put a program into.
type pathCheck struct{}

func pathKind() Kind {
	return Kind{
		Name: "search-path", Target: `"PATH": as set by profiles, login.defs, /etc/environment, crontab and root's own files`, Want: `{}`,
		Fix: "take empty and relative elements and directories that others can write out of the value",
		New: func(target string, want []byte) (Check, error) {
			if target != "PATH" {
				return nil, errors.New(`target: want "PATH"`)
			}
			return pathCheck{}, decodeWant(want, &struct{}{})
		},
	}
}

func (pathCheck) Claims() []string { return []string{"path:PATH"} }

func (pathCheck) Tightens(old Check) error {
	if _, ok := old.(pathCheck); !ok {
		return errors.New("another kind")
	}
	return nil
}

// pathSetting is one line that sets PATH, and where in it the value is.
type pathSetting struct {
	line     int
	lines    int // with those that a \ at the end joins to it
	from, to int
	elements []string
}

// parsePath finds PATH=VALUE in one line, also after export, and in login.defs ENV_PATH and ENV_SUPATH.
func parsePath(line string) (s pathSetting, ok bool) {
	if strings.HasPrefix(strings.TrimSpace(line), "#") {
		return s, false
	}
	i := strings.Index(line, "PATH=")
	if i < 0 || i > 0 && strings.IndexByte(" \t;\"'", line[i-1]) < 0 {
		return s, false
	}
	s.from = i + len("PATH=")
	rest := line[s.from:]
	end := len(rest)
	if rest != "" && (rest[0] == '"' || rest[0] == '\'') {
		s.from++
		if end = strings.IndexByte(rest[1:], rest[0]); end < 0 {
			return s, false
		}
	} else if k := strings.IndexAny(rest, " \t;\"'#&|"); k >= 0 {
		end = k
	}
	s.to = s.from + end
	value := line[s.from:s.to]
	if strings.ContainsAny(value, "`(") {
		return s, false // computed
	}
	s.elements = splitPath(value)
	return s, true
}

// splitPath splits at colons outside ${...}.
func splitPath(v string) []string {
	var out []string
	depth, start := 0, 0
	for i := range len(v) {
		switch {
		case v[i] == '{' && i > 0 && v[i-1] == '$':
			depth++
		case v[i] == '}' && depth > 0:
			depth--
		case v[i] == ':' && depth == 0:
			out, start = append(out, v[start:i]), i+1
		}
	}
	return append(out, v[start:])
}

// badElement says what is wrong with one element, "" for nothing. A variable is not judged.
func badElement(h *Host, el string) string {
	switch {
	case el == "" || el == ".":
		return "the current directory"
	case strings.HasPrefix(el, "$"), strings.HasPrefix(el, "~"):
		return ""
	case el[0] != '/':
		return "a relative directory " + printable(el)
	}
	in, err := h.Stat(el)
	if err != nil || !in.Mode.IsDir() {
		return ""
	}
	uid, gid := h.Root()
	switch {
	case in.Mode&0o002 != 0, in.Mode&0o020 != 0 && in.GID != 0 && in.GID != gid && in.UID == uid && !staffGroup(el):
		return fmt.Sprintf("%s, mode %s", printable(el), OctalMode(in.Mode))
	case in.UID != uid && in.UID != 0:
		return fmt.Sprintf("%s, owner %d", printable(el), in.UID)
	}
	return ""
}

// staffGroup knows that Debian lets the group staff, which has no members, write below /usr/local.
func staffGroup(el string) bool { return strings.HasPrefix(el, "/usr/local/") }

// eachPath calls fn with every setting.
func eachPath(ctx context.Context, h *Host, fn func(t *text, name string, s pathSetting)) (read []string, err error) {
	names, err := loginFiles(h)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		t, err := openText(ctx, h, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return read, err
		}
		read = append(read, name)
		for n := 1; n <= len(t.lines); n++ {
			first, l := n, t.line(n)
			for strings.HasSuffix(l, `\`) && n < len(t.lines) {
				n++
				l = strings.TrimSuffix(l, `\`) + strings.TrimLeft(t.line(n), " \t")
			}
			if s, ok := parsePath(l); ok {
				s.line, s.lines = first, n-first+1
				fn(t, name, s)
			}
		}
	}
	return read, nil
}

func (c pathCheck) Check(ctx context.Context, h *Host) Verdict {
	var items []Item
	settings := 0
	read, err := eachPath(ctx, h, func(_ *text, name string, s pathSetting) {
		settings++
		for _, el := range s.elements {
			if bad := badElement(h, el); bad != "" {
				items = append(items, Item{Subject: name, Where: at(name, s.line), Observed: "PATH has " + bad, Expected: "only directories of root's"})
			}
		}
	})
	switch {
	case err != nil && len(items) == 0:
		return unknown(err)
	case len(read) == 0:
		return notApplicable("no profile, login.defs, environment or crontab: PATH is what programs have built in")
	}
	return judged(items, fmt.Sprintf("PATH is set %d times, by directories of root's", settings), read...)
}

func (c pathCheck) Fix(ctx context.Context, h *Host, want func(string) bool) ([]Change, error) {
	edited := map[string]*text{}
	var order []string
	var nofix error
	_, err := eachPath(ctx, h, func(t *text, name string, s pathSetting) {
		good := slices.DeleteFunc(slices.Clone(s.elements), func(el string) bool { return badElement(h, el) != "" })
		if len(good) == len(s.elements) || !want(name) {
			return
		}
		if len(good) == 0 || s.lines > 1 {
			nofix = fmt.Errorf("%s: nothing would be left of PATH, or it goes over several lines: %w", at(name, s.line), ErrNoFix)
			return
		}
		if edited[t.path] == nil {
			edited[t.path] = t
			order = append(order, t.path)
		}
		raw := t.line(s.line)
		t.set(s.line, raw[:s.from]+strings.Join(good, ":")+raw[s.to:])
	})
	var out []Change
	for _, p := range order {
		out = append(out, edited[p].changes(true)...)
	}
	return out, errors.Join(err, nofix)
}

// umaskCheck wants the permissions in mask to be left out of what programs create.
type umaskCheck struct {
	mask uint64
}

func umaskKind() Kind {
	return Kind{
		Name: "umask", Target: `"umask": as set by login.defs, profiles and start scripts`, Want: `{"mask": "022"}: every umask has at least these bits; required`,
		Fix: "add the bits to the value",
		New: func(target string, want []byte) (Check, error) {
			var w struct {
				Mask string `json:"mask"`
			}
			if err := decodeWant(want, &w); err != nil {
				return nil, err
			}
			m, err := strconv.ParseUint(w.Mask, 8, 9)
			if err != nil || target != "umask" {
				return nil, fmt.Errorf(`target: want "umask", and want.mask an octal number such as 022, not %q`, w.Mask)
			}
			return umaskCheck{m}, nil
		},
	}
}

func (c umaskCheck) Claims() []string { return []string{"umask"} }

func (c umaskCheck) Tightens(old Check) error {
	if o, ok := old.(umaskCheck); !ok || o.mask&^c.mask != 0 {
		return errors.New("the mask has fewer bits")
	}
	return nil
}

// parseUmask finds "umask NNN" of a shell, also after other commands, and UMASK of login.defs.
func parseUmask(line string) (value uint64, from, to int, ok bool) {
	if strings.HasPrefix(strings.TrimSpace(line), "#") {
		return 0, 0, 0, false
	}
	i := strings.Index(strings.ToLower(line), "umask")
	if i < 0 || i > 0 && strings.IndexByte(" \t;&|({", line[i-1]) < 0 {
		return 0, 0, 0, false
	}
	from = i + len("umask")
	for from < len(line) && (line[from] == ' ' || line[from] == '\t' || line[from] == '=') {
		from++
	}
	to = from
	for to < len(line) && line[to] >= '0' && line[to] <= '7' {
		to++
	}
	if from == i+len("umask") || to == from || to < len(line) && strings.IndexByte(" \t;&|)#\r", line[to]) < 0 {
		return 0, 0, 0, false
	}
	value, err := strconv.ParseUint(line[from:to], 8, 12)
	return value, from, to, err == nil
}

// files are those of logins, and the start scripts that are enabled.
func (c umaskCheck) files(ctx context.Context, h *Host) ([]string, error) {
	out, err := loginFiles(h)
	if err != nil {
		return nil, err
	}
	f := h.starts(ctx)
	for _, s := range f.list {
		if s.enabled && (s.source == "script" || s.source == "openrc" || s.source == "run") && !slices.Contains(out, s.file) {
			out = append(out, s.file)
		}
	}
	return out, nil
}

func (c umaskCheck) each(ctx context.Context, h *Host, fn func(t *text, name string, line int, value uint64, from, to int)) (read []string, err error) {
	names, err := c.files(ctx, h)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		t, err := openText(ctx, h, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return read, err
		}
		read = append(read, printable(name))
		for n := range t.lines {
			if v, from, to, ok := parseUmask(t.line(n + 1)); ok {
				fn(t, name, n+1, v, from, to)
			}
		}
	}
	return read, nil
}

// builtinUmask is what the kernel starts init with.
const builtinUmask = 0o022

func (c umaskCheck) Check(ctx context.Context, h *Host) Verdict {
	var items []Item
	set := 0
	read, err := c.each(ctx, h, func(_ *text, name string, line int, v uint64, _, _ int) {
		set++
		if v&c.mask != c.mask {
			items = append(items, Item{Subject: printable(name), Where: at(name, line), Observed: fmt.Sprintf("umask %03o", v), Expected: fmt.Sprintf("umask %03o", v|c.mask)})
		}
	})
	switch {
	case err != nil && len(items) == 0:
		return unknown(err)
	case len(read) == 0:
		return Verdict{Result: Unknown, Reason: "no profile, login.defs or start script: how this system starts is not known"}
	case set == 0 && builtinUmask&c.mask != c.mask:
		items = append(items, Item{Subject: "umask", Where: read[0], Observed: "not set anywhere, which means 022", Expected: fmt.Sprintf("umask %03o", builtinUmask|c.mask)})
	}
	return judged(items, fmt.Sprintf("umask is set %d times; where it is not, init has 022", set), read[:min(len(read), MaxItems)]...)
}

func (c umaskCheck) Fix(ctx context.Context, h *Host, want func(string) bool) ([]Change, error) {
	edited := map[string]*text{}
	var order []string
	_, err := c.each(ctx, h, func(t *text, name string, line int, v uint64, from, to int) {
		if v&c.mask == c.mask || !want(printable(name)) {
			return
		}
		if edited[t.path] == nil {
			edited[t.path] = t
			order = append(order, t.path)
		}
		raw := t.line(line)
		t.set(line, raw[:from]+fmt.Sprintf("%0*o", to-from, v|c.mask)+raw[to:])
	})
	var out []Change
	for _, p := range order {
		out = append(out, edited[p].changes(true)...)
	}
	return out, err
}
