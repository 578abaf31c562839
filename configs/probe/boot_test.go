// SPDX-License-Identifier: Apache-2.0

package probe_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/backstay/backstay/configs/probe"
)

func TestKernelCommandLine(t *testing.T) {
	const (
		deny = `{"deny":["single","1","init=/bin/*","mitigations=off","rd.break*","debug"]}`
		need = `{"require_any":["lockdown=integrity","lockdown=confidentiality"]}`
	)
	one := func(name, text string) files { return files{name: text} }
	runChecks(t, map[string]checkCase{
		"proc":                      {one("proc/cmdline", "root=/dev/sda1 single quiet\n"), "cmdline", "kernel", deny, "fail; /proc/cmdline single"},
		"part of a word":            {one("proc/cmdline", "console=ttyS0 singles nodebug debugx=1 11 init=/sbin/init initx=/bin/sh\n"), "cmdline", "kernel", deny, "pass"},
		"beginning of a path":       {one("proc/cmdline", "init=/bin/sh\n"), "cmdline", "kernel", deny, "fail; /proc/cmdline init=/bin/sh"},
		"beginning of a word":       {one("proc/cmdline", "rd.break=pre-mount\n"), "cmdline", "kernel", deny, "fail"},
		"the last value counts":     {one("proc/cmdline", "mitigations=off mitigations=auto\n"), "cmdline", "kernel", deny, "pass"},
		"the last value is bad":     {one("proc/cmdline", "mitigations=auto mitigations=off\n"), "cmdline", "kernel", deny, "fail"},
		"in quotes":                 {one("proc/cmdline", `dyndbg="file a +p; single 1 debug" quiet`), "cmdline", "kernel", deny, "pass"},
		"wanted":                    {one("proc/cmdline", "quiet lockdown=integrity\n"), "cmdline", "kernel", need, "pass"},
		"wanted and missing":        {one("proc/cmdline", "quiet\n"), "cmdline", "kernel", need, "fail"},
		"nothing known":             {one("etc/passwd", "x"), "cmdline", "kernel", deny, "unknown"},
		"raspberry":                 {one("boot/firmware/cmdline.txt", "console=tty1 root=PARTUUID=1-02 debug\n"), "cmdline", "kernel", deny, "fail; /boot/firmware/cmdline.txt debug"},
		"extlinux default":          {one("boot/extlinux/extlinux.conf", "default a\nlabel b\nappend single\nlabel a\nAPPEND quiet\n"), "cmdline", "kernel", deny, "pass"},
		"extlinux default is bad":   {one("boot/extlinux/extlinux.conf", "DEFAULT b\nlabel a\nappend quiet\nlabel b\n  append root=/dev/x single\n"), "cmdline", "kernel", deny, "fail; /boot/extlinux/extlinux.conf:5 single"},
		"extlinux first":            {one("extlinux/extlinux.conf", "label a\nappend debug\nlabel b\nappend quiet\n"), "cmdline", "kernel", deny, "fail; /extlinux/extlinux.conf:2"},
		"uEnv":                      {one("boot/uEnv.txt", "#bootargs=single\noptargs=quiet debug\nbootdelay=1\n"), "cmdline", "kernel", deny, "fail; /boot/uEnv.txt:2 debug"},
		"uEnv script":               {one("uEnv.txt", "mmcargs=setenv bootargs console=${console} single; run x 1\n"), "cmdline", "kernel", deny, "fail; /uEnv.txt:1 single"},
		"a command is no argument":  {one("uEnv.txt", "uenvcmd=if test 1; then run debug single; fi; mmc dev 1\nbootargs=quiet\n"), "cmdline", "kernel", deny, "pass"},
		"armbian":                   {one("boot/armbianEnv.txt", "extraargs=mitigations=off\n"), "cmdline", "kernel", deny, "fail; /boot/armbianEnv.txt:1"},
		"grub default":              {one("boot/grub/grub.cfg", grubCfg("0")), "cmdline", "kernel", deny, "pass"},
		"grub other default":        {one("boot/grub/grub.cfg", grubCfg("2")), "cmdline", "kernel", deny, "fail; /boot/grub/grub.cfg:13 debug"},
		"grub saved default":        {one("boot/grub/grub.cfg", grubCfg("${saved_entry}")), "cmdline", "kernel", deny, "pass"},
		"what grub.cfg is made of":  {one("etc/default/grub", "GRUB_DEFAULT=0\nGRUB_CMDLINE_LINUX_DEFAULT=\"quiet debug\"\n#GRUB_CMDLINE_LINUX=\"single\"\n"), "cmdline", "kernel", deny, "fail; /etc/default/grub:2 debug"},
		"loader entry":              {one("efi/loader/entries/a.conf", "title x\noptions root=/dev/x rd.break\n"), "cmdline", "kernel", deny, "fail; /efi/loader/entries/a.conf:2"},
		"script":                    {one("boot/boot.cmd", "# setenv bootargs single\nsetenv bootargs \"console=ttyS0 1\"\nbootz ${a}\n"), "cmdline", "kernel", deny, "fail; /boot/boot.cmd:2 1"},
		"script image":              {one("boot/boot.scr", scriptImage("setenv bootargs console=ttyS0 init=/bin/sh\nbootm\n")), "cmdline", "kernel", deny, "fail; /boot/boot.scr:1 init=/bin/sh"},
		"script image with a lie":   {files{"boot/boot.scr": scriptImage("setenv x")[:70] + "\xff\xff", "proc/cmdline": "quiet\n"}, "cmdline", "kernel", deny, "unknown"},
		"device tree":               {one("boot/board.dtb", dtb("console=ttyS0 single")), "cmdline", "kernel", deny, "fail; /boot/board.dtb /chosen/bootargs single"},
		"device tree of another":    {one("boot/board.dtb", dtb("console=ttyS0")), "cmdline", "kernel", deny, "pass"},
		"device tree cut":           {one("boot/board.dtb", dtb("console=ttyS0")[:120]), "cmdline", "kernel", deny, "unknown"},
		"built in":                  {one("boot/config-6.1", "#\nCONFIG_CMDLINE=\"quiet debug\"\n"), "cmdline", "kernel", deny, "fail; /boot/config-6.1 CONFIG_CMDLINE debug"},
		"environment of the loader": {files{"etc/fw_env.config": "/env 0 40\n", "env": uboot("bootargs=console=ttyS0 1")}, "cmdline", "kernel", deny, "fail; /etc/fw_env.config bootargs 1"},
	})
}

func grubCfg(def string) string {
	return "function x {\n}\nset default=\"" + def + "\"\nmenuentry 'a' --class x {\n\tlinux /vmlinuz root=/dev/x ro quiet\n}\nsubmenu 'more' {\n\tmenuentry 'recovery' {\n\t\tlinux /vmlinuz single\n\t}\n}\nmenuentry 'b' {\n" +
		"\tlinux\t/vmlinuz root=/dev/y debug\n}\n"
}

func scriptImage(script string) string {
	b := make([]byte, 64+8)
	binary.BigEndian.PutUint32(b, 0x27051956)
	binary.BigEndian.PutUint32(b[12:], uint32(8+len(script)))
	b[30] = 6
	binary.BigEndian.PutUint32(b[64:], uint32(len(script)))
	return string(b) + script
}

// dtb makes a device tree: a node that is not /chosen has the same property, with another value.
func dtb(args string) string {
	var structs, names bytes.Buffer
	names.WriteString("bootargs\x00")
	word := func(v uint32) { structs.Write(binary.BigEndian.AppendUint32(nil, v)) }
	text := func(s string) {
		structs.WriteString(s + "\x00")
		for structs.Len()%4 != 0 {
			structs.WriteByte(0)
		}
	}
	prop := func(v string) {
		word(3)
		word(uint32(len(v) + 1))
		word(0)
		text(v)
	}
	word(1)
	text("")
	word(1)
	text("other")
	prop("single")
	word(2)
	word(4)
	word(1)
	text("chosen")
	prop(args)
	word(2)
	word(2)
	word(9)
	head := make([]byte, 40)
	copy(head, "\xd0\x0d\xfe\xed")
	for off, v := range map[int]int{4: 40 + structs.Len() + names.Len(), 8: 40, 12: 40 + structs.Len(), 20: 17, 32: names.Len(), 36: structs.Len()} {
		binary.BigEndian.PutUint32(head[off:], uint32(v))
	}
	return string(head) + structs.String() + names.String()
}

// uboot is an environment of 0x40 bytes in the single format, uboot2 one of the redundant format with a flag.
func uboot(vars ...string) string { return ubootIn(binary.LittleEndian, 4, 0, vars) }

func ubootIn(order binary.ByteOrder, head int, flag byte, vars []string) string {
	b := make([]byte, 0x40)
	copy(b[head:], strings.Join(vars, "\x00"))
	if head == 5 {
		b[4] = flag
	}
	order.PutUint32(b, crc32.ChecksumIEEE(b[head:]))
	return string(b)
}

func TestUbootEnvironment(t *testing.T) {
	const want = `{"one_of":["-2","-1"],"unset":"2","with":["-1:silent"]}`
	pair := func(a, b string) files {
		return files{"etc/fw_env.config": "/a 0x0 0x40\n/b 0 40\n/c 0 40\n", "a": a, "b": b}
	}
	old := func(flag byte, vars ...string) string { return ubootIn(binary.LittleEndian, 5, flag, vars) }
	tiny := string(binary.LittleEndian.AppendUint32(nil, crc32.ChecksumIEEE([]byte("a=1\x00")))) + "a=1\x00"
	single := func(env string) files { return files{"etc/fw_env.config": "# x\n/env 0 0x40\n", "env": env} }
	runChecks(t, map[string]checkCase{
		"closed":                    {single(uboot("bootdelay=-2")), "uboot-env", "bootdelay", want, "pass"},
		"open":                      {single(uboot("bootdelay=3", "x=bootdelay=-2")), "uboot-env", "bootdelay", want, "fail; /etc/fw_env.config bootdelay is 3"},
		"not set":                   {single(uboot("a=1")), "uboot-env", "bootdelay", want, "fail; /etc/fw_env.config bootdelay is not set, which means 2"},
		"-1 alone":                  {single(uboot("bootdelay=-1")), "uboot-env", "bootdelay", want, "fail"},
		"-1 and silent":             {single(uboot("bootdelay=-1", "silent=1")), "uboot-env", "bootdelay", want, "pass"},
		"big endian":                {single(ubootIn(binary.BigEndian, 4, 0, []string{"bootdelay=-2"})), "uboot-env", "bootdelay", want, "pass"},
		"wrong sum":                 {single(uboot("bootdelay=-2")[:63] + "x"), "uboot-env", "bootdelay", want, "unknown"},
		"short":                     {single(uboot("bootdelay=-2")[:40]), "uboot-env", "bootdelay", want, "unknown"},
		"the newer copy":            {pair(old(1, "bootdelay=3"), old(2, "bootdelay=-2")), "uboot-env", "bootdelay", want, "pass"},
		"the newer copy is first":   {pair(old(9, "bootdelay=3"), old(8, "bootdelay=-2")), "uboot-env", "bootdelay", want, "fail"},
		"0 follows 255":             {pair(old(255, "bootdelay=-2"), old(0, "bootdelay=3")), "uboot-env", "bootdelay", want, "fail"},
		"0 follows 255, first":      {pair(old(0, "bootdelay=3"), old(255, "bootdelay=-2")), "uboot-env", "bootdelay", want, "fail"},
		"the intact copy":           {pair(old(9, "bootdelay=3")[:63]+"x", old(2, "bootdelay=-2")), "uboot-env", "bootdelay", want, "pass"},
		"one copy is out of reach":  {files{"etc/fw_env.config": "/a 0 40\n/b 0 40\n", "a": old(1, "bootdelay=-2")}, "uboot-env", "bootdelay", want, "unknown"},
		"on a device":               {files{"etc/fw_env.config": "/dev/mtd1 0 40\n"}, "uboot-env", "bootdelay", want, "unknown"},
		"sizes differ":              {files{"etc/fw_env.config": "/a 0 40\n/b 0 80\n"}, "uboot-env", "bootdelay", want, "unknown"},
		"endless":                   {files{"etc/fw_env.config": "/a 0 40000000\n"}, "uboot-env", "bootdelay", want, "unknown"},
		"too small":                 {files{"etc/fw_env.config": "/env 0 8\n", "env": tiny}, "uboot-env", "bootdelay", want, "unknown"},
		"no line":                   {files{"etc/fw_env.config": "# none\n"}, "uboot-env", "bootdelay", want, "unknown"},
		"from the end":              {files{"etc/fw_env.config": "/env -0x40 0x40\n", "env": "xx" + uboot("bootdelay=-2")}, "uboot-env", "bootdelay", want, "pass"},
		"in the boot directory":     {files{"boot/uboot.env": uboot("bootdelay=3")}, "uboot-env", "bootdelay", want, "fail; /boot/uboot.env"},
		"no U-Boot":                 {files{"etc/passwd": "x"}, "uboot-env", "bootdelay", want, "not-applicable"},
		"marker":                    {single(uboot("factory_mode=1")), "uboot-env", "factory_mode", `{"deny":["1"]}`, "fail"},
		"marker not set":            {single(uboot("a=1")), "uboot-env", "factory_mode", `{"deny":["1"]}`, "pass"},
		"no access to what is gone": {files{"etc/fw_env.config": "/dev/mtd1 0 40\n"}, "uboot-access", "environment", "{}", "unknown"},
		"access":                    {single(uboot("a=1")), "uboot-access", "environment", "{}", "pass"},
		"access, no U-Boot":         {files{}, "uboot-access", "environment", "{}", "not-applicable"},
		"kernel writes it":          {files{"etc/fw_env.config": "/dev/mtd1 0 40\n", "dev/mtd1": "x", "sys/class/mtd/mtd1/flags": "0x400\n"}, "uboot-access", "environment", `{"read_only":true}`, "fail; /sys/class/mtd/mtd1/flags"},
		"kernel does not write it":  {files{"etc/fw_env.config": "/dev/mtd1 0 40\n", "dev/mtd1": "x", "sys/class/mtd/mtd1/flags": "0x0\n"}, "uboot-access", "environment", `{"read_only":true}`, "pass"},
	})
	dir := tree(t, files{"etc/fw_env.config": "/env 0 40\n", "env": uboot("a=1")})
	must(t, os.Chmod(filepath.Join(dir, "env"), 0o666))
	if v := newCheck(t, "uboot-access", "environment", "{}").Check(context.Background(), host(t, dir)); brief(v) != "fail; /env mode 0666" {
		t.Errorf("an environment that everybody writes: %s", brief(v))
	}
}

func gz(t testing.TB, s string) string {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := w.Write([]byte(s))
	must(t, err)
	must(t, w.Close())
	return b.String()
}

func TestKernelConfig(t *testing.T) {
	const (
		head = "#\n# Linux/arm64 5.10.1 Kernel Configuration\n#\nCONFIG_ARM64=y\nCONFIG_MODULES=y\n"
		y    = `{"one_of":["y"]}`
		n    = `{"one_of":["n"]}`
	)
	proc := func(s string) files { return files{"proc/config.gz": gz(t, head+s)} }
	pad := strings.Repeat("kernel code ", 20000)
	ikcfg := "IKCFG_ST" + gz(t, head+"CONFIG_A=y\n") + "IKCFG_ED"
	runChecks(t, map[string]checkCase{
		"set":                      {proc("CONFIG_A=y\n"), "kernel-config", "CONFIG_A", y, "pass"},
		"not set":                  {proc("# CONFIG_A is not set\n"), "kernel-config", "CONFIG_A", y, "fail; /proc/config.gz n"},
		"a longer name":            {proc("CONFIG_A_B=y\nXCONFIG_A=y\n"), "kernel-config", "CONFIG_A", y, "fail"},
		"a comment":                {proc("#CONFIG_A=y\n"), "kernel-config", "CONFIG_A", n, "pass"},
		"module":                   {proc("CONFIG_A=m\n"), "kernel-config", "CONFIG_A", n, "fail; /proc/config.gz m"},
		"as good":                  {proc("CONFIG_B=y\n"), "kernel-config", "CONFIG_A", `{"one_of":["y"],"or":["CONFIG_B=y"]}`, "pass"},
		"as good when off":         {proc(""), "kernel-config", "CONFIG_A", `{"one_of":["y"],"or":["CONFIG_MODULES=n"]}`, "fail"},
		"number":                   {proc("CONFIG_A=65536\n"), "kernel-config", "CONFIG_A", `{"min":4096}`, "pass"},
		"number too small":         {proc("CONFIG_A=0\n"), "kernel-config", "CONFIG_A", `{"min":4096}`, "fail"},
		"other architecture":       {proc(""), "kernel-config", "CONFIG_A", `{"one_of":["y"],"arch":["x86_64"]}`, "not-applicable"},
		"this architecture":        {proc(""), "kernel-config", "CONFIG_A", `{"one_of":["y"],"arch":["x86_64","arm64"]}`, "fail"},
		"MIPS":                     {files{"boot/config-5": "# Linux/mips 5.15.0 Kernel Configuration\nCONFIG_MIPS=y\nCONFIG_A=y\n"}, "kernel-config", "CONFIG_A", `{"one_of":["y"],"arch":["mips"]}`, "pass"},
		"older kernel":             {proc(""), "kernel-config", "CONFIG_A", `{"one_of":["y"],"since":"5.16"}`, "not-applicable"},
		"newer kernel":             {proc(""), "kernel-config", "CONFIG_A", `{"one_of":["y"],"since":"5.9"}`, "fail"},
		"needs another":            {proc(""), "kernel-config", "CONFIG_A", `{"one_of":["y"],"if":["CONFIG_B"]}`, "not-applicable"},
		"file":                     {files{"boot/config-6.1.0": head + "CONFIG_A=y\n"}, "kernel-config", "CONFIG_A", y, "pass"},
		"one of two":               {files{"boot/config-6.1.0": head + "CONFIG_A=y\n", "boot/config-6.2.0": head}, "kernel-config", "CONFIG_A", y, "fail; /boot/config-6.2.0 n"},
		"that of the running one":  {files{"boot/config-6.1.0": head + "CONFIG_A=y\n", "boot/config-6.2.0": head, "proc/sys/kernel/osrelease": "6.1.0\n"}, "kernel-config", "CONFIG_A", y, "pass"},
		"embedded":                 {files{"boot/Image": pad + ikcfg + pad}, "kernel-config", "CONFIG_A", y, "pass"},
		"embedded and compressed":  {files{"boot/zImage": "head\x1f\x8b\x08 not this" + strings.Repeat("h", 130<<10) + gz(t, pad+ikcfg+pad) + "tail"}, "kernel-config", "CONFIG_A", y, "pass"},
		"cut between two reads":    {files{"boot/Image": strings.Repeat("h", 128<<10-5) + ikcfg}, "kernel-config", "CONFIG_A", y, "pass"},
		"not embedded":             {files{"boot/vmlinuz-6": gz(t, pad)}, "kernel-config", "CONFIG_A", y, "unknown"},
		"only the marker":          {files{"boot/Image": "IKCFG_ST\x1f\x8b\x08"}, "kernel-config", "CONFIG_A", y, "unknown"},
		"something else in gzip":   {files{"boot/Image": "IKCFG_ST" + gz(t, "hello")}, "kernel-config", "CONFIG_A", y, "unknown"},
		"no kernel":                {files{"etc/passwd": "x"}, "kernel-config", "CONFIG_A", n, "unknown"},
		"something else in config": {files{"boot/config-6": "hello\n"}, "kernel-config", "CONFIG_A", n, "unknown"},
		"a bomb":                   {files{"proc/config.gz": gz(t, "\nCONFIG_A=y\n"+strings.Repeat("\x00", 5<<20))}, "kernel-config", "CONFIG_A", y, "unknown"},
	})
}

func TestKernelState(t *testing.T) {
	runChecks(t, map[string]checkCase{
		"bracket":            {files{"sys/kernel/security/lockdown": "none [integrity] x\n"}, "sysfs-value", "/sys/kernel/security/lockdown", `{"one_of":["integrity"],"decode":"bracket"}`, "pass"},
		"other bracket":      {files{"sys/kernel/security/lockdown": "[none] integrity x\n"}, "sysfs-value", "/sys/kernel/security/lockdown", `{"one_of":["integrity"],"decode":"bracket"}`, "fail; /sys/kernel/security/lockdown none"},
		"list":               {files{"sys/kernel/security/lsm": "capability,apparmor"}, "sysfs-value", "/sys/kernel/security/lsm", `{"one_of":["selinux","apparmor"],"decode":"list"}`, "pass"},
		"list, part":         {files{"sys/kernel/security/lsm": "capability,noapparmor"}, "sysfs-value", "/sys/kernel/security/lsm", `{"one_of":["selinux","apparmor"],"decode":"list"}`, "fail"},
		"variable of UEFI":   {files{"sys/x": "\x06\x00\x00\x00\x01"}, "sysfs-value", "/sys/x", `{"one_of":["1"],"decode":"last-byte"}`, "pass"},
		"variable, empty":    {files{"sys/x": ""}, "sysfs-value", "/sys/x", `{"one_of":["1"],"decode":"last-byte"}`, "fail"},
		"cell":               {files{"proc/x": "\x00\x00\x00\x08"}, "sysfs-value", "/proc/x", `{"one_of":["8"],"decode":"be32"}`, "pass"},
		"bits":               {files{"proc/x": "4096\n"}, "sysfs-value", "/proc/x", `{"clear":8194}`, "pass"},
		"bits, bad":          {files{"proc/x": "12288\n"}, "sysfs-value", "/proc/x", `{"clear":8194}`, "fail"},
		"bits, no number":    {files{"proc/x": "x\n"}, "sysfs-value", "/proc/x", `{"clear":8194}`, "fail"},
		"many":               {files{"sys/v/a": "Not affected\n", "sys/v/b": "Vulnerable: no microcode\n"}, "sysfs-value", "/sys/v/*", `{"deny":["Vulnerable"]}`, "fail; /sys/v/b Vulnerable: no microcode"},
		"a mitigation":       {files{"sys/v/b": "Mitigation: x; SMT vulnerable\n"}, "sysfs-value", "/sys/v/*", `{"deny":["Vulnerable"]}`, "pass"},
		"gone, as it says":   {files{"sys/y": "1"}, "sysfs-value", "/sys/x", `{"one_of":["1"],"absent":"not built","beside":"/sys/y"}`, "not-applicable"},
		"image":              {files{}, "sysfs-value", "/sys/x", `{"one_of":["1"],"absent":"not built","beside":"/sys/y"}`, "not-applicable"},
		"helper":             {files{"sbin/x": "", "proc/sys/kernel/modprobe": "/sbin/modprobe\n"}, "sysctl-path", "kernel.modprobe", `{}`, "pass"},
		"helper in /tmp":     {files{"tmp/x": "", "proc/sys/kernel/modprobe": "/tmp/modprobe\n"}, "sysctl-path", "kernel.modprobe", `{}`, "fail"},
		"helper, no path":    {files{"proc/sys/kernel/modprobe": "modprobe\n"}, "sysctl-path", "kernel.modprobe", `{}`, "fail"},
		"no helper":          {files{"proc/sys/kernel/modprobe": "\n"}, "sysctl-path", "kernel.modprobe", `{}`, "pass"},
		"core, nowhere":      {files{"proc/sys/kernel/core_pattern": "core\n"}, "sysctl-path", "kernel.core_pattern", `{"core":true}`, "pass"},
		"core, anywhere":     {files{"proc/sys/kernel/core_pattern": "core\n", "proc/1/limits": "Max core file size        unlimited            unlimited            bytes\n"}, "sysctl-path", "kernel.core_pattern", `{"core":true}`, "fail"},
		"core, open place":   {files{"proc/sys/kernel/core_pattern": "/var/cores/%e\n", "var/cores/x": ""}, "sysctl-path", "kernel.core_pattern", `{"core":true}`, "fail"},
		"core, pipe":         {files{"proc/sys/kernel/core_pattern": "|/usr/lib/systemd/systemd-coredump %P\n", "usr/lib/x": ""}, "sysctl-path", "kernel.core_pattern", `{"core":true}`, "pass"},
		"core, pipe to /tmp": {files{"proc/sys/kernel/core_pattern": "|/tmp/x\n"}, "sysctl-path", "kernel.core_pattern", `{"core":true}`, "fail"},
		"core at next start": {files{"proc/sys/kernel/core_pattern": "core\n", "etc/sysctl.d/a.conf": "kernel.core_pattern=/tmp/core\n"}, "sysctl-path", "kernel.core_pattern", `{"core":true}`, "fail; /etc/sysctl.d/a.conf:1"},
		"fuse, closed":       {fuseTree("fsl,imx6ull", 0x18, 2), "fuse", "secure-boot", "", "pass"},
		"fuse, open":         {fuseTree("fsl,imx6ull", 0x1c, 2), "fuse", "secure-boot", "", "fail"},
		"fuse, imx8":         {fuseTree("fsl,imx8mm", 0x1c, 1<<25), "fuse", "secure-boot", "", "pass"},
		"fuse, jtag":         {fuseTree("fsl,imx6q", 0x18, 1<<20), "fuse", "jtag", "", "pass"},
		"fuse, not in table": {fuseTree("fsl,imx8mm", 0x18, 1<<20), "fuse", "jtag", "", "unknown"},
		"fuse, other chip":   {fuseTree("rockchip,rk3588", 0x18, 0xffffffff), "fuse", "secure-boot", "", "unknown"},
		"fuse, short":        {files{"proc/device-tree/compatible": "fsl,imx6q\x00", "sys/bus/nvmem/devices/imx-ocotp0/nvmem": "x"}, "fuse", "jtag", "", "unknown"},
		"fuse, raspberry":    {files{"proc/device-tree/compatible": "raspberrypi,4\x00brcm,bcm2711\x00", "proc/device-tree/chosen/bootloader/signed": "\x00\x00\x00\x09"}, "fuse", "secure-boot", "", "pass"},
		"fuse, only tested":  {files{"proc/device-tree/compatible": "brcm,bcm2711\x00", "proc/device-tree/chosen/bootloader/signed": "\x00\x00\x00\x01"}, "fuse", "secure-boot", "", "fail"},
		"fuse, image":        {files{}, "fuse", "jtag", "", "not-applicable"},
	})
}

// The place of a helper counts, too, and so do the directories above it.
func TestHelperInAnOpenDirectory(t *testing.T) {
	dir := tree(t, files{"opt/a/modprobe": "x", "proc/sys/kernel/modprobe": "/opt/a/modprobe\n"})
	c := newCheck(t, "sysctl-path", "kernel.modprobe", "{}")
	if v := c.Check(context.Background(), host(t, dir)); v.Result != probe.Pass {
		t.Errorf("a closed directory: %s", brief(v))
	}
	must(t, os.Chmod(filepath.Join(dir, "opt"), 0o777))
	if v := c.Check(context.Background(), host(t, dir)); v.Result != probe.Fail {
		t.Errorf("an open directory: %s", brief(v))
	}
}

func fuseTree(chip string, off int, word uint32) files {
	b := make([]byte, 64)
	binary.LittleEndian.PutUint32(b[off:], word)
	return files{"proc/device-tree/compatible": "vendor,board\x00" + chip + "\x00", "sys/bus/nvmem/devices/imx-ocotp0/nvmem": string(b)}
}

func TestRootFileSystem(t *testing.T) {
	const (
		verity = `{"verity":true}`
		ro     = `{"read_only":true}`
	)
	mounts := func(lines string, more files) files {
		out := files{"proc/self/mountinfo": lines}
		for k, v := range more {
			out[k] = v
		}
		return out
	}
	dm := files{"sys/dev/block/254:0/dm/uuid": "CRYPT-VERITY-abc-root\n"}
	overlay := "1 0 254:0 / /rom ro - squashfs /dev/dm-0 ro\n3 0 0:9 / /ram rw - tmpfs t rw\n2 0 0:8 / / rw - overlay o rw,lowerdir=/rom,upperdir=/ram/up,workdir=/ram/w\n"
	runChecks(t, map[string]checkCase{
		"verity":             {mounts("1 0 254:0 / / ro - ext4 /dev/dm-0 ro\n", dm), "root-fs", "/", verity, "pass"},
		"other mapping":      {mounts("1 0 254:0 / / ro - ext4 /dev/dm-0 ro\n", files{"sys/dev/block/254:0/dm/uuid": "LVM-x\n"}), "root-fs", "/", verity, "fail"},
		"plain":              {mounts("1 0 8:1 / / ro - ext4 /dev/sda1 ro\n", files{"sys/dev/block/8:1/dev": "8:1"}), "root-fs", "/", verity, "fail"},
		"device not shown":   {mounts("1 0 8:1 / / ro - ext4 /dev/sda1 ro\n", nil), "root-fs", "/", verity, "unknown"},
		"under an overlay":   {mounts(overlay, dm), "root-fs", "/", verity, "pass"},
		"overlay of unknown": {mounts("2 0 0:8 / / rw - overlay o rw,lowerdir=/x\n", dm), "root-fs", "/", verity, "unknown"},
		"network":            {mounts("2 0 0:8 / / rw - nfs s:/x rw\n", nil), "root-fs", "/", verity, "fail"},
		"memory":             {mounts("2 0 0:2 / / rw - rootfs rootfs rw\n", nil), "root-fs", "/", verity, "not-applicable"},
		"the last one":       {mounts("1 0 8:1 / / ro - ext4 /dev/sda1 ro\n1 0 254:0 / / ro - ext4 /dev/dm-0 ro\n", dm), "root-fs", "/", verity, "pass"},
		"image":              {files{}, "root-fs", "/", verity, "not-applicable"},
		"written":            {mounts("1 0 8:1 / / rw - ext4 /dev/sda1 rw\n", nil), "root-fs", "/", ro, "fail"},
		"not written":        {mounts("1 0 8:1 / / ro,noatime - ext4 /dev/sda1 rw\n", nil), "root-fs", "/", ro, "pass"},
		"by its nature":      {mounts("1 0 8:1 / / rw - squashfs /dev/sda1 rw\n", nil), "root-fs", "/", ro, "pass"},
		"changes in memory":  {mounts(overlay, nil), "root-fs", "/", ro, "pass"},
		"changes on flash":   {mounts("1 0 31:1 / /overlay rw - jffs2 /dev/mtdblock1 rw\n2 0 0:8 / / rw - overlay o rw,lowerdir=/rom,upperdir=/overlay/upper\n", nil), "root-fs", "/", ro, "fail"},
		"fstab":              {files{"etc/fstab": "/dev/root / auto ro 0 1\n"}, "root-fs", "/", ro, "pass"},
		"fstab, written":     {files{"etc/fstab": "/dev/root / auto rw,noauto 0 1\n"}, "root-fs", "/", ro, "fail; /etc/fstab:1"},
		"no fstab":           {files{}, "root-fs", "/", ro, "unknown"},
		"debugfs, not there": {mounts("1 0 8:1 / / rw - ext4 /dev/sda1 rw\n", nil), "pseudo-fs", "debugfs,tracefs", "{}", "pass"},
		"debugfs, open":      {mounts("1 0 0:7 / /sys/kernel/debug rw - debugfs d rw\n", files{"sys/kernel/debug/x": ""}), "pseudo-fs", "debugfs,tracefs", "{}", "fail; /proc/self/mountinfo:1 debugfs with mode 0755"},
		"debugfs, at all":    {mounts("1 0 0:7 / /d rw - tracefs d rw\n", files{"d/x": ""}), "pseudo-fs", "debugfs,tracefs", `{"never":true}`, "fail"},
		"debugfs, image":     {files{}, "pseudo-fs", "debugfs", "{}", "not-applicable"},
		"raw memory":         {files{"dev/mem": "x"}, "device-node", "/dev/mem", `{"max":"0640"}`, "fail; /dev/mem mode 0644"},
		"raw memory, image":  {files{}, "device-node", "/dev/mem", `{"max":"0640"}`, "not-applicable"},
	})
}

func TestUSBGadget(t *testing.T) {
	const none, acm = `{"allow":[]}`, `{"allow":["acm"]}`
	live := func(udc, function string) files {
		return files{"sys/class/udc/u.0/state": "configured\n", "sys/kernel/config/usb_gadget/g/UDC": udc + "\n", "sys/kernel/config/usb_gadget/g/functions/" + function + "/x": ""}
	}
	runChecks(t, map[string]checkCase{
		"bound":            {live("u.0", "acm.GS0"), "usb-gadget", "functions", none, "fail; /sys/kernel/config/usb_gadget/g offered at u.0"},
		"not bound":        {live("", "acm.GS0"), "usb-gadget", "functions", none, "pass"},
		"allowed":          {live("u.0", "acm.GS0"), "usb-gadget", "functions", acm, "pass"},
		"adb":              {live("u.0", "ffs.adb"), "usb-gadget", "functions", acm, "fail"},
		"by a driver":      {files{"sys/class/udc/u.0/state": "", "sys/module/g_ether/x": ""}, "usb-gadget", "functions", acm, "fail; /sys/module/g_ether driver g_ether is loaded"},
		"no controller":    {files{"sys/class/udc/": ""}, "usb-gadget", "functions", none, "not-applicable"},
		"image":            {files{"etc/inittab": "::sysinit:/sbin/modprobe g_serial\n"}, "usb-gadget", "functions", none, "fail; /etc/inittab:1"},
		"image, list":      {files{"etc/inittab": "::sysinit:/bin/true\n", "etc/modules-load.d/a.conf": "# g_ether\ng_mass_storage file=/x\n"}, "usb-gadget", "functions", none, "fail; /etc/modules-load.d/a.conf:2"},
		"image, boot":      {files{"etc/inittab": "::sysinit:/bin/true\n", "boot/cmdline.txt": "modules-load=dwc2,g_ether\n"}, "usb-gadget", "functions", none, "fail; /boot/cmdline.txt"},
		"image, none":      {files{"etc/inittab": "::sysinit:/bin/true\n"}, "usb-gadget", "functions", none, "pass"},
		"image, not known": {files{"etc/passwd": ""}, "usb-gadget", "functions", none, "unknown"},
	})
}

func TestConsoleOfSystemd(t *testing.T) {
	const cons, login = `{"deny":["shell","autologin"]}`, `{"deny":["login"]}`
	unit := func(exec string) string {
		return "[Service]\nExecStart=" + exec + "\nStandardInput=tty\nTTYPath=/dev/%I\n"
	}
	sys := func(more files) files {
		out := files{"lib/systemd/systemd": "x", "sbin/init": "-> /lib/systemd/systemd", "lib/systemd/system/serial-getty@.service": unit("-/sbin/agetty -o '-p -- \\\\u' --keep-baud 115200 %I $TERM"),
			"lib/systemd/system/getty@.service": unit("-/sbin/agetty --noclear %I $TERM"), "etc/systemd/system/getty.target.wants/getty@tty1.service": "-> /lib/systemd/system/getty@.service"}
		for k, v := range more {
			out[k] = v
		}
		return out
	}
	drop := "[Service]\nExecStart=\nExecStart=-/sbin/agetty --autologin root --noclear %I $TERM\n"
	gen := files{"lib/systemd/system-generators/systemd-getty-generator": "#!x", "boot/cmdline.txt": "console=tty1 console=ttyAMA0,115200\n"}
	with := func(a files, k, v string) files {
		out := files{k: v}
		for k, v := range a {
			out[k] = v
		}
		return out
	}
	const shell = "[Service]\nExecStart=/bin/sh\nStandardInput=tty\nTTYPath=/dev/tty9\n"
	runChecks(t, map[string]checkCase{
		"plain":                    {sys(nil), "console", "inittab", cons, "pass"},
		"autologin in a drop-in":   {sys(files{"etc/systemd/system/getty@tty1.service.d/a.conf": drop}), "console", "inittab", cons, "fail; /etc/systemd/system/getty@tty1.service.d/a.conf:3"},
		"autologin of another":     {sys(files{"etc/systemd/system/getty@tty2.service.d/a.conf": drop}), "console", "inittab", cons, "pass"},
		"debug shell":              {sys(files{"lib/systemd/system/debug-shell.service": shell, "etc/systemd/system/sysinit.target.wants/debug-shell.service": "-> /lib/systemd/system/debug-shell.service"}), "console", "inittab", cons, "fail; /lib/systemd/system/debug-shell.service:2 a shell without login"},
		"debug shell, not enabled": {sys(files{"lib/systemd/system/debug-shell.service": shell}), "console", "inittab", cons, "pass"},
		"generated":                {sys(gen), "console", "inittab", login, "fail; /lib/systemd/system/serial-getty@.service:2 a login prompt on a serial line"},
		"generated with autologin": {sys(with(gen, "etc/systemd/system/serial-getty@ttyAMA0.service.d/a.conf", drop)), "console", "inittab", cons, "fail; /etc/systemd/system/serial-getty@ttyAMA0.service.d/a.conf:3"},
		"generated, masked":        {sys(with(gen, "etc/systemd/system/serial-getty@ttyAMA0.service", "-> /dev/null")), "console", "inittab", login, "pass"},
		"generator masked":         {sys(with(gen, "etc/systemd/system-generators/systemd-getty-generator", "-> /dev/null")), "console", "inittab", login, "pass"},
		"a service without one":    {sys(files{"lib/systemd/system/a.service": "[Service]\nExecStart=/bin/sh\n", "etc/systemd/system/multi-user.target.wants/a.service": "-> /lib/systemd/system/a.service"}), "console", "inittab", cons, "pass"},
		"OpenWrt":                  {files{"etc/inittab": "::askconsole:/usr/libexec/login.sh\n", "etc/config/system": "config system\n\toption ttylogin '0'\n"}, "console", "inittab", cons, "fail; /etc/inittab:1"},
		"OpenWrt by itself":        {files{"etc/inittab": "::askconsole:/usr/libexec/login.sh\n"}, "console", "inittab", cons, "fail"},
		"OpenWrt with login":       {files{"etc/inittab": "::askconsole:/usr/libexec/login.sh\n", "etc/config/system": "config system\n\toption ttylogin '1'\n"}, "console", "inittab", cons, "pass"},
		"OpenWrt, old":             {files{"etc/inittab": "::askconsole:/bin/ash --login\n"}, "console", "inittab", cons, "fail"},
	})
	// The fix takes the line that clears the unit's own command out of use, too, or the unit would have none.
	h := host(t, tree(t, sys(files{"etc/systemd/system/getty@tty1.service.d/a.conf": drop})))
	c := newCheck(t, "console", "inittab", cons)
	plan, err := c.Fix(context.Background(), h, func(string) bool { return true })
	must(t, err)
	const want = "[Service]\n# disabled by backstay: ExecStart=\n# disabled by backstay: ExecStart=-/sbin/agetty --autologin root --noclear %I $TERM\n"
	if len(plan) != 1 || string(plan[0].After) != want {
		t.Fatalf("plan is %+v", plan)
	}
	h.Pretend(plan[0])
	if v := c.Check(context.Background(), h); v.Result != probe.Pass {
		t.Errorf("after the fix: %s", brief(v))
	}
}
