// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Netfilter is the path reported when the packet filter was changed, by anybody: what the rules about it name as inspected.
const Netfilter = "nf_tables"

// WatchNetfilter listens to the kernel's own announcements of changes of nf_tables. What they say is not read: they only make
// somebody look. The error is of a kernel without them, or of a process that may not listen.
func WatchNetfilter() (Source, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return Source{}, fmt.Errorf("watch packet filter: %w", err)
	}
	group := &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)}
	if err := unix.Bind(fd, group); err != nil {
		unix.Close(fd)
		return Source{}, fmt.Errorf("watch packet filter: %w", err)
	}
	return Source{Path: Netfilter, FD: fd, Close: func() { unix.Close(fd) }, Drain: func() { //nolint:errcheck // it holds no data
		var buf [8 << 10]byte
		for range 1024 { // a flood is taken up in turns
			// ENOBUFS, some announcements were dropped, is an announcement, too.
			if _, err := unix.Read(fd, buf[:]); err != nil && err != unix.ENOBUFS {
				return
			}
		}
	}}, nil
}
