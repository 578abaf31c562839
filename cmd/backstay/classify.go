// SPDX-License-Identifier: Apache-2.0

package main

// Which exit code an error gets and what its `next:` line says. The first row that fits wins; a code that stands in no row gets
// the exit code of its class and the class's line. Advice lives here and nowhere in the libraries: only a command knows who
// reads it.

import (
	"errors"
	"io/fs"

	"github.com/backstay/backstay/agent"
	"github.com/backstay/backstay/agent/config"
	"github.com/backstay/backstay/agent/control"
	"github.com/backstay/backstay/agent/store"
	"github.com/backstay/backstay/cmd/internal/cli"
	"github.com/backstay/backstay/update"
)

// advice is what to do about the refusals with one of these codes.
type advice struct {
	codes []string
	next  string
}

// advices is the table of `next:` lines by code.
func advices() []advice {
	return []advice{
		{[]string{"below-floor"}, "ask your operator to publish a release at or above the floor; this device cannot go below it"},
		{[]string{"quarantined", "superseded"}, "backstay update history"},
		{[]string{"manual", "rejected", "window", "clock", "postponed", "security-only", "metered", "offline", "condition", "postpone-limit"}, "backstay update status"},
		{[]string{"no-release"}, "backstay update check"},
		{[]string{"bad-duration"}, "backstay help update postpone"},
		{[]string{"too-late"}, "backstay status"},
		{[]string{"no-known-image", "slot-changed"}, "backstay slot list"},
		{[]string{"wrong-product", "incompatible", "agent-too-old", "unknown-critical", "unsupported-kind"},
			"tell your operator: this release was assigned to a device it is not made for"},
		{[]string{"not-genuine", "bad-signature", "bad-hash", "wrong-length", "malformed-metadata", "metadata-rollback", "root-rollback",
			"unknown-target", "wrong-version", "cross-host-redirect", "malformed-release", "malformed-assignment"},
			"tell your operator: either the repository is broken or somebody is attacking this device; nothing was installed"},
		{[]string{"metadata-expired"}, "ask your operator to publish fresh metadata; check this device's clock with `backstay status`"},
		{[]string{"slot-in-use", "only-slot", "slot-too-small", "floor-unreadable"}, "backstay config check"},
		{[]string{"unhealthy", "trial-interrupted", "not-booted", "read-back"}, "backstay update history"},
		{[]string{"not-enrolled"}, "backstay identity enroll"},
		{[]string{"not-born", "birth-key-missing"}, "backstay identity init"},
		{[]string{"no-authority"}, "backstay config explain identity.est_url"},
		{[]string{"key-from-image", "denied-key"}, "tell the maker: the key of this device is in an image or on a list, so others have it; it must be born again"},
		{[]string{"state-newer"}, "start the agent that wrote the state, or a newer one"},
		{[]string{"unsafe-key-file", "unsafe-key-directory"}, "backstay config check"},
		{[]string{"not-allowed"}, "run the command as root, or add the user id to control.allow_uids"},
		{[]string{"unknown-rule", "unknown-profile"}, "backstay --json baseline check"},
		{[]string{"changed-since"}, "look at the file and change it back by hand; backstay baseline diff shows what the rules want"},
		{[]string{"nothing-to-undo"}, "backstay baseline check"},
		{[]string{"configuration-busy"}, "wait until the other run has ended"},
		{[]string{"unknown-method"}, "backstay config check, then restart the agent"},
		{[]string{"record-altered", "record-missing", "records-missing", "record-moved", "root-mismatch", "log-forked", "log-rolled-back", "log-truncated"},
			"backstay audit export FILE, and give the file to whoever collects the log"},
	}
}

// exitOf is the exit code of a class of error.
func exitOf(c control.Class) cli.Exit {
	switch c {
	case control.ClassUsage:
		return cli.ExitUsage
	case control.ClassSetup:
		return cli.ExitNotReady
	case control.ClassRefused:
		return cli.ExitRefused
	case control.ClassRetry:
		return cli.ExitRetry
	}
	return cli.ExitFailed
}

// classLine is the `next:` line of a class whose code has none of its own.
func classLine(c control.Class) string {
	switch c {
	case control.ClassSetup:
		return "backstay config check"
	case control.ClassRefused:
		return "backstay status"
	case control.ClassRetry:
		return "try again later; backstay status shows what the agent is waiting for"
	case control.ClassUsage:
		return "backstay help"
	}
	return "see the agent's log"
}

// adviceFor is the `next:` line of a code; "" when the table has none.
func adviceFor(code string) string {
	for _, a := range advices() {
		for _, c := range a.codes {
			if c == code {
				return a.next
			}
		}
	}
	return ""
}

// classify is cli.App.Classify of this binary.
func classify(err error) (exit cli.Exit, why, next string) {
	var answer *control.Error
	var conf *configError
	switch {
	case errors.As(err, &answer):
		next = adviceFor(answer.Code)
		if next == "" {
			next = classLine(answer.Class)
		}
		return exitOf(answer.Class), answer.Why, next
	case errors.As(err, &conf):
		return classifyConfig(conf)
	case errors.Is(err, control.ErrNotRunning):
		return cli.ExitNotReady, "", "start the agent with the init system, or in the foreground: backstay run"
	case errors.Is(err, control.ErrDenied):
		return cli.ExitNotReady, "", "run the command as root"
	case errors.Is(err, update.ErrReboot):
		return cli.ExitReboot, "", "reboot the device and start the agent again"
	}
	return classifyLocal(err)
}

// classifyLocal is for errors of what runs in this process: run and identity init.
func classifyLocal(err error) (exit cli.Exit, why, next string) {
	if errors.Is(err, store.ErrLocked) {
		return cli.ExitRetry, "", "the agent is running: ask it with backstay status, or backstay identity show"
	}
	class := agent.Classify(err).Class
	var coder cli.Coder
	if errors.As(err, &coder) {
		next = adviceFor(coder.ErrorCode())
	}
	if next == "" && class != control.ClassFailed {
		next = classLine(class)
	}
	return exitOf(class), "", next
}

func classifyConfig(e *configError) (exit cli.Exit, why, next string) {
	if errors.Is(e, fs.ErrNotExist) {
		return cli.ExitNotReady, "", "write " + e.file + ", or name another file with --config; backstay config explain lists the keys"
	}
	if problems := config.Problems(e.err); len(problems) > 0 {
		return cli.ExitNotReady, "", "backstay config explain " + explainable(problems[0].Key)
	}
	return cli.ExitNotReady, "", "correct " + e.file + "; backstay config explain lists the keys"
}

// explainable is the longest leading part of a key that config explain knows; "" lists them all.
func explainable(key string) string {
	for key != "" {
		if _, err := config.Explain(key); err == nil {
			return key
		}
		cut := len(key) - 1
		for cut > 0 && key[cut] != '.' {
			cut--
		}
		key = key[:cut]
	}
	return ""
}
