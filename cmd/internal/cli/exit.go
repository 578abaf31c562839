// SPDX-License-Identifier: Apache-2.0

package cli

//go:generate go test -run TestExitDocs -update .

// Exit is the code a command ends with. Scripts rely on it: a code never changes its meaning, and a new meaning is a new code.
// The comments below are the documentation: docs/exit-codes.md and exitdoc.go are generated from them.
type Exit int

const (
	// ExitOK: done, also when there was nothing to do
	ExitOK Exit = 0
	// ExitFailed: failed for a reason no other code covers
	ExitFailed Exit = 1
	// ExitUsage: the line typed is wrong: unknown command or flag, missing or extra argument
	ExitUsage Exit = 2
	// ExitNotReady: a precondition is missing and a person must act: daemon not running, not enrolled, configuration wrong
	ExitNotReady Exit = 3
	// ExitReboot: done, and the device must reboot for it to take effect
	ExitReboot Exit = 4
	// ExitRefused: a check said no: signature, digest, chain, identity, permission or rollback floor
	ExitRefused Exit = 5
	// ExitFindings: the check ran and its answer is bad: baseline drift, a hole in an audit log
	ExitFindings Exit = 6
	// ExitRetry: the same command may work later: network, broker, server, lock
	ExitRetry Exit = 7
)

// Class is the word for a code in JSON errors.
func (e Exit) Class() string {
	switch e {
	case ExitOK:
		return "ok"
	case ExitUsage:
		return "usage"
	case ExitNotReady:
		return "setup"
	case ExitReboot:
		return "reboot"
	case ExitRefused:
		return "refused"
	case ExitFindings:
		return "findings"
	case ExitRetry:
		return "retry"
	}
	return "failed"
}

// Exits lists every code in order.
func Exits() []Exit {
	return []Exit{ExitOK, ExitFailed, ExitUsage, ExitNotReady, ExitReboot, ExitRefused, ExitFindings, ExitRetry}
}
