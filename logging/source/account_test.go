// SPDX-License-Identifier: Apache-2.0

package source

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/testdata/testneed"
)

const (
	hashA = "$6$abcdefgh$Zm9vYmFyZm9vYmFyZm9vYmFyZm9vYmFyZm9vYmFyZm9vYmFyZm9vYmFyZm9vYmFyZm9vYmFyZm9vYmFyAA"
	hashB = "$6$abcdefgh$Zm9vYmFyZm9vYmFyZm9vYmFyZm9vYmFyZm9vYmFyZm9vYmFyZm9vYmFyZm9vYmFyZm9vYmFyZm9vYmFyBB"
)

var accountTree = map[string]string{
	"etc/passwd":  "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1::/:/usr/sbin/nologin\nalice:x:1000:1000::/home/alice:/bin/sh\n",
	"etc/shadow":  "root:" + hashA + ":19000:0:99999:7:::\ndaemon:*:1::::::\nalice:" + hashA + ":1::::::\n",
	"etc/group":   "root:x:0:\ndaemon:x:1:\nsudo:x:27:\nusers:x:100:alice\n",
	"etc/sudoers": "# rules\nDefaults env_reset\nroot ALL=(ALL) ALL\n%sudo ALL=(ALL:ALL) \\\n  ALL\n",
}

func parseTree(t *testing.T, edit map[string][2]string) accounts {
	t.Helper()
	get := func(name string) []byte {
		s := accountTree[name]
		for file, e := range edit {
			if strings.HasPrefix(file, name) {
				if !strings.Contains(s, e[0]) {
					t.Fatalf("%s has no %q", name, e[0])
				}
				s = strings.Replace(s, e[0], e[1], 1)
			}
		}
		return []byte(s)
	}
	return parseAccounts(accountFiles{get("etc/passwd"), get("etc/shadow"), get("etc/group"), nil, [][]byte{get("etc/sudoers")}}, tagger{"salt"})
}

func TestAccountChanges(t *testing.T) {
	for _, c := range []struct {
		name  string
		edit  map[string][2]string
		want  []string
		grave bool
	}{
		{"nothing", nil, nil, false},
		{"added", map[string][2]string{"etc/passwd": {"daemon:", "eve:x:1001:1001::/:/bin/sh\ndaemon:"}}, []string{"account added eve"}, false},
		{"added as root", map[string][2]string{"etc/passwd": {"daemon:", "eve:x:0:0::/:/bin/sh\ndaemon:"}}, []string{"account added eve"}, true},
		{"added as root in disguise", map[string][2]string{"etc/passwd": {"daemon:", "eve:x:4294967296:0::/:/bin/sh\ndaemon:"}}, []string{"account added eve"}, true},
		{"added without password", map[string][2]string{"etc/passwd": {"daemon:", "eve::1001:0::/:/bin/sh\ndaemon:"}}, []string{"account added eve"}, true},
		{"removed", map[string][2]string{"etc/passwd": {"alice:x:1000:1000::/home/alice:/bin/sh\n", ""}}, []string{"account removed alice"}, false},
		{"root rights", map[string][2]string{"etc/passwd": {"alice:x:1000", "alice:x:0"}}, []string{"user id changed alice 1000 0"}, true},
		{"shell", map[string][2]string{"etc/passwd": {"/usr/sbin/nologin", "/bin/sh"}}, []string{"shell changed daemon /usr/sbin/nologin /bin/sh"}, false},
		{"home", map[string][2]string{"etc/passwd": {"/home/alice", "/tmp"}}, []string{"home directory changed alice /home/alice /tmp"}, false},
		{"password set", map[string][2]string{"etc/shadow": {"daemon:*", "daemon:" + hashB}}, []string{"password is now set daemon locked set"}, false},
		{"password changed", map[string][2]string{"etc/shadow": {"alice:" + hashA, "alice:" + hashB}}, []string{"password changed alice"}, false},
		{"password locked", map[string][2]string{"etc/shadow": {"alice:", "alice:!"}}, []string{"password is now locked alice set locked"}, false},
		{"password taken away", map[string][2]string{"etc/shadow": {"root:" + hashA, "root:"}}, []string{"password is now none root set none"}, true},
		{"password moved to passwd", map[string][2]string{"etc/passwd": {"root:x", "root:"}, "etc/shadow": {"root:" + hashA + ":19000:0:99999:7:::\n", ""}},
			[]string{"password is now none root set none"}, true},
		{"group joined", map[string][2]string{"etc/group": {"sudo:x:27:", "sudo:x:27:alice"}}, []string{"joined group alice sudo"}, true},
		{"group joined, harmless", map[string][2]string{"etc/group": {"100:alice", "100:alice,daemon"}}, []string{"joined group daemon users"}, false},
		{"group left", map[string][2]string{"etc/group": {"100:alice", "100:"}}, []string{"left group alice users"}, false},
		{"group added", map[string][2]string{"etc/group": {"users:", "new:x:5:\nusers:"}}, []string{"group added new 5"}, false},
		{"sudo", map[string][2]string{"etc/sudoers": {"root ALL", "alice ALL=(ALL) NOPASSWD: ALL\nroot ALL"}}, []string{"sudo rule added alice"}, true},
		{"sudo changed", map[string][2]string{"etc/sudoers": {"\\\n  ALL", "\\\n  NOPASSWD: ALL"}}, []string{"sudo rule changed %sudo"}, true},
		{"a comment", map[string][2]string{"etc/sudoers": {"# rules", "# other rules"}}, nil, false},
	} {
		var got []string
		grave := false
		for _, ch := range parseTree(t, nil).diff(parseTree(t, c.edit)) {
			s := ch.what
			for _, part := range []string{ch.account, ch.group, ch.from} {
				if part != "" {
					s += " " + part
				}
			}
			if ch.to != "" && ch.what != "account added" {
				s += " " + ch.to
			}
			got = append(got, s)
			grave = grave || ch.grave
		}
		if !slices.Equal(got, c.want) || grave != c.grave {
			t.Errorf("%s: %q (grave %v), want %q (%v)", c.name, got, grave, c.want, c.grave)
		}
	}
}

func TestAccountState(t *testing.T) {
	a, salt := parseTree(t, nil), tagger{"salt"}
	b := a.encode(salt)
	if strings.Contains(string(b), hashA[:20]) {
		t.Errorf("the state has a hash of a password: %s", b)
	}
	got, tag, digest, err := decodeAccounts(b)
	if err != nil || tag != salt || digest != "" || len(a.diff(got)) != 0 || len(got.users) != 3 || len(got.sudo) != 2 {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{"", "3\tx", "1\tx\nq", "1\tx\nu\ta", "2\tx"} {
		if _, _, _, err := decodeAccounts([]byte(bad)); err == nil {
			t.Errorf("%q is no state", bad)
		}
	}
	var passwd strings.Builder
	for i := range 2 * maxAccounts {
		fmt.Fprintf(&passwd, "user%d:x:%d:1::/home/%s:/bin/sh\n", i, 1000+i, strings.Repeat("x", 500))
	}
	many := parseAccounts(accountFiles{passwd: []byte(passwd.String())}, salt)
	if len(many.users) != maxAccounts || !many.cut {
		t.Errorf("%d accounts kept, cut %v", len(many.users), many.cut)
	}
	b = many.encode(salt)
	if _, _, digest, err := decodeAccounts(b); len(b) > MaxState || digest == "" || err != nil {
		t.Errorf("%d bytes, digest %q, %v", len(b), digest, err)
	}
}

func FuzzAccounts(f *testing.F) {
	f.Add([]byte(accountTree["etc/passwd"]), []byte(accountTree["etc/shadow"]), []byte(accountTree["etc/group"]), []byte(accountTree["etc/sudoers"]))
	f.Fuzz(func(t *testing.T, passwd, shadow, group, sudoers []byte) {
		salt := tagger{"salt"}
		a := parseAccounts(accountFiles{passwd, shadow, group, group, [][]byte{sudoers}}, salt)
		if len(a.users) > maxAccounts || len(a.groups) > maxAccounts || len(a.sudo) > maxAccounts {
			t.Fatal("too many")
		}
		b := a.encode(salt)
		got, _, digest, err := decodeAccounts(b)
		if err != nil {
			t.Fatalf("%v: %q", err, b)
		}
		if d := a.diff(got); digest == "" && len(d) != 0 {
			t.Errorf("%q: differs after a round: %+v", b, d)
		}
	})
}

func FuzzAccountState(f *testing.F) {
	f.Add([]byte("1\tsalt\nu\troot\t0\t0\t/root\t/bin/sh\tset\tabc\ng\troot\t0\t\ns\troot\tabc\n"))
	f.Add([]byte("2\tsalt\tdigest\n"))
	f.Fuzz(func(t *testing.T, b []byte) { _, _, _, _ = decodeAccounts(b) })
}

func TestAccountsAreWatched(t *testing.T) {
	testneed.Native(t)
	root := tree(t, accountTree)
	env := testEnv(t, root)
	etc := func(name string) string { return filepath.Join(root, "etc", name) }
	w := observe(t, accountKind(), env)
	change := func(what string) func(logging.Event) bool { return is("change", what) }

	// In place.
	appendFile(t, etc("passwd"), []byte("eve:x:0:0::/:/bin/sh\n"))
	e := w.eventually(t, "account.change", change("account added"))
	if attr(t, e, "account") != "eve" || attr(t, e, "account_uid") != "0" || e.Severity != logging.SeverityHigh || !e.Critical() {
		t.Errorf("%+v", e)
	}
	// By a new file in the place of the old one.
	write(t, etc("shadow.new"), strings.Replace(accountTree["etc/shadow"], "alice:"+hashA, "alice:"+hashB, 1))
	if err := os.Rename(etc("shadow.new"), etc("shadow")); err != nil {
		t.Fatal(err)
	}
	e = w.eventually(t, "account.change", change("password changed"))
	if attr(t, e, "account") != "alice" {
		t.Errorf("%+v", e)
	}
	// A directory that was not there.
	write(t, etc("sudoers.d/x"), "alice ALL=(ALL) NOPASSWD: ALL\n")
	w.eventually(t, "account.change", change("sudo rule added"))
	time.Sleep(2 * accountSettle)
	write(t, etc("sudoers.d/y"), "daemon ALL=(ALL) ALL\n")
	w.eventually(t, "account.change", is("account", "daemon"))
	n := len(w.of("account.change"))
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	if n != 4 {
		t.Errorf("%d changes, want 4: %+v", n, w.of("account.change"))
	}

	// While the agent is down.
	write(t, etc("group"), accountTree["etc/group"]+"wheel:x:10:alice\n")
	w = observe(t, accountKind(), env)
	e = w.eventually(t, "account.change", change("joined group"))
	if attr(t, e, "while_down") != "true" || attr(t, e, "group") != "wheel" {
		t.Errorf("%+v", e)
	}
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	w = observe(t, accountKind(), env)
	time.Sleep(accountSettle)
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	if len(w.list) != 0 {
		t.Errorf("nothing changed since: %+v", w.list)
	}
}

// The tools of the system work on a tree of their own.
func TestAccountsOfTheRealTools(t *testing.T) {
	testneed.Native(t)
	useradd, err := exec.LookPath("useradd")
	if err != nil {
		t.Skip(err)
	}
	root := tree(t, accountTree)
	write(t, filepath.Join(root, "etc/login.defs"), "UID_MIN 1000\n")
	w := observe(t, accountKind(), testEnv(t, root))
	if out, err := exec.Command(useradd, "-P", root, "-M", "-N", "-g", "100", "-G", "sudo", "-p", hashB, "mallory").CombinedOutput(); err != nil {
		t.Skipf("useradd: %v: %s", err, out)
	}
	e := w.eventually(t, "account.change", is("change", "account added"))
	if attr(t, e, "account") != "mallory" {
		t.Errorf("%+v", e)
	}
	e = w.eventually(t, "account.change", is("change", "joined group"))
	if attr(t, e, "group") != "sudo" {
		t.Errorf("%+v", e)
	}
	for _, e := range w.of("account.change") {
		if strings.Contains(fmt.Sprint(e), "foobar") || strings.Contains(fmt.Sprint(e), hashB[:12]) {
			t.Errorf("a hash is in the event: %+v", e)
		}
	}
}
