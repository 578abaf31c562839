// SPDX-License-Identifier: Apache-2.0

package probe_test

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/backstay/backstay/configs/probe"
)

// checkCase is a tree and what a check says about it: the beginning of brief.
type checkCase struct {
	files              files
	kind, target, want string
	result             string
}

func runChecks(t *testing.T, cases map[string]checkCase) {
	t.Helper()
	for name, c := range cases {
		v := newCheck(t, c.kind, c.target, c.want).Check(context.Background(), host(t, tree(t, c.files)))
		if got := brief(v); !strings.HasPrefix(got, c.result) || c.result == "pass" && got != "pass" {
			t.Errorf("%s: %s (%s), want %s", name, got, v.Reason, c.result)
		}
		if v.Result == probe.Pass && (len(v.Inspected) == 0 || v.Reason == "") {
			t.Errorf("%s: passes without evidence", name)
		}
		if (v.Result == probe.NotApplicable || v.Result == probe.Unknown) && v.Reason == "" {
			t.Errorf("%s: %s without a reason", name, v.Result)
		}
	}
}

// fixCase is a tree and what one of its files is after the fix; text "" means that the fix is refused.
type fixCase struct {
	files              files
	kind, target, want string
	file, text         string
}

func runFixes(t *testing.T, cases map[string]fixCase) {
	t.Helper()
	ctx := context.Background()
	all := func(string) bool { return true }
	for name, c := range cases {
		dir := tree(t, c.files)
		h := host(t, dir)
		check := newCheck(t, c.kind, c.target, c.want)
		plan, err := check.Fix(ctx, h, all)
		if c.text == "" {
			if err == nil {
				t.Errorf("%s: the fix is not refused: %v", name, plan)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, ch := range plan {
			if !h.Ready(ctx, ch) {
				t.Errorf("%s: %s %s is not ready", name, ch.Op, ch.Path)
			}
			must(t, h.Apply(ctx, ch))
		}
		if got, err := os.ReadFile(dir + "/" + c.file); err != nil || string(got) != c.text {
			t.Errorf("%s: %s is %q (%v), want %q", name, c.file, got, err, c.text)
		}
		if v := check.Check(ctx, h); v.Result != probe.Pass {
			t.Errorf("%s: after the fix: %s %s", name, brief(v), v.Reason)
		}
		if again, _ := check.Fix(ctx, h, all); len(again) > 0 {
			t.Errorf("%s: a second fix plans %v", name, again)
		}
	}
}

const (
	md5Admin = "$1$7ujMko0v$60lBauJfeTLe2uYYdwMLT."
	edKey    = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKcqyw8kRq0nqDJjWSYP1V1xyNbL3xyo9pAdUo0ITkBE a@b\n"
)

func TestAccountChecks(t *testing.T) {
	const two = "root:x:0:0::/root:/bin/sh\nadm:x:9:9::/home/adm:/bin/false\n"
	runChecks(t, map[string]checkCase{
		"hash in passwd":             {files{"etc/passwd": "a:" + md5Admin + ":1:1::/:/bin/sh\n"}, "account", "hash-in-passwd", "", "fail; /etc/passwd:1 md5crypt hash"},
		"hash in shadow":             {files{"etc/passwd": two, "etc/shadow": "root:" + md5Admin + ":1\n"}, "account", "hash-in-passwd", "", "pass"},
		"words in passwd":            {files{"etc/passwd": "a:NP:1:1::/:/bin/sh\nb:*LK*:2:2::/:\nc::3:3::/:\n"}, "account", "hash-in-passwd", "", "pass"},
		"usable":                     {files{"etc/passwd": two, "etc/shadow": "root:$y$j9T$abc$def:1\n"}, "account", "usable-hash", "", "fail; /etc/shadow:1 yescrypt"},
		"not usable":                 {files{"etc/passwd": two, "etc/shadow": "root:!$y$j9T$abc$def:1\nadm:*:1\n"}, "account", "usable-hash", "", "pass"},
		"first login":                {files{"etc/passwd": two, "etc/shadow": "root:" + md5Admin + ":0:0\n"}, "account", "first-login", "", "pass"},
		"never changed":              {files{"etc/passwd": two, "etc/shadow": "root:" + md5Admin + "::0\n"}, "account", "first-login", "", "fail; /etc/shadow:1"},
		"provisioned":                {files{"etc/passwd": two, "etc/shadow": "root:" + md5Admin + ":1:0\n", "etc/done": ""}, "account", "first-login", `{"marker":["/etc/done"]}`, "pass"},
		"no login no change":         {files{"etc/passwd": two, "etc/shadow": "adm:" + md5Admin + ":1:0\n"}, "account", "first-login", "", "pass"},
		"service shell":              {files{"etc/passwd": "www:x:33:33::/:/bin/sh\n"}, "account", "service-shell", "", "fail; /etc/passwd:1 /bin/sh for a service"},
		"service without a shell":    {files{"etc/passwd": "www:x:33:33::/:\n"}, "account", "service-shell", "", "fail; /etc/passwd:1 no shell given"},
		"service with a listed one":  {files{"etc/passwd": "www:x:33:33::/:/opt/cli\n", "etc/shells": "/opt/cli\n"}, "account", "service-shell", "", "fail"},
		"service with a program":     {files{"etc/passwd": "www:x:33:33::/:/opt/cli\nsync:x:4:4::/:/bin/sync\n", "etc/shells": "/bin/sh\n"}, "account", "service-shell", "", "pass"},
		"people":                     {files{"etc/passwd": "root:x:0:0::/:/bin/sh\nme:x:1000:1::/:/bin/sh\nnobody:x:65534:1::/:/bin/sh\n"}, "account", "service-shell", "", "pass"},
		"people from 500":            {files{"etc/passwd": "me:x:500:1::/:/bin/sh\n", "etc/login.defs": "# UID_MIN 1\nUID_MIN\t\t500\n"}, "account", "service-shell", "", "pass"},
		"allowed":                    {files{"etc/passwd": "git:x:99:1::/:/bin/sh\n"}, "account", "service-shell", `{"allow":["git"]}`, "pass"},
		"twice the name":             {files{"etc/passwd": two + "adm:x:10:10::/:/bin/false\n"}, "account", "unique", "", "fail; /etc/passwd:3 name adm is also in line 2"},
		"twice the uid":              {files{"etc/passwd": two + "b:x:09:9::/:/bin/false\n"}, "account", "unique", "", "fail; /etc/passwd:3 id 9 is also in line 2"},
		"twice the gid":              {files{"etc/passwd": two, "etc/group": "a:x:1:\nb:x:1:\n"}, "account", "unique", "", "fail; /etc/group:2 id 1"},
		"a name that is an id":       {files{"etc/passwd": "9:x:9:9::/:\n"}, "account", "unique", "", "pass"},
		"second root is not ours":    {files{"etc/passwd": two + "toor:x:0:0::/:/bin/sh\n"}, "account", "unique", "", "pass"},
		"nis":                        {files{"etc/passwd": two + "+::::::\n"}, "account", "nis", "", "fail; /etc/passwd:3"},
		"nis in group":               {files{"etc/passwd": two, "etc/group": "+:::\n"}, "account", "nis", "", "fail; /etc/group:1"},
		"no nis":                     {files{"etc/passwd": two + "-bad::::::\n# + c\n"}, "account", "nis", "", "pass"},
		"no account files":           {files{"etc/x": ""}, "account", "nis", "", "not-applicable"},
		"terminals":                  {files{"etc/securetty": "console\n#pts/0\nttyS0\nptsomething\n"}, "account", "securetty", "", "pass"},
		"network terminals":          {files{"etc/securetty": "console\n /dev/pts/1 \n"}, "account", "securetty", "", "fail; /etc/securetty:2"},
		"no securetty":               {files{"etc/passwd": two}, "account", "securetty", "", "not-applicable"},
		"locked default":             {files{"etc/passwd": two, "etc/shadow": "root:!" + md5Admin + ":1\n"}, "password-dict", "*", `{"locked":true}`, "fail; /etc/shadow:1 md5crypt of a default"},
		"locked is not open":         {files{"etc/passwd": two, "etc/shadow": "root:!" + md5Admin + ":1\n"}, "password-dict", "*", "", "pass"},
		"open is not locked":         {files{"etc/passwd": two, "etc/shadow": "root:" + md5Admin + ":1\n"}, "password-dict", "*", `{"locked":true}`, "pass"},
		"des":                        {files{"etc/passwd": "root:abOV.DfJmdnYw:0:0::/:/bin/sh\n"}, "password-dict", "*", "", "fail; /etc/passwd:1 descrypt of a default password (guess 4"},
		"bsdi":                       {files{"etc/passwd": "root:_J9..rasmVg5xP995t1o:0:0::/:/bin/sh\n"}, "password-dict", "*", "", "fail; /etc/passwd:1 bsdicrypt of a default"},
		"bcrypt":                     {files{"etc/passwd": "root:$2b$05$abcdefghijklmnopqrstuu/ETYr/khvH.poOJBsjjZk.DM9FaNihe:0:0::/:/bin/sh\n"}, "password-dict", "*", "", "fail; /etc/passwd:1 bcrypt of a default"},
		"yescrypt cannot be tried":   {files{"etc/passwd": "root:$y$j9T$abcd$WGfCIWO1qItRQZ3eZZ4Y8w08zdrI83efc2oNnR6NPa1:0:0::/:/bin/sh\n"}, "password-dict", "*", "", "unknown"},
		"one of two cannot be tried": {files{"etc/passwd": "a:$7$a$b:0:0::/:/bin/sh\nb:" + md5Admin + ":1:1::/:/bin/sh\n"}, "password-dict", "*", "", "fail; /etc/passwd:2"},
		"keys of an account":         {files{"etc/passwd": two, "root/.ssh/authorized_keys": "# c\n\n" + edKey}, "authorized-keys", "accounts", "", "fail; /root/.ssh/authorized_keys:3 ssh-ed25519 key that opens root"},
		"keys with options":          {files{"etc/passwd": two, "root/.ssh/authorized_keys2": `command="a b",no-pty ` + edKey}, "authorized-keys", "accounts", "", "fail; /root/.ssh/authorized_keys2:1"},
		"keys of dropbear":           {files{"etc/passwd": two, "etc/dropbear/authorized_keys": edKey}, "authorized-keys", "accounts", "", "fail; /etc/dropbear/authorized_keys:1"},
		"keys elsewhere":             {files{"etc/passwd": two, "etc/ssh/sshd_config": "AuthorizedKeysFile .ssh/none /etc/keys/%u\n", "etc/keys/adm": edKey}, "authorized-keys", "accounts", "", "fail; /etc/keys/adm:1"},
		"listed keys":                {files{"etc/passwd": two, "root/.ssh/authorized_keys": edKey}, "authorized-keys", "accounts", `{"allow":["SHA256:viwkin1Kz6GGKzgFQ1RJ4zX5j3lj/zPtTeiTvYPJ9KE"]}`, "pass"},
		"empty key files":            {files{"etc/passwd": two, "root/.ssh/authorized_keys": "# put keys here\nssh-rsa AAAA\n"}, "authorized-keys", "accounts", "", "pass"},
		"no accounts, no keys":       {files{"root/.ssh/authorized_keys": edKey}, "authorized-keys", "accounts", "", "not-applicable"},
	})
}

func TestAccountFixes(t *testing.T) {
	runFixes(t, map[string]fixCase{
		"moved to a new shadow line": {files{"etc/passwd": "a:" + md5Admin + ":1:1::/:/bin/sh\n", "etc/shadow": "b:*:1"}, "account", "hash-in-passwd", "", "etc/shadow", "b:*:1\na:" + md5Admin + "::0:99999:7:::\n"},
		"moved to its shadow line":   {files{"etc/passwd": "a:" + md5Admin + ":1:1::/:/bin/sh\n", "etc/shadow": "a:*:1:2\n"}, "account", "hash-in-passwd", "", "etc/shadow", "a:" + md5Admin + ":1:2\n"},
		"x stays behind":             {files{"etc/passwd": "a:" + md5Admin + ":1:1::/:/bin/sh\n", "etc/shadow": "a:*:1:2\n"}, "account", "hash-in-passwd", "", "etc/passwd", "a:x:1:1::/:/bin/sh\n"},
		"no shadow here":             {files{"etc/passwd": "a:" + md5Admin + ":1:1::/:/bin/sh\n"}, "account", "hash-in-passwd", "", "", ""},
		"first login":                {files{"etc/passwd": "a:x:1:1::/:/bin/sh\n", "etc/shadow": "a:" + md5Admin + ":19000:0:99999\n"}, "account", "first-login", "", "etc/shadow", "a:" + md5Admin + ":0:0:99999\n"},
		"first login in passwd":      {files{"etc/passwd": "a:" + md5Admin + ":1:1::/:/bin/sh\n"}, "account", "first-login", "", "", ""},
		"shell":                      {files{"etc/passwd": "root:" + md5Admin + ":0:0::/:/bin/sh\nw:x:3:3:a b:/:/bin/sh\n", "bin/false": ""}, "account", "service-shell", "", "etc/passwd", "root:" + md5Admin + ":0:0::/:/bin/sh\nw:x:3:3:a b:/:/bin/false\n"},
		"shell of a short line":      {files{"etc/passwd": "w:x:3:3:a b:/", "sbin/nologin": ""}, "account", "service-shell", "", "etc/passwd", "w:x:3:3:a b:/:/sbin/nologin"},
		"shell of the last login":    {files{"etc/passwd": "root:*:0:0::/:/bin/sh\nw:" + md5Admin + ":3:3::/:/bin/sh\n", "bin/false": ""}, "account", "service-shell", "", "", ""},
		"nothing to set":             {files{"etc/passwd": "w:x:3:3::/:/bin/sh\n"}, "account", "service-shell", "", "", ""},
		"nis":                        {files{"etc/passwd": "+::::::\na:x:1:1::/:\n+b", "etc/shadow": "+\n"}, "account", "nis", "", "etc/passwd", "a:x:1:1::/:\n"},
		"securetty":                  {files{"etc/securetty": "console\npts/0\n"}, "account", "securetty", "", "etc/securetty", "console\n# disabled by backstay: pts/0\n"},
		"locked default":             {files{"etc/passwd": "a:!" + md5Admin + ":1:1::/:/bin/sh\n"}, "password-dict", "*", `{"locked":true}`, "etc/passwd", "a:!*:1:1::/:/bin/sh\n"},
		"last login":                 {files{"etc/passwd": "a::1:1::/:/bin/sh\nb:*:2:2::/:/bin/sh\nc:$1$a$b:3:3::/:/bin/false\n"}, "empty-password", "*", "", "", ""},
		"another can log in":         {files{"etc/passwd": "a::1:1::/:/bin/sh\nb:$6$a$b:2:2::/:/bin/sh\n"}, "empty-password", "*", "", "etc/passwd", "a:*:1:1::/:/bin/sh\nb:$6$a$b:2:2::/:/bin/sh\n"},
		"it has a key":               {files{"etc/passwd": "a::1:1::/:/bin/sh\n", ".ssh/authorized_keys": edKey, "usr/sbin/dropbear": "x"}, "empty-password", "*", "", "etc/passwd", "a:*:1:1::/:/bin/sh\n"},
		"a key without a server":     {files{"etc/passwd": "a::1:1::/:/bin/sh\n", ".ssh/authorized_keys": edKey}, "empty-password", "*", "", "", ""},
		"a key behind !":             {files{"etc/passwd": "a::1:1::/x:/bin/sh\nb:!:2:2::/:/bin/sh\n", ".ssh/authorized_keys": edKey, "usr/sbin/sshd": "x"}, "empty-password", "*", "", "", ""},
		"nobody could log in anyway": {files{"etc/passwd": "a::1:1::/:/bin/false\n"}, "empty-password", "*", "", "etc/passwd", "a:*:1:1::/:/bin/false\n"},
	})
}

// A system without shadow may keep the hashes where only root reads them.
func TestPasswdThatOnlyRootReads(t *testing.T) {
	dir := tree(t, files{"etc/passwd": "a:" + md5Admin + ":1:1::/:/bin/sh\n"})
	check := newCheck(t, "account", "hash-in-passwd", "")
	for mode, want := range map[os.FileMode]probe.Result{0o600: probe.Pass, 0o640: probe.Pass, 0o604: probe.Fail} {
		must(t, os.Chmod(dir+"/etc/passwd", mode))
		if v := check.Check(context.Background(), host(t, dir)); v.Result != want {
			t.Errorf("%o: %s", mode, brief(v))
		}
	}
}

// Of several accounts that are open the last keeps its password: a person who comes to mend the rest must get in.
func TestTheLastLoginStaysOpen(t *testing.T) {
	h := host(t, tree(t, files{"etc/passwd": "root::0:0::/:/bin/sh\nb::1:1::/:/bin/sh\n"}))
	plan, err := newCheck(t, "empty-password", "*", "").Fix(context.Background(), h, func(string) bool { return true })
	if err == nil || len(plan) != 1 || string(plan[0].After) != "root::0:0::/:/bin/sh\nb:*:1:1::/:/bin/sh\n" {
		t.Errorf("%v: %v", err, plan)
	}
}

// A running device goes through the list in steps of bounded time and never tries a word twice against one field.
func TestGuessesGoOnWhereTheyEnded(t *testing.T) {
	dir := tree(t, files{"etc/passwd": "root:$2b$05$abcdefghijklmnopqrstuu/ETYr/khvH.poOJBsjjZk.DM9FaNihX:0:0::/:/bin/sh\n"})
	root, err := os.OpenRoot(dir)
	must(t, err)
	defer root.Close()
	g := probe.Guesses{Step: 3 * time.Millisecond}
	check := newCheck(t, "password-dict", "*", "")
	reasons := map[string]bool{}
	runs := 0
	for ; runs < 120; runs++ {
		h := probe.NewHost(root, true)
		h.Remember(&g)
		began := time.Now()
		v := check.Check(context.Background(), h)
		if d := time.Since(began); d > 30*time.Second { // one guess, under emulation on a busy machine
			t.Fatalf("a run took %v", d)
		}
		if v.Result == probe.Pass {
			break
		}
		if v.Result != probe.Unknown || reasons[v.Reason] {
			t.Fatalf("run %d: %+v", runs, v)
		}
		reasons[v.Reason] = true
	}
	if runs == 0 || runs == 120 {
		t.Errorf("passes after %d runs", runs)
	}
}
