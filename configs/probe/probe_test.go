// SPDX-License-Identifier: Apache-2.0

package probe_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/backstay/backstay/configs/probe"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// tree writes files; a text that starts with "-> " is a link.
func tree(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		p := filepath.Join(dir, name)
		must(t, os.MkdirAll(filepath.Dir(p), 0o755))
		if to, ok := strings.CutPrefix(text, "-> "); ok {
			must(t, os.Symlink(to, p))
			continue
		}
		mode := os.FileMode(0o644)
		if strings.HasPrefix(text, "#!") {
			mode = 0o755
		}
		must(t, os.WriteFile(p, []byte(text), mode))
	}
	return dir
}

func host(t testing.TB, dir string) *probe.Host {
	t.Helper()
	root, err := os.OpenRoot(dir)
	must(t, err)
	t.Cleanup(func() { root.Close() })
	return probe.NewHost(root, false)
}

func newCheck(t testing.TB, kind, target, want string) probe.Check {
	t.Helper()
	k, err := probe.Find(kind)
	must(t, err)
	c, err := k.New(target, []byte(want))
	must(t, err)
	return c
}

// brief is the result with the places and observations that decide it.
func brief(v probe.Verdict) string {
	parts := []string{string(v.Result)}
	for _, it := range v.Items {
		parts = append(parts, it.Where+" "+it.Observed)
	}
	return strings.Join(parts, "; ")
}

type files map[string]string

// Each case is a trap or a variant that a line-by-line search gets wrong. The wanted text is the beginning of brief, or
// the result alone.
func TestChecks(t *testing.T) {
	const (
		passwd = "root:x:0:0::/root:/bin/sh\nadm:x:9:9::/home/adm:/bin/sh\n"
		drop   = `{"require_any":["-s","-g","-w"],"set":["-s"]}`
		deny   = `{"deny":["telnetd"]}`
		cons   = `{"deny":["shell","autologin"]}`
		noRoot = `{"one_of":["no","prohibit-password"],"default":"prohibit-password","set":"no"}`
		hard   = `{"min":1,"set":"2"}`
		der    = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgevZzL1gdAFr8\n88hb2zvrU8zyH6x7p4pXm2h9gkYc\n"
	)
	script := "#!/bin/sh\n. /etc/default/dropbear\nstart-stop-daemon -S --exec /usr/sbin/dropbear -- $DROPBEAR_ARGS\n"
	for name, c := range map[string]struct {
		files              files
		kind, target, want string
		result             string
	}{
		"empty in shadow":            {files{"etc/passwd": passwd, "etc/shadow": "root::1:\nadm:*:1:\n"}, "empty-password", "*", "", "fail; /etc/shadow:1 empty password"},
		"empty in passwd":            {files{"etc/passwd": "root::0:0::/:/bin/sh\n"}, "empty-password", "*", "", "fail; /etc/passwd:1 empty"},
		"x without a shadow line":    {files{"etc/passwd": passwd}, "empty-password", "*", "", "pass"},
		"passwd field wins over x":   {files{"etc/passwd": "root:*:0:0::/:/bin/sh\n", "etc/shadow": "root::1:\n"}, "empty-password", "*", "", "pass"},
		"no line in passwd":          {files{"etc/passwd": passwd, "etc/shadow": "root:*:1:\nghost::1:\n"}, "empty-password", "*", "", "pass"},
		"first shadow line counts":   {files{"etc/passwd": passwd, "etc/shadow": "root::1:\nroot:*:1:\nadm:*:1\n"}, "empty-password", "*", "", "fail; /etc/shadow:1"},
		"crlf":                       {files{"etc/passwd": "root:x:0:0::/:/bin/sh\r\n", "etc/shadow": "root:\r\n"}, "empty-password", "*", "", "fail; /etc/shadow:1"},
		"no accounts":                {files{"etc/shadow": "root::1:\n"}, "empty-password", "*", "", "not-applicable"},
		"shadow is a directory":      {files{"etc/passwd": passwd, "etc/shadow/x": ""}, "empty-password", "*", "", "unknown"},
		"one account":                {files{"etc/passwd": passwd, "etc/shadow": "root::1:\nadm:*:1:\n"}, "empty-password", "adm", "", "pass"},
		"no such account":            {files{"etc/passwd": passwd}, "empty-password", "bob", "", "not-applicable"},
		"uid 00":                     {files{"etc/passwd": passwd + "toor:x:00:0::/:/bin/sh\n"}, "uid-zero", "*", "", "fail; /etc/passwd:3"},
		"descrypt":                   {files{"etc/passwd": "a:absxcfbgXtb3o:1:1::/:/bin/sh\n"}, "password-hash", "*", "", "fail; /etc/passwd:1 descrypt"},
		"yescrypt is strong":         {files{"etc/passwd": "a:$y$j9T$abc$def:1:1::/:/bin/sh\n"}, "password-hash", "*", "", "pass"},
		"locked hash":                {files{"etc/passwd": "a:!absxcfbgXtb3o:1:1::/:/bin/sh\n"}, "password-hash", "*", "", "pass"},
		"published hash":             {files{"etc/passwd": "a:absxcfbgXtb3o:1:1::/:/bin/sh\n"}, "password-dict", "*", "", "fail; /etc/passwd:1 descrypt hash that is in published"},
		"sha512 of admin":            {files{"etc/passwd": "root:$6$saltstring$fHceV9ICtFDKaXXFnb7RiJaYuNyEyWoJ8Ktgcrejn6JFd2OtH.E7Ezpt83F1/uVFqUvO2sik9QpwGkOkMuBTf/:0:0::/:/bin/sh\n"}, "password-dict", "*", "", "fail; /etc/passwd:1 sha512crypt of a default"},
		"password is the name":       {files{"etc/passwd": "admin:$1$7ujMko0v$60lBauJfeTLe2uYYdwMLT.:0:0::/:/bin/sh\n"}, "password-dict", "*", "", "fail; /etc/passwd:1 md5crypt of a default password (guess 1"},
		"password of its own":        {files{"etc/passwd": "root:$5$x$WXmsUyhlaXIrqfSzwpsr1oKYgQyhfsHMIPudk5ae/eD:0:0::/:/bin/sh\n"}, "password-dict", "*", "", "pass"},
		"rhosts of a home":           {files{"etc/passwd": passwd, "home/adm/.rhosts": "+\n"}, "file-absent", "~/.rhosts", "", "fail; /home/adm/.rhosts there"},
		"dangling link":              {files{"etc/hosts.equiv": "-> /nowhere"}, "file-absent", "/etc/hosts.equiv", "", "pass"},
		"telnetd":                    {files{"etc/inittab": "::respawn:/usr/sbin/telnetd -F\n"}, "start-program", "init", deny, "fail; /etc/inittab:1 starts telnetd"},
		"busybox telnetd":            {files{"etc/inittab": "::once:/bin/busybox telnetd\n"}, "start-program", "init", deny, "fail"},
		"in a shell":                 {files{"etc/inittab": "::respawn:/bin/sh -c 'sleep 1; exec telnetd -F'\n"}, "start-program", "init", deny, "fail"},
		"commented":                  {files{"etc/inittab": "# ::respawn:/usr/sbin/telnetd\n::sysinit:/bin/true # telnetd\n"}, "start-program", "init", deny, "pass"},
		"killed":                     {files{"etc/init.d/S1": "#!/bin/sh\nkillall telnetd; pidof telnetd || echo no telnetd\n", "etc/inittab": "::shutdown:/sbin/telnetd\n"}, "start-program", "init", deny, "pass"},
		"client":                     {files{"etc/inittab": "::once:/usr/bin/telnet 10.0.0.1\n"}, "start-program", "init", deny, "pass"},
		"script":                     {files{"etc/init.d/S50telnet": "#!/bin/sh\ncase $1 in start) telnetd -l /bin/sh ;; esac\n"}, "start-program", "init", deny, "fail; /etc/init.d/S50telnet:2"},
		"script without execute bit": {files{"etc/init.d/S50telnet": "telnetd\n", "etc/inittab": ""}, "start-program", "init", deny, "pass"},
		"nothing to look at":         {files{"etc/passwd": passwd}, "start-program", "init", deny, "unknown"},
		"shell":                      {files{"etc/inittab": "ttyS0::respawn:-/bin/sh\n"}, "console", "inittab", cons, "fail; /etc/inittab:1 a shell without login"},
		"askfirst":                   {files{"etc/inittab": "::askfirst:/bin/ash -l\n"}, "console", "inittab", cons, "fail"},
		"getty shell":                {files{"etc/inittab": "ttyS0::respawn:/sbin/getty -n -l /bin/sh 115200 ttyS0\n"}, "console", "inittab", cons, "fail"},
		"autologin":                  {files{"etc/inittab": "1:2345:respawn:/sbin/agetty --autologin root ttyS0\n"}, "console", "inittab", cons, "fail; /etc/inittab:1 logs in without"},
		"sh with a job":              {files{"etc/inittab": "::respawn:/bin/sh -c /usr/bin/app\n::respawn:/bin/sh /usr/bin/app.sh\n::ctrlaltdel:/bin/sh\n::sysinit:/bin/sh\n"}, "console", "inittab", cons, "pass"},
		"getty with login":           {files{"etc/inittab": "ttyS0::respawn:/sbin/getty -L ttyS0 115200\n"}, "console", "inittab", cons, "pass"},
		"login on a screen":          {files{"etc/inittab": "tty1::respawn:/sbin/getty 38400 tty1\n"}, "console", "inittab", `{"deny":["login"]}`, "pass"},
		"login on a line":            {files{"etc/inittab": "s0:2345:respawn:/sbin/getty -L ttyAMA0 115200\n"}, "console", "inittab", `{"deny":["login"]}`, "fail"},
		"busybox without inittab":    {files{"sbin/init": "-> /bin/busybox", "bin/busybox": "b"}, "console", "inittab", cons, "fail; /etc/inittab absent"},
		"systemd":                    {files{"sbin/init": "-> /lib/systemd/systemd", "lib/systemd/systemd": "s"}, "console", "inittab", cons, "not-applicable"},
		"inetd by number":            {files{"etc/inetd.conf": "23 stream tcp nowait root /bin/x x\n"}, "inetd", "inetd", `{"deny":["telnet"]}`, "fail; /etc/inetd.conf:1"},
		"inetd by server":            {files{"etc/inetd.conf": "2323 stream tcp nowait root /usr/sbin/in.telnetd in.telnetd\n"}, "inetd", "inetd", `{"deny":["telnet"]}`, "fail"},
		"inetd busybox":              {files{"etc/inetd.d/a": "0.0.0.0:9999 stream tcp nowait root /bin/busybox busybox telnetd -i\n"}, "inetd", "inetd", `{"deny":["telnet"]}`, "fail; /etc/inetd.d/a:1"},
		"inetd commented":            {files{"etc/inetd.conf": "#telnet stream tcp nowait root /usr/sbin/telnetd telnetd\n"}, "inetd", "inetd", `{"deny":["telnet"]}`, "pass"},
		"no inetd":                   {files{"etc/passwd": passwd}, "inetd", "inetd", `{"deny":["telnet"]}`, "not-applicable"},
		"xinetd":                     {files{"etc/xinetd.conf": "service telnet\n{\n\tserver = /usr/sbin/in.telnetd\n}\n"}, "inetd", "inetd", `{"deny":["telnet"]}`, "fail; /etc/xinetd.conf:1"},
		"sshd first value counts":    {files{"etc/ssh/sshd_config": "permitrootlogin no\nPermitRootLogin yes\n"}, "sshd", "PermitRootLogin", noRoot, "pass"},
		"sshd with equals":           {files{"etc/ssh/sshd_config": "PermitRootLogin=\"yes\"\n"}, "sshd", "PermitRootLogin", noRoot, "fail; /etc/ssh/sshd_config:1 yes"},
		"sshd comment":               {files{"etc/ssh/sshd_config": "#PermitRootLogin yes\n"}, "sshd", "PermitRootLogin", noRoot, "pass"},
		"sshd old name":              {files{"etc/ssh/sshd_config": "PermitRootLogin without-password\n"}, "sshd", "PermitRootLogin", noRoot, "pass"},
		"sshd include before":        {files{"etc/ssh/sshd_config": "Include sshd_config.d/*.conf\nPermitRootLogin no\n", "etc/ssh/sshd_config.d/a.conf": "PermitRootLogin yes\n"}, "sshd", "PermitRootLogin", noRoot, "fail; /etc/ssh/sshd_config.d/a.conf:1"},
		"sshd include after":         {files{"etc/ssh/sshd_config": "PermitRootLogin no\nInclude /etc/ssh/sshd_config.d/*.conf\n", "etc/ssh/sshd_config.d/a.conf": "PermitRootLogin yes\n"}, "sshd", "PermitRootLogin", noRoot, "pass"},
		"sshd match":                 {files{"etc/ssh/sshd_config": "PermitRootLogin no\nMatch User root\n  PermitRootLogin yes\n"}, "sshd", "PermitRootLogin", noRoot, "fail; /etc/ssh/sshd_config:3 yes in a Match block"},
		"sshd default is bad":        {files{"etc/ssh/sshd_config": ""}, "sshd", "PasswordAuthentication", `{"one_of":["no"],"default":"yes"}`, "fail; /etc/ssh/sshd_config not set, which means yes"},
		"sshd old challenge name":    {files{"etc/ssh/sshd_config": "ChallengeResponseAuthentication yes\n"}, "sshd", "KbdInteractiveAuthentication", `{"one_of":["no"],"default":"no"}`, "fail"},
		"sshd include loop":          {files{"etc/ssh/sshd_config": "Include sshd_config\n"}, "sshd", "PermitRootLogin", noRoot, "unknown"},
		"sshd without configuration": {files{"usr/sbin/sshd": "x"}, "sshd", "PermitRootLogin", noRoot, "unknown"},
		"no sshd":                    {files{"etc/passwd": passwd}, "sshd", "PermitRootLogin", noRoot, "not-applicable"},
		"dropbear built-in default":  {files{"usr/sbin/dropbear": "x", "etc/init.d/S50dropbear": script}, "dropbear", "arguments", drop, "fail; /etc/init.d/S50dropbear:3 no arguments: none of"},
		"dropbear merged flags":      {files{"usr/sbin/dropbear": "x", "etc/init.d/S50dropbear": script, "etc/default/dropbear": "DROPBEAR_ARGS='-RFsp 22'\n"}, "dropbear", "arguments", drop, "pass"},
		"dropbear value looks right": {files{"usr/sbin/dropbear": "x", "etc/init.d/S50dropbear": script, "etc/default/dropbear": "DROPBEAR_ARGS=\"-b -s -P -w\"\n"}, "dropbear", "arguments", drop, "fail"},
		"dropbear last value counts": {files{"usr/sbin/dropbear": "x", "etc/init.d/S50dropbear": script, "etc/default/dropbear": "DROPBEAR_ARGS=-s\nDROPBEAR_ARGS=-R\n#DROPBEAR_ARGS=-s\n"}, "dropbear", "arguments", drop, "fail; /etc/default/dropbear:2"},
		"dropbear unused variable":   {files{"usr/sbin/dropbear": "x", "etc/init.d/S50dropbear": script, "etc/default/dropbear": "DROPBEAR_EXTRA_ARGS=-s\n"}, "dropbear", "arguments", drop, "fail"},
		"dropbear appended":          {files{"usr/sbin/dropbear": "x", "etc/init.d/S50dropbear": script, "etc/default/dropbear": "DROPBEAR_ARGS=-s\nDROPBEAR_ARGS=\"$DROPBEAR_ARGS -R\"\n"}, "dropbear", "arguments", drop, "pass"},
		"dropbear in inittab":        {files{"usr/sbin/dropbear": "x", "etc/inittab": "::respawn:/usr/sbin/dropbear -F -g\n"}, "dropbear", "arguments", drop, "pass"},
		"dropbear of unknown origin": {files{"usr/sbin/dropbear": "x"}, "dropbear", "arguments", drop, "unknown"},
		"no dropbear":                {files{"etc/default/dropbear": "DROPBEAR_ARGS=\n"}, "dropbear", "arguments", drop, "not-applicable"},
		"uci default":                {files{"usr/sbin/dropbear": "x", "etc/config/dropbear": "config dropbear\n\toption Port '22'\n"}, "dropbear", "arguments", drop, "fail; /etc/config/dropbear:1"},
		"uci off":                    {files{"usr/sbin/dropbear": "x", "etc/config/dropbear": "config dropbear main\n\toption PasswordAuth \"off\"\n"}, "dropbear", "arguments", drop, "pass"},
		"uci second section":         {files{"usr/sbin/dropbear": "x", "etc/config/dropbear": "config dropbear\n\toption RootLogin 0\nconfig dropbear\n\toption Port 23\n"}, "dropbear", "arguments", drop, "fail; /etc/config/dropbear:3"},
		"uci disabled":               {files{"usr/sbin/dropbear": "x", "etc/config/dropbear": "config dropbear\n\toption enable '0'\n"}, "dropbear", "arguments", drop, "not-applicable"},
		"sysctl now and later":       {files{"proc/sys/kernel/kptr_restrict": "2\n", "etc/sysctl.conf": "kernel.kptr_restrict=0\n"}, "sysctl", "kernel.kptr_restrict", hard, "fail; /etc/sysctl.conf:1 0"},
		"sysctl later wins":          {files{"etc/sysctl.d/10-a.conf": "kernel/kptr_restrict = 0\n", "usr/lib/sysctl.d/20-b.conf": "-kernel.kptr_restrict=1\n", "usr/lib/systemd/systemd-sysctl": "x"}, "sysctl", "kernel.kptr_restrict", hard, "pass"},
		"sysctl hidden file":         {files{"etc/sysctl.d/10-a.conf": "#\n", "usr/lib/sysctl.d/10-a.conf": "kernel.kptr_restrict=0\n", "proc/sys/kernel/kptr_restrict": "1\n"}, "sysctl", "kernel.kptr_restrict", hard, "pass"},
		"sysctl not in an image":     {files{"etc/sysctl.conf": "# kernel.kptr_restrict = 2\n"}, "sysctl", "kernel.kptr_restrict", hard, "unknown"},
		"sysctl not built":           {files{"proc/sys/kernel/x": "1"}, "sysctl", "kernel.kptr_restrict", hard, "not-applicable"},
		"sysctl no number":           {files{"proc/sys/kernel/kptr_restrict": "yes\n"}, "sysctl", "kernel.kptr_restrict", hard, "fail"},
		"fstab later line counts":    {files{"etc/fstab": "a /tmp tmpfs nosuid,nodev 0 0\nb /tmp tmpfs defaults 0 0\n"}, "mount", "/tmp", `{"options":["nosuid"]}`, "fail; /etc/fstab:2 defaults"},
		"fstab trailing slash":       {files{"etc/fstab": "a /tmp/ tmpfs nosuid 0 0\n"}, "mount", "/tmp", `{"options":["nosuid"]}`, "pass"},
		"fstab other mount":          {files{"etc/fstab": "a /tmp2 tmpfs nosuid 0 0\n#b /tmp tmpfs nosuid 0 0\n"}, "mount", "/tmp", `{"options":["nosuid"]}`, "unknown"},
		"fstab prefix of an option":  {files{"etc/fstab": "a /tmp tmpfs nosuidx 0 0\n"}, "mount", "/tmp", `{"options":["nosuid"]}`, "fail"},
		"key":                        {files{"www/k": "x\n-----BEGIN PRIVATE KEY-----\n" + der + "-----END PRIVATE KEY-----\n"}, "secret", "/", `{"find":["key"]}`, "fail; /www/k unencrypted private key"},
		"key in json":                {files{"www/k": `{"key":"-----BEGIN EC PRIVATE KEY-----\n` + strings.ReplaceAll(der, "\n", `\n`) + `"}`}, "secret", "/", `{"find":["key"]}`, "fail"},
		"script that greps":          {files{"www/k": "#!/bin/sh\ngrep '-----BEGIN PRIVATE KEY-----' $1 && echo yes, it is a private key that is here\n"}, "secret", "/", `{"find":["key"]}`, "pass"},
		"encrypted keys":             {files{"www/k": "-----BEGIN ENCRYPTED PRIVATE KEY-----\n" + der, "www/l": "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: x\n\n" + der}, "secret", "/", `{"find":["key"]}`, "pass"},
		"certificate and public key": {files{"www/k": "-----BEGIN CERTIFICATE-----\n" + der + "-----BEGIN PUBLIC KEY-----\n" + der}, "secret", "/", `{"find":["key"]}`, "pass"},
		"skipped":                    {files{"usr/share/doc/k": "-----BEGIN PRIVATE KEY-----\n" + der, "usr/share/docs/k": "none and nothing, thirty-two bytes"}, "secret", "/usr", `{"find":["key"],"skip":["/usr/share/doc"]}`, "pass"},
		"host key":                   {files{"etc/ssh/ssh_host_rsa_key": strings.Repeat("k", 40), "etc/ssh/ssh_host_rsa_key.pub": strings.Repeat("k", 40)}, "secret", "/etc", `{"find":["ssh-host-key"]}`, "fail; /etc/ssh/ssh_host_rsa_key private"},
		"empty host key":             {files{"etc/ssh/ssh_host_rsa_key": ""}, "secret", "/etc", `{"find":["ssh-host-key"]}`, "pass"},
		"line in its section":        {files{"etc/a": "debug=1\n[x]\ndebug = 0\n[y]\ndebug=1\n"}, "file-line", "/etc/a", `{"key":"debug","sep":"=","section":"x","one_of":["0"]}`, "pass"},
		"line quoted":                {files{"etc/a": "  debug = \"0\"\n"}, "file-line", "/etc/a", `{"key":"debug","sep":"=","one_of":["0"]}`, "pass"},
		"line missing":               {files{"etc/a": "debugx=0\n"}, "file-line", "/etc/a", `{"key":"debug","sep":"=","one_of":["0"]}`, "fail; /etc/a not set"},
		"line default":               {files{"etc/a": "#debug=1\n"}, "file-line", "/etc/a", `{"key":"debug","sep":"=","one_of":["0"],"default":"0"}`, "pass"},
		"no file":                    {files{}, "file-line", "/etc/a", `{"key":"debug","sep":"=","one_of":["0"]}`, "not-applicable"},
	} {
		v := newCheck(t, c.kind, c.target, c.want).Check(context.Background(), host(t, tree(t, c.files)))
		if got := brief(v); !strings.HasPrefix(got, c.result) {
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

// withKey adds an account that has a key and a server that takes it: passwords are not switched off without.
func withKey(f files) files {
	if f["etc/passwd"] == "" {
		f["etc/passwd"] = "root:x:0:0::/root:/bin/sh\n"
	}
	f["root/.ssh/authorized_keys"], f["usr/sbin/sshd"] = edKey, "OpenSSH_9.2p1"
	return f
}

func TestFixes(t *testing.T) {
	all := func(string) bool { return true }
	drop := `{"require_any":["-s","-g","-w"],"set":["-s"],"deny":["-B"]}`
	script := "#!/bin/sh\n. /etc/default/dropbear\n/usr/sbin/dropbear $DROPBEAR_ARGS\n"
	for name, c := range map[string]struct {
		files              files
		kind, target, want string
		file, text         string // after the fix
	}{
		"uci":                 {withKey(files{"usr/sbin/dropbear": "x", "etc/config/dropbear": "# c\nconfig dropbear\n\toption PasswordAuth 'on'\n\nconfig dropbear\n\toption Port '23'\n"}), "dropbear", "arguments", drop, "etc/config/dropbear", "# c\nconfig dropbear\n\toption PasswordAuth 'off'\n\nconfig dropbear\n\toption Port '23'\n\toption PasswordAuth 'off'\n"},
		"no default file yet": {withKey(files{"usr/sbin/dropbear": "x", "etc/init.d/S50dropbear": script, "etc/default/x": ""}), "dropbear", "arguments", drop, "etc/default/dropbear", "DROPBEAR_ARGS=\"-s\"\n"},
		"single quotes":       {withKey(files{"usr/sbin/dropbear": "x", "etc/init.d/S50dropbear": script, "etc/default/dropbear": "export DROPBEAR_ARGS='-BR' ; :\n"}), "dropbear", "arguments", drop, "etc/default/dropbear", "export DROPBEAR_ARGS=\"-s -R\" ; :\n"},
		"no quotes":           {withKey(files{"usr/sbin/dropbear": "x", "etc/init.d/S50dropbear": script, "etc/default/dropbear": "DROPBEAR_ARGS=-B # x"}), "dropbear", "arguments", drop, "etc/default/dropbear", "DROPBEAR_ARGS=\"-s\" # x"},
		"sshd before include": {withKey(files{"etc/ssh/sshd_config": "# c\n\nInclude sshd_config.d/*.conf\nUsePAM no\n"}), "sshd", "PasswordAuthentication", `{"one_of":["no"],"default":"yes","set":"no"}`, "etc/ssh/sshd_config", "# c\n\nPasswordAuthentication no\nInclude sshd_config.d/*.conf\nUsePAM no\n"},
		"sshd in an include":  {withKey(files{"etc/ssh/sshd_config": "Include sshd_config.d/*.conf\n", "etc/ssh/sshd_config.d/a.conf": "  PasswordAuthentication yes # x\nX y\n"}), "sshd", "PasswordAuthentication", `{"one_of":["no"],"default":"yes","set":"no"}`, "etc/ssh/sshd_config.d/a.conf", "  PasswordAuthentication no\nX y\n"},
		"line in a section":   {files{"etc/a": "[x]\na=1\n\n[y]\nb=2\n"}, "file-line", "/etc/a", `{"key":"debug","sep":"=","section":"x","one_of":["0"],"set":"0"}`, "etc/a", "[x]\na=1\ndebug=0\n\n[y]\nb=2\n"},
		"line new section":    {files{"etc/a": "a=1"}, "file-line", "/etc/a", `{"key":"debug","sep":" = ","section":"x","one_of":["0"],"set":"0"}`, "etc/a", "a=1\n[x]\ndebug = 0\n"},
		"crlf stays":          {files{"etc/a": "debug = 1\r\nb=2\r\n"}, "file-line", "/etc/a", `{"key":"debug","sep":"=","one_of":["0"],"set":"0"}`, "etc/a", "debug = 0\r\nb=2\r\n"},
		"sysctl drop-in":      {files{"etc/sysctl.d/a.conf": "# x\n", "proc/sys/kernel/x": "0\n"}, "sysctl", "kernel.x", `{"min":1,"set":"1"}`, "etc/sysctl.d/zz-backstay.conf", "kernel.x = 1\n"},
		"sysctl in place":     {files{"etc/sysctl.d/a.conf": "kernel/x=0 \n#e\n"}, "sysctl", "kernel.x", `{"min":1,"set":"1"}`, "etc/sysctl.d/a.conf", "kernel/x= 1\n#e\n"},
		"fstab opposite":      {files{"etc/fstab": "a  /tmp\ttmpfs  suid,exec,dev  0 0 # c\n"}, "mount", "/tmp", `{"options":["nosuid","nodev"]}`, "etc/fstab", "a  /tmp\ttmpfs  exec,nosuid,nodev  0 0 # c\n"},
		"passwd field":        {files{"etc/passwd": "root::0:0:a:b\nx::1\n"}, "empty-password", "root", "", "etc/passwd", "root:*:0:0:a:b\nx::1\n"},
		"short shadow line":   {files{"etc/passwd": "root:x:0:0::/:\na:x:1:1::/:\n", "etc/shadow": "a:$1$a$b\nroot:"}, "empty-password", "*", "", "etc/shadow", "a:$1$a$b\nroot:*"},
		"telnet script":       {files{"etc/init.d/S50telnet": "#!/bin/sh\ntelnetd\n"}, "start-program", "init", `{"deny":["telnetd"]}`, "etc/init.d/S50telnet", "#!/bin/sh\ntelnetd\n"},
	} {
		dir := tree(t, c.files)
		h := host(t, dir)
		check := newCheck(t, c.kind, c.target, c.want)
		ctx := context.Background()
		plan, err := check.Fix(ctx, h, all)
		must(t, err)
		if len(plan) == 0 {
			t.Errorf("%s: nothing is planned", name)
		}
		// A pretended plan looks like an applied one.
		dry := host(t, dir)
		for _, ch := range plan {
			dry.Pretend(ch)
		}
		if v := check.Check(ctx, dry); v.Result == probe.Fail {
			t.Errorf("%s: pretended: %s", name, brief(v))
		}
		for _, ch := range plan {
			if !h.Ready(ctx, ch) || h.Holds(ctx, ch) {
				t.Errorf("%s: %s %s is not ready", name, ch.Op, ch.Path)
			}
			must(t, h.Apply(ctx, ch))
			if !h.Holds(ctx, ch) {
				t.Errorf("%s: %s %s does not hold", name, ch.Op, ch.Path)
			}
		}
		if got, err := os.ReadFile(filepath.Join(dir, c.file)); err != nil || string(got) != c.text {
			t.Errorf("%s: %s is %q (%v), want %q", name, c.file, got, err, c.text)
		}
		if v := check.Check(ctx, h); v.Result == probe.Fail {
			t.Errorf("%s: after the fix: %s", name, brief(v))
		}
		if again, _ := check.Fix(ctx, h, all); len(again) > 0 {
			t.Errorf("%s: a second fix plans %v", name, again)
		}
		left, _ := filepath.Glob(filepath.Join(dir, filepath.Dir(c.file), ".*"))
		if len(left) > 0 {
			t.Errorf("%s: temporary files stay: %q", name, left)
		}
		for i := len(plan) - 1; i >= 0; i-- {
			must(t, h.Apply(ctx, plan[i].Inverse()))
		}
		for f, text := range c.files {
			if got, err := os.ReadFile(filepath.Join(dir, f)); err != nil || string(got) != text {
				t.Errorf("%s: after the inverse %s is %q", name, f, got)
			}
		}
	}
}

func TestApplyRefusesWhatChangedSinceThePlan(t *testing.T) {
	dir := tree(t, files{"a": "one\n", "b": "x", "etc/x": "y", "dir/x": "y"})
	h := host(t, dir)
	ctx := context.Background()
	must(t, os.Symlink("b", filepath.Join(dir, "link")))
	must(t, os.Symlink("dir", filepath.Join(dir, "up")))
	for name, c := range map[string]probe.Change{
		"other bytes":      {Op: probe.Edit, Path: "/a", Before: []byte("two\n"), After: []byte("3")},
		"already there":    {Op: probe.Create, Path: "/b", After: []byte("3"), Mode: 0o644},
		"other mode":       {Op: probe.Chmod, Path: "/a", OldMode: 0o777, Mode: 0o644},
		"remove of other":  {Op: probe.Remove, Path: "/a", Before: []byte("two\n")},
		"kernel":           {Op: probe.Kernel, Path: "/a", Before: []byte("2"), After: []byte("3")},
		"through a link":   {Op: probe.Edit, Path: "/link", Before: []byte("x"), After: []byte("3")},
		"parent is a link": {Op: probe.Edit, Path: "/up/x", Before: []byte("y"), After: []byte("3")},
		"gone":             {Op: probe.Edit, Path: "/nowhere", Before: []byte("x"), After: []byte("3")},
		"outside":          {Op: probe.Create, Path: "/../out", After: []byte("3")},
		"a directory":      {Op: probe.Edit, Path: "/dir", After: []byte("3")},
		"unknown":          {Op: "exec", Path: "/a"},
	} {
		if err := h.Apply(ctx, c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	for f, want := range map[string]string{"a": "one\n", "b": "x", "dir/x": "y"} {
		if got, err := os.ReadFile(filepath.Join(dir, f)); err != nil || string(got) != want {
			t.Errorf("%s is %q", f, got)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "../out")); !errors.Is(err, os.ErrNotExist) {
		t.Error("written outside")
	}
}

// A type is looked at before the open and after it: opening some devices has effects, and the tree may change in between.
func TestOnlyRegularFilesAreRead(t *testing.T) {
	dir := tree(t, files{"dir/x": "y"})
	must(t, syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o666))
	f, err := os.Create(filepath.Join(dir, "sparse"))
	must(t, err)
	must(t, f.Truncate(10<<30))
	must(t, f.Close())
	h := host(t, dir)
	for name, want := range map[string]error{"/dir": probe.ErrNotRegular, "/fifo": probe.ErrNotRegular, "/sparse": probe.ErrTooLarge, "/none": os.ErrNotExist} {
		if _, err := h.Read(context.Background(), name); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
	if os.Getuid() != 0 {
		return
	}
	// Opening a watchdog would arm it, so a device is not even opened: this one has no driver and an open would say ENXIO.
	must(t, syscall.Mknod(filepath.Join(dir, "device"), syscall.S_IFCHR|0o666, 60<<8|1))
	if data, err := h.Read(context.Background(), "/device"); !errors.Is(err, probe.ErrNotRegular) {
		t.Errorf("a device: %q %v", data, err)
	}
}

func TestResolve(t *testing.T) {
	dir := tree(t, files{"a/b/c": "x", "abs": "-> /a/b", "up": "-> ../../../a", "l1": "-> l2", "l2": "-> l1", "a/back": "-> ../abs/c", "dead": "-> /a/none"})
	h := host(t, dir)
	for in, want := range map[string]string{
		"/a/b/c": "/a/b/c", "abs/c": "/a/b/c", "/up/b/c": "/a/b/c", "/a/back": "/a/b/c", "/../../a/./b//c": "/a/b/c", "/abs/../b/c": "/a/b/c", "/": "/",
		"/l1": "too many symbolic links", "/none/x": "file does not exist", "/a/b/c/d": "/a/b/c is not a directory: file does not exist",
	} {
		got, err := h.Resolve(in)
		if err != nil {
			got = err.Error()
		}
		if got != want && (err == nil || !strings.HasSuffix(got, strings.Replace(want, "file does not exist", "no such file or directory", 1)) && !strings.HasSuffix(got, want)) {
			t.Errorf("%s is %q, want %q", in, got, want)
		}
	}
	if p, err := h.Resolve("/dead"); p != "/a/none" || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a dead link is %q, %v", p, err)
	}
	if _, err := h.Resolve("/" + strings.Repeat("a/", 3000)); err == nil {
		t.Error("an endless path is resolved")
	}
}

// Vectors made with openssl passwd and the C library's crypt.
func TestVerifier(t *testing.T) {
	for hash, password := range map[string]string{
		"$1$7ujMko0v$60lBauJfeTLe2uYYdwMLT.":                        "admin",
		"$1$$qRPK7m23GJusamGpoGLby/":                                "",
		"$1$$oCLuEVgI1iAqOA8pwkzAg1":                                "root",
		"$apr1$abcdefgh$mMZnMi5KMcUTRCidnJ3Px0":                     "admin",
		"$5$saltstring$P.bW6F1RP1HA7OPm5SRVZIGro4q5xJxWEWq0LwuJu6.": "admin",
		"$6$saltstring$fHceV9ICtFDKaXXFnb7RiJaYuNyEyWoJ8Ktgcrejn6JFd2OtH.E7Ezpt83F1/uVFqUvO2sik9QpwGkOkMuBTf/":       "admin",
		"$6$abcdefghijklmnop$htKV.4ryWxeOWMsgvcMS3Xl7tYQwU3YWmO45wV4RwP4VJwCiL031i6azRM690EEvB4oUMSh9z4g6Rn.QmqwoX/": strings.Repeat("a", 40),
		"$5$x$WXmsUyhlaXIrqfSzwpsr1oKYgQyhfsHMIPudk5ae/eD":                                                           strings.Repeat("b", 33),
		"$1$ab$yklxk/TsRCWniXwIAVbMF0": strings.Repeat("c", 20),
		"$6$rounds=1000$saltsalt$/P1WCVaM8pp5FZxHmOOtBsT19vxcDX6OE.6omlO4UZ4mvzeRfa4ngRUxwi93yFLd7rxb1uJiaTyCGVDLIRsce0": "admin",
		"$5$saltsalt$09agN5RZ2meWdEdnEusqsq5G7RwwghB8jCKoWWADxW/":                                                        "",
	} {
		ok := probe.Verifier(hash)
		if ok == nil || !ok(password) {
			t.Errorf("%s is not %q", hash, password)
		}
		if ok != nil && ok(password+"x") {
			t.Errorf("%s is also %qx", hash, password)
		}
	}
	for _, hash := range []string{"", "x", "*", "$1$", "$1$ab", "$6$rounds=99999999$a$b", "$6$rounds=x$a$b", "$6$rounds=5000", "$y$j9T$a$b", "$2b$10$x", "$2b$99$abcdefghijklmnopqrstuu/ETYr/khvH.poOJBsjjZk.DM9FaNihe", "_J9..ra", "a!sxcfbgXtb3o", "$7$a$b"} {
		if probe.Verifier(hash) != nil {
			t.Errorf("%q can be tested", hash)
		}
	}
}

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{"/etc/x y": "/etc/x y", "a\x1b[31m": `"a\x1b[31m"`, "b\xff": `"b\xff"`, "é": `"\u00e9"`, strings.Repeat("a", 300): strings.Repeat("a", 200) + "..."} {
		if got := probe.Printable(in); got != want {
			t.Errorf("%q is %q, want %q", in, got, want)
		}
	}
}

// Accounts whose home is /dev/null are usual; nothing can be in there, and it hides nothing of the accounts after it.
func TestAHomeThatIsNoDirectoryHoldsNothing(t *testing.T) {
	files := map[string]string{"etc/passwd": "guest:x:405:100:guest:/dev/null:/sbin/nologin\nloop:x:406:100::/loop:/bin/sh\nadm:x:1000:100::/home/adm:/bin/sh\n", "dev/null": "", "etc/x": "", "home/adm/x": ""}
	c := newCheck(t, "file-absent", "/etc/hosts.equiv", `{"also":["~/.rhosts"]}`)
	if v := c.Check(context.Background(), host(t, tree(t, files))); v.Result != probe.Pass {
		t.Errorf("a home in a file: %s %s %v", v.Result, v.Reason, v.Items)
	}
	files["loop"] = "-> loop"
	if v := c.Check(context.Background(), host(t, tree(t, files))); v.Result != probe.Unknown {
		t.Errorf("a home that cannot be read: %s %s", v.Result, v.Reason)
	}
	files["home/adm/.rhosts"] = "+ +"
	if v := c.Check(context.Background(), host(t, tree(t, files))); v.Result != probe.Fail || v.Items[0].Subject != "/home/adm/.rhosts" {
		t.Errorf("a trust file behind a home that cannot be read: %s %s %v", v.Result, v.Reason, v.Items)
	}
}
