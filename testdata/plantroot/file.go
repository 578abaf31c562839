// SPDX-License-Identifier: Apache-2.0

package plantroot

import (
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// fileSkeleton is what a sound system has of files and mounts, keys, logs, updates and the agent, and traps: what looks bad
// and is not.
func fileSkeleton() []file {
	return []file{
		{name: "usr/sbin/backstay", mode: 0o755, text: "backstay\n"}, {name: "etc/backstay/", mode: 0o755}, {name: "etc/backstay/config.json", mode: 0o644, text: "{}\n"}, {name: "var/lib/backstay/", mode: 0o700},
		{name: "etc/profile", mode: 0o644, text: "# PATH=.:$PATH\nexport PATH=\"/usr/sbin:/usr/bin:/sbin:/bin\"\nexport MANPATH=.:/usr/share/man\numask 027\n"},
		{name: "etc/ld.so.conf", mode: 0o644, text: "/usr/lib\n"}, {name: "usr/lib/libapp.so", mode: 0o644, text: "library\n"},
		{name: "etc/mdev.conf", mode: 0o644, text: "(null|zero|full|random|urandom) root:root 0666\nmtd[0-9]* root:root 0640\n"},
		{name: "etc/crontabs/root", mode: 0o600, text: "# m h d m w command\n0 3 * * * /usr/bin/app --rotate\n"},
		{name: "etc/opkg.conf", mode: 0o644, text: "src/gz base http://feed.example.com/base\noption check_signature\n"},
		{name: "var/log/messages", mode: 0o640, text: "log\n"}, {name: "var/spool/drop/", mode: 0o777 | fs.ModeSticky},
		{name: "etc/ssl/app.pem", mode: 0o644, text: certificate},
		{name: "etc/ssl/openssl.cnf", mode: 0o644, text: "[system_default_sect]\n# MinProtocol = TLSv1\nMinProtocol = TLSv1.2\nCipherString = DEFAULT@SECLEVEL=2\n"},
		{name: "etc/init.d/S95pull", mode: 0o755, text: "#!/bin/sh\n# never curl -k\ncurl -fsS --cacert /etc/ssl/app.pem https://fw.example.com/next\n"},
		{name: "etc/init.d/S10base", mode: 0o755, text: "#!/bin/sh\n/sbin/syslogd -O /var/log/messages\n/usr/sbin/ntpd -p time.example.com\n"},
		{name: "etc/sv/backstay/run", mode: 0o755, text: "#!/bin/sh\nexec /usr/sbin/backstay run --config /etc/backstay/config.json\n"},
		{name: "lib/mdev/automount", mode: 0o755, text: "#!/bin/sh\nmount -o nosuid,nodev,noexec -t auto /dev/$MDEV /media/$MDEV\n"},
	}
}

// fileDefects are those of files and mounts, keys, logs and updates. key is a private key in PEM.
func fileDefects(key string) []defect {
	root := func(make func(p string) error) func(string) error {
		return func(p string) error {
			os.Remove(p)
			return make(p)
		}
	}
	return []defect{
		{rules: []string{"file.setuid"}, files: []file{{name: "usr/bin/helper", mode: 0o755 | fs.ModeSetuid, text: "helper\n"}}},
		{rules: []string{"file.start-scripts", "file.start-chain"}, files: []file{{name: "etc/init.d/S90app", mode: 0o777, text: "#!/bin/sh\n/usr/bin/app &\n"}}},
		{rules: []string{"file.world-writable-program"}, files: []file{{name: "www/cgi-bin/status.cgi", mode: 0o777, text: "#!/bin/sh\necho\n"}}},
		{rules: []string{"file.world-writable"}, files: []file{{name: "var/lib/app.db", mode: 0o666, text: "data\n"}}},
		{rules: []string{"file.sticky"}, files: []file{{name: "var/spool/drop/", mode: 0o777}}},
		{rules: []string{"file.search-path", "file.umask", "file.umask-strict"}, files: []file{{name: "etc/profile", mode: 0o644, text: "export PATH=\"/usr/sbin:/usr/bin:/sbin:/bin:.\"\numask 000\n"}}},
		{rules: []string{"file.loader"}, files: []file{{name: "etc/ld.so.preload", mode: 0o644, text: "/usr/lib/libhook.so\n"}}},
		{rules: []string{"file.cron"}, files: []file{{name: "etc/cron.daily/clean", mode: 0o777, text: "#!/bin/sh\nrm -f /var/cache/app\n"}}},
		{rules: []string{"file.device-modes"}, files: []file{{name: "etc/mdev.conf", mode: 0o644, text: "mtd[0-9]* root:root 0666\n"}}},
		{rules: []string{"file.unowned"}, root: true, files: []file{{name: "srv/app", mode: 0o644, text: "app\n", after: func(p string) error { return os.Lchown(p, 4711, 4711) }}}},
		{rules: []string{"file.devices"}, root: true, files: []file{{name: "srv/flash", mode: 0o600, text: "x", after: root(func(p string) error { return unix.Mknod(p, unix.S_IFBLK|0o600, 31<<8) })}}},
		{rules: []string{"file.capabilities"}, root: true, files: []file{{name: "usr/bin/sniff", mode: 0o755, text: "sniff\n", after: func(p string) error {
			return unix.Setxattr(p, "security.capability", []byte("\x01\x00\x00\x02\x00\x20\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0)
		}}}},
		{rules: []string{"key.private", "key.modes"}, files: []file{{name: "www/server.key", mode: 0o644, text: key}}},
		{rules: []string{"key.certificates"}, files: []file{{name: "etc/ssl/app.pem", mode: 0o644, text: expired}}},
		{rules: []string{"mount.tmp", "mount.var-tmp", "mount.shm", "mount.run", "mount.dev", "mount.data", "mount.removable", "mount.processes", "key.persistent", "log.persistent"}, files: []file{{name: "etc/fstab", mode: 0o644, text: strings.NewReplacer("nosuid,nodev,noexec,mode", "suid,mode", ",hidepid=2", "").Replace(fstab) +
			"tmpfs	/var/tmp	tmpfs	mode=1777	0	0\ntmpfs	/dev/shm	tmpfs	mode=1777	0	0\ntmpfs	/run	tmpfs	mode=0755	0	0\ndevtmpfs	/dev	devtmpfs	defaults	0	0\n/dev/mmcblk0p3	/data	ext4	noatime	0	2\ntmpfs	/etc/dropbear	tmpfs	mode=0700	0	0\ntmpfs	/var/log	tmpfs	nosuid,nodev	0	0\n/dev/sda1	/media/usb	vfat	sync	0	0\n"}}},
		{rules: []string{"log.modes"}, files: []file{{name: "var/log/messages", mode: 0o644, text: "log\n"}}},
		{rules: []string{"update.verified"}, files: []file{{name: "etc/opkg.conf", mode: 0o644, text: "src/gz base http://feed.example.com/base\n# option check_signature\n"}}},
		{rules: []string{"update.exclusive"}, files: []file{{name: "etc/init.d/S80swupdate", mode: 0o755, text: "#!/bin/sh\n/usr/bin/swupdate -u \"-t default\" &\n"}}},
		{rules: []string{"time.sync", "log.kept"}, files: []file{{name: "etc/init.d/S10base", mode: 0o755, text: "#!/bin/sh\n# /sbin/syslogd -O /var/log/messages\nkillall ntpd\n"}}},
		{rules: []string{"time.no-open-server"}, files: []file{{name: "etc/chrony.conf", mode: 0o644, text: "pool pool.example.com iburst\nallow all\n"}}},
		{rules: []string{"log.remote-protected"}, files: []file{{name: "etc/rsyslog.d/50-remote.conf", mode: 0o644, text: "*.* @192.0.2.9\n"}}},
		{rules: []string{"tls.clients"}, files: []file{{name: "etc/init.d/S95pull", mode: 0o755,
			text: "#!/bin/sh\ncurl -fsSk https://fw.example.com/next\n"}}},
		{rules: []string{"tls.policy"}, files: []file{{name: "etc/ssl/openssl.cnf", mode: 0o644, text: "[system_default_sect]\nMinProtocol = TLSv1\nCipherString = DEFAULT@SECLEVEL=0\n"}}},
		{rules: []string{"agent.supervised"}, files: []file{{name: "etc/sv/backstay/run", mode: 0o755, text: "#!/bin/sh\nexec sleep 1000\n"}}},
		{rules: []string{"agent.files"}, files: []file{{name: "var/lib/backstay/", mode: 0o755}}},
	}
}

// Certificates of nobody, valid until 2099 and until 2020.
const (
	certificate = `-----BEGIN CERTIFICATE-----
MIIBDTCBs6ADAgECAgEHMAoGCCqGSM49BAMCMBAxDjAMBgNVBAMTBW1ha2VyMCAX
DTE5MDEwMTAwMDAwMFoYDzIwOTkwMTAxMDAwMDAwWjAOMQwwCgYDVQQDEwNhcHAw
WTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAAStu9/OJAI35j/37XHYGluVJxt7flGn
gJxuXTUQqivhI89YxTyujUNwyhy5uzh6p5ADft+YflbP8kAWT5xqhbwgMAoGCCqG
SM49BAMCA0kAMEYCIQCHDqxHgjhemLnvMrHALnIKCAb/T8ONyQyylKG6t7kMhwIh
AOYenEe0KqJyWmX8lRz46DaqCxnGM6u+f0+y0IWFr25q
-----END CERTIFICATE-----
`
	expired = `-----BEGIN CERTIFICATE-----
MIIBCzCBsaADAgECAgEHMAoGCCqGSM49BAMCMBAxDjAMBgNVBAMTBW1ha2VyMB4X
DTE5MDEwMTAwMDAwMFoXDTIwMDEwMTAwMDAwMFowDjEMMAoGA1UEAxMDYXBwMFkw
EwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEU2wOfH61TpUolTRty3cB4ZIemdO/w7lA
bd0alDlx6KC6CfhfCP4D97CkWh59dFpccWVLZ64Jw1FJSDCFsfpeqDAKBggqhkjO
PQQDAgNJADBGAiEAiAmBxObjZ2xLiZA5Z7ZCm4RvVyR6UQ9PJZ7ITQ+aUHECIQCA
fFp3nI+A5pjt99Sjs0b94LUc/aYnkLEsSKA6XYBIiA==
-----END CERTIFICATE-----
`
)
