// SPDX-License-Identifier: Apache-2.0

package main

// Which exit code an error gets and what its `next:` line says. The first row that fits wins. Advice lives here and nowhere in the
// libraries: only a command knows who reads it.

import (
	"errors"
	"io/fs"
	"slices"

	"github.com/backstay/backstay/cmd/internal/cli"
	"github.com/backstay/backstay/configs"
	"github.com/backstay/backstay/identity"
	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/update"
)

// advices are the `next:` lines by code of a refusal.
func advices() []struct {
	codes []string
	next  string
} {
	return []struct {
		codes []string
		next  string
	}{
		{[]string{"threshold", "unsigned", "no-proposal", "behind"}, "backstayctl repo status; it says who must sign what"},
		{[]string{"version-reused", "counter-reused", "counter-changed"}, "give the image a new version: backstayctl repo add PRODUCT VERSION IMAGE"},
		{[]string{"floor-lowered", "below-floor"}, "backstayctl repo status; it shows the product's floor, which never goes down"},
		{[]string{"unknown-product", "unknown-release"}, "backstayctl repo add"},
		{[]string{"no-rollout", "older"}, "backstayctl rollout status"},
		{[]string{"exists", "authority-exists"}, "use the one that is there, or name another directory"},
		{[]string{"simulation"}, "do not publish: a device would refuse this; backstayctl repo verify says more"},
		{[]string{"too-large"}, "split the product, or withdraw old releases: a device would refuse this"},
		{[]string{"policy-rollback", "policy-fork"}, "give the policy a serial above the one in the repository; to go back, too"},
		{[]string{"policy-loosens", "waiver-refused", "wrong-floor", "malformed-policy", "invalid-policy", "policy-expired"},
			"correct the file; backstayctl policy lint FILE says the same"},
		{[]string{"exposes"}, "read them again, then add --accept"},
		{[]string{"no-authority"}, "backstayctl ca init"},
		{[]string{"unknown-device"}, "backstayctl ca list"},
		{[]string{"revoked"}, "backstayctl ca allow --again DEVICE"},
		{[]string{"record-altered", "record-missing", "record-moved", "root-mismatch", "log-forked", "log-rolled-back", "log-truncated",
			"bad-checkpoint", "device-mismatch"}, "keep this evidence, and ask for the device's own export: backstay audit export FILE"},
	}
}

// classes maps the pillars' error classes to exit codes.
func classes() []struct {
	is   error
	exit cli.Exit
} {
	return []struct {
		is   error
		exit cli.Exit
	}{
		{update.ErrRefused, cli.ExitRefused}, {identity.ErrRefused, cli.ExitRefused}, {logging.ErrRefused, cli.ExitRefused}, {configs.ErrRefused, cli.ExitRefused},
		{update.ErrSetup, cli.ExitNotReady}, {identity.ErrSetup, cli.ExitNotReady}, {logging.ErrSetup, cli.ExitNotReady}, {configs.ErrSetup, cli.ExitNotReady},
		{update.ErrRetry, cli.ExitRetry}, {identity.ErrRetry, cli.ExitRetry}, {logging.ErrRetry, cli.ExitRetry}, {configs.ErrRetry, cli.ExitRetry},
		{fs.ErrNotExist, cli.ExitNotReady},
	}
}

// classify is cli.App.Classify of this binary.
func classify(err error) (exit cli.Exit, why, next string) {
	exit = cli.ExitFailed
	for _, c := range classes() {
		if errors.Is(err, c.is) {
			exit = c.exit
			break
		}
	}
	var coder cli.Coder
	if errors.As(err, &coder) {
		for _, a := range advices() {
			if slices.Contains(a.codes, coder.ErrorCode()) {
				next = a.next
				break
			}
		}
	}
	return exit, "", next
}
