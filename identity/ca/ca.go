// SPDX-License-Identifier: Apache-2.0

// Package ca is the owner's enrolment authority: a root key that can be kept offline, an issuing key, the list of devices that
// may enrol, and the EST server that gives them certificates.
//
// Everything lies in one directory (mode 0700) that its owner trusts completely: whoever can write to it decides which devices
// belong to the fleet. Programs that run at the same time (a server, the command line) may share it; changes are made under a
// lock and become durable before they have an effect, and a running server sees them at the next request.
//
// A device names itself: its id is the hash of its birth key, so the list needs nothing secret and the authority no trust in
// the network. What a request says beyond that is checked or left out of the certificate. An attacker who reaches the server
// without an allowed birth key or a living certificate gets a refusal.
package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/backstay/backstay/identity"
)

// Files of an authority's directory.
const (
	fileSettings   = "ca.json"     // written last: its presence says that the directory is complete
	fileRootKey    = "root.key"    // may be moved to a safe place after creation; nothing here needs it in daily work
	fileRootCert   = "root.crt"    // what devices pin
	fileIssuerKey  = "issuing.key" // signs device and server certificates
	fileIssuerCert = "issuing.crt"
	fileDevices    = "devices.jsonl" // the birth list, one device a line
	fileIssued     = "issued.jsonl"  // every device certificate ever issued, one a line, only appended to
	fileLock       = "lock"
)

// Lives of certificates.
const (
	DefaultLife = 90 * 24 * time.Hour // of a device certificate
	MaxLife     = 5 * 365 * 24 * time.Hour
	rootLife    = 20 * 365 * 24 * time.Hour
	issuerLife  = 10 * 365 * 24 * time.Hour
	serverLife  = 365 * 24 * time.Hour
	skew        = 10 * time.Minute // certificates begin this much earlier, for clocks that are behind
)

// Options of an authority.
type Options struct {
	Name       string        // Create: for the subjects of root and issuing certificate, at most 60 characters; "" is "backstay"
	DeviceLife time.Duration // Create: of a device certificate, at most MaxLife; 0 is DefaultLife
	Now        func() time.Time
	Emit       identity.Emit // nil: no events
}

// settings is ca.json.
type settings struct {
	Version    int       `json:"backstay_ca"` // 1
	Name       string    `json:"name"`
	DeviceLife string    `json:"device_life"` // a duration: "2160h"
	Created    time.Time `json:"created"`
}

// CA is an open authority. Its methods may be called from several goroutines.
type CA struct {
	dir    string
	name   string
	life   time.Duration
	now    func() time.Time
	emit   identity.Emit
	root   *x509.Certificate
	issuer *x509.Certificate
	key    crypto.Signer // of issuer

	mu      sync.Mutex
	devices map[string]Device
	stamp   os.FileInfo         // of the devices file that devices was read from
	bound   map[[32]byte]string // SHA-256 of a certified public key -> device id
	last    map[string]Issued   // device id -> its newest certificate
	read    int64               // how far the issued file was read
}

func (o *Options) fill() error {
	if o.Name == "" {
		o.Name = "backstay"
	}
	if o.DeviceLife == 0 {
		o.DeviceLife = DefaultLife
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Emit == nil {
		o.Emit = func(string, ...slog.Attr) {}
	}
	switch {
	case len(o.Name) > 60:
		return errors.New("the name is longer than 60 characters")
	case o.DeviceLife < time.Minute || o.DeviceLife > MaxLife:
		return fmt.Errorf("device certificates may live from 1m to %s, not %s", MaxLife, o.DeviceLife)
	}
	return nil
}

// Create makes a new authority in dir, which must not hold one. Root and issuing key are ECDSA P-256.
func Create(dir string, o Options) (*CA, error) {
	if err := o.fill(); err != nil {
		return nil, fmt.Errorf("create authority: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create authority: %w", err)
	}
	if _, err := os.Lstat(filepath.Join(dir, fileSettings)); err == nil {
		return nil, &identity.Refusal{Class: identity.ErrSetup, Code: "authority-exists", What: "create authority",
			Why: dir + " already holds one; its devices would be lost"}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("create authority: %w", err)
	}
	if err := create(dir, o); err != nil {
		return nil, fmt.Errorf("create authority: %w", err)
	}
	return Load(dir, o)
}

func create(dir string, o Options) error {
	now := o.Now().UTC().Truncate(time.Second)
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	root := authority(o.Name, "root", now, rootLife)
	if root, err = sign(root, root, rootKey.Public(), rootKey); err != nil {
		return err
	}
	issuerKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	issuer := authority(o.Name, "issuing", now, issuerLife)
	issuer.MaxPathLen, issuer.MaxPathLenZero = 0, true
	if issuer, err = sign(issuer, root, issuerKey.Public(), rootKey); err != nil {
		return err
	}
	conf, err := json.MarshalIndent(settings{1, o.Name, o.DeviceLife.String(), now}, "", "  ")
	if err != nil {
		return err
	}
	rootPEM, err1 := keyPEM(rootKey)
	issuerPEM, err2 := keyPEM(issuerKey)
	return errors.Join(err1, err2,
		writeFile(dir, fileRootKey, rootPEM, 0o600), writeFile(dir, fileRootCert, certPEM(root), 0o644),
		writeFile(dir, fileIssuerKey, issuerPEM, 0o600), writeFile(dir, fileIssuerCert, certPEM(issuer), 0o644),
		writeFile(dir, fileDevices, nil, 0o600), writeFile(dir, fileIssued, nil, 0o600),
		writeFile(dir, fileSettings, append(conf, '\n'), 0o600))
}

// authority is the template of a certificate that signs others.
func authority(name, role string, now time.Time, life time.Duration) *x509.Certificate {
	return &x509.Certificate{
		Subject:   pkix.Name{Organization: []string{name}, CommonName: name + " " + role},
		NotBefore: now.Add(-skew), NotAfter: now.Add(life),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true, IsCA: true,
	}
}

// sign issues a certificate and reads it back.
func sign(t, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) (*x509.Certificate, error) {
	number, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 126))
	if err != nil {
		return nil, err
	}
	// Positive, never zero, and of one length, as RFC 5280 4.1.2.2 wants it.
	t.SerialNumber = number.SetBit(number, 126, 1)
	t.SignatureAlgorithm = x509.ECDSAWithSHA256
	der, err := x509.CreateCertificate(rand.Reader, t, parent, pub, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// Load opens the authority in dir. The root key is not read and may be elsewhere.
func Load(dir string, o Options) (*CA, error) {
	c, err := load(dir, o)
	if err != nil {
		return nil, fmt.Errorf("open authority %s: %w", dir, err)
	}
	return c, nil
}

func load(dir string, o Options) (*CA, error) {
	var conf settings
	b, err := os.ReadFile(filepath.Join(dir, fileSettings))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &identity.Refusal{Class: identity.ErrSetup, Code: "no-authority", What: "authority", Why: "there is none in this directory", Err: err}
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(b, &conf); err != nil {
		return nil, fmt.Errorf("read %s: %w", fileSettings, err)
	}
	if conf.Version != 1 {
		return nil, fmt.Errorf("read %s: version %d, this program knows 1", fileSettings, conf.Version)
	}
	if o.DeviceLife, err = time.ParseDuration(conf.DeviceLife); err != nil {
		return nil, fmt.Errorf("read %s: %w", fileSettings, err)
	}
	o.Name = conf.Name
	if err := o.fill(); err != nil {
		return nil, fmt.Errorf("read %s: %w", fileSettings, err)
	}
	c := &CA{dir: dir, name: o.Name, life: o.DeviceLife, now: o.Now, emit: o.Emit, bound: map[[32]byte]string{}, last: map[string]Issued{}}
	if c.root, err = readCert(dir, fileRootCert); err != nil {
		return nil, err
	}
	if c.issuer, err = readCert(dir, fileIssuerCert); err != nil {
		return nil, err
	}
	if c.key, err = readKey(dir, fileIssuerKey); err != nil {
		return nil, err
	}
	if !identity.SamePublic(c.issuer.PublicKey, c.key.Public()) {
		return nil, fmt.Errorf("%s does not belong to %s", fileIssuerKey, fileIssuerCert)
	}
	if err := c.issuer.CheckSignatureFrom(c.root); err != nil {
		return nil, fmt.Errorf("%s was not issued by %s: %w", fileIssuerCert, fileRootCert, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c, c.refresh()
}

// Name is what the authority was called at creation.
func (c *CA) Name() string { return c.name }

// DeviceLife is how long a device certificate lives.
func (c *CA) DeviceLife() time.Duration { return c.life }

// Root is the certificate devices pin.
func (c *CA) Root() *x509.Certificate { return c.root }

// RootPEM is Root as a file for a device image.
func (c *CA) RootPEM() []byte { return certPEM(c.root) }

// Pool holds the root alone: the anchors of whoever connects to this fleet's servers.
func (c *CA) Pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(c.root)
	return p
}

func certPEM(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

func keyPEM(k crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}
