// SPDX-License-Identifier: Apache-2.0

package logging

import (
	"slices"
	"strings"
)

// SchemaVersion is the OCSF version whose numbers the table has.
const SchemaVersion = "1.8.0"

// CatalogueVersion names this table in the records it is the reason for. It rises when a row changes its meaning.
const CatalogueVersion = "catalogue/1"

// rulePrefix begins the rule of a record that no policy asked for.
const rulePrefix = "event/"

// Kind is what the table says about one code: its OCSF class and activity, defaults, and whether it may wait. OCSF 1.9.0
// moves some of these numbers; they stand nowhere else.
type Kind struct {
	Code     string
	Class    int    // class_uid
	Activity int    // activity_id; type_uid is Class*100 + Activity
	Name     string // activity_name, where Activity is 99 (Other)
	Severity Severity
	Outcome  Outcome
	Critical bool // commit before the append returns; never shed
}

// Type returns the OCSF type_uid.
func (k Kind) Type() int { return k.Class*100 + k.Activity }

// Category returns the OCSF category_uid: the thousands of the class, 0 for the base event.
func (k Kind) Category() int { return k.Class / 1000 }

// Classes of OCSF 1.8.0 the table uses.
const (
	classBase        = 0
	classFile        = 1001
	classExtension   = 1002
	classKernel      = 1003
	classProcess     = 1007
	classEventLog    = 1008
	classPeripheral  = 1010
	classCompliance  = 2003
	classDetection   = 2004
	classAccount     = 3001
	classAuth        = 3002
	classEntity      = 3004
	classNetwork     = 4001
	classInventory   = 5001
	classPatch       = 5004
	classConfigState = 5019
	classSoftware    = 5020
	classApp         = 6002
	classAppError    = 6008
	activityOther    = 99
)

// anyCode ends the code of a row that stands for every code with what is before it, unless a code has a row of its own.
const anyCode = ".*"

// Lookup returns what the table says about a code. An unknown code is an OCSF base event, informational and not critical:
// an event is never lost because its name is new.
func Lookup(code string) Kind {
	if k, ok := row(code); ok {
		return k
	}
	if space, _, ok := strings.Cut(code, "."); ok {
		if k, ok := row(space + anyCode); ok {
			k.Code = code
			return k
		}
	}
	return Kind{Code: code, Activity: activityOther, Name: "Other", Severity: SeverityInfo}
}

// tableCode is the code of the row that Lookup uses, "other" when there is none.
func tableCode(code string) string {
	if _, ok := row(code); ok {
		return code
	}
	if space, _, ok := strings.Cut(code, "."); ok {
		if _, ok := row(space + anyCode); ok {
			return space + anyCode
		}
	}
	return "other"
}

func row(code string) (Kind, bool) {
	i, ok := slices.BinarySearchFunc(kinds[:], code, func(k Kind, c string) int {
		switch {
		case k.Code < c:
			return -1
		case k.Code > c:
			return 1
		}
		return 0
	})
	if ok {
		return kinds[i], true
	}
	return Kind{}, false
}

// Kinds returns a copy of the table, sorted by code.
func Kinds() []Kind { return slices.Clone(kinds[:]) }

// kinds is sorted by code (a test sees to it). Rows are {code, class, activity, activity name, severity, outcome, critical}.
var kinds = [...]Kind{
	{"account.change", classAccount, activityOther, "Change", SeverityMedium, OutcomeSuccess, true},
	{"agent.part-failed", classAppError, 1, "", SeverityHigh, OutcomeFailure, true},
	{"agent.start", classApp, 3, "", SeverityInfo, OutcomeSuccess, true},
	{"agent.stop", classApp, 4, "", SeverityInfo, OutcomeSuccess, true},
	{"app.*", classBase, activityOther, "Application event", SeverityInfo, OutcomeDefault, false}, // of a program: see logging/intake
	{"app.syslog", classBase, activityOther, "Syslog line", SeverityInfo, OutcomeDefault, false},
	{"audit.failed", classEventLog, activityOther, "Failed", SeverityCritical, OutcomeFailure, true},
	{"audit.restored", classEventLog, activityOther, "Restored", SeverityHigh, OutcomeSuccess, true},
	{"auth.fail", classAuth, 1, "", SeverityMedium, OutcomeFailure, false},
	{"auth.logoff", classAuth, 2, "", SeverityInfo, OutcomeSuccess, false},
	{"auth.ok", classAuth, 1, "", SeverityInfo, OutcomeSuccess, false},
	{"boot", classApp, 3, "", SeverityInfo, OutcomeSuccess, true},
	{"ca.issued", classEntity, 6, "", SeverityInfo, OutcomeSuccess, true},
	{"ca.refused", classEntity, activityOther, "Refuse", SeverityHigh, OutcomeFailure, true},
	{"ca.revoked", classEntity, 7, "", SeverityHigh, OutcomeSuccess, true},
	{"ca.superseded", classDetection, 1, "", SeverityHigh, OutcomeFailure, true},
	{"ca.turned-away", classAuth, 1, "", SeverityMedium, OutcomeFailure, false},
	{"ca.unreadable", classAppError, 1, "", SeverityHigh, OutcomeFailure, true},
	{"config.drift", classCompliance, 1, "", SeverityMedium, OutcomeFailure, false},
	{"config.fixed", classCompliance, 3, "", SeverityInfo, OutcomeSuccess, true},
	{"config.policy", classConfigState, activityOther, "Policy", SeverityInfo, OutcomeSuccess, true},
	{"config.state", classConfigState, 1, "", SeverityInfo, OutcomeSuccess, false},
	{"config.waived", classCompliance, 2, "", SeverityLow, OutcomeSuccess, true},
	{"control.command", classApp, activityOther, "Command", SeverityInfo, OutcomeSuccess, true},
	{"control.refused", classApp, activityOther, "Command", SeverityHigh, OutcomeFailure, true},
	{"crash", classAppError, 1, "", SeverityHigh, OutcomeFailure, true},
	{"debug.enabled", classPeripheral, 3, "", SeverityHigh, OutcomeSuccess, true},
	{"delivery.equivocation", classDetection, 1, "", SeverityCritical, OutcomeFailure, true},
	{"delivery.refused", classEventLog, activityOther, "Refused", SeverityHigh, OutcomeFailure, true},
	{"delivery.resumed", classEventLog, activityOther, "Resumed", SeverityInfo, OutcomeSuccess, false},
	{"delivery.stalled", classEventLog, activityOther, "Stalled", SeverityMedium, OutcomeFailure, false},
	{"device.added", classPeripheral, 1, "", SeverityInfo, OutcomeSuccess, false},
	{"device.removed", classPeripheral, 2, "", SeverityInfo, OutcomeSuccess, false},
	{"exec", classProcess, 1, "", SeverityInfo, OutcomeSuccess, false},
	{"exec.writable", classProcess, 1, "", SeverityHigh, OutcomeSuccess, true},
	{"file.attributes", classFile, 6, "", SeverityMedium, OutcomeSuccess, false},
	{"file.changed", classFile, 3, "", SeverityMedium, OutcomeSuccess, false},
	{"file.created", classFile, 1, "", SeverityMedium, OutcomeSuccess, false},
	{"file.removed", classFile, 4, "", SeverityMedium, OutcomeSuccess, false},
	{"heartbeat", classInventory, 1, "", SeverityInfo, OutcomeSuccess, false},
	{"identity.adopted", classEntity, activityOther, "Adopt", SeverityInfo, OutcomeSuccess, true},
	{"identity.board-changed", classDetection, 1, "", SeverityHigh, OutcomeFailure, true},
	{"identity.born", classEntity, 1, "", SeverityInfo, OutcomeSuccess, true},
	{"identity.enrolled", classEntity, 6, "", SeverityInfo, OutcomeSuccess, true},
	{"identity.failed", classEntity, activityOther, "Refused", SeverityMedium, OutcomeFailure, false},
	{"identity.key-damaged", classEntity, activityOther, "Key damaged", SeverityHigh, OutcomeFailure, true},
	{"identity.recovered", classEntity, activityOther, "Recover", SeverityMedium, OutcomeSuccess, true},
	{"identity.rejected", classEntity, activityOther, "Rejected", SeverityHigh, OutcomeFailure, true},
	{"identity.renewed", classEntity, 3, "", SeverityInfo, OutcomeSuccess, true},
	{"identity.state-lost", classEntity, activityOther, "State lost", SeverityHigh, OutcomeFailure, true},
	{"identity.weak-entropy", classDetection, 1, "", SeverityHigh, OutcomeFailure, true},
	{"intake.refused", classEventLog, activityOther, "Refused", SeverityMedium, OutcomeFailure, false},
	{"inventory", classSoftware, 2, "", SeverityInfo, OutcomeSuccess, false},
	{"kernel.audit", classKernel, activityOther, "Audit", SeverityMedium, OutcomeFailure, false},
	{"kernel.audit-config", classKernel, activityOther, "Audit configuration", SeverityHigh, OutcomeSuccess, true},
	{"kernel.message", classKernel, activityOther, "Message", SeverityLow, OutcomeFailure, false},
	{"log.capacity", classEventLog, activityOther, "Capacity", SeverityMedium, OutcomeSuccess, true},
	{"log.counter", classEventLog, activityOther, "Counter", SeverityInfo, OutcomeSuccess, true},
	{"log.exported", classEventLog, 3, "", SeverityInfo, OutcomeSuccess, false},
	{"log.gap", classEventLog, activityOther, "Gap", SeverityHigh, OutcomeFailure, true},
	{"log.pruned", classEventLog, 2, "", SeverityInfo, OutcomeSuccess, false},
	{"log.shed", classEventLog, activityOther, "Shed", SeverityMedium, OutcomeSuccess, true},
	{"log.source-failed", classEventLog, activityOther, "Source failed", SeverityHigh, OutcomeFailure, true},
	{"log.source-restored", classEventLog, activityOther, "Source restored", SeverityInfo, OutcomeSuccess, true},
	{"log.start", classEventLog, 6, "", SeverityInfo, OutcomeSuccess, true},
	{"log.suppressed", classEventLog, activityOther, "Suppressed", SeverityMedium, OutcomeSuccess, true},
	{"module.load", classExtension, 1, "", SeverityMedium, OutcomeSuccess, true},
	{"module.unload", classExtension, 2, "", SeverityMedium, OutcomeSuccess, true},
	{"mount.added", classFile, 12, "", SeverityMedium, OutcomeSuccess, false},
	{"mount.removed", classFile, 13, "", SeverityMedium, OutcomeSuccess, false},
	{"net.address", classConfigState, activityOther, "Address", SeverityInfo, OutcomeSuccess, false},
	{"net.closed", classNetwork, 2, "", SeverityInfo, OutcomeSuccess, false},
	{"net.link", classConfigState, activityOther, "Link", SeverityInfo, OutcomeSuccess, false},
	{"net.listen", classNetwork, 7, "", SeverityInfo, OutcomeSuccess, false},
	{"net.route", classConfigState, activityOther, "Route", SeverityLow, OutcomeSuccess, false},
	{"process.crash", classAppError, 1, "", SeverityMedium, OutcomeFailure, false},
	{"process.privilege", classProcess, 5, "", SeverityMedium, OutcomeSuccess, false},
	{"reboot", classApp, 5, "", SeverityInfo, OutcomeSuccess, true},
	{"state.lost", classDetection, 1, "", SeverityHigh, OutcomeFailure, true},
	{"time.step", classKernel, 4, "", SeverityLow, OutcomeSuccess, false},
	{"time.synced", classKernel, activityOther, "Time synchronised", SeverityInfo, OutcomeSuccess, false},
	{"time.unsynced", classKernel, activityOther, "Time not synchronised", SeverityMedium, OutcomeFailure, false},
	{"update.available", classPatch, 1, "", SeverityInfo, OutcomeSuccess, false},
	{"update.committed", classApp, 8, "", SeverityInfo, OutcomeSuccess, true},
	{"update.component-activated", classApp, 8, "", SeverityInfo, OutcomeSuccess, true},
	{"update.component-installed", classApp, 1, "", SeverityInfo, OutcomeSuccess, true},
	{"update.component-stuck", classApp, activityOther, "Rollback", SeverityHigh, OutcomeFailure, true},
	{"update.decision", classApp, activityOther, "Decide", SeverityMedium, OutcomeSuccess, true},
	{"update.floors-lowered", classApp, activityOther, "Lower floors", SeverityHigh, OutcomeSuccess, true},
	{"update.installed", classApp, 1, "", SeverityInfo, OutcomeSuccess, true},
	{"update.mirror-refused", classDetection, 1, "", SeverityMedium, OutcomeFailure, false},
	{"update.payload", classApp, activityOther, "Choose", SeverityInfo, OutcomeSuccess, false},
	{"update.rejected", classDetection, 1, "", SeverityHigh, OutcomeFailure, true},
	{"update.rolledback", classApp, activityOther, "Rollback", SeverityHigh, OutcomeSuccess, true},
	{"update.root-rotated", classApp, activityOther, "Rotate root", SeverityMedium, OutcomeSuccess, true},
	{"update.trust-damaged", classDetection, 1, "", SeverityHigh, OutcomeFailure, true},
	{"update.verified", classApp, activityOther, "Verify", SeverityInfo, OutcomeSuccess, false},
	{"update.waiting", classPatch, activityOther, "Wait", SeverityInfo, OutcomeSuccess, false},
	{"usb.inserted", classPeripheral, 1, "", SeverityMedium, OutcomeSuccess, false},
	{"usb.removed", classPeripheral, 2, "", SeverityInfo, OutcomeSuccess, false},
}
