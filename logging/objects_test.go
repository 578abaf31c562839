// SPDX-License-Identifier: Apache-2.0

package logging_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/backstay/backstay/logging"
)

// schema is the part of OCSF 1.8.0 the table uses: see the comment in the file.
type schema struct {
	Version          string
	Classes, Objects map[string]*class
}

type class struct {
	Name         string
	Category     int
	Required     []string
	AtLeastOne   []string `json:"at_least_one"`
	Attributes   map[string]string
	Activities   map[string]string
	TypeIDs      []int `json:"type_ids"`
	AlgorithmIDs []int `json:"algorithm_ids"`
}

func readSchema(t testing.TB) schema {
	t.Helper()
	var s schema
	if err := json.Unmarshal(readFile(t, "testdata/ocsf-1.8.0.json"), &s); err != nil {
		t.Fatal(err)
	}
	if s.Version != logging.SchemaVersion {
		t.Fatalf("the schema is %s, the table of %s", s.Version, logging.SchemaVersion)
	}
	return s
}

// check compares an object with its class: what must be there is, nothing else is, and everything is of its type.
func (s schema) check(c *class, v map[string]any, at string) (errs []string) {
	fail := func(format string, args ...any) { errs = append(errs, at+fmt.Sprintf(format, args...)) }
	for _, name := range c.Required {
		if _, ok := v[name]; !ok {
			fail("%s is missing", name)
		}
	}
	if len(c.AtLeastOne) > 0 && !slices.ContainsFunc(c.AtLeastOne, func(name string) bool { return has(v, name) }) {
		fail("none of %v is there", c.AtLeastOne)
	}
	for name, value := range v {
		kind, ok := c.Attributes[name]
		if base, isTwin := strings.CutSuffix(name, "_dt"); !ok && isTwin && c.Attributes[base] == "int" {
			kind, ok = "string", true // of the profile datetime
		}
		if !ok {
			fail("%s is not an attribute", name)
			continue
		}
		errs = append(errs, s.value(kind, value, at+name)...)
		if n, isNumber := value.(float64); isNumber && (name == "type_id" && !slices.Contains(c.TypeIDs, int(n)) || name == "algorithm_id" && !slices.Contains(c.AlgorithmIDs, int(n))) {
			fail("%s has no value %v", name, n)
		}
	}
	return errs
}

func (s schema) value(kind string, value any, at string) []string {
	if elem, ok := strings.CutSuffix(kind, "[]"); ok {
		list, isList := value.([]any)
		if !isList {
			return []string{at + " is not a list"}
		}
		var errs []string
		for _, v := range list {
			errs = append(errs, s.value(elem, v, at)...)
		}
		return errs
	}
	ok := true
	switch kind {
	case "any":
	case "string":
		_, ok = value.(string)
	case "ip":
		text, _ := value.(string)
		_, err := netip.ParseAddr(text)
		ok = err == nil
	case "int":
		var n float64
		n, ok = value.(float64)
		ok = ok && n == float64(int64(n))
	case "bool":
		_, ok = value.(bool)
	default:
		object, isObject := value.(map[string]any)
		if !isObject {
			return []string{at + " is not an object"}
		}
		return s.check(s.Objects[kind], object, at+".")
	}
	if !ok {
		return []string{fmt.Sprintf("%s: %v is not of type %s", at, value, kind)}
	}
	return nil
}

func has(v map[string]any, name string) bool {
	head, rest, nested := strings.Cut(name, ".")
	value, ok := v[head]
	if !nested || !ok {
		return ok
	}
	object, ok := value.(map[string]any)
	return ok && has(object, rest)
}

// everything is every attribute the table has a place for, with a value that fits.
var everything = map[string]string{
	"path": "/etc/passwd", "exe": "/usr/bin/sh", "pid": "77", "ppid": "1", "uid": "0", "comm": "sh", "size": "12", "volume": "/dev/sda1",
	"sha256": strings.Repeat("ab", 32), "module": "usbserial", "name": "ttyUSB0", "devpath": "/devices/x", "serial": "S1", "manufacturer": "ACME", "product": "Key",
	"title": "a rule", "account": "alice", "account_uid": "1000", "by": "root", "service": "sshd", "terminal": "pts/0", "source_address": "192.0.2.1",
	"port": "22", "device_id": "d", "address": "2001:db8::1", "version": "1.2.3", "something_else": "x",
}

// variants of one event: with nothing, with everything, and with values that fit no place.
func variants(code string) map[string]logging.Event {
	full := logging.Event{Code: code, Message: "m", Quality: logging.QualityNTP, TimeError: 1500 * time.Microsecond, BootID: "b", Monotonic: time.Second, Device: "acme",
		HWAddr: "02:00:00:00:00:01", Firmware: "1.0", Subject: "root", Session: "s", Rule: "r", Policy: "p/1", Before: "sha256:a", After: "sha256:b"}
	odd := full
	for _, name := range slices.Sorted(maps.Keys(everything)) {
		full.Attrs = append(full.Attrs, logging.Attr{Name: name, Value: everything[name]})
		odd.Attrs = append(odd.Attrs, logging.Attr{Name: name, Value: "not <fitting>"}, logging.Attr{Name: name, Value: ""})
	}
	odd.Attrs = odd.Attrs[:logging.MaxAttrs]
	return map[string]logging.Event{"bare": {Code: code}, "full": full, "odd": odd, "sealed": full.Seal(nil),
		"only pid": {Code: code, Attrs: []logging.Attr{{Name: "pid", Value: "7"}}}, "only port": {Code: code, Attrs: []logging.Attr{{Name: "port", Value: "22"}}}}
}

// TestEveryRowIsAnEventOfItsClass checks the table and the places against the published schema: numbers, activities, what is
// required, what is known, types.
func TestEveryRowIsAnEventOfItsClass(t *testing.T) {
	s := readSchema(t)
	for _, k := range logging.Kinds() {
		c := s.Classes[strconv.Itoa(k.Class)]
		if c == nil {
			t.Errorf("%s: no class %d in the extract of the schema", k.Code, k.Class)
			continue
		}
		if k.Category() != c.Category || c.Activities[strconv.Itoa(k.Activity)] == "" {
			t.Errorf("%s: class %s has category %d and no activity %d", k.Code, c.Name, c.Category, k.Activity)
		}
		for name, e := range variants(k.Code) {
			body := logging.EncodeLeaf(testOrigin, 5, epoch0, e)
			var v map[string]any
			if err := json.Unmarshal(body, &v); err != nil {
				t.Fatalf("%s, %s: %v\n%s", k.Code, name, err, body)
			}
			for _, err := range s.check(c, v, "") {
				t.Errorf("%s, %s: %s\n%s", k.Code, name, err, body)
			}
			if err := twice(body); err != nil {
				t.Errorf("%s, %s: %v\n%s", k.Code, name, err, body)
			}
		}
	}
	for number := range s.Classes {
		if !slices.ContainsFunc(logging.Kinds(), func(k logging.Kind) bool { return strconv.Itoa(k.Class) == number }) {
			t.Errorf("class %s is in the extract and no row is of it", number)
		}
	}
}

// twice finds a name that is given twice in one object: readers differ in which one they believe.
func twice(b []byte) error {
	dec := json.NewDecoder(strings.NewReader(string(b)))
	var names []map[string]bool
	var key []bool // the next text is a name
	for {
		tok, err := dec.Token()
		if err != nil {
			return nil
		}
		top := len(key) - 1
		switch v := tok.(type) {
		case json.Delim:
			if v == '{' || v == '[' {
				if top >= 0 && names[top] != nil {
					key[top] = true
				}
				var m map[string]bool
				if v == '{' {
					m = map[string]bool{}
				}
				names, key = append(names, m), append(key, v == '{')
				continue
			}
			names, key = names[:top], key[:top]
			continue
		case string:
			if top >= 0 && names[top] != nil && key[top] {
				if names[top][v] {
					return fmt.Errorf("%q is given twice", v)
				}
				names[top][v], key[top] = true, false
				continue
			}
		}
		if top >= 0 && names[top] != nil {
			key[top] = true
		}
	}
}

// TestMappedAttributesComeBack holds that a place in OCSF loses nothing: the same facts are read from the leaf.
func TestMappedAttributesComeBack(t *testing.T) {
	facts := func(e logging.Event) map[logging.Attr]int {
		m := map[logging.Attr]int{}
		for _, a := range e.Attrs {
			m[a]++
		}
		return m
	}
	for _, k := range logging.Kinds() {
		for name, e := range variants(k.Code) {
			body, side := logging.EncodeRecord(testOrigin, 5, epoch0, e)
			r, err := logging.Leaf{Body: body, Side: side}.Decode()
			if err != nil {
				t.Fatalf("%s, %s: %v\n%s\n%s", k.Code, name, err, body, side)
			}
			if name == "sealed" {
				e = variants(k.Code)["full"]
			}
			if got := facts(r.Event); !reflect.DeepEqual(got, facts(e)) || r.Subject != e.Subject || r.Session != e.Session {
				t.Errorf("%s, %s:\n got %v, %q, %q\nwant %v, %q, %q\n%s", k.Code, name, got, r.Subject, r.Session, facts(e), e.Subject, e.Session, body)
			}
		}
	}
}

// TestTheObjectsOfAClass spells out what a consumer looks for.
func TestTheObjectsOfAClass(t *testing.T) {
	attrs := func(names ...string) (out []logging.Attr) {
		for _, n := range names {
			out = append(out, logging.Attr{Name: n, Value: everything[n]})
		}
		return out
	}
	for _, tc := range []struct {
		e    logging.Event
		want []string
	}{
		{logging.Event{Code: "file.changed", Attrs: attrs("path", "exe", "pid")}, []string{`"file":{"name":"passwd","type_id":0,"path":"/etc/passwd"}`, `"actor":{"process":{"pid":77,"path":"/usr/bin/sh"}}`}},
		{logging.Event{Code: "exec", Attrs: attrs("exe", "pid", "ppid", "uid", "sha256")}, []string{`"process":{"pid":77,"parent_process":{"pid":1},"file":{"name":"sh","type_id":8,"path":"/usr/bin/sh","hashes":[{"algorithm_id":3,"value":"abab`, `"actor":{"user":{"uid":"0"}}`}},
		{logging.Event{Code: "auth.fail", Subject: "eve", Attrs: attrs("source_address", "port", "service")}, []string{`"user":{"name":"sha256:`, `"service":{"name":"sshd"}`, `"src_endpoint":{"uid":"sha256:`, `"port":22}`}},
		{logging.Event{Code: "net.listen", Attrs: attrs("address", "port")}, []string{`"src_endpoint":{"ip":"2001:db8::1","port":22}`}},
		{logging.Event{Code: "module.load", Attrs: attrs("module")}, []string{`"driver":{"file":{"name":"usbserial","type_id":0}}`, `"actor":{"app_name":"kernel"}`}},
		{logging.Event{Code: "config.drift", Rule: "ssh.password-auth"}, []string{`"compliance":{"control":"ssh.password-auth"}`, `"finding_info":{"uid":"ssh.password-auth"}`}},
		{logging.Event{Code: "update.rejected"}, []string{`"finding_info":{"uid":"backstay/audit/abcdefghijklmnopqrstuvwxyz/3/5"}`, `"is_alert":true`}},
		{logging.Event{Code: "identity.enrolled"}, []string{`"entity":{"name":"this device","type_id":1}`}},
		{logging.Event{Code: "update.committed", Attrs: attrs("version")}, []string{`"app":{"name":"firmware","version":"1.2.3"}`}},
	} {
		body := string(logging.EncodeLeaf(testOrigin, 5, epoch0, tc.e))
		for _, want := range tc.want {
			if !strings.Contains(body, want) {
				t.Errorf("%s: no %s in\n%s", tc.e.Code, want, body)
			}
		}
	}
}

// TestEveryRecordSaysWhyItWasMade and how good its time is.
func TestEveryRecordSaysWhyItWasMade(t *testing.T) {
	for code, want := range map[string]string{"boot": "event/boot", "app.door": "event/app.*", "unheard.of": "event/other"} {
		r, err := logging.DecodeLeaf(logging.EncodeLeaf(testOrigin, 5, epoch0, logging.Event{Code: code}))
		if err != nil || r.Rule != want || r.Policy != logging.CatalogueVersion || r.Quality != logging.QualityNone {
			t.Errorf("%s: rule %q, policy %q, quality %q, %v", code, r.Rule, r.Policy, r.Quality, err)
		}
	}
	r, err := logging.DecodeLeaf(logging.EncodeLeaf(testOrigin, 5, epoch0, variants("boot")["full"]))
	if err != nil || r.TimeError != 2*time.Millisecond || r.HWAddr != "02:00:00:00:00:01" || r.BootID != "b" || r.Rule != "r" {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestOlderLeavesAreRead: one from before attributes had places.
func TestOlderLeavesAreRead(t *testing.T) {
	old := `{"category_uid":3,"class_uid":3002,"activity_id":1,"type_uid":300201,"severity_id":1,"status_id":1,"time":1795600800250,"metadata":{"version":"1.8.0","log_name":"backstay/audit/abcdefghijklmnopqrstuvwxyz/3","sequence":41,"event_code":"auth.ok","logged_time":1795600801000},"device":{"type_id":7,"uid":"abcdefghijklmnopqrstuvwxyz"},"actor":{"user":{"name":"root"},"session":{"uid":"job-7"}},"unmapped":{"time_quality":"ntp","boot_id":"b0","monotonic_ms":90000,"attrs":[{"name":"source_address","value":"192.0.2.1"}]}}`
	r, err := logging.DecodeLeaf([]byte(old))
	if v, _ := r.Attr("source_address"); err != nil || r.Subject != "root" || r.BootID != "b0" || v != "192.0.2.1" {
		t.Errorf("%+v, %v", r, err)
	}
}
