// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/backstay/backstay/update"
)

// The codes of this package's refusals.
//
//	bad-signature        not signed by enough of the keys that may sign it
//	metadata-rollback    a version below one already trusted, or a role taken out
//	root-rollback        the server withholds a root that is already trusted
//	metadata-expired     expired at this device's time
//	wrong-version        content and name, or content and the file that lists it, differ in version
//	wrong-length         longer than its limit, or not as long as signed
//	bad-hash             digest differs from the signed one
//	malformed-metadata   not TUF metadata, or not in the form our repositories publish
//	unknown-target       no role vouches for a target of that name
//	not-genuine          vouched for by a role that has no say in the matter
//	cross-host-redirect  the server sent us to a host that the configuration does not name, or from https to http

var (
	errMalformed = errors.New("malformed")
	errAbsent    = errors.New("not on the server")
	errSlow      = errors.New("the server is too slow")
)

func refuse(code, what string, cause error, format string, args ...any) error {
	return &update.Refusal{Code: code, What: what + " refused", Why: fmt.Sprintf(format, args...), Err: cause}
}

// classed puts an error into one of package update's classes without changing
// what it says.
type classed struct{ class, err error }

func (c classed) Error() string   { return c.err.Error() }
func (c classed) Unwrap() []error { return []error{c.class, c.err} }

func retry(err error) error { return classed{update.ErrRetry, err} }
func setup(err error) error { return classed{update.ErrSetup, err} }

// report emits an event with key and value in turn.
func (c *Client) report(code string, kv ...string) {
	var attrs []slog.Attr
	for i := 0; i+1 < len(kv); i += 2 {
		attrs = append(attrs, slog.String(kv[i], kv[i+1]))
	}
	c.cfg.Emit(code, attrs...)
}

func discard(string, ...slog.Attr) {}

// guard runs a step that reads metadata. Such metadata may have a shape that no
// check foresaw and end in a panic; whoever sent it must not be able to stop
// the agent, so that is malformed metadata like any other.
func guard(step func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", errMalformed, p)
		}
	}()
	return step()
}

// classify turns what a verification step returned into a refusal.
func classify(what string, err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*update.Refusal](err); ok {
		return err
	}
	code := "malformed-metadata"
	switch {
	case errors.Is(err, errMalformed):
	case is[*metadata.ErrExpiredMetadata](err):
		code = "metadata-expired"
	case is[*metadata.ErrUnsignedMetadata](err), is[*metadata.ErrValue](err), is[*metadata.ErrType](err):
		// scan has already refused what else these two would mean.
		code = "bad-signature"
	case is[*metadata.ErrLengthOrHashMismatch](err):
		code = "bad-hash"
	case is[*metadata.ErrBadVersionNumber](err), is[*metadata.ErrEqualVersionNumber](err), is[*metadata.ErrRepository](err):
		code = "metadata-rollback"
	}
	return refuse(code, what, err, "%v", err)
}

func is[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

func hasCode(err error, code string) bool {
	r, ok := errors.AsType[*update.Refusal](err)
	return ok && r.Code == code
}
