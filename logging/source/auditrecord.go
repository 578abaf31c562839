// SPDX-License-Identifier: Apache-2.0

package source

import (
	"encoding/binary"
	"encoding/hex"
	"strings"
)

// Bounds of one audit record.
const (
	maxAuditFields = 64
	maxAuditValue  = 256
)

// auditID ties the records of one event together: time in milliseconds, and a number that is unique in a boot.
type auditID struct{ ms, serial uint64 }

// parseAudit splits a record into its event and its text: audit(SECONDS.MILLISECONDS:SERIAL): TEXT. What a daemon adds behind
// the byte 0x1d, names for numbers, is no word of the kernel, and left out.
func parseAudit(b []byte) (id auditID, text string, ok bool) {
	s, ok := strings.CutPrefix(string(b), "audit(")
	stamp, text, ok2 := strings.Cut(s, "): ")
	sec, rest, ok3 := strings.Cut(stamp, ".")
	ms, serial, ok4 := strings.Cut(rest, ":")
	if !ok || !ok2 || !ok3 || !ok4 || len(ms) != 3 {
		return auditID{}, "", false
	}
	s1, ok := decimal(sec, 1<<40)
	s2, ok2 := decimal(ms, 1000)
	if id.serial, ok3 = decimal(serial, 1<<63); !ok || !ok2 || !ok3 {
		return auditID{}, "", false
	}
	id.ms = s1*1000 + s2
	text, _, _ = strings.Cut(text, "\x1d")
	text, _, _ = strings.Cut(text, "\x00")
	return id, strings.TrimRight(text, "\n "), true
}

// auditFields finds fields in the text of a record, KEY=VALUE with a blank between them. A value is a word, or text in double
// quotes, which the kernel never lets hold one, or hexadecimal, when it would have. What a program says, msg='...', is kept
// apart: it may hold anything, also what looks like a field of the kernel's, and it always comes last.
type auditFields struct {
	list [maxAuditFields]struct{ key, raw string }
	n    int
	msg  string
}

func (f *auditFields) parse(text string) {
	f.n, f.msg = 0, ""
	if head, msg, ok := strings.Cut(text, " msg='"); ok {
		text, f.msg = head, strings.TrimSuffix(msg, "'")
	}
	for text != "" && f.n < len(f.list) {
		text = strings.TrimLeft(text, " ,")
		end := strings.IndexAny(text, "= ")
		if end < 0 {
			return
		}
		key := text[:end]
		if text[end] == ' ' { // a word that is no field
			text = text[end:]
			continue
		}
		text = text[end+1:]
		if strings.HasPrefix(text, `"`) {
			if end = strings.IndexByte(text[1:], '"'); end < 0 {
				return
			}
			end += 2
		} else if end = strings.IndexByte(text, ' '); end < 0 {
			end = len(text)
		}
		f.list[f.n].key, f.list[f.n].raw = key, text[:end]
		f.n++
		text = text[end:]
	}
}

// get returns the first value of a key, "" when there is none or nothing in it.
func (f *auditFields) get(key string) string {
	for i := range f.n {
		if f.list[i].key == key {
			return auditValue(f.list[i].raw)
		}
	}
	return ""
}

// word returns a value that is never hexadecimal for text: a number, a name of the kernel's own.
func (f *auditFields) word(key string) string {
	for i := range f.n {
		if f.list[i].key == key {
			raw := strings.Trim(f.list[i].raw, `",`)
			if raw == "?" || raw == "(null)" || raw == "(none)" {
				return ""
			}
			return raw[:min(len(raw), maxAuditValue)]
		}
	}
	return ""
}

// auditValue decodes a value that may be text. Hexadecimal that is not, of an odd length, stays as it is.
func auditValue(raw string) string {
	if len(raw) >= 2 && raw[0] == '"' {
		raw = raw[1 : len(raw)-1]
		return raw[:min(len(raw), maxAuditValue)]
	}
	switch raw {
	case "?", "(null)", "(none)", "(unknown)":
		return ""
	}
	if strings.Trim(raw, "0123456789ABCDEF") == "" {
		if b, err := hex.DecodeString(raw[:min(len(raw), 2*maxAuditValue)]); err == nil {
			// Rules may have several keys, one record then holds them all.
			return strings.ReplaceAll(strings.TrimRight(string(b), "\x00"), "\x01", ",")
		}
	}
	return raw[:min(len(raw), maxAuditValue)]
}

// auditStatus is what is needed of struct audit_status, of which older kernels have less.
type auditStatus struct {
	enabled, pid, lost, wait uint32
}

func parseAuditStatus(b []byte) (s auditStatus, ok bool) {
	if len(b) < 32 {
		return auditStatus{}, false
	}
	word := func(i int) uint32 { return binary.NativeEndian.Uint32(b[4*i:]) }
	s = auditStatus{enabled: word(1), pid: word(3), lost: word(6)}
	if len(b) >= 40 {
		s.wait = word(9)
	}
	return s, true
}
