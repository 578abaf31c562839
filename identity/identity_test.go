// SPDX-License-Identifier: Apache-2.0

package identity_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base32"
	"encoding/base64"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/backstay/backstay/identity"
	"github.com/backstay/backstay/identity/identitytest"
)

// bench is a device on a table: its flash, an authority, and what it reported.
type bench struct {
	*testing.T
	flash  *identitytest.Flash
	auth   *identitytest.Authority
	now    time.Time
	late   bool
	prove  func(context.Context, *tls.Config) error
	events []string
	denied []string
	after  time.Duration
}

func newBench(t *testing.T) *bench {
	b := &bench{T: t, flash: &identitytest.Flash{}, now: time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)}
	b.auth = identitytest.NewAuthority(func() time.Time { return b.now })
	return b
}

func (b *bench) config() identity.Config {
	return identity.Config{
		Keys: b.flash, State: b.flash, Enroller: b.auth, Anchors: b.auth.Pool(), Now: func() time.Time { return b.now },
		ClockLate: func() bool { return b.late }, Prove: b.prove, Serial: "SN-1", Denied: b.denied, RenewAfter: b.after,
		Emit: func(code string, _ ...slog.Attr) { b.events = append(b.events, code) },
	}
}

func (b *bench) open() *identity.Identity {
	b.Helper()
	i, err := identity.Open(b.config())
	if err != nil {
		b.Fatal(err)
	}
	return i
}

// enrolled is a device with its first certificate, confirmed.
func (b *bench) enrolled() *identity.Identity {
	b.Helper()
	i := b.open()
	b.must(i.Born(b.Context()))
	b.must(i.Enroll(b.Context()))
	b.must(i.Confirm())
	return i
}

func (b *bench) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

func (b *bench) phase(i *identity.Identity, want identity.Phase) {
	b.Helper()
	if s := i.Status(); s.Phase != want {
		b.Fatalf("phase %s, want %s (%+v)", s.Phase, want, s)
	}
}

func (b *bench) slots(want ...identity.Slot) {
	b.Helper()
	if got := b.flash.Slots(); !slices.Equal(got, want) {
		b.Fatalf("keys in %v, want %v", got, want)
	}
}

// presented is the certificate a server would see.
func presented(i *identity.Identity) *x509.Certificate {
	c, err := i.TLS().GetClientCertificate(&tls.CertificateRequestInfo{})
	if err != nil || c.Leaf == nil {
		return nil
	}
	return c.Leaf
}

// refused checks class and code of an error.
func refused(t *testing.T, err, class error, code string) {
	t.Helper()
	r, ok := errors.AsType[*identity.Refusal](err)
	if !ok || r.Code != code || !errors.Is(err, class) {
		t.Fatalf("got %v (%#v), want %q of class %q", err, r, code, class)
	}
}

func TestDeviceID(t *testing.T) {
	k := identitytest.NewKey(identity.ClassTPM)
	spki, err := x509.MarshalPKIXPublicKey(k.Public())
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(spki)
	want := strings.ToLower(base32.StdEncoding.EncodeToString(sum[:]))[:26]
	got, err := identity.DeviceID(k.Public())
	if err != nil || got != want || !identity.ValidID(got) {
		t.Fatalf("%q %v, want %q", got, err, want)
	}
	other, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if _, err := identity.DeviceID(other.Public()); err == nil {
		t.Error("a P-384 key has a device id")
	}
	for _, bad := range []string{"", got[:25], got + "a", strings.ToUpper(got), got[:25] + "1", got[:25] + "/"} {
		if identity.ValidID(bad) {
			t.Errorf("%q is a device id", bad)
		}
	}
}

func TestLifeOfADevice(t *testing.T) {
	b := newBench(t)
	i := b.open()
	b.phase(i, identity.Blank)
	if i.ID() != "" || i.Birth() != nil || !i.NextDue(b.now).IsZero() {
		t.Error("a blank device has an identity")
	}
	refused(t, i.Enroll(t.Context()), identity.ErrSetup, "not-born")
	refused(t, i.Renew(t.Context()), identity.ErrSetup, "not-enrolled")

	b.must(i.Born(t.Context()))
	b.phase(i, identity.BornOnly)
	b.must(i.Born(t.Context())) // twice is once
	id := i.ID()
	if !i.Due(b.now) || presented(i) != nil {
		t.Error("a born device should enrol at once and has nothing to show")
	}

	b.must(i.Maintain(t.Context()))
	b.phase(i, identity.Owned)
	first := presented(i)
	if first.Subject.CommonName != id || first.Subject.OrganizationalUnit[0] != "file-bound" {
		t.Errorf("subject %s", first.Subject)
	}
	if e := b.auth.Seen[0]; e.Label != "" || e.Renewal {
		t.Errorf("first enrolment was %+v", e)
	}
	b.must(i.Enroll(t.Context())) // nothing to do
	b.slots(identity.SlotBirth, identity.SlotA)

	b.must(i.Renew(t.Context()))
	second := presented(i)
	if second.Equal(first) || !b.auth.Seen[1].Renewal || i.ID() != id {
		t.Error("renewal did not replace the certificate, or replaced the device")
	}
	b.slots(identity.SlotBirth, identity.SlotA, identity.SlotB) // kept until it has worked
	if !i.Status().Unconfirmed {
		t.Error("not reported as unconfirmed")
	}
	b.must(i.Confirm())
	b.slots(identity.SlotBirth, identity.SlotB)
	b.must(i.Confirm())

	if got := presented(b.open()); !got.Equal(second) {
		t.Error("after a restart another certificate is used")
	}
	if want := []string{"identity.born", "identity.enrolled", "identity.renewed"}; !slices.Equal(b.events, want) {
		t.Errorf("events %v, want %v", b.events, want)
	}
}

func TestBirthCertificate(t *testing.T) {
	b := newBench(t)
	i := b.open()
	b.must(i.Born(t.Context()))
	c, err := x509.ParseCertificate(i.BirthCertificate())
	b.must(err)
	if c.Subject.CommonName != i.ID() || c.Subject.SerialNumber != "SN-1" || c.IsCA ||
		!c.NotAfter.Equal(time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)) || len(c.URIs) != 1 || c.URIs[0].String() != "urn:backstay:device:"+i.ID() {
		t.Errorf("birth certificate %+v", c)
	}
	if err := c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature); err != nil {
		t.Error(err)
	}
	// It is what authenticates the first enrolment.
	b.must(i.Enroll(t.Context()))
	cert, err := b.auth.Seen[0].TLS.GetClientCertificate(&tls.CertificateRequestInfo{})
	if err != nil || !cert.Leaf.Equal(c) {
		t.Errorf("first enrolment shows %v %v", cert, err)
	}
}

func TestBirthWaitsForEntropy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		began, ready := time.Now(), time.Now().Add(90*time.Second)
		b.flash.Fuse = func(op string) (bool, error) {
			if strings.HasPrefix(op, "generate") && time.Now().Before(ready) {
				return false, identity.ErrEntropy
			}
			return true, nil
		}
		i := b.open()
		short, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		refused(t, i.Born(short), identity.ErrRetry, "no-entropy")
		b.must(i.Born(t.Context()))
		if took := time.Since(began); took < 90*time.Second || took > 92*time.Second {
			t.Errorf("born after %s", took)
		}
		if want := []string{"identity.weak-entropy", "identity.weak-entropy", "identity.born"}; !slices.Equal(b.events, want) {
			t.Errorf("events %v", b.events)
		}
	})
}

func TestBirthRefusals(t *testing.T) {
	plain := identitytest.NewKey(identity.ClassFilePlain)
	image := identitytest.NewKey(identity.ClassFileBound)
	image.Image = "/usr/share is read-only"
	leaked := identitytest.NewKey(identity.ClassTPM)
	leakedID, _ := identity.DeviceID(leaked.Public())
	for _, c := range []struct {
		name, code string
		class      error
		set        func(b *bench)
	}{
		{"plain key without a record", "key-from-image", identity.ErrRefused, func(b *bench) { b.flash.Put(identity.SlotBirth, plain) }},
		{"key on an image path", "key-from-image", identity.ErrRefused, func(b *bench) { b.flash.Put(identity.SlotBirth, image) }},
		{"denied key", "denied-key", identity.ErrRefused, func(b *bench) { b.flash.Put(identity.SlotBirth, leaked); b.denied = []string{leakedID} }},
		{"denied key of a device that is in use", "denied-key", identity.ErrRefused, func(b *bench) { b.denied = []string{b.enrolled().ID()} }},
		{"key missing", "birth-key-missing", identity.ErrSetup, func(b *bench) { b.enrolled(); b.flash.Put(identity.SlotBirth, nil) }},
		{"another key", "birth-key-changed", identity.ErrSetup, func(b *bench) { b.enrolled(); b.flash.Put(identity.SlotBirth, leaked) }},
		{"state of another device", "birth-key-changed", identity.ErrSetup, func(b *bench) {
			id := b.enrolled().ID()
			state, _ := b.flash.LoadIdentity()
			b.flash.SetState([]byte(strings.Replace(string(state), id, leakedID, 1)))
		}},
		{"birth certificate of another device", "birth-key-changed", identity.ErrSetup, func(b *bench) {
			other := newBench(b.T)
			theirs, ours := other.enrolled().BirthCertificate(), b.enrolled().BirthCertificate()
			state, _ := b.flash.LoadIdentity()
			b.flash.SetState([]byte(strings.Replace(string(state), base64.StdEncoding.EncodeToString(ours), base64.StdEncoding.EncodeToString(theirs), 1)))
		}},
		{"another board", "board-changed", identity.ErrSetup, func(b *bench) { b.enrolled(); b.flash.Break(identity.SlotBirth, identity.ErrOtherBoard) }},
		{"damaged key", "birth-key-damaged", identity.ErrSetup, func(b *bench) { b.enrolled(); b.flash.Break(identity.SlotBirth, identity.ErrDamagedKey) }},
		{"newer state", "state-newer", identity.ErrSetup, func(b *bench) { b.flash.SetState([]byte(`{"backstay":2}`)) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			c.set(b)
			before := b.flash.Slots()
			_, err := identity.Open(b.config())
			refused(t, err, c.class, c.code)
			b.slots(before...) // nothing was made, nothing destroyed
		})
	}
}

func TestUnsupportedBirthKey(t *testing.T) {
	b := newBench(t)
	k := identitytest.NewKey(identity.ClassTPM)
	k.PrivateKey, _ = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	b.flash.Put(identity.SlotBirth, k)
	_, err := identity.Open(b.config())
	refused(t, err, identity.ErrRefused, "unsupported-key")
}

func TestLostState(t *testing.T) {
	for _, state := range [][]byte{nil, []byte("{"), []byte(`{"backstay":1,"current":"ldevid-a"}`), []byte(`{"backstay":1,"current":"x"}`),
		[]byte(`{}`), []byte(`{"backstay":1,"failures":-1}`), make([]byte, 200<<10)} {
		b := newBench(t)
		id := b.enrolled().ID()
		b.flash.SetState(state)
		b.events = nil
		i := b.open()
		if i.ID() != id || !slices.Contains(b.events, "identity.adopted") {
			t.Fatalf("state %.20q: device %q became %q, events %v", state, id, i.ID(), b.events)
		}
		b.must(i.Maintain(t.Context()))
		b.phase(i, identity.Owned)
	}
}

func TestSignsOnlyWhatVerifies(t *testing.T) {
	inner := identitytest.NewKey(identity.ClassTPM)
	k, err := identity.Checked(inner)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("x"))
	if sig, err := k.Sign(rand.Reader, digest[:], cryptoSHA256); err != nil || !ecdsa.VerifyASN1(k.Public().(*ecdsa.PublicKey), digest[:], sig) {
		t.Fatal(err)
	}
	_, err = k.Sign(rand.Reader, digest[:20], cryptoSHA256)
	refused(t, err, identity.ErrRefused, "unsupported-digest")
	_, err = k.Sign(rand.Reader, make([]byte, 48), cryptoSHA384)
	refused(t, err, identity.ErrRefused, "unsupported-digest")
	_, err = k.Sign(rand.Reader, digest[:], cryptoSHA384)
	refused(t, err, identity.ErrRefused, "unsupported-digest")
	_, err = k.Sign(rand.Reader, digest[:], nil)
	refused(t, err, identity.ErrRefused, "unsupported-digest")
	inner.PrivateKey = identitytest.NewKey(identity.ClassTPM).PrivateKey // the handle was given to another key
	_, err = k.Sign(rand.Reader, digest[:], cryptoSHA256)
	refused(t, err, identity.ErrRefused, "wrong-signature")
}

func TestOpenNeedsItsParts(t *testing.T) {
	for name, spoil := range map[string]func(*identity.Config){
		"keys": func(c *identity.Config) { c.Keys = nil }, "state": func(c *identity.Config) { c.State = nil },
		"anchors": func(c *identity.Config) { c.Anchors = nil }, "now": func(c *identity.Config) { c.Now = nil },
		"renew after": func(c *identity.Config) { c.RenewAfter = -1 },
	} {
		c := newBench(t).config()
		spoil(&c)
		if _, err := identity.Open(c); err == nil {
			t.Errorf("opened without %s", name)
		}
	}
}

func TestWithoutAuthority(t *testing.T) {
	b := newBench(t)
	c := b.config()
	c.Enroller = nil
	i, err := identity.Open(c)
	b.must(err)
	b.must(i.Born(t.Context()))
	refused(t, i.Enroll(t.Context()), identity.ErrSetup, "no-authority")
	if i.Due(b.now) {
		t.Error("a device that does not enrol has something due")
	}
}

func TestTLSConfig(t *testing.T) {
	b := newBench(t)
	i := b.enrolled()
	c := i.TLS()
	if c.MinVersion != tls.VersionTLS12 || c.RootCAs == nil || c.InsecureSkipVerify || !c.Time().Equal(b.now) {
		t.Errorf("%+v", c)
	}
	before := presented(i)
	cert, err := c.GetClientCertificate(nil)
	b.must(err)
	if len(cert.Certificate) != 2 || !slices.Equal(cert.SupportedSignatureAlgorithms, []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256}) {
		t.Errorf("chain of %d, algorithms %v", len(cert.Certificate), cert.SupportedSignatureAlgorithms)
	}
	b.must(i.Renew(t.Context()))
	cert, err = c.GetClientCertificate(nil) // the same configuration follows the renewal
	if err != nil || cert.Leaf.Equal(before) {
		t.Error("an old configuration shows the old certificate")
	}
}
