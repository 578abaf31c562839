// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"errors"
	"log/slog"
	"net"
	"strings"
	"time"
)

// IsRejection reports whether err says that the other side of a TLS connection did not accept our certificate. Under TLS 1.3
// that is no dial error: the handshake succeeds and the first read fails, so errors of reads belong here too.
func IsRejection(err error) bool {
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "remote error" || op.Err == nil {
		return false
	}
	switch strings.TrimPrefix(op.Err.Error(), "tls: ") {
	case "bad certificate", "unsupported certificate", "revoked certificate", "expired certificate", "unknown certificate",
		"unknown certificate authority", "access denied", "certificate required":
		return true
	}
	return false
}

// Rejected tells Identity about the failure of a connection made with TLS. When the other side refused our certificate, the
// next Maintain asks for a new one with the birth key; when a certificate is refused that has never worked, the one before it
// is used again. No key is destroyed. Other errors are ignored, and so are repetitions. The returned error is of saving.
func (i *Identity) Rejected(cause error) error {
	if !IsRejection(cause) {
		return nil
	}
	// While a certificate is being obtained the remedy is under way, and the caller may be Prove itself.
	if !i.op.TryLock() {
		return nil
	}
	defer i.op.Unlock()
	rec := i.snapshot()
	if rec.Current == "" || rec.Rejected != "" {
		return nil
	}
	if rec.Previous != "" && !i.expired(rec, rec.Previous) {
		if old, err := i.certificate(rec, rec.Previous); err == nil {
			refused := rec.Current
			rec.Current, rec.Previous, rec.Pending = rec.Previous, "", refused
			delete(rec.Certs, refused) // its key is used again
			rec = i.punish(rec, cause)
			if err := i.save(rec); err != nil {
				return err
			}
			i.current.Store(old)
			i.cfg.Emit("identity.rejected", slog.String("why", rec.LastError), slog.String("action", "previous certificate"))
			return nil
		}
	}
	return i.noteRejected(rec, "rejected", cause)
}

// noteRejected marks the present certificate as useless.
func (i *Identity) noteRejected(rec record, reason string, cause error) error {
	rec.Rejected = reason
	rec = i.punish(rec, cause)
	i.cfg.Emit("identity.rejected", slog.String("why", rec.LastError), slog.String("action", "recover"))
	return i.save(rec)
}

// punish counts a failure. The first one may be acted on at once; when a new certificate is rejected as well, the authority
// and that server disagree, and asking faster does not help.
func (i *Identity) punish(rec record, cause error) record {
	rec.LastError = shorten(cause.Error())
	rec.RetryAt = time.Time{}
	if rec.Failures > 0 {
		rec.RetryAt = i.cfg.Now().UTC().Add(backoff(rec.Failures, rec.Birth.DeviceID)).Truncate(time.Second)
	}
	rec.Failures++
	return rec
}
