// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"
)

// seen is what has to be remembered to end an unchanged check at once.
type seen struct {
	root      int64
	timestamp [sha256.Size]byte
	until     time.Time // the earliest expiry of anything the last answer rests on
	versions  Versions
	issued    time.Time
}

// Refresh brings the metadata up to date: roots, timestamp, snapshot and the
// top targets role, in that order (specification 5.3 to 5.6). Roles below are
// fetched when [Trusted.Target] needs them.
//
// When the server's timestamp is the one of this client's last good refresh and
// nothing has expired since, that is all that is fetched and nothing is
// verified again.
//
// It returns a [update.Refusal] if a check says no, an error that is
// [update.ErrRetry] if the server or the network does not deliver, and another
// error if the store fails. What had been verified by then is saved even so.
func (c *Client) Refresh(ctx context.Context) (*Trusted, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.places.forgive()
	var t *Trusted
	err := c.asking(ctx, func() (err error) {
		t, err = c.refresh(ctx)
		return err
	})
	return t, err
}

// refresh is Refresh from one place.
func (c *Client) refresh(ctx context.Context) (*Trusted, error) {
	t, have, err := c.unchanged(ctx)
	if t != nil || err != nil {
		return t, err
	}
	c.seen = nil
	s, err := c.open()
	if err != nil {
		return nil, err
	}
	s.have = have
	err = s.update(ctx)
	if saveErr := s.save(); saveErr != nil {
		return nil, errors.Join(saveErr, err)
	}
	if err != nil {
		return nil, err
	}
	c.seen = s.seen()
	return &Trusted{c: c, s: s, seen: *c.seen}, nil
}

// answer is what the server said to one request.
type answer struct {
	raw []byte
	err error
}

// unchanged asks the two questions of the short path. If it cannot end the
// refresh it returns the answers, so that they are not asked for again.
func (c *Client) unchanged(ctx context.Context) (*Trusted, map[string]answer, error) {
	if c.seen == nil || !c.cfg.Now().Before(c.seen.until) {
		return nil, nil, nil
	}
	have := map[string]answer{}
	name := rootName(c.seen.root + 1)
	raw, err := c.metadata(ctx, name, c.limits.Root)
	have[name] = answer{raw, err}
	if !errors.Is(err, errAbsent) {
		return nil, have, err
	}
	raw, err = c.metadata(ctx, timestampName, c.limits.Timestamp)
	have[timestampName] = answer{raw, err}
	if err == nil && sha256.Sum256(raw) == c.seen.timestamp {
		return &Trusted{c: c, seen: *c.seen, unchanged: true}, nil, nil
	}
	return nil, have, err
}

const timestampName = "timestamp.json"

func rootName(version int64) string { return strconv.FormatInt(version, 10) + ".root.json" }

// session is one refresh: the trusted set as it grows, and the state that will
// be saved.
type session struct {
	c      *Client
	set    *trustedmetadata.TrustedMetadata
	next   State
	dirty  bool
	events []event
	have   map[string]answer
	edges  map[edge]bool   // verified (delegator, role) pairs
	fresh  map[string]bool // roles whose bytes one edge has verified in this session
	owner  map[string]string
	moved  bool // the root is not the one of the last session
}

type event struct {
	code  string
	attrs []slog.Attr
}

func (s *session) event(code string, kv ...any) {
	e := event{code: code}
	for i := 0; i+1 < len(kv); i += 2 {
		e.attrs = append(e.attrs, slog.Any(kv[i].(string), kv[i+1]))
	}
	s.events = append(s.events, e)
}

// open loads the state and replays the stored roots from the factory root. A
// root that does not follow from the one before ends the chain there; what is
// missing is fetched again, and the floor keeps an older root from being used.
func (c *Client) open() (*session, error) {
	state, err := c.cfg.Store.LoadTrust()
	if err != nil {
		return nil, fmt.Errorf("load trust state: %w", err)
	}
	s := &session{
		c:     c,
		set:   &trustedmetadata.TrustedMetadata{Root: c.factory, Targets: map[string]*metadata.Metadata[metadata.TargetsType]{}},
		next:  state.clone(),
		edges: map[edge]bool{}, fresh: map[string]bool{}, owner: map[string]string{},
	}
	s.set.RefTime = c.cfg.Now().UTC()
	if state.Issued.After(s.set.RefTime) {
		s.set.RefTime = state.Issued.UTC()
	}
	for i, raw := range state.Roots {
		root, err := readRoot(raw, s.set.Root)
		if err != nil && older(raw, s.set.Root.Signed.Version) {
			// A newer image brought a newer factory root. What is below is kept: an
			// older image may start again in the other slot.
			continue
		}
		if err != nil {
			s.next.Roots = s.next.Roots[:i]
			s.dirty = true
			s.event("update.trust-damaged", "what", "root", "error", err.Error())
			break
		}
		s.set.Root = root
	}
	return s, nil
}

// older reports whether raw claims to be a root of version v or below. The
// claim is not verified: all that follows from it is that raw is not used.
func older(raw []byte, v int64) bool {
	err := guard(func() error {
		md, err := metadata.Root().FromBytes(raw)
		if err == nil && md.Signed.Version > v {
			err = errMalformed
		}
		return err
	})
	return err == nil
}

func (s *session) update(ctx context.Context) error {
	for _, step := range []func(context.Context) error{s.roots, s.timestamp, s.snapshot, s.targets} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// fetch asks the server once per session and name.
func (s *session) fetch(ctx context.Context, name string, limit int64) ([]byte, error) {
	if a, ok := s.have[name]; ok {
		delete(s.have, name)
		return a.raw, a.err
	}
	return s.c.metadata(ctx, name, limit)
}

func (s *session) roots(ctx context.Context) error {
	from := s.set.Root.Signed.Version
	for range s.c.limits.Rotations {
		name := rootName(s.set.Root.Signed.Version + 1)
		raw, err := s.fetch(ctx, name, s.c.limits.Root)
		if errors.Is(err, errAbsent) {
			break
		}
		if err != nil {
			return err
		}
		root, err := readRoot(raw, s.set.Root)
		if err != nil {
			return err
		}
		total := int64(len(raw))
		for _, r := range s.next.Roots {
			total += int64(len(r))
		}
		if total > s.c.limits.RootChain {
			return refuse("wrong-length", name, nil, "with it the roots to keep are %d bytes, the limit is %d", total, s.c.limits.RootChain)
		}
		s.set.Root = root
		s.next.Roots = append(s.next.Roots, raw)
		s.dirty = true
	}
	if to := s.set.Root.Signed.Version; to != from {
		s.moved = true
		s.event("update.root-rotated", "from", from, "to", to)
	}
	if err := s.adoptRoot(); err != nil {
		return err
	}
	return s.expiry("root.json", s.set.Root.Signed.Expires)
}

// expiry refuses what has expired, and says both times: a device whose clock is
// wrong must be told apart from a server that is frozen.
func (s *session) expiry(what string, expires time.Time) error {
	if !s.set.RefTime.After(expires) {
		return nil
	}
	return refuse("metadata-expired", what, nil, "it expired on %s and this device's time is %s",
		expires.UTC().Format(time.RFC3339), s.set.RefTime.UTC().Format(time.RFC3339))
}

func (s *session) seen() *seen {
	v := &seen{
		root: s.set.Root.Signed.Version, timestamp: sha256.Sum256(s.next.Timestamp), issued: s.next.Issued,
		versions: Versions{s.set.Root.Signed.Version, s.set.Timestamp.Signed.Version, s.set.Snapshot.Signed.Version,
			s.set.Targets[metadata.TARGETS].Signed.Version},
		until: s.set.Root.Signed.Expires,
	}
	for _, t := range []time.Time{s.set.Timestamp.Signed.Expires, s.set.Snapshot.Signed.Expires} {
		v.until = earlier(v.until, t)
	}
	for _, r := range s.set.Targets {
		v.until = earlier(v.until, r.Signed.Expires)
	}
	return v
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
