// SPDX-License-Identifier: Apache-2.0

package probe_test

import "testing"

func TestPrivilegeChecks(t *testing.T) {
	sudo := func(text string) files { return files{"usr/bin/sudo": "x", "etc/sudoers": text} }
	doas := func(text string) files { return files{"usr/bin/doas": "x", "etc/doas.conf": text} }
	pam := func(text string) files { return files{"etc/pam.d/login": text} }
	runChecks(t, map[string]checkCase{
		"all":                     {sudo("a ALL=(ALL) NOPASSWD: ALL\n"), "privilege", "sudo", "", "fail; /etc/sudoers:1 NOPASSWD: ALL"},
		"group":                   {sudo("%wheel ALL=(ALL:ALL)NOPASSWD:ALL\n"), "privilege", "sudo", "", "fail; /etc/sudoers:1"},
		"tabs":                    {sudo("a\tALL=(ALL)\tNOPASSWD:\tALL\n@includedir\t/etc/sudoers.d\n"), "privilege", "sudo", `{"allow":["b"]}`, "fail; /etc/sudoers:1 NOPASSWD: ALL"},
		"tabs, allowed":           {sudo("a\tALL=(ALL)\tNOPASSWD:\tALL\n"), "privilege", "sudo", `{"allow":["a"]}`, "pass"},
		"commented":               {sudo("# a ALL=(ALL) NOPASSWD: ALL\na ALL=(ALL) ALL # NOPASSWD: ALL\n"), "privilege", "sudo", "", "pass"},
		"by number":               {sudo("#1000 ALL=(ALL) NOPASSWD: ALL\n"), "privilege", "sudo", "", "fail; /etc/sudoers:1"},
		"root itself":             {sudo("root ALL=(ALL) NOPASSWD: ALL\n"), "privilege", "sudo", "", "pass"},
		"fixed commands":          {sudo("a ALL = NOPASSWD: /sbin/reboot, /usr/bin/app --status, PASSWD: ALL\n"), "privilege", "sudo", "", "pass"},
		"tag goes on":             {sudo("a ALL = NOPASSWD: /sbin/reboot, ALL\n"), "privilege", "sudo", "", "fail; /etc/sudoers:1 NOPASSWD: ALL"},
		"pattern":                 {sudo("a ALL = NOPASSWD: /usr/bin/app*\n"), "privilege", "sudo", "", "fail"},
		"directory":               {sudo("a ALL = NOPASSWD: /usr/sbin/\n"), "privilege", "sudo", "", "fail"},
		"editor":                  {sudo("a ALL = NOPASSWD: /usr/bin/vi /etc/app.conf\n"), "privilege", "sudo", "", "fail"},
		"alias of fixed commands": {sudo("Cmnd_Alias POWER = /sbin/reboot, /sbin/poweroff : SH = /bin/sh\na ALL = NOPASSWD: POWER\n"), "privilege", "sudo", "", "pass"},
		"alias of a shell":        {sudo("a ALL = NOPASSWD: SH\nCmnd_Alias POWER = /sbin/reboot : SH = /bin/sh\n"), "privilege", "sudo", "", "fail; /etc/sudoers:1 NOPASSWD: SH"},
		"over two lines":          {sudo("a ALL = \\\n NOPASSWD: ALL\n"), "privilege", "sudo", "", "fail; /etc/sudoers:1"},
		"never asks":              {sudo("Defaults env_reset, !authenticate\n"), "privilege", "sudo", "", "fail; /etc/sudoers:1 Defaults !authenticate"},
		"included":                {files{"usr/bin/sudo": "x", "etc/sudoers": "#includedir /etc/sudoers.d\n", "etc/sudoers.d/x": "a ALL=NOPASSWD:ALL\n", "etc/sudoers.d/y.bak": "b ALL=NOPASSWD:ALL\n"}, "privilege", "sudo", "", "fail; /etc/sudoers.d/x:1 NOPASSWD: ALL"},
		"skipped by sudo":         {files{"usr/bin/sudo": "x", "etc/sudoers": "@includedir /etc/sudoers.d\n", "etc/sudoers.d/y.bak": "b ALL=NOPASSWD:ALL\n"}, "privilege", "sudo", "", "pass"},
		"includes itself":         {sudo("@include /etc/sudoers\n"), "privilege", "sudo", "", "pass"},
		"allowed":                 {sudo("a ALL=NOPASSWD:ALL\n"), "privilege", "sudo", `{"allow":["a"]}`, "pass"},
		"no sudo":                 {files{"etc/sudoers": "a ALL=NOPASSWD:ALL\n"}, "privilege", "sudo", "", "not-applicable"},
		"doas":                    {doas("permit nopass :wheel\n"), "privilege", "doas", "", "fail; /etc/doas.conf:1 nopass: any command"},
		"doas fixed":              {doas("permit nopass a as root cmd /sbin/reboot\npermit persist b\n"), "privilege", "doas", "", "pass"},
		"doas root":               {doas("permit nopass keepenv root\n"), "privilege", "doas", "", "pass"},
		"doas commented":          {doas("#permit nopass a\ndeny nopass b\n"), "privilege", "doas", "", "pass"},

		"permit is enough":     {pam("auth sufficient pam_permit.so\nauth required pam_unix.so\n"), "pam", "bypass", "", "fail; /etc/pam.d/login:1 pam_permit is enough"},
		"permit by brackets":   {pam("auth [success=done default=ignore] pam_permit.so\nauth required pam_unix.so\n"), "pam", "bypass", "", "fail; /etc/pam.d/login:1"},
		"permit of debian":     {pam("auth [success=1 default=ignore] pam_unix.so\nauth requisite pam_deny.so\nauth required pam_permit.so\n"), "pam", "bypass", "", "pass"},
		"nothing but permit":   {pam("auth required pam_env.so\nauth required pam_permit.so\n"), "pam", "bypass", "", "fail; /etc/pam.d/login:2 nothing but pam_permit"},
		"permit for account":   {pam("account sufficient pam_permit.so\nsession required pam_permit.so\nauth required pam_unix.so\n"), "pam", "bypass", "", "pass"},
		"permit of a kiosk":    {pam("auth requisite pam_succeed_if.so user = kiosk\nauth sufficient pam_permit.so\nauth required pam_unix.so\n"), "pam", "bypass", "", "pass"},
		"screen that logs in":  {files{"etc/pam.d/lightdm-autologin": "auth required pam_permit.so\n", "etc/pam.d/login": "auth required pam_unix.so\n"}, "pam", "bypass", "", "pass"},
		"rootok for login":     {pam("auth sufficient pam_rootok.so\nauth required pam_unix.so\n"), "pam", "bypass", "", "fail; /etc/pam.d/login:1 pam_rootok"},
		"rootok for su":        {files{"etc/pam.d/su": "auth sufficient pam_rootok.so\nauth required pam_unix.so\n"}, "pam", "bypass", "", "pass"},
		"included permit":      {files{"etc/pam.d/sshd": "@include common-auth\n", "etc/pam.d/common-auth": "auth sufficient pam_permit.so\nauth required pam_unix.so\n"}, "pam", "bypass", "", "fail; /etc/pam.d/common-auth:1"},
		"substack":             {files{"etc/pam.d/sshd": "auth substack x\n", "etc/pam.d/x": "auth sufficient pam_unix.so nullok\n"}, "pam", "nullok", "", "fail; /etc/pam.d/x:1 pam_unix.so nullok"},
		"pam.conf":             {files{"etc/pam.conf": "login auth required pam_unix.so nullok\ncron auth required pam_unix.so nullok\n"}, "pam", "nullok", "", "fail; /etc/pam.conf:1"},
		"nullok in a password": {pam("auth required pam_unix.so\npassword required pam_unix.so nullok\n"), "pam", "nullok", "", "pass"},
		"no pam":               {files{"etc/x": ""}, "pam", "nullok", "", "not-applicable"},
		"includes itself, pam": {files{"etc/pam.d/login": "auth include login\n"}, "pam", "nullok", "", "unknown"},

		"netrc":               {files{"root/.netrc": "machine x login a\n  password b\n"}, "stored-login", "accounts", "", "fail; /root/.netrc:2"},
		"netrc without":       {files{"root/.netrc": "machine x login a\n", "etc/x": ""}, "stored-login", "accounts", "", "pass"},
		"git":                 {files{"etc/passwd": "a:x:1:1::/home/a:/bin/sh\n", "home/a/.git-credentials": "https://a:ghp_x@github.com\n"}, "stored-login", "accounts", "", "fail; /home/a/.git-credentials:1"},
		"aws":                 {files{"root/.aws/credentials": "[default]\naws_access_key_id = A\naws_secret_access_key = b\n"}, "stored-login", "accounts", "", "fail; /root/.aws/credentials:3"},
		"docker":              {files{"root/.docker/config.json": "{\"auths\": {\"r\": {\n\"auth\": \"eDp5\"}}}\n"}, "stored-login", "accounts", "", "fail; /root/.docker/config.json:2"},
		"docker with a store": {files{"root/.docker/config.json": "{\"auths\": {\"r\": {}}, \"credsStore\": \"x\", \"auth\": \"\"}\n", "etc/x": ""}, "stored-login", "accounts", "", "pass"},
		"pgpass":              {files{"root/.pgpass": "# c\n*:*:*:a:b\n"}, "stored-login", "accounts", "", "fail; /root/.pgpass:2"},
		"url":                 {files{"etc/app/x.conf": "a=b\nurl = mqtt://dev:s3cr3t@broker:1883/x\n"}, "stored-login", "accounts", "", "fail; /etc/app/x.conf:2 an address with a password, for broker:1883"},
		"url placeholders":    {files{"etc/app.conf": "#http://a:b@c\nhttp://user:password@c\nhttp://$U:$P@c\nhttp://<u>:<p>@c\nhttp://a@c:80\nhttp://c:80/x@y\nproxy=http://c:3128\n"}, "stored-login", "accounts", "", "pass"},
		"url skipped":         {files{"etc/app.conf": "http://a:b@c\n"}, "stored-login", "accounts", `{"skip":["/etc/app.conf"]}`, "pass"},
		"url in a binary":     {files{"etc/app.bin": "\x00http://a:b@c\n"}, "stored-login", "accounts", "", "pass"},
	})
}

func TestPrivilegeFixes(t *testing.T) {
	runFixes(t, map[string]fixCase{
		"sudo":            {files{"usr/bin/sudo": "x", "etc/sudoers": "# NOPASSWD: c\na ALL=(ALL) NOPASSWD: ALL # x\nb ALL=NOPASSWD: /sbin/reboot\n"}, "privilege", "sudo", "", "etc/sudoers", "# NOPASSWD: c\na ALL=(ALL) ALL # x\nb ALL=NOPASSWD: /sbin/reboot\n"},
		"sudo two lines":  {files{"usr/bin/sudo": "x", "etc/sudoers": "a ALL= \\\n\tNOPASSWD:ALL\n"}, "privilege", "sudo", "", "etc/sudoers", "a ALL= \\\n\tALL\n"},
		"sudo defaults":   {files{"usr/bin/sudo": "x", "etc/sudoers": "Defaults !authenticate\nDefaults env_reset\n"}, "privilege", "sudo", "", "etc/sudoers", "# disabled by backstay: Defaults !authenticate\nDefaults env_reset\n"},
		"sudo two users":  {files{"usr/bin/sudo": "x", "etc/sudoers": "Defaults:al,bo !authenticate\n"}, "privilege", "sudo", "", "etc/sudoers", "# disabled by backstay: Defaults:al,bo !authenticate\n"},
		"sudo in a list":  {files{"usr/bin/sudo": "x", "etc/sudoers": "Defaults:al,bo env_reset , !authenticate , lecture\n"}, "privilege", "sudo", "", "etc/sudoers", "Defaults:al,bo env_reset , lecture\n"},
		"sudo at first":   {files{"usr/bin/sudo": "x", "etc/sudoers": "Defaults !authenticate,env_reset # why\n"}, "privilege", "sudo", "", "etc/sudoers", "Defaults env_reset # why\n"},
		"sudo both lines": {files{"usr/bin/sudo": "x", "etc/sudoers": "Defaults \\\n  !authenticate\n"}, "privilege", "sudo", "", "etc/sudoers", "# disabled by backstay: Defaults \\\n# disabled by backstay:   !authenticate\n"},
		"sudo one of":     {files{"usr/bin/sudo": "x", "etc/sudoers": "Defaults env_reset, !authenticate\n"}, "privilege", "sudo", "", "etc/sudoers", "Defaults env_reset\n"},
		"doas":            {files{"usr/bin/doas": "x", "etc/doas.conf": "permit nopass keepenv :wheel # nopass\n"}, "privilege", "doas", "", "etc/doas.conf", "permit keepenv :wheel # nopass\n"},
		"permit":          {files{"etc/pam.d/login": "auth sufficient pam_permit.so\nauth required pam_unix.so\n"}, "pam", "bypass", "", "etc/pam.d/login", "# disabled by backstay: auth sufficient pam_permit.so\nauth required pam_unix.so\n"},
		"permit alone":    {files{"etc/pam.d/login": "auth required pam_permit.so\n"}, "pam", "bypass", "", "", ""},
		"nullok":          {files{"etc/pam.d/login": "auth required pam_unix.so nullok try_first_pass\npassword required pam_unix.so nullok\n"}, "pam", "nullok", "", "etc/pam.d/login", "auth required pam_unix.so try_first_pass\npassword required pam_unix.so nullok\n"},
	})
}
