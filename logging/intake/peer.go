// SPDX-License-Identifier: Apache-2.0

package intake

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/logging"
)

// peerOf asks the kernel who opened a connection.
func peerOf(c *net.UnixConn) (Peer, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return Peer{}, fmt.Errorf("ask who connected: %w", err)
	}
	var p Peer
	ctl := raw.Control(func(fd uintptr) {
		var cred *unix.Ucred
		if cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err != nil {
			return
		}
		p = Peer{UID: int(cred.Uid), GID: int(cred.Gid), PID: int(cred.Pid)}
		p.Exe = program(int(fd), p.PID)
	})
	if err := errors.Join(ctl, err); err != nil {
		return Peer{}, fmt.Errorf("ask who connected: %w", err)
	}
	return p, nil
}

// program returns the path of the program that runs as pid, "" when it cannot be told. A process that ended meanwhile may have
// left its number to another, so the answer counts only while the one who connected still lives: the kernel's handle for it says
// so. Kernels before 6.5 do not hand it out; there one is opened by number, which leaves the time since the connection open.
func program(fd, pid int) string {
	handle, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	if err != nil {
		if handle, err = unix.PidfdOpen(pid, 0); err != nil {
			return ""
		}
	}
	defer unix.Close(handle) //nolint:errcheck // nothing was written
	exe, err := os.Readlink("/proc/" + strconv.Itoa(pid) + "/exe")
	if err != nil || unix.PidfdSendSignal(handle, 0, nil, 0) != nil {
		return ""
	}
	return exe
}

// senderOf reads who sent a datagram from the control message the kernel put beside it.
func senderOf(oob []byte) (Peer, bool) {
	list, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return Peer{}, false
	}
	for i := range list {
		if cred, err := unix.ParseUnixCredentials(&list[i]); err == nil {
			return Peer{UID: int(cred.Uid), GID: int(cred.Gid), PID: int(cred.Pid)}, true
		}
	}
	return Peer{}, false
}

func (p Peer) subject() string { return "uid " + strconv.Itoa(p.UID) }

// attrs are what stands in every record about its sender.
func (p Peer) attrs(source string) []logging.Attr {
	out := []logging.Attr{{Name: "source", Value: source}, {Name: "uid", Value: strconv.Itoa(p.UID)}}
	if p.PID > 0 { // 0: it is in another pid namespace
		out = append(out, logging.Attr{Name: "pid", Value: strconv.Itoa(p.PID)})
	}
	if p.Exe != "" {
		out = append(out, logging.Attr{Name: "exe", Value: p.Exe})
	}
	return out
}

// allowed reports whether a peer may write to the JSON socket.
func (s *Server) allowed(p Peer) bool {
	return p.UID == os.Geteuid() || slices.Contains(s.cfg.AllowUIDs, p.UID) || slices.Contains(s.cfg.AllowGIDs, p.GID)
}
