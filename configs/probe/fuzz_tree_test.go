// SPDX-License-Identifier: Apache-2.0

package probe_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/backstay/backstay/configs/probe"
)

func FuzzCapability(f *testing.F) {
	f.Add(netRaw)
	f.Add([]byte{1, 0, 0, 2})
	f.Add(make([]byte, 24))
	f.Fuzz(func(t *testing.T, attr []byte) { probe.CapabilityText(attr) })
}

// FuzzMountinfo: whatever the table is, a remount only adds, and its inverse is the state before.
func FuzzMountinfo(f *testing.F) {
	f.Add([]byte(mountinfo))
	f.Add([]byte("1 1 0:1 / /tmp rw,nosuid - tmpfs a rw\n1 1 0:1 / /tmp - - - - -\n"))
	f.Add([]byte("1 1 0:1 / /tmp hidepid=2,nodev shared:1 - proc a hidepid=,hidepid=9\n"))
	dir := tree(f, files{"tmp/x": "", "proc/self/x": ""})
	root, err := os.OpenRoot(dir)
	must(f, err)
	f.Cleanup(func() { root.Close() })
	check := newCheck(f, "mount", "/tmp", `{"options":["nosuid","nodev","hidepid=2"]}`)
	f.Fuzz(func(t *testing.T, data []byte) {
		must(t, os.WriteFile(filepath.Join(dir, "proc/self/mountinfo"), data, 0o644))
		h := probe.NewHost(root, true)
		ctx := context.Background()
		v := check.Check(ctx, h)
		if v.Result == probe.Pass && len(v.Inspected) == 0 {
			t.Fatalf("%+v", v)
		}
		plan, err := check.Fix(ctx, h, func(string) bool { return true })
		if err != nil {
			return
		}
		for _, c := range plan {
			if !h.Ready(ctx, c) {
				t.Fatalf("not ready: %s -> %s", c.Before, c.After)
			}
			h.Pretend(c)
			if !h.Holds(ctx, c) || !h.Ready(ctx, c.Inverse()) {
				t.Fatalf("does not hold: %s -> %s", c.Before, c.After)
			}
		}
	})
}

func FuzzProfile(f *testing.F) {
	fuzzFile(f, "etc/profile", "umask", "umask", `{"mask":"027"}`, files{"etc/init.d/rcS": "#!/bin/sh\numask 077\n", "etc/inittab": "::sysinit:/etc/init.d/rcS\n"},
		"umask 000\n", "UMASK\t0", "umask 7777", "umask 0 umask 0", "(umask 00)\r\n")
}

// FuzzSearchPath: a fix leaves only what is sound, or says that it cannot.
func FuzzSearchPath(f *testing.F) {
	fuzzFile(f, "etc/profile", "search-path", "PATH", "", files{"usr/bin/x": ""},
		"PATH=.:/bin\n", "export PATH=\"$PATH:\"", "PATH='::'", "PATH=a\\\n:b", "PATH=${A:-:}:/x", "X PATH=/bin:;PATH=.")
}

func FuzzMdev(f *testing.F) {
	fuzzFile(f, "etc/mdev.conf", "device-modes", "dev", `{"nodes":["mtd","sd*"],"max":"0660"}`, nil,
		"mtd[0-9]* 0:0 666\n", "-.* a:b 777 @x\n", "(mtd|x 0:0 0666", "mtd 0:0 7777\n", "sd?* 0 6")
}

func FuzzUdevRule(f *testing.F) {
	fuzzFile(f, "etc/udev/rules.d/a.rules", "device-modes", "dev", `{"nodes":["mtd","sd*"],"max":"0660"}`, nil,
		`KERNEL=="mtd*", MODE="0666"`, `SUBSYSTEM=="mtd",MODE:="777`, `MODE="0666" KERNEL=="`, `KERNEL=="mtd0",MODE="1"`)
}

func FuzzLoader(f *testing.F) {
	fuzzFile(f, "etc/ld.so.preload", "start-chain", "loader", "", files{"lib/x": ""}, "/lib/a.so\n", "# x\n a:b,c", "/lib/../..//x\x00")
}

func FuzzLines(f *testing.F) {
	fuzzFile(f, "etc/a", "lines", "/etc/a", `{"subject":"s","deny":["a*b*","*=0"],"disable":true}`, nil, "a b\n", "A\tB = 0\r\n", "#ab", "a*b")
}

func FuzzCertificate(f *testing.F) {
	dir := tree(f, files{"a.pem": ""})
	root, err := os.OpenRoot(dir)
	must(f, err)
	f.Cleanup(func() { root.Close() })
	f.Add([]byte(pemOf("CERTIFICATE", selfSigned(f, nil))))
	f.Add(selfSigned(f, nil))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----BEGIN CERTIFICATE-----\n"))
	check := newCheck(f, "certificate", "/", "")
	modes := newCheck(f, "key-modes", "/", "")
	f.Fuzz(func(t *testing.T, data []byte) {
		must(t, os.WriteFile(filepath.Join(dir, "a.pem"), data, 0o644))
		h := probe.NewHost(root, false)
		check.Check(context.Background(), h)
		modes.Check(context.Background(), h)
	})
}

func FuzzAutomount(f *testing.F) {
	dir := tree(f, files{"etc/mdev/x": ""})
	root, err := os.OpenRoot(dir)
	must(f, err)
	f.Cleanup(func() { root.Close() })
	for _, s := range []string{"mount -o a,b /dev/$MDEV /x\n", "MOUNT=\"mount -o\"\n$MOUNT", "MOUNTOPTIONS=\"\n", "mount --options= -o"} {
		f.Add([]byte(s))
	}
	check := newCheck(f, "mounts", "removable", `{"options":["noexec"]}`)
	f.Fuzz(func(t *testing.T, data []byte) {
		must(t, os.WriteFile(filepath.Join(dir, "etc/mdev/x"), data, 0o644))
		h := probe.NewHost(root, false)
		check.Check(context.Background(), h)
		check.Fix(context.Background(), h, func(string) bool { return true })
	})
}
