// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/testdata/testneed"
)

// native returns the bytes for this machine: those of a little-endian kernel or of a big-endian one, both in hex.
func native(t testing.TB, little, big string) []byte {
	t.Helper()
	s := little
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
		s = big
	}
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// testSink gathers what a watcher delivers when it is called without a set. Its rate is no limit.
func testSink(rec *recorded) *Sink {
	return &Sink{name: "test", emit: rec.emit, limit: newLimiter(logging.Rate{Per: 1e6, Burst: 1e6})}
}

// live runs a kind against the kernel of this machine until the test ends. It skips where the kind says it cannot work.
func live(t *testing.T, k Kind, env *Env) *recorded {
	t.Helper()
	testneed.Native(t)
	var rec recorded
	k.Rate = logging.Rate{Per: 1e6, Burst: 1e6}
	env.Logger = slog.New(slog.DiscardHandler)
	s, err := open(t.Context(), Config{Env: *env, Emit: rec.emit}, []Kind{k})
	if err != nil {
		t.Fatal(err)
	}
	st := s.Inventory()[0]
	t.Logf("%s: %s: %s", st.Name, st.State, st.Detail)
	if st.State == Unavailable {
		t.Skip(st.Detail)
	}
	if st.State != Working {
		t.Fatalf("%+v", st)
	}
	ctx, cancel := context.WithCancel(t.Context())
	wg := start(ctx, s)
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		if f := rec.of("log.source-failed"); len(f) > 0 {
			t.Errorf("the source broke: %+v", f)
		}
	})
	return &rec
}

// await returns the first event with this code and these attributes (name, value, name, value ...).
func await(t *testing.T, rec *recorded, code string, attrs ...string) logging.Event {
	t.Helper()
	for range 500 {
		if e, ok := rec.find(code, attrs...); ok {
			return e
		}
		time.Sleep(10 * time.Millisecond)
	}
	var codes []string
	for _, e := range rec.all() {
		codes = append(codes, e.Code)
	}
	t.Fatalf("no event %s with %q; seen: %v", code, attrs, codes)
	return logging.Event{}
}

func (r *recorded) all() []logging.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]logging.Event(nil), r.list...)
}

func (r *recorded) find(code string, attrs ...string) (logging.Event, bool) {
next:
	for _, e := range r.of(code) {
		for i := 0; i+1 < len(attrs); i += 2 {
			v, _ := e.Attr(attrs[i])
			if attrs[i] == "message" {
				v = e.Message
			}
			if v != attrs[i+1] {
				continue next
			}
		}
		return e, true
	}
	return logging.Event{}, false
}

// All that listen to the kernel, in one set, on one kernel: each sees its part, none breaks, and they end together.
func TestKernelKindsTogether(t *testing.T) {
	testneed.Native(t)
	if !testneed.Netns(t) {
		return
	}
	var rec recorded
	kinds := []Kind{kauditKind(), processKind(), kmsgKind(), ueventKind(), routeKind(), listenerKind()}
	s, err := open(t.Context(), Config{Env: *testEnv(t, "/"), Emit: rec.emit}, kinds)
	if err != nil {
		t.Fatal(err)
	}
	working := map[string]bool{}
	for _, st := range s.Inventory() {
		t.Logf("%s: %s: %s", st.Name, st.State, st.Detail)
		working[st.Name] = st.State == Working
	}
	before := runtime.NumGoroutine()
	ctx, cancel := context.WithCancel(t.Context())
	wg := start(ctx, s)
	if n := runtime.NumGoroutine() - before; n > len(kinds)+1 {
		t.Errorf("%d goroutines for %d kinds", n, len(kinds))
	}
	seen := func(name, code string, attrs ...string) {
		t.Helper()
		if working[name] {
			await(t, &rec, code, append(attrs, "source", name)...)
		}
	}
	index := addLink(t, "test0", "bridge")
	seen("uevent", "device.added", "name", "test0")
	seen("route", "net.link", "interface", "test0")
	rt(t, unix.RTM_NEWLINK, 0, ifinfo(1, unix.IFF_UP, unix.IFF_UP)) // lo
	seen("route", "net.link", "interface", "lo")
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	seen("listener", "net.listen", "port", strconv.Itoa(l.Addr().(*net.TCPAddr).Port))
	if cmd := exec.Command("/bin/sleep", "0.3"); cmd.Start() == nil {
		seen("process", "exec", "pid", strconv.Itoa(cmd.Process.Pid))
		cmd.Wait() //nolint:errcheck // it only had to start
	}
	if out, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0); err == nil {
		// A kernel that has said much since its start has used up the rate of the source: one message a second gets through.
		mark := fmt.Sprintf("a test of all kinds at %d", time.Now().UnixNano())
		for range 30 {
			fmt.Fprintf(out, "<3>%s\n", mark)
			time.Sleep(time.Second)
			if _, ok := rec.find("kernel.message", "message", mark); ok || !working["kmsg"] {
				break
			}
		}
		out.Close()
		seen("kmsg", "kernel.message", "message", mark)
	}
	rt(t, unix.RTM_DELLINK, 0, ifinfo(index, 0, 0))
	seen("uevent", "device.removed", "name", "test0")
	seen("route", "net.link", "interface", "test0", "change", "removed")
	cancel()
	wg.Wait()
	if f := rec.of("log.source-failed"); len(f) > 0 {
		t.Errorf("broke: %+v", f)
	}
	for i := 0; runtime.NumGoroutine() > before && i < 100; i++ {
		time.Sleep(time.Millisecond)
	}
	if n := runtime.NumGoroutine(); n > before {
		t.Errorf("%d goroutines are left of %d", n, before)
	}
}
