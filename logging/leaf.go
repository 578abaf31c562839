// SPDX-License-Identifier: Apache-2.0

package logging

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// EncodeLeaf returns the leaf of an event: one line of JSON, an OCSF event, fields in a fixed order. It carries the log it
// belongs to, its index there and the time it was logged, so a record that was moved says so itself.
//
// The bytes are printable ASCII and nothing else: control characters, quotes and everything beyond ASCII are \u escapes,
// invalid UTF-8 becomes U+FFFD. No text in an event can therefore break a line, a terminal or the JSON around it. At most
// [MaxLeaf] bytes: the caps of [Event] see to it, and attributes that would not fit are left out.
//
// Personal values never get into the leaf: an event that is not sealed is sealed here. See [EncodeRecord] for them.
func EncodeLeaf(origin Origin, index uint64, logged time.Time, e Event) []byte {
	body, _ := EncodeRecord(origin, index, logged, e)
	return body
}

// EncodeRecord returns the leaf of an event and its side record: the personal values the leaf commits to, nil when there are
// none.
func EncodeRecord(origin Origin, index uint64, logged time.Time, e Event) (body, side []byte) {
	e = e.Seal(nil)
	body = encodeLeaf(origin, index, logged, e)
	// An attribute that was cut off must not be told beside the leaf either.
	list := slices.DeleteFunc(slices.Clone(e.Side), func(p Personal) bool { return !bytes.Contains(body, []byte(p.Commitment())) })
	return body, encodeSide(list)
}

func encodeLeaf(origin Origin, index uint64, logged time.Time, e Event) []byte {
	k := Lookup(e.Code)
	if e.Severity == SeverityDefault || e.Severity > SeverityFatal {
		e.Severity = k.Severity
	}
	if e.Outcome != OutcomeSuccess && e.Outcome != OutcomeFailure {
		e.Outcome = k.Outcome
	}
	if e.Quality == "" {
		e.Quality = QualityNone
	}
	// Every record says why it was made. Without a rule of a policy it is the table that says so.
	if e.Rule == "" {
		e.Rule = rulePrefix + tableCode(e.Code)
	}
	if e.Policy == "" {
		e.Policy = CatalogueVersion
	}
	cut := len(e.Attrs) > MaxAttrs
	if cut {
		e.Attrs = e.Attrs[:MaxAttrs]
	}
	places, rest := mapping(k, origin, index, e)
	e.Attrs = rest
	when := e.Time
	if when.IsZero() {
		when = logged
	}
	log := origin.String()
	w := &jsonWriter{b: make([]byte, 0, 1024), cut: cut}
	w.open("")
	w.number("category_uid", int64(k.Category()))
	w.number("class_uid", int64(k.Class))
	w.number("activity_id", int64(k.Activity))
	w.optional("activity_name", k.Name, MaxField)
	w.number("type_uid", int64(k.Type()))
	w.number("severity_id", int64(e.Severity))
	w.number("status_id", int64(e.Outcome))
	w.number("time", when.UnixMilli())
	w.text("time_dt", stamp(when), MaxField)
	w.optional("message", e.Message, MaxMessage)
	w.open("metadata")
	w.text("version", SchemaVersion, MaxField)
	w.open("product")
	w.text("name", "backstay", MaxField)
	w.close()
	w.text("log_name", log, MaxField)
	w.number("sequence", int64(index))
	w.text("uid", log+"/"+strconv.FormatUint(index, 10), MaxField)
	w.text("event_code", e.Code, MaxAttrName)
	w.number("logged_time", logged.UnixMilli())
	w.raw("profiles", `["host","datetime"]`)
	w.close()
	w.device(k.Class, origin.Device, e)
	w.objects(places)
	w.unmapped(e)
	if w.cut {
		w.raw("is_truncated", "true")
	}
	w.close()
	return w.b
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z07:00") }

func (w *jsonWriter) device(class int, id string, e Event) {
	w.open("device")
	w.number("type_id", 7) // IOT
	w.text("uid", id, MaxField)
	w.optional("model", e.Device, MaxField)
	w.optional("mac", e.HWAddr, MaxAttrName)
	w.optional("boot_uid", e.BootID, MaxField)
	if class == classPatch && e.Firmware == "" {
		e.Firmware = "unknown" // the class requires a version
	}
	if e.Firmware != "" {
		w.open("os")
		w.text("name", "firmware", MaxField)
		w.number("type_id", activityOther)
		w.text("version", e.Firmware, MaxField)
		w.close()
	}
	w.close()
}

// unmapped is where OCSF wants what its classes have no field for.
func (w *jsonWriter) unmapped(e Event) {
	w.open("unmapped")
	w.text("time_quality", string(e.Quality), MaxAttrName)
	if e.TimeError > 0 {
		w.number("time_error_ms", (e.TimeError + time.Millisecond - 1).Milliseconds())
	}
	w.number("monotonic_ms", e.Monotonic.Milliseconds())
	w.optional("rule", e.Rule, MaxField)
	w.optional("policy", e.Policy, MaxField)
	w.optional("before", e.Before, MaxField)
	w.optional("after", e.After, MaxField)
	if attrs := e.Attrs; len(attrs) > 0 {
		// A list, not an object: names may repeat, and a JSON object with one name twice reads differently everywhere.
		w.key("attrs")
		w.b = append(w.b, '[')
		for i, a := range attrs {
			if len(w.b) > MaxLeaf-2*MaxAttrValue {
				w.cut = true
				break
			}
			if i > 0 {
				w.b = append(w.b, ',')
			}
			w.first = true
			w.open("")
			w.text("name", a.Name, MaxAttrName)
			if secret(a.Name, "") {
				w.raw("value", `"`+redacted+`"`)
			} else {
				w.text("value", a.Value, MaxAttrValue)
			}
			w.close()
		}
		w.b = append(w.b, ']')
	}
	w.close()
}

// jsonWriter writes JSON in the order it is called. It exists because encoding/json can neither promise that order across
// versions of Go nor restrict its output to ASCII, and leaf bytes are for ever.
type jsonWriter struct {
	b     []byte
	first bool
	cut   bool // some string was cut
}

func (w *jsonWriter) key(name string) {
	if !w.first {
		w.b = append(w.b, ',')
	}
	w.first = false
	if name != "" {
		w.b = append(append(append(w.b, '"'), name...), '"', ':')
	}
}

func (w *jsonWriter) open(name string) {
	if name != "" {
		w.key(name)
	}
	w.b = append(w.b, '{')
	w.first = true
}

func (w *jsonWriter) close() {
	w.b = append(w.b, '}')
	w.first = false
}

func (w *jsonWriter) raw(name, value string) {
	w.key(name)
	w.b = append(w.b, value...)
}

func (w *jsonWriter) number(name string, v int64) {
	w.key(name)
	w.b = strconv.AppendInt(w.b, v, 10)
}

func (w *jsonWriter) optional(name, v string, limit int) {
	if v != "" {
		w.text(name, v, limit)
	}
}

// text writes a string of at most limit bytes as encoded; the limit counts escapes, so hostile text cannot grow a leaf.
func (w *jsonWriter) text(name, v string, limit int) {
	// What is far beyond the limit cannot get into the leaf, and need not be searched.
	if most := limit + MaxAttrValue; len(v) > most {
		v, w.cut = v[:most], true
	}
	if secret("", v) {
		v = redacted
	}
	w.key(name)
	w.b = append(w.b, '"')
	start := len(w.b)
	for i := 0; i < len(v); {
		r, n := utf8.DecodeRuneInString(v[i:])
		mark := len(w.b)
		w.b = appendRune(w.b, r)
		if len(w.b)-start > limit {
			w.b, w.cut = w.b[:mark], true
			break
		}
		i += n
	}
	w.b = append(w.b, '"')
}

func appendRune(b []byte, r rune) []byte {
	const hex = "0123456789abcdef"
	unit := func(b []byte, u rune) []byte {
		return append(b, '\\', 'u', hex[u>>12&15], hex[u>>8&15], hex[u>>4&15], hex[u&15])
	}
	switch {
	case r == '"' || r == '\\':
		return append(b, '\\', byte(r))
	case r == '<' || r == '>' || r == '&': // a leaf may end up inside HTML
		return unit(b, r)
	case r >= ' ' && r <= '~':
		return append(b, byte(r))
	case r >= 0x10000:
		r -= 0x10000
		return unit(unit(b, 0xd800+r>>10), 0xdc00+r&0x3ff)
	}
	return unit(b, r)
}

// Record is a decoded leaf.
type Record struct {
	Origin    Origin
	Index     uint64
	Logged    time.Time // UTC, milliseconds
	Class     int       // OCSF class_uid
	Activity  int       // OCSF activity_id
	Truncated bool
	Event
}

type leafJSON struct {
	Class    int    `json:"class_uid"`
	Activity int    `json:"activity_id"`
	Severity uint8  `json:"severity_id"`
	Status   uint8  `json:"status_id"`
	Time     int64  `json:"time"`
	Message  string `json:"message"`
	Metadata struct {
		Version string `json:"version"`
		LogName string `json:"log_name"`
		Seq     uint64 `json:"sequence"`
		Code    string `json:"event_code"`
		Logged  int64  `json:"logged_time"`
	} `json:"metadata"`
	Device struct {
		Model  string `json:"model"`
		MAC    string `json:"mac"`
		BootID string `json:"boot_uid"`
		OS     struct {
			Version string `json:"version"`
		} `json:"os"`
	} `json:"device"`
	objectsJSON
	Unmapped struct {
		Quality string `json:"time_quality"`
		Error   int64  `json:"time_error_ms"`
		BootID  string `json:"boot_id"` // of older leaves
		Mono    int64  `json:"monotonic_ms"`
		Rule    string `json:"rule"`
		Policy  string `json:"policy"`
		Before  string `json:"before"`
		After   string `json:"after"`
		Attrs   []Attr `json:"attrs"`
	} `json:"unmapped"`
	Truncated bool `json:"is_truncated"`
}

// DecodeLeaf reads a leaf that [EncodeLeaf] made, also one of a later version that only added fields. Text in the result is
// as hostile as it was when the event happened. Errors match ErrRefused with CodeMalformed, or CodeUnknownVersion for
// another major version of the schema; such a leaf is evidence all the same and must be kept as opaque bytes.
func DecodeLeaf(body []byte) (Record, error) {
	if len(body) > MaxLeaf {
		return Record{}, refuse(CodeMalformed, "record", "too long")
	}
	var j leafJSON
	if err := json.Unmarshal(body, &j); err != nil {
		return Record{}, refuseErr(CodeMalformed, "record", err)
	}
	if major, _, _ := strings.Cut(j.Metadata.Version, "."); major != "1" {
		return Record{}, refuse(CodeUnknownVersion, "record", fmt.Sprintf("schema version %q", j.Metadata.Version))
	}
	origin, err := ParseOrigin(j.Metadata.LogName)
	if err != nil {
		return Record{}, err
	}
	const maxMono = int64(1<<63-1) / int64(time.Millisecond)
	millis := func(n int64) time.Duration { return time.Duration(min(max(n, -maxMono), maxMono)) * time.Millisecond }
	r := Record{
		Origin: origin, Index: j.Metadata.Seq, Logged: time.UnixMilli(j.Metadata.Logged).UTC(),
		Class: j.Class, Activity: j.Activity, Truncated: j.Truncated,
		Event: Event{
			Code: j.Metadata.Code, Time: time.UnixMilli(j.Time).UTC(), Quality: Quality(j.Unmapped.Quality),
			BootID: cmp.Or(j.Device.BootID, j.Unmapped.BootID), Monotonic: millis(j.Unmapped.Mono), TimeError: millis(j.Unmapped.Error),
			Severity: Severity(j.Severity), Outcome: Outcome(j.Status), Message: j.Message,
			Device: j.Device.Model, HWAddr: j.Device.MAC, Firmware: j.Device.OS.Version,
			Rule: j.Unmapped.Rule, Policy: j.Unmapped.Policy, Before: j.Unmapped.Before, After: j.Unmapped.After,
		},
	}
	j.unmap(j.Class, &r.Event)
	r.Attrs = append(r.Attrs, j.Unmapped.Attrs...)
	return r, nil
}

// Attr returns the value of the first attribute of that name.
func (e Event) Attr(name string) (string, bool) {
	for _, a := range e.Attrs {
		if a.Name == name {
			return a.Value, true
		}
	}
	return "", false
}
