// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"

	"github.com/backstay/backstay/agent/control"
	"github.com/backstay/backstay/configs"
	"github.com/backstay/backstay/identity"
	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/update"
)

// classOf brings the pillars' error classes into the one that travels. The first that fits decides.
func classOf(err error) control.Class {
	for _, c := range []struct {
		is    error
		class control.Class
	}{
		{update.ErrRefused, control.ClassRefused}, {identity.ErrRefused, control.ClassRefused},
		{configs.ErrRefused, control.ClassRefused}, {logging.ErrRefused, control.ClassRefused},
		{update.ErrSetup, control.ClassSetup}, {identity.ErrSetup, control.ClassSetup},
		{configs.ErrSetup, control.ClassSetup}, {logging.ErrSetup, control.ClassSetup},
		{update.ErrRetry, control.ClassRetry}, {identity.ErrRetry, control.ClassRetry},
		{configs.ErrRetry, control.ClassRetry}, {logging.ErrRetry, control.ClassRetry},
	} {
		if errors.Is(err, c.is) {
			return c.class
		}
	}
	return control.ClassFailed
}

// Classify brings an error of any part into the form of the control socket, with its class, and its code when it has one.
func Classify(err error) *control.Error {
	out := &control.Error{Class: classOf(err), What: err.Error()}
	if r, ok := errors.AsType[*update.Refusal](err); ok {
		out.Code, out.What, out.Why = r.Code, r.What, r.Why
	} else if r, ok := errors.AsType[*identity.Refusal](err); ok {
		out.Code, out.What, out.Why = r.Code, r.What, r.Why
	} else if r, ok := errors.AsType[*configs.Refusal](err); ok {
		out.Code, out.What, out.Why = r.Code, r.What, r.Why
	} else if r, ok := errors.AsType[*logging.Refusal](err); ok {
		out.Code, out.What, out.Why = r.Code, r.What, r.Why
	}
	return out
}
