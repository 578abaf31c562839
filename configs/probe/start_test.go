// SPDX-License-Identifier: Apache-2.0

package probe_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/backstay/backstay/configs/probe"
)

// Each case is a start script with traps; want is the commands it starts, in order.
func TestScriptCommands(t *testing.T) {
	for name, c := range map[string]struct{ src, want string }{
		"plain":               {"telnetd -l /bin/sh\n", "telnetd -l /bin/sh"},
		"comment":             {"# telnetd\nfoo # telnetd\nbar a#b\n", "foo|bar a#b"},
		"quotes":              {`echo "a b" 'c;d' e\ f`, "echo a b c;d e f"},
		"list":                {"a && b || c; d & e | f", "a|b|c|d|e|f"},
		"continued":           {"telnetd \\\n -F\n", "telnetd -F"},
		"variable":            {"D=/usr/sbin/telnetd\nA=\"-F -l /bin/sh\"\n$D $A\n", "/usr/sbin/telnetd -F -l /bin/sh"},
		"variable in quotes":  {"P='a b'\nx \"$P\" ${P}c\n", "x a b a bc"},
		"default of variable": {"${CMD:-telnetd} -F\n", "telnetd -F"},
		"unknown variable":    {"$CMD -F\n", "$CMD -F"},
		"here-document":       {"cat > /etc/x <<EOF\ntelnetd\nEOF\nfoo\n", "cat|foo"},
		"quoted delimiter":    {": <<'END'\ntelnetd\nEND\nfoo\n", ":|foo"},
		"exit":                {"foo\nexit 0\ntelnetd\n", "foo|exit 0"},
		"exit in if":          {"if x; then exit 1; fi\nfoo\n", "x|exit 1|foo"},
		"exit after and":      {"[ -x /x ] || exit 0\nfoo\n", "[ -x /x ]|exit 0|foo"},
		"if false":            {"if false; then telnetd; else foo; fi\nbar\n", "foo|bar"},
		"or false":            {"if x; then y || false; telnetd; fi\n", "x|y|false|telnetd"},
		"case":                {"case \"$1\" in\nstart) foo ;;\nstop) telnetd ;;\nstatus|stop) telnetd ;;\n*) echo usage; exit 1 ;;\nesac\nbar\n", "foo|echo usage|exit 1|bar"},
		"case on one line":    {"case $1 in start|restart) foo;; esac", "foo"},
		"function":            {"f() {\n\ttelnetd\n}\nfoo\n", "f: telnetd|foo"},
		"function of bash":    {"function f {\n telnetd\n}\nfoo\n", "f: telnetd|foo"},
		"stop function":       {"stop() {\n telnetd\n}\nstart() { foo; }\n", "start: foo"},
		"loop":                {"for i in a b; do foo $i; done\nbar\n", "for i in a b|foo $i|bar"},
		"while":               {"while true; do telnetd; sleep 1; done\nfoo\n", "true|telnetd|sleep 1|foo"},
		"substitution":        {"A=$(pidof telnetd)\necho $(date) telnetd\n", "pidof telnetd|date|echo $() telnetd"},
		"nested substitution": {"a \"$(b \"$(c d)\" e)\" f\ng\n", "c d|b $() e|a $() f|g"},
		"old substitution":    {"kill `cat /x` telnetd\n", "cat /x|kill $() telnetd"},
		"subshell":            {"(cd / && foo) &\nbar\n", "cd /|foo|bar"},
		"redirections":        {"foo >/dev/null 2>&1 <x\nbar &>/tmp/l\n", "foo|bar"},
		"export":              {"export A=1\nexport A\nfoo $A\n", "export A|foo 1"},
		"crlf":                {"foo\r\nbar\r\n", "foo|bar"},
		"doubling":            {"A=aaaaaaaaaaaaaaaa\n" + strings.Repeat("A=$A$A\n", 40), ""},
	} {
		if got := strings.Join(probe.Script(c.src), "|"); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestUnwrap(t *testing.T) {
	for in, want := range map[string]string{
		"telnetd -F": "telnetd -F", "exec telnetd": "telnetd", "/bin/busybox telnetd -F": "telnetd -F", "nohup setsid telnetd": "telnetd",
		"nice -n 5 telnetd": "telnetd", "env A=b PATH=/x telnetd": "telnetd", "LD_PRELOAD=/x telnetd": "telnetd",
		"start-stop-daemon -S -q -p /run/x.pid --exec /usr/sbin/telnetd -- -F": "/usr/sbin/telnetd -F",
		"start-stop-daemon -Sbmx /usr/sbin/telnetd -- -F":                      "/usr/sbin/telnetd -F",
		"start-stop-daemon -K -x /usr/sbin/telnetd":                            "",
		"start-stop-daemon --stop --exec /usr/sbin/telnetd":                    "",
		"start-stop-daemon -S -n telnetd -p /run/telnetd.pid /usr/bin/app":     "/usr/bin/app",
		"procd_set_param command /usr/sbin/telnetd -F":                         "/usr/sbin/telnetd -F",
		"procd_set_param respawn telnetd":                                      "",
		"tcpsvd -vE 0.0.0.0 21 ftpd -w /":                                      "ftpd -w /",
		"udpsvd -E 0 69 tftpd -c /x":                                           "tftpd -c /x",
		"killall telnetd":                                                      "killall telnetd",
		"timeout 5 telnetd":                                                    "telnetd", "chroot /jail telnetd": "telnetd", "ip netns exec n telnetd": "telnetd", "ip link set": "ip link set",
		"/lib/ld-musl-armhf.so.1 /usr/sbin/telnetd": "/usr/sbin/telnetd", "-/bin/sh": "-/bin/sh", "busybox": "busybox", "exec": "exec",
	} {
		if got := probe.Unwrap(in); got != want {
			t.Errorf("%s: %q, want %q", in, got, want)
		}
	}
}

// Each case is a way a system starts something, and ways it does not.
func TestStarts(t *testing.T) {
	sysd := "lib/systemd/systemd"
	for name, c := range map[string]struct {
		files files
		want  []string
	}{
		"inittab": {files{"etc/inittab": "::respawn:/sbin/a -x\n::shutdown:/sbin/b\n::sysinit:/bin/sh -c 'c; exec d'\n#::once:/e\n"},
			[]string{"inittab /etc/inittab:1 /sbin/a -x", "inittab /etc/inittab:2 /sbin/b (off)", "inittab /etc/inittab:3 c", "inittab /etc/inittab:3 d"}},
		"rcS and what it runs": {files{"etc/inittab": "::sysinit:/etc/init.d/rcS\n", "etc/init.d/rcS": "#!/bin/sh\nfor i in /etc/init.d/S??*; do $i start; done\n. /etc/more\n/opt/go.sh &\n",
			"etc/init.d/S50a": "#!/bin/sh\na\n", "etc/more": "X=/bin/b\n$X\n", "opt/go.sh": "#!/bin/sh\nc\n", "etc/init.d/spare": "#!/bin/sh\nd\n"},
			[]string{"inittab /etc/inittab:1 /etc/init.d/rcS", "inittab /etc/init.d/rcS:2 $i start", "inittab /etc/init.d/rcS:4 /opt/go.sh", "script /etc/init.d/S50a:2 a", "script /etc/init.d/spare:2 d (off)", "inittab /etc/more:2 /bin/b", "inittab /opt/go.sh:2 c"}},
		"variables of a sourced file": {files{"etc/init.d/S50a": "#!/bin/sh\n[ -r /etc/default/a ] && . /etc/default/a\n$A -x $ARGS\n", "etc/default/a": "A=/bin/a\nARGS='-y -z'\n"},
			[]string{"script /etc/init.d/S50a:3 /bin/a -x -y -z"}},
		"functions nobody calls": {files{"etc/init.d/S50a": "#!/bin/sh\nf() { a; }\ng() { b; }\nrun() { \"$@\"; }\nf\nrun c -d\n"}, []string{"script /etc/init.d/S50a:2 a", "script /etc/init.d/S50a:6 c -d", "script /etc/init.d/S50a:4 $@", "script /etc/init.d/S50a:5 f", "script /etc/init.d/S50a:6 run c -d"}},
		"OpenWrt": {files{"etc/rc.common": "#!/bin/sh\nx\n", "etc/init.d/a": "#!/bin/sh /etc/rc.common\nstart_service() {\n\tprocd_set_param command /usr/sbin/a -F\n}\nstop_service() { b; }\n",
			"etc/init.d/c": "#!/bin/sh /etc/rc.common\nstart() { c; }\n", "etc/rc.d/S50a": "-> ../init.d/a", "etc/rc.d/K10c": "-> ../init.d/c", "etc/rc.local": "d\nexit 0\ne\n"},
			[]string{"script /etc/init.d/a:3 /usr/sbin/a -F", "script /etc/init.d/c:2 c (off)", "script /etc/rc.local:1 d"}},
		"sysvinit": {files{"etc/init.d/a": "#!/bin/sh\na\n", "etc/init.d/b": "#!/bin/sh\nb\n", "etc/rc2.d/S01a": "-> ../init.d/a", "etc/rc3.d/S01a": "-> ../init.d/a", "etc/rc0.d/K01b": "-> ../init.d/b", "etc/rc2.d/README": "x"},
			[]string{"script /etc/init.d/a:2 a", "script /etc/init.d/b:2 b (off)"}},
		"systemd": {files{sysd: "x", "etc/systemd/system/multi-user.target.wants/a.service": "-> /lib/systemd/system/a.service",
			"lib/systemd/system/a.service": "[Unit]\nWants=b.service\n[Service]\nUser=app\nExecStart=-/usr/bin/a \\\n  -x\n", "lib/systemd/system/b.service": "[Service]\nEnvironment=O=-v\nExecStart=/usr/bin/b $O\n",
			"lib/systemd/system/c.service": "[Service]\nExecStart=/usr/bin/c\n", "etc/systemd/system/multi-user.target.wants/d.service": "-> /lib/systemd/system/d.service",
			"lib/systemd/system/d.service": "[Service]\nExecStart=/usr/bin/d\n", "etc/systemd/system/d.service": "-> /dev/null",
			"etc/systemd/system/a.service.d/o.conf": "[Service]\nExecStart=\nExecStart=/usr/bin/a2\n", "lib/systemd/system/rescue.target.wants/c.service": "-> ../c.service"},
			[]string{"systemd /etc/systemd/system/a.service.d/o.conf:3 /usr/bin/a2 as app", "systemd /lib/systemd/system/b.service:3 /usr/bin/b -v"}},
		"systemd socket": {files{sysd: "x", "etc/systemd/system/sockets.target.wants/t.socket": "-> /lib/systemd/system/t.socket", "lib/systemd/system/t.socket": "[Socket]\nListenStream=23\nAccept=yes\n",
			"lib/systemd/system/t@.service": "[Service]\nExecStart=-/usr/sbin/in.telnetd\n"}, []string{"systemd /lib/systemd/system/t@.service:2 /usr/sbin/in.telnetd"}},
		"units without systemd": {files{"etc/systemd/system/x.target.wants/a.service": "-> ../a.service", "etc/systemd/system/a.service": "[Service]\nExecStart=/a\n", "etc/inittab": ""}, []string{"systemd /etc/systemd/system/a.service:2 /a (off)"}},
		"inetd": {files{"etc/inetd.conf": "23 stream tcp nowait root.root /usr/sbin/tcpd in.telnetd -x\n21 stream tcp nowait nobody /bin/busybox busybox ftpd -w\ndaytime stream tcp nowait root internal\n", "etc/inittab": ""},
			[]string{"inetd /etc/inetd.conf:1 /usr/sbin/tcpd -x as root", "inetd /etc/inetd.conf:2 ftpd -w as nobody"}},
		"xinetd": {files{"etc/xinetd.d/t": "service telnet\n{\n\tserver_args = -l /bin/sh\n\tserver = /usr/sbin/telnetd\n\tdisable = no\n}\nservice x {\n server = /x\n disable = yes\n}\n", "etc/inittab": ""},
			[]string{"xinetd /etc/xinetd.d/t:1 /usr/sbin/telnetd -l /bin/sh", "xinetd /etc/xinetd.d/t:7 /x (off)"}},
		"runit": {files{"etc/service/a/run": "#!/bin/sh\nexec chpst -u app /bin/a\n", "etc/service/b/run": "#!/bin/sh\nexec b\n", "etc/service/b/down": ""}, []string{"run /etc/service/a/run:2 /bin/a", "run /etc/service/b/run:2 b (off)"}},
		"openrc": {files{"etc/runlevels/default/a": "-> /etc/init.d/a", "etc/init.d/a": "#!/sbin/openrc-run\ncommand=/usr/sbin/a\ncommand_args=\"-x ${A_OPTS}\"\n", "etc/conf.d/a": "A_OPTS=\"-y\"\n", "etc/init.d/b": "#!/sbin/openrc-run\ncommand=/b\n"},
			[]string{"openrc /etc/init.d/a:2 /usr/sbin/a -x -y"}},
		"openrc arguments in quotes": {files{"etc/runlevels/default/a": "-> /etc/init.d/a", "etc/init.d/a": "#!/sbin/openrc-run\ncommand=/bin/sh\ncommand_args=\"-c 'nc -l -e /bin/sh'\"\n"},
			[]string{"openrc /etc/init.d/a:2 nc -l -e /bin/sh"}},
		"openrc local": {files{"etc/runlevels/default/local": "-> /etc/init.d/local", "etc/init.d/local": "#!/sbin/openrc-run\n", "etc/local.d/a.start": "#!/bin/sh\n/usr/sbin/a\n", "etc/local.d/README": "#!/bin/sh\n/usr/sbin/b\n", "etc/local.d/b.stop": "#!/bin/sh\n/usr/sbin/b\n"},
			[]string{"openrc /etc/local.d/a.start:2 /usr/sbin/a"}},
		"cron": {files{"etc/crontab": "SHELL=/bin/sh\n*/5 * * * * root a -x\n", "etc/crontabs/app": "@reboot b\n0 0 * * * c%in\n# 0 0 * * * d\n", "etc/cron.d/x.bak": "* * * * * root e\n", "etc/cron.daily/f": "#!/bin/sh\nf\n", "etc/inittab": ""},
			[]string{"cron /etc/crontab:2 a -x as root", "cron /etc/crontabs/app:1 b as app", "cron /etc/crontabs/app:2 c as app", "periodic /etc/cron.daily/f:2 f"}},
		"profile and hooks": {files{"etc/profile": "a\n", "etc/profile.d/x.sh": "b\n", "etc/hotplug.d/iface/10-x": "c\n", "etc/network/interfaces": "iface eth0 inet dhcp\n\tup d -x\n\tdown e\n", "etc/inittab": ""},
			[]string{"profile /etc/profile:1 a", "profile /etc/profile.d/x.sh:1 b", "hook /etc/hotplug.d/iface/10-x:1 c", "hook /etc/network/interfaces:2 d -x"}},
	} {
		got, err := probe.Starts(host(t, tree(t, c.files)))
		slices.Sort(got)
		want := slices.Clone(c.want)
		slices.Sort(want)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v\n%s\nwant\n%s", name, err, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

func TestStartsOfATreeThatSaysNothing(t *testing.T) {
	if _, err := probe.Starts(host(t, tree(t, files{"etc/passwd": "x"}))); err == nil {
		t.Error("nothing is known, and there is no error")
	}
	if _, err := probe.Starts(host(t, tree(t, files{"etc/init.d/S1a": "#!/bin/sh\n/etc/init.d/S1a\n. /etc/init.d/S1a\n", "etc/init.d/S2": "-> S2", "etc/rc.local": "-> /nowhere"}))); err != nil {
		t.Errorf("a loop: %v", err)
	}
}
