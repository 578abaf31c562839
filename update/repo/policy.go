// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Sizes that a device must be able to parse in a few megabytes of memory. A
// repository that publishes more would brick the update of its own fleet, so
// publishing refuses.
const (
	MaxRoot      = 512_000 // bytes of root metadata
	MaxTimestamp = 32_000  // bytes of timestamp metadata
	MaxRole      = 256_000 // bytes of snapshot and of any targets metadata
	MaxTargets   = 1000    // targets of one role
	maxDocument  = 8 << 20 // bytes this program reads of any of its own files
)

func sizeLimit(role string) int {
	switch role {
	case roleRoot:
		return MaxRoot
	case roleTimestamp:
		return MaxTimestamp
	}
	return MaxRole
}

// Policy is how a repository is run. It is the file policy.json and holds no
// secret; whoever can write it can shorten expiry and point at other key files,
// but not make a device accept a signature.
type Policy struct {
	Expiry  Expiry            `json:"expiry"`
	Keys    map[string]string `json:"keys"`    // TUF key id -> URI of the private key
	Publish string            `json:"publish"` // directory to publish to; relative to the repository
}

// Expiry is how long a new signature of each kind of role is good for.
type Expiry struct {
	Root      Duration `json:"root"`
	Targets   Duration `json:"targets"`
	Product   Duration `json:"product"`
	Assign    Duration `json:"assign"`
	Snapshot  Duration `json:"snapshot"`
	Timestamp Duration `json:"timestamp"`
}

// Duration is a time.Duration written as "72h" in JSON.
type Duration time.Duration

// MarshalText writes the form of [time.Duration.String].
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads the form of [time.ParseDuration].
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	*d = Duration(v)
	return err
}

const day = 24 * time.Hour

// DefaultExpiry suits a connected fleet: a stolen or frozen server is noticed
// by devices within three days, and offline keys are needed twice a year.
func DefaultExpiry() Expiry {
	return Expiry{
		Root: Duration(365 * day), Targets: Duration(365 * day), Product: Duration(365 * day),
		Assign: Duration(30 * day), Snapshot: Duration(14 * day), Timestamp: Duration(3 * day),
	}
}

// of returns the life of a role's signature.
func (e Expiry) of(role string) time.Duration {
	switch role {
	case roleRoot:
		return time.Duration(e.Root)
	case roleTargets:
		return time.Duration(e.Targets)
	case roleSnapshot:
		return time.Duration(e.Snapshot)
	case roleTimestamp:
		return time.Duration(e.Timestamp)
	case roleAssign:
		return time.Duration(e.Assign)
	}
	return time.Duration(e.Product)
}

// check refuses lives that would make a repository unusable: shorter than an
// hour nobody can keep up with, longer than ten years protects nobody.
func (e Expiry) check() error {
	var errs []error
	for _, role := range []string{roleRoot, roleTargets, productRole("x"), roleAssign, roleSnapshot, roleTimestamp} {
		if life := e.of(role); life < time.Hour || life > 3650*day {
			errs = append(errs, fmt.Errorf("expiry of %s is %s, it must be from 1h to 87600h", role, life))
		}
	}
	return errors.Join(errs...)
}

type policyFile struct {
	Format int `json:"backstay"`
	Policy
}

func parsePolicy(b []byte) (Policy, error) {
	var f policyFile
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return Policy{}, fmt.Errorf("read policy.json: %w", err)
	}
	if f.Format != 1 {
		return Policy{}, fmt.Errorf("read policy.json: format %d, this version reads 1", f.Format)
	}
	if f.Publish == "" {
		return Policy{}, errors.New("read policy.json: publish is empty")
	}
	if err := f.Expiry.check(); err != nil {
		return Policy{}, fmt.Errorf("read policy.json: %w", err)
	}
	if f.Keys == nil {
		f.Keys = map[string]string{}
	}
	return f.Policy, nil
}

func (p Policy) encode() ([]byte, error) {
	b, err := json.MarshalIndent(policyFile{1, p}, "", "  ")
	if err != nil {
		return nil, err
	}
	return append(b, '\n'), nil
}
