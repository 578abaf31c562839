// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// waiter waits for descriptors without a thread of its own: an epoll instance is itself a descriptor the runtime can wait
// for, so ten idle sources cost ten goroutines and not ten threads. It is used by one goroutine; only wake may come from others.
type waiter struct {
	ep     *os.File
	fd     int // of ep; File.Fd could make it blocking
	raw    syscall.RawConn
	events [8]unix.EpollEvent
	ready  []int

	// check is asked before each sleep and after it (woken), when no descriptor is ready, and ends the wait with true. It is for
	// what a descriptor tells only once: whichever epoll instance asks first, the runtime's or this one, takes the news away.
	check func(woken bool) bool
}

func newWaiter() (*waiter, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create epoll instance: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // without it os.File would not hand it to the runtime's poller
		return nil, errors.Join(fmt.Errorf("create epoll instance: %w", err), unix.Close(fd))
	}
	ep := os.NewFile(uintptr(fd), "epoll")
	raw, err := ep.SyscallConn()
	if err == nil {
		err = ep.SetReadDeadline(time.Time{}) // says whether deadlines work
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("create epoll instance: %w", err), ep.Close())
	}
	return &waiter{ep: ep, fd: fd, raw: raw}, nil
}

// add has wait return fd when one of events (unix.EPOLLIN, unix.EPOLLPRI) holds. The descriptor stays the caller's.
func (w *waiter) add(fd int, events uint32) error {
	ev := unix.EpollEvent{Events: events, Fd: int32(fd)}
	if err := unix.EpollCtl(w.fd, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		return fmt.Errorf("watch descriptor: %w", err)
	}
	return nil
}

// until has waits end when ctx does. The caller calls what it returns when it waits no more.
func (w *waiter) until(ctx context.Context) (stop func() bool) {
	return context.AfterFunc(ctx, func() { _ = w.ep.SetReadDeadline(time.Unix(1, 0)) })
}

// wait returns the descriptors that are ready, none after timeout (0: no limit) or when ctx has ended. ctx is the one of
// until. The result is valid until the next call.
func (w *waiter) wait(ctx context.Context, timeout time.Duration) ([]int, error) {
	var deadline time.Time
	if timeout > 0 {
		deadline = time.Now().Add(timeout)
	}
	if err := w.ep.SetReadDeadline(deadline); err != nil {
		return nil, fmt.Errorf("wait: %w", err)
	}
	// Asked after the deadline is set: a context that ended before has had its own deadline overwritten, one that ends from now
	// on wakes the read below.
	if ctx.Err() != nil {
		return nil, nil
	}
	w.ready = w.ready[:0]
	var failed error
	woken := false
	err := w.raw.Read(func(fd uintptr) bool {
		n, err := unix.EpollWait(int(fd), w.events[:], 0)
		if err == unix.EINTR {
			n, err = unix.EpollWait(int(fd), w.events[:], 0)
		}
		for _, e := range w.events[:max(n, 0)] {
			w.ready = append(w.ready, int(e.Fd))
		}
		failed = err
		end := n != 0 || w.check != nil && w.check(woken)
		woken = true
		return end
	})
	if err == nil {
		err = failed
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("wait: %w", err)
	}
	return w.ready, nil
}

// Close ends the epoll instance.
func (w *waiter) Close() error { return w.ep.Close() }

// sleep waits without descriptors, for sources that can only look now and then. It returns false when ctx has ended.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
