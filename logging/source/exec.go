// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/logging"
)

// Bounds of the source. What is beyond them is counted.
const (
	execWindow  = 10 * time.Minute // the same program, started by the same user, is one record in this time
	writeWindow = time.Minute      // and the same file
	writeSettle = 2 * time.Second  // from the end of a write to its record: a file is often written in several goes
	loaderWait  = 20 * time.Millisecond
	mountRescan = time.Second

	hashMax    = 8 << 20 // bytes of one program
	hashDuring = 500 * time.Millisecond
	hashRate   = 512 << 10 // bytes a second
	hashBurst  = 16 << 20
)

func execKind() Kind {
	return Kind{
		Name: "exec", Sees: "programs that start, programs started from places where none belong, programs and system files that are written",
		Rate: logging.Rate{Per: 10, Burst: 200}, Open: openExec,
	}
}

// writeDirs are where a file matters even if it is not executable.
var writeDirs = [...]string{"/usr/", "/bin/", "/sbin/", "/lib/", "/lib32/", "/lib64/", "/libexec/", "/etc/", "/boot/", "/overlay/upper/"}

// execWatcher reads two fanotify groups, one for programs that start and one for files that were written, so that a flood of
// one does not push out the other.
type execWatcher struct {
	env             *Env
	programs, files *fanGroup
	table           *mountTable
	looked          time.Time // when the mount table was last compared
	remount         bool      // it differs
	wait            *waiter
	places          places
	marked          [2]map[device]bool // of programs, of files
	memfd           bool               // programs without a file are seen
	failed          []string

	sink     *Sink
	proc     procReader
	classes  classCache
	recent   [64]int32 // processes that just started a program: the loader that follows is not another
	at       int
	pending  []int     // processes that opened only a loader
	since    time.Time // when the last of them did
	started  seenTable
	written  seenTable
	digester *digester
	budgets  execBudgets
	link     [4096]byte
	self     int
	watched  watchList // files that are another source's
}

// execBudgets bound the work that is done before an event is recorded, or not.
type execBudgets struct{ ordinary, unfit, write, writeProgram logging.Bucket }

func newExecBudgets() execBudgets {
	b := func(per float64, burst int) logging.Bucket {
		return logging.NewBucket(logging.Rate{Per: per, Burst: burst}, time.Now())
	}
	return execBudgets{ordinary: b(300, 1000), unfit: b(300, 1000), write: b(500, 2000), writeProgram: b(200, 1000)}
}

func openExec(_ context.Context, env *Env) (_ Watcher, err error) {
	x := &execWatcher{
		env: env, watched: newWatchList(env), places: newPlaces(env), proc: newProcReader(env), budgets: newExecBudgets(), self: os.Getpid(),
		digester: newDigester(hashMax, hashDuring, hashRate, hashBurst),
		marked:   [2]map[device]bool{make(map[device]bool), make(map[device]bool)},
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, x.Close())
		}
	}()
	if x.table, err = openMounts(env); err != nil {
		return nil, err
	}
	if x.programs, err = newFanGroup(unix.FAN_OPEN_EXEC); err != nil {
		return nil, err
	}
	if x.files, err = newFanGroup(unix.FAN_CLOSE_WRITE); err != nil {
		return nil, err
	}
	if err = x.mark(); err != nil {
		return nil, err
	}
	if len(x.marked[0]) == 0 {
		return nil, fmt.Errorf("no file system to watch among the mounts: %w", ErrUnavailable)
	}
	if x.wait, err = newWaiter(); err != nil {
		return nil, err
	}
	for fd, events := range map[int]uint32{x.programs.fd: unix.EPOLLIN, x.files.fd: unix.EPOLLIN, x.table.fd(): unix.EPOLLPRI} {
		if err = x.wait.add(fd, events); err != nil {
			return nil, err
		}
	}
	x.wait.check = x.mountsChanged
	return x, nil
}

// mountsChanged compares the mount table: always when something woke the source that is no event, and otherwise at most once a
// second; timeout does not let it sleep for ever before that.
func (x *execWatcher) mountsChanged(woken bool) bool {
	now := time.Now()
	if !woken && now.Sub(x.looked) < mountRescan {
		return false
	}
	x.looked = now
	x.remount = x.table.changed(woken)
	return x.remount
}

// mark watches every file system of the mount table that is not watched yet.
func (x *execWatcher) mark() error {
	all, whole, err := x.table.read()
	if err != nil {
		return err
	}
	list := chosen(x.env, all)
	x.places.learn(all)
	if x.failed, err = markAll(x.programs, x.env, list, x.marked[0]); err != nil {
		return err
	}
	if _, err = markAll(x.files, x.env, list, x.marked[1]); err != nil {
		return err
	}
	if !whole {
		x.failed = append(x.failed, "mounts beyond the first "+fmt.Sprint(len(all)))
	}
	x.places.watched, x.places.remote = x.places.watched[:0], x.places.remote[:0]
	for _, m := range all {
		if remote(m.fsType) && !x.marked[0][device{m.major, m.minor}] && len(x.places.remote) < 8 {
			x.places.remote = append(x.places.remote, m.point+" ("+m.fsType+")")
		}
	}
	for _, m := range list {
		if x.marked[0][device{m.major, m.minor}] {
			x.places.watched = append(x.places.watched, m.point+" ("+m.fsType+")")
		}
	}
	x.markMemory()
	return nil
}

// markMemory tries to watch the kernel's file system of files without a name (memfd_create). Newer kernels refuse that; there a
// dynamic program is still noticed by its loader.
func (x *execWatcher) markMemory() {
	fd, err := unix.MemfdCreate("backstay", unix.MFD_CLOEXEC)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil {
		return
	}
	x.memfd = x.programs.mark(fmt.Sprintf("/proc/self/fd/%d", fd)) == nil
	x.places.why[deviceOf(&st)] = "program without a file"
}

// Covers implements Watcher.
func (x *execWatcher) Covers() string {
	var b strings.Builder
	b.WriteString("programs and writes on ")
	for i, p := range x.places.watched {
		if i == 12 {
			fmt.Fprintf(&b, ", and %d more", len(x.places.watched)-i)
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(p)
	}
	for _, m := range x.places.remote {
		b.WriteString("; not on " + m)
	}
	b.WriteString("; not what a loader or an interpreter runs")
	if !x.memfd {
		b.WriteString(", not static programs without a file")
	}
	if len(x.failed) > 0 {
		b.WriteString("; cannot watch " + strings.Join(x.failed, ", "))
	}
	return b.String()
}

// Close implements Watcher.
func (x *execWatcher) Close() error {
	var errs []error
	if x.wait != nil {
		errs = append(errs, x.wait.Close())
	}
	if x.programs != nil {
		errs = append(errs, x.programs.Close())
	}
	if x.files != nil {
		errs = append(errs, x.files.Close())
	}
	if x.table != nil {
		errs = append(errs, x.table.Close())
	}
	return errors.Join(errs...)
}

// Run implements Watcher.
func (x *execWatcher) Run(ctx context.Context, sink *Sink) error {
	x.sink = sink
	defer x.wait.until(ctx)()
	for {
		ready, err := x.wait.wait(ctx, x.timeout())
		if err == nil {
			for _, fd := range ready {
				switch fd {
				case x.programs.fd:
					err = errors.Join(err, drain(x.programs, x.program))
				case x.files.fd:
					err = errors.Join(err, drain(x.files, x.file))
				default:
					x.remount = true
				}
			}
		}
		if err == nil && ctx.Err() != nil { // what is in the queues has happened
			err = errors.Join(drain(x.programs, x.program), drain(x.files, x.file))
		}
		now := time.Now()
		x.examine(now)
		if x.remount && err == nil {
			x.remount = false
			err = x.mark()
		}
		ended := ctx.Err() != nil || err != nil
		x.started.flush(now, ended, execWindow, x.recordProgram)
		x.written.flush(now, ended, writeWindow, x.recordWrite)
		if ended {
			return err
		}
		// Beyond the budget nothing is looked at, so there is no hurry either: many events at once cost less than each alone.
		if !x.budgets.ordinary.Fill(now) && !sleep(ctx, 20*time.Millisecond) {
			continue
		}
	}
}

// timeout is how long the source may wait for its descriptors, 0 for ever.
func (x *execWatcher) timeout() time.Duration {
	now := time.Now()
	out := time.Duration(0)
	for _, d := range [...]time.Duration{x.started.wait(now), x.written.wait(now), mountRescan - now.Sub(x.looked)} {
		if d > 0 && (out == 0 || d < out) {
			out = d
		}
	}
	if len(x.pending) > 0 {
		out = loaderWait
	}
	return out
}

// drain empties the queue of a group, up to as many events as it can hold: then the others have their turn.
func drain(g *fanGroup, each func(fanEvent)) error {
	for range 128 {
		if more, err := g.read(each); err != nil || !more {
			return err
		}
	}
	return nil
}
