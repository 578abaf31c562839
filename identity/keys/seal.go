// SPDX-License-Identifier: Apache-2.0

package keys

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/backstay/backstay/identity"
)

// sealed is a key file. Its header is authenticated together with the key.
type sealed struct {
	Version int            `json:"backstay_key"` // 1
	Slot    identity.Slot  `json:"slot"`
	Class   identity.Class `json:"class"`
	Made    int64          `json:"made"` // seconds since 1970, by the trusted clock of then
	// Kinds are the identifiers the key is sealed under. They are named, so that one that becomes readable later, or one that
	// is not part of the board, does not lock the key away.
	Kinds []string `json:"kinds,omitempty"`
	Salt  []byte   `json:"salt,omitempty"`
	Key   []byte   `json:"key"` // file-bound: nonce and AES-256-GCM of PKCS#8; file-plain: PKCS#8
}

const (
	sealVersion = 1
	maxKeyFile  = 4096
	saltSize    = 32
	maxKinds    = 8
)

// seal makes the content of a key file.
func seal(priv *ecdsa.PrivateKey, slot identity.Slot, ids []ID, now time.Time) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		return nil, err
	}
	s := sealed{Version: sealVersion, Slot: slot, Class: identity.ClassFilePlain, Made: now.Unix(), Key: der}
	if len(ids) > 0 {
		s.Class, s.Salt = identity.ClassFileBound, make([]byte, saltSize)
		if _, err := rand.Read(s.Salt); err != nil {
			return nil, err
		}
		for _, id := range ids {
			s.Kinds = append(s.Kinds, id.Kind)
		}
		aead, err := s.aead(ids)
		if err != nil {
			return nil, err
		}
		s.Key = aead.Seal(nil, nil, der, s.header())
	}
	b, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	return append(b, '\n'), nil
}

// unseal reads a key file. The error is identity.ErrOtherBoard when an identifier it was sealed under is missing or changed.
func unseal(b []byte, slot identity.Slot, ids []ID) (*ecdsa.PrivateKey, identity.Class, error) {
	s, err := parseSealed(b, slot)
	if err != nil {
		return nil, "", err
	}
	der := s.Key
	if s.Class == identity.ClassFileBound {
		var bound []ID
		for _, kind := range s.Kinds {
			n := slices.IndexFunc(ids, func(id ID) bool { return id.Kind == kind })
			if n < 0 {
				return nil, "", fmt.Errorf("%w: it has no %s", identity.ErrOtherBoard, kind)
			}
			bound = append(bound, ids[n])
		}
		aead, err := s.aead(bound)
		if err != nil {
			return nil, "", err
		}
		// A changed identifier and a changed file look the same to the cipher. The file's form is intact, so the board it is.
		if der, err = aead.Open(nil, nil, s.Key, s.header()); err != nil {
			return nil, "", fmt.Errorf("%w: its seal does not open with this board's identifiers", identity.ErrOtherBoard)
		}
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, "", fmt.Errorf("%w: %w", identity.ErrDamagedKey, err)
	}
	priv, ok := key.(*ecdsa.PrivateKey)
	if !ok || priv.Curve != elliptic.P256() {
		return nil, "", fmt.Errorf("%w: not an ECDSA P-256 key", identity.ErrDamagedKey)
	}
	return priv, s.Class, nil
}

func parseSealed(b []byte, slot identity.Slot) (sealed, error) {
	damaged := func(why string) (sealed, error) { return sealed{}, fmt.Errorf("%w: %s", identity.ErrDamagedKey, why) }
	if len(b) > maxKeyFile {
		return damaged("too long")
	}
	var s sealed
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return damaged("not a key file")
	}
	if rest := b[d.InputOffset():]; len(bytes.TrimSpace(rest)) != 0 {
		return damaged("bytes behind the key")
	}
	switch {
	case s.Version != sealVersion:
		return damaged(fmt.Sprintf("version %d", s.Version))
	case s.Slot != slot:
		return damaged("it is the key of another slot")
	case s.Class == identity.ClassFilePlain && len(s.Kinds)+len(s.Salt) == 0:
	case s.Class == identity.ClassFileBound && len(s.Kinds) > 0 && len(s.Kinds) <= maxKinds && len(s.Salt) == saltSize:
	default:
		return damaged("its header contradicts itself")
	}
	return s, nil
}

// header is what the cipher authenticates beside the key.
func (s sealed) header() []byte {
	h := sha256.New()
	field := func(b []byte) {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(b))))
		h.Write(b)
	}
	field([]byte("backstay key file"))
	field(binary.BigEndian.AppendUint64(nil, uint64(s.Version)))
	field([]byte(s.Slot))
	field([]byte(s.Class))
	field(binary.BigEndian.AppendUint64(nil, uint64(s.Made)))
	for _, k := range s.Kinds {
		field([]byte(k))
	}
	field(s.Salt)
	return h.Sum(nil)
}

// aead is the cipher for a key sealed under ids, in the order of Kinds. Its nonce is random and travels with the sealed text.
func (s sealed) aead(ids []ID) (cipher.AEAD, error) {
	var secret []byte
	for _, id := range ids {
		for _, part := range []string{id.Kind, id.Value} {
			secret = binary.BigEndian.AppendUint32(secret, uint32(len(part)))
			secret = append(secret, part...)
		}
	}
	key, err := hkdf.Key(sha256.New, secret, s.Salt, "backstay key file 1 "+string(s.Slot), 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}
