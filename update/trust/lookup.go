// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// Versions are the versions of the top roles.
type Versions struct{ Root, Timestamp, Snapshot, Targets int64 }

// Trusted is the outcome of one refresh. It is safe for concurrent use, holds
// the parsed metadata (about 24 times its size in bytes) and is meant to be
// dropped when the check is over.
type Trusted struct {
	c         *Client
	s         *session // nil until needed if unchanged
	seen      seen
	unchanged bool
}

// Versions returns the versions of the top roles.
func (t *Trusted) Versions() Versions { return t.seen.versions }

// Unchanged reports whether this refresh ended at the timestamp: every answer
// is the same as after the one before.
func (t *Trusted) Unchanged() bool { return t.unchanged }

// Issued returns the newest signed time in the metadata, a lower bound of the
// present; zero if there is none. It never passes the expiry of the root.
func (t *Trusted) Issued() time.Time { return t.seen.issued }

// Expires returns when the first of the files this rests on expires.
func (t *Trusted) Expires() time.Time { return t.seen.until }

// TargetInfo is what a role signed for about one target.
type TargetInfo struct {
	Path   string
	Length int64           // bytes
	SHA256 [32]byte        // zero only outside backstay's own repositories
	Custom json.RawMessage // as signed, nil if there is none
	Role   string          // the role that vouches for it

	hashes metadata.Hashes
	plain  bool // the file's name has no digest in front
}

// Target finds what the roles say about a target, walking the delegations from
// the top in order (specification 5.6.7). Every step from delegator to role is
// verified by the keys of that delegator, whatever another delegator says about
// the same role. It fetches and saves the roles on the way that it does not
// have.
//
// No role knowing the target is a refusal with code unknown-target.
func (t *Trusted) Target(ctx context.Context, path string) (TargetInfo, error) {
	t.c.mu.Lock()
	defer t.c.mu.Unlock()
	if err := t.resume(); err != nil {
		return TargetInfo{}, err
	}
	if err := t.s.checkPath(path); err != nil {
		return TargetInfo{}, err
	}
	var info TargetInfo
	err := t.c.asking(ctx, func() (err error) {
		info, err = t.s.walk(ctx, path)
		return err
	})
	if saveErr := t.s.save(); saveErr != nil {
		return TargetInfo{}, errors.Join(saveErr, err)
	}
	if err != nil {
		return TargetInfo{}, err
	}
	t.seen.until = t.s.seen().until
	if t.c.seen != nil && t.c.seen.timestamp == t.seen.timestamp {
		t.c.seen.until = earlier(t.c.seen.until, t.seen.until)
	}
	return info, nil
}

// resume verifies the stored metadata again, without network, for an answer
// that ended at an unchanged timestamp.
func (t *Trusted) resume() error {
	if t.s != nil {
		return nil
	}
	s, err := t.c.open()
	if err != nil {
		return err
	}
	if s.set.Root.Signed.Version != t.seen.root || sha256.Sum256(s.next.Timestamp) != t.seen.timestamp {
		err = errors.New("it is not what the last refresh saved")
	}
	for _, step := range []func() error{
		func() error { return s.acceptTimestamp(s.next.Timestamp) },
		func() error { return s.acceptSnapshot(s.next.Snapshot, true) },
		func() error {
			return s.acceptRole(s.next.Targets[metadata.TARGETS], edge{metadata.ROOT, metadata.TARGETS})
		},
	} {
		if err == nil {
			err = step()
		}
	}
	if err != nil {
		// The next refresh takes the long way and repairs it.
		t.c.seen = nil
		return retry(fmt.Errorf("use stored metadata: %v", err))
	}
	t.s = s
	return nil
}

// edge is one delegation: role as seen from delegator.
type edge struct{ delegator, role string }

func (s *session) walk(ctx context.Context, path string) (TargetInfo, error) {
	todo := []edge{{metadata.ROOT, metadata.TARGETS}}
	visited := map[string]bool{}
	for len(todo) > 0 && len(visited) <= s.c.limits.Roles {
		e := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if visited[e.role] {
			continue
		}
		md, err := s.role(ctx, e)
		if err != nil {
			return TargetInfo{}, err
		}
		if f, ok := md.Signed.Targets[path]; ok {
			return s.info(path, e.role, f)
		}
		visited[e.role] = true
		if md.Signed.Delegations == nil {
			continue
		}
		var below []edge
		err = guard(func() error {
			for _, r := range md.Signed.Delegations.GetRolesForTarget(path) {
				below = append(below, edge{e.role, r.Name})
				if r.Terminating {
					todo = nil
					break
				}
			}
			return nil
		})
		if err != nil {
			return TargetInfo{}, classify(e.role+".json", err)
		}
		slices.Reverse(below)
		todo = append(todo, below...)
	}
	if len(todo) > 0 {
		return TargetInfo{}, refuse("unknown-target", path, nil, "not found in the first %d roles", s.c.limits.Roles)
	}
	return TargetInfo{}, refuse("unknown-target", path, nil, "no role lists it")
}

func (s *session) info(path, role string, f *metadata.TargetFiles) (TargetInfo, error) {
	t := TargetInfo{Path: path, Length: f.Length, Role: role, hashes: f.Hashes, plain: !s.set.Root.Signed.ConsistentSnapshot}
	if f.Custom != nil {
		t.Custom = *f.Custom
	}
	sum, ok := f.Hashes["sha256"]
	if ok && len(sum) == sha256.Size {
		t.SHA256 = [32]byte(sum)
	} else if ok {
		return t, refuse("malformed-metadata", path, nil, "its sha256 is %d bytes long", len(sum))
	}
	switch {
	case f.Length < 0:
		return t, refuse("malformed-metadata", path, nil, "its length is negative")
	case s.c.cfg.Interop:
	case !ok || len(f.Hashes) != 1:
		return t, refuse("malformed-metadata", path, nil, "it must have one digest, a sha256")
	case t.plain:
		return t, refuse("malformed-metadata", "root.json", nil, "consistent snapshots are switched off")
	}
	return t, nil
}

// role returns the metadata of a role, verified by the keys of the delegator.
func (s *session) role(ctx context.Context, e edge) (*metadata.Metadata[metadata.TargetsType], error) {
	if s.edges[e] {
		return s.set.Targets[e.role], nil
	}
	what := escape(e.role) + ".json"
	if raw := s.next.Targets[e.role]; raw != nil {
		err := s.acceptRole(raw, e)
		if err == nil {
			return s.set.Targets[e.role], nil
		}
		if s.fresh[e.role] {
			// These are the bytes the snapshot lists; fetching them again would not
			// make this delegator's keys sign them.
			return nil, err
		}
		delete(s.next.Targets, e.role)
		s.dirty = true
	}
	m := s.set.Snapshot.Signed.Meta[e.role+".json"]
	if m == nil {
		return nil, refuse("malformed-metadata", what, nil, "it is delegated to, but the snapshot does not list it")
	}
	raw, err := s.listed(ctx, e.role, m, s.c.limits.Role)
	if err != nil {
		return nil, err
	}
	if err := s.acceptRole(raw, e); err != nil {
		return nil, err
	}
	s.next.Targets[e.role], s.dirty = raw, true
	return s.set.Targets[e.role], nil
}

// acceptRole makes raw the trusted metadata of a role or says why not.
func (s *session) acceptRole(raw []byte, e edge) error {
	what := escape(e.role) + ".json"
	if !s.c.cfg.Interop {
		if first, ok := s.owner[e.role]; ok && first != e.delegator {
			return refuse("malformed-metadata", what, nil, "both %s and %s delegate to it", first, e.delegator)
		}
	}
	if err := scan(raw, metadata.TARGETS); err != nil {
		return refuse("malformed-metadata", what, err, "%v", err)
	}
	before := s.set.Targets[e.role]
	err := guard(func() error {
		md, err := s.set.UpdateDelegatedTargets(raw, e.role, e.delegator)
		if err != nil {
			return err
		}
		if err := s.expiry(what, md.Signed.Expires); err != nil {
			return err
		}
		if d := md.Signed.Delegations; d != nil {
			if err := s.checkDelegations(what, d); err != nil {
				return err
			}
			thin(d)
		}
		return nil
	})
	if is[*metadata.ErrBadVersionNumber](err) {
		err = refuse("wrong-version", what, err, "the snapshot lists another version")
	}
	if err != nil {
		if before == nil {
			delete(s.set.Targets, e.role)
		} else {
			s.set.Targets[e.role] = before
		}
		return classify(what, err)
	}
	s.edges[e], s.fresh[e.role], s.owner[e.role] = true, true, e.delegator
	return nil
}
