// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/backstay/backstay/update"
)

// Rollout says which devices should run a release.
type Rollout struct {
	Product   string
	Version   string
	From, To  uint32    // cohort in percent, To exclusive; both zero is everybody
	Devices   []string  // if not empty, only these
	NotBefore time.Time // zero: at once
	NotAfter  time.Time // zero: no end
	Downgrade bool      // may replace a newer version on purpose
	Deadline  time.Time // of a security release: when devices stop waiting for windows and people; zero: never
}

// StartRollout puts a release in front of its product's rollouts, or changes
// the cohort, devices and window of one that runs, and signs the statement with
// the online assign key. It is in force once published. The release must have
// been accepted: devices refuse what the product role has not signed.
func (r *Repo) StartRollout(ro Rollout) (update.Assignment, error) {
	what := "start rollout of " + ro.Version
	if ro.From == 0 && ro.To == 0 {
		ro.To = 100
	}
	path := update.ImagePath(ro.Product, ro.Version)
	d, err := r.current(productRole(ro.Product))
	if errors.Is(err, errAbsent) {
		return update.Assignment{}, refuse("unknown-product", what, "the repository has no signed product %q", ro.Product)
	}
	if err != nil {
		return update.Assignment{}, err
	}
	t := d.targets.Signed.Targets[path]
	if t == nil {
		return update.Assignment{}, refuse("unknown-release", what, "%s has no signed release %s", ro.Product, ro.Version)
	}
	c, err := parseTarget(t)
	if err != nil {
		return update.Assignment{}, err
	}
	if !ro.Deadline.IsZero() && c.Class != update.ClassSecurity {
		return update.Assignment{}, refuse("deadline", what, "it is of class %s; only a security release may have a deadline", c.Class)
	}
	entry := update.Assigned{
		Path: path, SHA256: [32]byte(t.Hashes["sha256"]), Length: t.Length, Counter: c.Counter, From: ro.From, To: ro.To,
		Devices: ro.Devices, NotBefore: ro.NotBefore, NotAfter: ro.NotAfter, Downgrade: ro.Downgrade, Deadline: ro.Deadline,
	}
	past, err := r.history(ro.Product)
	if err != nil {
		return update.Assignment{}, err
	}
	return r.editAssignment(ro.Product, "start "+ro.Version, func(a *update.Assignment) error {
		if err := order(a, ro, past); err != nil {
			return err
		}
		if i := indexOf(a, path); i >= 0 {
			entry.Paused = a.Entries[i].Paused
			a.Entries[i] = entry
			return nil
		}
		a.Entries = slices.Insert(a.Entries, 0, entry)
		return nil
	})
}

// order refuses a rollout of something older than what is rolled out, unless it
// says that it is meant: devices would ignore it silently.
func order(a *update.Assignment, ro Rollout, past history) error {
	what := "start rollout of " + ro.Version
	if c := past.images[update.ImagePath(ro.Product, ro.Version)].counter; c < past.floor {
		return refuse("below-floor", what, "its release counter %d is below the security floor %d; devices that kept a later release refuse it", c, past.floor)
	}
	if ro.Downgrade {
		return nil
	}
	for _, e := range a.Entries {
		v := versionOf(ro.Product, e.Path)
		if update.CompareVersions(ro.Version, v) < 0 {
			return refuse("older", what, "%s is rolled out and newer; devices that run it would ignore this rollout unless it is a deliberate downgrade", v)
		}
	}
	return nil
}

// PauseRollout keeps devices from starting the release. Those that have it keep
// it, and the others of its cohort get nothing else meanwhile.
func (r *Repo) PauseRollout(product, version string) (update.Assignment, error) {
	return r.setPaused(product, version, true)
}

// ResumeRollout undoes PauseRollout.
func (r *Repo) ResumeRollout(product, version string) (update.Assignment, error) {
	return r.setPaused(product, version, false)
}

func (r *Repo) setPaused(product, version string, paused bool) (update.Assignment, error) {
	verb := map[bool]string{true: "pause", false: "resume"}[paused]
	return r.editAssignment(product, verb+" "+version, func(a *update.Assignment) error {
		i := indexOf(a, update.ImagePath(product, version))
		if i < 0 {
			return refuse("no-rollout", verb+" rollout", "%s has no rollout of %s", product, version)
		}
		a.Entries[i].Paused = paused
		return nil
	})
}

// StopRollout removes the rollout of a release. Devices that run it keep it
// until a newer release, or a deliberate downgrade, is rolled out to them.
func (r *Repo) StopRollout(product, version string) (update.Assignment, error) {
	return r.editAssignment(product, "stop "+version, func(a *update.Assignment) error {
		i := indexOf(a, update.ImagePath(product, version))
		if i < 0 {
			return refuse("no-rollout", "stop rollout", "%s has no rollout of %s", product, version)
		}
		a.Entries = slices.Delete(a.Entries, i, i+1)
		return nil
	})
}

// Rollouts returns a product's statement in force; the zero Assignment with the
// product's name if there is none yet.
func (r *Repo) Rollouts(product string) (update.Assignment, error) {
	d, err := r.current(roleAssign)
	if err != nil {
		return update.Assignment{}, err
	}
	t := d.targets.Signed.Targets[update.AssignmentPath(product)]
	if t == nil {
		return update.Assignment{Product: product}, nil
	}
	b, err := r.readAssignment(product, t)
	if err != nil {
		return update.Assignment{}, err
	}
	a, err := update.ParseAssignment(b)
	if err == nil && t.Custom != nil {
		err = a.AddDeadlines(*t.Custom)
	}
	return a, err
}

// Products lists the products that have been signed.
func (r *Repo) Products() ([]string, error) { return r.products() }

func (r *Repo) assignFile(product string, digest [32]byte) string {
	return filepath.Join(r.dir, "assign", hexDigest(digest)+"."+product+".json")
}

// readAssignment reads a statement and checks it against what is signed.
func (r *Repo) readAssignment(product string, t *metadata.TargetFiles) ([]byte, error) {
	if len(t.Hashes) != 1 || len(t.Hashes["sha256"]) != 32 {
		return nil, fmt.Errorf("read assignment of %s: not exactly one SHA-256", product)
	}
	digest := [32]byte(t.Hashes["sha256"])
	b, err := readLimited(r.assignFile(product, digest), update.MaxAssignment)
	if err != nil {
		return nil, err
	}
	if sha256.Sum256(b) != digest || int64(len(b)) != t.Length {
		return nil, refuse("bad-hash", "read assignment of "+product, "the file is not the one that was signed")
	}
	return b, nil
}

// editAssignment changes a product's statement and signs the result. The file
// is written before the document that names it: after a crash in between, the
// old document still names the old file.
func (r *Repo) editAssignment(product, detail string, edit func(*update.Assignment) error) (update.Assignment, error) {
	products, err := r.products()
	if err != nil {
		return update.Assignment{}, err
	}
	if !slices.Contains(products, product) {
		return update.Assignment{}, refuse("unknown-product", detail, "the repository has no signed product %q", product)
	}
	a, err := r.Rollouts(product)
	if err != nil {
		return a, err
	}
	if err := edit(&a); err != nil {
		return a, err
	}
	a.Serial++
	a.Issued = r.now().UTC().Truncate(time.Second)
	b, err := json.MarshalIndent(a, "", "  ")
	if err != nil {
		return a, err
	}
	b = append(b, '\n')
	custom, err := a.Deadlines()
	if err != nil {
		return a, err
	}
	if a, err = update.ParseAssignment(b); err != nil { // as the device reads it
		return a, err
	}
	if err := a.AddDeadlines(custom); err != nil {
		return a, err
	}
	digest := sha256.Sum256(b)
	if err := keepFile(r.assignFile(product, digest), b); err != nil {
		return a, err
	}
	d, err := r.editable(roleAssign)
	if err != nil {
		return a, err
	}
	path := update.AssignmentPath(product)
	t := &metadata.TargetFiles{Length: int64(len(b)), Hashes: metadata.Hashes{"sha256": digest[:]}, Path: path}
	if custom != nil {
		t.Custom = &custom
	}
	d.targets.Signed.Targets[path] = t
	return a, r.signOnline(d, product+": "+detail)
}

// signOnline stages a document of an online role, signs and accepts it at once.
func (r *Repo) signOnline(d *document, detail string) error {
	if err := r.stage(d, detail); err != nil {
		return err
	}
	s, err := r.Sign(d.role)
	if err != nil {
		return err
	}
	if !s.Accepted {
		return refuse("threshold", fmt.Sprintf("sign %s %d", d.role, s.Version), "%s", s.Waiting)
	}
	return nil
}

func indexOf(a *update.Assignment, path string) int {
	return slices.IndexFunc(a.Entries, func(e update.Assigned) bool { return e.Path == path })
}

func versionOf(product, path string) string {
	prefix, suffix, _ := strings.Cut(update.ImagePath(product, "\n"), "\n")
	return strings.TrimSuffix(strings.TrimPrefix(path, prefix), suffix)
}
