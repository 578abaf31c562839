// SPDX-License-Identifier: Apache-2.0

package source

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Bounds of what is kept of accounts.
const (
	maxAccounts    = 256 // accounts, groups and sudo rules each
	maxMembers     = 64  // of a group
	maxName        = 64
	maxAccountFile = 128 << 10
)

// States of a password.
const (
	passwordNone   = "none"   // nothing is asked
	passwordLocked = "locked" // none fits
	passwordSet    = "set"
)

// account is what matters of one line of passwd, and of its line of shadow.
type account struct {
	uid, gid, home, shell string
	password              string // state
	tag                   string // tells one password from another, never what it is
}

// accounts is everybody who may log in, and what they may.
type accounts struct {
	users  map[string]account
	groups map[string]group
	sudo   map[string]string // digest of the rules by the first word of each: a user, %group or alias
	cut    bool              // there was more than is kept
}

type group struct {
	gid     string
	members []string // sorted
}

// tagger makes tags with a salt of this device, so that the kept state helps nobody to guess.
type tagger struct{ salt string }

func (t tagger) tag(parts ...string) string {
	h := sha256.Sum256([]byte(t.salt + "\x00" + strings.Join(parts, "\x00")))
	return hex.EncodeToString(h[:8])
}

// accountFiles are contents, nil where there is no such file.
type accountFiles struct {
	passwd, shadow, group, gshadow []byte
	sudoers                        [][]byte
}

func parseAccounts(f accountFiles, t tagger) accounts {
	a := accounts{users: make(map[string]account), groups: make(map[string]group), sudo: make(map[string]string)}
	for line := range fields(f.passwd, 7) {
		if _, twice := a.users[line[0]]; twice || !a.room(len(a.users)) { // the first one counts, as in the C library
			continue
		}
		u := account{uid: clip(line[2]), gid: clip(line[3]), home: clip(line[5]), shell: clip(line[6])}
		u.password, u.tag = passwordState(line[1]), t.tag(line[0], line[1])
		if line[1] == "x" {
			u.password = passwordLocked // until shadow says otherwise
		}
		a.users[clip(line[0])] = u
	}
	seen := make(map[string]bool)
	for line := range fields(f.shadow, 2) {
		name := clip(line[0])
		if u, ok := a.users[name]; ok && !seen[name] {
			u.password, u.tag = passwordState(line[1]), t.tag(name, line[1])
			a.users[name] = u
			seen[name] = true
		}
	}
	for line := range fields(f.group, 4) {
		if _, twice := a.groups[line[0]]; twice || !a.room(len(a.groups)) {
			continue
		}
		a.groups[clip(line[0])] = group{gid: clip(line[2]), members: a.members(line[3])}
	}
	for line := range fields(f.gshadow, 4) {
		if g, ok := a.groups[clip(line[0])]; ok {
			g.members = a.members(strings.Join(g.members, ",") + "," + line[3])
			a.groups[clip(line[0])] = g
		}
	}
	for _, b := range f.sudoers {
		a.sudoRules(b, t)
	}
	return a
}

// room reports whether one more may be kept.
func (a *accounts) room(n int) bool {
	a.cut = a.cut || n >= maxAccounts
	return n < maxAccounts
}

func (a *accounts) members(s string) []string {
	var out []string
	for m := range strings.SplitSeq(s, ",") {
		if m = strings.TrimSpace(clip(m)); m == "" {
			continue
		}
		if len(out) == maxMembers {
			a.cut = true
			break
		}
		out = append(out, m)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// clip cuts a name and takes what would break a line of the state out of it, byte by byte: it is as long after a second time.
func clip(s string) string {
	b := []byte(s[:min(len(s), maxName)])
	for i := range b {
		if b[i] < ' ' {
			b[i] = '?'
		}
	}
	return string(b)
}

// fields gives the lines of a file with fields between colons that have at least n of them.
func fields(b []byte, n int) func(yield func([]string) bool) {
	return func(yield func([]string) bool) {
		for line := range strings.Lines(string(b)) {
			f := strings.Split(strings.TrimRight(line, "\r\n"), ":")
			if len(f) < n || len(f) > 16 || f[0] == "" || f[0][0] == '#' || f[0][0] == '+' || f[0][0] == '-' {
				continue
			}
			if !yield(f) {
				return
			}
		}
	}
}

// passwordState judges the second field of shadow: what no hash can be locks the password.
func passwordState(s string) string {
	switch {
	case s == "":
		return passwordNone
	case len(s) < 13 || s[0] == '!' || s[0] == '*': // the shortest hash, DES, has 13 characters
		return passwordLocked
	}
	return passwordSet
}

// sudoRules reads who has rules in a file of sudoers(5), with a digest of the rules of each.
func (a *accounts) sudoRules(b []byte, t tagger) {
	text := strings.ReplaceAll(string(b), "\\\n", " ")
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 0 || strings.HasPrefix(f[0], "Defaults") {
			continue
		}
		who := clip(f[0])
		switch {
		case who == "#include" || who == "#includedir" || strings.HasPrefix(who, "@include"):
		case who[0] == '#' && (len(who) == 1 || who[1] < '0' || who[1] > '9'): // a comment, and not a numeric user id
			continue
		}
		if _, known := a.sudo[who]; !known && !a.room(len(a.sudo)) {
			continue
		}
		a.sudo[who] = t.tag(a.sudo[who], strings.Join(f, " "))
	}
}

// encode writes accounts as text for State: tabs between fields, which no field has.
func (a accounts) encode(t tagger) []byte {
	var b strings.Builder
	line := func(f ...string) { b.WriteString(strings.Join(f, "\t") + "\n") }
	line("1", t.salt)
	for _, n := range slices.Sorted(maps.Keys(a.users)) {
		u := a.users[n]
		line("u", n, u.uid, u.gid, u.home, u.shell, u.password, u.tag)
	}
	for _, n := range slices.Sorted(maps.Keys(a.groups)) {
		line("g", n, a.groups[n].gid, strings.Join(a.groups[n].members, ","))
	}
	for _, n := range slices.Sorted(maps.Keys(a.sudo)) {
		line("s", n, a.sudo[n])
	}
	if b.Len() > MaxState { // then it can only be told that something changed
		return []byte("2\t" + t.salt + "\t" + t.tag(b.String()) + "\n")
	}
	return []byte(b.String())
}

var errState = errors.New("not a state of accounts")

// decodeAccounts reads what encode wrote. digest is set when that was only a digest.
func decodeAccounts(b []byte) (a accounts, t tagger, digest string, err error) {
	a = accounts{users: make(map[string]account), groups: make(map[string]group), sudo: make(map[string]string)}
	for i, line := range strings.Split(strings.TrimSuffix(string(b), "\n"), "\n") {
		f := strings.Split(line, "\t")
		switch {
		case i == 0 && len(f) == 2 && f[0] == "1":
			t.salt = f[1]
		case i == 0 && len(f) == 3 && f[0] == "2":
			return a, tagger{f[1]}, f[2], nil
		case i == 0:
			return a, t, "", errState
		case len(f) == 8 && f[0] == "u":
			a.users[f[1]] = account{f[2], f[3], f[4], f[5], f[6], f[7]}
		case len(f) == 4 && f[0] == "g":
			a.groups[f[1]] = group{f[2], a.members(f[3])}
		case len(f) == 3 && f[0] == "s":
			a.sudo[f[1]] = f[2]
		default:
			return a, t, "", errState
		}
	}
	return a, t, "", nil
}

// change is one difference between two states of accounts.
type change struct {
	what          string // "account added"
	account       string
	group         string
	from, to      string
	uid, password string
	grave         bool // more rights than before
}

// privileged are groups whose members are as good as root.
var privileged = [...]string{"root", "wheel", "sudo", "admin", "adm", "shadow", "disk", "docker", "lxd", "kmem", "staff"}

// diff returns what changed, in a fixed order.
func (a accounts) diff(b accounts) []change {
	var out []change
	for _, n := range keys(a.users, b.users) {
		old, had := a.users[n]
		now, has := b.users[n]
		switch {
		case !had:
			out = append(out, change{what: "account added", account: n, uid: now.uid, password: now.password, to: now.shell,
				grave: root(now.uid) || now.password == passwordNone})
		case !has:
			out = append(out, change{what: "account removed", account: n, uid: old.uid})
		default:
			out = append(out, old.diff(n, now)...)
		}
	}
	for _, n := range keys(a.groups, b.groups) {
		old, had := a.groups[n]
		now, has := b.groups[n]
		switch {
		case !had:
			out = append(out, change{what: "group added", group: n, to: now.gid})
		case !has:
			out = append(out, change{what: "group removed", group: n, from: old.gid})
		case old.gid != now.gid:
			out = append(out, change{what: "group id changed", group: n, from: old.gid, to: now.gid, grave: root(now.gid)})
		}
		for _, m := range now.members {
			if !slices.Contains(old.members, m) {
				out = append(out, change{what: "joined group", account: m, group: n, grave: slices.Contains(privileged[:], n)})
			}
		}
		for _, m := range old.members {
			if !slices.Contains(now.members, m) {
				out = append(out, change{what: "left group", account: m, group: n})
			}
		}
	}
	for _, n := range keys(a.sudo, b.sudo) {
		old, had := a.sudo[n]
		now, has := b.sudo[n]
		switch {
		case !had:
			out = append(out, change{what: "sudo rule added", account: n, grave: true})
		case !has:
			out = append(out, change{what: "sudo rule removed", account: n})
		case old != now:
			out = append(out, change{what: "sudo rule changed", account: n, grave: true})
		}
	}
	return out
}

func (a account) diff(name string, b account) (out []change) {
	add := func(what, from, to string, grave bool) {
		if from != to {
			out = append(out, change{what: what, account: name, from: from, to: to, uid: b.uid, grave: grave})
		}
	}
	add("user id changed", a.uid, b.uid, root(b.uid))
	add("main group changed", a.gid, b.gid, root(b.gid))
	add("home directory changed", a.home, b.home, false)
	add("shell changed", a.shell, b.shell, false)
	switch {
	case a.password != b.password:
		add("password is now "+b.password, a.password, b.password, b.password == passwordNone)
	case a.tag != b.tag && b.password == passwordSet:
		out = append(out, change{what: "password changed", account: name, uid: b.uid})
	case a.tag != b.tag:
		out = append(out, change{what: "locked password changed", account: name, uid: b.uid})
	}
	return out
}

// root reports whether an id is that of root, in each way the C library reads as 0.
func root(id string) bool {
	n, err := strconv.ParseUint(strings.TrimSpace(id), 10, 64)
	return err == nil && uint32(n) == 0
}

func keys[V any](a, b map[string]V) []string {
	all := make(map[string]bool, len(a))
	for k := range a {
		all[k] = true
	}
	for k := range b {
		all[k] = true
	}
	return slices.Sorted(maps.Keys(all))
}
