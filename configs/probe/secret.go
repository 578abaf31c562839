// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// secretCheck wants no private key in the files below a directory.
type secretCheck struct {
	start string
	Find  []string `json:"find"` // key, ssh-host-key
	Skip  []string `json:"skip"` // directories left out
}

func secretKind() Kind {
	return Kind{
		Name: "secret", Target: "a directory; what is below it on the same file system is searched",
		Want: `{"find": ["key", "ssh-host-key"], "skip": [directories]}; find is required: unencrypted private keys (PEM, also inside other text, OpenSSH, PuTTY, DER, PKCS#12, Java key stores, WireGuard, OpenVPN), or host keys of an SSH server by their names. Keys that libraries test themselves with are left out`,
		New: func(target string, want []byte) (Check, error) {
			c := secretCheck{start: target}
			if err := decodeWant(want, &c); err != nil {
				return nil, err
			}
			if f, ok := subset(c.Find, []string{"key", "ssh-host-key"}); !ok || len(c.Find) == 0 {
				return nil, fmt.Errorf(`want.find: %q, want "key" or "ssh-host-key"`, f)
			}
			paths := c.Skip
			if target != "/" {
				paths = append([]string{target}, paths...)
			}
			return c, checkPaths(paths)
		},
	}
}

// Fix is not possible: what uses the key is not known, and a key that was published stays published.
func (c secretCheck) Fix(context.Context, *Host, func(string) bool) ([]Change, error) {
	return nil, ErrNoFix
}

// Claims is empty: nothing is set.
func (c secretCheck) Claims() []string { return nil }

func (c secretCheck) Tightens(old Check) error {
	o, ok := old.(secretCheck)
	if !ok || o.start != c.start {
		return errors.New("another target")
	}
	if f, ok := subset(o.Find, c.Find); !ok {
		return fmt.Errorf("%s is not searched for", f)
	}
	if s, ok := subset(c.Skip, o.Skip); !ok {
		return fmt.Errorf("%s is left out", s)
	}
	return nil
}

func (c secretCheck) Check(ctx context.Context, h *Host) Verdict {
	var items []Item
	found := func(in Info, what string) {
		items = append(items, Item{Subject: printable(in.Path), Where: printable(in.Path),
			Observed: fmt.Sprintf("%s, mode %s", what, OctalMode(in.Mode)), Expected: "none in an image"})
	}
	var what []string
	var errs []error
	if slices.Contains(c.Find, "ssh-host-key") {
		list, files, err := h.searched(ctx, c.start, hostKey)
		errs, what = append(errs, err), append(what, fmt.Sprintf("%s (names of %d files)", c.start, files))
		for _, f := range list {
			if !slices.ContainsFunc(c.Skip, func(d string) bool { return below(d, f.Path) }) {
				found(f.Info, "private host key of an SSH server: every device with this image has it")
			}
		}
	}
	if slices.Contains(c.Find, "key") {
		got, err := h.contents(ctx, c.start, c.Skip)
		if err == nil {
			for _, s := range got.found {
				found(s.Info, s.what)
			}
			err, what = got.err, append(what, fmt.Sprintf("%s (%d files, of %d the first %d MiB)", c.start, got.files, got.cut, maxSearched>>20))
		}
		errs = append(errs, err)
	}
	err := errors.Join(errs...)
	if errors.Is(err, fs.ErrNotExist) && len(items) == 0 {
		return notApplicable(err.Error())
	}
	if err != nil && len(items) == 0 {
		return unknown(err)
	}
	slices.SortFunc(items, func(a, b Item) int { return cmp.Compare(a.Where, b.Where) })
	return judged(items, "no file with "+strings.Join(c.Find, " or "), what...)
}

// isHostKey knows the names under which servers keep host keys.
func isHostKey(base string) bool {
	ok, _ := path.Match("ssh_host_*_key", base)
	also, _ := path.Match("dropbear_*_host_key", base)
	return ok || also
}
