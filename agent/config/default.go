// SPDX-License-Identifier: Apache-2.0

package config

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"reflect"
	"sort"
	"strconv"
)

// setDefaults fills in the default tags. With set nil it fills every field of v itself, before the file is decoded over them;
// with set, afterwards, it fills the fields the file did not give inside the elements of lists and maps, which exist only now.
func setDefaults(v reflect.Value, path string, set map[string]bool) {
	for i := range v.NumField() {
		field := v.Type().Field(i)
		name := field.Tag.Get("json")
		if name == "" {
			continue
		}
		setDefault(v.Field(i), field, join(path, name), set)
	}
}

func setDefault(v reflect.Value, field reflect.StructField, path string, set map[string]bool) {
	inElement := set != nil && isElement(path)
	switch {
	case v.Kind() == reflect.Struct:
		setDefaults(v, path, set)
	case v.Kind() == reflect.Map && set != nil:
		for _, key := range v.MapKeys() {
			elem := reflect.New(v.Type().Elem()).Elem()
			elem.Set(v.MapIndex(key))
			setDefaults(elem, join(path, key.String()), set)
			v.SetMapIndex(key, elem)
		}
	case v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Struct && set != nil:
		for i := range v.Len() {
			setDefaults(v.Index(i), path+"["+strconv.Itoa(i)+"]", set)
		}
	case set == nil || inElement && !set[path]:
		if text, ok := field.Tag.Lookup("default"); ok {
			assign(v, text, path)
		}
	}
}

// isElement reports whether path lies inside a list or the slots map.
func isElement(path string) bool {
	for i := range path {
		if path[i] == '[' {
			return true
		}
	}
	return len(path) > 6 && path[:6] == "slots."
}

// assign sets v from a default tag. A tag that does not fit its field is a mistake in this package, found by its tests.
func assign(v reflect.Value, text, path string) {
	raw := []byte(text)
	if v.Kind() == reflect.String || v.Type() == reflect.TypeFor[Duration]() {
		raw = strconv.AppendQuote(nil, text)
	}
	if err := json.Unmarshal(raw, v.Addr().Interface()); err != nil {
		panic(fmt.Sprintf("default of %s: %v", path, err))
	}
}

// Origin says where an effective value comes from.
type Origin string

// The origins.
const (
	FromDefault Origin = "default"
	FromFile    Origin = "file"
)

// Setting is one effective value.
type Setting struct {
	Key    string          `json:"key"`
	Value  json.RawMessage `json:"value"`
	Origin Origin          `json:"origin"`
}

// Effective lists every value in force, in the order of the struct, with its origin.
func (c *Config) Effective() []Setting {
	var out []Setting
	c.effective(reflect.ValueOf(c).Elem(), "", &out)
	return out
}

// Version names the values in force: the beginning of the SHA-256 of all of them. Records say by it which configuration they
// were made under.
func (c *Config) Version() string {
	h := sha256.New()
	for _, s := range c.Effective() {
		fmt.Fprintf(h, "%s %s\n", s.Key, s.Value)
	}
	return hex.EncodeToString(h.Sum(nil)[:6])
}

func (c *Config) effective(v reflect.Value, path string, out *[]Setting) {
	switch {
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			if name := v.Type().Field(i).Tag.Get("json"); name != "" {
				c.effective(v.Field(i), join(path, name), out)
			}
		}
	case v.Kind() == reflect.Map:
		for _, key := range sortedKeys(v) {
			c.effective(v.MapIndex(key), join(path, key.String()), out)
		}
	case v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Struct && v.Len() > 0:
		for i := range v.Len() {
			c.effective(v.Index(i), path+"["+strconv.Itoa(i)+"]", out)
		}
	default:
		s := Setting{Key: path, Origin: FromDefault}
		if c.set[path] {
			s.Origin = FromFile
		}
		s.Value = render(v)
		*out = append(*out, s)
	}
}

// sortedKeys are the keys of a map in order, so that lists and errors come out the same every time.
func sortedKeys(v reflect.Value) []reflect.Value {
	keys := v.MapKeys()
	sort.Slice(keys, func(i, j int) bool { return keys[i].String() < keys[j].String() })
	return keys
}

// render is a leaf as JSON; an empty list is [].
func render(v reflect.Value) json.RawMessage {
	if v.Kind() == reflect.Slice && v.Len() == 0 {
		return json.RawMessage("[]")
	}
	b, err := json.Marshal(v.Interface())
	if err != nil {
		return json.RawMessage("null") // not reached: leaves are text, numbers and lists of them
	}
	return b
}
