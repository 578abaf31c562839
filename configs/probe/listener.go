// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"strconv"
	"strings"
)

// maxListeners bounds the sockets of one run, and maxNetFile the bytes of one table in /proc/net.
const (
	maxListeners = 4096
	maxNetFile   = 4 << 20
)

// listener is one socket that takes what others send: a TCP socket that listens, a UDP or raw socket that is not connected, a
// packet socket.
type listener struct {
	proto string     // tcp, udp, raw, packet; the address says which IP
	addr  netip.Addr // not valid for packet
	port  uint16     // of raw and packet: the protocol
	inode uint64
	uid   uint32
	procs []process // who has it open; none for a socket of the kernel, or of a process that may not be read
}

// scope says from where it can be reached: loopback, any, or the address.
func (l listener) scope() string {
	switch {
	case !l.addr.IsValid() || l.addr.IsUnspecified():
		return "any"
	case l.addr.Unmap().IsLoopback():
		return "loopback"
	}
	return l.addr.String()
}

// name is how evidence and waivers name it: tcp/23.
func (l listener) name() string { return l.proto + "/" + strconv.Itoa(int(l.port)) }

// listenerFacts are the listening sockets of the network name space the agent is in.
type listenerFacts struct {
	list   []listener
	read   []string // tables that were read
	hidden int      // processes whose descriptors may not be read
	err    error
}

// listeners reads the listening sockets of the running system and who has them, once for a run.
func (h *Host) listeners(ctx context.Context) *listenerFacts {
	defer h.sharing("listeners", h.listening != nil)()
	if h.listening == nil {
		f := h.readListeners(ctx)
		if ctx.Err() != nil {
			return f
		}
		h.listening = f
	}
	return h.listening
}

func (h *Host) readListeners(ctx context.Context) *listenerFacts {
	f := &listenerFacts{}
	if !h.live {
		f.err = errNotLive
		return f
	}
	for _, table := range []string{"tcp", "tcp6", "udp", "udp6", "udplite", "udplite6", "raw", "raw6", "packet"} {
		name, err := h.Resolve("/proc/net/" + table)
		if err == nil {
			var data []byte
			if data, err = h.readFile(h.tree, rel(name), maxNetFile); err == nil {
				f.read = append(f.read, "/proc/net/"+table)
				f.list, err = parseSockets(f.list, strings.TrimSuffix(table, "6"), string(data))
			}
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			f.err = fmt.Errorf("read /proc/net/%s: %w", table, err)
			return f
		}
	}
	if len(f.read) == 0 {
		f.err = errors.New("/proc/net has no tables of sockets: is /proc mounted?")
		return f
	}
	f.own(ctx, h)
	return f
}

// own finds the processes behind the sockets.
func (f *listenerFacts) own(ctx context.Context, h *Host) {
	by := map[uint64][]int{}
	for i, l := range f.list {
		by[l.inode] = append(by[l.inode], i)
	}
	ps := h.processes(ctx)
	if f.err = ps.err; f.err != nil {
		return
	}
	f.hidden = ps.hidden
	for _, p := range ps.list {
		if f.err = ctx.Err(); f.err != nil {
			return
		}
		if p.kernel() {
			continue
		}
		for inode := range h.sockets(p.pid) {
			for _, i := range by[inode] {
				if n := len(f.list[i].procs); n < 8 && (n == 0 || f.list[i].procs[n-1].pid != p.pid) {
					f.list[i].procs = append(f.list[i].procs, p)
				}
			}
		}
	}
}

// parseSockets adds the listening sockets of one table of /proc/net.
func parseSockets(list []listener, proto, data string) ([]listener, error) {
	first := true
	for l := range strings.Lines(data) {
		f := strings.Fields(l)
		if first || len(f) == 0 {
			first = false
			continue
		}
		if len(list) >= maxListeners {
			return list, fmt.Errorf("%w: more than %d sockets", ErrTooLarge, maxListeners)
		}
		s, use, err := parseSocket(proto, f)
		if err != nil {
			return list, err
		}
		if use {
			list = append(list, s)
		}
	}
	return list, nil
}

var errSocketLine = errors.New("a line is not understood")

// parseSocket reads one line; use is false for a socket that does not take what others send.
func parseSocket(proto string, f []string) (l listener, use bool, err error) {
	l.proto = strings.TrimSuffix(proto, "lite")
	if proto == "packet" { // sk RefCnt Type Proto Iface R Rmem User Inode
		if len(f) < 9 {
			return l, false, errSocketLine
		}
		p, perr := strconv.ParseUint(f[3], 16, 16)
		uid, uerr := strconv.ParseUint(f[7], 10, 32)
		inode, ierr := strconv.ParseUint(f[8], 10, 64)
		l.port, l.uid, l.inode = uint16(p), uint32(uid), inode
		return l, true, errors.Join(perr, uerr, ierr)
	}
	// sl local rem st tx:rx tr:tm retrnsmt uid timeout inode
	if len(f) < 10 {
		return l, false, errSocketLine
	}
	var aerr, rerr error
	var remote uint16
	l.addr, l.port, aerr = hexAddr(f[1])
	_, remote, rerr = hexAddr(f[2])
	uid, uerr := strconv.ParseUint(f[7], 10, 32)
	inode, ierr := strconv.ParseUint(f[9], 10, 64)
	l.uid, l.inode = uint32(uid), inode
	switch l.proto {
	case "tcp":
		use = f[3] == "0A" // TCP_LISTEN
	default:
		use = f[3] == "07" && (remote == 0 || l.proto == "raw") // not connected
	}
	return l, use, errors.Join(aerr, rerr, uerr, ierr)
}

// hexAddr reads an address as /proc/net writes it: words of 32 bits, each as a number of the machine's own byte order.
func hexAddr(s string) (netip.Addr, uint16, error) {
	a, p, ok := strings.Cut(s, ":")
	port, err := strconv.ParseUint(p, 16, 16)
	if !ok || err != nil || len(a) != 8 && len(a) != 32 {
		return netip.Addr{}, 0, errSocketLine
	}
	b, err := hex.DecodeString(a)
	if err != nil {
		return netip.Addr{}, 0, errSocketLine
	}
	for i := 0; i < len(b); i += 4 {
		binary.NativeEndian.PutUint32(b[i:], binary.BigEndian.Uint32(b[i:]))
	}
	addr, _ := netip.AddrFromSlice(b)
	return addr, uint16(port), nil
}
