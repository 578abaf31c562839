// SPDX-License-Identifier: Apache-2.0

package source

import (
	"log/slog"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Types of audit records that are no event by themselves.
const (
	auditSyscall = 1300
	auditPath    = 1302
	auditEOE     = 1320 // end of an event

	auditFirstKernel = 1300
	auditLastKernel  = 1999
	auditKernModule  = 1330
	auditListener    = 1335
	auditAVC         = 1400
	auditMACStatus   = 1404
	auditUserAVC     = 1107
	auditUserAcct    = 1101
)

// auditTypes are the records worth an event: who logs in, whose account changes, what is denied, what is odd, and who changes
// what audit records.
var auditTypes = [...]struct {
	typ        uint16
	name, code string
}{
	{1100, "USER_AUTH", "auth"}, {auditUserAcct, "USER_ACCT", "auth"}, {1102, "USER_MGMT", "account.change"}, {1105, "USER_START", "auth"},
	{1106, "USER_END", "auth.logoff"}, {auditUserAVC, "USER_AVC", "kernel.audit"}, {1108, "USER_CHAUTHTOK", "account.change"},
	{1109, "USER_ERR", "auth"}, {1112, "USER_LOGIN", "auth"}, {1113, "USER_LOGOUT", "auth.logoff"}, {1114, "ADD_USER", "account.change"},
	{1115, "DEL_USER", "account.change"}, {1116, "ADD_GROUP", "account.change"}, {1117, "DEL_GROUP", "account.change"},
	{1119, "CHGRP_ID", "account.change"}, {1125, "CHUSER_ID", "account.change"}, {1126, "GRP_AUTH", "auth"},
	{1132, "GRP_MGMT", "account.change"}, {1133, "GRP_CHAUTHTOK", "account.change"}, {1135, "ACCT_LOCK", "account.change"},
	{1136, "ACCT_UNLOCK", "account.change"},
	{1200, "DAEMON_START", "kernel.audit-config"}, {1201, "DAEMON_END", "kernel.audit-config"}, {1202, "DAEMON_ABORT", "kernel.audit-config"},
	{1203, "DAEMON_CONFIG", "kernel.audit-config"},
	{auditSyscall, "SYSCALL", "kernel.audit"}, {1305, "CONFIG_CHANGE", "kernel.audit-config"}, {1326, "SECCOMP", "kernel.audit"},
	{1328, "FEATURE_CHANGE", "kernel.audit-config"}, {auditKernModule, "KERN_MODULE", "module"}, {auditListener, "EVENT_LISTENER", "kernel.audit-config"},
	{auditAVC, "AVC", "kernel.audit"}, {1401, "SELINUX_ERR", "kernel.audit"}, {1403, "MAC_POLICY_LOAD", "kernel.audit"},
	{auditMACStatus, "MAC_STATUS", "kernel.audit"}, {1405, "MAC_CONFIG_CHANGE", "kernel.audit"}, {1420, "IPE_ACCESS", "kernel.audit"},
	{1421, "IPE_CONFIG_CHANGE", "kernel.audit"}, {1422, "IPE_POLICY_LOAD", "kernel.audit"}, {1423, "LANDLOCK_ACCESS", "kernel.audit"},
	{1700, "ANOM_PROMISCUOUS", "kernel.audit"}, {1701, "ANOM_ABEND", "kernel.audit"}, {1702, "ANOM_LINK", "kernel.audit"},
	{1703, "ANOM_CREAT", "kernel.audit"},
	{1800, "INTEGRITY_DATA", "kernel.audit"}, {1801, "INTEGRITY_METADATA", "kernel.audit"}, {1802, "INTEGRITY_STATUS", "kernel.audit"},
	{1803, "INTEGRITY_HASH", "kernel.audit"}, {1804, "INTEGRITY_PCR", "kernel.audit"}, {1805, "INTEGRITY_RULE", "kernel.audit"},
	{1806, "INTEGRITY_EVM_XATTR", "kernel.audit"}, {1807, "INTEGRITY_POLICY_RULE", "kernel.audit"},
}

// auditType returns name and code of a type. Anomalies that programs report, and what they did about them, have ranges.
func auditType(typ uint16) (name, code string) {
	for i := range auditTypes {
		if t := &auditTypes[i]; t.typ == typ {
			return t.name, t.code
		}
	}
	switch {
	case typ >= 1204 && typ < 1300:
		return "DAEMON", "kernel.audit-config"
	case typ >= 1500 && typ < 1600:
		return "APPARMOR", "kernel.audit"
	case typ >= 2100 && typ < 2200:
		return "ANOM", "kernel.audit"
	case typ >= 2200 && typ < 2300:
		return "RESP", "kernel.audit"
	}
	return "", ""
}

func auditWorth(typ uint16) bool {
	name, _ := auditType(typ)
	return name != "" && typ != auditSyscall
}

// auditCopied are fields that are recorded under a name of ours, in this order, from the record and, where it has none, from
// the record of the system call. Arguments of programs are in none of them.
var auditCopied = [...]auditCopy{
	{"pid", "pid", false}, {"ppid", "ppid", false}, {"uid", "uid", false}, {"auid", "auid", false}, {"exe", "exe", true}, {"comm", "comm", true},
	{"op", "op", true}, {"id", "target_id", false}, {"grp", "group", true},
	{"terminal", "terminal", true}, {"path", "path", true}, {"name", "name", true}, {"dev", "dev", true}, {"scontext", "scontext", false},
	{"tcontext", "tcontext", false}, {"tclass", "tclass", false}, {"permissive", "permissive", false}, {"apparmor", "apparmor", false},
	{"operation", "operation", true}, {"profile", "profile", true}, {"requested_mask", "requested", false}, {"denied_mask", "denied", false},
	{"blockers", "blockers", false}, {"sig", "signal", false}, {"code", "code", false}, {"syscall", "syscall", false}, {"cause", "cause", true},
	{"enforcing", "enforcing", false}, {"old_enforcing", "enforcing_before", false}, {"prom", "promiscuous", false}, {"list", "list", false},
	{"old", "value_before", false},
}

type auditCopy struct {
	field, attr string
	text        bool
}

// record makes the event of one record, with what the system call of the same audit event adds.
func (w *kauditWatcher) record(e *auditEvent, m auditMain, sink *Sink) {
	name, code := auditType(m.typ)
	w.fields.parse(m.text)
	main, inner, call, path := &w.fields, &w.inner, &w.call, &w.path
	inner.parse(main.msg)
	call.parse(string(e.syscall))
	path.parse(string(e.path))
	res := first(inner.word("res"), main.word("res"))
	if m.typ == auditSyscall {
		res = call.word("success")
	}
	failed := res != "" && res != "success" && res != "1" && res != "yes" // what nobody knows did not go well
	if code = auditCode(code, &m, failed, main, call); code == "" || !sink.Allow(code) {
		return
	}
	attrs := []slog.Attr{slog.String("message", auditMessage(code)), slog.String("record", name),
		slog.String("audit_id", strconv.FormatUint(e.id.ms/1000, 10)+"."+strconv.FormatUint(1000+e.id.ms%1000, 10)[1:]+":"+strconv.FormatUint(e.id.serial, 10))}
	for _, c := range auditCopied {
		if v := c.from(main, inner, call); v != "" {
			attrs = append(attrs, slog.String(c.attr, v))
		}
	}
	if len(attrs) > 24 {
		attrs = attrs[:24] // the rest are few, and matter more
	}
	attrs = append(attrs, auditMore(&m, main, inner, call, path)...)
	attrs = append(attrs, auditJudge(m.typ, m.text, res, failed, main)...)
	sink.Event(code, attrs...)
}

func auditMessage(code string) string {
	switch code {
	case "auth.ok":
		return "a login or session began"
	case "auth.fail":
		return "a login failed"
	case "auth.logoff":
		return "a session ended"
	case "account.change":
		return "an account was changed"
	case "kernel.audit-config":
		return "what the kernel's audit records was changed"
	case "module.load":
		return "a kernel module was loaded"
	case "module.unload":
		return "a kernel module was removed"
	}
	return "the kernel's audit reports a denial, an anomaly or what a rule asks for"
}

// auditCode settles the code of a record, "" for one that is not worth an event after all.
func auditCode(code string, m *auditMain, failed bool, main, call *auditFields) string {
	switch {
	case code == "auth" && failed:
		return "auth.fail"
	case code == "auth" && (m.typ == auditUserAcct || m.typ == 1109):
		return "" // only its failure says something that the records beside it do not
	case code == "auth":
		return "auth.ok"
	case code == "module":
		if call.word("syscall") == strconv.Itoa(unix.SYS_DELETE_MODULE) { // the record itself is the same
			return "module.unload"
		}
		return "module.load"
	case m.typ == auditListener && main.word("pid") == strconv.Itoa(os.Getpid()):
		return "" // ourselves
	case m.typ == auditAVC || m.typ == auditUserAVC:
		if !strings.Contains(m.text, "denied") && !strings.Contains(m.text, "DENIED") && !strings.Contains(m.text, `apparmor="ALLOWED"`) {
			return ""
		}
	}
	return code
}

func first(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// from takes what the kernel says before what a program does, and that before what the system call says.
func (c *auditCopy) from(main, inner, call *auditFields) string {
	v := ""
	for _, f := range []*auditFields{main, inner, call} {
		if c.text {
			v = f.get(c.field)
		} else {
			v = f.word(c.field)
		}
		if v != "" {
			break
		}
	}
	if v == "4294967295" || v == "-1" {
		return "" // nobody
	}
	return v
}

// auditMore finds what has a form of its own.
func auditMore(m *auditMain, main, inner, call, path *auditFields) (attrs []slog.Attr) {
	add := func(name, value string) {
		if value != "" {
			attrs = append(attrs, slog.String(name, value))
		}
	}
	// Names of both are such that the log keeps the values apart, as personal.
	add("subject", inner.get("acct"))
	add("source_address", first(inner.word("addr"), inner.word("hostname")))
	if ses := first(main.word("ses"), call.word("ses")); ses != "4294967295" {
		add("session", ses)
	}
	add("audit_key", first(main.get("key"), call.get("key")))
	if main.get("path") == "" {
		add("path", path.get("name"))
	}
	if _, perms, ok := strings.Cut(m.text, " { "); ok {
		perms, _, _ = strings.Cut(perms, " }")
		add("permission", perms[:min(len(perms), maxAuditValue)])
	}
	for i := range main.n {
		if f := main.list[i]; strings.HasPrefix(f.key, "audit_") { // of CONFIG_CHANGE
			add("setting", f.key)
			add("value", auditValue(f.raw))
			break
		}
	}
	return attrs
}

// auditJudge tells how the matter ended and how bad that is, where the table of codes cannot.
func auditJudge(typ uint16, text, res string, failed bool, main *auditFields) (attrs []slog.Attr) {
	severity, outcome := "", ""
	switch {
	case failed:
		outcome = "failure"
	case res != "" && (typ < 1700 || typ >= 1800): // of anomalies it says only that the record was made
		outcome = "success"
	}
	switch {
	case typ == auditMACStatus && main.word("enforcing") == "0":
		severity, outcome = "high", "success" // denials are no more than advice now
	case main.word("permissive") == "1", strings.Contains(text, `apparmor="ALLOWED"`), // they are not even denials
		typ == auditSyscall, typ >= 1800 && typ < 1900 && outcome == "success", typ == 1700 && main.word("prom") == "0":
		severity = "low"
	}
	if outcome != "" {
		attrs = append(attrs, slog.String("outcome", outcome))
	}
	if severity != "" {
		attrs = append(attrs, slog.String("severity", severity))
	}
	return attrs
}
