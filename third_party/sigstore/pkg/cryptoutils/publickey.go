// SPDX-License-Identifier: Apache-2.0

// Package cryptoutils is a stand-in, written for backstay, for the package of
// the same import path in github.com/sigstore/sigstore: the two functions that
// go-tuf v2.4.2 uses to read and write a public key. Package signature beside
// it says why there is a stand-in.
//
// An attacker who writes metadata chooses the PEM text; a signer of metadata
// vouched for it only if the caller checked that.
package cryptoutils

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

// UnmarshalPEMToPublicKey reads the first PEM block of b, which must be a
// "PUBLIC KEY" (SubjectPublicKeyInfo) or an "RSA PUBLIC KEY" (PKCS #1).
// Whatever follows the block is ignored, as in the real package.
func UnmarshalPEMToPublicKey(b []byte) (crypto.PublicKey, error) {
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, errors.New("read public key: no PEM block")
	}
	switch block.Type {
	case "PUBLIC KEY":
		return x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		return x509.ParsePKCS1PublicKey(block.Bytes)
	}
	return nil, fmt.Errorf("read public key: unknown PEM type %q", block.Type)
}

// MarshalPublicKeyToPEM writes pub as a "PUBLIC KEY" block.
func MarshalPublicKeyToPEM(pub crypto.PublicKey) ([]byte, error) {
	if pub == nil {
		return nil, errors.New("write public key: no key")
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("write public key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}
