// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"

	"github.com/backstay/backstay/update/trust"
)

const (
	factoryFile = "factory-root" // what init was given
	stateFile   = "state"        // what the client reads back
)

// dirStore keeps the state in one file and, for the suite to look at, a copy of
// each trusted role under its name. The copies are never read back.
type dirStore struct{ dir string }

func (d dirStore) LoadTrust() (trust.State, error) {
	var s trust.State
	raw, err := os.ReadFile(filepath.Join(d.dir, stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal(raw, &s)
}

func (d dirStore) SaveTrust(s trust.State) error {
	raw, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(d.dir, stateFile), raw, 0o644); err != nil {
		return err
	}
	roles := map[string][]byte{"timestamp": s.Timestamp, "snapshot": s.Snapshot}
	for name, b := range s.Targets {
		roles[name] = b
	}
	if n := len(s.Roots); n > 0 {
		roles["root"] = s.Roots[n-1]
	}
	for name, b := range roles {
		path := filepath.Join(d.dir, url.PathEscape(name)+".json")
		if b == nil {
			err = os.Remove(path)
			if errors.Is(err, fs.ErrNotExist) {
				err = nil
			}
		} else {
			err = os.WriteFile(path, b, 0o644)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
