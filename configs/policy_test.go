// SPDX-License-Identifier: Apache-2.0

package configs_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/backstay/backstay/configs"
)

const aRule = `{"id":"x.y","title":"T","why":"W","severity":"low","kind":"sysctl","target":"kernel.kptr_restrict","want":{"min":1,"set":"2"},"fix":"fix"}`

func policyWith(rules string, more string) []byte {
	return []byte(`{"schema":1,"id":"p","serial":1` + more + `,"rules":[` + rules + `]}`)
}

func edit(old, now string) string {
	if !strings.Contains(aRule, old) {
		panic("no " + old)
	}
	return strings.Replace(aRule, old, now, 1)
}

func TestParsePolicyRefuses(t *testing.T) {
	nest := func(n int) string {
		return strings.Repeat(`{"not":`, n) + `{"kind":"empty-password","target":"*"}` + strings.Repeat("}", n)
	}
	for name, c := range map[string]struct{ in, code, want string }{
		"unknown field":     {string(policyWith(edit(`"severity"`, `"severty"`), "")), configs.CodeMalformed, `rules[0].severty: unknown field, did you mean "severity"?`},
		"duplicate":         {string(policyWith(edit(`"fix":"fix"`, `"fix":"report","fix":"fix"`), "")), configs.CodeMalformed, "rules[0].fix: given twice"},
		"too long":          {string(policyWith(aRule, `,"title":"`+strings.Repeat("a", configs.MaxPolicyBytes)+`"`)), configs.CodeMalformed, "the limit is 262144"},
		"too deep":          {string(policyWith(edit(`{"min":1,"set":"2"}`, `{"a":[[[[[[[[[[1]]]]]]]]]]}`), "")), configs.CodeMalformed, "nested deeper than 12"},
		"no command":        {string(policyWith(edit(`"fix":"fix"`, `"exec":"reboot"`), "")), configs.CodeMalformed, "rules[0].exec: unknown field"},
		"schema":            {`{"schema":2,"id":"p","serial":1}`, configs.CodeInvalid, "schema: 2, this version knows 1"},
		"bad id":            {`{"schema":1,"id":"P","serial":1}`, configs.CodeInvalid, `id: "P"`},
		"huge serial":       {`{"schema":1,"id":"p","serial":9007199254740992}`, configs.CodeInvalid, "serial:"},
		"rule id":           {string(policyWith(edit(`"x.y"`, `"xy"`), "")), configs.CodeInvalid, "want area.name"},
		"rule id path":      {string(policyWith(edit(`"x.y"`, `"x./y"`), "")), configs.CodeInvalid, "want area.name"},
		"same id":           {string(policyWith(aRule+","+aRule, "")), configs.CodeInvalid, "rule x.y: given twice"},
		"unknown kind":      {string(policyWith(edit(`"sysctl"`, `"sysctrl"`), "")), configs.CodeInvalid, `unknown kind "sysctrl", did you mean "sysctl"?`},
		"unknown want":      {string(policyWith(edit(`"min"`, `"mim"`), "")), configs.CodeInvalid, `want.mim: unknown field, did you mean "min"?`},
		"useless set":       {string(policyWith(edit(`"set":"2"`, `"set":"0"`), "")), configs.CodeInvalid, "want.set"},
		"severity":          {string(policyWith(edit(`"low"`, `"hihg"`), "")), configs.CodeInvalid, `severity: unknown "hihg", did you mean "high"?`},
		"no why":            {string(policyWith(edit(`"W"`, `""`), "")), configs.CodeInvalid, "why: want"},
		"ref":               {string(policyWith(edit(`"fix":"fix"`, `"refs":["5.1-1"]`), "")), configs.CodeInvalid, "want FRAMEWORK:ID"},
		"mode":              {string(policyWith(edit(`"fix":"fix"`, `"mode":"enforced"`), "")), configs.CodeInvalid, `did you mean "enforce"?`},
		"fix of a reporter": {string(policyWith(`{"id":"x.y","title":"T","why":"W","severity":"low","kind":"secret","target":"/","want":{"find":["key"]},"fix":"fix"}`, "")), configs.CodeInvalid, "kind secret only reports"},
		"fix of not":        {string(policyWith(`{"id":"x.y","title":"T","why":"W","severity":"low","not":{"kind":"empty-password","target":"*"},"fix":"fix"}`, "")), configs.CodeInvalid, `"not" does not say what to set`},
		"two shapes":        {string(policyWith(edit(`"fix":"fix"`, `"not":{"kind":"empty-password","target":"*"}`), "")), configs.CodeInvalid, "exactly one of"},
		"combinators":       {string(policyWith(strings.Replace(`{"id":"x.y","title":"T","why":"W","severity":"low",`+nest(4)[1:], "}}}}}", "}}}}}", 1), "")), configs.CodeInvalid, "nested deeper than 3"},
		"fight":             {string(policyWith(aRule+","+strings.Replace(edit(`"set":"2"`, `"set":"1"`), "x.y", "x.z", 1), "")), configs.CodeInvalid, "which rule x.y sets too"},
		"waiver":            {string(policyWith(aRule, `,"waivers":[{"rule":"x.y","reason":"no","by":"","expires":"2027-01-01T00:00:00Z"}]`)), configs.CodeInvalid, "reason: say why"},
		"empty applies":     {string(policyWith(edit(`"fix":"fix"`, `"applies":{}`), "")), configs.CodeInvalid, "applies: empty"},
		"relative path":     {string(policyWith(`{"id":"x.y","title":"T","why":"W","severity":"low","kind":"file-mode","target":"../etc/shadow","want":{"max":"0600"}}`, "")), configs.CodeInvalid, "want an absolute path"},
	} {
		_, err := configs.ParsePolicy([]byte(c.in))
		if configs.Code(err) != c.code || !errors.Is(err, configs.ErrRefused) || !strings.Contains(fmt.Sprint(err), c.want) {
			t.Errorf("%s: %v (code %q), want %q", name, err, configs.Code(err), c.want)
		}
	}
	if _, err := configs.ParsePolicy(policyWith(aRule, "")); err != nil {
		t.Error(err)
	}
}

func TestLintNamesEverything(t *testing.T) {
	_, err := configs.ParsePolicy(policyWith(edit(`"low"`, `"none"`)+`,`+strings.Replace(edit(`"W"`, `""`), "x.y", "x.z", 1), ""))
	for _, want := range []string{"rule x.y: severity", "rule x.z: why", "rule x.z: fix: sets sysctl:kernel.kptr_restrict"} {
		if !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("%q is missing in %v", want, err)
		}
	}
}

func TestLoad(t *testing.T) {
	base, camera := load(t, "base"), load(t, "camera")
	if len(camera.Rules) <= len(base.Rules) {
		t.Errorf("camera has %d rules, base %d", len(camera.Rules), len(base.Rules))
	}
	r, _ := camera.Rule("kernel.pointers")
	if !strings.Contains(string(r.Want), `"min": 2`) {
		t.Errorf("the adjustment is missing: %s", r.Want)
	}
	if r, _ := base.Rule("kernel.pointers"); !strings.Contains(string(r.Want), `"min": 1`) {
		t.Errorf("the adjustment reached base: %s", r.Want)
	}
	both := load(t, "camera", "gateway")
	if both.Serial <= camera.Serial || both.ID != "camera-gateway" {
		t.Errorf("camera and gateway together: %d rules, serial %d, id %q", len(both.Rules), both.Serial, both.ID)
	}
	for profile, want := range map[string]bool{"base": true, "camera": true, "router": false, "gateway": false, "camera-gateway": false} {
		if _, has := load(t, strings.Split(profile, "-")...).Rule("net.forwarding"); has != want {
			t.Errorf("%s forbids forwarding: %v", profile, has)
		}
	}
	if len(base.Rules) < 16 {
		t.Errorf("base has %d rules", len(base.Rules))
	}
	for _, bad := range [][]string{nil, {"camra"}, {"../policy"}, {"base", "x"}} {
		_, err := configs.Load(bad...)
		if configs.Code(err) != configs.CodeUnknownProfile {
			t.Errorf("Load(%q): %v", bad, err)
		}
	}
	if _, err := configs.Load("camra"); !strings.Contains(fmt.Sprint(err), `did you mean "camera"?`) {
		t.Error(err)
	}
}

func TestEveryRuleHasWhatAReportNeeds(t *testing.T) {
	for _, name := range configs.Profiles() {
		for _, r := range load(t, name).Rules {
			refs := strings.Join(r.Refs, " ")
			if !strings.Contains(refs, "SP800-213A:") {
				t.Errorf("%s names no SP 800-213A capability", r.ID)
			}
			if strings.HasSuffix(r.Title, ".") || !strings.HasSuffix(r.Why, ".") {
				t.Errorf("%s: a title has no full stop, a why has one", r.ID)
			}
		}
	}
}

func FuzzParsePolicy(f *testing.F) {
	f.Add(policyWith(aRule, ""))
	f.Add(policyWith(aRule, `,"waivers":[{"rule":"x.y","reason":"a good reason","by":"me","expires":"2027-01-01T00:00:00Z"}]`))
	f.Add([]byte(`{"schema":1,"id":"p","serial":1,"rules":[{"id":"a.b","title":"T","why":"W","severity":"low","all":[{"kind":"empty-password","target":"*"},{"any":[{"kind":"sshd","target":"X","want":{"one_of":["no"],"default":"no"}}]}]}]}`))
	for _, name := range configs.Profiles() {
		p, err := configs.Load(name)
		if err != nil {
			f.Fatal(err)
		}
		b, err := json.Marshal(p)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := configs.ParsePolicy(data)
		if err != nil {
			if !errors.Is(err, configs.ErrRefused) {
				t.Fatal(err)
			}
			return
		}
		b, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := configs.ParsePolicy(b); err != nil {
			t.Fatalf("what was accepted is refused when written again: %v\n%s", err, b)
		}
	})
}
