// SPDX-License-Identifier: Apache-2.0

package source

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/testdata/testneed"
)

var (
	tcp4 = table{protocol: unix.IPPROTO_TCP, family: unix.AF_INET}
	tcp6 = table{protocol: unix.IPPROTO_TCP, family: unix.AF_INET6}
	udp4 = table{protocol: unix.IPPROTO_UDP, family: unix.AF_INET}
	udp6 = table{protocol: unix.IPPROTO_UDP, family: unix.AF_INET6}
)

func TestParseInetDiag(t *testing.T) {
	tcp := native(t,
		"020a0000027700007f00000100000000000000000000000000000000000000000000000000000000030000001100000000000000000000000000000080000000e803000031d40000",
		"020a0000027700007f00000100000000000000000000000000000000000000000000000000000000000000030000001100000000000000000000000000000080000003e80000d431")
	udp := native(t,
		"0a07000014e90000fe80000000000000020000fffe00000100000000000000000000000000000000000000001100000000000000000000000000000000000000000000004d000000",
		"0a07000014e90000fe80000000000000020000fffe00000100000000000000000000000000000000000000000000001100000000000000000000000000000000000000000000004d")
	e, o, ok := parseInetDiag(tcp, &tcp4)
	if addr := netip.AddrFrom16(e.addr).Unmap().String(); !ok || addr != "127.0.0.1" || e.port != 631 || e.iface != 3 || o != (socketOwner{54321, 1000}) {
		t.Errorf("tcp: %s %+v %+v %v", addr, e, o, ok)
	}
	e, o, ok = parseInetDiag(udp, &udp6)
	if addr := netip.AddrFrom16(e.addr).String(); !ok || addr != "fe80::200:ff:fe00:1" || e.port != 5353 || o != (socketOwner{77, 0}) {
		t.Errorf("udp: %s %+v %+v %v", addr, e, o, ok)
	}
	for n := range tcp {
		if _, _, ok := parseInetDiag(tcp[:n], &tcp4); ok {
			t.Errorf("%d bytes were taken", n)
		}
	}
	connected, peer := slices.Clone(tcp), slices.Clone(udp)
	connected[1], peer[7] = 1, 1
	_, _, a := parseInetDiag(connected, &tcp4)
	_, _, b := parseInetDiag(peer, &udp6)
	_, _, c := parseInetDiag(tcp, &tcp6)
	if a || b || c {
		t.Errorf("taken: connection %v, UDP with a peer %v, other family %v", a, b, c)
	}
}

// word is how /proc/net prints 32 bits of an address on this machine.
func word(t *testing.T, a, b, c, d byte) string {
	return strings.ToUpper(fmt.Sprintf("%x", native(t, fmt.Sprintf("%02x%02x%02x%02x", d, c, b, a), fmt.Sprintf("%02x%02x%02x%02x", a, b, c, d))))
}

func TestParseProcNet(t *testing.T) {
	const tail = " 00000000:00000000 00:00000000 00000000  1000        0 54321 1 00000000c5492419 100 0 0 10 0"
	lo := word(t, 127, 0, 0, 1)
	six := word(t, 0xfe, 0x80, 0, 0) + word(t, 0, 0, 0, 0) + word(t, 2, 0, 0, 0xff) + word(t, 0xfe, 0, 0, 1)
	zero6 := strings.Repeat("0", 32)
	for _, tc := range []struct {
		line  string
		table *table
		want  socketState
		addr  string
	}{
		{"   0: " + lo + ":0277 00000000:0000 0A" + tail, &tcp4, socketListens, "::ffff:127.0.0.1"},
		{"   1: " + lo + ":0277 " + lo + ":9000 01" + tail, &tcp4, socketConnected, ""},
		{"   0: " + lo + ":0277 00000000:0000 07" + tail, &udp4, socketListens, "::ffff:127.0.0.1"},
		{"   0: " + lo + ":0277 " + lo + ":0035 07" + tail, &udp4, socketConnected, ""},
		{"  12: " + six + ":0277 " + zero6 + ":0000 0A" + tail, &tcp6, socketListens, "fe80::200:ff:fe00:1"},
		{"   0: " + lo + ":0277 00000000:0000 0A" + tail, &tcp6, socketUnknown, ""},
		{"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode", &tcp4, socketUnknown, ""},
		{"   0: 0100007G:0277 00000000:0000 0A" + tail, &tcp4, socketUnknown, ""},
		{"   0: " + lo + ":0277 00000000:0000 0A", &tcp4, socketUnknown, ""},
		{strings.Replace("   0: "+lo+":0277 00000000:0000 0A"+tail, "54321", "5432154321", 1), &tcp4, socketUnknown, ""},
		{"", &tcp4, socketUnknown, ""},
	} {
		e, o, got := parseProcNet([]byte(tc.line), tc.table)
		if got != tc.want {
			t.Errorf("%q: %v, want %v", tc.line, got, tc.want)
		}
		if addr := netip.AddrFrom16(e.addr).String(); got == socketListens && (addr != tc.addr || e.port != 631 || o != (socketOwner{54321, 1000})) {
			t.Errorf("%q: %s %+v %+v", tc.line, addr, e, o)
		}
	}
}

func FuzzProcNet(f *testing.F) {
	f.Add([]byte("   0: 0100007F:0277 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 54321 1 0 100 0 0 10 0"), false)
	f.Fuzz(func(t *testing.T, b []byte, six bool) {
		tb := &tcp4
		if six {
			tb = &tcp6
		}
		if e, _, st := parseProcNet(b, tb); st == socketListens && e.port == 0 {
			t.Error("port 0 listens")
		}
	})
}

func FuzzInetDiag(f *testing.F) {
	f.Add(make([]byte, 72))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, tb := range []*table{&tcp4, &tcp6, &udp4, &udp6} {
			if e, _, ok := parseInetDiag(b, tb); ok && (e.port == 0 || e.family != tb.family) {
				t.Errorf("%+v", e)
			}
		}
	})
}

// listenerIn returns a watcher whose kernel is a tree with text in /proc/net.
func listenerIn(t *testing.T, files map[string]string) (*listenerWatcher, func(name, text string)) {
	t.Helper()
	root := t.TempDir()
	write := func(name, text string) {
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range files {
		write(name, text)
	}
	w, err := openListener(t.Context(), &Env{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	l := w.(*listenerWatcher)
	if l.diag != nil {
		l.diag.Close()
		l.diag = nil
	}
	return l, write
}

func procNetLine(t *testing.T, port, inode, uid int, st string) string {
	return fmt.Sprintf("   0: %s:%04X 00000000:0000 %s 00000000:00000000 00:00000000 00000000  %d        0 %d 1 0 100 0 0 10 0\n",
		word(t, 127, 0, 0, 1), port, st, uid, inode)
}

func TestListenersAreCompared(t *testing.T) {
	head := "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
	w, write := listenerIn(t, map[string]string{"/proc/net/tcp": head + procNetLine(t, 22, 1, 0, "0A"), "/proc/net/udp": head})
	if !strings.Contains(w.Covers(), "from /proc/net") {
		t.Error(w.Covers())
	}
	fd := func(pid, inode int, exe string) {
		dir := fmt.Sprintf("%s/proc/%d", w.env.Root, pid)
		os.MkdirAll(dir+"/fd", 0o755)
		os.Remove(dir + "/fd/3")
		os.Remove(dir + "/exe")
		if err := os.Symlink(fmt.Sprintf("socket:[%d]", inode), dir+"/fd/3"); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(exe, dir+"/exe"); err != nil {
			t.Fatal(err)
		}
	}
	fd(10, 1, "/usr/sbin/sshd")
	var rec recorded
	sink := testSink(&rec)
	look := func(want ...string) {
		t.Helper()
		rec.list = nil
		if err := w.compare(t.Context(), sink); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range rec.list {
			s := e.Code
			for _, name := range []string{"transport", "address", "port", "uid", "pid", "exe", "exe_before", "at_start"} {
				if v, ok := e.Attr(name); ok {
					s += " " + v
				}
			}
			got = append(got, s)
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("look %d:\n got %q\nwant %q", w.look, got, want)
		}
	}
	look("net.listen tcp 127.0.0.1 22 0 10 /usr/sbin/sshd true")
	look()
	write("/proc/net/tcp", head+procNetLine(t, 22, 1, 0, "0A")+procNetLine(t, 4444, 2, 1000, "0A")+procNetLine(t, 80, 3, 0, "01"))
	write("/proc/net/udp", head+procNetLine(t, 40000, 5, 0, "07"))
	fd(11, 2, "/tmp/x")
	look("net.listen tcp 127.0.0.1 4444 1000 11 /tmp/x")
	// A UDP port that is there at one look only is a client's.
	write("/proc/net/udp", head+procNetLine(t, 123, 6, 0, "07"))
	look()
	look("net.listen udp 127.0.0.1 123 0")
	// The service restarts: the same program, another socket. That is nothing new; another program is.
	write("/proc/net/tcp", head+procNetLine(t, 22, 7, 0, "0A")+procNetLine(t, 4444, 2, 1000, "0A"))
	fd(10, 7, "/usr/sbin/sshd")
	look()
	write("/proc/net/tcp", head+procNetLine(t, 22, 8, 0, "0A")+procNetLine(t, 4444, 2, 1000, "0A"))
	fd(12, 8, "/tmp/sshd")
	look("net.listen tcp 127.0.0.1 22 0 12 /tmp/sshd /usr/sbin/sshd")
	// Missing once may be a list cut in pieces.
	write("/proc/net/tcp", head+procNetLine(t, 4444, 2, 1000, "0A"))
	look()
	look("net.closed tcp 127.0.0.1 22 0 12 /tmp/sshd")
	look()
}

func TestListenersAreBounded(t *testing.T) {
	var all strings.Builder
	for port := range 2 * maxListeners {
		all.WriteString(procNetLine(t, port+1, port+1, 0, "0A"))
	}
	w, _ := listenerIn(t, map[string]string{"/proc/net/tcp": all.String()})
	var rec recorded
	sink := testSink(&rec)
	for range 3 {
		if err := w.compare(t.Context(), sink); err != nil {
			t.Fatal(err)
		}
	}
	if len(w.known) != maxListeners || len(rec.of("net.listen")) != maxListeners {
		t.Errorf("%d known, %d recorded, want %d", len(w.known), len(rec.of("net.listen")), maxListeners)
	}
	if l := &sink.loss; l.count != maxListeners || l.times != 1 {
		t.Errorf("lost %d in %d reports, want %d once", l.count, l.times, maxListeners)
	}
}

func TestListenersOfThisKernel(t *testing.T) {
	testneed.Native(t)
	early, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer early.Close()
	rec := live(t, listenerKind(), &Env{Poll: 50 * time.Millisecond})
	_, eport, _ := net.SplitHostPort(early.Addr().String())
	await(t, rec, "net.listen", "port", eport, "at_start", "true")
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	exe, _ := os.Readlink("/proc/self/exe")
	e := await(t, rec, "net.listen", "port", port, "transport", "tcp", "pid", fmt.Sprint(os.Getpid()), "exe", exe)
	if _, ok := e.Attr("at_start"); ok {
		t.Error("it was opened after the start")
	}
	six, err := net.Listen("tcp6", "[::1]:0")
	if err == nil {
		_, port6, _ := net.SplitHostPort(six.Addr().String())
		await(t, rec, "net.listen", "port", port6, "address", "::1")
		six.Close()
	}
	u, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, uport, _ := net.SplitHostPort(u.LocalAddr().String())
	await(t, rec, "net.listen", "port", uport, "transport", "udp", "exe", exe)
	u.Close()
	l.Close()
	await(t, rec, "net.closed", "port", port, "exe", exe)
	await(t, rec, "net.closed", "port", uport, "transport", "udp")
}

// The text of this kernel says the same as its messages.
func TestProcNetOfThisKernel(t *testing.T) {
	testneed.Native(t)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	w, err := openListener(t.Context(), &Env{})
	if err != nil {
		t.Skip(err)
	}
	lw := w.(*listenerWatcher)
	defer lw.Close()
	var sets [2]map[endpoint]socketOwner
	for i := range sets {
		sets[i] = map[endpoint]socketOwner{}
		lw.known = map[endpoint]*listening{}
		if i == 1 {
			lw.tables[0].noDiag = true
		}
		if err := lw.list(t.Context(), &lw.tables[0]); err != nil {
			t.Fatal(err)
		}
		for e, o := range lw.known {
			sets[i][e] = o.now
		}
	}
	mine := endpoint{protocol: unix.IPPROTO_TCP, family: unix.AF_INET, port: uint16(l.Addr().(*net.TCPAddr).Port)}
	mine.addr = netip.MustParseAddr("127.0.0.1").As16()
	if a, b := sets[0][mine], sets[1][mine]; a != b || a.inode == 0 {
		t.Errorf("sock_diag %+v, /proc/net/tcp %+v", a, b)
	}
}

// What a device pays for in all its life.
func BenchmarkListenerPoll(b *testing.B) {
	testneed.Native(b)
	w, err := openListener(b.Context(), &Env{})
	if err != nil {
		b.Skip(err)
	}
	defer w.Close()
	var rec recorded
	sink := testSink(&rec)
	lw := w.(*listenerWatcher)
	b.ReportAllocs()
	for b.Loop() {
		if err := lw.compare(b.Context(), sink); err != nil {
			b.Fatal(err)
		}
	}
}

func TestListenerPollIsCheap(t *testing.T) {
	testneed.Native(t)
	w, err := openListener(t.Context(), &Env{})
	if err != nil {
		t.Skip(err)
	}
	defer w.Close()
	var rec recorded
	sink := testSink(&rec)
	lw := w.(*listenerWatcher)
	poll := func() {
		if err := lw.compare(t.Context(), sink); err != nil {
			t.Fatal(err)
		}
	}
	poll()
	if n := testing.AllocsPerRun(20, poll); n > 40 {
		t.Errorf("a poll without news costs %.0f allocations", n)
	}
}
