// SPDX-License-Identifier: Apache-2.0

package logging_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/backstay/backstay/logging"
)

// The text of a checkpoint is what tlog-checkpoint and signed-note say, checked without the library that writes it.
func TestCheckpointText(t *testing.T) {
	r := newRig(t).grow(t, 5)
	msg := string(r.heads[5])
	lines := strings.Split(msg, "\n")
	root := r.tree.Root()
	if len(lines) != 6 || lines[0] != r.origin.String() || lines[1] != "5" || lines[2] != base64.StdEncoding.EncodeToString(root[:]) || lines[3] != "" || lines[5] != "" {
		t.Fatalf("checkpoint is %q", msg)
	}
	name, sig64, _ := strings.Cut(strings.TrimPrefix(lines[4], "— "), " ")
	sig, err := base64.StdEncoding.DecodeString(sig64)
	if err != nil || name != r.origin.String() {
		t.Fatalf("signature line %q", lines[4])
	}
	keyHash := sha256.Sum256(r.signer.SPKI())
	if !bytes.Equal(sig[:4], keyHash[:4]) {
		t.Error("key hash is not the start of SHA-256(SPKI)")
	}
	vkey := logging.CheckpointVerifierKey(r.origin, r.signer.SPKI())
	if want := fmt.Sprintf("%s+%x+%s", r.origin, keyHash[:4], base64.StdEncoding.EncodeToString(append([]byte{2}, r.signer.SPKI()...))); vkey != want {
		t.Errorf("verifier key %q, want %q", vkey, want)
	}
}

func TestOpenCheckpointRefuses(t *testing.T) {
	r, other := newRig(t).grow(t, 5), newRig(t).grow(t, 5)
	good := string(r.heads[5])
	spki := r.signer.SPKI()
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	for _, tc := range []struct {
		name string
		msg  string
		spki []byte
		code string
	}{
		{"size changed", strings.Replace(good, "\n5\n", "\n6\n", 1), spki, logging.CodeBadCheckpoint},
		{"other key, same device name", good, other.signer.SPKI(), logging.CodeDeviceMismatch},
		{"no signature", good[:strings.Index(good, "\n\n")+2], spki, logging.CodeBadCheckpoint},
		{"signature of another", good[:strings.Index(good, "\n\n")+2] + string(other.heads[5])[strings.Index(string(other.heads[5]), "— "):], spki, logging.CodeBadCheckpoint},
		{"extension line", strings.Replace(good, "\n\n", "\nextra\n\n", 1), spki, logging.CodeMalformed},
		{"leading zero", strings.Replace(good, "\n5\n", "\n05\n", 1), spki, logging.CodeMalformed},
		{"negative", strings.Replace(good, "\n5\n", "\n-5\n", 1), spki, logging.CodeMalformed},
		{"beyond int64", strings.Replace(good, "\n5\n", "\n9223372036854775808\n", 1), spki, logging.CodeMalformed},
		{"empty", "", spki, logging.CodeMalformed},
		{"too long", strings.Repeat("x", logging.MaxNote+1), spki, logging.CodeMalformed},
		{"key not a key", good, []byte("nonsense"), logging.CodeDeviceMismatch},
		{"key too long", good, make([]byte, logging.MaxSPKI+1), logging.CodeMalformed},
	} {
		if _, err := logging.OpenCheckpoint([]byte(tc.msg), tc.spki); code(err) != tc.code {
			t.Errorf("%s: %v, want %s", tc.name, err, tc.code)
		}
	}
	if _, err := logging.NewCheckpointSigner(ed); !errors.Is(err, logging.ErrSetup) {
		t.Errorf("an Ed25519 key: %v", err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := logging.NewCheckpointSigner(p384); !errors.Is(err, logging.ErrSetup) {
		t.Errorf("a P-384 key: %v", err)
	}
	if _, err := r.signer.Sign(other.head()); code(err) != logging.CodeDeviceMismatch {
		t.Errorf("signing for another device: %v", err)
	}
}

// lyingKey returns signatures of another key, as broken hardware does.
type lyingKey struct{ pub, priv *ecdsa.PrivateKey }

func (k lyingKey) Public() crypto.PublicKey { return k.pub.Public() }
func (k lyingKey) Sign(r io.Reader, d []byte, o crypto.SignerOpts) ([]byte, error) {
	return k.priv.Sign(r, d, o)
}

func TestSignChecksWhatTheKeyReturns(t *testing.T) {
	a, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	b, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	s, err := logging.NewCheckpointSigner(lyingKey{a, b})
	if err != nil {
		t.Fatal(err)
	}
	if msg, err := s.Sign(logging.Checkpoint{Origin: logging.Origin{Device: s.DeviceID(), Epoch: 1}}); err == nil {
		t.Errorf("a wrong signature was handed out: %q", msg)
	}
}

// The receipt is cosignature/v1 as C2SP writes it, checked with the standard library.
func TestReceiptText(t *testing.T) {
	r := newRig(t).grow(t, 5)
	key := r.collector.Key()
	msg := string(r.receipt(t, r.collector))
	body, sigs, _ := strings.Cut(msg, "\n\n")
	name, sig64, _ := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(sigs, "— "), "\n"), " ")
	sig, err := base64.StdEncoding.DecodeString(sig64)
	if err != nil || name != "collector.example" || len(sig) != 4+8+64 {
		t.Fatalf("signature line %q", sigs)
	}
	raw, err := base64.StdEncoding.DecodeString(strings.SplitN(key.String(), "+", 3)[2])
	if err != nil || raw[0] != 4 {
		t.Fatalf("key %q", key)
	}
	sum := sha256.Sum256(append([]byte("collector.example\n"), raw...))
	if !bytes.Equal(sig[:4], sum[:4]) || binary.BigEndian.Uint32(sum[:]) != key.KeyHash() {
		t.Error("key hash is wrong")
	}
	signed := fmt.Sprintf("cosignature/v1\ntime %d\n%s\n", epoch0.Unix(), body)
	if binary.BigEndian.Uint64(sig[4:]) != uint64(epoch0.Unix()) || !ed25519.Verify(raw[1:], []byte(signed), sig[12:]) {
		t.Error("signature does not verify")
	}
}

func TestReceiptRoundTrip(t *testing.T) {
	r := newRig(t).grow(t, 5)
	got, err := r.policy(t, 1).Open(r.receipt(t, r.collector))
	if err != nil || len(got) != 1 {
		t.Fatal(err)
	}
	if got[0].Checkpoint != r.head() || got[0].Key != "collector.example" || !got[0].Time.Equal(epoch0) {
		t.Errorf("receipt = %+v", got[0])
	}
	// One note with two cosignatures and one of a stranger: two receipts.
	stranger := receiptSigner(t, "stranger.example")
	a, b, c := string(r.receipt(t, r.collector)), string(r.receipt(t, r.agency)), string(r.receipt(t, stranger))
	both := a + b[strings.Index(b, "— "):] + c[strings.Index(c, "— "):]
	if got, err := r.policy(t, 2).Open([]byte(both)); err != nil || len(got) != 2 {
		t.Errorf("%d receipts, %v", len(got), err)
	}
}

func TestReceiptRefuses(t *testing.T) {
	r := newRig(t).grow(t, 5)
	good := string(r.receipt(t, r.collector))
	stranger := string(r.receipt(t, receiptSigner(t, "stranger.example")))
	impostor := string(r.receipt(t, receiptSigner(t, "collector.example")))
	p := r.policy(t, 1)
	for _, tc := range []struct{ name, msg, code string }{
		{"stranger", stranger, logging.CodeBadReceipt}, {"same name, other key", impostor, logging.CodeBadReceipt},
		{"device signature only", string(r.heads[5]), logging.CodeBadReceipt},
		{"forged", string(forge([]byte(good))), logging.CodeBadReceipt},
		{"size raised", strings.Replace(good, "\n5\n", "\n6\n", 1), logging.CodeBadReceipt},
		{"empty", "", logging.CodeMalformed}, {"too long", strings.Repeat("x", logging.MaxNote+1), logging.CodeMalformed},
	} {
		if _, err := p.Open([]byte(tc.msg)); code(err) != tc.code {
			t.Errorf("%s: %v, want %s", tc.name, err, tc.code)
		}
	}
	if _, err := (logging.Policy{}).Open([]byte(good)); code(err) != logging.CodeBadReceipt {
		t.Errorf("the empty policy took a receipt: %v", err)
	}
	if _, err := r.collector.Sign(r.head(), time.Unix(-5, 0)); !errors.Is(err, logging.ErrSetup) {
		t.Errorf("a time before 1970: %v", err)
	}
}

func TestParseReceiptKeyRefuses(t *testing.T) {
	good := receiptSigner(t, "collector.example").Key().String()
	if k, err := logging.ParseReceiptKey(good); err != nil || k.String() != good {
		t.Fatalf("%v, %v", k, err)
	}
	name, rest, _ := strings.Cut(good, "+")
	hash, key, _ := strings.Cut(rest, "+")
	for _, s := range []string{"", "+", "a+b+c", name, name + "+" + hash, "other+" + hash + "+" + key, name + "+00000000+" + key, name + "+" + hash + "+AAAA",
		"two words+" + hash + "+" + key, name + "+" + hash + "+" + base64.StdEncoding.EncodeToString(append([]byte{1}, make([]byte, 32)...))} {
		if _, err := logging.ParseReceiptKey(s); !errors.Is(err, logging.ErrSetup) {
			t.Errorf("%q: %v", s, err)
		}
	}
	if _, err := logging.NewReceiptSigner("a b", ed25519.NewKeyFromSeed(make([]byte, 32))); !errors.Is(err, logging.ErrSetup) {
		t.Errorf("a name with a space: %v", err)
	}
}

func TestPolicyRefuses(t *testing.T) {
	a, b := receiptSigner(t, "a").Key().String(), receiptSigner(t, "b").Key().String()
	_, priv, _ := ed25519.GenerateKey(rand.Reader)
	one, _ := logging.NewReceiptSigner("one", priv)
	two, _ := logging.NewReceiptSigner("two", priv)
	for _, tc := range []struct {
		keys   []string
		quorum int
	}{{[]string{a, a}, 1}, {[]string{one.Key().String(), two.Key().String()}, 2}, {[]string{a}, 0}, {[]string{a, b}, 3}, {[]string{a, "nonsense"}, 1}, {slices.Repeat([]string{a}, 17), 1}} {
		if _, err := logging.NewPolicy(tc.keys, tc.quorum); !errors.Is(err, logging.ErrSetup) {
			t.Errorf("%d keys, quorum %d: %v", len(tc.keys), tc.quorum, err)
		}
	}
	if _, err := logging.NewPolicy(nil, 0); err != nil {
		t.Errorf("no keys at all is a policy that deletes nothing: %v", err)
	}
}

func TestQuorumCountsKeysNotReceipts(t *testing.T) {
	r := newRig(t)
	at := func(s *logging.ReceiptSigner, size uint64) logging.Receipt {
		return logging.Receipt{Checkpoint: logging.Checkpoint{Size: size}, Key: s.Key().Name(), KeyHash: s.Key().KeyHash()}
	}
	stranger := receiptSigner(t, "stranger")
	for _, tc := range []struct {
		quorum int
		got    []logging.Receipt
		want   uint64
	}{
		{1, nil, 0}, {1, []logging.Receipt{at(r.collector, 5)}, 5}, {2, []logging.Receipt{at(r.collector, 5)}, 0},
		{2, []logging.Receipt{at(r.collector, 5), at(r.collector, 9)}, 0},
		{2, []logging.Receipt{at(r.collector, 5), at(r.agency, 9)}, 5}, {1, []logging.Receipt{at(r.collector, 5), at(r.agency, 9)}, 9},
		{1, []logging.Receipt{at(stranger, 100)}, 0}, {2, []logging.Receipt{at(stranger, 100), at(r.collector, 7)}, 0},
	} {
		if got := r.policy(t, tc.quorum).Acked(tc.got); got != tc.want {
			t.Errorf("quorum %d, %d receipts: %d, want %d", tc.quorum, len(tc.got), got, tc.want)
		}
	}
	if got := (logging.Policy{}).Acked([]logging.Receipt{at(r.collector, 5)}); got != 0 {
		t.Errorf("the empty policy counted a receipt: %d", got)
	}
}

func FuzzOpenCheckpoint(f *testing.F) {
	h, items := goldenEvidence(f)
	for _, it := range items {
		if it.Checkpoint != nil {
			f.Add(it.Checkpoint, h.SPKI)
		}
	}
	f.Fuzz(func(t *testing.T, msg, spki []byte) {
		c, err := logging.OpenCheckpoint(msg, spki)
		if err != nil {
			if code(err) == "" {
				t.Errorf("error without a code: %v", err)
			}
			return
		}
		if again, err := logging.ParseCheckpointBody(c.Body()); err != nil || again != c {
			t.Errorf("%+v, %v", again, err)
		}
	})
}

func FuzzReceipt(f *testing.F) {
	_, items := goldenEvidence(f)
	for _, it := range items {
		if it.Receipt != nil {
			f.Add(it.Receipt)
		}
	}
	p, err := logging.NewPolicy([]string{strings.TrimSpace(string(readFile(f, "testdata/golden.receipt-key")))}, 1)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		got, err := p.Open(msg)
		if err == nil && (len(got) != 1 || got[0].Checkpoint.Size > 200) {
			t.Errorf("accepted %q", msg)
		}
	})
}
