// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/logging"
)

// Bounds of what is reported.
const (
	minStep      = 500 * time.Millisecond // smaller ones are the daily work of a time daemon
	maxUncertain = time.Second            // of a clock that is said to be synchronised
)

func clockKind() Kind {
	return Kind{
		Name: "clock", Sees: "steps of the clock, and whether a time daemon keeps it right",
		Rate: logging.Rate{Per: 1, Burst: 50}, Open: openClock,
	}
}

// clockWatcher has a timer that the kernel cancels when the clock is set. What the clock would show without steps follows from
// the monotonic clock, so the size of a step is known.
type clockWatcher struct {
	env   *Env
	timer int
	wait  *waiter
	sys   clockSystem
	base  time.Duration // wall clock minus time since boot
	state string        // of the synchronisation, as last recorded
}

// clockSystem is what is asked of the kernel.
type clockSystem struct {
	wall, boot func() (time.Duration, error)
	adjust     func() (adjustment, error)
}

// adjustment is what adjtimex tells.
type adjustment struct {
	synced bool
	max    time.Duration // possible error
}

func kernelClock() clockSystem {
	read := func(id int32) func() (time.Duration, error) {
		return func() (time.Duration, error) {
			var ts unix.Timespec
			err := unix.ClockGettime(id, &ts)
			return time.Duration(ts.Nano()), err
		}
	}
	return clockSystem{wall: read(unix.CLOCK_REALTIME), boot: read(unix.CLOCK_BOOTTIME), adjust: func() (adjustment, error) {
		var tx unix.Timex
		state, err := unix.Adjtimex(&tx)
		return adjustment{
			synced: state != unix.TIME_ERROR && tx.Status&unix.STA_UNSYNC == 0,
			max:    time.Duration(tx.Maxerror) * time.Microsecond,
		}, err
	}}
}

func openClock(_ context.Context, env *Env) (_ Watcher, err error) {
	c := &clockWatcher{env: env, timer: -1, sys: kernelClock()}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	if c.timer, err = unix.TimerfdCreate(unix.CLOCK_REALTIME, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK); err != nil {
		c.timer = -1
		if errors.Is(err, unix.ENOSYS) {
			return nil, fmt.Errorf("kernel without CONFIG_TIMERFD: %w", ErrUnavailable)
		}
		return nil, fmt.Errorf("watch clock: %w", err)
	}
	if c.base, err = c.offset(); err != nil {
		return nil, err
	}
	if err = c.arm(); err != nil {
		return nil, err
	}
	if c.wait, err = newWaiter(); err != nil {
		return nil, err
	}
	return c, c.wait.add(c.timer, unix.EPOLLIN)
}

// arm sets the timer to a time that never comes: on 32 bits 2038 does, and then the timer ends and is armed for the next day.
func (c *clockWatcher) arm() error {
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(1<<31-2) * int64(time.Second))}
	if wall, err := c.sys.wall(); err == nil && int64(wall/time.Second) >= 1<<31-3 {
		spec.Value = unix.NsecToTimespec(int64(wall + 24*time.Hour))
	}
	if err := unix.TimerfdSettime(c.timer, unix.TFD_TIMER_ABSTIME|unix.TFD_TIMER_CANCEL_ON_SET, &spec, nil); err != nil {
		return fmt.Errorf("watch clock: %w", err)
	}
	return nil
}

func (c *clockWatcher) offset() (time.Duration, error) {
	wall, err := c.sys.wall()
	boot, err2 := c.sys.boot()
	if err = errors.Join(err, err2); err != nil {
		return 0, fmt.Errorf("read clock: %w", err)
	}
	return wall - boot, nil
}

// Covers implements Watcher.
func (c *clockWatcher) Covers() string {
	return fmt.Sprintf("steps of %s and more, at once; the state of the synchronisation every %s; not a clock that is made to run slow or fast", minStep, c.env.Poll)
}

// Close implements Watcher.
func (c *clockWatcher) Close() error {
	var errs []error
	if c.wait != nil {
		errs = append(errs, c.wait.Close())
	}
	if c.timer >= 0 {
		errs = append(errs, unix.Close(c.timer))
	}
	return errors.Join(errs...)
}

// Run implements Watcher.
func (c *clockWatcher) Run(ctx context.Context, sink *Sink) error {
	defer c.wait.until(ctx)()
	for {
		if err := c.synchronised(sink); err != nil {
			return err
		}
		ready, err := c.wait.wait(ctx, max(c.env.Poll, 10*time.Millisecond))
		if err != nil || ctx.Err() != nil {
			return err
		}
		if len(ready) == 0 {
			continue
		}
		var b [8]byte
		if _, err := unix.Read(c.timer, b[:]); err != nil && !errors.Is(err, unix.ECANCELED) && !errors.Is(err, unix.EAGAIN) {
			return fmt.Errorf("watch clock: %w", err)
		}
		if err := c.arm(); err != nil { // before the look, so that a step in between is not missed
			return err
		}
		if err := c.step(sink); err != nil {
			return err
		}
	}
}

// step compares the clock with what it should show.
func (c *clockWatcher) step(sink *Sink) error {
	boot, err := c.sys.boot()
	if err != nil {
		return fmt.Errorf("read clock: %w", err)
	}
	now, err := c.offset()
	if err != nil {
		return err
	}
	size := now - c.base
	if size.Abs() < minStep {
		return nil // not the new base: small steps add up to one that counts
	}
	from, to := time.Unix(0, int64(c.base+boot)), time.Unix(0, int64(now+boot))
	c.base = now
	attrs := []slog.Attr{
		slog.String("message", "the clock was set"), slog.String("from", stamp(from)), slog.String("to", stamp(to)), slog.Duration("step", size.Round(time.Millisecond)),
	}
	if size < -time.Minute { // what was recorded before seems to come after, and what has expired is valid again
		attrs = append(attrs, slog.String("severity", "medium"))
	}
	sink.Event("time.step", attrs...)
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

// synchronised records when a time daemon begins or ceases to keep the clock, and when the error it admits is too large.
func (c *clockWatcher) synchronised(sink *Sink) error {
	a, err := c.sys.adjust()
	if err != nil {
		return fmt.Errorf("read clock: %w", err)
	}
	code, state, message := "time.synced", "synced", "the clock is synchronised"
	switch {
	case !a.synced:
		code, state, message = "time.unsynced", "unsynced", "the clock is not synchronised"
	case a.max > maxUncertain:
		code, state, message = "time.unsynced", "uncertain", "the clock may be wrong by more than is allowed"
	}
	if c.state == state {
		return nil
	}
	attrs := []slog.Attr{slog.String("message", message), slog.String("state", state)}
	if a.synced {
		attrs = append(attrs, slog.Duration("max_error", a.max))
	}
	if c.state != "" {
		attrs = append(attrs, slog.String("state_before", c.state))
	}
	c.state = state
	sink.Event(code, attrs...)
	return nil
}
