// SPDX-License-Identifier: Apache-2.0

package logging

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
)

// Personal data in a log that nobody can edit is a contradiction: somebody's name must go when the law or he says so, and the
// record must stay. So a leaf holds a commitment in the place of such a value, "sha256:" and the SHA-256 in hex of a random salt of 16
// bytes followed by the value; value and salt travel beside the leaf as its side record. Whoever has the side record reads the
// value and can prove that it is the one; once it is deleted, nobody can guess the value, short as it may be, because the salt is
// gone with it; and every hash, root and signature holds as before.

// privateFields are the fields and attributes whose values may be about a person, sorted. "subject" is the field of an event,
// the others are attributes.
var privateFields = [...]string{"account", "email", "full_name", "group", "peer", "source_address", "station", "subject", "user"}

// PrivateFields returns the fields and attributes that are committed to and not written down.
func PrivateFields() []string { return slices.Clone(privateFields[:]) }

const (
	// MaxSide bounds the bytes of a side record.
	MaxSide = 4 << 10
	// saltSize is 128 bits: a value may be guessed, its salt may not.
	saltSize = 16
	// commitPrefix begins a commitment.
	commitPrefix = "sha256:"
	// subjectField is the name of Event.Subject in side records.
	subjectField = "subject"
)

// Personal is the value behind one commitment of a leaf.
type Personal struct {
	Field string `json:"field"` // "subject", or the name of an attribute
	Salt  string `json:"salt"`  // hex
	Value string `json:"value"`
}

// Commitment returns what stands in the leaf; "" when the salt is not one.
func (p Personal) Commitment() string {
	salt, err := hex.DecodeString(p.Salt)
	if err != nil || len(salt) != saltSize {
		return ""
	}
	sum := sha256.Sum256(append(salt, p.Value...))
	return commitPrefix + hex.EncodeToString(sum[:])
}

// Seal returns e with commitments in the place of its personal values, which are in its Side then: those of PrivateFields and of
// the attributes named in more. Secrets are dropped first: not even a commitment to one is kept. What is sealed already stays as
// it is.
func (e Event) Seal(more []string) Event {
	attrs := e.Attrs[:min(len(e.Attrs), MaxAttrs+1)] // one more than fits, so that encoding sees that some were cut
	if !slices.ContainsFunc(attrs, func(a Attr) bool { return private(a.Name, more) }) && e.Subject == "" {
		return e
	}
	e.Attrs = slices.Clone(attrs)
	e.Side = slices.Clone(e.Side)
	e.Subject = e.commit(subjectField, e.Subject, MaxField)
	for i, a := range e.Attrs {
		if private(a.Name, more) {
			e.Attrs[i].Value = e.commit(a.Name, a.Value, MaxAttrValue)
		}
	}
	return e
}

func private(name string, more []string) bool {
	if name == subjectField {
		return true // a second value of that name, which became an attribute
	}
	_, ok := slices.BinarySearch(privateFields[:], name)
	return ok || slices.Contains(more, name)
}

// commit notes a value in the side record and returns the commitment to it.
func (e *Event) commit(field, value string, limit int) string {
	switch {
	case value == "" || value == redacted || value == noRoom:
		return value
	case secret(field, value):
		return redacted
	case slices.ContainsFunc(e.Side, func(p Personal) bool { return p.Field == field && p.Commitment() == value }):
		return value
	}
	salt := make([]byte, saltSize)
	rand.Read(salt) //nolint:errcheck // it cannot fail: the program ends first
	p := Personal{Field: field, Salt: hex.EncodeToString(salt), Value: fit(value, limit)}
	if len(encodeSide(append(e.Side, p))) > MaxSide {
		return noRoom
	}
	e.Side = append(e.Side, p)
	return p.Commitment()
}

// noRoom stands for a personal value that did not fit: it is left out, never written down in clear.
const noRoom = "[dropped: too much personal data]"

// fit cuts a value to what the encoding of strings keeps, so that the side record repeats it exactly.
func fit(v string, limit int) string {
	v = strings.ToValidUTF8(v[:min(len(v), 2*limit)], "\ufffd")
	size := 0
	for i, r := range v {
		if size += len(appendRune(nil, r)); size > limit {
			return v[:i]
		}
	}
	return v
}

// encodeSide returns the bytes of a side record, printable ASCII in one line; nil when there is nothing in it.
func encodeSide(list []Personal) []byte {
	if len(list) == 0 {
		return nil
	}
	w := &jsonWriter{b: []byte{'['}, first: true}
	for _, p := range list {
		w.key("")
		w.open("")
		w.verbatim("field", p.Field)
		w.verbatim("salt", p.Salt)
		w.verbatim("value", p.Value)
		w.close()
	}
	return append(w.b, ']')
}

// verbatim writes a string as it is: a side record that changed its value would not match its commitment any more.
func (w *jsonWriter) verbatim(name, v string) {
	w.key(name)
	w.b = append(w.b, '"')
	for _, r := range v {
		w.b = appendRune(w.b, r)
	}
	w.b = append(w.b, '"')
}

// DecodeSide reads a side record. Errors match ErrRefused with CodeMalformed.
func DecodeSide(side []byte) ([]Personal, error) {
	if len(side) > MaxSide {
		return nil, refuse(CodeMalformed, "side record", "too long")
	}
	var list []Personal
	dec := json.NewDecoder(bytes.NewReader(side))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&list); err != nil {
		return nil, refuseErr(CodeMalformed, "side record", err)
	}
	if _, err := dec.Token(); err != io.EOF || len(list) == 0 || len(list) > MaxAttrs+1 {
		return nil, refuse(CodeMalformed, "side record", "not one list of values")
	}
	return list, nil
}

// CheckSide reports whether every value of a side record is the one its leaf commits to. Errors match ErrRefused with
// CodeSideMismatch, or CodeMalformed. A side record may hold fewer values than the leaf has commitments: some may have been
// deleted.
func CheckSide(l Leaf) error {
	if l.Side == nil || l.Shed() {
		return nil
	}
	r, err := DecodeLeaf(l.Body)
	if err != nil {
		return refuse(CodeSideMismatch, fmt.Sprintf("side record %d", l.Index), "nothing can be read in its leaf")
	}
	_, err = r.reveal(l)
	return err
}

// reveal returns r with the values of the side record in their places.
func (r Record) reveal(l Leaf) (Record, error) {
	list, err := DecodeSide(l.Side)
	if err != nil {
		return r, err
	}
	r.Attrs = slices.Clone(r.Attrs)
	for _, p := range list {
		commitment, found := p.Commitment(), false
		if p.Field == subjectField && r.Subject == commitment {
			r.Subject, found = p.Value, true
		}
		for i, a := range r.Attrs {
			if !found && a.Name == p.Field && a.Value == commitment {
				r.Attrs[i].Value, found = p.Value, true
			}
		}
		if !found || commitment == "" {
			return r, refuse(CodeSideMismatch, fmt.Sprintf("side record %d", l.Index), fmt.Sprintf("its value of %.64q is not the one the record commits to", p.Field))
		}
	}
	r.Side = list
	return r, nil
}

// Decode reads a leaf, with the personal values of its side record where the commitments stand. A side record that does not
// match is an error; see DecodeLeaf for the others.
func (l Leaf) Decode() (Record, error) {
	r, err := DecodeLeaf(l.Body)
	if err != nil || l.Side == nil {
		return r, err
	}
	return r.reveal(l)
}

// committed reports whether a value has the form of a commitment.
func committed(v string) bool {
	rest, ok := strings.CutPrefix(v, commitPrefix)
	return ok && len(rest) == 2*sha256.Size && strings.Trim(rest, "0123456789abcdef") == ""
}

// ShortCommitment shortens a value for people when it is a commitment whose side record is gone; others are returned as they are.
func ShortCommitment(v string) string {
	if committed(v) {
		return v[:len(commitPrefix)+8]
	}
	return v
}

// WithoutPersonal leaves the side records out of evidence. Every proof holds without them.
func WithoutPersonal(items iter.Seq2[Item, error]) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		for it, err := range items {
			if it.Leaf != nil && it.Leaf.Side != nil {
				l := *it.Leaf
				l.Side = nil
				it.Leaf = &l
			}
			if !yield(it, err) {
				return
			}
		}
	}
}

// Forget returns the side record without the values that match, nil when none is left. changed is false when none matched, or
// when it cannot be read.
func Forget(side []byte, match func(Personal) bool) (rest []byte, changed bool) {
	list, err := DecodeSide(side)
	if err != nil {
		return side, false
	}
	kept := slices.DeleteFunc(slices.Clone(list), match)
	if len(kept) == len(list) {
		return side, false
	}
	return encodeSide(kept), true
}
