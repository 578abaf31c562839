// SPDX-License-Identifier: Apache-2.0

package plantroot

import (
	"slices"
)

// defect is what one insecure default looks like, and the rules that have to find it. Files replace those of the skeleton.
type defect struct {
	rules []string
	files []file
	root  bool // only root can plant it
}

// defects are the planted defaults. Each file appears once: two defects of one file share an entry.
func defects(key string) []defect {
	return slices.Concat(accountDefects(), sshDefects(), kernelDefects(), serviceDefects(), bootDefects(), fileDefects(key), firewallDefects(), radioDefects(), []defect{
		{rules: []string{"service.telnet", "console.shell", "console.serial-login"},
			files: []file{{name: "etc/inittab", mode: 0o644, text: inittab +
				"::respawn:/sbin/telnetd -F -l /bin/sh\nttyS0::respawn:-/bin/sh\nttyS1::respawn:/sbin/getty -L ttyS1 115200 vt100\n"}}},
		{rules: []string{"service.inetd-login", "service.inetd-legacy"},
			files: []file{{name: "etc/inetd.conf", mode: 0o644, text: inetd +
				"telnet	stream	tcp	nowait	root	/usr/sbin/telnetd	telnetd -i\n21	stream	tcp	nowait	root	/bin/busybox	busybox ftpd -w /\nchargen	stream	tcp	nowait	root	internal\n"}}},
		{files: []file{{name: "etc/sysctl.conf", mode: 0o644, text: "# kernel\nkernel.kptr_restrict = 0\nkernel.randomize_va_space=0\nfs.suid_dumpable = 2"}}},
	})
}
