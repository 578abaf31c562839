// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net/url"
	"slices"
	"time"
)

// entropyPoll is how often Born asks again while the kernel gathers randomness.
const entropyPoll = time.Second

// noExpiry is the date IEEE 802.1AR gives a birth certificate: it has no well-defined end (RFC 5280 4.1.2.5).
func noExpiry() time.Time { return time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC) }

// placer is implemented by keys that can tell that they lie where only an image can have put them.
type placer interface {
	// ImagePath returns why the key looks like part of the image, or "".
	ImagePath() string
}

// ImagePath asks the key behind c.
func (c *checked) ImagePath() string {
	if p, ok := c.Key.(placer); ok {
		return p.ImagePath()
	}
	return ""
}

// Born makes the birth key and its self-signed certificate, unless the device has them. It waits, until ctx ends, for the
// kernel's random generator: a key made before that may be the same on every unit of a product.
func (i *Identity) Born(ctx context.Context) error {
	i.op.Lock()
	defer i.op.Unlock()
	rec := i.snapshot()
	if rec.Birth != nil {
		return nil
	}
	if !rec.BirthIntent {
		rec.BirthIntent = true
		if err := i.save(rec); err != nil {
			return fmt.Errorf("make birth key: %w", err)
		}
	}
	k, err := i.generateBirth(ctx)
	if err != nil {
		return fmt.Errorf("make birth key: %w", err)
	}
	return i.recordBirth(rec, k, "identity.born")
}

func (i *Identity) generateBirth(ctx context.Context) (Key, error) {
	for warned := false; ; warned = true {
		k, err := i.cfg.Keys.Generate(SlotBirth)
		switch {
		case err == nil:
			return Checked(k)
		case errors.Is(err, ErrKeyExists):
			// The intent was saved before anything was generated, so this is the key of an interrupted birth.
			return i.open(SlotBirth)
		case !errors.Is(err, ErrEntropy):
			return nil, err
		}
		if !warned {
			i.cfg.Emit("identity.weak-entropy", slog.String("why", err.Error()))
		}
		wait := time.NewTimer(entropyPoll)
		select {
		case <-ctx.Done():
			wait.Stop()
			return nil, &Refusal{Class: ErrRetry, Code: "no-entropy", What: "birth key", Why: err.Error(), Err: ctx.Err()}
		case <-wait.C:
		}
	}
}

// recordBirth fixes who the device is.
func (i *Identity) recordBirth(rec record, k Key, event string) error {
	id, err := DeviceID(k.Public())
	if err != nil {
		return err
	}
	if slices.Contains(i.cfg.Denied, id) {
		return &Refusal{Code: "denied-key", What: "birth key", Why: "it is on the list of keys known to others"}
	}
	now := i.cfg.Now().UTC().Truncate(time.Second)
	der, err := birthCertificate(k, id, i.cfg.Serial, now)
	if err != nil {
		return err
	}
	rec.Birth = &birthRecord{DeviceID: id, Certificate: der, Serial: i.cfg.Serial, Class: k.Class(), Time: now}
	rec.BirthIntent = false
	if err := i.save(rec); err != nil {
		return err
	}
	i.mu.Lock()
	i.birth = k
	i.mu.Unlock()
	i.cfg.Emit(event, slog.String("device_id", id), slog.String("serial", i.cfg.Serial), slog.String("key_class", string(k.Class())))
	return nil
}

// birthCertificate is an IDevID-style certificate signed by its own key: a form TLS can carry, not an authority's statement.
// The owner's birth list says whether to believe it.
func birthCertificate(k Key, id, serial string, now time.Time) ([]byte, error) {
	number, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("make birth certificate: %w", err)
	}
	t := &x509.Certificate{
		SerialNumber:          number.Add(number, big.NewInt(1)),
		Subject:               pkix.Name{CommonName: id, SerialNumber: serial},
		NotBefore:             now,
		NotAfter:              noExpiry(),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
		URIs:                  []*url.URL{URN(id)},
		SignatureAlgorithm:    x509.ECDSAWithSHA256,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, k.Public(), k)
	if err != nil {
		return nil, fmt.Errorf("make birth certificate: %w", err)
	}
	return der, nil
}

// openBirth matches the birth key with what the state says about it. No case makes a new key: a device that silently became
// another one would be worse than one that asks for help.
func (i *Identity) openBirth() error {
	k, err := i.open(SlotBirth)
	switch {
	case errors.Is(err, ErrNoKey) && i.rec.Birth == nil:
		return nil // blank, or cut before generation: Born goes on
	case errors.Is(err, ErrNoKey):
		return setup("birth-key-missing", "the state names device "+i.rec.Birth.DeviceID+" and the key store holds no birth key", err)
	case errors.Is(err, ErrOtherBoard):
		i.cfg.Emit("identity.board-changed", slog.String("why", err.Error()))
		return setup("board-changed", "it was made on another board; a moved or copied card does not carry an identity over", err)
	case errors.Is(err, ErrDamagedKey):
		return setup("birth-key-damaged", err.Error(), err)
	case err != nil:
		return fmt.Errorf("open birth key: %w", err)
	case i.rec.Birth == nil && i.rec.BirthIntent:
		return i.recordBirth(i.rec.clone(), k, "identity.born")
	case i.rec.Birth == nil:
		return i.adopt(k)
	}
	return i.matchBirth(k)
}

// adopt takes a birth key of which the state knows nothing. Either the state was lost, or the key came with the image and is
// the same on every unit. Only a key that is bound to this board can be told from the second case.
func (i *Identity) adopt(k Key) error {
	why := ""
	if p, ok := k.(placer); ok {
		why = p.ImagePath()
	}
	if why == "" && k.Class() == ClassFilePlain {
		why = "there is no record of its birth, and nothing binds it to this board"
	}
	if why != "" {
		return &Refusal{Code: "key-from-image", What: "birth key", Why: why}
	}
	return i.recordBirth(i.rec.clone(), k, "identity.adopted")
}

func (i *Identity) matchBirth(k Key) error {
	id, err := DeviceID(k.Public())
	if err != nil {
		return err
	}
	cert, err := x509.ParseCertificate(i.rec.Birth.Certificate)
	switch {
	case err != nil:
		return setup("birth-record-damaged", err.Error(), err)
	case id != i.rec.Birth.DeviceID || !SamePublic(cert.PublicKey, k.Public()):
		return setup("birth-key-changed", "the key store holds the key of "+id+", the state is of "+i.rec.Birth.DeviceID, nil)
	case slices.Contains(i.cfg.Denied, id):
		return &Refusal{Code: "denied-key", What: "birth key", Why: "it is on the list of keys known to others"}
	}
	i.birth = k
	return nil
}

func setup(code, why string, err error) error {
	return &Refusal{Class: ErrSetup, Code: code, What: "birth key", Why: why, Err: err}
}
