// SPDX-License-Identifier: Apache-2.0

package intake

import (
	"log/slog"
	"sync"
	"time"

	"github.com/backstay/backstay/logging"
)

// account is what one user id may still write, and how much of it was left out.
type account struct {
	ordinary, costly logging.Bucket
	count, critical  uint64
	first            time.Time
	noted            time.Time // when a refusal of this user was last recorded
}

// othersUID stands for the user ids beyond maxUIDs: a hostile program that can change its user id must not get a new bucket
// each time, nor make the agent remember them all.
const othersUID = -1

// accounts are the buckets of one socket. They are safe for concurrent use.
type accounts struct {
	mu    sync.Mutex
	rate  logging.Rate
	byUID map[int]*account
}

func newAccounts(r logging.Rate) *accounts { return &accounts{rate: r, byUID: map[int]*account{}} }

// of returns the account of a user id. It is called with the lock held. One that owes no report and has a full bucket is as good
// as none, and makes room.
func (a *accounts) of(uid int, now time.Time) *account {
	if acc := a.byUID[uid]; acc != nil {
		return acc
	}
	if len(a.byUID) >= maxUIDs {
		for id, acc := range a.byUID {
			if acc.count == 0 && now.Sub(acc.ordinary.At) > time.Hour && now.Sub(acc.noted) > time.Hour {
				delete(a.byUID, id)
			}
		}
	}
	if len(a.byUID) >= maxUIDs {
		uid = othersUID
		if acc := a.byUID[uid]; acc != nil {
			return acc
		}
	}
	costly := logging.Rate{Per: a.rate.Per / 10, Burst: max(a.rate.Burst/10, 1)}
	acc := &account{ordinary: logging.NewBucket(a.rate, now), costly: logging.NewBucket(costly, now)}
	a.byUID[uid] = acc
	return acc
}

// allow takes a token for one event, and one more from the smaller bucket when the event has to be durable at once.
func (a *accounts) allow(uid int, costly bool) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	acc := a.of(uid, now)
	if acc.ordinary.Take(now) && (!costly || acc.costly.Take(now)) {
		return true
	}
	if acc.count == 0 {
		acc.first = now
	}
	acc.count++
	if costly {
		acc.critical++
	}
	return false
}

// note reports whether a refusal of a user may be recorded now: once a minute each.
func (a *accounts) note(uid int) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	acc := a.of(uid, now)
	if !acc.noted.IsZero() && now.Sub(acc.noted) < time.Minute {
		return false
	}
	acc.noted = now
	return true
}

// report returns the attributes of one log.suppressed event for each user that was cut off, and starts counting anew.
func (a *accounts) report(source string) (all [][]slog.Attr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for uid, acc := range a.byUID {
		if acc.count == 0 {
			continue
		}
		attrs := []slog.Attr{
			slog.String("message", "events of a program beyond its rate were not recorded"), slog.String("source", source),
			slog.Uint64("count", acc.count), slog.Uint64("critical", acc.critical),
			slog.Duration("during", time.Since(acc.first).Round(time.Second)),
		}
		if uid != othersUID {
			attrs = append(attrs, slog.Int("uid", uid))
		}
		if acc.critical > 0 {
			attrs = append(attrs, slog.String("severity", "high"))
		}
		all = append(all, attrs)
		acc.count, acc.critical = 0, 0
	}
	return all
}
