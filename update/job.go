// SPDX-License-Identifier: Apache-2.0

package update

import (
	"errors"
	"time"
)

// Job is everything the lifecycle remembers over a loss of power: the update in progress, and what outlives it. It is one
// record, saved as a whole, so clearing an update and putting its release in quarantine cannot come apart.
type Job struct {
	State   State   `json:"state,omitempty"`
	Release Release `json:"release,omitzero"`
	Slot    SlotID  `json:"slot,omitempty"` // where the release goes
	From    SlotID  `json:"from,omitempty"` // what ran when the job began, and where reverting goes
	// Back is the release counter of the image in From; the floor at the time if that image is not one we installed.
	Back   uint64    `json:"back,omitempty"`
	Began  time.Time `json:"began,omitzero"`
	Offset int64     `json:"offset,omitempty"`  // bytes of the image that are durable in the slot
	Cuts   int       `json:"cuts,omitempty"`    // downloads that ended early
	Trials int       `json:"trials,omitempty"`  // trials begun
	BootID string    `json:"boot_id,omitempty"` // the boot in which the slot was armed
	Stays  bool      `json:"stays,omitempty"`   // reverting found no way back above the floor
	Local  bool      `json:"local,omitempty"`   // begun by a local command, not by a new release
	Waited bool      `json:"waited,omitempty"`  // the policy held it back: whether it is still wanted is asked again
	Fail   *Failure  `json:"fail,omitempty"`

	Parts map[string]Part `json:"parts,omitempty"` // by component
	Undo  int             `json:"undo,omitempty"`  // rollbacks of components that failed

	Images     map[SlotID]Image `json:"images,omitempty"`     // what we know to be in each slot
	Quarantine []Quarantined    `json:"quarantine,omitempty"` // at most maxQuarantine
	History    []Outcome        `json:"history,omitempty"`    // at most maxHistory, oldest first
	Refused    string           `json:"refused,omitempty"`    // the last refusal reported, so that a poll does not repeat it
	Wish       Wish             `json:"wish,omitzero"`        // what a person wants with one release
}

// Failure says why a job does not end in a kept release.
type Failure struct {
	In   State  `json:"in"`
	Code string `json:"code"` // the code of a Refusal, or one of the codes below
	Why  string `json:"why"`
}

// Codes of failures that are not the refusal of a check.
const (
	CodeFailed      = "failed"            // an operation returned an error
	CodeNotBooted   = "not-booted"        // the boot loader gave the new slot up
	CodeUnhealthy   = "unhealthy"         // a health check said no, or the deadline passed
	CodeInterrupted = "trial-interrupted" // the trial was begun too often without a verdict
	CodeReadBack    = "read-back"         // the slot does not hold what was written
	CodeCanceled    = "canceled"
	CodeMarkedBad   = "marked-bad"
	CodeBelowFloor  = "below-floor"
	CodeQuarantined = "quarantined"
	CodeWrongLength = "wrong-length"
	CodeBadHash     = "bad-hash"
	CodeBadFloor    = "floor-above-counter"
	CodeTooLate     = "too-late"
	CodeNoImage     = "no-known-image"
	CodeChanged     = "slot-changed"
	CodeSuperseded  = "superseded" // another release, or none, is meant for this device by now
)

// Image is what a slot is known to hold.
type Image struct {
	Path    string   `json:"path"`
	Version string   `json:"version"`
	Counter uint64   `json:"counter"`
	Floor   uint64   `json:"floor"`
	Length  int64    `json:"length"`
	SHA256  [32]byte `json:"sha256"`
}

func imageOf(r Release) Image {
	return Image{Path: r.Path, Version: r.Version, Counter: r.Counter, Floor: r.Floor, Length: r.Length, SHA256: r.SHA256}
}

func (i Image) release() Release {
	return Release{Path: i.Path, Version: i.Version, Counter: i.Counter, Floor: i.Floor, Length: i.Length, SHA256: i.SHA256}
}

// failed is an error with a code that is not a refusal: nothing untrusted was seen, the attempt just did not work out.
type failed struct {
	code string
	err  error
}

func (f *failed) Error() string { return f.err.Error() }
func (f *failed) Unwrap() error { return f.err }

// later wraps an error that ends the run but not the state: the next run tries the same row again.
type later struct{ error }

func (l later) Unwrap() error { return l.error }

// failure turns the error of a row into what the job remembers of it.
func failure(in State, err error) *Failure {
	code := CodeFailed
	if f, ok := errors.AsType[*failed](err); ok {
		code = f.code
	} else if r, ok := errors.AsType[*Refusal](err); ok {
		code = r.Code
	}
	return &Failure{In: in, Code: code, Why: err.Error()}
}
