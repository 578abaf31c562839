// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"net"
	"os"
	"strconv"
	"time"
)

// notifier tells the service manager how the agent is (sd_notify(3)). Under procd, busybox init or in a shell there is no
// NOTIFY_SOCKET and every call does nothing.
type notifier struct{ socket string }

func newNotifier() notifier { return notifier{os.Getenv("NOTIFY_SOCKET")} }

// send passes state, for example "READY=1" or "STATUS=installing 1.1.0". A lost message is not worth an error: the manager's
// own timeout is the answer to an agent that cannot be heard.
func (n notifier) send(state string) {
	if n.socket == "" {
		return
	}
	name := n.socket
	if name[0] == '@' { // abstract socket
		name = "\x00" + name[1:]
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		return
	}
	defer c.Close()
	_, _ = c.Write([]byte(state))
}

// watchdogPeriod returns half of what the manager allows between two signs of life (sd_watchdog_enabled(3)), 0 when it asks
// for none or asks another process.
func watchdogPeriod() time.Duration {
	if pid := os.Getenv("WATCHDOG_PID"); pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return 0
	}
	usec, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64)
	if err != nil || usec <= 0 {
		return 0
	}
	return time.Duration(usec) * time.Microsecond / 2
}
