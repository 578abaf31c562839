// SPDX-License-Identifier: Apache-2.0

package logging_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/backstay/backstay/logging"
)

var testOrigin = logging.Origin{Device: "abcdefghijklmnopqrstuvwxyz", Epoch: 3}

// fullEvent is sealed already, with a salt that does not change.
func fullEvent() logging.Event {
	subject := logging.Personal{Field: "subject", Salt: "000102030405060708090a0b0c0d0e0f", Value: "baseline"}
	return logging.Event{
		Code: "config.fixed", Time: epoch0.Add(250 * time.Millisecond), Quality: logging.QualityNTP, BootID: "b0", Monotonic: 90 * time.Second,
		Severity: logging.SeverityMedium, Outcome: logging.OutcomeSuccess, Message: "password login was switched off",
		Device: "acme-cam-v2", Firmware: "1.1.0", Subject: subject.Commitment(), Session: "job-7", Side: []logging.Personal{subject},
		Rule: "ssh.password-auth", Policy: "base/7", Before: "sha256:aa", After: "sha256:bb",
		Attrs: []logging.Attr{{Name: "file", Value: "/etc/dropbear"}, {Name: "file", Value: "again"}},
	}
}

// The bytes of a leaf are for ever: this is the format older evidence has.
func TestLeafBytes(t *testing.T) {
	got := logging.EncodeLeaf(testOrigin, 41, epoch0.Add(time.Second), fullEvent())
	const name = "testdata/leaf.json"
	if *update {
		writeFile(t, name, append(got, '\n'))
	}
	if want := bytes.TrimSuffix(readFile(t, name), []byte("\n")); !bytes.Equal(got, want) {
		t.Errorf("leaf is\n%s\nwant\n%s", got, want)
	}
}

func TestLeafRoundTrip(t *testing.T) {
	e := fullEvent()
	body, side := logging.EncodeRecord(testOrigin, 41, epoch0, e)
	r, err := logging.Leaf{Body: body, Side: side}.Decode()
	if err != nil {
		t.Fatal(err)
	}
	e.Subject = "baseline"
	if !reflect.DeepEqual(r.Event, e) {
		t.Errorf("got %+v\nwant %+v", r.Event, e)
	}
	if r.Origin != testOrigin || r.Index != 41 || !r.Logged.Equal(epoch0) || r.Class != 2003 || r.Activity != 3 || r.Truncated {
		t.Errorf("record = %+v", r)
	}
}

func TestLeafDefaults(t *testing.T) {
	r, err := logging.DecodeLeaf(logging.EncodeLeaf(testOrigin, 0, epoch0, logging.Event{Code: "update.rejected"}))
	if err != nil {
		t.Fatal(err)
	}
	if r.Severity != logging.SeverityHigh || r.Outcome != logging.OutcomeFailure || r.Quality != logging.QualityNone || !r.Time.Equal(epoch0) {
		t.Errorf("record = %+v", r)
	}
	unknown, err := logging.DecodeLeaf(logging.EncodeLeaf(testOrigin, 0, epoch0, logging.Event{Code: "acme.special"}))
	if err != nil || unknown.Class != 0 || unknown.Code != "acme.special" || unknown.Severity != logging.SeverityInfo {
		t.Errorf("%+v, %v", unknown, err)
	}
}

// hostile is what a program on the device may put into a name it is recorded with.
var hostile = []string{
	"a\nb", "\r\n{\"metadata\":", "\x1b[2J\x1b]0;title\a", "\x00\x7f\u0085\u009b31m", "‮gnp.exe", "\u2028\u2029",
	"\xff\xfe\xc3", `","severity_id":0,"x":"`, `\`, `\\"`, "</script><script>alert(1)</script>", "&amp;", "𝔘𝔫𝔦", strings.Repeat("A", 1<<20),
	strings.Repeat("\x00", 1<<16), "\ufeff",
}

// Whatever text comes in: one line, printable ASCII, valid JSON, bounded, and the text of one field stays in its field.
func TestLeafContainsHostileText(t *testing.T) {
	for _, s := range hostile {
		e := logging.Event{Code: s, Quality: logging.Quality(s), BootID: s, Message: s, Device: s, Firmware: s, Subject: s, Session: s,
			Rule: s, Policy: s, Before: s, After: s, Severity: 200, Outcome: 77}
		for range 100 {
			e.Attrs = append(e.Attrs, logging.Attr{Name: s, Value: s})
		}
		checkLeaf(t, e)
	}
}

func checkLeaf(t testing.TB, e logging.Event) {
	t.Helper()
	e = e.Seal(nil)
	b, side := logging.EncodeRecord(testOrigin, 5, epoch0, e)
	if len(side) > logging.MaxSide {
		t.Fatalf("side record of %d bytes", len(side))
	}
	if err := logging.CheckSide(logging.Leaf{Body: b, Side: side}); err != nil {
		t.Fatalf("%v\n%s\n%s", err, b, side)
	}
	if len(b) > logging.MaxLeaf {
		t.Fatalf("leaf of %d bytes", len(b))
	}
	for i, c := range b {
		if c < ' ' || c > '~' || c == '<' || c == '>' || c == '&' {
			t.Fatalf("byte %d is %#x: %q", i, c, b[max(0, i-20):i+1])
		}
	}
	if !json.Valid(b) {
		t.Fatalf("not JSON: %s", b)
	}
	r, err := logging.DecodeLeaf(b)
	if err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	if r.Origin != testOrigin || r.Index != 5 || r.Severity > logging.SeverityFatal || r.Outcome > logging.OutcomeFailure || len(r.Attrs) > logging.MaxAttrs {
		t.Fatalf("record = %+v", r)
	}
	if !r.Truncated && !strings.Contains(string(b), "[dropped: ") {
		if utf8.ValidString(e.Message) && r.Message != e.Message {
			t.Fatalf("message %q came back as %q", e.Message, r.Message)
		}
	}
	again := logging.EncodeLeaf(testOrigin, 5, epoch0, e)
	if !bytes.Equal(b, again) {
		t.Fatal("not deterministic")
	}
}

func TestLeafSaysThatItWasCut(t *testing.T) {
	r, err := logging.DecodeLeaf(logging.EncodeLeaf(testOrigin, 0, epoch0, logging.Event{Code: "boot", Message: strings.Repeat("x", logging.MaxMessage+1)}))
	if err != nil || !r.Truncated || len(r.Message) != logging.MaxMessage {
		t.Errorf("truncated %v, %d bytes, %v", r.Truncated, len(r.Message), err)
	}
	r, err = logging.DecodeLeaf(logging.EncodeLeaf(testOrigin, 0, epoch0, logging.Event{Code: "boot", Message: strings.Repeat("x", logging.MaxMessage)}))
	if err != nil || r.Truncated {
		t.Errorf("a message of exactly the limit was cut: %v", err)
	}
}

// A hash or a signature in base64 may end like the name of a password.
func TestHashesAreNoSecrets(t *testing.T) {
	for value, want := range map[string]bool{
		"M/O8ka8Tj/G8d6kwWfCWk358fY2jSEr219/nYDrDPsk=":                                                              false,
		"backstay/audit/x/1\n301\nM/O8ka8Tj/G8d6kwWfCWk358fY2jSEr219/nYDrDPsk=\n\n— backstay/audit/x/1 AAAAPsk==\n": false,
		"psk=x": true, "Psk=\npsk=x": true, "psk= x": true,
	} {
		body := logging.EncodeLeaf(testOrigin, 0, epoch0, logging.Event{Code: "boot", Attrs: []logging.Attr{{Name: "value", Value: value}}})
		r, err := logging.DecodeLeaf(body)
		if got, _ := r.Attr("value"); err != nil || (got != value) != want {
			t.Errorf("%q is kept as %q, %v", value, got, err)
		}
	}
}

func TestSecretsAreDropped(t *testing.T) {
	for _, tc := range []struct{ name, value string }{
		{"wifi_psk", "correct horse"}, {"Password", "x"}, {"api-token", "x"}, {"set-cookie", "x"}, {"client_secret", "x"},
		{"line", "wpa_passphrase=hunter2hunter2"}, {"argv", "mysql --password=hunter2"}, {"argv", "curl -H 'Authorization: Basic aHVudGVyMg=='"},
		{"header", "Bearer hunter2"}, {"file", "-----BEGIN EC PRIVATE KEY-----\nhunter2"}, {"url", "mqtt://user:hunter2@broker/"},
		{"shadow", "root:$6$salt$hunter2:19000:0"}, {"env", "AWS_SECRET=hunter2"}, {"env", "ghp_hunter2hunter2"}, {"jwt", "eyJhbGciOiJIUzI1NiJ9.hunter2.x"},
		{"key", "AKIAIOSFODNN7EXAMPLE"}, {"id", "age-secret-key-1hunter2"},
	} {
		b := logging.EncodeLeaf(testOrigin, 0, epoch0, logging.Event{Code: "boot", Attrs: []logging.Attr{{Name: tc.name, Value: tc.value}}})
		if strings.Contains(string(b), "hunter2") || !strings.Contains(string(b), "[dropped: ") {
			t.Errorf("%s %q: %s", tc.name, tc.value, b)
		}
	}
	b := logging.EncodeLeaf(testOrigin, 0, epoch0, logging.Event{Code: "boot", Message: "started with psk=hunter2", Subject: "Bearer hunter2"})
	if strings.Contains(string(b), "hunter2") {
		t.Errorf("%s", b)
	}
	for _, plain := range []string{"ssh.password-auth", "http://host/path@2", "sha256:ab12akia34", "https://host:8883/x", "uQAKIA9xyz+/=", "basic settings"} {
		b := logging.EncodeLeaf(testOrigin, 0, epoch0, logging.Event{Code: "boot", Message: plain, Attrs: []logging.Attr{{Name: "value", Value: plain}}})
		if strings.Contains(string(b), "[dropped: ") {
			t.Errorf("%q was dropped", plain)
		}
	}
}

func TestNewEventSortsAttributes(t *testing.T) {
	when := epoch0.Add(time.Hour)
	e := logging.NewEvent("config.fixed", slog.String("rule", "r1"), slog.Int("policy", 7), slog.String("before", "a"), slog.String("after", "b"),
		slog.String("message", "m"), slog.String("message", "second"), slog.String("severity", "high"), slog.String("outcome", "failure"), slog.Time("time", when),
		slog.String("subject", "s"), slog.String("session", "j"), slog.String("device", "d"), slog.String("firmware", "f"),
		slog.Group("slot", slog.String("id", "A"), slog.Int("size", 9)), slog.Duration("took", time.Second), slog.Time("until", epoch0), slog.String("outcome", "odd"))
	want := logging.Event{Code: "config.fixed", Rule: "r1", Policy: "7", Before: "a", After: "b", Message: "m", Severity: logging.SeverityHigh,
		Outcome: logging.OutcomeFailure, Time: when, Subject: "s", Session: "j", Device: "d", Firmware: "f",
		Attrs: []logging.Attr{{Name: "message", Value: "second"}, {Name: "slot.id", Value: "A"}, {Name: "slot.size", Value: "9"}, {Name: "took", Value: "1s"},
			{Name: "until", Value: "2026-11-25T10:00:00Z"}, {Name: "outcome", Value: "odd"}}}
	if !reflect.DeepEqual(e, want) {
		t.Errorf("got  %+v\nwant %+v", e, want)
	}
}

type loop struct{}

func (loop) LogValue() slog.Value { return slog.GroupValue(slog.Any("again", loop{})) }

func TestNewEventEndsOnSelfReference(t *testing.T) {
	e := logging.NewEvent("boot", slog.Any("x", loop{}))
	if len(e.Attrs) > 1 {
		t.Errorf("%d attributes", len(e.Attrs))
	}
}

func TestKindsTable(t *testing.T) {
	kinds := logging.Kinds()
	if !slices.IsSortedFunc(kinds, func(a, b logging.Kind) int { return strings.Compare(a.Code, b.Code) }) {
		t.Error("table is not sorted by code: Lookup would miss rows")
	}
	for i, k := range kinds {
		if i > 0 && kinds[i-1].Code == k.Code {
			t.Errorf("%s is there twice", k.Code)
		}
		if logging.Lookup(k.Code) != k {
			t.Errorf("Lookup(%q) = %+v", k.Code, logging.Lookup(k.Code))
		}
		if (k.Activity == 99) != (k.Name != "") {
			t.Errorf("%s: activity 99 needs a name, others have one in OCSF", k.Code)
		}
		// Whether a program's event is about a success only the program knows.
		if k.Severity < logging.SeverityInfo || k.Outcome == logging.OutcomeDefault && !strings.HasPrefix(k.Code, "app.") {
			t.Errorf("%s has no defaults", k.Code)
		}
	}
	// Spot checks against the numbers of OCSF 1.8.0.
	for code, want := range map[string]int{
		"boot": 600203, "reboot": 600205, "crash": 600801, "update.available": 500401, "update.installed": 600201, "update.committed": 600208,
		"update.rejected": 200401, "config.drift": 200301, "config.fixed": 200303, "config.state": 501901, "auth.ok": 300201, "net.listen": 400107,
		"identity.enrolled": 300406, "identity.renewed": 300403, "time.step": 100304, "log.gap": 100899, "log.pruned": 100802,
		"log.exported": 100803, "log.start": 100806, "debug.enabled": 101003, "usb.inserted": 101001, "module.load": 100201,
		"file.changed": 100103, "inventory": 502002, "heartbeat": 500101, "unheard.of": 99, "app.door.opened": 99,
	} {
		if got := logging.Lookup(code).Type(); got != want {
			t.Errorf("%s: type_uid %d, want %d", code, got, want)
		}
	}
}

func TestCritical(t *testing.T) {
	for _, tc := range []struct {
		e    logging.Event
		want bool
	}{
		{logging.Event{Code: "net.listen"}, false}, {logging.Event{Code: "net.listen", Severity: logging.SeverityHigh}, true},
		{logging.Event{Code: "update.installed"}, true}, {logging.Event{Code: "unheard.of"}, false},
		{logging.Event{Code: "unheard.of", Severity: logging.SeverityFatal}, true},
		{logging.Event{Code: "update.installed", Severity: logging.SeverityLow}, true},
	} {
		if got := tc.e.Critical(); got != tc.want {
			t.Errorf("%+v: critical %v", tc.e, got)
		}
	}
}

// A leaf of another schema is refused as unknown, never half understood (and stays evidence as opaque bytes).
func TestDecodeLeafRefuses(t *testing.T) {
	good := string(logging.EncodeLeaf(testOrigin, 1, epoch0, logging.Event{Code: "boot"}))
	for _, tc := range []struct{ name, body, code string }{
		{"empty", "", logging.CodeMalformed}, {"array", "[]", logging.CodeMalformed}, {"no version", "{}", logging.CodeUnknownVersion},
		{"next schema", strings.Replace(good, "1.8.0", "2.0.0", 1), logging.CodeUnknownVersion},
		{"no log", strings.Replace(good, "backstay/audit", "x", 1), logging.CodeMalformed},
		{"huge", `{"message":"` + strings.Repeat("x", logging.MaxLeaf) + `"}`, logging.CodeMalformed},
	} {
		if _, err := logging.DecodeLeaf([]byte(tc.body)); code(err) != tc.code {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
	if _, err := logging.DecodeLeaf([]byte(strings.Replace(good, "1.8.0", "1.9.0", 1))); err != nil {
		t.Errorf("a later minor version only adds fields: %v", err)
	}
}

func FuzzEncodeLeaf(f *testing.F) {
	for _, s := range hostile[:13] {
		f.Add("boot", s, s, s)
	}
	f.Fuzz(func(t *testing.T, a, b, c, d string) {
		checkLeaf(t, logging.Event{Code: a, Message: b, Subject: c, Rule: b, Attrs: []logging.Attr{{Name: c, Value: d}, {Name: d, Value: a}}})
	})
}

func FuzzDecodeLeaf(f *testing.F) {
	f.Add(logging.EncodeLeaf(testOrigin, 41, epoch0, fullEvent()))
	f.Add([]byte(`{"metadata":{"version":"1.9.0","log_name":"backstay/audit/abcdefghijklmnopqrstuvwxyz/3","sequence":18446744073709551615}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := logging.DecodeLeaf(b)
		if err != nil {
			if code(err) == "" {
				t.Errorf("error without a code: %v", err)
			}
			return
		}
		// What was read can be written again and says the same.
		again, err := logging.DecodeLeaf(logging.EncodeLeaf(r.Origin, 1, r.Logged, r.Event))
		if err != nil {
			t.Fatalf("encoded again: %v", err)
		}
		if !again.Truncated && len(r.Message) < 100 && !strings.Contains(r.Message, "\ufffd") && again.Message != r.Message && !strings.HasPrefix(again.Message, "[dropped") {
			t.Errorf("message %q became %q", r.Message, again.Message)
		}
	})
}
