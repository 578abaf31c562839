// SPDX-License-Identifier: Apache-2.0

package intake

import (
	"bytes"
	"strings"

	"github.com/backstay/backstay/logging"
)

// Limits of what is kept of a syslog line.
const (
	maxApp      = 48
	maxElements = 8  // of structured data
	maxParams   = 16 // of all elements
	maxValue    = 256
)

// Facilities with a meaning here, and the default of a line without a priority: "user", "notice".
const (
	facilityAuth     = 4
	facilityAuthPriv = 10
	facilityAudit    = 13
	facilityAlert    = 14
	defaultPriority  = 1<<3 | 5
)

// Line is one line as programs send it to /dev/log: RFC 3164 as the C libraries write it, or RFC 5424. Its text, the name of
// the program included, is what the sender says.
type Line struct {
	Facility int // 0 to 23
	Severity int // 0 emergency to 7 debug
	App      string
	PID      string // as the line says
	MsgID    string
	Data     []logging.Attr // structured data, "id.name" and value
	Message  string
	Cut      bool // structured data beyond the limits, or malformed, was left out
}

// ParseLine reads a line. Everything is a line: what has no priority counts as one of a user's program, what has no tag is all
// message.
func ParseLine(b []byte) Line {
	b = bytes.TrimRight(b[:min(len(b), MaxMessage)], "\x00\n\r")
	priority, rest := takePriority(string(b))
	l := Line{Facility: priority >> 3, Severity: priority & 7}
	if after, ok := strings.CutPrefix(rest, "1 "); ok && l.modern(after) {
		return l
	}
	l = Line{Facility: priority >> 3, Severity: priority & 7}
	l.traditional(rest)
	return l
}

// takePriority reads "<N>" with N from 0 to 191.
func takePriority(s string) (int, string) {
	end := strings.IndexByte(s[:min(len(s), 5)], '>')
	if end < 2 || s[0] != '<' {
		return defaultPriority, s
	}
	n := 0
	for _, c := range []byte(s[1:end]) {
		if c < '0' || c > '9' {
			return defaultPriority, s
		}
		n = 10*n + int(c-'0')
	}
	if n > 191 {
		return defaultPriority, s
	}
	return n, s[end+1:]
}

// traditional reads "Mmm dd hh:mm:ss tag[pid]: message", where everything but the message may be absent.
func (l *Line) traditional(s string) {
	s = skipTime(s)
	end := strings.IndexAny(s[:min(len(s), maxApp+1)], ":[ <>")
	if end > 0 && (s[end] == ':' || s[end] == '[') {
		app, rest := s[:end], s[end:]
		pid := ""
		if rest[0] == '[' {
			shut := strings.IndexByte(rest[:min(len(rest), 16)], ']')
			if shut < 0 {
				l.Message = s
				return
			}
			pid, rest = rest[1:shut], rest[shut+1:]
		}
		if text, ok := strings.CutPrefix(rest, ":"); ok {
			l.App, l.PID, l.Message = app, pid, strings.TrimPrefix(text, " ")
			return
		}
	}
	l.Message = s
}

// skipTime drops "Nov 25 17:20:00 " at the beginning: the time of arrival is better, it comes from the device's trusted clock.
func skipTime(s string) string {
	const form = "Aaa dd 00:00:00 "
	if len(s) < len(form) {
		return s
	}
	for i, want := range []byte(form) {
		c := s[i]
		digit := c >= '0' && c <= '9'
		switch want {
		case 'A', 'a':
			if c < 'A' || c > 'z' {
				return s
			}
		case 'd':
			if !digit && c != ' ' {
				return s
			}
		case '0':
			if !digit {
				return s
			}
		default:
			if c != want {
				return s
			}
		}
	}
	return s[len(form):]
}

// modern reads what follows the version of RFC 5424: time, host, program, process, message id, structured data, message. It
// reports false for a line that only began like one.
func (l *Line) modern(s string) bool {
	var field [5]string
	for i := range field {
		word, rest, ok := strings.Cut(s, " ")
		if !ok || word == "" {
			return false
		}
		if word != "-" {
			field[i] = word
		}
		s = rest
	}
	l.App, l.PID, l.MsgID = field[2][:min(len(field[2]), maxApp)], field[3][:min(len(field[3]), 16)], field[4][:min(len(field[4]), 32)]
	switch {
	case s == "-" || strings.HasPrefix(s, "- "):
		s = s[1:]
	case strings.HasPrefix(s, "["):
		s = l.data(s)
	default:
		return false
	}
	l.Message = strings.TrimPrefix(strings.TrimPrefix(s, " "), "\ufeff")
	return true
}

// data reads the elements of structured data at the beginning of s and returns what follows them. At the first thing that is
// malformed it stops: the rest is message, so that nothing is lost.
func (l *Line) data(s string) string {
	for n := 0; strings.HasPrefix(s, "["); n++ {
		id, rest, ok := cutName(s[1:])
		if !ok {
			l.Cut = true
			return s
		}
		for strings.HasPrefix(rest, " ") {
			name, after, ok := cutName(rest[1:])
			value, next, good := cutValue(after)
			if !ok || !good {
				l.Cut = true
				return s
			}
			rest = next
			if n >= maxElements || len(l.Data) >= maxParams || len(value) > maxValue {
				l.Cut = true
				continue
			}
			l.Data = append(l.Data, logging.Attr{Name: id + "." + name, Value: value})
		}
		if !strings.HasPrefix(rest, "]") {
			l.Cut = true
			return s
		}
		s = rest[1:]
	}
	return s
}

// cutName reads a name of structured data: 1 to 32 printable characters but '=', ' ', ']' and '"'.
func cutName(s string) (name, rest string, ok bool) {
	for i, c := range []byte(s) {
		if c == '=' || c == ' ' || c == ']' || c == '"' || c <= ' ' || c > '~' {
			return s[:i], s[i:], i > 0
		}
		if i >= 32 {
			break
		}
	}
	return "", s, false
}

// cutValue reads `="value"`, where a backslash keeps '"', '\' and ']' in the value.
func cutValue(s string) (value, rest string, ok bool) {
	s, ok = strings.CutPrefix(s, `="`)
	if !ok {
		return "", s, false
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			return b.String(), s[i+1:], true
		case c == ']':
			return "", s, false
		case c == '\\' && i+1 < len(s) && strings.IndexByte(`"\]`, s[i+1]) >= 0:
			i++
			b.WriteByte(s[i])
		default:
			b.WriteByte(c)
		}
	}
	return "", s, false
}

// always reports whether a line is about security and so is recorded whatever its severity.
func (l *Line) always() bool {
	switch l.Facility {
	case facilityAuth, facilityAuthPriv, facilityAudit, facilityAlert:
		return true
	}
	return false
}

// facilities are the names of RFC 5424's numbers, as syslog.conf has them.
var facilities = [...]string{"kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp",
	"ntp", "audit", "alert", "clock", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7"}

// severities are OCSF's for the eight of RFC 5424.
var severities = [...]logging.Severity{logging.SeverityFatal, logging.SeverityCritical, logging.SeverityHigh, logging.SeverityMedium,
	logging.SeverityLow, logging.SeverityInfo, logging.SeverityInfo, logging.SeverityInfo}

// event makes the record of a line that peer sent.
func (l *Line) event(p Peer) logging.Event {
	e := logging.Event{Code: CodeSyslog, Message: l.Message, Severity: severities[l.Severity], Subject: p.subject()}
	add := func(name, value string) {
		if value != "" {
			e.Attrs = append(e.Attrs, logging.Attr{Name: name, Value: value})
		}
	}
	e.Attrs = p.attrs(SourceSyslog)
	add("facility", facilities[l.Facility])
	add("app", l.App)
	add("app_pid", l.PID)
	add("msgid", l.MsgID)
	if l.Cut {
		add("data_cut", "true")
	}
	for _, d := range l.Data {
		add("data."+d.Name, d.Value)
	}
	return e
}
