// SPDX-License-Identifier: Apache-2.0

package store

import (
	"encoding/json"
	"fmt"

	"github.com/backstay/backstay/logging/source"
	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/trust"
)

// Load returns the saved update job, the zero Job when there is none. It implements update.Journal.
func (d *DB) Load() (update.Job, error) {
	var job update.Job
	return job, d.job().loadJSON(&job)
}

// Save replaces the update job; it is durable when Save returns nil. It implements update.Journal.
func (d *DB) Save(job update.Job) error { return d.job().saveJSON(job) }

func (d *DB) job() cell { return cell{d, bucketUpdate, []byte("job")} }

// LoadIdentity returns what package identity saved last, nil when it saved nothing. It implements identity.State.
func (d *DB) LoadIdentity() ([]byte, error) { return d.identity().load() }

// SaveIdentity replaces it; it is durable when SaveIdentity returns nil. It implements identity.State.
func (d *DB) SaveIdentity(b []byte) error { return d.identity().save(b) }

func (d *DB) identity() cell { return cell{d, bucketIdentity, []byte("state")} }

// LoadTrust returns the trusted update metadata with its floors, the zero State when there is none. It implements trust.Store.
func (d *DB) LoadTrust() (trust.State, error) {
	var s trust.State
	return s, d.trust().loadJSON(&s)
}

// SaveTrust replaces it in one transaction; it is durable when SaveTrust returns nil. It implements trust.Store.
func (d *DB) SaveTrust(s trust.State) error { return d.trust().saveJSON(s) }

func (d *DB) trust() cell { return cell{d, bucketTrust, []byte("state")} }

// LoadPolicy reads the configuration policy taken over last into v, which stays as it is when there is none.
func (d *DB) LoadPolicy(v any) error { return d.policy().loadJSON(v) }

// SavePolicy replaces it; it is durable when SavePolicy returns nil.
func (d *DB) SavePolicy(v any) error { return d.policy().saveJSON(v) }

// policy is in the bucket of the metadata that vouches for it: databases made before have no other.
func (d *DB) policy() cell { return cell{d, bucketTrust, []byte("policy")} }

// Sources returns what sources of the audit log keep across restarts. It implements source.State.
func (d *DB) Sources() Sources { return Sources{d} }

// Sources is small values by the name of a source.
type Sources struct{ db *DB }

// Load returns the value of a source, nil when there is none.
func (s Sources) Load(name string) ([]byte, error) {
	return cell{s.db, bucketSource, []byte(name)}.load()
}

// Save replaces it; it is durable when Save returns nil. A value over source.MaxState is refused.
func (s Sources) Save(name string, value []byte) error {
	if len(value) > source.MaxState {
		return fmt.Errorf("save state of source %s: %d bytes, at most %d", name, len(value), source.MaxState)
	}
	return cell{s.db, bucketSource, []byte(name)}.save(value)
}

func (c cell) loadJSON(v any) error {
	b, err := c.load()
	if err != nil || b == nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%w: %s/%s: %w", ErrCorrupt, c.bucket, c.key, err)
	}
	return nil
}

func (c cell) saveJSON(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s/%s: %w", c.bucket, c.key, err)
	}
	return c.save(b)
}
