// SPDX-License-Identifier: Apache-2.0

// Package repo is the maker's and operator's side of updates: it creates a TUF
// repository, adds releases and rollouts to it, collects signatures and
// publishes it as files for any static file server.
//
// A repository is a directory:
//
//	policy.json     expiry, where private keys are, where to publish
//	metadata/       signed documents of every version, kept for ever; never changed
//	staged/         proposals and the signatures collected for them
//	assign/         rollout statements, named by digest
//	images/         firmware images, named by digest
//	actions.log     one JSON line for everything that was done; only appended to
//	lock            taken while a program works on the repository
//
// All of it is plain JSON except images/, so it can live in git. Private keys
// may lie in keys/ and must not.
//
// Two authorities sign. Offline, by people: root, targets (which products
// exist) and one role per product (which images are genuine). Online, by the
// server: assign (which devices should run what), snapshot and timestamp. A
// document of an offline role is first staged, then signed by as many keys as
// its threshold asks for, each on any machine, then accepted.
//
// Who can write the directory can stage anything and publish an old state of
// rollouts, but no device installs an image without the offline signatures.
// Publishing first plays a device against the result and refuses what a device
// would refuse.
//
// A Repo is for one goroutine. Between processes the lock file decides, so a
// server opens, publishes and closes.
package repo

import (
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/backstay/backstay/update"
)

// Options are the repository's connections to the world. The zero value works.
type Options struct {
	// Now is the time that documents are issued at; time.Now if nil.
	Now func() time.Time

	// OpenKey opens private keys whose URI is not file: or pub:, for example in
	// a token or a key service. It may return an error that is ErrNoKey.
	OpenKey func(uri string) (crypto.Signer, error)

	// Wait is how long to wait for another process to give the lock back; ten
	// seconds if zero.
	Wait time.Duration

	// TimestampLife makes the timestamps of this Repo live for less than the
	// policy says, in seconds and up; the policy's life if zero. The next Publish
	// without it must come before that time is over.
	TimestampLife time.Duration

	// Emit receives what is also written to actions.log; may be nil.
	Emit update.Emit
}

// Repo is an open repository. Close it.
type Repo struct {
	dir       string
	policy    Policy
	lock      *os.File
	now       func() time.Time
	openOther func(uri string) (crypto.Signer, error)
	emit      update.Emit
	wait      time.Duration
	brief     time.Duration // life of a timestamp when shorter than the policy's; 0: the policy's
}

// Open opens the repository in dir and locks it against other processes. If the lock
// is not to be had in time the error is [update.ErrRetry]. If there
// is no repository the error is [update.ErrSetup].
func Open(dir string, o Options) (*Repo, error) {
	b, err := readLimited(filepath.Join(dir, "policy.json"), 1<<20)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("open repository %s: there is none: %w", dir, update.ErrSetup)
	}
	if err != nil {
		return nil, fmt.Errorf("open repository: %w", err)
	}
	r := newRepo(dir, o)
	if r.lock, err = lockDir(dir, r.wait); err != nil {
		return nil, err
	}
	// Read again: the one read before the lock may have been changed since.
	if b, err = os.ReadFile(filepath.Join(dir, "policy.json")); err == nil {
		r.policy, err = parsePolicy(b)
	}
	if err != nil {
		r.Close()
		return nil, fmt.Errorf("open repository: %w", err)
	}
	return r, nil
}

func newRepo(dir string, o Options) *Repo {
	r := &Repo{dir: dir, now: o.Now, openOther: o.OpenKey, emit: o.Emit, wait: o.Wait, brief: o.TimestampLife}
	if r.now == nil {
		r.now = time.Now
	}
	if r.wait == 0 {
		r.wait = 10 * time.Second
	}
	return r
}

// Close gives the lock back.
func (r *Repo) Close() error { return r.lock.Close() }

// Dir is the repository's directory.
func (r *Repo) Dir() string { return r.dir }

// PublishDir is the directory that the policy says to publish to.
func (r *Repo) PublishDir() string { return r.keyPath(r.policy.Publish) }

// FactoryRoot returns 1.root.json: what goes into a device at the factory.
func (r *Repo) FactoryRoot() ([]byte, error) {
	b, err := os.ReadFile(filepath.Join(r.metadataDir(), fileName(roleRoot, 1)))
	if err != nil {
		return nil, fmt.Errorf("read factory root: %w", err)
	}
	return b, nil
}

func (r *Repo) metadataDir() string { return filepath.Join(r.dir, "metadata") }
func (r *Repo) stagedDir() string   { return filepath.Join(r.dir, "staged") }
func (r *Repo) imagesDir() string   { return filepath.Join(r.dir, "images") }
func (r *Repo) imageFile(digest [32]byte) string {
	return filepath.Join(r.dir, "images", hexDigest(digest))
}

func (r *Repo) savePolicy() error {
	b, err := r.policy.encode()
	if err != nil {
		return err
	}
	return replaceFile(filepath.Join(r.dir, "policy.json"), b, 0o644)
}

// Action is one line of actions.log.
type Action struct {
	Time    time.Time `json:"time"`
	Action  string    `json:"action"`            // "created", "staged", "signed", "accepted", "published" ...
	Role    string    `json:"role,omitempty"`    // role concerned
	Version int64     `json:"version,omitempty"` // of its document
	Digest  string    `json:"digest,omitempty"`  // SHA-256 of its signed part
	Key     string    `json:"key,omitempty"`     // key id that signed
	Detail  string    `json:"detail,omitempty"`
}

// record appends to actions.log and syncs it.
func (r *Repo) record(a Action) error {
	a.Time = r.now().UTC().Truncate(time.Second)
	b, err := json.Marshal(a)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(r.dir, "actions.log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("record action: %w", err)
	}
	_, err = f.Write(append(b, '\n'))
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("record action: %w", err)
	}
	if r.emit != nil {
		r.emit("repo."+a.Action, logAttrs(a)...)
	}
	return nil
}

// current returns the newest accepted document of a role.
func (r *Repo) current(role string) (*document, error) { return newest(r.metadataDir(), role) }

// products lists the products that the accepted targets role delegates to.
func (r *Repo) products() ([]string, error) {
	t, err := r.current(roleTargets)
	if err != nil {
		return nil, err
	}
	var list []string
	for _, role := range delegated(t) {
		if p, ok := strings.CutPrefix(role, productRole("")); ok {
			list = append(list, p)
		}
	}
	return list, nil
}

// delegated lists the names of the roles that d delegates to.
func delegated(d *document) []string {
	var list []string
	if d.targets != nil && d.targets.Signed.Delegations != nil {
		for _, role := range d.targets.Signed.Delegations.Roles {
			list = append(list, role.Name)
		}
	}
	return list
}
