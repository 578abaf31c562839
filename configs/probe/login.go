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

// errLastLogin refuses a fix that would leave nobody who can log in.
var errLastLogin = errors.New("it is the last account that anybody can log in to; give another one a password or a key first")

var errNoKey = errors.New("nobody could log in over the network afterwards: no other account has an authorized key; put one there first")

// logins knows the accounts that somebody can log in to, so that fixes leave one.
type logins struct {
	password map[string]bool // by name: the password opens it
	key      map[string]bool // by name: an SSH server takes one of its keys
}

// newLogins looks at shells, password fields and authorized keys.
func newLogins(ctx context.Context, h *Host, list []account) (*logins, error) {
	l := &logins{password: map[string]bool{}, key: map[string]bool{}}
	server := sshServer(h)
	for _, a := range list {
		if noShell(a.shell) {
			continue
		}
		l.password[a.name] = !a.locked() && schemeOf(a.field) != "other text"
		if !server || strings.HasPrefix(a.field, "!") {
			continue
		}
		keys, _, err := accountKeys(ctx, h, a)
		if err != nil {
			return nil, err
		}
		l.key[a.name] = len(keys) > 0
	}
	return l, nil
}

// lock takes the password of an account away and reports whether somebody can still log in somewhere. When it was no way in
// in the first place, there is nothing to keep.
func (l *logins) lock(a account) bool {
	had := l.password[a.name]
	l.password[a.name] = false
	if had && !l.any() {
		l.password[a.name] = true
		return false
	}
	return true
}

// needKey refuses to switch passwords off while no account has a key. With rootOnly it is root's password that goes; then
// another account will do, and root's key only if root may still use it.
func needKey(ctx context.Context, h *Host, rootOnly, rootKey bool) error {
	list, _, err := accounts(ctx, h)
	if err != nil {
		return fmt.Errorf("look for a key that would be left: %w", err)
	}
	l, err := newLogins(ctx, h, list)
	if err != nil {
		return err
	}
	for _, a := range list {
		root := strings.Trim(a.uid, "+0") == ""
		if root && !rootKey {
			continue
		}
		if l.key[a.name] || rootOnly && !root && l.password[a.name] {
			return nil
		}
	}
	return errNoKey
}

func (l *logins) any() bool {
	for _, m := range []map[string]bool{l.password, l.key} {
		for _, ok := range m {
			if ok {
				return true
			}
		}
	}
	return false
}

// noShell reports whether a shell field ends a session at once.
func noShell(shell string) bool {
	return slices.Contains([]string{"false", "true", "nologin", "sync", "shutdown", "halt", "null"}, path.Base(shell)) && shell != ""
}

// sshServer reports whether a server is here that takes keys.
func sshServer(h *Host) bool {
	return slices.ContainsFunc(append(dropbearPrograms(), sshdPrograms()...), h.Exists)
}

// authorizedKey is one line that lets somebody in.
type authorizedKey struct {
	file  string
	line  int
	kind  string // ssh-ed25519
	blob  string // the key itself, in base64
	owner string // account
}

// accountKeys reads the files in which the servers look for the keys of an account, and says which were there.
func accountKeys(ctx context.Context, h *Host, a account) (keys []authorizedKey, read []string, err error) {
	names := []string{path.Join("/", a.home, ".ssh/authorized_keys"), path.Join("/", a.home, ".ssh/authorized_keys2")}
	if a.uid == "0" {
		names = append(names, "/etc/dropbear/authorized_keys")
	}
	more, err := sshdKeyFiles(ctx, h, a)
	if err != nil {
		return nil, nil, err
	}
	for _, p := range more {
		if !slices.Contains(names, p) {
			names = append(names, p)
		}
	}
	for _, name := range names {
		data, err := h.Read(ctx, name)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrNotRegular) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		read = append(read, name)
		for _, k := range parseAuthorizedKeys(data) {
			k.file, k.owner = name, a.name
			keys = append(keys, k)
		}
	}
	return keys, read, nil
}

const maxKeyLines = 1024 // of one file

// parseAuthorizedKeys finds the keys: a type and its base64, after options that may hold quoted blanks.
func parseAuthorizedKeys(data []byte) []authorizedKey {
	var out []authorizedKey
	n := 0
	for l := range bytes.Lines(data) {
		n++
		s := strings.TrimSpace(string(l))
		if s == "" || s[0] == '#' || len(out) >= maxKeyLines {
			continue
		}
		words := quotedFields(s)
		for i, w := range words[:min(2, len(words))] {
			if i+1 < len(words) && isKeyType(w) && len(words[i+1]) >= 16 && strings.HasPrefix(words[i+1], "AAAA") {
				out = append(out, authorizedKey{line: n, kind: w, blob: words[i+1]})
				break
			}
		}
	}
	return out
}

func isKeyType(w string) bool {
	for _, p := range []string{"ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-"} {
		if strings.HasPrefix(w, p) {
			return true
		}
	}
	return false
}

// quotedFields splits at blanks that are not inside double quotes.
func quotedFields(s string) []string {
	quoted := false
	return strings.FieldsFunc(s, func(c rune) bool {
		if c == '"' {
			quoted = !quoted
		}
		return !quoted && (c == ' ' || c == '\t')
	})
}
