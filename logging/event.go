// SPDX-License-Identifier: Apache-2.0

package logging

import (
	"log/slog"
	"strings"
	"time"
)

// Severity is an OCSF severity_id. The zero value means "what the table says for this code".
type Severity uint8

// Severities, with the numbers of OCSF.
const (
	SeverityDefault  Severity = 0
	SeverityInfo     Severity = 1
	SeverityLow      Severity = 2
	SeverityMedium   Severity = 3
	SeverityHigh     Severity = 4
	SeverityCritical Severity = 5
	SeverityFatal    Severity = 6
)

// Outcome is an OCSF status_id. The zero value means "what the table says for this code".
type Outcome uint8

// Outcomes, with the numbers of OCSF.
const (
	OutcomeDefault Outcome = 0
	OutcomeSuccess Outcome = 1
	OutcomeFailure Outcome = 2
)

// Quality says how far the wall clock of an event can be trusted.
type Quality string

// Qualities, worst first.
const (
	QualityNone   Quality = "none"   // not set since power-up: the build time or 1970
	QualityStored Quality = "stored" // the last time known before the restart
	QualitySigned Quality = "signed" // not before a time in verified metadata
	QualityRTC    Quality = "rtc"    // a battery-backed clock of the device
	QualityNTP    Quality = "ntp"    // synchronised
)

// Limits of one event, in bytes of its encoded JSON strings. What exceeds them is cut, and the leaf says "is_truncated".
const (
	MaxMessage   = 1024
	MaxField     = 256
	MaxAttrs     = 32
	MaxAttrName  = 64
	MaxAttrValue = 512
)

// Event is one thing that happened, before it has a place in a log. Text in it may come from anywhere, hostile programs
// included: encoding escapes it, cuts it to the limits above and drops what looks like a secret.
type Event struct {
	Code string // stable name, such as "update.installed"; see Lookup

	Time      time.Time     // wall clock when it happened; zero: the time of the append
	Quality   Quality       // of Time; empty means QualityNone
	TimeError time.Duration // how far Time may be off, as the clock estimates; 0 when nobody knows
	BootID    string        // changes with every boot
	Monotonic time.Duration // since boot, so that order survives a clock step

	Severity Severity
	Outcome  Outcome
	Message  string // one sentence for a person

	Device   string // product or hardware name; the device id is the log's and needs no field
	HWAddr   string // hardware address of its first network interface
	Firmware string // version that was running
	Subject  string // who: user, process, component
	Session  string // ties the events of one job or login together

	Rule   string // rule id that caused the record; empty means the row of the code in the table: "event/<code>"
	Policy string // version of the policy the rule came from; empty means that of the table
	Before string // hash of the thing before
	After  string // hash of the thing after

	Attrs []Attr // anything else, at most MaxAttrs, in this order

	Side []Personal // values the fields above hold commitments to; see Seal
}

// Attr is one more fact of an event.
type Attr struct{ Name, Value string }

// NewEvent makes an event from what a pillar emits. The attribute names time, severity ("info" to "fatal"), outcome
// ("success", "failure"), message, device, firmware, subject, session, rule, policy, before and after fill the fields of
// that name; every other attribute goes to Attrs, groups flattened with dots.
func NewEvent(code string, attrs ...slog.Attr) Event {
	e := Event{Code: code}
	for _, a := range attrs {
		e.add("", a, 0)
	}
	return e
}

// maxGroupDepth bounds nested groups, so that a value that contains itself through a LogValuer ends.
const maxGroupDepth = 4

func (e *Event) add(prefix string, a slog.Attr, depth int) {
	v := a.Value.Resolve()
	if v.Kind() == slog.KindGroup {
		if a.Key != "" {
			prefix += a.Key + "."
		}
		if depth < maxGroupDepth {
			for _, g := range v.Group() {
				e.add(prefix, g, depth+1)
			}
		}
		return
	}
	if prefix == "" {
		if a.Key == "time" && v.Kind() == slog.KindTime {
			e.Time = v.Time()
			return
		}
		if e.setField(a.Key, v.String()) {
			return
		}
	}
	e.Attrs = append(e.Attrs, Attr{Name: prefix + a.Key, Value: attrText(v)})
}

func attrText(v slog.Value) string {
	if v.Kind() == slog.KindTime {
		return v.Time().UTC().Format(time.RFC3339)
	}
	return v.String()
}

func (e *Event) setField(name, value string) bool {
	var dst *string
	switch name {
	case "message":
		dst = &e.Message
	case "device":
		dst = &e.Device
	case "firmware":
		dst = &e.Firmware
	case "subject":
		dst = &e.Subject
	case "session":
		dst = &e.Session
	case "rule":
		dst = &e.Rule
	case "policy":
		dst = &e.Policy
	case "before":
		dst = &e.Before
	case "after":
		dst = &e.After
	case "outcome":
		return e.setOutcome(value)
	case "severity":
		return e.setSeverity(value)
	default:
		return false
	}
	if *dst != "" {
		return false // a second value of the same name must not hide the first
	}
	*dst = value
	return true
}

func (e *Event) setOutcome(s string) bool {
	switch s {
	case "success":
		e.Outcome = OutcomeSuccess
	case "failure":
		e.Outcome = OutcomeFailure
	default:
		return false
	}
	return true
}

func (e *Event) setSeverity(s string) bool {
	for v := SeverityInfo; v <= SeverityFatal; v++ {
		if v.String() == s {
			e.Severity = v
			return true
		}
	}
	return false
}

// String returns the name of the severity in lower case: "info", "low", "medium", "high", "critical", "fatal".
func (s Severity) String() string {
	names := [...]string{"default", "info", "low", "medium", "high", "critical", "fatal"}
	if int(s) < len(names) {
		return names[s]
	}
	return "unknown"
}

// String returns "success", "failure" or "unknown".
func (o Outcome) String() string {
	switch o {
	case OutcomeSuccess:
		return "success"
	case OutcomeFailure:
		return "failure"
	}
	return "unknown"
}

// Critical reports whether the event must be durable before the call that appends it returns: its code is critical in the
// table, or its severity is high or above.
func (e Event) Critical() bool {
	k := Lookup(e.Code)
	s := e.Severity
	if s == SeverityDefault {
		s = k.Severity
	}
	return k.Critical || s >= SeverityHigh
}

// redacted replaces a value that looks like a secret. The value never reaches the hash, so it cannot be guessed from it.
const redacted = "[dropped: looks like a secret]"

// secretNames are parts of attribute names whose values are never recorded.
var secretNames = [...]string{"passw", "passphrase", "secret", "private", "psk", "token", "authorization", "cookie", "credential"}

// secretMarks are parts of values that give a secret away, in lower case: PEM keys, password hashes of crypt(3), the forms
// secrets have in command lines, headers and URLs, and the prefixes of well-known token kinds.
var secretMarks = [...]string{
	"private key-----", "$1$", "$2a$", "$2b$", "$2y$", "$5$", "$6$", "$y$", "$argon2",
	"password=", "passwd=", "passphrase=", "psk=", "secret=", "token=", "api_key=", "apikey=", "authorization:", "bearer ",
	"ghp_", "github_pat_", "glpat-", "xoxb-", "xoxp-", "eyj0exai", "eyjhbgci", "age-secret-key-",
}

// accessKey finds cloud access key ids: AKIA and 16 capitals or digits. The four letters alone turn up in any base64.
func accessKey(s string) bool {
	_, rest, ok := strings.Cut(s, "AKIA")
	n := 0
	for n < len(rest) && (rest[n] >= 'A' && rest[n] <= 'Z' || rest[n] >= '0' && rest[n] <= '9') {
		n++
	}
	return ok && n >= 16
}

func secret(name, value string) bool {
	name = strings.ToLower(name[:min(len(name), 2*MaxAttrName)])
	for _, s := range secretNames {
		if strings.Contains(name, s) {
			return true
		}
	}
	if accessKey(value) {
		return true
	}
	value = strings.ToLower(value)
	for _, s := range secretMarks {
		if marked(value, s) {
			return true
		}
	}
	// scheme://user:password@host
	if _, rest, ok := strings.Cut(value, "://"); ok {
		authority, _, _ := strings.Cut(rest, "/")
		user, _, ok := strings.Cut(authority, "@")
		return ok && strings.Contains(user, ":")
	}
	return false
}

// marked reports whether a value holds a mark, and a value behind it when the mark ends in an equals sign: one hash in base64 of 15 000
// ends in "psk=", and the root of a log must not be taken for a password.
func marked(value, mark string) bool {
	for {
		_, rest, ok := strings.Cut(value, mark)
		if !ok {
			return false
		}
		if !strings.HasSuffix(mark, "=") || rest != "" && rest[0] != '=' && rest[0] != '\n' {
			return true
		}
		value = rest
	}
}
