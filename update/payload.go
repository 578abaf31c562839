// SPDX-License-Identifier: Apache-2.0

package update

import (
	"encoding/json"
	"fmt"
	"strings"
)

// MaxPayloads is how many payloads one release may have.
const MaxPayloads = 32

// Payload is a target from which a device can make the image, instead of fetching the image itself: see package delta.
type Payload struct {
	Path        string   // TUF target path, in the directory of the image
	Length      int64    // bytes of the payload
	SHA256      [32]byte // digest of the payload
	IndexLength int64    // bytes of its beginning that say what the rest is
	IndexSHA256 [32]byte // digest of those
	Base        [32]byte // digest of the image it is a difference from; zero: it needs none
	BaseLength  int64    // bytes of that image
}

// Release is the payload as something to fetch.
func (p Payload) Release() Release { return Release{Path: p.Path, Length: p.Length, SHA256: p.SHA256} }

// PayloadSuffix ends the path of every payload.
const PayloadSuffix = ".pack"

// payloads reads an optional list of payloads.
func (o *object) payloads(f string) []Payload {
	if !o.has(f) {
		return nil
	}
	v, there := o.raw(f)
	if !there {
		return nil
	}
	var list []json.RawMessage
	if err := json.Unmarshal(v, &list); err != nil || len(list) > MaxPayloads {
		o.fail("field %q is not a list of at most %d payloads", f, MaxPayloads)
		return nil
	}
	out := make([]Payload, 0, len(list))
	for _, raw := range list {
		e, err := parseObject(raw)
		if err != nil {
			o.fail("field %q: %w", f, err)
			return nil
		}
		p := Payload{
			Path: e.name("path", func(s string) bool { return len(s) <= 3*maxName }), Length: int64(e.integer("length")), SHA256: e.digest("sha256"),
			IndexLength: int64(e.integer("index_length")), IndexSHA256: e.digest("index_sha256"),
		}
		if e.has("base") {
			p.Base, p.BaseLength = e.digest("base"), int64(e.integer("base_length"))
		}
		if e.err == nil && (p.IndexLength == 0 || p.IndexLength > p.Length || e.has("base") && p.BaseLength == 0) {
			e.fail("payload %s has a part of impossible length", p.Path)
		}
		if e.err != nil {
			o.fail("field %q: %w", f, e.err)
			return nil
		}
		out = append(out, p)
	}
	return out
}

// checkPayloads refuses a payload in another directory: it would be the business of another role.
func (c Custom) checkPayloads() error {
	for _, p := range c.Payloads {
		name, ok := strings.CutPrefix(p.Path, "firmware/"+c.Product+"/")
		version, is := strings.CutSuffix(name, PayloadSuffix)
		if !ok || !is || !IsVersion(version) {
			return fmt.Errorf("payload %.80q is not a payload of %s", p.Path, c.Product)
		}
	}
	return nil
}
