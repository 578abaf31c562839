// SPDX-License-Identifier: Apache-2.0

// Package interop gives the stand-in and the real sigstore module the same keys
// and signatures and wants the same answers. It is a module of its own, so that
// the real one never becomes a dependency of backstay.
package interop

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"testing"

	realutils "github.com/sigstore/sigstore/pkg/cryptoutils"
	realsig "github.com/sigstore/sigstore/pkg/signature"
	ourutils "standin.invalid/sigstore/pkg/cryptoutils"
	oursig "standin.invalid/sigstore/pkg/signature"
)

var message = []byte(`{"_type":"timestamp","version":7}`)

// verdict is nil if key and signature are accepted. Either library may refuse
// when it loads the key or when it verifies; go-tuf treats both as a refusal.
func realVerdict(pub crypto.PublicKey, h crypto.Hash, sig []byte) error {
	v, err := realsig.LoadVerifier(pub, h)
	if k, ok := pub.(*rsa.PublicKey); ok {
		v, err = realsig.LoadRSAPSSVerifier(k, h, &rsa.PSSOptions{Hash: crypto.SHA256})
	}
	if err != nil {
		return err
	}
	return v.VerifySignature(bytes.NewReader(sig), bytes.NewReader(message))
}

func ourVerdict(pub crypto.PublicKey, h crypto.Hash, sig []byte) error {
	v, err := oursig.LoadVerifier(pub, h)
	if k, ok := pub.(*rsa.PublicKey); ok {
		v, err = oursig.LoadRSAPSSVerifier(k, h, &rsa.PSSOptions{Hash: crypto.SHA256})
	}
	if err != nil {
		return err
	}
	return v.VerifySignature(bytes.NewReader(sig), bytes.NewReader(message))
}

type signed struct {
	name string
	pub  crypto.PublicKey
	hash crypto.Hash
	sig  []byte
}

func digest(h crypto.Hash) []byte {
	d := h.New()
	d.Write(message)
	return d.Sum(nil)
}

func good(t *testing.T) []signed {
	t.Helper()
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	var out []signed
	edPub, edKey, err := ed25519.GenerateKey(rand.Reader)
	must(err)
	out = append(out, signed{"ed25519", edPub, crypto.Hash(0), ed25519.Sign(edKey, message)})
	for _, c := range []struct {
		curve elliptic.Curve
		hash  crypto.Hash
	}{{elliptic.P256(), crypto.SHA256}, {elliptic.P384(), crypto.SHA384}, {elliptic.P521(), crypto.SHA512}, {elliptic.P256(), crypto.SHA384}} {
		key, err := ecdsa.GenerateKey(c.curve, rand.Reader)
		must(err)
		name := fmt.Sprintf("ecdsa %s %s", c.curve.Params().Name, c.hash)
		asn1, err := ecdsa.SignASN1(rand.Reader, key, digest(c.hash))
		must(err)
		out = append(out, signed{name, key.Public(), c.hash, asn1})
		r, s, err := ecdsa.Sign(rand.Reader, key, digest(c.hash))
		must(err)
		n := (c.curve.Params().BitSize + 7) / 8
		p1363 := append(r.FillBytes(make([]byte, n)), s.FillBytes(make([]byte, n))...)
		out = append(out, signed{name + " p1363", key.Public(), c.hash, p1363})
	}
	for _, bits := range []int{2048, 3072} {
		key, err := rsa.GenerateKey(rand.Reader, bits)
		must(err)
		for _, salt := range []int{rsa.PSSSaltLengthEqualsHash, rsa.PSSSaltLengthAuto} {
			sig, err := rsa.SignPSS(rand.Reader, key, crypto.SHA256, digest(crypto.SHA256), &rsa.PSSOptions{SaltLength: salt})
			must(err)
			out = append(out, signed{fmt.Sprintf("rsa-pss %d salt %d", bits, salt), key.Public(), crypto.SHA256, sig})
		}
	}
	return out
}

// bend returns sig bent in ways a parser may stumble over.
func bend(sig []byte) map[string][]byte {
	flip := func(i int) []byte {
		b := bytes.Clone(sig)
		b[i] ^= 1
		return b
	}
	return map[string][]byte{
		"first byte": flip(0), "middle byte": flip(len(sig) / 2), "last byte": flip(len(sig) - 1),
		"empty": {}, "one byte": sig[:1], "cut": sig[:len(sig)-1], "halved": sig[:len(sig)/2],
		"longer": append(bytes.Clone(sig), 0), "twice": append(bytes.Clone(sig), sig...),
		"zeros": make([]byte, len(sig)), "ones": bytes.Repeat([]byte{0xff}, len(sig)),
		"empty sequence": {0x30, 0}, "zero integers": {0x30, 6, 2, 1, 0, 2, 1, 0}, "133 bytes": make([]byte, 133),
	}
}

func TestSameVerdict(t *testing.T) {
	sigs, n := good(t), 0
	check := func(name string, pub crypto.PublicKey, h crypto.Hash, sig []byte, want bool) {
		t.Helper()
		n++
		theirs, ours := realVerdict(pub, h, sig), ourVerdict(pub, h, sig)
		if (theirs == nil) != (ours == nil) {
			t.Errorf("%s: the real library says %v, the stand-in %v", name, theirs, ours)
		}
		if want && ours != nil {
			t.Errorf("%s: a good signature is refused: %v", name, ours)
		}
	}
	for _, s := range sigs {
		check(s.name, s.pub, s.hash, s.sig, true)
		for how, sig := range bend(s.sig) {
			check(s.name+" "+how, s.pub, s.hash, sig, false)
		}
		for _, other := range sigs {
			if other.name != s.name {
				check(other.name+" under "+s.name, s.pub, s.hash, other.sig, false)
			}
		}
		for _, h := range []crypto.Hash{0, crypto.SHA1, crypto.MD5, crypto.SHA224, crypto.SHA256, crypto.SHA384, crypto.SHA512, 99} {
			check(fmt.Sprintf("%s with hash %d", s.name, h), s.pub, h, s.sig, false)
		}
	}
	t.Logf("%d verdicts compared", n)
}

// TestUnusableKeys: the one difference. The real library accepts an Ed25519 key
// of the wrong length and panics when it is used; the stand-in says no.
func TestUnusableKeys(t *testing.T) {
	for _, n := range []int{0, 1, 31, 33, 64} {
		if _, err := oursig.LoadVerifier(ed25519.PublicKey(make([]byte, n)), 0); err == nil {
			t.Errorf("an Ed25519 key of %d bytes is accepted", n)
		}
	}
	for _, pub := range []crypto.PublicKey{nil, "key", (*ecdsa.PublicKey)(nil), []byte{1}} {
		_, theirs := realsig.LoadVerifier(pub, crypto.SHA256)
		_, ours := oursig.LoadVerifier(pub, crypto.SHA256)
		if theirs == nil || ours == nil {
			t.Errorf("key %v: the real library says %v, the stand-in %v", pub, theirs, ours)
		}
	}
	if _, err := oursig.LoadRSAPSSVerifier(nil, crypto.SHA256, nil); err == nil {
		t.Error("no RSA key is accepted")
	}
}

func TestSamePEM(t *testing.T) {
	var inputs [][]byte
	for _, s := range good(t) {
		theirs, err1 := realutils.MarshalPublicKeyToPEM(s.pub)
		ours, err2 := ourutils.MarshalPublicKeyToPEM(s.pub)
		if err1 != nil || err2 != nil || !bytes.Equal(theirs, ours) {
			t.Errorf("%s: written as\n%s (%v) and\n%s (%v)", s.name, theirs, err1, ours, err2)
		}
		der, _ := x509.MarshalPKIXPublicKey(s.pub)
		inputs = append(inputs, ours, ours[:len(ours)-8], ours[10:], append(bytes.Clone(ours), ours...), append([]byte("text\n"), ours...), der,
			pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
			pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY", Bytes: der}),
			pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der[:len(der)-1]}),
			pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Headers: map[string]string{"a": "b"}, Bytes: der}),
			bytes.ReplaceAll(ours, []byte("\n"), []byte("\r\n")))
		if k, ok := s.pub.(*rsa.PublicKey); ok {
			inputs = append(inputs, pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY", Bytes: x509.MarshalPKCS1PublicKey(k)}))
		}
		sum := sha256.Sum256(der)
		inputs = append(inputs, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: sum[:]}))
	}
	inputs = append(inputs, nil, []byte("-----BEGIN PUBLIC KEY-----"), []byte("-----BEGIN PUBLIC KEY-----\n!!!\n-----END PUBLIC KEY-----\n"))
	for i, in := range inputs {
		theirs, err1 := realutils.UnmarshalPEMToPublicKey(in)
		ours, err2 := ourutils.UnmarshalPEMToPublicKey(in)
		if (err1 == nil) != (err2 == nil) {
			t.Errorf("input %d: the real library says %v, the stand-in %v", i, err1, err2)
			continue
		}
		if k, ok := theirs.(interface{ Equal(crypto.PublicKey) bool }); err1 == nil && (!ok || !k.Equal(ours)) {
			t.Errorf("input %d: read as different keys", i)
		}
	}
	t.Logf("%d inputs compared", len(inputs))
}
