// SPDX-License-Identifier: Apache-2.0

// Package identitytest has what tests of an identity need from the world: flash that remembers, an authority that signs, and
// a way to cut power between two steps. It holds bytes and failures, never policy.
package identitytest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"sync"
	"time"

	"github.com/backstay/backstay/identity"
)

// Fuse decides about one durable step: whether it happens, and whether its caller hears of it. nil lets everything happen.
type Fuse func(op string) (apply bool, err error)

// ErrCut is what a step returns when the power goes.
var ErrCut = errors.New("power cut")

// CutAt returns a fuse that burns at step n (from 0) and stays burnt, and a counter of the steps seen. applied: the step at
// which it burns still reaches the flash.
func CutAt(n int, applied bool) (Fuse, *int) {
	steps := new(int)
	return func(string) (bool, error) {
		at := *steps
		*steps++
		switch {
		case at < n:
			return true, nil
		case at == n:
			return applied, ErrCut
		}
		return false, ErrCut
	}, steps
}

// Flash is what survives a reboot: keys and state. It implements identity.Store and identity.State.
type Flash struct {
	Fuse  Fuse
	Class identity.Class // of keys made; "" is file-bound
	Log   []string       // the durable steps that happened

	mu    sync.Mutex
	keys  map[identity.Slot]*Key
	state []byte
	open  map[identity.Slot]error
}

// Key is a key in memory. Swap makes it sign as another one, the way a reused handle does.
type Key struct {
	*ecdsa.PrivateKey
	class identity.Class
	Image string
}

// Class implements identity.Key.
func (k *Key) Class() identity.Class { return k.class }

// ImagePath is Image.
func (k *Key) ImagePath() string { return k.Image }

// NewKey makes a key.
func NewKey(class identity.Class) *Key {
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return &Key{PrivateKey: priv, class: class}
}

func (f *Flash) step(op string, apply func()) error {
	ok, err := true, error(nil)
	if f.Fuse != nil {
		ok, err = f.Fuse(op)
	}
	if ok {
		apply()
		f.Log = append(f.Log, op)
	}
	return err
}

// Put places a key, or with nil takes it away, without counting as a step.
func (f *Flash) Put(slot identity.Slot, k *Key) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.keys == nil {
		f.keys = map[identity.Slot]*Key{}
	}
	if delete(f.keys, slot); k != nil {
		f.keys[slot] = k
	}
}

// Break makes Open of a slot fail; nil mends it.
func (f *Flash) Break(slot identity.Slot, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.open == nil {
		f.open = map[identity.Slot]error{}
	}
	f.open[slot] = err
}

// Slots lists the slots that hold a key.
func (f *Flash) Slots() []identity.Slot {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []identity.Slot
	for _, s := range []identity.Slot{identity.SlotBirth, identity.SlotA, identity.SlotB} {
		if f.keys[s] != nil {
			out = append(out, s)
		}
	}
	return out
}

// Generate implements identity.Store.
func (f *Flash) Generate(slot identity.Slot) (identity.Key, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.keys[slot] != nil {
		return nil, identity.ErrKeyExists
	}
	if f.keys == nil {
		f.keys = map[identity.Slot]*Key{}
	}
	class := f.Class
	if class == "" {
		class = identity.ClassFileBound
	}
	k := NewKey(class)
	if err := f.step("generate "+string(slot), func() { f.keys[slot] = k }); err != nil {
		return nil, err
	}
	return k, nil
}

// Open implements identity.Store.
func (f *Flash) Open(slot identity.Slot) (identity.Key, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.open[slot]; err != nil {
		return nil, err
	}
	if k := f.keys[slot]; k != nil {
		return k, nil
	}
	return nil, identity.ErrNoKey
}

// Destroy implements identity.Store.
func (f *Flash) Destroy(slot identity.Slot) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.step("destroy "+string(slot), func() { delete(f.keys, slot); delete(f.open, slot) })
}

// LoadIdentity implements identity.State.
func (f *Flash) LoadIdentity() ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return bytes.Clone(f.state), nil
}

// SaveIdentity implements identity.State.
func (f *Flash) SaveIdentity(b []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.step("save", func() { f.state = bytes.Clone(b) })
}

// SetState replaces the state without counting as a step.
func (f *Flash) SetState(b []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.state = b
}

// Authority signs whatever it is asked to. It implements identity.Enroller.
type Authority struct {
	Root, Issuer *x509.Certificate
	Now          func() time.Time
	Life         time.Duration           // of a certificate; 0 is 90 days
	Edit         func(*x509.Certificate) // changes a certificate before it is signed
	Reply        func([]*x509.Certificate) []*x509.Certificate
	Fail         func(identity.Enrolment) error // refuses
	After        func() error                   // runs when a certificate was issued; an error loses the reply
	Seen         []identity.Enrolment           // every request
	Issued       []*x509.Certificate

	key, rootKey *ecdsa.PrivateKey
}

// NewAuthority makes a root and an issuing certificate.
func NewAuthority(now func() time.Time) *Authority {
	a := &Authority{Now: now, key: NewKey("").PrivateKey, rootKey: NewKey("").PrivateKey}
	t := &x509.Certificate{Subject: pkix.Name{CommonName: "test root"}, NotBefore: now().Add(-time.Hour), NotAfter: now().AddDate(30, 0, 0),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true}
	a.Root = a.sign(t, t, a.rootKey.Public(), a.rootKey)
	t = &x509.Certificate{Subject: pkix.Name{CommonName: "test issuing"}, NotBefore: t.NotBefore, NotAfter: t.NotAfter,
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true}
	a.Issuer = a.sign(t, a.Root, a.key.Public(), a.rootKey)
	return a
}

func (a *Authority) sign(t, parent *x509.Certificate, pub any, key *ecdsa.PrivateKey) *x509.Certificate {
	t.SerialNumber, _ = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100))
	der, err := x509.CreateCertificate(rand.Reader, t, parent, pub, key)
	if err != nil {
		panic(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return c
}

// Pool holds the root.
func (a *Authority) Pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.Root)
	return p
}

// Certify signs a certificate for a public key with the issuing key after edit.
func (a *Authority) Certify(csr *x509.CertificateRequest, pub any, edit func(*x509.Certificate)) *x509.Certificate {
	life := a.Life
	if life == 0 {
		life = 90 * 24 * time.Hour
	}
	t := &x509.Certificate{RawSubject: csr.RawSubject, Subject: csr.Subject, URIs: csr.URIs,
		NotBefore: a.Now().Truncate(time.Second), NotAfter: a.Now().Add(life), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true}
	if edit != nil {
		edit(t)
	}
	return a.sign(t, a.Issuer, pub, a.key)
}

// SelfSigned is Certify by the root itself.
func (a *Authority) SelfSigned(t *x509.Certificate, pub any) *x509.Certificate {
	return a.sign(t, a.Root, pub, a.rootKey)
}

// Enroll implements identity.Enroller.
func (a *Authority) Enroll(ctx context.Context, e identity.Enrolment) ([]*x509.Certificate, error) {
	a.Seen = append(a.Seen, e)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if a.Fail != nil {
		if err := a.Fail(e); err != nil {
			return nil, err
		}
	}
	csr, err := x509.ParseCertificateRequest(e.CSR)
	if err != nil {
		return nil, err
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("check request: %w", err)
	}
	reply := []*x509.Certificate{a.Certify(csr, csr.PublicKey, a.Edit), a.Issuer}
	a.Issued = append(a.Issued, reply[0])
	if a.After != nil {
		if err := a.After(); err != nil {
			return nil, err
		}
	}
	if a.Reply != nil {
		reply = a.Reply(reply)
	}
	return reply, nil
}
