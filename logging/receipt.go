// SPDX-License-Identifier: Apache-2.0

package logging

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
)

// Receipts are C2SP cosignatures, type cosignature/v1 with Ed25519 (https://c2sp.org/tlog-cosignature): the signed message
// is "cosignature/v1\ntime <unix seconds>\n" followed by the checkpoint body; the signature is the time as eight bytes,
// big-endian, followed by 64 bytes of Ed25519; the key hash covers the name, the type 0x04 and the key. The meaning is that
// of a mirror: the signer has durably stored every record the checkpoint covers.
const cosignatureType = 0x04

// MaxReceiptKeys bounds the keys of a [Policy].
const MaxReceiptKeys = 16

// Receipt is one verified acknowledgement.
type Receipt struct {
	Checkpoint Checkpoint
	Key        string    // name of the key that signed
	KeyHash    uint32    // tells two keys of one name apart
	Time       time.Time // when the signer says it signed, UTC, seconds
}

// ReceiptKey is the public half of a key whose receipts count; it is a note.Verifier. Its text form is a note verifier key,
// "<name>+<hash>+<base64(0x04 || key)>".
type ReceiptKey struct {
	name string
	hash uint32
	pub  ed25519.PublicKey
}

// Name returns the name of the key.
func (k ReceiptKey) Name() string { return k.name }

// KeyHash returns the four bytes that tell keys of one name apart.
func (k ReceiptKey) KeyHash() uint32 { return k.hash }

// String returns the text form that [ParseReceiptKey] takes.
func (k ReceiptKey) String() string {
	return fmt.Sprintf("%s+%08x+%s", k.name, k.hash, base64.StdEncoding.EncodeToString(append([]byte{cosignatureType}, k.pub...)))
}

// ParseReceiptKey reads the text form of a receipt key. Errors match ErrSetup: the text comes from a configuration.
func ParseReceiptKey(s string) (ReceiptKey, error) {
	bad := func(why string) (ReceiptKey, error) {
		return ReceiptKey{}, fmt.Errorf("read receipt key: %s: %w", why, ErrSetup)
	}
	name, rest, _ := strings.Cut(s, "+")
	hash, key64, ok := strings.Cut(rest, "+")
	if !ok || len(s) > 512 || !validKeyName(name) {
		return bad("not of the form name+hash+key")
	}
	key, err := base64.StdEncoding.Strict().DecodeString(key64)
	if err != nil || len(key) != 1+ed25519.PublicKeySize {
		return bad("key is not 33 bytes in base64")
	}
	if key[0] != cosignatureType {
		return bad(fmt.Sprintf("type 0x%02x, want 0x04 (cosignature/v1, Ed25519)", key[0]))
	}
	k := newReceiptKey(name, key[1:])
	if want, err := strconv.ParseUint(hash, 16, 32); err != nil || len(hash) != 8 || uint32(want) != k.hash {
		return bad("hash does not belong to name and key")
	}
	return k, nil
}

func newReceiptKey(name string, pub ed25519.PublicKey) ReceiptKey {
	h := sha256.New()
	h.Write([]byte(name + "\n"))
	h.Write([]byte{cosignatureType})
	h.Write(pub)
	return ReceiptKey{name: name, hash: binary.BigEndian.Uint32(h.Sum(nil)), pub: slices.Clone(pub)}
}

// validKeyName holds names to what every implementation of signed notes takes: printable ASCII without space and plus.
func validKeyName(s string) bool {
	return s != "" && len(s) <= MaxOrigin && strings.IndexFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == '+' }) < 0
}

func cosignedMessage(unix uint64, body []byte) []byte {
	return append([]byte("cosignature/v1\ntime "+strconv.FormatUint(unix, 10)+"\n"), body...)
}

// Verify implements note.Verifier for cosignatures.
func (k ReceiptKey) Verify(msg, sig []byte) bool {
	if len(sig) != 8+ed25519.SignatureSize {
		return false
	}
	return ed25519.Verify(k.pub, cosignedMessage(binary.BigEndian.Uint64(sig), msg), sig[8:])
}

// ReceiptSigner gives receipts: the collector's side. It is safe for concurrent use if the key is.
type ReceiptSigner struct {
	signer crypto.Signer
	key    ReceiptKey
}

// NewReceiptSigner takes an Ed25519 key and the name it is known by. Errors match ErrSetup.
func NewReceiptSigner(name string, key crypto.Signer) (*ReceiptSigner, error) {
	pub, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("open receipt key: not an Ed25519 key: %w", ErrSetup)
	}
	if !validKeyName(name) {
		return nil, fmt.Errorf("open receipt key: name must be printable, without space and plus: %w", ErrSetup)
	}
	return &ReceiptSigner{signer: key, key: newReceiptKey(name, pub)}, nil
}

// Key returns the public half, to put into the configuration of devices and verifiers.
func (s *ReceiptSigner) Key() ReceiptKey { return s.key }

// Sign returns a receipt for c as a signed note. The caller must have stored every record c covers durably before, and
// must have recomputed c.Root from them.
func (s *ReceiptSigner) Sign(c Checkpoint, now time.Time) ([]byte, error) {
	unix := now.Unix()
	if unix < 0 {
		return nil, fmt.Errorf("sign receipt for %s: time before 1970: %w", c.Origin, ErrSetup)
	}
	msg, err := note.Sign(&note.Note{Text: c.Body()}, cosigner{s, uint64(unix)})
	if err != nil {
		return nil, fmt.Errorf("sign receipt for %d records of %s: %w", c.Size, c.Origin, err)
	}
	return msg, nil
}

type cosigner struct {
	s    *ReceiptSigner
	unix uint64
}

func (c cosigner) Name() string    { return c.s.key.name }
func (c cosigner) KeyHash() uint32 { return c.s.key.hash }
func (c cosigner) Sign(msg []byte) ([]byte, error) {
	sig, err := c.s.signer.Sign(rand.Reader, cosignedMessage(c.unix, msg), crypto.Hash(0))
	if err != nil {
		return nil, err
	}
	return append(binary.BigEndian.AppendUint64(nil, c.unix), sig...), nil
}

// Policy says whose receipts count and how many of them make records deletable: any Quorum of Keys. The zero Policy has no
// keys, so no receipt counts and nothing is ever deletable.
type Policy struct {
	Keys   []ReceiptKey
	Quorum int // 1 <= Quorum <= len(Keys)
}

// NewPolicy reads the keys and checks the numbers. Errors match ErrSetup.
func NewPolicy(keys []string, quorum int) (Policy, error) {
	var p Policy
	if len(keys) > MaxReceiptKeys {
		return p, fmt.Errorf("read receipt policy: more than %d keys: %w", MaxReceiptKeys, ErrSetup)
	}
	for _, s := range keys {
		k, err := ParseReceiptKey(s)
		if err != nil {
			return Policy{}, err
		}
		// The same key twice, under whatever name, would let one signer be a quorum of two.
		if slices.ContainsFunc(p.Keys, func(o ReceiptKey) bool { return o.pub.Equal(k.pub) }) {
			return Policy{}, fmt.Errorf("read receipt policy: key %s is listed twice: %w", k.name, ErrSetup)
		}
		p.Keys = append(p.Keys, k)
	}
	if len(p.Keys) > 0 && (quorum < 1 || quorum > len(p.Keys)) {
		return Policy{}, fmt.Errorf("read receipt policy: quorum %d of %d keys: %w", quorum, len(p.Keys), ErrSetup)
	}
	p.Quorum = quorum
	return p, nil
}

// Open verifies a receipt and returns one Receipt per listed key that signed it, at least one. Signatures of unlisted keys
// are ignored. A wrong signature in the name of a listed key refuses the whole note. Errors match ErrRefused with code
// CodeMalformed or CodeBadReceipt.
func (p Policy) Open(msg []byte) ([]Receipt, error) {
	if len(msg) > MaxNote {
		return nil, refuse(CodeMalformed, "receipt", "too long")
	}
	body, err := noteBody(msg)
	if err != nil {
		return nil, err
	}
	c, err := ParseCheckpointBody(body)
	if err != nil {
		return nil, err
	}
	what := fmt.Sprintf("receipt for %d records of %s", c.Size, c.Origin)
	verifiers := make([]note.Verifier, len(p.Keys))
	for i, k := range p.Keys {
		verifiers[i] = k
	}
	n, err := note.Open(msg, note.VerifierList(verifiers...))
	if err != nil {
		return nil, &Refusal{Code: CodeBadReceipt, What: what, Why: "not signed by a key this device accepts receipts from", Err: err}
	}
	var out []Receipt
	for _, s := range n.Sigs {
		sig, err := base64.StdEncoding.DecodeString(s.Base64)
		if err != nil || len(sig) < 12 {
			return nil, refuse(CodeMalformed, what, "signature too short")
		}
		unix := binary.BigEndian.Uint64(sig[4:])
		if unix > 1<<40 {
			return nil, refuse(CodeMalformed, what, "time out of range")
		}
		out = append(out, Receipt{Checkpoint: c, Key: s.Name, KeyHash: s.Hash, Time: time.Unix(int64(unix), 0).UTC()})
	}
	return out, nil
}

// Acked returns how many records a quorum of the policy has acknowledged: the Quorum-th largest size among the newest
// receipts, one per key. It is 0 when too few keys have signed.
func (p Policy) Acked(newest []Receipt) uint64 {
	if p.Quorum < 1 {
		return 0
	}
	var sizes []uint64
	for _, k := range p.Keys {
		best, signed := uint64(0), false
		for _, r := range newest {
			if k.name == r.Key && k.hash == r.KeyHash {
				best, signed = max(best, r.Checkpoint.Size), true
			}
		}
		if signed {
			sizes = append(sizes, best)
		}
	}
	if len(sizes) < p.Quorum {
		return 0
	}
	slices.Sort(sizes)
	return sizes[len(sizes)-p.Quorum]
}
