// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"log/slog"
	"strconv"
	"time"
)

// Waits between attempts: the first after a minute, then twice as long each time, up to half a day. An authority may ask for
// longer, up to a day. All of it give or take a tenth, so that a fleet that lost its server does not come back at once.
const (
	firstRetry = time.Minute
	lastRetry  = 12 * time.Hour
	maxWait    = 24 * time.Hour
)

// Due reports whether Maintain has something to do at now.
func (i *Identity) Due(now time.Time) bool {
	at := i.NextDue(now)
	return !at.IsZero() && !now.Before(at)
}

// NextDue is when Maintain should be called next, given that it is now; zero when there is nothing to wait for: the device is
// blank or does not enrol.
func (i *Identity) NextDue(now time.Time) time.Time {
	rec := i.snapshot()
	if rec.Birth == nil || i.cfg.Enroller == nil {
		return time.Time{}
	}
	at := now
	if i.purpose(rec) == purposeRenew {
		at = i.renewAt(rec, rec.leaf(rec.Current))
	}
	// A wait that lies further ahead than any we set comes from a clock that has since been put back.
	if rec.RetryAt.After(at) && rec.RetryAt.Sub(now) <= maxWait+maxWait/10 {
		at = rec.RetryAt
	}
	return at
}

// renewAt is when a certificate is renewed. The jitter comes from the certificate, so it differs between devices and between
// renewals and survives a restart without being stored.
func (i *Identity) renewAt(rec record, leaf *x509.Certificate) time.Time {
	life := leaf.NotAfter.Sub(leaf.NotBefore)
	after := i.cfg.RenewAfter
	if after == 0 || after > life {
		after = life / 3 * 2
	}
	return leaf.NotBefore.Add(after + jitter(life, "renew", rec.Birth.DeviceID, leaf.SerialNumber.Text(16)))
}

// jitter is between minus and plus a tenth of d, the same for the same seed.
func jitter(d time.Duration, seed ...string) time.Duration {
	h := sha256.New()
	for _, s := range seed {
		h.Write([]byte(s + "\x00"))
	}
	const steps = 1 << 20
	n := int64(binary.BigEndian.Uint32(h.Sum(nil)) % (2*steps + 1)) // 0 to 2*steps
	return time.Duration((n - steps) * (int64(d) / 10 / steps))
}

// backoff is the wait after the given number of failures in a row.
func backoff(failures int, deviceID string) time.Duration {
	d := lastRetry
	if failures < 12 {
		d = min(d, firstRetry<<max(failures-1, 0))
	}
	return d + jitter(d, "retry", deviceID, strconv.Itoa(failures))
}

// noteFailure counts a failed attempt and says when the next may follow. It returns an error only when that cannot be saved.
func (i *Identity) noteFailure(why purpose, cause error) error {
	rec := i.snapshot()
	rec.Failures++
	wait := backoff(rec.Failures, rec.Birth.DeviceID)
	var w Waiter
	if errors.As(cause, &w) {
		// Not less than the authority asks for, not more than a day.
		wait = max(wait, min(w.RetryAfter(), maxWait))
	}
	rec.RetryAt = i.cfg.Now().UTC().Add(wait).Truncate(time.Second)
	rec.LastError = shorten(cause.Error())
	i.cfg.Emit("identity.failed", slog.String("purpose", string(why)), slog.String("why", rec.LastError),
		slog.String("reason", codeOf(cause)), slog.Int("failures", rec.Failures), slog.Time("retry_at", rec.RetryAt))
	return i.save(rec)
}

// codeOf is the code of the first refusal in err, "" when there is none.
func codeOf(err error) string {
	var c interface{ ErrorCode() string }
	if errors.As(err, &c) {
		return c.ErrorCode()
	}
	return ""
}

// shorten bounds a text that a remote side may have written.
func shorten(s string) string {
	const limit = 512
	if len(s) > limit {
		return s[:limit]
	}
	return s
}
