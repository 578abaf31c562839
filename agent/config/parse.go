// SPDX-License-Identifier: Apache-2.0

package config

// Reading the file. encoding/json alone is too kind for it: it takes the last of two equal keys, matches names without regard
// to case, and its message for an unknown key has no path. So the bytes are first walked against the struct's types, which
// finds everything that is wrong and remembers which keys were given; only then are they decoded.

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	maxBytes  = 64 << 10 // of the file
	maxDepth  = 8        // of nested objects and lists
	maxErrors = 20       // reported at once
)

// FieldError is what is wrong with one key. Key is the full path: update.poll, slots.A.path, update.health[0].kind. Line is the
// line of the file that gives it, or the section it is missing from; 0 when there is no file.
type FieldError struct {
	Key, Problem string
	Line         int
}

func (e *FieldError) Error() string {
	if e.Line > 0 {
		return fmt.Sprintf("line %d: %s: %s", e.Line, e.Key, e.Problem)
	}
	return e.Key + ": " + e.Problem
}

// Problems returns the field errors inside err, in order.
func Problems(err error) []*FieldError {
	var list interface{ Unwrap() []error }
	var one *FieldError
	switch {
	case errors.As(err, &list):
		var out []*FieldError
		for _, e := range list.Unwrap() {
			out = append(out, Problems(e)...)
		}
		return out
	case errors.As(err, &one):
		return []*FieldError{one}
	}
	return nil
}

// Load reads, checks and completes the file at path. It does not look at the files the configuration names (see CheckPaths).
func Load(path string) (*Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	if info.Mode().Perm()&0o002 != 0 {
		return nil, fmt.Errorf("read configuration %s: everybody may write it (mode %04o), so it cannot be trusted", path, info.Mode().Perm())
	}
	b, err := io.ReadAll(io.LimitReader(f, maxBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	c, err := Parse(b)
	problems := Problems(err)
	if err != nil && len(problems) == 0 {
		return nil, fmt.Errorf("read configuration %s: %w", path, err)
	}
	lines := fileLines(b)
	for _, p := range problems {
		p.Line = lineOf(lines, p.Key)
	}
	if err != nil {
		return nil, fmt.Errorf("read configuration %s: %w", path, err)
	}
	c.lines = lines
	return c, nil
}

// Parse reads a configuration, fills in the defaults and validates the result. The error joins one *FieldError per wrong key.
func Parse(b []byte) (*Config, error) {
	c, err := decode(b)
	if err != nil {
		return nil, err
	}
	if err := c.Validate(); err != nil {
		return nil, err
	}
	return c, nil
}

// decode does everything of Parse but Validate.
func decode(b []byte) (*Config, error) {
	if err := checkSyntax(b); err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	w := &walker{dec: dec, set: map[string]bool{}}
	w.value(reflect.TypeFor[Config](), "")
	if len(w.errs) > 0 {
		return nil, errors.Join(w.errs...)
	}
	c := &Config{set: w.set}
	setDefaults(reflect.ValueOf(c).Elem(), "", nil)
	if err := json.Unmarshal(b, c); err != nil {
		return nil, fmt.Errorf("decode: %w", err) // not reached: the walker has seen every value
	}
	setDefaults(reflect.ValueOf(c).Elem(), "", w.set)
	c.expand()
	return c, nil
}

// expand puts the directories into values that name them.
func (c *Config) expand() {
	for _, path := range []*string{&c.Control.Socket, &c.Audit.Intake.Socket, &c.Update.LineFile} {
		*path = strings.ReplaceAll(*path, "${run_dir}", c.RunDir)
	}
}

// checkSyntax checks size, encoding, depth and JSON grammar, and says the line of a syntax error.
func checkSyntax(b []byte) error {
	if len(b) > maxBytes {
		return fmt.Errorf("larger than %d KiB", maxBytes>>10)
	}
	if !utf8.Valid(b) {
		return errors.New("not valid UTF-8")
	}
	if nesting(b) > maxDepth {
		return fmt.Errorf("nested deeper than %d levels", maxDepth)
	}
	var raw json.RawMessage
	err := json.Unmarshal(b, &raw)
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &syntax):
		at := b[:min(int64(len(b)), syntax.Offset)]
		return fmt.Errorf("line %d: %w", 1+bytes.Count(at, []byte("\n")), err)
	case err != nil:
		return err
	}
	return nil
}

// nesting is the greatest depth of objects and lists, brackets inside strings aside.
func nesting(b []byte) int {
	depth, deepest, inString := 0, 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			depth++
			deepest = max(deepest, depth)
		case c == '}' || c == ']':
			depth--
		}
	}
	return deepest
}

// walker compares the tokens of a file that is known to be good JSON with the struct's types.
type walker struct {
	dec  *json.Decoder
	set  map[string]bool
	errs []error

	ended bool // a token could not be read
}

func (w *walker) fail(path, format string, args ...any) {
	if path == "" {
		path = "configuration"
	}
	if len(w.errs) < maxErrors {
		w.errs = append(w.errs, &FieldError{Key: path, Problem: fmt.Sprintf(format, args...)})
	}
}

// token returns the next token. The grammar was checked, so there is always one; should the two ever disagree, the walk ends.
func (w *walker) token() json.Token {
	tok, err := w.dec.Token()
	if err != nil && !w.ended {
		w.ended = true
		w.fail("", "read token: %s", err)
	}
	return tok
}

// more reports whether the object or list goes on.
func (w *walker) more() bool { return !w.ended && w.dec.More() }

// value checks the next value against t; a nil t skips it.
func (w *walker) value(t reflect.Type, path string) {
	switch tok := w.token().(type) {
	case json.Delim:
		if tok == '{' {
			w.object(t, path)
		} else {
			w.list(t, path)
		}
	default:
		if t != nil {
			w.set[path] = true
			w.scalar(t, path, tok)
		}
	}
}

// object checks the keys of an object; its opening brace is read.
func (w *walker) object(t reflect.Type, path string) {
	if t != nil && t.Kind() != reflect.Struct && t.Kind() != reflect.Map {
		w.fail(path, "want %s, got an object", typeName(t))
		t = nil
	}
	seen := map[string]bool{}
	for w.more() {
		key, ok := w.token().(string)
		if !ok {
			return
		}
		at := join(path, key)
		if seen[key] && t != nil {
			w.fail(at, "given twice")
		}
		seen[key] = true
		w.value(w.member(t, path, key), at)
	}
	w.token()
}

// member is the type of an object's key, nil when the key is unknown.
func (w *walker) member(t reflect.Type, path, key string) reflect.Type {
	switch {
	case t == nil:
		return nil
	case t.Kind() == reflect.Map:
		return t.Elem()
	}
	var names []string
	for i := range t.NumField() {
		name := t.Field(i).Tag.Get("json")
		if name == key {
			return t.Field(i).Type
		}
		if name != "" {
			names = append(names, name)
		}
	}
	problem := "unknown key"
	if near := nearest(key, names); near != "" {
		problem += "; the nearest known is " + join(path, near)
	} else if near := elsewhere(key); near != "" {
		problem += "; there is " + near
	} else {
		problem += "; known here: " + strings.Join(names, ", ")
	}
	w.fail(join(path, key), "%s", problem)
	return nil
}

// list checks the elements of a list; its opening bracket is read.
func (w *walker) list(t reflect.Type, path string) {
	var elem reflect.Type
	if t != nil {
		if t.Kind() == reflect.Slice {
			elem = t.Elem()
			w.set[path] = true
		} else {
			w.fail(path, "want %s, got a list", typeName(t))
		}
	}
	for i := 0; w.more(); i++ {
		w.value(elem, path+"["+strconv.Itoa(i)+"]")
	}
	w.token()
}

// scalar checks a value that is neither object nor list.
func (w *walker) scalar(t reflect.Type, path string, tok json.Token) {
	got := ""
	switch v := tok.(type) {
	case nil:
		w.fail(path, "null is not a value; leave the key out to get the default")
		return
	case bool:
		if t.Kind() == reflect.Bool {
			return
		}
		got = strconv.FormatBool(v)
	case json.Number:
		if t.Kind() == reflect.Int {
			if _, err := strconv.ParseInt(v.String(), 10, 32); err != nil {
				w.fail(path, "%s is not a whole number in range", v)
			}
			return
		}
		got = v.String()
	case string:
		if t == reflect.TypeFor[Duration]() {
			if _, err := parseDuration(v); err != nil {
				w.fail(path, "%s", err)
			}
			return
		}
		if t.Kind() == reflect.String {
			if strings.ContainsFunc(v, func(r rune) bool { return r < ' ' || r == 0x7f }) {
				w.fail(path, "holds a control character")
			}
			return
		}
		got = strconv.Quote(v)
	}
	w.fail(path, "want %s, got %s", typeName(t), got)
}

// join appends a key to a path.
func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// typeName is a type in words.
func typeName(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[Duration]():
		return `a duration such as "6h"`
	case t.Kind() == reflect.String:
		return "text"
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() == reflect.Int:
		return "a number"
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.String:
		return "a list of text"
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Int:
		return "a list of numbers"
	case t.Kind() == reflect.Slice:
		return "a list of objects"
	}
	return "an object"
}
