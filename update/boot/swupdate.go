// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"fmt"
	"strings"

	"github.com/backstay/backstay/update"
)

// swupdate keeps the two variables that SWUpdate leaves for boot scripts and for its own tools, beside those of another
// convention: ustate is 1 while an installed image is to be tried and 0 once it is kept (a boot script makes 1 a 2 while it
// tests, and 3 when it goes back); recovery_status is there while an installation has not come to its end.
//
// recovery_status is removed and never set. A script for a single copy starts the rescue system as long as it is there, and
// with two copies the slot that is being written is disarmed anyway.
type swupdate struct{ convention }

const (
	ustate         = "ustate"
	recoveryStatus = "recovery_status"
)

func (s swupdate) try(e *Env, id update.SlotID, attempts int) error {
	if err := s.convention.try(e, id, attempts); err != nil {
		return err
	}
	return setAll(e, assign{ustate, "1"}, assign{recoveryStatus, ""})
}

func (s swupdate) keep(e *Env, id update.SlotID) error {
	if err := s.convention.keep(e, id); err != nil {
		return err
	}
	if _, ok := e.Get(ustate); ok {
		if err := e.Set(ustate, "0"); err != nil {
			return err
		}
	}
	return e.Set(recoveryStatus, "")
}

// canary is a variable that only a boot loader which reads and saves this environment can have set.
type canary struct {
	only  string // ask only where this variable is "1"
	name  string
	value string // empty: any
}

// watch sets the canaries: the one of the configuration, and Mender's, which a board that has it asks for itself.
func (u *UBoot) watch(o Options) error {
	if o.Canary != "" {
		name, value, hasValue := strings.Cut(o.Canary, "=")
		if err := checkVar(name, value); err != nil || hasValue && value == "" {
			return fmt.Errorf("canary %q is not a variable, or name=value", o.Canary)
		}
		u.canary = append(u.canary, canary{name: name, value: value})
	}
	if o.Convention == Mender || o.Convention == Bootcount {
		u.canary = append(u.canary, canary{only: "mender_check_saveenv_canary", name: "mender_saveenv_canary", value: "1"})
	}
	return nil
}

// alive refuses an environment that the boot loader evidently does not use: one at another place, or left from the factory.
// What is written there would change nothing, and an update would be installed that is never started.
func (u *UBoot) alive(e *Env) error {
	for _, c := range u.canary {
		if v, _ := e.Get(c.only); c.only != "" && v != "1" {
			continue
		}
		v, ok := e.Get(c.name)
		if !ok || c.value != "" && v != c.value {
			return fmt.Errorf("%w: %s is not the environment the boot loader uses: %s, which the boot loader sets and saves, is %q",
				update.ErrSetup, e.config.Areas[e.now].Path, c.name, v)
		}
	}
	return nil
}
