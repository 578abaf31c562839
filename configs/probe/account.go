// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
)

const (
	passwdFile = "/etc/passwd"
	shadowFile = "/etc/shadow"
	maxFields  = 16 // of one line; more are kept in the last
)

// record is one line of passwd, shadow or a file like them.
type record struct {
	line   int
	fields []string
}

func (r record) name() string { return r.fields[0] }

func (r record) field(i int) string {
	if i < len(r.fields) {
		return r.fields[i]
	}
	return ""
}

// parseRecords splits the lines of a passwd or shadow file. Empty lines, comments and NIS lines have no record.
func parseRecords(data []byte) []record {
	var out []record
	n := 0
	for l := range bytes.Lines(data) {
		n++
		s := strings.TrimRight(string(l), "\r\n")
		if s == "" || strings.HasPrefix(s, "#") || strings.HasPrefix(s, "+") || strings.HasPrefix(s, "-") {
			continue
		}
		out = append(out, record{line: n, fields: strings.SplitN(s, ":", maxFields)})
	}
	return out
}

// account is one user with the password field that counts.
type account struct {
	name, uid, shell, home string
	field                  string // of the password: empty, locked or a hash
	file                   string // where the field is
	line                   int
}

// locked reports whether no password opens the account.
func (a account) locked() bool {
	return strings.HasPrefix(a.field, "!") || strings.HasPrefix(a.field, "*") || a.field == "x"
}

// errNoAccounts says that the tree has no users at all.
var errNoAccounts = errors.New("no /etc/passwd")

// accounts joins passwd with shadow. A field "x" in passwd means that shadow has it; without a line there, the account has
// no password that works.
func accounts(ctx context.Context, h *Host) (list []account, read []string, err error) {
	pw, err := h.Read(ctx, passwdFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, errNoAccounts
	}
	if err != nil {
		return nil, nil, err
	}
	read = []string{passwdFile}
	shadow := map[string]record{}
	sh, err := h.Read(ctx, shadowFile)
	if err == nil {
		read = append(read, shadowFile)
		for _, r := range parseRecords(sh) {
			if _, twice := shadow[r.name()]; !twice { // the C library takes the first
				shadow[r.name()] = r
			}
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	for _, r := range parseRecords(pw) {
		a := account{name: r.name(), uid: r.field(2), home: r.field(5), shell: r.field(6), field: r.field(1), file: passwdFile, line: r.line}
		if s, ok := shadow[a.name]; ok && a.field == "x" {
			a.field, a.file, a.line = s.field(1), shadowFile, s.line
		}
		list = append(list, a)
	}
	return list, read, nil
}

// accountCheck runs bad over every account and, when lock is set, locks those it names.
type accountCheck struct {
	bad    func(ctx context.Context, a account) (observed string, err error) // "" is right
	good   string
	expect string
	lock   bool
	claim  string
	only   string   // one account, "" for all
	denies []string // what is bad, for Tightens: more is stricter
	allows []string // what is right: less is stricter
}

func (c accountCheck) Claims() []string { return []string{"account:" + c.claim} }

// Tightens compares the lists of two checks of one kind.
func (c accountCheck) Tightens(old Check) error {
	o, ok := old.(accountCheck)
	if !ok || o.claim != c.claim || o.only != c.only {
		return errors.New("another kind or target")
	}
	if d, ok := subset(o.denies, c.denies); !ok {
		return fmt.Errorf("%s is not denied", d)
	}
	if a, ok := subset(c.allows, o.allows); !ok {
		return fmt.Errorf("%s is allowed", a)
	}
	return nil
}

func (c accountCheck) find(ctx context.Context, h *Host) (items []Item, bad []account, n int, read []string, err error) {
	list, read, err := accounts(ctx, h)
	if err != nil {
		return nil, nil, 0, nil, err
	}
	for _, a := range list {
		if c.only != "" && a.name != c.only {
			continue
		}
		n++
		obs, err := c.bad(ctx, a)
		if err != nil {
			return items, bad, n, read, fmt.Errorf("account %s: %w", printable(a.name), err)
		}
		if obs != "" {
			items = append(items, Item{Subject: printable(a.name), Where: at(a.file, a.line), Observed: obs, Expected: c.expect})
			bad = append(bad, a)
		}
	}
	return items, bad, n, read, nil
}

func (c accountCheck) Check(ctx context.Context, h *Host) Verdict {
	items, _, n, read, err := c.find(ctx, h)
	switch {
	case errors.Is(err, errNoAccounts):
		return notApplicable(err.Error() + ": the tree has no accounts")
	case err != nil && len(items) == 0:
		return unknown(err)
	case n == 0:
		return notApplicable("no account " + printable(c.only) + " in " + passwdFile)
	}
	return judged(items, fmt.Sprintf("%d accounts: %s", n, c.good), read...)
}

// Fix locks with "*". OpenSSH without PAM takes "!" to shut out keys as well, and the last way in may be a key.
func (c accountCheck) Fix(ctx context.Context, h *Host, want func(string) bool) ([]Change, error) {
	if !c.lock {
		return nil, ErrNoFix
	}
	_, bad, _, _, err := c.find(ctx, h)
	if err != nil {
		return nil, err
	}
	texts := map[string]*text{}
	for _, a := range bad {
		if !want(printable(a.name)) {
			continue
		}
		t := texts[a.file]
		if t == nil {
			if t, err = openText(ctx, h, a.file); err != nil {
				return nil, err
			}
			texts[a.file] = t
		}
		name, rest, _ := strings.Cut(t.line(a.line), ":")
		_, rest, more := strings.Cut(rest, ":")
		if more {
			rest = ":" + rest
		}
		t.set(a.line, name+":*"+rest)
	}
	var out []Change
	for _, f := range []string{passwdFile, shadowFile} {
		if t := texts[f]; t != nil {
			c := t.change()
			c.Redact = MaskHash
			out = append(out, c)
		}
	}
	return out, nil
}

// MaskHash hides the second field of a passwd or shadow line when it could be a hash.
func MaskHash(line string) string {
	fields := strings.SplitN(line, ":", 3)
	if len(fields) < 2 || len(fields[1]) < 3 {
		return line
	}
	fields[1] = "(" + schemeOf(fields[1]) + ", hidden)"
	return strings.Join(fields, ":")
}

// target reads the target of an account rule: a name, or "*" for all.
func accountTarget(target string) (string, error) {
	switch {
	case target == "*":
		return "", nil
	case target == "" || strings.ContainsAny(target, ":/*"):
		return "", errors.New(`target: want an account name, or "*" for every account`)
	}
	return target, nil
}

func emptyPasswordKind() Kind {
	return Kind{
		Name: "empty-password", Target: `an account, or "*"`, Want: "nothing",
		Fix: "put * in the password field: no password opens the account, keys still do",
		New: func(target string, want []byte) (Check, error) {
			only, err := accountTarget(target)
			if err == nil {
				err = decodeWant(want, &struct{}{})
			}
			return accountCheck{only: only, lock: true, claim: "empty", good: "each has a password or is locked", expect: "a password, or * for none",
				bad: func(_ context.Context, a account) (string, error) {
					if a.field == "" {
						return "empty password: anybody may log in", nil
					}
					return "", nil
				}}, err
		},
	}
}

func uidZeroKind() Kind {
	return Kind{
		Name: "uid-zero", Target: `"*"`, Want: `{"allow": [accounts]}; default ["root"]`,
		New: func(target string, want []byte) (Check, error) {
			w := struct {
				Allow []string `json:"allow"`
			}{Allow: []string{"root"}}
			only, err := accountTarget(target)
			if err == nil {
				err = decodeWant(want, &w)
			}
			return accountCheck{only: only, claim: "uid-zero", allows: w.Allow, good: "only " + strings.Join(w.Allow, ", ") + " may have uid 0", expect: "another uid",
				bad: func(_ context.Context, a account) (string, error) {
					if _, ok := subset([]string{a.name}, w.Allow); ok || strings.Trim(a.uid, "+0") != "" || a.uid == "" {
						return "", nil
					}
					return "uid " + printable(a.uid) + ": all rights of root", nil
				}}, err
		},
	}
}
