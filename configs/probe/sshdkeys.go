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

// sshdKeys are the names that AuthorizedKeysFile gives, in every part of the configuration.
type sshdKeys struct {
	names []string // before an account is put in
	files []string // read for it
	err   error
}

const maxKeyNames = 32

// sshdKeyNames reads the configuration once in a run: there may be as many accounts as it has lines.
func sshdKeyNames(ctx context.Context, h *Host) ([]string, error) {
	if k := h.sshdKeys; k != nil {
		for _, f := range k.files {
			h.note(f)
		}
		return k.names, k.err
	}
	s, err := findSshd(ctx, h)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	k := &sshdKeys{files: append(s.read, s.config)}
	if s.program != "" && !errors.Is(err, errNoSshd) && !errors.Is(err, errNoSshdConfig) {
		k.err = err
	}
	for _, l := range s.lines {
		if l.keyword != "authorizedkeysfile" {
			continue
		}
		for _, p := range l.args {
			if !slices.Contains(k.names, p) && len(k.names) < maxKeyNames {
				k.names = append(k.names, p)
			}
		}
	}
	h.sshdKeys = k
	return k.names, k.err
}

// sshdKeyFiles gives the files that AuthorizedKeysFile names for an account, "" parts left out.
func sshdKeyFiles(ctx context.Context, h *Host, a account) ([]string, error) {
	names, err := sshdKeyNames(ctx, h)
	var out []string
	for _, p := range names {
		if p = expandKeyPath(p, a); p != "" && !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out, err
}

// expandKeyPath puts an account into a path as sshd does; "" for none.
func expandKeyPath(p string, a account) string {
	if p == "none" || p == "" {
		return ""
	}
	p = strings.NewReplacer("%%", "%", "%h", a.home, "%u", a.name, "%U", a.uid).Replace(p)
	if !strings.HasPrefix(p, "/") {
		p = path.Join("/", a.home, p)
	}
	return path.Clean(p)
}

// keyPaths wants nobody but root and the account itself to be able to change what lets somebody in to the account.
type keyPaths struct{}

func keyPathsKind() Kind {
	return Kind{
		Name: "ssh-key-paths", Target: `"accounts": the files with authorized keys of each account that has a shell, AuthorizedKeysCommand, and every directory above them`,
		Want: "nothing",
		Fix:  "take write permission from group and others, except from a directory that is meant for all; the owner is left to a person",
		New: func(target string, want []byte) (Check, error) {
			if target != "accounts" {
				return nil, errors.New(`target: want "accounts"`)
			}
			return keyPaths{}, decodeWant(want, &struct{}{})
		},
	}
}

func (keyPaths) Claims() []string { return []string{"mode:authorized-keys"} }

func (keyPaths) Tightens(old Check) error {
	if _, ok := old.(keyPaths); !ok {
		return errors.New("another kind")
	}
	return nil
}

// keyPath is a path that decides who may log in, and who may change it beside root.
type keyPath struct {
	name  string
	owner string // uid, "" for root alone
}

// wanted lists the paths that the servers look at.
func (keyPaths) wanted(ctx context.Context, h *Host, list []account) []keyPath {
	var out []keyPath
	for _, a := range list {
		if noShell(a.shell) {
			continue
		}
		names, _ := sshdKeyFiles(ctx, h, a) // find has reported what cannot be read
		for _, p := range append(names, path.Join("/", a.home, ".ssh/authorized_keys")) {
			out = append(out, keyPath{p, a.uid})
		}
	}
	if slices.ContainsFunc(dropbearPrograms(), h.Exists) {
		out = append(out, keyPath{"/etc/dropbear/authorized_keys", ""})
	}
	if s, err := findSshd(ctx, h); err == nil {
		for _, l := range s.lines {
			if (l.keyword == "authorizedkeyscommand" || l.keyword == "trustedusercakeys") && len(l.args) > 0 && strings.HasPrefix(l.args[0], "/") {
				out = append(out, keyPath{l.args[0], ""})
			}
		}
	}
	return out
}

const maxKeyPaths = 4096

// find looks at each element of each path that is there, once.
func (k keyPaths) find(ctx context.Context, h *Host) (bad []Info, items []Item, read []string, err error) {
	list, read, err := accounts(ctx, h)
	if err != nil {
		return nil, nil, nil, err
	}
	if _, err := sshdKeyNames(ctx, h); err != nil {
		return nil, nil, nil, err
	}
	root, _ := h.Root()
	seen := map[string]bool{}
	for _, want := range k.wanted(ctx, h, list) {
		p := "/"
		for el := range strings.SplitSeq(strings.Trim(want.name, "/"), "/") {
			if p = path.Join(p, el); seen[p+":"+want.owner] {
				continue
			}
			if len(seen) > maxKeyPaths && len(items) == 0 {
				return nil, nil, nil, fmt.Errorf("%w: keys of more than %d paths", ErrTooLarge, maxKeyPaths)
			}
			seen[p+":"+want.owner] = true
			in, err := h.Stat(p)
			if errors.Is(err, fs.ErrNotExist) {
				break
			}
			if err != nil {
				return nil, nil, nil, err
			}
			it := Item{Subject: printable(in.Path), Where: printable(in.Path), Expected: "only root and the account can write"}
			switch owned := in.UID == 0 || in.UID == root || strconv.FormatUint(uint64(in.UID), 10) == want.owner; {
			case in.Mode&0o022 != 0:
				it.Observed = "mode " + OctalMode(in.Mode) + " above or of " + printable(want.name)
			case !owned:
				it.Observed = fmt.Sprintf("owner %d, above or of %s", in.UID, printable(want.name))
			default:
				if len(read) < MaxItems && in.Mode.IsRegular() {
					read = append(read, printable(in.Path))
				}
				continue
			}
			if !slices.ContainsFunc(items, func(o Item) bool { return o.Subject == it.Subject }) {
				bad, items = append(bad, in), append(items, it)
			}
		}
	}
	return bad, items, read, nil
}

func (k keyPaths) Check(ctx context.Context, h *Host) Verdict {
	if !sshServer(h) {
		return notApplicable("no SSH server is here: no sshd, no dropbear")
	}
	_, items, read, err := k.find(ctx, h)
	if errors.Is(err, errNoAccounts) {
		return notApplicable(err.Error() + ": the tree has no accounts")
	}
	if err != nil {
		return unknown(err)
	}
	return judged(items, "nobody but root and the account can write what lets somebody in, nor a directory above it", read...)
}

func (k keyPaths) Fix(ctx context.Context, h *Host, want func(string) bool) ([]Change, error) {
	bad, _, _, err := k.find(ctx, h)
	var out []Change
	for _, in := range bad {
		switch {
		case !want(printable(in.Path)):
		case in.Mode&0o022 == 0:
			err = fmt.Errorf("owner of %s: %w", printable(in.Path), ErrNoFix)
		case in.Mode&fs.ModeSticky != 0:
			err = fmt.Errorf("%s is meant for all; keys do not belong below it: %w", printable(in.Path), ErrNoFix)
		default:
			out = append(out, Change{Op: Chmod, Path: in.Path, OldMode: in.Mode & permBits, Mode: in.Mode & permBits &^ 0o022})
		}
	}
	return out, err
}
