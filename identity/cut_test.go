// SPDX-License-Identifier: Apache-2.0

package identity_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/backstay/backstay/identity"
	"github.com/backstay/backstay/identity/identitytest"
)

// story is something a device does that must survive a power cut at every durable step.
type story struct {
	name  string
	prove bool
	setup func(b *bench)                                        // before the power may go
	do    func(ctx context.Context, i *identity.Identity) error // may be cut
}

func stories() []story {
	life := func(ctx context.Context, i *identity.Identity) error {
		return errors.Join(i.Born(ctx), i.Enroll(ctx), i.Confirm())
	}
	renew := func(ctx context.Context, i *identity.Identity) error { return errors.Join(i.Renew(ctx), i.Confirm()) }
	recover := func(ctx context.Context, i *identity.Identity) error { return errors.Join(i.Enroll(ctx), i.Confirm()) }
	enrolled := func(b *bench) { b.enrolled() }
	return []story{
		{"first enrolment", false, func(*bench) {}, life},
		{"first enrolment with proof", true, func(*bench) {}, life},
		{"renewal", false, enrolled, renew},
		{"renewal with proof", true, enrolled, renew},
		{"two renewals", true, enrolled, func(ctx context.Context, i *identity.Identity) error {
			return errors.Join(renew(ctx, i), renew(ctx, i))
		}},
		{"renewal of a certificate never confirmed", false, func(b *bench) { b.must(b.enrolled().Renew(b.Context())) }, renew},
		{"recovery after expiry", false, func(b *bench) { b.enrolled(); b.now = b.now.AddDate(1, 0, 0) }, recover},
		{"recovery after rejection", true, func(b *bench) { b.must(b.enrolled().Rejected(alert("bad certificate"))) }, recover},
	}
}

// TestCutEnrolAndRenew cuts power at every durable step of every story, once with the step lost and once with the step done but
// not acknowledged. After the restart the device must be who it was, have a key that can enrol or a certificate that works,
// and reach the owned state with exactly one owner's key.
func TestCutEnrolAndRenew(t *testing.T) {
	cuts, step, atLeast := 0, 1, 60
	if testing.Short() { // under emulation
		step, atLeast = 4, 15
	}
	for _, s := range stories() {
		for _, applied := range []bool{false, true} {
			for n := 0; ; n += step {
				done := false
				t.Run(fmt.Sprintf("%s/%d/%v", s.name, n, applied), func(t *testing.T) { done = cutAt(t, s, n, applied) })
				if done || t.Failed() {
					break
				}
				cuts++
			}
		}
	}
	t.Logf("%d cuts", cuts)
	if cuts < atLeast {
		t.Errorf("only %d cuts: the steps are not counted", cuts)
	}
}

// cutAt reports whether the story ended before step n.
func cutAt(t *testing.T, s story, n int, applied bool) bool {
	b := newBench(t)
	if s.prove {
		b.prove = func(_ context.Context, c *tls.Config) error {
			if cert, err := c.GetClientCertificate(nil); err != nil || cert.Leaf == nil {
				return errors.New("nothing to prove")
			}
			return nil
		}
	}
	s.setup(b)
	before := b.open()
	id, had := before.ID(), presented(before)
	fuse, steps := identitytest.CutAt(n, applied)
	b.flash.Fuse = fuse
	err := s.do(t.Context(), before)
	if *steps <= n {
		b.must(err)
		return true
	}
	if err == nil {
		t.Fatal("the cut went unnoticed")
	}

	b.flash.Fuse = nil
	i := b.open()
	if id != "" && i.ID() != id {
		t.Fatalf("device %s became %q", id, i.ID())
	}
	if had != nil && presented(i) == nil {
		t.Fatal("there was a certificate before the cut, there is none after it")
	}
	if c := presented(i); c != nil {
		// What is presented must have its key: a handshake signs with it.
		cert, err := i.TLS().GetClientCertificate(nil)
		if err != nil || !identity.SamePublic(cert.PrivateKey.(identity.Key).Public(), c.PublicKey) {
			t.Fatal("certificate and key do not belong together")
		}
	}
	b.must(i.Born(t.Context()))
	b.now = b.now.Add(time.Hour)
	b.must(i.Enroll(t.Context()))
	b.must(i.Confirm())
	b.phaseOneOf(i, identity.Owned, identity.Renewing)
	b.must(i.Renew(t.Context()))
	b.must(i.Confirm())
	b.phase(i, identity.Owned)
	if got := b.flash.Slots(); len(got) != 2 || got[0] != identity.SlotBirth {
		t.Fatalf("keys left over: %v", got)
	}
	b.slots(identity.SlotBirth, i.Status().Certificate.Slot)
	return false
}

func (b *bench) phaseOneOf(i *identity.Identity, want ...identity.Phase) {
	b.Helper()
	got := i.Status().Phase
	for _, p := range want {
		if p == got {
			return
		}
	}
	b.Fatalf("phase %s, want one of %v", got, want)
}

// TestStepsAreInOrder holds the order that the power-cut test relies on: pending before key, pointer before destruction.
func TestStepsAreInOrder(t *testing.T) {
	b := newBench(t)
	i := b.enrolled()
	b.flash.Log = nil
	b.must(i.Renew(t.Context()))
	b.must(i.Confirm())
	want := []string{"save", "generate ldevid-b", "save", "save", "destroy ldevid-a", "save"}
	if fmt.Sprint(b.flash.Log) != fmt.Sprint(want) {
		t.Errorf("steps %v, want %v", b.flash.Log, want)
	}
}

// TestLostReply: the authority issued, the reply never came. The same key is asked for again.
func TestLostReply(t *testing.T) {
	b := newBench(t)
	i := b.open()
	b.must(i.Born(t.Context()))
	lost := errors.New("connection reset")
	b.auth.After = func() error { return lost }
	if err := i.Enroll(t.Context()); !errors.Is(err, lost) {
		t.Fatal(err)
	}
	b.auth.After = nil
	first := b.auth.Seen[0]
	i = b.open()
	b.must(i.Enroll(t.Context()))
	if !samePublicOf(t, first.CSR, b.auth.Seen[1].CSR) {
		t.Error("a new key was made although the first one was good")
	}
}
