// SPDX-License-Identifier: Apache-2.0

package probe_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/backstay/backstay/configs/probe"
)

type modes map[string]fs.FileMode

// fileCase is one tree and what a check says about it, as brief or its beginning; fixed says that a fix makes it pass.
type fileCase struct {
	files  files
	modes  modes
	target string
	want   string
	result string
	fixed  bool
}

func runCases(t *testing.T, kind string, live bool, cases map[string]fileCase) {
	t.Helper()
	ctx := context.Background()
	all := func(string) bool { return true }
	for name, c := range cases {
		dir := tree(t, c.files)
		must(t, os.Chmod(dir, 0o755))
		for f, m := range c.modes {
			must(t, os.Chmod(filepath.Join(dir, f), m))
		}
		at := func() *probe.Host {
			if live {
				return runningHost(t, dir)
			}
			return host(t, dir)
		}
		h := at()
		check := newCheck(t, kind, c.target, c.want)
		v := check.Check(ctx, h)
		if got := brief(v); !strings.HasPrefix(got, c.result) || c.result == "pass" && got != "pass" {
			t.Errorf("%s: %s (%s), want %s", name, got, v.Reason, c.result)
		}
		if v.Result == probe.Pass && (len(v.Inspected) == 0 || v.Reason == "") || v.Result != probe.Pass && v.Result != probe.Fail && v.Reason == "" {
			t.Errorf("%s: no evidence: %+v", name, v)
		}
		plan, err := check.Fix(ctx, h, all)
		if !c.fixed {
			if len(plan) > 0 && err == nil && !live {
				t.Errorf("%s: a fix plans %v", name, plan)
			}
			continue
		}
		must(t, err)
		dry := at()
		check.Check(ctx, dry)
		for _, p := range plan {
			dry.Pretend(p)
		}
		if v := check.Check(ctx, dry); v.Result == probe.Fail {
			t.Errorf("%s: pretended: %s", name, brief(v))
		}
		for _, p := range plan {
			must(t, h.Apply(ctx, p))
		}
		if v := check.Check(ctx, at()); v.Result == probe.Fail || len(plan) == 0 {
			t.Errorf("%s: after the fix: %s", name, brief(v))
		}
		if again, _ := check.Fix(ctx, at(), all); len(again) > 0 {
			t.Errorf("%s: a second fix plans %v", name, again)
		}
		for i := len(plan) - 1; i >= 0; i-- {
			must(t, h.Apply(ctx, plan[i].Inverse()))
		}
		if got := brief(check.Check(ctx, at())); got != brief(v) {
			t.Errorf("%s: after the inverse %s", name, got)
		}
	}
}

func TestStartChain(t *testing.T) {
	boot := files{"etc/inittab": "::sysinit:/etc/init.d/rcS\n::respawn:/opt/app/bin/app -x\n", "etc/init.d/rcS": "#!/bin/sh\n. /etc/default/app\n/usr/share/job.sh start\nwander\n", "etc/default/app": "A=1\n", "usr/share/job.sh": "#!/opt/sh -e\necho x\n",
		"opt/sh": "#!x", "opt/app/bin/app": "#!x", "usr/sbin/wander": "#!x", "bin/sh": "#!x", "opt/other/x": "#!x"}
	with := func(more files) files {
		out := files{}
		for _, m := range []files{boot, more} {
			for k, v := range m {
				out[k] = v
			}
		}
		return out
	}
	runCases(t, "start-chain", false, map[string]fileCase{
		"root's alone":        {boot, nil, "start", "", "pass", false},
		"a script":            {boot, modes{"etc/init.d/rcS": 0o777}, "start", "", "fail; /etc/init.d/rcS mode 0777", true},
		"the table of init":   {boot, modes{"etc/inittab": 0o666}, "start", "", "fail; /etc/inittab mode 0666", true},
		"what a script reads": {boot, modes{"etc/default/app": 0o666}, "start", "", "fail; /etc/default/app mode 0666", true},
		"a user's own table":  {with(files{"var/spool/cron/crontabs/app": "1 1 * * * /home/app/x\n", "home/app/x": "#!x"}), modes{"var/spool/cron/crontabs/app": 0o622}, "start", "", "pass", false},
		"a program":           {boot, modes{"opt/app/bin/app": 0o757}, "start", "", "fail; /opt/app/bin/app mode 0757", true},
		"a directory above":   {boot, modes{"opt/app": 0o777}, "start", "", "fail; /opt/app mode 0777, on the way to /opt/app/bin/app", true},
		"an interpreter":      {boot, modes{"opt/sh": 0o777}, "start", "", "fail; /opt/sh mode 0777", true},
		"by its name":         {boot, modes{"usr/sbin/wander": 0o777}, "start", "", "fail; /usr/sbin/wander mode 0777", true},
		"something else":      {boot, modes{"opt/other": 0o777, "opt/other/x": 0o777}, "start", "", "pass", false},
		"the top":             {boot, modes{".": 0o777}, "start", "", "fail; / mode 0777", true},
		"a link to a place":   {with(files{"etc/inittab": "::sysinit:/etc/init.d/rcS\n::respawn:/opt/run\n", "opt/run": "-> /data/drop/run", "data/drop/run": "#!x"}), modes{"data/drop": 0o777}, "start", "", "fail; /data/drop mode 0777, on the way to /opt/run", true},
		"a sticky directory":  {with(files{"etc/inittab": "::sysinit:/etc/init.d/rcS\n::respawn:/tmp/app\n", "tmp/x": ""}), modes{"tmp": 0o777 | fs.ModeSticky}, "start", "", "fail; /tmp mode 1777, on the way to /tmp/app", false},
		"nothing starts":      {files{"etc/passwd": ""}, nil, "start", "", "unknown", false},
		"preload":             {files{"etc/ld.so.preload": "# none\n/lib/hook.so\n", "lib/x": ""}, nil, "loader", "", "fail; /etc/ld.so.preload:2 loads /lib/hook.so", true},
		"empty preload":       {files{"etc/ld.so.preload": "# none\n\n", "lib/x": ""}, nil, "loader", "", "pass", false},
		"library directory":   {files{"etc/ld.so.conf": "include /etc/ld.so.conf.d/*.conf\n", "etc/ld.so.conf.d/a.conf": "/opt/lib # ours\n", "opt/lib/x": "", "lib/x": ""}, modes{"opt/lib": 0o777}, "loader", "", "fail; /opt/lib mode 0777", true},
		"musl":                {files{"etc/ld-musl-armhf.path": "/lib:/opt/lib\n", "opt/lib/x": "", "lib/x": ""}, modes{"opt/lib": 0o777}, "loader", "", "fail; /opt/lib mode 0777", true},
		"no loader":           {files{"bin/x": ""}, nil, "loader", "", "not-applicable", false},
	})
}

func TestSearchPath(t *testing.T) {
	at := func(line string) files {
		return files{"etc/profile": "# PATH=.:/x\n" + line + "\n", "opt/bin/x": "", "usr/bin/x": ""}
	}
	runCases(t, "search-path", false, map[string]fileCase{
		"sound":                {at(`export PATH="/usr/bin:/bin"`), nil, "PATH", "", "pass", false},
		"a dot":                {at("PATH=/usr/bin:.:/bin"), nil, "PATH", "", "fail; /etc/profile:2 PATH has the current directory", true},
		"empty in the middle":  {at(`export PATH='/usr/bin::/bin'`), nil, "PATH", "", "fail", true},
		"empty at the end":     {at("PATH=$PATH: ; export PATH"), nil, "PATH", "", "fail", true},
		"relative":             {at("PATH=bin:/usr/bin"), nil, "PATH", "", "fail; /etc/profile:2 PATH has a relative directory bin", true},
		"writable":             {at("PATH=/usr/bin:/opt/bin"), modes{"opt/bin": 0o777}, "PATH", "", "fail; /etc/profile:2 PATH has /opt/bin, mode 0777", true},
		"not there":            {at("PATH=/usr/bin:/nowhere/bin"), nil, "PATH", "", "pass", false},
		"a variable":           {at(`PATH="${PATH:+$PATH:}/usr/bin"`), nil, "PATH", "", "pass", false},
		"home":                 {at(`PATH=~/bin:$HOME/bin:/usr/bin`), nil, "PATH", "", "pass", false},
		"another variable":     {at("MANPATH=.:/x"), nil, "PATH", "", "pass", false},
		"computed":             {at("PATH=$(getconf PATH):."), nil, "PATH", "", "pass", false},
		"over lines":           {at("export PATH=\\\n/usr/bin:\\\n/bin"), nil, "PATH", "", "pass", false},
		"over lines and a dot": {at("export PATH=\\\n/usr/bin:\\\n.:/bin"), nil, "PATH", "", "fail; /etc/profile:2", false},
		"nothing is left":      {at("PATH=."), nil, "PATH", "", "fail", false},
		"login.defs":           {files{"etc/login.defs": "ENV_SUPATH\tPATH=/sbin:/bin\nENV_PATH PATH=/bin:.\n"}, nil, "PATH", "", "fail; /etc/login.defs:2", true},
		"crontab":              {files{"etc/crontab": "PATH=:/bin\n"}, nil, "PATH", "", "fail; /etc/crontab:1", true},
		"no file":              {files{"x": ""}, nil, "PATH", "", "not-applicable", false},
	})
}

func TestUmask(t *testing.T) {
	at := func(line string) files { return files{"etc/profile": line + "\n"} }
	runCases(t, "umask", false, map[string]fileCase{
		"sound":            {at("umask 022"), nil, "umask", `{"mask":"022"}`, "pass", false},
		"more":             {at("umask 0077"), nil, "umask", `{"mask":"022"}`, "pass", false},
		"open":             {at("umask 000"), nil, "umask", `{"mask":"022"}`, "fail; /etc/profile:1 umask 000", true},
		"after a test":     {at("[ -n \"$X\" ] && umask 002 # group"), nil, "umask", `{"mask":"022"}`, "fail", true},
		"comment":          {at("# umask 000"), nil, "umask", `{"mask":"022"}`, "pass", false},
		"asked for":        {at("umask -S; umask; umask u=rwx"), nil, "umask", `{"mask":"022"}`, "pass", false},
		"another word":     {at("myumask 000\numaskx 000"), nil, "umask", `{"mask":"022"}`, "pass", false},
		"login.defs":       {files{"etc/login.defs": "UMASK\t000\n"}, nil, "umask", `{"mask":"022"}`, "fail; /etc/login.defs:1", true},
		"built in":         {files{"etc/login.defs": "#UMASK 000\n"}, nil, "umask", `{"mask":"027"}`, "fail; /etc/login.defs not set anywhere", false},
		"a start script":   {files{"etc/inittab": "::sysinit:/etc/init.d/rcS\n", "etc/init.d/rcS": "#!/bin/sh\numask 0\n"}, nil, "umask", `{"mask":"022"}`, "fail; /etc/init.d/rcS:2 umask 000", true},
		"nothing to go by": {files{"x": ""}, nil, "umask", `{"mask":"022"}`, "unknown", false},
	})
}

func TestDeviceModes(t *testing.T) {
	const want = `{"nodes":["mtd","mem","i2c-","sd*"],"max":"0660"}`
	mdev := func(l string) files { return files{"etc/mdev.conf": "# mtd.* 0:0 666\n" + l + "\n"} }
	udev := func(l string) files { return files{"etc/udev/rules.d/9.rules": "# x\n" + l + "\n"} }
	runCases(t, "device-modes", false, map[string]fileCase{
		"mdev":             {mdev("mtd[0-9]* root:root 0666"), nil, "dev", want, "fail; /etc/mdev.conf:2 mode 0666", true},
		"mdev, exact":      {mdev("mem root:kmem 662 @/x"), nil, "dev", want, "fail; /etc/mdev.conf:2 mode 0662", true},
		"mdev, all":        {mdev(".* 0:0 0666"), nil, "dev", want, "fail", true},
		"mdev, group":      {mdev("(null|mem|zero) 0:0 0666"), nil, "dev", want, "fail", true},
		"mdev, harmless":   {mdev("(null|zero|full|random|urandom|ptmx|tty) 0:0 0666\n-fuse 0:0 666\n[0-9]+:[0-9]+ 0:0 666\nmtd[0-9]* 0:0 660\n@8,[0-9]+ 0:0 666\nmemory 0:0 666"), nil, "dev", want, "pass", false},
		"mdev, disks":      {mdev("sd[a-z].* root:disk 666 *mount"), nil, "dev", want, "fail; /etc/mdev.conf:2 mode 0666", true},
		"udev":             {udev(`KERNEL=="mtd*", GROUP="x", MODE="0666"`), nil, "dev", want, "fail; /etc/udev/rules.d/9.rules:2 mode 0666", true},
		"udev, subsystem":  {udev(`SUBSYSTEM=="i2c-dev", MODE:="0666"`), nil, "dev", want, "fail", true},
		"udev, exact":      {udev(`SUBSYSTEM=="mem", KERNEL=="null|zero|full", MODE="0666"`), nil, "dev", want, "pass", false},
		"udev, harmless":   {udev(`KERNEL=="fuse", MODE="0666"` + "\n" + `KERNEL=="mtd0", MODE="0640"` + "\n" + `KERNEL=="mtd1", ENV{XMODE="0666"}`), nil, "dev", want, "pass", false},
		"hidden by an own": {files{"etc/udev/rules.d/9.rules": "#\n", "lib/udev/rules.d/9.rules": `KERNEL=="mtd*", MODE="0666"` + "\n"}, nil, "dev", want, "pass", false},
		"no /dev":          {files{"x": ""}, nil, "dev", want, "not-applicable", false},
	})
}

func TestPersistent(t *testing.T) {
	runCases(t, "persistent", false, map[string]fileCase{
		"kept":               {files{"etc/dropbear/x": ""}, nil, "/etc/dropbear", "", "pass", false},
		"link into memory":   {files{"etc/dropbear": "-> /var/run/dropbear", "var/run": "-> /run", "run/x": ""}, nil, "/etc/dropbear", "", "fail; /run/dropbear /run/dropbear is in memory", false},
		"by fstab":           {files{"etc/fstab": "tmpfs /etc/dropbear tmpfs defaults 0 0\n", "etc/dropbear/x": ""}, nil, "/etc/dropbear", "", "fail; /etc/fstab:1 /etc/dropbear is on tmpfs", false},
		"over memory":        {files{"etc/fstab": "tmpfs /var tmpfs defaults 0 0\n/dev/a /var/log ext4 defaults 0 0\n", "var/log/x": ""}, nil, "/var/log", "", "pass", false},
		"log in memory":      {files{"var/log": "-> ../tmp", "tmp/x": ""}, nil, "/var/log", "", "fail", false},
		"elsewhere":          {files{"etc/dropbear": "-> /data/dropbear", "data/dropbear/x": ""}, nil, "/etc/dropbear", "", "pass", false},
		"elsewhere, not yet": {files{"etc/dropbear": "-> /data/dropbear", "data/x": ""}, nil, "/etc/dropbear", "", "pass", false},
		"not there":          {files{"x": ""}, nil, "/etc/dropbear", "", "not-applicable", false},
	})
	info := "22 1 179:2 / / ro - ext4 /dev/root ro\n23 22 0:21 / /var rw - tmpfs none rw\n24 23 179:3 / /var/lib rw - ext4 /dev/p3 rw\n"
	runCases(t, "persistent", true, map[string]fileCase{
		"live, in memory": {files{"proc/self/mountinfo": info, "var/log/x": ""}, nil, "/var/log", "", "fail; /proc/self/mountinfo:2 /var/log is on tmpfs", false},
		"live, kept":      {files{"proc/self/mountinfo": info, "var/lib/x": ""}, nil, "/var/lib", "", "pass", false},
	})
	crypt := strings.Replace(info, "179:3", "253:1", 1)
	runCases(t, "encrypted", true, map[string]fileCase{
		"plain":             {files{"proc/self/mountinfo": info, "var/lib/x": "", "sys/dev/block/179:3/size": "1"}, nil, "/var/lib", "", "fail; /proc/self/mountinfo:3 ext4 on /dev/p3", false},
		"luks":              {files{"proc/self/mountinfo": crypt, "var/lib/x": "", "sys/dev/block/253:1/dm/uuid": "CRYPT-LUKS2-abc-data\n"}, nil, "/var/lib", "", "pass", false},
		"below a volume":    {files{"proc/self/mountinfo": crypt, "var/lib/x": "", "sys/dev/block/253:1/dm/uuid": "LVM-abc\n", "sys/dev/block/253:1/slaves/dm-0/dm/uuid": "CRYPT-PLAIN-x\n"}, nil, "/var/lib", "", "pass", false},
		"verity is no code": {files{"proc/self/mountinfo": crypt, "var/lib/x": "", "sys/dev/block/253:1/dm/uuid": "CRYPT-VERITY-abc\n"}, nil, "/var/lib", "", "fail", false},
		"in memory":         {files{"proc/self/mountinfo": info, "var/log/x": ""}, nil, "/var/log", "", "pass", false},
	})
}

func TestMountClasses(t *testing.T) {
	const data, removable = `{"options":["nosuid","nodev"]}`, `{"options":["nosuid","nodev","noexec"]}`
	fstab := func(l string) files { return files{"etc/fstab": l + "\n"} }
	runCases(t, "mounts", false, map[string]fileCase{
		"data":                {fstab("/dev/p3 /data ext4 defaults,noatime 0 2"), nil, "data", data, "fail; /etc/fstab:1 defaults,noatime", true},
		"data is sound":       {fstab("/dev/p3 /data ext4 nosuid,nodev 0 2\nubi0:cfg /mnt/cfg ubifs nosuid,nodev 0 0"), nil, "data", data, "pass", false},
		"the system":          {fstab("/dev/p2 / ext4 ro 0 1\n/dev/p4 /usr squashfs ro 0 0\n/dev/p4 /usr/local ext4 rw 0 0\ntmpfs /tmp tmpfs nosuid 0 0\nproc /proc proc defaults 0 0\n/dev/p9 none swap sw 0 0"), nil, "data", data, "not-applicable", false},
		"no fstab":            {files{"x": ""}, nil, "data", data, "not-applicable", false},
		"removable":           {fstab("/dev/sda1 /media/usb vfat rw 0 0"), nil, "removable", removable, "fail; /etc/fstab:1 rw", true},
		"by users":            {fstab("/dev/sda1 /media/usb vfat noauto,users 0 0"), nil, "removable", removable, "pass", false},
		"by users, exec":      {fstab("/dev/sda1 /media/usb vfat noauto,user,exec 0 0"), nil, "removable", removable, "fail", true},
		"by hand":             {fstab("/dev/cdrom /media/cdrom iso9660 noauto,ro 0 0"), nil, "removable", removable, "not-applicable", false},
		"by hand, to write":   {fstab("/dev/sda1 /media/usb vfat noauto 0 0"), nil, "removable", removable, "fail; /etc/fstab:1 noauto", true},
		"mdev script":         {files{"etc/mdev/mount.sh": "#!/bin/sh\n# mount /dev/$MDEV /x\nmkdir -p /media/$MDEV\nmount -t auto \"/dev/${MDEV}\" /media/$MDEV || rmdir /media/$MDEV\n"}, nil, "removable", removable, "fail; /etc/mdev/mount.sh:4", false},
		"mdev script, sound":  {files{"lib/mdev/automount": "#!/bin/sh\nmount -o nosuid,nodev,noexec,sync -t auto /dev/$MDEV /media/$MDEV\n"}, nil, "removable", removable, "pass", false},
		"udev script":         {files{"etc/udev/scripts/mount.sh": "MOUNT=\"/bin/mount\"\nif ! $MOUNT -t auto $DEVNAME \"/media/$name\"\nthen x\nfi\n"}, nil, "removable", removable, "fail; /etc/udev/scripts/mount.sh:2", false},
		"udev script, sound":  {files{"etc/udev/scripts/mount.sh": "MOUNT=\"/bin/mount -o nosuid,nodev,noexec\"\n$MOUNT -t auto $DEVNAME \"/media/$name\"\n"}, nil, "removable", removable, "pass", false},
		"udev rule":           {files{"etc/udev/rules.d/a.rules": `KERNEL=="sd*", RUN+="/usr/bin/systemd-mount --no-block -o nosuid,nodev $env{DEVNAME} /media/%k"` + "\n"}, nil, "removable", removable, "fail; /etc/udev/rules.d/a.rules:1", false},
		"usbmount":            {files{"etc/usbmount/usbmount.conf": "# x\nMOUNTOPTIONS=\"sync,noexec,nodev,nosuid,noatime\"\n"}, nil, "removable", removable, "pass", false},
		"remount is no mount": {files{"etc/mdev/x.sh": "mount -o remount,rw /dev/$MDEV /x\n"}, nil, "removable", removable, "not-applicable", false},
	})
	info := "22 1 179:2 / / ro - ext4 /dev/root ro\n23 22 8:1 / /srv rw,nosuid,nodev - ext4 /dev/sda1 rw\n24 22 179:3 / /data rw,nosuid - ext4 /dev/p3 rw\n"
	runCases(t, "mounts", true, map[string]fileCase{
		"live data":  {files{"proc/self/mountinfo": info, "sys/dev/block/8:1": "-> ../../devices/usb1/sda/sda1", "sys/devices/usb1/sda/sda1/x": ""}, nil, "data", data, "fail; /proc/self/mountinfo:3 rw,nosuid", false},
		"live stick": {files{"proc/self/mountinfo": info, "sys/dev/block/8:1": "-> ../../devices/host/sda/sda1", "sys/devices/host/sda/sda1/x": "", "sys/devices/host/sda/removable": "1\n"}, nil, "removable", removable, "fail; /proc/self/mountinfo:2 rw,nosuid,nodev", false},
	})
}

func TestLines(t *testing.T) {
	const want = `{"subject":"s","also":["/etc/a.d/*.conf"],"deny":["option check 0","*trusted=yes*"],"require":["option check*"],"disable":true}`
	runCases(t, "lines", false, map[string]fileCase{
		"there":         {files{"etc/a": "x\n\tOption   Check\r\n"}, nil, "/etc/a", want, "pass", false},
		"missing":       {files{"etc/a": "# option check\n"}, nil, "/etc/a", want, "fail; /etc/a no line sets it", false},
		"in another":    {files{"etc/a": "x\n", "etc/a.d/1.conf": "option check\n", "etc/a.d/2": "trusted=yes\n"}, nil, "/etc/a", want, "pass", false},
		"denied":        {files{"etc/a": "option check\nsrc [trusted=yes] http://user:secret@x\n"}, nil, "/etc/a", want, "fail; /etc/a:2 a line like *trusted=yes*", true},
		"commented out": {files{"etc/a": "option check\n#trusted=yes\n ; trusted=yes\n"}, nil, "/etc/a", want, "pass", false},
		"none":          {files{"etc/b": ""}, nil, "/etc/a", want, "not-applicable", false},
		"unless":        {files{"etc/a": "a b\na c\n"}, nil, "/etc/a", `{"subject":"s","deny":["a *"],"unless":["* b"]}`, "fail; /etc/a:2", false},
	})
	for line, patterns := range map[string]map[string]bool{"abc abc": {"abc*": true, "*abc": true, "a*c": true, "*": true, "abc": false, "*abc*abc*": true, "*abc*abc*abc*": false, "abc abc*c": false, "**": true, "": false}} {
		for p, want := range patterns {
			if probe.Matches(p, line) != want {
				t.Errorf("%q matches %q: %v", p, line, !want)
			}
		}
	}
}

func TestStarted(t *testing.T) {
	boot := files{"etc/inittab": "::respawn:/sbin/syslogd -n -R 10.0.0.1\n::respawn:/usr/sbin/ntpd -n -l\n# ::respawn:/sbin/klogd\n"}
	runCases(t, "started", false, map[string]fileCase{
		"started":      {boot, nil, "any", `{"programs":["syslogd"]}`, "pass", false},
		"with":         {boot, nil, "any", `{"programs":["syslogd"],"with":["-R"]}`, "pass", false},
		"without":      {boot, nil, "any", `{"programs":["ntpd"],"without":["-l"]}`, "fail", false},
		"not started":  {boot, nil, "any", `{"programs":["klogd"]}`, "fail; /etc/inittab 1 files and tables, none has klogd", false},
		"none":         {boot, nil, "any", `{"programs":["ntpd"],"none":true,"with":["-l"]}`, "fail; /etc/inittab:2 starts ntpd with -l", false},
		"none, merged": {files{"etc/inittab": "::once:/usr/bin/curl -fsSLk https://x\n"}, nil, "any", `{"programs":["curl"],"none":true,"with":["-k","--insecure"]}`, "fail", false},
		"none, sound":  {files{"etc/inittab": "::once:/usr/bin/curl -o kernel --cacert /k --kinsecure https://x\n# curl -k x\n::once:swupdate -k /x\n"}, nil, "any", `{"programs":["curl"],"none":true,"with":["-k","--insecure"]}`, "pass", false},
		"nobody knows": {files{"x": ""}, nil, "any", `{"programs":["klogd"]}`, "unknown", false},
	})
}

func certificate(t *testing.T, bits int, alg x509.SignatureAlgorithm, edit func(*x509.Certificate)) string {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, bits)
	must(t, err)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "device"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), SignatureAlgorithm: alg}
	parent := &x509.Certificate{Subject: pkix.Name{CommonName: "authority"}}
	if edit != nil {
		edit(tmpl)
	}
	if tmpl.IsCA || tmpl.Subject.CommonName == "localhost" {
		parent = tmpl
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, k.Public(), k)
	must(t, err)
	return pemOf("CERTIFICATE", der)
}

func TestCertificates(t *testing.T) {
	t.Setenv("GODEBUG", "x509sha1=1,rsa1024min=0")
	good := certificate(t, 2048, x509.SHA256WithRSA, nil)
	expired := certificate(t, 2048, x509.SHA256WithRSA, func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Date(2015, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	})
	local := certificate(t, 2048, x509.SHA256WithRSA, func(c *x509.Certificate) { c.Subject.CommonName = "localhost" })
	ca := certificate(t, 2048, x509.SHA256WithRSA, func(c *x509.Certificate) {
		c.IsCA, c.BasicConstraintsValid, c.NotAfter = true, true, time.Now().Add(-time.Minute)
	})
	weak := certificate(t, 1024, x509.SHA256WithRSA, nil)
	runCases(t, "certificate", false, map[string]fileCase{
		"sound":             {files{"etc/ssl/a.crt": good}, nil, "/", "", "pass", false},
		"expired":           {files{"etc/ssl/a.pem": "text\n" + good + expired}, nil, "/", "", "fail; /etc/ssl/a.pem device: expired 2020-01-01", false},
		"small key":         {files{"etc/ssl/a.crt": weak}, nil, "/", "", "fail; /etc/ssl/a.crt device: an RSA key of 1024 bits", false},
		"localhost":         {files{"etc/ssl/a.crt": local}, nil, "/", "", "fail; /etc/ssl/a.crt localhost: a certificate for localhost", false},
		"authority expired": {files{"etc/ssl/certs/ca.pem": ca}, nil, "/", "", "pass", false},
		"left out":          {files{"usr/share/doc/a.crt": weak}, nil, "/", `{"skip":["/usr/share/doc"]}`, "not-applicable", false},
		"no certificate":    {files{"etc/a.pem": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"}, nil, "/", "", "not-applicable", false},
	})
	runCases(t, "certificate", true, map[string]fileCase{"localhost, live": {files{"etc/ssl/a.crt": local}, nil, "/", "", "pass", false}})
	for alg, want := range map[x509.SignatureAlgorithm]string{x509.MD5WithRSA: "a signature with MD5", x509.SHA1WithRSA: "a signature with SHA-1", x509.ECDSAWithSHA1: "a signature with SHA-1", x509.SHA256WithRSA: ""} {
		c := &x509.Certificate{SignatureAlgorithm: alg, RawSubject: []byte("a"), RawIssuer: []byte("b"), Version: 3, NotAfter: time.Now().Add(time.Hour)}
		if got := probe.Unsound(c, time.Now(), false); got != want {
			t.Errorf("%v: %q", alg, got)
		}
		c.RawIssuer, c.IsCA = c.RawSubject, true
		if got := probe.Unsound(c, time.Now(), false); got != "" {
			t.Errorf("an authority that signed itself with %v: %q", alg, got)
		}
	}
}

func TestKeyModes(t *testing.T) {
	k := pemOf("PRIVATE KEY", keys(t)["PKCS#8 ec"])
	cert := pemOf("CERTIFICATE", selfSigned(t, nil))
	runCases(t, "key-modes", false, map[string]fileCase{
		"open":          {files{"etc/ssl/a.key": k}, modes{"etc/ssl/a.key": 0o644}, "/", "", "fail; /etc/ssl/a.key private key a.key, mode 0644", true},
		"closed":        {files{"etc/ssl/a.key": k}, modes{"etc/ssl/a.key": 0o600}, "/", "", "pass", false},
		"of a group":    {files{"etc/ssl/a.key": k}, modes{"etc/ssl/a.key": 0o640}, "/", "", "pass", false},
		"in one file":   {files{"etc/ssl/a.pem": cert + k}, modes{"etc/ssl/a.pem": 0o644}, "/", "", "fail", true},
		"encrypted too": {files{"etc/ssl/a.key": pemOf("ENCRYPTED PRIVATE KEY", []byte(k))}, modes{"etc/ssl/a.key": 0o604}, "/", "", "fail", true},
		"host key":      {files{"etc/dropbear/dropbear_rsa_host_key": strings.Repeat("\x00k", 40)}, modes{"etc/dropbear/dropbear_rsa_host_key": 0o644}, "/", "", "fail", true},
		"public":        {files{"etc/apk/keys/a.rsa.pub": "-----BEGIN PUBLIC KEY-----\nAAAAAAAAAAAAAAAAAAAAAAA\n", "usr/share/dns/root.key": ". 172800 IN DNSKEY 257 3 8 AwEAAaz/tAm8yTn4Mfeh5eyI96WSVexTBAvkMgJzkKTOiW1vkIbzxeF3\n", "etc/a.crt": cert}, nil, "/", "", "not-applicable", false},
	})
}

func TestClock(t *testing.T) {
	dir := tree(t, files{"etc/os-release": "ID=x\n"})
	check := newCheck(t, "clock", "now", "")
	ctx := context.Background()
	if v := check.Check(ctx, runningHost(t, dir)); v.Result != probe.Pass || len(v.Inspected) == 0 {
		t.Error(brief(v))
	}
	later := time.Now().Add(48 * time.Hour)
	must(t, os.Chtimes(filepath.Join(dir, "etc/os-release"), later, later))
	if v := check.Check(ctx, runningHost(t, dir)); v.Result != probe.Fail {
		t.Error(brief(v))
	}
	if v := check.Check(ctx, host(t, dir)); v.Result != probe.Unknown {
		t.Error(brief(v))
	}
	if v := check.Check(ctx, runningHost(t, t.TempDir())); v.Result != probe.Unknown {
		t.Error(brief(v))
	}
}
