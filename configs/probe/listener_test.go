// SPDX-License-Identifier: Apache-2.0

package probe_test

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/backstay/backstay/configs/probe"
)

// socketLine writes a line of /proc/net/tcp as the kernel of this machine does.
func socketLine(addr string, port int, state string, inode int) string {
	var hex strings.Builder
	b := netip.MustParseAddr(addr).AsSlice()
	for i := 0; i < len(b); i += 4 {
		fmt.Fprintf(&hex, "%08X", binary.NativeEndian.Uint32(b[i:]))
	}
	zero := strings.Repeat("0", hex.Len())
	return fmt.Sprintf("   0: %s:%04X %s:0000 %s 00000000:00000000 00:00000000 00000000     0        0 %d 1 0000000000000000 100 0 0 10 0\n", hex.String(), port, zero, state, inode)
}

// procEntry is one process of a made-up /proc.
type procEntry struct {
	pid, ppid int
	name      string
	cmdline   string
	exe       string
	sockets   []int
}

// procTree makes a /proc with tables of sockets and processes.
func procTree(t testing.TB, dir string, tables map[string]string, procs ...procEntry) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Join(dir, "proc/self/net"), 0o755))
	must(t, os.Symlink("self/net", filepath.Join(dir, "proc/net")))
	for name, text := range tables {
		must(t, os.WriteFile(filepath.Join(dir, "proc/self/net", name), []byte("  sl  local_address rem_address   st\n"+text), 0o644))
	}
	for _, p := range procs {
		d := filepath.Join(dir, "proc", fmt.Sprint(p.pid))
		must(t, os.MkdirAll(filepath.Join(d, "fd"), 0o755))
		must(t, os.WriteFile(filepath.Join(d, "stat"), []byte(fmt.Sprintf("%d (%s) S %d 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 %d 1 2\n", p.pid, p.name, p.ppid, 1000+p.pid)), 0o644))
		must(t, os.WriteFile(filepath.Join(d, "cmdline"), []byte(strings.ReplaceAll(p.cmdline, " ", "\x00")), 0o644))
		if p.exe != "" {
			must(t, os.Symlink(p.exe, filepath.Join(d, "exe")))
		}
		for i, n := range p.sockets {
			must(t, os.Symlink(fmt.Sprintf("socket:[%d]", n), filepath.Join(d, "fd", fmt.Sprint(i))))
		}
	}
}

func liveHost(t testing.TB, dir string) *probe.Host {
	t.Helper()
	root, err := os.OpenRoot(dir)
	must(t, err)
	t.Cleanup(func() { root.Close() })
	return probe.NewHost(root, true)
}

func TestListeners(t *testing.T) {
	dir := t.TempDir()
	procTree(t, dir, map[string]string{
		"tcp":    socketLine("0.0.0.0", 23, "0A", 11) + socketLine("127.0.0.1", 631, "0A", 12) + socketLine("10.0.0.1", 40000, "01", 13) + socketLine("0.0.0.0", 2049, "0A", 14),
		"tcp6":   socketLine("::", 443, "0A", 15) + socketLine("::1", 80, "0A", 16),
		"udp":    socketLine("192.168.1.2", 68, "07", 17),
		"packet": "ffff0 3 3 88cc 2 1 0 0 18\n",
	}, procEntry{1, 0, "init", "init", "/bin/busybox", nil}, procEntry{2, 0, "kthreadd", "", "", nil}, procEntry{9, 2, "nfsd", "", "", nil},
		procEntry{50, 1, "busybox", "/bin/busybox telnetd -F", "/bin/busybox", []int{11}}, procEntry{51, 1, "a) S (b", "/opt/web -x", "/opt/web (deleted)", []int{12, 15, 16}},
		procEntry{52, 51, "web", "/opt/web", "/opt/web", []int{15}}, procEntry{53, 1, "udhcpc", "udhcpc -i eth0", "/bin/busybox", []int{17, 18}})
	got, err := probe.Listeners(liveHost(t, dir))
	want := []string{"tcp/23 any telnetd", "tcp/631 loopback web (deleted)", "tcp/2049 any", "tcp/443 any web (deleted) web", "tcp/80 loopback web (deleted)", "udp/68 192.168.1.2 udhcpc", "packet/35020 any udhcpc"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v\n%s\nwant\n%s", err, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if _, err := probe.Listeners(host(t, dir)); err == nil {
		t.Error("an image has no listeners, and there is no error")
	}
	if _, err := probe.Listeners(liveHost(t, t.TempDir())); err == nil {
		t.Error("without /proc there is no error")
	}
}

// What the kernel of this machine says about a socket of this process.
func TestListenersOfThisMachine(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	u, err := net.ListenPacket("udp6", "[::1]:0")
	if err == nil {
		defer u.Close()
	}
	got, err := probe.Listeners(liveHost(t, "/"))
	must(t, err)
	self := filepath.Base(os.Args[0])
	want := []string{fmt.Sprintf("tcp/%d loopback %s", l.Addr().(*net.TCPAddr).Port, self)}
	if u != nil {
		want = append(want, fmt.Sprintf("udp/%d loopback %s", u.LocalAddr().(*net.UDPAddr).Port, self))
	}
	if slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, " qemu-") }) {
		t.Skip("user emulation: /proc/net is in the byte order of the machine below")
	}
	for _, w := range want {
		if !slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, w) }) {
			t.Errorf("%s is missing in\n%s", w, strings.Join(got, "\n"))
		}
	}
}

func TestHostileTables(t *testing.T) {
	for _, bad := range []string{"x\n0: zz:16 0:0 0A\n", "h\n 0: 00000000:0016 00000000:0000 0A a b c 0 0\n", "h\n 0: 0000000:0016 00000000:0000 0A a b c 0 0 1\n", "h\n 0: 00000000:10016 00000000:0000 0A a b c 0 0 1\n"} {
		if n, err := probe.ParseSockets("tcp", bad); err == nil {
			t.Errorf("%q gives %d sockets", bad, n)
		}
	}
	if _, err := probe.ParseSockets("tcp", "h\n"+strings.Repeat(socketLine("0.0.0.0", 1, "0A", 1), 5000)); err == nil {
		t.Error("5000 sockets are not too many")
	}
	for _, bad := range []string{"", "1 (", "1 (a) S", ")1(", "x (a) S 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 1 1 2", "1 (a) S y 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 1 1 2"} {
		if probe.ParseStat([]byte(bad)) == nil {
			t.Errorf("stat %q is understood", bad)
		}
	}
}
