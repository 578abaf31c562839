// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
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
	changed                string // shadow: the day of the last change
	at                     int    // line of passwd
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
		a := account{name: r.name(), uid: r.field(2), home: r.field(5), shell: r.field(6), field: r.field(1), file: passwdFile, line: r.line, at: r.line}
		if s, ok := shadow[a.name]; ok && a.field == "x" {
			a.field, a.file, a.line, a.changed = s.field(1), shadowFile, s.line, s.field(2)
		}
		list = append(list, a)
	}
	return list, read, nil
}

// accountCheck runs bad over every account and mends with the edits that mend gives.
type accountCheck struct {
	// bad says what is wrong with an account, "" when nothing is. An undecided error leaves that account open.
	bad    func(ctx context.Context, h *Host, a account) (observed string, err error)
	good   string
	expect string
	mend   func(ctx context.Context, h *Host, a account) ([]fieldEdit, error) // nil: it only reports
	locks  bool                                                               // mend takes a way to log in away
	claim  string
	// inPasswd: what is wrong is not the password but something else in passwd.
	inPasswd bool

	only   string   // one account, "" for all
	denies []string // what is bad, for Tightens: more is stricter
	allows []string // what is right: less is stricter
}

// undecided is why one account cannot be judged; the others can.
type undecided string

func (u undecided) Error() string { return string(u) }

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

// found is what an accountCheck saw.
type found struct {
	items []Item
	bad   []account
	open  []error // accounts that could not be decided
	all   []account
	n     int // accounts looked at
	read  []string
}

func (c accountCheck) find(ctx context.Context, h *Host) (f found, err error) {
	if f.all, f.read, err = accounts(ctx, h); err != nil {
		return f, err
	}
	for _, a := range f.all {
		if c.only != "" && a.name != c.only {
			continue
		}
		f.n++
		obs, err := c.bad(ctx, h, a)
		if err != nil {
			err = fmt.Errorf("account %s: %w", printable(a.name), err)
			if _, ok := errors.AsType[undecided](err); !ok {
				return f, err
			}
			f.open = append(f.open, err)
		}
		if obs != "" {
			where := at(a.file, a.line)
			if c.inPasswd {
				where = at(passwdFile, a.at)
			}
			f.items = append(f.items, Item{Subject: printable(a.name), Where: where, Observed: obs, Expected: c.expect})
			f.bad = append(f.bad, a)
		}
	}
	return f, nil
}

func (c accountCheck) Check(ctx context.Context, h *Host) Verdict {
	f, err := c.find(ctx, h)
	switch {
	case errors.Is(err, errNoAccounts):
		return notApplicable(err.Error() + ": the tree has no accounts")
	case len(f.items) > 0:
	case err != nil:
		return unknown(err)
	case len(f.open) > 0:
		return unknown(f.open[0])
	case f.n == 0:
		return notApplicable("no account " + printable(c.only) + " in " + passwdFile)
	}
	return judged(f.items, fmt.Sprintf("%d accounts: %s", f.n, c.good), f.read...)
}

// Fix edits the lines of the accounts that are wrong. The last account that somebody can log in to is not locked.
func (c accountCheck) Fix(ctx context.Context, h *Host, want func(string) bool) ([]Change, error) {
	if c.mend == nil {
		return nil, ErrNoFix
	}
	f, err := c.find(ctx, h)
	if err != nil {
		return nil, err
	}
	l, err := newLogins(ctx, h, f.all)
	if err != nil {
		return nil, err
	}
	var edits []fieldEdit
	var errs []error
	for _, a := range slices.Backward(f.bad) { // root comes first in the file and is locked last
		if !want(printable(a.name)) {
			continue
		}
		if c.locks && !l.lock(a) {
			errs = append(errs, fmt.Errorf("lock %s: %w", printable(a.name), errLastLogin))
			continue
		}
		e, err := c.mend(ctx, h, a)
		edits, errs = append(edits, e...), append(errs, err)
	}
	out, err := editFields(ctx, h, edits)
	return out, errors.Join(append(errs, err)...)
}

// fieldEdit sets one field of a line of passwd or shadow, or adds a line when line is 0.
type fieldEdit struct {
	file        string
	line, field int
	value       string
}

// editFields makes one change for each file.
func editFields(ctx context.Context, h *Host, edits []fieldEdit) ([]Change, error) {
	var out []Change
	for _, name := range []string{passwdFile, shadowFile} {
		var t *text
		for _, e := range edits {
			if e.file != name {
				continue
			}
			if t == nil {
				var err error
				if t, err = openText(ctx, h, name); err != nil {
					return nil, err
				}
			}
			if e.line == 0 {
				t.insert(len(t.lines)+1, e.value)
				continue
			}
			fields := strings.Split(t.line(e.line), ":")
			for len(fields) <= e.field {
				fields = append(fields, "")
			}
			fields[e.field] = e.value
			t.set(e.line, strings.Join(fields, ":"))
		}
		if t != nil {
			c := t.change()
			c.Redact = MaskHash
			out = append(out, c)
		}
	}
	return out, nil
}

// lockField puts "*" in the password field. OpenSSH without PAM takes "!" to shut out keys as well, and the last way in may
// be a key.
func lockField(_ context.Context, _ *Host, a account) ([]fieldEdit, error) {
	return []fieldEdit{{a.file, a.line, 1, "*"}}, nil
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
			return accountCheck{only: only, mend: lockField, locks: true, claim: "empty", good: "each has a password or is locked", expect: "a password, or * for none",
				bad: func(_ context.Context, _ *Host, a account) (string, error) {
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
			return accountCheck{only: only, inPasswd: true, claim: "uid-zero", allows: w.Allow, good: "only " + strings.Join(w.Allow, ", ") + " may have uid 0", expect: "another uid",
				bad: func(_ context.Context, _ *Host, a account) (string, error) {
					if _, ok := subset([]string{a.name}, w.Allow); ok || strings.Trim(a.uid, "+0") != "" || a.uid == "" {
						return "", nil
					}
					return "uid " + printable(a.uid) + ": all rights of root", nil
				}}, err
		},
	}
}
