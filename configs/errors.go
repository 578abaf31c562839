// SPDX-License-Identifier: Apache-2.0

package configs

import "errors"

// Classes of errors, for errors.Is.
var (
	ErrRefused = errors.New("refused")                // a check said no; the same input will be refused again
	ErrRetry   = errors.New("try again later")        // another run holds the lock, or the tree changed underneath
	ErrSetup   = errors.New("a person has to set it") // the engine lacks something it needs
)

// Codes of refusals, stable.
const (
	CodeMalformed      = "malformed-policy"    // not strict JSON, an unknown field, too long or too deep
	CodeInvalid        = "invalid-policy"      // well formed, but a rule does not make sense
	CodeUnknownProfile = "unknown-profile"     // a profile that is not built in
	CodeUnknownRule    = "unknown-rule"        // a rule id that the policy does not have
	CodeLoosens        = "policy-loosens"      // an operator policy that asks for less than the floor
	CodeWaiver         = "waiver-refused"      // a waiver that the floor does not allow
	CodeRollback       = "policy-rollback"     // an older serial than the one in force
	CodeFork           = "policy-fork"         // the serial in force with other bytes
	CodeExpired        = "policy-expired"      // a policy whose time is over when it arrives
	CodeWrongFloor     = "wrong-floor"         // an operator policy made for another floor
	CodeNothingToUndo  = "nothing-to-undo"     // no run has changed anything, or it was taken back already
	CodeChangedSince   = "changed-since"       // undo would overwrite what somebody else wrote
	CodeNoState        = "no-state-directory"  // fixes need a place for copies
	CodeBusy           = "configuration-busy"  // another run holds the lock
	CodeBadState       = "bad-state-directory" // the records of earlier runs cannot be read
)

// Refusal is an error that explains itself. Error is What + ": " + Why; a command chooses its hint by Code.
type Refusal struct {
	Code string // stable, kebab-case
	What string // what was refused
	Why  string // the fact that decided it
	Err  error  // the cause, may be nil

	class error // nil is ErrRefused
}

func (r *Refusal) Error() string { return r.What + ": " + r.Why }

// ErrorCode returns Code, for whoever shows the error.
func (r *Refusal) ErrorCode() string { return r.Code }

// Is makes a Refusal an ErrRefused, or the other class it was made with.
func (r *Refusal) Is(target error) bool {
	if r.class != nil {
		return target == r.class
	}
	return target == ErrRefused
}

func (r *Refusal) Unwrap() error { return r.Err }

func refuse(code, what, why string, err error) error {
	return &Refusal{Code: code, What: what, Why: why, Err: err}
}

// Code returns the stable code of an error of this package, "" for any other.
func Code(err error) string {
	if r, ok := errors.AsType[*Refusal](err); ok {
		return r.Code
	}
	return ""
}
