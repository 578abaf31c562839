// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// Store keeps [State] between refreshes. One client uses a store at a time.
type Store interface {
	// LoadTrust returns the state last saved, the zero State if there is none. An
	// error means that it could not be read, which is not the same as absent:
	// without the floors nothing may be accepted.
	LoadTrust() (State, error)

	// SaveTrust replaces the state in one transaction: after a power cut either
	// all of s is there or all of what was before. It is durable on return. An
	// error may mean that it happened.
	SaveTrust(s State) error
}

// State is what is trusted, as served byte for byte, and how far back nothing
// may go. With the default limits it is at most 1.5 MB.
//
// Everything but Floors and Issued is verified again at each use, so damage
// there is noticed and costs a download. The floors are the part that must not
// be lost: without them an attacker may replay an old set of metadata that has
// not yet expired.
type State struct {
	Roots     [][]byte          `json:"roots,omitempty"`     // every root verified after the factory's, ascending
	Timestamp []byte            `json:"timestamp,omitempty"` // newest accepted timestamp.json
	Snapshot  []byte            `json:"snapshot,omitempty"`  // newest accepted snapshot.json
	Targets   map[string][]byte `json:"targets,omitempty"`   // targets roles by name, "targets" is the top one
	Floors    Floors            `json:"floors"`
	Issued    time.Time         `json:"issued,omitzero"` // newest x-issued in verified metadata: it is at least this late
}

// Floors are the versions below which metadata is refused. They rise with what
// is accepted and are lowered in one case only: a verified root took away the
// right to sign from a key under which they were earned, which is how a
// repository recovers from a thief that signed a far too high version
// (specification 5.3.11).
type Floors struct {
	Root      int64            `json:"root"`
	Timestamp int64            `json:"timestamp"`
	Snapshot  int64            `json:"snapshot"`
	Roles     map[string]int64 `json:"roles,omitempty"` // every role the accepted snapshot lists

	TimestampBy Authority `json:"timestamp_by"`
	SnapshotBy  Authority `json:"snapshot_by"`
}

// Authority is who may sign a role: SHA-256 of the public keys as metadata
// spells them, in hex and sorted, and how many of them must.
type Authority struct {
	Keys      []string `json:"keys,omitempty"`
	Threshold int      `json:"threshold,omitempty"`
}

// replacedBy reports whether what a signed for may no longer count: one of its
// keys was withdrawn, or more signatures are needed than then. An authority
// without keys has signed nothing.
func (a Authority) replacedBy(b Authority) bool {
	if len(a.Keys) == 0 {
		return false
	}
	return b.Threshold > a.Threshold || slices.ContainsFunc(a.Keys, func(k string) bool { return !slices.Contains(b.Keys, k) })
}

func (a Authority) equal(b Authority) bool {
	return a.Threshold == b.Threshold && slices.Equal(a.Keys, b.Keys)
}

func authority(root *metadata.Metadata[metadata.RootType], role string) Authority {
	r := root.Signed.Roles[role]
	if r == nil {
		return Authority{}
	}
	a := Authority{Threshold: r.Threshold}
	for _, id := range r.KeyIDs {
		if k := root.Signed.Keys[id]; k != nil {
			sum := sha256.Sum256([]byte(k.Type + "\x00" + k.Value.PublicKey))
			a.Keys = append(a.Keys, hex.EncodeToString(sum[:]))
		}
	}
	slices.Sort(a.Keys)
	a.Keys = slices.Compact(a.Keys)
	return a
}

// adoptRoot makes the newest root's word count: its version becomes the floor,
// and floors earned under a key that it withdraws are lowered.
func (s *session) adoptRoot() error {
	root := s.set.Root
	v, f := root.Signed.Version, &s.next.Floors
	if v < f.Root {
		return refuse("root-rollback", "root.json", nil,
			"the server offers version %d and withholds what follows; this device has trusted version %d", v, f.Root)
	}
	ts, sn := authority(root, metadata.TIMESTAMP), authority(root, metadata.SNAPSHOT)
	tsGone, snGone := f.TimestampBy.replacedBy(ts), f.SnapshotBy.replacedBy(sn)
	if tsGone {
		f.Timestamp = 0
		s.event("update.floors-lowered", "role", metadata.TIMESTAMP)
	}
	if snGone {
		f.Snapshot, f.Roles = 0, nil
		s.event("update.floors-lowered", "role", metadata.SNAPSHOT)
	}
	if tsGone || snGone {
		// A thief of an online key can push x-issued into the future. The bound is
		// earned again under the new keys.
		s.next.Issued = time.Time{}
		s.set.RefTime = s.c.cfg.Now().UTC()
	}
	if v != f.Root || !ts.equal(f.TimestampBy) || !sn.equal(f.SnapshotBy) {
		f.Root, f.TimestampBy, f.SnapshotBy = v, ts, sn
		s.dirty = true
	}
	return s.observe(root.Signed.UnrecognizedFields, "root.json")
}

// observe takes the signed time at which metadata was made as a lower bound of
// the present. It never passes the root's expiry: whoever holds the timestamp
// key alone could otherwise push this device's clock past everything that will
// ever be signed.
func (s *session) observe(fields map[string]any, what string) error {
	v, ok := fields["x-issued"]
	if !ok {
		return nil
	}
	text, _ := v.(string)
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		if s.c.cfg.Interop {
			return nil
		}
		return refuse("malformed-metadata", what, err, "x-issued is not an RFC 3339 time")
	}
	if end := s.set.Root.Signed.Expires; t.After(end) {
		t = end
	}
	if t.After(s.next.Issued) {
		s.next.Issued = t.UTC()
		s.dirty = true
	}
	if t.After(s.set.RefTime) {
		s.set.RefTime = t.UTC()
	}
	return nil
}

// save makes the session durable, whether or not the refresh went on to fail:
// what has been verified counts from then on. Nothing verified is handed out
// before.
func (s *session) save() error {
	if !s.dirty {
		return nil
	}
	out := s.next
	out.Targets = cacheable(s.next.Targets, s.c.limits.Cache)
	if err := s.c.cfg.Store.SaveTrust(out); err != nil {
		return fmt.Errorf("save trust state: %w", err)
	}
	s.dirty = false
	for _, e := range s.events {
		s.c.cfg.Emit(e.code, e.attrs...)
	}
	s.events = nil
	return nil
}

// cacheable leaves out the largest delegated roles until the rest fits. What is
// left out is verified all the same and fetched again next time.
func cacheable(roles map[string][]byte, limit int64) map[string][]byte {
	var sum int64
	for _, b := range roles {
		sum += int64(len(b))
	}
	if sum <= limit {
		return maps.Clone(roles)
	}
	out := maps.Clone(roles)
	names := slices.SortedFunc(maps.Keys(roles), func(a, b string) int {
		return cmp.Or(cmp.Compare(len(roles[b]), len(roles[a])), cmp.Compare(a, b))
	})
	for _, n := range names {
		if sum <= limit {
			break
		}
		if n != metadata.TARGETS {
			sum -= int64(len(out[n]))
			delete(out, n)
		}
	}
	return out
}

// clone copies what a session changes; the byte slices are never written to.
func (s State) clone() State {
	s.Roots = slices.Clone(s.Roots)
	s.Targets = maps.Clone(s.Targets)
	if s.Targets == nil {
		s.Targets = map[string][]byte{}
	}
	s.Floors.Roles = maps.Clone(s.Floors.Roles)
	return s
}

func same(a, b []byte) bool { return len(a) > 0 && bytes.Equal(a, b) }
