// SPDX-License-Identifier: Apache-2.0

package probe_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/backstay/backstay/configs/probe"
)

// fuzzFile feeds bytes as one system file to a check and then to its fix. Whatever the bytes: the check gives one of the
// four results with its evidence, and a fix that plans something can be pretended, does what it says, and plans nothing
// the second time unless the check still fails.
func fuzzFile(f *testing.F, name, kind, target, want string, others files, seeds ...string) {
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	dir := tree(f, others)
	must(f, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
	root, err := os.OpenRoot(dir)
	must(f, err)
	f.Cleanup(func() { root.Close() })
	check := newCheck(f, kind, target, want)
	f.Fuzz(func(t *testing.T, data []byte) {
		must(t, os.WriteFile(filepath.Join(dir, name), data, 0o644))
		h := probe.NewHost(root, false)
		ctx := context.Background()
		v := check.Check(ctx, h)
		switch {
		case v.Result == probe.Pass && len(v.Inspected) == 0, v.Result == probe.Fail && len(v.Items) == 0,
			(v.Result == probe.Unknown || v.Result == probe.NotApplicable) && v.Reason == "":
			t.Fatalf("%+v", v)
		}
		plan, err := check.Fix(ctx, h, func(string) bool { return true })
		if v.Result == probe.Pass && len(plan) > 0 {
			t.Fatalf("passes, and a fix plans %+v", plan)
		}
		for _, c := range plan {
			if !h.Ready(ctx, c) {
				t.Fatalf("not ready: %+v", c)
			}
			h.Pretend(c)
			if !h.Holds(ctx, c) {
				t.Fatalf("does not hold: %+v", c)
			}
		}
		if after := check.Check(ctx, h); err == nil && v.Result == probe.Fail && after.Result != probe.Pass {
			t.Fatalf("%q: the fix left %+v", data, after)
		}
	})
}

func FuzzPasswd(f *testing.F) {
	fuzzFile(f, "etc/passwd", "empty-password", "*", "", nil,
		"root::0:0:root:/root:/bin/sh\n", "root:x:0:0::/:\r\n+::::::\n-x\n#c\n", ":\n::\n", "a", "root::0\nroot::0\n")
}

func FuzzShadow(f *testing.F) {
	fuzzFile(f, "etc/shadow", "empty-password", "*", "", files{"etc/passwd": "root:x:0:0::/:/bin/sh\nadmin:x:1:1::/:/bin/sh\n"},
		"root::19000:0:99999:7:::\nadmin:$1$a$b:1:\n", "root:\nroot::\n", "root", "admin:!:\r\n")
}

func FuzzPasswordDict(f *testing.F) {
	for _, s := range []string{"$1$7ujMko0v$60lBauJfeTLe2uYYdwMLT.", "$5$rounds=1000$a$b", "$6$$", "$apr1$$", "absxcfbgXtb3o", "_", "$6$rounds=-1$a$b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, field string) {
		probe.SchemeOf(field)
		if ok := probe.Verifier(field); ok != nil {
			ok("")
			ok("admin")
		}
	})
}

func FuzzSshd(f *testing.F) {
	fuzzFile(f, "etc/ssh/sshd_config", "sshd", "PermitRootLogin", `{"one_of":["no"],"default":"prohibit-password","set":"no"}`, withKey(files{"etc/passwd": "root:x:0:0::/root:/bin/sh\nme:x:1:1::/root:/bin/sh\n"}),
		"PermitRootLogin yes\n", "# c\nMatch User x\n\tPermitRootLogin=yes\n", "permitrootlogin \"a b\" c # d\r\n", "Include x\n", "Match\n", "\"", "PermitRootLogin \"\"\n")
}

func FuzzInittab(f *testing.F) {
	fuzzFile(f, "etc/inittab", "start-program", "init", `{"deny":["telnetd"]}`, nil,
		"::respawn:/sbin/telnetd -F\n", "a:b:c\n", "::once:sh -c 'telnetd;telnetd'", "#\n:::\n", "::wait:\xff`telnetd`\r\n")
}

func FuzzConsole(f *testing.F) {
	fuzzFile(f, "etc/inittab", "console", "inittab", `{"deny":["shell","autologin","login"]}`, nil,
		"ttyS0::respawn:-/bin/sh\n", "::askfirst:/bin/login -f root\n", "1::respawn:/sbin/getty -l", ":::\n::once: \n")
}

func FuzzInetd(f *testing.F) {
	fuzzFile(f, "etc/inetd.conf", "inetd", "inetd", `{"deny":["telnet","ftp"]}`, nil,
		"telnet stream tcp nowait root /usr/sbin/telnetd telnetd\n", "*:21 a b c d e f g\n", "#\n \t\n", "a b c d e busybox busybox telnetd")
}

func FuzzFstab(f *testing.F) {
	fuzzFile(f, "etc/fstab", "mount", "/tmp", `{"options":["nosuid","nodev"]}`, nil,
		"tmpfs /tmp tmpfs defaults 0 0\n", "a /tmp b suid,dev", "a /tmp\\040 b c\n", "\t/tmp\n", "a\x00b /tmp c ,,\n")
}

func FuzzSysctl(f *testing.F) {
	fuzzFile(f, "etc/sysctl.conf", "sysctl", "kernel.kptr_restrict", `{"min":1,"set":"2"}`, files{"usr/lib/systemd/systemd-sysctl": "x"},
		"kernel.kptr_restrict = 0\n", "-kernel/kptr_restrict=0 # x\n", "; c\nkernel.kptr_restrict\n", "=\n==\n", "kernel.kptr_restrict = 99999999999999999999")
}

func FuzzDropbear(f *testing.F) {
	fuzzFile(f, "etc/default/dropbear", "dropbear", "arguments", `{"require_any":["-s","-w"],"deny":["-B"],"set":["-s"]}`,
		withKey(files{"usr/sbin/dropbear": "x", "etc/init.d/S50": "#!/bin/sh\n. /etc/default/dropbear\ndropbear $DROPBEAR_ARGS\n"}),
		"DROPBEAR_ARGS=\"-RB -p 22\"\n", "export DROPBEAR_ARGS='-b -s'", "DROPBEAR_ARGS=-B;x\n", "DROPBEAR_ARGS=\"\n", "DROPBEAR_ARGS=\"$DROPBEAR_ARGS -B\"\n")
}

func FuzzUCI(f *testing.F) {
	fuzzFile(f, "etc/config/dropbear", "dropbear", "arguments", `{"require_any":["-s","-w"],"set":["-s"]}`, withKey(files{"usr/sbin/dropbear": "x"}),
		"config dropbear\n\toption PasswordAuth 'on'\n", "config dropbear 'a b'\noption RootLogin 0\nconfig x\n", "option a b\nconfig", "config dropbear\noption PasswordAuth \"x\n")
}

func FuzzFileLine(f *testing.F) {
	fuzzFile(f, "etc/app.conf", "file-line", "/etc/app.conf", `{"key":"debug","sep":"=","section":"log","one_of":["0"],"set":"0"}`, nil,
		"[log]\ndebug=1\n", "debug=1\n[log]\n[x]\ndebug=0", "[log]\r\n debug = \"1\"\r\n", "[log]")
}
