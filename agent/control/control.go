// SPDX-License-Identifier: Apache-2.0

// Package control is how a command on the device talks to the running agent: HTTP and JSON over a unix socket.
//
// The agent holds the databases' locks, so every command that shows or changes something asks it. This package owns the socket,
// who may use it, the form of calls, answers and errors, and the types of the answers (api.go). It does not own what a call
// does: the agent hands a Handler in. The pillars' types do not appear here; an answer may change only by gaining keys.
//
// A call is `POST /v1/<method>` with a JSON object of at most 64 KiB. The answer is JSON, or a byte stream for the calls that
// export. Who calls is told by the kernel (SO_PEERCRED), never by the caller. An attacker who may connect, that is root or a
// user on the allow list, can do what the commands do: install, roll back, reboot; there is no call that skips a check. One who
// may not connect gets one refusal, which is reported to Server.Denied, and can hold at most maxConns connections for a few
// seconds.
package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

const (
	prefix       = "/v1/"
	maxBody      = 64 << 10         // of a call
	maxAnswer    = 16 << 20         // of a JSON answer
	maxConns     = 16               // at once
	callTimeout  = 10 * time.Minute // of one call, a whole baseline check included
	idleTimeout  = 30 * time.Second
	readTimeout  = 10 * time.Second // of a call's headers and body
	stopTimeout  = 5 * time.Second  // for calls in flight when the agent stops
	errorTrailer = "Backstay-Error" // carries the error of a stream that broke off
)

// Method does one call: params is the JSON object of the call. The result is marshalled, or streamed when it is a Stream.
// Methods are called concurrently.
type Method func(ctx context.Context, params json.RawMessage) (any, error)

// Handler is the table of methods by name, "update.check".
type Handler map[string]Method

// Stream is a result that is written instead of marshalled. An error after the first byte reaches the client as well.
type Stream func(w io.Writer) error

// Typed makes a method of a function with a parameter type. Unknown keys in the parameters are refused.
func Typed[P, R any](f func(ctx context.Context, params P) (R, error)) Method {
	return func(ctx context.Context, raw json.RawMessage) (any, error) {
		var p P
		if len(raw) > 0 {
			dec := json.NewDecoder(bytes.NewReader(raw))
			dec.DisallowUnknownFields()
			if err := dec.Decode(&p); err != nil {
				return nil, &Error{Class: ClassUsage, Code: "bad-parameters", What: "the call's parameters do not fit", Why: err.Error()}
			}
		}
		return f(ctx, p)
	}
}

// None is the parameter of a call that takes none.
type None struct{}

// Class says what kind of error a call ended with. The words are those of the commands' JSON errors.
type Class string

// The classes.
const (
	ClassFailed  Class = "failed"  // a bug or an input/output error
	ClassUsage   Class = "usage"   // the call itself is wrong
	ClassSetup   Class = "setup"   // a person must act first
	ClassRefused Class = "refused" // a check said no
	ClassRetry   Class = "retry"   // the same call may work later
)

// Error is an error as it travels. What and Why follow the form of every refusal: what does not happen, and the fact behind it.
type Error struct {
	Class Class  `json:"class"`
	Code  string `json:"code"` // stable kebab-case name, "" when there is none
	What  string `json:"what"`
	Why   string `json:"why"`
}

func (e *Error) Error() string {
	if e.Why == "" {
		return e.What
	}
	return e.What + ": " + e.Why
}

// ErrorCode returns Code.
func (e *Error) ErrorCode() string { return e.Code }

// Errors of a client that could not even ask.
var (
	// ErrNotRunning: nobody listens on the socket.
	ErrNotRunning = errors.New("the agent is not running")
	// ErrDenied: the socket is there and this user may not open it.
	ErrDenied = errors.New("permission denied")
)

// Caller is who makes a call, as the kernel says.
type Caller struct {
	UID int
	PID int
}

type callerKey struct{}

// CallerOf returns who makes the call that ctx belongs to; ok is false outside a call.
func CallerOf(ctx context.Context) (c Caller, ok bool) {
	c, ok = ctx.Value(callerKey{}).(Caller)
	return c, ok
}

// toError brings any error into the form that travels.
func toError(err error, classify func(error) *Error) *Error {
	var e *Error
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, context.DeadlineExceeded):
		return &Error{Class: ClassRetry, Code: "timeout", What: "the call took too long", Why: err.Error()}
	case errors.Is(err, context.Canceled):
		return &Error{Class: ClassRetry, Code: "stopping", What: "the call was broken off", Why: "the agent is stopping"}
	}
	if classify != nil {
		if e := classify(err); e != nil {
			return e
		}
	}
	return &Error{Class: ClassFailed, What: err.Error()}
}

// unknownMethod words the answer to a call nobody serves: most likely an older or newer agent.
func unknownMethod(name string) *Error {
	return &Error{Class: ClassSetup, Code: "unknown-method", What: fmt.Sprintf("the running agent does not know the call %.40q", name),
		Why: "command and agent are of different versions, or the part is switched off in the configuration"}
}
