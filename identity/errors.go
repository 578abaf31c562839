// SPDX-License-Identifier: Apache-2.0

package identity

import "errors"

// Classes of error. Test with errors.Is; anything else is an input or output error or a bug.
var (
	// ErrRefused: a check said no. The same input will be refused again.
	ErrRefused = errors.New("refused")
	// ErrRetry: nothing is wrong with the device; later it may work.
	ErrRetry = errors.New("try again later")
	// ErrSetup: a person must act: something is missing, unreadable or belongs to another board.
	ErrSetup = errors.New("setup needed")
)

// What a Store says about a slot. Test with errors.Is.
var (
	// ErrNoKey: the slot is empty.
	ErrNoKey = errors.New("no key in this slot")
	// ErrKeyExists: Generate found the slot occupied; nothing was changed.
	ErrKeyExists = errors.New("the slot already holds a key")
	// ErrOtherBoard: the key is there and was sealed on hardware with other identifiers.
	ErrOtherBoard = errors.New("the key was made on another board")
	// ErrDamagedKey: what is in the slot cannot be a key this store wrote, or it was altered.
	ErrDamagedKey = errors.New("the key is damaged")
	// ErrEntropy: the kernel's random generator is not ready yet; no key was made.
	ErrEntropy = errors.New("the kernel's random generator is not ready")
)

// Refusal is an error with a stable name. It is in the class Class, and Unwrap gives its cause.
type Refusal struct {
	Class error  // ErrRefused, ErrRetry or ErrSetup; nil means ErrRefused
	Code  string // stable kebab-case name: "wrong-key", "birth-key-missing"
	What  string // what was refused
	Why   string // the fact that decided
	Err   error  // cause, may be nil
}

// Error is What and Why.
func (r *Refusal) Error() string { return r.What + ": " + r.Why }

// ErrorCode returns Code, for whoever shows the error.
func (r *Refusal) ErrorCode() string { return r.Code }

// Is reports the class.
func (r *Refusal) Is(target error) bool {
	if r.Class == nil {
		return target == ErrRefused
	}
	return target == r.Class
}

func (r *Refusal) Unwrap() error { return r.Err }
