// SPDX-License-Identifier: Apache-2.0

package control_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/backstay/backstay/agent/control"
)

type echo struct {
	Word string   `json:"word"`
	List []string `json:"list"`
}

// socketPath is short: a socket's name has 107 bytes, and the test's own directory may be deep.
func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "bs")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "c.sock")
}

// start serves s on a new socket until the test ends.
func start(t *testing.T, s *control.Server) *control.Client {
	t.Helper()
	path := socketPath(t)
	l, err := control.Listen(path, s.AllowUIDs)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return &control.Client{Socket: path}
}

var errPillar = errors.New("pillar says no")

func handler() control.Handler {
	return control.Handler{
		"echo": control.Typed(func(_ context.Context, e echo) (echo, error) { return e, nil }),
		"caller": control.Typed(func(ctx context.Context, _ control.None) (control.Caller, error) {
			c, ok := control.CallerOf(ctx)
			if !ok {
				return c, errors.New("no caller")
			}
			return c, nil
		}),
		"refuse": control.Typed(func(context.Context, control.None) (echo, error) {
			return echo{}, fmt.Errorf("wrap: %w", &control.Error{Class: control.ClassRefused, Code: "below-floor", What: "release 1", Why: "below floor 2"})
		}),
		"pillar": control.Typed(func(context.Context, control.None) (echo, error) { return echo{}, errPillar }),
		"plain":  control.Typed(func(context.Context, control.None) (echo, error) { return echo{}, errors.New("disk on fire") }),
		"panic":  control.Typed(func(context.Context, control.None) (echo, error) { panic("mistake") }),
		"late":   control.Typed(func(context.Context, control.None) (echo, error) { return echo{}, context.DeadlineExceeded }),
		"odd":    control.Typed(func(context.Context, control.None) (any, error) { return func() {}, nil }),
		"stream": control.Typed(func(context.Context, control.None) (control.Stream, error) {
			return func(w io.Writer) error {
				_, err := w.Write(bytes.Repeat([]byte("0123456789"), 100_000))
				return err
			}, nil
		}),
		"broken": control.Typed(func(context.Context, control.None) (control.Stream, error) {
			return func(w io.Writer) error {
				if _, err := io.WriteString(w, "half"); err != nil {
					return err
				}
				return &control.Error{Class: control.ClassFailed, Code: "damaged", What: "read größe", Why: "line\nbreak"}
			}, nil
		}),
	}
}

func TestCalls(t *testing.T) {
	c := start(t, &control.Server{Handler: handler(), Classify: func(err error) *control.Error {
		if errors.Is(err, errPillar) {
			return &control.Error{Class: control.ClassSetup, Code: "pillar", What: "classified"}
		}
		return nil
	}})
	ctx := context.Background()
	var got echo
	if err := c.Call(ctx, "echo", echo{Word: "hi"}, &got); err != nil || got.Word != "hi" || got.List == nil {
		t.Errorf("echo: %+v, %v", got, err)
	}
	var who control.Caller
	if err := c.Call(ctx, "caller", nil, &who); err != nil || who.UID != os.Geteuid() || who.PID != os.Getpid() {
		t.Errorf("caller: %+v, %v", who, err)
	}
	for _, tt := range []struct {
		method string
		params any
		want   control.Error
	}{
		{"refuse", nil, control.Error{Class: control.ClassRefused, Code: "below-floor", What: "release 1", Why: "below floor 2"}},
		{"pillar", nil, control.Error{Class: control.ClassSetup, Code: "pillar", What: "classified"}},
		{"plain", nil, control.Error{Class: control.ClassFailed, What: "disk on fire"}},
		{"panic", nil, control.Error{Class: control.ClassFailed, Code: "internal", What: "the agent made a mistake", Why: "see its log"}},
		{"late", nil, control.Error{Class: control.ClassRetry, Code: "timeout", What: "the call took too long", Why: "context deadline exceeded"}},
		{"echo", map[string]int{"wrod": 1}, control.Error{Class: control.ClassUsage, Code: "bad-parameters", What: "the call's parameters do not fit", Why: `json: unknown field "wrod"`}},
		{"nothing", nil, control.Error{Class: control.ClassSetup, Code: "unknown-method", What: `the running agent does not know the call "nothing"`,
			Why: "command and agent are of different versions, or the part is switched off in the configuration"}},
		{"odd", nil, control.Error{Class: control.ClassFailed, Code: "internal", What: "encode answer"}},
	} {
		err := c.Call(ctx, tt.method, tt.params, nil)
		var e *control.Error
		if !errors.As(err, &e) || *e != tt.want {
			t.Errorf("%s: %#v, want %#v", tt.method, err, tt.want)
		}
	}
}

func TestStream(t *testing.T) {
	c := start(t, &control.Server{Handler: handler()})
	var out bytes.Buffer
	if err := c.Stream(context.Background(), "stream", nil, &out); err != nil || out.Len() != 1_000_000 {
		t.Errorf("%d bytes, %v", out.Len(), err)
	}
	var e *control.Error
	if err := c.Stream(context.Background(), "broken", nil, io.Discard); !errors.As(err, &e) || e.Code != "damaged" || e.What != "read größe" || e.Why != "line\nbreak" {
		t.Errorf("a stream that broke off: %v", err)
	}
	if err := c.Stream(context.Background(), "refuse", nil, io.Discard); !errors.As(err, &e) || e.Code != "below-floor" {
		t.Errorf("a stream that was refused: %v", err)
	}
	// A call that answers JSON has no trailer: it is not taken for a stream.
	if err := c.Stream(context.Background(), "echo", nil, io.Discard); err == nil {
		t.Error("an answer without an end is taken for a whole stream")
	}
}

func TestBodyLimit(t *testing.T) {
	c := start(t, &control.Server{Handler: handler()})
	fits := strings.Repeat("x", control.MaxBody-len(`{"word":"","list":null}`))
	if err := c.Call(context.Background(), "echo", echo{Word: fits}, nil); err != nil {
		t.Errorf("64 KiB: %v", err)
	}
	var e *control.Error
	if err := c.Call(context.Background(), "echo", echo{Word: fits + "x"}, nil); !errors.As(err, &e) || e.Code != "too-large" {
		t.Errorf("one byte more: %v", err)
	}
}

func TestOnlyPost(t *testing.T) {
	c := start(t, &control.Server{Handler: handler()})
	hc := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", c.Socket)
	}}}
	for _, url := range []string{"http://x/v1/echo", "http://x/echo", "http://x/"} {
		resp, err := hc.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusNotFound {
			t.Errorf("GET %s: %s", url, resp.Status)
		}
	}
}

// TestDeniedCaller runs this test binary as another user, who may open the socket and is not on the list.
func TestDeniedCaller(t *testing.T) {
	if socket := os.Getenv("BACKSTAY_TEST_SOCKET"); socket != "" {
		err := (&control.Client{Socket: socket}).Call(context.Background(), "echo", nil, nil)
		fmt.Printf("answer: %v\n", err)
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root to become another user")
	}
	call := func(t *testing.T, s *control.Server, uid uint32) string {
		c := start(t, s)
		for dir := filepath.Dir(c.Socket); dir != "/"; dir = filepath.Dir(dir) {
			if info, err := os.Stat(dir); err == nil && info.Mode().Perm()&0o001 == 0 {
				if err := os.Chmod(dir, 0o755); err != nil {
					t.Fatal(err)
				}
			}
		}
		exe := filepath.Join(filepath.Dir(c.Socket), "test")
		b, err := os.ReadFile(os.Args[0])
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(exe, b, 0o755); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(exe, "-test.run=^TestDeniedCaller$", "-test.v")
		cmd.Dir = "/"
		cmd.Env = append(os.Environ(), "BACKSTAY_TEST_SOCKET="+c.Socket)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		out, err := cmd.CombinedOutput()
		if errors.Is(err, syscall.ENOEXEC) {
			t.Skip("this test binary runs under an emulator, and the kernel cannot start it as another user")
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return string(out)
	}
	var mu sync.Mutex
	var denied []string
	note := func(c control.Caller, call string) {
		mu.Lock()
		defer mu.Unlock()
		denied = append(denied, fmt.Sprintf("%d %s", c.UID, call))
	}
	if out := call(t, &control.Server{Handler: handler(), AllowUIDs: []int{0}}, 12345); !strings.Contains(out, "permission denied") {
		t.Errorf("socket of root alone, other user: %s", out)
	}
	if out := call(t, &control.Server{Handler: handler(), AllowUIDs: []int{0, 999}, Denied: note}, 12345); !strings.Contains(out, "user id 12345 is not in control.allow_uids") {
		t.Errorf("user who is not on the list: %s", out)
	}
	mu.Lock()
	if len(denied) != 1 || denied[0] != "12345 echo" {
		t.Errorf("Denied was told %q", denied)
	}
	mu.Unlock()
	if out := call(t, &control.Server{Handler: handler(), AllowUIDs: []int{0, 12345}}, 12345); !strings.Contains(out, "answer: <nil>") {
		t.Errorf("user who is on the list: %s", out)
	}
}

func TestListen(t *testing.T) {
	t.Run("mode", func(t *testing.T) {
		for _, tt := range []struct {
			allow []int
			want  os.FileMode
		}{{nil, 0o600}, {[]int{0}, 0o600}, {[]int{os.Geteuid()}, 0o600}, {[]int{0, 54321}, 0o666}} {
			path := socketPath(t)
			l, err := control.Listen(path, tt.allow)
			if err != nil {
				t.Fatal(err)
			}
			info, err := os.Stat(path)
			if err != nil || info.Mode().Perm() != tt.want {
				t.Errorf("%v: %v %v, want %o", tt.allow, info.Mode(), err, tt.want)
			}
			l.Close()
		}
	})
	t.Run("stale socket is removed", func(t *testing.T) {
		path := socketPath(t)
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		l.Close()
		again, err := control.Listen(path, nil)
		if err != nil {
			t.Fatal(err)
		}
		again.Close()
	})
	t.Run("living socket is not", func(t *testing.T) {
		c := start(t, &control.Server{Handler: handler()})
		if _, err := control.Listen(c.Socket, nil); err == nil || !strings.Contains(err.Error(), "another agent answers there") {
			t.Errorf("got %v", err)
		}
		if err := c.Call(context.Background(), "echo", nil, nil); err != nil {
			t.Errorf("the living agent lost its socket: %v", err)
		}
	})
	t.Run("file is not", func(t *testing.T) {
		path := socketPath(t)
		if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := control.Listen(path, nil); err == nil {
			t.Error("no error")
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != "precious" {
			t.Errorf("the file is now %q, %v", b, err)
		}
	})
	t.Run("directory of others", func(t *testing.T) {
		path := socketPath(t)
		if err := os.Chmod(filepath.Dir(path), 0o777); err != nil {
			t.Fatal(err)
		}
		if _, err := control.Listen(path, nil); err == nil || !strings.Contains(err.Error(), "writable by others") {
			t.Errorf("got %v", err)
		}
		if _, err := control.Listen(filepath.Join(filepath.Dir(path), "none", "s"), nil); err == nil {
			t.Error("a missing directory is no error")
		}
	})
}

func TestClientWithoutAgent(t *testing.T) {
	path := socketPath(t)
	if err := (&control.Client{Socket: path}).Call(context.Background(), "echo", nil, nil); !errors.Is(err, control.ErrNotRunning) {
		t.Errorf("no socket: %v", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	if err := (&control.Client{Socket: path}).Call(context.Background(), "echo", nil, nil); !errors.Is(err, control.ErrNotRunning) {
		t.Errorf("dead socket: %v", err)
	}
}

// TestStop: a call in flight may finish; one that does not is told to stop, and Serve returns only when it has.
func TestStop(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	s := &control.Server{Handler: control.Handler{"slow": control.Typed(func(ctx context.Context, _ control.None) (echo, error) {
		close(entered)
		select {
		case <-release:
			return echo{Word: "done"}, nil
		case <-ctx.Done():
			return echo{}, ctx.Err()
		}
	})}}
	path := socketPath(t)
	l, err := control.Listen(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served, called := make(chan error, 1), make(chan error, 1)
	go func() { served <- s.Serve(ctx, l) }()
	var got echo
	go func() {
		called <- (&control.Client{Socket: path}).Call(context.Background(), "slow", nil, &got)
	}()
	<-entered
	cancel()
	time.Sleep(20 * time.Millisecond)
	select {
	case err := <-served:
		t.Fatalf("Serve returned with a call in flight: %v", err)
	default:
	}
	close(release)
	if err := <-called; err != nil || got.Word != "done" {
		t.Errorf("the call in flight: %+v, %v", got, err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the socket is left behind: %v", err)
	}
}

// TestStopJoinsACallThatTakesTooLong: its context ends after the grace time, and Serve still waits until it has returned.
func TestStopJoinsACallThatTakesTooLong(t *testing.T) {
	t.Parallel()
	entered := make(chan struct{})
	var returned atomic.Bool
	s := &control.Server{Handler: control.Handler{"slow": control.Typed(func(ctx context.Context, _ control.None) (echo, error) {
		close(entered)
		<-ctx.Done()
		time.Sleep(300 * time.Millisecond)
		returned.Store(true)
		return echo{}, ctx.Err()
	})}}
	path := socketPath(t)
	l, err := control.Listen(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served, called := make(chan error, 1), make(chan error, 1)
	go func() { served <- s.Serve(ctx, l) }()
	go func() { called <- (&control.Client{Socket: path}).Call(context.Background(), "slow", nil, nil) }()
	<-entered
	cancel()
	if err := <-served; err != nil || !returned.Load() {
		t.Errorf("Serve returned %v, the call had returned: %v", err, returned.Load())
	}
	if err := <-called; err == nil {
		t.Error("a call that was broken off is no error")
	}
}

// TestIdleConnectionsAreBounded: who opens connections and says nothing can hold up to the limit, and a call gets through when
// one of them goes.
func TestIdleConnectionsAreBounded(t *testing.T) {
	c := start(t, &control.Server{Handler: handler()})
	var conns []net.Conn
	for range control.MaxConns {
		conn, err := net.Dial("unix", c.Socket)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conns = append(conns, conn)
	}
	time.Sleep(50 * time.Millisecond) // let the server accept them
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if err := c.Call(ctx, "echo", nil, nil); err == nil {
		t.Error("more connections are served than the limit")
	}
	conns[0].Close()
	if err := c.Call(context.Background(), "echo", nil, nil); err != nil {
		t.Errorf("after one connection went: %v", err)
	}
}

// FuzzServer throws requests at the socket: the server answers or closes, and still serves the next call.
func FuzzServer(f *testing.F) {
	for _, s := range []string{
		"POST /v1/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}", "GET / HTTP/1.0\r\n\r\n", "POST /v1/echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
		"POST /v1/stream HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", "\x00\x01", "POST /v1/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{\"word\":1",
	} {
		f.Add([]byte(s))
	}
	h := handler()
	delete(h, "panic")
	path := filepath.Join(f.TempDir(), "s")
	if len(path) > 100 {
		f.Skip("temporary directory too deep for a socket")
	}
	l, err := control.Listen(path, nil)
	if err != nil {
		f.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- (&control.Server{Handler: h}).Serve(ctx, l) }()
	f.Cleanup(func() { cancel(); <-done })
	f.Fuzz(func(t *testing.T, b []byte) {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(2 * time.Second))
		conn.Write(b)
		conn.(*net.UnixConn).CloseWrite()
		io.Copy(io.Discard, conn)
		conn.Close()
		if err := (&control.Client{Socket: path}).Call(context.Background(), "echo", nil, nil); err != nil {
			t.Errorf("after %q: %v", b, err)
		}
	})
}

func TestFillLists(t *testing.T) {
	shared := control.Status{Update: control.Update{Release: &control.Release{}}, Baseline: control.Baseline{Failed: []control.Finding{{Rule: "r"}}}}
	b, err := json.Marshal(control.FillLists(shared))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(b, []byte(":null")) && !bytes.Contains(b, []byte(`"last":null`)) || bytes.Contains(b, []byte(`"inspected":null`)) {
		t.Errorf("%s", b)
	}
	if shared.Baseline.Failed[0].Inspected != nil || shared.Update.Release.Advisories != nil {
		t.Error("the original was changed")
	}
	if control.FillLists(nil) != nil {
		t.Error("nil became something")
	}
	raw := struct{ R json.RawMessage }{}
	if got := control.FillLists(raw).(struct{ R json.RawMessage }); got.R != nil {
		t.Error("bytes were taken for a list")
	}
}
