// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// maxDepth bounds how deep metadata may nest: delegations use six levels, the
// custom part of a target is the maker's.
const maxDepth = 24

// scan looks at metadata before anything is made of it. It costs one pass over
// the tokens and refuses the shapes that must not reach the parser: another
// type of metadata, null where an object belongs, two signatures of one key, a
// timestamp that names no snapshot, bottomless nesting, something after the end.
func scan(raw []byte, role string) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	s := scanner{dec: d, keyids: map[string]bool{}}
	if err := s.value(nil); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("something follows the metadata")
	}
	switch {
	case s.typ != role:
		return fmt.Errorf("its type is %q, expected %q", s.typ, role)
	case !s.signed || !s.signatures:
		return errors.New("no signed part or no signatures")
	case role == metadata.TIMESTAMP && !s.snapshot:
		return errors.New("it names no snapshot.json")
	}
	return nil
}

type scanner struct {
	dec                          *json.Decoder
	typ                          string
	signed, signatures, snapshot bool
	keyids                       map[string]bool
}

// value consumes one value; path is where it stands, "#" for a list's element.
func (s *scanner) value(path []string) error {
	if len(path) > maxDepth {
		return fmt.Errorf("nested deeper than %d levels", maxDepth)
	}
	tok, err := s.dec.Token()
	if err != nil {
		return err
	}
	switch tok {
	case json.Delim('{'):
		s.object(path)
		return s.members(path)
	case json.Delim('['):
		if at(path, "signatures") {
			s.signatures = true
		}
		for s.dec.More() {
			if err := s.value(append(path, "#")); err != nil {
				return err
			}
		}
		_, err = s.dec.Token()
		return err
	}
	if wantsObject(path) {
		return fmt.Errorf("%s is not an object", strings.Join(path, "."))
	}
	return s.scalar(path, tok)
}

func (s *scanner) members(path []string) error {
	for s.dec.More() {
		tok, err := s.dec.Token()
		if err != nil {
			return err
		}
		name, ok := tok.(string)
		if !ok {
			return errors.New("a member has no name")
		}
		if err := s.value(append(path, name)); err != nil {
			return err
		}
	}
	_, err := s.dec.Token()
	return err
}

func (s *scanner) object(path []string) {
	if at(path, "signed") {
		s.signed = true
	}
	if at(path, "signed", "meta", "snapshot.json") {
		s.snapshot = true
	}
}

func (s *scanner) scalar(path []string, tok json.Token) error {
	switch {
	case len(path) == 0:
		return errors.New("it is not an object")
	case at(path, "signed", "_type"):
		s.typ, _ = tok.(string)
	case at(path, "signatures", "#", "keyid"):
		id, _ := tok.(string)
		if s.keyids[id] {
			return fmt.Errorf("two signatures have key id %q", id)
		}
		s.keyids[id] = true
	}
	return nil
}

// wantsObject lists where the parser relies on an object. Names are compared
// without case, as encoding/json does.
func wantsObject(path []string) bool {
	switch len(path) {
	case 0:
		return true
	case 1:
		return at(path, "signed")
	case 2:
		return at(path, "signatures", "#") || under(path, 1)
	case 3:
		return under(path[:2], 1) || at(path, "signed", "delegations", "keys")
	case 4:
		return at(path[:3], "signed", "delegations", "keys") || at(path, "signed", "delegations", "roles", "#")
	}
	return false
}

// under reports whether path is one of the signed part's tables of objects.
func under(path []string, i int) bool {
	if !at(path[:i], "signed") {
		return false
	}
	for _, table := range [...]string{"meta", "targets", "keys", "roles"} {
		if strings.EqualFold(path[i], table) {
			return true
		}
	}
	return false
}

func at(path []string, want ...string) bool {
	if len(path) != len(want) {
		return false
	}
	for i := range want {
		if !strings.EqualFold(path[i], want[i]) {
			return false
		}
	}
	return true
}
