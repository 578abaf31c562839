// SPDX-License-Identifier: Apache-2.0

package probe_test

import (
	"testing"

	"github.com/backstay/backstay/configs/probe"
)

func FuzzAccountKind(f *testing.F) {
	fuzzFile(f, "etc/passwd", "account", "hash-in-passwd", "", files{"etc/shadow": "b:*:1\n"},
		"a:$1$7ujMko0v$60lBauJfeTLe2uYYdwMLT.:1:1::/:/bin/sh\n", "b:abOV.DfJmdnYw:0:0\nb:abOV.DfJmdnYw:0:0\n", "+::::\n:_J9..rasmVg5xP995t1o::\n")
}

func FuzzServiceShell(f *testing.F) {
	fuzzFile(f, "etc/passwd", "account", "service-shell", "", files{"bin/false": "", "etc/shells": "/opt/x\n"},
		"w:x:33:33::/:/bin/sh\nroot:$1$a$b:0:0::/:/bin/sh\n", "w:x:1:1", "w:$1$a$b:1:1::/:\n", "w:x:1:1::/:/opt/x:y:z\n")
}

func FuzzFirstLogin(f *testing.F) {
	fuzzFile(f, "etc/shadow", "account", "first-login", "", files{"etc/passwd": "a:x:1:1::/:/bin/sh\nb:x:2:2::/:\n"},
		"a:$1$a$b:19000:0\nb:$6$a$b\n", "a:$1$a$b", "a:$1$a$b:0\na:$1$a$b:1\n")
}

func FuzzNis(f *testing.F) {
	fuzzFile(f, "etc/group", "account", "nis", "", files{"etc/passwd": "a:x:1:1::/:/bin/sh\n"}, "+:::\na:x:1:\n", "+", "\n+\r\n", "a\n+b")
}

func FuzzUnique(f *testing.F) {
	fuzzFile(f, "etc/passwd", "account", "unique", "", nil, "a:x:1:1\na:x:01:1\n", "::\n::\n", "a:x:+1\nb:x:1\n")
}

func FuzzSecuretty(f *testing.F) {
	fuzzFile(f, "etc/securetty", "account", "securetty", "", nil, "pts/0\n", " /dev/ttyp1", "#pts/0\r\n")
}

func FuzzSudoers(f *testing.F) {
	fuzzFile(f, "etc/sudoers", "privilege", "sudo", "", files{"usr/bin/sudo": "x", "etc/sudoers.d/a": "Cmnd_Alias X=/bin/sh\n"},
		"a ALL=(ALL) NOPASSWD: ALL\n", "Defaults !authenticate\nDefaults:a a, !authenticate\n", "@includedir /etc/sudoers.d\na ALL=\\\nNOPASSWD:X\n", "Cmnd_Alias A = B : B = A\na b=NOPASSWD:A", "NOPASSWD", "a =NOPASSWD :/x\n")
}

func FuzzDoas(f *testing.F) {
	fuzzFile(f, "etc/doas.conf", "privilege", "doas", "", files{"usr/bin/doas": "x"},
		"permit nopass :wheel\n", "permit setenv { A=b } nopass a cmd /bin/x args y\n", "permit nopass \\\n a cmd \"x\n", "permit nopass")
}

func FuzzPamBypass(f *testing.F) {
	fuzzFile(f, "etc/pam.d/login", "pam", "bypass", "", files{"etc/pam.d/x": "auth sufficient pam_permit.so\n"},
		"auth sufficient pam_permit.so\nauth required pam_unix.so\n", "@include x\nauth required pam_unix.so\n", "auth [success=done\ndefault=ignore] a\n", "auth include login\n", "-auth [ ] a b")
}

func FuzzPamNullok(f *testing.F) {
	fuzzFile(f, "etc/pam.d/sshd", "pam", "nullok", "", nil, "auth required pam_unix.so nullok\n", "auth required /lib/pam_unix.so a nullok nullok#nullok", "auth required nullok nullok\n", "AUTH\tsufficient\tx\tnullok\r\n")
}

func FuzzAuthorizedKeys(f *testing.F) {
	fuzzFile(f, "root/.ssh/authorized_keys", "authorized-keys", "accounts", "", files{"etc/passwd": "root:x:0:0::/root:/bin/sh\n"},
		edKey, `command="a \" b" `+edKey, "ssh-rsa AAAA\n", "\"\"\" ssh-rsa AAAAAAAAAAAAAAAAAAAAAAAA=\n")
}

func FuzzStoredLogin(f *testing.F) {
	fuzzFile(f, "etc/app.conf", "stored-login", "accounts", "", files{"etc/passwd": "root:x:0:0::/root:/bin/sh\n"},
		"url=http://a:b@c\n", "://:@\n://://a:b@", "x\x00http://a:b@c", "a://b:c@d@e:f\n")
}

func FuzzNetrc(f *testing.F) {
	fuzzFile(f, "root/.netrc", "stored-login", "accounts", "", files{"etc/passwd": "root:x:0:0::/root:/bin/sh\n"}, "machine a login b password c\n", "password\n#\npassword", "macdef init\n")
}

func FuzzSshdAlgorithms(f *testing.F) {
	fuzzFile(f, "etc/ssh/sshd_config", "sshd", "Ciphers", `{"deny":["*cbc*","3des*"]}`, files{"usr/sbin/sshd": "OpenSSH_6.6p1"},
		"Ciphers aes128-cbc,aes256-ctr\n", "Ciphers +x\n", "Ciphers=\"-*\"\n", "Match all\nCiphers ^3des-cbc\n", "Ciphers ,,\n", "Ciphers \"\"\n", "Include sshd_config\n")
}

func FuzzSshdInclude(f *testing.F) {
	fuzzFile(f, "etc/ssh/sshd_config.d/a.conf", "sshd", "X11Forwarding", `{"one_of":["no"],"default":"yes","set":"no"}`,
		files{"usr/sbin/sshd": "OpenSSH_9.2p1", "etc/ssh/sshd_config": "Include /etc/ssh/sshd_config.d/*.conf\nMatch User a\nInclude sshd_config.d/*\n"},
		"X11Forwarding yes\n", "Match all\nX11Forwarding = yes # c\nX11Forwarding yes", "\\\n'a\nx11forwarding 'yes'\n", "Include /etc/[\n", "Include */*/*\n")
}

func FuzzSshdNumber(f *testing.F) {
	fuzzFile(f, "etc/ssh/sshd_config", "sshd", "LoginGraceTime", `{"min":1,"max":60,"default":"120","set":"60"}`, files{"usr/sbin/sshd": "OpenSSH_9.2p1"},
		"LoginGraceTime 1h30m\n", "LoginGraceTime 99999999999999999999\n", "LoginGraceTime m:\n", "LoginGraceTime 1::1s\n")
}

func FuzzAcceptEnv(f *testing.F) {
	fuzzFile(f, "etc/ssh/sshd_config", "sshd", "AcceptEnv", `{"deny":["[*]*","LD_*"],"default":"none"}`, files{"usr/sbin/sshd": "OpenSSH_9.2p1"},
		"AcceptEnv LANG *\nAcceptEnv LD_X\n", "Match all\nAcceptEnv *\nMatch User a\nAcceptEnv a \"b *\"\n", "AcceptEnv LD_A \"b c\"\n")
}

func FuzzDropbearOption(f *testing.F) {
	fuzzFile(f, "etc/default/dropbear", "dropbear", "arguments", `{"option":"-T","min":1,"max":4,"default":10,"value":3}`,
		files{"usr/sbin/dropbear": "x", "etc/init.d/S50": "#!/bin/sh\n. /etc/default/dropbear\ndropbear $DROPBEAR_ARGS\n"},
		"DROPBEAR_ARGS=\"-RT 30\"\n", "DROPBEAR_ARGS=-T\n", "DROPBEAR_ARGS='-T3 -b -T'\n", "DROPBEAR_ARGS=\"-T 30\nexport DROPBEAR_ARGS=\"$DROPBEAR_ARGS -p T\"\n")
}

func FuzzSshListen(f *testing.F) {
	fuzzFile(f, "etc/config/dropbear", "ssh-listen", "servers", "", files{"usr/sbin/dropbear": "x"}, "config dropbear\noption Port '[::]:22'\n", "config dropbear\noption Interface x\noption Port 1:2:3\n")
}

func FuzzVersion(f *testing.F) {
	fuzzFile(f, "usr/sbin/dropbear", "program-version", "/usr/sbin/dropbear", `{"marker":"dropbear_","min":"2020.79"}`, nil, "dropbear_2019.78", "dropbear_dropbear_2022.83x", "dropbear_99999999999999999.1", "dropbear_...")
}

func FuzzLoginText(f *testing.F) {
	for _, s := range []string{"a=\"b'c\\", "permit nopass setenv { a", "a b=(c) NOPASSWD:d, \\", "http://a:b@c", "auth [a b", "config x 'y", "-T3 -p [::]:1", "abOV.DfJmdnYw", "_J9..rasmVg5xP995t1o", edKey, "A=\"", "1h2m:3"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) { probe.ReadLoginText(data) })
}
