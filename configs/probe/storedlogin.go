// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// storedLogin wants no password of another system to lie on the device: what tools of developers leave in homes, and
// addresses with a password in configuration files.
type storedLogin struct {
	Skip []string `json:"skip"`
}

const maxConfigFile = 256 << 10 // longer files below /etc are no configuration that people write

func storedLoginKind() Kind {
	return Kind{
		Name: "stored-login", Target: `"accounts": .netrc, .git-credentials, .pgpass, .aws/credentials and .docker/config.json in every home, and addresses such as scheme://user:password@host below /etc`,
		Want: `{"skip": [files or directories below /etc]}`,
		New: func(target string, want []byte) (Check, error) {
			var c storedLogin
			if err := decodeWant(want, &c); err != nil {
				return nil, err
			}
			if target != "accounts" {
				return nil, errors.New(`target: want "accounts"`)
			}
			return c, checkPaths(c.Skip)
		},
	}
}

// Fix is not possible: the password has to be changed where it is used, and the device be given another way in.
func (c storedLogin) Fix(context.Context, *Host, func(string) bool) ([]Change, error) {
	return nil, ErrNoFix
}

// Claims is empty: nothing is set.
func (c storedLogin) Claims() []string { return nil }

func (c storedLogin) Tightens(old Check) error {
	o, ok := old.(storedLogin)
	if !ok {
		return errors.New("another kind")
	}
	if s, ok := subset(c.Skip, o.Skip); !ok {
		return fmt.Errorf("%s is left out", s)
	}
	return nil
}

func (c storedLogin) Check(ctx context.Context, h *Host) Verdict {
	list, read, err := accounts(ctx, h)
	if err != nil && !errors.Is(err, errNoAccounts) {
		return unknown(err)
	}
	var items []Item
	found := func(p string, line int, what string) {
		items = append(items, Item{Subject: printable(p), Where: at(p, line), Observed: what, Expected: "no password of another system"})
	}
	homes := []string{"/root"}
	for _, a := range list {
		if !slices.Contains(homes, path.Join("/", a.home)) {
			homes = append(homes, path.Join("/", a.home))
		}
	}
	for _, home := range homes {
		for _, name := range []string{".netrc", ".git-credentials", ".pgpass", ".aws/credentials", ".docker/config.json"} {
			p := path.Join(home, name)
			data, err := h.Read(ctx, p)
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrNotRegular) {
				continue
			}
			if err != nil {
				return unknown(err)
			}
			read = append(read, printable(p))
			if line := storedLine(path.Base(name), data); line > 0 {
				found(p, line, "a password or token that a tool stored")
			}
		}
	}
	files := 0
	err = h.Walk(ctx, "/etc", func(tree Tree, name string, in Info) error {
		if !in.Mode.IsRegular() || in.Size > maxConfigFile || c.skipped(in.Path) || len(items) > MaxItems {
			return nil
		}
		files++
		data, err := h.readFile(tree, name, maxConfigFile)
		if err != nil {
			return fmt.Errorf("read %s: %w", printable(in.Path), err)
		}
		if line, host := loginURL(data); line > 0 {
			found(in.Path, line, "an address with a password, for "+printable(host))
		}
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) && len(items) == 0 {
		return unknown(err)
	}
	if err == nil {
		read = append(read, fmt.Sprintf("/etc (%d files)", files))
	}
	if len(read) == 0 {
		return notApplicable("no accounts and no /etc")
	}
	return judged(items, fmt.Sprintf("%d homes and %d files below /etc, no password of another system", len(homes), files), read...)
}

func (c storedLogin) skipped(p string) bool {
	return slices.ContainsFunc(c.Skip, func(d string) bool { return p == d || strings.HasPrefix(p, d+"/") })
}

// storedLine gives the first line of a tool's file that holds a secret, 0 for none.
func storedLine(base string, data []byte) int {
	n, password := 0, false
	for l := range bytes.Lines(data) {
		n++
		s := strings.TrimSpace(string(l))
		if s == "" || s[0] == '#' {
			continue
		}
		key, value, _ := strings.Cut(s, "=")
		switch base {
		case ".netrc":
			for w := range strings.FieldsSeq(s) {
				if password {
					return n
				}
				password = w == "password"
			}
		case ".git-credentials":
			if line, _ := loginURL([]byte(s)); line > 0 {
				return n
			}
		case ".pgpass":
			if f := strings.Split(s, ":"); len(f) == 5 && f[4] != "" {
				return n
			}
		case "credentials":
			if strings.TrimSpace(key) == "aws_secret_access_key" && strings.TrimSpace(value) != "" {
				return n
			}
		case "config.json":
			for _, name := range []string{`"auth"`, `"identitytoken"`} {
				_, after, ok := strings.Cut(s, name)
				if v, isText := strings.CutPrefix(strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(after), ":")), `"`); ok && isText && !strings.HasPrefix(v, `"`) {
					return n
				}
			}
		}
	}
	return 0
}

// loginURL finds scheme://user:password@host in a text file, outside of comments. Variables and the words that manuals use
// are no password.
func loginURL(data []byte) (line int, host string) {
	if bytes.IndexByte(data[:min(len(data), 512)], 0) >= 0 || !bytes.Contains(data, []byte("://")) {
		return 0, ""
	}
	n := 0
	for l := range bytes.Lines(data) {
		n++
		s := strings.TrimSpace(string(l))
		if s == "" || strings.ContainsRune("#;", rune(s[0])) || strings.HasPrefix(s, "//") {
			continue
		}
		for {
			scheme, rest, ok := strings.Cut(s, "://")
			if !ok {
				break
			}
			s = rest
			end := strings.IndexAny(rest, " \t\"'<>/\\)]},;")
			if end < 0 {
				end = len(rest)
			}
			at := strings.LastIndexByte(rest[:end], '@')
			if at < 0 || scheme == "" || !isLetter(scheme[len(scheme)-1]) {
				continue
			}
			user, password, ok := strings.Cut(rest[:at], ":")
			if h := rest[at+1 : end]; ok && h != "" && isPassword(user, password) {
				return n, h
			}
		}
	}
	return 0, ""
}

func isLetter(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

func isPassword(user, password string) bool {
	if password == "" || strings.ContainsAny(user+password, "$%{}<>*[]`") {
		return false
	}
	words := []string{"pass", "password", "passwd", "pwd", "secret", "xxx", "xxxx", "your-password", "yourpassword", "..."}
	return !slices.Contains(words, strings.ToLower(password))
}
