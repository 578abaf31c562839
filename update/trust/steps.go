// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"context"
	"crypto/sha256"
	"strconv"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// The steps of a refresh after the roots. Each first loads what is stored, as a
// floor for what comes, then fetches what the step before asks for. A stored
// file that does not verify counts as absent.

func (s *session) timestamp(ctx context.Context) error {
	if raw := s.next.Timestamp; raw != nil {
		if err := s.acceptTimestamp(raw); err != nil && !hasCode(err, "metadata-expired") {
			s.next.Timestamp = nil
			s.lost(timestampName, err)
		}
	}
	raw, err := s.fetch(ctx, timestampName, s.c.limits.Timestamp)
	if err != nil {
		return err
	}
	if !same(raw, s.next.Timestamp) {
		err = s.acceptTimestamp(raw)
		if err != nil && !is[*metadata.ErrEqualVersionNumber](err) {
			return err
		}
		if err == nil {
			s.next.Timestamp, s.dirty = raw, true
		}
		// The same version with other content: the one that came first stays.
	}
	ts := s.set.Timestamp.Signed
	if err := s.expiry(timestampName, ts.Expires); err != nil {
		return err
	}
	if s.next.Floors.Timestamp != ts.Version {
		s.next.Floors.Timestamp, s.dirty = ts.Version, true
	}
	return s.observe(ts.UnrecognizedFields, timestampName)
}

// lost says that a stored file does not verify. Under a new root that is as it
// should be: its key has been replaced. Otherwise it is damaged.
func (s *session) lost(what string, err error) {
	s.dirty = true
	if !s.moved {
		s.event("update.trust-damaged", "what", what, "error", err.Error())
	}
}

// acceptTimestamp makes raw the trusted timestamp or says why not. An expired
// one stays loaded, as a floor for the next.
func (s *session) acceptTimestamp(raw []byte) error {
	if err := scan(raw, metadata.TIMESTAMP); err != nil {
		return refuse("malformed-metadata", timestampName, err, "%v", err)
	}
	before := s.set.Timestamp
	verdict := guard(func() error { _, err := s.set.UpdateTimestamp(raw); return err })
	if s.set.Timestamp == before {
		return classify(timestampName, verdict)
	}
	err := guard(func() error {
		ts, f := s.set.Timestamp.Signed, s.next.Floors
		sn := ts.Meta["snapshot.json"]
		switch {
		case ts.Version < 1 || sn.Version < 1:
			return refuse("malformed-metadata", timestampName, nil, "version below 1")
		case ts.Version < f.Timestamp:
			return rollback(timestampName, ts.Version, f.Timestamp)
		case sn.Version < f.Snapshot:
			return rollback("snapshot.json", sn.Version, f.Snapshot)
		}
		return s.pinned(timestampName, "snapshot.json", sn)
	})
	if err != nil {
		s.set.Timestamp = before
		return classify(timestampName, err)
	}
	return classify(timestampName, verdict)
}

func rollback(what string, got, floor int64) error {
	return refuse("metadata-rollback", what, nil, "it is version %d, this device has trusted version %d", got, floor)
}

// pinned: in our repositories each file fixes the length and digest of those it
// lists, so nothing unsigned of the wrong shape gets as far as the parser.
func (s *session) pinned(what, name string, m *metadata.MetaFiles) error {
	if s.c.cfg.Interop {
		return nil
	}
	if m.Length <= 0 || len(m.Hashes["sha256"]) != sha256.Size {
		return refuse("malformed-metadata", what, nil, "it lists %s without length and sha256", name)
	}
	return nil
}

func (s *session) snapshot(ctx context.Context) error {
	const what = "snapshot.json"
	if raw := s.next.Snapshot; raw != nil {
		err := s.acceptSnapshot(raw, true)
		if err == nil {
			return s.adoptSnapshot()
		}
		if s.set.Snapshot == nil {
			s.next.Snapshot = nil
			s.lost(what, err)
		}
	}
	m := s.set.Timestamp.Signed.Meta[what]
	raw, err := s.listed(ctx, metadata.SNAPSHOT, m, s.c.limits.Snapshot)
	if err != nil {
		return err
	}
	if err := s.acceptSnapshot(raw, false); err != nil {
		return err
	}
	s.next.Snapshot, s.dirty = raw, true
	return s.adoptSnapshot()
}

// acceptSnapshot makes raw the trusted snapshot or says why not. A stored one
// that is expired or no longer current stays loaded, as a floor for the next.
func (s *session) acceptSnapshot(raw []byte, stored bool) error {
	const what = "snapshot.json"
	if err := scan(raw, metadata.SNAPSHOT); err != nil {
		return refuse("malformed-metadata", what, err, "%v", err)
	}
	before := s.set.Snapshot
	verdict := guard(func() error { _, err := s.set.UpdateSnapshot(raw, stored); return err })
	if s.set.Snapshot == before {
		return classify(what, verdict)
	}
	err := guard(func() error {
		sn, f := s.set.Snapshot.Signed, s.next.Floors
		// Its own version must be the one that the timestamp lists, which is not
		// below the floor.
		for role, floor := range f.Roles {
			m := sn.Meta[role+".json"]
			if m == nil {
				return refuse("metadata-rollback", what, nil, "it no longer lists %s.json", role)
			}
			if m.Version < floor {
				return rollback(role+".json", m.Version, floor)
			}
		}
		for name, m := range sn.Meta {
			if m.Version < 1 {
				return refuse("malformed-metadata", what, nil, "%s has a version below 1", name)
			}
			if err := s.pinned(what, name, m); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		s.set.Snapshot = before
		return classify(what, err)
	}
	if is[*metadata.ErrBadVersionNumber](verdict) {
		return refuse("wrong-version", what, verdict, "the timestamp lists another version")
	}
	return classify(what, verdict)
}

// adoptSnapshot raises the floors to what the accepted snapshot lists.
func (s *session) adoptSnapshot() error {
	sn, f := s.set.Snapshot.Signed, &s.next.Floors
	roles := make(map[string]int64, len(sn.Meta))
	for name, m := range sn.Meta {
		role, ok := cutJSON(name)
		if ok {
			roles[role] = m.Version
		}
	}
	if f.Snapshot != sn.Version || len(f.Roles) != len(roles) {
		f.Snapshot, f.Roles, s.dirty = sn.Version, roles, true
	}
	for role := range s.next.Targets {
		if _, ok := roles[role]; !ok {
			delete(s.next.Targets, role)
			s.dirty = true
		}
	}
	return s.observe(sn.UnrecognizedFields, "snapshot.json")
}

func cutJSON(name string) (role string, ok bool) {
	const suffix = ".json"
	if len(name) <= len(suffix) || name[len(name)-len(suffix):] != suffix {
		return "", false
	}
	return name[:len(name)-len(suffix)], true
}

func (s *session) targets(ctx context.Context) error {
	md, err := s.role(ctx, edge{metadata.ROOT, metadata.TARGETS})
	if err == nil && s.dirty {
		f := s.next.Floors
		s.event("update.verified", "root", f.Root, "timestamp", f.Timestamp, "snapshot", f.Snapshot, "targets", md.Signed.Version)
	}
	return err
}

// listed fetches a file that another one lists: no longer than listed, under
// the name of the listed version if the repository keeps old versions.
func (s *session) listed(ctx context.Context, role string, m *metadata.MetaFiles, limit int64) ([]byte, error) {
	name := escape(role) + ".json"
	if m.Length > limit {
		return nil, refuse("wrong-length", name, nil, "it is listed with %d bytes, the limit is %d", m.Length, limit)
	}
	if m.Length > 0 {
		limit = m.Length
	}
	if s.set.Root.Signed.ConsistentSnapshot {
		name = strconv.FormatInt(m.Version, 10) + "." + name
	}
	return s.fetch(ctx, name, limit)
}
