// SPDX-License-Identifier: Apache-2.0

package update

import (
	"errors"
	"log/slog"
)

// Error classes. Every error that leaves this package or one of its children
// is in at most one of them, found with [errors.Is]; an error in none is a
// failure of the machine it runs on (input/output) or a defect.
var (
	// ErrRefused: a check said no. Doing the same again gives the same answer
	// until somebody else changes something. Such errors are a [Refusal].
	ErrRefused = errors.New("refused")

	// ErrRetry: the outside was not there or answered badly (network, server,
	// lock). The same call may succeed later and nothing has been changed.
	ErrRetry = errors.New("try again later")

	// ErrSetup: a person must change something on this device (configuration,
	// factory root, storage) before the call can succeed.
	ErrSetup = errors.New("setup")

	// ErrNothing: the source has nothing for this device. It is an answer, not
	// a failure, and in none of the classes above.
	ErrNothing = errors.New("nothing to install")

	// ErrElsewhere marks the refusal of bytes for which the place they came from is to blame, while another place is left that
	// may have the right ones: opening the image again from its start asks there. It is no class.
	ErrElsewhere = errors.New("another mirror may have it")
)

// A Refusal is the one form in which this pillar says no. Code is a stable
// kebab-case name ("below-floor") that programs and the audit record may rely
// on; What is the thing refused and Why the fact that decided it, both for
// people and free to change. Err, if set, is the cause.
type Refusal struct {
	Code string
	What string
	Why  string
	Err  error
}

// Error returns "what: why".
func (r *Refusal) Error() string { return r.What + ": " + r.Why }

// Is reports whether target is [ErrRefused]: every refusal is of that class,
// whatever its cause was.
func (r *Refusal) Is(target error) bool { return target == ErrRefused }

// Unwrap returns the cause, which may be nil.
func (r *Refusal) Unwrap() error { return r.Err }

// Emit reports one thing that happened, under a stable dotted name such as
// "update.installed". The composition root turns it into an audit record; this
// pillar neither knows nor cares where it goes. It is called synchronously,
// must not block for long, and must be safe for concurrent use.
type Emit func(code string, attrs ...slog.Attr)

// ErrorCode returns Code, for whoever shows the error.
func (r *Refusal) ErrorCode() string { return r.Code }
