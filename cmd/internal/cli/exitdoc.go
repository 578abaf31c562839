// SPDX-License-Identifier: Apache-2.0

// Code generated from the comments in exit.go by `go generate`; DO NOT EDIT.

package cli

// Meaning is what a code says, as one sentence without a full stop.
func (e Exit) Meaning() string {
	switch e {
	case ExitOK:
		return "done, also when there was nothing to do"
	case ExitFailed:
		return "failed for a reason no other code covers"
	case ExitUsage:
		return "the line typed is wrong: unknown command or flag, missing or extra argument"
	case ExitNotReady:
		return "a precondition is missing and a person must act: daemon not running, not enrolled, configuration wrong"
	case ExitReboot:
		return "done, and the device must reboot for it to take effect"
	case ExitRefused:
		return "a check said no: signature, digest, chain, identity, permission or rollback floor"
	case ExitFindings:
		return "the check ran and its answer is bad: baseline drift, a hole in an audit log"
	case ExitRetry:
		return "the same command may work later: network, broker, server, lock"
	}
	return "unknown code"
}
