// SPDX-License-Identifier: Apache-2.0

package strictjson_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/backstay/backstay/configs/strictjson"
)

type inner struct {
	Min  int64    `json:"min"`
	List []string `json:"list"`
}

type Embedded struct {
	Kind string `json:"kind"`
}

type doc struct {
	ID string `json:"id"`
	Embedded
	Inner *inner           `json:"inner"`
	Parts []inner          `json:"parts"`
	Raw   json.RawMessage  `json:"raw"`
	When  time.Time        `json:"when"`
	Map   map[string]inner `json:"map"`
	skip  int
}

var limits = strictjson.Limits{Bytes: 512, Depth: 4}

func TestDecodeRefuses(t *testing.T) {
	for in, want := range map[string]string{
		`{"id":"a","id":"b"}`:                       "id: given twice",
		`{"id":"a","\u0069d":"b"}`:                  "id: given twice",
		`{"ID":"a"}`:                                `ID: unknown field, did you mean "id"?`,
		`{"knid":"a"}`:                              `knid: unknown field, did you mean "kind"?`,
		`{"inner":{"mim":1}}`:                       `inner.mim: unknown field, did you mean "min"?`,
		`{"parts":[{},{"min":1,"min":2}]}`:          "parts[1].min: given twice",
		`{"map":{"x":{"lists":[]}}}`:                `map.x.lists: unknown field, did you mean "list"?`,
		`{"raw":{"a":1,"a":2}}`:                     "raw.a: given twice",
		`{"raw":[[[[1]]]]}`:                         "nested deeper than 4 levels",
		`{"id":null}`:                               "id: null is not allowed",
		`{"raw":[null]}`:                            "raw[0]: null is not allowed",
		`{"inner":{"min":"1"}}`:                     "want a whole number in range, have string",
		`{"inner":{"min":1.5}}`:                     "want a whole number in range",
		`{"inner":{"min":99999999999999999999}}`:    "want a whole number in range",
		`{"id":"a"} {}`:                             "more text after the end",
		`{"id":"a"`:                                 "not JSON",
		`{"id":"a",}`:                               "not JSON",
		"{\"id\":\"\xff\"}":                         "not UTF-8",
		`{"skip":1}`:                                "skip: unknown field",
		`{"id":"` + strings.Repeat("a", 600) + `"}`: "bytes long, the limit is 512",
		``:                     "not JSON",
		`{"when":"yesterday"}`: "yesterday",
		`{"zzzzzzzzzzzzzz":1}`: "zzzzzzzzzzzzzz: unknown field",
	} {
		var d doc
		err := strictjson.Decode([]byte(in), limits, &d)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", in, err, want)
		}
	}
	_ = doc{}.skip
}

func TestDecode(t *testing.T) {
	var d doc
	in := `{"id":"a","kind":"k","inner":{"min":9007199254740993,"list":["x"]},"raw":{"Any":{"name":1}},"when":"2026-11-25T00:00:00Z","map":{"Q":{"min":2}}}`
	if err := strictjson.Decode([]byte(in), limits, &d); err != nil {
		t.Fatal(err)
	}
	if d.Kind != "k" || d.Inner.Min != 9007199254740993 || d.Map["Q"].Min != 2 || string(d.Raw) != `{"Any":{"name":1}}` || d.When.Year() != 2026 {
		t.Errorf("%+v", d)
	}
}

func TestNearest(t *testing.T) {
	known := []string{"severity", "serial", "kind", "target"}
	for in, want := range map[string]string{"severty": "severity", "seial": "serial", "KIND": "kind", "tagret": "target", "colour": "", "": "", strings.Repeat("x", 100): ""} {
		if got := strictjson.Nearest(in, known); got != want {
			t.Errorf("Nearest(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"id":"a","kind":"k","inner":{"min":1,"list":["x"]},"raw":{"a":[1,true]}}`))
	f.Add([]byte(`{"parts":[{"min":1},{"list":[]}],"when":"2026-11-25T00:00:00Z"}`))
	f.Add([]byte(`[[[[[[`))
	f.Add([]byte(`{"id":"a","id":"b"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var d doc
		if strictjson.Decode(data, limits, &d) != nil {
			return
		}
		// Whatever is accepted means the same to the lenient decoder: nothing was dropped or overwritten.
		out, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		var again doc
		if err := json.Unmarshal(out, &again); err != nil {
			t.Fatalf("%s: %v", out, err)
		}
	})
}
