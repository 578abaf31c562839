// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"reflect"
	"strings"
)

// Field is the documentation of one key. In Key, SLOT stands for a slot's name and [] for any element of a list.
type Field struct {
	Key     string   `json:"key"`
	Type    string   `json:"type"`
	Doc     string   `json:"doc"`
	Default string   `json:"default"` // as in the file, without quotes; "" when there is none
	One     []string `json:"one"`     // the values allowed; nil when not a fixed list
	Min     string   `json:"min"`
	Max     string   `json:"max"`
	Trust   string   `json:"trust"` // for a path: who is trusted with the file
	Section bool     `json:"section"`
}

// Fields lists every key and section in the order of the file.
func Fields() []Field {
	var out []Field
	fields(reflect.TypeFor[Config](), "", &out)
	return out
}

func fields(t reflect.Type, path string, out *[]Field) {
	for i := range t.NumField() {
		field := t.Field(i)
		name := field.Tag.Get("json")
		if name == "" {
			continue
		}
		f := Field{
			Key: join(path, name), Type: typeName(field.Type), Doc: field.Tag.Get("doc"), Default: field.Tag.Get("default"),
			Min: field.Tag.Get("min"), Max: field.Tag.Get("max"), Trust: field.Tag.Get("trust"),
		}
		if one := field.Tag.Get("one"); one != "" {
			f.One = strings.Split(one, "|")
		}
		sub, at := field.Type, f.Key
		switch sub.Kind() {
		case reflect.Map:
			sub, at = sub.Elem(), at+".SLOT"
		case reflect.Slice:
			sub, at = sub.Elem(), at+"[]"
		}
		f.Section = sub.Kind() == reflect.Struct
		*out = append(*out, f)
		if f.Section {
			fields(sub, at, out)
		}
	}
}

// Explain returns the documentation of a key and of the keys below it when it is a section. A key may be written as in the
// file (slots.A.path, update.health[0].kind) or as in the documentation (slots.SLOT.path). An unknown key is a *FieldError that
// names the nearest one.
func Explain(key string) ([]Field, error) {
	want := general(key)
	all := Fields()
	var out []Field
	var names []string
	for _, f := range all {
		if f.Key == want || strings.HasPrefix(f.Key, want+".") || strings.HasPrefix(f.Key, want+"[]") {
			out = append(out, f)
		}
		names = append(names, f.Key)
	}
	if len(out) > 0 {
		return out, nil
	}
	problem := "unknown key"
	if near := nearest(want, names); near != "" {
		problem += "; the nearest known is " + near
	} else if near := elsewhere(want); near != "" {
		problem += "; there is " + near
	}
	return nil, &FieldError{Key: key, Problem: problem}
}

// general turns a key of a file into the key of the documentation.
func general(key string) string {
	parts := strings.Split(key, ".")
	for i, p := range parts {
		if i == 1 && parts[0] == "slots" {
			parts[i] = "SLOT"
		} else if open := strings.IndexByte(p, '['); open >= 0 {
			parts[i] = p[:open] + "[]"
		} else if p == "health" && i+1 < len(parts) {
			parts[i] = "health[]"
		}
	}
	return strings.Join(parts, ".")
}

// Limits says what a value may be, in words; "" when anything goes.
func (f Field) Limits() string {
	var parts []string
	if len(f.One) > 0 {
		parts = append(parts, "one of "+strings.Join(f.One, ", "))
	}
	if f.Min != "" {
		parts = append(parts, "at least "+f.Min)
	}
	if f.Max != "" {
		parts = append(parts, "at most "+f.Max)
	}
	return strings.Join(parts, ", ")
}

// Page is docs/config.md: every key as one table per section.
func Page() string {
	var b strings.Builder
	b.WriteString("<!-- Generated from agent/config/config.go; do not edit. -->\n\n# Configuration\n\n" +
		"The agent reads one strict JSON file, `" + DefaultFile + "` unless `--config` says otherwise. Unknown keys, keys given twice\n" +
		"and nulls are errors. `backstay config check` reads a file and the files it names, `backstay config show` prints every value\n" +
		"in force and where it came from, `backstay config explain KEY` prints what stands here. No key switches a check off.\n\n" +
		"In a key, `SLOT` stands for the boot loader's name of a slot and `[]` for any element of a list.\n")
	section := ""
	for _, f := range Fields() {
		head, _, nested := strings.Cut(f.Key, ".")
		switch {
		case f.Section && !nested:
			section = head
			fmt.Fprintf(&b, "\n## %s\n\n%s.\n\n| key | type | default | meaning |\n|---|---|---|---|\n", head, sentence(f.Doc))
			continue
		case section == "" && f.Key == "state_dir":
			b.WriteString("\n| key | type | default | meaning |\n|---|---|---|---|\n")
		}
		def := ""
		if f.Default != "" {
			def = "`" + f.Default + "`"
		}
		meaning := sentence(f.Doc) + "."
		if l := f.Limits(); l != "" && len(f.One) == 0 {
			meaning += " " + sentence(l) + "."
		} else if l != "" && !strings.Contains(f.Doc, f.One[0]+":") {
			meaning += " " + sentence(l) + "."
		}
		if f.Trust != "" {
			meaning += " *Trusted with it:* " + f.Trust + "."
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", f.Key, f.Type, def, strings.ReplaceAll(meaning, "|", `\|`))
	}
	return b.String()
}

// sentence begins with a capital unless the first word is a name with a capital or a literal inside.
func sentence(s string) string {
	if s == "" || s[0] < 'a' || s[0] > 'z' {
		return s
	}
	if first, _, _ := strings.Cut(s, " "); strings.HasSuffix(first, ":") || first == "https" || first == "http" {
		return s
	}
	return string(s[0]-'a'+'A') + s[1:]
}
