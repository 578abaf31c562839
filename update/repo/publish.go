// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/backstay/backstay/update"
)

// Published says what a Publish did.
type Published struct {
	Dir       string    `json:"dir"`
	Changed   bool      `json:"changed"` // false: everything was there and fresh
	Root      int64     `json:"root"`
	Targets   int64     `json:"targets"`
	Snapshot  int64     `json:"snapshot"`
	Timestamp int64     `json:"timestamp"`
	Expires   time.Time `json:"expires"` // of the timestamp: without another Publish by then, devices refuse updates
	Next      time.Time `json:"next"`    // when to call Publish again to keep it fresh
}

// Publish writes the repository to its publish directory, for any static file
// server: metadata/ and targets/ with digests in the names. It signs a new
// snapshot and timestamp if something changed or a third of their life has
// passed, so calling it every hour is how a server keeps a repository fresh.
//
// Before the first byte is written a device is played against the result, from
// the factory root and from what is published now, and what it refuses is not
// published (code simulation). Files are written in the order in which a device
// may see them: images, delegated roles, targets, roots, snapshot, and the
// timestamp, which makes the rest count, last. Each is durable before the next
// kind, so a power cut leaves the old state or the new one in force. Nothing is
// ever deleted.
func (r *Repo) Publish(ctx context.Context) (Published, error) {
	dir := r.PublishDir()
	s, err := r.build()
	if err != nil {
		return Published{}, fmt.Errorf("publish: %w", err)
	}
	if err := r.checkHistory(dir, s); err != nil {
		return Published{}, fmt.Errorf("publish: %w", err)
	}
	if err := r.simulate(ctx, dir, s); err != nil {
		return Published{}, fmt.Errorf("publish: %w", err)
	}
	// From here on the versions are used, even if writing fails half way.
	for _, d := range s.fresh {
		if err := r.install(d, "signed"); err != nil {
			return Published{}, fmt.Errorf("publish: %w", err)
		}
	}
	changed, err := s.write(ctx, dir)
	if err != nil {
		return Published{}, fmt.Errorf("publish: %w", err)
	}
	p := Published{Dir: dir, Changed: changed, Root: s.root.version(), Targets: s.targets.version(), Snapshot: s.snapshot.version(),
		Timestamp: s.timestamp.version(), Expires: s.timestamp.expires(), Next: r.refreshAt(s)}
	if changed {
		return p, r.record(Action{Action: "published", Role: roleTimestamp, Version: p.Timestamp,
			Detail: fmt.Sprintf("root %d, targets %d, snapshot %d", p.Root, p.Targets, p.Snapshot)})
	}
	return p, nil
}

// build assembles the tree and signs what the online keys sign.
func (r *Repo) build() (*site, error) {
	s := &site{files: map[string]blob{}}
	var err error
	if s.root, err = r.inForce(roleRoot); err != nil {
		return nil, err
	}
	if s.targets, err = r.inForce(roleTargets); err != nil {
		return nil, err
	}
	if err := r.refreshAssign(); err != nil {
		return nil, err
	}
	if err := r.addRoots(s); err != nil {
		return nil, err
	}
	meta := map[string]*metadata.MetaFiles{}
	s.roles = delegated(s.targets)
	for _, role := range append([]string{roleTargets}, s.roles...) {
		d, err := r.inForce(role)
		if err != nil {
			return nil, err
		}
		b, err := s.addDocument(d)
		if err != nil {
			return nil, err
		}
		meta[role+".json"] = metaFile(d.version(), b)
		if err := r.addTargets(s, d); err != nil {
			return nil, fmt.Errorf("%s: %w", role, err)
		}
	}
	if s.snapshot, err = r.online(s, roleSnapshot, meta); err != nil {
		return nil, err
	}
	b, err := s.addDocument(s.snapshot)
	if err != nil {
		return nil, err
	}
	meta = map[string]*metadata.MetaFiles{"snapshot.json": metaFile(s.snapshot.version(), b)}
	if s.timestamp, err = r.online(s, roleTimestamp, meta); err != nil {
		return nil, err
	}
	_, err = s.addDocument(s.timestamp)
	return s, err
}

// inForce returns the newest document of an offline role, which must be signed
// and not expired.
func (r *Repo) inForce(role string) (*document, error) {
	d, err := r.current(role)
	if errors.Is(err, errAbsent) {
		why := "it has no signed document yet"
		if p, perr := r.Proposal(role); perr == nil {
			why += ": " + waiting(p)
		}
		return nil, refuse("unsigned", "role "+role, "%s", why)
	}
	if err != nil {
		return nil, err
	}
	if !d.expires().After(r.now()) {
		return nil, refuse("metadata-expired", "role "+role, "version %d expired on %s; its keys must sign a new one", d.version(), formatTime(d.expires()))
	}
	list, err := r.authorities(d)
	if err != nil {
		return nil, err
	}
	for _, a := range list {
		if err := a.verify(d); err != nil {
			return nil, refuse("unsigned", "role "+role, "version %d is not signed by the keys that %s names; its new keys must sign", d.version(), a.name)
		}
	}
	return d, nil
}

// addRoots adds every root ever: a device that has slept for years climbs them
// one by one.
func (r *Repo) addRoots(s *site) error {
	list, err := versions(r.metadataDir(), roleRoot)
	if err != nil {
		return err
	}
	for i, v := range list {
		if v != int64(i+1) {
			return refuse("root-missing", "roots", "%s is missing; without it devices cannot reach root %d", fileName(roleRoot, int64(i+1)), list[len(list)-1])
		}
		b, err := os.ReadFile(filepath.Join(r.metadataDir(), fileName(roleRoot, v)))
		if err != nil {
			return err
		}
		s.files["metadata/"+fileName(roleRoot, v)] = bytesBlob(b)
	}
	return nil
}

// addTargets adds the files a role vouches for.
func (r *Repo) addTargets(s *site, d *document) error {
	for name, t := range d.targets.Signed.Targets {
		if t == nil || len(t.Hashes["sha256"]) != 32 {
			return fmt.Errorf("%s: not exactly one SHA-256", name)
		}
		b := blob{digest: [32]byte(t.Hashes["sha256"]), length: t.Length}
		if d.role == roleAssign {
			product := strings.TrimSuffix(path.Base(name), ".json")
			content, err := r.readAssignment(product, t)
			if err != nil {
				return err
			}
			b.bytes = content
		} else {
			if err := r.imageThere(b.digest, b.length); err != nil {
				return err
			}
			b.file = r.imageFile(b.digest)
		}
		s.files["targets/"+path.Dir(name)+"/"+hexDigest(b.digest)+"."+path.Base(name)] = b
	}
	return nil
}

// online returns the snapshot or timestamp for the given content: the last one
// if it says the same, verifies and is young, else a new one.
func (r *Repo) online(s *site, role string, meta map[string]*metadata.MetaFiles) (*document, error) {
	d, err := r.current(role)
	next := int64(1)
	switch {
	case err == nil:
		next = d.version() + 1
		if d.issued().After(r.now().Add(time.Minute)) {
			return nil, refuse("clock", "sign "+role, "version %d was signed on %s, which this machine's clock has not reached", d.version(), formatTime(d.issued()))
		}
		if sameMeta(d.snapshotMeta(), meta) && !r.dueAt(d).Before(r.now()) && authorityOf(s.root, role).verify(d) == nil {
			return d, nil
		}
	case !errors.Is(err, errAbsent):
		return nil, err
	}
	if next > maxVersion {
		return nil, refuse("version-range", "sign "+role, "there is no version after %d", next-1)
	}
	d = newDocument(role)
	d.setMeta(meta)
	life := r.policy.Expiry.of(role)
	if role == roleTimestamp && r.brief > 0 {
		life = min(life, r.brief)
	}
	d.stamp(next, r.now(), life)
	a := authorityOf(s.root, role)
	have := 0
	for _, id := range a.set.ids {
		key, err := r.openKey(r.policy.Keys[id])
		if errors.Is(err, ErrNoKey) || r.policy.Keys[id] == "" {
			continue
		}
		if err != nil {
			return nil, err
		}
		sig, err := signDocument(d, key)
		if err != nil {
			return nil, err
		}
		if err := d.addDetached(sig); err != nil {
			return nil, err
		}
		have++
	}
	if err := a.verify(d); err != nil {
		return nil, refuse("threshold", fmt.Sprintf("sign %s %d", role, next), "%d of %d keys of %s are on this machine", have, a.set.threshold, a.name)
	}
	s.fresh = append(s.fresh, d)
	return d, nil
}

// refreshAssign signs the assign role again when a third of its life has
// passed. Without its key here it stays as it is until it expires.
func (r *Repo) refreshAssign() error {
	d, err := r.current(roleAssign)
	if err != nil || r.dueAt(d).After(r.now()) {
		return nil // inForce says what is wrong with it
	}
	if _, err := newest(r.stagedDir(), roleAssign); err == nil {
		return nil // an edit waits for signatures, which staging again would drop
	}
	if d, err = d.clone(); err != nil {
		return err
	}
	if err := r.signOnline(d, "new expiry"); err != nil && !isCode(err, "threshold") {
		return err
	}
	return nil
}

// dueAt is when a third of a document's life has passed: two tries are left
// before anybody notices.
func (r *Repo) dueAt(d *document) time.Time {
	issued := d.issued()
	return issued.Add(d.expires().Sub(issued) / 3)
}

// refreshAt is the earliest dueAt of what the online keys sign.
func (r *Repo) refreshAt(s *site) time.Time {
	at := r.dueAt(s.timestamp)
	if t := r.dueAt(s.snapshot); t.Before(at) {
		at = t
	}
	if d, err := r.current(roleAssign); err == nil && r.dueAt(d).Before(at) {
		at = r.dueAt(d)
	}
	return at
}

// checkHistory refuses to go back behind what is published: a device that has
// seen it would refuse, and a version must not come out twice.
func (r *Repo) checkHistory(dir string, s *site) error {
	for name, b := range s.files {
		if b.file != "" || path.Base(name) == "timestamp.json" {
			continue
		}
		old, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(name)))
		if err == nil && !bytes.Equal(old, b.bytes) {
			return refuse("version-reused", name, "another file was published under this name; this repository is not the one that did")
		}
	}
	out := filepath.Join(dir, "metadata")
	for _, d := range []*document{s.root, s.targets, s.snapshot} {
		list, err := versions(out, d.role)
		if err != nil {
			return err
		}
		if n := len(list); n > 0 && list[n-1] > d.version() {
			return refuse("behind", d.role, "version %d is published, this repository has %d; it is an old copy", list[n-1], d.version())
		}
	}
	old, err := load(out, roleTimestamp, 0)
	if errors.Is(err, errAbsent) {
		return nil
	}
	if err != nil {
		return err
	}
	if old.version() > s.timestamp.version() {
		return refuse("behind", roleTimestamp, "version %d is published, this repository has %d; it is an old copy", old.version(), s.timestamp.version())
	}
	return nil
}

func (r *Repo) productsOf(s *site) []string {
	var list []string
	for _, role := range s.roles {
		if p, ok := strings.CutPrefix(role, productRole("")); ok && update.IsProduct(p) {
			list = append(list, p)
		}
	}
	return list
}
