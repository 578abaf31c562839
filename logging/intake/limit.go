// SPDX-License-Identifier: Apache-2.0

package intake

import (
	"log/slog"
	"sync"
	"time"
)

// bucket holds tokens up to burst and gains per of them a second.
type bucket struct {
	rate   Rate
	tokens float64
	at     time.Time
}

func (b *bucket) take(now time.Time) bool {
	if d := now.Sub(b.at); d > 0 {
		b.tokens = min(float64(b.rate.Burst), b.tokens+d.Seconds()*b.rate.Per)
	}
	b.at = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// account is what one user id may still write, and how much of it was left out.
type account struct {
	ordinary, costly bucket
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
	rate  Rate
	byUID map[int]*account
}

func newAccounts(r Rate) *accounts { return &accounts{rate: r, byUID: map[int]*account{}} }

// of returns the account of a user id. It is called with the lock held. One that owes no report and has a full bucket is as good
// as none, and makes room.
func (a *accounts) of(uid int, now time.Time) *account {
	if acc := a.byUID[uid]; acc != nil {
		return acc
	}
	if len(a.byUID) >= maxUIDs {
		for id, acc := range a.byUID {
			if acc.count == 0 && now.Sub(acc.ordinary.at) > time.Hour && now.Sub(acc.noted) > time.Hour {
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
	costly := Rate{a.rate.Per / 10, max(a.rate.Burst/10, 1)}
	acc := &account{
		ordinary: bucket{a.rate, float64(a.rate.Burst), now},
		costly:   bucket{costly, float64(costly.Burst), now},
	}
	a.byUID[uid] = acc
	return acc
}

// allow takes a token for one event, and one more from the smaller bucket when the event has to be durable at once.
func (a *accounts) allow(uid int, costly bool) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	acc := a.of(uid, now)
	if acc.ordinary.take(now) && (!costly || acc.costly.take(now)) {
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
