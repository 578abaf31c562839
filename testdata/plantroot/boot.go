// SPDX-License-Identifier: Apache-2.0

package plantroot

import (
	"encoding/binary"
	"hash/crc32"
	"strings"
)

const (
	extlinuxConf = `DEFAULT linux
LABEL linux
	LINUX /boot/zImage
	APPEND root=/dev/dm-0 ro console=ttyS0,115200 quiet lockdown=integrity
LABEL rescue
	LINUX /boot/zImage
	APPEND root=/dev/mmcblk0p2 single
`
	mountTable = `20 1 254:0 / / ro,relatime - squashfs /dev/dm-0 ro
21 20 0:5 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw,hidepid=invisible
22 20 0:20 / /sys rw,nosuid,nodev,noexec,relatime - sysfs sysfs rw
23 20 0:21 / /tmp rw,nosuid,nodev,noexec,relatime - tmpfs tmpfs rw,mode=1777
`
	debugMount = "24 22 0:7 / /sys/kernel/debug rw,nosuid,nodev,noexec,relatime - debugfs debugfs rw\n"
	secureBoot = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
	setupMode  = "sys/firmware/efi/efivars/SetupMode-8be4df61-93ca-11d2-aa0d-00e098032b8c"
	efiOn      = "\x06\x00\x00\x00\x01"
	efiOff     = "\x06\x00\x00\x00\x00"
	gadget     = "sys/kernel/config/usb_gadget/g1/"
	fuses      = "sys/bus/nvmem/devices/imx-ocotp0/nvmem"
	lsmDir     = "sys/kernel/security/"
)

// fusesOf is the memory of the fuses of an i.MX 6, of which one word matters here.
func fusesOf(word uint32) string {
	b := make([]byte, 0x40)
	binary.LittleEndian.PutUint32(b[0x18:], word)
	return string(b)
}

// bootEnv is an environment of U-Boot in the single format.
func bootEnv(vars ...string) string {
	b := make([]byte, 0x400)
	copy(b[4:], strings.Join(vars, "\x00"))
	binary.LittleEndian.PutUint32(b, crc32.ChecksumIEEE(b[4:]))
	return string(b)
}

// kernelOptions are what the kernel of the clean tree is built with, and that of the planted one is not.
func kernelOptions() []string {
	return strings.Fields(`STACKPROTECTOR_STRONG STRICT_KERNEL_RWX STRICT_MODULE_RWX VMAP_STACK FORTIFY_SOURCE HARDENED_USERCOPY
		SLAB_FREELIST_HARDENED SLAB_FREELIST_RANDOM INIT_STACK_ALL_ZERO RANDOMIZE_BASE STRICT_DEVMEM IO_STRICT_DEVMEM SECCOMP_FILTER
		SYN_COOKIES MODULE_SIG MODULE_SIG_FORCE MODULE_SIG_SHA512 LEGACY_VSYSCALL_NONE DEBUG_LIST INIT_ON_ALLOC_DEFAULT_ON
		SECURITY_DMESG_RESTRICT BPF_UNPRIV_DEFAULT_OFF`)
}

func weakOptions() []string {
	return strings.Fields("X86_VSYSCALL_EMULATION DEVKMEM COMPAT_BRK KEXEC KEXEC_FILE DEVMEM PROC_KCORE DEBUG_FS USER_NS KGDB LEGACY_TIOCSTI")
}

func kernelConfig(clean bool) string {
	var b strings.Builder
	b.WriteString("#\n# Automatically generated file; DO NOT EDIT.\n# Linux/x86 6.6.30 Kernel Configuration\n#\nCONFIG_X86_64=y\nCONFIG_MODULES=y\nCONFIG_BPF_SYSCALL=y\n")
	set := func(on bool, names []string) {
		for _, n := range names {
			if on {
				b.WriteString("CONFIG_" + n + "=y\n")
			} else {
				b.WriteString("# CONFIG_" + n + " is not set\n")
			}
		}
	}
	set(clean, kernelOptions())
	set(!clean, weakOptions())
	if clean {
		b.WriteString("CONFIG_DEFAULT_MMAP_MIN_ADDR=65536\n")
	} else {
		b.WriteString("CONFIG_DEFAULT_MMAP_MIN_ADDR=0\nCONFIG_MODULE_SIG=n\n")
	}
	return b.String()
}

func bootSkeleton() []file {
	return []file{
		{name: "boot/extlinux/extlinux.conf", mode: 0o644, text: extlinuxConf}, {name: "boot/config-6.6.30", mode: 0o644, text: kernelConfig(true)},
		{name: "boot/env.bin", mode: 0o600, text: bootEnv("bootcmd=run distro", "bootdelay=-2")},
		{name: "etc/fw_env.config", mode: 0o644, text: "# one copy\n/boot/env.bin 0x0 0x400\n"},
		{name: "proc/self/mountinfo", mode: 0o444, text: mountTable}, {name: "sys/kernel/debug/", mode: 0o700},
		{name: "sys/dev/block/254:0/dm/uuid", mode: 0o444, text: "CRYPT-VERITY-0123456789abcdef-root\n"},
		{name: "sys/dev/block/179:2/dev", mode: 0o444, text: "179:2\n"},
		{name: secureBoot, mode: 0o644, text: efiOn}, {name: setupMode, mode: 0o644, text: efiOff},
		{name: "proc/device-tree/compatible", mode: 0o444, text: "vendor,board\x00fsl,imx6ul\x00"}, {name: fuses, mode: 0o600, text: fusesOf(1<<1 | 3<<22)},
		{name: "sys/module/module/parameters/sig_enforce", mode: 0o444, text: "Y\n"}, {name: "sys/module/kernel/parameters/panic", mode: 0o644, text: "10\n"},
		{name: lsmDir + "lockdown", mode: 0o644, text: "none [integrity] confidentiality\n"}, {name: lsmDir + "lsm", mode: 0o444, text: "capability,yama,apparmor"},
		{name: lsmDir + "evm", mode: 0o600, text: "1"}, {name: "sys/devices/system/cpu/vulnerabilities/meltdown", mode: 0o444, text: "Mitigation: PTI\n"},
		{name: "sys/module/kgdboc/parameters/kgdboc", mode: 0o644, text: "\n"}, {name: "sys/module/dm_verity/parameters/require_signatures", mode: 0o644, text: "Y\n"},
		{name: "sys/class/udc/musb-hdrc.0/state", mode: 0o444, text: "not attached\n"},
		{name: gadget + "UDC", mode: 0o644, text: "\n"}, {name: gadget + "functions/acm.GS0/port_num", mode: 0o444, text: "0\n"},
		{name: "system/build.prop", mode: 0o644, text: "ro.adb.secure=1\n# service.adb.tcp.port=5555\n"},
		{name: "dev/mem", mode: 0o600, text: "m"}, {name: "proc/kcore", mode: 0o400, text: "k"},
		{name: "proc/sys/kernel/core_pattern", mode: 0o644, text: "core\n"}, {name: "proc/1/limits", mode: 0o444, text: "Max core file size        0                    unlimited            bytes\n"},
		{name: "proc/sys/kernel/modprobe", mode: 0o644, text: "/sbin/modprobe\n"}, {name: "proc/sys/kernel/hotplug", mode: 0o644, text: "\n"},
		{name: "proc/sys/kernel/poweroff_cmd", mode: 0o644, text: "/sbin/poweroff\n"}, {name: "proc/sys/kernel/printk", mode: 0o644, text: "4\t4\t1\t7\n"},
		{name: "proc/sys/kernel/tainted", mode: 0o644, text: "4096\n"}, // a module from outside of the kernel, as vendors have
		{name: "proc/sys/kernel/modules_disabled", mode: 0o644, text: "1\n"},
	}
}

// optionRules are the rules about what the kernel is built with.
func optionRules() []string {
	var out []string
	for _, n := range strings.Fields(`stack-protector read-only-code read-only-modules stack-guard fortified-copies usercopy free-list free-list-order
		zero-stack random-base raw-memory raw-io kmem system-call-filter syn-cookies module-signatures old-layout lowest-address legacy-vsyscall
		list-checks zero-allocations kernel-messages bpf terminal-input kexec kexec-file no-raw-memory kernel-memory-file debug-files
		module-signatures-forced user-namespaces kernel-debugger`) {
		out = append(out, "kernel-config."+n)
	}
	return out
}

func bootDefects() []defect {
	args := "root=/dev/mmcblk0p2 rw init=/bin/sh mitigations=off debug kgdboc=ttyS0,115200 systemd.debug_shell"
	return []defect{
		{rules: []string{"boot.arguments", "boot.protections", "boot.debug-arguments", "debug.kernel-debugger", "debug.systemd-shell"},
			files: []file{{name: "boot/extlinux/extlinux.conf", mode: 0o644, text: strings.Replace(extlinuxConf, "root=/dev/dm-0 ro console=ttyS0,115200 quiet lockdown=integrity", args, 1)}}},
		{rules: optionRules(), files: []file{{name: "boot/config-6.6.30", mode: 0o644, text: kernelConfig(false)}}},
		{rules: []string{"boot.loader-stop"}, files: []file{{name: "boot/env.bin", mode: 0o600, text: bootEnv("bootcmd=run distro", "bootdelay=3")}}},
		{rules: []string{"boot.environment-access", "boot.environment-read-only"}, files: []file{{name: "etc/fw_env.config", mode: 0o666, text: "/boot/env.bin 0x0 0x400\n"}}},
		{rules: []string{"boot.verity", "boot.root-read-only", "debug.kernel-files", "debug.kernel-files-gone"}, files: []file{{name: "proc/self/mountinfo", mode: 0o444,
			text: strings.Replace(mountTable, "254:0 / / ro,relatime - squashfs /dev/dm-0 ro", "179:2 / / rw,relatime - ext4 /dev/mmcblk0p2 rw", 1) + debugMount},
			{name: "sys/kernel/debug/", mode: 0o755}}},
		{rules: []string{"boot.uefi-secure-boot"}, files: []file{{name: secureBoot, mode: 0o644, text: efiOff}}},
		{rules: []string{"boot.uefi-keys"}, files: []file{{name: setupMode, mode: 0o644, text: efiOn}}},
		{rules: []string{"boot.fused", "debug.jtag"}, files: []file{{name: fuses, mode: 0o600, text: fusesOf(0)}}},
		{rules: []string{"boot.module-signatures", "kernel.modules-closed"}, files: []file{{name: "sys/module/module/parameters/sig_enforce", mode: 0o444, text: "N\n"},
			{name: "proc/sys/kernel/modules_disabled", mode: 0o644, text: "0\n"}}},
		{rules: []string{"boot.lockdown"}, files: []file{{name: lsmDir + "lockdown", mode: 0o644, text: "[none] integrity confidentiality\n"}}},
		{rules: []string{"boot.access-control"}, files: []file{{name: lsmDir + "lsm", mode: 0o444, text: "capability,yama"}}},
		{rules: []string{"boot.selinux-enforcing"}, files: []file{{name: "sys/fs/selinux/enforce", mode: 0o644, text: "0"}}},
		{rules: []string{"boot.integrity-metadata"}, files: []file{{name: lsmDir + "evm", mode: 0o600, text: "0"}}},
		{rules: []string{"boot.taint"}, files: []file{{name: "proc/sys/kernel/tainted", mode: 0o644, text: "8194\n"}}},
		{rules: []string{"boot.cpu-mitigations"}, files: []file{{name: "sys/devices/system/cpu/vulnerabilities/meltdown", mode: 0o444, text: "Vulnerable\n"}}},
		{rules: []string{"boot.verity-signatures"}, files: []file{{name: "sys/module/dm_verity/parameters/require_signatures", mode: 0o644, text: "N\n"}}},
		{rules: []string{"debug.usb-gadget"}, files: []file{{name: gadget + "UDC", mode: 0o644, text: "musb-hdrc.0\n"}}},
		{rules: []string{"debug.adb-network", "debug.adb-secure"}, files: []file{{name: "system/build.prop", mode: 0o644, text: "ro.adb.secure=0\nservice.adb.tcp.port=5555\n"}}},
		{rules: []string{"debug.raw-memory"}, files: []file{{name: "dev/mem", mode: 0o666, text: "m"}}},
		{rules: []string{"debug.kernel-image"}, files: []file{{name: "proc/kcore", mode: 0o444, text: "k"}}},
		{rules: []string{"debug.core-files"}, files: []file{{name: "proc/sys/kernel/core_pattern", mode: 0o644, text: "/tmp/core.%e\n"}}},
		{rules: []string{"debug.kernel-helpers"}, files: []file{{name: "proc/sys/kernel/modprobe", mode: 0o644, text: "/tmp/modprobe\n"}}},
		{rules: []string{"debug.console-messages"}, files: []file{{name: "proc/sys/kernel/printk", mode: 0o644, text: "7\t4\t1\t7\n"}}},
		{rules: []string{"debug.factory-mode"}, files: []file{{name: "etc/factory_mode", mode: 0o644, text: "1\n"}}},
		{rules: []string{"debug.tools"}, files: []file{{name: "usr/bin/gdbserver", mode: 0o755, text: "gdbserver\n"}}},
	}
}
