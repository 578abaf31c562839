// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// watchdog is a hardware watchdog that restarts the device when a trial gets stuck: this process, or the kernel under it. The
// boot loader then counts one more start of the new image, and goes back to the old one when the attempts are used up.
//
// It is opened for a trial and fed until the verdict; after a bad one until the deadline and the grace are over, in which the
// device has to restart. The
// device file is of Documentation/watchdog/watchdog-api.rst in the kernel's sources.
type watchdog struct {
	path    string // "" for none
	timeout int    // asked of the hardware, in seconds; it may choose another
	grace   time.Duration
	logger  *slog.Logger
}

func newWatchdog(path string, logger *slog.Logger) watchdog {
	return watchdog{path: path, timeout: 60, grace: 2 * time.Minute, logger: logger}
}

// guard runs a trial under the watchdog. A watchdog that cannot be opened is logged, and the trial runs without: somebody else
// may feed it, and a device that never keeps a good image is the worse one.
func (w watchdog) guard(trial func(context.Context) error) func(context.Context) error {
	if w.path == "" {
		return trial
	}
	return func(ctx context.Context) error {
		dog, period, err := w.open()
		if err != nil {
			w.logger.Error("try the image without the watchdog", "err", err)
			return trial(ctx)
		}
		verdict := make(chan struct{})
		end, _ := ctx.Deadline() // the machine always sets one
		go w.feed(dog, period, end.Add(w.grace), verdict)
		err = trial(ctx)
		if err == nil || errors.Is(ctx.Err(), context.Canceled) {
			close(verdict) // good, or the agent is being stopped: nobody will feed it
		}
		return err
	}
}

// feed feeds the watchdog until the verdict or the end. After the end it leaves it open and hungry. After the verdict it stops
// it, or goes on feeding one that cannot be stopped as long as this process lives.
func (w watchdog) feed(dog *os.File, period time.Duration, end time.Time, verdict <-chan struct{}) {
	tick := time.NewTicker(period)
	defer tick.Stop()
	for time.Now().Before(end) {
		if _, err := dog.Write([]byte{0}); err != nil { // any byte but V
			w.logger.Error("feed the watchdog", "err", err)
		}
		select {
		case <-tick.C:
		case <-verdict:
			if err := stopWatchdog(dog); err == nil {
				return
			}
			w.logger.Info("the watchdog cannot be stopped: it is fed from now on")
			verdict, end = nil, time.Now().AddDate(100, 0, 0)
		}
	}
}

// open opens a watchdog, which starts it, and returns how often it has to be fed: three times in its time.
func (w watchdog) open() (*os.File, time.Duration, error) {
	dog, err := os.OpenFile(w.path, os.O_WRONLY, 0)
	if err != nil {
		return nil, 0, err
	}
	fd := int(dog.Fd())
	_ = unix.IoctlSetPointerInt(fd, unix.WDIOC_SETTIMEOUT, w.timeout) // what it can do is read below
	seconds, err := unix.IoctlGetInt(fd, unix.WDIOC_GETTIMEOUT)
	if err == nil && seconds < 1 {
		err = fmt.Errorf("a time of %d s", seconds)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("%s: not a watchdog that says its time: %w", w.path, errors.Join(err, stopWatchdog(dog)))
	}
	return dog, time.Duration(seconds) * time.Second / 3, nil
}

// stopWatchdog stops a watchdog and closes it, in the way that says it is meant. After an error it is running, and open.
func stopWatchdog(dog *os.File) error {
	if err := unix.IoctlSetPointerInt(int(dog.Fd()), unix.WDIOC_SETOPTIONS, unix.WDIOS_DISABLECARD); err != nil {
		return err
	}
	_, err := dog.Write([]byte{'V'})
	return errors.Join(err, dog.Close())
}
