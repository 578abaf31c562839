// SPDX-License-Identifier: Apache-2.0

package logging

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

// Checkpoint is the head of a log: how many records, and the root over them. Its text form is a C2SP tlog-checkpoint
// without extension lines (https://c2sp.org/tlog-checkpoint): origin, size in decimal, root in base64.
type Checkpoint struct {
	Origin Origin
	Size   uint64
	Root   Hash
}

// Body returns the three lines that are signed.
func (c Checkpoint) Body() string {
	return c.Origin.String() + "\n" + strconv.FormatUint(c.Size, 10) + "\n" + base64.StdEncoding.EncodeToString(c.Root[:]) + "\n"
}

// ParseCheckpointBody is the inverse of [Checkpoint.Body] and accepts nothing else. Errors match ErrRefused.
func ParseCheckpointBody(body string) (Checkpoint, error) {
	bad := func(why string) (Checkpoint, error) { return Checkpoint{}, refuse(CodeMalformed, "checkpoint", why) }
	if len(body) > MaxNote {
		return bad("too long")
	}
	lines := strings.Split(body, "\n")
	if len(lines) != 4 || lines[3] != "" {
		return bad("not three lines")
	}
	origin, err := ParseOrigin(lines[0])
	if err != nil {
		return Checkpoint{}, err
	}
	size, err := strconv.ParseUint(lines[1], 10, 64)
	if err != nil || size > math.MaxInt64 || strconv.FormatUint(size, 10) != lines[1] {
		return bad("size is not a number")
	}
	root, err := base64.StdEncoding.Strict().DecodeString(lines[2])
	if err != nil || len(root) != HashSize {
		return bad("root is not a hash in base64")
	}
	return Checkpoint{Origin: origin, Size: size, Root: Hash(root)}, nil
}

// CheckpointSigner signs the checkpoints of one device. It is safe for concurrent use if the key is.
type CheckpointSigner struct {
	key  crypto.Signer
	spki []byte
	hash uint32
	id   string
}

// NewCheckpointSigner takes the birth key of the device, which must be ECDSA P-256 (ErrSetup otherwise). The private key
// may live anywhere a crypto.Signer can reach.
func NewCheckpointSigner(key crypto.Signer) (*CheckpointSigner, error) {
	pub, ok := key.Public().(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() {
		return nil, fmt.Errorf("open checkpoint key: not an ECDSA P-256 key: %w", ErrSetup)
	}
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("open checkpoint key: %w", err)
	}
	return &CheckpointSigner{key: key, spki: spki, hash: spkiKeyHash(spki), id: deviceID(spki)}, nil
}

// DeviceID returns the id that belongs to the key.
func (s *CheckpointSigner) DeviceID() string { return s.id }

// SPKI returns the public key in SubjectPublicKeyInfo form.
func (s *CheckpointSigner) SPKI() []byte { return bytes.Clone(s.spki) }

// Sign returns the signed note of c. It refuses a checkpoint of another device. The signature is checked before it is
// returned, because hardware keys do return wrong ones.
func (s *CheckpointSigner) Sign(c Checkpoint) ([]byte, error) {
	if c.Origin.Device != s.id {
		return nil, refuse(CodeDeviceMismatch, "checkpoint of "+c.Origin.String(), "this key belongs to device "+s.id)
	}
	msg, err := note.Sign(&note.Note{Text: c.Body()}, noteSigner{s, c.Origin.String()})
	if err != nil {
		return nil, fmt.Errorf("sign checkpoint of %d records: %w", c.Size, err)
	}
	if _, err := OpenCheckpoint(msg, s.spki); err != nil {
		return nil, fmt.Errorf("sign checkpoint of %d records: key returned a wrong signature: %w", c.Size, err)
	}
	return msg, nil
}

// noteSigner is a [note.Signer] of C2SP type 0x02, as transparency-dev/formats does it: ECDSA over SHA-256 of the text in
// ASN.1 DER, key hash = the first four bytes of SHA-256(SPKI). The name of the key is the origin of the log.
type noteSigner struct {
	s    *CheckpointSigner
	name string
}

func (n noteSigner) Name() string    { return n.name }
func (n noteSigner) KeyHash() uint32 { return n.s.hash }
func (n noteSigner) Sign(msg []byte) ([]byte, error) {
	sum := sha256.Sum256(msg)
	return n.s.key.Sign(rand.Reader, sum[:], crypto.SHA256)
}

type noteVerifier struct {
	name string
	hash uint32
	pub  *ecdsa.PublicKey
}

func (n noteVerifier) Name() string    { return n.name }
func (n noteVerifier) KeyHash() uint32 { return n.hash }
func (n noteVerifier) Verify(msg, sig []byte) bool {
	sum := sha256.Sum256(msg)
	return ecdsa.VerifyASN1(n.pub, sum[:], sig)
}

func spkiKeyHash(spki []byte) uint32 {
	sum := sha256.Sum256(spki)
	return binary.BigEndian.Uint32(sum[:4])
}

// CheckpointVerifierKey returns the key of a device in the text form verifiers of signed notes take:
// "<origin>+<hash>+<base64(0x02 || SPKI)>".
func CheckpointVerifierKey(origin Origin, spki []byte) string {
	return fmt.Sprintf("%s+%08x+%s", origin, spkiKeyHash(spki), base64.StdEncoding.EncodeToString(append([]byte{2}, spki...)))
}

// OpenCheckpoint parses a signed checkpoint and verifies it with the device key spki, which must also be the key the
// device id in the origin is made of. Signatures of others in the same note (cosignatures) are ignored here. Errors match
// ErrRefused; the codes are CodeMalformed, CodeDeviceMismatch and CodeBadCheckpoint.
func OpenCheckpoint(msg, spki []byte) (Checkpoint, error) {
	if len(msg) > MaxNote {
		return Checkpoint{}, refuse(CodeMalformed, "checkpoint", "too long")
	}
	body, err := noteBody(msg)
	if err != nil {
		return Checkpoint{}, err
	}
	c, err := ParseCheckpointBody(body)
	if err != nil {
		return Checkpoint{}, err
	}
	what := fmt.Sprintf("checkpoint of %d records of %s", c.Size, c.Origin)
	if len(spki) > MaxSPKI {
		return Checkpoint{}, refuse(CodeMalformed, what, "device key too long")
	}
	if id := deviceID(spki); id != c.Origin.Device {
		return Checkpoint{}, refuse(CodeDeviceMismatch, what, "the key presented with it belongs to device "+id)
	}
	key, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return Checkpoint{}, refuseErr(CodeMalformed, what, err)
	}
	pub, ok := key.(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() {
		return Checkpoint{}, refuse(CodeMalformed, what, "the device key is not ECDSA P-256")
	}
	v := noteVerifier{name: c.Origin.String(), hash: spkiKeyHash(spki), pub: pub}
	if _, err := note.Open(msg, note.VerifierList(v)); err != nil {
		return Checkpoint{}, &Refusal{Code: CodeBadCheckpoint, What: what, Why: "not signed by the device key", Err: err}
	}
	return c, nil
}

// noteBody cuts the text out of a signed note: everything before the last blank line, which stays unverified until a
// signature over it is checked.
func noteBody(msg []byte) (string, error) {
	i := bytes.LastIndex(msg, []byte("\n\n"))
	if i < 0 {
		return "", refuse(CodeMalformed, "signed note", "no blank line before the signatures")
	}
	return string(msg[:i+1]), nil
}
