// SPDX-License-Identifier: Apache-2.0

package source

import "strings"

// DefaultFiles returns what is watched where the configuration names nothing: accounts, keys, what is started, where the system
// looks for libraries and name servers, the clock and the configuration of this agent. What is not there is watched for.
func DefaultFiles() []string {
	return []string{
		"/etc/passwd", "/etc/shadow", "/etc/group", "/etc/gshadow", "/etc/sudoers", "/etc/sudoers.d", "/etc/doas.conf", "/etc/securetty",
		"/etc/pam.d", "/etc/ssh", "/etc/dropbear", "/root/.ssh", "/etc/config/dropbear",
		"/etc/inittab", "/etc/init.d", "/etc/rc.local", "/etc/rc.d", "/etc/rcS.d", "/etc/systemd/system", "/etc/profile", "/etc/profile.d",
		"/etc/crontab", "/etc/crontabs", "/etc/cron.d", "/var/spool/cron/crontabs", "/etc/udev/rules.d", "/etc/hotplug.d",
		"/etc/modprobe.d", "/etc/modules", "/etc/modules-load.d", "/etc/sysctl.conf", "/etc/sysctl.d", "/etc/fstab", "/etc/fw_env.config",
		"/etc/ld.so.preload", "/etc/ld.so.conf", "/etc/hosts", "/etc/resolv.conf", "/etc/nsswitch.conf", "/etc/localtime", "/etc/ntp.conf",
		"/etc/chrony.conf", "/etc/shells", "/etc/os-release", "/etc/machine-id", "/etc/ca-certificates.conf", "/etc/ssl/certs/ca-certificates.crt",
		"/etc/iptables", "/etc/nftables.conf", "/etc/config/firewall", "/etc/config/network", "/etc/rsyslog.conf", "/etc/syslog.conf",
		"/etc/audit", "/etc/backstay",
	}
}

// watchList is the watched files and directories.
type watchList []string

func newWatchList(env *Env) watchList {
	if len(env.Files) > 0 {
		return env.Files
	}
	return DefaultFiles()
}

// has reports whether path is a watched file or lies directly in a watched directory.
func (l watchList) has(path string) bool {
	dir := path[:max(strings.LastIndexByte(path, '/'), 0)]
	for _, w := range l {
		if w == path || w == dir {
			return true
		}
	}
	return false
}
