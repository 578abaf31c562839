// SPDX-License-Identifier: Apache-2.0

package probe_test

import (
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/backstay/backstay/configs/probe"
)

// fuzzRead feeds bytes as one file to checks that only report: each gives a result with its evidence.
func fuzzRead(f *testing.F, name string, others files, checks [][3]string, seeds ...string) {
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	dir := tree(f, others)
	must(f, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
	root, err := os.OpenRoot(dir)
	must(f, err)
	f.Cleanup(func() { root.Close() })
	f.Fuzz(func(t *testing.T, data []byte) {
		must(t, os.WriteFile(filepath.Join(dir, name), data, 0o644))
		h := probe.NewHost(root, false)
		for _, c := range checks {
			v := newCheck(t, c[0], c[1], c[2]).Check(context.Background(), h)
			switch {
			case v.Result == probe.Pass && (len(v.Inspected) == 0 || v.Reason == ""), v.Result == probe.Fail && len(v.Items) == 0,
				(v.Result == probe.Unknown || v.Result == probe.NotApplicable) && v.Reason == "", v.Result == "":
				t.Fatalf("%s: %+v", c[0], v)
			}
		}
	})
}

func FuzzBootScript(f *testing.F) {
	fuzzRead(f, "boot/boot.scr", nil, [][3]string{{"cmdline", "kernel", `{"deny":["single"]}`}}, scriptImage("setenv bootargs single\n"), "setenv bootargs \"a", scriptImage("")[:70])
}

func FuzzDeviceTree(f *testing.F) {
	fuzzRead(f, "boot/a.dtb", nil, [][3]string{{"cmdline", "kernel", `{"deny":["single"]}`}}, dtb("single"), dtb("")[:60], "\xd0\x0d\xfe\xed")
}

func FuzzExtlinux(f *testing.F) {
	fuzzRead(f, "extlinux/extlinux.conf", nil, [][3]string{{"cmdline", "kernel", `{"deny":["single"]}`}}, "default a\nlabel a\nappend single\n", "append x\nlabel\n")
}

func FuzzGrub(f *testing.F) {
	fuzzRead(f, "boot/grub/grub.cfg", nil, [][3]string{{"cmdline", "kernel", `{"deny":["single"]}`}}, grubCfg("0"), "submenu\n}\n}\nlinux\n", "set default=\"9\"\nlinux /x single")
}

func FuzzUbootText(f *testing.F) {
	fuzzRead(f, "uEnv.txt", nil, [][3]string{{"cmdline", "kernel", `{"deny":["single"]}`}}, "bootargs=single\n", "a=setenv bootargs '\n", "=\nsetenv")
}

func FuzzUbootEnv(f *testing.F) {
	fuzzRead(f, "env", files{"etc/fw_env.config": "/env 0 40\n/env 40 40\n"}, [][3]string{{"uboot-env", "bootdelay", `{"one_of":["-2"],"unset":"2"}`}},
		ubootIn(binary.LittleEndian, 5, 1, []string{"bootdelay=-2"})+ubootIn(binary.BigEndian, 5, 2, []string{"bootdelay=3"}), uboot("a"), "")
}

func FuzzFwEnvConfig(f *testing.F) {
	fuzzRead(f, "etc/fw_env.config", files{"env": uboot("bootdelay=-2")}, [][3]string{{"uboot-env", "bootdelay", `{"one_of":["-2"],"unset":"2"}`}, {"uboot-access", "environment", "{}"}},
		"/env 0x0 0x40\n", "/env -40 40\n#\n/env 9223372036854775807 40", "/env 0 ffffffffffffffff\n")
}

func FuzzKernelConfig(f *testing.F) {
	fuzzRead(f, "boot/config-6", nil, [][3]string{{"kernel-config", "CONFIG_A", `{"one_of":["y"],"since":"5.3","arch":["mips"]}`}, {"kernel-config", "CONFIG_B", `{"min":1,"or":["CONFIG_C=y"]}`}},
		"# Linux/mips 5.15.0 Kernel Configuration\nCONFIG_MIPS=y\nCONFIG_A=y\n", "\nCONFIG_B=0x10\r\nCONFIG_C=\n", "# Linux x y Kernel .\nCONFIG_")
}

func FuzzKernelImage(f *testing.F) {
	conf := "\n# Linux/x86 6.1 Kernel Configuration\nCONFIG_A=y\n"
	fuzzRead(f, "boot/Image", nil, [][3]string{{"kernel-config", "CONFIG_A", `{"one_of":["y"]}`}},
		"x\x7fIKCFG_ST"+gz(f, conf)+"IKCFG_ED", gz(f, "code IKCFG_ST"+gz(f, conf)), "IKCFG_ST\x1f\x8b\x08\x00", "\x1f\x8b\x08")
}

func FuzzConfigGz(f *testing.F) {
	fuzzRead(f, "proc/config.gz", nil, [][3]string{{"kernel-config", "CONFIG_A", `{"one_of":["y"]}`}}, gz(f, "\nCONFIG_A=y\n"), "\x1f\x8b\x08")
}

func FuzzRootMount(f *testing.F) {
	fuzzRead(f, "proc/self/mountinfo", nil, [][3]string{{"root-fs", "/", `{"verity":true}`}, {"root-fs", "/", `{"read_only":true}`}, {"pseudo-fs", "debugfs", "{}"}},
		"1 0 254:0 / / ro - ext4 /dev/dm-0 ro\n", "1 0 0:8 / / rw - overlay o lowerdir=a:,upperdir=\n", "1 0 99999999999:x / / - - a b\n")
}

func FuzzDMAnswer(f *testing.F) {
	f.Add([]byte("x"))
	f.Add(append(make([]byte, 312+24), "verity\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00V\x00"...))
	f.Fuzz(func(t *testing.T, data []byte) {
		if s, err := probe.DMAnswer(data); err == nil && len(s) > len(data) {
			t.Fatal(s)
		}
	})
}

func FuzzSysctlInterface(f *testing.F) {
	fuzzFile(f, "etc/sysctl.conf", "sysctl-iface", "net.ipv4.conf.*.x", `{"combine":"or","one_of":["0"],"set":"0"}`,
		conf("x", "all=0 default=0 eth0=0", files{"usr/lib/systemd/systemd-sysctl": "x"}),
		"net.ipv4.conf.all.x=1\n", "net.ipv4.conf.*.x = 1\n-net.ipv4.conf.all.x\n", "net/ipv4/conf/eth0/x=9\nnet.ipv4.conf.[.x=1\n", "net.ipv4.conf.default.x=")
}

func FuzzDropIn(f *testing.F) {
	fuzzRead(f, "etc/systemd/system/getty@tty1.service.d/a.conf", files{"lib/systemd/systemd": "x", "lib/systemd/system/getty@.service": "[Service]\nTTYPath=/dev/%I\nExecStart=-/sbin/agetty %I\n",
		"etc/systemd/system/getty.target.wants/getty@tty1.service": "-> /lib/systemd/system/getty@.service"}, [][3]string{{"console", "inittab", `{"deny":["shell","autologin"]}`}},
		"[Service]\nExecStart=\nExecStart=-/sbin/agetty --autologin root\n", "[Service\nExecStart=\\\n", "ExecStart=\n")
}
