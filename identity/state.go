// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// recordVersion is the layout of record. A higher number was written by a newer agent.
const recordVersion = 1

// maxRecord is the most a record may take, in bytes: two chains of certificates and the birth certificate.
const maxRecord = 128 << 10

var errDamagedState = errors.New("the identity state is damaged")

// record is everything Identity remembers. Its pointers are the only truth about which key is which: a key in a slot that no
// field names holds nothing that works.
type record struct {
	Version     int               `json:"backstay"`
	BirthIntent bool              `json:"birth_intent,omitempty"` // saved before the birth key is made
	Birth       *birthRecord      `json:"birth,omitempty"`
	Current     Slot              `json:"current,omitempty"`  // presented by TLS
	Previous    Slot              `json:"previous,omitempty"` // kept until Current has proved itself
	Pending     Slot              `json:"pending,omitempty"`  // a key is, or is about to be, in it; saved before generation
	Certs       map[Slot][][]byte `json:"certs,omitempty"`    // DER, own certificate first, root left out
	Rejected    string            `json:"rejected,omitempty"` // why Current no longer works
	Failures    int               `json:"failures,omitempty"` // attempts since something last worked
	RetryAt     time.Time         `json:"retry_at,omitzero"`
	LastError   string            `json:"last_error,omitempty"`
}

// birthRecord is what was fixed when the birth key was made.
type birthRecord struct {
	DeviceID    string    `json:"device_id"`
	Certificate []byte    `json:"certificate"` // DER, self-signed
	Serial      string    `json:"serial,omitempty"`
	Class       Class     `json:"class"`
	Time        time.Time `json:"time"`
}

func (r record) clone() record {
	r.Certs = maps.Clone(r.Certs)
	if r.Certs == nil {
		r.Certs = map[Slot][][]byte{}
	}
	return r
}

func (r record) encode() ([]byte, error) {
	r.Version = recordVersion
	b, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode identity state: %w", err)
	}
	if len(b) > maxRecord {
		return nil, fmt.Errorf("encode identity state: %d bytes, the limit is %d", len(b), maxRecord)
	}
	return b, nil
}

// decode reads a record; no bytes are a record of a blank device. errDamagedState: it cannot be one of ours.
func decode(b []byte) (record, error) {
	r := record{Version: recordVersion}
	if len(b) == 0 {
		return r, nil
	}
	if len(b) > maxRecord {
		return record{}, fmt.Errorf("%w: %d bytes", errDamagedState, len(b))
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return record{}, fmt.Errorf("%w: %w", errDamagedState, err)
	}
	if r.Version > recordVersion {
		return record{}, &Refusal{Class: ErrSetup, Code: "state-newer", What: "identity state",
			Why: fmt.Sprintf("a newer agent wrote it (version %d, this one knows %d)", r.Version, recordVersion)}
	}
	if err := r.check(); err != nil {
		return record{}, fmt.Errorf("%w: %w", errDamagedState, err)
	}
	return r, nil
}

// check refuses pointers that contradict each other.
func (r record) check() error {
	owner := func(s Slot) bool { return s == "" || s == SlotA || s == SlotB }
	switch {
	case r.Version < 1:
		return errors.New("no version")
	case !owner(r.Current) || !owner(r.Previous) || !owner(r.Pending):
		return errors.New("unknown key slot")
	case r.Current != "" && (r.Current == r.Previous || r.Current == r.Pending):
		return errors.New("one key slot in two roles")
	case r.Previous != "" && (r.Current == "" || r.Previous == r.Pending):
		return errors.New("a previous key without a current one")
	case r.Current != "" && len(r.Certs[r.Current]) == 0:
		return errors.New("the current key has no certificate")
	case r.Birth == nil && (r.Current != "" || r.Pending != ""):
		return errors.New("an owner's key without a birth key")
	case r.Birth != nil && (!ValidID(r.Birth.DeviceID) || len(r.Birth.Certificate) == 0):
		return errors.New("incomplete birth record")
	case r.Failures < 0:
		return errors.New("negative counter")
	}
	for s := range r.Certs {
		if !slices.Contains([]Slot{SlotA, SlotB}, s) {
			return errors.New("a certificate for an unknown key slot")
		}
	}
	return nil
}
