// SPDX-License-Identifier: Apache-2.0

package identity

// How a certificate is obtained, and what is durable at each step:
//
//	1 state: Pending = the slot that is not Current        (cut: the slot is found again, its key made or reused)
//	2 keys:  a key in that slot                            (cut: reused)
//	3 state: its certificate                               (cut: not asked for again)
//	4 state: Current = that slot, Previous = the old one   (cut: the old key is still there)
//	5 keys:  the old key destroyed, once the new certificate has proved itself
//	6 state: Previous forgotten                            (cut before: step 5 is repeated)
//
// A key found in the pending slot is reused, never destroyed: whatever an authority answered, the key is good.

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// purpose is why a certificate is asked for.
type purpose string

const (
	purposeEnrol   purpose = "enrol"
	purposeRenew   purpose = "renew"
	purposeRecover purpose = "recover"
)

// Enroll obtains the first certificate, or a new one on the recovery label when the present one expired or was rejected. With
// a certificate that works there is nothing to do. It does not wait for RetryAt: whoever calls it decided that now is the time.
func (i *Identity) Enroll(ctx context.Context) error {
	i.op.Lock()
	defer i.op.Unlock()
	rec := i.snapshot()
	if rec.Birth != nil && i.purpose(rec) == purposeRenew {
		return nil
	}
	return i.obtain(ctx, rec)
}

// Renew replaces the certificate now.
func (i *Identity) Renew(ctx context.Context) error {
	i.op.Lock()
	defer i.op.Unlock()
	rec := i.snapshot()
	if rec.Current == "" {
		return &Refusal{Class: ErrSetup, Code: "not-enrolled", What: "renew certificate", Why: "the device has none yet"}
	}
	return i.obtain(ctx, rec)
}

// Maintain does whatever is due (see Due) and nothing else.
func (i *Identity) Maintain(ctx context.Context) error {
	i.op.Lock()
	defer i.op.Unlock()
	if !i.Due(i.cfg.Now()) {
		return nil
	}
	return i.obtain(ctx, i.snapshot())
}

// Confirm says that a connection made with TLS just worked: the peer answered. The key before the present one is then no
// longer needed and is destroyed. It is cheap when there is nothing to do.
func (i *Identity) Confirm() error {
	i.mu.Lock()
	idle := i.rec.Previous == "" && i.rec.Failures == 0 && i.rec.LastError == "" || i.rec.Rejected != "" || i.rec.Current == ""
	i.mu.Unlock()
	if idle {
		return nil
	}
	// While a certificate is being obtained there is nothing to confirm yet, and the caller may be Prove itself.
	if !i.op.TryLock() {
		return nil
	}
	defer i.op.Unlock()
	if rec := i.snapshot(); rec.Rejected != "" {
		return nil // a connection that was made before the rejection
	}
	return i.retire()
}

// purpose decides how the next certificate is asked for.
func (i *Identity) purpose(rec record) purpose {
	switch {
	case rec.Current == "":
		return purposeEnrol
	case rec.Rejected != "" || i.expired(rec, rec.Current):
		return purposeRecover
	}
	return purposeRenew
}

// expired reports whether the certificate of a slot is over or missing.
func (i *Identity) expired(rec record, slot Slot) bool {
	leaf := rec.leaf(slot)
	return leaf == nil || !i.cfg.Now().Before(leaf.NotAfter)
}

// leaf is the certificate of a slot, nil when there is none.
func (r record) leaf(slot Slot) *x509.Certificate {
	chain := r.Certs[slot]
	if len(chain) == 0 {
		return nil
	}
	c, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return nil
	}
	return c
}

// obtain runs the steps at the top of this file from wherever the state is.
func (i *Identity) obtain(ctx context.Context, rec record) error {
	why := i.purpose(rec)
	switch {
	case rec.Birth == nil:
		return &Refusal{Class: ErrSetup, Code: "not-born", What: string(why) + " certificate", Why: "the device has no birth key"}
	case i.cfg.Enroller == nil:
		return &Refusal{Class: ErrSetup, Code: "no-authority", What: string(why) + " certificate", Why: "no enrolment server is configured"}
	}
	if err := i.attempt(ctx, why, rec); err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("%s certificate: %w", why, err) // stopped by us: no reason to wait longer next time
		}
		return fmt.Errorf("%s certificate: %w", why, errors.Join(err, i.noteFailure(why, err)))
	}
	return nil
}

func (i *Identity) attempt(ctx context.Context, why purpose, rec record) error {
	rec, err := i.prepare(rec)
	if err != nil {
		return err
	}
	k, err := i.pendingKey(rec.Pending)
	if err != nil {
		return err
	}
	if i.expired(rec, rec.Pending) || !SamePublic(rec.leaf(rec.Pending).PublicKey, k.Public()) {
		if rec, err = i.certify(ctx, why, rec, k); err != nil {
			return err
		}
	}
	return i.install(ctx, why, rec)
}

// prepare is step 1.
func (i *Identity) prepare(rec record) (record, error) {
	if rec.Pending != "" {
		return rec, nil
	}
	rec.Pending = SlotA
	if rec.Current != "" {
		rec.Pending = rec.Current.other()
	}
	if rec.Previous == rec.Pending {
		rec.Previous = "" // never confirmed; its key is used again
	}
	delete(rec.Certs, rec.Pending)
	return rec, i.save(rec)
}

// pendingKey is step 2.
func (i *Identity) pendingKey(slot Slot) (Key, error) {
	k, err := i.open(slot)
	switch {
	case err == nil:
		return k, nil
	case errors.Is(err, ErrDamagedKey), errors.Is(err, ErrOtherBoard):
		// No certificate in use names this slot, and the birth key opens here: nothing that works is lost.
		i.cfg.Emit("identity.key-damaged", slog.String("slot", string(slot)), slog.String("why", err.Error()))
		if err := i.cfg.Keys.Destroy(slot); err != nil {
			return nil, fmt.Errorf("empty key slot %s: %w", slot, err)
		}
	case !errors.Is(err, ErrNoKey):
		return nil, fmt.Errorf("open key %s: %w", slot, err)
	}
	if k, err = i.cfg.Keys.Generate(slot); err != nil {
		if errors.Is(err, ErrEntropy) {
			return nil, &Refusal{Class: ErrRetry, Code: "no-entropy", What: "key " + string(slot), Why: err.Error(), Err: err}
		}
		return nil, fmt.Errorf("make key %s: %w", slot, err)
	}
	return Checked(k)
}

// certify is step 3.
func (i *Identity) certify(ctx context.Context, why purpose, rec record, k Key) (record, error) {
	req := Enrolment{Renewal: why == purposeRenew}
	want := Expect{
		Public: k.Public(), DeviceID: rec.Birth.DeviceID, Anchors: i.cfg.Anchors, Now: i.cfg.Now(), ClockLate: i.cfg.ClockLate(),
	}
	if why == purposeRecover {
		req.Label = LabelRecover
	}
	auth := i.current.Load()
	if req.Renewal {
		want.Subject = rec.leaf(rec.Current).RawSubject
	} else {
		leaf, err := x509.ParseCertificate(rec.Birth.Certificate)
		if err != nil {
			return rec, fmt.Errorf("read birth certificate: %w", err)
		}
		auth = tlsCertificate(i.Birth(), leaf, [][]byte{rec.Birth.Certificate})
	}
	req.TLS = i.tlsConfig(func() *tls.Certificate { return auth })
	var err error
	if req.CSR, err = request(k, rec.Birth.DeviceID, want.Subject); err != nil {
		return rec, err
	}
	reply, err := i.cfg.Enroller.Enroll(ctx, req)
	if err != nil {
		return rec, err
	}
	want.Now = i.cfg.Now()
	chain, err := CheckIssued(reply, want)
	if err != nil {
		return rec, err
	}
	rec.Certs[rec.Pending] = nil
	for _, c := range chain {
		rec.Certs[rec.Pending] = append(rec.Certs[rec.Pending], c.Raw)
	}
	return rec, i.save(rec)
}

// install is step 4, with the proof before it when there is a working certificate to lose, behind it otherwise.
func (i *Identity) install(ctx context.Context, why purpose, rec record) error {
	next, err := i.certificate(rec, rec.Pending)
	if err != nil {
		return err
	}
	proved := false
	if why == purposeRenew && i.cfg.Prove != nil {
		if err := i.prove(ctx, rec, next); err != nil {
			return err
		}
		proved = true
	}
	rec.Previous, rec.Current, rec.Pending = rec.Current, rec.Pending, ""
	rec.Rejected, rec.RetryAt = "", time.Time{}
	if why != purposeRenew {
		delete(rec.Certs, rec.Previous) // expired or rejected: nothing to fall back to; its key stays until the new one has worked
	}
	if err := i.save(rec); err != nil {
		return err
	}
	i.current.Store(next)
	i.cfg.Emit(eventFor(why), i.certAttrs(rec, next.Leaf)...)
	if why != purposeRenew && i.cfg.Prove != nil {
		proved = i.cfg.Prove(ctx, i.TLS()) == nil // when it fails, Confirm or Rejected will tell
	}
	if !proved {
		return nil
	}
	return i.retire()
}

// prove tries the certificate that is to replace a working one. When the other side rejects it, it is asked for anew next time.
func (i *Identity) prove(ctx context.Context, rec record, next *tls.Certificate) error {
	err := i.cfg.Prove(ctx, i.tlsConfig(func() *tls.Certificate { return next }))
	if err == nil {
		return nil
	}
	if IsRejection(err) {
		delete(rec.Certs, rec.Pending)
		err = errors.Join(err, i.save(rec))
	}
	return fmt.Errorf("prove new certificate: %w", err)
}

// retire is steps 5 and 6: the present certificate has just worked, so the key before it goes and the failures are over.
func (i *Identity) retire() error {
	rec := i.snapshot()
	if rec.Previous == "" && rec.Failures == 0 && rec.LastError == "" {
		return nil
	}
	if rec.Previous != "" {
		if err := i.cfg.Keys.Destroy(rec.Previous); err != nil {
			return fmt.Errorf("destroy key %s: %w", rec.Previous, err)
		}
		delete(rec.Certs, rec.Previous)
		rec.Previous = ""
	}
	rec.Failures, rec.LastError = 0, ""
	return i.save(rec)
}

func eventFor(why purpose) string {
	switch why {
	case purposeRenew:
		return "identity.renewed"
	case purposeRecover:
		return "identity.recovered"
	}
	return "identity.enrolled"
}

func (i *Identity) certAttrs(rec record, leaf *x509.Certificate) []slog.Attr {
	k, _ := i.current.Load().PrivateKey.(Key)
	return []slog.Attr{
		slog.String("device_id", rec.Birth.DeviceID), slog.String("certificate", fmt.Sprintf("%x", leaf.SerialNumber)),
		slog.String("issuer", leaf.Issuer.CommonName), slog.Time("not_after", leaf.NotAfter.UTC()),
		slog.String("key_class", string(k.Class())),
	}
}
