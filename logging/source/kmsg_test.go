// SPDX-License-Identifier: Apache-2.0

package source

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/backstay/backstay/testdata/testneed"
)

func TestParseKmsg(t *testing.T) {
	r, ok := parseKmsg([]byte("6,339,5140900,-;NET: Registered protocol family 10\n SUBSYSTEM=net\n DEVICE=n2\n"))
	if want := (kmsgRecord{6, 0, 339, "NET: Registered protocol family 10"}); !ok || r != want {
		t.Errorf("%+v %v", r, ok)
	}
	r, ok = parseKmsg([]byte("30,18446744073709551,5140900,c,caller=T1;said; something\n"))
	if want := (kmsgRecord{6, 3, 18446744073709551, "said; something"}); !ok || r != want {
		t.Errorf("%+v %v", r, ok)
	}
	if r, ok = parseKmsg([]byte("4,1,2,-;" + strings.Repeat("x", 4000))); !ok || len(r.text) != kmsgText {
		t.Errorf("%d bytes of text, %v", len(r.text), ok)
	}
	for _, bad := range []string{"", ";", "6;x", "6,1;x", "x,1,2,-;x", "6,-1,2,-;x", "6,99999999999999999999,2,-;x", "2048,1,2,-;x", "6,1,2,-"} {
		if r, ok := parseKmsg([]byte(bad)); ok {
			t.Errorf("%q was taken: %+v", bad, r)
		}
	}
}

func TestParseProcessCrash(t *testing.T) {
	for _, tc := range []struct {
		text string
		want processCrash
	}{
		{"httpd[812]: segfault at 0 ip 0000000000401136 sp 00007ffd error 6 in httpd[401000+1000]", processCrash{"segfault", "httpd", 812}},
		{"x[y]: seg[812]: segfault at 0 ip 0", processCrash{"segfault", "x[y]: seg", 812}},
		{"x[8y]: segfault at 0 ip 0", processCrash{}},
		{"a[1][812]: segfault at 0 ip 0", processCrash{"segfault", "a[1]", 812}},
		{"httpd[812]: segfault (11) at 0 nip 0 lr 0 code 1", processCrash{"segfault", "httpd", 812}},
		{"traps: httpd[812] general protection fault ip:401136 sp:7ffd error:0 in httpd[401000+1000]", processCrash{"general protection", "httpd", 812}},
		{"traps: httpd[812] trap invalid opcode ip:401136 sp:7ffd error:0", processCrash{"trap", "httpd", 812}},
		{"httpd[812]: unhandled signal 11 code 0x1 at 0x0000000000000000 in httpd[10000+1000]", processCrash{"signal", "httpd", 812}},
		{"httpd[812]: unhandled exception: DABT (lower EL), ESR 0x0000000092000046, level 2 translation fault", processCrash{"exception", "httpd", 812}},
		{"httpd: unhandled page fault (11) at 0x00000000, code 0x817", processCrash{"segfault", "httpd", 0}},
		{"httpd: potentially unexpected fatal signal 11.", processCrash{"signal", "httpd", 0}},
		{"do_page_fault(): sending SIGSEGV to httpd for invalid write access to 00000000", processCrash{"segfault", "httpd", 0}},
		{"Out of memory: Killed process 812 (httpd) total-vm:1234kB, anon-rss:12kB", processCrash{"out of memory", "httpd", 812}},
		{"Memory cgroup out of memory: Killed process 812 (httpd) total-vm:1kB", processCrash{"out of memory", "httpd", 812}},
		{"somebody Killed process 812 (httpd)", processCrash{}},
		{"usb 1-1: new high-speed USB device", processCrash{}},
	} {
		if c, ok := parseProcessCrash(tc.text); c != tc.want || ok != (tc.want != processCrash{}) {
			t.Errorf("%q:\n got %+v %v\nwant %+v", tc.text, c, ok, tc.want)
		}
	}
}

func FuzzKmsg(f *testing.F) {
	f.Add([]byte("4,1,2,-;httpd[812]: segfault at 0 ip 0"))
	f.Add([]byte("4,1,2,-;BUG: kernel NULL pointer dereference"))
	f.Add([]byte("4,1,2,-;Out of memory: Killed process 812 (httpd) total-vm:1kB"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var rec recorded
		var w kmsgWatcher
		sink := testSink(&rec)
		w.take(b, sink)
		w.take(b, sink)
		w.crash.end(sink)
		if len(rec.list) > 3 || len(w.crash.lines) > crashLines {
			t.Errorf("%d events", len(rec.list))
		}
		if c, ok := parseProcessCrash(string(b)); ok && (c.reason == "" || len(c.comm) > 64) {
			t.Errorf("%+v", c)
		}
	})
}

// feed gives lines to a watcher as kernel messages of a level.
func feed(w *kmsgWatcher, sink *Sink, level int, lines ...string) {
	for _, l := range lines {
		w.take(fmt.Appendf(nil, "%d,%d,1,-;%s\n", level, w.next, l), sink)
	}
}

func TestKernelCrashIsOneEvent(t *testing.T) {
	var rec recorded
	w := &kmsgWatcher{count: true}
	sink := testSink(&rec)
	feed(w, sink, 1, "BUG: kernel NULL pointer dereference, address: 0000000000000000", "#PF: supervisor write access in kernel mode")
	feed(w, sink, 4, "Oops: 0002 [#1] SMP", "CPU: 0 PID: 77 Comm: insmod Tainted: G           O", "RIP: 0010:evil+0x10/0x20 [evil]", "Call Trace:")
	for range 2 * crashLines {
		feed(w, sink, 4, " do_one_initcall+0x10/0x20")
	}
	feed(w, sink, 4, "---[ end trace 0000000000000000 ]---")
	if len(rec.list) != 1 {
		t.Fatalf("%d events: %+v", len(rec.list), rec.list)
	}
	e := rec.list[0]
	if e.Code != "crash" || attr(t, e, "reason") != "bug" || attr(t, e, "line.3") != "Oops: 0002 [#1] SMP" || attr(t, e, "lines") != "27" {
		t.Errorf("%+v", e)
	}
	if _, more := e.Attr(fmt.Sprintf("line.%d", crashLines+1)); more {
		t.Error("too many lines")
	}
	feed(w, sink, 0, "Kernel panic - not syncing: Fatal exception")
	feed(w, sink, 6, "httpd[812]: segfault at 0 ip 0") // in the middle of it
	w.crash.end(sink)
	await(t, &rec, "crash", "reason", "panic")
	await(t, &rec, "process.crash", "pid", "812", "comm", "httpd")

	rec.list = nil
	feed(w, sink, 4, "------------[ cut here ]------------", "WARNING: CPU: 0 PID: 1 at kernel/x.c:12 x+0x1/0x2", "Modules linked in: evil", "---[ end trace 0 ]---", "after it")
	if len(rec.list) != 2 || rec.list[0].Code != "kernel.message" || rec.list[0].Severity.String() != "medium" || rec.list[1].Message != "after it" {
		t.Errorf("a warning: %+v", rec.list)
	}
	rec.list = nil
	feed(w, sink, 4, "------------[ cut here ]------------", "kernel BUG at mm/slub.c:4000!", "------------[ cut here ]------------", "WARNING: at x")
	w.crash.end(sink)
	if len(rec.list) != 2 || rec.list[0].Code != "crash" || rec.list[1].Code != "kernel.message" {
		t.Errorf("two in a row: %+v", rec.list)
	}
	// A crash that never ends is cut.
	rec.list = nil
	for range 10 * crashMax {
		feed(w, sink, 4, "BUG: again")
	}
	if n := len(rec.list); n < 9 || n > 10 {
		t.Errorf("%d events", n)
	}
}

func TestKmsgLevelsAndForgery(t *testing.T) {
	var rec recorded
	w := &kmsgWatcher{count: true}
	sink := testSink(&rec)
	feed(w, sink, 6, "an information")
	feed(w, sink, 4, "a warning")
	feed(w, sink, 3, "an error")
	feed(w, sink, 1, "an alert")
	// A program writes what the kernel would: facility 1.
	feed(w, sink, 1<<3|1, "Kernel panic - not syncing: forged")
	feed(w, sink, 1<<3|4, "httpd[1]: segfault at 0")
	var got []string
	for _, e := range rec.list {
		facility, _ := e.Attr("facility")
		got = append(got, fmt.Sprint(e.Code, " ", e.Severity, " ", facility, " ", e.Message))
	}
	want := []string{"kernel.message default  a warning", "kernel.message medium  an error", "kernel.message high  an alert",
		"kernel.message default 1 Kernel panic - not syncing: forged", "kernel.message default 1 httpd[1]: segfault at 0"}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got %q", got)
	}
	w.take([]byte("4,100,1,-;much later\n"), sink)
	if sink.loss.count != 94 {
		t.Errorf("lost %d, want 94", sink.loss.count)
	}
}

func TestKmsgFloodIsBounded(t *testing.T) {
	var rec recorded
	w := &kmsgWatcher{count: true}
	sink := &Sink{name: "kmsg", emit: rec.emit, limit: newLimiter(kmsgKind().Rate)}
	for range 20000 {
		feed(w, sink, 4, "a driver that cannot stop")
	}
	feed(w, sink, 0, "Kernel panic - not syncing: here")
	w.crash.end(sink)
	if n := len(rec.of("kernel.message")); n > 100 || len(rec.of("crash")) != 1 {
		t.Errorf("%d messages, %d crashes", n, len(rec.of("crash")))
	}
}

// segfault is a program for x86-64 Linux that writes to address 0.
func segfault() []byte {
	code := []byte{0x31, 0xc0, 0x89, 0x00} // xor eax, eax; mov [rax], eax
	b := append([]byte("\x7fELF\x02\x01\x01"), make([]byte, 9)...)
	le := binary.LittleEndian
	b = le.AppendUint16(b, 2)  // executable
	b = le.AppendUint16(b, 62) // x86-64
	b = le.AppendUint32(b, 1)
	b = le.AppendUint64(b, 0x400078) // entry
	b = le.AppendUint64(b, 64)       // program headers
	b = le.AppendUint64(b, 0)
	b = le.AppendUint32(b, 0)
	for _, v := range []uint16{64, 56, 1, 0, 0, 0} {
		b = le.AppendUint16(b, v)
	}
	b = le.AppendUint32(b, 1) // load
	b = le.AppendUint32(b, 5) // readable, executable
	for _, v := range []uint64{0, 0x400000, 0x400000, 0x78 + 4, 0x78 + 4, 0x1000} {
		b = le.AppendUint64(b, v)
	}
	return append(b, code...)
}

func TestKmsgOfThisKernel(t *testing.T) {
	env := testEnv(t, "/")
	rec := live(t, kmsgKind(), env)
	out, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
	if err == nil {
		mark := fmt.Sprintf("a test at %d", time.Now().UnixNano())
		fmt.Fprintf(out, "<4>%s\n", mark) // without its end it would wait for the next
		await(t, rec, "kernel.message", "message", mark, "facility", "1", "level", "4")
		out.Close()
	}
	if on, _ := os.ReadFile("/proc/sys/debug/exception-trace"); runtime.GOARCH == "amd64" && strings.TrimSpace(string(on)) == "1" {
		crash := filepath.Join(t.TempDir(), "crashtest")
		if err := os.WriteFile(crash, segfault(), 0o755); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(crash)
		if err := cmd.Run(); err == nil {
			t.Fatal("it did not crash")
		}
		e := await(t, rec, "process.crash", "comm", "crashtest", "pid", fmt.Sprint(cmd.Process.Pid))
		t.Logf("%+v", e)
	}
	// The boot is read once from its beginning.
	time.Sleep(2 * crashQuiet)
	if v, _ := env.State.Load("kmsg"); string(v) != env.BootID {
		t.Errorf("the boot that was read is %q", v)
	}
}

func TestKmsgBeginsWhereItShould(t *testing.T) {
	testneed.Native(t)
	env := testEnv(t, "/")
	for i, want := range []string{"beginning", "now on", "now on"} {
		w, err := openKmsg(t.Context(), env)
		if err != nil {
			t.Skip(err)
		}
		if !strings.Contains(w.Covers(), want) {
			t.Errorf("start %d: %s", i, w.Covers())
		}
		w.(*kmsgWatcher).quiet(testSink(&recorded{}))
		w.Close()
	}
}
