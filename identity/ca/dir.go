// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/backstay/backstay/identity"
)

// writeFile replaces a file so that it is there whole, old or new, after a power cut.
func writeFile(dir, name string, b []byte, mode os.FileMode) error {
	tmp := filepath.Join(dir, name+".new")
	w, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|syscall.O_NOFOLLOW, mode)
	if err != nil {
		return err
	}
	_, err = w.Write(b)
	if err := errors.Join(err, w.Chmod(mode), w.Sync(), w.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, filepath.Join(dir, name)); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// locked runs f while no other process changes the directory.
func (c *CA) locked(f func() error) error {
	l, err := os.OpenFile(filepath.Join(c.dir, fileLock), os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("lock authority: %w", err)
	}
	defer l.Close() // lets go of the lock
	for {
		err := syscall.Flock(int(l.Fd()), syscall.LOCK_EX)
		if err == nil {
			break
		}
		if !errors.Is(err, syscall.EINTR) {
			return fmt.Errorf("lock authority: %w", err)
		}
	}
	return f()
}

// readPEM returns the one block of a file.
func readPEM(dir, name, kind string, secret bool) ([]byte, error) {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if secret && info.Mode().Perm()&0o077 != 0 {
		return nil, &identity.Refusal{Class: identity.ErrSetup, Code: "unsafe-key-file", What: name,
			Why: fmt.Sprintf("others may read it (mode %04o, want 0600)", info.Mode().Perm())}
	}
	b, err := io.ReadAll(io.LimitReader(f, 64<<10))
	if err != nil {
		return nil, err
	}
	block, rest := pem.Decode(b)
	if block == nil || block.Type != kind || len(bytes.TrimSpace(rest)) != 0 {
		return nil, fmt.Errorf("read %s: want one PEM block %q", name, kind)
	}
	return block.Bytes, nil
}

func readCert(dir, name string) (*x509.Certificate, error) {
	der, err := readPEM(dir, name, "CERTIFICATE", false)
	if err != nil {
		return nil, err
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return c, nil
}

func readKey(dir, name string) (crypto.Signer, error) {
	der, err := readPEM(dir, name, "PRIVATE KEY", true)
	if err != nil {
		return nil, err
	}
	k, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	e, ok := k.(*ecdsa.PrivateKey)
	if !ok || e.Curve != elliptic.P256() {
		return nil, fmt.Errorf("read %s: not an ECDSA P-256 key", name)
	}
	return e, nil
}
