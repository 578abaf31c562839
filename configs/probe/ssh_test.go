// SPDX-License-Identifier: Apache-2.0

package probe_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/backstay/backstay/configs/probe"
	"github.com/backstay/backstay/testdata/testneed"
)

// sshdOracle prints the settings that the real server has for a connection; ok is false when it refuses the file.
type sshdOracle struct{ sshd, key string }

func newSshdOracle(t *testing.T) sshdOracle {
	t.Helper()
	o := sshdOracle{testneed.Program(t, "sshd", "openssh-server"), filepath.Join(t.TempDir(), "key")}
	keygen := testneed.Program(t, "ssh-keygen", "openssh-client")
	if out, err := exec.Command(keygen, "-q", "-t", "ed25519", "-N", "", "-f", o.key).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
		t.Skipf("sshd needs /run/sshd: %v", err)
	}
	return o
}

func (o sshdOracle) settings(config string, more ...string) (map[string]string, bool) {
	out, err := exec.Command(o.sshd, append([]string{"-T", "-f", config, "-h", o.key}, more...)...).Output()
	set := map[string]string{}
	for l := range strings.Lines(string(out)) {
		k, v, _ := strings.Cut(strings.TrimSpace(l), " ")
		if old, ok := set[k]; ok {
			v = old + " " + v
		}
		set[k] = strings.Replace(v, "without-password", "prohibit-password", 1)
	}
	return set, err == nil
}

// sshdWriter makes configurations: every way to write a line, includes by pattern, Match blocks.
type sshdWriter struct {
	*rand.Rand
	dir string
}

func (w sshdWriter) line() string {
	k := []string{"PermitRootLogin", "PasswordAuthentication", "X11Forwarding", "AllowTcpForwarding", "MaxAuthTries", "PermitEmptyPasswords", "kbdinteractiveauthentication", "ChallengeResponseAuthentication"}[w.IntN(8)]
	v := []string{"yes", "no"}[w.IntN(2)]
	switch k {
	case "PermitRootLogin":
		v = []string{"yes", "no", "prohibit-password", "without-password", "forced-commands-only"}[w.IntN(5)]
	case "MaxAuthTries":
		v = fmt.Sprint(1 + w.IntN(9))
	}
	if w.IntN(3) == 0 {
		k = strings.ToLower(k)
	}
	if w.IntN(4) == 0 {
		v = `"` + v + `"`
	}
	sep := []string{" ", "\t", "  ", "=", " = ", " =", "= "}[w.IntN(7)]
	end := []string{"", " ", "\t", " # no", "\r"}[w.IntN(5)]
	return []string{"", " ", "\t"}[w.IntN(3)] + k + sep + v + end + "\n"
}

func (w sshdWriter) text(lines, depth int) string {
	var b strings.Builder
	for range lines {
		switch w.IntN(9) {
		case 0:
			b.WriteString("# PermitRootLogin yes\n\n")
		case 1:
			if depth == 0 {
				fmt.Fprintf(&b, "Include %s/d/*.conf %s/none\n", w.dir, w.dir)
			}
		default:
			b.WriteString(w.line())
		}
	}
	if w.IntN(2) == 0 {
		for range 1 + w.IntN(2) {
			b.WriteString("Match " + []string{"User root", "user nobody", "Address 10.0.0.0/8", "all"}[w.IntN(4)] + "\n")
			for range 1 + w.IntN(3) {
				b.WriteString(w.line())
			}
		}
	}
	return b.String()
}

// The parser against the server itself: what counts for everybody is what it says, and what it says for a connection is one
// of the values that count for somebody.
func TestSshdReadsAsTheServerDoes(t *testing.T) {
	o := newSshdOracle(t)
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "d"), 0o755))
	root, err := os.OpenRoot("/")
	must(t, err)
	defer root.Close()
	w := sshdWriter{rand.New(rand.NewPCG(1, 2)), dir}
	config := filepath.Join(dir, "sshd_config")
	compared, refused := 0, 0
	for range 25 {
		text := w.text(1+w.IntN(6), 0)
		must(t, os.WriteFile(config, []byte(text), 0o600))
		all := text
		for i := range 2 {
			part := w.text(w.IntN(4), 1)
			must(t, os.WriteFile(filepath.Join(dir, "d", fmt.Sprintf("%d.conf", i)), []byte(part), 0o600))
			all += fmt.Sprintf("--- %d.conf\n%s", i, part)
		}
		global, ok := o.settings(config)
		conn, ok2 := o.settings(config, "-C", "user=root,host=h,addr=10.1.2.3")
		if !ok || !ok2 {
			refused++
			continue
		}
		for _, k := range []string{"permitrootlogin", "passwordauthentication", "x11forwarding", "allowtcpforwarding", "maxauthtries", "permitemptypasswords", "kbdinteractiveauthentication"} {
			outside, somewhere, err := probe.SshdValues(probe.NewHost(root, false), config, k)
			must(t, err)
			if outside != "" && outside != global[k] {
				t.Fatalf("%s is %q, the server says %q\n%s", k, outside, global[k], all)
			}
			if len(somewhere) > 0 && !contains(somewhere, conn[k]) && conn[k] != global[k] {
				t.Fatalf("%s is one of %q, the server says %q for a connection\n%s", k, somewhere, conn[k], all)
			}
			compared++
		}
	}
	t.Logf("%d values compared, %d files refused by the server", compared, refused)
	if compared < 120 {
		t.Errorf("only %d values were compared", compared)
	}
}

// What is denied is in the server's own list exactly when the check says so, with every sign before a list.
func TestSshdListsAreThoseOfTheServer(t *testing.T) {
	o := newSshdOracle(t)
	version, err := exec.Command(o.sshd, "-V").CombinedOutput()
	if !strings.Contains(string(version), "OpenSSH_") {
		t.Skipf("which version of sshd this is is not known: %s %v", version, err)
	}
	config := filepath.Join(t.TempDir(), "sshd_config")
	for _, c := range [][3]string{
		{"Ciphers", "", "*cbc*"}, {"Ciphers", "+aes128-cbc", "*cbc*"}, {"Ciphers", "-aes128-cbc", "*cbc*"}, {"Ciphers", "^aes256-cbc,aes256-ctr", "*cbc*"}, {"Ciphers", "aes256-ctr,3des-cbc", "3des*"},
		{"MACs", "", "*md5*"}, {"MACs", "", "hmac-sha1*"}, {"MACs", "-hmac-sha1*", "hmac-sha1*"}, {"MACs", "-hmac-sha1", "hmac-sha1*"}, {"MACs", "+hmac-md5-96", "*-96*"}, {"MACs", "", "umac-64*"},
		{"KexAlgorithms", "", "diffie-hellman-group14-sha1"}, {"KexAlgorithms", "+diffie-hellman-group14-sha1", "diffie-hellman-group14-sha1"}, {"KexAlgorithms", "^diffie-hellman-group1-sha1", "*group1-sha1"},
		{"HostKeyAlgorithms", "", "ssh-rsa"}, {"HostKeyAlgorithms", "+ssh-rsa", "ssh-rsa"}, {"PubkeyAcceptedAlgorithms", "", "ssh-rsa"}, {"PubkeyAcceptedKeyTypes", "+ssh-rsa", "ssh-rsa"},
	} {
		text := ""
		if c[1] != "" {
			text = c[0] + " " + c[1] + "\n"
		}
		must(t, os.WriteFile(config, []byte(text), 0o600))
		set, ok := o.settings(config)
		if !ok {
			t.Errorf("%s: the server refuses it", text)
			continue
		}
		keyword := strings.Replace(c[0], "KeyTypes", "Algorithms", 1)
		var denied []string
		for w := range strings.SplitSeq(set[strings.ToLower(keyword)], ",") {
			if ok, _ := path.Match(c[2], w); ok {
				denied = append(denied, w)
			}
		}
		h := host(t, tree(t, files{"usr/sbin/sshd": string(version), "etc/ssh/sshd_config": text}))
		v := newCheck(t, "sshd", keyword, `{"deny":["`+c[2]+`"]}`).Check(context.Background(), h)
		if (v.Result == probe.Fail) != (len(denied) > 0) || v.Result == probe.Unknown {
			t.Errorf("%q without %s: %s, the server has %q", text, c[2], brief(v), denied)
		}
	}
}

func contains(list []string, v string) bool {
	for _, l := range list {
		if strings.EqualFold(l, v) {
			return true
		}
	}
	return false
}

func TestSshChecks(t *testing.T) {
	const (
		two     = "root:x:0:0::/root:/bin/sh\nadm:x:9:9::/home/adm:/bin/sh\n"
		ciphers = `{"deny":["*cbc*","3des*","arcfour*"]}`
		keys    = `{"deny":["ssh-rsa","ssh-dss*"]}`
		tries   = `{"min":1,"max":4,"default":"6","set":"4"}`
		noX     = `{"one_of":["no"],"default":"no"}`
		dbTries = `{"option":"-T","min":1,"max":4,"default":10,"value":3}`
		script  = "#!/bin/sh\n. /etc/default/dropbear\n/usr/sbin/dropbear $DROPBEAR_ARGS\n"
	)
	conf := func(text string) files {
		return files{"usr/sbin/sshd": "x OpenSSH_6.6.1* OpenSSH_9.2p1 x", "etc/ssh/sshd_config": text}
	}
	old := func(text, version string) files {
		return files{"usr/sbin/sshd": "OpenSSH_2.*,OpenSSH_3.0*\x00OpenSSH_" + version + "p1\x00", "etc/ssh/sshd_config": text}
	}
	runChecks(t, map[string]checkCase{
		"list":                         {conf("Ciphers aes256-ctr,aes128-cbc\n"), "sshd", "Ciphers", ciphers, "fail; /etc/ssh/sshd_config:1 aes128-cbc"},
		"good list":                    {conf("Ciphers aes256-ctr,aes128-gcm@openssh.com\n"), "sshd", "Ciphers", ciphers, "pass"},
		"good list, any version":       {files{"etc/ssh/sshd_config": "Ciphers aes256-ctr\n"}, "sshd", "Ciphers", ciphers, "pass"},
		"unset, new":                   {conf(""), "sshd", "Ciphers", ciphers, "pass"},
		"unset, version not known":     {files{"usr/sbin/sshd": "x", "etc/ssh/sshd_config": ""}, "sshd", "Ciphers", ciphers, "unknown"},
		"unset, old":                   {old("", "6.6"), "sshd", "Ciphers", ciphers, "fail; /etc/ssh/sshd_config not set, which means aes128-cbc"},
		"plus":                         {conf("Ciphers +aes128-cbc\n"), "sshd", "Ciphers", ciphers, "fail; /etc/ssh/sshd_config:1 aes128-cbc"},
		"plus of an old one":           {old("Ciphers +aes256-ctr\n", "6.6"), "sshd", "Ciphers", ciphers, "fail; /etc/ssh/sshd_config not set, which means"},
		"minus":                        {conf("Ciphers -aes128-cbc,3des-cbc\n"), "sshd", "Ciphers", ciphers, "pass"},
		"minus on an old one":          {old("HostKeyAlgorithms -ssh-rsa*\n", "8.4"), "sshd", "HostKeyAlgorithms", keys, "pass"},
		"minus too little":             {old("HostKeyAlgorithms -ssh-dss\n", "8.4"), "sshd", "HostKeyAlgorithms", keys, "fail; /etc/ssh/sshd_config not set, which means ssh-rsa of OpenSSH 8.4"},
		"head":                         {conf("HostKeyAlgorithms ^ssh-rsa\n"), "sshd", "HostKeyAlgorithms", keys, "fail; /etc/ssh/sshd_config:1 ssh-rsa"},
		"rsa with sha2 is no sha1":     {conf("HostKeyAlgorithms rsa-sha2-512,ssh-ed25519\n"), "sshd", "HostKeyAlgorithms", keys, "pass"},
		"old name of a list":           {conf("PubkeyAcceptedKeyTypes ssh-rsa\n"), "sshd", "PubkeyAcceptedAlgorithms", keys, "fail; /etc/ssh/sshd_config:1 ssh-rsa"},
		"number":                       {conf("MaxAuthTries 3\n"), "sshd", "MaxAuthTries", tries, "pass"},
		"number too large":             {conf("MaxAuthTries 5\n"), "sshd", "MaxAuthTries", tries, "fail; /etc/ssh/sshd_config:1 5"},
		"number unset":                 {conf(""), "sshd", "MaxAuthTries", tries, "fail; /etc/ssh/sshd_config not set, which means 6"},
		"no number":                    {conf("MaxAuthTries many\n"), "sshd", "MaxAuthTries", tries, "fail"},
		"time":                         {conf("LoginGraceTime 1m\n"), "sshd", "LoginGraceTime", `{"min":1,"max":60,"default":"120"}`, "pass"},
		"time too long":                {conf("LoginGraceTime 1m1s\n"), "sshd", "LoginGraceTime", `{"min":1,"max":60,"default":"120"}`, "fail"},
		"no end":                       {conf("LoginGraceTime 0\n"), "sshd", "LoginGraceTime", `{"min":1,"max":60,"default":"120"}`, "fail"},
		"start:rate:full":              {conf("MaxStartups 10:30:60\n"), "sshd", "MaxStartups", `{"min":1,"max":60,"default":"10:30:100"}`, "pass"},
		"any environment":              {conf("AcceptEnv LANG LC_*\nAcceptEnv FOO *\n"), "sshd", "AcceptEnv", `{"deny":["[*]*"],"default":"none"}`, "fail; /etc/ssh/sshd_config:2 *"},
		"some environment":             {conf("AcceptEnv LANG LC_*\n"), "sshd", "AcceptEnv", `{"deny":["[*]*"],"default":"none"}`, "pass"},
		"match all is for everybody":   {conf("X11Forwarding yes\nMatch all\nX11Forwarding no\n"), "sshd", "X11Forwarding", noX, "pass"},
		"match before match all":       {conf("Match User a\nX11Forwarding yes\nMatch all\nX11Forwarding no\n"), "sshd", "X11Forwarding", noX, "fail; /etc/ssh/sshd_config:2 yes in a Match"},
		"match after match all":        {conf("Match all\nX11Forwarding no\nMatch User a\nX11Forwarding yes\n"), "sshd", "X11Forwarding", noX, "pass"},
		"first in a block counts":      {conf("Match User a\nX11Forwarding no\nX11Forwarding yes\n"), "sshd", "X11Forwarding", noX, "pass"},
		"match ends with its file":     {files{"etc/ssh/sshd_config": "Include d/*\nX11Forwarding no\n", "etc/ssh/d/a": "Match User a\n", "usr/sbin/sshd": "x"}, "sshd", "X11Forwarding", noX, "pass"},
		"include in a match":           {files{"etc/ssh/sshd_config": "Match User a\nInclude d/*\n", "etc/ssh/d/a": "X11Forwarding yes\n"}, "sshd", "X11Forwarding", noX, "fail; /etc/ssh/d/a:1 yes in a Match"},
		"include by a pattern of dirs": {files{"etc/ssh/sshd_config": "Include /etc/ssh/*/x.conf\n", "etc/ssh/d/x.conf": "X11Forwarding yes\n"}, "sshd", "X11Forwarding", noX, "fail; /etc/ssh/d/x.conf:1"},
		"command line wins":            {files{"etc/init.d/S50sshd": "#!/bin/sh\n/usr/sbin/sshd -D -oX11Forwarding=yes -p 22\n", "etc/ssh/sshd_config": "X11Forwarding no\n", "usr/sbin/sshd": "x"}, "sshd", "X11Forwarding", noX, "fail; /etc/init.d/S50sshd:2 yes"},
		"another configuration":        {files{"etc/init.d/S50sshd": "#!/bin/sh\nsshd -f /etc/sshd.conf\n", "etc/ssh/sshd_config": "X11Forwarding no\n", "etc/sshd.conf": "X11Forwarding yes\n", "usr/sbin/sshd": "x"}, "sshd", "X11Forwarding", noX, "fail; /etc/sshd.conf:1"},

		"tries":                   {files{"usr/sbin/dropbear": "x", "etc/init.d/S50": script, "etc/default/dropbear": "DROPBEAR_ARGS=\"-RT 3 -s\"\n"}, "dropbear", "arguments", dbTries, "pass"},
		"tries built in":          {files{"usr/sbin/dropbear": "x", "etc/init.d/S50": script, "etc/default/dropbear": "DROPBEAR_ARGS=\"-R\"\n"}, "dropbear", "arguments", dbTries, "fail; /etc/default/dropbear:1 -R: no -T, which means 10"},
		"tries as a value":        {files{"usr/sbin/dropbear": "x", "etc/init.d/S50": script, "etc/default/dropbear": "DROPBEAR_ARGS=\"-b -T3\"\n"}, "dropbear", "arguments", dbTries, "fail"},
		"the last tries count":    {files{"usr/sbin/dropbear": "x", "etc/init.d/S50": script, "etc/default/dropbear": "DROPBEAR_ARGS=\"-T 3 -T 30\"\n"}, "dropbear", "arguments", dbTries, "fail; /etc/default/dropbear:1 -T 3 -T 30: -T 30"},
		"tries of openwrt":        {files{"usr/sbin/dropbear": "x", "etc/config/dropbear": "config dropbear\n"}, "dropbear", "arguments", dbTries, "pass"},
		"two servers":             {files{"usr/sbin/dropbear": "x", "etc/inittab": "::respawn:/usr/sbin/dropbear -F -s\n::respawn:dropbear -F -p 2222\n"}, "dropbear", "arguments", `{"require_any":["-s"]}`, "fail; /etc/inittab:2 -F -p 2222: none of -s"},
		"openrc":                  {files{"usr/sbin/dropbear": "x", "etc/init.d/dropbear": "#!/sbin/openrc-run\ncommand=/usr/sbin/dropbear\ncommand_args=\"${DROPBEAR_OPTS}\"\n", "etc/runlevels/default/dropbear": "-> /etc/init.d/dropbear", "etc/conf.d/dropbear": "DROPBEAR_OPTS=\"-w\"\n"}, "dropbear", "arguments", `{"require_any":["-w"]}`, "pass"},
		"beside openwrt's own":    {files{"usr/sbin/dropbear": "x", "etc/config/dropbear": "config dropbear\noption PasswordAuth 0\n", "etc/rc.local": "#!/bin/sh\ndropbear -p 2222\n"}, "dropbear", "arguments", `{"require_any":["-s"]}`, "fail; /etc/rc.local:2"},
		"multi":                   {files{"usr/sbin/dropbearmulti": "x", "etc/inittab": "::respawn:/usr/sbin/dropbearmulti dropbear -F -s\n"}, "dropbear", "arguments", `{"require_any":["-s"]}`, "pass"},
		"dropbear is old":         {files{"usr/sbin/dropbear": "dropbear_prng SSH-2.0-dropbear_2019.78\n"}, "program-version", "/usr/sbin/dropbear", `{"marker":"dropbear_","min":"2020.79"}`, "fail; /usr/sbin/dropbear version 2019.78"},
		"dropbear is new":         {files{"usr/sbin/dropbear": strings.Repeat("x", 200_000) + "SSH-2.0-dropbear_2022.83"}, "program-version", "/usr/sbin/dropbear", `{"marker":"dropbear_","min":"2020.79"}`, "pass"},
		"dropbear does not say":   {files{"usr/sbin/dropbear": "dropbear_x 2022.83"}, "program-version", "/usr/sbin/dropbear", `{"marker":"dropbear_","min":"2020.79"}`, "unknown"},
		"no program":              {files{"x": ""}, "program-version", "/usr/sbin/dropbear", `{"marker":"dropbear_","min":"2020.79"}`, "not-applicable"},
		"listens everywhere":      {files{"usr/sbin/dropbear": "x", "etc/inittab": "::respawn:/usr/sbin/dropbear -F -p 22\n"}, "ssh-listen", "servers", "", "fail; /etc/inittab:1 listens on every address"},
		"listens on an address":   {files{"usr/sbin/dropbear": "x", "etc/inittab": "::respawn:/usr/sbin/dropbear -Fp 10.0.0.1:22 -p [fe80::1]:22\n"}, "ssh-listen", "servers", "", "pass"},
		"listens on an interface": {files{"usr/sbin/dropbear": "x", "etc/config/dropbear": "config dropbear\noption Interface lan\n"}, "ssh-listen", "servers", `{"allow":["lan"]}`, "pass"},
		"on another interface":    {files{"usr/sbin/dropbear": "x", "etc/config/dropbear": "config dropbear\noption Interface wan\n"}, "ssh-listen", "servers", `{"allow":["lan"]}`, "fail; /etc/config/dropbear:1 listens on wan"},
		"sshd listens":            {conf("ListenAddress 10.0.0.1\nListenAddress 0.0.0.0:22\n"), "ssh-listen", "servers", "", "fail; /etc/ssh/sshd_config:2 listens on every"},
		"sshd by default":         {conf("Port 22\n"), "ssh-listen", "servers", "", "fail; /etc/ssh/sshd_config listens on every"},
		"keys in tmp":             {files{"etc/passwd": two, "usr/sbin/sshd": "x", "etc/ssh/sshd_config": "AuthorizedKeysFile /var/keys/%u\n", "var/keys/root": edKey}, "ssh-key-paths", "accounts", "", "pass"},
		"no server for keys":      {files{"etc/passwd": two}, "ssh-key-paths", "accounts", "", "not-applicable"},
	})
}

// Whoever can write any directory above a key can exchange the key.
func TestKeyPathsLookAtEveryDirectoryAbove(t *testing.T) {
	ctx := context.Background()
	for _, name := range []string{"root/.ssh/authorized_keys", "root/.ssh", "root", "home", "opt/keys", "usr/lib/keycmd"} {
		dir := tree(t, files{"etc/passwd": "root:x:0:0::/root:/bin/sh\na:x:1:1::/home/a:/bin/sh\nb:x:2:2::/srv:/bin/false\n", "usr/sbin/sshd": "x", "root/.ssh/authorized_keys": edKey, "opt/keys/a": edKey,
			"usr/lib/keycmd": "x", "home/a/x": "", "srv/x": "", "etc/ssh/sshd_config": "AuthorizedKeysFile .ssh/authorized_keys /opt/keys/%u\nAuthorizedKeysCommand /usr/lib/keycmd %u\n"})
		must(t, os.Chmod(filepath.Join(dir, "srv"), 0o777)) // has no shell
		check := newCheck(t, "ssh-key-paths", "accounts", "")
		if v := check.Check(ctx, host(t, dir)); v.Result != probe.Pass {
			t.Fatalf("%s", brief(v))
		}
		must(t, os.Chmod(filepath.Join(dir, name), 0o757))
		h := host(t, dir)
		if v := check.Check(ctx, h); !strings.HasPrefix(brief(v), "fail; /"+name+" mode 0757") || len(v.Items) != 1 {
			t.Errorf("%s: %s", name, brief(v))
		}
		plan, err := check.Fix(ctx, h, func(string) bool { return true })
		must(t, err)
		for _, c := range plan {
			must(t, h.Apply(ctx, c))
		}
		if v := check.Check(ctx, host(t, dir)); v.Result != probe.Pass {
			t.Errorf("%s: after the fix %s", name, brief(v))
		}
	}
}

func TestSshFixes(t *testing.T) {
	const (
		ciphers = `{"deny":["*cbc*"]}`
		noPass  = `{"one_of":["no"],"default":"yes","set":"no"}`
		dbTries = `{"option":"-T","min":1,"max":4,"default":10,"value":3}`
		script  = "#!/bin/sh\n. /etc/default/dropbear\n/usr/sbin/dropbear $DROPBEAR_ARGS\n"
		noKeys  = "root:$1$a$b:0:0::/root:/bin/sh\n"
	)
	const main = "# c\nInclude /etc/ssh/sshd_config.d/*.conf\nPort 22\n"
	runFixes(t, map[string]fixCase{
		"a file of our own":     {withKey(files{"etc/ssh/sshd_config": main, "etc/ssh/sshd_config.d/50-x.conf": "Port 23\n"}), "sshd", "PasswordAuthentication", noPass, "etc/ssh/sshd_config.d/00-backstay.conf", "PasswordAuthentication no\n"},
		"our file grows":        {withKey(files{"etc/ssh/sshd_config": main, "etc/ssh/sshd_config.d/00-backstay.conf": "Port 23\n"}), "sshd", "PasswordAuthentication", noPass, "etc/ssh/sshd_config.d/00-backstay.conf", "Port 23\nPasswordAuthentication no\n"},
		"no directory":          {withKey(files{"etc/ssh/sshd_config": main}), "sshd", "PasswordAuthentication", noPass, "etc/ssh/sshd_config", "# c\nPasswordAuthentication no\nInclude /etc/ssh/sshd_config.d/*.conf\nPort 22\n"},
		"include in a match":    {withKey(files{"etc/ssh/sshd_config": "Match User a\nInclude sshd_config.d/*.conf\n", "etc/ssh/sshd_config.d/x.conf": ""}), "sshd", "PasswordAuthentication", noPass, "etc/ssh/sshd_config", "PasswordAuthentication no\nMatch User a\nInclude sshd_config.d/*.conf\n"},
		"list":                  {withKey(files{"etc/ssh/sshd_config": "Ciphers aes128-cbc,aes256-ctr\n"}), "sshd", "Ciphers", ciphers, "etc/ssh/sshd_config", "Ciphers aes256-ctr\n"},
		"plus list":             {withKey(files{"etc/ssh/sshd_config": "Ciphers +aes128-cbc,aes256-ctr\n"}), "sshd", "Ciphers", ciphers, "etc/ssh/sshd_config", "Ciphers +aes256-ctr\n"},
		"nothing left":          {withKey(files{"etc/ssh/sshd_config": "Ciphers aes128-cbc\n"}), "sshd", "Ciphers", ciphers, "", ""},
		"leave out by pattern":  {files{"usr/sbin/sshd": "OpenSSH_8.4p1", "etc/ssh/sshd_config": ""}, "sshd", "HostKeyAlgorithms", `{"deny":["ssh-rsa"]}`, "etc/ssh/sshd_config", "HostKeyAlgorithms -ssh-rsa\n"},
		"too old to leave out":  {files{"usr/sbin/sshd": "OpenSSH_7.4p1", "etc/ssh/sshd_config": ""}, "sshd", "HostKeyAlgorithms", `{"deny":["ssh-rsa"]}`, "", ""},
		"environment":           {withKey(files{"etc/ssh/sshd_config": "AcceptEnv LANG *\nAcceptEnv *\n"}), "sshd", "AcceptEnv", `{"deny":["[*]"],"default":"none"}`, "etc/ssh/sshd_config", "AcceptEnv LANG\n# disabled by backstay: AcceptEnv *\n"},
		"command line":          {withKey(files{"etc/ssh/sshd_config": "", "etc/inittab": "::respawn:/usr/sbin/sshd -D -oPasswordAuthentication=yes\n"}), "sshd", "PasswordAuthentication", noPass, "", ""},
		"no key":                {files{"etc/passwd": noKeys, "usr/sbin/sshd": "x", "etc/ssh/sshd_config": ""}, "sshd", "PasswordAuthentication", noPass, "", ""},
		"root has no key":       {files{"etc/passwd": noKeys, "usr/sbin/sshd": "x", "etc/ssh/sshd_config": "PermitRootLogin yes\n"}, "sshd", "PermitRootLogin", `{"one_of":["prohibit-password"],"default":"prohibit-password","set":"prohibit-password"}`, "", ""},
		"root is not alone":     {files{"etc/passwd": noKeys + "a:$1$a$b:1:1::/:/bin/sh\n", "usr/sbin/sshd": "x", "etc/ssh/sshd_config": "PermitRootLogin yes\n"}, "sshd", "PermitRootLogin", `{"one_of":["prohibit-password"],"default":"prohibit-password","set":"prohibit-password"}`, "etc/ssh/sshd_config", "PermitRootLogin prohibit-password\n"},
		"root's key is no help": {withKey(files{"etc/ssh/sshd_config": "PermitRootLogin yes\n"}), "sshd", "PermitRootLogin", `{"one_of":["no"],"default":"yes","set":"no"}`, "", ""},
		"dropbear without keys": {files{"etc/passwd": noKeys, "usr/sbin/dropbear": "x", "etc/init.d/S50": script, "etc/default/dropbear": "DROPBEAR_ARGS=-R\n"}, "dropbear", "arguments", `{"require_any":["-s"],"set":["-s"]}`, "", ""},
		"tries":                 {files{"usr/sbin/dropbear": "x", "etc/init.d/S50": script, "etc/default/dropbear": "DROPBEAR_ARGS=\"-RT 30 -p 22\"\n"}, "dropbear", "arguments", dbTries, "etc/default/dropbear", "DROPBEAR_ARGS=\"-T 3 -R -p 22\"\n"},
		"tries of openwrt":      {files{"usr/sbin/dropbear": "x", "etc/config/dropbear": "config dropbear\n\toption MaxAuthTries '9'\n"}, "dropbear", "arguments", dbTries, "etc/config/dropbear", "config dropbear\n\toption MaxAuthTries '3'\n"},
		"value that is a flag":  {files{"usr/sbin/dropbear": "x", "etc/init.d/S50": script, "etc/default/dropbear": "DROPBEAR_ARGS=\"-b -B -aR\"\n"}, "dropbear", "arguments", `{"deny":["-a","-B"]}`, "etc/default/dropbear", "DROPBEAR_ARGS=\"-b -B -R\"\n"},
		"in the script itself":  {files{"usr/sbin/dropbear": "x", "etc/inittab": "::respawn:dropbear -F\n"}, "dropbear", "arguments", dbTries, "", ""},
	})
}

// What runs counts where no file says how it is started, and a server that was started before the files were mended needs a
// restart, not another fix.
func TestServersThatRun(t *testing.T) {
	ctx := context.Background()
	check := newCheck(t, "dropbear", "arguments", `{"require_any":["-s"]}`)
	for name, c := range map[string]struct {
		files   files
		cmdline string
		want    probe.Result
	}{
		"by hand, bad":        {files{"usr/sbin/dropbear": "x"}, "/usr/sbin/dropbear -R ", probe.Fail},
		"by hand, good":       {files{"usr/sbin/dropbear": "x"}, "/usr/sbin/dropbear -R -s ", probe.Pass},
		"older than its file": {files{"usr/sbin/dropbear": "x", "etc/inittab": "::respawn:/usr/sbin/dropbear -F -s\n"}, "/usr/sbin/dropbear -F ", probe.RebootNeeded},
		"as its file":         {files{"usr/sbin/dropbear": "x", "etc/inittab": "::respawn:/usr/sbin/dropbear -F -s\n"}, "/usr/sbin/dropbear -F -s ", probe.Pass},
		"file is bad":         {files{"usr/sbin/dropbear": "x", "etc/inittab": "::respawn:/usr/sbin/dropbear -F\n"}, "/usr/sbin/dropbear -F -s ", probe.Fail},
		"another place":       {files{"etc/x": ""}, "/opt/dropbear -R ", probe.Fail},
	} {
		dir := tree(t, c.files)
		procTree(t, dir, nil, procEntry{pid: 1, name: "init", cmdline: "init ", exe: "/sbin/init"}, procEntry{pid: 77, ppid: 1, name: "dropbear", cmdline: c.cmdline, exe: "/usr/sbin/dropbear"})
		v := check.Check(ctx, liveHost(t, dir))
		if v.Result != c.want {
			t.Errorf("%s: %s %s", name, brief(v), v.Reason)
		}
	}
	dir := tree(t, files{"usr/sbin/sshd": "x", "etc/ssh/sshd_config": "X11Forwarding no\n"})
	procTree(t, dir, nil, procEntry{pid: 1, name: "init", cmdline: "init ", exe: "/sbin/init"},
		procEntry{pid: 80, ppid: 1, name: "sshd", cmdline: "sshd: /usr/sbin/sshd -D -o X11Forwarding=yes [listener] 0 of 10-100 startups", exe: "/usr/sbin/sshd"})
	if v := newCheck(t, "sshd", "X11Forwarding", `{"one_of":["no"],"default":"no"}`).Check(ctx, liveHost(t, dir)); !strings.HasPrefix(brief(v), "fail; /proc/80/cmdline yes") {
		t.Errorf("%s %s", brief(v), v.Reason)
	}
}
