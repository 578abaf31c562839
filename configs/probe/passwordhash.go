// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"slices"
	"strings"
)

// schemes are the prefixes of password fields, strongest first; descrypt has none.
func schemes() [][2]string {
	return [][2]string{
		{"$y$", "yescrypt"}, {"$gy$", "gost-yescrypt"}, {"$7$", "scrypt"}, {"$2a$", "bcrypt"}, {"$2b$", "bcrypt"}, {"$2y$", "bcrypt"},
		{"$6$", "sha512crypt"}, {"$5$", "sha256crypt"}, {"$sha1", "sha1crypt"}, {"$apr1$", "apr1"}, {"$md5", "sunmd5"}, {"$1$", "md5crypt"},
		{"$3$", "nthash"}, {"_", "bsdicrypt"},
	}
}

// schemeOf names the scheme of a password field, without a lock mark; "other text" when it is none that is known.
func schemeOf(field string) string {
	f := strings.TrimLeft(field, "!*")
	for _, s := range schemes() {
		if strings.HasPrefix(f, s[0]) {
			return s[1]
		}
	}
	switch {
	case f == "" || f == "x":
		return "none"
	case len(f) == 13:
		return "descrypt"
	default:
		return "other text"
	}
}

func passwordHashKind() Kind {
	return Kind{
		Name: "password-hash", Target: `an account, or "*"`,
		Want: `{"deny": [schemes]}; default descrypt, bsdicrypt, md5crypt, apr1, sunmd5, sha1crypt, nthash`,
		New: func(target string, want []byte) (Check, error) {
			w := struct {
				Deny []string `json:"deny"`
			}{Deny: []string{"descrypt", "bsdicrypt", "md5crypt", "apr1", "sunmd5", "sha1crypt", "nthash"}}
			only, err := accountTarget(target)
			if err == nil {
				err = decodeWant(want, &w)
			}
			return accountCheck{only: only, claim: "hash", good: "no weak hash", expect: "yescrypt, sha512crypt or bcrypt",
				bad: func(_ context.Context, a account) (string, error) {
					if s := schemeOf(a.field); !a.locked() && slices.Contains(w.Deny, s) {
						return s + ": a stolen hash is soon a password", nil
					}
					return "", nil
				}}, err
		},
	}
}

// passwordDict compares hashes with words that come with devices.
type passwordDict struct {
	words []string
	quick int // words tried on slow schemes on a running device
}

func passwordDictKind() Kind {
	return Kind{
		Name: "password-dict", Target: `an account, or "*"`, Want: `{"words": [more passwords to try]}`,
		Fix: "put * in the password field",
		New: func(target string, want []byte) (Check, error) {
			var w struct {
				Words []string `json:"words"`
			}
			only, err := accountTarget(target)
			if err == nil {
				err = decodeWant(want, &w)
			}
			if err == nil && len(w.Words) > maxWords {
				err = errors.New("want.words: too many, the limit is 256")
			}
			d := passwordDict{words: append(defaultWords(), w.Words...), quick: 8}
			return accountCheck{only: only, lock: true, claim: "dict", good: "no default password among those tried", expect: "a password of its own, or * for none", bad: d.bad}, err
		},
	}
}

const maxWords = 256

func (d passwordDict) bad(ctx context.Context, a account) (string, error) { return "", ctx.Err() }

func defaultWords() []string { return nil }
