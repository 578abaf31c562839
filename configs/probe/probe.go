// SPDX-License-Identifier: Apache-2.0

// Package probe inspects one thing at a time under a root directory, and plans how to put it right.
//
// There is one file per kind of thing: accounts, sshd, dropbear, inittab, sysctl and so on. A kind turns the target and
// want of a rule into a [Check]. Check reads, Fix plans: neither writes. A plan is a list of [Change] values, which the
// engine in the parent package shows (dry run), keeps copies of (undo) or carries out, so what a dry run shows is what an
// apply does. The package starts no program and opens no socket but netlink, to the kernel.
//
// The root is not trusted. Every path is resolved inside it, absolute links included, by [Host]; os.Root backs that with
// a refusal in the kernel calls. Only regular files are opened, never a FIFO or a device (but see Host.readArea and Host.verityStatus), and every read, walk and list
// has a bound. An attacker who controls the tree can make a check say fail or unknown; it cannot make it read outside the
// root, hang, or pass without naming what was read.
package probe

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/backstay/backstay/configs/strictjson"
)

// Result is the outcome of one check.
type Result string

// What a check alone can say. The engine adds those of waiving and fixing.
const (
	Pass          Result = "pass"           // positive evidence: what was inspected is as wanted
	Fail          Result = "fail"           // what was inspected is not as wanted
	NotApplicable Result = "not-applicable" // the function is not there; the reason says how that is known
	Unknown       Result = "unknown"        // it could not be read or decided; the reason says why
	RebootNeeded  Result = "reboot-needed"  // the files are as wanted; a program runs that was started before they were
)

// Item is one thing that is not as wanted. Secrets never enter it: a password hash appears as its scheme.
type Item struct {
	Subject  string `json:"subject"`         // what a waiver names: account, path, terminal, option
	Where    string `json:"where,omitempty"` // file, with :line where there is one
	Observed string `json:"observed"`
	Expected string `json:"expected"`
}

// Verdict is what a check found. Pass needs at least one entry in Inspected.
type Verdict struct {
	Result         Result
	Reason         string   // why not applicable or unknown; on a pass, the fact that carries it
	Implementation string   // which program the check found and judged: dropbear, openssh, busybox init
	Inspected      []string // files and keys that were read
	Items          []Item   // on a fail: at least one; at most MaxItems
	More           int      // how many items were left out
}

// MaxItems bounds the items of one verdict.
const MaxItems = 32

// Check is one parsed check. Its methods do not write and may be called again.
type Check interface {
	// Check inspects. An error it meets is an unknown verdict, not a Go error.
	Check(ctx context.Context, h *Host) Verdict
	// Fix plans the changes for those items whose Subject want has. It returns ErrNoFix when this defect can only be
	// mended in the image or by a person.
	Fix(ctx context.Context, h *Host, want func(subject string) bool) ([]Change, error)
	// Claims names what Fix would set. Two rules that claim one name would undo each other.
	Claims() []string
}

// Tightener is a Check that can say whether it asks at least as much as another of its kind.
type Tightener interface {
	// Tightens returns nil when whatever passes the receiver also passes old, else an error that says where it is looser.
	Tightens(old Check) error
}

// ErrNoFix says that a check can find but not mend.
var ErrNoFix = errors.New("this can only be mended in the image or by hand")

// Kind is one kind of rule.
type Kind struct {
	Name   string
	Target string // what target means
	Want   string // what want may hold
	Fix    string // what a fix does; empty when the kind only reports
	New    func(target string, want []byte) (Check, error)
}

// wantLimits bounds the want of one rule; the policy around it has its own, tighter in total.
var wantLimits = strictjson.Limits{Bytes: 64 << 10, Depth: 6}

// decodeWant reads want into v; an absent want is an empty one.
func decodeWant(want []byte, v any) error {
	if len(want) == 0 {
		want = []byte("{}")
	}
	err := strictjson.Decode(want, wantLimits, v)
	if se, ok := errors.AsType[*strictjson.Error](err); ok {
		if se.Path == "" {
			return &strictjson.Error{Path: "want", Why: se.Why}
		}
		return &strictjson.Error{Path: "want." + se.Path, Why: se.Why}
	}
	return err
}

// Kinds lists every kind, in the order of the reference page.
func Kinds() []Kind {
	return []Kind{
		// accounts
		accountKind(), privilegeKind(), pamKind(), storedLoginKind(), emptyPasswordKind(), passwordDictKind(), passwordHashKind(), uidZeroKind(),

		// SSH servers
		sshdKind(), dropbearKind(), authorizedKeysKind(), keyPathsKind(), sshListenKind(), programVersionKind(),

		// services and how they start
		inittabKind(), inetdKind(), listenersKind(), settingKind(), snmpKind(), mosquittoKind(), exportsKind(), webKind(),

		// consoles, boot chain, kernel
		consoleKind(),
		sysctlKind(), sysctlIfaceKind(), sysctlPathKind(), kconfigKind(), cmdlineKind(), sysfsKind(),
		ubootKind(), ubootAccessKind(), fuseKind(), verityKind(), gadgetKind(), debugfsKind(), deviceNodeKind(),

		// packet filter, radio, ports
		firewallKind(), firewallSideKind(), wirelessKind(), deviceKind(), moduleKind(),

		// files and mounts
		fileAbsentKind(), fileLineKind(), fileModeKind(), startFilesKind(), setuidKind(), treeKind(), chainKind(), pathKind(), umaskKind(),
		deviceModesKind(), persistentKind(), linesKind(), mountKind(), mountClassKind(), encryptedKind(),

		// keys and certificates
		secretKind(), keyModesKind(), certificateKind(),

		// time, logs, updates
		startedKind(), clockKind(),
	}
}

// Find returns the kind called name.
func Find(name string) (Kind, error) {
	var names []string
	for _, k := range Kinds() {
		if k.Name == name {
			return k, nil
		}
		names = append(names, k.Name)
	}
	if n := strictjson.Nearest(name, names); n != "" {
		return Kind{}, fmt.Errorf("unknown kind %q, did you mean %q?", name, n)
	}
	return Kind{}, fmt.Errorf("unknown kind %q, known are %s", name, strings.Join(names, ", "))
}

// judged gives the verdict of a check that read everything it needed.
func judged(items []Item, reason string, inspected ...string) Verdict {
	if len(items) == 0 {
		return Verdict{Result: Pass, Reason: reason, Inspected: inspected}
	}
	v := Verdict{Result: Fail, Inspected: inspected, Items: items}
	if len(items) > MaxItems {
		v.Items, v.More = items[:MaxItems], len(items)-MaxItems
	}
	return v
}

func notApplicable(reason string) Verdict { return Verdict{Result: NotApplicable, Reason: reason} }

func unknown(err error) Verdict { return Verdict{Result: Unknown, Reason: err.Error()} }

// printable makes a name from the tree safe for a terminal, a log and JSON, and bounds it.
func printable(s string) string {
	const longest = 200
	if len(s) > longest {
		s = s[:longest] + "..."
	}
	q := strconv.QuoteToASCII(s)
	if q == `"`+s+`"` {
		return s
	}
	return q
}

// at names a line of a file.
func at(path string, line int) string { return printable(path) + ":" + strconv.Itoa(line) }

// subset returns the first element of a that b lacks.
func subset(a, b []string) (missing string, ok bool) {
	have := map[string]bool{}
	for _, s := range b {
		have[s] = true
	}
	for _, s := range a {
		if !have[s] {
			return s, false
		}
	}
	return "", true
}
