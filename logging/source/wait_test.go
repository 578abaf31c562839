// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"runtime/pprof"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestWait(t *testing.T) {
	w, err := newWaiter()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(p[0])
	defer unix.Close(p[1])
	if err := w.add(p[0], unix.EPOLLIN); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer w.until(ctx)()
	if ready, err := w.wait(ctx, 10*time.Millisecond); len(ready) != 0 || err != nil {
		t.Fatalf("nothing happened: %v, %v", ready, err)
	}
	time.AfterFunc(20*time.Millisecond, func() { _, _ = unix.Write(p[1], []byte{1}) })
	for range 2 { // what was not read is still there
		if ready, err := w.wait(ctx, 0); err != nil || len(ready) != 1 || ready[0] != p[0] {
			t.Fatalf("a byte was written: %v, %v", ready, err)
		}
	}
	var b [1]byte
	_, _ = unix.Read(p[0], b[:])
	time.AfterFunc(20*time.Millisecond, cancel)
	if ready, err := w.wait(ctx, 0); len(ready) != 0 || err != nil || ctx.Err() == nil {
		t.Fatalf("the context ended: %v, %v", ready, err)
	}
	if ready, err := w.wait(ctx, 0); len(ready) != 0 || err != nil {
		t.Fatalf("the context has ended: %v, %v", ready, err)
	}
}

// A source that waits must not hold a thread: on a small device each costs memory, and there are a dozen.
func TestWaitHoldsNoThread(t *testing.T) {
	before := pprof.Lookup("threadcreate").Count()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	const n = 30
	for range n {
		w, err := newWaiter()
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			defer w.Close()
			defer w.until(ctx)()
			_, err := w.wait(ctx, 0)
			done <- err
		}()
	}
	time.Sleep(100 * time.Millisecond)
	if more := pprof.Lookup("threadcreate").Count() - before; more > n/2 {
		t.Errorf("%d waiting sources made %d threads", n, more)
	}
	cancel()
	for range n {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
