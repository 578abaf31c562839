// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

const (
	maxWords   = 256 // that a rule may add
	quickWords = 8   // tried on slow schemes on a running device: a SHA-512 guess takes 0.1 s on a small MIPS
)

// passwordDict compares password fields with passwords that come with devices.
type passwordDict struct {
	accountCheck
	words []string
	live  bool
}

func passwordDictKind() Kind {
	return Kind{
		Name: "password-dict", Target: `an account, or "*"`,
		Want: `{"words": [more passwords to try]}; a running device tries only the first 8 words on slow schemes, an image all`,
		Fix:  "put * in the password field",
		New: func(target string, want []byte) (Check, error) {
			var w struct {
				Words []string `json:"words"`
			}
			only, err := accountTarget(target)
			if err == nil {
				err = decodeWant(want, &w)
			}
			if err == nil && len(w.Words) > maxWords {
				err = fmt.Errorf("want.words: %d, the limit is %d", len(w.Words), maxWords)
			}
			return &passwordDict{
				accountCheck: accountCheck{only: only, lock: true, claim: "dict", expect: "a password of its own, or * for none"},
				words:        append(w.Words, defaultWords()...),
			}, err
		},
	}
}

// Check is accountCheck's, with the words for this host.
func (d *passwordDict) Check(ctx context.Context, h *Host) Verdict { return d.on(h).Check(ctx, h) }

// Fix locks the accounts that Check names.
func (d *passwordDict) Fix(ctx context.Context, h *Host, want func(string) bool) ([]Change, error) {
	return d.on(h).Fix(ctx, h, want)
}

// Tightens asks for at least the words of the old rule.
func (d *passwordDict) Tightens(old Check) error {
	o, ok := old.(*passwordDict)
	if !ok || d.only != o.only {
		return errors.New("another target")
	}
	if w, ok := subset(o.words, d.words); !ok {
		return fmt.Errorf("word %d of the floor is missing", slices.Index(o.words, w)+1)
	}
	return nil
}

func (d *passwordDict) on(h *Host) accountCheck {
	c := d.accountCheck
	c.good = fmt.Sprintf("none of %d default passwords opens an account whose scheme can be tested", len(d.words))
	c.bad = func(ctx context.Context, a account) (string, error) { return d.try(ctx, a, h.Live()) }
	return c
}

// try guesses. The evidence says which word, not the word: a report travels further than /etc/shadow.
func (d *passwordDict) try(ctx context.Context, a account, live bool) (string, error) {
	if a.locked() || a.field == "" {
		return "", nil
	}
	if slices.Contains(knownHashes(), a.field) {
		return schemeOf(a.field) + " hash that is in published firmware", nil
	}
	ok := verifier(a.field)
	if ok == nil {
		return "", nil
	}
	words := append([]string{a.name, a.name + "123", ""}, d.words...)
	if live && slow(a.field) {
		words = words[:min(len(words), quickWords)]
	}
	for i, w := range words {
		if err := ctx.Err(); err != nil {
			return "", fmt.Errorf("tried %d of %d default passwords: %w", i, len(words), err)
		}
		if ok(w) {
			return fmt.Sprintf("%s of a default password (guess %d of %d)", schemeOf(a.field), i+1, len(words)), nil
		}
	}
	return "", nil
}

// knownHashes are password fields found verbatim in many shipped images; those of schemes that are not tested here.
func knownHashes() []string {
	return []string{
		"absxcfbgXtb3o", // recorders with HiSilicon chips
		"ab8nBoH3mb8.g", // baby monitors
	}
}

// defaultWords are passwords that scanning worms try first, in the order of the list published with Mirai (2016), without
// those that the account's own name covers.
func defaultWords() []string {
	return []string{
		"admin", "root", "password", "1234", "12345", "123456", "default", "user", "guest", "support", "pass", "xc3511", "vizxv", "888888",
		"xmhdipc", "juantech", "54321", "admin1234", "1111", "smcadmin", "666666", "klv123", "klv1234", "service", "supervisor",
		"ubnt", "Zte521", "hi3518", "jvbzd", "anko", "zlxx.", "7ujMko0vizxv", "7ujMko0admin", "system", "ikwb", "dreambox", "realtek",
		"00000000", "1111111", "meinsm", "tech", "123456789", "raspberry", "toor", "changeme", "helpme", "cat1029", "hslwificam",
	}
}
