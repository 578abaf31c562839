// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"time"
)

// certificates wants the certificates of a tree to be sound.
type certificates struct {
	start string
	Skip  []string `json:"skip"`
}

func certificateKind() Kind {
	return Kind{
		Name: "certificate", Target: "a directory; the files below it that are certificates by their names are read",
		Want: `{"skip": [directories]}: no RSA key below 2048 bits, no signature with MD5 or SHA-1, none expired, in an image none for localhost that signs itself. Of authorities only the key counts`,
		New: func(target string, want []byte) (Check, error) {
			c := certificates{start: target}
			if err := decodeWant(want, &c); err != nil {
				return nil, err
			}
			paths := c.Skip
			if target != "/" {
				paths = append([]string{target}, paths...)
			}
			return c, checkPaths(paths)
		},
	}
}

// Fix is not possible: a new certificate needs whoever issues them.
func (c certificates) Fix(context.Context, *Host, func(string) bool) ([]Change, error) {
	return nil, ErrNoFix
}

// Claims is empty: nothing is set.
func (c certificates) Claims() []string { return nil }

func (c certificates) Tightens(old Check) error {
	o, ok := old.(certificates)
	if !ok || o.start != c.start {
		return errors.New("another target")
	}
	if s, ok := subset(c.Skip, o.Skip); !ok {
		return fmt.Errorf("%s is left out", s)
	}
	return nil
}

// maxCertificates bounds the certificates of one file; a bundle of every authority has about 150.
const maxCertificates = 512

// parseCertificates reads PEM, with whatever is around it, or one certificate in DER. What cannot be parsed is left out.
func parseCertificates(data []byte) []*x509.Certificate {
	var out []*x509.Certificate
	if len(data) > 0 && data[0] == derSequence {
		if c, err := x509.ParseCertificate(data); err == nil {
			return append(out, c)
		}
	}
	for i := bytes.Index(data, []byte("-----BEGIN ")); i >= 0 && len(out) < maxCertificates; {
		block, rest := pem.Decode(data[i:])
		if block == nil {
			break
		}
		if c, err := x509.ParseCertificate(block.Bytes); err == nil && strings.HasSuffix(block.Type, "CERTIFICATE") {
			out = append(out, c)
		}
		data, i = rest, bytes.Index(rest, []byte("-----BEGIN "))
	}
	return out
}

// unsound says what is wrong with a certificate at a time, "" for nothing. An authority is trusted because it is in the
// store: how it signed itself proves nothing, and whoever checks a chain looks at its dates.
func unsound(c *x509.Certificate, now time.Time, live bool) string {
	self := bytes.Equal(c.RawIssuer, c.RawSubject)
	authority := c.IsCA || c.Version < 3 && self && c.Subject.CommonName != "localhost"
	if k, ok := c.PublicKey.(*rsa.PublicKey); ok && k.N.BitLen() < 2048 {
		return "an RSA key of " + strconv.Itoa(k.N.BitLen()) + " bits"
	}
	if authority && self {
		return ""
	}
	switch c.SignatureAlgorithm {
	case x509.MD2WithRSA, x509.MD5WithRSA:
		return "a signature with MD5"
	case x509.SHA1WithRSA, x509.DSAWithSHA1, x509.ECDSAWithSHA1:
		return "a signature with SHA-1"
	}
	switch {
	case authority:
		return ""
	case now.After(c.NotAfter):
		return "expired " + c.NotAfter.UTC().Format("2006-01-02")
	case self && !live && (c.Subject.CommonName == "localhost" || len(c.DNSNames) > 0 && c.DNSNames[0] == "localhost"):
		return "a certificate for localhost that signs itself: every device with this image has it and its key"
	}
	return ""
}

// clock is the time that certificates are judged by: never before the newest file that says when the system was made. A
// device without a battery starts in 1970, where nothing has expired.
func (h *Host) clock() time.Time {
	now := time.Now()
	if made, _ := h.made(); made.After(now) {
		return made
	}
	return now
}

// made is a time that has certainly passed, and the file that proves it.
func (h *Host) made() (newest time.Time, by string) {
	for _, name := range []string{"/etc/os-release", "/usr/lib/os-release", "/etc/version", passwdFile, "/etc/machine-id", "/var/lib/backstay/state.db", "/var/lib/backstay/audit.db"} {
		p, err := h.Resolve(name)
		if err != nil {
			continue
		}
		if fi, err := h.tree.Lstat(rel(p)); err == nil && fi.ModTime().After(newest) {
			newest, by = fi.ModTime(), name
		}
	}
	return newest, by
}

func (c certificates) Check(ctx context.Context, h *Host) Verdict {
	found, _, err := h.searched(ctx, c.start, certFile)
	if errors.Is(err, fs.ErrNotExist) {
		return notApplicable(err.Error())
	}
	now := h.clock()
	var items []Item
	seen, files := 0, 0
	for _, f := range found {
		if skipped(c.Skip, f.Path) {
			continue
		}
		data, rerr := h.readFile(h.tree, rel(f.Path), MaxFile)
		if rerr != nil {
			if !errors.Is(rerr, ErrTooLarge) {
				err = errors.Join(err, fmt.Errorf("read %s: %w", printable(f.Path), rerr))
			}
			continue
		}
		list := parseCertificates(data)
		files += min(1, len(list))
		seen += len(list)
		for _, x := range list {
			if bad := unsound(x, now, h.Live()); bad != "" {
				items = append(items, Item{Subject: printable(f.Path), Where: printable(f.Path), Observed: printable(nameOf(x)) + ": " + bad, Expected: "a sound certificate"})
			}
		}
	}
	switch {
	case err != nil && len(items) == 0:
		return unknown(err)
	case seen == 0:
		return notApplicable(fmt.Sprintf("no certificate in the %d files below %s that have the name of one", len(found), c.start))
	}
	return judged(items, fmt.Sprintf("%d certificates in %d files are sound", seen, files), fmt.Sprintf("%s (%d files with certificates)", c.start, files))
}

func nameOf(c *x509.Certificate) string {
	if c.Subject.CommonName != "" {
		return c.Subject.CommonName
	}
	if len(c.DNSNames) > 0 {
		return c.DNSNames[0]
	}
	return c.Subject.String()
}

func skipped(skip []string, p string) bool {
	for _, d := range skip {
		if below(d, p) {
			return true
		}
	}
	return false
}

// keyModes wants the files of private keys to be their owner's alone, or readable by a group that is not everybody's.
type keyModes struct {
	start string
	Skip  []string `json:"skip"`
}

func keyModesKind() Kind {
	return Kind{
		Name: "key-modes", Target: "a directory; the files below it that hold keys by their names are looked at",
		Want: `{"skip": [directories]}: private keys are not readable by others, and not writable by a group`,
		Fix:  "take these permissions away",
		New: func(target string, want []byte) (Check, error) {
			c := keyModes{start: target}
			if err := decodeWant(want, &c); err != nil {
				return nil, err
			}
			paths := c.Skip
			if target != "/" {
				paths = append([]string{target}, paths...)
			}
			return c, checkPaths(paths)
		},
	}
}

func (c keyModes) Claims() []string { return []string{"keymode:" + c.start} }

func (c keyModes) Tightens(old Check) error {
	return certificates{c.start, c.Skip}.Tightens(certificatesOf(old))
}

func certificatesOf(c Check) Check {
	if k, ok := c.(keyModes); ok {
		return certificates(k)
	}
	return c
}

// find lists the keys with too many permissions, and how many there are. A file counts as a key for what is in it, whatever
// protects it: keys of public repositories are called .key too.
func (c keyModes) find(ctx context.Context, h *Host) (bad []Info, keys int, err error) {
	var errs []error
	for _, class := range []class{keyFile, hostKey, certFile} {
		found, _, err := h.searched(ctx, c.start, class)
		errs = append(errs, err)
		for _, f := range found {
			if skipped(c.Skip, f.Path) || class != hostKey && !h.holdsKey(f.Path) {
				continue
			}
			keys++
			if f.Mode&keyBits != 0 {
				bad = append(bad, f.Info)
			}
		}
	}
	return bad, keys, errors.Join(errs...)
}

// keyBits are the permissions that nobody should have on a key beside its owner, and a group that may read.
const keyBits = 0o027

func (h *Host) holdsKey(p string) bool {
	data, err := h.readFile(h.tree, rel(p), 256<<10)
	if err != nil {
		return false
	}
	return privateKey(data, true) != "" || wholeKey(data, int64(len(data))) != "" || bytes.Contains(data, []byte("ENCRYPTED PRIVATE KEY-----")) ||
		bytes.Contains(data, []byte("PRIVATE KEY-----")) && bytes.Contains(data, []byte("Proc-Type: 4,ENCRYPTED"))
}

func (c keyModes) Check(ctx context.Context, h *Host) Verdict {
	bad, keys, err := c.find(ctx, h)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return notApplicable(c.start + " is not there")
	case err != nil && len(bad) == 0:
		return unknown(err)
	case keys == 0:
		return notApplicable("no file below " + c.start + " that has the name of a key holds one")
	}
	var items []Item
	for _, in := range bad {
		items = append(items, Item{Subject: printable(in.Path), Where: printable(in.Path), Observed: fmt.Sprintf("private key %s, mode %s", path.Base(printable(in.Path)), OctalMode(in.Mode)), Expected: "mode " + OctalMode(in.Mode&^keyBits)})
	}
	return judged(items, fmt.Sprintf("%d private keys, none open to others", keys), fmt.Sprintf("%s (%d keys)", c.start, keys))
}

func (c keyModes) Fix(ctx context.Context, h *Host, want func(string) bool) ([]Change, error) {
	bad, _, err := c.find(ctx, h)
	var out []Change
	for _, in := range bad {
		if want(printable(in.Path)) {
			out = append(out, Change{Op: Chmod, Path: in.Path, OldMode: in.Mode & permBits, Mode: in.Mode & permBits &^ keyBits})
		}
	}
	return out, err
}
