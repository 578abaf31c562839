// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/testdata/testneed"
)

var goldenProc = [...]struct{ little, big string }{
	{"0100000001000000070000000000000028000000020000000100000015cd5b07000000004d0000004d00000000000000000000000000000000000000", "0000000100000001000000070000000000280000000000020000000100000000075bcd150000004d0000004d00000000000000000000000000000000"},
	{"0100000001000000070000000000000028000000040000000100000015cd5b07000000004e0000004d000000e8030000000000000000000000000000", "0000000100000001000000070000000000280000000000040000000100000000075bcd150000004e0000004d000003e8000000000000000000000000"},
	{"0100000001000000070000000000000028000000000000400100000015cd5b07000000004f0000004d00000001000000010000000000000000000000", "0000000100000001000000070000000000280000400000000000000100000000075bcd150000004f0000004d00000001000000010000000000000000"},
	{"0100000001000000070000000000000028000000000000000100000015cd5b0700000000010000000000000000000000000000000000000000000000", "0000000100000001000000070000000000280000000000000000000100000000075bcd15000000010000000000000000000000000000000000000000"},
}

func TestParseProcEvent(t *testing.T) {
	for i, want := range []procEvent{
		{what: procExec, pid: 77, tgid: 77}, {what: procUID, pid: 78, tgid: 77, a: 1000, b: 0},
		{what: procCoredump, pid: 79, tgid: 77, a: 1, b: 1}, {what: procNone, a: 1},
	} {
		b := native(t, goldenProc[i].little, goldenProc[i].big)
		if ev, ok := parseProcEvent(b); !ok || ev != want {
			t.Errorf("%d: %+v %v, want %+v", i, ev, ok, want)
		}
		if ev, ok := parseProcEvent(b[:43]); ok {
			t.Errorf("%d: 43 bytes were taken: %+v", i, ev)
		}
		b[0] = 2
		b[3] = 2
		if ev, ok := parseProcEvent(b); ok {
			t.Errorf("%d: another connector's message was taken: %+v", i, ev)
		}
	}
	if ev, ok := parseProcEvent(native(t, goldenProc[1].little, goldenProc[1].big)[:connectorHeader+procHeader+8]); ok {
		t.Errorf("ids that are not there were taken: %+v", ev)
	}
}

func FuzzProcEvent(f *testing.F) {
	for _, g := range goldenProc {
		f.Add(native(f, g.little, g.big))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		ev, ok := parseProcEvent(b)
		if !ok {
			return
		}
		var rec recorded
		w := newProcessWatcher(t.TempDir())
		w.take(ev, testSink(&rec))
		if len(rec.list) > 1 {
			t.Errorf("%+v", rec.list)
		}
	})
}

func newProcessWatcher(root string) *processWatcher {
	return &processWatcher{proc: newProcReader(&Env{Root: root}), ids: map[uint32]*processIDs{}, execs: logging.NewBucket(logging.Rate{Per: 3, Burst: 60}, time.Now())}
}

func TestWhoBecomesRoot(t *testing.T) {
	status := func(ppid, uid int) string {
		return fmt.Sprintf("Name:\tx\nPPid:\t%d\nUid:\t%d\t%d\t%d\t%d\n", ppid, uid, uid, uid, uid)
	}
	root := tree(t, map[string]string{
		"/proc/10/status": status(1, 0), "/proc/11/status": status(10, 0), // a daemon and its child
		"/proc/20/status": status(10, 1000), "/proc/21/status": status(20, 0), // a shell, and what it started
	})
	uid := func(pid, real, effective uint32) procEvent {
		return procEvent{what: procUID, pid: pid, tgid: pid, a: real, b: effective}
	}
	gid := func(pid, real, effective uint32) procEvent {
		return procEvent{what: procGID, pid: pid, tgid: pid, a: real, b: effective}
	}
	for name, tc := range map[string]struct {
		events []procEvent
		want   int
	}{
		"a set-uid program":                       {[]procEvent{uid(30, 1000, 0)}, 1},
		"and root altogether is the same once":    {[]procEvent{uid(30, 1000, 0), uid(30, 0, 0), gid(30, 0, 0)}, 1},
		"a set-gid program of group root":         {[]procEvent{gid(30, 1000, 0)}, 1},
		"a daemon that puts root down for a time": {[]procEvent{uid(11, 0, 1000), uid(11, 0, 0)}, 0},
		"a daemon that becomes a user":            {[]procEvent{uid(11, 1000, 1000)}, 0},
		"a user who becomes root after that":      {[]procEvent{uid(11, 1000, 1000), uid(11, 0, 0)}, 1},
		"a user's program, of a sudden":           {[]procEvent{uid(21, 0, 0)}, 1},
		"root's program":                          {[]procEvent{uid(11, 0, 0)}, 0},
		"one that is gone":                        {[]procEvent{uid(99, 0, 0)}, 0},
		"twice, with a user between":              {[]procEvent{uid(30, 1000, 0), uid(30, 1000, 1000), uid(30, 1000, 0)}, 2},
	} {
		var rec recorded
		w := newProcessWatcher(root)
		sink := testSink(&rec)
		for _, ev := range tc.events {
			w.take(ev, sink)
		}
		if n := len(rec.of("process.privilege")); n != tc.want {
			t.Errorf("%s: told %d times, want %d", name, n, tc.want)
		}
	}
	w := newProcessWatcher(root)
	for pid := range uint32(10 * maxIDs) {
		w.take(uid(1000+pid, 0, 1000), testSink(&recorded{}))
	}
	if len(w.ids) != maxIDs || len(w.order) != maxIDs {
		t.Errorf("%d processes remembered, %d in order", len(w.ids), len(w.order))
	}
}

// 5000 starts a second for ten seconds: what is recorded and held stays small, and who becomes root in it is seen.
func TestProcessStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var rec recorded
		w := newProcessWatcher(t.TempDir())
		k := processKind()
		sink := &Sink{name: k.Name, emit: rec.emit, limit: newLimiter(k.Rate)}
		for pid := range uint32(50000) {
			w.take(procEvent{what: procExec, pid: pid + 2, tgid: pid + 2}, sink)
			if pid%5000 == 4999 {
				time.Sleep(time.Second)
				w.take(procEvent{what: procUID, pid: pid + 1, tgid: pid + 1, a: 1000}, sink)
			}
		}
		if n := len(rec.of("exec")); n < 60 || n > 100 {
			t.Errorf("%d starts recorded", n)
		}
		if n := len(rec.of("process.privilege")); n != 10 {
			t.Errorf("%d of 10 who became root", n)
		}
		var total string
		for _, a := range sink.limit.report("process") {
			if a.Key == "count.exec" {
				total = a.Value.String()
			}
		}
		if want := fmt.Sprint(50000 - len(rec.of("exec"))); total != want {
			t.Errorf("%s counted as left out, want %s", total, want)
		}
	})
}

func TestExecsAreLeftToTheKindThatSeesThemBetter(t *testing.T) {
	var rec recorded
	closed := 0
	breaks := make(chan struct{})
	better := fake("better", &closed, func(ctx context.Context, _ *Sink) error {
		select {
		case <-breaks:
			return io.ErrUnexpectedEOF
		case <-ctx.Done():
			return nil
		}
	})
	var yields [2]bool
	looked := make(chan struct{})
	worse := fake("worse", &closed, func(ctx context.Context, sink *Sink) error {
		yields[0] = sink.Yields()
		close(breaks)
		for sink.Yields() && ctx.Err() == nil {
			time.Sleep(time.Millisecond)
		}
		yields[1] = sink.Yields()
		close(looked)
		<-ctx.Done()
		return nil
	})
	worse.YieldTo = "better"
	s, err := open(t.Context(), Config{Emit: rec.emit}, []Kind{worse, better})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	wg := start(ctx, s)
	<-looked
	cancel()
	wg.Wait()
	if yields != [2]bool{true, false} {
		t.Errorf("yields while the other works and after it broke: %v", yields)
	}
	if (&Sink{}).Yields() {
		t.Error("it yields to nobody")
	}
}

func TestProcessesOfThisKernel(t *testing.T) {
	rec := live(t, processKind(), &Env{})
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Skip(err)
	}
	run := func(name string, attr *syscall.SysProcAttr, args ...string) *exec.Cmd {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Dir, cmd.SysProcAttr = "/", attr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
		return cmd
	}
	cmd := run(sleep, nil, "10")
	real, _ := filepath.EvalSymlinks(sleep)
	pid := fmt.Sprint(cmd.Process.Pid)
	await(t, rec, "exec", "pid", pid, "ppid", fmt.Sprint(os.Getpid()), "exe", real)
	if err := cmd.Process.Signal(unix.SIGSEGV); err != nil {
		t.Fatal(err)
	}
	await(t, rec, "process.crash", "pid", pid)

	// A set-uid program, started by nobody.
	b, err := os.ReadFile(real)
	if err != nil {
		t.Fatal(err)
	}
	suid := filepath.Join(t.TempDir(), "suid")
	if err := os.WriteFile(suid, b, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(suid, 0o755|os.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	for d := filepath.Dir(suid); d != "/" && d != os.TempDir(); d = filepath.Dir(d) {
		os.Chmod(d, 0o755) //nolint:errcheck // nobody has to get there
	}
	cmd = run(suid, &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}, "10")
	await(t, rec, "process.privilege", "pid", fmt.Sprint(cmd.Process.Pid), "gained", "uid", "exe", suid, "real_id", "65534", "euid", "0")
}

// What nobody looks at must not wake the agent.
func TestForksAreDroppedInTheKernel(t *testing.T) {
	testneed.Native(t)
	p, err := openProcess(t.Context(), &Env{})
	if err != nil {
		t.Skip(err)
	}
	w := p.(*processWatcher)
	defer w.Close()
	w.filter(false)
	for range 20 {
		exec.Command("/bin/true").Run() //nolint:errcheck // forks, starts and ends are what counts
	}
	for {
		data, err := w.sock.receive(t.Context(), time.Now().Add(20*time.Millisecond))
		if err != nil {
			break
		}
		for m := range messages(data) {
			if ev, ok := parseProcEvent(m.body); ok && (ev.what == procExec || ev.what == 1 || ev.what == 1<<31) {
				t.Fatalf("got %+v", ev)
			}
		}
	}
}

func TestProcessesFromANamespace(t *testing.T) {
	testneed.Native(t)
	if !testneed.Netns(t) {
		return
	}
	if _, err := openProcess(t.Context(), &Env{}); !errors.Is(err, ErrUnavailable) {
		t.Errorf("the kernel cannot answer here: %v", err)
	}
}
