// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"fmt"
	"time"
)

// Phase is where a device is in its life.
type Phase string

const (
	Blank    Phase = "blank"    // no birth key
	BornOnly Phase = "born"     // a birth key, no owner's certificate
	Owned    Phase = "owned"    // a certificate that works
	Renewing Phase = "renewing" // it works, and its successor is on the way
	Expired  Phase = "expired"  // its time is over: the birth key enrols again
	Refused  Phase = "rejected" // a server refused it, or its key cannot be read: the birth key enrols again
)

// Status is what there is to know about the identity. Times are UTC; zero where there is none.
type Status struct {
	Phase       Phase        `json:"phase"`
	DeviceID    string       `json:"device_id"`
	Serial      string       `json:"serial,omitempty"` // from the label
	Born        time.Time    `json:"born,omitzero"`
	Class       Class        `json:"key_class,omitempty"` // what protects the birth key
	Certificate *Certificate `json:"certificate,omitempty"`
	RenewAt     time.Time    `json:"renew_at,omitzero"`
	RetryAt     time.Time    `json:"retry_at,omitzero"` // no attempt before this
	Failures    int          `json:"failures"`          // attempts since something last worked
	LastError   string       `json:"last_error,omitempty"`
	Rejected    string       `json:"rejected,omitempty"` // why the certificate is not used: "rejected", "key-unreadable"
	Unconfirmed bool         `json:"unconfirmed"`        // the key before this one is kept until Confirm
}

// Certificate describes the certificate in use.
type Certificate struct {
	Serial    string    `json:"serial"` // hexadecimal
	Subject   string    `json:"subject"`
	Issuer    string    `json:"issuer"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	Slot      Slot      `json:"slot"`
}

// Status reads the state; it touches neither network nor key store.
func (i *Identity) Status() Status {
	rec := i.snapshot()
	s := Status{Phase: i.phase(rec), RetryAt: rec.RetryAt, Failures: rec.Failures, LastError: rec.LastError,
		Rejected: rec.Rejected, Unconfirmed: rec.Previous != ""}
	if rec.Birth == nil {
		return s
	}
	s.DeviceID, s.Serial, s.Born, s.Class = rec.Birth.DeviceID, rec.Birth.Serial, rec.Birth.Time, rec.Birth.Class
	if leaf := rec.leaf(rec.Current); leaf != nil {
		s.RenewAt = i.renewAt(rec, leaf).UTC()
		s.Certificate = &Certificate{
			Serial: fmt.Sprintf("%x", leaf.SerialNumber), Subject: leaf.Subject.String(), Issuer: leaf.Issuer.String(),
			NotBefore: leaf.NotBefore.UTC(), NotAfter: leaf.NotAfter.UTC(), Slot: rec.Current,
		}
	}
	return s
}

func (i *Identity) phase(rec record) Phase {
	switch {
	case rec.Birth == nil:
		return Blank
	case rec.Current == "":
		return BornOnly
	case rec.Rejected != "":
		return Refused
	case i.expired(rec, rec.Current):
		return Expired
	case rec.Pending != "":
		return Renewing
	}
	return Owned
}
