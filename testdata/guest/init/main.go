// SPDX-License-Identifier: Apache-2.0

// Command init is process 1 of a guest that runs test programs on a real kernel: it mounts what a system has, loads the modules
// listed in /modules, brings the loopback up, runs every program in /tests as root, says how each ended, and powers off.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	failed := run()
	if failed == 0 {
		fmt.Println("GUEST-PASS")
	} else {
		fmt.Printf("GUEST-FAIL %d\n", failed)
	}
	unix.Sync()
	err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	fmt.Println("power off:", err)
	time.Sleep(time.Minute) // process 1 must not end
}

func run() (failed int) {
	for _, m := range [][3]string{
		{"proc", "/proc", "proc"}, {"sysfs", "/sys", "sysfs"}, {"devtmpfs", "/dev", "devtmpfs"},
		{"tmpfs", "/tmp", "tmpfs"}, {"tmpfs", "/run", "tmpfs"}, {"configfs", "/sys/kernel/config", "configfs"},
	} {
		if err := errors.Join(os.MkdirAll(m[1], 0o755), unix.Mount(m[0], m[1], m[2], 0, "")); err != nil {
			fmt.Printf("mount %s: %v\n", m[1], err)
		}
	}
	if err := loopback(); err != nil {
		fmt.Println("loopback:", err)
	}
	modules()
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		fmt.Printf("GUEST %s %s\n", unix.ByteSliceToString(u.Release[:]), unix.ByteSliceToString(u.Machine[:]))
	}
	tests, _ := filepath.Glob("/tests/*.test")
	if len(tests) == 0 {
		return 1
	}
	for _, t := range tests {
		args, _ := os.ReadFile(strings.TrimSuffix(t, ".test") + ".args")
		cmd := exec.Command(t, strings.Fields(string(args))...)
		cmd.Stdout, cmd.Stderr, cmd.Dir = os.Stdout, os.Stdout, "/tmp"
		cmd.Env = []string{"PATH=/bin", "HOME=/tmp", "TMPDIR=/tmp", "BACKSTAY_TEST_GUEST=1"}
		if err := cmd.Run(); err != nil {
			fmt.Printf("%s: %v\n", t, err)
			failed++
		}
	}
	return failed
}

// modules loads what the kernel has as modules, in the order of the list.
func modules() {
	f, err := os.Open("/modules")
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		fmt.Println("modules:", err)
		return
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if err := insert("/lib/modules/" + s.Text()); err != nil && !errors.Is(err, unix.EEXIST) {
			fmt.Printf("module %s: %v\n", s.Text(), err)
		}
	}
}

func insert(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.FinitModule(int(f.Fd()), "", 0)
}

func loopback() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	r, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, r)
}
