// SPDX-License-Identifier: Apache-2.0

package logging

import (
	"slices"
	"strings"
)

// Entry is one row of the event catalogue: what the table says about a code, and what a reader wants to know about it.
type Entry struct {
	Kind
	When  string   // what happened
	By    string   // part of the agent that records it
	Attrs []string // attributes it usually has, beside the fields every record has
	Refs  []string // identifiers of SP 800-213A it serves
}

// Parts that record events, as the catalogue names them.
const (
	byAgent     = "agent"
	byAuthority = "enrolment authority" // on the fleet side: not in a device's log
	byConfigs   = "configs"
	byIdentity  = "identity"
	byLog       = "logging"
	bySources   = "logging/source"
	byUpdate    = "update"
	byPrograms  = "logging/intake"
)

// about is what the catalogue says about a code, sorted by it. It is data of its own, so that the table that decides about records
// stays one line a row. Each list is words joined by blanks.
type about struct{ code, by, when, attrs, refs string }

var abouts = [...]about{
	{"account.change", bySources, "an account, a group, a password or a sudo rule changed", "change account account_uid exe pid", "CS:LCT(1) CS:RDL(3) LA:AUZ(2)"},
	{"agent.part-failed", byAgent, "a part of the agent cannot start", "part why", "CS:AWR CS:EVR(7)"},
	{"agent.start", byAgent, "the agent started", "version key_class", "CS:LCT(1)"},
	{"agent.stop", byAgent, "the agent stopped, or a part of it failed", "reason", "CS:LCT(1) CS:AWR"},
	{"app.*", byPrograms, "one of the product's own programs recorded something", "uid pid exe", "CS:EIM(1) CS:EIM(2)"},
	{"app.syslog", byPrograms, "a program wrote a line to the syslog socket", "facility app app_pid msgid uid pid", "CS:EIM(2)"},
	{"audit.failed", byLog, "the log cannot be written to flash; events go to a second store in memory", "reason", "CS:EVR(7) CS:RDL(7)"},
	{"audit.restored", byLog, "the log can be written again", "lost", "CS:EVR(7)"},
	{"auth.fail", bySources, "a login failed", "source_address port service method reason", "CS:RDL(1) CS:RDL(2) LA:AUZ(2)"},
	{"auth.logoff", bySources, "a session ended", "source_address service terminal", "CS:RDL(1)"},
	{"auth.ok", bySources, "somebody logged in", "source_address port service method terminal by", "CS:RDL(1) CS:EIM(4) LA:AUZ(2)"},
	{"boot", bySources, "the device started", "reason", "CS:LCT(1) CS:AWR"},
	{"ca.issued", byAuthority, "a certificate was issued", "device_id serial not_after", "DI:IMS"},
	{"ca.refused", byAuthority, "an enrolment was refused", "device_id why", "DI:IMS LA:AUZ(2)"},
	{"ca.revoked", byAuthority, "a certificate was revoked", "device_id serial", "DI:IMS"},
	{"ca.superseded", byAuthority, "a certificate that was replaced was used again", "device_id serial", "DI:IMS CS:EVR(1)"},
	{"ca.turned-away", byAuthority, "a connection without a certificate of this fleet was refused", "why", "LA:AUZ(2)"},
	{"ca.unreadable", byAuthority, "the authority cannot read its own state", "why", "CS:EVR(7)"},
	{"config.drift", byConfigs, "a setting is not what a rule wants", "title expected observed", "CS:EIM(7) CS:RDL(3) DC:CTL"},
	{"config.fixed", byConfigs, "a setting was repaired", "title kind changes", "CS:RDL(3) DC:CTL"},
	{"config.policy", byConfigs, "another policy is in force, or one was refused", "serial serial_before role", "DC:CTL CS:RDL(3)"},
	{"config.state", byConfigs, "the sum of a full check", "rules bad", "CS:AEI(1) CS:AUP(2)"},
	{"config.waived", byConfigs, "a rule does not count for a time, with a reason", "why expires", "DC:CTL CS:RDL(3)"},
	{"control.command", byAgent, "somebody gave a local command that changes the device", "call pid", "CS:RDL(2) LA:ROL"},
	{"control.refused", byAgent, "a user who may not tried to give a local command", "call uid pid", "LA:AUZ(2) CS:EIM(8)"},
	{"crash", bySources, "the kernel crashed, or an earlier crash was found", "reason lines", "CS:AEI(2) CS:AWR"},
	{"debug.enabled", bySources, "an interface to debug with appeared", "subsystem name devpath driver module", "LA:IFC CS:EVR(1)"},
	{"delivery.equivocation", byLog, "a collector signed another log than this device has", "reason", "CS:AUP(7) CS:EVR(1)"},
	{"delivery.refused", byLog, "a message from the broker was not acceptable", "reason", "CS:AUP(6)"},
	{"delivery.resumed", byLog, "records are acknowledged again", "waiting", "CS:AUP(4)"},
	{"delivery.stalled", byLog, "no record was acknowledged for a while", "waiting last_error", "CS:AUP(4) CS:EVR(3)"},
	{"device.added", bySources, "a device of note was added", "subsystem name devpath driver", "DI:IMS"},
	{"device.removed", bySources, "a device of note was removed", "subsystem name devpath", "DI:IMS"},
	{"exec", bySources, "a program started", "exe pid ppid uid sha256", "CS:EIM(2) CS:EIM(12)"},
	{"exec.writable", bySources, "a program started from a place where none belongs", "exe pid ppid uid sha256 place", "CS:EIM(11) CS:EIM(12)"},
	{"file.attributes", bySources, "permissions or owner of a watched file changed", "path exe pid", "CS:EIM(7)"},
	{"file.changed", bySources, "a watched file changed", "path exe pid size", "CS:EIM(7) CS:RDL(3)"},
	{"file.created", bySources, "a watched file appeared", "path exe pid size", "CS:EIM(7)"},
	{"file.removed", bySources, "a watched file is gone", "path exe pid", "CS:EIM(7)"},
	{"heartbeat", byAgent, "nothing happened, and the agent is alive", "size acked fill_percent lost", "CS:AEI(1) CS:AUP(1)"},
	{"identity.adopted", byIdentity, "a certificate from elsewhere was taken over", "serial", "DI:IMS"},
	{"identity.board-changed", byIdentity, "the key is on other hardware than it was made on", "why", "DI:IMS CS:EVR(1)"},
	{"identity.born", byIdentity, "the birth key was made", "device_id key_class", "DI:IMS"},
	{"identity.enrolled", byIdentity, "the device got its certificate", "device_id serial not_after", "DI:IMS"},
	{"identity.failed", byIdentity, "an enrolment or renewal failed", "why retry_at", "DI:IMS"},
	{"identity.key-damaged", byIdentity, "a key cannot be used", "why", "DI:IMS DP:CRY(2)"},
	{"identity.recovered", byIdentity, "the identity was put in order from what was left", "why", "DI:IMS"},
	{"identity.rejected", byIdentity, "a server did not accept the certificate", "why", "DI:IMS LA:AUZ(2)"},
	{"identity.renewed", byIdentity, "the certificate was renewed", "serial not_after", "DI:IMS"},
	{"identity.state-lost", byIdentity, "what the device knew of its certificates is gone", "why", "DI:IMS CS:AWR"},
	{"identity.weak-entropy", byIdentity, "a key would have been made without enough randomness", "why", "DP:CRY(1)"},
	{"intake.refused", byPrograms, "a user who may not tried to write into the log", "uid pid exe", "LA:AUZ(2)"},
	{"inventory", bySources, "what the log can see on this device, and what not", "", "CS:EIM(3) CS:AUP(1)"},
	{"kernel.audit", bySources, "the kernel's audit reported a violation", "type", "CS:EIM(2) CS:RDL(6)"},
	{"kernel.audit-config", bySources, "the rules of the kernel's audit changed", "type", "CS:RDL(3) CS:AUP(7)"},
	{"kernel.message", bySources, "the kernel warned", "level facility", "CS:AWR"},
	{"log.capacity", byLog, "the log fills up", "level percent waiting", "CS:LSR(4)"},
	{"log.counter", byLog, "the hardware counter that tells a log that was set back rose", "value", "CS:AUP(7)"},
	{"log.exported", byAgent, "the log was exported on the device", "pid", "CS:AUP(5)"},
	{"log.gap", byLog, "events could not be kept or were not seen", "count reason source", "CS:EVR(7) CS:LSR(1)"},
	{"log.pruned", byLog, "acknowledged records were removed", "first last", "CS:LSR(3)"},
	{"log.shed", byLog, "bodies of records were dropped for lack of space, hashes kept", "count first last ranges first_time last_time", "CS:LSR(3) CS:LSR(4)"},
	{"log.source-failed", bySources, "a source of the log broke", "reason", "CS:EVR(7)"},
	{"log.source-restored", bySources, "a source of the log works again", "", "CS:EVR(7)"},
	{"log.start", byLog, "a log begins: the first one, or one after a damaged, lost or set back one", "reason previous_origin previous_size previous_root", "CS:LCT(1) CS:AUP(7)"},
	{"log.suppressed", bySources, "events beyond a rate were not recorded", "count critical during", "CS:LSR(1)"},
	{"module.load", bySources, "a kernel module was loaded", "module taint", "CS:EIM(7) DS:EXE"},
	{"module.unload", bySources, "a kernel module was removed", "module", "CS:EIM(7)"},
	{"mount.added", bySources, "a file system was mounted, or its options changed", "path type volume options", "CS:EIM(7)"},
	{"mount.removed", bySources, "a file system was unmounted", "path type volume", "CS:EIM(7)"},
	{"net.address", bySources, "an address of the device changed", "interface change address", "CS:RDL(3)"},
	{"net.closed", bySources, "a port is no longer open", "address port transport", "LA:IFC"},
	{"net.link", bySources, "a network interface changed", "interface change", "CS:RDL(3)"},
	{"net.listen", bySources, "a port is open, and whose it is", "address port transport exe pid uid", "LA:IFC CS:EIM(6)"},
	{"net.route", bySources, "a default route changed", "gateway interface metric", "CS:RDL(3)"},
	{"process.crash", bySources, "a program crashed", "comm pid reason", "CS:AWR"},
	{"process.privilege", bySources, "a process got the rights of another user", "pid exe uid", "LA:ROL CS:EIM(4)"},
	{"reboot", byAgent, "the device restarts, and why", "reason", "CS:LCT(1)"},
	{"state.lost", byAgent, "the agent's database was damaged and begun anew", "why", "CS:AWR"},
	{"time.step", bySources, "the clock was set", "step", "CS:SRT(2) CS:SRT(4)"},
	{"time.synced", bySources, "the clock is synchronised", "", "CS:SRT(2)"},
	{"time.unsynced", bySources, "the clock is not synchronised, or may be wrong by too much", "", "CS:SRT(4)"},
	{"update.available", byUpdate, "there is a newer release for this device", "version counter", "SU:APP(1)"},
	{"update.committed", byUpdate, "a new image passed its checks and is kept", "version slot", "SU:UPD(7) CS:RDL(3)"},
	{"update.component-activated", byUpdate, "a part of the device beside the image runs what the release brought", "component version slot", "SU:UPD(7)"},
	{"update.component-installed", byUpdate, "a part of the device beside the image has what the release brought, and does not run it yet", "component version slot", "SU:UPD(1)"},
	{"update.component-stuck", byUpdate, "a part of the device beside the image could not go back with it", "component reason", "SU:UPD(3) CS:EVR(2)"},
	{"update.decision", byUpdate, "a person approved, rejected or postponed a release", "decision version until", "SU:APP(1) CS:EVR(2)"},
	{"update.floors-lowered", byUpdate, "trusted metadata went down by a signed recovery", "", "SU:UPD(3)"},
	{"update.installed", byUpdate, "an image was written and read back", "version slot digest", "SU:UPD(1)"},
	{"update.mirror-refused", byUpdate, "a mirror sent what is not signed; another is asked", "mirror code reason", "SU:UPD(6) CS:EVR(8)"},
	{"update.payload", byUpdate, "it was chosen what is fetched to make the image of a release", "release kind bytes of pieces", "SU:UPD(6)"},
	{"update.rejected", byUpdate, "a release was refused", "reason release", "SU:UPD(6) CS:EVR(8)"},
	{"update.rolledback", byUpdate, "the device went back to the image before", "version reason", "SU:UPD(3) CS:EVR(2)"},
	{"update.root-rotated", byUpdate, "the root of trust for firmware changed", "version", "SU:UPD(6) CS:EVR(10)"},
	{"update.trust-damaged", byUpdate, "stored metadata is not what it was", "why", "SU:UPD(6) CS:AWR"},
	{"update.verified", byUpdate, "metadata was fetched and verified", "", "SU:UPD(6)"},
	{"update.waiting", byUpdate, "a step of an update is not allowed yet", "step code reason until version", "SU:APP(1)"},
	{"usb.inserted", bySources, "a USB device was plugged in", "name devpath usb_id serial driver", "LA:IFC DI:IMS"},
	{"usb.removed", bySources, "a USB device was unplugged", "devpath usb_id", "LA:IFC"},
}

// Catalogue returns what is known about every code, sorted by code. An entry whose code ends in ".*" stands for every code that
// begins so and has no entry of its own.
func Catalogue() []Entry {
	out := make([]Entry, 0, len(kinds))
	for _, k := range kinds {
		e := Entry{Kind: k, Attrs: []string{}, Refs: []string{}}
		if i, ok := slices.BinarySearchFunc(abouts[:], k.Code, func(a about, code string) int { return strings.Compare(a.code, code) }); ok {
			a := abouts[i]
			e.When, e.By, e.Attrs, e.Refs = a.when, a.by, list(a.attrs), list(a.refs)
		}
		out = append(out, e)
	}
	return out
}

// list splits words, into an empty list when there are none.
func list(s string) []string { return append([]string{}, strings.Fields(s)...) }
