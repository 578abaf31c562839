// SPDX-License-Identifier: Apache-2.0

package logging_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/backstay/backstay/logging"
)

func login() logging.Event {
	return logging.Event{Code: "auth.ok", Subject: "alice", Message: "login", Attrs: []logging.Attr{
		{Name: "source_address", Value: "192.0.2.7"}, {Name: "method", Value: "publickey"}, {Name: "room", Value: "4711"}}}
}

// TestPersonalValuesStandBesideTheLeaf holds the whole of it: what the leaf says, what the side record says, and that the one
// proves the other.
func TestPersonalValuesStandBesideTheLeaf(t *testing.T) {
	body, side := logging.EncodeRecord(testOrigin, 7, epoch0, login().Seal([]string{"room"}))
	for _, value := range []string{"alice", "192.0.2.7", "4711"} {
		if bytes.Contains(body, []byte(value)) {
			t.Errorf("%s stands in the leaf: %s", value, body)
		}
		if !bytes.Contains(side, []byte(value)) {
			t.Errorf("%s is not in the side record: %s", value, side)
		}
	}
	if !bytes.Contains(body, []byte("publickey")) {
		t.Error("what is not personal is gone")
	}
	list, err := logging.DecodeSide(side)
	if err != nil || len(list) != 3 {
		t.Fatalf("%+v, %v", list, err)
	}
	for _, p := range list {
		salt, _ := hex.DecodeString(p.Salt)
		want := fmt.Sprintf("sha256:%x", sha256.Sum256(append(salt, p.Value...)))
		if len(salt) != 16 || p.Commitment() != want || !bytes.Contains(body, []byte(want)) {
			t.Errorf("%+v: commitment %s", p, p.Commitment())
		}
	}
	r, err := logging.Leaf{Body: body, Side: side}.Decode()
	if err != nil || r.Subject != "alice" {
		t.Errorf("read back: %+v, %v", r, err)
	}
	if v, _ := r.Attr("source_address"); v != "192.0.2.7" {
		t.Errorf("source_address %q", v)
	}
	if r, err = (logging.Leaf{Body: body}).Decode(); err != nil || !strings.HasPrefix(r.Subject, "sha256:") || len(logging.ShortCommitment(r.Subject)) != 15 {
		t.Errorf("without the side record: %+v, %v", r, err)
	}
	again, _ := logging.EncodeRecord(testOrigin, 7, epoch0, login())
	if bytes.Equal(again, body) {
		t.Error("the same value gives the same commitment: whoever knows one knows all")
	}
}

func TestSealIsDoneOnce(t *testing.T) {
	e := login().Seal(nil)
	twice := e.Seal(nil)
	if len(e.Side) != 2 || len(twice.Side) != 2 || twice.Subject != e.Subject {
		t.Errorf("once %+v\ntwice %+v", e, twice)
	}
	// A value that only looks like a commitment is a value like any other.
	forged := logging.Event{Code: "auth.ok", Subject: e.Subject}.Seal(nil)
	if forged.Subject == e.Subject || len(forged.Side) != 1 {
		t.Errorf("forged %+v", forged)
	}
}

func TestSecretsAreNotEvenCommittedTo(t *testing.T) {
	_, side := logging.EncodeRecord(testOrigin, 0, epoch0, logging.Event{Code: "auth.ok", Subject: "psk=hunter2",
		Attrs: []logging.Attr{{Name: "user", Value: "Bearer hunter2"}, {Name: "wifi_psk", Value: "hunter2"}}}.Seal([]string{"wifi_psk"}))
	if side != nil {
		t.Errorf("side record %s", side)
	}
}

func TestPersonalDataIsBounded(t *testing.T) {
	e := logging.Event{Code: "auth.ok", Subject: strings.Repeat("\x01", 4000)}
	for range 100 {
		e.Attrs = append(e.Attrs, logging.Attr{Name: "source_address", Value: strings.Repeat("\x02ü", 4000)})
	}
	checkLeaf(t, e)
	body, _ := logging.EncodeRecord(testOrigin, 0, epoch0, e)
	if !bytes.Contains(body, []byte("too much personal data")) || bytes.Contains(body, []byte(`\u0002\u00fc`)) {
		t.Errorf("what did not fit stands in the leaf: %.3000s", body)
	}
}

// TestVerifyChecksPersonalValues changes, exchanges and removes side records.
func TestVerifyChecksPersonalValues(t *testing.T) {
	for _, tc := range []struct {
		name string
		fn   func(l []logging.Leaf)
		code string
	}{
		{"whole", func([]logging.Leaf) {}, ""},
		{"all removed", func(l []logging.Leaf) {
			for i := range l {
				l[i].Side = nil
			}
		}, ""},
		{"another value", func(l []logging.Leaf) { l[3].Side = bytes.Replace(l[3].Side, []byte("sshd"), []byte("root"), 1) }, logging.CodeSideMismatch},
		{"another salt", func(l []logging.Leaf) { l[3].Side[30] ^= 1 }, logging.CodeSideMismatch},
		{"of another record", func(l []logging.Leaf) { l[3].Side = l[4].Side }, logging.CodeSideMismatch},
		{"of another field", func(l []logging.Leaf) {
			l[3].Side = bytes.Replace(l[3].Side, []byte(`"subject"`), []byte(`"user"`), 1)
		}, logging.CodeSideMismatch},
		{"not one", func(l []logging.Leaf) { l[3].Side = []byte("{}") }, logging.CodeSideMismatch},
	} {
		r := newRig(t).grow(t, 6)
		for i := range r.leaves {
			r.leaves[i].Side = bytes.Clone(r.leaves[i].Side)
		}
		tc.fn(r.leaves)
		rep, err := verify(r.header(), r.items(), logging.Expect{})
		if code(err) != tc.code {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.code)
		}
		if tc.code != "" && (rep.Bad == nil || rep.Bad.First != 3) {
			t.Errorf("%s: names %+v", tc.name, rep.Bad)
		}
		if want := map[string]uint64{"whole": 6, "all removed": 0}; tc.code == "" && rep.Personal != want[tc.name] {
			t.Errorf("%s: %d records with personal values", tc.name, rep.Personal)
		}
		// A collector refuses the same.
		b := logging.Batch{SPKI: r.header().SPKI, Origin: r.origin, Leaves: r.leaves, Checkpoint: r.heads[6]}
		wire, err := logging.EncodeBatch(b)
		if err != nil {
			t.Fatal(err)
		}
		got, err := logging.DecodeBatch(wire)
		if err == nil {
			_, _, _, err = logging.Head{Origin: r.origin}.Advance(got)
		}
		if c := code(err); c != tc.code && (tc.code == "" || c != logging.CodeMalformed) {
			t.Errorf("%s: a collector says %v", tc.name, err)
		}
	}
}

func TestExportsWithAndWithoutPersonalData(t *testing.T) {
	r := newRig(t).grow(t, 5)
	var with, without bytes.Buffer
	if err := logging.WriteExport(&with, r.header(), seq(r.items())); err != nil {
		t.Fatal(err)
	}
	if err := logging.WriteExport(&without, r.header(), logging.WithoutPersonal(seq(r.items()))); err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(with.Bytes(), []byte("\nside ")); n != 5 || bytes.Contains(without.Bytes(), []byte("sshd")) {
		t.Errorf("%d side lines\n%s", n, without.Bytes())
	}
	for _, b := range [][]byte{with.Bytes(), without.Bytes()} {
		if n, err := verifyExport(b); err != nil || n != 5 {
			t.Errorf("%d records, %v", n, err)
		}
		if n, err := independentVerify(b); err != nil || n != 5 {
			t.Errorf("independently: %d records, %v", n, err)
		}
	}
	lines := strings.SplitAfter(with.String(), "\n")
	at := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, "side 2 ") })
	for _, tc := range []struct{ name, line string }{
		{"of another leaf", strings.Replace(lines[at], "side 2", "side 3", 1)}, {"empty", "side 2 \n"},
		{"not printable", "side 2 \x01\n"}, {"too long", "side 2 " + strings.Repeat("x", logging.MaxSide+1) + "\n"}, {"twice", lines[at] + lines[at]},
	} {
		edited := slices.Clone(lines)
		edited[at] = tc.line
		if _, _, err := readExport([]byte(strings.Join(edited, ""))); code(err) != logging.CodeMalformed {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

func TestForgetKeepsTheRest(t *testing.T) {
	body, side := logging.EncodeRecord(testOrigin, 7, epoch0, login())
	rest, changed := logging.Forget(side, func(p logging.Personal) bool { return p.Value == "alice" })
	if !changed || bytes.Contains(rest, []byte("alice")) || logging.CheckSide(logging.Leaf{Body: body, Side: rest}) != nil {
		t.Errorf("changed %v, rest %s", changed, rest)
	}
	if _, changed := logging.Forget(rest, func(p logging.Personal) bool { return p.Value == "alice" }); changed {
		t.Error("forgotten twice")
	}
	if rest, changed = logging.Forget(rest, func(logging.Personal) bool { return true }); !changed || rest != nil {
		t.Errorf("all forgotten: %s", rest)
	}
}

func FuzzDecodeSide(f *testing.F) {
	_, side := logging.EncodeRecord(testOrigin, 7, epoch0, login())
	f.Add(side)
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := logging.DecodeSide(b)
		if err == nil && (len(list) == 0 || len(list) > logging.MaxAttrs+1) {
			t.Errorf("%d values", len(list))
		}
		logging.Forget(b, func(p logging.Personal) bool { return p.Commitment() == "" }) //nolint:errcheck // must not panic
	})
}
