// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

const maxWords = 256 // that a rule may add

// passwordDict compares password fields with passwords that come with devices.
type passwordDict struct {
	accountCheck
	Words  []string `json:"words"`
	Locked bool     `json:"locked"` // look at the hashes behind a lock instead
}

func passwordDictKind() Kind {
	return Kind{
		Name: "password-dict", Target: `an account, or "*"`,
		Want: `{"words": [more passwords to try], "locked": false}; locked tries the hashes of locked accounts. An image is tried with all words at once, a running device in steps of a second per run`,
		Fix:  "put * in the password field, !* in that of a locked account",
		New: func(target string, want []byte) (Check, error) {
			var d passwordDict
			only, err := accountTarget(target)
			if err == nil {
				err = decodeWant(want, &d)
			}
			if err == nil && len(d.Words) > maxWords {
				err = fmt.Errorf("want.words: %d, the limit is %d", len(d.Words), maxWords)
			}
			d.Words = append(d.Words, defaultWords()...)
			d.accountCheck = accountCheck{only: only, mend: lockField, locks: true, claim: "dict", expect: "a password of its own, or * for none"}
			if d.Locked {
				d.mend, d.locks, d.claim, d.expect = relockField, false, "dict-locked", "!* behind the lock"
			}
			return &d, err
		},
	}
}

// relockField takes the hash away and keeps the lock.
func relockField(_ context.Context, _ *Host, a account) ([]fieldEdit, error) {
	return []fieldEdit{{a.file, a.line, 1, "!*"}}, nil
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
	if !ok || d.only != o.only || d.Locked != o.Locked {
		return errors.New("another target")
	}
	if w, ok := subset(o.Words, d.Words); !ok {
		return fmt.Errorf("word %d of the floor is missing", slices.Index(o.Words, w)+1)
	}
	return nil
}

func (d *passwordDict) on(h *Host) accountCheck {
	c := d.accountCheck
	c.good = fmt.Sprintf("none of %d default passwords opens an account", len(d.Words)+3)
	var end time.Time
	if h.Live() {
		end = time.Now().Add(cmp.Or(h.guesses.Step, guessStep))
	}
	c.bad = func(ctx context.Context, _ *Host, a account) (string, error) {
		field := a.field
		if d.Locked {
			if field = strings.TrimLeft(a.field, "!*"); field == a.field {
				return "", nil
			}
		} else if a.locked() {
			return "", nil
		}
		return d.try(ctx, h, a.name, field, end)
	}
	return c
}

// try guesses until end, when there is one. The evidence says which word, not the word: a report travels further than
// /etc/shadow.
func (d *passwordDict) try(ctx context.Context, h *Host, name, field string, end time.Time) (string, error) {
	scheme := schemeOf(field)
	if scheme == "none" || scheme == "other text" {
		return "", nil // no password has this hash
	}
	if slices.Contains(knownHashes(), field) {
		return scheme + " hash that is in published firmware", nil
	}
	words := append([]string{name, name + "123", ""}, d.Words...)
	key := h.guesses.key(field, words)
	p := h.guesses.load(key)
	if p.hit == 0 && p.tried < len(words) {
		ok := verifier(field)
		if ok == nil {
			return "", undecided("a " + scheme + " hash cannot be tried here: whether the password is a default one is not known")
		}
		for first := p.tried; p.hit == 0 && p.tried < len(words); p.tried++ {
			if err := ctx.Err(); err != nil {
				h.guesses.store(key, p)
				return "", fmt.Errorf("tried %d of %d default passwords: %w", p.tried, len(words), err)
			}
			if !end.IsZero() && p.tried > first && slow(field) && time.Now().After(end) {
				break
			}
			if ok(words[p.tried]) {
				p.hit = p.tried + 1
			}
		}
		h.guesses.store(key, p)
	}
	switch {
	case p.hit > 0:
		return fmt.Sprintf("%s of a default password (guess %d of %d)", scheme, p.hit, len(words)), nil
	case p.tried < min(quickWords, len(words)):
		return "", undecided(fmt.Sprintf("%d of %d default passwords tried, the next run goes on", p.tried, len(words)))
	}
	return "", nil
}

// knownHashes are password fields found verbatim in many shipped images.
func knownHashes() []string {
	return []string{
		"absxcfbgXtb3o", // recorders with HiSilicon chips
		"ab8nBoH3mb8.g", // baby monitors
	}
}

// defaultWords are passwords that scanning worms try first, in the order of the list published with Mirai (2016), without
// those that the account's own name covers, and then those of later lists.
func defaultWords() []string {
	return []string{
		"admin", "root", "password", "1234", "12345", "123456", "default", "user", "guest", "support", "pass", "xc3511", "vizxv", "888888",
		"xmhdipc", "juantech", "54321", "admin1234", "1111", "smcadmin", "666666", "klv123", "klv1234", "service", "supervisor",
		"ubnt", "Zte521", "hi3518", "jvbzd", "anko", "zlxx.", "7ujMko0vizxv", "7ujMko0admin", "system", "ikwb", "dreambox", "realtek",
		"00000000", "1111111", "meinsm", "tech", "123456789", "raspberry", "toor", "changeme", "helpme", "cat1029", "hslwificam",
		"12345678", "000000", "111111", "123123", "admin123", "Admin123", "P@ssw0rd", "Password1", "qwerty", "public", "private", "test", "debug",
		"telnet", "operator", "administrator", "manager", "oelinux123", "linux", "welc0me", "hichiphx", "GM8182", "tlJwpbo6", "founder88", "cxlinux", "S2fGqNFs",
		"2601hx", "20080826", "taZz@23495859", "grouter", "iDirect", "5up", "fidel123", "alpine", "maxided", "firetide", "merlin", "Win1doW$",
	}
}
