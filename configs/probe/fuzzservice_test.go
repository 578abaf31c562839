// SPDX-License-Identifier: Apache-2.0

package probe_test

import "testing"

func FuzzSettingINI(f *testing.F) {
	fuzzFile(f, "etc/s", "setting", "/etc/s", `{"form":"ini","section":"*","keys":["guest ok","public"],"deny":["yes"],"default":"yes","set":"no"}`, nil,
		"[global]\nguest ok=yes\n[a]\npublic = yes\n[b]\n", "[", "[]\n=\n", "public=yes\n[a]\r\n")
}

func FuzzSettingUCI(f *testing.F) {
	fuzzFile(f, "etc/s", "setting", "/etc/s", `{"form":"uci","section":"s","keys":["a"],"one_of":["1"],"default":"0","set":"1","when":{"keys":["b"],"one_of":["1",""],"default":""}}`, nil,
		"config s 'x'\n\toption a 0\n", "config s\noption b 1\noption a \"0\nconfig s", "config\noption\n")
}

func FuzzSettingWords(f *testing.F) {
	fuzzFile(f, "etc/s", "setting", "/etc/s", `{"form":"words","keys":["bind"],"one_of":["127.*"],"default":"","set":"127.0.0.1"}`, nil, "bind 0.0.0.0\n", "bind\n", "bind \"\";\n# x", " bind\t::1")
}

func FuzzSettingAssign(f *testing.F) {
	fuzzFile(f, "etc/s", "setting", "/etc/s", `{"form":"assign","keys":["a"],"deny":["yes"],"default":"yes","set":"no"}`, nil, "a=yes\n", "a", "=\n a = 'yes'\n")
}

func FuzzSettingLine(f *testing.F) {
	fuzzFile(f, "etc/s", "setting", "/etc/s", `{"form":"line","deny":["input(type=\"imudp\"*"]}`, nil, "input( type=\"imudp\")\n", "#\n")
}

func FuzzSnmpd(f *testing.F) {
	fuzzFile(f, "etc/snmp/snmpd.conf", "snmp", "access", `{"find":["default","write","crypto"]}`, nil, "rocommunity public\nrwcommunity x 127.0.0.1\ncom2sec -Cn a b c d\ncreateUser a MD5 b DES\n", "com2sec -Cn\n", "authcommunity read,write x")
}

func FuzzSnmpUCI(f *testing.F) {
	fuzzFile(f, "etc/config/snmpd", "snmp", "access", `{"find":["default"]}`, nil, "config com2sec\n\toption source default\n\toption community public\nconfig x\n", "config com2sec\noption community public")
}

func FuzzMosquitto(f *testing.F) {
	fuzzFile(f, "etc/mosquitto/mosquitto.conf", "mosquitto", "listeners", `{"find":["anonymous"]}`, files{"usr/sbin/mosquitto": "\x001.6.12\x00"},
		"listener 1883\nallow_anonymous true\n", "per_listener_settings true\nlistener 1\nlistener 2 ::1\nallow_anonymous true\n", "include_dir /etc/mosquitto\nport 1\nbind_address x\n", "allow_anonymous\n")
}

func FuzzExports(f *testing.F) {
	fuzzFile(f, "etc/exports", "exports", "/etc/exports", `{"deny":["everybody","no_root_squash"]}`, nil, "/a *(rw)\n/b h(no_root_squash) \\\n *\n", "\"\n", "/a -x (", "\\\n\\")
}

func FuzzHttpdConf(f *testing.F) {
	fuzzFile(f, "etc/httpd.conf", "web", "servers", `{"find":["credential","document-root"]}`, nil, "/:admin:admin\nH:/\n", "/a:b:$1$x$y\n", "H:\n/::\n")
}

func FuzzNginx(f *testing.F) {
	fuzzFile(f, "etc/nginx/nginx.conf", "web", "servers", `{"find":["plain","document-root","credential"]}`, nil, "listen 80; root /;\nauth_basic_user_file ../x;\n", "listen\n;;root")
}

func FuzzHtpasswd(f *testing.F) {
	fuzzFile(f, "etc/htpasswd", "web", "servers", `{"find":["credential"]}`, nil, "a:b\nc:$apr1$x$y\nd:r:0123456789abcdef0123456789abcdef\n", ":\n", "x:{SHA}y\n")
}
