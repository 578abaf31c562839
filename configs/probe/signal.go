// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Target names one process for good: the kernel may give its number to another one, but not with the same start time.
type Target struct {
	PID     int
	Name    string // of the signal: TERM or HUP
	Exe     string // what it runs, as /proc says
	Started uint64 // clock ticks after boot
	Inode   uint64 `json:",omitempty"` // a socket it must still have; 0 for any
	Port    string `json:",omitempty"` // tcp/23: nothing may listen there afterwards
}

// ErrStillRuns says that the files are right and that the running program or its successor has not noticed.
var ErrStillRuns = errors.New("it runs until the next start")

const (
	endWait   = 2 * time.Second        // for a process to end after TERM
	quietWait = time.Second            // for something to start it again
	hupWait   = 300 * time.Millisecond // for init or inetd to read its file
)

// signal sends TERM or HUP to exactly the process that was planned. A descriptor of the process is taken first and what it
// is looked at after that, so that the number cannot pass to another process in between. Kernels before 5.3 have no such
// descriptors; there the look is right before the signal.
func (h *Host) signal(ctx context.Context, c Change) error {
	t := c.To
	if t == nil || t.PID <= 0 || t.Name != "TERM" && t.Name != "HUP" || t.Name == "TERM" && (t.PID == 1 || t.PID == os.Getpid()) {
		return errors.New("this process is not signalled")
	}
	if !h.isRunningRoot() {
		return errors.New("the tree is not the running system")
	}
	fd, err := unix.PidfdOpen(t.PID, 0)
	if err == nil {
		defer unix.Close(fd)
	} else if errors.Is(err, unix.ESRCH) {
		return nil // it ended by itself
	} else {
		fd = -1
	}
	if gone, err := h.sameProcess(*t); gone || err != nil {
		return err
	}
	sig := unix.SIGTERM
	if t.Name == "HUP" {
		sig = unix.SIGHUP
	}
	if err := sendTo(fd, t.PID, sig); err != nil {
		if errors.Is(err, unix.ESRCH) {
			return nil
		}
		return err
	}
	if sig == unix.SIGHUP {
		return pause(ctx, hupWait)
	}
	return h.ended(ctx, *t)
}

// isRunningRoot compares the root with that of this process: numbers in the /proc of another tree are not processes here.
func (h *Host) isRunningRoot() bool {
	if !h.live || h.root == nil {
		return false
	}
	a, err := h.root.Stat(".")
	if err != nil {
		return false
	}
	b, err := os.Stat("/")
	return err == nil && os.SameFile(a, b)
}

// sameProcess looks whether the process is the one that was planned; gone is true when there is none any more.
func (h *Host) sameProcess(t Target) (gone bool, err error) {
	p, err := h.process(t.PID)
	if p.pid == 0 {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("look at process %d: %w", t.PID, cause(err))
	}
	if p.exe != t.Exe || p.started != t.Started {
		return false, fmt.Errorf("process %d is another one now: %w", t.PID, ErrChanged)
	}
	if t.Inode != 0 && !slices.Contains(slices.Collect(h.sockets(t.PID)), t.Inode) {
		return false, fmt.Errorf("process %d no longer has that socket: %w", t.PID, ErrChanged)
	}
	return false, nil
}

func sendTo(fd, pid int, sig syscall.Signal) error {
	if fd >= 0 {
		if err := unix.PidfdSendSignal(fd, sig, nil, 0); !errors.Is(err, unix.ENOSYS) {
			return err
		}
	}
	return unix.Kill(pid, sig)
}

// ended waits for the process to go, and then for nobody to take its place.
func (h *Host) ended(ctx context.Context, t Target) error {
	until := time.Now().Add(endWait)
	for {
		p, _ := h.process(t.PID)
		if p.pid == 0 || p.started != t.Started || p.zombie {
			break
		}
		if time.Now().After(until) {
			return fmt.Errorf("process %s does not end: %w", strconv.Itoa(t.PID), ErrStillRuns)
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
	if t.Port == "" {
		return nil
	}
	if err := pause(ctx, quietWait); err != nil {
		return err
	}
	for _, l := range h.readListeners(ctx).list {
		if l.name() == t.Port && l.inode == t.Inode || l.name() == t.Port && l.ownedBy(t.Exe) {
			return fmt.Errorf("%s is listened on again: %w", t.Port, ErrStillRuns)
		}
	}
	return nil
}

func (l listener) ownedBy(exe string) bool {
	return slices.ContainsFunc(l.procs, func(p process) bool { return p.exe == exe })
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// signalTo plans a signal to p.
func signalTo(p process, name string) Change {
	return Change{Op: Signal, Path: "/proc/" + strconv.Itoa(p.pid), To: &Target{PID: p.pid, Name: name, Exe: p.exe, Started: p.started}}
}
