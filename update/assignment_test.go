// SPDX-License-Identifier: Apache-2.0

package update_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/backstay/backstay/update"
)

const goodAssignment = `{"backstay":1,"product":"acme-cam","serial":4,"issued":"2026-11-01T00:00:00Z","releases":[
 {"path":"firmware/acme-cam/1.1.0.img","sha256":"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef","length":4096,"counter":2,
  "cohort":{"from":0,"to":5},"not_before":"2026-11-02T00:00:00Z","not_after":"2026-12-02T00:00:00Z"},
 {"path":"firmware/acme-cam/1.0.0.img","sha256":"fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210","length":4095,"counter":1}]}`

func TestParseAssignment(t *testing.T) {
	a, err := update.ParseAssignment([]byte(goodAssignment))
	if err != nil {
		t.Fatal(err)
	}
	if a.Product != "acme-cam" || a.Serial != 4 || a.Issued.Unix() != 1793491200 || len(a.Entries) != 2 {
		t.Fatalf("got %+v", a)
	}
	if e := a.Entries[0]; e.From != 0 || e.To != 5 || e.Length != 4096 || e.Counter != 2 || e.SHA256[0] != 1 || e.NotAfter.IsZero() {
		t.Errorf("entry 0: %+v", e)
	}
	if e := a.Entries[1]; e.From != 0 || e.To != 100 || !e.NotBefore.IsZero() || e.Paused || e.Downgrade {
		t.Errorf("entry 1 is not for everybody: %+v", e)
	}
}

func TestAssignmentRoundTrip(t *testing.T) {
	a, err := update.ParseAssignment([]byte(goodAssignment))
	if err != nil {
		t.Fatal(err)
	}
	a.Entries[0].Devices = []string{"d1"}
	a.Entries[0].Paused = true
	a.Entries[1].Downgrade = true
	b, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	again, err := update.ParseAssignment(b)
	if err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	if fmt.Sprint(again) != fmt.Sprint(a) {
		t.Errorf("got  %v\nwant %v", again, a)
	}
}

func TestParseAssignmentRefuses(t *testing.T) {
	tests := []struct{ name, old, new string }{
		{"later format", `"backstay":1`, `"backstay":2`},
		{"unknown field", `"serial":4`, `"serial":4,"not_on_sundays":true`},
		{"unknown field of an entry", `"counter":2`, `"counter":2,"region":"eu"`},
		{"unknown field of a cohort", `"to":5`, `"to":5,"salt":"x"`},
		{"duplicate", `"serial":4`, `"serial":4,"serial":5`},
		{"same release twice", `1.0.0.img`, `1.1.0.img`},
		{"path of another product", `firmware/acme-cam/1.0.0.img`, `firmware/acme-hub/1.0.0.img`},
		{"path that climbs", `firmware/acme-cam/1.0.0.img`, `firmware/acme-cam/../x.img`},
		{"path without a version", `firmware/acme-cam/1.0.0.img`, `firmware/acme-cam/.img`},
		{"path too short", `firmware/acme-cam/1.0.0.img`, `firmware/acme-cam`},
		{"no issue time", `"issued":"2026-11-01T00:00:00Z"`, `"issued":"yesterday"`},
		{"no digest", `"sha256":"f`, `"sha256":"F`},
		{"no length", `"length":4095`, `"length":0`},
		{"no counter", `"counter":1`, `"counter":0`},
		{"empty cohort", `"from":0,"to":5`, `"from":5,"to":5`},
		{"cohort above 100", `"from":0,"to":5`, `"from":0,"to":101`},
		{"cohort is a number", `{"from":0,"to":5}`, `5`},
		{"window ends before it starts", `2026-12-02`, `2026-11-02`},
		{"nobody is not everybody", `"counter":1`, `"counter":1,"devices":[]`},
		{"device name", `"counter":1`, `"counter":1,"devices":["a b"]`},
		{"paused maybe", `"counter":1`, `"counter":1,"paused":"no"`},
		{"releases missing", `"releases":[`, `"released":[`},
		{"too many releases", `"releases":[`, `"releases":[` + strings.Repeat(`0,`, 64)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := strings.Replace(goodAssignment, tt.old, tt.new, 1)
			if b == goodAssignment {
				t.Fatal("the case changes nothing")
			}
			_, err := update.ParseAssignment([]byte(b))
			wantRefusal(t, err, "malformed-assignment")
		})
	}
	_, err := update.ParseAssignment(make([]byte, update.MaxAssignment+1))
	wantRefusal(t, err, "malformed-assignment")
	if !strings.Contains(err.Error(), "limit") {
		t.Errorf("refused for another reason than its size: %v", err)
	}
}

// everybody returns an assignment with the given entries for acme-cam.
func everybody(entries ...update.Assigned) update.Assignment {
	return update.Assignment{Product: "acme-cam", Serial: 1, Entries: entries}
}

func entry(version string, change ...func(*update.Assigned)) update.Assigned {
	e := update.Assigned{Path: update.ImagePath("acme-cam", version), Length: 1, Counter: 1, To: 100}
	for _, f := range change {
		f(&e)
	}
	return e
}

func TestAssignmentFor(t *testing.T) {
	now := time.Date(2026, 11, 10, 0, 0, 0, 0, time.UTC)
	paused := func(e *update.Assigned) { e.Paused = true }
	downgrade := func(e *update.Assigned) { e.Downgrade = true }
	only := func(ids ...string) func(*update.Assigned) { return func(e *update.Assigned) { e.Devices = ids } }
	window := func(from, to time.Duration) func(*update.Assigned) {
		return func(e *update.Assigned) { e.NotBefore, e.NotAfter = now.Add(from), now.Add(to) }
	}
	cohort := func(from, to uint32) func(*update.Assigned) {
		return func(e *update.Assigned) { e.From, e.To = from, to }
	}
	tests := []struct {
		name    string
		a       update.Assignment
		running string
		want    string // version, or part of the reason for nothing
	}{
		{"first entry decides", everybody(entry("1.1.0"), entry("1.0.0")), "0.9.0", "1.1.0"},
		{"none", everybody(), "1.0.0", "no release is assigned"},
		{"up to date", everybody(entry("1.1.0"), entry("1.0.0")), "1.1.0", "1.1.0 is running"},
		{"version not known", everybody(entry("1.1.0")), "", "1.1.0"},
		{"not in the cohort", everybody(entry("1.1.0", cohort(0, 0)), entry("1.0.0")), "0.9.0", "1.0.0"},
		{"named", everybody(entry("1.1.0", only("d0", "d1"))), "1.0.0", "1.1.0"},
		{"others are named", everybody(entry("1.1.0", only("d2")), entry("1.0.0")), "0.9.0", "1.0.0"},
		{"before its window", everybody(entry("1.1.0", window(time.Second, time.Hour)), entry("1.0.0")), "0.9.0", "1.0.0"},
		{"window opens", everybody(entry("1.1.0", window(0, time.Hour))), "0.9.0", "1.1.0"},
		{"window closes", everybody(entry("1.1.0", window(-time.Hour, 0)), entry("1.0.0")), "0.9.0", "ended"},
		{"paused holds the device", everybody(entry("1.1.0", paused), entry("1.0.0")), "0.9.0", "paused"},
		{"paused sends nobody back", everybody(entry("1.1.0", paused), entry("1.0.0", downgrade)), "1.1.0", "paused"},
		{"stopped sends nobody back", everybody(entry("1.0.0")), "1.1.0", "newer 1.1.0 is running"},
		{"back on purpose", everybody(entry("1.0.0", downgrade)), "1.1.0", "1.0.0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e, err := tt.a.For(update.Device{ID: "d1", Product: "acme-cam", Version: tt.running}, now)
			if err == nil {
				if e.Path != update.ImagePath("acme-cam", tt.want) {
					t.Errorf("got %s, want %s", e.Path, tt.want)
				}
				return
			}
			if !errors.Is(err, update.ErrNothing) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	_, err := everybody(entry("1.1.0")).For(update.Device{ID: "d1", Product: "acme-hub"}, now)
	wantRefusal(t, err, "wrong-product")
}

// The cohort is part of the wire contract: a device that moves to a newer agent
// must stay in its bucket, so the values are pinned.
func TestCohort(t *testing.T) {
	for id, want := range map[string]uint32{"d1": 3831, "d2": 1344, "": 7521} {
		if got := update.Cohort(id, "firmware/acme-cam/1.1.0.img"); got != want {
			t.Errorf("Cohort(%q) = %d, want %d", id, got, want)
		}
	}
	// 10 000 devices at 5 % must be near 500, and other devices for another
	// release: near 25 in both.
	in, both := 0, 0
	for i := range 10000 {
		id := fmt.Sprint("device-", i)
		a := update.Cohort(id, "firmware/acme-cam/1.1.0.img") < 500
		b := update.Cohort(id, "firmware/acme-cam/1.2.0.img") < 500
		if a {
			in++
		}
		if a && b {
			both++
		}
	}
	if in < 420 || in > 580 || both > 60 {
		t.Errorf("%d of 10000 in a cohort of 5 %%, %d in the next one too", in, both)
	}
}

func FuzzParseAssignment(f *testing.F) {
	f.Add([]byte(goodAssignment))
	f.Add([]byte(`{"backstay":1,"product":"a","serial":1,"issued":"2026-11-01T00:00:00Z","releases":[]}`))
	f.Add([]byte(`{"releases":[{"cohort":{"from":1,"to":0}}]}`))
	f.Add([]byte(`{`))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := update.ParseAssignment(b)
		if err != nil {
			if !errors.Is(err, update.ErrRefused) {
				t.Fatalf("not a refusal: %v", err)
			}
			return
		}
		// What is accepted must survive being written again, or an edit of a
		// rollout would change a statement it did not mean to touch.
		again, err := json.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		twice, err := update.ParseAssignment(again)
		if err != nil || fmt.Sprint(twice) != fmt.Sprint(a) {
			t.Fatalf("%v\n%+v\n%+v", err, a, twice)
		}
		_, _ = a.For(update.Device{ID: "d", Product: a.Product}, time.Now())
	})
}

// Deadlines travel beside the file: an agent that does not know them reads the same assignment, and what is wrong with them is
// refused by one that does.
func TestDeadlines(t *testing.T) {
	due := time.Date(2026, 8, 21, 12, 0, 0, 0, time.UTC)
	path := update.ImagePath("acme-cam", "1.1.0")
	a := update.Assignment{Product: "acme-cam", Serial: 1, Entries: []update.Assigned{{Path: path, Length: 1, Counter: 1, To: 100, Deadline: due},
		{Path: update.ImagePath("acme-cam", "1.0.0"), Length: 1, Counter: 1, To: 100}}}
	file, err := json.Marshal(a)
	if err != nil || strings.Contains(string(file), "deadline") {
		t.Fatalf("file %s: %v", file, err)
	}
	custom, err := a.Deadlines()
	if err != nil {
		t.Fatal(err)
	}
	got, err := update.ParseAssignment(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := got.AddDeadlines(custom); err != nil || !got.Entries[0].Deadline.Equal(due) || !got.Entries[1].Deadline.IsZero() {
		t.Errorf("%+v: %v", got, err)
	}
	for _, none := range []string{"", `{}`, `{"later":1}`, `{"backstay":1,"deadlines":{}}`, `{"backstay":1,"deadlines":{"other":"2026-08-21T12:00:00Z"},"more":[]}`} {
		b, _ := update.ParseAssignment(file)
		if err := b.AddDeadlines([]byte(none)); err != nil || !b.Entries[0].Deadline.IsZero() {
			t.Errorf("%s: %v", none, err)
		}
	}
	for _, bad := range []string{"x", "[]", `{"deadlines":{}}`, `{"backstay":2,"deadlines":{}}`, `{"backstay":1,"deadlines":null}`, `{"backstay":1,"deadlines":[]}`,
		`{"backstay":1,"deadlines":{"` + path + `":"soon"}}`, `{"backstay":1,"deadlines":{"` + path + `":"2026-08-21T12:00:00.5Z"}}`,
		`{"backstay":1,"more":"` + strings.Repeat("x", update.MaxCustom) + `"}`} {
		wantRefusal(t, got.AddDeadlines([]byte(bad)), "malformed-assignment")
	}
}

func FuzzDeadlines(f *testing.F) {
	f.Add([]byte(`{"backstay":1,"deadlines":{"firmware/acme-cam/1.1.0.img":"2026-08-21T12:00:00Z"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		a := update.Assignment{Product: "acme-cam", Entries: []update.Assigned{{Path: update.ImagePath("acme-cam", "1.1.0"), Length: 1, Counter: 1, To: 100}}}
		if a.AddDeadlines(b) != nil {
			return
		}
		custom, err := a.Deadlines()
		before := a.Entries[0].Deadline
		if err != nil || a.AddDeadlines(custom) != nil || !a.Entries[0].Deadline.Equal(before) {
			t.Fatalf("%q: %s: %v", b, custom, err)
		}
	})
}
