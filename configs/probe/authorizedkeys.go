// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// authorizedKeys wants no key to open an account but those that are listed.
type authorizedKeys struct {
	Allow []string `json:"allow"`
}

func authorizedKeysKind() Kind {
	return Kind{
		Name: "authorized-keys", Target: `"accounts"`,
		Want: `{"allow": ["SHA256:..." as ssh-keygen -l prints it]}; default none. Looks at ~/.ssh/authorized_keys of every account, /etc/dropbear/authorized_keys and what AuthorizedKeysFile names`,
		New: func(target string, want []byte) (Check, error) {
			var c authorizedKeys
			if err := decodeWant(want, &c); err != nil {
				return nil, err
			}
			if target != "accounts" {
				return nil, errors.New(`target: want "accounts"`)
			}
			for _, f := range c.Allow {
				if len(f) != 50 || !strings.HasPrefix(f, "SHA256:") {
					return nil, fmt.Errorf("want.allow: %q is no fingerprint", f)
				}
			}
			return c, nil
		},
	}
}

// Fix is for a person: the key that goes may be the one that the person would come back with.
func (c authorizedKeys) Fix(context.Context, *Host, func(string) bool) ([]Change, error) {
	return nil, ErrNoFix
}

// Claims is empty: nothing is set.
func (c authorizedKeys) Claims() []string { return nil }

func (c authorizedKeys) Tightens(old Check) error {
	o, ok := old.(authorizedKeys)
	if !ok {
		return errors.New("another kind")
	}
	if f, ok := subset(c.Allow, o.Allow); !ok {
		return fmt.Errorf("%s is allowed", f)
	}
	return nil
}

// fingerprint is as ssh-keygen prints it; a key that is no base64 has that of its text.
func (k authorizedKey) fingerprint() string {
	blob, err := base64.StdEncoding.DecodeString(k.blob)
	if err != nil {
		blob = []byte(k.blob)
	}
	sum := sha256.Sum256(blob)
	return "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:])
}

func (c authorizedKeys) Check(ctx context.Context, h *Host) Verdict {
	list, read, err := accounts(ctx, h)
	if errors.Is(err, errNoAccounts) {
		return notApplicable(err.Error() + ": the tree has no accounts")
	}
	if err != nil {
		return unknown(err)
	}
	var items []Item
	seen := map[string]bool{} // accounts may share a home
	for _, a := range list {
		keys, files, err := accountKeys(ctx, h, a)
		if err != nil {
			return unknown(err)
		}
		for _, f := range files {
			if !slices.Contains(read, printable(f)) && len(read) < MaxItems {
				read = append(read, printable(f))
			}
		}
		for _, k := range keys {
			where := at(k.file, k.line)
			if fp := k.fingerprint(); !seen[where] && !slices.Contains(c.Allow, fp) {
				seen[where] = true
				items = append(items, Item{Subject: fp, Where: where, Observed: printable(k.kind) + " key that opens " + printable(k.owner), Expected: "no key, or one that is listed"})
			}
		}
	}
	return judged(items, fmt.Sprintf("no account of %d has a key that is not listed", len(list)), read...)
}
