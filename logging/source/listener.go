// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/logging"
)

const (
	maxListeners  = 512 // watched; more are counted as lost
	defaultPoll   = 15 * time.Second
	maxListenName = 200 // bytes of a program's path that are kept
)

func listenerKind() Kind {
	return Kind{
		Name: "listener",
		Sees: "TCP and UDP ports that begin and cease to accept packets, and whose they are",
		Rate: logging.Rate{Per: 5, Burst: 100},
		Open: openListener,
	}
}

// endpoint is where something listens.
type endpoint struct {
	addr     [16]byte // IPv4 in its IPv6 form
	iface    uint32   // bound to this interface, 0 without
	port     uint16
	protocol uint8 // unix.IPPROTO_TCP or UDP
	family   uint8
}

// table is the list of sockets of one protocol and family.
type table struct {
	protocol, family uint8
	file             string // the same as text
	noDiag           bool   // the kernel answers for it as text only
}

// listening is what is known of an endpoint.
type listening struct {
	socketOwner             // whose process was looked up last
	now         socketOwner // of this look
	look        uint32      // number of the look that saw it last
	looks       uint8       // that saw it in a row, up to 2
	owned, told bool
	pid         int
	exe, before string // before: of the process that had it before this one
}

type socketOwner struct{ inode, uid uint32 }

// listenerWatcher compares what listens with what listened at the look before. There is no announcement by the kernel to wait for.
type listenerWatcher struct {
	env    *Env
	diag   *socket // nil: only /proc/net
	tables [4]table
	known  map[endpoint]*listening
	look   uint32
	left   uint64 // endpoints beyond maxListeners in this look
	full   bool   // said so
	text   procNet
	owners ownerScan
	blind  bool // there are processes it may not look into
	req    [56]byte
	found  func(m message) bool // made once
	table  *table               // that found belongs to
}

func openListener(_ context.Context, env *Env) (Watcher, error) {
	w := &listenerWatcher{env: env, known: map[endpoint]*listening{}, tables: [4]table{
		{protocol: unix.IPPROTO_TCP, family: unix.AF_INET, file: "/proc/net/tcp"},
		{protocol: unix.IPPROTO_TCP, family: unix.AF_INET6, file: "/proc/net/tcp6"},
		{protocol: unix.IPPROTO_UDP, family: unix.AF_INET, file: "/proc/net/udp"},
		{protocol: unix.IPPROTO_UDP, family: unix.AF_INET6, file: "/proc/net/udp6"},
	}}
	w.found = func(m message) bool {
		if e, o, ok := parseInetDiag(m.body, w.table); ok {
			w.see(e, o)
		}
		return false
	}
	var err error
	if w.diag, err = dialNetlink(unix.NETLINK_SOCK_DIAG, 0, 64<<10); err != nil {
		if _, perr := os.Stat(env.Path(w.tables[0].file)); perr != nil {
			return nil, errors.Join(lacks(err, "CONFIG_INET_DIAG", "netlink sockets"), perr)
		}
	}
	_, err = os.Readlink(env.Path("/proc/1/exe"))
	w.blind = errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM)
	w.owners.root = env.Path("/proc")
	return w, nil
}

func (w *listenerWatcher) Covers() string {
	s := fmt.Sprintf("TCP and UDP in the agent's network namespace, every %s", w.poll())
	if w.diag == nil {
		s += ", from /proc/net: the kernel has no CONFIG_INET_DIAG"
	}
	if w.blind {
		s += "; the owner only where the agent may look into the process: CAP_SYS_PTRACE would help"
	}
	return s + "; not what was open for less than that, nor raw sockets"
}

func (w *listenerWatcher) poll() time.Duration {
	if w.env.Poll <= 0 {
		return defaultPoll
	}
	return w.env.Poll
}

func (w *listenerWatcher) Close() error {
	if w.diag == nil {
		return nil
	}
	return w.diag.Close()
}

func (w *listenerWatcher) Run(ctx context.Context, sink *Sink) error {
	tick := time.NewTicker(w.poll())
	defer tick.Stop()
	for {
		if err := w.compare(ctx, sink); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// compare looks once and records what is different.
func (w *listenerWatcher) compare(ctx context.Context, sink *Sink) error {
	w.look++
	w.left = 0
	var listed [len(w.tables)]bool
	for i := range w.tables {
		err := w.list(ctx, &w.tables[i])
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil && !errors.Is(err, errChanged) && !errors.Is(err, errOverflow) {
			return fmt.Errorf("list sockets of %s: %w", w.tables[i].file, err)
		}
		listed[i] = err == nil
	}
	if w.left > 0 && !w.full {
		sink.Lost(w.left, fmt.Sprintf("more than %d listeners", maxListeners))
	}
	w.full = w.left > 0
	w.own()
	for e, l := range w.known {
		switch t := w.index(e); {
		case l.look == w.look:
			w.settle(e, l, sink)
		case listed[t] && w.look-l.look >= 2:
			// Missing once may be a list that moved while the kernel wrote it in pieces.
			if l.told {
				sink.Event("net.closed", l.attrs(e, "a port is closed")...)
			}
			delete(w.known, e)
		case !listed[t]:
			l.look++ // nobody looked
		}
	}
	return nil
}

// settle judges an endpoint that this look saw.
func (w *listenerWatcher) settle(e endpoint, l *listening, sink *Sink) {
	if l.looks = min(l.looks+1, 2); l.told || !w.counts(e, l.looks) {
		return
	}
	l.told = true
	attrs := l.attrs(e, "a port is open")
	if w.look == 1 {
		attrs = append(attrs, slog.Bool("at_start", true))
	}
	if l.before != "" {
		attrs = append(attrs, slog.String("exe_before", l.before))
	}
	sink.Event("net.listen", attrs...)
}

// counts reports whether an endpoint is worth a record. A UDP port has to be there at two looks: every client has one for a
// moment.
func (w *listenerWatcher) counts(e endpoint, looks uint8) bool {
	return e.protocol == unix.IPPROTO_TCP || w.look == 1 || looks >= 2
}

// own finds out whose the endpoints of this look are that are new, or another socket than before.
func (w *listenerWatcher) own() {
	w.owners.begin()
	for e, l := range w.known {
		if l.look != w.look {
			continue
		}
		if l.socketOwner != l.now {
			if l.owned = false; !l.told {
				l.looks = 0
			}
		}
		if l.owned || !w.counts(e, l.looks+1) {
			l.socketOwner = l.now
		} else {
			w.owners.want(l.now.inode)
		}
	}
	w.owners.scan()
	for e, l := range w.known {
		if l.look != w.look || l.owned || !w.counts(e, l.looks+1) {
			continue
		}
		pid, exe := w.owners.of(l.now.inode)
		if l.told && (exe != l.exe || l.now.uid != l.uid) {
			l.told, l.before = false, l.exe // another process took it over: told anew
		}
		l.socketOwner, l.pid, l.exe, l.owned = l.now, pid, exe, true
	}
}

// index is the place of an endpoint's table in tables.
func (w *listenerWatcher) index(e endpoint) int {
	for i, t := range w.tables {
		if t.protocol == e.protocol && t.family == e.family {
			return i
		}
	}
	return 0
}

// see notes one socket of this look. Several may share an endpoint: then the one that is known counts.
func (w *listenerWatcher) see(e endpoint, o socketOwner) {
	l := w.known[e]
	if l == nil {
		if len(w.known) >= maxListeners {
			w.left++
			return
		}
		l = &listening{socketOwner: o}
		w.known[e] = l
	}
	if l.look != w.look || o.inode == l.inode {
		l.now = o
	}
	l.look = w.look
}

// list reads one table.
func (w *listenerWatcher) list(ctx context.Context, t *table) error {
	w.table = t
	if w.diag != nil && !t.noDiag {
		states := uint32(1 << unix.BPF_TCP_LISTEN)
		if t.protocol == unix.IPPROTO_UDP {
			states = 1 << unix.BPF_TCP_CLOSE // not connected
		}
		w.req[0], w.req[1] = t.family, t.protocol
		binary.NativeEndian.PutUint32(w.req[4:], states)
		var err error
		for range netlinkTry {
			if err = w.diag.ask(ctx, unix.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP, w.req[:], w.found); !errors.Is(err, errChanged) {
				break
			}
		}
		if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EOPNOTSUPP) {
			return err
		}
		t.noDiag = true // asking again would make the kernel look for a module each time
	}
	return w.text.read(w.env.Path(t.file), t, w.see)
}

// parseInetDiag reads a struct inet_diag_msg, and tells whether it is one of a socket that listens.
func parseInetDiag(b []byte, t *table) (endpoint, socketOwner, bool) {
	const size = 72
	if len(b) < size || b[0] != t.family {
		return endpoint{}, socketOwner{}, false
	}
	if t.protocol == unix.IPPROTO_TCP && b[1] != unix.BPF_TCP_LISTEN || t.protocol == unix.IPPROTO_UDP && b[6]|b[7] != 0 {
		return endpoint{}, socketOwner{}, false // a peer makes it a connection
	}
	e := endpoint{protocol: t.protocol, family: t.family, port: binary.BigEndian.Uint16(b[4:]), iface: binary.NativeEndian.Uint32(b[40:])}
	e.setAddr(b[8:24])
	return e, socketOwner{inode: binary.NativeEndian.Uint32(b[68:]), uid: binary.NativeEndian.Uint32(b[64:])}, e.port != 0
}

// setAddr takes an address of the endpoint's family from the beginning of b.
func (e *endpoint) setAddr(b []byte) {
	if e.family == unix.AF_INET {
		e.addr = netip.AddrFrom4([4]byte(b)).As16()
		return
	}
	e.addr = [16]byte(b)
}

func (l *listening) attrs(e endpoint, message string) []slog.Attr {
	transport := "tcp"
	if e.protocol == unix.IPPROTO_UDP {
		transport = "udp"
	}
	addr := netip.AddrFrom16(e.addr)
	if e.family == unix.AF_INET {
		addr = addr.Unmap()
	}
	attrs := []slog.Attr{
		slog.String("message", message), slog.String("address", addr.String()), slog.Int("port", int(e.port)),
		slog.String("transport", transport), slog.Uint64("uid", uint64(l.uid)),
	}
	if e.iface != 0 {
		attrs = append(attrs, slog.Uint64("interface_index", uint64(e.iface)))
	}
	if l.pid > 0 {
		attrs = append(attrs, slog.Int("pid", l.pid))
	}
	if l.exe != "" {
		attrs = append(attrs, slog.String("exe", l.exe))
	}
	return attrs
}
