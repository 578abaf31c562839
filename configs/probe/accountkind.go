// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
)

// accountWant is the want of every target; each takes what it knows.
type accountWant struct {
	Marker []string `json:"marker"` // first-login: files that say the device was provisioned
	Allow  []string `json:"allow"`  // service-shell: accounts that keep their shell
}

// accountKind holds the questions about the account files that need no kind of their own.
func accountKind() Kind {
	return Kind{
		Name: "account",
		Target: `"hash-in-passwd", "usable-hash" (a password that works), "first-login" (a password that works must be changed at the first login), ` +
			`"service-shell", "unique" (names and ids), "nis" (lines with +) or "securetty"`,
		Want: `{"marker": [files that say that the device was provisioned]} for first-login, {"allow": [accounts]} for service-shell; default nothing`,
		Fix: "hash-in-passwd: move it to shadow; first-login: 0 as day of the last change; service-shell: nologin or false, whichever is here; " +
			"nis: take the line out; securetty: put the line out of use",
		New: func(target string, want []byte) (Check, error) {
			var w accountWant
			if err := decodeWant(want, &w); err != nil {
				return nil, err
			}
			c := accountCheck{claim: target, allows: slices.Concat(w.Allow, w.Marker)}
			switch target {
			case "hash-in-passwd":
				c.bad, c.mend, c.good, c.expect = hashInPasswd, moveHash, "no hash in "+passwdFile, "x, and the hash in "+shadowFile
			case "usable-hash":
				c.bad, c.good, c.expect = usableHash, "none has a password that works", "* or !, and a password set when the device is provisioned"
			case "first-login":
				c.bad, c.mend, c.good, c.expect = w.firstLogin, forceChange, "none has a password that works and that nobody has to change", "0 as the day of the last change"
			case "service-shell":
				c.bad, c.mend, c.good, c.expect = w.serviceShell, setNologin, "no service account has a shell", "nologin or false"
				c.locks, c.inPasswd = true, true
			case "unique":
				return uniqueCheck{}, nil
			case "nis":
				return lineCheck{name: target, files: []string{passwdFile, shadowFile, "/etc/group", "/etc/gshadow"}, bad: nisLine, expect: "no such line"}, nil
			case "securetty":
				return lineCheck{name: target, files: []string{"/etc/securetty"}, bad: networkTTY, expect: "terminals of the device only", comment: true}, nil
			default:
				return nil, fmt.Errorf("target: %q is not one of those of this kind", target)
			}
			return c, nil
		},
	}
}

// hashInPasswd finds hashes where every program can read them. A passwd that others cannot read serves as its own shadow.
func hashInPasswd(_ context.Context, h *Host, a account) (string, error) {
	if a.file != passwdFile || a.field == "" || schemeOf(a.field) == "none" || schemeOf(a.field) == "other text" {
		return "", nil
	}
	in, err := h.Stat(passwdFile)
	if err != nil || in.Mode&0o004 == 0 {
		return "", err
	}
	return schemeOf(a.field) + " hash that every program can read", nil
}

// moveHash needs a shadow file: without one the programs here may not know it.
func moveHash(ctx context.Context, h *Host, a account) ([]fieldEdit, error) {
	data, err := h.Read(ctx, shadowFile)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, ErrNoFix)
	}
	edits := []fieldEdit{{passwdFile, a.line, 1, "x"}}
	for _, r := range parseRecords(data) {
		if r.name() == a.name {
			return append(edits, fieldEdit{shadowFile, r.line, 1, a.field}), nil
		}
	}
	return append(edits, fieldEdit{file: shadowFile, value: a.name + ":" + a.field + "::0:99999:7:::"}), nil
}

func usableHash(_ context.Context, _ *Host, a account) (string, error) {
	switch s := schemeOf(a.field); {
	case a.locked() || s == "none" || s == "other text":
		return "", nil
	default:
		return s + " of a password that every device with this image has", nil
	}
}

// firstLogin wants the password of an image to be changed before it is used, or a marker that says that it was.
func (w accountWant) firstLogin(ctx context.Context, h *Host, a account) (string, error) {
	if s, _ := usableHash(ctx, h, a); s == "" || noShell(a.shell) || slices.ContainsFunc(w.Marker, h.Exists) {
		return "", nil
	}
	if a.file != shadowFile || a.changed != "0" {
		return "a password that works and that nobody has to change", nil
	}
	return "", nil
}

func forceChange(_ context.Context, _ *Host, a account) ([]fieldEdit, error) {
	if a.file != shadowFile {
		return nil, fmt.Errorf("its password is in %s, which has no date: %w", a.file, ErrNoFix)
	}
	return []fieldEdit{{a.file, a.line, 2, "0"}}, nil
}

// serviceShell wants accounts below the first uid of people to have no shell. A program of the product as shell is none.
func (w accountWant) serviceShell(ctx context.Context, h *Host, a account) (string, error) {
	uid, err := strconv.Atoi(a.uid)
	if err != nil || uid < 1 || uid >= firstUID(ctx, h) || noShell(a.shell) || slices.Contains(w.Allow, a.name) {
		return "", nil
	}
	if a.shell == "" {
		return "no shell given, which means /bin/sh", nil
	}
	shells := []string{"sh", "ash", "bash", "dash", "zsh", "ksh", "mksh", "csh", "tcsh", "fish", "busybox", "hush"}
	if slices.Contains(shells, path.Base(a.shell)) || listedShell(ctx, h, a.shell) {
		return printable(a.shell) + " for a service, uid " + a.uid, nil
	}
	return "", nil
}

// firstUID is UID_MIN of login.defs; busybox and shadow both start at 1000 without it.
func firstUID(ctx context.Context, h *Host) int {
	data, _ := h.Read(ctx, "/etc/login.defs")
	for l := range bytes.Lines(data) {
		if f := strings.Fields(string(l)); len(f) >= 2 && f[0] == "UID_MIN" {
			if n, err := strconv.Atoi(f[1]); err == nil && n > 0 {
				return n
			}
		}
	}
	return 1000
}

func listedShell(ctx context.Context, h *Host, shell string) bool {
	data, _ := h.Read(ctx, "/etc/shells")
	for l := range bytes.Lines(data) {
		if strings.TrimSpace(string(l)) == shell {
			return true
		}
	}
	return false
}

func setNologin(_ context.Context, h *Host, a account) ([]fieldEdit, error) {
	for _, p := range []string{"/sbin/nologin", "/usr/sbin/nologin", "/bin/false", "/usr/bin/false"} {
		if h.Exists(p) {
			return []fieldEdit{{passwdFile, a.at, 6, p}}, nil
		}
	}
	return nil, fmt.Errorf("neither nologin nor false is here: %w", ErrNoFix)
}

// uniqueCheck wants each name and each id once. A second uid 0 is left to the rule about uid 0.
type uniqueCheck struct{}

func (uniqueCheck) Claims() []string { return nil }

func (uniqueCheck) Fix(context.Context, *Host, func(string) bool) ([]Change, error) {
	return nil, fmt.Errorf("which of two is meant is for a person to say: %w", ErrNoFix)
}

func (uniqueCheck) Tightens(old Check) error {
	if _, ok := old.(uniqueCheck); !ok {
		return errors.New("another target")
	}
	return nil
}

func (uniqueCheck) Check(ctx context.Context, h *Host) Verdict {
	var items []Item
	var read []string
	for _, file := range []string{passwdFile, "/etc/group"} {
		data, err := h.Read(ctx, file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return unknown(err)
		}
		read = append(read, file)
		seen := map[string]int{}
		for _, r := range parseRecords(data) {
			for _, key := range []string{"name " + r.name(), "id " + strings.TrimLeft(r.field(2), "+0")} {
				if first := seen[key]; first > 0 && key != "id " {
					items = append(items, Item{Subject: printable(r.name()), Where: at(file, r.line),
						Observed: fmt.Sprintf("%s is also in line %d", printable(key), first), Expected: "a name and an id of its own"})
				} else {
					seen[key] = r.line
				}
			}
		}
	}
	if len(read) == 0 {
		return notApplicable(errNoAccounts.Error() + ": the tree has no accounts")
	}
	return judged(items, "each name and each id is there once", read...)
}

// lineCheck wants no line of some files to be bad.
type lineCheck struct {
	name    string
	files   []string
	bad     func(line string) string
	expect  string
	comment bool // the files may hold comments; else a bad line is taken out
}

func (c lineCheck) Claims() []string { return []string{"account:" + c.name} }

func (c lineCheck) Tightens(old Check) error {
	if o, ok := old.(lineCheck); !ok || o.name != c.name {
		return errors.New("another target")
	}
	return nil
}

func nisLine(line string) string {
	if strings.HasPrefix(line, "+") {
		return "a line with +: accounts come from the network"
	}
	return ""
}

// networkTTY knows the terminals that telnetd and its like make.
func networkTTY(line string) string {
	tty := strings.TrimPrefix(strings.TrimSpace(line), "/dev/")
	if strings.HasPrefix(tty, "pts/") || strings.HasPrefix(tty, "ttyp") || strings.HasPrefix(tty, "ptyp") || tty == "pts" {
		return printable(tty) + ": a terminal that the network makes"
	}
	return ""
}

// find gives the bad lines of each file that is there.
func (c lineCheck) find(ctx context.Context, h *Host) (bad map[string][]int, items []Item, read []string, err error) {
	bad = map[string][]int{}
	for _, name := range c.files {
		t, err := openText(ctx, h, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, nil, nil, err
		}
		read = append(read, name)
		for n := range len(t.lines) {
			if obs := c.bad(t.line(n + 1)); obs != "" {
				bad[name] = append(bad[name], n+1)
				items = append(items, Item{Subject: at(name, n+1), Where: at(name, n+1), Observed: obs, Expected: c.expect})
			}
		}
	}
	return bad, items, read, nil
}

func (c lineCheck) Check(ctx context.Context, h *Host) Verdict {
	_, items, read, err := c.find(ctx, h)
	if err != nil {
		return unknown(err)
	}
	if len(read) == 0 {
		return notApplicable("none of " + strings.Join(c.files, ", ") + " is there")
	}
	return judged(items, "no such line", read...)
}

func (c lineCheck) Fix(ctx context.Context, h *Host, want func(string) bool) ([]Change, error) {
	bad, _, _, err := c.find(ctx, h)
	if err != nil {
		return nil, err
	}
	var out []Change
	for _, name := range slices.Sorted(maps.Keys(bad)) {
		t, err := openText(ctx, h, name)
		if err != nil {
			return nil, err
		}
		for _, n := range bad[name] {
			switch {
			case !want(at(name, n)):
			case c.comment:
				t.disable(n)
			default: // not every C library knows comments in these files
				t.lines[n-1] = ""
			}
		}
		for _, ch := range t.changes(false) {
			ch.Redact = MaskHash
			out = append(out, ch)
		}
	}
	return out, nil
}
