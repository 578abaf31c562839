// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/trust"
)

// Times of the updater.
const (
	firstRetry = 10 * time.Second // wait after an attempt that may succeed later; it doubles up to the polling period
	lookAgain  = 30 * time.Second // how often is looked whether a step that waits is allowed, and whether a directory is there
)

// maxLocalTries is how often a directory is tried that does not deliver: a stick with a bad block must not keep the device from
// its servers.
const maxLocalTries = 3

// updater looks for releases and carries updates through. It is the only user of the machine's Run and Resume.
type updater struct {
	machine *update.Machine
	client  *trust.Client
	source  *trust.Source
	poll    time.Duration
	dirs    []string // looked into for a copy of the repository
	logger  *slog.Logger
	wake    chan struct{} // a doorbell or a command; capacity 1

	// looked is told how each look ended: that the repository answered our certificate, or refused it.
	looked func(err error)

	mu      sync.Mutex // guards what follows
	checked time.Time  // end of the last look, trusted time
	next    time.Time
	last    error // what it ended with; nil and ErrNothing are good
	local   *trust.Directory
	tries   int                 // runs that the directory did not deliver for
	known   map[string][32]byte // digest of the timestamp that was last seen in a directory
}

// run continues what a reboot interrupted, then looks for releases until ctx ends. It returns update.ErrReboot when the process
// has to end for a reboot, nil when ctx ended.
func (u *updater) run(ctx context.Context, owned gate) error {
	defer u.unplug()
	if err := u.note(u.machine.Resume(ctx)); errors.Is(err, update.ErrReboot) {
		return err
	}
	retry := firstRetry
	for u.may(ctx, owned) {
		err := u.note(u.machine.Run(ctx))
		held, waiting := u.machine.Wait(err)
		if u.directory() == nil && !waiting {
			u.looked(err)
		}
		wait := u.poll + time.Duration((rand.Float64()-0.5)*0.2*float64(u.poll))
		switch {
		case errors.Is(err, update.ErrReboot):
			return err
		case waiting:
			if held > 0 {
				wait = min(wait, held)
			}
		case errors.Is(err, update.ErrRetry):
			wait = min(wait, retry)
			retry = min(retry*2, u.poll)
		default:
			retry = firstRetry
		}
		if err != nil && !errors.Is(err, update.ErrNothing) && !waiting && ctx.Err() == nil {
			u.logger.Warn("update", "err", err)
		}
		u.putAway(err)
		u.mu.Lock()
		u.next = u.machine.Now().Add(wait)
		u.mu.Unlock()
		u.sleep(ctx, wait, waiting)
	}
	return nil
}

// may waits until the device has a certificate to show to its servers. A directory asks for none, and a job whose image is in its
// slot needs neither.
func (u *updater) may(ctx context.Context, owned gate) bool {
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	for ctx.Err() == nil {
		if u.directory() != nil || u.appeared() || u.landed(ctx) {
			return true
		}
		select {
		case <-ctx.Done():
		case <-owned.ch:
			return ctx.Err() == nil
		case <-u.wake:
		case <-tick.C:
		}
	}
	return false
}

// landed reports whether there is a job that has its image and may go on.
func (u *updater) landed(ctx context.Context) bool {
	s := u.machine.Brief()
	if s.State == update.Reverting || s.State == update.Reporting {
		return true
	}
	return s.Release != nil && s.State != update.Downloading && u.machine.Ready(ctx)
}

// sleep ends when there is something to do.
func (u *updater) sleep(ctx context.Context, wait time.Duration, waiting bool) {
	end := time.NewTimer(wait)
	defer end.Stop()
	var tick <-chan time.Time
	if waiting || len(u.dirs) > 0 {
		t := time.NewTicker(lookAgain)
		defer t.Stop()
		tick = t.C
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-u.wake:
			return
		case <-end.C:
			return
		case <-tick:
			if u.appeared() || waiting && u.machine.Ready(ctx) {
				return
			}
		}
	}
}

func (u *updater) note(err error) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.checked, u.last = u.machine.Now(), err
	return err
}

// ring makes run look now. It does not wait.
func (u *updater) ring() { kick(u.wake) }

// demand makes run look now because a person asked. What the last run ended with is history.
func (u *updater) demand() {
	u.mu.Lock()
	u.last = nil
	u.mu.Unlock()
	u.machine.Request()
	u.ring()
}

// plug makes a directory the only place that is asked.
func (u *updater) plug(d *trust.Directory) {
	u.client.Local(d)
	u.mu.Lock()
	before := u.local
	u.local, u.tries = d, 0
	u.mu.Unlock()
	if before != nil {
		before.Close()
	}
}

// unplug goes back to the servers.
func (u *updater) unplug() {
	u.client.Local(nil)
	u.mu.Lock()
	d := u.local
	u.local = nil
	u.mu.Unlock()
	if d != nil {
		d.Close()
	}
}

func (u *updater) directory() *trust.Directory {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.local
}

// putAway unplugs the directory after a run, unless the next run still needs its image.
func (u *updater) putAway(err error) {
	d := u.directory()
	if d == nil {
		return
	}
	w, waiting := errors.AsType[*update.Waiting](err)
	_, gone := os.Stat(d.Path())
	u.mu.Lock()
	if errors.Is(err, update.ErrRetry) && !waiting {
		u.tries++
	}
	tries := u.tries
	u.mu.Unlock()
	if gone == nil && tries < maxLocalTries && (waiting && w.Decision.Step == update.StepDownload || !waiting && errors.Is(err, update.ErrRetry)) {
		return
	}
	u.unplug()
}

// appeared looks into the directories of the configuration and plugs the first with a repository that was not there before.
func (u *updater) appeared() bool {
	if u.directory() != nil {
		return false
	}
	for _, dir := range u.dirs {
		sum, err := timestampSum(dir)
		u.mu.Lock()
		news := err == nil && u.known[dir] != sum
		if u.known == nil {
			u.known = map[string][32]byte{}
		}
		u.known[dir] = sum // zero when it is away: the same stick put in again is looked at again
		u.mu.Unlock()
		if !news {
			continue
		}
		d, err := trust.OpenDirectory(dir)
		if err != nil {
			u.logger.Warn("update", "directory", dir, "err", err)
			continue
		}
		u.logger.Info("repository in a directory", "directory", dir)
		u.plug(d)
		return true
	}
	return false
}

// timestampSum is the digest of a directory's timestamp.
func timestampSum(dir string) (sum [32]byte, err error) {
	f, err := os.OpenInRoot(dir, filepath.Join("metadata", "timestamp.json"))
	if err != nil {
		return sum, err
	}
	defer f.Close()
	h := sha256.New()
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		return sum, errors.Join(err, errors.ErrUnsupported)
	}
	if _, err := io.Copy(h, io.LimitReader(f, 64<<10)); err != nil {
		return sum, err
	}
	return [32]byte(h.Sum(nil)), nil
}
