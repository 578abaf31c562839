// SPDX-License-Identifier: Apache-2.0

// Package strictjson decodes JSON that decides what a device does.
//
// encoding/json is lenient where a policy must not be: it keeps the last of two equal keys, matches names without regard
// to case, ignores names it does not know, turns null into a zero value and replaces bytes that are not UTF-8. Each of
// these lets two readers (the person who reviewed the file and the device) see different policies, so each is an error here.
//
// The package stores nothing. An attacker who controls the input gets an error naming the place, after at most one pass
// over Limits.Bytes bytes and Limits.Depth levels.
package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Limits bounds one document.
type Limits struct {
	Bytes int // longest document in bytes
	Depth int // deepest nesting of objects and arrays
}

// Error says where a document is wrong and why. Path is like rules[3].want.min; it is empty for the whole document.
type Error struct {
	Path string
	Why  string
}

func (e *Error) Error() string {
	if e.Path == "" {
		return e.Why
	}
	return e.Path + ": " + e.Why
}

// Decode reads data into v, a pointer. On error v may be partly written and must not be used.
func Decode(data []byte, lim Limits, v any) error {
	if len(data) > lim.Bytes {
		return &Error{Why: fmt.Sprintf("%d bytes long, the limit is %d", len(data), lim.Bytes)}
	}
	if !utf8.Valid(data) {
		return &Error{Why: "not UTF-8"}
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	w := walker{d: d, max: lim.Depth}
	if err := w.value("", reflect.TypeOf(v).Elem(), 0); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return &Error{Why: "more text after the end of the document"}
	}
	if err := json.Unmarshal(data, v); err != nil {
		return explain(err)
	}
	return nil
}

// explain turns a type error of encoding/json into an Error with the path it knows.
func explain(err error) error {
	if te, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return &Error{Path: te.Field, Why: "want " + plain(te.Type) + ", have " + te.Value}
	}
	return &Error{Why: strings.TrimPrefix(err.Error(), "json: ")}
}

// plain names a Go type in the words of JSON.
func plain(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "text"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice, reflect.Array:
		return "a list"
	case reflect.Map, reflect.Struct:
		return "an object"
	case reflect.Pointer:
		return plain(t.Elem())
	default:
		return "a whole number in range"
	}
}

type walker struct {
	d   *json.Decoder
	max int
}

// value checks one value against t. A nil t means that the shape is decided later (a RawMessage): duplicates, nulls and
// depth still count.
func (w *walker) value(path string, t reflect.Type, depth int) error {
	tok, err := w.d.Token()
	if err != nil {
		return &Error{Path: path, Why: "not JSON: " + err.Error()}
	}
	if tok == nil {
		return &Error{Path: path, Why: "null is not allowed: leave the field out"}
	}
	delim, ok := tok.(json.Delim)
	if !ok {
		return nil
	}
	if depth++; depth > w.max {
		return &Error{Path: path, Why: fmt.Sprintf("nested deeper than %d levels", w.max)}
	}
	if delim == '[' {
		return w.list(path, t, depth)
	}
	return w.object(path, t, depth)
}

func (w *walker) list(path string, t reflect.Type, depth int) error {
	elem := elemOf(t)
	for i := 0; w.d.More(); i++ {
		if err := w.value(path+"["+strconv.Itoa(i)+"]", elem, depth); err != nil {
			return err
		}
	}
	return w.end(path)
}

func (w *walker) object(path string, t reflect.Type, depth int) error {
	known, names := fieldsOf(t)
	seen := map[string]bool{}
	for w.d.More() {
		tok, err := w.d.Token()
		if err != nil {
			return &Error{Path: path, Why: "not JSON: " + err.Error()}
		}
		key, _ := tok.(string)
		at := join(path, key)
		if seen[key] {
			return &Error{Path: at, Why: "given twice"}
		}
		seen[key] = true
		child := elemOf(t)
		if known != nil {
			ft, ok := known[key]
			if !ok {
				return &Error{Path: at, Why: "unknown field" + suggest(key, names)}
			}
			child = ft
		}
		if err := w.value(at, child, depth); err != nil {
			return err
		}
	}
	return w.end(path)
}

// end reads the closing bracket.
func (w *walker) end(path string) error {
	if _, err := w.d.Token(); err != nil {
		return &Error{Path: path, Why: "not JSON: " + err.Error()}
	}
	return nil
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// opaque reports whether a type decodes itself, so that its fields are not names of the document.
func opaque(t reflect.Type) bool {
	u := reflect.TypeFor[json.Unmarshaler]()
	return t.Implements(u) || reflect.PointerTo(t).Implements(u)
}

// elemOf gives the type of the values inside a list or map, nil when it is not known.
func elemOf(t reflect.Type) reflect.Type {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == nil || opaque(t) || (t.Kind() != reflect.Slice && t.Kind() != reflect.Map) {
		return nil
	}
	return t.Elem()
}

// fieldsOf gives the names a struct knows, nil when any name may come.
func fieldsOf(t reflect.Type) (map[string]reflect.Type, []string) {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == nil || t.Kind() != reflect.Struct || opaque(t) {
		return nil, nil
	}
	known, names := map[string]reflect.Type{}, []string(nil)
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous && name == "" {
			inner, innerNames := fieldsOf(f.Type)
			for _, n := range innerNames {
				known[n] = inner[n]
			}
			names = append(names, innerNames...)
			continue
		}
		if !f.IsExported() || name == "-" {
			continue
		}
		if name == "" {
			name = f.Name
		}
		known[name], names = f.Type, append(names, name)
	}
	return known, names
}

func suggest(name string, known []string) string {
	if n := Nearest(name, known); n != "" {
		return ", did you mean " + strconv.Quote(n) + "?"
	}
	return ""
}
