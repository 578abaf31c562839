// SPDX-License-Identifier: Apache-2.0

package update

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"
)

// object is one JSON object read strictly. encoding/json matches names without
// regard to case and lets the last duplicate win; a signed statement read that
// way could mean one thing to the tool that shows it and another to the device
// that obeys it. Here names are exact and unique.
//
// The getters keep the first error in err, so a reader lists the fields it
// wants and looks once.
type object struct {
	fields map[string]json.RawMessage
	err    error
}

// parseObject reads exactly one JSON object from b.
func parseObject(b []byte) (*object, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	t, err := d.Token()
	if err != nil {
		return nil, fmt.Errorf("not JSON: %w", err)
	}
	if t != json.Delim('{') {
		return nil, errors.New("not a JSON object")
	}
	o := &object{fields: map[string]json.RawMessage{}}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, fmt.Errorf("not JSON: %w", err)
		}
		name, ok := t.(string)
		if !ok {
			return nil, errors.New("not a JSON object")
		}
		if _, dup := o.fields[name]; dup {
			return nil, fmt.Errorf("field %q appears twice", name)
		}
		var v json.RawMessage
		if err := d.Decode(&v); err != nil {
			return nil, fmt.Errorf("field %q: %w", name, err)
		}
		o.fields[name] = v
	}
	if _, err := d.Token(); err != nil {
		return nil, fmt.Errorf("not JSON: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("data after the JSON object")
	}
	return o, nil
}

// onlyKnown refuses fields outside names.
func (o *object) onlyKnown(names ...string) {
	for f := range o.fields {
		known := false
		for _, n := range names {
			known = known || n == f
		}
		if !known {
			o.fail("field %q is not known", f)
		}
	}
}

func (o *object) fail(format string, args ...any) {
	if o.err == nil {
		o.err = fmt.Errorf(format, args...)
	}
}

// format requires the format number 1 in field f.
func (o *object) format(f string) {
	if v := o.integer(f); o.err == nil && v != 1 {
		o.fail("format %s is %d, this version reads 1", f, v)
	}
}

// raw returns the value of a field that must be there and not null.
func (o *object) raw(f string) (json.RawMessage, bool) {
	v, ok := o.fields[f]
	if !ok {
		o.fail("field %q is missing", f)
		return nil, false
	}
	if string(v) == "null" {
		o.fail("field %q is null", f)
		return nil, false
	}
	return v, true
}

func (o *object) has(f string) bool {
	_, ok := o.fields[f]
	return ok
}

// integer reads a whole number from 0 to MaxCounter, written as digits.
func (o *object) integer(f string) uint64 {
	v, ok := o.raw(f)
	if !ok {
		return 0
	}
	n, err := strconv.ParseUint(string(v), 10, 64)
	if err != nil || n > MaxCounter {
		o.fail("field %q is not a whole number below 2^53", f)
		return 0
	}
	return n
}

func (o *object) optionalInteger(f string) uint64 {
	if !o.has(f) {
		return 0
	}
	return o.integer(f)
}

// name reads a string that ok accepts.
func (o *object) name(f string, ok func(string) bool) string {
	v, there := o.raw(f)
	if !there {
		return ""
	}
	var s string
	if err := json.Unmarshal(v, &s); err != nil {
		o.fail("field %q is not a string", f)
		return ""
	}
	if !ok(s) {
		o.fail("field %q has a value that is not allowed there: %.80q", f, s)
		return ""
	}
	return s
}

func (o *object) optionalName(f string, ok func(string) bool) string {
	if !o.has(f) {
		return ""
	}
	return o.name(f, ok)
}

// names reads an optional list of at most limit strings that ok accepts.
func (o *object) names(f string, limit int, ok func(string) bool) []string {
	if !o.has(f) {
		return nil
	}
	v, there := o.raw(f)
	if !there {
		return nil
	}
	var list []*string
	if err := json.Unmarshal(v, &list); err != nil {
		o.fail("field %q is not a list of strings", f)
		return nil
	}
	if len(list) > limit {
		o.fail("field %q has %d entries, the limit is %d", f, len(list), limit)
		return nil
	}
	names := make([]string, 0, len(list))
	for _, s := range list {
		if s == nil || !ok(*s) {
			o.fail("field %q has an entry that is not allowed there", f)
			return nil
		}
		names = append(names, *s)
	}
	return names
}

// digest reads 64 lower-case hex digits.
func (o *object) digest(f string) (d [32]byte) {
	s := o.name(f, isHex32)
	if o.err == nil {
		hex.Decode(d[:], []byte(s)) // isHex32 decoded it already
	}
	return d
}

// time reads an optional RFC 3339 time in UTC and whole seconds; anything finer
// would not survive the re-serialisation that TUF signatures are made over.
func (o *object) time(f string) time.Time {
	if !o.has(f) {
		return time.Time{}
	}
	s := o.name(f, func(s string) bool {
		t, err := time.Parse(time.RFC3339, s)
		return err == nil && t.UTC().Format(time.RFC3339) == s
	})
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return time.Time{} // name has recorded why
	}
	return t.UTC()
}

// boolean reads an optional true or false.
func (o *object) boolean(f string) bool {
	if !o.has(f) {
		return false
	}
	switch v := string(o.fields[f]); v {
	case "true":
		return true
	case "false":
		return false
	default:
		o.fail("field %q is not true or false", f)
		return false
	}
}
