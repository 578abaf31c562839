// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"os/exec"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/agent/config"
)

// reboot asks for a restart in the way the configuration says. A nil return means that it was asked for; what is not durable by
// then may be lost. With the method exit nothing is asked here: the process ends with its own code, and a supervisor restarts
// the device.
func reboot(ctx context.Context, r config.Reboot) error {
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
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART); err != nil {
		return fmt.Errorf("reboot: %w", err)
	}
	return nil
}
