// SPDX-License-Identifier: Apache-2.0

package collect

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/backstay/backstay/logging"
)

// The key file is two lines of comment and a PKCS#8 PEM block whose header says the name:
//
//	-----BEGIN PRIVATE KEY-----
//	Name: example.org/collector
//
// The name is part of the key: under another name the same bytes are another key.
const (
	pemType    = "PRIVATE KEY"
	nameHeader = "Name"
	maxKeyFile = 4 << 10
)

// LoadKey reads the receipt key at path. It refuses a file others can read: whoever has the key can make devices forget
// records. Errors match logging.ErrSetup, or fs.ErrNotExist when there is no file.
func LoadKey(path string) (*logging.ReceiptSigner, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read receipt key: %w", err)
	}
	if fi.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("read receipt key %s: mode %#o, others must not be able to read it: %w", path, fi.Mode().Perm(), logging.ErrSetup)
	}
	if fi.Size() > maxKeyFile {
		return nil, fmt.Errorf("read receipt key %s: too long: %w", path, logging.ErrSetup)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read receipt key: %w", err)
	}
	block, _ := pem.Decode(b)
	if block == nil || block.Type != pemType || block.Headers[nameHeader] == "" {
		return nil, fmt.Errorf("read receipt key %s: not a PEM private key with a Name header: %w", path, logging.ErrSetup)
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read receipt key %s: %w: %w", path, err, logging.ErrSetup)
	}
	ed, ok := k.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("read receipt key %s: not Ed25519: %w", path, logging.ErrSetup)
	}
	return logging.NewReceiptSigner(block.Headers[nameHeader], ed)
}

// CreateKey makes a receipt key, mode 0600, and writes it durably. It never replaces a file: devices know the old key.
func CreateKey(path, name string) (*logging.ReceiptSigner, error) {
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("create receipt key: %w", err)
	}
	signer, err := logging.NewReceiptSigner(name, priv) // checks the name
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		return nil, fmt.Errorf("create receipt key: %w", err)
	}
	b := pem.EncodeToMemory(&pem.Block{Type: pemType, Headers: map[string]string{nameHeader: name}, Bytes: der})
	if err := writeNew(path, b); err != nil {
		return nil, fmt.Errorf("create receipt key: %w", err)
	}
	return signer, nil
}

// OpenKey loads the key at path, or creates it when there is no file.
func OpenKey(path, name string) (*logging.ReceiptSigner, error) {
	s, err := LoadKey(path)
	if errors.Is(err, fs.ErrNotExist) {
		return CreateKey(path, name)
	}
	return s, err
}

// writeNew creates path with b, complete or not at all: written beside it, synced, linked into place without replacing.
func writeNew(path string, b []byte) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".key-*") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) //nolint:errcheck // gone or harmless
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close() //nolint:errcheck // opened for reading
	return d.Sync()
}
