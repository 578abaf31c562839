// SPDX-License-Identifier: Apache-2.0

package intake

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/backstay/backstay/logging"
)

// reserved are attribute names a message may not use: what the kernel says of the sender goes by them, and a second value of
// the same name would leave it to the reader which one to believe.
var reserved = [...]string{"uid", "gid", "pid", "exe", "source", "subject", "rule", "policy"}

// message is one JSON object from a program.
type message struct {
	event   logging.Event
	durable bool
}

// parseMessage reads a message strictly: an unknown or repeated key, a null, a nested value or anything after the object is an
// error, because a program that is misunderstood leaves a record that is wrong. encoding/json alone would take the last of two
// equal keys.
func parseMessage(b []byte) (message, error) {
	if len(b) > MaxMessage {
		return message{}, fmt.Errorf("longer than %d bytes", MaxMessage)
	}
	if !utf8.Valid(b) {
		return message{}, errors.New("not valid UTF-8")
	}
	p := &parser{dec: json.NewDecoder(bytes.NewReader(b))}
	p.dec.UseNumber()
	var m message
	if err := p.object(func(key string) error { return p.field(&m, key) }); err != nil {
		return message{}, err
	}
	if _, err := p.dec.Token(); !errors.Is(err, io.EOF) {
		return message{}, errors.New("something follows the object")
	}
	if m.event.Code == "" {
		return message{}, errors.New("code is missing")
	}
	return m, nil
}

type parser struct{ dec *json.Decoder }

// object reads an object; each reads the value of one key.
func (p *parser) object(each func(key string) error) error {
	tok, err := p.dec.Token()
	if err != nil {
		return errors.New("not a JSON object")
	}
	if tok != json.Delim('{') {
		return errors.New("not an object")
	}
	var seen []string
	for p.dec.More() {
		tok, err := p.dec.Token()
		if err != nil {
			return errors.New("not JSON")
		}
		key, _ := tok.(string)
		for _, s := range seen {
			if s == key {
				return fmt.Errorf("%q is given twice", clip(key))
			}
		}
		if seen = append(seen, key); len(seen) > maxAttrs {
			return fmt.Errorf("more than %d keys", maxAttrs)
		}
		if err := each(key); err != nil {
			return err
		}
	}
	if _, err := p.dec.Token(); err != nil {
		return errors.New("not JSON")
	}
	return nil
}

// field reads the value of one key of a message.
func (p *parser) field(m *message, key string) error {
	switch key {
	case "attrs":
		return p.object(func(name string) error { return p.attr(m, name) })
	case "durable":
		tok, err := p.dec.Token()
		on, ok := tok.(bool)
		if err != nil || !ok {
			return errors.New("durable is not true or false")
		}
		m.durable = on
		return nil
	}
	tok, err := p.dec.Token()
	if err != nil {
		return errors.New("not JSON")
	}
	s, ok := tok.(string)
	if !ok {
		return fmt.Errorf("%q is not text", clip(key))
	}
	switch key {
	case "code":
		m.event.Code, err = appCode(s)
	case "severity":
		m.event.Severity, err = severity(s)
	case "outcome":
		m.event.Outcome, err = outcome(s)
	case "message":
		m.event.Message = s
	case "session":
		m.event.Session = s
	default:
		err = fmt.Errorf("unknown key %q; known are code, severity, outcome, message, session, attrs, durable", clip(key))
	}
	return err
}

func (p *parser) attr(m *message, name string) error {
	if !validName(name, maxAttrName) {
		return fmt.Errorf("attribute %q: a name is lower-case letters, digits, '_', '.' and '-', at most %d", clip(name), maxAttrName)
	}
	for _, r := range reserved {
		if name == r {
			return fmt.Errorf("attribute %q: the agent fills it itself", name)
		}
	}
	tok, err := p.dec.Token()
	if err != nil {
		return errors.New("not JSON")
	}
	var value string
	switch v := tok.(type) {
	case string:
		value = v
	case json.Number:
		value = v.String()
	case bool:
		value = fmt.Sprint(v)
	default:
		return fmt.Errorf("attribute %q is not text, a number, true or false", name)
	}
	m.event.Attrs = append(m.event.Attrs, logging.Attr{Name: name, Value: value})
	return nil
}

// appCode puts a program's code where programs' codes belong. One that already stands there stays as it is.
func appCode(s string) (string, error) {
	rest := strings.TrimPrefix(s, Prefix)
	if !validName(rest, maxCode) || rest[0] < 'a' || rest[0] > 'z' {
		return "", fmt.Errorf("code %q: it is lower-case letters, digits, '_', '.' and '-', begins with a letter, at most %d", clip(s), maxCode)
	}
	if Prefix+rest == CodeSyslog {
		return "", fmt.Errorf("code %q is for lines of the syslog socket", CodeSyslog)
	}
	return Prefix + rest, nil
}

func validName(s string, most int) bool {
	if s == "" || len(s) > most {
		return false
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' && c != '.' && c != '-' {
			return false
		}
	}
	return true
}

func severity(s string) (logging.Severity, error) {
	for v := logging.SeverityInfo; v <= logging.SeverityFatal; v++ {
		if v.String() == s {
			return v, nil
		}
	}
	return 0, fmt.Errorf("severity %q is not info, low, medium, high, critical or fatal", clip(s))
}

func outcome(s string) (logging.Outcome, error) {
	switch s {
	case "success":
		return logging.OutcomeSuccess, nil
	case "failure":
		return logging.OutcomeFailure, nil
	}
	return 0, fmt.Errorf("outcome %q is not success or failure", clip(s))
}

func clip(s string) string { return s[:min(len(s), 40)] }
