// SPDX-License-Identifier: Apache-2.0

package identity_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/backstay/backstay/identity"
	"github.com/backstay/backstay/identity/identitytest"
)

// alert is how crypto/tls reports an alert of the other side.
func alert(text string) error {
	return fmt.Errorf("read: %w", &net.OpError{Op: "remote error", Err: errors.New("tls: " + text)})
}

func samePublicOf(t *testing.T, a, b []byte) bool {
	t.Helper()
	x, err1 := x509.ParseCertificateRequest(a)
	y, err2 := x509.ParseCertificateRequest(b)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return identity.SamePublic(x.PublicKey, y.PublicKey)
}

// TestRenewalOverTime runs a year of a device's life on a clock of its own: it renews between 56.7 % and 76.7 % of each
// certificate's life, never late, and never more often than needed.
func TestRenewalOverTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		start := time.Now()
		c := b.config()
		c.Now = time.Now
		fresh := identitytest.NewAuthority(time.Now)
		c.Enroller, c.Anchors = fresh, fresh.Pool()
		i, err := identity.Open(c)
		b.must(err)
		b.must(i.Born(t.Context()))
		for time.Since(start) < 365*24*time.Hour {
			if wait := time.Until(i.NextDue(time.Now())); wait > 0 {
				if i.Due(time.Now()) {
					t.Fatal("due before NextDue")
				}
				time.Sleep(wait)
			}
			var age float64
			if cert := presented(i); cert != nil {
				age = float64(time.Since(cert.NotBefore)) / float64(cert.NotAfter.Sub(cert.NotBefore))
				if age < 0.566 || age > 0.767 {
					t.Errorf("renewed at %.1f %% of its life", 100*age)
				}
			}
			b.must(i.Maintain(t.Context()))
			b.must(i.Confirm())
		}
		if n := len(fresh.Issued); n < 5 || n > 8 {
			t.Errorf("%d certificates in a year of 90-day lives", n)
		}
		b.phase(i, identity.Owned)
	})
}

func TestRenewAfterSetting(t *testing.T) {
	b := newBench(t)
	b.after = 10 * 24 * time.Hour
	i := b.enrolled()
	at := i.Status().RenewAt.Sub(b.now)
	if at < 24*time.Hour || at > 19*24*time.Hour+time.Hour { // 10 days, give or take a tenth of 90
		t.Errorf("renewal after %s", at)
	}
	if b.open().Status().RenewAt != i.Status().RenewAt {
		t.Error("a restart rolled the dice again")
	}
}

// TestBackOff: failures wait longer and longer, up to half a day give or take a tenth, and the counter survives restarts.
func TestBackOff(t *testing.T) {
	b := newBench(t)
	i := b.open()
	b.must(i.Born(t.Context()))
	b.auth.Fail = func(identity.Enrolment) error { return errors.New("no route") }
	var waits []time.Duration
	for n := range 14 {
		if err := i.Maintain(t.Context()); err == nil {
			t.Fatal("no error")
		}
		s := i.Status()
		if s.Failures != n+1 || s.LastError == "" {
			t.Fatalf("status %+v", s)
		}
		waits = append(waits, s.RetryAt.Sub(b.now))
		i = b.open()
		tries := len(b.auth.Seen)
		b.must(i.Maintain(t.Context())) // not due
		if i.Due(b.now) || len(b.auth.Seen) != tries {
			t.Fatal("tried again at once")
		}
		b.now = i.NextDue(b.now)
	}
	for n, w := range waits {
		want := min(time.Minute<<n, 12*time.Hour)
		if w < want*89/100 || w > want*111/100 {
			t.Errorf("wait %d is %s, want about %s", n, w, want)
		}
	}
	b.auth.Fail = nil
	b.must(i.Maintain(t.Context()))
	b.must(i.Confirm())
	if s := i.Status(); s.Failures != 0 || s.LastError != "" {
		t.Errorf("after success %+v", s)
	}
}

type wait struct{ time.Duration }

func (w wait) Error() string             { return "come back later" }
func (w wait) RetryAfter() time.Duration { return w.Duration }

func TestAuthorityMayAskForPatience(t *testing.T) {
	for _, c := range []struct{ asked, atLeast, atMost time.Duration }{
		{time.Hour, time.Hour - time.Second, time.Hour}, {0, 50 * time.Second, 70 * time.Second}, {1 << 62, 24*time.Hour - time.Second, 24 * time.Hour},
	} {
		b := newBench(t)
		i := b.open()
		b.must(i.Born(t.Context()))
		b.auth.Fail = func(identity.Enrolment) error { return wait{c.asked} }
		if i.Maintain(t.Context()) == nil {
			t.Fatal("no error")
		}
		if got := i.NextDue(b.now).Sub(b.now); got < c.atLeast || got > c.atMost {
			t.Errorf("asked for %s, waits %s", c.asked, got)
		}
	}
}

// TestClockPutBack: a wait that was set under a clock that ran ahead does not keep the device from enrolling for years.
func TestClockPutBack(t *testing.T) {
	b := newBench(t)
	i := b.open()
	b.must(i.Born(t.Context()))
	b.auth.Fail = func(identity.Enrolment) error { return errors.New("no route") }
	b.now = b.now.AddDate(10, 0, 0)
	if i.Maintain(t.Context()) == nil {
		t.Fatal("no error")
	}
	b.now = b.now.AddDate(-10, 0, 0)
	if !i.Due(b.now) {
		t.Errorf("waits until %s", i.NextDue(b.now))
	}
}

func TestCancelledAttemptDoesNotCount(t *testing.T) {
	b := newBench(t)
	i := b.open()
	b.must(i.Born(t.Context()))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := i.Enroll(ctx); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if s := i.Status(); s.Failures != 0 {
		t.Errorf("%+v", s)
	}
}

func TestProofGuardsAWorkingCertificate(t *testing.T) {
	b := newBench(t)
	i := b.enrolled()
	old := presented(i)
	var shown *x509.Certificate
	broken := error(errors.New("repository answers 500"))
	b.prove = func(_ context.Context, c *tls.Config) error {
		cert, _ := c.GetClientCertificate(nil)
		shown = cert.Leaf
		return broken
	}
	i = b.open()
	if err := i.Renew(t.Context()); !errors.Is(err, broken) {
		t.Fatal(err)
	}
	if !presented(i).Equal(old) || shown.Equal(old) {
		t.Fatal("the unproved certificate is in use, or the old one was tried")
	}
	b.phase(i, identity.Renewing)
	b.slots(identity.SlotBirth, identity.SlotA, identity.SlotB)

	// The certificate is kept and tried again without asking for another one, also after a restart.
	issued := len(b.auth.Issued)
	i = b.open()
	broken = nil
	b.must(i.Renew(t.Context()))
	if len(b.auth.Issued) != issued || !presented(i).Equal(shown) {
		t.Error("another certificate was issued")
	}
	b.slots(identity.SlotBirth, identity.SlotB)
}

func TestRejectedProofIsIssuedAnew(t *testing.T) {
	b := newBench(t)
	i := b.enrolled()
	b.prove = func(context.Context, *tls.Config) error { return alert("bad certificate") }
	i = b.open()
	for range 2 {
		if i.Renew(t.Context()) == nil {
			t.Fatal("no error")
		}
	}
	if len(b.auth.Issued) != 3 || !samePublicOf(t, b.auth.Seen[1].CSR, b.auth.Seen[2].CSR) {
		t.Errorf("%d certificates", len(b.auth.Issued))
	}
	b.phase(i, identity.Renewing)
}

// TestProveMayUseIdentity: whoever proves a certificate reports to Identity what every other connection reports.
func TestProveMayUseIdentity(t *testing.T) {
	b := newBench(t)
	var i *identity.Identity
	b.prove = func(context.Context, *tls.Config) error {
		return errors.Join(i.Confirm(), i.Rejected(alert("bad certificate")), func() error { i.Status(); return nil }())
	}
	i = b.open()
	b.must(i.Born(t.Context()))
	b.must(i.Enroll(t.Context()))
	b.must(i.Renew(t.Context()))
	b.now = b.now.AddDate(1, 0, 0) // recovery proves behind the switch, while the old key is still kept
	b.must(i.Enroll(t.Context()))
	b.phase(i, identity.Owned)
}

func TestExpiryRecoversWithTheBirthKey(t *testing.T) {
	b := newBench(t)
	i := b.enrolled()
	old := presented(i)
	b.now = b.now.AddDate(0, 4, 0)
	b.phase(i, identity.Expired)
	if !i.Due(b.now) || presented(i) == nil {
		t.Error("not due, or the certificate is withheld: offline work does not depend on it")
	}
	b.must(i.Maintain(t.Context()))
	e := b.auth.Seen[1]
	cert, err := e.TLS.GetClientCertificate(nil)
	b.must(err)
	if e.Label != identity.LabelRecover || e.Renewal || !identity.SamePublic(cert.Leaf.PublicKey, i.Birth().Public()) {
		t.Errorf("recovery asked with label %q, renewal %v", e.Label, e.Renewal)
	}
	b.phase(i, identity.Owned)
	if presented(i).Equal(old) || b.events[len(b.events)-1] != "identity.recovered" {
		t.Errorf("events %v", b.events)
	}
}

func TestRejectionNeverDestroys(t *testing.T) {
	b := newBench(t)
	i := b.enrolled()
	b.must(i.Rejected(errors.New("connection refused"))) // not a rejection
	b.must(i.Rejected(alert("handshake failure")))
	b.phase(i, identity.Owned)
	before := len(b.flash.Log)
	b.must(i.Rejected(alert("unknown certificate authority")))
	b.phase(i, identity.Refused)
	b.must(i.Rejected(alert("unknown certificate authority"))) // repetitions cost no flash
	if len(b.flash.Log) != before+1 {
		t.Errorf("%d writes for two rejections", len(b.flash.Log)-before)
	}
	b.must(i.Confirm()) // a connection made before
	b.slots(identity.SlotBirth, identity.SlotA)
	b.auth.Fail = func(identity.Enrolment) error {
		return &identity.Refusal{Code: "denied", What: "simpleenroll", Why: "HTTP 403"}
	}
	for range 3 {
		refused(t, i.Enroll(t.Context()), identity.ErrRefused, "denied")
	}
	b.slots(identity.SlotBirth, identity.SlotA, identity.SlotB)
	i = b.open()
	b.phase(i, identity.Refused)
	b.auth.Fail = nil
	b.must(i.Enroll(t.Context()))
	if b.auth.Seen[len(b.auth.Seen)-1].Label != identity.LabelRecover {
		t.Error("not asked for on the recovery label")
	}
	b.phase(i, identity.Owned)
	b.must(i.Confirm())
	b.slots(identity.SlotBirth, identity.SlotB)
	for _, step := range b.flash.Log[:before] {
		if step == "destroy idevid" {
			t.Error("the birth key was destroyed")
		}
	}
}

func TestRejectedNewcomerFallsBack(t *testing.T) {
	b := newBench(t)
	i := b.enrolled()
	old := presented(i)
	b.must(i.Renew(t.Context()))
	b.must(i.Rejected(alert("bad certificate")))
	if !presented(i).Equal(old) || !presented(b.open()).Equal(old) {
		t.Fatal("the certificate that worked is not used again")
	}
	b.phase(i, identity.Renewing)
	b.slots(identity.SlotBirth, identity.SlotA, identity.SlotB)
	b.now = b.now.Add(time.Hour)
	b.must(i.Renew(t.Context()))
	b.must(i.Confirm())
	b.phase(i, identity.Owned)
}

// TestRecoveryLoopSlowsDown: an authority that issues and a server that rejects what it issued must not make the device enrol
// in a circle.
func TestRecoveryLoopSlowsDown(t *testing.T) {
	b := newBench(t)
	i := b.enrolled()
	var waits []time.Duration
	for range 6 {
		b.must(i.Rejected(alert("bad certificate")))
		waits = append(waits, i.NextDue(b.now).Sub(b.now))
		b.now = i.NextDue(b.now)
		b.must(i.Maintain(t.Context()))
	}
	if waits[0] != 0 || !slices.IsSorted(waits) || waits[5] < 14*time.Minute {
		t.Errorf("waits %v", waits)
	}
}

func TestUnreadableOwnerKeyRecovers(t *testing.T) {
	for name, err := range map[string]error{"missing": nil, "damaged": identity.ErrDamagedKey, "other board": identity.ErrOtherBoard} {
		b := newBench(t)
		b.enrolled()
		if err == nil {
			b.flash.Put(identity.SlotA, nil)
		} else {
			b.flash.Break(identity.SlotA, err)
		}
		i := b.open()
		b.phase(i, identity.Refused)
		if i.Status().Rejected != "key-unreadable" || presented(i) != nil {
			t.Errorf("%s: %+v", name, i.Status())
		}
		writes := len(b.flash.Log)
		i = b.open()
		if len(b.flash.Log) != writes {
			t.Errorf("%s: each start writes", name)
		}
		b.must(i.Maintain(t.Context()))
		b.must(i.Confirm())
		b.phase(i, identity.Owned)
	}
}

func TestDamagedPendingKeyIsReplaced(t *testing.T) {
	b := newBench(t)
	i := b.enrolled()
	b.flash.Break(identity.SlotB, identity.ErrDamagedKey)
	b.must(i.Renew(t.Context()))
	if !slices.Contains(b.events, "identity.key-damaged") {
		t.Errorf("events %v", b.events)
	}
	b.must(i.Confirm())
	b.flash.Break(identity.SlotA, errors.New("input/output error"))
	if i.Renew(t.Context()) == nil || slices.Contains(b.flash.Log, "destroy idevid") {
		t.Error("an unknown error was taken for damage")
	}
}

func TestIsRejection(t *testing.T) {
	for err, want := range map[error]bool{
		alert("bad certificate"): true, alert("expired certificate"): true, alert("certificate required"): true,
		alert("unknown certificate authority"): true, alert("internal error"): false, alert("handshake failure"): false,
		errors.New("remote error: tls: bad certificate"): false, context.Canceled: false,
		&net.OpError{Op: "read", Err: errors.New("tls: bad certificate")}: false, &net.OpError{Op: "remote error"}: false,
	} {
		if identity.IsRejection(err) != want {
			t.Errorf("%v: want %v", err, want)
		}
	}
}
