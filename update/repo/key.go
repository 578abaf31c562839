// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/secure-systems-lab/go-securesystemslib/cjson"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// A key is named by a URI. The part before the colon says where the private key
// is; Options.OpenKey may know more kinds than the two built in:
//
//	file:PATH  a PEM file with a PKCS#8 private key, mode 0600, not encrypted;
//	           whoever reads it can sign. A relative path starts at the
//	           repository directory.
//	pub:PATH   a PEM file with a public key; the private key is somewhere else
//	           and its signatures arrive as files.
const (
	schemeFile = "file:"
	schemePub  = "pub:"
)

// ErrNoKey says that the private key behind a URI is not on this machine.
var ErrNoKey = errors.New("private key is not here")

// NewKey creates an Ed25519 key and writes it to a new file: PKCS#8, PEM, mode
// 0600, not encrypted. It never overwrites.
func NewKey(path string) (crypto.Signer, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	if err := writeKey(path, key); err != nil {
		return nil, fmt.Errorf("write key: %w", err)
	}
	return key, nil
}

// WritePublic writes the public half of a key to a new or existing file: PEM,
// as pub: URIs name it.
func WritePublic(path string, pub crypto.PublicKey) error {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return fmt.Errorf("write public key: %w", err)
	}
	return replaceFile(path, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o644)
}

func writeKey(path string, key crypto.Signer) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	err = pem.Encode(f, &pem.Block{Type: "PRIVATE KEY", Bytes: der})
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return syncDir(dir)
}

// OpenKeyFile reads a private key file: PEM, PKCS#8, Ed25519 or ECDSA P-256. It
// refuses a file that others than its owner may read.
func OpenKeyFile(path string) (crypto.Signer, error) {
	fi, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", path, ErrNoKey)
	}
	if err != nil {
		return nil, err
	}
	if fi.Mode().Perm()&0o077 != 0 {
		return nil, refuse("key-readable", "open key "+path, "mode %04o lets others than its owner use it", fi.Mode().Perm())
	}
	b, err := readLimited(path, 64<<10)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, fmt.Errorf("read key %s: not a PEM file with a PKCS#8 private key", path)
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read key %s: %w", path, err)
	}
	s, ok := k.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("read key %s: %T cannot sign", path, k)
	}
	if _, err := tufKey(s.Public()); err != nil {
		return nil, fmt.Errorf("read key %s: %w", path, err)
	}
	return s, nil
}

// openPublic reads a PEM file with a public key.
func openPublic(path string) (crypto.PublicKey, error) {
	b, err := readLimited(path, 64<<10)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "PUBLIC KEY" {
		return nil, fmt.Errorf("read key %s: not a PEM file with a public key", path)
	}
	k, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read key %s: %w", path, err)
	}
	return k, nil
}

// openKey opens the private key behind a URI; an error that is ErrNoKey says
// that it is not on this machine.
func (r *Repo) openKey(uri string) (crypto.Signer, error) {
	if path, ok := strings.CutPrefix(uri, schemeFile); ok {
		return OpenKeyFile(r.keyPath(path))
	}
	if strings.HasPrefix(uri, schemePub) {
		return nil, fmt.Errorf("%s: %w", uri, ErrNoKey)
	}
	if r.openOther != nil {
		return r.openOther(uri)
	}
	return nil, fmt.Errorf("open key %s: unknown kind, this program knows %s and %s", uri, schemeFile, schemePub)
}

// public returns the public key behind a URI.
func (r *Repo) public(uri string) (crypto.PublicKey, error) {
	if path, ok := strings.CutPrefix(uri, schemePub); ok {
		return openPublic(r.keyPath(path))
	}
	s, err := r.openKey(uri)
	if err != nil {
		return nil, err
	}
	return s.Public(), nil
}

func (r *Repo) keyPath(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(r.dir, path)
}

// tufKey is the TUF form of a public key. It is built here and not by go-tuf,
// which labels every ECDSA key as P-256 whatever its curve.
func tufKey(pub crypto.PublicKey) (*metadata.Key, error) {
	switch k := pub.(type) {
	case ed25519.PublicKey:
		return &metadata.Key{Type: metadata.KeyTypeEd25519, Scheme: metadata.KeySchemeEd25519,
			Value: metadata.KeyVal{PublicKey: hex.EncodeToString(k)}}, nil
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() {
			return nil, fmt.Errorf("ECDSA key on %s, only P-256 is supported", k.Curve.Params().Name)
		}
		der, err := x509.MarshalPKIXPublicKey(k)
		if err != nil {
			return nil, err
		}
		p := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
		return &metadata.Key{Type: metadata.KeyTypeECDSA_SHA2_P256, Scheme: metadata.KeySchemeECDSA_SHA2_P256,
			Value: metadata.KeyVal{PublicKey: string(p)}}, nil
	}
	return nil, fmt.Errorf("key type %T, only Ed25519 and ECDSA P-256 are supported", pub)
}

// KeyID is the TUF key id of a public key: the SHA-256 of its canonical JSON.
func KeyID(pub crypto.PublicKey) (string, error) {
	k, err := tufKey(pub)
	if err != nil {
		return "", err
	}
	return k.ID()
}

// signPayload makes the signature that go-tuf's verifier expects.
func signPayload(key crypto.Signer, payload []byte) ([]byte, error) {
	if _, ok := key.Public().(ed25519.PublicKey); ok {
		return key.Sign(rand.Reader, payload, crypto.Hash(0))
	}
	digest := sha256.Sum256(payload)
	return key.Sign(rand.Reader, digest[:], crypto.SHA256)
}

// checkSignature reports whether sig is k's signature over payload.
func checkSignature(k *metadata.Key, payload, sig []byte) bool {
	pub, err := k.ToPublicKey()
	if err != nil {
		return false
	}
	switch p := pub.(type) {
	case ed25519.PublicKey:
		return len(p) == ed25519.PublicKeySize && ed25519.Verify(p, payload, sig)
	case *ecdsa.PublicKey:
		digest := sha256.Sum256(payload)
		return ecdsa.VerifyASN1(p, digest[:], sig)
	}
	return false
}

// canonical is the byte string that a TUF signature is made over.
func canonical(signed any) ([]byte, error) { return cjson.EncodeCanonical(signed) }

func hexDigest(d [32]byte) string { return hex.EncodeToString(d[:]) }
