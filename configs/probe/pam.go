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

const (
	pamDir      = "/etc/pam.d"
	pamFile     = "/etc/pam.conf"
	maxPamFiles = 256
	maxPamDepth = 8
)

// pamCheck wants PAM to ask for what it should ask for.
type pamCheck struct{ target string }

func pamKind() Kind {
	return Kind{
		Name: "pam", Target: `"bypass": pam_permit or, for a login, pam_rootok lets in; "nullok": an empty password is taken. In the services that log somebody in`,
		Want: "nothing",
		Fix:  "put a sufficient pam_permit or pam_rootok out of use; take nullok out",
		New: func(target string, want []byte) (Check, error) {
			if target != "bypass" && target != "nullok" {
				return nil, errors.New(`target: want "bypass" or "nullok"`)
			}
			return pamCheck{target}, decodeWant(want, &struct{}{})
		},
	}
}

func (c pamCheck) Claims() []string { return []string{"pam:" + c.target} }

func (c pamCheck) Tightens(old Check) error {
	if o, ok := old.(pamCheck); !ok || o != c {
		return errors.New("another target")
	}
	return nil
}

// pamLogins are the services that let somebody in from outside, or give more rights. Others (su for root, chsh, a screen
// that logs in by itself) have their reasons.
func pamLogins() []string {
	return []string{"login", "remote", "sshd", "dropbear", "ssh", "sudo", "sudo-i", "doas", "su", "su-l", "other", "telnet", "telnetd", "rlogin", "rsh", "rexec", "ftp", "ftpd",
		"vsftpd", "proftpd", "pure-ftpd", "cockpit", "webmin", "ppp", "openvpn", "httpd", "lighttpd", "samba", "imap", "pop3"}
}

// pamLine is one line of the auth stack, from the file where it is written.
type pamLine struct {
	file    string
	line    int
	control string
	module  string
	args    []string
}

// done reports whether success of the line ends the stack with success.
func (l pamLine) done() bool {
	return l.control == "sufficient" || strings.HasPrefix(l.control, "[") && (strings.Contains(l.control, "success=done") || strings.Contains(l.control, "default=done"))
}

type pamReader struct {
	h     *Host
	files []string
}

// parsePam reads a line of a service file; of pam.conf the service comes first.
func parsePam(line string, service bool) (of, kind string, l pamLine, ok bool) {
	line, _, _ = strings.Cut(line, "#")
	words := strings.Fields(line)
	if service && len(words) > 0 {
		of, words = strings.ToLower(words[0]), words[1:]
	}
	if len(words) == 2 && words[0] == "@include" {
		return of, "auth", pamLine{control: "include", module: words[1]}, true
	}
	if len(words) < 3 {
		return "", "", l, false
	}
	kind = strings.TrimPrefix(strings.ToLower(words[0]), "-")
	n := 2
	if strings.HasPrefix(words[1], "[") {
		for n < len(words) && !strings.HasSuffix(words[n-1], "]") {
			n++
		}
	}
	if n >= len(words) {
		return "", "", l, false
	}
	return of, kind, pamLine{control: strings.ToLower(strings.Join(words[1:n], " ")), module: words[n], args: words[n+1:]}, true
}

// stack gives the auth lines of a service with its includes in place.
func (r *pamReader) stack(ctx context.Context, service string, depth int) ([]pamLine, error) {
	if depth > maxPamDepth || len(r.files) > maxPamFiles {
		return nil, fmt.Errorf("read %s: %w: too many includes", printable(service), ErrTooLarge)
	}
	name := service
	if !strings.HasPrefix(name, "/") {
		name = path.Join(pamDir, service)
	}
	t, err := openText(ctx, r.h, name)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(r.files, name) {
		r.files = append(r.files, name)
	}
	var out []pamLine
	for n := 1; n <= len(t.lines); n++ {
		_, kind, l, ok := parsePam(t.line(n), false)
		if !ok || kind != "auth" {
			continue
		}
		l.file, l.line = name, n
		if l.control != "include" && l.control != "substack" {
			out = append(out, l)
			continue
		}
		sub, err := r.stack(ctx, l.module, depth+1)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		out = append(out, sub...)
	}
	return out, nil
}

// stacks gives the auth stack of each service that logs somebody in.
func (r *pamReader) stacks(ctx context.Context) (map[string][]pamLine, error) {
	out := map[string][]pamLine{}
	names, err := r.h.Names(pamDir, maxPamFiles)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err == nil {
		for _, n := range names {
			if !slices.Contains(pamLogins(), n) {
				continue
			}
			if out[n], err = r.stack(ctx, n, 0); err != nil {
				return nil, err
			}
		}
		return out, nil // pam.conf is not read when there is a directory
	}
	t, err := openText(ctx, r.h, pamFile)
	if err != nil {
		return nil, err
	}
	r.files = append(r.files, pamFile)
	for n := 1; n <= len(t.lines); n++ {
		if of, kind, l, ok := parsePam(t.line(n), true); ok && kind == "auth" && slices.Contains(pamLogins(), of) {
			l.file, l.line = pamFile, n
			out[of] = append(out[of], l)
		}
	}
	return out, nil
}

// pamFound is a line that is not as wanted, and whether it can be taken away.
type pamFound struct {
	pamLine
	what    string
	mending bool
}

// bad looks at one stack.
func (c pamCheck) bad(service string, stack []pamLine) (out []pamFound) {
	asks := false
	for _, l := range stack {
		m := path.Base(l.module)
		if !slices.Contains([]string{"pam_permit.so", "pam_env.so", "pam_nologin.so", "pam_securetty.so", "pam_faildelay.so", "pam_group.so", "pam_mail.so", "pam_limits.so",
			"pam_warn.so", "pam_shells.so", "pam_rootok.so", "pam_cap.so", "pam_umask.so", "pam_selinux.so", "pam_loginuid.so", "pam_faillock.so"}, m) {
			asks = true
		}
	}
	for i, l := range stack {
		m := path.Base(l.module)
		switch {
		case c.target == "nullok":
			if slices.Contains(l.args, "nullok") {
				out = append(out, pamFound{l, m + " nullok: an empty password opens " + service, true})
			}
		case m == "pam_permit.so" && l.done() && !conditional(stack[:i]):
			out = append(out, pamFound{l, "pam_permit is enough: anybody is let in to " + service, asks})
		case m == "pam_permit.so" && !asks:
			out = append(out, pamFound{l, "nothing but pam_permit: anybody is let in to " + service, false})
		case m == "pam_rootok.so" && l.done() && !strings.HasPrefix(service, "su"):
			out = append(out, pamFound{l, "pam_rootok is enough: the server runs as root, so anybody is let in to " + service, asks})
		}
	}
	return out
}

// conditional reports whether a line before decides who gets here: an account or group that may come in without a password
// is the product's wish.
func conditional(before []pamLine) bool {
	return slices.ContainsFunc(before, func(l pamLine) bool {
		m := path.Base(l.module)
		return (l.control == "requisite" || strings.HasPrefix(l.control, "[")) && slices.Contains([]string{"pam_succeed_if.so", "pam_listfile.so", "pam_wheel.so", "pam_unix.so", "pam_deny.so", "pam_access.so"}, m)
	})
}

// find gives each bad line once, with the first service that has it.
func (c pamCheck) find(ctx context.Context, h *Host) (bad []pamFound, read []string, err error) {
	r := &pamReader{h: h}
	stacks, err := r.stacks(ctx)
	if err != nil {
		return nil, r.files, err
	}
	for _, s := range pamLogins() {
		for _, b := range c.bad(s, stacks[s]) {
			if !slices.ContainsFunc(bad, func(o pamFound) bool { return o.file == b.file && o.line == b.line }) {
				bad = append(bad, b)
			}
		}
	}
	return bad, r.files, nil
}

func (c pamCheck) Check(ctx context.Context, h *Host) Verdict {
	bad, read, err := c.find(ctx, h)
	if errors.Is(err, fs.ErrNotExist) {
		return notApplicable("PAM is not here: no " + pamDir + ", no " + pamFile)
	}
	if err != nil {
		return unknown(err)
	}
	if len(read) == 0 {
		return notApplicable("no service in " + pamDir + " logs anybody in")
	}
	var items []Item
	for _, b := range bad {
		items = append(items, Item{Subject: at(b.file, b.line), Where: at(b.file, b.line), Observed: b.what, Expected: "a module that asks for something"})
	}
	return judged(items, "every login asks for something", read[:min(len(read), MaxItems)]...)
}

func (c pamCheck) Fix(ctx context.Context, h *Host, want func(string) bool) ([]Change, error) {
	bad, _, err := c.find(ctx, h)
	if err != nil {
		return nil, err
	}
	var order []*text
	var errs []error
	for _, b := range bad {
		if !want(at(b.file, b.line)) {
			continue
		}
		if !b.mending {
			errs = append(errs, fmt.Errorf("%s has no other module: %w", at(b.file, b.line), ErrNoFix))
			continue
		}
		p, err := h.Resolve(b.file)
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(order, func(t *text) bool { return t.path == p })
		if i < 0 {
			t, err := openText(ctx, h, b.file)
			if err != nil {
				return nil, err
			}
			i, order = len(order), append(order, t)
		}
		if c.target == "nullok" {
			order[i].set(b.line, dropWord(order[i].line(b.line), "nullok"))
		} else {
			order[i].disable(b.line)
		}
	}
	var out []Change
	for _, t := range order {
		out = append(out, t.changes(false)...)
	}
	return out, errors.Join(errs...)
}
