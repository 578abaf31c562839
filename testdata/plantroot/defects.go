// SPDX-License-Identifier: Apache-2.0

package plantroot

import (
	"io/fs"
	"slices"
	"strings"
)

// defect is what one insecure default looks like, and the rules that have to find it. Files replace those of the skeleton.
type defect struct {
	rules []string
	files []file
}

// defects are the planted defaults. Each file appears once: two defects of one file share an entry.
func defects(key string) []defect {
	return slices.Concat(accountDefects(), sshDefects(), kernelDefects(), serviceDefects(), []defect{
		{rules: []string{"service.telnet", "console.shell", "console.serial-login"},
			files: []file{{name: "etc/inittab", mode: 0o644, text: inittab +
				"::respawn:/sbin/telnetd -F -l /bin/sh\nttyS0::respawn:-/bin/sh\nttyS1::respawn:/sbin/getty -L ttyS1 115200 vt100\n"}}},
		{rules: []string{"service.inetd-login", "service.inetd-legacy"},
			files: []file{{name: "etc/inetd.conf", mode: 0o644, text: inetd +
				"telnet	stream	tcp	nowait	root	/usr/sbin/telnetd	telnetd -i\n21	stream	tcp	nowait	root	/bin/busybox	busybox ftpd -w /\nchargen	stream	tcp	nowait	root	internal\n"}}},
		{rules: []string{"file.setuid"}, files: []file{{name: "usr/bin/helper", mode: 0o755 | fs.ModeSetuid, text: "helper\n"}}},
		{rules: []string{"file.start-scripts"}, files: []file{{name: "etc/init.d/S90app", mode: 0o777, text: "#!/bin/sh\n/usr/bin/app &\n"}}},
		{rules: []string{"key.private"}, files: []file{{name: "www/server.key", mode: 0o644, text: key}}},
		{rules: []string{"mount.tmp"}, files: []file{{name: "etc/fstab", mode: 0o644, text: strings.Replace(fstab, "nosuid,nodev,noexec,mode", "suid,mode", 1)}}},
		{files: []file{{name: "etc/sysctl.conf", mode: 0o644, text: "# kernel\nkernel.kptr_restrict = 0\nkernel.randomize_va_space=0\nfs.suid_dumpable = 2"}}},
	})
}
