// SPDX-License-Identifier: Apache-2.0

package update_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/backstay/backstay/update"
)

const goodCustom = `{"backstay":1,"product":"acme-cam","compatible":["acme-cam-v2","acme-cam-v3"],"version":"1.1.0",
 "counter":2,"floor":1,"kind":"full","component":"rootfs","class":"security","advisories":["CVE-2026-0001"],
 "notes":"Fixes the lock.","sbom":"sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
 "support_end":"2031-01-01T00:00:00Z","min_agent":"0.1.0","critical":["kind","compatible"]}`

// wantRefusal fails the test unless err is a refusal with this code.
func wantRefusal(t *testing.T, err error, code string) {
	t.Helper()
	r, ok := errors.AsType[*update.Refusal](err)
	if !ok || !errors.Is(err, update.ErrRefused) {
		t.Fatalf("got %v, want a refusal with code %s", err, code)
	}
	if r.Code != code {
		t.Fatalf("got code %s (%v), want %s", r.Code, err, code)
	}
}

func TestParseCustom(t *testing.T) {
	c, err := update.ParseCustom([]byte(goodCustom))
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprintf("%+v", c)
	want := "{Product:acme-cam Compatible:[acme-cam-v2 acme-cam-v3] Version:1.1.0 Counter:2 Floor:1 Kind:full Component:rootfs" +
		" Class:security Advisories:[CVE-2026-0001] Notes:Fixes the lock. SBOM:sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef" +
		" SupportEnd:2031-01-01 00:00:00 +0000 UTC MinAgent:0.1.0 Critical:[kind compatible] Components:[] Payloads:[]}"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestParseCustomIgnoresUnknown(t *testing.T) {
	b := strings.Replace(goodCustom, `"backstay":1`, `"backstay":1,"colour":{"of":[1.5,null]}`, 1)
	if _, err := update.ParseCustom([]byte(b)); err != nil {
		t.Fatal(err)
	}
}

func TestParseCustomRefuses(t *testing.T) {
	tests := []struct{ name, old, new, code string }{
		{"unknown critical", `"critical":["kind",`, `"critical":["kind","encrypted",`, "unknown-critical"},
		{"unknown critical before broken fields", `"backstay":1,"product":"acme-cam",`, `"critical":["new-product-form"],`, "malformed-release"},
		{"critical but absent", `"min_agent":"0.1.0","critical":["kind",`, `"critical":["min_agent",`, "malformed-release"},
		{"later format", `"backstay":1`, `"backstay":2`, "malformed-release"},
		{"no format", `"backstay":1,`, ``, "malformed-release"},
		{"other case is another name", `"product"`, `"Product"`, "malformed-release"},
		{"duplicate", `"counter":2`, `"counter":2,"counter":3`, "malformed-release"},
		{"null", `"counter":2`, `"counter":null`, "malformed-release"},
		{"negative", `"counter":2`, `"counter":-2`, "malformed-release"},
		{"float", `"counter":2`, `"counter":2.0`, "malformed-release"},
		{"exponent", `"counter":2`, `"counter":2e0`, "malformed-release"},
		{"2^53", `"counter":2`, `"counter":9007199254740992`, "malformed-release"},
		{"number as string", `"counter":2`, `"counter":"2"`, "malformed-release"},
		{"counter 0", `"counter":2,"floor":1`, `"counter":0,"floor":0`, "malformed-release"},
		{"floor above counter", `"floor":1`, `"floor":3`, "malformed-release"},
		{"no hardware", `["acme-cam-v2","acme-cam-v3"]`, `[]`, "malformed-release"},
		{"null hardware", `"acme-cam-v3"`, `null`, "malformed-release"},
		{"too many", `"CVE-2026-0001"`, `"x"` + strings.Repeat(`,"x"`, 128), "malformed-release"},
		{"product charset", `"acme-cam",`, `"acme/cam",`, "malformed-release"},
		{"version with a slash", `"1.1.0"`, `"../1.1.0"`, "malformed-release"},
		{"version with a query", `"1.1.0"`, `"1.1.0?x"`, "malformed-release"},
		{"version too long", `"1.1.0"`, `"1` + strings.Repeat("0", 64) + `"`, "malformed-release"},
		{"digest in upper case", `sha256:0123456789abcdef`, `sha256:0123456789ABCDEF`, "malformed-release"},
		{"fraction of a second", `00:00:00Z`, `00:00:00.5Z`, "malformed-release"},
		{"other zone", `00:00:00Z`, `00:00:00+01:00`, "malformed-release"},
		{"trailing data", `["kind","compatible"]}`, `["kind","compatible"]} {}`, "malformed-release"},
		{"cut off", `["kind","compatible"]}`, `["kind","compatible"]`, "malformed-release"},
		{"list", goodCustom, `[]`, "malformed-release"},
		{"empty", goodCustom, ``, "malformed-release"},
		{"too large", `"backstay":1`, `"x":"` + strings.Repeat("x", update.MaxCustom) + `","backstay":1`, "malformed-release"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := strings.Replace(goodCustom, tt.old, tt.new, 1)
			if b == goodCustom {
				t.Fatal("the case changes nothing")
			}
			_, err := update.ParseCustom([]byte(b))
			wantRefusal(t, err, tt.code)
		})
	}
}

// A release in a form that only a later agent reads must say "agent too old",
// not "broken": critical is looked at before anything it may have changed.
func TestParseCustomCriticalFirst(t *testing.T) {
	_, err := update.ParseCustom([]byte(`{"backstay":7,"product":{"a":1},"critical":["backstay","product-tree"]}`))
	wantRefusal(t, err, "unknown-critical")
}

func agree(t *testing.T) (update.Device, update.Genuine, update.Assigned) {
	t.Helper()
	c, err := update.ParseCustom([]byte(goodCustom))
	if err != nil {
		t.Fatal(err)
	}
	path := "firmware/acme-cam/1.1.0.img"
	dev := update.Device{ID: "d1", Product: "acme-cam", Compatible: "acme-cam-v3", Version: "1.0.0", Agent: "0.2.0", Floor: 2}
	g := update.Genuine{Path: path, Length: 4096, SHA256: [32]byte{1}, Custom: c}
	a := update.Assigned{Path: path, Length: 4096, SHA256: [32]byte{1}, Counter: 2, To: 100, NotBefore: time.Unix(1e9, 0)}
	return dev, g, a
}

func TestChoose(t *testing.T) {
	dev, g, a := agree(t)
	r, err := update.Choose(dev, g, a)
	if err != nil {
		t.Fatal(err)
	}
	if r.Path != g.Path || r.Version != "1.1.0" || r.Counter != 2 || r.Floor != 1 || r.Length != 4096 || r.SHA256 != g.SHA256 ||
		r.Product != "acme-cam" || len(r.Compatible) != 2 || r.Kind != "full" || r.Class != "security" || len(r.Advisories) != 1 ||
		r.SBOM == "" || r.SupportEnd.IsZero() || !r.NotBefore.Equal(a.NotBefore) || r.MinAgent != "0.1.0" || r.Component != "rootfs" {
		t.Errorf("release lost something: %+v", r)
	}
}

func TestChooseRefuses(t *testing.T) {
	tests := []struct {
		name, code string
		change     func(*update.Device, *update.Genuine, *update.Assigned)
	}{
		{"other path", "not-genuine", func(_ *update.Device, _ *update.Genuine, a *update.Assigned) { a.Path = "firmware/acme-cam/1.0.0.img" }},
		{"other digest", "not-genuine", func(_ *update.Device, _ *update.Genuine, a *update.Assigned) { a.SHA256[31] = 1 }},
		{"other length", "not-genuine", func(_ *update.Device, _ *update.Genuine, a *update.Assigned) { a.Length++ }},
		{"other counter", "not-genuine", func(_ *update.Device, _ *update.Genuine, a *update.Assigned) { a.Counter++ }},
		{"path of another version", "not-genuine", func(_ *update.Device, g *update.Genuine, _ *update.Assigned) { g.Custom.Version = "1.2.0" }},
		{"path of another product", "not-genuine", func(d *update.Device, g *update.Genuine, _ *update.Assigned) {
			g.Custom.Product, d.Product = "acme-hub", "acme-hub"
		}},
		{"wrong product", "wrong-product", func(d *update.Device, _ *update.Genuine, _ *update.Assigned) { d.Product = "acme-hub" }},
		{"no product", "wrong-product", func(d *update.Device, _ *update.Genuine, _ *update.Assigned) { d.Product = "" }},
		{"other hardware", "incompatible", func(d *update.Device, _ *update.Genuine, _ *update.Assigned) { d.Compatible = "acme-cam-v1" }},
		{"no hardware", "incompatible", func(d *update.Device, _ *update.Genuine, _ *update.Assigned) { d.Compatible = "" }},
		{"delta", "unsupported-kind", func(_ *update.Device, g *update.Genuine, _ *update.Assigned) { g.Custom.Kind = "delta" }},
		{"other component", "unsupported-kind", func(_ *update.Device, g *update.Genuine, _ *update.Assigned) { g.Custom.Component = "modem" }},
		{"old agent", "agent-too-old", func(d *update.Device, _ *update.Genuine, _ *update.Assigned) { d.Agent = "0.0.9" }},
		{"agent that does not know", "agent-too-old", func(d *update.Device, _ *update.Genuine, _ *update.Assigned) { d.Agent = "" }},
		{"below the floor", "below-floor", func(d *update.Device, _ *update.Genuine, _ *update.Assigned) { d.Floor = 3 }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dev, g, a := agree(t)
			tt.change(&dev, &g, &a)
			r, err := update.Choose(dev, g, a)
			wantRefusal(t, err, tt.code)
			if r.Path != "" {
				t.Errorf("a refused release came back: %+v", r)
			}
		})
	}
}

func TestCompareVersions(t *testing.T) {
	// Ascending; neighbours and everything further apart must order so.
	order := []string{
		"", "(devel)", "0.0.9", "0.1.0-alpha", "0.1.0-alpha.1", "0.1.0-alpha.beta", "0.1.0-beta.2", "0.1.0-beta.11", "0.1.0-rc.1",
		"0.1.0", "0.1.1", "0.2", "0.10.0", "1", "1.0.1", "2024.10a", "2024.10b", "2024.10", "99999999999999999999999", "99999999999999999999999.1",
	}
	// A word is older than a number in the dotted part, so "10a" sorts before "10".
	for i, a := range order {
		for j, b := range order {
			got, want := update.CompareVersions(a, b), 0
			switch {
			case i < j:
				want = -1
			case i > j:
				want = 1
			}
			if got != want {
				t.Errorf("CompareVersions(%q, %q) = %d, want %d", a, b, got, want)
			}
		}
	}
	for _, same := range [][2]string{{"1.0", "v1.0.0"}, {"1.2.3+build7", "1.2.3"}, {"01.2", "1.2"}} {
		if c := update.CompareVersions(same[0], same[1]); c != 0 {
			t.Errorf("CompareVersions(%q, %q) = %d, want 0", same[0], same[1], c)
		}
	}
}

func FuzzParseCustom(f *testing.F) {
	f.Add([]byte(goodCustom))
	f.Add([]byte(`{"backstay":1}`))
	f.Add([]byte(`{"critical":["x"]}`))
	f.Add([]byte(`{"a":{"b":[1,2,{"c":null}]},"a":1}`))
	f.Add([]byte(`[`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := update.ParseCustom(b)
		if err != nil {
			if !errors.Is(err, update.ErrRefused) {
				t.Fatalf("not a refusal: %v", err)
			}
			return
		}
		if c.Counter == 0 || c.Floor > c.Counter || c.Counter > update.MaxCounter || len(c.Compatible) == 0 ||
			!update.IsProduct(c.Product) || !update.IsVersion(c.Version) {
			t.Fatalf("accepted %+v", c)
		}
	})
}
