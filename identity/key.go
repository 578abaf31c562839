// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Class says what protects a private key. It is what the key store claims and is part of requests, status and events, so that
// nobody takes a file for a security chip.
type Class string

const (
	ClassTPM       Class = "tpm"        // never leaves a TPM 2.0
	ClassExternal  Class = "ext"        // kept by another process: PKCS#11, OP-TEE, a secure element
	ClassFileBound Class = "file-bound" // a file sealed under hardware identifiers: a copied card is useless, root can still take it
	ClassFilePlain Class = "file-plain" // a file anyone who can read it can use
)

// Known reports whether c is one of the classes above.
func (c Class) Known() bool {
	return c == ClassTPM || c == ClassExternal || c == ClassFileBound || c == ClassFilePlain
}

// Slot names one place for a key.
type Slot string

const (
	SlotBirth Slot = "idevid"   // the birth key: made once, never replaced
	SlotA     Slot = "ldevid-a" // the owner's certificate, alternating with SlotB at each renewal
	SlotB     Slot = "ldevid-b"
)

// Known reports whether s is one of the slots above.
func (s Slot) Known() bool { return s == SlotBirth || s == SlotA || s == SlotB }

// other is the slot the next owner's key goes to.
func (s Slot) other() Slot {
	if s == SlotA {
		return SlotB
	}
	return SlotA
}

// Key is a private key that may live outside this process. It signs SHA-256 digests with ECDSA P-256 and nothing else.
// Sign may be called from several goroutines.
type Key interface {
	crypto.Signer
	Class() Class
}

// Store keeps keys in slots. Calls are made one at a time.
type Store interface {
	// Generate makes a P-256 key in an empty slot; it is durable when Generate returns nil. ErrKeyExists, ErrEntropy: nothing
	// was made. After any other error the key may exist.
	Generate(Slot) (Key, error)
	// Open returns the key of a slot, or an error that is ErrNoKey, ErrOtherBoard or ErrDamagedKey where that is the reason.
	Open(Slot) (Key, error)
	// Destroy empties a slot durably; an empty slot is no error. After an error the key may or may not be there.
	Destroy(Slot) error
}

// DeviceID is the device's name: the first 26 characters (130 bits) of the lower-case base32 form of the SHA-256 of the birth
// key's SubjectPublicKeyInfo. Whoever has the public key can check the name. Only P-256 keys have one.
func DeviceID(pub crypto.PublicKey) (string, error) {
	if !isP256(pub) {
		return "", fmt.Errorf("derive device id: %w", errNotP256)
	}
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return "", fmt.Errorf("derive device id: %w", err)
	}
	sum := sha256.Sum256(spki)
	return strings.ToLower(base32.StdEncoding.EncodeToString(sum[:]))[:idLength], nil
}

// idLength is the length of a device id in characters of 5 bits.
const idLength = 26

var errNotP256 = errors.New("not an ECDSA P-256 key")

// ValidID reports whether s has the form of a device id.
func ValidID(s string) bool {
	if len(s) != idLength {
		return false
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '2' || c > '7') {
			return false
		}
	}
	return true
}

func isP256(pub crypto.PublicKey) bool {
	k, ok := pub.(*ecdsa.PublicKey)
	return ok && k != nil && k.Curve == elliptic.P256()
}

// Checked returns a key that verifies each signature with the public key it had when Checked was called, before the signature
// leaves it, and that refuses anything but a SHA-256 digest. A handle that now names another key (a TPM that reused it, a
// helper process whose key was made anew) then fails loudly instead of signing as somebody else.
func Checked(k Key) (Key, error) {
	if c, ok := k.(*checked); ok {
		return c, nil
	}
	pub, ok := k.Public().(*ecdsa.PublicKey)
	if !ok || !isP256(pub) {
		return nil, &Refusal{Code: "unsupported-key", What: "key", Why: errNotP256.Error(), Err: errNotP256}
	}
	return &checked{Key: k, pub: pub}, nil
}

type checked struct {
	Key
	pub *ecdsa.PublicKey
}

func (c *checked) Public() crypto.PublicKey { return c.pub }

// Sign implements crypto.Signer.
func (c *checked) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if opts == nil || opts.HashFunc() != crypto.SHA256 || len(digest) != sha256.Size {
		return nil, &Refusal{Code: "unsupported-digest", What: "sign", Why: "only SHA-256 digests are signed"}
	}
	sig, err := c.Key.Sign(rand, digest, opts)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	if !ecdsa.VerifyASN1(c.pub, digest, sig) {
		return nil, &Refusal{Code: "wrong-signature", What: "sign", Why: "the signature does not verify with this key's public key"}
	}
	return sig, nil
}
