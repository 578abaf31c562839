// SPDX-License-Identifier: Apache-2.0

// Package plantroot makes small busybox and dropbear root directories for tests and for the lab: [Plant] one with insecure
// defaults, as found in shipped images, and [Clean] its twin without them.
//
// The trees hold text files and empty programs only; nothing in them can run. A Plant is insecure by purpose: keep it in a
// directory that only its owner can enter.
package plantroot

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// file is one entry of a tree. A name that ends in "/" is a directory; link makes a symbolic link.
type file struct {
	name string
	mode fs.FileMode
	text string
	link string

	after func(path string) error // what is done to the file at last
}

// Clean makes a tree in dir in which every rule of the built-in profiles passes or does not apply.
func Clean(dir string) error {
	return write(dir, skeleton())
}

// Plant makes the same tree with one defect for each rule id that it returns, sorted. Rules not named have none. Some defects
// only root can plant: see [RootOnly].
func Plant(dir string) ([]string, error) {
	if err := write(dir, skeleton()); err != nil {
		return nil, err
	}
	key, err := privateKey()
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, d := range defects(key) {
		if d.root && os.Getuid() != 0 {
			continue
		}
		if err := write(dir, d.files); err != nil {
			return nil, fmt.Errorf("plant %v: %w", d.rules, err)
		}
		ids = append(ids, d.rules...)
	}
	slices.Sort(ids)
	return ids, nil
}

// RootOnly lists the rules whose defects only root can plant.
func RootOnly() []string {
	var ids []string
	for _, d := range defects("") {
		if d.root {
			ids = append(ids, d.rules...)
		}
	}
	return ids
}

func write(dir string, files []file) error {
	for _, f := range files {
		p := filepath.Join(dir, filepath.FromSlash(f.name))
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			return err
		}
		switch {
		case f.link != "":
			if err := os.Symlink(f.link, p); err != nil {
				return err
			}
			continue
		case f.name[len(f.name)-1] == '/':
			if err := os.MkdirAll(p, 0o755); err != nil {
				return err
			}
		default:
			if err := os.WriteFile(p, []byte(f.text), 0o600); err != nil {
				return err
			}
		}
		if err := os.Chmod(p, f.mode); err != nil { // whatever the umask is
			return err
		}
		if f.after != nil {
			if err := f.after(p); err != nil {
				return err
			}
		}
	}
	return nil
}

// skeleton is a hardened Buildroot-like system. The links are absolute, as busybox installs them: read outside of a chroot
// they point at the host.
func skeleton() []file {
	out := []file{
		{name: "./", mode: 0o755}, {name: "etc/", mode: 0o755}, {name: "etc/init.d/", mode: 0o755}, {name: "root/", mode: 0o700}, {name: "home/admin/", mode: 0o755},
		{name: "tmp/", mode: 0o755 | fs.ModeSticky}, {name: "dev/", mode: 0o755}, {name: "var/log/", mode: 0o755}, {name: "www/", mode: 0o755},
		{name: "bin/busybox", mode: 0o755, text: "busybox\n"},
		{name: "usr/bin/app", mode: 0o755, text: "app\n"},
		{name: "etc/os-release", mode: 0o644, text: "NAME=Buildroot\nID=buildroot\nVERSION_ID=2024.02\n"},
		{name: "etc/passwd", mode: 0o644, text: passwd}, {name: "etc/group", mode: 0o644, text: "root:x:0:\ndaemon:x:1:\nwww-data:x:33:\nadmin:x:1000:\n"},
		{name: "etc/shadow", mode: 0o600, text: shadow}, {name: "etc/inittab", mode: 0o644, text: inittab},
		{name: "etc/inetd.conf", mode: 0o644, text: inetd},
		{name: "etc/init.d/rcS", mode: 0o755, text: "#!/bin/sh\nfor i in /etc/init.d/S??*; do [ -x \"$i\" ] && \"$i\" start; done\n"},
		{name: "etc/init.d/S50dropbear", mode: 0o755, text: startDropbear},
		{name: "etc/init.d/S90app", mode: 0o755, text: "#!/bin/sh\n# telnetd used to be started here\nkillall telnetd 2>/dev/null\n/usr/bin/app &\n"},
		{name: "etc/fstab", mode: 0o644, text: fstab},
		{name: "etc/sysctl.conf", mode: 0o644, text: "# kernel\nkernel.kptr_restrict = 2\nkernel.dmesg_restrict=1\nfs.suid_dumpable = 0\n"},
		{name: "usr/bin/gen-cert.sh", mode: 0o755, text: "#!/bin/sh\ngrep -q -- '-----BEGIN PRIVATE KEY-----' \"$1\" || exit 1\n"},
	}
	for _, applet := range []string{"sh", "su", "getty", "login", "false"} {
		out = append(out, file{name: "bin/" + applet, link: "/bin/busybox"})
	}
	out = append(out, file{name: "sbin/init", link: "/bin/busybox"}, file{name: "var/run", link: "/run"}, file{name: "run/", mode: 0o755})
	out = append(out, fileSkeleton()...)
	out = append(out, kernelSkeleton()...)
	out = append(out, loginSkeleton()...)
	out = append(out, serviceSkeleton()...)
	out = append(out, bootSkeleton()...)
	out = append(append(out, firewallSkeleton()...), radioSkeleton()...)
	return out
}

const (
	passwd = `root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
admin:x:1000:1000:admin:/home/admin:/bin/sh
`
	shadow = `root:*:19000:0:99999:7:::
daemon:*:19000:0:99999:7:::
www-data:*:19000:0:99999:7:::
admin:!:19000:0:99999:7:::
`
	inittab = `# busybox init
::sysinit:/bin/mount -t proc proc /proc
::sysinit:/bin/mount -o remount,ro /
::sysinit:/etc/init.d/rcS
::respawn:/bin/sh -c "exec /usr/bin/app"
# ttyS0::respawn:-/bin/sh
::ctrlaltdel:/bin/true
::shutdown:/bin/umount -a -r
`
	inetd = `# service type protocol wait user server arguments
#telnet	stream	tcp	nowait	root	/usr/sbin/telnetd	telnetd
8080	stream	tcp	nowait	www-data	/usr/bin/app	app --status
`
	startDropbear = `#!/bin/sh
[ -r /etc/default/dropbear ] && . /etc/default/dropbear
case "$1" in
start) start-stop-daemon -S -q -p /var/run/dropbear.pid --exec /usr/sbin/dropbear -- $DROPBEAR_ARGS ;;
stop) start-stop-daemon --stop -q -p /var/run/dropbear.pid ;;
esac
`
	fstab = `# device	mount	type	options	dump pass
proc	/proc	proc	defaults,nosuid,nodev,noexec,hidepid=2	0	0
tmpfs	/tmp	tmpfs	nosuid,nodev,noexec,mode=1777	0	0
`
)

func privateKey() (string, error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", err
	}
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return "", err
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), nil
}
