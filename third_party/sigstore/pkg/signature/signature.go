// SPDX-License-Identifier: Apache-2.0

// Package signature is a stand-in, written for backstay, for the package of
// the same import path in github.com/sigstore/sigstore. It has the four
// interfaces and two functions that go-tuf v2.4.2 uses, over the standard
// library, and nothing else.
//
// Why: the real module links protobuf, whose use of reflection switches off the
// linker's removal of unused methods for the whole program. On a device that
// costs a third of the agent (3.3 to 3.7 MB of flash) and 3.4 MB of memory, for
// functions that are twenty lines of crypto/ecdsa, crypto/ed25519 and
// crypto/rsa. The root go.mod replaces the real module with this one.
//
// What it must keep: for every key and signature it accepts exactly what the
// real package accepts, with one exception. An Ed25519 key of the wrong length
// is an error here; there it ends the process when the key is used. The module
// in ../../interop tests that against the real one.
//
// An attacker chooses every byte of a signature and, together with a signer of
// metadata, of a key. Nothing here may panic on them.
package signature

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"

	// The hashes that a TUF key scheme may name.
	_ "crypto/sha256"
	_ "crypto/sha512"
)

// maxSignature is the longest signature read, in bytes: RSA with 16384 bits.
// The real package has no limit.
const maxSignature = 2048

// PublicKeyOption is accepted and ignored: go-tuf passes none.
type PublicKeyOption interface{ publicKeyOption() }

// SignOption is accepted and ignored: go-tuf passes none.
type SignOption interface{ signOption() }

// VerifyOption is accepted and ignored: go-tuf passes none.
type VerifyOption interface{ verifyOption() }

// PublicKeyProvider tells the public key of a signer or verifier.
type PublicKeyProvider interface {
	PublicKey(opts ...PublicKeyOption) (crypto.PublicKey, error)
}

// Signer signs a message; hashing is its own business.
type Signer interface {
	PublicKeyProvider
	SignMessage(message io.Reader, opts ...SignOption) ([]byte, error)
}

// Verifier returns nil only if signature is one of its key over message.
type Verifier interface {
	PublicKeyProvider
	VerifySignature(signature, message io.Reader, opts ...VerifyOption) error
}

// LoadVerifier returns a verifier for an Ed25519 key (hash is ignored) or an
// ECDSA key (hash is what the message is hashed with). An RSA key is an error:
// the real function would verify PKCS #1 v1.5, which TUF does not use.
func LoadVerifier(pub crypto.PublicKey, hash crypto.Hash) (Verifier, error) {
	switch k := pub.(type) {
	case ed25519.PublicKey:
		if len(k) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("load verifier: Ed25519 key of %d bytes", len(k))
		}
		return verifier{pub: k, check: func(msg, sig []byte) bool { return ed25519.Verify(k, msg, sig) }}, nil
	case *ecdsa.PublicKey:
		if k == nil {
			return nil, errors.New("load verifier: no ECDSA key")
		}
		if err := usable(hash); err != nil {
			return nil, err
		}
		return verifier{pub: k, check: func(msg, sig []byte) bool { return verifyECDSA(k, digest(hash, msg), sig) }}, nil
	}
	return nil, fmt.Errorf("load verifier: unsupported key type %T", pub)
}

// LoadRSAPSSVerifier returns a verifier for RSA-PSS signatures with any salt
// length, over messages hashed with hash. Only the salt length of opts is used,
// as in the real package; nil means any.
func LoadRSAPSSVerifier(pub *rsa.PublicKey, hash crypto.Hash, opts *rsa.PSSOptions) (Verifier, error) {
	if pub == nil {
		return nil, errors.New("load verifier: no RSA key")
	}
	if err := usable(hash); err != nil {
		return nil, err
	}
	if opts == nil {
		opts = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthAuto}
	}
	return verifier{pub: pub, check: func(msg, sig []byte) bool {
		return rsa.VerifyPSS(pub, hash, digest(hash, msg), sig, opts) == nil
	}}, nil
}

// verifyECDSA takes both encodings in use: ASN.1 and, when the bytes are no
// ASN.1, the two halves r and s side by side (IEEE P1363).
func verifyECDSA(pub *ecdsa.PublicKey, digest, sig []byte) bool {
	var rs struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(sig, &rs); err == nil {
		return ecdsa.VerifyASN1(pub, digest, sig)
	}
	if len(sig) == 0 || len(sig) > 132 || len(sig)%2 != 0 {
		return false
	}
	r := new(big.Int).SetBytes(sig[:len(sig)/2])
	s := new(big.Int).SetBytes(sig[len(sig)/2:])
	return ecdsa.Verify(pub, digest, r, s)
}

func usable(hash crypto.Hash) error {
	switch hash {
	case crypto.SHA256, crypto.SHA384, crypto.SHA512, crypto.SHA224:
		return nil
	}
	return fmt.Errorf("load verifier: unsupported hash %d", uint(hash))
}

func digest(hash crypto.Hash, msg []byte) []byte {
	h := hash.New()
	h.Write(msg)
	return h.Sum(nil)
}

type verifier struct {
	pub   crypto.PublicKey
	check func(msg, sig []byte) bool
}

func (v verifier) PublicKey(...PublicKeyOption) (crypto.PublicKey, error) { return v.pub, nil }

func (v verifier) VerifySignature(signature, message io.Reader, _ ...VerifyOption) error {
	if signature == nil || message == nil {
		return errors.New("verify signature: no input")
	}
	sig, err := io.ReadAll(io.LimitReader(signature, maxSignature+1))
	if err != nil {
		return fmt.Errorf("verify signature: read signature: %w", err)
	}
	if len(sig) > maxSignature {
		return fmt.Errorf("verify signature: longer than %d bytes", maxSignature)
	}
	msg, err := io.ReadAll(message)
	if err != nil {
		return fmt.Errorf("verify signature: read message: %w", err)
	}
	if !v.check(msg, sig) {
		return errors.New("verify signature: does not match")
	}
	return nil
}
