// SPDX-License-Identifier: Apache-2.0

// Package identity knows who this device is: it owns the birth key, the certificate the owner's authority issues for this
// device, and their life cycle (blank, born, owned, renewing, expired, rejected).
//
// It does not store keys (package keys), speak to an authority (package est) or decide who may enrol (package ca). What it
// remembers goes through State in one value; whoever can write that value or the key store can make the device forget its
// certificate or stop it from enrolling, but cannot make it trust another authority: anchors come from the configuration, and
// a key that does not belong to the recorded birth certificate is refused.
//
// An attacker who controls the enrolment server's replies gets them compared field by field (CheckIssued); one who only cuts
// power or connections costs time: two key slots alternate, every step is durable before the next, and no key is destroyed
// because a remote side said no. The birth key can always enrol again.
package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Emit reports an event: a stable code and what belongs to it. It must not call back into Identity.
type Emit func(code string, attrs ...slog.Attr)

// State is where Identity keeps what it must not forget: one value of at most 128 KiB.
type State interface {
	// LoadIdentity returns the value last saved, nil when there is none.
	LoadIdentity() ([]byte, error)
	// SaveIdentity replaces the value; it is durable when nil is returned. After an error the old or the new value is there.
	SaveIdentity([]byte) error
}

// Enrolment is one request to an authority.
type Enrolment struct {
	CSR     []byte      // DER, PKCS#10
	Label   string      // "" or LabelRecover
	Renewal bool        // TLS authenticates with the certificate that is to be replaced, not with the birth key
	TLS     *tls.Config // pinned roots, our certificate, trusted time; not to be modified
}

// LabelRecover is the EST label for a device whose certificate expired or was rejected; it authenticates with its birth key.
const LabelRecover = "recover"

// Enroller carries requests to an authority. The reply is not trusted: Identity checks it (CheckIssued).
type Enroller interface {
	// Enroll returns the certificate for the request's key first, then any certificates that may lead to a root. An error
	// that is ErrRetry may carry how long to wait (Waiter). After an error the certificate may have been issued.
	Enroll(context.Context, Enrolment) ([]*x509.Certificate, error)
}

// Waiter is implemented by errors of an authority that says when to ask again.
type Waiter interface{ RetryAfter() time.Duration }

// Config is what Identity needs. Keys, State, Anchors and Now are required.
type Config struct {
	Keys     Store
	State    State
	Enroller Enroller       // nil: this device does not enrol
	Anchors  *x509.CertPool // the only roots, for servers and for our own certificate; from the image or from signed metadata
	Now      func() time.Time
	// ClockLate says that Now is only a lower bound of the time. nil: never.
	ClockLate func() bool
	Emit      Emit // nil: no events

	// Prove uses a new certificate for real (repository, broker) before it replaces a working one. nil: the old key is kept
	// until Confirm.
	Prove func(context.Context, *tls.Config) error

	Serial     string        // serial number on the label, for the birth certificate; may be ""
	RenewAfter time.Duration // age of a certificate at which it is renewed; 0: two thirds of its life, give or take a tenth
	Denied     []string      // device ids of keys known to be public: baked into an image, leaked
}

// Identity is the identity of this device. Its methods may be called from several goroutines; Born, Enroll, Renew and Maintain
// run one at a time and hold no lock that Status or TLS need while they wait for the network.
type Identity struct {
	cfg Config

	op sync.Mutex // one state-changing operation at a time

	mu    sync.Mutex // guards rec and birth
	rec   record
	birth Key

	current atomic.Pointer[tls.Certificate] // what TLS presents; nil before enrolment
}

// Open reads the state and the keys it names, finishing what a power cut interrupted where that needs no network. It makes no
// key: a blank device stays blank until Born.
func Open(cfg Config) (*Identity, error) {
	switch {
	case cfg.Keys == nil || cfg.State == nil || cfg.Anchors == nil || cfg.Now == nil:
		return nil, errors.New("open identity: Keys, State, Anchors and Now are required")
	case cfg.RenewAfter < 0:
		return nil, errors.New("open identity: RenewAfter is negative")
	}
	if cfg.Emit == nil {
		cfg.Emit = func(string, ...slog.Attr) {}
	}
	if cfg.ClockLate == nil {
		cfg.ClockLate = func() bool { return false }
	}
	i := &Identity{cfg: cfg}
	if err := i.load(); err != nil {
		return nil, fmt.Errorf("open identity: %w", err)
	}
	return i, nil
}

func (i *Identity) load() error {
	b, err := i.cfg.State.LoadIdentity()
	if err != nil {
		return fmt.Errorf("load state: %w", err)
	}
	rec, err := decode(b)
	if errors.Is(err, errDamagedState) {
		// The database lost or garbled the value. The birth key, if it can be shown to be ours, carries on.
		i.cfg.Emit("identity.state-lost", slog.String("why", err.Error()))
		rec, err = record{Version: recordVersion}, nil
	}
	if err != nil {
		return err
	}
	i.rec = rec
	if err := i.openBirth(); err != nil {
		return err
	}
	if i.rec.Birth == nil {
		return nil
	}
	return i.openCurrent()
}

// openCurrent installs the certificate the state points to. A key that cannot be opened does not stop the device: it is noted
// as a rejection, and the birth key enrols again.
func (i *Identity) openCurrent() error {
	rec := i.snapshot()
	if rec.Current == "" {
		return nil
	}
	cert, err := i.certificate(rec, rec.Current)
	if err != nil && rec.Rejected != "" {
		return nil // noted before
	}
	if err != nil {
		return i.noteRejected(rec, "key-unreadable", err)
	}
	i.current.Store(cert)
	return nil
}

// certificate joins the key of a slot with its chain.
func (i *Identity) certificate(rec record, slot Slot) (*tls.Certificate, error) {
	k, err := i.open(slot)
	if err != nil {
		return nil, fmt.Errorf("open key %s: %w", slot, err)
	}
	chain := rec.Certs[slot]
	if len(chain) == 0 {
		return nil, fmt.Errorf("open key %s: it has no certificate", slot)
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return nil, fmt.Errorf("read certificate %s: %w", slot, err)
	}
	if !SamePublic(leaf.PublicKey, k.Public()) {
		return nil, fmt.Errorf("open key %s: its certificate is for another key", slot)
	}
	return tlsCertificate(k, leaf, chain), nil
}

func tlsCertificate(k Key, leaf *x509.Certificate, chain [][]byte) *tls.Certificate {
	return &tls.Certificate{
		Certificate: chain, PrivateKey: k, Leaf: leaf,
		// Under TLS 1.2 the peer could otherwise choose SHA-384, which the key refuses.
		SupportedSignatureAlgorithms: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256},
	}
}

// open returns the key of a slot behind Checked.
func (i *Identity) open(slot Slot) (Key, error) {
	k, err := i.cfg.Keys.Open(slot)
	if err != nil {
		return nil, err
	}
	return Checked(k)
}

// ID is the device id, "" on a blank device.
func (i *Identity) ID() string {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.rec.Birth == nil {
		return ""
	}
	return i.rec.Birth.DeviceID
}

// Birth is the birth key, which signs the log's checkpoints; nil on a blank device.
func (i *Identity) Birth() Key {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.birth
}

// BirthCertificate is the self-signed certificate of the birth key, DER; nil on a blank device.
func (i *Identity) BirthCertificate() []byte {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.rec.Birth == nil {
		return nil
	}
	return slices.Clone(i.rec.Birth.Certificate)
}

// TLS is the configuration for every outgoing connection: pinned roots only, trusted time, and whatever certificate is the
// newest when the server asks. It follows renewals, so it may be kept for the life of the process. Do not modify it; Clone it.
func (i *Identity) TLS() *tls.Config {
	return i.tlsConfig(func() *tls.Certificate { return i.current.Load() })
}

// tlsConfig presents what cert returns. GetClientCertificate and not Certificates: crypto/tls would send no certificate at all
// when the server's list of authorities names only the root and the chain given ends below it.
func (i *Identity) tlsConfig(cert func() *tls.Certificate) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		RootCAs:    i.cfg.Anchors,
		Time:       i.cfg.Now,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if c := cert(); c != nil {
				return c, nil
			}
			return &tls.Certificate{}, nil // not enrolled: the server decides
		},
	}
}

// snapshot returns a copy of the record.
func (i *Identity) snapshot() record {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.rec.clone()
}

// save makes rec durable, then visible.
func (i *Identity) save(rec record) error {
	b, err := rec.encode()
	if err != nil {
		return err
	}
	if err := i.cfg.State.SaveIdentity(b); err != nil {
		return fmt.Errorf("save identity state: %w", err)
	}
	i.mu.Lock()
	i.rec = rec.clone()
	i.mu.Unlock()
	return nil
}
