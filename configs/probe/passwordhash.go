// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
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
			return accountCheck{only: only, claim: "hash", denies: w.Deny, good: "no weak hash", expect: "yescrypt, sha512crypt or bcrypt",
				bad: func(_ context.Context, _ *Host, a account) (string, error) {
					if s := schemeOf(a.field); !a.locked() && slices.Contains(w.Deny, s) {
						return s + ": a stolen hash is soon a password", nil
					}
					return "", nil
				}}, err
		},
	}
}
