// SPDX-License-Identifier: Apache-2.0

package scan

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"strings"
	"time"

	"github.com/backstay/backstay/configs"
	"github.com/backstay/backstay/configs/probe"
	"github.com/backstay/backstay/configs/strictjson"
)

// PolicySchemaID names the published schema of the policy language.
const PolicySchemaID = "urn:backstay:policy:1"

// schema is a JSON schema, draft 7.
type schema = map[string]any

// WritePolicySchema writes the JSON schema of a policy, made of the Go types and of what the kinds say about themselves.
// docs/policy.schema.json is its output. Editors complete and check a policy with it; what it accepts may still be refused:
// the linter knows more, such as which wants make sense.
func WritePolicySchema(w io.Writer) error {
	s := schemaOf(reflect.TypeFor[configs.Policy]())
	s["$schema"], s["$id"], s["title"] = "http://json-schema.org/draft-07/schema#", PolicySchemaID, "backstay policy"
	s["properties"].(schema)["schema"] = schema{"const": 1}
	s["definitions"] = schema{"test": testSchema()}
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(s)
}

// words are the values of the types that are words.
func words(t reflect.Type) []any {
	switch t {
	case reflect.TypeFor[configs.Severity]():
		return []any{configs.Low, configs.Medium, configs.High, configs.Critical}
	case reflect.TypeFor[configs.Mode]():
		return []any{configs.Off, configs.Audit, configs.Trial, configs.Enforce}
	case reflect.TypeFor[configs.FixClass]():
		return []any{configs.FixReport, configs.FixAuto, configs.FixConfirm}
	case reflect.TypeFor[configs.Tunable]():
		return []any{configs.TunableNone, configs.TunableTighten, configs.TunableWaive}
	}
	return nil
}

func schemaOf(t reflect.Type) schema {
	if w := words(t); w != nil {
		return schema{"enum": w}
	}
	switch t {
	case reflect.TypeFor[time.Time]():
		return schema{"type": "string", "format": "date-time"}
	case reflect.TypeFor[json.RawMessage]():
		return schema{"type": "object"}
	case reflect.TypeFor[configs.Test]():
		return schema{"$ref": "#/definitions/test"}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return schemaOf(t.Elem())
	case reflect.Slice:
		return schema{"type": "array", "items": schemaOf(t.Elem())}
	case reflect.Bool:
		return schema{"type": "boolean"}
	case reflect.Int:
		return schema{"type": "integer"}
	case reflect.Uint64:
		return schema{"type": "integer", "minimum": 0, "exclusiveMaximum": int64(1) << 53}
	case reflect.String:
		return schema{"type": "string"}
	case reflect.Struct:
		return structSchema(t)
	}
	return schema{"type": "object"}
}

// structSchema is an object without further fields. The fields of Test in a rule are the test's own.
func structSchema(t reflect.Type) schema {
	properties, required := schema{}, []string{}
	out := schema{"type": "object", "additionalProperties": false, "properties": properties}
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous && f.Type == reflect.TypeFor[configs.Test]() {
			test := testSchema()
			for name, s := range test["properties"].(schema) {
				properties[name] = s
			}
			out["oneOf"], out["allOf"] = test["oneOf"], test["allOf"]
			continue
		}
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" || name == "-" {
			continue
		}
		properties[name] = schemaOf(f.Type)
		if options == "" {
			required = append(required, name)
		}
	}
	if len(required) > 0 {
		out["required"] = required
	}
	return out
}

// testSchema describes one check or a combination: of kind, all, any and not exactly one is given.
func testSchema() schema {
	parts := schema{"type": "array", "minItems": 1, "items": schema{"$ref": "#/definitions/test"}}
	var names, cases []any
	targets := targetsByKind()
	for _, k := range probe.Kinds() {
		names = append(names, k.Name)
		cases = append(cases, schema{
			"if": schema{"required": []string{"kind"}, "properties": schema{"kind": schema{"const": k.Name}}},
			"then": schema{"properties": schema{
				"target": schema{"description": k.Target},
				"want":   wantSchema(k, targets[k.Name]),
			}},
		})
	}
	var one []any
	for _, f := range []string{"kind", "all", "any", "not"} {
		one = append(one, schema{"required": []string{f}})
	}
	return schema{
		"type": "object", "additionalProperties": false, "oneOf": one, "allOf": cases,
		"properties": schema{"kind": schema{"enum": names}, "target": schema{"type": "string"}, "want": schema{"type": "object"},
			"all": parts, "any": parts, "not": schema{"$ref": "#/definitions/test"}},
	}
}

// wantSchema describes what a kind wants. The description of the kind names the fields; the kind itself, asked with a value
// of each type, says which it takes.
func wantSchema(k probe.Kind, targets []string) schema {
	properties := schema{}
	for _, m := range regexp.MustCompile(`"([a-z][a-z0-9_]*)"(?::| and|, | or)?`).FindAllStringSubmatch(k.Want, -1) {
		name := m[1]
		var types []string
		for _, try := range []struct{ kind, value string }{{"string", `"0"`}, {"integer", `0`}, {"boolean", `false`}, {"array", `[]`}, {"object", `{}`}} {
			if takes(k, targets, name, try.value) {
				types = append(types, try.kind)
			}
		}
		switch len(types) {
		case 0: // no field of this kind
		case 5:
			properties[name] = schema{}
		default:
			properties[name] = schema{"type": types}
		}
	}
	return schema{"type": "object", "description": k.Want, "properties": properties, "additionalProperties": false}
}

// takes asks a kind whether a field may have a value of some type, whatever else is missing.
func takes(k probe.Kind, targets []string, name, value string) bool {
	want := fmt.Sprintf(`{%q: %s}`, name, value)
	for _, target := range targets {
		_, err := k.New(target, []byte(want))
		if se, ok := errors.AsType[*strictjson.Error](err); ok && strings.HasPrefix(se.Path, "want."+name) {
			return false
		}
	}
	return true
}

// targetsByKind are targets that a kind is known to take: those of the shipped rules, and a path.
func targetsByKind() map[string][]string {
	out := map[string][]string{}
	for _, k := range probe.Kinds() {
		out[k.Name] = []string{"/etc/x"}
	}
	var look func(t configs.Test)
	look = func(t configs.Test) {
		if have := out[t.Kind]; t.Kind != "" && len(have) < 4 {
			out[t.Kind] = append(have, t.Target)
		}
		for _, p := range append(append([]configs.Test{}, t.All...), t.Any...) {
			look(p)
		}
		if t.Not != nil {
			look(*t.Not)
		}
	}
	for _, profile := range configs.Profiles() {
		p, err := configs.Load(profile)
		if err != nil {
			continue
		}
		for _, r := range p.Rules {
			look(r.Test)
		}
	}
	return out
}
