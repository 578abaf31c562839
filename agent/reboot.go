// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"os/exec"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/agent/config"
	"github.com/backstay/backstay/update"
)

// reboot asks for a restart in the way the configuration says. A nil return means that it was asked for; what is not durable by
// then may be lost. With the method exit nothing is asked here: the process ends with its own code, and a supervisor restarts
// the device. An argument is for the boot loader; only the kernel can be given one.
func reboot(ctx context.Context, r config.Reboot, argument string) error {
	if argument != "" && r.Method != "kernel" {
		return fmt.Errorf("reboot: %w: the boot loader has to be told %q, which reboot.method %q cannot", update.ErrSetup, argument, r.Method)
	}
	switch r.Method {
	case "exit":
		return nil
	case "command":
		if out, err := exec.CommandContext(ctx, r.Command[0], r.Command[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("run %s: %w: %.200s", r.Command[0], err, out)
		}
		return nil
	}
	unix.Sync() // sysrq-style reboots lose what is in the page cache
	if argument != "" {
		return restart2(argument)
	}
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART); err != nil {
		return fmt.Errorf("reboot: %w", err)
	}
	return nil
}

// restart2 is reboot(2) with a string, which the kernel hands to the platform's restart handler; unix.Reboot has no place for it.
func restart2(argument string) error {
	p, err := unix.BytePtrFromString(argument)
	if err != nil {
		return fmt.Errorf("reboot: %w", err)
	}
	_, _, errno := unix.Syscall6(unix.SYS_REBOOT, unix.LINUX_REBOOT_MAGIC1, unix.LINUX_REBOOT_MAGIC2, unix.LINUX_REBOOT_CMD_RESTART2,
		uintptr(unsafe.Pointer(p)), 0, 0)
	if errno != 0 {
		return fmt.Errorf("reboot %q: %w", argument, errno)
	}
	return nil
}
