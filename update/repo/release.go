// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/backstay/backstay/update"
)

// NewRelease is a release to add. The image's length and digest are measured.
type NewRelease struct {
	Product    string
	Version    string
	Compatible []string // hardware names
	Counter    uint64   // zero: one more than any before
	Floor      uint64   // zero: the highest of any before
	Class      string   // "security" or "feature"; "feature" if empty
	Component  string   // "rootfs" if empty
	Advisories []string
	Notes      string // what people should know, plain text
	SBOM       string // "sha256:" and hex digits
	SupportEnd time.Time
	MinAgent   string
	Critical   []string // names in the signed properties that a device must understand

	DeltaFrom  []string // versions to make a delta from
	NoCompress bool     // make no compressed image

	// Reissue allows a release counter that is not above every earlier one. The
	// security floor still holds.
	Reissue bool
}

// Release is a release in the repository.
type Release struct {
	Product    string    `json:"product"`
	Version    string    `json:"version"`
	Path       string    `json:"path"`
	SHA256     string    `json:"sha256"`
	Length     int64     `json:"length"`
	Counter    uint64    `json:"counter"`
	Floor      uint64    `json:"floor"`
	Class      string    `json:"class"`
	Compatible []string  `json:"compatible"`
	SupportEnd time.Time `json:"support_end,omitzero"`
	Staged     bool      `json:"staged"` // not signed yet
	Payloads   []Payload `json:"payloads,omitempty"`
}

// customFile is the signed form of a release's properties, see
// update.ParseCustom.
type customFile struct {
	Format     int       `json:"backstay"`
	Product    string    `json:"product"`
	Compatible []string  `json:"compatible"`
	Version    string    `json:"version"`
	Counter    uint64    `json:"counter"`
	Floor      uint64    `json:"floor"`
	Kind       string    `json:"kind"`
	Component  string    `json:"component"`
	Class      string    `json:"class"`
	Advisories []string  `json:"advisories,omitempty"`
	Notes      string    `json:"notes,omitempty"`
	SBOM       string    `json:"sbom,omitempty"`
	SupportEnd time.Time `json:"support_end,omitzero"`
	MinAgent   string    `json:"min_agent,omitempty"`
	Critical   []string  `json:"critical,omitempty"`

	Payloads []payloadFile `json:"payloads,omitempty"`
}

// Add stores an image and stages it as a release of its product. The image is
// read once and never held in memory.
//
// A version that was ever released keeps its image: other content under the
// same version is refused (version-reused), because a device that has the old
// metadata and one that has the new would run different things by one name. A
// floor below an earlier one is refused (floor-lowered), and so is a counter
// below the floor (below-floor), since no up-to-date device would take it.
func (r *Repo) Add(ctx context.Context, n NewRelease, image io.Reader) (Release, error) {
	role := productRole(n.Product)
	d, err := r.editable(role)
	if errors.Is(err, errAbsent) {
		return Release{}, refuse("unknown-product", "add release", "the repository has no product %q", n.Product)
	}
	if err != nil {
		return Release{}, err
	}
	past, err := r.history(n.Product)
	if err != nil {
		return Release{}, err
	}
	if _, _, err := n.properties(past, nil); err != nil {
		return Release{}, err // before the image is read
	}
	path := update.ImagePath(n.Product, n.Version)
	entry := &metadata.TargetFiles{Path: path}
	err = importImage(ctx, r.imagesDir(), image, func(digest [32]byte, length int64) error {
		entry.Length, entry.Hashes = length, metadata.Hashes{"sha256": digest[:]}
		what := "add release " + n.Version
		old, again := past.images[path]
		switch {
		case length == 0:
			return refuse("empty-image", what, "the image has no bytes")
		case again && old.digest != digest:
			return refuse("version-reused", what, "this version was released as sha256 %.12s, this image is %.12s; use a new version",
				hexDigest(old.digest), hexDigest(digest))
		}
		return nil
	})
	if err != nil {
		return Release{}, err
	}
	list, err := r.payloads(ctx, n, past, [32]byte(entry.Hashes["sha256"]))
	if err != nil {
		return Release{}, err
	}
	custom, c, err := n.properties(past, list)
	if err != nil {
		return Release{}, err
	}
	raw := json.RawMessage(custom)
	entry.Custom = &raw
	if sameTarget(d.targets.Signed.Targets[path], entry) {
		return Release{}, refuse("exists", "add release "+n.Version, "it is in the repository already, unchanged")
	}
	dropPayloads(d, path)
	if err := addPayloads(d, list); err != nil {
		return Release{}, err
	}
	d.targets.Signed.Targets[path] = entry
	if err := r.stage(d, "release "+n.Version); err != nil {
		return Release{}, err
	}
	return releaseOf(path, entry, c, true, past.versions()), nil
}

// properties fills in what was left open and checks the result with the
// device's own parser.
func (n NewRelease) properties(past history, payloads []payloadFile) ([]byte, update.Custom, error) {
	what := "add release " + n.Version
	path := update.ImagePath(n.Product, n.Version)
	if n.Counter == 0 {
		n.Counter = past.counter + 1
		if old, ok := past.images[path]; ok {
			n.Counter = old.counter
		}
	}
	if n.Floor == 0 {
		n.Floor = past.floor
	}
	if n.Class == "" {
		n.Class = "feature"
	}
	if n.Component == "" {
		n.Component = update.ComponentRootfs
	}
	old, again := past.images[path]
	switch {
	case n.Counter < past.floor:
		return nil, update.Custom{}, refuse("below-floor", what, "release counter %d is below the security floor %d of an earlier release", n.Counter, past.floor)
	case n.Floor < past.floor:
		return nil, update.Custom{}, refuse("floor-lowered", what, "security floor %d is below %d of an earlier release; a floor never goes down", n.Floor, past.floor)
	case again && n.Counter != old.counter:
		return nil, update.Custom{}, refuse("counter-changed", what, "this version was released with counter %d", old.counter)
	case n.Counter <= past.counter && !n.Reissue && !again:
		return nil, update.Custom{}, refuse("counter-reused", what, "release counter %d is not above %d; reissue says that this is meant", n.Counter, past.counter)
	case n.Class != "security" && n.Class != "feature":
		return nil, update.Custom{}, refuse("bad-class", what, "class is %q, it must be security or feature", n.Class)
	}
	b, err := json.Marshal(customFile{
		Format: 1, Product: n.Product, Compatible: n.Compatible, Version: n.Version, Counter: n.Counter, Floor: n.Floor,
		Kind: update.KindFull, Component: n.Component, Class: n.Class, Advisories: n.Advisories, Notes: n.Notes, SBOM: n.SBOM,
		SupportEnd: n.SupportEnd.UTC().Truncate(time.Second), MinAgent: n.MinAgent, Critical: n.Critical,
		Payloads: payloads,
	})
	if err != nil {
		return nil, update.Custom{}, err
	}
	c, err := update.ParseCustom(b)
	return b, c, err
}

// history is everything a product has ever released, in force or staged.
type history struct {
	images  map[string]pastImage // by target path
	counter uint64               // highest release counter
	floor   uint64               // highest security floor
}

type pastImage struct {
	version string
	digest  [32]byte
	counter uint64
}

// versions names images by digest.
func (h history) versions() map[[32]byte]string {
	names := map[[32]byte]string{}
	for _, i := range h.images {
		names[i.digest] = i.version
	}
	return names
}

// history reads every version of a product's document. Withdrawn releases
// count: devices may run them.
func (r *Repo) history(product string) (history, error) {
	h := history{images: map[string]pastImage{}}
	role := productRole(product)
	for _, dir := range []string{r.metadataDir(), r.stagedDir()} {
		list, err := versions(dir, role)
		if err != nil {
			return h, err
		}
		for _, v := range list {
			d, err := load(dir, role, v)
			if err != nil {
				return h, err
			}
			for path, t := range d.targets.Signed.Targets {
				if isPayload(path) {
					continue
				}
				c, err := parseTarget(t)
				if err != nil {
					return h, fmt.Errorf("read %s: %s: %w", fileName(role, v), path, err)
				}
				h.images[path] = pastImage{c.Version, [32]byte(t.Hashes["sha256"]), c.Counter}
				h.counter = max(h.counter, c.Counter)
				h.floor = max(h.floor, c.Floor)
			}
		}
	}
	return h, nil
}

// parseTarget reads the properties of a target of ours.
func parseTarget(t *metadata.TargetFiles) (update.Custom, error) {
	if t == nil || len(t.Hashes) != 1 || len(t.Hashes["sha256"]) != 32 || t.Custom == nil {
		return update.Custom{}, errors.New("not a release: it has no properties, or not exactly one SHA-256")
	}
	return update.ParseCustom(*t.Custom)
}

func releaseOf(path string, t *metadata.TargetFiles, c update.Custom, staged bool, versions map[[32]byte]string) Release {
	return Release{Product: c.Product, Version: c.Version, Path: path, SHA256: t.Hashes["sha256"].String(), Length: t.Length,
		Counter: c.Counter, Floor: c.Floor, Class: c.Class, Compatible: c.Compatible, SupportEnd: c.SupportEnd, Staged: staged,
		Payloads: payloadsOf(c, versions)}
}

// Releases lists the releases of a product by release counter: those in force,
// and those that are staged only.
func (r *Repo) Releases(product string) ([]Release, error) {
	role := productRole(product)
	list := []Release{}
	past, err := r.history(product)
	if err != nil {
		return nil, err
	}
	names := past.versions()
	seen := map[string]bool{}
	for _, dir := range []string{r.metadataDir(), r.stagedDir()} {
		d, err := newest(dir, role)
		if errors.Is(err, errAbsent) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for path, t := range d.targets.Signed.Targets {
			if isPayload(path) {
				continue
			}
			c, err := parseTarget(t)
			if err != nil {
				return nil, fmt.Errorf("read %s: %s: %w", role, path, err)
			}
			if !seen[path] {
				seen[path] = true
				list = append(list, releaseOf(path, t, c, dir == r.stagedDir(), names))
			}
		}
	}
	slices.SortFunc(list, func(a, b Release) int {
		if a.Counter != b.Counter {
			if a.Counter < b.Counter {
				return -1
			}
			return 1
		}
		return update.CompareVersions(a.Version, b.Version)
	})
	return list, nil
}

// Withdraw stages the removal of a release from its product's role and ends its
// rollout. Devices that run it keep it; no other device gets it once the new
// document is published. Its version stays taken.
func (r *Repo) Withdraw(product, version string) error {
	path := update.ImagePath(product, version)
	role := productRole(product)
	d, err := r.editable(role)
	if err != nil && !errors.Is(err, errAbsent) {
		return err
	}
	if err != nil || d.targets.Signed.Targets[path] == nil {
		return refuse("unknown-release", "withdraw release", "%s has no release %s", product, version)
	}
	// The rollout goes first: an assignment of a release that is gone would make
	// devices report a disagreement of the two authorities.
	if _, err := r.StopRollout(product, version); err != nil && !isCode(err, "no-rollout") {
		return err
	}
	dropPayloads(d, path)
	delete(d.targets.Signed.Targets, path)
	return r.stage(d, "withdraw "+version)
}

func isCode(err error, code string) bool {
	r, ok := errors.AsType[*update.Refusal](err)
	return ok && r.Code == code
}

// compact removes the white space of JSON, which go-tuf's encoder adds and the
// signature ignores.
func compact(b []byte) []byte {
	var out bytes.Buffer
	if err := json.Compact(&out, b); err != nil {
		return b
	}
	return out.Bytes()
}

// imageThere checks that an image is stored with its full length. Its digest is
// checked when it is copied and by Verify.
func (r *Repo) imageThere(digest [32]byte, length int64) error {
	fi, err := os.Stat(r.imageFile(digest))
	if err != nil {
		return err
	}
	if fi.Size() != length {
		return fmt.Errorf("%s has %d bytes, signed are %d", r.imageFile(digest), fi.Size(), length)
	}
	return nil
}
