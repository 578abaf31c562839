// SPDX-License-Identifier: Apache-2.0

package plantroot

import "strings"

// accountDefects are those of accounts and of who may log in.
func accountDefects() []defect {
	// admin: md5crypt of "admin", the hash of more than one shipped camera. guest: locked, with the same behind the lock.
	const hash = "$1$7ujMko0v$60lBauJfeTLe2uYYdwMLT."
	hashes := strings.NewReplacer("root:*:", "root::", "admin:!:", "admin:"+hash+":").Replace(shadow) + "guest:!" + hash + ":19000:0:99999:7:::\n"
	users := strings.Replace(passwd, "www-data:x:33:33:www-data:/var/www:/bin/false", "www-data:x:33:33:www-data:/var/www:/bin/sh", 1)
	return []defect{
		{rules: []string{"account.empty-password", "account.default-password", "account.locked-default-password", "account.weak-hash", "account.file-modes",
			"account.image-password", "account.first-login"},
			files: []file{{name: "etc/shadow", mode: 0o644, text: hashes}}},
		{rules: []string{"account.single-root", "account.service-shell", "account.hash-in-passwd", "account.unique", "account.nis-entries"},
			files: []file{{name: "etc/passwd", mode: 0o644, text: users + "support:x:0:0:support:/home/admin:/bin/sh\n" +
				"guest:x:1001:1001::/home/guest:/bin/false\nlp:$1$saltsalt$" + strings.Repeat("x", 22) + ":7:7::/:/bin/false\nlpd:x:7:7::/:/bin/false\n+::::::\n"}}},
		{rules: []string{"account.trust-files"},
			files: []file{{name: "etc/hosts.equiv", mode: 0o644, text: "+ +\n"}, {name: "home/admin/.rhosts", mode: 0o600, text: "+ admin\n"}}},
		{rules: []string{"account.root-terminals"}, files: []file{{name: "etc/securetty", mode: 0o600, text: "# terminals\nconsole\nttyS0\npts/0\n"}}},
		{rules: []string{"account.privilege-password"}, files: []file{{name: "etc/sudoers.d/admin", mode: 0o440, text: "admin ALL=(ALL) NOPASSWD: ALL\n"}}},
		{rules: []string{"account.pam-bypass", "account.pam-empty-password"},
			files: []file{{name: "etc/pam.d/login", mode: 0o644, text: "# login\nauth sufficient pam_permit.so\nauth required pam_unix.so nullok\naccount required pam_unix.so\n"}}},
		{rules: []string{"account.stored-credentials"}, files: []file{{name: "home/admin/.netrc", mode: 0o600, text: "machine git.example.com\n\tlogin build\n\tpassword Tr0ub4dor\n"}}},
		{rules: []string{"account.backup-files"}, files: []file{{name: "etc/shadow.bak", mode: 0o644, text: shadow}}},
	}
}

// sshDefects are those of the SSH servers.
func sshDefects() []defect {
	return []defect{
		{rules: []string{"ssh.dropbear-password", "ssh.dropbear-blank-password", "ssh.dropbear-forwarding", "ssh.dropbear-limits", "ssh.listen"},
			files: []file{{name: "etc/default/dropbear", mode: 0o644, text: "# arguments of the server\nDROPBEAR_ARGS=\"-RB -p 22\" # factory\n"}}},
		{rules: []string{"ssh.dropbear-legacy"}, files: []file{{name: "usr/sbin/dropbear", mode: 0o755, text: "SSH-2.0-dropbear_2019.78\n"}}},
		{rules: []string{"ssh.sshd-root-login", "ssh.sshd-password", "ssh.sshd-empty-password", "ssh.sshd-limits", "ssh.sshd-host-trust", "ssh.sshd-algorithms",
			"ssh.sshd-forwarding", "ssh.sshd-environment", "ssh.config-private", "account.guess-damping"},
			files: []file{{name: "etc/ssh/sshd_config", mode: 0o644, text: `# OpenSSH server
PermitRootLogin yes
permitemptypasswords=yes
HostbasedAuthentication yes
Ciphers aes256-ctr,aes128-cbc
AcceptEnv LANG *
Match Address 10.0.0.0/8
	PasswordAuthentication yes
`}}},
		{rules: []string{"ssh.config-owner"}, files: []file{{name: "etc/ssh/sshd_config.d/", mode: 0o757}}},
		{rules: []string{"ssh.host-key-modes", "key.ssh-host"}, files: []file{{name: "etc/dropbear/dropbear_ed25519_host_key", mode: 0o644, text: strings.Repeat("k", 83)}}},
		{rules: []string{"ssh.key-paths"}, files: []file{{name: "home/admin/.ssh/", mode: 0o757}}},
		// It is admin's last way in when the passwords are locked.
		{rules: []string{"ssh.authorized-keys"}, files: []file{{name: "home/admin/.ssh/authorized_keys", mode: 0o600,
			text: "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKcqyw8kRq0nqDJjWSYP1V1xyNbL3xyo9pAdUo0ITkBE maker@example.com\n"}}},
	}
}

// loginSkeleton are the programs, and the settings that a safe system has of the SSH servers.
func loginSkeleton() []file {
	return []file{
		{name: "usr/bin/sudo", mode: 0o755, text: "sudo\n"},
		{name: "etc/sudoers", mode: 0o440, text: "Defaults env_reset\nroot ALL=(ALL:ALL) ALL\nadmin ALL = NOPASSWD: /sbin/reboot\n@includedir /etc/sudoers.d\n"},
		{name: "etc/pam.d/login", mode: 0o644, text: "# login\nauth required pam_unix.so\nauth required pam_permit.so\naccount required pam_unix.so\n"},
		{name: "etc/app.conf", mode: 0o644, text: "# url = https://user:password@example.com\nurl = https://$USER:$TOKEN@example.com/api\n"},
		{name: "usr/sbin/dropbear", mode: 0o755, text: "SSH-2.0-dropbear_2022.83\n"}, {name: "usr/sbin/sshd", mode: 0o755, text: "OpenSSH_9.2p1\n"},
		{name: "etc/default/dropbear", mode: 0o644, text: "# arguments of the server\nDROPBEAR_ARGS=\"-R -s -jk -T 3 -I 600 -p 192.168.1.1:22\"\n"},
		{name: "etc/ssh/sshd_config", mode: 0o600, text: `# OpenSSH server
ListenAddress 192.168.1.1
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
#PermitEmptyPasswords yes
MaxAuthTries 3
LoginGraceTime 30s
MaxStartups 5:30:20
ClientAliveInterval 5m
DisableForwarding yes
AcceptEnv LANG LC_*
`},
	}
}
